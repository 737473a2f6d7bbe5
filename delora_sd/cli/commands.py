"""The maker's commands. Heavy imports sit inside the functions: `--help` answers at once."""

import os
from dataclasses import asdict

from delora_sd import settings
from delora_sd.adapters.exchange.settings import AverageConfig
from delora_sd.captioning.settings import CaptionsConfig
from delora_sd.cli.command import Command, to_json
from delora_sd.maps.settings import MapGenerateConfig, MapTrainConfig
from delora_sd.sharing.settings import CardConfig, PushConfig
from delora_sd.studio.settings import StudioConfig
from delora_sd.training.settings import EstimateConfig, PackConfig


def _train(config: settings.TrainConfig) -> None:
    from delora_sd.training.recipe import train

    result = train(config)
    is_main_process = os.environ.get("RANK", "0") == "0"
    if not result.is_new and is_main_process:
        print(f"{result.run.path} is finished, all {result.step} steps; there is nothing to do")


def _generate(config: MapGenerateConfig) -> None:
    from delora_sd.maps.generate import generate

    print(generate(config))


def _train_maps(config: MapTrainConfig) -> None:
    from delora_sd.maps.recipe import train_maps

    run = train_maps(config)
    if os.environ.get("RANK", "0") == "0":
        print(f"{run.path} is trained, all {run.read_manifest()['finished_step']} steps")


def _estimate_maps(config: MapTrainConfig) -> None:
    from delora_sd.maps.estimate import describe_training

    print("\n".join(describe_training(config)))


def _export(config: settings.ExportConfig) -> None:
    from delora_sd.adapters.exchange.export.export import export_adapter

    export_adapter(config)


def _combine(config: settings.CombineConfig) -> None:
    from delora_sd.adapters.exchange.export.combine import combine_adapters

    combine_adapters(config)


def _average(config: AverageConfig) -> None:
    from delora_sd.adapters.exchange.export.average import average_checkpoints

    folder, weights = average_checkpoints(config)
    print(", ".join(f"step {step}: {weight:.1%}" for step, weight in weights.items() if weight >= 5e-4))
    print(f"{folder}; use it with `delora-sd generate {config.run} average={folder.name}`")


def _merge(config: settings.MergeConfig) -> None:
    from delora_sd.adapters.exchange.merge.merged_model import merge_checkpoint

    merge_checkpoint(config)


def _captions(config: CaptionsConfig) -> None:
    from delora_sd.captioning.make import make_captions

    make_captions(config)


def _card(config: CardConfig) -> None:
    from delora_sd.sharing.card import write_card

    print(write_card(config))


def _push(config: PushConfig) -> None:
    from delora_sd.sharing.push import push

    print(push(config))


def _list_push(config: PushConfig) -> None:
    from delora_sd.sharing.push import describe_push

    print("\n".join(describe_push(config)))


def _methods(config: settings.MethodsConfig) -> None:
    from delora_sd.adapters.catalogue import print_methods

    print_methods(config)


def _methods_json(config: settings.MethodsConfig) -> None:
    from delora_sd.adapters.catalogue import find_methods

    print(to_json({"base": config.model.base, "methods": [asdict(row) for row in find_methods(config)]}))


def _doctor(config: settings.DoctorConfig) -> None:
    from delora_sd.cli.doctor import examine

    examine(config)


def _doctor_json(config: settings.DoctorConfig) -> None:
    from delora_sd.cli.doctor import check_able, find_out

    findings = find_out(config)
    print(to_json({"findings": [asdict(finding) for finding in findings]}))
    check_able(findings)


def _pack(config: PackConfig) -> None:
    from delora_sd.training.together import train_together

    for result in train_together(config):
        print(f"{result.run.path}: all {result.step} steps")


def _estimate(config: EstimateConfig) -> None:
    from delora_sd.training.estimate import describe_estimate, estimate

    print(describe_estimate(estimate(config), config.training.num_steps))


