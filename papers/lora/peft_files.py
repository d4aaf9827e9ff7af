"""Adapters as the `peft` library stores them: ``adapter_model.safetensors`` and its configuration.

In `transformers` the query, key and value of a GPT-2 are one layer ``c_attn``, and `peft` knows one
adapter a layer. Adapters of P parts with rank r are written as one of rank P r: its A holds theirs
below each other, its B has theirs on the diagonal and zeros elsewhere. With alpha times P as well,
alpha / r stays, and the product is the same.
"""

import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from common.models import GPT
from common.utils.files import atomic_write_text
from papers.gpt2.hf_weights import hf_module
from papers.lora.adapters import LoRALinear, adapters_of


def save_adapter(model: GPT, folder: Path, base_name: str = "") -> None:
    """Write the adapters of a model for ``peft.PeftModel.from_pretrained(gpt2, folder)``.

    Args:
        model: With adapters.
        folder: It is made if it is not there.
        base_name: What the adapters belong to, for the record.

    Raises:
        ValueError: the model has no adapter.
    """
    from safetensors.torch import save_file

    layers = {hf_module(name): layer for name, layer in adapters_of(model).items()}
    if not layers:
        raise ValueError("the model has no adapter to save")
    weights: dict[str, Tensor] = {}
    for name, layer in layers.items():
        a, b = _as_one(layer)
        weights[f"base_model.model.transformer.{name}.lora_A.weight"] = a
        weights[f"base_model.model.transformer.{name}.lora_B.weight"] = b
    folder.mkdir(parents=True, exist_ok=True)
    save_file(weights, folder / "adapter_model.safetensors")
    text = json.dumps(_configuration(layers, base_name), indent=2)
    atomic_write_text(folder / "adapter_config.json", text + "\n")


def _as_one(layer: LoRALinear) -> tuple[Tensor, Tensor]:
    rank, size = layer.rank, layer.part_size
    a = layer.lora_a.detach().flatten(0, 1).contiguous()
    b = torch.zeros(layer.base.out_features, len(a))
    for i, (part, block) in enumerate(zip(layer.parts, layer.lora_b.detach(), strict=True)):
        b[part * size : (part + 1) * size, i * rank : (i + 1) * rank] = block
    return a.cpu(), b


def _configuration(layers: dict[str, LoRALinear], base_name: str) -> dict[str, Any]:
    ranks = {name: len(layer.parts) * layer.rank for name, layer in layers.items()}
    alphas = {name: len(layer.parts) * layer.alpha for name, layer in layers.items()}
    first = next(iter(layers))
    return {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base_name,
        "inference_mode": True,
        "r": ranks[first],
        "lora_alpha": alphas[first],
        "rank_pattern": {name: rank for name, rank in ranks.items() if rank != ranks[first]},
        "alpha_pattern": {name: a for name, a in alphas.items() if a != alphas[first]},
        "target_modules": sorted(layers),
        "fan_in_fan_out": True,  # GPT-2's layers are Conv1D, with transposed weights
        "lora_dropout": 0.0,
        "bias": "none",
    }
