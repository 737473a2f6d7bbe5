"""Which study answers which of the claims that the paper and this project make."""

from collections.abc import Callable

from delora_eval.benchmark.report.numbers.view import BenchmarkView
from delora_eval.fidelity.claim import Claim
from delora_eval.fidelity.design import ladder, mirrored_like_paper, starts, weight_norms
from delora_eval.fidelity.growth import boundary_growth
from delora_eval.fidelity.merging import merging
from delora_eval.fidelity.robustness import best_settings, learning_rates, prolonged
from delora_eval.fidelity.search import searched_settings

CLAIMS: dict[str, tuple[Callable[[BenchmarkView], Claim | None], ...]] = {
    "search": (searched_settings,),
    "test": (best_settings, boundary_growth),
    "rates": (learning_rates,),
    "long": (prolonged,),
    "norm": (weight_norms,),
    "ladder": (ladder,),
    "starts": (starts, mirrored_like_paper),
    "merge": (merging,),
}
"""{study: what it answers, None where it cannot}. C9 draws the adapters of `test` again (strength.py)."""
