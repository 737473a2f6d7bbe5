"""Every judge of the family sees what its authors' code sees and is the architecture they published."""

from pathlib import Path

import pytest
import torch
from odd_photos import write_odd_photos
from safetensors.torch import save_file

from delora_eval.scoring.judges.family import FAMILY, JUDGE_OF, SETS, judge_names
from delora_eval.scoring.judges.networks.encoders import load_encoder, read_texts, see_images
from delora_eval.scoring.judges.networks.preprocessing import prepare
from delora_eval.scoring.judges.networks.vision import build_vit, resize_positions
from delora_eval.scoring.judges.networks.weights import ENCODERS, Weights, find_weights
from delora_eval.scoring.measures.metrics import SCORES
from delora_eval.settings import EncoderConfig
from delora_sd.data.photos import open_photo
from delora_sd.errors import UserError

CPU = torch.device("cpu")
TINY_VIT = {"embed_dim": 48, "depth": 2, "num_heads": 3}


@pytest.fixture(scope="module")
def odd_photos(tmp_path_factory) -> list[Path]:
    return write_odd_photos(tmp_path_factory.mktemp("odd"))


def timm_transform(architecture: str):
    import timm

    config = timm.data.resolve_data_config(timm.get_pretrained_cfg(architecture).to_dict())
    return timm.data.create_transform(**config, is_training=False)


def torchvision_transform(resize: int, crop: int, *, mean, std):
    from torchvision import transforms

    steps = [transforms.Resize(resize, interpolation=transforms.InterpolationMode.BICUBIC)]
    steps += [transforms.CenterCrop(crop), transforms.ToTensor(), transforms.Normalize(mean, std)]
    return transforms.Compose(steps)


def open_clip_transform(architecture: str, tag: str):
    import open_clip
    from open_clip.transform import PreprocessCfg, image_transform_v2

    published = open_clip.get_pretrained_cfg(architecture, tag)
    size = open_clip.get_model_config(architecture)["vision_cfg"]["image_size"]
    named = {key: published[key] for key in ("mean", "std", "interpolation", "resize_mode") if published.get(key)}
    return image_transform_v2(PreprocessCfg(size=size, **named), is_train=False)


def dreamsim_transform():
    """The one that `dreamsim.dreamsim()` returns beside the model."""
    from torchvision import transforms

    args = pytest.importorskip("dreamsim.config", reason="NO DREAMSIM PACKAGE").dreamsim_args
    size = (args["img_size"], args["img_size"])
    resize = transforms.Resize(size, interpolation=transforms.InterpolationMode.BICUBIC)
    return transforms.Compose([resize, transforms.ToTensor()])


def imagenet_256_to_224():
    """facebookresearch/dino eval_knn.py and dinov2 make_classification_eval_transform."""
    return torchvision_transform(256, 224, mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))


