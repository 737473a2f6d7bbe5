"""Bases are found, checked and loaded; what cannot be used is refused before any weight is read."""

import json
import pickle
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from delora_sd.diffusion.bases import find_base
from delora_sd.diffusion.parts import load_denoiser, load_vae, resolve_dtype
from delora_sd.diffusion.text.clip import encode_prompts, load_text_encoder, load_tokenizer
from delora_sd.errors import UserError
from delora_sd.settings import ModelConfig, TrainingConfig
from make_tiny_sd import write_tiny_sd

CPU = {"device": "cpu", "dtype": torch.float32}


@pytest.fixture
def model_copy(tiny_sd: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_sd, tmp_path / "model"))


def _edit(file: Path, **changes) -> None:
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


def test_facts_are_read_from_the_folder(tiny_sd: Path):
    base = find_base(ModelConfig(base=str(tiny_sd)))
    assert (base.size_px, base.prediction_type, base.version) == (32, "epsilon", "sd1")
    assert base.has_random_weights, "the tiny model is marked random"


def test_parts_are_frozen_and_of_the_asked_dtype(tiny_sd: Path):
    base = find_base(ModelConfig(base=str(tiny_sd)))
    _, text_encoder = load_text_encoder(base, device="cpu", dtype=torch.bfloat16)
    for part in (text_encoder, load_denoiser(base, device="cpu", dtype=torch.bfloat16), load_vae(base, **CPU)):
        assert not part.training and not any(p.requires_grad for p in part.parameters())
    assert text_encoder.dtype == torch.bfloat16


def test_v_prediction_comes_from_the_scheduler(tmp_path: Path):
    base = find_base(ModelConfig(base=str(write_tiny_sd(tmp_path / "v", prediction_type="v_prediction"))))
    assert base.prediction_type == "v_prediction"


def test_sd2_is_told_by_its_unet(model_copy: Path):
    _edit(model_copy / "unet" / "config.json", use_linear_projection=True)
    assert find_base(ModelConfig(base=str(model_copy))).version == "sd2"


def test_unet_on_meta_has_shapes_only(tiny_sd: Path):
    base = find_base(ModelConfig(base=str(tiny_sd)))
    meta = load_denoiser(base, device="meta", dtype=torch.float32)
    real = load_denoiser(base, **CPU)
    assert {n: p.shape for n, p in meta.named_parameters()} == {n: p.shape for n, p in real.named_parameters()}
    assert all(p.is_meta for p in meta.parameters())


def test_fingerprint_follows_weights_and_configs_only(tiny_sd: Path, model_copy: Path):
    original = find_base(ModelConfig(base=str(tiny_sd))).fingerprint
    (model_copy / "README.md").write_text("hello")
    for name in ("unet/._config.json", "scheduler/._scheduler_config.json", "tokenizer/._vocab.json"):
        (model_copy / name).write_bytes(b"\0\5\x16\7")  # what macOS leaves on foreign disks
    assert find_base(ModelConfig(base=str(model_copy))).fingerprint == original
    _edit(model_copy / "scheduler" / "scheduler_config.json", beta_end=0.02)
    assert find_base(ModelConfig(base=str(model_copy))).fingerprint != original


def test_half_precision_files_are_used_when_alone(model_copy: Path):
    file = model_copy / "unet" / "diffusion_pytorch_model.safetensors"
    halves = {name: tensor.half() for name, tensor in load_file(file).items()}
    save_file(halves, file.with_name("diffusion_pytorch_model.fp16.safetensors"))
    file.unlink()
    unet = load_denoiser(find_base(ModelConfig(base=str(model_copy))), **CPU)
    assert unet.dtype == torch.float32
    assert all(torch.equal(value, halves[name].float()) for name, value in unet.state_dict().items())


