"""Builds the miniature: `python -m delora_sd.miniature.build --out DIR --work-dir DIR [--preset cpu|gpu]`.

Renders the world, trains the autoencoder, the base model and the judges, and writes weights and a model card.
To resume, run the same command again. `--stage` runs one stage on what the earlier ones left in the work folder.
`--start-from FOLDER` trains an earlier build on (its latents and judges stay what they are):

    python -m delora_sd.miniature.build --start-from delora_sd/miniature/weights --out DIR --work-dir DIR

`--family flux2` builds the miniature that flows, FLUX.2's classes on the world, the autoencoder and the judges of the
bundled one, into DIR/flow; `model.base=DIR/flow` uses it.
"""

import argparse
import json
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

STAGES = {
    "sd": ("render", "vae", "decoder", "unet", "judges", "segmenter", "export", "card"),
    "flux2": ("render", "flow", "export-flow", "card-flow"),
}


@dataclass(frozen=True, kw_only=True)
class Preset:
    """Budgets of a build; minutes are of training, batches are pictures."""

    groups: int
    workers: int
    minutes_vae: float
    minutes_decoder: float
    minutes_unet: float
    minutes_judge: float
    minutes_segmenter: float
    batch_vae: int
    batch_unet: int
    batch_judge: int
    labelled: int
    decoded: int


PRESETS = {
    "cpu": Preset(
        groups=10_000,
        workers=2,
        minutes_vae=25,
        minutes_decoder=15,
        minutes_unet=120,
        minutes_judge=8,
        minutes_segmenter=7,
        batch_vae=12,
        batch_unet=48,
        batch_judge=128,
        labelled=6_000,
        decoded=5_000,
    ),
    "smoke": Preset(  # every stage once, in two minutes: tries the script, not the models
        groups=500,
        workers=1,
        minutes_vae=0.1,
        minutes_decoder=0.1,
        minutes_unet=0.2,
        minutes_judge=0.1,
        minutes_segmenter=0.1,
        batch_vae=4,
        batch_unet=8,
        batch_judge=16,
        labelled=200,
        decoded=200,
    ),
    "gpu": Preset(
        groups=25_000,
        workers=16,
        minutes_vae=2,
        minutes_decoder=2,
        minutes_unet=5,
        minutes_judge=0.7,
        minutes_segmenter=0.7,
        batch_vae=128,
        batch_unet=512,
        batch_judge=512,
        labelled=40_000,
        decoded=20_000,
    ),
}
GUIDANCE = 3.0


@dataclass(frozen=True, kw_only=True)
class Build:
    """Where a build reads and writes, its budgets and its voice."""

    out: Path
    work: Path
    sheets: Path
    preset: Preset
    device: torch.device
    say: Callable[[str], None]
    pictures: int = 1000
    """Base pictures the card measures."""
    start: Path | None = None
    """An earlier build's folder: its autoencoder's latents and its judges are kept, the rest is trained on."""


def render_stage(build: Build) -> None:
    """pictures/: the pretraining set."""
    from delora_sd.miniature.build.data.dataset import render_shards

    render_shards(build.work / "pictures", build.preset.groups, workers=build.preset.workers, say=build.say)


def vae_stage(build: Build) -> None:
    """vae/: the trained autoencoder, or the one the build starts from."""
    from delora_sd.miniature.build.data.dataset import load_shards
    from delora_sd.miniature.build.train.vae import train_vae

    preset, folder = build.preset, build.work / "vae"
    if build.start:
        if not folder.exists():
            shutil.copytree(build.start / "sd" / "vae", folder)
        return
    pictures = load_shards(build.work / "pictures", preset.groups)
    vae = train_vae(
        pictures, build.work, minutes=preset.minutes_vae, batch=preset.batch_vae, device=build.device, say=build.say
    )
    vae.save_pretrained(folder)


def decoder_stage(build: Build) -> None:
    """vae/ again, its decoder trained alone."""
    from delora_sd.miniature.build.data.dataset import load_shards
    from delora_sd.miniature.build.train.vae import refine_decoder

    preset = build.preset
    vae = _vae(build)
    refine_decoder(
        vae,
        load_shards(build.work / "pictures", preset.groups),
        build.work,
        minutes=preset.minutes_decoder,
        batch=preset.batch_vae,
        device=build.device,
        say=build.say,
    )
    vae.save_pretrained(build.work / "vae")


