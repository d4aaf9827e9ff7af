"""Rows are made of finished runs that can be repeated, and of nothing else."""

from pathlib import Path
from typing import Any

import pytest

from common.records.recording import make_row
from common.utils.errors import ConfigError, DataError
from tests.records.examples import commit, make_run, project

PATCH = "diff --git a/{0} b/{0}\n--- a/{0}\n+++ b/{0}\n"


class Lab:
    """A repository with a paper, and runs of it at its commit."""

    def __init__(self, root: Path) -> None:
        self.root = root / "project"
        self.folder = project(self.root)
        self.commit = commit(self.root)
        self.outputs = root / "outputs"
        self.code = {"commit": self.commit, "dirty": False}

    def run(self, name: str = "2026-01-01_00-00-00", **values: Any) -> Path:
        given = {"config": "configs/full.yaml", "code": self.code} | values
        return make_run(self.outputs, name, **given)


@pytest.fixture
def lab(tmp_path: Path) -> Lab:
    return Lab(tmp_path)


def test_a_row_says_what_made_it(lab: Lab) -> None:
    paper, row = make_row([lab.run()], root=lab.root)
    assert paper.name == "method"
    assert row.command == "python -m papers.method.train --config configs/full.yaml seed=0"
    assert (row.config, row.scale, row.commit) == ("configs/full.yaml", "full", lab.commit)
    assert (row.updates, row.hours, row.parameters) == (10, 1.0, 10)
    assert row.hardware == "an abacus, 2 cores, 1 thread"
    assert row.runs == ("2026-01-01_00-00-00",)
    assert (row.date, row.data) == ("2026-01-01", {"name": "cifar10"})
    assert not row.dirty


def test_seeds_make_a_mean_and_a_spread_in_the_order_of_the_seeds(lab: Lab) -> None:
    runs = [
        lab.run(f"2026-01-0{seed + 1}_00-00-00", seed=seed, metrics={"test/accuracy": value})
        for seed, value in ((2, 0.95), (0, 0.91), (1, 0.93))
    ]
    _, row = make_row(runs, root=lab.root)
    measured = row.metrics["test/accuracy"]
    assert row.seeds == (0, 1, 2)
    assert measured.values == (0.91, 0.93, 0.95)
    assert (measured.mean, measured.std) == (pytest.approx(0.93), pytest.approx(0.02))
    assert row.runs[0] == "2026-01-01_00-00-00"


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"state": "failed"}, "is failed; only a finished run"),
        ({"state": "running"}, "is killed; only a finished run"),
        ({"metrics": {}}, "has no metrics"),
        ({"metrics": {"test/accuracy": float("nan")}}, "test/accuracy is nan, expected a finite"),
        ({"command": ["train.py", "--dry-run"]}, "is a dry run"),
    ],
)
def test_an_unfinished_run_makes_no_row(lab: Lab, values: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=message):
        make_row([lab.run(**values)], root=lab.root)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"overrides": {"lr": 0.5}}, "the runs differ in lr: 0.2, 0.5"),
        ({"seed": 0}, "the runs have the seeds 0, 0"),
        ({"config": None}, "the runs differ in"),
        ({"versions": {"python": "3.12.1"}}, "the runs differ in versions"),
        ({"metrics": {"test/loss": 1.0}}, "the runs differ in metrics"),
        ({"code": {"commit": "f" * 40, "dirty": False}}, "the runs differ in commit"),
    ],
)
def test_runs_that_differ_in_more_than_the_seed_are_refused(
    lab: Lab, values: dict[str, Any], message: str
) -> None:
    other = lab.run("2026-01-02_00-00-00", **{"seed": 1} | values)
    with pytest.raises(ConfigError, match=message):
        make_row([lab.run(), other], root=lab.root)


