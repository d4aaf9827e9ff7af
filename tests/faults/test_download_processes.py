"""Several processes, dying processes, a full disk, and no network at all (rows 18, 19 and 21)."""

import multiprocessing
import os
import resource
import shutil
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import pytest

from common.data.card import list_store, verify
from common.data.hf_utils import download_dataset, fetch_dataset
from common.utils.errors import DownloadError, RepriseError
from common.utils.paths import get_datasets_dir

pytest_plugins = ["common.testing.fixtures"]

CSV = b"text,label\n" + b"".join(b"row %d,%d\n" % (i, i % 2) for i in range(1000))
FILE = "*/resolve/*/train.csv"

_processes = multiprocessing.get_context("forkserver")
_processes.set_forkserver_preload(["datasets", "huggingface_hub.utils", "common.data.hf_utils"])


def _download(environment, barrier, answers, limit: int | None = None) -> None:
    os.environ.update(environment)
    if limit is not None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
    barrier.wait()
    try:
        answers.put(sorted(download_dataset("acme/tiny")["train"]["text"])[:2])
    except RepriseError as error:
        answers.put(error)


@contextmanager
def _downloads(count: int, limit: int | None = None):
    """Processes that download at the same moment, and the queue of their answers."""
    barrier, answers = _processes.Barrier(count), _processes.Queue()
    work = (dict(os.environ), barrier, answers, limit)
    running = [_processes.Process(target=_download, args=work, daemon=True) for _ in range(count)]
    for process in running:
        process.start()
    try:
        yield running, answers
    finally:
        for process in running:
            process.kill()
            process.join()


@pytest.fixture
def hub(loopback_hub):
    loopback_hub.push("datasets/acme/tiny", {"README.md": b"tiny", "train.csv": CSV})
    return loopback_hub


@pytest.mark.fault(18)
@pytest.mark.parametrize("count", [2, 8])
def test_processes_that_start_cold_download_once(hub, count):
    hub.fail(FILE, delay=0.5)  # long enough for all to arrive
    with _downloads(count) as (running, answers):
        assert [answers.get(timeout=60) for _ in running] == [["row 0", "row 1"]] * count
    assert len(hub.downloads("train.csv")) == 1
    assert len(hub.requests) == 4  # revision, listing, card, file
    assert verify(get_datasets_dir() / "acme__tiny") == []


@pytest.mark.fault(19)
def test_the_next_process_proceeds_when_one_dies_with_the_lock(hub):
    fault = hub.fail(FILE, times=1, delay=60)
    leftover = get_datasets_dir() / ".tmp-acme__tiny"
    with _downloads(1):
        deadline = time.monotonic() + 30
        while fault.times:  # until the file is asked for
            assert time.monotonic() < deadline
            time.sleep(0.02)
    assert leftover.exists()
    assert list_store("datasets") == []
    started = time.monotonic()
    assert download_dataset("acme/tiny")["train"].num_rows == 1000
    assert time.monotonic() - started < 20
    assert not leftover.exists()


@pytest.mark.fault(5)
def test_a_full_disk_is_one_line_and_leaves_nothing(hub):
    with _downloads(1, limit=4096) as (_, answers):
        error = answers.get(timeout=60)
    assert error.exit_code == 1
    assert "cannot write" in str(error)
    assert "File too large" in str(error)
    assert "bytes free" in str(error)
    assert {path.name for path in get_datasets_dir().iterdir()} == {".acme__tiny.lock"}


@pytest.mark.fault(21)
@pytest.mark.parametrize("switch", ["HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"])
def test_offline_by_environment_reads_the_store_and_asks_nobody(hub, monkeypatch, switch):
    monkeypatch.setenv(switch, "1")
    expected = r"with a network, run: python tools/download_hf_dataset\.py --name acme/tiny --spl"
    with pytest.raises(DownloadError, match=expected):
        download_dataset("acme/tiny", split="train")
    assert hub.requests == []
    monkeypatch.delenv(switch)
    fetch_dataset("acme/tiny")
    asked = len(hub.requests)
    monkeypatch.setenv(switch, "1")
    assert download_dataset("acme/tiny")["train"].num_rows == 1000
    assert len(hub.requests) == asked


@pytest.mark.fault(21)
def test_a_hub_that_refuses_connections_is_reported_soon(hub, monkeypatch):
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    started = time.monotonic()
    with pytest.raises(DownloadError, match=r"no connection: .* with a network, run: python"):
        download_dataset("acme/tiny")
    assert time.monotonic() - started < 10


NO_NETWORK = """
import sys, time
contacts = []
sys.addaudithook(lambda event, args: contacts.append((event, args[1:]))
                 if event in ("socket.connect", "socket.getaddrinfo") else None)
from common.data.hf_utils import download_dataset
started = time.monotonic()
try:
    print(download_dataset("acme/tiny")["train"].num_rows, contacts)
except Exception as error:
    print(type(error).__name__, error)
print(time.monotonic() - started)
"""


def _without_network(environment: dict[str, str]) -> tuple[str, float]:
    """What ``NO_NETWORK`` prints in a network namespace that has only the loopback device."""
    if shutil.which("unshare") is None or shutil.which("ip") is None:
        pytest.skip("needs unshare and ip")
    inside = ["sh", "-c", 'ip link set lo up && exec "$@"', "sh"]
    command = ["unshare", "--net", *inside, sys.executable, "-c", NO_NETWORK]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)
    if done.returncode != 0 and "unshare" in done.stderr:
        pytest.skip(f"no network namespaces here: {done.stderr.strip()}")
    answer, seconds = done.stdout.strip().splitlines()
    return answer, float(seconds)


@pytest.mark.fault(21)
def test_without_a_network_what_is_stored_is_read_without_a_contact(hub):
    fetch_dataset("acme/tiny")
    answer, _ = _without_network(dict(os.environ))
    assert answer == "1000 []"


@pytest.mark.fault(21)
def test_without_a_network_what_is_missing_is_one_line_in_ten_seconds(hub):
    environment = {key: value for key, value in os.environ.items() if key != "HF_ENDPOINT"}
    answer, seconds = _without_network(environment)
    assert answer.startswith("DownloadError no connection to https://")
    assert answer.endswith("run: python tools/download_hf_dataset.py --name acme/tiny")
    assert seconds < 10
    assert not Path(get_datasets_dir(), "acme__tiny").exists()
