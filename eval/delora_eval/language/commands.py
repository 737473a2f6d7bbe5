"""The command of the language tables. Heavy imports sit inside the functions: `--help` answers at once."""

from delora_eval.language.settings import LanguageConfig
from delora_sd.cli.command import Command


def _language(config: LanguageConfig) -> None:
    from delora_eval.language.table import run_table

    run_table(config)


def _plan(config: LanguageConfig) -> None:
    from delora_eval.language.run.dry_run import print_plan

    print_plan(config)


COMMANDS = {
    "language": Command(
        summary="Fine-tune language models with every method: the paper's GLUE and instruction tables.",
        config=LanguageConfig,
        run=_language,
        dry_run=_plan,
        example="delora-sd language configs/language/miniature_glue.yaml output_dir=runs/miniature_glue",
    ),
}
