"""The claims of the paper, asked on the miniature: studies, verdicts, page. `python -m delora_eval.fidelity`."""
