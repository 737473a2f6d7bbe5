"""Slips that are easily made, one line each, and the tests that must notice."""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Mutant:
    file: str
    old: str
    """Text that stands in the file exactly once."""
    new: str
    tests: tuple[str, ...]
    """Arguments to pytest."""


FACTORS, METHODS = "delora_sd/adapters/lowrank/factors.py", "delora_sd/adapters/lowrank/methods.py"
STARTS, LAYERS = "delora_sd/adapters/lowrank/starts.py", "delora_sd/adapters/lowrank/layers.py"
PACK = "delora_sd/adapters/lowrank/pack.py"
LOOP, OPTIMIZATION = "delora_sd/training/loop/loop.py", "delora_sd/training/loop/optimization.py"
BATCHES, LOSSES = "delora_sd/training/loop/batches.py", "delora_sd/training/loop/objective.py"
DIFFUSION = "delora_sd/diffusion/noise/objective.py"
GRID, GRID_METHODS = "eval/delora_eval/benchmark/grid.py", "eval/delora_eval/benchmark/methods.py"
CHOOSE, RESULTS = "eval/delora_eval/benchmark/run/workers/choose.py", "eval/delora_eval/benchmark/results.py"
PROTOCOLS = "eval/delora_eval/scoring/judges/protocols.py"
METRICS, MEASURE = "eval/delora_eval/scoring/measures/metrics.py", "eval/delora_eval/scoring/measures/measure.py"
STATISTICS = "eval/delora_eval/scoring/measures/statistics.py"

_FORMULAS = "tests/adapters/lowrank/test_adapter_formulas.py::test_"
_EQUATION = (f"{_FORMULAS}factors_equal_the_papers_equation",)
_FORWARD = (f"{_FORMULAS}forward_equals_the_layer_with_the_merged_weight",)
_DISTANCE = (f"{_FORMULAS}distance_is_the_norm_of_the_difference",)
_STARTS = ("tests/adapters/lowrank/test_starts.py",)
_PACKS = "tests/training/loop/test_packs.py::test_"
_DRAWN = (f"{_PACKS}every_step_is_drawn_once_in_order_and_one_ahead",)
_ACCUMULATION = (f"{_PACKS}gradient_accumulation_gives_the_same_adapter",)
_LOSSES = ("tests/training/loop/test_losses.py",)
_RATES = ("tests/training/loop/test_optimization.py",)
_BATCHES = ("tests/training/loop/test_batches.py",)
_NOISE = ("tests/diffusion/test_objective.py",)
_GRID = ("tests/benchmark/test_grid.py",)
_RESULTS = ("tests/benchmark/test_results.py",)
_SEARCH = (
    "tests/benchmark/run/test_runner.py::test_search_carries_the_best_setting_of_each_method_to_the_test",
    "tests/benchmark/run/test_runner.py::test_search_never_chooses_a_setting_that_lost_a_cell",
)
_PROTOCOLS = ("tests/judge/scoring/judges/test_protocols.py",)
_METRICS = ("tests/judge/scoring/measures/test_metrics.py",)
_STATISTICS = ("tests/judge/scoring/measures/test_statistics.py",)

