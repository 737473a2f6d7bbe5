"""What the page shows beside its own parts: photos and images of the studio's folder, and nothing else of this disk."""

from pathlib import Path
from typing import Any

from delora_sd.errors import UserError
from delora_sd.studio.folder import StudioFolder, contains
from delora_sd.studio.photos.subject import find_photo
from delora_sd.studio.photos.thumbnails import training_view
from delora_sd.studio.results.files import zip_folder

IMAGES = {".png": "image/png", ".jpg": "image/jpeg", ".webp": "image/webp"}
"""Shown in place. No .svg and no .html: they can hold scripts."""
DOWNLOADS = (".safetensors", ".peft")
_HEADERS = {"X-Content-Type-Options": "nosniff", "Content-Security-Policy": "default-src 'none'; sandbox"}
_KEPT = {"Cache-Control": "private, max-age=31536000, immutable"}
"""Every address holds the time of the file's last change."""
_LARGEST_PX = 1024


def media_routes(folder: StudioFolder) -> list[Any]:
    """Returns the routes: /studio/photo/SUBJECT/NAME, /studio/image/RUN/..., /studio/file/RUN/..."""
    from starlette.requests import Request
    from starlette.responses import FileResponse, PlainTextResponse, Response
    from starlette.routing import Route

    def answer(work: Any) -> Any:
        def respond(request: Request) -> Response:  # not async: gradio's server runs it on a thread
            try:
                return work(request)
            except (UserError, OSError):
                return PlainTextResponse("not here", status_code=404)

        return respond

    def photo(request: Request) -> Response:
        query = request.query_params
        size = query.get("px", "512")
        size_px = min(_LARGEST_PX, max(16, int(size))) if size.isdigit() else 512
        file = find_photo(folder.subject(request.path_params["subject"]), request.path_params["name"])
        shown = training_view(file, size_px=size_px, with_mask=query.get("mask") == "1")
        return Response(shown, media_type="image/png", headers=_HEADERS | _KEPT)

    def image(request: Request) -> Response:
        file = find_media(folder, request.path_params["path"], tuple(IMAGES))
        return FileResponse(file, media_type=IMAGES[file.suffix], headers=_HEADERS | _KEPT)

    def download(request: Request) -> Response:
        file = find_media(folder, request.path_params["path"], DOWNLOADS)
        if file.is_dir():
            named = {"Content-Disposition": f'attachment; filename="{_ascii(file.name)}.zip"'}
            return Response(zip_folder(file), media_type="application/zip", headers=_HEADERS | named)
        return FileResponse(file, media_type="application/octet-stream", filename=file.name, headers=_HEADERS)

    return [
        Route("/studio/photo/{subject}/{name}", answer(photo)),
        Route("/studio/image/{path:path}", answer(image)),
        Route("/studio/file/{path:path}", answer(download)),
    ]


def find_media(folder: StudioFolder, path: str, suffixes: tuple[str, ...]) -> Path:
    """Returns a file of a run; links are followed first, and lead nowhere outside.

    Raises:
        UserError: another kind of file, none of that name, or one that lies elsewhere.
    """
    file = folder.runs / path
    if "\0" in path or file.suffix not in suffixes or any(part.startswith(".") for part in Path(path).parts):
        raise UserError(f"{path[:80]}: not shown")
    if not file.exists() or not contains(folder.runs, file):
        raise UserError(f"{path[:80]}: not here")
    return file.resolve()


def _ascii(name: str) -> str:
    return "".join(
        letter if letter.isascii() and letter.isprintable() and letter not in '"\\' else "-" for letter in name
    )
