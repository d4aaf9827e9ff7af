"""Low-rank adapters of linear layers: equation 3 of LoRA (Hu et al. 2021, arXiv 2106.09685).

    h = W0 x + (alpha / r) B A x        A: (r, k) Gaussian, B: (d, r) zero at the start

W0 is frozen. Which layers are adapted is said by name: ``blocks.0.attention.query`` and so on
stand for the parts of the fused projection ``attention.in_proj``, every other layer for itself.
"""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from fnmatch import fnmatchcase

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from common.utils.errors import CheckpointError, ConfigError

_FUSED = "in_proj"
_PARTS = ("query", "key", "value")


class LoRALinear(nn.Module):
    """A frozen linear layer beside adapters of all its rows, or of some of its parts.

    A state dict does not say whether W0 is merged, so a merged layer neither gives nor takes one.

    Args:
        base: W0; it is frozen.
        rank: The paper's r.
        alpha: The adapters' output is multiplied by alpha / r.
        parts: Which of the layer's parts have an adapter each.
        num_parts: Into how many equal parts the rows of W0 fall.
    """

    def __init__(
        self,
        base: nn.Linear,
        rank: int,
        alpha: float,
        parts: Sequence[int] = (0,),
        num_parts: int = 1,
    ) -> None:
        super().__init__()
        self.base = base.requires_grad_(False)
        self.rank, self.alpha, self.parts = rank, alpha, tuple(parts)
        self.part_size = base.out_features // num_parts
        self.is_merged = False
        self.is_enabled = True
        count, inputs, like = len(self.parts), base.in_features, base.weight
        self.lora_a = nn.Parameter(like.new_empty(count, rank, inputs))
        self.lora_b = nn.Parameter(like.new_zeros(count, self.part_size, rank))
        nn.init.normal_(self.lora_a, std=inputs**-0.5)
        self.register_state_dict_pre_hook(_refuse_merged)
        self.register_load_state_dict_pre_hook(_refuse_merged)

    @property
    def scale(self) -> float:
        """alpha / r."""
        return self.alpha / self.rank

    @property
    def delta_weight(self) -> Float[Tensor, "O I"]:
        """(alpha / r) B A, as large as W0; zero in parts without an adapter."""
        rows = torch.zeros_like(self.base.weight)
        for part, a, b in zip(self.parts, self.lora_a, self.lora_b, strict=True):
            rows[part * self.part_size : (part + 1) * self.part_size] = self.scale * (b @ a)
        return rows

    def forward(self, x: Float[Tensor, "*B I"]) -> Float[Tensor, "*B O"]:
        y = self.base(x)
        if self.is_merged or not self.is_enabled:
            return y
        outputs = list(y.split(self.part_size, dim=-1))
        for part, a, b in zip(self.parts, self.lora_a, self.lora_b, strict=True):
            outputs[part] = outputs[part] + self.scale * F.linear(F.linear(x, a), b)
        return outputs[0] if len(outputs) == 1 else torch.cat(outputs, dim=-1)

    @torch.no_grad()
    def merge(self) -> None:
        """W0 becomes W0 + (alpha / r) B A: no further cost of inference (section 4.1)."""
        if not self.is_merged:
            self.base.weight += self.delta_weight
            self.is_merged = True

    @torch.no_grad()
    def unmerge(self) -> None:
        """The inverse of ``merge``, up to rounding."""
        if self.is_merged:
            self.base.weight -= self.delta_weight
            self.is_merged = False


def _refuse_merged(layer: LoRALinear, *_: object) -> None:
    if layer.is_merged:
        raise CheckpointError(
            "the adapters are merged into the base, and a state dict would not say so; expected a "
            "model that is not merged: call unmerge(model) first"
        )


def adaptable(model: nn.Module) -> dict[str, tuple[str, int, int]]:
    """The linear layers of a model by the names that patterns are matched with.

    Returns:
        For each name the layer's own name, which part of it is meant, and of how many.
    """
    found = {}
    for name, module in model.named_modules():
        if not isinstance(module, nn.Linear):
            continue
        parent, _, last = name.rpartition(".")
        if last == _FUSED:
            for part, kind in enumerate(_PARTS):
                found[f"{parent}.{kind}"] = (name, part, len(_PARTS))
        else:
            found[name] = (name, 0, 1)
    return found


def add_adapters(
    model: nn.Module, targets: Sequence[str], rank: int, alpha: float
) -> dict[str, LoRALinear]:
    """Freeze a model and give its layers adapters, which alone are trained from then on.

    Args:
        model: Changed in place.
        targets: Shell patterns of names (see ``adaptable``), e.g. ``*.query``.
        rank: The paper's r.
        alpha: The paper's alpha.

    Returns:
        The adapted layers by their own names.

    Raises:
        ConfigError: a pattern fits no layer.
    """
    known = adaptable(model)
    for pattern in targets:
        if not any(fnmatchcase(name, pattern) for name in known):
            examples = ", ".join(dict.fromkeys(f"*.{name.rpartition('.')[2]}" for name in known))
            raise ConfigError(f"lora.targets: '{pattern}' fits no layer; there are {examples}")
    parts: dict[str, list[int]] = defaultdict(list)
    sizes = {}
    for name, (layer, part, count) in known.items():
        if any(fnmatchcase(name, pattern) for pattern in targets):
            parts[layer].append(part)
            sizes[layer] = count
    model.requires_grad_(False)
    adapted = {}
    for layer, which in parts.items():
        base = model.get_submodule(layer)
        assert isinstance(base, nn.Linear)
        adapted[layer] = LoRALinear(base, rank, alpha, which, sizes[layer])
        parent, _, last = layer.rpartition(".")
        setattr(model.get_submodule(parent), last, adapted[layer])
    return adapted


def adapters_of(model: nn.Module) -> dict[str, LoRALinear]:
    """The adapted layers of a model by name."""
    return {name: m for name, m in model.named_modules() if isinstance(m, LoRALinear)}


@contextmanager
def without_adapters(model: nn.Module) -> Iterator[None]:
    """Inside, the model computes what its base does.

    Raises:
        ValueError: an adapter is merged; taking it out would give the base only up to rounding.
    """
    layers = adapters_of(model).values()
    if any(layer.is_merged for layer in layers):
        raise ValueError("the adapters are merged into the base; call unmerge(model) first")
    for layer in layers:
        layer.is_enabled = False
    try:
        yield
    finally:
        for layer in layers:
            layer.is_enabled = True


def merge(model: nn.Module) -> None:
    """Merge every adapter into its layer."""
    for layer in adapters_of(model).values():
        layer.merge()


def unmerge(model: nn.Module) -> None:
    """Take every adapter out of its layer again."""
    for layer in adapters_of(model).values():
        layer.unmerge()


def trained_share(model: nn.Module) -> tuple[int, int]:
    """How many parameters are trained, and how many the model has without its adapters."""
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    added = sum(m.lora_a.numel() + m.lora_b.numel() for m in adapters_of(model).values())
    return trained, sum(p.numel() for p in model.parameters()) - added
