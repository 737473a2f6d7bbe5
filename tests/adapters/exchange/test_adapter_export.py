"""Exported files: other tools compute what the native adapter computes, and read names, alpha and trigger words."""

import json

import pytest
import torch
from adapter_cases import ATTENTION, CONVOLUTIONS, config_of, unet_output
from peft import PeftModel
from safetensors import safe_open

from delora_sd.adapters.exchange.export.as_lora import plain_lora_of
from delora_sd.adapters.exchange.export.export import export_adapter, export_defaults, export_path
from delora_sd.adapters.exchange.merge.merged_model import merge_checkpoint
from delora_sd.adapters.exchange.merge.merging import merged_adapters
from delora_sd.adapters.lowrank.factors import Factors, balanced
from delora_sd.errors import UserError
from delora_sd.settings import ExportConfig, MergeConfig

TOLERANCE = {"fp32": 1e-5, "fp16": 1e-2}

EXACT = [
    ("delora", {"rank_pattern": {"attn1": 2}}),
    ("delora", {"init": "mirrored"}),
    ("delora", {"target_modules": CONVOLUTIONS}),
    ("lora", {"alpha": 3.0}),
    ("multiplicative_delora", {"boundary": 4.0}),
    ("ether_plus", {"target_modules": CONVOLUTIONS}),
]


@pytest.fixture(scope="module")
def pipeline(tiny_sd):
    """The tiny model as diffusers loads it; a test leaves no LoRA behind."""
    from diffusers import StableDiffusionPipeline
    from diffusers.utils import logging

    logging.set_verbosity_error()
    return StableDiffusionPipeline.from_pretrained(str(tiny_sd), safety_checker=None)


def _loaded_by_diffusers(pipeline, path) -> torch.Tensor:
    pipeline.load_lora_weights(str(path.parent), weight_name=path.name, local_files_only=True)
    try:
        return unet_output(pipeline.unet)
    finally:
        pipeline.unload_lora_weights()


def _difference(output: torch.Tensor, expected: torch.Tensor) -> float:
    return (output - expected).abs().max().item()


@pytest.mark.parametrize(
    ("method", "changes", "precision"), [*((*case, "fp32") for case in EXACT), (*EXACT[0], "fp16")]
)
def test_every_tool_computes_what_the_native_adapter_computes(
    make_run, base_unet, pipeline, capsys, method, changes, precision
):
    run, adapted = make_run(config_of(method, **changes), size=0.1)
    native, paths = unet_output(adapted), {}
    for layout in ("kohya", "diffusers", "peft"):
        export_adapter(ExportConfig(run=str(run.path), layout=layout, precision=precision))
        paths[layout] = export_path(run, layout)
    assert "exact LoRA" in " ".join(capsys.readouterr().out.split())
    found = {
        "kohya in diffusers": _loaded_by_diffusers(pipeline, paths["kohya"]),
        "diffusers": _loaded_by_diffusers(pipeline, paths["diffusers"]),
        "peft": unet_output(PeftModel.from_pretrained(base_unet(), paths["peft"])),
    }
    for layout, path in paths.items():
        unet = base_unet()
        with merged_adapters(unet, {path: 1.0}):
            found[f"{layout} by us"] = unet_output(unet)
    assert _difference(unet_output(pipeline.unet), native) > 1e-2
    assert {
        name: d for name, output in found.items() if (d := _difference(output, native)) > TOLERANCE[precision]
    } == {}


@pytest.mark.parametrize("precision", TOLERANCE)
@pytest.mark.parametrize("layout", ["kohya", "diffusers"])
def test_images_equal_those_of_the_native_adapter(make_run, pipeline, layout, precision):
    run, _ = make_run(config_of("delora"))
    export_adapter(ExportConfig(run=str(run.path), layout=layout, precision=precision))

    def image():
        settings = {"num_inference_steps": 3, "guidance_scale": 3.0, "output_type": "np"}
        return pipeline("a dog", generator=torch.Generator().manual_seed(0), **settings).images[0]

    pipeline.set_progress_bar_config(disable=True)
    base = image()
    with merged_adapters(pipeline.unet, {run.path: 1.0}):
        native = image()
    pipeline.load_lora_weights(str(run.export), weight_name=export_path(run, layout).name, local_files_only=True)
    try:
        exported = image()
    finally:
        pipeline.unload_lora_weights()
    assert abs(native - base).max() > 2e-2
    assert abs(exported - native).max() < TOLERANCE[precision]


