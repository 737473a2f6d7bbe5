"""A studio's folder with one subject, and photos of the miniature to fill it with."""

from pathlib import Path

import pytest

from delora_sd.miniature import SUBJECTS_FOLDER
from delora_sd.studio.folder import StudioFolder
from delora_sd.studio.photos.intake import take_uploads
from delora_sd.studio.photos.subject import create_subject


@pytest.fixture
def folder(tmp_path: Path) -> StudioFolder:
    folder = StudioFolder(tmp_path / "studio")
    for place in (folder.photos, folder.runs, folder.jobs, folder.costs):
        place.mkdir(parents=True)
    return folder


@pytest.fixture
def uploads() -> list[Path]:
    """Four photos of a subject of the miniature."""
    return sorted((SUBJECTS_FOLDER / "dog").glob("*.*g"))[:4]


@pytest.fixture
def rex(folder: StudioFolder, uploads: list[Path]) -> Path:
    """The folder of a subject with four photos."""
    create_subject(folder, "rex", "dog")
    take_uploads(folder.subject("rex"), uploads)
    return folder.subject("rex")
