"""LoRA: equation 3 by hand, counts of the paper, and the adapter read by peft."""

import json
import os
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from common.config import RunContext, compose
from common.data.info import DatasetInfo
from common.models import GPT, sample
from common.testing.processes import Session
from common.utils import read_weights, save_weights
from common.utils.errors import CheckpointError, ConfigError
from papers.lora import train as paper
from papers.lora.adapters import (
    LoRALinear,
    adapters_of,
    add_adapters,
    merge,
    trained_share,
    unmerge,
    without_adapters,
)
from papers.lora.model import LoRAConfig, LoRATask
from papers.lora.peft_files import save_adapter

ALL = ["*.query", "*.value", "*.out_proj", "*.linear1", "*.linear2"]


def gpt(seed: int = 0) -> GPT:
    torch.manual_seed(seed)
    return GPT(60, 32, 4, 2, 16, dropout=0.0).eval()


def adapted(targets: list[str] = ALL, rank: int = 3) -> GPT:
    """A model whose adapters do something."""
    model = gpt()
    for layer in add_adapters(model, targets, rank, alpha=6.0).values():
        nn.init.normal_(layer.lora_b, std=0.3)
    return model


def tokens(rows: int = 2) -> torch.Tensor:
    return torch.randint(60, (rows, 16), generator=torch.Generator().manual_seed(3))


@pytest.mark.fact("eq. 3")
def test_a_layer_computes_equation_3() -> None:
    torch.manual_seed(0)
    base = nn.Linear(5, 7)
    layer = LoRALinear(base, rank=2, alpha=8.0)
    nn.init.normal_(layer.lora_b)
    x, a, b = torch.randn(4, 5), layer.lora_a[0], layer.lora_b[0]
    expected = x @ base.weight.T + base.bias + 8.0 / 2 * (x @ a.T @ b.T)
    torch.testing.assert_close(layer(x), expected)


@pytest.mark.fact("eq. 3")
def test_parts_of_a_fused_projection_are_adapted_apart() -> None:
    torch.manual_seed(0)
    base = nn.Linear(5, 12)
    layer = LoRALinear(base, rank=2, alpha=2.0, parts=[0, 2], num_parts=3)
    nn.init.normal_(layer.lora_b)
    x = torch.randn(4, 5)
    change = layer(x) - base(x)
    for part, i in ((0, 0), (2, 1)):
        expected = x @ (layer.lora_b[i] @ layer.lora_a[i]).T
        torch.testing.assert_close(change[:, 4 * part : 4 * part + 4], expected)
    assert change[:, 4:8].abs().max() == 0


def test_adapters_change_nothing_at_the_start() -> None:
    model = gpt()
    before = model(tokens())
    add_adapters(model, ALL, rank=4, alpha=32.0)
    assert model(tokens()).equal(before)


def test_only_a_and_b_get_a_gradient() -> None:
    model = adapted()
    model(tokens()).square().sum().backward()
    with_gradient = {name for name, p in model.named_parameters() if p.grad is not None}
    assert with_gradient == {n for n, _ in model.named_parameters() if ".lora_" in n}
    assert all(p.grad.abs().sum() > 0 for p in model.parameters() if p.requires_grad)


def test_merged_equals_unmerged_there_and_back() -> None:
    model = adapted()
    weights = {name: p.clone() for name, p in model.named_parameters()}
    before = model(tokens())
    merge(model)
    merge(model)  # a second time does nothing
    torch.testing.assert_close(model(tokens()), before, atol=1e-5, rtol=1e-5)
    assert not model.blocks[0].attention.in_proj.base.weight.equal(
        weights["blocks.0.attention.in_proj.base.weight"]
    )
    unmerge(model)
    torch.testing.assert_close(model(tokens()), before, atol=1e-5, rtol=1e-5)
    for name, p in model.named_parameters():
        torch.testing.assert_close(p, weights[name], atol=1e-6, rtol=0)


def test_without_adapters_the_base_speaks() -> None:
    model = adapted()
    with without_adapters(model):
        assert model(tokens()).equal(gpt()(tokens()))
    assert not model(tokens()).isclose(gpt()(tokens())).all()


def test_a_merged_model_is_neither_saved_nor_loaded_until_it_is_unmerged(tmp_path: Path) -> None:
    """Saved merged and read by a fresh model, B A would be added twice."""
    path, model = tmp_path / "model.safetensors", adapted()
    before = model(tokens())
    save_weights(model, path)
    merge(model)
    with pytest.raises(CheckpointError, match=r"merged .*: call unmerge\(model\) first"):
        save_weights(model, tmp_path / "merged.safetensors")
    with pytest.raises(CheckpointError, match="merged"):
        model.load_state_dict(adapted().state_dict())
    assert [file.name for file in tmp_path.iterdir()] == [path.name]
    unmerge(model)
    read_weights(model, path)
    assert model(tokens()).equal(before)


def test_a_merged_model_cannot_show_its_base() -> None:
    model = adapted()
    merge(model)
    with pytest.raises(ValueError, match="merged"), without_adapters(model):
        pass
    unmerge(model)
    with without_adapters(model):
        torch.testing.assert_close(model(tokens()), gpt()(tokens()), atol=1e-5, rtol=1e-5)


def test_an_adapted_model_generates_with_a_cache_what_it_does_merged() -> None:
    model = adapted()
    text = sample(model, tokens()[:, :4], 20, temperature=0.0)
    merge(model)
    assert sample(model, tokens()[:, :4], 20, temperature=0.0).equal(text)


