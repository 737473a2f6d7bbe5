#!/usr/bin/env python
"""Brings the DreamBooth dataset (30 subjects, 158 photos, CC-BY 4.0, github.com/google/dreambooth) into a folder.

    python scripts/prepare/fetch_dreambooth.py                     # into data/dreambooth, where `data.dataset` looks
    python scripts/prepare/fetch_dreambooth.py FOLDER
    python scripts/prepare/fetch_dreambooth.py --zip dreambooth.zip  # a zip of the repository brought from elsewhere

The folder is written whole or not at all; a complete one is left alone.
"""

import argparse
import shutil
import sys
import tempfile
import urllib.error
import urllib.request
import zipfile
from pathlib import Path, PurePosixPath

from delora_sd.data.photo_files import find_photos
from delora_sd.data.subjects import dreambooth
from delora_sd.errors import UserError
from delora_sd.files.run_folder import write_folder

SOURCE = "https://github.com/google/dreambooth/archive/refs/heads/main.zip"
NUM_PHOTOS = 158
NOTES = ("prompts_and_classes.txt", "references_and_licenses.txt")
MAX_ZIP_BYTES, MAX_FILE_BYTES = 1_000_000_000, 50_000_000
"""The repository's zip is about 0.1 GB, its largest photo a few MB."""
TIMEOUT_S = 60


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", nargs="?", type=Path, default=Path("data/dreambooth"))
    parser.add_argument("--zip", type=Path, help="use this zip of the repository instead of the network")
    arguments = parser.parse_args()
    try:
        fetch(arguments.folder.expanduser(), zip_file=arguments.zip)
    except UserError as error:
        print(f"fetch_dreambooth: {error}", file=sys.stderr)
        return 2
    print(f"{arguments.folder}: {len(dreambooth()['subjects'])} subjects, {NUM_PHOTOS} photos")
    return 0


def fetch(folder: Path, *, zip_file: Path | None) -> None:
    """Makes `folder` the complete dataset.

    Raises:
        UserError: no network, a zip that is not the dataset, or a folder that holds something else.
    """
    if folder.exists() and any(folder.iterdir()):
        check_complete(folder, advice="move it away or name another folder")
        return
    with tempfile.TemporaryDirectory() as temporary:
        archive = zip_file or download(Path(temporary) / "dreambooth.zip")
        write_folder(folder, lambda path: extract(archive, path))


def download(target: Path) -> Path:
    """Fetches the repository's zip into `target` and returns it."""
    try:
        with urllib.request.urlopen(SOURCE, timeout=TIMEOUT_S) as response, target.open("wb") as file:
            while block := response.read(1 << 20):
                if file.tell() + len(block) > MAX_ZIP_BYTES:
                    raise UserError(f"{SOURCE}: more than {MAX_ZIP_BYTES} bytes; this is not the dataset")
                file.write(block)
    except (urllib.error.URLError, TimeoutError, ConnectionError) as error:
        reason = getattr(error, "reason", error)
        raise UserError(
            f"{SOURCE} cannot be reached ({reason}); bring the zip from a machine that is online and give --zip FILE"
        ) from None
    return target


def extract(archive: Path, folder: Path) -> None:
    """Writes the dataset's photos and notes from the repository's zip into `folder` and checks them."""
    try:
        with zipfile.ZipFile(archive) as zipped:
            for entry in zipped.infolist():
                if (name := _wanted(entry.filename)) is None:
                    continue
                if entry.file_size > MAX_FILE_BYTES:
                    raise UserError(f"{archive}: {entry.filename} claims {entry.file_size} bytes; not the dataset")
                (folder / name).parent.mkdir(parents=True, exist_ok=True)
                with zipped.open(entry) as source, (folder / name).open("wb") as target:
                    shutil.copyfileobj(source, target)
    except FileNotFoundError:
        raise UserError(f"{archive}: no such file") from None
    except zipfile.BadZipFile as error:
        raise UserError(f"{archive} is not a whole zip file ({error}); fetch it again") from None
    check_complete(folder, advice="fetch it again")


def check_complete(folder: Path, *, advice: str) -> None:
    """Raises UserError unless every subject and all 158 photos are there."""
    missing = [name for name in dreambooth()["subjects"] if not (folder / name).is_dir()]
    if missing:
        raise UserError(f"{folder} is not the whole dataset: no folder for {', '.join(missing[:3])}; {advice}")
    num_photos = sum(len(find_photos(folder / name)) for name in dreambooth()["subjects"])
    if num_photos != NUM_PHOTOS:
        raise UserError(f"{folder} is not the whole dataset: {num_photos} photos, expected {NUM_PHOTOS}; {advice}")


def _wanted(name: str) -> str | None:
    """Returns `dog/00.jpg` for `dreambooth-main/dataset/dog/00.jpg`, None for what is not part of the dataset."""
    match PurePosixPath(name).parts:
        case (_, "dataset", subject, photo) if subject in dreambooth()["subjects"] and photo.endswith(".jpg"):
            return f"{subject}/{photo}"
        case (_, "dataset", note) if note in NOTES:
            return note
    return None


if __name__ == "__main__":
    sys.exit(main())
