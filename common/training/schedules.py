"""Learning-rate schedules: pure functions of the update's number.

A schedule gives a factor of the peak rate; the first update is number 1. Warm-up belongs
to every schedule. A plateau schedule depends on results, so it is a callback.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise

from common.config import option
from common.utils.errors import ConfigError

Schedule = Callable[[int], float]


@dataclass
class ScheduleConfig:
    """How the learning rate moves over a run."""

    name: str = option(
        "shape after the warm-up",
        "constant",
        choices=(
            "constant",
            "cosine",
            "linear",
            "step",
            "multistep",
            "exponential",
            "inverse_sqrt",
            "wsd",
        ),
    )
    warmup_steps: int = option("updates of linear warm-up from 0 to the peak", 0, ge=0)
    warmup_factor: float | None = option(
        "warm up at this constant share of the peak, not with a linear rise", None, gt=0, le=1
    )
    final_factor: float = option("cosine, linear, wsd: the last rate over the peak", 0.0, ge=0)
    step_size: int = option("step, exponential: updates between decays", 1000, ge=1)
    milestones: list[int] = option("multistep: decay after these numbers of updates", [])
    gamma: float = option("step, multistep, exponential: the factor of each decay", 0.1, gt=0, le=1)
    decay_fraction: float = option("wsd: the share of updates that decays", 0.2, gt=0, le=1)


def build_schedule(config: ScheduleConfig, total_steps: int) -> Schedule:
    """The schedule as a function ``step -> factor of the peak rate``, ``step`` from 1.

    - ``inverse_sqrt``: ``min(step / warmup, sqrt(warmup / step))``, the shape of Vaswani et al.
      2017, section 5.3 (there, the peak is ``(d_model * warmup)^-0.5``).
    - ``cosine``: half a cosine from 1 to ``final_factor`` (Loshchilov & Hutter, 1608.03983).
    - ``multistep``: times ``gamma`` after each of the ``milestones``, which count all updates from
      the first one on (He et al. 2015, 1512.03385, section 4.2).
    - ``wsd``: warm-up, stable, then a linear decay over the last ``decay_fraction`` (Hu et al.
      2024, 2404.06395).

    Args:
        config: The schedule's values.
        total_steps: Updates of the whole run.

    Raises:
        ConfigError: if the warm-up does not fit into the run, or inverse_sqrt has none; if
            multistep has no milestones, or they do not rise.
    """
    warmup, final = config.warmup_steps, config.final_factor
    if config.name in ("cosine", "linear", "wsd") and warmup >= max(total_steps, 1) > 1:
        raise ConfigError(
            f"schedule.warmup_steps is {warmup}, but the run has {total_steps} updates; lower it"
        )
    if config.name == "inverse_sqrt" and warmup < 1:
        raise ConfigError("schedule.name=inverse_sqrt needs schedule.warmup_steps >= 1")
    if config.name == "multistep" and not _rises(config.milestones):
        raise ConfigError(
            f"schedule.milestones is {config.milestones}; schedule.name=multistep needs rising "
            "numbers of updates, e.g. [32000,48000]"
        )
    span = max(total_steps - warmup, 1)
    decay_from = 1.0 - config.decay_fraction

    def after_warmup(step: int) -> float:
        progress = min((step - warmup) / span, 1.0)
        if config.name == "cosine":
            return final + (1.0 - final) * 0.5 * (1.0 + math.cos(math.pi * progress))
        if config.name == "linear":
            return 1.0 - (1.0 - final) * progress
        if config.name == "step":
            return config.gamma ** ((step - warmup) // config.step_size)
        if config.name == "multistep":
            return config.gamma ** sum(step > milestone for milestone in config.milestones)
        if config.name == "exponential":
            return config.gamma ** ((step - warmup) / config.step_size)
        if config.name == "inverse_sqrt":
            return math.sqrt(warmup / step)
        if config.name == "wsd":
            remaining = (1.0 - progress) / config.decay_fraction
            return 1.0 if progress <= decay_from else final + (1.0 - final) * remaining
        return 1.0

    if warmup == 0:
        return after_warmup
    if (low := config.warmup_factor) is not None:
        return lambda step: low if step <= warmup else after_warmup(step)
    return lambda step: step / warmup if step < warmup else after_warmup(step)


def _rises(milestones: list[int]) -> bool:
    return bool(milestones) and all(a < b for a, b in pairwise([0, *milestones]))
