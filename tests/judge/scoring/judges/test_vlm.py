"""Judges that are asked: a tiny Llava of the real kind answers, and its answers are what the scores are made of."""

import json
import shutil

import numpy as np
import pytest
import torch
from standins import PROMPTS, make_judge, write_run, write_set

from delora_eval.scoring.inputs.task import read_task
from delora_eval.scoring.judges.embedding import Judge, use_weights
from delora_eval.scoring.judges.networks.weights import VLM
from delora_eval.scoring.judges.vlm.network import ask, load_asked_model, token_ids
from delora_eval.scoring.judges.vlm.questions import QUESTIONS
from delora_eval.scoring.judges.vlm.weights import find_asked_model
from delora_eval.scoring.record.raw_answers import answers_file
from delora_eval.scoring.score import find_protocols, score_task
from delora_eval.settings import EncoderConfig, FamilyConfig, ScoreConfig
from delora_sd.data.photos import open_photo
from delora_sd.errors import UserError
from delora_sd.files.run_folder import read_lines

TEMPLATE = (
    "{% for message in messages %}{% for part in message.content %}"
    "{% if part.type == 'image' %}<image> {% else %}{{ part.text }} {% endif %}"
    "{% endfor %}{% endfor %}{% if add_generation_prompt %}answer : {% endif %}"
)
WORDS = ("does", "this", "image", "show", "a", "dog", "in", "the", "snow", "on", "beach", "?", "answer", "yes", "no")
WORDS += ("Yes", ":", "photo", "of")


@pytest.fixture(scope="module")
def vlm(tmp_path_factory):
    """Llava's own architecture with random weights, its processor and a chat template, as a local folder."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import (
        CLIPImageProcessor,
        CLIPVisionConfig,
        LlamaConfig,
        LlavaConfig,
        LlavaForConditionalGeneration,
        LlavaProcessor,
        PreTrainedTokenizerFast,
    )

    words = ["<pad>", "<unk>", "<image>", "</s>", *"01234", *WORDS]
    tokenizer = Tokenizer(models.WordLevel({word: place for place, word in enumerate(words)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<pad>",
        unk_token="<unk>",
        eos_token="</s>",
        additional_special_tokens=["<image>"],
    )
    tower = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2}
    config = LlavaConfig(
        vision_config=CLIPVisionConfig(**tower, image_size=32, patch_size=16),
        text_config=LlamaConfig(**tower, vocab_size=len(words), pad_token_id=0, eos_token_id=3, bos_token_id=1),
        image_token_index=2,
        image_seq_length=4,
    )
    torch.manual_seed(0)
    model = LlavaForConditionalGeneration(config)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    folder = tmp_path_factory.mktemp("vlm") / "tiny-llava"
    model.save_pretrained(folder)
    images = CLIPImageProcessor(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32})
    processor = LlavaProcessor(
        images,
        fast,
        patch_size=16,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=TEMPLATE,
    )
    processor.save_pretrained(folder)
    return folder


def config_of(vlm, **settings) -> EncoderConfig:
    return EncoderConfig(vlm=str(vlm), offline=True, device="cpu", **settings)


def load(vlm, **settings):
    weights, folder = find_asked_model(config_of(vlm, **settings))
    return load_asked_model(weights, folder, torch.device("cpu"))


def test_the_probability_of_yes_is_the_models_own(vlm, tmp_path):
    """Against a forward pass written out: image tokens, question, answer's first token."""
    asked = load(vlm)
    run = write_run(tmp_path)
    image = open_photo(next((run / "images" / "main").glob("*.png")))
    question = QUESTIONS["vqa"].ask("a dog in the snow")
    answer = ask(asked, image, question, ("yes", "no"))
    text = TEMPLATE_TEXT.format(question=question)
    inputs = asked.processor(images=image, text=text, return_tensors="pt")
    with torch.inference_mode():
        likely = asked.model(**inputs).logits[0, -1].softmax(dim=-1)
    vocabulary = asked.processor.tokenizer.get_vocab()
    yes = likely[vocabulary["yes"]] + likely[vocabulary["Yes"]]
    assert answer.probabilities["yes"] == pytest.approx(yes.item(), abs=1e-5)
    assert answer.probabilities["no"] == pytest.approx(likely[vocabulary["no"]].item(), abs=1e-5)
    assert sorted(vocabulary[word] for word in ("yes", "Yes")) == token_ids(asked.processor.tokenizer, "yes")


TEMPLATE_TEXT = "<image> {question} answer : "


