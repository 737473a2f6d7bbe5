"""A studio in a process of its own, and a browser in front of it. Without either, tests skip loudly."""

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from delora_sd.files.run_folder import read_json
from delora_sd.studio.folder import StudioFolder

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
PATIENCE_MS = 180_000
"""Of one wait: on a machine that does ten other things."""

needs_browser = pytest.mark.skipif(
    CHROMIUM is None or find_spec("playwright") is None or find_spec("gradio") is None,
    reason="NO CHROMIUM, PLAYWRIGHT OR GRADIO: the studio is not opened in a browser",
)


@dataclass
class Visit:
    """One page and what it said or asked for behind the reader's back."""

    page: Any
    errors: list[str] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)
    """To anywhere but the studio."""
    refused: list[str] = field(default_factory=list)
    """Answers that were none: status and address."""

    def room(self, title: str) -> None:
        self.page.get_by_role("tab", name=title).click()

    def see(self, selector: str) -> Any:
        self.page.wait_for_selector(f"{selector} >> visible=true")
        return self.page.locator(f"{selector} >> visible=true").first


@contextmanager
def open_studio(folder: Path) -> Iterator[str]:
    """Starts `delora-sd studio` and yields its address; stops it as Ctrl-C would."""
    command = [sys.executable, "-m", "delora_sd.cli", "studio", str(folder)]
    with (folder.parent / "studio.log").open("ab") as log:
        studio = subprocess.Popen(command, stdout=log, stderr=log, env=os.environ | {"PYTHONUNBUFFERED": "1"})
    try:
        yield _address(studio, folder)
    finally:
        studio.send_signal(signal.SIGINT)
        assert studio.wait(timeout=PATIENCE_MS / 1000) == 130


@contextmanager
def visiting(url: str, **settings: Any) -> Iterator[Visit]:
    """Opens the page in a browser of its own, which is closed again."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as tools:
        browser = tools.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"])
        page = browser.new_page(**settings)
        page.set_default_timeout(PATIENCE_MS)
        visit = Visit(page=page)
        page.on("console", lambda message: visit.errors.append(message.text) if message.type == "error" else None)
        page.on("pageerror", lambda error: visit.errors.append(str(error)))
        page.on("request", lambda request: visit.requests.append(request.url) if _leaves(request.url, url) else None)
        page.on(
            "response",
            lambda answer: visit.refused.append(f"{answer.status} {answer.url}") if answer.status >= 400 else None,
        )
        page.goto(url)
        page.wait_for_selector("#rooms")
        yield visit
        browser.close()


def _address(studio: subprocess.Popen, folder: Path) -> str:
    address, ends = StudioFolder(folder).address, time.monotonic() + PATIENCE_MS / 1000
    while not address.exists():
        said = (folder.parent / "studio.log").read_text()
        assert studio.poll() is None and time.monotonic() < ends, f"the studio did not open: {said}"
        time.sleep(0.05)
    return read_json(address)["url"]


def _leaves(request: str, url: str) -> bool:
    return not request.startswith((url, "data:", "blob:"))
