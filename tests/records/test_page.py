"""The page over runs, read as XML-free text and opened in a real browser."""

import base64
import json
import re
import shutil
import subprocess
import threading
from collections.abc import Iterator
from functools import partial
from html.parser import HTMLParser
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from common.records.page import report_page
from common.records.run_record import RunRecord
from tests.records.examples import make_run

BROWSER = shutil.which("chromium") or shutil.which("google-chrome")
PIXEL = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
)
needs_browser = pytest.mark.skipif(BROWSER is None, reason="chromium is not installed (.ci/run)")


@pytest.fixture
def pair(tmp_path: Path) -> list[RunRecord]:
    """Two runs that differ in a value."""
    one = make_run(tmp_path, "2026-01-01_00-00-00", files={"plots/samples.txt": "a sample"})
    (one / "plots" / "pixel.png").write_bytes(PIXEL)
    two = make_run(
        tmp_path, "2026-01-02_00-00-00", overrides={"lr": 0.5}, metrics={"test/accuracy": 0.123}
    )
    return [RunRecord.read(one), RunRecord.read(two)]


def test_a_key_that_a_run_does_not_have_is_a_dash_and_none_is_none(
    pair: list[RunRecord], tmp_path: Path
) -> None:
    other = RunRecord.read(make_run(tmp_path, "2026-01-03_00-00-00", overrides={"top": None}))
    text = report_page([pair[0], other], "runs")
    assert re.search(r"<td[^>]*>top</td><td[^>]*>–</td><td[^>]*>None</td>", text)


@pytest.fixture
def server() -> Iterator[tuple[str, list[str]]]:
    """An endpoint on loopback, and the paths that somebody asked it for."""
    asked: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            self.send_response(404)
            self.end_headers()

        def log_message(self, *words: object) -> None:
            pass

    endpoint = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=partial(endpoint.serve_forever, poll_interval=0.05))
    thread.start()
    yield f"http://127.0.0.1:{endpoint.server_port}", asked
    endpoint.shutdown()
    thread.join()
    endpoint.server_close()


def browse(page: str, folder: Path, *options: str) -> tuple[str, list[str]]:
    """The DOM of a page after its scripts ran, and what they said on the console."""
    file = folder / "page.html"
    file.write_text(page, encoding="utf-8")
    quiet = ["--disable-gpu", "--disable-background-networking", "--disable-component-update"]
    profile = [f"--user-data-dir={folder / 'profile'}", "--no-first-run", "--no-sandbox"]
    said = ["--enable-logging=stderr", "--virtual-time-budget=3000", "--dump-dom", *options]
    command = [str(BROWSER), "--headless", *quiet, *profile, *said, file.as_uri()]
    result = subprocess.run(command, capture_output=True, text=True, timeout=120)
    return result.stdout, [line for line in result.stderr.splitlines() if "CONSOLE" in line]


class Elements(HTMLParser):
    """The elements of a page with their attributes, as a browser would read them."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))


def hostile(tmp_path: Path, url: str) -> RunRecord:
    """A run whose name, values, samples and pictures would like to be a program."""
    attack = f"<script>document.title='owned'</script><img src='{url}/x' onerror=alert(1)>"
    svg = (
        f"<svg xmlns='http://www.w3.org/2000/svg'><script>fetch('{url}/svg')</script>"
        f"<image href='{url}/image'/></svg>"
    )
    directory = make_run(
        tmp_path,
        "2026-01-01_00-00-00_<script>alert(1)<-script>",
        overrides={"seed": 1},
        metrics={f"</script>{attack}": 0.5},
        command=["train.py", attack],
        files={"plots/sample.txt": f"</pre>{attack}", "plots/drawing.svg": svg},
    )
    line = {"step": 1, f"train/</script>{attack}": 1.0}
    (directory / "metrics.jsonl").write_text(json.dumps(line) + "\n")
    return RunRecord.read(directory)


def test_the_page_is_whole(pair: list[RunRecord]) -> None:
    page = report_page(pair, "Two rates")
    assert "<title>Two rates</title>" in page
    assert not re.findall(r"(?:src|href)=\"(?!data:)", page)  # nothing to load
    assert base64.b64encode(PIXEL).decode() in page
    assert "<pre>a sample</pre>" in page


def test_text_of_a_run_stays_text(tmp_path: Path) -> None:
    page = report_page([hostile(tmp_path, "http://127.0.0.1:9")], "<b>")
    assert "<title>&lt;b&gt;</title>" in page
    reader = Elements()
    reader.feed(page)
    assert [tag for tag, _ in reader.found].count("script") == 2  # its data and its own
    assert not [name for _, given in reader.found for name in given if name.startswith("on")]
    pictures = [given["src"] for tag, given in reader.found if tag == "img"]
    assert [source.partition(",")[0] for source in pictures] == ["data:image/svg+xml;base64"]


@needs_browser
def test_a_browser_shows_tables_and_curves_and_has_nothing_to_say(
    pair: list[RunRecord], tmp_path: Path
) -> None:
    picture = tmp_path / "page.png"
    dom, console = browse(report_page(pair, "Two rates"), tmp_path)
    assert console == []
    assert dom.count("<polyline") == 2  # train/loss of each
    assert re.search(r"<td[^>]*>test/accuracy</td><td[^>]*>0.9</td><td[^>]*>0.123</td>", dom)
    assert re.search(r"<td[^>]*>lr</td><td[^>]*>0.1</td><td[^>]*>0.5</td>", dom)
    browse(report_page(pair, "Two rates"), tmp_path, f"--screenshot={picture}")
    assert picture.read_bytes().startswith(b"\x89PNG")


@needs_browser
def test_pointing_at_a_curve_tells_its_values(pair: list[RunRecord], tmp_path: Path) -> None:
    page = re.sub(r'<meta http-equiv="Content-Security-Policy"[^>]*>', "", report_page(pair, "x"))
    point = (
        "<script>const panel = document.querySelector('svg.panel'),"
        " box = panel.getBoundingClientRect();"
        "panel.dispatchEvent(new PointerEvent('pointermove', {clientX: box.right - 1}))</script>"
    )
    dom, console = browse(page.replace("</body>", f"{point}</body>"), tmp_path)
    tip = re.search(r'<div id="tip"[^>]*>([^<]*)', dom)
    assert console == []
    assert tip is not None
    assert tip[1] == "lr=0.1 train: 0.10000 (step 10)\nlr=0.5 train: 0.10000 (step 10)"


@needs_browser
def test_a_hostile_run_runs_nothing_and_asks_for_nothing(
    tmp_path: Path, server: tuple[str, list[str]]
) -> None:
    url, asked = server
    dom, console = browse(report_page([hostile(tmp_path, url)], "harmless"), tmp_path)
    assert "<title>harmless</title>" in dom
    assert "<table" in dom
    assert (asked, console) == ([], [])
    careless = f"<!DOCTYPE html><title>harmless</title><img src='{url}/seen'>"
    browse(careless, tmp_path)
    assert asked == ["/seen"]  # the endpoint would have noticed


@needs_browser
def test_the_policy_holds_even_if_something_were_not_escaped(
    pair: list[RunRecord], tmp_path: Path, server: tuple[str, list[str]]
) -> None:
    url, asked = server
    attack = f"<script>document.title='owned'</script><img src='{url}/x'>"
    page = report_page(pair, "harmless").replace("<h1>", f"{attack}<h1>")
    dom, console = browse(page, tmp_path)
    assert "<title>harmless</title>" in dom
    assert asked == []
    assert len(console) >= 2  # the browser says what it refused
