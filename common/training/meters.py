"""Running sums that stay on the device until somebody reads them."""

from collections import defaultdict
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from common.training.task import StepOutput, Weight


class Meter:
    """Sums of loss, weight, samples and metrics over several steps.

    Adding costs a list append; the host waits for the device only in ``totals``.
    """

    def __init__(self) -> None:
        self.clear()

    def clear(self) -> None:
        """Forget everything."""
        self._losses: list[Tensor] = []
        self._weights: list[Weight] = []
        self._metrics: dict[str, list[Tensor]] = defaultdict(list)
        self._samples = 0

    def __len__(self) -> int:
        return len(self._losses)

    def add(self, output: StepOutput, samples: int) -> None:
        """Count one micro-batch of ``samples`` examples."""
        self._losses.append(output.loss_sum.detach())
        self._weights.append(output.weight)
        self._samples += samples
        if output.metrics:
            for name, value in output.metrics.items():
                self._metrics[name].append(value.detach())

    def recent_weights(self, count: int) -> Tensor:
        """The weights of the last ``count`` micro-batches, in float64."""
        return _stack(self._weights[-count:])

    def totals(self, device: torch.device) -> tuple[list[str], Tensor]:
        """The names of the metrics, and ``[loss, weight, samples, *metrics]`` in float64."""
        names = sorted(self._metrics)
        columns = [_stack(self._losses), _stack(self._weights)]
        columns += [_stack(self._metrics[name]) for name in names]
        loss, weight, *metrics = (column.to(device).sum() for column in columns)
        samples = torch.tensor(float(self._samples), dtype=torch.float64, device=device)
        return names, torch.stack([loss, weight, samples, *metrics])

    def state_dict(self) -> dict[str, Any]:
        """Every summand, so that a resumed sum is the same to the last bit."""
        return {
            "losses": _stack(self._losses),
            "weights": _stack(self._weights),
            "metrics": {name: _stack(values) for name, values in self._metrics.items()},
            "samples": self._samples,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """The inverse of ``state_dict``."""
        self._losses = list(state["losses"].unbind())
        self._weights = list(state["weights"].unbind())
        for name, values in state["metrics"].items():
            self._metrics[name] = list(values.unbind())
        self._samples = state["samples"]


def averages(names: list[str], totals: Tensor, prefix: str) -> dict[str, float]:
    """``{prefix/loss: ..., prefix/metric: ...}`` from what ``Meter.totals`` gave."""
    loss, weight, _, *metrics = totals.tolist()
    divisor = weight or float("nan")
    values = {f"{prefix}/loss": loss / divisor}
    return values | {
        f"{prefix}/{name}": value / divisor for name, value in zip(names, metrics, strict=True)
    }


class Collector:
    """Concatenates what evaluation steps hand out for metrics over the whole data set."""

    def __init__(self) -> None:
        self._parts: dict[str, list[Tensor]] = {}

    def add(self, output: StepOutput) -> None:
        """Keep one step's tensors, on their device."""
        for name, value in output.collected.items():
            self._parts.setdefault(name, []).append(value)

    def result(self) -> dict[str, Tensor]:
        """Every name's rows, over all steps of this rank."""
        return {name: torch.cat(parts) for name, parts in self._parts.items()}


def _stack(values: list[Tensor] | list[Weight]) -> Tensor:
    if not values:
        return torch.zeros(0, dtype=torch.float64)
    if isinstance(values[0], Tensor):
        return torch.stack([torch.as_tensor(value) for value in values]).double()
    return torch.tensor(values, dtype=torch.float64)
