"""GPT-2 weights as the `transformers` library names them, from the data store into ``GPT``.

There the projections are ``Conv1D`` layers, whose weight (in, out) is the transpose of a linear
layer's. Old files lack the prefix ``transformer.`` and hold the causal masks as buffers.

    model, tokenizer = load_hf_model("gpt2")
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from common.data import download_model
from common.models import GPT
from common.utils.checkpoint import load_weights
from common.utils.errors import CheckpointError
from papers.gpt2.tokenization import TextTokenizer, load_tokenizer

_FILES = ("config.json", "model.safetensors", "tokenizer.json")
_OUTSIDE = {
    "embedding.weight": "wte.weight",
    "positions.table": "wpe.weight",
    "norm.weight": "ln_f.weight",
    "norm.bias": "ln_f.bias",
}
_NORMS = {"attention_residual.norm": "ln_1", "feed_forward_residual.norm": "ln_2"}
_PROJECTIONS = {
    "attention.in_proj": "attn.c_attn",
    "attention.out_proj": "attn.c_proj",
    "feed_forward.linear1": "mlp.c_fc",
    "feed_forward.linear2": "mlp.c_proj",
}
_EXPECTED = {  # what GPT computes; a config that says otherwise describes another function
    "activation_function": "gelu_new",
    "layer_norm_epsilon": 1e-5,
    "scale_attn_weights": True,
    "scale_attn_by_inverse_layer_idx": False,
    "tie_word_embeddings": True,
}


def hf_module(name: str) -> str:
    """The name of a block's projection there: ``blocks.3.attention.in_proj``, ``h.3.attn.c_attn``.

    Raises:
        KeyError: if it is no projection.
    """
    _, index, inside = name.split(".", 2)
    return f"h.{index}.{_PROJECTIONS[inside]}"


def load_hf_weights(model: GPT, weights: Mapping[str, Tensor], source: str = "weights") -> None:
    """Copy a GPT-2 of `transformers` into a model of the same shape.

    Args:
        model: Where the weights go.
        weights: The state dict, or the tensors of its file.
        source: Where they come from, for messages.

    Raises:
        CheckpointError: if tensors are missing, or shapes or the output matrix differ.
    """
    theirs = {name.removeprefix("transformer."): tensor for name, tensor in weights.items()}
    taken: dict[str, Tensor] = {}
    for name in model.state_dict():
        there, is_transposed = _name_there(name)
        if there in theirs:
            taken[name] = theirs[there].T if is_transposed else theirs[there]
    head = theirs.get("lm_head.weight")
    if head is not None and "wte.weight" in theirs and not head.equal(theirs["wte.weight"]):
        raise CheckpointError(f"{source} has an output matrix of its own; GPT-2 shares wte.weight")
    load_weights(model, taken, source)


def load_hf_model(name: str) -> tuple[GPT, TextTokenizer]:
    """A published GPT-2 and its tokenizer; fetched if the store does not have them yet.

    Args:
        name: As for ``download_model``, e.g. ``gpt2`` or ``openai-community/gpt2-medium``.

    Raises:
        CheckpointError: if it is no GPT-2, or its file does not fit its own configuration.
        DataError: if there is no such model, or one of its files is missing.
        DownloadError: if it cannot be fetched.
    """
    folder = download_model(name, include=list(_FILES))
    for file in _FILES:
        if not (folder / file).is_file():
            raise CheckpointError(f"{name} has no {file}; expected {', '.join(_FILES)}")
    model = GPT(**_values(folder / "config.json"))
    from safetensors.torch import load_file

    try:
        weights = load_file(folder / "model.safetensors")
    except Exception as error:  # the library raises a class of its own
        raise CheckpointError(f"cannot read {folder / 'model.safetensors'}: {error}") from None
    load_hf_weights(model, weights, name)
    return model.eval(), load_tokenizer(folder / "tokenizer.json")


def _values(path: Path) -> dict[str, Any]:
    config = json.loads(path.read_text(encoding="utf-8"))
    if config.get("model_type") != "gpt2":
        raise CheckpointError(f"{path} describes {config.get('model_type')!r}, expected 'gpt2'")
    for key, expected in _EXPECTED.items():
        if config.get(key, expected) != expected:
            raise CheckpointError(f"{path}: {key} is {config[key]!r}, expected {expected!r}")
    if config.get("n_inner") not in (None, 4 * config["n_embd"]):
        raise CheckpointError(f"{path}: n_inner is {config['n_inner']}, expected 4 * n_embd")
    return {
        "vocab_size": config["vocab_size"],
        "d_model": config["n_embd"],
        "num_heads": config["n_head"],
        "num_layers": config["n_layer"],
        "max_len": config["n_positions"],
        "dropout": 0.0,
    }


def _name_there(name: str) -> tuple[str, bool]:
    """The name of a tensor there, and whether it lies transposed."""
    if name in _OUTSIDE:
        return _OUTSIDE[name], False
    module, kind = name.rsplit(".", 1)
    _, index, inside = module.split(".", 2)
    if inside in _NORMS:
        return f"h.{index}.{_NORMS[inside]}.{kind}", False
    return f"{hf_module(module)}.{kind}", kind == "weight"
