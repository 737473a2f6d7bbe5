"""`delora-sd studio`: one page for one folder, on this machine only, with nothing fetched from elsewhere."""

import contextlib
import os
import shutil
import socket
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from delora_sd.errors import UserError
from delora_sd.files.locks import hold
from delora_sd.files.run_folder import check_length, read_json, write_json
from delora_sd.studio.folder import StudioFolder
from delora_sd.studio.jobs.queue import resume_queue
from delora_sd.studio.page.guard import middleware
from delora_sd.studio.page.media import media_routes
from delora_sd.studio.photos.intake import MAX_UPLOAD_BYTES
from delora_sd.studio.settings import StudioConfig

HOST = "127.0.0.1"
PORTS_TRIED = 50

_ENVIRONMENT = {
    "GRADIO_ANALYTICS_ENABLED": "False",
    "GRADIO_SHARE": "False",
    "GRADIO_MCP_SERVER": "False",
    "GRADIO_SSR_MODE": "False",
    "HF_HUB_DISABLE_TELEMETRY": "1",
}


def open_studio(config: StudioConfig, *, say: Callable[[str], None]) -> None:
    """Serves the page until it is stopped; what was started goes on without it.

    Raises:
        UserError: gradio is not installed, the folder is in use or cannot be written, no port is free.
    """
    folder = StudioFolder(Path(config.folder).expanduser().absolute())
    check_door(config)
    with holding(folder):
        port = free_port(config.port)
        if port != config.port:
            say(f"port {config.port} is in use; the page is at {port}")
        with serving(folder, port=port, share=config.share, browser=config.browser) as url:
            say(f"{folder.path}\n{url}   (Ctrl-C closes the page; trainings go on)")
            _wait()


def check_door(config: StudioConfig) -> None:
    """Raises UserError for what can be known before anything is loaded."""
    if find_spec("gradio") is None:
        raise UserError("the studio needs gradio: pip install delora_sd[studio]")
    if not 1 <= config.port <= 65535 - PORTS_TRIED:
        raise UserError(f"port={config.port}: expected 1 to {65535 - PORTS_TRIED}; 7860 is usual")
    check_length(Path(config.folder).expanduser(), setting="folder", room=120)


@contextlib.contextmanager
def holding(folder: StudioFolder) -> Iterator[None]:
    """Keeps a second studio out of the folder: it is told where the first one is open."""
    if folder.path.exists() and not folder.path.is_dir():
        raise UserError(f"folder={folder.path}: a file; give a folder")
    held = contextlib.ExitStack()
    try:
        held.enter_context(hold(folder.path / ".studio.lock", guarding=folder.path, setting="folder"))
    except UserError as error:
        raise UserError(f"{error}{_where_open(folder)}") from None
    with held:
        for place in (folder.photos, folder.runs, folder.jobs, folder.costs):
            place.mkdir(parents=True, exist_ok=True)
        shutil.rmtree(folder.uploads, ignore_errors=True)
        folder.uploads.mkdir()
        try:
            resume_queue(folder)
            yield
        finally:
            folder.address.unlink(missing_ok=True)
            shutil.rmtree(folder.uploads, ignore_errors=True)


@contextlib.contextmanager
def serving(folder: StudioFolder, *, port: int, share: bool = False, browser: bool = False) -> Iterator[str]:
    """Serves the page of a folder that is held; yields its address."""
    os.environ.update(_ENVIRONMENT | {"GRADIO_TEMP_DIR": str(folder.uploads), "GRADIO_ALLOWED_PATHS": ""})
    from delora_sd.studio.page.page import build_page, look

    page = build_page(folder)
    hosts = [] if share else [HOST, "localhost"]
    app: dict[str, Any] = {
        "routes": media_routes(folder),
        "middleware": middleware(MAX_UPLOAD_BYTES, hosts),
        "openapi_url": None,
    }
    _, local, public = page.launch(
        server_name=HOST,
        server_port=port,
        share=share,
        inbrowser=browser,
        prevent_thread_lock=True,
        quiet=True,
        show_error=False,
        footer_links=[],
        max_file_size=MAX_UPLOAD_BYTES,
        ssr_mode=False,
        app_kwargs=app,
        **look(),
    )
    url = public or local
    write_json(folder.address, {"url": url})
    try:
        yield url
    finally:
        page.close(verbose=False)


def free_port(first: int) -> int:
    """Returns the first port from `first` on that nobody listens on. Raises UserError when there is none nearby."""
    for port in range(first, first + PORTS_TRIED):
        with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as attempt:
            attempt.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                attempt.bind((HOST, port))
            except OSError:
                continue
            return port
    raise UserError(f"port={first}: none from {first} to {first + PORTS_TRIED - 1} is free; give another")


def _where_open(folder: StudioFolder) -> str:
    with contextlib.suppress(UserError):
        url = read_json(folder.address).get("url")
        return f"; its page is at {url}" if isinstance(url, str) else ""
    return ""


def _wait() -> None:
    """Until Ctrl-C or SIGTERM: both raise."""
    import threading

    threading.Event().wait()