PUBLISHED = {
    "dino/vit-s-16": imagenet_256_to_224,
    "dino/vit-b-16": imagenet_256_to_224,
    "dinov2/vit-b-14": imagenet_256_to_224,
    "dinov2/vit-l-14": imagenet_256_to_224,
    "dinov3/vit-b-16": lambda: timm_transform("vit_base_patch16_dinov3.lvd1689m"),
    "dinov3/vit-l-16": lambda: timm_transform("vit_large_patch16_dinov3.lvd1689m"),
    "clip/vit-b-32": lambda: open_clip_transform("ViT-B-32-quickgelu", "openai"),
    "clip/vit-l-14": lambda: open_clip_transform("ViT-L-14-quickgelu", "openai"),
    "siglip2/so400m-14": lambda: open_clip_transform("ViT-SO400M-14-SigLIP2", "webli"),
    "dreamsim/ensemble": dreamsim_transform,
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_judge_sees_odd_photos_as_its_authors_code_does(name, odd_photos):
    theirs = PUBLISHED[name]()
    for file in odd_photos:
        photo = open_photo(file)
        ours = torch.from_numpy(prepare(photo, FAMILY[name].preprocessing))
        torch.testing.assert_close(ours, theirs(photo), atol=1e-5, rtol=0, msg=f"{name} differs on {file.name}")


def test_every_judge_of_vectors_is_compared_with_its_authors_code():
    vectors = {name for name, judge in FAMILY.items() if judge.kind == "vectors" and not name.startswith("mini-")}
    assert vectors == set(PUBLISHED)


@pytest.mark.parametrize(
    ("name", "parameters", "width"),
    [
        ("dino/vit-b-16", 85_798_656, 768),
        ("dinov2/vit-b-14", 85_724_928, 768),
        ("dinov2/vit-l-14", 303_227_904, 1024),
        ("dinov3/vit-b-16", 85_641_216, 768),
        ("dinov3/vit-l-16", 303_079_424, 1024),
    ],
)
def test_a_vision_judge_is_the_published_architecture_and_returns_one_token(name, parameters, width):
    spec, side = ENCODERS[name], FAMILY[name].preprocessing.crop_px
    with torch.device("meta"):
        model = build_vit(spec.architecture, spec.sizes)
        assert model(torch.empty(1, 3, side, side)).shape == (1, width)
    assert sum(parameter.numel() for parameter in model.parameters()) == parameters


@pytest.mark.parametrize("name", ["dinov2/vit-b-14", "dinov3/vit-b-16"])
def test_a_vision_judge_answers_with_the_cls_token_after_the_final_norm(name):
    model = build_vit(ENCODERS[name].architecture, ENCODERS[name].sizes | TINY_VIT).eval()
    side = FAMILY[name].preprocessing.crop_px
    with torch.inference_mode():
        images = torch.randn(2, 3, side, side)
        torch.testing.assert_close(model(images), model.forward_features(images)[:, 0])


def test_dinov2s_position_table_is_resized_as_transformers_does():
    """Published at 518 px (37 x 37 patches), used at 224 px (16 x 16)."""
    from transformers import Dinov2Config
    from transformers.models.dinov2.modeling_dinov2 import Dinov2Embeddings

    theirs = Dinov2Embeddings(Dinov2Config(hidden_size=12, num_attention_heads=3, image_size=518, patch_size=14))
    table = theirs.position_embeddings.data.normal_()
    expected = theirs.interpolate_pos_encoding(torch.empty(1, 257, 12), 224, 224)
    torch.testing.assert_close(resize_positions(table, grid=16), expected, atol=1e-5, rtol=0)


def test_dinov2_weights_published_at_518_px_load_at_224(tmp_path):
    published = build_vit(ENCODERS["dinov2/vit-b-14"].architecture, TINY_VIT)
    assert published.pos_embed.shape[1] == 1 + 37 * 37
    file = tmp_path / "dinov2-vit-b-14.safetensors"
    save_file(published.state_dict(), file)
    encoder = load_encoder(tiny_weights("dinov2/vit-b-14", TINY_VIT, file=file), CPU)
    expected = resize_positions(published.pos_embed.data, grid=16)
    torch.testing.assert_close(encoder.see.pos_embed.data, expected)
    torch.testing.assert_close(encoder.see.blocks[1].mlp.fc1.weight, published.blocks[1].mlp.fc1.weight)


def test_siglip_2_reads_images_and_texts_into_one_space():
    weights = tiny_weights("siglip2/so400m-14", TINY_SIGLIP2)
    encoder = load_encoder(weights, CPU)
    images = see_images(encoder, torch.randn(2, 3, 224, 224))
    texts = read_texts(encoder, ["a dog in the snow", "A DOG in the snow!", "a cat"])
    assert images.shape == (2, 192) and texts.shape == (3, 192)
    assert not torch.allclose(texts[0], texts[2])


def test_siglip_2_is_the_published_architecture():
    from delora_eval.scoring.judges.networks.contrastive import build_contrastive

    with torch.device("meta"):
        model, see, _ = build_contrastive(ENCODERS["siglip2/so400m-14"].architecture, {}, tokenizer=None)
        assert see(torch.empty(1, 3, 224, 224)).shape == (1, 1152)
    assert sum(parameter.numel() for parameter in model.parameters()) == 1_135_463_602


def test_sets_and_single_judges_are_written_out_once():
    assert judge_names(["classic"]) == ("classic",)
    assert judge_names(["all"]) == ("classic", *SETS["wide"])
    rest = [name for name in SETS["wide"] if name != "dreamsim/ensemble"]
    assert judge_names(["dreamsim/ensemble", "wide", "classic"]) == ("dreamsim/ensemble", *rest, "classic")
    with pytest.raises(UserError, match="did you mean 'dinov2/vit-b-14'"):
        judge_names(["dinov2/vitb14"])
    with pytest.raises(UserError, match="is empty"):
        judge_names([])


def test_every_score_of_the_family_is_known_to_readers_and_belongs_to_one_judge():
    names = [score.name for judge in FAMILY.values() for score in judge.scores]
    assert len(names) == len(set(names))
    for name in names:
        assert SCORES[name].encoder == "judge" and JUDGE_OF[name] in FAMILY
    assert {judge.encoder for judge in FAMILY.values()} <= set(ENCODERS)


def test_a_gated_judge_says_which_page_what_to_download_and_where_to_put_it(tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.try_to_load_from_cache", lambda *_: None)
    with pytest.raises(UserError) as caught:
        find_weights("siglip2/so400m-16-naflex", EncoderConfig(offline=True, weights_dir=str(tmp_path)))
    message = str(caught.value)
    for part in (
        "https://huggingface.co/google/siglip2-so400m-patch16-naflex",
        "hf auth login",
        "model.safetensors, tokenizer.json, tokenizer_config.json",
        "siglip2-so400m-16-naflex.safetensors",
        str(tmp_path),
    ):
        assert part in message
    assert "\n" not in message


def test_a_judge_whose_weights_are_pickles_only_says_how_to_convert_them(tmp_path):
    with pytest.raises(UserError, match=r"scripts/prepare/convert_dreamsim\.py"):
        find_weights("dreamsim/ensemble", EncoderConfig(offline=True, weights_dir=str(tmp_path)))


def test_weights_without_their_tokenizer_are_refused_at_the_door(tmp_path):
    save_file({"a": torch.zeros(1)}, tmp_path / "siglip2-so400m-14.safetensors")
    config = EncoderConfig(offline=True, weights_dir=str(tmp_path))
    with pytest.raises(UserError, match=r"no tokenizer for encoder 'siglip2/so400m-14': need tokenizer\.json"):
        find_weights("siglip2/so400m-14", config)
    (tmp_path / "siglip2-so400m-14").mkdir()
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (tmp_path / "siglip2-so400m-14" / name).write_text("{}")
    assert find_weights("siglip2/so400m-14", config).tokenizer == tmp_path / "siglip2-so400m-14"


TINY_SIGLIP2 = {
    "embed_dim": 192,
    "vision_cfg": {
        "image_size": 224,
        "timm_model_name": "vit_tiny_patch16_224",
        "timm_pool": "map",
        "timm_proj": "none",
    },
    "text_cfg": {
        "context_length": 64,
        "vocab_size": 500,
        "hf_tokenizer_name": "a-folder",
        "tokenizer_kwargs": {"clean": "canonicalize"},
        "width": 32,
        "heads": 2,
        "layers": 1,
        "no_causal_mask": True,
        "proj_bias": True,
        "pool_type": "last",
    },
}


def tiny_weights(name: str, sizes: dict, file: Path | None = None) -> Weights:
    """The judge's own architecture, only smaller."""
    from dataclasses import replace

    spec = replace(ENCODERS[name], sizes=ENCODERS[name].sizes | sizes)
    return Weights(spec=spec, file=file, hash="random" if file is None else "0123456789abcdef")