def test_runs_of_different_experiments_are_refused(lab: Lab) -> None:
    other = lab.run(seed=1, experiment="another")
    with pytest.raises(ConfigError, match="the runs differ in experiment"):
        make_row([lab.run(), other], root=lab.root)


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ({"commit": "f" * 40, "dirty": False}, "which is no commit of"),
        ({"commit": None, "dirty": None}, "ran outside of git"),
    ],
)
def test_code_that_is_no_commit_is_refused(lab: Lab, code: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        make_row([lab.run(code=code)], root=lab.root)


def test_a_configuration_that_was_not_committed_is_refused(lab: Lab) -> None:
    (lab.folder / "configs" / "new.yaml").write_text("seed: 0\nlr: 0.2\n")
    with pytest.raises(ConfigError, match=r"new\.yaml before it was committed"):
        make_row([lab.run(config="configs/new.yaml")], root=lab.root)
    with pytest.raises(ConfigError, match="which is not in"):
        make_row([lab.run("2026-01-02_00-00-00", config="/tmp/mine.yaml")], root=lab.root)


def test_a_file_that_said_something_else_is_refused(lab: Lab) -> None:
    (lab.folder / "configs" / "full.yaml").write_text("seed: 0\nlr: 0.3\n")
    code = {"commit": commit(lab.root), "dirty": False}
    with pytest.raises(ConfigError, match=r"ran with lr=0.2, but configs/full.yaml at .* says 0.3"):
        make_row([lab.run(code=code)], root=lab.root)


def test_uncommitted_changes_are_refused_or_recorded(lab: Lab) -> None:
    patch = {"uncommitted.patch": PATCH.format("common/models/resnet.py")}
    run = lab.run(code={**lab.code, "dirty": True}, files=patch)
    with pytest.raises(ConfigError, match="--allow-dirty"):
        make_row([run], root=lab.root)
    assert make_row([run], root=lab.root, allow_dirty=True)[1].dirty


def test_changed_documents_and_results_do_not_count(lab: Lab) -> None:
    changed = ("papers/method/results.json", "papers/README.md", "docs/runs.md", "tests/test_x.py")
    patch = {"uncommitted.patch": "".join(map(PATCH.format, changed))}
    run = lab.run(code={**lab.code, "dirty": True}, files=patch)
    assert not make_row([run], root=lab.root)[1].dirty


def test_a_lost_patch_counts_as_changes(lab: Lab) -> None:
    with pytest.raises(ConfigError, match="--allow-dirty"):
        make_row([lab.run(code={**lab.code, "dirty": True})], root=lab.root)


def test_going_on_at_another_commit_counts_as_changes(lab: Lab) -> None:
    part = {"command": ["train.py", "--resume", "x"], "code": {"commit": "f" * 40, "dirty": False}}
    with pytest.raises(ConfigError, match="went on at another one"):
        make_row([lab.run(resumed=[part])], root=lab.root)


def test_the_command_of_a_resumed_run_is_that_of_its_values(lab: Lab) -> None:
    part = {"command": ["train.py", "--resume", "x", "lr=0.5"], "code": lab.code}
    run = lab.run(overrides={"lr": 0.5}, resumed=[part])
    _, row = make_row([run], root=lab.root, scale="reduced: another rate")
    assert row.command.endswith("train --config configs/full.yaml seed=0 lr=0.5")


def test_the_command_of_a_sweeps_run_is_its_own(lab: Lab) -> None:
    command = ["train.py", "-m", "seed=0,1", "--config", "configs/full.yaml"]
    _, row = make_row([lab.run(command=command)], root=lab.root)
    assert row.command == "python -m papers.method.train --config configs/full.yaml seed=0"


@pytest.mark.parametrize("form", ["configs/full.yaml", "papers/method/configs/full.yaml"])
def test_a_configuration_is_known_by_either_path(lab: Lab, form: str) -> None:
    for number, words in enumerate((["--config", form], [f"--config={form}"])):
        run = lab.run(f"2026-01-0{number + 1}_00-00-00", command=["train.py", *words])
        assert make_row([run], root=lab.root)[1].config == "configs/full.yaml"


def test_only_an_unchanged_claims_configuration_is_full_by_itself(lab: Lab) -> None:
    with pytest.raises(ConfigError, match="the run overrides lr; say what it is: --scale"):
        make_row([lab.run(overrides={"lr": 0.5})], root=lab.root)
    default = lab.run("2026-01-02_00-00-00", config=None)
    with pytest.raises(ConfigError, match=r"no claim of the paper is about training config\.yaml"):
        make_row([default], root=lab.root)
    with pytest.raises(ConfigError, match="--scale is 'small', expected"):
        make_row([default], root=lab.root, scale="small")
    assert make_row([default], root=lab.root, scale="reduced: digits")[1].scale == "reduced: digits"


@pytest.mark.parametrize("scale", ["full", None])
def test_a_run_with_overrides_is_never_full(lab: Lab, scale: str | None) -> None:
    group = ["train.py", "--config", "configs/full.yaml", "model=large"]
    runs = [lab.run(overrides={"lr": 0.5}), lab.run("2026-01-02_00-00-00", command=group)]
    for run, key in zip(runs, ("lr", "model"), strict=True):
        with pytest.raises(ConfigError, match=rf"^the run overrides {key}; .*'reduced: ") as caught:
            make_row([run], root=lab.root, scale=scale)
        assert "--scale full" not in str(caught.value)
        assert make_row([run], root=lab.root, scale="reduced: less")[1].scale == "reduced: less"
    seed = lab.run("2026-01-03_00-00-00", seed=3, config=None)
    assert make_row([seed], root=lab.root, scale="full")[1].is_full


def test_a_claim_about_size_makes_no_run_full(tmp_path: Path) -> None:
    lab = Lab(tmp_path)
    paper = lab.folder / "paper.yaml"
    paper.write_text(paper.read_text().replace("metric: test/accuracy, v", "metric: parameters, v"))
    with pytest.raises(ConfigError, match=r"about training configs/full\.yaml"):
        make_row([lab.run()], root=lab.root)


def test_the_stored_datas_revision_is_recorded(lab: Lab) -> None:
    from common.data.card import Card
    from common.utils.paths import get_datasets_dir

    folder = get_datasets_dir() / "cifar10"
    folder.mkdir(parents=True)
    fields = {"created": "2025-12-31T00:00:00+00:00", "available": ["train"]}
    card = Card("datasets", "cifar10", "uoft-cs/cifar10", "main", "a" * 40, **fields)
    card.write(folder)
    run = lab.run()
    assert make_row([run], root=lab.root)[1].data == {"name": "cifar10", "revision": "a" * 40}
    card.created = "2026-06-01T00:00:00+00:00"  # stored again after the run ended
    card.write(folder)
    assert make_row([run], root=lab.root)[1].data == {"name": "cifar10"}
