"""Where sessions go: a folder, or a copy in a bucket of a server that speaks S3."""

import re
import shutil
import socket
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from common.utils.errors import ConfigError, FaultError, exit_on_error
from projects.product_matching.core.places import COPIED, RemoteCopy, open_place
from projects.product_matching.run import run
from tests.projects.product_matching.sessions import SMALL, composed, train, write_photos

SECRET = "a-secret-nobody-should-read"


@pytest.fixture(scope="module")
def endpoint() -> Iterator[str]:
    """The address of a server on loopback."""
    pytest.importorskip("s3fs")
    server = pytest.importorskip("moto.server").ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture
def bucket(endpoint: str, monkeypatch: pytest.MonkeyPatch, request: Any) -> Any:
    """A bucket of its own: its name, and what reads it."""
    import fsspec

    for name, value in (
        ("AWS_ENDPOINT_URL", endpoint),
        ("AWS_ACCESS_KEY_ID", "somebody"),
        ("AWS_SECRET_ACCESS_KEY", SECRET),
        ("AWS_DEFAULT_REGION", "us-east-1"),
    ):
        monkeypatch.setenv(name, value)
    system = fsspec.filesystem("s3", endpoint_url=endpoint, skip_instance_cache=True)
    name = request.node.name.replace("_", "-")[:40].strip("-")
    system.mkdir(name)
    return name, system


def _session(folder: Path) -> Path:
    home = folder / "session"
    (home / "fold_0").mkdir(parents=True)
    (home / "report.md").write_text("first", encoding="utf-8")
    (home / "fold_0" / "weights.pt").write_bytes(b"\0" * 1000)
    (home / "owner.lock").write_text("1", encoding="utf-8")
    return home


def test_a_copy_holds_every_file_and_later_only_what_changed(bucket: Any, tmp_path: Path) -> None:
    name, system = bucket
    home = _session(tmp_path)
    copy = RemoteCopy(f"s3://{name}/runs/")
    assert copy.copy(home) == 2
    assert system.cat(f"{name}/runs/session/report.md") == b"first"
    assert system.cat(f"{name}/runs/session/fold_0/weights.pt") == b"\0" * 1000
    (home / "report.md").write_text("second", encoding="utf-8")
    assert RemoteCopy(f"s3://{name}/runs").copy(home) == 1
    system.invalidate_cache()
    assert system.cat(f"{name}/runs/session/report.md") == b"second"
    assert copy.copy(home) == 0
    assert RemoteCopy(f"s3://{name}/elsewhere").copy(home) == 2


def test_a_session_is_in_the_bucket_after_every_fold(bucket: Any, tmp_path: Path) -> None:
    name, system = bucket
    copy, after = RemoteCopy(f"s3://{name}/runs"), []

    def store(home: Path) -> None:
        copy.store(home)
        system.invalidate_cache()
        after.append({path.split("/", 3)[3] for path in system.find(f"{name}/runs")})

    photos = write_photos(tmp_path / "photos")
    home = tmp_path / "session"
    words = (f"data.folder={photos}", "pictures.draw=false", "trainer.max_steps=2")
    train(home, *words, stored=store)
    store(home)
    first, second, end = after
    assert "fold_0/embeddings.safetensors" in first
    assert not any(path.startswith("fold_1/") for path in first)
    assert "fold_1/embeddings.safetensors" in second
    assert {"report.md", "metrics.json", "out_of_fold.csv", "fold_0/matcher.pt"} <= end - second
    assert system.cat(f"{name}/runs/session/report.md") == (home / "report.md").read_bytes()


