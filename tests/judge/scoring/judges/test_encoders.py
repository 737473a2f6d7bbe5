"""Real architectures with random weights, and what happens when weights are missing or wrong."""

import pickle

import pytest
import torch
from safetensors.torch import save_file

from delora_eval.scoring.judges.networks.contrastive import warn_if_cut
from delora_eval.scoring.judges.networks.encoders import load_encoder, read_texts, see_images
from delora_eval.scoring.judges.networks.vision import build_vit
from delora_eval.scoring.judges.networks.weights import ENCODERS, find_weights
from delora_eval.settings import EncoderConfig
from delora_sd.errors import UserError

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def dino_file(tmp_path_factory):
    """The real architecture's tensors, saved as they would be published."""
    model = build_vit(ENCODERS["dino/vit-s-16"].architecture, {})
    file = tmp_path_factory.mktemp("weights") / "dino-vit-s-16.safetensors"
    save_file(model.state_dict(), file)
    return file


def offline(**settings) -> EncoderConfig:
    return EncoderConfig(offline=True, **settings)


def test_dino_gives_the_cls_token_after_the_final_norm(dino_file):
    encoder = load_encoder(find_weights("dino/vit-s-16", offline(weights_dir=str(dino_file.parent))), CPU)
    images = torch.randn(2, 3, 224, 224)
    vectors = see_images(encoder, images)
    with torch.inference_mode():
        tokens = encoder.see.forward_features(images)
    assert vectors.shape == (2, 384)
    torch.testing.assert_close(vectors, torch.nn.functional.normalize(tokens[:, 0], dim=1))


def test_clip_reads_images_and_texts_into_one_space():
    encoder = load_encoder(find_weights("clip/vit-b-32", EncoderConfig(random_weights=True)), CPU)
    images = see_images(encoder, torch.randn(2, 3, 224, 224))
    texts = read_texts(encoder, ["a dog in the snow", "a dog in the jungle", "a cat"])
    assert images.shape == (2, 512) and texts.shape == (3, 512)
    torch.testing.assert_close(torch.cat([images, texts]).norm(dim=1), torch.ones(5))
    assert encoder.see.__self__.visual.transformer.resblocks[0].mlp[1].__class__.__name__ == "QuickGELU"


def test_large_clip_is_the_published_architecture():
    import open_clip

    with torch.device("meta"):
        model = open_clip.CLIP(**open_clip.get_model_config(ENCODERS["clip/vit-l-14"].architecture))
        assert model.encode_image(torch.empty(1, 3, 224, 224)).shape == (1, 768)
    assert sum(parameter.numel() for parameter in model.parameters()) == 427_616_513


def test_random_weights_are_stamped_repeat_and_leave_the_global_generator_alone():
    weights = find_weights("dino/vit-s-16", EncoderConfig(random_weights=True))
    assert weights.is_random and weights.hash == "random"
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    encoders = [load_encoder(weights, CPU), load_encoder(weights, CPU)]
    assert torch.equal(torch.rand(1), expected)
    image = torch.ones(1, 3, 224, 224)
    assert torch.equal(*(see_images(encoder, image) for encoder in encoders))


def test_weights_carry_the_hash_of_their_file(dino_file):
    named = find_weights("dino/vit-s-16", offline(weights={"dino/vit-s-16": str(dino_file)}))
    found = find_weights("dino/vit-s-16", offline(weights_dir=str(dino_file.parent)))
    assert named.hash == found.hash and len(named.hash) == 16 and not named.is_random