@pytest.mark.parametrize("method", ["dora", "oft"])
def test_what_is_not_low_rank_is_exported_by_svd_with_the_kept_energy(make_run, base_unet, capsys, method):
    run, adapted = make_run(config_of(method, num_blocks=2))
    native, errors, energies = unet_output(adapted), [], []
    for rank in (2, 32):
        export_adapter(ExportConfig(run=str(run.path), layout="kohya", precision="fp32", rank=rank))
        assert "approximate LoRA" in " ".join(capsys.readouterr().out.split())
        unet = base_unet()
        with merged_adapters(unet, {export_path(run, "kohya"): 1.0}):
            errors.append(_difference(unet_output(unet), native))
        energies.append(plain_lora_of(run.adapter, strength=1.0, rank=rank).energy)
    assert errors[0] > 1e-3 and errors[1] < 1e-5
    assert set(energies[0]) == set(energies[1])
    assert all(0 < share < 0.999 for share in energies[0].values())
    assert all(share == pytest.approx(1.0, abs=1e-5) for share in energies[1].values())


def test_kohya_names_and_alpha_key_by_key(make_run):
    run, adapted = make_run(config_of("delora", init="mirrored", target_modules=(*ATTENTION, "conv1")))
    export_adapter(ExportConfig(run=str(run.path)))
    expected = {}
    for layer, module in adapted.named_modules():
        if layer.endswith((*ATTENTION, "conv1")):
            name, weight = "lora_unet_" + layer.replace(".", "_"), module.base.weight
            expected[f"{name}.lora_down.weight"] = (torch.float16, (4, *weight.shape[1:]))
            expected[f"{name}.lora_up.weight"] = (torch.float16, (weight.shape[0], 4, *(1 for _ in weight.shape[2:])))
            expected[f"{name}.alpha"] = (torch.float32, ())
    with safe_open(export_path(run, "kohya"), "pt") as file:
        found = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    assert {name: (value.dtype, tuple(value.shape)) for name, value in found.items()} == expected
    assert {value.item() for name, value in found.items() if name.endswith(".alpha")} == {4.0}
    one = "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn1_to_out_0.lora_down.weight"
    assert one in found


def test_a_kohya_file_of_mixed_ranks_has_one_alpha(make_run):
    """diffusers ignores the alpha of single attention layers: with one alpha everywhere there is none to ignore."""
    run, _ = make_run(config_of("lora", rank_pattern={"attn1": 2}))
    export_adapter(ExportConfig(run=str(run.path), precision="fp32"))
    with safe_open(export_path(run, "kohya"), "pt") as file:
        alphas = {file.get_tensor(name).item() for name in file.keys() if name.endswith(".alpha")}  # noqa: SIM118
        ranks = {file.get_tensor(name).shape[0] for name in file.keys() if "lora_down" in name}  # noqa: SIM118
        metadata = file.metadata()
    assert alphas == {4.0} and ranks == {2, 4}
    assert (metadata["ss_network_dim"], metadata["ss_network_alpha"]) == ("Dynamic", "4")


def _metadata(path) -> dict[str, str]:
    with safe_open(path, "pt") as file:
        return file.metadata()


def test_metadata_says_what_other_tools_look_for(make_run, tiny_sd):
    run, _ = make_run(config_of("delora"))
    kohya, diffusers = (_metadata(path) for path in export_defaults(run))
    expected = {
        "modelspec.architecture": "stable-diffusion-v1/lora",
        "modelspec.sai_model_spec": "1.0.1",
        "modelspec.title": "rex",
        "modelspec.resolution": "32x32",
        "modelspec.trigger_phrase": "qwe dog",
        "ss_base_model_version": "sd_v1",
        "ss_v2": "False",
        "ss_network_module": "networks.lora",
        "ss_network_dim": "8",
        "ss_network_alpha": "8",
        "ss_output_name": "rex",
        "ss_sd_model_name": str(tiny_sd),
        "ss_num_train_images": "5",
        "ss_learning_rate": "0.02",
        "ss_seed": "0",
        "delora.method": "delora",
        "delora.init": "frozen_copy",
        "delora.source_rank": "4",
        "format": "pt",
    }
    assert {key: kohya.get(key) for key in expected} == expected
    assert json.loads(kohya["ss_tag_frequency"]) == {"1_qwe dog": {"qwe dog": 5}}
    assert kohya["modelspec.hash_sha256"] == f"0x{kohya['sshs_model_hash']}"
    declared = json.loads(diffusers["lora_adapter_metadata"])
    assert (declared["unet.r"], declared["unet.lora_alpha"]) == (8, 8)