def test_a_question_names_the_prompt_and_its_answer_becomes_a_number():
    assert QUESTIONS["vqa"].ask(" a dog in the snow. ").startswith("Does this image show a dog in the snow?")
    assert QUESTIONS["vqa"].read({"yes": 0.25, "no": 0.5}) == 0.25
    rubric = QUESTIONS["rubric"]
    assert rubric.read({"0": 0.1, "1": 0.1, "2": 0.3, "3": 0.1, "4": 0.2}) == 2
    assert rubric.read(dict.fromkeys("01234", 0.2)) == 0, "of equally likely ones the lowest"


def test_asked_judges_write_score_lines_and_keep_every_answer(vlm, tmp_path):
    run = write_run(tmp_path)
    judge = make_judge()
    del judge.weights[VLM]
    judge = Judge(config=config_of(vlm), weights=judge.weights, encoders=judge.encoders)
    config = ScoreConfig(
        run=str(run), protocol=("dreambooth",), judges=FamilyConfig(set=("classic", "vqa", "rubric")), sets=("main",)
    )
    task = read_task(config)
    lines = score_task(judge, find_protocols(config, task), task)
    (total,) = [line for line in lines if line["score"] == "vqa" and line["prompt"] is None]
    weights = use_weights(judge, VLM)
    assert (total["encoder"], total["weights"], total["images"]) == ("vlm/tiny-llava", weights.hash, 4)
    assert len(weights.hash) == 16 and not total["random_weights"]
    kept = read_lines(answers_file(run / "scores.jsonl"))
    asked = [line for line in kept if line["judge"] == "vqa"]
    assert len(asked) == 4 and len(kept) == 8
    assert total["value"] == pytest.approx(np.mean([line["probabilities"]["yes"] for line in asked]), abs=2e-6)
    assert {line["question"] for line in asked} == {
        QUESTIONS["vqa"].ask("a dog in the snow"),
        QUESTIONS["vqa"].ask("a dog on the beach"),
    }, "the subject is named by its class word, never by the rare token"
    assert all(line["score"] != "real_vqa" for line in lines)
    write_set(run, "main", PROMPTS, per_prompt=3)
    task = read_task(config)
    score_task(judge, find_protocols(config, task), task)
    assert len(read_lines(answers_file(run / "scores.jsonl"))) == 12, "six images, two judges, nothing twice"


def test_random_weights_are_stamped(vlm):
    weights, _ = find_asked_model(config_of(vlm, random_weights=True))
    assert weights.is_random and weights.hash == "random"
    assert load(vlm, random_weights=True).model.config.model_type == "llava"


def test_no_model_is_named(vlm):
    with pytest.raises(UserError, match=r"need a vision-language model: encoders\.vlm="):
        find_asked_model(EncoderConfig(offline=True))


def test_a_model_without_a_chat_template_is_refused_at_the_door(vlm, tmp_path):
    folder = tmp_path / "mute"
    shutil.copytree(vlm, folder)
    for file in folder.glob("chat_template*"):
        file.unlink()
    for name in ("tokenizer_config.json", "processor_config.json"):
        if (folder / name).exists():
            settings = json.loads((folder / name).read_text())
            settings.pop("chat_template", None)
            (folder / name).write_text(json.dumps(settings))
    with pytest.raises(UserError, match=r"no chat template .*tuned for instructions"):
        find_asked_model(config_of(folder))


def test_pickles_a_missing_folder_and_another_kind_of_model_are_refused(vlm, tmp_path):
    folder = tmp_path / "pickled"
    shutil.copytree(vlm, folder)
    for file in folder.glob("*.safetensors"):
        file.unlink()
    torch.save({}, folder / "pytorch_model.bin")
    with pytest.raises(UserError, match=r"no \.safetensors file .*pickles are refused"):
        find_asked_model(config_of(folder))
    with pytest.raises(UserError, match="no such folder"):
        find_asked_model(config_of(tmp_path / "none"))
    with pytest.raises(UserError, match=r"accept its licence if it has one, then run `hf auth login`"):
        find_asked_model(config_of("somebody/a-model"))
    shutil.copytree(vlm, tmp_path / "other")
    (tmp_path / "other" / "config.json").write_text(json.dumps({"model_type": "bert"}))
    with pytest.raises(UserError, match="not a vision-language model that transformers loads"):
        load(tmp_path / "other")


def test_a_word_of_several_tokens_cannot_be_read(vlm):
    with pytest.raises(UserError, match="no single token for 'perhaps'"):
        token_ids(load(vlm).processor.tokenizer, "perhaps")
