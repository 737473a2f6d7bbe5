"""FLUX.2 and Z-Image from photos to files other tools load, on tiny models of the real classes."""

import json
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from delora_sd.adapters.attach import attach_method
from delora_sd.adapters.exchange.plain_lora.reading import read_plain_lora
from delora_sd.adapters.exchange.stored.formats import load_adapter
from delora_sd.adapters.lowrank.adapter import layer_factors
from delora_sd.adapters.lowrank.pack import attach
from delora_sd.cli.main import main
from delora_sd.diffusion.bases import find_base
from delora_sd.diffusion.families.family import Base
from delora_sd.diffusion.parts import load_denoiser, load_vae
from delora_sd.errors import UserError
from delora_sd.files.run_folder import read_json, read_lines
from delora_sd.settings import AdapterConfig, DataConfig, ModelConfig, TrainConfig, TrainingConfig
from delora_sd.training.loop.batches import assemble_batch, draw_step
from delora_sd.training.loop.objective import AdaptedDenoiser, pack_losses
from delora_sd.training.memory.pack_size import random_cell
from delora_sd.training.recipe import train
from make_tiny_flow import write_tiny_flow

FP32 = {"device": torch.device("cpu"), "dtype": torch.float32}
FAMILIES = ("flux2", "zimage")


@dataclass(frozen=True)
class Finished:
    """A run of three steps with class images, drawn from and scored."""

    run: Path
    base: Base


@pytest.fixture(scope="module", params=FAMILIES)
def finished(request, tiny_flux2: Path, tiny_zimage: Path, photo_folder: Path, tmp_path_factory) -> Finished:
    folder = tmp_path_factory.mktemp(request.param)
    base = {"flux2": tiny_flux2, "zimage": tiny_zimage}[request.param]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DELORA_SD_CACHE", str(folder / "cache"))
        train(config_of(base, photo_folder, folder / "run", num_steps=3))
    draw = ["generate", str(folder / "run"), "prompts=a {class_word}", "num_inference_steps=2", "images_per_prompt=2"]
    assert main([*draw, "guidance=3"]) == 0
    assert main(["score", str(folder / "run"), "protocol=miniature"]) == 0
    return Finished(run=folder / "run", base=find_base(ModelConfig(base=str(base))))


def config_of(base: Path, photos: Path, run: Path, *, num_steps: int, prior_weight: float = 1.0) -> TrainConfig:
    return TrainConfig(
        output_dir=str(run),
        model=ModelConfig(base=str(base)),
        data=DataConfig(photos=str(photos), class_word="dog"),
        adapter=AdapterConfig(rank=2, boundary=2.0),
        training=TrainingConfig(
            num_steps=num_steps,
            checkpoint_every=2,
            log_every=1,
            num_class_images=1,
            prior_weight=prior_weight,
            sigma_weighting="cosmap",
        ),
    )


def test_a_run_ends_with_images_and_scores_that_say_they_mean_nothing(finished: Finished):
    assert len(list((finished.run / "images").rglob("*.png"))) == 2
    scores = read_lines(finished.run / "scores.jsonl")
    of_images = [line for line in scores if line["base"] is not None]
    assert of_images and all(line["random_base"] for line in of_images)
    losses = [line["loss"] for line in read_lines(finished.run / "events.jsonl") if "loss" in line]
    assert len(losses) == 3 and all(loss > 0 for loss in losses)


def test_diffusers_draws_with_both_files_what_was_trained(finished: Finished):
    differences = read_json(finished.run / "manifest.json")["export_difference"]
    assert len(differences) == 3, "kohya, diffusers, and kohya by ComfyUI's arithmetic"
    assert all(value is not None and value < 0.5 for value in differences.values())


def test_diffusers_pipeline_loads_every_tensor_of_both_files(finished: Finished):
    """Layer by layer: what its LoRA layers add is what the adapter adds."""
    expected = updates(finished)
    for file in sorted((finished.run / "export").glob("*.safetensors")):
        transformer = load_denoiser(finished.base, **FP32)
        pipeline = finished.base.family.lora_pipeline(transformer, load_vae(finished.base, **FP32))
        pipeline.load_lora_weights(str(file.parent), weight_name=file.name, local_files_only=True)
        found = {}
        for name, module in transformer.named_modules():
            if name + "." and hasattr(module, "lora_A"):
                key = next(iter(module.lora_A))
                product = module.lora_B[key].weight @ module.lora_A[key].weight
                found[name] = product.detach().float() * module.scaling[key]
        assert found.keys() == expected.keys(), file
        for name, update in expected.items():
            assert (found[name] - update).norm() <= 3e-3 * update.norm(), (file, name)


