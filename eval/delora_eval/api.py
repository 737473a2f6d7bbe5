"""The judge as a library, `from delora_eval import score`: the settings, files and errors of the command line.

No torch before the first call.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from delora_eval.settings import ScoreConfig
from delora_sd.api import Given, settings_of

if TYPE_CHECKING:
    from delora_eval.scoring.record.score_lines import ScoreLine


def score(run: str | Path | ScoreConfig | None = None, *given: Given, **settings: Any) -> "list[ScoreLine]":
    """Scores images against photos and returns the lines of scores.jsonl under the protocols asked for.

    A line with `prompt` None is a total: `{line.score: line.value for line in lines if line.prompt is None}`.
    What was scored before and has not changed is not scored again.

    Args:
        run: A run folder, or a `ScoreConfig` to start from; none: give `reference=` and `generated=`.
        given: Settings, later ones win: files, `key=value`, mappings.
        settings: The same by name: `protocol=["oft"], encoders={"batch_size": 8}`.

    Raises:
        UserError: nothing to score, missing weights, settings that cannot work.
    """
    from delora_eval.scoring.record.score_lines import ScoreLine
    from delora_eval.scoring.score import score as score_images

    first = run if isinstance(run, ScoreConfig) else {} if run is None else {"run": run}
    return [ScoreLine.of(record) for record in score_images(settings_of(ScoreConfig, (first, *given), settings))]
