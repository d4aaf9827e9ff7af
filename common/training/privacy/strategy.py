"""``strategy=private``: DP-SGD with Opacus (Abadi et al. 2016, 1607.00133; 2109.12298).

Every update takes a Poisson sample of the examples, clips each example's gradient, adds noise once,
and divides by the EXPECTED batch size. Opacus gives the per-example gradients, the clipping and
noise, and the accounting; here they meet the Trainer, with an order of data that resumes exactly.

    trainer.strategy=private trainer.privacy.target_epsilon=3 trainer.privacy.max_grad_norm=1
"""

import importlib.util
import os
import secrets
import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from loguru import logger
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.utils.hooks import RemovableHandle

from common.config import Source
from common.data.loaders import EpochLoader, OrderedLoader
from common.data.orders import PoissonBatches
from common.training.cadence import count_steps
from common.training.callbacks import Callback
from common.training.config import TrainerConfig
from common.training.meters import Meter
from common.training.precision import Precision
from common.training.privacy.budget import PrivacyBudget, PrivacyConfig, check_promise
from common.training.privacy.example_gradients import check_example_gradients
from common.training.privacy.layers import check_layers, replace_layers
from common.training.strategies import Strategy
from common.training.task import Batch, Task, Weight, batch_size, to_device
from common.training.update import Updater
from common.utils.errors import CheckpointError, ConfigError
from common.utils.seeding import mix_seed

if TYPE_CHECKING:
    from opacus.grad_sample import GradSampleHooks
    from opacus.optimizers import DPOptimizer

    from common.training.trainer import Trainer

_NOISE = 1  # tells the noise's seed from that of the batches