def updates(finished: Finished) -> dict[str, torch.Tensor]:
    adapter = load_adapter(finished.run / "adapter")
    pairs = {
        layer: layer_factors(adapter.config, adapter.specs()[layer], named)
        for layer, named in adapter.layer_tensors().items()
    }
    return {layer: pair.up @ pair.down for layer, pair in pairs.items()}


def test_our_own_reader_takes_both_files_back(finished: Finished):
    names = [name for name, module in load_denoiser(finished.base, **FP32).named_modules() if hasattr(module, "weight")]
    expected = updates(finished)
    for file in (finished.run / "export").glob("*.safetensors"):
        layers, unused = read_plain_lora(file, names)
        assert layers.keys() == expected.keys() and not unused
        for name, layer in layers.items():
            assert (layer.up @ layer.down - expected[name]).norm() <= 3e-3 * expected[name].norm(), (file, name)


def test_keys_are_those_that_comfyui_maps(finished: Finished):
    """As comfy/lora.py maps them: BFL's names flattened, q, k and v in one; of Z-Image diffusers' own, apart."""
    kohya, diffusers = (
        load_file(next((finished.run / "export").glob(f"*.{kind}.safetensors"))) for kind in ("kohya", "diffusers")
    )
    if finished.base.family.name == "flux2":
        ends = ["double_blocks_1_img_attn_qkv", "double_blocks_1_img_attn_proj", "double_blocks_1_txt_attn_qkv"]
        ends += ["double_blocks_1_txt_attn_proj", "single_blocks_1_linear1", "single_blocks_1_linear2"]
        assert {f"lora_unet_{end}.lora_up.weight" for end in ends} <= kohya.keys()
        assert len(kohya) == 3 * (2 * 4 + 2 * 2)
        assert kohya["lora_unet_double_blocks_0_img_attn_qkv.lora_up.weight"].shape[0] == 3 * 24
        assert "transformer.single_transformer_blocks.0.attn.to_qkv_mlp_proj.lora_A.weight" in diffusers
        assert "transformer.single_transformer_blocks.0.attn.to_out.lora_B.weight" in diffusers
    else:
        assert "diffusion_model.layers.1.attention.to_q.lora_down.weight" in kohya
        assert "transformer.noise_refiner.0.attention.to_out.0.lora_A.weight" in diffusers
        assert len(kohya) == 3 * 4 * 4


def test_each_slice_of_a_fused_matrix_has_its_boundary(finished: Finished):
    adapter = load_adapter(finished.run / "adapter")
    fused = {layer: spec.rows for layer, spec in adapter.specs().items() if spec.rows}
    if finished.base.family.name == "zimage":
        assert not fused
        return
    assert fused == {f"single_transformer_blocks.{i}.attn.to_qkv_mlp_proj": (24, 24, 24, 96) for i in range(2)}
    boundaries = adapter.layer_tensors()["single_transformer_blocks.0.attn.to_qkv_mlp_proj"]["boundary"]
    assert boundaries.shape == (4,) and len(set(boundaries.tolist())) == 4, "each has learned by itself"


def test_a_run_in_two_calls_is_the_run_in_one(finished: Finished, photo_folder: Path, tmp_path: Path, monkeypatch):
    monkeypatch.setenv("DELORA_SD_CACHE", str(finished.run.parent / "cache"))
    for num_steps in (2, 3):
        train(config_of(Path(finished.base.name), photo_folder, tmp_path / "run", num_steps=num_steps))
    ours, theirs = (next((run / "adapter").glob("*.safetensors")) for run in (tmp_path / "run", finished.run))
    assert load_file(ours).keys() == load_file(theirs).keys()
    assert all(value.equal(load_file(theirs)[name]) for name, value in load_file(ours).items())


