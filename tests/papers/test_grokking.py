"""Facts of "Grokking" (Power et al. 2022, 2201.02177), and its commands end to end."""

import json
import math
import re
import subprocess
import sys
from itertools import permutations
from pathlib import Path

import pytest
import torch

from common.config import RunContext, compose
from common.data import DatasetInfo
from common.models import causal_mask
from common.utils.errors import ConfigError
from common.utils.paths import get_outputs_dir, get_project_root
from papers.grokking import train as paper
from papers.grokking.dataset import (
    SYMMETRIC,
    DataConfig,
    build_data,
    inverse,
    operation_table,
)
from papers.grokking.delay import first_step, grokking_steps
from papers.grokking.model import EquationTask, ModelConfig
from papers.grokking.plot import main as draw
from papers.grokking.plot import plot_grokking

SMALL = ["data.p=7", "model.d_model=16", "model.num_heads=2", "trainer.loggers=[]"]


@pytest.mark.fact("appendix A.1.1: x o y = x / y (mod p), p = 97, 0 <= x < p, 0 < y < p")
def test_the_table_of_division_is_what_trying_every_residue_gives() -> None:
    table, elements = operation_table("divide", 97)
    found = {(c * y % 97, y): c for c in range(97) for y in range(1, 97)}  # c = x / y where c y = x
    assert elements == 97
    assert len(table) == 97 * 96 == 9_312
    assert {(a, b): c for a, b, c in table.tolist()} == found


@pytest.mark.parametrize(
    ("operation", "expected"),
    [
        ("add", lambda x, y: (x + y) % 13),
        ("subtract", lambda x, y: (x - y) % 13),
        ("divide_if_odd", lambda x, y: (x * pow(y, -1, 13) if y % 2 else x - y) % 13),
        ("x2+y2", lambda x, y: (x * x + y * y) % 13),
        ("x2+xy+y2", lambda x, y: (x * x + x * y + y * y) % 13),
        ("x2+xy+y2+x", lambda x, y: (x * x + x * y + y * y + x) % 13),
        ("x3+xy", lambda x, y: (x * x * x + x * y) % 13),
        ("x3+xy2+y", lambda x, y: (x * x * x + x * y * y + y) % 13),
    ],
)
def test_a_modular_table_is_the_formula_at_every_pair(operation: str, expected) -> None:
    table, elements = operation_table(operation, 13)
    assert elements == 13
    assert table.tolist() == [[x, y, expected(x, y)] for x in range(13) for y in range(13)]


def test_every_residue_but_zero_times_its_inverse_is_one() -> None:
    y = torch.arange(1, 97)
    assert (y * inverse(y, 97) % 97 == 1).all()


@pytest.mark.fact("appendix A.1.1: x y, x y x^-1 and x y x for x, y in S5")
def test_permutations_compose_as_functions_do() -> None:
    elements = list(permutations(range(5)))
    number = {element: i for i, element in enumerate(elements)}

    def after(x, y):  # (x y)(i) = x(y(i))
        return tuple(x[y[i]] for i in range(5))

    def undone(x):
        return tuple(x.index(i) for i in range(5))

    expected = {
        "s5": lambda x, y: after(x, y),
        "s5_conjugate": lambda x, y: after(after(x, y), undone(x)),
        "s5_sandwich": lambda x, y: after(after(x, y), x),
    }
    assert set(expected) == set(SYMMETRIC)
    for operation, formula in expected.items():
        table, count = operation_table(operation, 97)
        assert (count, len(table)) == (120, 14_400)
        for a, b, c in table[::97].tolist():
            assert c == number[formula(elements[a], elements[b])]


def test_addition_and_s5_are_groups_and_only_addition_commutes() -> None:
    """Every row and every column holds every element once; element 0 changes nothing."""
    for operation, commutes in (("add", True), ("s5", False)):
        table, count = operation_table(operation, 11)
        square = table[:, 2].view(count, count)
        everything = torch.arange(count)
        assert (square.sort(dim=0).values == everything[:, None]).all()
        assert (square.sort(dim=1).values == everything).all()
        assert (square[0] == everything).all()
        assert (square[:, 0] == everything).all()
        assert bool((square == square.T).all()) is commutes
        # (x y) z = x (y z), for every x and y and some z
        for z in range(0, count, 7):
            torch.testing.assert_close(square[square, z], square[everything[:, None], square[:, z]])


