"""Every form of the command line, from every place it is typed in."""

import ast
import resource
import subprocess
import sys
from pathlib import Path

import pytest
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.override_parser.overrides_parser import OverridesParser

from common.config.overrides import expand_sweep
from common.utils.errors import ConfigError
from tests.config.conftest import Run, start


def test_runs_as_a_module_from_the_root(toy: Path):
    outcome = start(["-m", "lab.toy.train", "optim.lr=1e-2"], toy.parents[1])
    assert outcome.config["optim"]["lr"] == 0.01
    assert outcome.runs[0]["experiment"] == "toy"


def test_runs_as_a_script_from_its_own_folder(toy: Path):
    outcome = start(["train.py", "--config", "config.yaml"], toy)
    assert outcome.config["model"]["d_model"] == 16


def test_runs_from_another_directory_with_a_file_of_the_experiment(toy: Path, tmp_path: Path):
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    outcome = start([toy / "train.py", "--config", "configs/big.yaml"], elsewhere)
    assert outcome.config["model"]["d_model"] == 64


def test_leaves_no_trace_in_the_working_directory(toy: Path, tmp_path: Path):
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    outcome = start([toy / "train.py", "-m", "seed=1,2"], elsewhere)
    assert [run["cwd"] for run in outcome.runs] == [str(elsewhere)] * 2
    assert list(elsewhere.iterdir()) == []


def test_a_file_in_the_working_directory_comes_before_one_of_the_experiment(toy: Path, run: Run):
    (Path.cwd() / "configs").mkdir()
    (Path.cwd() / "configs/big.yaml").write_text("seed: 99\n")
    assert run("--config", "configs/big.yaml").config["seed"] == 99


def test_a_given_file_replaces_config_yaml(run: Run):
    config = run("--config=configs/big.yaml").config
    assert (config["seed"], config["optim"]["lr"]) == (7, 1e-3)
    assert config["model"] == {"d_model": 64, "num_heads": 2, "vocab_size": None, "kwargs": {}}


def test_scientific_notation_is_a_number_in_files_and_on_the_command_line(toy: Path, run: Run):
    (toy / "config.yaml").write_text("optim: {lr: 5e-4, betas: [.9, 99e-2]}\n")
    assert run().config["optim"]["lr"] == 5e-4
    assert run().config["optim"]["betas"] == [0.9, 0.99]
    assert run("optim.lr=2e-4").config["optim"]["lr"] == 2e-4


def test_a_group_is_chosen_by_the_file_and_by_the_command_line(run: Run):
    assert run().config["model"]["d_model"] == 16
    model = run("model=arcface").config["model"]
    assert (model["d_model"], model["num_heads"], model["kwargs"]) == (32, 4, {"margin": 0.5})


def test_a_group_the_file_does_not_name_is_chosen_too_and_wins(toy: Path, run: Run):
    (toy / "config.yaml").write_text("model: {d_model: 8}\n")
    assert run("model=arcface").config["model"]["d_model"] == 32


def test_a_key_is_set_inside_a_chosen_group(run: Run):
    model = run("model=arcface", "model.d_model=64", "model.kwargs.margin=0.3").config["model"]
    assert (model["d_model"], model["kwargs"]) == (64, {"margin": 0.3})


@pytest.mark.parametrize(
    "order", [["model: base", "_self_"], ["_self_", "model: base"], ["model: base"]]
)
@pytest.mark.filterwarnings("ignore:In 'config'. Defaults list is missing")
def test_groups_compose_as_hydra_composes_them(toy: Path, run: Run, order: list[str]):
    from hydra import compose, initialize_config_dir

    entries = "".join(f"  - {entry}\n" for entry in order)
    (toy / "config.yaml").write_text(f"defaults:\n{entries}seed: 1\nmodel:\n  d_model: 4\n")
    (toy / "model").mkdir()  # Hydra looks beside the file, we also look in configs/
    (toy / "model/base.yaml").write_text("d_model: 16\nnum_heads: 4\n")
    (toy / "configs/model/base.yaml").unlink()
    (toy / "configs/model/arcface.yaml").unlink()
    with initialize_config_dir(str(toy), version_base=None):
        reference = compose("config")
    model = run().config["model"]
    assert (model["d_model"], model["num_heads"]) == (reference.model.d_model, 4)


def test_a_new_key_is_added_with_a_plus(run: Run):
    outcome = run("+new.key=1", "++optim.note=text")
    assert outcome.runs[0]["extra"] == {"new": {"key": 1}, "optim": {"note": "text"}}