def test_the_hash_is_that_of_the_bytes_after_the_header(make_run):
    import hashlib

    run, _ = make_run(config_of("delora"))
    path = export_defaults(run)[0]
    content = path.read_bytes()
    header = int.from_bytes(content[:8], "little")
    assert _metadata(path)["sshs_model_hash"] == hashlib.sha256(content[8 + header :]).hexdigest()


def test_exporting_twice_gives_the_same_bytes(make_run):
    run, _ = make_run(config_of("delora"))
    first = [path.read_bytes() for path in export_defaults(run)]
    assert [path.read_bytes() for path in export_defaults(run)] == first


def test_a_whole_unet_gets_no_lora_by_default_but_a_merged_model(make_run, tmp_path):
    from diffusers import StableDiffusionPipeline

    run, adapted = make_run(config_of("full"), size=0.01)
    assert export_defaults(run) == []
    merge_checkpoint(MergeConfig(run=str(run.path), output=str(tmp_path / "merged"), precision="fp32"))
    pipe = StableDiffusionPipeline.from_pretrained(str(tmp_path / "merged"))
    assert torch.equal(unet_output(pipe.unet), unet_output(adapted))


def test_a_merged_model_is_a_pipeline_of_its_own(make_run, tmp_path):
    from diffusers import StableDiffusionPipeline

    run, adapted = make_run(config_of("dora"))
    merge_checkpoint(MergeConfig(run=str(run.path), output=str(tmp_path / "merged")))
    pipe = StableDiffusionPipeline.from_pretrained(str(tmp_path / "merged"))
    assert _difference(unet_output(pipe.unet), unet_output(adapted)) < 1e-2
    with pytest.raises(UserError, match="holds something else"):
        merge_checkpoint(MergeConfig(run=str(run.path), output=str(run.path)))


def test_strength_scales_the_export(make_run, base_unet):
    run, _ = make_run(config_of("delora"))
    export_adapter(ExportConfig(run=str(run.path), layout="peft", precision="fp32", strength=0.5))
    unet, half = base_unet(), unet_output(PeftModel.from_pretrained(base_unet(), export_path(run, "peft")))
    with merged_adapters(unet, {run.path: 0.5}):
        assert _difference(unet_output(unet), half) < 1e-5


@pytest.mark.parametrize("size", [1.0, 1e-3, 1e-4])
def test_balanced_factors_survive_half_precision_at_any_size(size):
    generator = torch.Generator().manual_seed(0)
    down, up = torch.randn(4, 320, generator=generator), size * torch.randn(320, 4, generator=generator)
    even = balanced(Factors(down, up))
    torch.testing.assert_close(even.down.norm(dim=1), even.up.norm(dim=0))
    exact, half = up @ down, even.up.half().float() @ even.down.half().float()
    assert (half - exact).norm() / exact.norm() < 1e-3


def test_balancing_an_untrained_lora_keeps_it_zero_and_finite():
    even = balanced(Factors(torch.randn(4, 8), torch.zeros(6, 4)))
    assert torch.isfinite(even.down).all() and torch.isfinite(even.up).all()
    assert not (even.up.half() @ even.down.half()).any()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"run": ""}, "run: missing"),
        ({"strength": 3.0}, "a strength is 0"),
        ({"rank": 0}, "rank: 0"),
        ({"step": 7}, "no checkpoint of step 7"),
        ({"output": "lora.bin"}, r"ends with \.safetensors"),
    ],
)
def test_exports_that_cannot_be_are_refused(make_run, changes, message):
    run, _ = make_run(config_of("delora"))
    with pytest.raises(UserError, match=message):
        export_adapter(ExportConfig(**({"run": str(run.path)} | changes)))


def test_an_adapter_folder_without_a_run_needs_an_output(make_run, tmp_path):
    run, _ = make_run(config_of("delora"))
    run.adapter.rename(tmp_path / "alone")
    with pytest.raises(UserError, match="output: missing"):
        export_adapter(ExportConfig(run=str(tmp_path / "alone")))
    export_adapter(ExportConfig(run=str(tmp_path / "alone"), output=str(tmp_path / "a.safetensors")))
    assert _metadata(tmp_path / "a.safetensors")["modelspec.title"] == "alone"
