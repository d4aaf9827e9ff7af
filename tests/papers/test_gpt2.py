"""GPT-2: the text and its windows, published weights, and the commands."""

import json
import sys

import numpy as np
import pytest
import torch

from common.config import RunContext, compose
from common.data.info import DatasetInfo
from common.models import GPT, sample
from common.testing.hub import LoopbackHub
from common.utils.errors import CheckpointError, DataError
from papers.gpt2 import generate
from papers.gpt2 import train as paper
from papers.gpt2.dataset import TextConfig, WindowLoader, build_data, evaluation_loader, load_texts
from papers.gpt2.hf_weights import load_hf_model, load_hf_weights
from papers.gpt2.model import LanguageModelTask, ModelConfig
from papers.gpt2.sampling import SampleConfig, continue_text
from papers.gpt2.tokenization import Characters, Pretrained, load_tokenizer

pytest_plugins = ["common.testing.fixtures"]

DATES = TextConfig(columns=["source", "target"], separator=" -> ", end="\n")


def reference(**values):
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(1)
    shape = {"vocab_size": 60, "n_embd": 32, "n_head": 4, "n_layer": 2, "n_positions": 16}
    config = transformers.GPT2Config(**(shape | {"initializer_range": 0.3} | values))
    return transformers.GPT2LMHeadModel(config).eval()


def greedy(model, prompt: torch.Tensor, tokens: int) -> torch.Tensor:
    return model.generate(
        prompt,
        attention_mask=torch.ones_like(prompt),
        max_new_tokens=tokens,
        do_sample=False,
        pad_token_id=0,
        eos_token_id=None,
    )


def small() -> GPT:
    return GPT(60, 32, 4, 2, 16, dropout=0.0).eval()


@pytest.mark.fact("eq. 1")
def test_the_loss_is_the_mean_negative_log_probability_of_each_next_token() -> None:
    torch.manual_seed(0)
    task = LanguageModelTask(ModelConfig(32, 4, 2, 0.0))
    task.configure(DatasetInfo(vocab_size=20, input_shape=(8,)), RunContext())
    tokens = torch.randint(20, (3, 9))
    log_p = task(tokens[:, :-1]).log_softmax(-1)
    by_hand = [-log_p[b, t, tokens[b, t + 1]] for b in range(3) for t in range(8)]
    output = task.train_step({"tokens": tokens})
    torch.testing.assert_close(output.loss_sum, torch.stack(by_hand).sum())
    assert output.weight == 24


def test_greedy_text_is_what_transformers_generates() -> None:
    theirs, ours = reference(), small()
    load_hf_weights(ours, theirs.state_dict())
    prompt = torch.randint(60, (2, 4))
    expected = greedy(theirs, prompt, 12)
    assert sample(ours, prompt, 12, temperature=0.0).equal(expected)


def test_weights_of_another_shape_are_refused() -> None:
    with pytest.raises(CheckpointError, match=r"positions\.table has shape"):
        load_hf_weights(small(), reference(n_positions=20).state_dict())


def test_an_output_matrix_of_its_own_is_refused() -> None:
    weights = reference(tie_word_embeddings=False).state_dict()
    weights["lm_head.weight"] = weights["lm_head.weight"] + 1
    with pytest.raises(CheckpointError, match="output matrix of its own"):
        load_hf_weights(small(), weights)


