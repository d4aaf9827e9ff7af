"""Data sets in the store: where they lie, what is fetched for them, and what their cards say."""

import hashlib
import io
import json
import os
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from common.data.card import Card, list_store, verify
from common.data.hf_utils import download_dataset, fetch_dataset, link_dataset
from common.testing.hub import LoopbackHub
from common.utils.errors import DataError, InputError
from common.utils.paths import get_datasets_dir

pytest_plugins = ["common.testing.fixtures"]

CSV = b"text,label\nhello,0\nworld,1\n"
TWO_CONFIGS = b"""---
license: [mit, other]
license_name: house-rules
configs:
- config_name: de-en
  data_files:
  - {split: train, path: de-en/train-*}
  - {split: test, path: de-en/test-*}
- config_name: fr-en
  data_files: [{split: train, path: fr-en/train-*}]
---
"""


def parquet(rows: int) -> bytes:
    sink = io.BytesIO()
    pq.write_table(pa.table({"x": list(range(rows)), "s": [f"s{i}" for i in range(rows)]}), sink)
    return sink.getvalue()


def push_wmt(hub: LoopbackHub) -> str:
    files = {
        "README.md": TWO_CONFIGS,
        "de-en/train-0-of-2.parquet": parquet(30),
        "de-en/train-1-of-2.parquet": parquet(20),
        "de-en/test-0-of-1.parquet": parquet(7),
        "fr-en/train-0-of-1.parquet": parquet(5),
    }
    return hub.push("datasets/wmt/wmt14", files)


def push_squad(hub: LoopbackHub) -> str:
    readme = b"---\nlicense: cc-by-sa-4.0\n---\nquestions\n"
    return hub.push(
        "datasets/rajpurkar/squad", {"README.md": readme, "data/train-0.parquet": parquet(4)}
    )


def test_a_short_name_is_its_folder_and_load_from_disk_reads_it(loopback_hub):
    push_squad(loopback_hub)
    returned = download_dataset("squad")
    stored = datasets.load_from_disk(str(get_datasets_dir() / "squad"))
    assert returned["train"]["s"] == stored["train"]["s"] == ["s0", "s1", "s2", "s3"]


def test_a_namespace_becomes_a_prefix(loopback_hub):
    push_squad(loopback_hub)
    assert fetch_dataset("rajpurkar/squad") == get_datasets_dir() / "rajpurkar__squad"


def test_the_card_says_where_the_data_came_from(loopback_hub):
    commit = push_squad(loopback_hub)
    folder = fetch_dataset("squad")
    card = json.loads((folder / "card.json").read_text())
    assert card["name"] == "squad"
    assert card["repository"] == "rajpurkar/squad"
    assert (card["requested_revision"], card["revision"]) == ("main", commit)
    assert card["license"] == "cc-by-sa-4.0"
    assert card["splits"] == {"train": 4}
    source = parquet(4)
    assert card["source_files"] == {
        "data/train-0.parquet": {"size": len(source), "sha256": hashlib.sha256(source).hexdigest()}
    }
    on_disk = {str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file()}
    assert card["stored_files"].keys() == on_disk - {"card.json"}
    for name, record in card["stored_files"].items():
        assert hashlib.sha256((folder / name).read_bytes()).hexdigest() == record["sha256"]


def test_a_complete_data_set_is_read_without_any_request(loopback_hub):
    push_squad(loopback_hub)
    download_dataset("squad")
    asked = len(loopback_hub.requests)
    assert download_dataset("squad", split="train").num_rows == 4
    assert download_dataset("squad", config="default", revision="main")["train"].num_rows == 4
    assert len(loopback_hub.requests) == asked


def test_one_split_of_one_configuration_fetches_its_files_only(loopback_hub):
    push_wmt(loopback_hub)
    train = download_dataset("wmt14", "de-en", "train")
    assert train.num_rows == 50
    fetched = {
        request.path.split("/resolve/")[1].split("/", 1)[1] for request in loopback_hub.downloads()
    }
    assert fetched == {"README.md", "de-en/train-0-of-2.parquet", "de-en/train-1-of-2.parquet"}


