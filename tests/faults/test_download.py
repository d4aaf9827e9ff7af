"""A Hub that misbehaves, and repositories that are refused (rows 20 and 22)."""

import time

import pytest

from common.data import transfer
from common.data.card import Card, list_store, verify
from common.data.hf_utils import download_dataset, download_model
from common.utils.errors import DataError, DownloadError
from common.utils.paths import get_assets_dir, get_models_dir

pytest_plugins = ["common.testing.fixtures"]

CSV = b"text,label\nhello,0\nworld,1\n"
WEIGHTS = bytes(range(256)) * 1000
FILE = "*/resolve/*/weights.bin"


@pytest.fixture(autouse=True)
def _short_pauses(monkeypatch):
    monkeypatch.setattr(transfer, "BACKOFF", 0.01)


@pytest.fixture
def hub(loopback_hub):
    loopback_hub.push("models/acme/net", {"weights.bin": WEIGHTS, "config.json": b"{}"})
    return loopback_hub


def attempts(hub) -> int:
    return len(hub.downloads("weights.bin"))


def assert_nothing_is_left() -> None:
    assert list_store("models") == list_store("datasets") == []
    assert [p for p in get_assets_dir().rglob("*") if p.is_file() and p.suffix != ".lock"] == []


@pytest.mark.fault(20)
@pytest.mark.parametrize(
    "fault",
    [
        {"status": 503},
        {"status": 500},
        {"status": 429, "headers": {"Retry-After": "0"}},
        {"reset": True},
        {"truncate": 0},
        {"truncate": 100_000},
        {"corrupt": True},
    ],
    ids=str,
)
def test_one_fault_is_survived(hub, fault):
    hub.fail(FILE, times=1, **fault)
    assert download_model("acme/net", "weights.bin").read_bytes() == WEIGHTS
    assert attempts(hub) == 2


@pytest.mark.fault(20)
@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        ({"status": 503}, "HTTP 503"),
        ({"status": 429}, "HTTP 429"),
        ({"reset": True}, "reset"),
        ({"truncate": 0}, "closed"),
    ],
    ids=str,
)
def test_a_lasting_fault_is_a_line_with_url_and_attempts(hub, fault, reason):
    hub.fail(FILE, **fault)
    with pytest.raises(DownloadError) as raised:
        download_model("acme/net")
    message = str(raised.value)
    assert f"{hub.url}/acme/net/resolve/" in message
    assert "/weights.bin: " in message
    assert reason in message
    assert "gave up after 5 attempts" in message
    assert "\n" not in message
    assert attempts(hub) == 5
    assert_nothing_is_left()


@pytest.mark.fault(20)
def test_a_transfer_that_always_breaks_off_is_resumed_until_it_is_whole(hub):
    hub.fail(FILE, truncate=60_000)
    assert download_model("acme/net", "weights.bin").read_bytes() == WEIGHTS
    ranges = [request.headers.get("Range") for request in hub.downloads("weights.bin")]
    assert ranges == [None] + [f"bytes={n * 60_000}-" for n in (1, 2, 3, 4)]


@pytest.mark.fault(20)
def test_wrong_bytes_of_the_right_length_are_caught(hub):
    hub.fail(FILE, corrupt=True)
    with pytest.raises(DownloadError, match=r"wrong bytes arrived: SHA-256 .* after 2 attempts"):
        download_model("acme/net")
    assert_nothing_is_left()


@pytest.mark.fault(20)
def test_wrong_bytes_of_a_small_file_are_caught_by_its_blob_id(hub):
    hub.fail("*/config.json", corrupt=True)
    with pytest.raises(DownloadError, match=r"config.json: wrong bytes arrived: blob id"):
        download_model("acme/net")
    assert_nothing_is_left()


@pytest.mark.fault(20)
def test_a_server_that_asks_for_time_is_given_it(hub):
    hub.fail(FILE, times=1, status=429, headers={"Retry-After": "1"})
    started = time.monotonic()
    download_model("acme/net", "weights.bin")
    assert time.monotonic() - started >= 1.0


@pytest.mark.fault(20)
def test_a_server_that_asks_for_an_hour_is_not_waited_for(hub):
    hub.fail(FILE, status=429, headers={"Retry-After": "3600"})
    with pytest.raises(DownloadError, match="asks to wait 3,600 s"):
        download_model("acme/net")
    assert attempts(hub) == 1


