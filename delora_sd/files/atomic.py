"""Files and folders that are written whole or not at all: a temporary neighbour, flushed to disk, then renamed.

This module knows names and bytes, never tensors, models or what a run folder holds.
"""

import contextlib
import errno
import json
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

from delora_sd.config.text import read_json_text
from delora_sd.errors import DiskError, UserError
from delora_sd.files.leftovers import old_name, remove, remove_leftovers_of, temporary_name

_FULL_DISK_BYTES = 1 << 20


def write_file(path: Path, write: Callable[[Path], None]) -> None:
    """Writes one file whole or not at all; `write` fills the temporary path it is given."""
    temporary = temporary_name(path)
    with _reporting(path):
        _make_folder(path.parent)
        remove_leftovers_of(path)
        try:
            write(temporary)
            _flush(temporary)
            os.replace(temporary, path)
        finally:
            remove(temporary)
    _flush_entry(path)


def write_folder(path: Path, write: Callable[[Path], None]) -> None:
    """Writes one folder whole or not at all; `write` fills the temporary folder it is given.

    A crash can leave the old folder, the new one, or (between two renames) none; never a mixture or a part.
    """
    temporary, old = temporary_name(path), temporary_name(old_name(path))
    with _reporting(path):
        _make_folder(path.parent)
        remove_leftovers_of(path)
        try:
            temporary.mkdir()
            write(temporary)
            for item in (*temporary.rglob("*"), temporary):
                _flush(item)
            _put_in_place(temporary, path, old)
        finally:
            remove(temporary)
    try:
        _flush_entry(path)
    finally:
        remove(old)


def write_bytes(path: Path, content: bytes) -> None:
    write_file(path, lambda temporary: _fill(temporary, content))


def write_text(path: Path, text: str) -> None:
    write_bytes(path, _encode(text))


def write_json(path: Path, value: Any) -> None:
    write_text(path, json.dumps(value, indent=2, sort_keys=True, ensure_ascii=False) + "\n")


def write_lines(path: Path, records: list[dict[str, Any]]) -> None:
    """Replaces a JSON-lines file, whole or not at all."""
    write_bytes(path, b"".join(map(_json_line, records)))


def append_line(path: Path, record: dict[str, Any]) -> None:
    """Appends one JSON line in a single write. A line torn by an earlier crash is cut off first."""
    line, size = _json_line(record), None
    try:
        _make_folder(path.parent)
        with path.open("a+b", buffering=0) as file:
            _mend_last_line(file)
            size = file.seek(0, os.SEEK_END)
            if file.write(line) != len(line):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    except OSError as error:
        if size is not None:
            with contextlib.suppress(OSError):
                os.truncate(path, size)
        raise DiskError(f"cannot append to {path}: {error.strerror or error}") from error


def read_json(path: Path) -> Any:
    """Returns the parsed file. Raises UserError when it is missing or not JSON."""
    try:
        return read_json_text(path)
    except FileNotFoundError:
        raise UserError(f"{path} does not exist") from None
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror or error}") from error
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path} is not valid JSON ({error}); mend it, or restore it from a copy") from error


def read_lines(path: Path, *, without: bytes | None = None) -> list[dict[str, Any]]:
    """Returns the JSON lines of a file, [] when it does not exist; a torn last line is dropped.

    Lines that hold the bytes `without` are passed over unread: parsing is most of what reading takes.
    """
    try:
        lines = path.read_bytes().split(b"\n")
    except FileNotFoundError:
        return []
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror or error}") from error
    records = []
    for number, line in enumerate(lines, start=1):
        if not line.strip() or (without is not None and without in line):
            continue
        record = _parse_record(line)
        if record is not None:
            records.append(record)
        elif number < len(lines):
            raise UserError(f"{path}, line {number}: not a JSON object; delete that line")
    return records


@contextlib.contextmanager
def _reporting(path: Path) -> Iterator[None]:
    """Turns what a failing disk raises, also from inside other libraries, into one line."""
    try:
        yield
    except OSError as error:
        raise DiskError(f"cannot write {path}: {error.strerror or error}; nothing was changed") from error
    except Exception as error:
        if isinstance(error, UserError) or not _is_full_disk(error, path):
            raise
        raise DiskError(f"cannot write {path}: no space left on the disk; nothing was changed") from error


def _is_full_disk(error: Exception, path: Path) -> bool:
    """Writers such as safetensors and torch.save hide the system's error in their own."""
    if any(words in str(error) for words in ("No space left", "os error 28", "quota exceeded")):
        return True
    with contextlib.suppress(OSError):
        return shutil.disk_usage(path.parent).free < _FULL_DISK_BYTES
    return False


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except FileExistsError:
        raise NotADirectoryError(errno.ENOTDIR, f"{folder} is not a folder") from None


def _put_in_place(temporary: Path, path: Path, old: Path) -> None:
    has_old = os.path.lexists(path)
    if has_old:
        os.replace(path, old)
    try:
        os.replace(temporary, path)
    except OSError:
        if has_old:
            os.replace(old, path)
        raise


def _fill(path: Path, content: bytes) -> None:
    with path.open("wb") as file:
        file.write(content)


def _flush(path: Path) -> None:
    """Makes bytes, or the entries of a folder, reach the disk. Some network disks cannot flush folders."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP) or not path.is_dir():
            raise
    finally:
        os.close(descriptor)


def _flush_entry(path: Path) -> None:
    try:
        _flush(path.parent)
    except OSError as error:
        raise DiskError(f"{path} is written but the disk failed to confirm it: {error.strerror or error}") from error


def _encode(text: str) -> bytes:
    """UTF-8; bytes of file names that are no text are written as escapes, which JSON reads back."""
    return text.encode("utf-8", errors="backslashreplace")


def _json_line(record: dict[str, Any]) -> bytes:
    return _encode(json.dumps(record, sort_keys=True, ensure_ascii=False) + "\n")


def _parse_record(line: bytes) -> dict[str, Any] | None:
    try:
        record = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return record if isinstance(record, dict) else None


def _mend_last_line(file: BinaryIO) -> None:
    """Cuts a torn last line off, or ends a whole one that lacks its newline."""
    if file.seek(0, os.SEEK_END) == 0:
        return
    file.seek(-1, os.SEEK_END)
    if file.read(1) == b"\n":
        return
    file.seek(0)
    content = file.read()
    start = content.rfind(b"\n") + 1
    if _parse_record(content[start:]) is None:
        file.truncate(start)
    else:
        file.write(b"\n")
