"""Earlier runs: resuming them, evaluating them, and configurations of unknown origin."""

from pathlib import Path
from typing import Any

import pytest

from common.config import Source, compose, load_run_config
from common.utils.checkpoint import save_checkpoint
from common.utils.errors import ConfigError
from common.utils.paths import get_outputs_dir
from tests.config.conftest import Run


def make_run(module: Any, name: str, *overrides: str, checkpoints: tuple[str, ...] = ()) -> Path:
    """A run directory of the toy, as the trainer leaves it."""
    _, context = compose(module.Config, module.__file__, None, overrides)
    directory = get_outputs_dir() / "toy" / name
    (directory / "checkpoints").mkdir(parents=True)
    (directory / "config.yaml").write_text(context.to_yaml())
    for checkpoint in checkpoints:
        state = {"config": context.to_yaml(), "state": {"step": 1}}
        save_checkpoint(state, directory / "checkpoints" / f"{checkpoint}.pt")
    return directory


def test_resume_continues_with_the_runs_configuration(toy: Path, module: Any, run: Run):
    directory = make_run(module, "first", "seed=5", "model=arcface")
    (toy / "config.yaml").write_text("seed: 99\n")
    outcome = run("--resume", str(directory), "optim.lr=1e-4")
    (seen,) = outcome.runs
    assert (outcome.config["seed"], outcome.config["model"]["d_model"]) == (5, 32)
    assert outcome.config["optim"]["lr"] == 1e-4
    assert (seen["resume"], seen["experiment"]) == (str(directory), "toy")


def test_a_run_is_found_by_its_name(module: Any, run: Run):
    directory = make_run(module, "2026-01-01_00-00-00", "seed=5")
    assert run("--resume", directory.name).runs[0]["resume"] == str(directory)


def test_resuming_what_is_no_run_is_refused(module: Any, run: Run, tmp_path: Path):
    make_run(module, "2026-01-01_00-00-00")
    assert "did you mean '2026-01-01_00-00-00'?" in run("--resume", "2026-01-01").error
    assert "it has no config.yaml" in run("--resume", str(tmp_path)).error


def test_a_file_of_a_run_is_not_taken_for_the_run(module: Any, run: Run):
    made = make_run(module, "2026-01-01_00-00-00", checkpoints=("last",))
    (made / "run.json").write_text("{}")
    error = run("--resume", str(made / "checkpoints" / "last.pt")).error
    assert "is inside a run; give its directory" in error


def test_a_dry_run_is_not_evaluated_unless_it_is_named(module: Any, run: Run):
    real = make_run(module, "2026-01-01_00-00-00", checkpoints=("best", "last"))
    make_run(module, "2026-01-02_00-00-00_dry-run", checkpoints=("best", "last"))
    (seen,) = run("title=again", needs_run=True).runs
    assert seen["run_dir"] == str(real)


def test_evaluation_reads_the_newest_run_with_a_checkpoint(module: Any, run: Run):
    make_run(module, "2026-01-01_00-00-00", "seed=1", checkpoints=("best", "last"))
    newest = make_run(module, "2026-01-02_00-00-00", "seed=2", checkpoints=("best", "last"))
    make_run(module, "2026-01-03_00-00-00", "seed=3")
    outcome = run("title=again", needs_run=True)
    (seen,) = outcome.runs
    assert (outcome.config["seed"], outcome.config["title"]) == (2, "again")
    assert (seen["run_dir"], seen["checkpoint"]) == (str(newest), "best")


@pytest.mark.parametrize(
    "record",
    [
        '{"started": "2026-01-05T10:00:00+00:00"}',  # a copy, or of a machine with another clock
        '{"started": "2026-01-02T02:00:00-12:00"}',  # 14:00 in UTC
    ],
)
def test_the_newest_run_is_the_one_that_says_so(module: Any, run: Run, record: str):
    other = make_run(module, "2026-01-03_00-00-00_copy", checkpoints=("best",))
    (other / "run.json").write_text('{"started": "2026-01-02T12:00:00+00:00"}')
    newest = make_run(module, "2026-01-01_00-00-00", checkpoints=("best",))
    (newest / "run.json").write_text(record)
    assert run("title=again", needs_run=True).runs[0]["run_dir"] == str(newest)


