"""Names that would leave the store, and links planted where something is written (rows 14, 16, 17)."""

import json
import os

import pytest

from common.data.card import list_store
from common.data.hf_utils import download_dataset, download_model, link_dataset
from common.utils.errors import DataError, FaultError, UnsafeNameError
from common.utils.paths import get_assets_dir, get_datasets_dir, get_models_dir

pytest_plugins = ["common.testing.fixtures"]

UNSAFE = [
    "",
    "../squad",
    "squad/../..",
    "/etc/passwd",
    "a/b/c",
    "squad\0.txt",
    "squad\n",
    "x" * 300,
    "-rf",
    ".hidden",
    "..\\squad",
    "squad\u202eexe",
    "acme/with space",
    "acme/naïve",
    "acme/a@b",
]
CSV = b"text,label\nhello,0\nworld,1\n"


@pytest.mark.fault(14)
@pytest.mark.parametrize("name", UNSAFE)
@pytest.mark.parametrize("use", [download_dataset, download_model, lambda n: link_dataset(n, ".")])
def test_unsafe_names_are_refused_before_anything_is_asked_or_created(loopback_hub, use, name):
    with pytest.raises(UnsafeNameError):
        use(name)
    assert not any(get_assets_dir().iterdir())
    assert loopback_hub.requests == []


@pytest.mark.fault(14)
@pytest.mark.parametrize("text", ["../x", "-x", "a\0", "x" * 300])
def test_unsafe_configurations_revisions_and_files_are_refused(loopback_hub, text):
    for arguments in ({"config": text}, {"revision": text}):
        with pytest.raises(UnsafeNameError):
            download_dataset("squad", **arguments)
    for arguments in ({"filename": text}, {"revision": text}):
        with pytest.raises(UnsafeNameError):
            download_model("gpt2", **arguments)
    assert loopback_hub.requests == []


def _list_file(hub, path: str) -> None:
    """Make the Hub list a file under a name that git would never hold."""
    hub.push("models/acme/evil", {"config.json": b"{}", path: b"owned"})


@pytest.mark.fault(14)
@pytest.mark.parametrize("path", ["../evil.txt", "sub/../../evil.txt", "/evil.txt", "a\\b", "a\nb"])
def test_unsafe_names_that_the_hub_lists_are_refused(loopback_hub, path):
    _list_file(loopback_hub, path)
    with pytest.raises(UnsafeNameError, match=r"of acme/evil"):
        download_model("acme/evil")
    assert list_store("models") == []
    assert not list(get_assets_dir().rglob("evil.txt"))
    assert loopback_hub.downloads() == []


@pytest.mark.fault(14)
@pytest.mark.parametrize(
    "place",
    ["/etc/hostname", "../../secret.csv", "https://example.org/x.csv", "zip://x.csv::/tmp/a.zip"],
)
def test_a_card_that_names_data_outside_its_repository_is_refused(loopback_hub, place):
    readme = f"---\nconfigs:\n- config_name: default\n  data_files: '{place}'\n---\n".encode()
    loopback_hub.push("datasets/acme/evil", {"README.md": readme, "train.csv": CSV})
    with pytest.raises(DataError, match="names data outside itself"):
        download_dataset("acme/evil")
    assert list_store("datasets") == []


@pytest.mark.fault(16)
def test_a_link_at_the_target_is_refused(loopback_hub, tmp_path):
    loopback_hub.push("datasets/acme/tiny", {"train.csv": CSV})
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    get_datasets_dir().mkdir()
    (get_datasets_dir() / "acme__tiny").symlink_to(elsewhere)
    with pytest.raises(DataError, match="is a link"):
        download_dataset("acme/tiny")
    assert not any(elsewhere.iterdir())


@pytest.mark.fault(16)
def test_a_link_at_the_lock_or_the_temporary_folder_is_not_followed(loopback_hub, tmp_path):
    loopback_hub.push("datasets/acme/tiny", {"train.csv": CSV})
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    get_datasets_dir().mkdir()
    (get_datasets_dir() / ".tmp-acme__tiny").symlink_to(elsewhere)
    assert download_dataset("acme/tiny")["train"].num_rows == 2
    (get_datasets_dir() / ".acme__more.lock").symlink_to(tmp_path / "made-by-lock")
    loopback_hub.push("datasets/acme/more", {"train.csv": CSV})
    with pytest.raises(FaultError, match="cannot write"):
        download_dataset("acme/more")
    assert not any(elsewhere.iterdir())
    assert not (tmp_path / "made-by-lock").exists()


@pytest.mark.fault(16)
def test_links_inside_a_model_are_not_followed_when_files_are_added(loopback_hub, tmp_path):
    files = {"config.json": b"{}", "sub/weights.bin": b"w", "weights.bin": b"w"}
    loopback_hub.push("models/acme/net", files)
    folder = download_model("acme/net", "config.json").parent
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (folder / "weights.bin").symlink_to("config.json")
    assert download_model("acme/net", "weights.bin").read_bytes() == b"w"
    assert (folder / "config.json").read_bytes() == b"{}"
    (folder / "sub").symlink_to(elsewhere)
    with pytest.raises(UnsafeNameError, match="leads out"):
        download_model("acme/net")
    assert not any(elsewhere.iterdir())


@pytest.mark.fault(17)
def test_a_fifo_in_the_store_does_not_hang(loopback_hub):
    loopback_hub.push("models/acme/net", {"config.json": b"{}"})
    folder = get_models_dir() / "acme__net"
    folder.mkdir(parents=True)
    os.mkfifo(folder / "card.json")
    with pytest.raises(DataError, match="not from the store"):
        download_model("acme/net")


@pytest.mark.fault(17)
@pytest.mark.parametrize("shard", ["../../etc/passwd", "/etc/passwd", "weights.fifo"])
def test_a_weight_index_that_names_files_outside_the_repository_is_refused(loopback_hub, shard):
    index = {"weight_map": {"layer.0": "model-1.safetensors", "layer.1": shard}}
    files = {
        "model.safetensors.index.json": json.dumps(index).encode(),
        "model-1.safetensors": b"0",
    }
    loopback_hub.push("models/acme/sharded", files)
    with pytest.raises((UnsafeNameError, DataError), match="names"):
        download_model("acme/sharded")
    assert list_store("models") == []
