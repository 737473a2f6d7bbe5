"""Settings of `delora-sd captions`. No torch: `--help` answers at once."""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class CaptionsConfig:
    """Write a caption for each photo: its context, without the subject's identity."""

    photos: str = ""
    """A folder of photos; NAME.txt is written beside NAME.jpg."""
    class_word: str | None = None
    """What the subject is: dog, backpack, toy. Its phrase, colours and marks become `{identifier} {class_word}`."""
    captioner: str = "Salesforce/blip-image-captioning-base"
    """An image-to-text model of transformers: hub id or local folder. Models that follow instructions are asked."""
    write: bool = False
    """False: show what would be written. A caption that you wrote or edited is never overwritten."""
    offline: bool = False
    """Never touch the network; use only local files and the hub's cache."""
