"""A rehearsal before private training: is each example's gradient really its own?

DP-SGD clips the gradient of every example, so it must see them apart. Layers that mix examples,
losses that compare them, and weights used outside of the layer that owns them break this without
an error. So a few examples are run together, with Opacus' hooks, and one by one, with plain
automatic differentiation; the two must agree.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from loguru import logger
from torch import Tensor

from common.data.randomness import seed_generators
from common.training.rng import preserved_rng
from common.training.task import Batch, Task, batch_size
from common.utils.errors import ConfigError

if TYPE_CHECKING:
    from opacus.grad_sample import GradSampleHooks

_EXAMPLES = 3
_SECOND_LOOKS = 2  # at as many other examples
_TOLERANCE = 1e-3  # of the gradient's norm; a wrong gradient is off by its own size
_SHOWN = 5


def check_example_gradients(task: Task, hooks: "GradSampleHooks", batch: Batch) -> None:
    """Compare the hooks' gradients of a few examples with each example's own.

    Modules that draw at random are switched off meanwhile; weights, gradients, buffers and
    generators come back as they were. Where the training step itself draws at random, only the sum
    of the hooks' gradients can be compared, which is said in a warning.

    Together and alone differ in rounding, and where that tips a ReLU or a maximum over, gradients
    differ without a fault. So if the first examples disagree, others are asked: a fault shows in
    them as well.

    Args:
        task: The task, with ``hooks`` attached.
        hooks: What fills ``parameter.grad_sample``.
        batch: At least one example; from two on, examples that mix are found.

    Raises:
        ConfigError: naming the parameters whose gradients differ, or what the hooks cannot do.
    """
    size = batch_size(batch)
    wrong = _disagreeing(task, hooks, batch, range(min(_EXAMPLES, size)))
    if wrong and size >= (1 + _SECOND_LOOKS) * _EXAMPLES:
        others = (
            range(look * _EXAMPLES, (look + 1) * _EXAMPLES) for look in range(1, 1 + _SECOND_LOOKS)
        )
        if not any(_disagreeing(task, hooks, batch, rows) for rows in others):
            logger.info(
                f"privacy: {len(wrong)} parameters disagreed on the first examples and on no "
                "others, which is rounding"
            )
            return
    if wrong:
        total = sum(p.requires_grad for p in task.parameters())
        shown = ", ".join(wrong[:_SHOWN]) + (", ..." if len(wrong) > _SHOWN else "")
        raise ConfigError(
            f"the gradient of one example cannot be told from the others' in {len(wrong)} of "
            f"{total} parameters of {type(task).__name__}: {shown}. The loss must be a sum "
            "over examples, no layer may mix them, and each parameter must be used only by the "
            "layer that owns it, with the batch as first axis"
        )


def _disagreeing(task: Task, hooks: "GradSampleHooks", batch: Batch, rows: range) -> list[str]:
    """The parameters whose gradients of some neighbouring examples differ together and alone."""
    size = batch_size(batch)
    examples = [rows_of(batch, size, slice(i, i + 1)) for i in rows]
    together = rows_of(batch, size, slice(rows.start, rows.stop))
    trained: dict[str, Any] = {n: p for n, p in task.named_parameters() if p.requires_grad}
    with preserved_rng(), _without_randomness(task, hooks):
        try:
            hooks.disable_hooks()
            alone = [_gradients(task, example, trained, seed=0) for example in examples]
            again = _gradients(task, examples[0], trained, seed=1)
            whole = _gradients(task, together, trained, seed=0)
            hooks.enable_hooks()
            _seed(0)
            task.train_step(together).loss_sum.backward()
            found = {name: p.grad_sample for name, p in trained.items()}
        except (RuntimeError, ValueError, NotImplementedError) as error:
            reason = " ".join(str(error).split())[:300]
            raise ConfigError(
                f"{type(task).__name__} cannot give each example's gradient: {reason}"
            ) from error
        finally:
            hooks.enable_hooks()
            for parameter in trained.values():
                parameter.grad = parameter.grad_sample = None
    own = {name: torch.stack([gradients[name] for gradients in alone]) for name in trained}
    scale = torch.stack([each.norm() for each in own.values()]).norm()
    if not all(_agree(again[name], alone[0][name], scale) for name in trained):
        logger.warning(
            f"privacy: {type(task).__name__}.train_step draws at random, so it is not checked that "
            "its loss keeps examples apart"
        )
        own = whole
        found = {
            name: each.sum(0) if isinstance(each, Tensor) and len(each) == len(examples) else None
            for name, each in found.items()
        }
    return [name for name in trained if not _agree(found[name], own[name], scale)]


def rows_of(batch: Batch, size: int, rows: slice) -> Batch:
    """Some examples of a batch: a slice of every tensor and list of ``size`` rows in it."""
    if isinstance(batch, Tensor):
        return batch[rows] if batch.ndim and len(batch) == size else batch
    if isinstance(batch, dict):
        return {key: rows_of(value, size, rows) for key, value in batch.items()}
    if isinstance(batch, list | tuple):
        if len(batch) == size and not any(isinstance(value, Tensor) for value in batch):
            return batch[rows]
        return type(batch)(rows_of(value, size, rows) for value in batch)
    return batch


def _seed(seed: int) -> None:
    seed_generators(seed)
    torch.manual_seed(seed)  # the accelerators as well


def _gradients(task: Task, example: Batch, trained: dict[str, Any], seed: int) -> dict[str, Tensor]:
    _seed(seed)
    loss = task.train_step(example).loss_sum
    given = torch.autograd.grad(loss, list(trained.values()), allow_unused=True)
    pairs = zip(trained.items(), given, strict=True)
    return {name: torch.zeros_like(p) if g is None else g for (name, p), g in pairs}


def _agree(found: Any, own: Tensor, scale: Tensor) -> bool:
    if found is None:
        return not own.any()
    if not isinstance(found, Tensor) or found.shape != own.shape:
        return False
    return bool((found - own).norm() <= _TOLERANCE * scale)


@contextmanager
def _without_randomness(task: Task, hooks: "GradSampleHooks") -> Iterator[None]:
    """Only the modules that carry hooks train: dropout is off, and buffers come back."""
    modes = {module: module.training for module in task.modules()}
    buffers = {buffer: buffer.clone() for buffer in task.buffers()}
    task.eval()
    for module in hooks.iterate_submodules(task):
        module.training = True
    try:
        yield
    finally:
        for module, mode in modes.items():
            module.training = mode
        with torch.no_grad():
            for buffer, before in buffers.items():
                buffer.copy_(before)
