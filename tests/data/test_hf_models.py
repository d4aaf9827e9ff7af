"""Models in the store: whole repositories, single files, patterns, and what is refused."""

import hashlib
import json

import pytest

from common.data.card import Card, list_store, verify
from common.data.hf_utils import download_model
from common.testing.hub import LoopbackHub
from common.utils.errors import DataError, InputError
from common.utils.paths import get_models_dir

pytest_plugins = ["common.testing.fixtures"]

WEIGHTS = bytes(range(256)) * 100


def push_gpt2(hub: LoopbackHub) -> str:
    files = {
        ".gitattributes": b"*.bin filter=lfs",
        "README.md": b"---\nlicense: mit\n---\n",
        "config.json": b"{}",
        "pytorch_model.bin": WEIGHTS,
        "onnx/model.bin": WEIGHTS[:500],
    }
    return hub.push("models/openai-community/gpt2", files)


def test_a_whole_repository_lies_under_its_short_name(loopback_hub):
    commit = push_gpt2(loopback_hub)
    folder = download_model("gpt2")
    assert folder == get_models_dir() / "gpt2"
    assert (folder / "pytorch_model.bin").read_bytes() == WEIGHTS
    assert (folder / "onnx" / "model.bin").read_bytes() == WEIGHTS[:500]
    card = Card.read(folder)
    assert (card.repository, card.revision, card.license) == (
        "openai-community/gpt2",
        commit,
        "mit",
    )
    record = {"size": len(WEIGHTS), "sha256": hashlib.sha256(WEIGHTS).hexdigest()}
    assert card.stored_files["pytorch_model.bin"] == record
    assert verify(folder) == []


def test_one_file_fetches_that_file_and_returns_its_path(loopback_hub):
    push_gpt2(loopback_hub)
    path = download_model("gpt2", "pytorch_model.bin")
    assert path == get_models_dir() / "gpt2" / "pytorch_model.bin"
    assert path.read_bytes() == WEIGHTS
    assert not (path.parent / "config.json").exists()
    assert Card.read(path.parent).license == "mit"
    asked = len(loopback_hub.requests)
    assert download_model("gpt2", "pytorch_model.bin") == path
    assert len(loopback_hub.requests) == asked


def test_what_is_missing_is_added_from_the_same_commit(loopback_hub):
    commit = push_gpt2(loopback_hub)
    download_model("gpt2", "pytorch_model.bin")
    loopback_hub.push("models/openai-community/gpt2", {"config.json": b'{"new": 1}'})
    folder = download_model("gpt2")
    assert (folder / "config.json").read_bytes() == b"{}"
    assert Card.read(folder).revision == commit
    assert len(loopback_hub.downloads("pytorch_model.bin")) == 1
    assert verify(folder) == []


def test_patterns_choose_files(loopback_hub):
    push_gpt2(loopback_hub)
    folder = download_model("gpt2", include=["*.bin", "*.json"], exclude="onnx/*")
    assert set(Card.read(folder).stored_files) == {"config.json", "pytorch_model.bin"}
    with pytest.raises(DataError, match="no file is chosen"):
        download_model("gpt2", include="*.safetensors")
    with pytest.raises(InputError, match="not both"):
        download_model("gpt2", "config.json", include="*.json")


def test_a_wrong_file_name_is_answered_with_the_nearest(loopback_hub):
    push_gpt2(loopback_hub)
    with pytest.raises(DataError, match=r"no file 'pytorch_model\.bim'; did you mean 'pytorch_mod"):
        download_model("gpt2", "pytorch_model.bim")
    assert list_store("models") == []


def test_an_old_name_that_the_hub_redirects_gets_its_real_repository_in_the_card(loopback_hub):
    loopback_hub.push("models/acme/tiny-net", {"config.json": b"{}"})
    loopback_hub.move("models/tiny-net", "models/acme/tiny-net")
    assert Card.read(download_model("tiny-net")).repository == "acme/tiny-net"


def test_an_honest_weight_index_is_stored(loopback_hub):
    index = {"weight_map": {"layer.0": "model-1.safetensors"}}
    files = {
        "sub/model.safetensors.index.json": json.dumps(index).encode(),
        "sub/model-1.safetensors": b"0",
    }
    loopback_hub.push("models/acme/sharded", files)
    assert (download_model("acme/sharded") / "sub" / "model-1.safetensors").is_file()


def test_a_file_that_would_hide_the_card_is_refused(loopback_hub):
    loopback_hub.push("models/acme/carded", {"card.json": b"{}", "config.json": b"{}"})
    with pytest.raises(DataError, match=r"--exclude card\.json"):
        download_model("acme/carded")
    assert download_model("acme/carded", exclude="card.json").is_dir()