_ROWS = (
    # file, old, new, tests
    (FACTORS, "B * (alpha / A.shape[-2])", "B * (alpha / A.shape[-1])", _EQUATION),
    (FACTORS, "F.normalize(A, dim=-1, eps=MIN_NORM)", "F.normalize(A, dim=-2, eps=MIN_NORM)", _EQUATION),
    (FACTORS, "(A.shape[-2] * norm)", "(A.shape[-1] * norm)", _EQUATION),
    (FACTORS, "norm = B.norm(dim=-2).clamp_min(MIN_NORM)", "norm = B.norm(dim=-2).clamp_min(1.0)", _EQUATION),
    (FACTORS, "torch.cat([live.up, -start_up], dim=-1)", "torch.cat([live.up, start_up], dim=-1)", _EQUATION),
    (FACTORS, "magnitude / norm", "norm / magnitude", _EQUATION),
    (FACTORS, "+ 2 * cross + square", "+ cross + square", (f"{_FORMULAS}row_norms_expand_the_square",)),
    (FACTORS, "-2 * (unit @", "2 * (unit @", _EQUATION),
    (FACTORS, "torch.cat([-A, C], dim=-2)", "torch.cat([A, -C], dim=-2)", _EQUATION),
    (FACTORS, "(boundary / (2 * A.shape[-2]))", "(boundary / A.shape[-2])", _EQUATION),
    (FACTORS, "torch.tensor([-1.0, 1.0]", "torch.tensor([1.0, -1.0]", _EQUATION),
    (FACTORS, "* (weight + product) - weight", "* (weight - product) - weight", _EQUATION),
    (FACTORS, ".sum(-1).clamp_min(0).sqrt()", ".sum(-1).clamp_min(0)", _DISTANCE),
    (
        METHODS,
        "boundary *= _paper",
        "boundary /= _paper",
        (f"{_FORMULAS}relative_boundary_is_the_papers_lambda_over_the_width",),
    ),
    (
        METHODS,
        "math.sqrt(weight.shape[1])",
        "math.sqrt(weight.shape[0])",
        (f"{_FORMULAS}relative_boundary_is_the_papers_lambda_over_the_width",),
    ),
    (METHODS, "config.alpha or 2.0 * rank", "config.alpha or 1.0 * rank", _STARTS),
    (
        METHODS,
        "rank > min(flat.shape)",
        "rank > max(flat.shape)",
        ("tests/adapters/exchange/test_adapter_refusals.py::test_a_rank_above_the_layers_size_is_refused",),
    ),
    (
        STARTS,
        "weight.norm(dim=0)",
        "weight.norm(dim=1)",
        (f"{_FORMULAS}weight_norm_of_a_convolution_is_per_input_channel_and_kernel_position",),
    ),
    (STARTS, "* 2 - 1) / math.sqrt(columns)", "* 2 - 1) / columns", _STARTS),
    (STARTS, "-B[:, :half]", "B[:, :half]", (f"{_FORMULAS}training_starts_at_the_base_model_where_claimed",)),
    (STARTS, '{"u": u, "v": -u, "u_out"', '{"u": u, "v": -2 * u, "u_out"', _STARTS),
    (
        STARTS,
        '"C": A.clone(), "D": B.clone()',
        '"C": B.clone(), "D": A.clone()',
        (f"{_FORMULAS}training_starts_at_the_base_model_where_claimed",),
    ),
    (PACK, "part[index : index + 1]", "part[:1]", (f"{_FORMULAS}pack_of_three_equals_three_single_adapters",)),
    (PACK, "distance / max(", "distance * max(", _DISTANCE),
    (LAYERS, "bias * (1 - scale)", "bias * (1 + scale)", _FORWARD),
    (LAYERS, ".baddbmm_(grad_hidden, down) if", " if", ("tests/adapters/lowrank/test_layer_gradients.py",)),
    (LOOP, "(_draw, session, step + 1)", "(_draw, session, step)", _DRAWN),
    (LOOP, "* scales).sum() / num_parts", "* scales).sum()", _ACCUMULATION),
    (LOSSES, "instance, prior = losses.chunk(2, dim=1)", "prior, instance = losses.chunk(2, dim=1)", _LOSSES),
    (OPTIMIZATION, "(step + 1) / config.warmup_steps", "step / config.warmup_steps", _RATES),
    (OPTIMIZATION, "max_norm / (norm + 1e-6)", "(norm + 1e-6) / max_norm", _RATES),
    (OPTIMIZATION, "(1 + math.cos(", "(1 - math.cos(", _RATES),
    (BATCHES, "(step + 1) * batch_size", "(step + 1) * batch_size - 1", _BATCHES),
    (BATCHES, "own + len(draw.photos)", "own", _BATCHES),
    (DIFFUSION, "signal * noise - sigma * latents", "signal * noise + sigma * latents", _NOISE),
    (DIFFUSION, "return signal * latents + sigma * noise", "return sigma * latents + signal * noise", _NOISE),
    (GRID, "known[: int(first[1])]", "known[: int(first[1]) + 1]", _GRID),
    (GRID, "<= training.num_steps and is_saved", "<= training.num_steps or is_saved", _GRID),
    (CHOOSE, "sign = 1 if", "sign = -1 if", _SEARCH),
    (CHOOSE, 'candidate["scored"] == candidate["cells"]', 'candidate["scored"] > 0', _SEARCH),
    (RESULTS, "return max(\n        complete", "return min(\n        complete", _RESULTS),
    (RESULTS, "steps[-1] if steps else None", "steps[0] if steps else None", _RESULTS),
    (RESULTS, "if len(results) == most", "if len(results) <= most", _RESULTS),
    (RESULTS, "index: max(", "index: min(", _RESULTS),
    (PROTOCOLS, 'if f"{subject}-" in f"{other}-"', 'if f"{other}-" in f"{subject}-"', _PROTOCOLS),
    (PROTOCOLS, "if not protocol.matches_substring", "if protocol.matches_substring", _PROTOCOLS),
    (METRICS, "total - cosines.diagonal().sum(), count", "total, count", _METRICS),
    (METRICS, ".max(dim=1).values", ".min(dim=1).values", _METRICS),
    (METRICS, "offset=1)", "offset=0)", _METRICS),
    (METRICS, "(own_cosine > rivals)", "(own_cosine >= rivals)", _METRICS),
    (METRICS, "mean.value * mean.pairs for", "mean.value * mean.images for", _METRICS),
    (METRICS, "fill_diagonal_(-1)", "fill_diagonal_(1)", _METRICS),
    (METRICS, "return 1 - images.double()", "return 1 + images.double()", _METRICS),
    (MEASURE, "nearest >= stated", "nearest <= stated", _METRICS),
    (MEASURE, "1 - metrics.matched_similarity(own, twin)", "metrics.matched_similarity(own, twin)", _METRICS),
    (MEASURE, "(own > cosines).all(dim=1)", "(own > cosines).any(dim=1)", _METRICS),
    (STATISTICS, "max(values) if higher_is_better", "min(values) if higher_is_better", _STATISTICS),
    (STATISTICS, "ddof=1", "ddof=0", _STATISTICS),
    (STATISTICS, "ours[name] - theirs[name]", "theirs[name] - ours[name]", _STATISTICS),
)

MUTANTS = tuple(Mutant(file=file, old=old, new=new, tests=tests) for file, old, new, tests in _ROWS)
