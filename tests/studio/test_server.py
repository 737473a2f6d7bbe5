"""The server: this machine only, one studio per folder, the next free port, errors answered, nothing left behind."""

import asyncio
import errno
import socket
from importlib.util import find_spec

import pytest

from delora_sd.cli.main import main
from delora_sd.errors import UserError
from delora_sd.files.run_folder import write_json
from delora_sd.studio.jobs import queue
from delora_sd.studio.jobs.job import job_state
from delora_sd.studio.jobs.queue import add_job
from delora_sd.studio.page import server
from delora_sd.studio.page.guard import Guard, middleware
from delora_sd.studio.page.server import check_door, free_port, holding
from delora_sd.studio.page.wiring import answering
from delora_sd.studio.settings import StudioConfig

needs_gradio = pytest.mark.skipif(find_spec("gradio") is None, reason="NO GRADIO: pip install delora_sd[studio]")


def test_a_port_that_is_taken_leads_to_the_next():
    with socket.socket() as taken:
        taken.bind((server.HOST, 0))
        taken.listen()
        port = taken.getsockname()[1]
        if port > 65000:
            pytest.skip("the system gave the last port")
        assert port < free_port(port) < port + server.PORTS_TRIED


def test_no_free_port_is_said(monkeypatch):
    monkeypatch.setattr(server, "PORTS_TRIED", 1)
    with socket.socket() as taken:
        taken.bind((server.HOST, 0))
        taken.listen()
        with pytest.raises(UserError, match="is free; give another"):
            free_port(taken.getsockname()[1])


def test_a_second_studio_on_a_folder_is_told_where_the_first_is_open(folder):
    with holding(folder):
        write_json(folder.address, {"url": "http://127.0.0.1:7861/"})
        with (
            pytest.raises(UserError, match=r"in use by process \d+.*its page is at http://127.0.0.1:7861/"),
            holding(folder),
        ):
            pass
    assert not folder.address.exists() and not folder.uploads.exists()
    with holding(folder):
        pass


def test_what_a_crash_left_of_uploads_is_cleared_away(folder):
    (folder.uploads / "part").mkdir(parents=True)
    with holding(folder):
        assert list(folder.uploads.iterdir()) == []


def test_jobs_that_waited_while_the_machine_was_off_are_taken_up(folder, monkeypatch):
    started = []
    monkeypatch.setattr(queue, "start_worker", started.append)
    job = add_job(folder, title="x", kind="train", commands=[["train"]])
    started.clear()
    with holding(folder):
        assert started == [folder] and job_state(job) == "waiting"


@pytest.mark.parametrize("port", [0, -1, 70000])
@needs_gradio
def test_a_port_that_is_none_is_refused(port):
    with pytest.raises(UserError, match="port="):
        check_door(StudioConfig(port=port))


def test_without_gradio_one_line_says_what_to_install(monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(server, "find_spec", lambda name: None)
    assert main(["studio", str(tmp_path / "studio")]) == 2
    assert "pip install delora_sd[studio]" in capsys.readouterr().err and not (tmp_path / "studio").exists()


@needs_gradio
def test_a_file_in_place_of_the_folder_is_refused(tmp_path, capsys):
    (tmp_path / "studio").write_text("x")
    assert main(["studio", str(tmp_path / "studio")]) == 2
    assert (tmp_path / "studio").read_text() == "x"


def ask(app, *, headers: list | None = None) -> tuple[int, dict, bytes]:
    """Returns (status, headers, body) of one request to an ASGI app behind the guard."""
    sent = []

    async def send(message):
        sent.append(message)

    scope = {"type": "http", "method": "POST", "path": "/gradio_api/upload", "headers": headers or []}
    asyncio.run(Guard(app, max_upload_bytes=1000)(scope, None, send))
    body = b"".join(message.get("body", b"") for message in sent)
    return sent[0]["status"], dict(sent[0]["headers"]), body


def test_a_disk_that_fills_up_in_an_upload_is_answered():
    async def full(scope, receive, send):
        raise OSError(errno.ENOSPC, "No space left on device")

    status, headers, body = ask(full)
    assert status == 507 and b"nothing was kept of the upload" in body
    assert b"default-src 'self'" in headers[b"content-security-policy"]


def test_other_errors_stay_errors():
    async def broken(scope, receive, send):
        raise OSError(errno.EIO, "broken")

    with pytest.raises(OSError, match="broken"):
        ask(broken)


def test_an_upload_above_the_limit_is_refused_by_its_length_before_it_is_read():
    async def never(scope, receive, send):
        raise AssertionError("the upload was read")

    status, _, body = ask(never, headers=[(b"content-length", b"300000000")])
    assert status == 413 and b"expected at most" in body


@pytest.mark.parametrize(
    ("origin", "status"), [(b"http://evil.example", 403), (b"null", 403), (b"http://127.0.0.1:7860", 200)]
)
def test_another_page_in_the_same_browser_cannot_press_buttons(origin, status):
    async def fine(scope, receive, send):
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"done"})

    assert ask(fine, headers=[(b"origin", origin), (b"host", b"127.0.0.1:7860")])[0] == status


@needs_gradio
def test_other_names_of_this_machine_are_not_answered():
    """A page elsewhere that gives its own name this address is not let in."""
    from starlette.applications import Starlette
    from starlette.responses import PlainTextResponse
    from starlette.routing import Route
    from starlette.testclient import TestClient

    routes = [Route("/", lambda request: PlainTextResponse("in"))]
    app = Starlette(routes=routes, middleware=middleware(1000, [server.HOST, "localhost"]))
    assert TestClient(app, base_url="http://127.0.0.1:7860").get("/").text == "in"
    assert TestClient(app, base_url="http://evil.example:7860").get("/").status_code == 400


@needs_gradio
def test_what_the_user_can_fix_is_said_and_changes_nothing_else():
    import gradio as gr

    def refuse(text):
        raise UserError(f"no subject <b>{text}</b>")

    def fill(text):
        raise OSError(errno.ENOSPC, "No space left on device", "photo.png")

    said, *rest = answering(refuse, num_outputs=2)("rex")
    assert "no subject &lt;b&gt;rex" in said and rest == [gr.skip(), gr.skip()]
    assert "photo.png: No space left" in answering(fill, num_outputs=0)("rex")[0]
    with pytest.raises(ZeroDivisionError):
        answering(lambda: 1 / 0, num_outputs=0)()
