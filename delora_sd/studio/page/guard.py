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
    return [*own_names, Middleware(Guard, max_upload_bytes=max_upload_bytes, is_local=bool(hosts))]


class Guard:
    """ASGI: refuses what another page asks for and uploads that are too large, explains a full disk, adds headers."""

    def __init__(self, app: Any, max_upload_bytes: int, is_local: bool = True):
        self.app = app
        self.max_upload_bytes = max_upload_bytes
        self.is_local = is_local

    async def __call__(self, scope: dict, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        refusal = self._refuse(scope["method"], scope["path"], dict(scope["headers"]))
        if refusal is not None:
            await _answer(send, *refusal)
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

    def _refuse(self, method: str, path: str, headers: dict[bytes, bytes]) -> tuple[int, str] | None:
        """Returns (status, why) of a request that goes no further; None lets it in."""
        origin, host = headers.get(b"origin"), headers.get(b"host", b"")
        if self.is_local and method != "GET" and origin and origin.partition(b"://")[2] != host:
            return 403, "only the studio's own page may ask for that"
        length, most = headers.get(b"content-length", b"0"), self.max_upload_bytes * MOST_FILES
        if path == UPLOAD and length.isdigit() and int(length) > most:
            return 413, f"{int(length) / 1e6:.0f} MB at once; expected at most {most / 1e6:.0f} MB"
        return None


async def _answer(send: Any, status: int, text: str) -> None:
    headers = [(b"content-type", b"text/plain; charset=utf-8")]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": text.encode()})