def _studio(config: StudioConfig) -> None:
    from delora_sd.studio.page.server import open_studio

    open_studio(config, say=print)


COMMANDS = {
    "train": Command(
        summary="Fine-tune Stable Diffusion on one subject.",
        config=settings.TrainConfig,
        run=_train,
        example="delora-sd train configs/train/delora.yaml data.subject=dog output_dir=runs/dog",
    ),
    "pack": Command(
        summary="Train several runs in one batch, each as if alone.",
        config=PackConfig,
        run=_pack,
        many="runs",
        example="delora-sd pack runs/rex runs/tom",
    ),
    "estimate": Command(
        summary="Measure what a training takes on this machine: time and memory, alone and in a pack.",
        config=EstimateConfig,
        run=_estimate,
        example="delora-sd estimate model.base=miniature training.batch_size=2 training.prior_weight=0",
    ),
    "generate": Command(
        summary="Generate the subject in new contexts, or images from semantic maps.",
        config=MapGenerateConfig,
        run=_generate,
        positional=("run",),
        example="delora-sd generate runs/rex prompts=dreambooth images_per_prompt=4",
    ),
    "train-maps": Command(
        summary="Train a control encoder and an adapter on semantic maps and their photos (Table 2).",
        config=MapTrainConfig,
        run=_train_maps,
        example="delora-sd train-maps configs/train/maps_delora.yaml data.captions=scenes output_dir=runs/maps",
        dry_run=_estimate_maps,
    ),
    "export": Command(
        summary="Write the adapter as a plain LoRA file that other tools load.",
        config=settings.ExportConfig,
        run=_export,
        positional=("run",),
        example="delora-sd export runs/rex layout=kohya",
    ),
    "combine": Command(
        summary="Add several adapters up into one plain LoRA file, and say how much they interfere.",
        config=settings.CombineConfig,
        run=_combine,
        many="adapters",
        example="delora-sd combine runs/rex runs/tom output=both.safetensors strengths=[1,0.8]",
    ),
    "average": Command(
        summary="Average the kept checkpoints of a run into one more adapter, after the training.",
        config=AverageConfig,
        run=_average,
        positional=("run",),
        example="delora-sd average runs/rex width=0.1",
    ),
    "merge": Command(
        summary="Write a full Stable Diffusion folder with the adapter merged in.",
        config=settings.MergeConfig,
        run=_merge,
        positional=("run", "output"),
        example="delora-sd merge runs/rex merged/rex",
    ),
    "captions": Command(
        summary="Write a caption for each photo: its context, without the subject's identity.",
        config=CaptionsConfig,
        run=_captions,
        positional=("photos",),
        example="delora-sd captions ~/rex class_word=dog write=true",
    ),
    "card": Command(
        summary="Write a run's model card, README.md, as the hub reads it.",
        config=CardConfig,
        run=_card,
        positional=("run",),
        example="delora-sd card runs/rex",
    ),
    "push": Command(
        summary="Send a run's card, exports, adapter and a few images to the hub, private by default.",
        config=PushConfig,
        run=_push,
        positional=("run", "name"),
        example="delora-sd push runs/rex me/rex --dry-run",
        dry_run=_list_push,
    ),
    "methods": Command(
        summary="The table of methods: formula, trainable parameters, rank.",
        config=settings.MethodsConfig,
        run=_methods,
        run_json=_methods_json,
        example="delora-sd methods model.base=sd15-architecture",
    ),
    "doctor": Command(
        summary="What this machine can run, what is missing, and what to do about it.",
        config=settings.DoctorConfig,
        run=_doctor,
        run_json=_doctor_json,
        example="delora-sd doctor model.base=stable-diffusion-v1-5/stable-diffusion-v1-5",
    ),
    "studio": Command(
        summary="A page for people with photos: train, choose, create, take away; on this machine only.",
        config=StudioConfig,
        run=_studio,
        positional=("folder",),
        example="delora-sd studio",
    ),
}