def test_sd15_architecture_is_exact():
    base = find_base(ModelConfig(base="sd15-architecture"))
    assert base.has_random_weights and (base.size_px, base.version, base.folder) == (512, "sd1", None)
    unet = load_denoiser(base, device="meta", dtype=torch.float32)
    assert sum(p.numel() for p in unet.parameters()) == 859_520_964
    assert sum(name.endswith((".to_q", ".to_k", ".to_v", ".to_out.0")) for name, _ in unet.named_modules()) == 128
    assert sum(p.numel() for p in load_vae(base, device="meta", dtype=torch.float32).parameters()) == 83_653_863
    text_encoder = load_text_encoder(base, device="meta", dtype=torch.float32)[1]
    assert sum(p.numel() for p in text_encoder.parameters()) == 123_060_480
    objective = base.family.objective(base, TrainingConfig(), torch.device("cpu"))
    assert objective.alphas_cumprod[-1] == pytest.approx(0.0047, abs=1e-4)


def test_random_weights_are_the_same_every_time_and_leave_the_callers_stream_alone(tiny_sd: Path):
    base = find_base(ModelConfig(base="sd15-architecture"))
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    first = load_vae(base, **CPU).encoder.conv_in.weight
    assert torch.equal(torch.rand(3), expected)
    assert torch.equal(load_vae(base, **CPU).encoder.conv_in.weight, first)


def test_spelling_tokenizer_spells():
    tokenizer = load_tokenizer(find_base(ModelConfig(base="sd15-architecture")))
    ids = tokenizer("A qwé!").input_ids
    assert ids[0] == 49406 and ids[-1] == 49407 and max(ids[1:-1]) < 512
    assert tokenizer.decode(ids[1:-1]).replace(" ", "") == "aqwé!"
    assert ids[1] == 320, "CLIP's own id of the word `a`"


def test_auto_dtype_on_a_cpu_is_fp32():
    assert resolve_dtype("auto", torch.device("cpu")) == torch.float32
    assert resolve_dtype("bf16", torch.device("cpu")) == torch.bfloat16


def test_size_can_be_chosen(tiny_sd: Path):
    assert find_base(ModelConfig(base=str(tiny_sd), size_px=48)).size_px == 48
    for size_px in (33, 0, -32, 2):
        with pytest.raises(UserError, match=f"size_px={size_px}: expected a multiple of 2, at least 4"):
            find_base(ModelConfig(base=str(tiny_sd), size_px=size_px))


def test_missing_hub_model_says_where_it_looked(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(UserError, match=r"nobody/nothing: no folder.*not in the cache.*offline=true.*base=miniature"):
        find_base(ModelConfig(base="nobody/nothing", offline=True))


def test_hub_gets_only_safe_files(monkeypatch: pytest.MonkeyPatch, tiny_sd: Path):
    asked = {}

    def snapshot_download(name: str, **options) -> str:
        asked.update(options, name=name)
        return str(tiny_sd)

    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot_download)
    base = find_base(ModelConfig(base="some/model", revision="v1"))
    assert base.folder == tiny_sd and base.name == "some/model"
    assert (asked["name"], asked["revision"], asked["local_files_only"]) == ("some/model", "v1", False)
    assert all(pattern.endswith((".safetensors", ".json", ".txt", ".jinja")) for pattern in asked["allow_patterns"])


class _Bomb:
    def __init__(self, file: Path):
        self.file = file

    def __reduce__(self):
        return Path.touch, (self.file,)


def _no_unet(folder: Path) -> None:
    shutil.rmtree(folder / "unet")


def _no_weights(folder: Path) -> None:
    (folder / "vae" / "diffusion_pytorch_model.safetensors").unlink()


def _kandinsky(folder: Path) -> None:
    _edit(folder / "unet" / "config.json", addition_embed_type="text_image")


def _inpainting(folder: Path) -> None:
    _edit(folder / "unet" / "config.json", in_channels=9)


def _sample_prediction(folder: Path) -> None:
    _edit(folder / "scheduler" / "scheduler_config.json", prediction_type="sample")


def _broken_config(folder: Path) -> None:
    (folder / "unet" / "config.json").write_text("{")


REFUSED_AT_THE_DOOR = {
    "no_unet": (_no_unet, r"no unet/ in .*found: .*vae.*expected a diffusers folder"),
    "no_weights": (_no_weights, r"vae: no weights; expected diffusion_pytorch_model\.safetensors"),
    "another_family": (_kandinsky, r"family is not known \(StableDiffusionPipeline\); those known: .*2\.x, SDXL"),
    "inpainting": (_inpainting, "takes 9 channels, the VAE gives 4"),
    "sample_prediction": (_sample_prediction, "prediction_type sample; expected epsilon or v_prediction"),
    "broken_config": (_broken_config, "config.json: not a readable config"),
}