def test_a_split_alone_is_stored_as_a_dictionary_that_another_split_completes(loopback_hub):
    push_wmt(loopback_hub)
    folder = fetch_dataset("wmt14", "de-en", "train")
    assert {k: len(v) for k, v in datasets.load_from_disk(str(folder)).items()} == {"train": 50}
    fetch_dataset("wmt14", "de-en", "test")
    both = datasets.load_from_disk(str(folder))
    assert {k: len(v) for k, v in both.items()} == {"train": 50, "test": 7}
    assert verify(folder) == []
    assert len(loopback_hub.downloads("de-en/train-*")) == 2
    asked = len(loopback_hub.requests)
    assert set(download_dataset("wmt14", "de-en")) == {"train", "test"}
    assert len(loopback_hub.requests) == asked


def test_a_split_is_completed_from_the_commit_that_is_stored(loopback_hub):
    commit = push_wmt(loopback_hub)
    fetch_dataset("wmt14", "de-en", "train")
    loopback_hub.push("datasets/wmt/wmt14", {"de-en/test-0-of-1.parquet": parquet(99)})
    assert download_dataset("wmt14", "de-en", "test").num_rows == 7
    assert Card.read(get_datasets_dir() / "wmt14").revision == commit


def test_a_second_configuration_lies_beside_the_first(loopback_hub):
    push_wmt(loopback_hub)
    assert fetch_dataset("wmt14", "de-en", "test").name == "wmt14"
    assert fetch_dataset("wmt14", "fr-en").name == "wmt14@fr-en"
    assert fetch_dataset("wmt14", "de-en", "test").name == "wmt14"
    assert [(path.name, card.config) for path, card in list_store("datasets")] == [
        ("wmt14", "de-en"),
        ("wmt14@fr-en", "fr-en"),
    ]


@pytest.mark.parametrize("stored", [False, True])
def test_a_configuration_that_is_not_named_is_asked_for(loopback_hub, stored):
    push_wmt(loopback_hub)
    if stored:
        fetch_dataset("wmt14", "fr-en")
    with pytest.raises(DataError, match="several configurations, choose one: de-en, fr-en"):
        download_dataset("wmt14")


def test_wrong_names_are_answered_with_the_nearest(loopback_hub):
    push_wmt(loopback_hub)
    with pytest.raises(DataError, match=r"no configuration 'de-eng'; did you mean 'de-en'\?"):
        download_dataset("wmt14", "de-eng")
    with pytest.raises(DataError, match=r"no split 'trian'; did you mean 'train'\?"):
        download_dataset("wmt14", "de-en", "trian")
    with pytest.raises(DataError, match=r"no data set 'wmt144'.*did you mean 'wmt14'\?"):
        download_dataset("wmt144")
    with pytest.raises(InputError, match="needs no download"):
        download_dataset("embedded/digits")
    assert list_store("datasets") == []


def test_licences_of_every_form_reach_the_card(loopback_hub):
    push_wmt(loopback_hub)
    assert Card.read(fetch_dataset("wmt14", "fr-en")).license == "mit, house-rules"
    loopback_hub.push("datasets/acme/plain", {"train.csv": CSV})
    assert Card.read(fetch_dataset("acme/plain")).license == "unknown"


def test_dest_is_the_folder_itself(loopback_hub, tmp_path):
    push_squad(loopback_hub)
    folder = tmp_path / "elsewhere"
    assert fetch_dataset("squad", dest=folder) == folder
    assert datasets.load_from_disk(str(folder))["train"].num_rows == 4
    assert not get_datasets_dir().exists()


def test_what_is_not_from_the_store_is_not_overwritten(loopback_hub, tmp_path):
    push_squad(loopback_hub)
    (tmp_path / "precious").mkdir()
    (tmp_path / "precious" / "thesis.txt").write_text("ten years")
    with pytest.raises(DataError, match="not from the store"):
        download_dataset("squad", dest=tmp_path / "precious")
    fetch_dataset("squad", dest=tmp_path / "squad")
    with pytest.raises(DataError, match="holds squad, not rajpurkar/squad"):
        download_dataset("rajpurkar/squad", dest=tmp_path / "squad")


def test_a_zip_archive_of_tables_is_read(loopback_hub):
    sink = io.BytesIO()
    with zipfile.ZipFile(sink, "w") as archive:
        archive.writestr("train.csv", CSV)
    loopback_hub.push("datasets/acme/zipped", {"data.zip": sink.getvalue()})
    assert download_dataset("acme/zipped", split="train")["text"] == ["hello", "world"]