class PrivateStrategy(Strategy):
    """One process whose updates are differentially private.

    Args:
        config: The trainer's values; ``config.privacy`` says what is promised.
        seed: Of batches and noise, unless ``privacy.secret_seed``.

    Attributes:
        budget: The account, once the loader is known.
        hooks: What collects the gradients of examples, during a fit.

    Raises:
        ConfigError: if Opacus is missing, or a value makes no sense together with privacy.
    """

    def __init__(self, config: TrainerConfig, seed: int = 0) -> None:
        super().__init__(config.device)
        if importlib.util.find_spec("opacus") is None:
            raise ConfigError('trainer.strategy=private needs Opacus: uv pip install -e ".[dp]"')
        _check_combination(config)
        self._config = config
        self._privacy = config.privacy or PrivacyConfig()
        check_promise(self._privacy)
        self._seed = seed
        self._noise = torch.Generator(self.device)
        self._order: PoissonBatches
        self._optimizer: DPOptimizer
        self.budget: PrivacyBudget
        self.hooks: GradSampleHooks | None = None
        self._layout_hooks: list[RemovableHandle] = []

    def loader(self, loader: EpochLoader) -> EpochLoader:
        """The same examples in Poisson samples, as many and in the mean as large as before."""
        fixed = loader.fixed_batches() if isinstance(loader, OrderedLoader) else None
        if fixed is None or not isinstance(loader, OrderedLoader):
            raise ConfigError(
                "trainer.strategy=private draws every example by itself, so it needs a loader with "
                "a fixed batch_size over single examples (TensorLoader, SampleLoader with "
                f"ShuffledBatches, a plain DataLoader); got {type(loader).__name__}"
            )
        parts = self._config.accumulate
        rate = fixed.batch_size * parts / fixed.size
        updates = -(-len(fixed) // parts)
        if self._privacy.secret_seed:
            self._seed = secrets.randbits(62)
        else:
            self._seed = mix_seed(self._seed, fixed.seed)
        self._order = PoissonBatches(fixed.size, rate, updates, self._seed, parts)
        self._noise.manual_seed(mix_seed(self._seed, _NOISE))
        sampled = loader.with_order(self._order)
        steps = count_steps(self._config, sampled)
        self.budget = PrivacyBudget(self._privacy, fixed.size, rate, steps)
        return sampled

    def place(self, task: Task) -> Task:
        """Refuse layers that break privacy, or replace them."""
        if self._privacy.replace_layers:
            replace_layers(task)
        check_layers(task)
        return super().place(task)

    def wrap_optimizer(self, optimizer: Optimizer) -> Optimizer:
        from opacus.optimizers import DPOptimizer

        self._optimizer = DPOptimizer(
            optimizer,
            noise_multiplier=self.budget.noise_multiplier,
            max_grad_norm=self._privacy.max_grad_norm,
            expected_batch_size=self._order.size * self._order.rate,
            generator=self._noise,
        )
        return self._optimizer

    def updater(
        self, task: Task, optimizer: Optimizer, precision: Precision, channels_last: bool = False
    ) -> Updater:
        return PrivateUpdater(task, self._optimizer, self, precision, channels_last)

    def callbacks(self) -> list[Callback]:
        return [PrivacyAccount(self)]

    def attach(self, task: Task) -> None:
        """Begin to collect the gradients of examples; keys of the state dict stay as they are."""
        from opacus.grad_sample import GradSampleHooks

        self.detach()
        # Said of every first layer, whose input needs no gradient; its weights get theirs.
        warnings.filterwarnings("ignore", message="Full backward hook is firing")
        self._layout_hooks = [
            module.register_forward_pre_hook(_with_channels_outside)
            for module in task.modules()
            if isinstance(module, nn.Conv2d)
        ]
        self.hooks = GradSampleHooks(task, loss_reduction="sum")

    def detach(self) -> None:
        """Leave the task without a trace of ``attach``."""
        if self.hooks is not None:
            self.hooks.cleanup()
            self.hooks = None
        while self._layout_hooks:
            self._layout_hooks.pop().remove()

    def facts(self) -> dict[str, Any]:
        """What the run's record says about the promise."""
        return {
            "trainer.privacy.noise": self.budget.noise_multiplier,
            "trainer.privacy.sampling_rate": self.budget.rate,
            "trainer.privacy.delta": self.budget.delta,
        }

    def state_dict(self) -> dict[str, Any]:
        return {
            "privacy": self.budget.state_dict(),
            "noise": self._noise.get_state(),
            "seed": self._seed,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        if "privacy" not in state:
            raise CheckpointError(
                "the checkpoint was not trained with trainer.strategy=private, so nobody knows "
                "what its weights have spent; start a new run"
            )
        self.budget.load_state_dict(state["privacy"])
        self._noise.set_state(state["noise"].cpu())
        self._seed = self._order.seed = state["seed"]


class PrivateUpdater(Updater):
    """Clips every example's gradient, adds noise once per update, and accounts for it.

    The example is the unit: its loss is the sum over its own ``StepOutput.weight`` units, and what
    divides is the expected number of examples, never how many came or how much they weigh.
    """

    def __init__(
        self,
        task: Task,
        optimizer: "DPOptimizer",
        strategy: PrivateStrategy,
        precision: Precision,
        channels_last: bool = False,
    ) -> None:
        super().__init__(task, optimizer, strategy, precision, channels_last)
        self._private = strategy
        self._dp = optimizer
        self._is_rehearsed = False

    def backward(self, group: Sequence[Batch | None], meter: Meter) -> Weight:
        """Form the private gradient of the Poisson sample that ``group`` was cut from."""
        examples = 0
        for position, batch in enumerate(group):
            is_last = position == len(group) - 1
            size = 0
            if batch is not None:
                batch = to_device(batch, self._private.device, self._channels_last)
                size = batch_size(batch)
                self._rehearse(batch, size)
                output = self._train_step(batch)
                output.loss_sum.backward()
                self.loss = output.loss_sum.detach() / size
                meter.add(output, size)
            self._complete(size)
            self._dp.signal_skip_step(not is_last)
            self._dp.pre_step()
            if not is_last:
                self._dp.zero_grad(set_to_none=True)
            examples += size
        return examples

    def apply(self, weight: Weight) -> bool:
        """Update; also after an empty sample, because its absence would tell."""
        self._dp.original_optimizer.step()
        self._private.budget.spend()
        self._dp.zero_grad(set_to_none=True)
        return True

    def _rehearse(self, batch: Batch, size: int) -> None:
        if not self._is_rehearsed and self._private.hooks is not None:
            check_example_gradients(self._task, self._private.hooks, batch)
            self._is_rehearsed = size > 1  # one example alone cannot show that examples mix

    def _complete(self, size: int) -> None:
        """Every parameter's gradients of ``size`` examples: zero where it took no part."""
        for parameter in self._parameters:
            if parameter.grad_sample is not None:
                continue
            if parameter.grad is not None:
                names = [n for n, p in self._task.named_parameters() if p is parameter]
                raise ConfigError(
                    f"{names[0]} has a gradient, but not one for each example; its layer must be "
                    "called, once for every use, in each training step"
                )
            parameter.grad_sample = parameter.new_zeros(size, *parameter.shape)


class PrivacyAccount(Callback):
    """Logs epsilon after every epoch and evaluation, and stops when the budget is spent.

    Args:
        strategy: Whose account it is.
    """

    def __init__(self, strategy: PrivateStrategy) -> None:
        self._strategy = strategy
        self._last_step: int | None = None

    def on_fit_start(self, trainer: "Trainer") -> None:
        budget, privacy = self._strategy.budget, trainer.config.privacy or PrivacyConfig()
        self._strategy.attach(trainer.task)
        for key, value in self._strategy.facts().items():
            trainer.context.set(key, value, Source.DERIVED)
        if trainer.run is not None:
            trainer.run.write_config(trainer.context.to_yaml())
        planned = max(trainer.total_steps - trainer.state.step, 0)
        logger.info(
            f"privacy: noise multiplier {budget.noise_multiplier:.4g}, examples clipped to "
            f"{privacy.max_grad_norm:g}, sampling rate {budget.rate:.4g}; epsilon "
            f"{budget.epsilon():.4g} so far and {budget.epsilon(planned):.4g} at the planned end, "
            f"delta {budget.delta:g}"
        )
        if not privacy.secret_seed:
            logger.warning(
                "privacy: batches and noise repeat with the seed, which is right for research; "
                "whoever knows it can subtract the noise. Set trainer.privacy.secret_seed=true "
                "for weights that leave the house"
            )
        left = budget.steps_left()
        self._last_step = None if left is None else trainer.state.step + left
        if left == 0 and trainer.state.step == 0:
            raise ConfigError(
                f"one update spends epsilon {budget.epsilon(1):.4g}, more than trainer.privacy."
                f"target_epsilon={budget.limit:g}; raise noise_multiplier, or leave it out to have "
                "it computed"
            )
        self._stop_if_spent(trainer)

    def on_step_end(self, trainer: "Trainer") -> None:
        if trainer.state.batch == 0:
            record: dict[str, Any] = {"step": trainer.state.step, "epoch": trainer.state.epoch}
            self._add_epsilon(record)
            if len(record) > 2:
                trainer.report(record)
        self._stop_if_spent(trainer)

    def on_evaluation_end(self, trainer: "Trainer", record: dict[str, Any]) -> None:
        self._add_epsilon(record)

    def on_fit_end(self, trainer: "Trainer") -> None:
        self._strategy.detach()
        budget = self._strategy.budget
        logger.info(f"privacy: spent epsilon {budget.epsilon():.4g} at delta {budget.delta:g}")

    def _add_epsilon(self, record: dict[str, Any]) -> None:
        if self._strategy.budget.noise_multiplier:  # without noise it is infinite, which is no JSON
            record["privacy/epsilon"] = self._strategy.budget.epsilon()

    def _stop_if_spent(self, trainer: "Trainer") -> None:
        if self._last_step is not None and trainer.state.step >= self._last_step:
            limit = self._strategy.budget.limit
            trainer.stop(f"another update would pass the privacy budget, epsilon {limit:g}")


def _with_channels_outside(module: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """Opacus 1.6 reads a convolution's input by strides that only this layout has: with the
    channels innermost it computes other gradients, without an error.
    """
    return tuple(each.contiguous() for each in inputs)


def _check_combination(config: TrainerConfig) -> None:
    problems = {
        f"trainer.precision={config.precision}: the bound on each example's gradient holds in fp32 "
        "only": config.precision != "fp32",
        "trainer.compile: the hooks that collect examples' gradients are not compiled": (
            config.compile
        ),
        "trainer.activation_checkpointing: the hooks would count every forward pass twice": (
            config.activation_checkpointing
        ),
        "trainer.overfit_batches: an update is drawn from all examples": (
            config.overfit_batches > 0
        ),
        f"trainer.clip_norm={config.clip_norm:g}: trainer.privacy.max_grad_norm clips, before the "
        "noise": config.clip_norm > 0,
        "several processes: run it in one": int(os.environ.get("WORLD_SIZE", "1")) > 1,
    }
    for problem, is_there in problems.items():
        if is_there:
            raise ConfigError(f"trainer.strategy=private does not go with {problem}")