@pytest.mark.fault(20)
def test_a_slow_server_is_waited_for_and_then_asked_again(hub, monkeypatch):
    monkeypatch.setattr(transfer, "_READ_SECONDS", 0.5)
    hub.fail(FILE, times=1, delay=0.1)
    assert download_model("acme/net", "weights.bin").read_bytes() == WEIGHTS
    hub.push("models/acme/slow", {"weights.bin": WEIGHTS})
    hub.fail(FILE, times=1, delay=1.5)
    assert download_model("acme/slow", "weights.bin").read_bytes() == WEIGHTS


@pytest.mark.fault(20)
def test_a_listing_that_fails_once_is_asked_again(hub):
    hub.fail("/api/models/acme/net/tree/*", times=1, status=502)
    hub.fail("/api/models/acme/net/revision/*", times=1, reset=True)
    assert download_model("acme/net").is_dir()


@pytest.mark.fault(20)
def test_a_server_that_is_no_hub_is_one_line(hub, monkeypatch):
    # Whatever is asked for, the answer is the weights.
    monkeypatch.setenv("HF_ENDPOINT", f"{hub.url}/acme/net/resolve/main/weights.bin?")
    with pytest.raises(DownloadError, match="does not answer like a Hub"):
        download_model("acme/net")
    assert_nothing_is_left()


@pytest.mark.fault(22)
def test_a_repository_with_a_loading_script_is_refused_and_the_script_not_fetched(loopback_hub):
    files = {"script.py": b"raise SystemExit('ran')", "train.csv": CSV}
    loopback_hub.push("datasets/acme/script", files)
    with pytest.raises(DataError, match=r"loading script \(script\.py\).*refs/convert/parquet"):
        download_dataset("acme/script")
    assert loopback_hub.downloads() == []
    assert_nothing_is_left()


@pytest.mark.fault(22)
def test_the_hubs_own_conversion_of_a_script_is_a_revision(loopback_hub):
    loopback_hub.push("datasets/acme/script", {"script.py": b""})
    loopback_hub.push("datasets/acme/script", {"train.csv": CSV}, branch="refs/convert/parquet")
    stored = download_dataset("acme/script", revision="refs/convert/parquet")
    assert stored["train"].num_rows == 2


@pytest.mark.fault(22)
def test_a_gated_repository_is_refused_with_the_way_in(loopback_hub, monkeypatch):
    loopback_hub.push("datasets/acme/secret", {"README.md": b"x", "train.csv": CSV})
    loopback_hub.gate("datasets/acme/secret", token="hf_right")
    for token in (None, "hf_wrong"):
        if token is not None:
            monkeypatch.setenv("HF_TOKEN", token)
        with pytest.raises(DataError, match=r"is gated: .*/datasets/acme/secret .*hf auth login"):
            download_dataset("acme/secret")
    assert_nothing_is_left()
    monkeypatch.setenv("HF_TOKEN", "hf_right")
    assert download_dataset("acme/secret")["train"].num_rows == 2


@pytest.mark.fault(22)
def test_a_missing_revision_is_named(hub):
    with pytest.raises(DataError, match=r"acme/net has no revision 'v9'; expected a branch"):
        download_model("acme/net", revision="v9")
    assert_nothing_is_left()


@pytest.mark.fault(22)
def test_a_branch_that_moved_changes_nothing_that_is_stored(loopback_hub):
    old = loopback_hub.push("datasets/acme/tiny", {"train.csv": CSV})
    folder = get_assets_dir() / "datasets" / "acme__tiny"
    download_dataset("acme/tiny")
    new = loopback_hub.push("datasets/acme/tiny", {"train.csv": CSV + b"again,1\n"})
    assert download_dataset("acme/tiny")["train"].num_rows == 2
    assert download_dataset("acme/tiny", revision="main")["train"].num_rows == 2
    assert Card.read(folder).revision == old
    assert download_dataset("acme/tiny", revision=new)["train"].num_rows == 3
    assert (Card.read(folder).revision, Card.read(folder).requested_revision) == (new, new)
    assert download_dataset("acme/tiny", revision=old)["train"].num_rows == 2
    assert verify(folder) == []


@pytest.mark.fault(22)
def test_another_revision_of_a_model_replaces_it(hub):
    download_model("acme/net")
    new = hub.push("models/acme/net", {"config.json": None, "weights.bin": b"new"})
    folder = download_model("acme/net", revision=new)
    assert (folder / "weights.bin").read_bytes() == b"new"
    assert not (folder / "config.json").exists()
    assert {path.name for path in get_models_dir().iterdir()} == {"acme__net", ".acme__net.lock"}
