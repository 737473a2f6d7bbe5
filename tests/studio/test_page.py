"""The page in a browser: what is dropped is shown or refused, nothing is executed, nothing leaves the machine."""

import urllib.error
import urllib.request
from pathlib import Path

from browser import needs_browser, open_studio, visiting

from delora_sd.studio.folder import StudioFolder

pytestmark = needs_browser
OF_THE_PROGRESS_BAR = ("Failed to load resource", "Response")
"""gradio's asks after uploads that are over already on a slow machine, and is told 404: `refused` sees what else is."""
ATTACK = "<img src=x onerror=\"document.title='owned'\"> ${document.title='owned'} {{#each x}} in the snow"


def send_raw(url: str, name: str) -> int:
    """Uploads a file under a name that no browser would send; returns the status."""
    body = (
        f'--x\r\nContent-Disposition: form-data; name="files"; filename="{name}"\r\n'
        "Content-Type: image/png\r\n\r\nx\r\n--x--\r\n"
    ).encode()
    headers = {"Content-Type": "multipart/form-data; boundary=x"}
    return status_of(urllib.request.Request(f"{url}gradio_api/upload", data=body, headers=headers))


def status_of(request: urllib.request.Request | str) -> int:
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:
            return answer.status
    except urllib.error.HTTPError as error:
        with error:
            return error.code


def test_photos_are_taken_or_refused_on_the_page_and_found_again(tmp_path: Path, uploads: list[Path]):
    """One browser for all of it: starting another costs more than what is asked of it."""
    folder = StudioFolder(tmp_path / "studio")
    (tmp_path / "text.png").write_text("just text\n")
    with (tmp_path / "huge.png").open("wb") as file:
        file.truncate(300_000_000)
    with open_studio(folder.path) as url:
        with visiting(url) as visit:
            page = visit.page
            page.fill("#new-name :is(input, textarea)", "rex")
            page.fill("#new-word :is(input, textarea)", "dog")
            page.click("#create-subject")
            visit.see(".st-notice.good")
            page.set_input_files("#drop input[type=file]", uploads)
            page.wait_for_function("document.querySelectorAll('.st-photo img').length === 4")
            page.set_input_files("#drop input[type=file]", tmp_path / "text.png")
            assert "it is a text file" in visit.see(".st-notice.bad").inner_text()
            page.set_input_files("#drop input[type=file]", tmp_path / "huge.png")
            assert "maximum" in visit.see(".toast-body").inner_text()
            caption = page.locator(".st-caption textarea").first
            caption.fill(ATTACK)
            caption.blur()
            page.wait_for_function("document.querySelector('#sheet .st-pills').textContent.includes('1 captioned')")
            assert page.title() == "delora_sd studio"
            assert page.evaluate("[...document.querySelectorAll('.st-photo img')].every(i => i.naturalWidth > 0)")
            assert visit.requests == []
            assert [answer for answer in visit.refused if "/upload_progress?" not in answer] == []
            assert [text for text in visit.errors if not text.startswith(OF_THE_PROGRESS_BAR)] == []
        assert send_raw(url, "../../../x.png") in (200, 400)
        assert status_of(f"{url}gradio_api/file={tmp_path / 'text.png'}") in (403, 404)
        assert status_of(f"{url}studio/image/..%2F..%2Ftext.png") == 404
        with visiting(url) as visit:
            visit.see(".st-photo")
            assert visit.page.locator(".st-caption textarea").first.input_value() == ATTACK
    assert sorted(path.name for path in tmp_path.iterdir()) == ["huge.png", "studio", "studio.log", "text.png"]
    photos = sorted((folder.photos / "rex").iterdir())
    assert [path.name for path in photos if path.suffix != ".json"] == sorted(
        [*(upload.name for upload in uploads), f"{uploads[0].stem}.txt"]
    )
    assert (folder.photos / "rex" / f"{uploads[0].stem}.txt").read_text().strip() == ATTACK
    assert sorted(path.name for path in folder.path.iterdir()) == [".studio.lock", "costs", "jobs", "photos", "runs"]
