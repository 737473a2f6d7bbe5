"""Images become exactly what the published evaluators fed their encoders."""

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision import transforms
from torchvision.transforms import InterpolationMode
from transformers.image_transforms import center_crop

from delora_eval.scoring.judges.networks.preprocessing import is_black, list_images, prepare
from delora_eval.scoring.judges.protocols import CLIP, CROP, HUB_CLIP, PROTOCOLS, SQUASH


@pytest.fixture(params=[(301, 400), (512, 512), (640, 333)])
def image(request) -> Image.Image:
    width, height = request.param
    pixels = np.random.default_rng(0).integers(0, 256, (height // 8 + 1, width // 8 + 1, 3), dtype=np.uint8)
    return Image.fromarray(pixels).resize((width, height))


def expected(image, size, crop, resample, mean, std) -> torch.Tensor:
    steps = [transforms.Resize(size, interpolation=resample), transforms.CenterCrop(crop)]
    steps += [transforms.ToTensor(), transforms.Normalize(mean, std)]
    return transforms.Compose(steps)(image)


def test_crop_is_the_official_dino_transform(image):
    ours = torch.from_numpy(prepare(image, CROP))
    mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    torch.testing.assert_close(ours, expected(image, 256, 224, InterpolationMode.BICUBIC, mean, std))


def test_clip_is_the_openai_transform(image):
    ours = torch.from_numpy(prepare(image, CLIP))
    theirs = expected(image, 224, 224, InterpolationMode.BICUBIC, CLIP.mean, CLIP.std)
    torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize(
    "size", [(224, 227), (227, 224), (301, 400), (400, 301), (333, 640), (225, 300), (224, 224), (40, 61)]
)
def test_clip_under_oft_crops_as_the_hubs_processor_does(size):
    """transformers' own crop of the same resized image; a rest of 3 is where torchvision's rule differs."""
    pixels = np.random.default_rng(1).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    image = Image.fromarray(pixels)
    scale = 224 / min(size)
    resized = image.resize(tuple(int(side * scale) for side in size), Image.Resampling.BICUBIC)
    theirs = center_crop(np.asarray(resized, np.float32) / 255, (224, 224), input_data_format="channels_last")
    theirs = (theirs - np.float32(HUB_CLIP.mean)) / np.float32(HUB_CLIP.std)
    np.testing.assert_allclose(prepare(image, HUB_CLIP), theirs.transpose(2, 0, 1), rtol=0, atol=1e-6)
    assert PROTOCOLS["oft"].clip.preprocessing == HUB_CLIP and PROTOCOLS["dreambooth"].clip.preprocessing == CLIP


def test_squash_is_the_hub_processor_of_oft(image):
    """ViTFeatureExtractor of facebook/dino-vits16: both sides to 224, bilinear, 0.5 statistics."""
    ours = torch.from_numpy(prepare(image, SQUASH))
    theirs = expected(image, (224, 224), 224, InterpolationMode.BILINEAR, (0.5,) * 3, (0.5,) * 3)
    torch.testing.assert_close(ours, theirs)


def test_only_an_image_without_any_light_is_black():
    dark = Image.new("RGB", (8, 8))
    assert is_black(dark)
    dark.putpixel((3, 3), (0, 1, 0))
    assert not is_black(dark)


def test_images_are_listed_by_name_and_nothing_else_is(tmp_path):
    for name in ("b.png", "a.JPG", "notes.txt"):
        (tmp_path / name).write_bytes(b"")
    assert [path.name for path in list_images(tmp_path)] == ["a.JPG", "b.png"]
