"""Values from the environment: recorded as such, kept by a resumed run, and secret where they must be."""

from pathlib import Path
from typing import Any

import pytest

from common.config import ConfigConflictError, RunContext, Source, compose, load_run_config
from common.config.origins import is_secret
from common.utils.checkpoint import save_checkpoint
from common.utils.errors import ConfigError
from tests.config.conftest import Run, start

SECRET = "s3cret-" + "x" * 80


def write(toy: Path, text: str) -> None:
    (toy / "config.yaml").write_text(text)


def save(context: RunContext, directory: Path) -> Path:
    (directory / "config.yaml").write_text(context.to_yaml())
    return directory


@pytest.fixture
def secret_run(toy: Path, module: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A run whose title and more come from ``HUB_TOKEN``."""
    monkeypatch.setenv("HUB_TOKEN", SECRET)
    write(
        toy,
        "title: ${oc.env:HUB_TOKEN}\n"
        "folder: keys/${title}\n"
        "model: {kwargs: {list: [{a: 'x ${oc.env:HUB_TOKEN}'}]}}\n",
    )
    config, context = compose(module.Config, module.__file__)
    assert config.title == SECRET
    assert config.model.kwargs["list"][0]["a"] == f"x {SECRET}"
    context.derive("greeting", lambda title: f"hello {title}", ("title",))
    context.derive("batch_size", len, ("title",))
    directory = tmp_path / "run"
    directory.mkdir()
    return save(context, directory)


def test_a_variable_has_the_type_of_its_key(toy: Path, module: Any, monkeypatch):
    for name, text in {"A": "1e-2", "B": "12", "C": "0.5", "D": "true"}.items():
        monkeypatch.setenv(name, text)
    write(
        toy,
        "seed: ${oc.env:B}\ntitle: ${oc.env:B}\nfolder: a/${oc.env:B}/${oc.env:C}\n"
        "optim:\n  lr: ${oc.env:A}\n  betas: ['${oc.env:C}', 0.9]\n  nesterov: ${oc.env:D}\n",
    )
    config, context = compose(module.Config, module.__file__)
    assert (config.seed, config.title, config.folder) == (12, "12", Path("a/12/0.5"))
    assert (config.optim.lr, config.optim.betas) == (0.01, [0.5, 0.9])
    assert config.optim.nesterov is True
    lines = context.to_yaml().splitlines()
    assert "seed: 12  # ENV: B" in lines
    assert "folder: a/12/0.5  # ENV: B, C" in lines
    assert "  betas: [0.5, 0.9]  # ENV: C" in lines
    assert context.source("optim.lr") is Source.ENV


def test_a_default_stands_in_for_a_variable_that_is_not_set(toy: Path, module: Any, monkeypatch):
    monkeypatch.delenv("MISSING", raising=False)
    write(
        toy,
        "seed: ${oc.env:MISSING,7}\ntitle: ${oc.env:MISSING, a b}/c\n"
        "folder: ${oc.env:MISSING,null}\n",
    )
    config, context = compose(module.Config, module.__file__)
    assert (config.seed, config.title, config.folder) == (7, "a b/c", None)
    assert context.source("seed") is Source.USER


def test_a_variable_that_is_not_set_is_one_line(toy: Path, run: Run, monkeypatch):
    monkeypatch.delenv("MISSING", raising=False)
    assert (
        "title refers to ${oc.env:MISSING}, but the environment has no MISSING"
        in run("title=${oc.env:MISSING}").error
    )
    write(toy, "seed: 1\noptim: {lr: '${oc.env:MISSING}'}")
    assert "config.yaml:2: optim.lr refers to" in run().error


def test_a_wrong_value_names_the_file_and_the_variable(toy: Path, run: Run, monkeypatch):
    monkeypatch.setenv("STEPS", "many")
    write(toy, "seed: ${oc.env:STEPS}\n")
    assert "config.yaml:1: seed is 'many', expected an integer" in run().error


def test_data_that_contradicts_the_environment_stops_the_run(toy: Path, module: Any, monkeypatch):
    monkeypatch.setenv("VOCABULARY", "100")
    write(toy, "model: {vocab_size: '${oc.env:VOCABULARY}'}\n")
    _, context = compose(module.Config, module.__file__)
    with pytest.raises(
        ConfigConflictError, match=r"is 100 \(.*config\.yaml:1, ENV: VOCABULARY\).*data says 97"
    ):
        context.resolve("model.vocab_size", 97)


def test_a_resumed_run_keeps_what_the_environment_said(
    toy: Path, module: Any, tmp_path: Path, monkeypatch, logged: list[str]
):
    monkeypatch.setenv("ROOT", "/a")
    monkeypatch.setenv("STEPS", "5")
    write(toy, "seed: ${oc.env:STEPS}\nfolder: ${oc.env:ROOT}/x\n")
    _, context = compose(module.Config, module.__file__)
    save(context, tmp_path)
    config, again = load_run_config(module.Config, tmp_path)
    assert again.to_yaml() == context.to_yaml()
    assert logged == []
    monkeypatch.setenv("ROOT", "/b")
    monkeypatch.delenv("STEPS")
    config, again = load_run_config(module.Config, tmp_path)
    assert (config.seed, config.folder) == (5, Path("/a/x"))
    assert again.source("folder") is Source.ENV
    assert len(logged) == 1
    assert "folder keeps the run's value '/a/x'; the environment (ROOT)" in logged[0]
    config, _ = load_run_config(module.Config, tmp_path, ["folder=${oc.env:ROOT}"])
    assert config.folder == Path("/b")


def test_code_records_what_it_takes_from_the_environment(monkeypatch):
    context = RunContext()
    context.set("data.root", "/data", Source.ENV, by="ASSETS_DIR")
    context.set("hub.token", SECRET, Source.ENV, by="HUB_TOKEN")
    assert context.to_yaml() == "data:\n  root: /data  # ENV: ASSETS_DIR\n"
    assert context.get("hub.token") == SECRET
    assert SECRET not in str(context.state_dict())


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("HUB_TOKEN", True), ("WANDB_API_KEY", True), ("AWS_SECRET_ACCESS_KEY", True),
        ("DB_PASSWORD", True), ("APIKEY", True), ("my_secret", True), ("SECRET_2", True),
        ("TOKEN1", True), ("CREDENTIALS_FILE", True), ("HOME", False), ("PWD", False),
        ("TOKENIZERS_PARALLELISM", False), ("MAX_TOKENS", False), ("KEYBOARD", False),
        ("WORLD_SIZE", False),
    ],
)  # fmt: skip
def test_names_of_secrets(name: str, expected: bool):
    assert is_secret(name) is expected


def test_a_secret_is_in_no_saved_configuration(secret_run: Path):
    text = (secret_run / "config.yaml").read_text()
    assert "s3cret" not in text
    assert 'title: "${oc.env:HUB_TOKEN}"  # ENV: HUB_TOKEN' in text
    assert 'folder: "keys/${title}"  # ENV: HUB_TOKEN' in text
    assert "batch_size: null  # DERIVED: stale, from title" in text
    assert "greeting" not in text


def test_a_resumed_run_reads_a_secret_again(
    secret_run: Path, module: Any, monkeypatch, logged: list[str]
):
    monkeypatch.setenv("HUB_TOKEN", "another")
    config, context = load_run_config(module.Config, secret_run)
    assert (config.title, config.folder) == ("another", Path("keys/another"))
    assert config.model.kwargs == {"list": [{"a": "x another"}]}
    assert config.batch_size == 4  # the default, until it is derived again
    assert "title is read again from the environment: HUB_TOKEN" in logged
    assert "another" not in "".join(logged)
    assert context.to_yaml() == (secret_run / "config.yaml").read_text()


def test_a_resumed_run_without_its_secret_is_one_line(secret_run: Path, module: Any, monkeypatch):
    monkeypatch.delenv("HUB_TOKEN")
    with pytest.raises(ConfigError, match=r"config\.yaml:\d+: title refers to .*HUB_TOKEN"):
        load_run_config(module.Config, secret_run)


def test_a_checkpoint_from_elsewhere_reads_nothing_of_the_environment(
    secret_run: Path, module: Any
):
    text = (secret_run / "config.yaml").read_text()
    for comment in ("ENV: HUB_TOKEN", "USER: command line", "DEFAULT"):
        path = secret_run / "best.pt"
        save_checkpoint({"config": text.replace("ENV: HUB_TOKEN", comment)}, path)
        with pytest.raises(ConfigError, match="which a checkpoint does not read; give title="):
            load_run_config(module.Config, path)


def test_what_replaces_the_secrets_of_a_checkpoint_is_typed(secret_run: Path, module: Any):
    path = secret_run / "best.pt"
    save_checkpoint({"config": (secret_run / "config.yaml").read_text()}, path)
    given = ["title=mine", "folder=null", "model.kwargs.list=[]"]
    assert load_run_config(module.Config, path, given)[0].title == "mine"
    given[0] = "title=${oc.env:HUB_TOKEN}"  # the person's own wish
    assert load_run_config(module.Config, path, given)[0].title == SECRET


def test_an_error_does_not_show_a_secret(toy: Path, monkeypatch):
    monkeypatch.setenv("HUB_TOKEN", SECRET)
    for words in (["seed=${oc.env:HUB_TOKEN}"], ["+hook._target_=${oc.env:HUB_TOKEN}"]):
        outcome = start([toy / "train.py", *words], toy)
        assert outcome.code == 2
        assert "s3cret" not in outcome.err + outcome.out
        assert "***" in outcome.err


def test_a_log_does_not_show_what_was_made_from_a_secret(
    module: Any, monkeypatch, logged: list[str]
):
    monkeypatch.setenv("HUB_TOKEN", SECRET)
    words = ["title=${oc.env:HUB_TOKEN}", "folder=mine"]
    _, context = compose(module.Config, module.__file__, None, words)
    context.derive("folder", lambda title: f"x/{title}", ("title",))
    context.resolve("title", "other", Source.DERIVED)
    assert logged == [
        "folder stays 'mine' (command line); derived, it would be ***",
        "title stays *** (command line, ENV: HUB_TOKEN); derived, it would be 'other'",
    ]


def test_cfg_does_not_show_a_secret(toy: Path, run: Run, monkeypatch):
    monkeypatch.setenv("HUB_TOKEN", SECRET)
    out = run("title=${oc.env:HUB_TOKEN}", "--cfg", "job").out
    assert 'title: "${oc.env:HUB_TOKEN}"  # ENV: HUB_TOKEN' in out
    assert "s3cret" not in out