def push(hub: LoopbackHub, model, **changes) -> None:
    """A tiny published GPT-2 whose tokens are the letters of a byte-pair vocabulary."""
    from safetensors.torch import save
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    alphabet = pre_tokenizers.ByteLevel.alphabet()
    letters = sorted(alphabet, key=lambda letter: (letter not in "ToĠbe", letter))[:60]
    tokenizer = Tokenizer(models.BPE({c: i for i, c in enumerate(letters)}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    weights = {k: v.contiguous() for k, v in model.transformer.state_dict().items()}
    hub.push(
        "models/tiny/gpt2",
        {
            "README.md": b"---\nlicense: mit\n---\n",
            "config.json": json.dumps(model.config.to_dict() | changes).encode(),
            "model.safetensors": save(weights),
            "tokenizer.json": tokenizer.to_str().encode(),
        },
    )


def test_a_published_model_goes_on_with_a_text(
    loopback_hub: LoopbackHub, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    theirs = reference()
    push(loopback_hub, theirs)
    words = ["generate", "To be", "--hf-model", "tiny/gpt2", "--temperature", "0", "--tokens", "8"]
    monkeypatch.setattr(sys, "argv", words)
    generate.main()
    text = capsys.readouterr().out
    model, tokenizer = load_hf_model("tiny/gpt2")
    prompt = torch.as_tensor(tokenizer.encode(["To be"]).astype("int64"))[None]
    assert text == tokenizer.decode(greedy(theirs, prompt, 8)[0].tolist()) + "\n"
    assert text.startswith("To be")
    assert model.max_len == 16


def test_a_published_model_that_is_another_function_is_refused(loopback_hub: LoopbackHub) -> None:
    push(loopback_hub, reference(), activation_function="relu")
    with pytest.raises(CheckpointError, match="activation_function is 'relu', expected 'gelu_new'"):
        load_hf_model("tiny/gpt2")


# ---- the text -------------------------------------------------------------------------------


def test_characters_lose_nothing_and_are_numbered_in_unicodes_order(tmp_path) -> None:
    text = "ab\nбß日🙂a"
    tokenizer = Characters(text)
    assert tokenizer.characters == "\nabßб日🙂"
    assert tokenizer.decode(tokenizer.encode([text]).tolist()) == text
    (tmp_path / "tokenizer.json").write_text(tokenizer.text, encoding="utf-8")
    again = load_tokenizer(tmp_path / "tokenizer.json")
    assert again.encode([text]).tolist() == tokenizer.encode([text]).tolist()


def test_an_unknown_character_is_named_or_left_out() -> None:
    tokenizer = Characters("abc")
    with pytest.raises(DataError, match=r"lacks 'xz' \(40.00% of the text\)"):
        tokenizer.encode(["azbxc"])
    assert tokenizer.decode(tokenizer.encode(["azbxc"], drop_unknown=True).tolist()) == "abc"


def test_a_damaged_tokenizer_is_one_line(tmp_path) -> None:
    (tmp_path / "tokenizer.json").write_text('{"model": ')
    with pytest.raises(DataError, match="cannot read the tokenizer"):
        load_tokenizer(tmp_path / "tokenizer.json")


def test_held_out_text_is_the_end_of_all_splits_together() -> None:
    own = load_texts(DATES)
    texts = load_texts(TextConfig(**(vars(DATES) | {"held_out": 0.1})))
    whole = "".join(row for split in own.values() for row in split)
    assert texts["train"][0] + texts["validation"][0] == whole
    assert len(texts["train"][0]) == int(len(whole) * 0.9)


def _is_text(
    monkeypatch: pytest.MonkeyPatch, splits: dict[str, list[str]], tokenizer: str, **values
) -> TextConfig:
    """A configuration whose data set has these rows."""
    stored = {split: {"text": rows} for split, rows in splits.items()}
    monkeypatch.setattr("papers.gpt2.dataset.load_splits", lambda *_: stored)
    return TextConfig(tokenizer=tokenizer, held_out=0.1, block_size=1, **values)


def test_held_out_characters_are_cut_within_a_row(monkeypatch, tmp_path) -> None:
    """The tokens of what nanoGPT does with Tiny Shakespeare: all text, cut after 90% of it."""
    splits = {"train": ["To be,\n or not\n", "to be\n"], "validation": ["or be"], "test": ["not"]}
    config = _is_text(monkeypatch, splits, "chars")
    whole = "".join(row for rows in splits.values() for row in rows)
    alphabet = sorted(set(whole[: int(len(whole) * 0.9)]))
    ids = np.array([alphabet.index(letter) for letter in whole], dtype=np.uint16)
    data = build_data(config, RunContext(), tmp_path, 0)
    train, held_out = np.split(ids, [int(len(whole) * 0.9)])
    assert data.train.tokens.tobytes() == train.tobytes()
    windows = data.validation.tensors["tokens"]
    assert [*windows[:, :-1].flatten().tolist(), windows[-1, -1].item()] == held_out.tolist()


@pytest.mark.parametrize("held_out", [0.001, 0.1, 0.3, 0.999])
def test_with_a_models_tokenizer_the_held_out_text_begins_with_a_row(
    monkeypatch, held_out: float
) -> None:
    splits = {"train": ["abc", "de", "fghi"], "validation": ["j"]}
    config = _is_text(monkeypatch, splits, "tiny/gpt2", end="<|endoftext|>")
    config.held_out = held_out
    texts = load_texts(config)
    rows = [f"{row}<|endoftext|>" for part in splits.values() for row in part]
    cut = {0.001: 3, 0.1: 3, 0.3: 3, 0.999: 1}[held_out]
    assert texts == {"train": rows[:cut], "validation": rows[cut:]}


def test_a_single_row_is_not_cut_with_a_models_tokenizer(monkeypatch) -> None:
    config = _is_text(monkeypatch, {"train": ["one long row"]}, "tiny/gpt2")
    with pytest.raises(DataError, match=r"has 1 rows, .* expected two or more"):
        load_texts(config)


def test_windows_are_a_function_of_seed_epoch_and_batch() -> None:
    tokens = np.arange(500, dtype=np.uint16)
    loader = WindowLoader(tokens, block_size=10, batch_size=4, seed=7)
    assert loader.num_batches(0) == 13
    whole = [batch["tokens"] for batch in loader.batches(2)]
    late = [batch["tokens"] for batch in loader.batches(2, start=9)]
    assert all(a.equal(b) for a, b in zip(whole[9:], late, strict=True))
    assert not whole[0].equal(next(iter(loader.batches(3)))["tokens"])
    for window in torch.cat(whole):
        assert window.equal(torch.arange(window[0], window[0] + 11))
    assert torch.cat(whole)[:, 0].tolist() == [p for b in range(13) for p in loader.indices(2, b)]


def test_every_place_of_the_text_can_begin_a_window_and_no_other() -> None:
    loader = WindowLoader(np.arange(14), block_size=10, batch_size=4, seed=0)
    places = {p for epoch in range(50) for p in loader.indices(epoch, 0)}
    assert places == {0, 1, 2, 3}


def test_ranks_share_the_same_global_batch() -> None:
    loader = WindowLoader(np.arange(300), block_size=10, batch_size=5, seed=0)
    whole = next(iter(loader.batches(0)))["tokens"]
    parts = [next(iter(loader.batches(0, 0, rank, 2)))["tokens"] for rank in range(2)]
    assert parts[0].equal(whole[0::2])
    assert parts[1].equal(whole[1::2])


def test_an_evaluation_predicts_every_token_once() -> None:
    loader = evaluation_loader(np.arange(101), TextConfig(block_size=10, eval_batch_size=4))
    windows = torch.cat([batch["tokens"] for batch in loader.batches(0)])
    assert windows[:, 1:].flatten().tolist() == list(range(1, 101))
    few = evaluation_loader(np.arange(101), TextConfig(block_size=10), windows=5)
    assert few.tensors["tokens"][:, 0].tolist() == [0, 20, 40, 60, 80]


def test_a_text_shorter_than_a_window_is_refused(tmp_path) -> None:
    config = TextConfig(**(vars(DATES) | {"block_size": 10**6}))
    with pytest.raises(DataError, match=r"lower data\.block_size"):
        build_data(config, RunContext(), tmp_path, 0)


def test_a_missing_column_is_named() -> None:
    with pytest.raises(DataError, match="there is no column 'text'"):
        load_texts(TextConfig())


def test_a_sample_is_a_function_of_its_seed() -> None:
    tokenizer = Characters("abcdefgh")
    torch.manual_seed(0)
    model = GPT(8, 32, 4, 1, 16)
    config = SampleConfig(prompt="ab", tokens=40)
    text = continue_text(model, tokenizer, config, seed=1)
    assert text == continue_text(model, tokenizer, config, seed=1)
    assert text != continue_text(model, tokenizer, config, seed=2)
    assert len(text) == 42
    assert text.startswith("ab")
    assert model.training


def test_the_recipe_of_124_million_parameters_is_the_models() -> None:
    config, context = compose(paper.Config, paper.__file__, "configs/gpt2_124m.yaml")
    with torch.device("meta"):
        task = LanguageModelTask(config.model)
        info = DatasetInfo(vocab_size=50_257, input_shape=(config.data.block_size,))
        task.configure(info, context)
    assert sum(p.numel() for p in task.parameters()) == 124_439_808
    windows = config.data.batch_size * config.trainer.accumulate
    assert windows * config.data.block_size == 491_520  # tokens of an update, about half a million


def test_a_published_tokenizer_knows_its_special_tokens() -> None:
    from tokenizers import Tokenizer, models

    core = Tokenizer(models.WordLevel({"a": 0, "b": 1}, unk_token="b"))
    core.add_special_tokens(["<|endoftext|>"])
    tokenizer = Pretrained(core.to_str())
    assert tokenizer.vocab_size == 3
    assert tokenizer.encode(["a<|endoftext|>", "a"]).tolist() == [0, 2, 0]
    tokens = tokenizer.encode("a" if i % 2 else "b" for i in range(20_001))  # chunks of rows
    assert tokens.dtype == np.uint16
    assert tokens.tolist() == [1, 0] * 10_000 + [1]
    assert len(tokenizer.encode([])) == 0


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--tokens", "-5"], "--tokens is -5, expected 0 or more\n"),
        (["--seed", "-1"], "--seed is -1, expected 0 to 9223372036854775807\n"),
    ],
)
def test_words_that_make_no_sense_are_one_line_before_any_work(
    words: list[str],
    message: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr("sys.argv", ["generate", *words])
    with pytest.raises(SystemExit) as caught:
        generate.main()
    assert caught.value.code == 2
    assert capsys.readouterr().err.startswith(f"error: {message}")