@pytest.mark.parametrize("name", REFUSED_AT_THE_DOOR)
def test_unusable_model_is_refused_at_the_door(name: str, model_copy: Path):
    damage, message = REFUSED_AT_THE_DOOR[name]
    damage(model_copy)
    with pytest.raises(UserError, match=message):
        find_base(ModelConfig(base=str(model_copy)))


@pytest.mark.parametrize("base", ["foo", "../no/such/folder", ""])
def test_what_is_neither_folder_nor_hub_id(base: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match="diffusers folder"):
        find_base(ModelConfig(base=base))


def test_a_checkpoint_that_is_a_pickle_is_refused(tmp_path: Path):
    (tmp_path / "model.ckpt").write_bytes(b"x")
    with pytest.raises(UserError, match=r"model\.ckpt is a pickle, which can run code"):
        find_base(ModelConfig(base=str(tmp_path / "model.ckpt")))


@pytest.mark.parametrize("part", ["unet", "vae", "text_encoder"])
def test_pickled_weights_are_never_opened(part: str, model_copy: Path, tmp_path: Path):
    weights = next((model_copy / part).glob("*.safetensors"))
    weights.unlink()
    weights.with_suffix(".bin").write_bytes(pickle.dumps(_Bomb(tmp_path / "ran")))
    with pytest.raises(UserError, match="only pickled weights"):
        find_base(ModelConfig(base=str(model_copy)))
    assert not (tmp_path / "ran").exists()


def _change_weights(folder: Path, part: str, change) -> None:
    file = next((folder / part).glob("*.safetensors"))
    tensors = load_file(file)
    change(tensors)
    save_file(tensors, file, metadata={"format": "pt"})


def _nan(tensors: dict) -> None:
    next(iter(tensors.values())).view(-1)[0] = torch.nan


def _missing(tensors: dict) -> None:
    tensors.pop(sorted(tensors)[0])


def _wrong_shape(tensors: dict) -> None:
    name = sorted(tensors)[-1]
    tensors[name] = torch.zeros(3, 5)


@pytest.mark.parametrize(
    ("part", "load"), [("unet", load_denoiser), ("vae", load_vae), ("text_encoder", load_text_encoder)]
)
@pytest.mark.parametrize(
    ("change", "message"), [(_nan, "holds NaN or infinity"), (_missing, "weights lack"), (_wrong_shape, "size|shape")]
)
def test_broken_weights_are_refused(part: str, load, change, message: str, model_copy: Path):
    _change_weights(model_copy, part, change)
    with pytest.raises(UserError, match=message) as caught:
        load(find_base(ModelConfig(base=str(model_copy))), **CPU)
    assert part in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "content", [b"", b"\xff" * 64, (2**40).to_bytes(8, "little") + b"{}", b"\x08" + b"\0" * 7 + b"notjson!"]
)
@pytest.mark.parametrize(("part", "load"), [("unet", load_denoiser), ("text_encoder", load_text_encoder)])
def test_safetensors_with_a_lying_header_are_refused(content: bytes, part: str, load, model_copy: Path):
    next((model_copy / part).glob("*.safetensors")).write_bytes(content)
    with pytest.raises(UserError, match=f"{part} cannot be loaded"):
        load(find_base(ModelConfig(base=str(model_copy))), **CPU)


TOKENIZER_FILES = {
    "no length": lambda config: {key: value for key, value in config.items() if key != "model_max_length"},
    "transformers' number for none": lambda config: config | {"model_max_length": 10**30},
    "too long": lambda config: config | {"model_max_length": 512},
    "no tokenizer_config at all": lambda config: None,
}


@pytest.mark.parametrize("change", TOKENIZER_FILES.values(), ids=TOKENIZER_FILES)
def test_prompts_are_as_long_as_the_text_encoder_reads_whatever_the_tokenizer_says(change, model_copy: Path):
    file = model_copy / "tokenizer" / "tokenizer_config.json"
    config = change(json.loads(file.read_text()))
    file.unlink()
    if config is not None:
        file.write_text(json.dumps(config))
    tokenizer, encoder = load_text_encoder(find_base(ModelConfig(base=str(model_copy))), **CPU)
    assert tokenizer.model_max_length == 77
    assert encode_prompts(["a dog"], tokenizer, encoder).shape == (1, 77, 24)


