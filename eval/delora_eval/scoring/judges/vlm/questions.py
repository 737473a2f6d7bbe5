"""What a vision-language model is asked, and how its answer becomes a number. Words only; no model."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, kw_only=True)
class Question:
    """A question template and the words that count as answers."""

    template: str
    answers: tuple[str, ...]
    reads: Literal["probability", "choice"]
    """probability: of the first answer, among everything the model could say. choice: the likeliest answer's number."""

    def ask(self, prompt: str) -> str:
        """Returns the question about one prompt."""
        return self.template.replace("{prompt}", prompt.strip().rstrip("."))

    def read(self, probabilities: Mapping[str, float]) -> float:
        """Returns the number that the answers' probabilities stand for; of equally likely ones the lowest."""
        if self.reads == "probability":
            return probabilities[self.answers[0]]
        return float(max(self.answers, key=lambda answer: (probabilities[answer], -float(answer))))


QUESTIONS = {
    "vqa": Question(
        template="Does this image show {prompt}? Answer yes or no.",
        answers=("yes", "no"),
        reads="probability",
    ),
    "rubric": Question(
        template="You judge how well an image follows a text. Consider relevance (are the things of the text there), "
        "accuracy (are its details right), completeness (is nothing of it missing) and context (is the setting the "
        'one it names). Text: "{prompt}". Scale: 0 very poor, nothing of the text is shown; 1 poor, only its general '
        "topic; 2 fair, part of it, important details missing or wrong; 3 good, most of it, small flaws; 4 excellent, "
        "all of it, precisely. Answer with one digit from 0 to 4.",
        answers=("0", "1", "2", "3", "4"),
        reads="choice",
    ),
}
"""vqa: VQAScore (Lin et al. 2024), whose number is the probability of yes.
rubric: the scale of DreamBench++ (Peng et al. 2025) for prompts, in our words and without its written analysis."""
