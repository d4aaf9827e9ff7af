"""Facts of the paper, and its commands end to end."""

import io
import json
import os
import random
import re
import runpy
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from common.config import compose, launch
from common.data import BucketedBatches
from common.data.info import DatasetInfo
from common.data.pairs import PairLoader, TextPairs, load_pairs
from common.data.tokenization import train_chars
from common.models import Transformer
from common.training import OptimizerConfig, ScheduleConfig, Trainer, TrainerConfig, build_schedule
from common.utils import load_checkpoint, seed_everything
from common.utils.paths import get_project_root
from papers.attention_is_all_you_need import train as paper
from papers.attention_is_all_you_need.decoding import DecodeConfig, score, translate
from papers.attention_is_all_you_need.model import ModelConfig, TranslationTask, peak_learning_rate
from papers.attention_is_all_you_need.translate import main as translate_words

MODULE = "papers.attention_is_all_you_need"
SMALL = ["trainer.eval_every=4", "trainer.log_every=2", "trainer.keep=2", "decode.extra_length=4"]
LETTERS = ["data.name=embedded/copy", "data.tokenizer=chars"]  # made in a moment
TINY = ["model.d_model=16", "model.d_ff=32", "model.num_heads=2", "data.max_tokens=400"]


@pytest.mark.fact("Table 3")
@pytest.mark.parametrize(
    ("config", "count"), [("wmt14_base", 63_082_496), ("wmt14_big", 214_245_376)]
)
def test_parameter_counts_of_table_3_with_37000_tied_tokens(config: str, count: int) -> None:
    values, context = compose(paper.Config, paper.__file__, f"configs/{config}.yaml")
    with torch.device("meta"):
        task = TranslationTask(values.model)
        task.configure(DatasetInfo(vocab_size=37_000), context)
    assert sum(p.numel() for p in task.parameters()) == count


def test_help_shows_what_a_run_takes_and_what_the_schema_would_say(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["train.py", "--help"])
    launch(paper.train, paper.Config, paper.__file__)
    text = capsys.readouterr().out
    lines = {line.split()[0]: line for line in text.splitlines() if line.startswith("  ")}
    given, default = compose(paper.Config, paper.__file__)[0], paper.Config()
    for section in ("model", "optim", "schedule", "data", "trainer", "decode"):
        for name, value in vars(getattr(given, section)).items():
            shown, line = json.dumps(value).replace('"', "'"), lines[f"{section}.{name}"]
            same = value == getattr(getattr(default, section), name)
            assert ("from config.yaml" in line) is not same, line
            assert same or f"; {shown} from config.yaml; default " in line, line
    assert "1.0 if trainer.privacy is given]" in lines["trainer.privacy.max_grad_norm"]


@pytest.mark.fact("5.3, eq. 3")
def test_the_rate_of_the_base_model_starts_at_step_1_and_peaks_at_7e_4() -> None:
    peak = peak_learning_rate(512, 4000)
    schedule = build_schedule(ScheduleConfig("inverse_sqrt", warmup_steps=4000), 100_000)
    assert peak == pytest.approx(6.99e-4, rel=1e-3)
    assert peak * schedule(1) == pytest.approx(512**-0.5 * 4000**-1.5)
    assert max(schedule(step) for step in range(1, 10_000)) == schedule(4000) == 1.0


@pytest.mark.fact("5.3, 5.4, 6.1, Table 3")
def test_the_papers_own_settings_are_in_the_config() -> None:
    config, _ = compose(paper.Config, paper.__file__, "configs/wmt14_base.yaml")
    model = config.model
    assert (model.num_encoder_layers, model.d_model, model.d_ff, model.num_heads) == (
        6,
        512,
        2048,
        8,
    )
    assert (model.dropout, config.label_smoothing, model.norm) == (0.1, 0.1, "post")
    assert (config.optim.betas, config.optim.eps) == ([0.9, 0.98], 1e-9)
    assert (config.trainer.max_steps, config.data.max_tokens, config.average) == (
        100_000,
        25_000,
        5,
    )
    assert (config.decode.beam_size, config.decode.length_penalty) == (4, 0.6)


@pytest.mark.fact("5.4")
def test_the_loss_is_smoothed_in_training_and_not_in_evaluation() -> None:
    torch.manual_seed(0)
    config, context = compose(paper.Config, paper.__file__, overrides=TINY)
    task = TranslationTask(config.model, label_smoothing=0.1)
    task.configure(DatasetInfo(vocab_size=20), context)
    task.eval()
    batch = {"source": torch.tensor([[5, 6, 2, 0]]), "target": torch.tensor([[1, 7, 8, 2, 0]])}
    log_p = task(batch["source"], batch["target"][:, :-1]).log_softmax(-1)[0, :3]
    nll = -log_p[[0, 1, 2], [7, 8, 2]].sum()
    smooth = -log_p.mean(-1).sum()
    trained, evaluated = task.train_step(batch), task.eval_step(batch)
    torch.testing.assert_close(trained.loss_sum, 0.9 * nll + 0.1 * smooth)
    torch.testing.assert_close(evaluated.loss_sum, nll)
    assert trained.weight == evaluated.weight == 3  # padding does not count


