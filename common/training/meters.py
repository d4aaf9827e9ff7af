"""Running sums that stay on the device until somebody reads them."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from common.training.task import StepOutput, Weight

# These sort first, and are no metrics' names.
_NO_LOSS = "\0"
_METRICS_WEIGHT = "\0weight"


class _Summand(NamedTuple):
    """One micro-batch; its loss counts ``factor`` times."""

    loss: Tensor
    factor: Weight
    weight: Weight
    metrics: Mapping[str, Tensor]


class Meter:
    """Sums of loss, weight, samples and metrics over several steps.

    Adding costs a list append; the host waits for the device only in ``totals``.
    """

    def __init__(self) -> None:
        self.clear()

    def clear(self) -> None:
        """Forget everything."""
        self._summands: list[_Summand] = []
        self._samples = 0

    def __len__(self) -> int:
        return len(self._summands)

    def add(self, output: StepOutput, samples: int) -> None:
        """Count one micro-batch of ``samples`` examples."""
        weight, metrics = output.weight, output.metrics
        if not output.has_loss:
            metrics = {**metrics, _NO_LOSS: output.loss}
        if metrics:
            metrics = {name: value.detach() for name, value in metrics.items()}
            if output.metrics_weight is not None:
                own = torch.as_tensor(output.metrics_weight, device=output.loss.device)
                metrics[_METRICS_WEIGHT] = own.detach()
        factor = weight if output.is_mean else 1
        self._summands.append(_Summand(output.loss.detach(), factor, weight, metrics))
        self._samples += samples

    def totals(self, device: torch.device) -> tuple[list[str], Tensor]:
        """The names of the metrics, and ``[loss, weight, samples, *metrics]`` in float64."""
        state = self.state_dict()
        names = sorted(state["metrics"])
        columns = [state["losses"], state["weights"], *(state["metrics"][name] for name in names)]
        loss, weight, *metrics = (column.to(device).sum() for column in columns)
        samples = torch.tensor(float(self._samples), dtype=torch.float64, device=device)
        return names, torch.stack([loss, weight, samples, *metrics])

    def recent_weights(self, count: int) -> Tensor:
        """The weights of the last ``count`` micro-batches, in float64."""
        return _stack([summand.weight for summand in self._summands[-count:]])

    def state_dict(self) -> dict[str, Any]:
        """Every summand, so that a resumed sum is the same to the last bit."""
        summands = self._summands
        names = dict.fromkeys(name for summand in summands for name in summand.metrics)
        losses, factors = _stack([s.loss for s in summands]), _stack([s.factor for s in summands])
        return {
            "losses": losses * factors.to(losses.device),
            "weights": _stack([s.weight for s in summands]),
            "metrics": {
                name: _stack([s.metrics[name] for s in summands if name in s.metrics])
                for name in names
            },
            "samples": self._samples,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """The inverse of ``state_dict``."""
        columns = {name: values.unbind() for name, values in state["metrics"].items()}
        self._summands = [
            _Summand(loss, 1, weight, {n: c[row] for n, c in columns.items() if row < len(c)})
            for row, (loss, weight) in enumerate(
                zip(state["losses"], state["weights"], strict=True)
            )
        ]
        self._samples = state["samples"]


def share_of(states: Sequence[Mapping[str, Any]], rank: int, world_size: int) -> Mapping[str, Any]:
    """What one of ``world_size`` ranks takes over from the meters of another number of ranks.

    Args:
        states: ``Meter.state_dict`` of every earlier rank.
        rank: The rank that asks; all of them together take every summand once.
        world_size: How many there are now.
    """
    if len(states) == world_size:
        return states[rank]
    own = states[rank::world_size]
    if not own:  # zeros, because all ranks must have something under the same names
        nothing = torch.zeros_like(states[0]["losses"][:1])
        names = dict.fromkeys(states[0]["metrics"], nothing)
        return {"losses": nothing, "weights": nothing, "metrics": names, "samples": 0}
    return {
        "losses": torch.cat([state["losses"] for state in own]),
        "weights": torch.cat([state["weights"] for state in own]),
        "metrics": {
            name: torch.cat([state["metrics"][name] for state in own]) for name in own[0]["metrics"]
        },
        "samples": sum(state["samples"] for state in own),
    }


def averages(names: list[str], totals: Tensor, prefix: str) -> dict[str, float]:
    """``{prefix/loss: ..., prefix/metric: ...}`` from what ``Meter.totals`` gave.

    Without ``prefix/loss`` if no step had one.
    """
    loss, weight, _, *metrics = totals.tolist()
    divisor = weight or float("nan")
    values = {f"{prefix}/loss": loss / divisor}
    if names and names[0] == _NO_LOSS:
        values, names, metrics = {}, names[1:], metrics[1:]
    if names and names[0] == _METRICS_WEIGHT:
        names, divisor, metrics = names[1:], metrics[0] or float("nan"), metrics[1:]
    return values | {
        f"{prefix}/{name}": value / divisor for name, value in zip(names, metrics, strict=True)
    }


class Collector:
    """Concatenates what evaluation steps hand out for metrics over the whole data set."""

    def __init__(self) -> None:
        self._parts: dict[str, list[Tensor]] = {}

    def add_rows(self, rows: Mapping[str, Tensor]) -> None:
        """Keep one step's tensors, on their device."""
        for name, value in rows.items():
            self._parts.setdefault(name, []).append(value)

    def no_rows(self) -> dict[str, Tensor]:
        """A tensor of every name and shape, without rows."""
        return {name: parts[0][:0].clone() for name, parts in self._parts.items()}

    def result(self, gather_rows: Callable[[Tensor], Tensor]) -> dict[str, Tensor]:
        """Every name's rows, over all steps and ranks."""
        return {name: gather_rows(torch.cat(parts)) for name, parts in self._parts.items()}


def _stack(values: Sequence[Weight]) -> Tensor:
    """In float64, on the device of the last one: what came from a checkpoint may be elsewhere."""
    last = values[-1] if values else 0.0
    if isinstance(last, Tensor):
        rows = [torch.as_tensor(value, device=last.device) for value in values]
        return torch.stack(rows).double()
    return torch.tensor(values, dtype=torch.float64)