def test_a_tokenizer_of_one_file_reads_the_same(model_copy: Path):
    base = find_base(ModelConfig(base=str(model_copy)))
    expected = load_tokenizer(base)(["a photo of qwe dog", "é!"]).input_ids
    load_tokenizer(base).save_pretrained(model_copy / "tokenizer")
    assert (model_copy / "tokenizer" / "tokenizer.json").is_file()
    for name in ("vocab.json", "merges.txt"):
        (model_copy / "tokenizer" / name).unlink(missing_ok=True)
    tokenizer = load_tokenizer(find_base(ModelConfig(base=str(model_copy))))
    assert tokenizer(["a photo of qwe dog", "é!"]).input_ids == expected


def test_a_tokenizer_without_words_is_refused(model_copy: Path):
    (model_copy / "tokenizer" / "merges.txt").unlink()
    with pytest.raises(
        UserError, match=r"no words of a tokenizer; expected tokenizer\.json, or vocab\.json and merges"
    ):
        find_base(ModelConfig(base=str(model_copy)))


def test_text_encoder_without_a_sensible_number_of_positions_is_refused(model_copy: Path):
    _edit(model_copy / "text_encoder" / "config.json", max_position_embeddings="many")
    with pytest.raises(UserError, match="max_position_embeddings 'many'"):
        find_base(ModelConfig(base=str(model_copy)))


def _load_text_encoder(*arguments, **options):
    return load_text_encoder(*arguments, **options)[1]


@pytest.mark.parametrize("variant", [None, "fp16"])
@pytest.mark.parametrize(
    ("part", "load"),
    [("unet", load_denoiser), ("vae", load_vae), ("text_encoder", _load_text_encoder)],
)
def test_sharded_weights_are_loaded_and_hashed_in_either_precision(variant, part: str, load, model_copy: Path):
    base = find_base(ModelConfig(base=str(model_copy)))
    whole = load(base, **CPU)
    for file in (model_copy / part).glob("*.safetensors"):
        file.unlink()
    whole.save_pretrained(model_copy / part, variant=variant, max_shard_size="40KB")
    shards = sorted((model_copy / part).glob("*-0*.safetensors"))
    assert len(shards) > 1
    sharded = find_base(ModelConfig(base=str(model_copy)))
    again = load(sharded, **CPU)
    assert all(torch.equal(a, b) for a, b in zip(whole.parameters(), again.parameters(), strict=True))
    tensors = load_file(shards[-1])
    save_file({name: tensor + 1 for name, tensor in tensors.items()}, shards[-1], metadata={"format": "pt"})
    assert find_base(ModelConfig(base=str(model_copy))).fingerprint != sharded.fingerprint


def test_index_of_fp16_shards_that_leads_elsewhere_is_refused(model_copy: Path):
    index = {"metadata": {}, "weight_map": {"conv_in.weight": "../../secret.safetensors"}}
    (model_copy / "unet" / "diffusion_pytorch_model.safetensors.index.fp16.json").write_text(json.dumps(index))
    with pytest.raises(UserError, match=r"index\.fp16\.json: names '\.\./\.\./secret"):
        find_base(ModelConfig(base=str(model_copy)))


def test_distilled_and_variance_learning_unets_are_refused(model_copy: Path):
    file = model_copy / "unet" / "config.json"
    _edit(file, time_cond_proj_dim=256)
    with pytest.raises(UserError, match="takes the guidance scale as an input"):
        find_base(ModelConfig(base=str(model_copy)))
    _edit(file, time_cond_proj_dim=None, out_channels=8)
    with pytest.raises(UserError, match="gives 8 channels for 4"):
        find_base(ModelConfig(base=str(model_copy)))


def test_configs_with_a_mark_are_read(model_copy: Path):
    file = model_copy / "scheduler" / "scheduler_config.json"
    file.write_bytes(file.read_text().encode("utf-8-sig"))
    assert find_base(ModelConfig(base=str(model_copy))).prediction_type == "epsilon"
