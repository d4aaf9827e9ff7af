"""Equations of a finite operation: every ``a o b = c``, a share of them for training.

Power et al. 2022 (arXiv 2201.02177), section 2 and appendix A.1.1. There is nothing to download:
the whole table of an operation is computed, and the seed says which of its entries are trained on.
The paper has no third split, so ``test`` is ``validation``: every equation that is not trained on.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from itertools import permutations

import torch
from torch import Tensor

from common.config import RunContext, Source, option
from common.data import DatasetInfo, DataSplits, TensorLoader
from common.utils.errors import ConfigError
from common.utils.seeding import mix_seed

Operation = Callable[[Tensor, Tensor, int], Tensor]


def inverse(y: Tensor, p: int) -> Tensor:
    """y^-1 mod p by Fermat: ``y^(p-2)``, and 0 for 0, which has no inverse."""
    return torch.tensor([pow(value, p - 2, p) for value in range(p)])[y]


def _divide(x: Tensor, y: Tensor, p: int) -> Tensor:
    return x * inverse(y, p)


MODULAR: dict[str, Operation] = {
    "add": lambda x, y, p: x + y,
    "subtract": lambda x, y, p: x - y,
    "divide": _divide,
    "divide_if_odd": lambda x, y, p: torch.where(y % 2 == 1, _divide(x, y, p), x - y),
    "x2+y2": lambda x, y, p: x**2 + y**2,
    "x2+xy+y2": lambda x, y, p: x**2 + x * y + y**2,
    "x2+xy+y2+x": lambda x, y, p: x**2 + x * y + y**2 + x,
    "x3+xy": lambda x, y, p: x**3 + x * y,
    "x3+xy2+y": lambda x, y, p: x**3 + x * y**2 + y,
}
"""Operations on the residues mod p, before the remainder is taken."""

SYMMETRIC = ("s5", "s5_conjugate", "s5_sandwich")
"""x y, x y x^-1 and x y x in S5, the permutations of five things."""


@dataclass
class DataConfig:
    """Which operation, and how much of its table is given away."""

    operation: str = option(
        "an operation of appendix A.1.1", "divide", choices=(*MODULAR, *SYMMETRIC)
    )
    p: int = option("prime modulus; not used by the permutations", 97, ge=3)
    train_share: float = option("share of all equations to train on", 0.5, gt=0, lt=1)
    batch_size: int | None = option(
        "equations of an update; by default 512, or half of those to train on", None, ge=1
    )

    def __post_init__(self) -> None:
        if any(self.p % divisor == 0 for divisor in range(2, math.isqrt(self.p) + 1)):
            raise ConfigError(f"data.p is {self.p}, which is not prime; e.g. data.p=97")


def operation_table(operation: str, p: int) -> tuple[Tensor, int]:
    """All equations of an operation, in order.

    Args:
        operation: A name of ``MODULAR`` or ``SYMMETRIC``.
        p: The modulus.

    Returns:
        int64 ``(N, 3)`` with ``a``, ``b`` and ``c = a o b`` in every row, and how many elements
        there are to be numbered.
    """
    if operation in SYMMETRIC:
        return _symmetric_table(operation), math.factorial(5)
    first = 1 if operation == "divide" else 0
    x, y = torch.meshgrid(torch.arange(p), torch.arange(first, p), indexing="ij")
    x, y = x.flatten(), y.flatten()
    return torch.stack([x, y, MODULAR[operation](x, y, p) % p], dim=1), p


def _symmetric_table(operation: str) -> Tensor:
    """The same for S5: elements are numbered as ``itertools.permutations`` gives them."""
    elements = torch.tensor(list(permutations(range(5))))
    x, y = (elements[i.flatten()] for i in torch.meshgrid(*[torch.arange(120)] * 2, indexing="ij"))
    product = x.gather(1, y)  # (x y)(i) = x(y(i))
    if operation == "s5_conjugate":
        product = product.gather(1, x.argsort(dim=1))
    elif operation == "s5_sandwich":
        product = product.gather(1, x)
    powers = 5 ** torch.arange(5)
    number = torch.full((5**5,), -1)
    number[elements @ powers] = torch.arange(120)
    return torch.stack([number[element @ powers] for element in (x, y, product)], dim=1)


def build_data(config: DataConfig, context: RunContext, seed: int) -> DataSplits:
    """Write out the equations, split them, and make the loaders.

    A batch is ``{"equation": int64 (B, 5)}`` with the tokens ``a o b = c``. Elements are the tokens
    from 0 on; the operator and the equals sign come after them.

    Args:
        config: Which operation.
        context: Where the size of a batch is recorded.
        seed: Of the split and of the order.

    Raises:
        ConfigError: if so small a share of so small a table leaves nothing to train on.
    """
    table, elements = operation_table(config.operation, config.p)
    a, b, c = table.unbind(dim=1)
    operator, equals = torch.full_like(a, elements), torch.full_like(a, elements + 1)
    equations = torch.stack([a, operator, b, equals, c], dim=1)
    count = round(config.train_share * len(equations))
    if not 2 <= count < len(equations):
        raise ConfigError(
            f"data.train_share is {config.train_share}: {count} of {len(equations)} equations to "
            "train on, but there must be two at least, and one that is not trained on"
        )
    if config.batch_size is None:
        context.resolve("data.batch_size", min(512, count // 2), Source.DERIVED)
    generator = torch.Generator().manual_seed(mix_seed(seed))
    order = torch.randperm(len(equations), generator=generator)
    train, held_out = equations[order[:count]], equations[order[count:]]
    unseen = TensorLoader({"equation": held_out}, 2048)
    return DataSplits(
        train=TensorLoader({"equation": train}, config.batch_size, seed=seed, shuffle=True),
        validation=unseen,
        test=unseen,
        info=DatasetInfo(
            name=f"{config.operation}, {elements} elements",
            sizes={"train": len(train), "validation": len(held_out)},
            vocab_size=elements + 2,
        ),
    )