def test_missing_weights_say_what_is_needed_where_it_looked_and_what_to_do(tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.try_to_load_from_cache", lambda *_: None)
    with pytest.raises(UserError) as caught:
        find_weights("clip/vit-l-14", offline(weights_dir=str(tmp_path)))
    message = str(caught.value)
    for part in ("open_clip_model.safetensors", "timm/vit_large_patch14_clip_224.openai", str(tmp_path)):
        assert part in message
    assert "encoders.weights_dir" in message and "random_weights=true" in message and "\n" not in message


def test_the_hub_is_asked_for_the_safetensors_only_and_its_failure_is_one_line(dino_file, monkeypatch):
    asked = []

    def download(repository, file):
        asked.append((repository, file))
        if repository.endswith("dino"):
            return str(dino_file)
        raise ConnectionError("no route\nto host")

    monkeypatch.setattr("huggingface_hub.try_to_load_from_cache", lambda *_: None)
    monkeypatch.setattr("huggingface_hub.hf_hub_download", download)
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    assert find_weights("dino/vit-s-16", EncoderConfig()).file == dino_file
    with pytest.raises(UserError, match=r"the hub \(ConnectionError\)") as caught:
        find_weights("clip/vit-b-32", EncoderConfig())
    assert "\n" not in str(caught.value)
    assert [file for _, file in asked] == ["model.safetensors", "open_clip_model.safetensors"]


@pytest.mark.parametrize("suffix", [".pt", ".bin", ".pth"])
def test_pickles_are_refused_unread(tmp_path, suffix):
    file = tmp_path / f"dino{suffix}"
    file.write_bytes(pickle.dumps({"a": 1}))
    with pytest.raises(UserError, match=r"expected \.safetensors"):
        find_weights("dino/vit-s-16", offline(weights={"dino/vit-s-16": str(file)}))
    with pytest.raises(UserError, match="pickles"):
        find_weights("dino/vit-s-16", offline(weights={"dino/vit-s-16": str(tmp_path)}))


def test_a_pickle_named_safetensors_is_refused(tmp_path):
    file = tmp_path / "dino-vit-s-16.safetensors"
    file.write_bytes(pickle.dumps({"a": 1}))
    with pytest.raises(UserError, match="is a pickle"):
        load_encoder(find_weights("dino/vit-s-16", offline(weights_dir=str(tmp_path))), CPU)


def test_weights_of_another_model_are_refused(tmp_path):
    file = tmp_path / "dino-vit-s-16.safetensors"
    save_file({"embeddings.weight": torch.zeros(2)}, file)
    with pytest.raises(UserError, match=r"not the weights of .*unknown embeddings\.weight"):
        load_encoder(find_weights("dino/vit-s-16", offline(weights_dir=str(tmp_path))), CPU)


def test_the_miniatures_judges_are_read_from_where_the_maker_bundles_them(tmp_path, monkeypatch):
    """Untrained judges in the maker's own layout: the wiring, not the weights."""
    from delora_sd.miniature import judges

    folders = {"mini-dino": tmp_path / "mini_dino", "mini-clip": tmp_path / "mini_clip"}
    monkeypatch.setattr("delora_sd.miniature.JUDGES", folders)
    with pytest.raises(UserError, match="'mini-dino' is not in this installation"):
        find_weights("mini-dino", EncoderConfig())
    clip_config = judges.clip_config()
    judges.save_judge(judges.new_mini_dino(judges.DINO_CONFIG), judges.DINO_CONFIG, folders["mini-dino"])
    judges.save_judge(judges.new_mini_clip(clip_config), clip_config, folders["mini-clip"])
    dino, clip = (load_encoder(find_weights(name, EncoderConfig()), CPU) for name in folders)
    assert dino.preprocessing.crop_px == clip.preprocessing.crop_px == 64
    assert dino.preprocessing.mean == (0.5, 0.5, 0.5)
    image = torch.randn(2, 3, 64, 64)
    assert see_images(dino, image).shape == (2, 128)
    assert see_images(clip, image).shape == read_texts(clip, ["a dog in the snow", "a cat"]).shape
    assert find_weights("mini-dino", EncoderConfig()).hash != find_weights("mini-clip", EncoderConfig()).hash


def test_unknown_encoder_names_the_nearest():
    with pytest.raises(UserError, match="did you mean 'clip/vit-b-32'"):
        find_weights("clip/vit-b32", EncoderConfig())


@pytest.mark.parametrize("num_words", [76, 200])
def test_a_prompt_the_judge_cannot_read_whole_is_warned_of(num_words: int):
    with pytest.warns(UserWarning, match=rf"has {num_words} tokens, clip/x reads 75"):
        warn_if_cut(["a dog", "dog " * num_words], str.split, 77, "clip/x")


def test_a_prompt_that_fits_is_not_warned_of():
    warn_if_cut(["dog " * 75, ""], str.split, 77, "clip/x")