@pytest.mark.fact("section 2: the tokens are <a> <o> <b> <=> <c>; half of them are for training")
def test_equations_are_written_a_o_b_equals_c_and_split_in_half() -> None:
    data = _data("divide", 97)
    train, held_out = (_equations(loader) for loader in (data.train, data.validation))
    assert data.info.sizes == {"train": 4_656, "validation": 4_656}
    assert data.info.vocab_size == 97 + 2
    together = torch.cat([train, held_out])
    assert (together[:, 1] == 97).all()
    assert (together[:, 3] == 98).all()
    assert (together[:, 4] * together[:, 2] % 97 == together[:, 0]).all()
    assert len({tuple(row) for row in together.tolist()}) == 9_312  # none twice, none in both


def test_the_split_depends_on_the_seed_alone() -> None:
    first, again, other = (_equations(_data("add", 13, seed).validation) for seed in (0, 0, 1))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


@pytest.mark.fact("appendix A.1.2: a batch is 512, or half of the training set if that is less")
@pytest.mark.parametrize(("p", "expected"), [(97, 512), (23, 132)])
def test_a_batch_is_at_most_half_of_the_training_set(p: int, expected: int) -> None:
    batch = next(iter(_data("add", p).train.batches(0)))
    assert batch["equation"].shape == (expected, 5)


@pytest.mark.fact(
    "appendix A.1.2: 2 layers, width 128, 4 heads: about 4e5 non-embedding parameters"
)
def test_the_model_has_about_400_000_parameters_beside_the_embeddings() -> None:
    config, _ = compose(paper.Config, paper.__file__, "configs/division_97.yaml")
    task = _task(config.model, 99)
    layers = sum(p.numel() for p in [*task.layers.parameters(), *task.norm.parameters()])
    per_layer = 4 * 128 * 128 + 2 * 128 * 512  # attention, feed-forward
    vectors = 4 * 128 + (512 + 128) + 2 * 2 * 128  # biases, and the two norms
    assert layers == 2 * (per_layer + vectors) + 2 * 128 == 396_800
    assert layers == pytest.approx(4e5, rel=0.01)


def test_a_layer_equals_pytorchs_own_with_the_same_weights() -> None:
    torch.manual_seed(0)
    layer = _task(ModelConfig(d_model=32, num_heads=4), 9).layers[0].eval()
    theirs = torch.nn.TransformerEncoderLayer(
        32, 4, 128, dropout=0.0, norm_first=True, batch_first=True
    ).eval()
    names = {
        "self_attn.in_proj_weight": "attention.in_proj.weight",
        "self_attn.in_proj_bias": "attention.in_proj.bias",
        "self_attn.out_proj.weight": "attention.out_proj.weight",
        "self_attn.out_proj.bias": "attention.out_proj.bias",
        "linear1.weight": "feed_forward.linear1.weight",
        "linear1.bias": "feed_forward.linear1.bias",
        "linear2.weight": "feed_forward.linear2.weight",
        "linear2.bias": "feed_forward.linear2.bias",
        "norm1.weight": "attention_residual.norm.weight",
        "norm1.bias": "attention_residual.norm.bias",
        "norm2.weight": "feed_forward_residual.norm.weight",
        "norm2.bias": "feed_forward_residual.norm.bias",
    }
    ours = layer.state_dict()
    theirs.load_state_dict({name: ours[own] for name, own in names.items()})
    x = torch.randn(3, 4, 32)
    hidden = ~causal_mask(4, 4)
    torch.testing.assert_close(layer(x), theirs(x, src_mask=hidden), atol=1e-5, rtol=1e-5)


def test_no_token_sees_a_later_one() -> None:
    task = _task(ModelConfig(d_model=16, num_heads=2), 9).eval()
    first, second = torch.tensor([[1, 7, 2, 8]]), torch.tensor([[1, 7, 5, 8]])
    one, other = task(first), task(second)
    torch.testing.assert_close(one[:, :2], other[:, :2])
    assert not torch.allclose(one[:, 3], other[:, 3])


@pytest.mark.fact("appendix A.1.2: loss and accuracy on the answer part alone")
def test_loss_and_accuracy_are_those_of_the_answer() -> None:
    task = _task(ModelConfig(d_model=16, num_heads=2), 9).eval()
    equations = torch.tensor([[1, 7, 2, 8, 3], [4, 7, 4, 8, 1]])
    log_p = task(equations[:, :4])[:, 3].log_softmax(dim=-1)
    output = task.compute_loss({"equation": equations})
    torch.testing.assert_close(output["loss"], -(log_p[0, 3] + log_p[1, 1]) / 2)
    answered = equations.clone()
    answered[:, 4] = log_p.argmax(dim=-1)
    assert task.compute_loss({"equation": answered})["accuracy"] == 1.0


