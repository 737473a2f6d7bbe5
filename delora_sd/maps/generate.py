"""`delora-sd generate RUN maps=FOLDER prompts=...`: a user's own maps through a trained encoder and adapter."""

from dataclasses import replace
from pathlib import Path

from delora_sd.adapters.exchange.stored.inputs import find_adapter
from delora_sd.data.prompts import Prompt, load_prompts
from delora_sd.data.subjects import class_facts
from delora_sd.diffusion.bases import find_base
from delora_sd.errors import UserError
from delora_sd.files.run_folder import RunFolder
from delora_sd.generation.generate import check_settings
from delora_sd.generation.generate import generate as draw_subject
from delora_sd.generation.requests import SamplingSettings
from delora_sd.maps.captions import read_captions
from delora_sd.maps.dataset import list_maps
from delora_sd.maps.door import is_map_run, read_map_settings
from delora_sd.maps.draw import MapImage, MapSource, draw_maps, seed_of_map
from delora_sd.maps.encoder import CONTROL_FOLDER, load_palette
from delora_sd.maps.settings import MapGenerateConfig


def generate(config: MapGenerateConfig) -> Path:
    """Returns the folder of the image set, from maps where the settings name some; the same call again resumes.

    Raises:
        UserError: settings, prompts, maps, an adapter or a base model that cannot work; a disk that is full.
    """
    if config.maps is not None:
        return generate_from_maps(config)
    if config.captions is not None or config.solver != "own":
        raise UserError("captions, solver: only with maps=FOLDER")
    if config.run and is_map_run(Path(config.run).expanduser()):
        raise UserError(f"run={config.run}: trained on maps; give maps=FOLDER, and prompts or captions for them")
    return draw_subject(config)


def generate_from_maps(config: MapGenerateConfig) -> Path:
    """Returns the folder of the image set: `images_per_prompt` images of every prompt on every map.

    Raises:
        UserError: settings, maps or prompts that cannot work, or a run that was not trained on maps.
    """
    check_settings(config)
    source = find_map_source(config)
    sampling = SamplingSettings(
        num_inference_steps=config.num_inference_steps,
        guidance=float(config.guidance),
        negative_prompt=config.negative_prompt,
        size_px=find_base(source.model).size_px,
        solver=config.solver,
    )
    return draw_maps(source, _wanted(config), sampling, batch_size=config.batch_size, step=config.step)


def find_map_source(config: MapGenerateConfig) -> MapSource:
    """Returns what draws: the run's base, adapter and encoder, with the extra adapters on top."""
    path = Path(config.run).expanduser()
    if not is_map_run(path):
        raise UserError(
            f"run={config.run}: was not trained on maps; give a run of `delora-sd train-maps`, and a subject's run as "
            "extra_adapters={RUN: 1}"
        )
    run = RunFolder(path)
    trained = read_map_settings(run)
    place = _place(run, config.step)
    own = {} if trained.control.alone else {place / "adapter": config.strength}
    extra = {find_adapter(Path(name)): strength for name, strength in config.extra_adapters.items()}
    output = RunFolder(Path(config.output_dir).expanduser()) if config.output_dir else run
    model = trained.model
    for name in ("dtype", "size_px"):
        if (asked := getattr(config.model, name)) not in ("auto", None):
            model = replace(model, **{name: asked})
    return MapSource(
        model=model,
        adapters=own | extra,
        control=place / CONTROL_FOLDER,
        palette=load_palette(place / CONTROL_FOLDER),
        geometry=config.geometry,
        images=output.images,
        run=run,
    )


def _place(run: RunFolder, step: int | None) -> Path:
    """Returns the folder that holds `adapter` and `control`: the run's, or a checkpoint's."""
    known = ", ".join(map(str, run.checkpoint_steps())) or "none yet"
    if step is not None:
        if step not in run.checkpoint_steps():
            raise UserError(f"step={step}: {run.path} has no such checkpoint; it has: {known}")
        return run.checkpoint(step)
    if "finished_step" not in run.read_manifest():
        raise UserError(f"{run.path}: training is not finished; go on with it, or give step=N (checkpoints: {known})")
    return run.path


def _wanted(config: MapGenerateConfig) -> list[MapImage]:
    """Returns every image, map by map; its noise is the map's own."""
    maps = list_maps(Path(str(config.maps)).expanduser())
    if config.captions is not None:
        said = read_captions(Path(config.captions).expanduser(), [file.stem for file in maps])
        prompts = {file: [Prompt(text=said[file.stem], template=said[file.stem], index=0)] for file in maps}
    else:
        prompts = dict.fromkeys(maps, _prompts(config))
    return [
        MapImage(map=file, prompt=prompt, seed=seed_of_map(file.stem, config.seed + number))
        for number in range(config.images_per_prompt)
        for file in maps
        for prompt in prompts[file]
    ]


def _prompts(config: MapGenerateConfig) -> list[Prompt]:
    if config.prompts in (("dreambooth",), ("class",)):
        raise UserError('prompts: say what the maps show, such as prompts="a living room", or give captions=FILE')
    class_word, is_live = class_facts(config.data)
    return list(load_prompts(config.prompts, identifier=config.data.identifier, class_word=class_word, is_live=is_live))
