"""The gradient noise scale (McCandlish et al. 2018, arXiv 1812.06162, section 2.2, appendix A.1).

``B_simple = tr(Sigma) / |G|^2``: with batches much smaller, an update is mostly noise and twice the
batch halves the steps; with batches much larger, it saves next to none.
"""

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.utils.hooks import RemovableHandle

from common.training.callbacks.base import Callback
from common.utils.errors import ConfigError

if TYPE_CHECKING:
    from common.training.trainer import Trainer


class GradientNoise(Callback):
    """Logs ``gradient_noise_scale``, in units of the loss (examples or tokens).

    Let ``g_i`` be the mean gradients of the N micro-batches of an update, over all ranks, ``w_i``
    their weights with sum W, and ``g`` the update's gradient. Appendix A.1's estimates, for parts
    of any sizes, are unbiased:

        tr(Sigma) = (sum_i w_i |g_i|^2 - W |g|^2) / (N - 1)
        |G|^2     = |g|^2 - tr(Sigma) / W

    Both are averaged over updates before they are divided, because the quotient of two noisy
    estimates is biased. The ``|g_i|`` come from hooks on the parameters, which see each backward
    pass's gradient before it is added to the others; they hang there for the measured updates only.

    Args:
        every: Measure every n-th update.
        decay: The weight of the past in the averages, in [0, 1).

    Raises:
        ConfigError: from ``on_fit_start``, if an update has one micro-batch on one rank only.
    """

    def __init__(self, every: int = 10, decay: float = 0.95) -> None:
        if every < 1:
            raise ValueError(f"every is {every}; expected at least 1")
        if not 0.0 <= decay < 1.0:
            raise ValueError(f"decay is {decay}; expected a value in [0, 1)")
        self.every = every
        self.decay = decay
        self._means = torch.zeros(2, dtype=torch.float64)  # tr(Sigma), |G|^2; equally biased
        self._hooks: list[RemovableHandle] = []
        self._norms: dict[int, list[Tensor]] = {}

    def on_fit_start(self, trainer: "Trainer") -> None:
        if trainer.config.accumulate * trainer.strategy.world_size < 2:
            raise ConfigError(
                "the gradient noise scale compares parts of a batch, and trainer.accumulate is 1 "
                "on one process; set trainer.accumulate to 2 or more (with smaller batches)"
            )
        self._means = self._means.to(trainer.device)
        self._attach(trainer)

    def on_step_end(self, trainer: "Trainer") -> None:
        self._attach(trainer)

    @torch.no_grad()
    def before_update(self, trainer: "Trainer") -> None:
        if not self._hooks:
            return
        self._detach()
        if not self._norms:
            raise ConfigError(
                "the gradient noise scale cannot be measured here: this strategy forms gradients "
                "where no hook of a parameter sees them; leave the callback out"
            )
        estimate, is_valid = self._measure(trainer)
        mixed = torch.lerp(estimate, self._means, self.decay)
        self._means = torch.where(is_valid, mixed, self._means)

    def on_log(self, trainer: "Trainer", record: dict[str, Any]) -> None:
        trace, squared = self._means.tolist()
        if trace > 0.0 and squared > 0.0:
            record["gradient_noise_scale"] = trace / squared

    def on_fit_end(self, trainer: "Trainer") -> None:
        self._detach()

    def state_dict(self) -> dict[str, Any]:
        return {"means": self._means}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._means = state["means"]

    def _attach(self, trainer: "Trainer") -> None:
        """Watch the next update, if it is one to be measured."""
        if (trainer.state.step + 1) % self.every:
            return
        self._norms = {}

        def measure(gradient: Tensor) -> None:
            dtype = torch.promote_types(gradient.dtype, torch.float32)
            norm = torch.linalg.vector_norm(gradient.detach(), dtype=dtype)
            # The meter counts a micro-batch once its backward pass is over.
            self._norms.setdefault(len(trainer.meter), []).append(norm)

        self._hooks = [p.register_hook(measure) for p in trainer.parameters]

    def _detach(self) -> None:
        for hook in self._hooks:
            hook.remove()
        self._hooks = []

    def _measure(self, trainer: "Trainer") -> tuple[Tensor, Tensor]:
        """``[tr(Sigma), |G|^2]`` of this update, and whether it could be estimated."""
        first, strategy = min(self._norms), trainer.strategy
        count = len(trainer.meter) - first
        weights = trainer.meter.recent_weights(count).to(trainer.device)
        norms = [self._norms.get(first + part, []) for part in range(count)]
        squares = torch.stack(
            [torch.stack(n).double().square().sum() if n else weights.new_zeros(()) for n in norms]
        )
        counts = weights > 0
        own = (squares / weights).where(counts, 0.0).sum()
        sums = strategy.sum(torch.stack([own, weights.sum(), counts.sum(), weights[0]]))
        parts_sum, total, parts, first_weight = sums.unbind()
        # Each pass was of the loss sum times the ranks (and fp16's scale), over the first weight.
        scale = trainer.precision.scaler.get_scale() if trainer.precision.scaler else 1.0
        parts_sum = parts_sum * (first_weight.clamp(min=1) / (strategy.world_size * scale)) ** 2

        norm = trainer.grad_norm
        if norm is None:
            gradients = [p.grad for p in trainer.parameters if p.grad is not None]
            norm = torch.nn.utils.get_total_norm(gradients, foreach=True)
        squared = norm.double().square()
        trace = (parts_sum - total * squared) / (parts - 1)
        estimate = torch.stack([trace, squared - trace / total])
        return estimate, (parts > 1) & estimate.isfinite().all()
