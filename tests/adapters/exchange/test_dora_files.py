"""DoRA written exactly where a layout knows its magnitude, and what half precision costs."""

import json

import pytest
import torch
from adapter_cases import CONVOLUTIONS, config_of, unet_output
from peft import PeftModel
from safetensors import safe_open
from safetensors.torch import load_file

from delora_sd.adapters.exchange.export.as_lora import plain_lora_of
from delora_sd.adapters.exchange.export.export import export_adapter, export_defaults, export_path
from delora_sd.adapters.exchange.merge.merging import merged_adapters
from delora_sd.adapters.exchange.merge.updates import load_updates
from delora_sd.adapters.lowrank.factors import Factors, merged_terms
from delora_sd.errors import UserError
from delora_sd.settings import ExportConfig

DORA = {"attention": {}, "convolutions": {"target_modules": CONVOLUTIONS}, "alpha": {"alpha": 3.0, "rank": 3}}


def _merged(base_unet, path, strength: float = 1.0) -> torch.Tensor:
    unet = base_unet()
    with merged_adapters(unet, {path: strength}):
        return unet_output(unet)


def _in_diffusers(base_unet, path) -> torch.Tensor:
    unet = base_unet()
    unet.load_lora_adapter(path.parent, weight_name=path.name, prefix="unet")
    return unet_output(unet)


@pytest.mark.parametrize(("name", "strength"), [*((name, 1.0) for name in DORA), ("convolutions", 0.4), ("alpha", 1.5)])
def test_dora_is_exact_in_diffusers_and_in_peft_at_any_strength(make_run, base_unet, capsys, name, strength):
    run, adapted = make_run(config_of("dora", **DORA[name]), size=0.03)
    expected = _merged(base_unet, run.path, strength)
    paths = {}
    for layout in ("diffusers", "peft"):
        export_adapter(ExportConfig(run=str(run.path), layout=layout, precision="fp32", strength=strength))
        paths[layout] = export_path(run, layout)
    assert capsys.readouterr().out.count("exact DoRA") == 2
    found = {
        "diffusers": _in_diffusers(base_unet, paths["diffusers"]),
        "peft": unet_output(PeftModel.from_pretrained(base_unet(), paths["peft"])),
        "diffusers by us": _merged(base_unet, paths["diffusers"]),
        "peft by us": _merged(base_unet, paths["peft"]),
    }
    if strength == 1:
        found["as trained"] = unet_output(adapted)
    far = {where: d for where, output in found.items() if (d := (output - expected).abs().max().item()) > 1e-5}
    assert far == {}
    assert (expected - unet_output(base_unet())).abs().max() > 1e-3


def test_the_magnitude_stays_whole_in_a_half_precision_file(make_run, base_unet):
    """Rounded to fp16 it would be off by half a thousandth of W, which is more than small changes are."""
    run, adapted = make_run(config_of("dora"), size=0.01)
    export_adapter(ExportConfig(run=str(run.path), layout="diffusers"))
    tensors = load_file(export_path(run, "diffusers"))
    dtypes = {name.split(".")[-1]: value.dtype for name, value in tensors.items() if "magnitude" in name}
    assert dtypes == {"lora_magnitude_vector": torch.float32}
    change = unet_output(adapted) - unet_output(base_unet())
    lost = _in_diffusers(base_unet, export_path(run, "diffusers")) - unet_output(adapted)
    assert lost.norm() < 2e-3 * change.norm()


def test_a_kohya_file_holds_the_dora_scale_when_asked_to(make_run, base_unet, capsys):
    run, adapted = make_run(config_of("dora", target_modules=CONVOLUTIONS), size=0.1)
    export_adapter(ExportConfig(run=str(run.path), precision="fp32"))
    assert "approximate LoRA" in capsys.readouterr().out
    assert not any("dora_scale" in name for name in load_file(export_path(run, "kohya")))
    export_adapter(ExportConfig(run=str(run.path), precision="fp32", dora_scale=True))
    scales = {name: value for name, value in load_file(export_path(run, "kohya")).items() if "dora_scale" in name}
    assert {value.shape[1:].numel() for value in scales.values()} == {1} and scales
    assert (_merged(base_unet, export_path(run, "kohya")) - unet_output(adapted)).abs().max() < 1e-5
    with pytest.raises(UserError, match="dora_scale: kohya's name"):
        export_adapter(ExportConfig(run=str(run.path), layout="peft", dora_scale=True))


