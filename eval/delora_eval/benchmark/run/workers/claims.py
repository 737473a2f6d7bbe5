"""Which process works on which cell: claim files on a shared file system, no server.

A claim appears whole or not at all (a hard link), so two processes never both hold one. Its holder touches it every
few seconds; it is stale when its process is dead (same machine, known at once) or silent for `LEASE_SECONDS`.
"""

import contextlib
import fcntl
import json
import os
import secrets
import socket
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from delora_sd.files.leftovers import is_running

LEASE_SECONDS = 300.0
"""A holder on another machine that was silent for so long is taken for lost. Long against pauses of a busy server."""

HEARTBEAT_SECONDS = 20.0


@dataclass(kw_only=True)
class Claims:
    """The claims of one worker in a folder. `owner`: a retry under the same owner may take over what it left behind."""

    folder: Path
    owner: str = field(default_factory=lambda: secrets.token_hex(8))
    lease_seconds: float = LEASE_SECONDS
    _held: set[str] = field(default_factory=set)

    def acquire(self, name: str) -> bool:
        """Claims a cell; False when a living process holds it."""
        self.folder.mkdir(parents=True, exist_ok=True)
        if name in self._held:
            return True
        with self._arbiter():
            holder = self._read(name)
            if holder is not None and not (self._is_stale(name, holder) and self._discard(name, holder)):
                return False
            if self._create(name):
                self._held.add(name)
        return name in self._held

    def release(self, name: str) -> None:
        """Gives a cell back; one that was taken over meanwhile is left to its new holder."""
        self._held.discard(name)
        holder = self._read(name)
        if holder is not None and holder.get("token") == self._token:
            self._path(name).unlink(missing_ok=True)

    def holder(self, name: str) -> str | None:
        """Returns who works on the cell, `process 12 on node3`; None when nobody living does."""
        holder = self._read(name)
        if holder is None or self._is_stale(name, holder):
            return None
        return f"process {holder['pid']} on {holder['machine'].partition('/')[0]}"

    @contextlib.contextmanager
    def heartbeat(self) -> Iterator[None]:
        """Keeps the held claims fresh while the block runs, and gives them back after it."""
        stop = threading.Event()
        beat = threading.Thread(target=self._beat, args=(stop,), daemon=True)
        beat.start()
        try:
            yield
        finally:
            stop.set()
            beat.join()
            for name in tuple(self._held):
                self.release(name)

    @property
    def _token(self) -> str:
        return f"{self.owner}-{os.getpid()}"

    def _beat(self, stop: threading.Event) -> None:
        while not stop.wait(min(HEARTBEAT_SECONDS, self.lease_seconds / 4)):
            for name in tuple(self._held):
                with contextlib.suppress(OSError):
                    os.utime(self._path(name))

    def _path(self, name: str) -> Path:
        return self.folder / f"{name}.claim"

    def _read(self, name: str) -> dict[str, Any] | None:
        try:
            return json.loads(self._path(name).read_text())
        except FileNotFoundError:
            return None

    def _create(self, name: str) -> bool:
        """Creates the claim with its content in one step: a link to a finished file fails when the name exists."""
        temporary = self.folder / f".new-{self._token}-{threading.get_ident()}"
        content = {"owner": self.owner, "token": self._token, "pid": os.getpid(), "started": _start_time(os.getpid())}
        temporary.write_text(json.dumps(content | {"machine": _machine()}))
        try:
            os.link(temporary, self._path(name))
        except FileExistsError:
            return False
        finally:
            temporary.unlink()
        return True

    def _discard(self, name: str, stale: dict[str, Any]) -> bool:
        """Removes a stale claim; a fresh one that took its place since we looked is put back."""
        aside = self.folder / f".stale-{self._token}"
        try:
            os.rename(self._path(name), aside)
        except FileNotFoundError:
            return True
        is_the_stale_one = json.loads(aside.read_text()) == stale
        if not is_the_stale_one:
            with contextlib.suppress(FileExistsError):
                os.link(aside, self._path(name))
        aside.unlink()
        return is_the_stale_one

    def _is_stale(self, name: str, holder: dict[str, Any]) -> bool:
        if holder["machine"] == _machine():
            return _start_time(holder["pid"]) != holder["started"]
        return holder["owner"] == self.owner or self._silent_seconds(name) > self.lease_seconds

    def _silent_seconds(self, name: str) -> float:
        """Age of the last heartbeat by the file system's own clock: machines' clocks differ."""
        probe = self.folder / f".clock-{self._token}"
        probe.touch()
        try:
            return probe.stat().st_mtime - self._path(name).stat().st_mtime
        except FileNotFoundError:
            return 0.0
        finally:
            probe.unlink(missing_ok=True)

    @contextlib.contextmanager
    def _arbiter(self) -> Iterator[None]:
        """One process at a time looks at a stale claim and replaces it; freed by the kernel when its holder dies."""
        with (self.folder / ".arbiter").open("a") as file:
            with contextlib.suppress(OSError):  # a file system without locks: the link still decides
                fcntl.flock(file, fcntl.LOCK_EX)
            yield


def _machine() -> str:
    """Name of the machine and of its process table: containers share names, and process ids mean nothing across."""
    try:
        return f"{socket.gethostname()}/{os.stat('/proc/self/ns/pid').st_ino}"
    except OSError:
        return socket.gethostname()


def _start_time(pid: int) -> str | None:
    """Returns what tells a process from a later one with the same id; None when there is no such process."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return None if fields[0] == "Z" else fields[19]
    except OSError:
        return None if Path("/proc/self").exists() or not is_running(pid) else "alive"