def unet_stage(build: Build) -> None:
    """unet.safetensors: the averaged UNet and text encoder, with their training state."""
    from delora_sd.miniature.build.data.dataset import load_shards
    from delora_sd.miniature.build.train.unet import exported_weights, train_unet, training_set

    preset = build.preset
    vae = _vae(build)
    data = training_set(load_shards(build.work / "pictures", preset.groups), vae)
    train_unet(
        data,
        vae,
        build.work,
        start=exported_weights(build.start / "sd") if build.start else None,
        minutes=preset.minutes_unet,
        batch=preset.batch_unet,
        device=build.device,
        say=build.say,
    )


def judges_stage(build: Build) -> None:
    """mini_dino/ and mini_clip/ in the output folder: trained, or those the build starts from."""
    if build.start:
        for name in ("mini_dino", "mini_clip"):
            if not (build.out / name).exists():
                shutil.copytree(build.start / name, build.out / name)
        return
    from delora_sd.miniature import judges
    from delora_sd.miniature.build.data.dataset import load_shards
    from delora_sd.miniature.build.train.judges import Views, train_mini_clip, train_mini_dino
    from delora_sd.miniature.build.train.precision import computing
    from delora_sd.miniature.build.train.vae import reconstruct

    preset = build.preset
    pictures = load_shards(build.work / "pictures", preset.groups)
    with computing(build.device):
        decoded = reconstruct(_vae(build), pictures.pixels[: preset.decoded])
    views = Views(pictures=pictures, decoded=decoded)
    budget = {"minutes": preset.minutes_judge, "batch": preset.batch_judge, "device": build.device, "say": build.say}
    dino = train_mini_dino(views, build.work, **budget)
    judges.save_judge(dino, judges.DINO_CONFIG, build.out / "mini_dino")
    clip = train_mini_clip(views, build.work, **budget)
    judges.save_judge(clip, judges.clip_config(), build.out / "mini_clip")


