"""The loopback Hub, seen through the clients that people use."""

import json
import os
import subprocess
import sys
import urllib.error
import urllib.request

import huggingface_hub
import pytest
from huggingface_hub.errors import (
    EntryNotFoundError,
    GatedRepoError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from common.testing.hub import LoopbackHub

pytest_plugins = ["common.testing.fixtures"]

WEIGHTS = bytes(range(256)) * 100
CSV = b"text,label\nhello,0\nworld,1\n"


@pytest.fixture
def api(loopback_hub):
    files = {"config.json": b"{}", "model.safetensors": WEIGHTS, "sub/vocab.txt": b"a\nb\n"}
    loopback_hub.push("models/acme/net", files)
    return huggingface_hub.HfApi(endpoint=loopback_hub.url)


def test_the_hub_client_reads_info_and_listing(api, loopback_hub):
    info = api.model_info("acme/net")
    assert info.sha == loopback_hub.repositories["models/acme/net"].branches["main"]
    entries = {entry.path: entry for entry in api.list_repo_tree("acme/net", recursive=True)}
    assert set(entries) == {"config.json", "model.safetensors", "sub", "sub/vocab.txt"}
    assert entries["model.safetensors"].lfs.size == len(WEIGHTS)
    assert entries["config.json"].lfs is None
    # `printf '{}' | git hash-object --stdin`
    assert entries["config.json"].blob_id == "9e26dfeeb6e641a33dae4961196235bdb965b21b"
    assert [entry.path for entry in api.list_repo_tree("acme/net", "sub")] == ["sub/vocab.txt"]
    assert [entry.path for entry in api.get_paths_info("acme/net", ["sub"])] == ["sub"]
    assert [branch.name for branch in api.list_repo_refs("acme/net").branches] == ["main"]


def test_the_hub_client_downloads_a_snapshot(api, tmp_path):
    folder = api.snapshot_download("acme/net", cache_dir=tmp_path / "cache")
    with open(f"{folder}/model.safetensors", "rb") as file:
        assert file.read() == WEIGHTS
    with open(f"{folder}/sub/vocab.txt", "rb") as file:
        assert file.read() == b"a\nb\n"


def test_the_hub_client_understands_every_refusal(api, loopback_hub, tmp_path):
    with pytest.raises(RepositoryNotFoundError):
        api.model_info("acme/missing")
    with pytest.raises(RevisionNotFoundError):
        api.model_info("acme/net", revision="v9")
    with pytest.raises(EntryNotFoundError):
        api.hf_hub_download("acme/net", "nope.bin", cache_dir=tmp_path)
    loopback_hub.gate("models/acme/net", token="hf_right")
    with pytest.raises(GatedRepoError):
        api.hf_hub_download("acme/net", "config.json", cache_dir=tmp_path, token="hf_wrong")
    assert api.hf_hub_download("acme/net", "config.json", cache_dir=tmp_path, token="hf_right")


def test_datasets_loads_a_repository_from_it(loopback_hub, tmp_path):
    loopback_hub.push("datasets/acme/tiny", {"train.csv": CSV, "test.csv": CSV})
    code = "from datasets import load_dataset; print(load_dataset('acme/tiny').num_rows)"
    environment = loopback_hub.environment(tmp_path)
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)
    assert done.stdout.strip() == "{'train': 2, 'test': 2}", done.stderr


def test_a_branch_moves_and_old_commits_stay(loopback_hub, api, tmp_path):
    old = api.model_info("acme/net").sha
    new = loopback_hub.push("models/acme/net", {"config.json": b'{"a": 1}', "sub/vocab.txt": None})
    assert api.model_info("acme/net").sha == new != old
    for revision, content in ((old, "{}"), (new, '{"a": 1}')):
        path = api.hf_hub_download("acme/net", "config.json", revision=revision, cache_dir=tmp_path)
        with open(path) as file:
            assert file.read() == content
    assert "sub/vocab.txt" not in api.list_repo_files("acme/net")
    assert "sub/vocab.txt" in api.list_repo_files("acme/net", revision=old)


def test_a_range_is_answered_with_that_part(loopback_hub, api):
    url = f"{loopback_hub.url}/acme/net/resolve/main/model.safetensors"
    request = urllib.request.Request(url, headers={"Range": "bytes=100-199"})
    with urllib.request.urlopen(request) as response:
        assert (response.status, response.read()) == (206, WEIGHTS[100:200])
        assert response.headers["Content-Range"] == f"bytes 100-199/{len(WEIGHTS)}"
    request = urllib.request.Request(url, headers={"Range": f"bytes={len(WEIGHTS)}-"})
    with pytest.raises(urllib.error.HTTPError, match="416"):
        urllib.request.urlopen(request)


def test_a_fault_strikes_as_often_as_it_is_told_and_requests_are_recorded(loopback_hub, api):
    url = f"{loopback_hub.url}/acme/net/resolve/main/config.json"
    loopback_hub.fail("*/config.json", times=2, status=503)
    for _ in range(2):
        with pytest.raises(urllib.error.HTTPError, match="503"):
            urllib.request.urlopen(url)
    assert urllib.request.urlopen(url).read() == b"{}"
    assert [request.status for request in loopback_hub.downloads("config.json")] == [503, 503, 200]
    loopback_hub.fail("*/config.json", reset=True)
    with pytest.raises(ConnectionResetError):
        urllib.request.urlopen(url)
    loopback_hub.heal()
    assert urllib.request.urlopen(url).read() == b"{}"


def test_a_folder_is_served_from_the_command_line(tmp_path):
    (tmp_path / "datasets" / "acme" / "tiny").mkdir(parents=True)
    (tmp_path / "datasets" / "acme" / "tiny" / "train.csv").write_bytes(CSV)
    command = [sys.executable, "-m", "common.testing.hub", "--serve", str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        try:
            url = process.stdout.readline().decode().strip()
            with urllib.request.urlopen(f"{url}/api/datasets/acme/tiny") as response:
                info = json.load(response)
        finally:
            process.send_signal(2)
            _, complaints = process.communicate(timeout=20)
    assert info["siblings"] == [{"rfilename": "train.csv"}]
    assert complaints == b""
    assert process.returncode == 0


def test_the_environment_hides_tokens_and_proxies(loopback_hub, monkeypatch, tmp_path):
    monkeypatch.setenv("HF_TOKEN", "hf_mine")
    monkeypatch.setenv("https_proxy", "http://proxy:3128")
    environment = loopback_hub.environment(tmp_path)
    assert environment["HF_ENDPOINT"] == loopback_hub.url
    assert not {"HF_TOKEN", "https_proxy"} & environment.keys()
    assert environment["PATH"] == os.environ["PATH"]


def test_it_listens_on_loopback_only():
    with LoopbackHub() as hub:
        assert hub.url.startswith("http://127.0.0.1:")
