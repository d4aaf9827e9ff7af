"""How much privacy a run may spend, and what it has spent: Opacus' accountants, with a limit.

An update of DP-SGD (Abadi et al. 2016, 1607.00133) costs what its noise multiplier and its sampling
rate say; the accountant composes the updates to an (epsilon, delta) guarantee. Everything it knows
is in the checkpoint, so that a resumed run does not forget what it spent.
"""

import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from typing import Any

from loguru import logger

from common.config import option
from common.utils.errors import CheckpointError, ConfigError


@dataclass
class PrivacyConfig:
    """What ``trainer.strategy=private`` promises about each training example."""

    target_epsilon: float | None = option(
        "the budget: training stops before it is passed; alone, it decides the noise", None, gt=0
    )
    target_delta: float | None = option(
        "probability of no promise; by default the power of ten below 1 / training examples",
        None,
        gt=0,
        lt=1,
    )
    noise_multiplier: float | None = option(
        "standard deviation of the noise over max_grad_norm", None, ge=0
    )
    max_grad_norm: float = option("largest norm of one example's gradient", 1.0, gt=0)
    accountant: str = option("composition: rdp, or prv (tighter)", "rdp", choices=("rdp", "prv"))
    replace_layers: bool = option("replace layers that mix examples, such as BatchNorm", False)
    secret_seed: bool = option(
        "draw batches and noise from a seed of the system's; needed for a guarantee", False
    )


def check_promise(config: PrivacyConfig) -> None:
    """Refuse what promises nothing, before anything is known of the data.

    Raises:
        ConfigError: if neither noise nor budget is given, or no noise for a budget.
    """
    given, limit = config.noise_multiplier, config.target_epsilon
    if given is None and limit is None:
        raise ConfigError(
            "trainer.strategy=private needs trainer.privacy.target_epsilon (the noise is "
            "computed) or trainer.privacy.noise_multiplier (epsilon is what it comes to)"
        )
    if given == 0.0 and limit is not None:
        raise ConfigError(
            "trainer.privacy.noise_multiplier is 0, which spends any target_epsilon at "
            "once; give a positive one, or leave it out to have it computed"
        )


class PrivacyBudget:
    """The accountant of one run.

    Args:
        config: Noise or budget, and the kind of accountant.
        samples: Training examples, N.
        rate: The probability of an example to be in an update, q.
        planned_steps: Updates of the whole run, for the noise that a budget alone asks for.

    Attributes:
        noise_multiplier: sigma, the noise's standard deviation over the clipping bound.
        delta: The probability for which nothing is promised.
        limit: The largest epsilon, if there is one.

    Raises:
        ConfigError: if neither noise nor budget is given, or no noise keeps to the budget.
    """

    def __init__(
        self, config: PrivacyConfig, samples: int, rate: float, planned_steps: int
    ) -> None:
        from opacus.accountants import create_accountant

        self.rate = rate
        self.planned_steps = planned_steps
        self.limit = config.target_epsilon
        self.delta = config.target_delta or default_delta(samples)
        if self.delta * samples >= 1.0:
            logger.warning(
                f"privacy: delta {self.delta:g} is not below 1/{samples}; a mechanism that "
                "publishes one whole example would keep to it"
            )
        self._accountant = create_accountant(mechanism=config.accountant)
        self._kind = type(self._accountant)
        self.noise_multiplier = self._noise(config)

    def _noise(self, config: PrivacyConfig) -> float:
        check_promise(config)
        given, limit = config.noise_multiplier, config.target_epsilon
        if given is not None:
            if limit is not None:
                logger.info(
                    f"privacy: both are set: noise_multiplier {given:g} is the noise, and training "
                    f"stops before epsilon passes target_epsilon {limit:g}"
                )
            if given == 0.0:
                logger.warning(
                    "privacy: noise_multiplier is 0, so there is no privacy, only clipping"
                )
            return given
        assert limit is not None  # one of the two is given
        from opacus.accountants.utils import get_noise_multiplier

        try:
            with _quiet():
                noise = get_noise_multiplier(
                    target_epsilon=limit,
                    target_delta=self.delta,
                    sample_rate=self.rate,
                    steps=self.planned_steps,
                    accountant=config.accountant,
                    epsilon_tolerance=min(0.01, limit / 100),
                )
        except ValueError:
            raise ConfigError(
                f"no noise keeps {self.planned_steps:,} updates below trainer.privacy."
                f"target_epsilon={limit:g} at delta {self.delta:g}; raise it, or train for less"
            ) from None
        return float(noise)

    def spend(self) -> None:
        """Account for one update."""
        self._accountant.step(noise_multiplier=self.noise_multiplier, sample_rate=self.rate)

    def epsilon(self, ahead: int = 0) -> float:
        """What the updates so far have spent, and ``ahead`` more of the same kind would."""
        history = list(self._accountant.history)
        if ahead:
            history.append((self.noise_multiplier, self.rate, ahead))
        if not history:
            return 0.0
        if not all(noise for noise, *_ in history):
            return float("inf")
        with _quiet():
            if self._accountant.mechanism() == "rdp":
                return _rdp_epsilon(history, self.delta)
            accountant = self._kind()
            accountant.history = history
            return float(accountant.get_epsilon(delta=self.delta))

    def steps_left(self) -> int | None:
        """How many more updates the budget allows; ``None`` if it allows all that are planned."""
        done = sum(steps for *_, steps in self._accountant.history)
        planned = max(self.planned_steps - done, 0)
        if self.limit is None or self.epsilon(planned) <= self.limit:
            return None
        allowed, too_many = 0, planned
        while too_many - allowed > 1:
            middle = (allowed + too_many) // 2
            if self.epsilon(middle) <= self.limit:
                allowed = middle
            else:
                too_many = middle
        return allowed

    def state_dict(self) -> dict[str, Any]:
        """Every update so far, as ``[noise multiplier, sampling rate, updates]``, and the kind."""
        history = [list(entry) for entry in self._accountant.history]
        return {"mechanism": self._accountant.mechanism(), "history": history}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """The inverse of ``state_dict``.

        Raises:
            CheckpointError: if another kind of accountant kept the account.
        """
        ours, theirs = self._accountant.mechanism(), state["mechanism"]
        if ours != theirs:
            raise CheckpointError(
                f"the checkpoint's privacy was accounted by '{theirs}', trainer.privacy.accountant "
                f"is '{ours}'; keep the old one"
            )
        self._accountant.history = [tuple(entry) for entry in state["history"]]


def default_delta(samples: int) -> float:
    """The largest power of ten below ``1 / samples``."""
    return float(f"1e-{len(str(samples))}")


def _rdp_epsilon(history: Sequence[tuple[float, float, int]], delta: float) -> float:
    """What ``RDPAccountant.get_epsilon`` gives, without pricing one update anew at every call."""
    from opacus.accountants import RDPAccountant
    from opacus.accountants.analysis.rdp import get_privacy_spent

    total = sum(_rdp_of_one_update(noise, rate) * steps for noise, rate, steps in history)
    epsilon, _ = get_privacy_spent(orders=RDPAccountant.DEFAULT_ALPHAS, rdp=total, delta=delta)
    return float(epsilon)


@cache
def _rdp_of_one_update(noise: float, rate: float) -> Any:
    from opacus.accountants import RDPAccountant
    from opacus.accountants.analysis.rdp import compute_rdp

    orders = RDPAccountant.DEFAULT_ALPHAS
    return compute_rdp(q=rate, noise_multiplier=noise, steps=1, orders=orders)


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the accountants' remarks on which of their own orders was the best."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