@pytest.mark.parametrize("record", [None, "{", "[]", "{}", '{"started": 3}', '{"started": "now"}'])
def test_a_run_that_does_not_say_when_it_began_is_as_old_as_its_name(
    module: Any, run: Run, record: str | None
):
    older = make_run(module, "2026-01-01_00-00-00", checkpoints=("best",))
    (older / "run.json").write_text('{"started": "2026-01-01T00:00:00+00:00"}')
    make_run(module, "renamed", checkpoints=("best",))  # which says nothing at all
    newest = make_run(module, "2026-01-04_00-00-00_lr=1", checkpoints=("best",))
    if record is not None:
        (newest / "run.json").write_text(record)
    assert run("title=again", needs_run=True).runs[0]["run_dir"] == str(newest)


def test_evaluation_of_a_given_run_and_checkpoint(module: Any, run: Run):
    directory = make_run(module, "first", checkpoints=("last",))
    make_run(module, "second", checkpoints=("best",))
    seen = run("--run", "first", "--checkpoint", "last", needs_run=True).runs[0]
    assert (seen["run_dir"], seen["checkpoint"]) == (str(directory), "last")
    path = directory / "checkpoints" / "last.pt"
    assert run("--run", "first", "--checkpoint", str(path), needs_run=True).runs


def test_evaluation_without_the_checkpoint_names_those_there_are(module: Any, run: Run):
    make_run(module, "first", checkpoints=("last",))
    error = run(needs_run=True).error
    assert "best.pt" in error
    assert "there: last" in error


def test_evaluation_without_a_run_says_how_to_train(run: Run):
    assert "train first: python train.py" in run(needs_run=True).error


def test_evaluation_takes_no_configuration_file(run: Run):
    assert "unknown option '--config'" in run("--config", "x.yaml", needs_run=True).error


def test_a_checkpoint_holds_the_configuration_too(module: Any):
    directory = make_run(module, "first", "seed=5", checkpoints=("best",))
    config, context = load_run_config(module.Config, directory / "checkpoints" / "best.pt")
    assert config.seed == 5
    assert context.source("seed") is Source.USER


def test_overrides_replace_values_of_a_run(module: Any):
    directory = make_run(module, "first", "seed=5", "+note=old")
    config, context = load_run_config(module.Config, directory, ["seed=6", "+note=new"])
    assert (config.seed, context.extra) == (6, {"note": "new"})
    assert context.overrides == ["seed=6", "+note=new"]
    assert context.run_dir == directory


def test_a_default_that_changed_since_does_not_change_the_run(module: Any):
    directory = make_run(module, "first")
    text = (directory / "config.yaml").read_text()
    (directory / "config.yaml").write_text(
        text.replace("batch_size: 4  # DEFAULT", "batch_size: 9  # DEFAULT")
    )
    config, context = load_run_config(module.Config, directory)
    assert (config.batch_size, context.source("batch_size")) == (9, Source.DEFAULT)


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ("sede: 1  # USER: config.yaml", "sede is not a key; did you mean 'seed'?"),
        ("sede: 1  # DEFAULT", "sede is not a key"),
        ("seed: x  # DEFAULT", "seed is 'x', expected an integer"),
        ("title: ${oc.env:HOME}  # DATA", "a run reads only secrets again"),
        ("hook: os.system  # USER: + x\n_target_: a  # USER: + x", "_target_ is 'a', which is not"),
        ("new: .nan  # USER: + command line", "new is nan"),
        ("defaults: [model: base]", "defaults is not a key"),
    ],
)
def test_a_runs_configuration_passes_the_same_checks(
    module: Any, tmp_path: Path, line: str, problem: str
):
    (tmp_path / "config.yaml").write_text(f"# a run\n{line}\n")
    with pytest.raises(ConfigError) as error:
        load_run_config(module.Config, tmp_path)
    assert problem in str(error.value)
    assert str(error.value).startswith(("config.yaml:2: ", "config.yaml:3: "))
