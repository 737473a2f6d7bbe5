"""What stands before gradio's server: who may ask, what a page may load, and what becomes of a failing upload."""

import errno
from typing import Any

UPLOAD = "/gradio_api/upload"
_POLICY = (
    "default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval' blob:; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data: blob:; font-src 'self' data:; connect-src 'self'; worker-src 'self' blob:; "
    "object-src 'none'; base-uri 'self'; form-action 'self'; frame-ancestors 'none'"
)
"""Nothing is fetched from elsewhere, whatever a caption or a library asks for. gradio's templates need eval."""
_HEADERS = [
    (b"content-security-policy", _POLICY.encode()),
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
]
MOST_FILES = 20
"""Of the largest size in one request; gradio counts each."""
_FULL = (errno.ENOSPC, errno.EDQUOT)


def middleware(max_upload_bytes: int, hosts: list[str]) -> list[Any]:
    """Returns what every request passes, outermost first. `hosts` [] lets any name of this machine in (share links)."""
    from starlette.middleware import Middleware
    from starlette.middleware.trustedhost import TrustedHostMiddleware

    own_names = [Middleware(TrustedHostMiddleware, allowed_hosts=hosts, www_redirect=False)] if hosts else []
    return [*own_names, Middleware(Guard, max_upload_bytes=max_upload_bytes)]


class Guard:
    """ASGI: refuses uploads that are too large by their length, explains a full disk, and adds the headers."""

    def __init__(self, app: Any, max_upload_bytes: int):
        self.app = app
        self.max_upload_bytes = max_upload_bytes

    async def __call__(self, scope: dict, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        length = dict(scope["headers"]).get(b"content-length", b"0")
        if scope["path"] == UPLOAD and length.isdigit() and int(length) > self.max_upload_bytes * MOST_FILES:
            most = f"{self.max_upload_bytes * MOST_FILES / 1e6:.0f}"
            await _answer(send, 413, f"{int(length) / 1e6:.0f} MB at once; expected at most {most} MB")
            return
        started = False

        async def send_guarded(message: dict) -> None:
            nonlocal started
            if message["type"] == "http.response.start":
                started = True
                own = {name for name, _ in message["headers"]}
                message = message | {
                    "headers": [*message["headers"], *(pair for pair in _HEADERS if pair[0] not in own)]
                }
            await send(message)

        try:
            await self.app(scope, receive, send_guarded)
        except OSError as error:
            if started or error.errno not in _FULL:
                raise
            text = f"the disk is full: nothing was kept of the upload ({error.strerror}); free some space and try again"
            await _answer(send_guarded, 507, text)


async def _answer(send: Any, status: int, text: str) -> None:
    headers = [(b"content-type", b"text/plain; charset=utf-8")]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": text.encode()})