@pytest.mark.parametrize(
    "kind",
    [
        "reverse",
        pytest.param("copy", marks=pytest.mark.slow),
        pytest.param("sort", marks=pytest.mark.slow),
    ],
)
def test_a_tiny_model_learns_to_copy_reverse_and_sort(kind: str) -> None:
    """At least 99% of unseen sequences (3 to 6 of 8 letters) are right in every letter.

    All three: ``pytest -n 0 -m "slow or not slow" -k tiny_model
    tests/papers/test_attention_is_all_you_need.py``.
    """
    torch.manual_seed(0)
    train, (sources, references) = _sequences(kind)
    tokenizer = train_chars(train[0])
    source = [[*ids, tokenizer.eos_id] for ids in tokenizer.encode_batch(train[0])]
    target = [[tokenizer.bos_id, *ids] for ids in tokenizer.encode_batch(train[1])]
    target = [[*ids, tokenizer.eos_id] for ids in target]
    order = BucketedBatches([(len(s), len(s) + 1) for s in source], 300)
    config = ModelConfig(
        d_model=64,
        num_heads=4,
        num_encoder_layers=2,
        num_decoder_layers=2,
        d_ff=128,
        dropout=0.0,
        norm="pre",
        max_len=32,
    )
    task = TranslationTask(config, label_smoothing=0.0)
    trainer = Trainer(TrainerConfig(max_steps=600, log_every=600))
    trainer.fit(
        task,
        PairLoader(source, target, order, tokenizer.pad_id),
        info=DatasetInfo(vocab_size=tokenizer.vocab_size),
        optim=OptimizerConfig("adam", lr=4e-3, betas=[0.9, 0.98]),
        schedule=ScheduleConfig("cosine", warmup_steps=40),
    )
    hypotheses = translate(task, tokenizer, sources, DecodeConfig(beam_size=1))
    assert score(hypotheses, references)[0]["test/exact_match"] >= 0.99


def _sequences(kind: str) -> tuple[TextPairs, TextPairs]:
    """4,000 pairs to learn from and 300 others."""
    change = {"copy": str, "reverse": lambda text: text[::-1], "sort": lambda t: "".join(sorted(t))}
    generator = random.Random(0)
    seen: dict[str, None] = {}
    while len(seen) < 4_300:
        seen.setdefault("".join(generator.choices("abcdefgh", k=generator.randint(3, 6))))
    pairs = [(text, change[kind](text)) for text in seen]
    sides = [list(side) for side in zip(*pairs, strict=True)]
    return (sides[0][:4_000], sides[1][:4_000]), (sides[0][4_000:], sides[1][4_000:])


def test_translations_come_back_in_their_order_whatever_stands_beside_them() -> None:
    torch.manual_seed(0)
    config, context = compose(paper.Config, paper.__file__, overrides=TINY)
    sources = load_pairs("embedded/dates", "source", "target")["validation"][0][:12]
    tokenizer = train_chars(sources)
    task = TranslationTask(config.model)
    task.configure(DatasetInfo(vocab_size=tokenizer.vocab_size), context)
    decode = DecodeConfig(beam_size=3, extra_length=5)
    together = translate(task, tokenizer, sources, decode)
    alone = [translate(task, tokenizer, [source], decode)[0] for source in sources]
    assert together == alone
    assert translate(task, tokenizer, [], decode) == []


@pytest.fixture
def command(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., str]:
    """Runs a script of the paper in this process, with words; returns what stands on the screen.

    As processes they run in ``tests/test_readme.py`` and in the contract.
    """

    def run(*words: str, script: str = "train", typed: str = "") -> str:
        monkeypatch.setattr(sys, "argv", [script, *words])
        monkeypatch.setattr(sys, "stdin", io.StringIO(typed))
        monkeypatch.delitem(sys.modules, f"{MODULE}.{script}", raising=False)
        runpy.run_module(f"{MODULE}.{script}", run_name="__main__", alter_sys=True)
        return capsys.readouterr().out

    return run


def _runs() -> list[Path]:
    home = Path(os.environ["ASSETS_DIR"]) / "outputs" / "attention_is_all_you_need"
    return sorted(home.iterdir())