def test_a_new_key_without_a_plus_is_refused(run: Run):
    assert "(+new.key=... adds a new key)" in run("new.key=1").error


def test_a_plus_before_a_known_key_is_refused(run: Run):
    assert run("+seed=3").error == "command line: seed is a key already; write seed=3"


def test_an_open_section_takes_any_key(run: Run):
    assert run("model.kwargs.drop=0.1").config["model"]["kwargs"] == {"drop": 0.1}


def test_a_sweep_runs_the_product_and_ends_with_a_table(run: Run):
    outcome = run("-m", "optim.lr=1e-3,1e-4", "model=glob(*)")
    seen = [(r["config"]["optim"]["lr"], r["config"]["model"]["d_model"]) for r in outcome.runs]
    assert seen == [(1e-3, 32), (1e-3, 16), (1e-4, 32), (1e-4, 16)]
    assert outcome.runs[0]["overrides"] == ["optim.lr=0.001", "model=arcface"]
    table = [line.split() for line in outcome.out.splitlines()[-5:]]
    assert table[0] == ["overrides", "result"]
    assert table[4] == ["optim.lr=0.0001", "model=base", "0.0002"]


def test_all_runs_of_a_sweep_are_checked_before_the_first_starts(run: Run):
    assert "optim.lr is -1" in run("--multirun", "optim.lr=1e-3,-1").error


def test_a_failing_run_ends_the_sweep_and_keeps_the_results_so_far(
    run: Run, module, monkeypatch: pytest.MonkeyPatch
):
    def train(config, context):
        if config.seed == 2:
            raise ConfigError("no data for seed 2")
        return float(config.seed)

    monkeypatch.setattr(module, "train", train)
    outcome = run("-m", "seed=1,2,3")
    assert outcome.code == 2
    assert outcome.out.splitlines() == ["overrides  result", "seed=1     1"]
    assert outcome.err.splitlines()[-1] == "error: no data for seed 2"


@pytest.mark.parametrize(
    "words",
    [
        ["a=1,2", "b=x,y,z"],
        ["a=range(1,4)", "c=3"],
        ["a=choice(1,2)", "+b=[1,2],[3]"],
        ["a='x,y',z", "b=1e-3,0.1"],
    ],
)
def test_sweeps_expand_as_hydras_own_sweeper_expands_them(words: list[str]):
    parsed = OverridesParser.create().parse_overrides(words)
    (reference,) = BasicSweeper.split_arguments(parsed, max_batch_size=None)
    assert expand_sweep(words, lambda group: []) == [list(run) for run in reference]


@pytest.mark.parametrize(
    ("word", "part"),
    [
        ("seed=interval(0,1)", "has no end"),
        ("seed=range(0,100000)", "more than 1000 runs"),
        ("seed=range(3,3)", "lists nothing to run"),
        ("seed=range(0,3,0)", "seed=range(0,3,0)"),
        ("model=glob(x*)", "lists nothing to run"),
    ],
)
def test_a_sweep_that_cannot_be_listed_is_refused(run: Run, word: str, part: str):
    assert part in run("-m", word).error


def test_a_sweep_without_its_option_is_refused(run: Run):
    assert "add -m" in run("seed=1,2").error


def test_cfg_job_prints_the_final_configuration_and_runs_nothing(run: Run):
    outcome = run("--cfg", "job", "optim.lr=1e-2")
    assert outcome.runs == []
    assert "seed: 1  # USER: config.yaml\n" in outcome.out
    assert "  d_model: 16  # USER: configs/model/base.yaml\n" in outcome.out
    assert "  lr: 0.01  # USER: command line\n" in outcome.out
    assert "  nesterov: false  # DEFAULT\n" in outcome.out


def test_help_names_every_key_with_its_kind_default_and_meaning(run: Run):
    text = run("--help").out
    for part in (
        "Train the toy.",
        "seed of everything random  [an integer, >= 0; 1 from config.yaml; default 0]",
        "optim.name        the optimizer  [one of adamw, sgd; default 'adamw']",
        "optim.betas       decay rates  [a list (a number), >= 0 and < 1; default [0.9, 0.98]]",
        "model.vocab_size",
        "group model: arcface, base",
        "configs/big.yaml",
        "--resume",
        "--dry-run",
    ):
        assert part in text


