"""Malicious and broken configurations: one line, exit code 2, nothing executed (rows 11 to 13).

Each case goes through ``launch``, as typed; a few also through a real process.
"""

from pathlib import Path
from typing import Any

import pytest

from common.config import load_run_config
from common.utils.checkpoint import save_checkpoint
from common.utils.errors import ConfigError
from tests.config.conftest import Run, start

TARGETS = ["os.system", "builtins.open", "logging.os.system", "common.utils.files.os.system"]
BOMB = "a: &a [x, x]\n" + "".join(f"{chr(98 + i)}: &{chr(98 + i)} [*{chr(97 + i)}, *{chr(97 + i)}]\n" for i in range(24))  # fmt: skip


@pytest.mark.fault(11)
@pytest.mark.parametrize("target", TARGETS)
def test_a_forbidden_target_in_a_file_is_refused(toy: Path, run: Run, target: str):
    (toy / "config.yaml").write_text(
        f"model:\n  kwargs:\n    hook:\n      _target_: {target}\n      _args_: [touch canary]\n"
    )
    error = run().error
    assert f"config.yaml:4: model.kwargs.hook._target_ is '{target}'" in error
    assert not Path("canary").exists()


@pytest.mark.fault(11)
@pytest.mark.parametrize("target", TARGETS)
def test_a_forbidden_target_on_the_command_line_is_refused(run: Run, target: str):
    words = [f"model.kwargs._target_={target}", "model.kwargs._args_=['touch canary']"]
    assert f"command line: model.kwargs._target_ is '{target}'" in run(*words).error
    assert target in run(f"+hook._target_={target}").error
    assert not Path("canary").exists()


@pytest.mark.fault(11)
@pytest.mark.parametrize("target", TARGETS)
def test_a_forbidden_target_inside_a_checkpoint_is_refused(
    module: Any, tmp_path: Path, target: str
):
    text = f"model:\n  kwargs: {{_target_: {target}, _args_: [touch canary]}}  # DEFAULT\n"
    save_checkpoint({"config": text}, tmp_path / "best.pt")
    with pytest.raises(ConfigError, match=r"best\.pt:2: model\.kwargs\._target_ is"):
        load_run_config(module.Config, tmp_path / "best.pt")
    assert not Path("canary").exists()


@pytest.mark.fault(12)
@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("seed: !!python/object/apply:os.system ['touch canary']", "tag "),
        (BOMB, "is refused"),
        ("seed: 1\nseed: 2", ":2: key 'seed' is given twice"),
        ("sead: 1", ":1: sead is not a key; did you mean 'seed'?"),
        ("optim: {lr: fast}", ":1: optim.lr is 'fast', expected a number"),
        ("optim: {lr: .nan}", "optim.lr is nan, expected a finite number"),
        ("optim:\n  lr: -1e-3", ":2: optim.lr is -0.001, expected > 0"),
        ("optim: {lr: .inf}", "optim.lr is inf, expected a finite number"),
        ("batch_size: 0", "batch_size is 0, expected >= 1"),
        ("model: {d_model: 10, num_heads: 3}", ":1: model does not fit together: d_model=10"),
        ("seed: " + "x" * 10_000_000, "10,000,006 bytes; the limit is 1,000,000"),
        ("title: ${oc.dict.keys:HOME}", "only references to keys"),
        ("a: [", "not YAML"),
        ("defaults: [model: basic]", "did you mean 'base'?"),
        ("defaults: [modle: base]", "there is no folder configs/modle/"),
        ("defaults: [config]", "defaults has the entry 'config'"),
        ("defaults: [model: ../../etc/passwd]", "no '../../etc/passwd' in"),
        ("defaults: [model: base, model: arcface]", "defaults names model twice"),
        ("hydra: {run: {dir: /tmp}}", "hydra is not a key"),
    ],
    ids=lambda value: value[:30],
)
def test_a_broken_file_is_one_line(toy: Path, run: Run, text: str, problem: str):
    (toy / "config.yaml").write_text(text)
    error = run().error
    assert problem in error
    assert "toy" in error  # the file or its folder
    assert not Path("canary").exists()


@pytest.mark.fault(12)
def test_a_group_with_a_defaults_list_of_its_own_is_refused(toy: Path, run: Run):
    (toy / "configs/model/base.yaml").write_text("defaults: [_self_]\nd_model: 3\n")
    assert "a group's file has no defaults of its own" in run().error


@pytest.mark.fault(13)
def test_a_wrong_key_in_a_group_names_the_groups_file(toy: Path, run: Run):
    (toy / "configs/model/base.yaml").write_text("num_heads: 2\nd_modle: 3\n")
    error = run().error
    assert "configs/model/base.yaml:2: model.d_modle is not a key" in error
    assert "did you mean 'model.d_model'?" in error


@pytest.mark.fault(12)
@pytest.mark.parametrize(
    ("name", "problem"),
    [
        ("confg.yaml", "did you mean 'config.yaml'?"),
        ("configs/bigg.yaml", "did you mean 'configs/big.yaml'?"),
        ("configs", "is a directory; expected a YAML file"),
        ("/no/such/file.yaml", "no configuration file '/no/such/file.yaml'"),
        ("x" * 300, "no configuration file"),
        ("train.py/config.yaml", "no configuration file"),
    ],
)
def test_a_missing_file_names_the_nearest(run: Run, name: str, problem: str):
    assert problem in run("--config", name).error


@pytest.mark.fault(12)
def test_a_missing_config_yaml_is_one_line(toy: Path, run: Run):
    (toy / "config.yaml").unlink()
    assert "no configuration file" in run().error


@pytest.mark.fault(12)
def test_a_file_without_permission_is_one_line(toy: Path, run: Run):
    (toy / "config.yaml").unlink()
    (toy / "config.yaml").symlink_to("config.yaml")  # unreadable for root too
    assert "no configuration file" in run().error or "cannot read" in run().error


@pytest.mark.fault(13)
@pytest.mark.parametrize(
    ("word", "nearest"),
    [
        ("train.lrr=1", "optim.lr"),
        ("optim.lrr=1", "optim.lr"),
        ("modle.d_model=1", "model.d_model"),
        ("d_model=1", "model.d_model"),
        ("sed=1", "seed"),
        ("optim.beta=[1]", "optim.betas"),
    ],
)
def test_a_wrong_key_names_the_nearest(run: Run, word: str, nearest: str):
    key = word.partition("=")[0]
    assert run(word).error.startswith(
        f"command line: {key} is not a key; did you mean '{nearest}'?"
    )


@pytest.mark.fault(11)
def test_a_resolver_on_the_command_line_is_refused(run: Run):
    assert "only references to keys" in run("title=${oc.create:HOME}").error


@pytest.mark.fault(11, 12)
def test_faults_are_the_same_in_a_real_process(toy: Path):
    (toy / "bad.yaml").write_text("optim:\n  lr: [1\n")
    assert "bad.yaml" in start(["train.py", "--config", "bad.yaml"], toy).error
    error = start(["train.py", "+hook._target_=os.system"], toy).error
    assert "'os.system', which is not allowed" in error