def segmenter_stage(build: Build) -> None:
    """mini_seg/ in the output folder: trained, or the one the build starts from where it has one."""
    folder = build.out / "mini_seg"
    if build.start and (build.start / "mini_seg").exists():
        if not folder.exists():
            shutil.copytree(build.start / "mini_seg", folder)
        return
    from delora_sd.miniature.build.train import segmenter as training
    from delora_sd.miniature.build.train.vae import reconstruct
    from delora_sd.miniature.judges import save_judge
    from delora_sd.miniature.segmenter import SEGMENTER_CONFIG

    preset = build.preset
    clean = training.render_scattered(training.TRAIN_SEED, preset.labelled, held_out=False)
    model = training.train_segmenter(
        clean,
        reconstruct(_vae(build), clean.pixels[: preset.labelled // 2]),
        build.work,
        minutes=preset.minutes_segmenter,
        batch=preset.batch_judge // 4,
        device=build.device,
        say=build.say,
    )
    save_judge(model, SEGMENTER_CONFIG, folder)


def export_stage(build: Build) -> None:
    """sd/ in the output folder, from whatever the unet stage has reached."""
    from delora_sd.miniature.build.train.unet import export_pipeline
    from delora_sd.miniature.build.train.weights import averaged_weights

    export_pipeline(_vae(build).cpu(), averaged_weights(build.work / "unet.safetensors"), build.out / "sd")


def flow_stage(build: Build) -> None:
    """flow.safetensors: the averaged transformer and text encoder; flow_vae/: the bundled autoencoder in its class."""
    from delora_sd.miniature.build.data.dataset import load_shards
    from delora_sd.miniature.build.train.flow import flow_training_set, train_flow

    pictures = load_shards(build.work / "pictures", build.preset.groups)
    data, vae = flow_training_set(pictures, _bundled_vae())
    vae.save_pretrained(build.work / "flow_vae")
    minutes, batch = build.preset.minutes_unet, build.preset.batch_unet
    train_flow(data, build.work, minutes=minutes, batch=batch, device=build.device, say=build.say)


def export_flow_stage(build: Build) -> None:
    """flow/ in the output folder, from whatever the flow stage has reached."""
    from diffusers import AutoencoderKLFlux2

    from delora_sd.miniature.build.train.flow import export_flow
    from delora_sd.miniature.build.train.weights import averaged_weights

    vae = AutoencoderKLFlux2.from_pretrained(build.work / "flow_vae", use_safetensors=True, local_files_only=True)
    export_flow(vae, averaged_weights(build.work / "flow.safetensors"), build.out / "flow")


def card_flow_stage(build: Build) -> None:
    """flow/MODEL_CARD.md and the sheet."""
    from delora_sd.miniature.build.gates import flow_card

    flow_card.write_all(build.out / "flow", build.sheets, device=build.device, guidance=GUIDANCE, say=build.say)


def _bundled_vae():
    from diffusers import AutoencoderKL

    from delora_sd.miniature import BASE_FOLDER

    return AutoencoderKL.from_pretrained(BASE_FOLDER / "vae", use_safetensors=True, local_files_only=True).eval()


def card_stage(build: Build) -> None:
    """MODEL_CARD.md and the sheets."""
    from delora_sd.miniature.build.gates import card

    gates, speed = card.measure_all(build.out, device=build.device, guidance=GUIDANCE, count=build.pictures)
    for gate in gates:
        build.say(f"card: {gate.name}: {gate.value:.3f} (goal {gate.goal:g})")
    notes = build.work / "history.md"
    history = notes.read_text(encoding="utf-8") if notes.exists() else f"`{json.dumps(vars(build.preset))}`"
    card.write_card(build.out / "MODEL_CARD.md", gates, speed=speed, history=history.strip(), count=build.pictures)
    card.write_sheets(build.out, build.sheets, device=build.device, guidance=GUIDANCE)


def _vae(build: Build):
    from diffusers import AutoencoderKL

    return (
        AutoencoderKL.from_pretrained(build.work / "vae", use_safetensors=True, local_files_only=True)
        .to(build.device)
        .eval()
    )


def main() -> None:
    arguments = _parser().parse_args()
    preset = PRESETS[arguments.preset]
    budgets = [name for name in vars(preset) if name.startswith("minutes_")]
    changed = {name: getattr(arguments, name) for name in budgets}
    preset = Preset(**{**vars(preset), **{name: value for name, value in changed.items() if value is not None}})
    started = time.monotonic()
    build = Build(
        out=arguments.out,
        work=arguments.work_dir,
        sheets=arguments.sheets or arguments.out,
        preset=preset,
        device=torch.device(arguments.device),
        start=arguments.start_from,
        pictures=arguments.pictures,
        say=lambda line: print(f"{(time.monotonic() - started) / 60:6.1f} min  {line}", flush=True),
    )
    run = {
        "render": render_stage,
        "vae": vae_stage,
        "decoder": decoder_stage,
        "unet": unet_stage,
        "judges": judges_stage,
        "segmenter": segmenter_stage,
        "export": export_stage,
        "card": card_stage,
        "flow": flow_stage,
        "export-flow": export_flow_stage,
        "card-flow": card_flow_stage,
    }
    for name in [arguments.stage] if arguments.stage else STAGES[arguments.family]:
        build.say(f"stage {name}")
        run[name](build)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--out", type=Path, required=True, help="folder for sd/, mini_dino/, mini_clip/, mini_seg/ and the card"
    )
    parser.add_argument("--work-dir", type=Path, required=True, help="folder for pictures and checkpoints (about 2 GB)")
    parser.add_argument("--start-from", type=Path, help="folder of an earlier build (with sd/), trained on")
    parser.add_argument("--preset", choices=tuple(PRESETS), default="cpu")
    parser.add_argument("--family", choices=tuple(STAGES), default="sd", help="whose classes the base model has")
    parser.add_argument("--stage", choices=[stage for own in STAGES.values() for stage in own], help="this one only")
    parser.add_argument("--minutes-vae", type=float)
    parser.add_argument("--minutes-decoder", type=float)
    parser.add_argument("--minutes-unet", type=float, help="of the UNet, or of the transformer that flows")
    parser.add_argument("--minutes-judge", type=float, help="for each of the two judges")
    parser.add_argument("--minutes-segmenter", type=float)
    parser.add_argument("--pictures", type=int, default=1000, help="base pictures that the card is measured on")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--sheets", type=Path, help="folder for the two sheets of pictures; default: --out")
    return parser


if __name__ == "__main__":
    main()