def test_a_place_that_datasets_would_take_for_a_pattern_is_refused(loopback_hub, tmp_path):
    push_squad(loopback_hub)
    with pytest.raises(DataError, match=r"has \* \[ in its name"):
        download_dataset("squad", dest=tmp_path / "[1]*" / "squad")


def test_fewer_rows_than_the_repository_promises_are_refused(loopback_hub):
    readme = b"""---
dataset_info:
  features: [{name: text, dtype: string}, {name: label, dtype: int64}]
  splits: [{name: train, num_examples: 3}]
---
"""
    loopback_hub.push("datasets/acme/short", {"README.md": readme, "train.csv": CSV})
    with pytest.raises(DataError, match="promises 3 rows in 'train', its files have 2"):
        download_dataset("acme/short")
    assert list_store("datasets") == []


def test_files_that_cannot_be_read_are_one_line(loopback_hub):
    loopback_hub.push("datasets/acme/broken", {"train.parquet": b"PAR1 no table PAR1"})
    with pytest.raises(DataError, match=r"^acme/broken cannot be read: [^\n]+$"):
        download_dataset("acme/broken")
    assert list_store("datasets") == []


def test_verify_finds_a_flipped_byte_and_a_missing_file(loopback_hub):
    push_squad(loopback_hub)
    folder = fetch_dataset("squad")
    (folder / "train" / "cache-1234.arrow").write_bytes(b"made by Dataset.map")
    assert verify(folder) == []
    table = next((folder / "train").glob("data-*.arrow"))
    content = bytearray(table.read_bytes())
    content[len(content) // 2] ^= 1
    table.write_bytes(content)
    (folder / "train" / "state.json").unlink()
    assert verify(folder) == [
        f"train/{table.name} has other bytes than were stored (SHA-256 differs)",
        "train/state.json is missing",
    ]


def test_a_damaged_data_set_is_one_line(loopback_hub):
    push_squad(loopback_hub)
    folder = fetch_dataset("squad")
    (folder / "train" / "state.json").unlink()
    with pytest.raises(DataError, match="is damaged"):
        download_dataset("squad")
    (folder / "card.json").write_text("{")
    with pytest.raises(DataError, match=r"card\.json is damaged"):
        download_dataset("squad")


def test_link_is_relative_and_can_be_made_again(loopback_hub, tmp_path, monkeypatch):
    push_squad(loopback_hub)
    target = fetch_dataset("squad")
    paper = tmp_path / "papers" / "x"
    paper.mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    for _ in range(2):
        link = link_dataset("squad", "papers/x")
        assert link == paper / "data"
        assert not link.readlink().is_absolute()
        assert link.resolve() == target
    assert datasets.load_from_disk(str(link))["train"].num_rows == 4
    assert [path.name for path in paper.iterdir()] == ["data"]


def test_link_replaces_no_real_folder(loopback_hub, tmp_path):
    push_squad(loopback_hub)
    with pytest.raises(DataError, match=r"not in the store; fetch it first: python .*--name squad"):
        link_dataset("squad", tmp_path)
    fetch_dataset("squad")
    (tmp_path / "data").mkdir()
    with pytest.raises(DataError, match="is no link"):
        link_dataset("squad", tmp_path)
    with pytest.raises(DataError, match="no folder"):
        link_dataset("squad", tmp_path / "missing")


def test_importing_the_downloads_imports_neither_datasets_nor_the_hub_client():
    code = "import sys, common.data.hf_utils; print({'datasets', 'huggingface_hub'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


def test_columns_that_differ_between_splits_are_not_mixed(loopback_hub):
    files = {"train.csv": CSV, "test.csv": b"text,label\nhello,none\n"}
    loopback_hub.push("datasets/acme/mixed", files)
    folder = fetch_dataset("acme/mixed", split="train")
    with pytest.raises(DataError, match="has other columns"):
        fetch_dataset("acme/mixed", split="test")
    assert set(datasets.load_from_disk(str(folder))) == {"train"}
    assert verify(folder) == []


def test_folders_are_readable_by_others_as_the_umask_says(loopback_hub):
    push_squad(loopback_hub)
    previous = os.umask(0o022)
    try:
        folder = fetch_dataset("squad")
    finally:
        os.umask(previous)
    assert folder.stat().st_mode & 0o777 == 0o755
    assert re.fullmatch("[0-9a-f]{40}", Card.read(folder).revision)
    assert Path(folder, "train").is_dir()