@pytest.mark.fact("appendix A.1.2: AdamW, lr 1e-3, weight decay 1, betas 0.9 and 0.98, warm-up 10")
def test_the_papers_own_settings_are_in_the_config() -> None:
    config, _ = compose(paper.Config, paper.__file__, "configs/division_97.yaml")
    assert (config.data.operation, config.data.p, config.data.train_share) == ("divide", 97, 0.5)
    optim = config.optim
    assert (optim.name, optim.lr, optim.weight_decay) == ("adamw", 1e-3, 1.0)
    assert (optim.betas, config.schedule.name, config.schedule.warmup_steps) == (
        [0.9, 0.98],
        "constant",
        10,
    )


def test_the_step_of_99_percent_is_the_first_record_that_has_it(tmp_path: Path) -> None:
    records = [
        {"step": 10, "train/accuracy": 0.5},
        {"step": 20, "train/accuracy": 0.99},
        {"step": 20, "validation/accuracy": 0.3},
        {"step": 30, "train/accuracy": 0.9},
        {"step": 40, "train/accuracy": 1.0},
    ]
    assert first_step(records, "train/accuracy", 0.99) == 20
    assert first_step(records, "validation/accuracy", 0.99) is None
    lines = "".join(json.dumps(record) + "\n" for record in records)
    (tmp_path / "metrics.jsonl").write_text(lines)
    assert grokking_steps(tmp_path) == {"steps/train_99": 20.0}
    plot_grokking(tmp_path, tmp_path / "out.png")
    assert (tmp_path / "out.png").stat().st_size > 5_000


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"p": 91}, "data.p is 91, which is not prime"),
        ({"p": 3, "train_share": 0.1}, "1 of 9 equations"),
    ],
)
def test_a_table_that_cannot_be_made_or_split_is_one_line(values: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(message)):
        build_data(DataConfig(operation="add", batch_size=2, **values), RunContext(), 0)


def test_train_evaluate_and_plot_agree(tmp_path: Path) -> None:
    trained = _run("train", *SMALL, "trainer.max_steps=20", "trainer.eval_every=10")
    assert trained.returncode == 0, trained.stderr
    (run,) = (get_outputs_dir() / "grokking").iterdir()
    record = json.loads((run / "run.json").read_text())
    assert set(record["metrics"]) >= {"test/loss", "test/accuracy"}
    assert math.isfinite(record["metrics"]["test/loss"])
    assert (run / "plots" / "grokking.png").is_file()
    evaluated = _run("evaluate")
    assert evaluated.returncode == 0, evaluated.stderr
    assert json.loads((run / "evaluation.json").read_text())["metrics"] == record["metrics"]
    drawn = _run("plot", "--out", str(tmp_path / "grokking.png"))
    assert drawn.returncode == 0, drawn.stderr
    assert (tmp_path / "grokking.png").stat().st_size > 5_000


def _run(script: str, *words: str) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", f"papers.grokking.{script}", *words]
    return subprocess.run(
        command, capture_output=True, text=True, timeout=200, cwd=get_project_root()
    )


def _data(operation: str, p: int, seed: int = 0):
    overrides = [f"data.operation={operation}", f"data.p={p}", "data.train_share=0.5"]
    config, context = compose(paper.Config, paper.__file__, overrides=overrides)
    return build_data(config.data, context, seed)


def _equations(loader) -> torch.Tensor:
    return torch.cat([batch["equation"] for batch in loader.batches(0)])


def _task(config: ModelConfig, vocab_size: int) -> EquationTask:
    torch.manual_seed(0)
    task = EquationTask(config)
    task.configure(DatasetInfo(vocab_size=vocab_size), RunContext())
    return task


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--out", "x.nope"], "x.nope is no name of a picture; expected one with .png"),
    ],
)
def test_words_that_make_no_sense_are_one_line_before_any_work(
    words: list[str],
    message: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr("sys.argv", ["plot", *words])
    with pytest.raises(SystemExit) as caught:
        draw()
    assert caught.value.code == 2
    assert capsys.readouterr().err.startswith(f"error: {message}")
