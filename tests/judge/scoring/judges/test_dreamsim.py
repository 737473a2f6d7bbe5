"""DreamSim through the converter equals the dreamsim package on the same checkpoints, at a size for tests."""

import json
import shutil
from dataclasses import replace
from functools import partial

import pytest
import torch
from odd_photos import write_odd_photos
from torch import nn

import convert_dreamsim
from delora_eval.scoring.judges.answers import subject_similarity
from delora_eval.scoring.judges.embedding import Judge
from delora_eval.scoring.judges.networks.weights import ENCODERS, Weights
from delora_eval.settings import EncoderConfig
from delora_sd.data.photos import open_photo
from delora_sd.errors import UserError

TINY = {"embed_dim": 48, "depth": 12, "num_heads": 1}
"""dreamsim reads block 11 by number, so the depth stays."""
PROJECTED = 20


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    """(checkpoints as DreamSim publishes them, random; DINO's backbone; dreamsim's own model with its LoRA)."""
    pytest.importorskip("dreamsim", reason="NO DREAMSIM PACKAGE: our DreamSim is not compared with it")
    with pytest.MonkeyPatch.context() as patch, torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        yield _publish(tmp_path_factory.mktemp("dreamsim"), patch)


def _publish(folder, patch):
    from dreamsim import model as package
    from dreamsim.feature_extraction import load_clip_as_dino, load_open_clip_as_dino, vision_transformer
    from peft import LoraConfig, get_peft_model, get_peft_model_state_dict

    norm = partial(nn.LayerNorm, eps=1e-6)

    def tiny_vit(patch_size=16):
        return vision_transformer.VisionTransformer(patch_size=patch_size, qkv_bias=True, norm_layer=norm, **TINY)

    for module in (load_clip_as_dino, load_open_clip_as_dino):
        patch.setattr(module, "vit_base", tiny_vit)
    dino = _randomised(tiny_vit())
    patch.setattr(package.ViTExtractor, "create_model", staticmethod(partial(_create_model, dino=dino)))
    torch.save(dino.state_dict(), folder / "dino_vitbase16_pretrain.pth")
    for name in ("clip", "open_clip"):
        vit = tiny_vit()
        vit.pos_drop = nn.LayerNorm(TINY["embed_dim"])
        state = _randomised(vit).state_dict() | {"proj": torch.randn(TINY["embed_dim"], PROJECTED)}
        torch.save({"state_dict": state}, folder / f"{name}_vitb16_pretrain.pth.tar")
    theirs = package.PerceptualModel(
        model_type="dino_vitb16,clip_vitb16,open_clip_vitb16",
        feat_type="cls,embedding,embedding",
        stride="16,16,16",
        lora=True,
        load_dir=str(folder),
        normalize_embeds=True,
        device="cpu",
    )
    settings = {"r": 4, "lora_alpha": 2, "lora_dropout": 0.0, "bias": "none", "target_modules": ["qkv"]}
    theirs = get_peft_model(theirs, LoraConfig(**settings))
    for name, parameter in theirs.named_parameters():
        if "lora_" in name:
            nn.init.normal_(parameter, std=0.3)
    (folder / "ensemble_lora").mkdir()
    (folder / "ensemble_lora" / "adapter_config.json").write_text(json.dumps(settings))
    torch.save(get_peft_model_state_dict(theirs), folder / "ensemble_lora" / "adapter_model.bin")
    return folder, folder / "dino_vitbase16_pretrain.pth", theirs.eval()


def _create_model(model_type, load_dir, *, dino):
    from dreamsim.feature_extraction.load_clip_as_dino import load_clip_as_dino
    from dreamsim.feature_extraction.load_open_clip_as_dino import load_open_clip_as_dino

    if model_type == "dino_vitb16":
        return dino, None
    load = load_open_clip_as_dino if model_type.startswith("open_clip") else load_clip_as_dino
    return load(16, load_dir)


def _randomised(model):
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.1)
    return model.eval()


def judge_with(file) -> Judge:
    judge = Judge(config=EncoderConfig(device="cpu", batch_size=3))
    spec = replace(ENCODERS["dreamsim/ensemble"], sizes={"sizes": TINY, "projected": PROJECTED})
    judge.weights[spec.id] = Weights(spec=spec, file=file, hash="0123456789abcdef")
    return judge


@pytest.mark.filterwarnings("ignore")  # the package's own deprecations
def test_similarity_is_one_minus_the_packages_distance(published, tmp_path):
    from torchvision import transforms

    checkpoints, dino, theirs = published
    file = tmp_path / "dreamsim-ensemble.safetensors"
    convert_dreamsim.convert(checkpoints, dino, file)
    photos = write_odd_photos(tmp_path / "photos")
    resize = transforms.Resize((224, 224), interpolation=transforms.InterpolationMode.BICUBIC)
    seen = [transforms.ToTensor()(resize(open_photo(photo)))[None] for photo in photos]
    with torch.inference_mode():
        distances = torch.stack([torch.cat([theirs(a, b) for b in seen]) for a in seen])
    ours = subject_similarity(judge_with(file), "dreamsim/ensemble", photos, photos)
    torch.testing.assert_close(1 - ours.float(), distances, atol=1e-5, rtol=0)
    assert distances.max() > 0.001, "images that nobody tells apart prove nothing"


def test_a_checkpoint_that_is_incomplete_or_of_another_kind_is_refused_and_nothing_is_written(published, tmp_path):
    checkpoints, dino, _ = published
    output = tmp_path / "out.safetensors"
    with pytest.raises(UserError, match="no such file; see --help"):
        convert_dreamsim.convert(checkpoints, tmp_path / "none.pth", output)
    copy = tmp_path / "copy"
    shutil.copytree(checkpoints, copy)
    (copy / "ensemble_lora" / "adapter_config.json").write_text(json.dumps({"r": 4, "lora_alpha": 2, "bias": "all"}))
    with pytest.raises(UserError, match="not a plain LoRA"):
        convert_dreamsim.convert(copy, dino, output)
    state = torch.load(dino, weights_only=True)
    state.pop("blocks.3.attn.qkv.weight")
    torch.save(state, copy / "dino.pth")
    with pytest.raises(UserError, match=r"the LoRA changes blocks\.3\.attn\.qkv\.weight"):
        convert_dreamsim.convert(checkpoints, copy / "dino.pth", output)
    assert not output.exists()