def test_help_shows_what_the_rest_of_the_line_would_come_to(run: Run):
    text = run("--help", "--config", "configs/big.yaml", "optim.lr=3e-4", "model=arcface").out
    assert "[an integer, >= 1; 64 from configs/big.yaml; default 8]" not in text  # the group wins
    assert "[an integer, >= 1; 32 from configs/model/arcface.yaml; default 8]" in text
    assert "[an integer, >= 0; 7 from configs/big.yaml; default 0]" in text
    assert "[a number, > 0; 0.0003 from command line; default 0.001]" in text


def test_help_shows_no_secret(toy: Path, run: Run, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("TOY_TOKEN", "very-private")
    (toy / "config.yaml").write_text("title: ${oc.env:TOY_TOKEN}\n")
    text = run("--help").out
    assert "'${oc.env:TOY_TOKEN}' from TOY_TOKEN; default 'toy'" in text
    assert "very-private" not in text


def test_help_works_beside_a_broken_file(toy: Path, run: Run):
    (toy / "config.yaml").write_text("a: [")
    outcome = run("-h")
    assert outcome.code == 0
    assert "keys, with the schema's defaults (a run would be refused: " in outcome.out
    assert ": not YAML" in outcome.out
    assert "[an integer, >= 0; default 0]" in outcome.out


def test_help_of_an_evaluation_needs_no_run(run: Run):
    assert "(what holds is the run's own value)" in run("--help", needs_run=True).out


def test_a_dry_run_is_told_to_the_experiment(run: Run):
    assert run("--dry-run").runs[0]["dry_run"] is True
    assert run().runs[0]["dry_run"] is False


@pytest.mark.parametrize(
    ("words", "part"),
    [
        (["--confg", "x"], "did you mean '--config'?"),
        (["--lr", "3"], "values are set without dashes: optim.lr=..."),
        (["--batch-size=3"], "values are set without dashes: batch_size=..."),
        (["--config"], "--config needs a value"),
        (["--config", "--dry-run"], "--config needs a value"),
        (["--config", "a", "--config", "b"], "--config is given twice"),
        (["--cfg", "hydra"], "--cfg is 'hydra', expected job"),
        (["--resume", "x", "--config", "y"], "--resume and --config exclude each other"),
        (["--resume", "x", "-m"], "--resume and -m exclude each other"),
        (["--resume", "x", "--dry-run"], "--resume and --dry-run exclude each other"),
        (["--run", "x"], "unknown option '--run'"),
        (["seed"], "'seed' is not an override; expected key=value"),
        (["=3"], "is not an override"),
        (["~seed"], "keys are not deleted"),
        (["model@x=3"], "'@' is not understood"),
        (["hydra.run.dir=/tmp"], "Hydra's own settings"),
        (["hydra/sweeper=optuna"], "Hydra's own settings"),
        (["seed=1", "seed=2"], "seed is given twice"),
        (["model.kwargs={a: 1}", "model.kwargs.a=2"], "overlap"),
        (["optim.lr=[1"], "'optim.lr=[1' cannot be read"),
        (["title='open"], "cannot be read"),
        (["title=é"], "quote text"),
        (["seed=" + "[" * 500], "cannot be read"),
    ],
)
def test_a_wrong_command_line_is_one_line(run: Run, words: list[str], part: str):
    assert part in run(*words).error


def test_quoted_text_may_hold_anything(run: Run):
    assert run("title='é = [a, b]: c'").config["title"] == "é = [a, b]: c"


def test_a_number_for_a_text_key_is_that_text(run: Run):
    assert run("title=007").config["title"] == "007"
    assert run("title=1e-3").config["title"] == "1e-3"


def test_hydra_is_left_as_it_was(run: Run):
    from hydra import initialize
    from hydra.core.config_store import ConfigStore
    from hydra.core.global_hydra import GlobalHydra

    ConfigStore.instance().store(name="config", node={"mine": True})
    with initialize(version_base=None, config_path=None):
        before = GlobalHydra.instance().hydra
        run("seed=3")
        assert GlobalHydra.instance().hydra is before
    assert ConfigStore.instance().load("config.yaml").node == {"mine": True}


def test_importing_the_config_system_loads_nothing_heavy():
    code = "import sys, common.config; print(sorted(sys.modules))"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = set(ast.literal_eval(out.stdout))
    assert not loaded & {"torch", "hydra", "omegaconf", "numpy", "datasets", "timm", "loguru"}


def test_an_error_costs_less_than_a_second(toy: Path):
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert "did you mean 'optim.lr'?" in start([toy / "train.py", "optim.lrr=1"], toy).error
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 1.0
