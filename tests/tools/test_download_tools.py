"""The download tools, as people type them."""

import os
import runpy
import subprocess
import sys

import datasets
import pytest

from common.utils.paths import get_datasets_dir, get_models_dir, get_project_root

pytest_plugins = ["common.testing.fixtures"]

TOOLS = get_project_root() / "tools"
CSV = b"text,label\nhello,0\nworld,1\n"


@pytest.fixture
def hub(loopback_hub):
    loopback_hub.push("datasets/rajpurkar/squad", {"validation.csv": CSV})
    loopback_hub.push("models/openai-community/gpt2", {"config.json": b"{}", "a.bin": b"w"})
    return loopback_hub


@pytest.fixture
def type_line(monkeypatch, capsys):
    """Run a tool in this process: ``type_line("download_hf_dataset.py --name squad")``."""

    def run(line: str) -> tuple[int, str, str]:
        tool, *words = line.split()
        monkeypatch.setattr(sys, "argv", [tool, *words])
        code: object = 0
        try:
            runpy.run_path(str(TOOLS / tool), run_name="__main__")
        except SystemExit as stop:
            code = stop.code
        out, err = capsys.readouterr()
        return (code if isinstance(code, int) else 1), out, err

    return run


def test_it_runs_as_a_program_from_any_directory(hub, tmp_path):
    # The first line of the file says `env python`: the activated environment's.
    environment = dict(os.environ) | {"PATH": f"{sys.prefix}/bin:/usr/bin:/bin"}
    command = [str(TOOLS / "download_hf_dataset.py"), "--name", "squad"]
    done = subprocess.run(
        command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[0] == str(get_datasets_dir() / "squad")
    assert all(os.access(path, os.X_OK) for path in TOOLS.glob("download_*.py"))


def test_repo_id_takes_the_whole_repository_and_filename_one_file(hub, type_line):
    _, out, _ = type_line("download_hf_model.py --repo-id gpt2 --filename a.bin")
    assert out.strip() == str(get_models_dir() / "gpt2" / "a.bin")
    _, out, _ = type_line("download_hf_model.py --repo-id gpt2")
    assert out.strip() == str(get_models_dir() / "gpt2")
    assert (get_models_dir() / "gpt2" / "config.json").read_text() == "{}"


def test_name_squad_ends_in_what_load_from_disk_reads(hub, type_line):
    code, out, _ = type_line("download_hf_dataset.py --name squad")
    assert code == 0
    assert "validation 2" in out
    assert datasets.load_from_disk(get_datasets_dir() / "squad")["validation"].num_rows == 2


def test_a_second_call_asks_nobody(hub, type_line):
    type_line("download_hf_dataset.py --name squad")
    type_line("download_hf_model.py --repo-id gpt2")
    asked = len(hub.requests)
    assert type_line("download_hf_dataset.py --name squad --split validation")[0] == 0
    assert type_line("download_hf_model.py --repo-id gpt2 --filename a.bin")[0] == 0
    assert len(hub.requests) == asked


def test_link_makes_the_link(hub, type_line, tmp_path):
    code, out, _ = type_line(f"download_hf_dataset.py --name squad --link {tmp_path}")
    assert code == 0
    assert (tmp_path / "data").resolve() == get_datasets_dir() / "squad"
    assert f"{tmp_path}/data -> ../" in out


def test_list_shows_what_is_stored(hub, type_line):
    assert "holds no data sets" in type_line("download_hf_dataset.py --list")[1]
    type_line("download_hf_dataset.py --name squad")
    type_line("download_hf_model.py --repo-id gpt2 --include *.json")
    _, out, _ = type_line("download_hf_dataset.py --list")
    row = next(line for line in out.splitlines() if "rajpurkar/squad" in line)
    assert "validation 2" in row
    assert "unknown" in row
    _, out, _ = type_line("download_hf_model.py --list")
    assert "1 of 2" in next(line for line in out.splitlines() if "openai-community/gpt2" in line)


def test_verify_tells_whole_from_damaged(hub, type_line):
    type_line("download_hf_dataset.py --name squad")
    code, out, _ = type_line("download_hf_dataset.py --verify")
    assert (code, out.split(":")[0]) == (0, "squad")
    next(get_datasets_dir().rglob("data-*.arrow")).write_bytes(b"")
    code, _, err = type_line("download_hf_dataset.py --verify --name squad")
    assert code == 1
    assert "has 0 bytes, expected" in err
    assert err.count("\n") == 1
    assert type_line("download_hf_dataset.py --verify --name glue")[0] == 2


@pytest.mark.parametrize(
    ("line", "code", "reason"),
    [
        ("download_hf_dataset.py --name ../squad", 2, "not a plain name"),
        ("download_hf_dataset.py --name squad --split validaton", 2, "did you mean 'validation'?"),
        ("download_hf_dataset.py --name squad --revision v9", 2, "no revision 'v9'"),
        ("download_hf_dataset.py --name sqad", 2, "did you mean 'squad'?"),
        ("download_hf_model.py --repo-id gpt2 --filename b.bin", 2, "did you mean 'a.bin'?"),
        ("download_hf_model.py --repo-id acme/none", 2, "the Hub has no model"),
    ],
)
def test_a_wrong_request_is_one_line(hub, type_line, line, code, reason):
    stopped, out, err = type_line(line)
    assert (stopped, out) == (code, "")
    assert err.startswith("error: ")
    assert reason in err
    assert err.count("\n") == 1


def test_offline_and_cold_is_one_line_with_the_command(hub, type_line, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    code, _, err = type_line("download_hf_dataset.py --name squad --split validation")
    assert code == 1
    assert err.count("\n") == 1
    assert err.strip().endswith(
        "run: python tools/download_hf_dataset.py --name squad --split validation"
    )


def test_nothing_asked_for_is_explained(type_line):
    code, _, err = type_line("download_hf_dataset.py")
    assert code == 2
    assert "give --name NAME, --list or --verify" in err