@pytest.mark.fact("section 4.2")
def test_a_matrix_of_d_by_k_has_r_times_d_plus_k_trained_parameters() -> None:
    layer = LoRALinear(nn.Linear(48, 80), rank=5, alpha=1.0)
    assert sum(p.numel() for p in layer.parameters() if p.requires_grad) == 5 * (80 + 48)
    model = adapted(["*.query", "*.value"], rank=3)
    assert trained_share(model)[0] == 2 * 2 * 3 * (32 + 32)  # layers, matrices, r (d + k)
    assert trained_share(model)[1] == sum(p.numel() for p in gpt().parameters())


@pytest.mark.fact("Table 4")
@pytest.mark.parametrize(("rank", "millions"), [(1, 4.7), (8, 37.7)])
def test_gpt3_with_adapters_of_query_and_value_has_the_counts_of_table_4(
    rank: int, millions: float
) -> None:
    """96 layers of width 12,288."""
    with torch.device("meta"):
        layer = LoRALinear(nn.Linear(12_288, 3 * 12_288), rank, 1.0, parts=[0, 2], num_parts=3)
    count = 96 * sum(p.numel() for p in layer.parameters() if p.requires_grad)
    assert round(count / 1e6, 1) == millions


def test_a_pattern_that_fits_no_layer_is_named() -> None:
    with pytest.raises(ConfigError, match=r"'\*.queries' fits no layer; there are \*.query"):
        add_adapters(gpt(), ["*.queries"], 4, 1.0)


def test_rank_zero_trains_everything() -> None:
    config, context = compose(paper.Config, paper.__file__, overrides=["lora.rank=0"])
    task = LoRATask(config.model, LoRAConfig(rank=0))
    task.configure(DatasetInfo(vocab_size=20, input_shape=(64,)), context)
    assert all(p.requires_grad for p in task.parameters())
    assert adapters_of(task) == {}


@pytest.mark.parametrize("targets", [["*.query", "*.value"], ALL, ["*.linear2"]])
def test_peft_reads_the_adapter_and_computes_the_same(tmp_path: Path, targets: list[str]) -> None:
    peft = pytest.importorskip("peft")
    transformers = pytest.importorskip("transformers")
    from papers.gpt2.hf_weights import load_hf_weights

    torch.manual_seed(1)
    config = transformers.GPT2Config(
        vocab_size=60, n_embd=32, n_head=4, n_layer=2, n_positions=16, initializer_range=0.2
    )
    reference = transformers.GPT2LMHeadModel(config).eval()
    model = gpt()
    load_hf_weights(model, reference.state_dict())
    plain = model(tokens())
    for layer in add_adapters(model, targets, rank=3, alpha=6.0).values():
        nn.init.normal_(layer.lora_b, std=0.3)
    save_adapter(model, tmp_path)
    theirs = peft.PeftModel.from_pretrained(reference, str(tmp_path)).eval()
    ours = model(tokens())
    torch.testing.assert_close(ours, theirs(tokens()).logits, atol=1e-5, rtol=1e-5)
    assert (ours - plain).abs().max() > 0.1


def test_the_same_adapters_are_drawn_whether_the_base_was_there_or_not() -> None:
    def drawn(base: dict[str, torch.Tensor] | None) -> torch.Tensor:
        config, _ = compose(paper.Config, paper.__file__)
        torch.manual_seed(5)
        task = LoRATask(config.model, config.lora, base)
        task.configure(DatasetInfo(vocab_size=20, input_shape=(64,)), RunContext())
        return task.model.layers[1].attention.in_proj.lora_a

    base = GPT(20, 64, 4, 2, 64).state_dict()
    assert drawn(None).equal(drawn(base))


_RANKS = """
import json
import os
import sys
from pathlib import Path
import torch
from common.config import compose
from papers.lora import train as paper

prepare = paper.prepare_base

def watched(*arguments):
    base = prepare(*arguments)
    seen = {"drawn": torch.rand(1).item(), "sum": sum(t.double().sum().item() for t in base.values())}
    Path(sys.argv[1], f"rank-{os.environ['RANK']}.json").write_text(json.dumps(seen))
    return base

paper.prepare_base = watched
paper.train(*compose(paper.Config, paper.__file__, overrides=sys.argv[2:]))
"""


def test_two_ranks_have_one_base_and_each_its_own_seed(tmp_path: Path) -> None:
    """A real launch: both train the base, the main one writes it, both read it."""
    (tmp_path / "ranks.py").write_text(_RANKS)
    sizes = ["model.d_model=16", "base.max_steps=3", "trainer.max_steps=3", "trainer.loggers=[]"]
    sizes += ["schedule.warmup_steps=1", "base.schedule.warmup_steps=1", "trainer.eval_every=3"]
    sizes += ["data.eval_batch_size=256", "base.data.eval_batch_size=256"]
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node"]
    with Session([*launcher, "2", tmp_path / "ranks.py", tmp_path, *sizes]) as session:
        assert session.wait(90) == 0, session.errors
    main, other = (json.loads((tmp_path / f"rank-{i}.json").read_text()) for i in (0, 1))
    assert main["sum"] == other["sum"]
    assert main["drawn"] != other["drawn"]
    (run,) = (Path(os.environ["ASSETS_DIR"]) / "outputs" / "lora").iterdir()
    written = sum(t.double().sum().item() for t in load_file(run / "base.safetensors").values())
    assert written == main["sum"]
    torch.manual_seed(0)
    assert main["drawn"] == torch.rand(1).item()  # as in a single process
    assert json.loads((run / "run.json").read_text())["state"] == "finished"