def test_train_evaluate_translate_agree(command: Callable[..., str], tmp_path: Path) -> None:
    trained = command(*SMALL, *TINY, "trainer.max_steps=8")
    assert "Results" in trained
    assert "Samples" in trained
    (run,) = _runs()
    assert str(run) in trained
    record = json.loads((run / "run.json").read_text())
    assert record["state"] == "finished"
    files = {path.name for path in run.iterdir()}
    assert files >= {"config.yaml", "metrics.jsonl", "history.json", "model.safetensors"}
    assert files >= {"tokenizer.json", "plots", "tensorboard", "checkpoints", "logs"}
    assert re.search(r"vocab_size: \d+ +# DATA", (run / "config.yaml").read_text())

    evaluated = command(script="evaluate")
    for name, value in record["metrics"].items():
        assert re.search(rf"{name}\s+{value:.4f}", evaluated), evaluated

    picture = tmp_path / "attention.png"
    words = ("3 May 2019", "4 May 2019", "--attention", str(picture))
    translated = command(*words, script="translate")
    assert len(translated.splitlines()) == 2
    assert picture.stat().st_size > 5_000
    piped = command(script="translate", typed="3 May 2019\n4 May 2019\n")
    assert piped == translated


@pytest.mark.slow
def test_two_processes_train_together_and_leave_one_record() -> None:
    """``test_lora.py`` launches a paper by torchrun in the fast suite; what only this one asks is
    that the results are shown once: ``pytest -n 0 -m slow -k two_processes
    tests/papers/test_attention_is_all_you_need.py``.
    """
    launcher = ["torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m"]
    command = [sys.executable, "-m", *launcher, f"{MODULE}.train", *SMALL, *TINY, *LETTERS]
    result = subprocess.run(
        [*command, "trainer.max_steps=4", "trainer.loggers=[]"],
        capture_output=True,
        text=True,
        timeout=200,
        cwd=get_project_root(),
    )
    assert result.returncode == 0, result.stderr
    assert result.stdout.count("Results") == 1
    (run,) = _runs()
    assert json.loads((run / "run.json").read_text())["state"] == "finished"
    assert len(load_checkpoint(run / "checkpoints" / "last.pt")["rng"]) == 2


def test_ctrl_c_leaves_a_checkpoint_and_the_command_it_prints_resumes_exactly(
    command: Callable[..., str],
) -> None:
    words = [
        *TINY,
        *LETTERS,
        "trainer.max_steps=60",
        "trainer.eval_every=30",
        "trainer.log_every=2",
    ]
    words += ["trainer.loggers=[]", "decode.beam_size=1", "decode.extra_length=1"]
    command(*words)
    process = subprocess.Popen(
        [sys.executable, "-m", f"{MODULE}.train", *words],
        stderr=subprocess.PIPE,
        text=True,
        cwd=get_project_root(),
    )
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and not _has_steps(_runs()[-1], len(_runs())):
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130, errors
    resume = re.search(rf"resume with: python -m {MODULE}\.train (.+)$", errors, re.MULTILINE)
    assert resume, errors
    command(*shlex.split(resume[1]))
    first, second = (load_checkpoint(run / "checkpoints" / "last.pt") for run in _runs())
    assert first["state"]["step"] == second["state"]["step"] == 60
    assert all(torch.equal(value, second["model"][key]) for key, value in first["model"].items())


def _has_steps(run: Path, count: int) -> bool:
    return count == 2 and (run / "metrics.jsonl").is_file()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["optim.lrr=1"], "did you mean 'optim.lr'"),
        (["model.d_model=30", "model.num_heads=4"], "not divisible"),
        (["data.name=embedded/datez"], "did you mean 'embedded/dates'"),
        (["data.source=sauce"], "did you mean 'source'"),
        (["--config", "configs/multi31k.yaml"], "multi30k"),
        (["trainer.max_steps=null"], "trainer.max_steps or trainer.max_epochs"),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_2(
    words: list[str], message: str, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture
) -> None:
    from common.config import launch

    monkeypatch.setattr(sys, "argv", ["train.py", *words])
    with pytest.raises(SystemExit) as caught:
        launch(paper.train, paper.Config, paper.__file__)
    errors = [line for line in capfd.readouterr().err.splitlines() if " INFO " not in line]
    assert caught.value.code == 2
    assert len(errors) == 1
    assert errors[0].startswith("error: ")
    assert message in errors[0]


def test_a_model_larger_than_its_positions_is_a_sentence_too_long_for_it() -> None:
    seed_everything(0)
    model = Transformer(10, 16, 2, 1, 1, 32, max_len=8)
    with pytest.raises(Exception, match="8"):
        model(torch.ones(1, 9, dtype=torch.long), torch.ones(1, 2, dtype=torch.long))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--beam", "0"], "--beam is 0, expected 1 or more\n"),
        (["--attention", "x.nope"], "x.nope is no name of a picture; expected one with .png"),
    ],
)
def test_words_that_make_no_sense_are_one_line_before_any_work(
    words: list[str],
    message: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr("sys.argv", ["translate", *words])
    with pytest.raises(SystemExit) as caught:
        translate_words()
    assert caught.value.code == 2
    assert capsys.readouterr().err.startswith(f"error: {message}")