def test_a_strength_that_turns_rows_around_is_refused(make_run):
    run, _ = make_run(config_of("dora"), size=0.5)
    tensors = load_file(run.adapter / "adapter_model.safetensors")
    key = next(name for name in tensors if name.endswith("magnitude_vector"))
    from safetensors.torch import save_file

    with safe_open(run.adapter / "adapter_model.safetensors", "pt") as file:
        metadata = file.metadata()
    save_file(tensors | {key: tensors[key] * 0.1}, run.adapter / "adapter_model.safetensors", metadata=metadata)
    with pytest.raises(UserError, match=r"strength: 2\.0 turns rows of .* around"):
        export_adapter(ExportConfig(run=str(run.path), layout="diffusers", strength=2.0))


CANCELLING = [("delora", {}), ("delora", {"init": "mirrored"}), ("ether_plus", {}), ("normalized_lora", {})]


@pytest.mark.parametrize(("method", "changes"), CANCELLING)
@pytest.mark.parametrize("size", [0.3, 0.003])
def test_half_precision_costs_less_than_a_thousandth_of_the_change(make_run, base_unet, method, changes, size):
    run, _ = make_run(config_of(method, **changes), size=size)
    export_adapter(ExportConfig(run=str(run.path), precision="fp16"))
    unet = base_unet()
    exact, half = (load_updates(path, unet) for path in (run.path, export_path(run, "kohya")))
    for name, update in exact.items():
        weight = unet.get_parameter(name)
        change = update(weight)
        assert (half[name](weight) - change).norm() < 1e-3 * change.norm()


def test_merged_terms_are_the_same_update_and_stay_zero_where_it_is():
    generator = torch.Generator().manual_seed(0)
    down, up = torch.randn(8, 40, generator=generator), torch.randn(24, 8, generator=generator)
    merged, singular = merged_terms(Factors(down, up))
    torch.testing.assert_close(merged.up @ merged.down, up @ down, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(singular.float(), torch.linalg.svdvals(up @ down)[:8], atol=1e-3, rtol=1e-4)
    zero, _ = merged_terms(Factors(down, 0 * up))
    assert torch.isfinite(zero.down).all() and not (zero.up @ zero.down).any()


def test_a_smaller_rank_is_the_closest_lora_of_that_rank(make_run, base_unet, capsys):
    run, _ = make_run(config_of("lora"))
    plain, unet = plain_lora_of(run.adapter, strength=1.0, rank=2), base_unet()
    for name, update in load_updates(run.path, unet).items():
        layer, weight = name.removesuffix(".weight"), unet.get_parameter(name)
        left, singular, right = torch.linalg.svd(update(weight))
        best = left[:, :2] * singular[:2] @ right[:2]
        assert (plain.layers[layer].up @ plain.layers[layer].down - best).abs().max() < 1e-5
        share = singular[:2].square().sum() / singular.square().sum()
        assert plain.energy[layer] == pytest.approx(share.item(), rel=1e-4)
    assert plain_lora_of(run.adapter, strength=1.0, rank=64).energy == {}


SAID = {
    "delora": {"method", "source_rank", "init", "weight_norm", "lambda_init"},
    "normalized_lora": {"method", "source_rank", "init", "lambda_init"},
    "multiplicative_delora": {"method", "source_rank", "lambda_init"},
    "lora": {"method", "source_rank"},
    "dora": {"method", "source_rank"},
    "ether_plus": {"method"},
}


@pytest.mark.parametrize("method", SAID)
def test_the_header_says_only_what_applies(make_run, method):
    run, _ = make_run(config_of(method))
    for path in export_defaults(run):
        with safe_open(path, "pt") as file:
            metadata = file.metadata()
        said = {key.removeprefix("delora.") for key in metadata if key.startswith("delora.")}
        assert said - {"strength", "config_sha256", "svd_rank"} == SAID[method]
        if "lora_adapter_metadata" in metadata:
            assert json.loads(metadata["lora_adapter_metadata"])["unet.use_dora"] is (method == "dora")