def test_a_merged_model_is_the_adapter(finished: Finished, tmp_path: Path):
    assert main(["merge", str(finished.run), str(tmp_path / "merged"), "precision=fp32"]) == 0
    merged = find_base(ModelConfig(base=str(tmp_path / "merged")))
    adapted = load_denoiser(finished.base, **FP32)
    pack = attach(adapted, [load_adapter(finished.run / "adapter")])
    cell = random_cell(config_of(Path(), Path(), Path(), num_steps=1, prior_weight=0.0), finished.base, FP32["device"])
    conditions = {name: value.unsqueeze(0) for name, value in cell.captions[0].items()}
    with torch.no_grad(), pack.only(0):
        inputs = (cell.photos.mean[:1], torch.tensor([0.6]), conditions)
        expected = finished.base.family.predict(adapted, *inputs)
        found = finished.base.family.predict(load_denoiser(merged, **FP32), *inputs)
        plain = finished.base.family.predict(load_denoiser(finished.base, **FP32), *inputs)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
    assert (plain - expected).abs().max() > 1e-4


def test_a_pack_of_three_is_three_single_ones(finished: Finished):
    """Losses and gradients, with class images, adapters of different starts and captions of different lengths."""
    base, training = finished.base, TrainingConfig(sigma_weighting="cosmap")
    config = config_of(Path(), Path(), Path(), num_steps=1)
    cells = [random_cell(config, base, FP32["device"]) for _ in range(3)]
    objective = base.family.objective(base, training, FP32["device"])

    def gradients(seeds: list[int]) -> tuple[torch.Tensor, list[list[torch.Tensor]]]:
        denoiser = load_denoiser(base, **FP32).requires_grad_(False)
        targets = AdapterConfig(rank=2, init="mirrored", target_modules=base.family.default_layers)
        fused_rows = base.family.fused_rows(denoiser)
        pack = attach_method(denoiser, [targets] * len(seeds), seeds=seeds, fused_rows=fused_rows)
        draws = [draw_step(cells[seed], objective, seed=seed, step=0, batch_size=1) for seed in seeds]
        batch = assemble_batch([cells[seed] for seed in seeds], draws, FP32["device"])
        model = AdaptedDenoiser(denoiser, pack, base.family.predict)
        instance, prior = pack_losses(model, batch, objective=objective, prior_weights=torch.ones(len(seeds)))
        (instance + prior).sum().backward()
        own = [[p.grad for _, p in adapter.parameters_by_name()] for adapter in pack.adapters]
        return torch.stack([instance, prior], dim=1).detach(), own

    losses, together = gradients([0, 1, 2])
    for seed in range(3):
        own_losses, own = gradients([seed])
        torch.testing.assert_close(own_losses[0], losses[seed], rtol=1e-5, atol=1e-6)
        for one, other in zip(own[0], together[seed], strict=True):
            torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-6 + 1e-4 * float(other.abs().max()))


def test_weights_of_the_class_half_are_its_own():
    """Each sample's loss is weighted by its own noise level before the halves part (diffusers#13743)."""
    from delora_sd.diffusion.noise.flow import Flow
    from delora_sd.training.loop.batches import Batch

    flow = Flow(sampling="uniform", weighting="sigma_sqrt", mu=0.0)
    zeros, times = torch.zeros(2, 4, 2, 2), torch.tensor([0.5, 0.1])
    batch = Batch(latents=zeros, noise=zeros, times=times, conditions={})

    class OneOff(torch.nn.Module):
        def forward(self, latents, times, conditions):
            return torch.ones_like(latents)

    instance, prior = pack_losses(OneOff(), batch, objective=flow, prior_weights=torch.tensor([3.0]))
    torch.testing.assert_close(instance, torch.tensor([4.0]))
    torch.testing.assert_close(prior, torch.tensor([300.0]))


def test_the_distilled_twin_draws_with_the_adapter(finished: Finished, tmp_path: Path):
    """Another base of the same shapes, which could not be trained on, in steps and guidance of its own."""
    twin = write_tiny_flow(tmp_path / "turbo", finished.base.family.name, seed=1)
    draw = ["generate", str(finished.run), f"base={twin}", f"output_dir={tmp_path / 'out'}", "prompts=a dog"]
    assert main([*draw, "num_inference_steps=1", "guidance=1", "images_per_prompt=1"]) == 0
    assert len(list((tmp_path / "out").rglob("*.png"))) == 1


def test_a_distilled_base_is_no_base_to_train_on(tiny_flux2: Path, photo_folder: Path, tmp_path: Path):
    import shutil

    base = shutil.copytree(tiny_flux2, tmp_path / "klein")
    index = json.loads((base / "model_index.json").read_text())
    (base / "model_index.json").write_text(json.dumps(index | {"is_distilled": True}))
    with pytest.raises(UserError, match="distilled"):
        train(config_of(base, photo_folder, tmp_path / "run", num_steps=1))
    assert not (tmp_path / "run").exists()
