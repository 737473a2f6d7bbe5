"""An image-to-text model of transformers: a photo in, a sentence out. Knows no subject."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from PIL import Image

from delora_sd.errors import UserError
from delora_sd.files.hub import find_model_folder

if TYPE_CHECKING:
    from transformers import PreTrainedModel

MAX_NEW_TOKENS = 40
"""A sentence; captioners that go on begin to invent."""

_QUESTION = "Describe this photo in one short sentence: what is to be seen, where it is, and what it does."


@dataclass(frozen=True, kw_only=True)
class Captioner:
    model: "PreTrainedModel"
    processor: Any

    def describe(self, photo: Image.Image) -> str:
        """Returns a sentence about the photo; the same photo always gives the same."""
        import torch

        inputs = self._inputs(photo).to(self.model.device)
        with torch.no_grad():
            tokens = self.model.generate(**inputs, max_new_tokens=MAX_NEW_TOKENS, do_sample=False, num_beams=1)
        prompt_length = inputs["input_ids"].shape[1] if self._is_asked else 0
        return self.processor.batch_decode(tokens[:, prompt_length:], skip_special_tokens=True)[0].strip()

    @property
    def _is_asked(self) -> bool:
        """Models that follow instructions bring a chat template; captioners need no words."""
        return bool(getattr(self.processor, "chat_template", None))

    def _inputs(self, photo: Image.Image) -> Any:
        if not self._is_asked:
            return self.processor(images=photo, return_tensors="pt")
        content = [{"type": "image", "image": photo}, {"type": "text", "text": _QUESTION}]
        return self.processor.apply_chat_template(
            [{"role": "user", "content": content}],
            add_generation_prompt=True,
            tokenize=True,
            return_dict=True,
            return_tensors="pt",
        )


def load_captioner(source: str, *, is_offline: bool) -> Captioner:
    """Returns the model of a folder or a hub id, from safetensors only, in fp32 (fp16 on a GPU).

    Raises:
        UserError: not to be had, pickled weights only, or no model that turns images into text.
    """
    import torch
    from transformers import AutoModelForImageTextToText, AutoProcessor

    name = os.path.expanduser(source)
    if not Path(name).is_dir() and (source.startswith((".", "/", "~")) or source.count("/") != 1):
        raise UserError(f"captioner={source}: no such folder, and not a hub id (owner/name)")
    device = "cuda" if torch.cuda.is_available() else "cpu"
    dtype = torch.float16 if device == "cuda" else torch.float32
    try:
        folder = find_model_folder(source, is_offline=is_offline)
        processor = AutoProcessor.from_pretrained(folder, local_files_only=True)
        model = AutoModelForImageTextToText.from_pretrained(
            folder, use_safetensors=True, local_files_only=True, torch_dtype=dtype
        )
    except (OSError, ValueError, KeyError, ImportError) as error:
        reason = str(error).strip().split("\n")[0]
        raise UserError(
            f"captioner={source}: cannot be used ({reason}); expected an image-to-text model of transformers with "
            "safetensors, such as Salesforce/blip-image-captioning-base, or its local folder"
        ) from None
    return Captioner(model=model.to(device).eval(), processor=processor)