def test_a_copy_that_fails_is_one_line_and_the_next_one_makes_up_for_it(
    bucket: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, logged: list[str]
) -> None:
    name, system = bucket
    home = _session(tmp_path)
    address = f"s3://{name}/runs"
    with socket.socket() as closed:  # bound and not listening: nobody answers there
        closed.bind(("127.0.0.1", 0))
        with monkeypatch.context() as patch:
            patch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{closed.getsockname()[1]}")
            patch.setenv("AWS_MAX_ATTEMPTS", "1")
            RemoteCopy(address).store(home)
            with pytest.raises(FaultError, match=rf"cannot copy .*--resume {home}\)$"):
                RemoteCopy(address).finish(home)
    (line,) = [line for line in logged if "cannot copy" in line]
    assert "\n" not in line
    assert f"--resume {home}" in line
    assert SECRET not in line
    assert sorted(path.name for path in home.iterdir()) == ["fold_0", "owner.lock", "report.md"]
    RemoteCopy(address).store(home)
    assert system.exists(f"{name}/runs/session/report.md")


def test_a_bucket_that_is_not_there_is_said(bucket: Any, tmp_path: Path, logged: list[str]) -> None:
    RemoteCopy("s3://no-such-bucket-here/runs").store(_session(tmp_path))
    assert any("cannot copy to s3://no-such-bucket-here/runs" in line for line in logged)
    assert not any(SECRET in line for line in logged)


def test_what_is_noted_of_a_copy_has_no_secret(bucket: Any, tmp_path: Path) -> None:
    home = _session(tmp_path)
    RemoteCopy(f"s3://{bucket[0]}/runs").copy(home)
    assert SECRET not in (home / COPIED).read_text(encoding="utf-8")
    assert stat.S_ISREG((home / COPIED).stat().st_mode)


def test_a_folder_is_where_sessions_are_made(tmp_path: Path) -> None:
    config, context = composed(f"output_dir={tmp_path}", "seed=3")
    place = open_place(config, context)
    assert place.directory.parent == tmp_path
    assert place.directory.name.endswith("_seed=3")


def test_a_session_that_cannot_be_copied_at_its_end_fails_and_is_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuses(self: RemoteCopy) -> Any:
        raise OSError("no route")

    monkeypatch.setattr(RemoteCopy, "_open", refuses)
    monkeypatch.setattr("projects.product_matching.core.places.get_outputs_dir", lambda: tmp_path)
    photos = write_photos(tmp_path / "photos")
    (photos / "lone").mkdir()
    shutil.copy(photos / "p0" / "0.png", photos / "lone")
    few = ("pictures.draw=false", "trainer.max_steps=2", "output_dir=memory://runs")
    small = [word for word in SMALL if not word.startswith("trainer.max_steps")]
    config, context = composed(*small, f"data.folder={photos}", *few)
    with pytest.raises(SystemExit) as caught, exit_on_error():
        run(config, context)
    assert caught.value.code == 1
    shown = capsys.readouterr()
    assert "report: " in shown.out
    (line,) = [line for line in shown.err.splitlines() if "1 of 9 labels has one item" in line]
    assert re.match(r"\d\d:\d\d:\d\d WARNING ", line)  # as all lines, not as loguru's own
    (report,) = tmp_path.glob("product_matching/*/report.md")
    assert "1 label has one item, which" in report.read_text(encoding="utf-8")
    assert shown.err.splitlines()[-1].count("cannot copy to memory://runs: no route") == 1


@pytest.mark.parametrize(
    ("address", "message"),
    [
        ("ftp://host/place", "expected a folder, or s3://bucket/prefix"),
        ("s3://", "expected a folder, or s3://bucket/prefix"),
        ("s3:///prefix", "expected a folder, or s3://bucket/prefix"),
        ("S3://bucket/prefix", "expected a folder, or s3://bucket/prefix"),
        ("://bucket", "expected a folder, or s3://bucket/prefix"),
        ("s3://me:password@bucket/runs", "no password in the address"),
    ],
)
def test_an_address_nobody_can_write_to_is_refused(address: str, message: str) -> None:
    config, context = composed()
    config.output_dir = address
    with pytest.raises(ConfigError, match=message) as caught:
        open_place(config, context)
    assert "password@" not in str(caught.value)
