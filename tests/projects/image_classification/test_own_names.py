"""Messages of the engine name the keys a person of this project can type."""

import pytest

from common.utils.errors import ConfigError
from projects.image_classification.core.own_names import in_own_names, own_names


@pytest.mark.parametrize(
    ("engine", "own"),
    [
        ("set trainer.privacy.secret_seed=true", "set training.dp.secret_seed=true"),
        ("optim.momentum is set", "optimizer.momentum is set"),
        ("data.optim.x stays", "data.optim.x stays"),
        ("trainer.strategy=private does not go", "training.trainer_type=dp does not go"),
        ("schedule.warmup_steps is 3", "scheduler.warmup_epochs is 3"),
    ],
)
def test_a_message_names_this_projects_keys(engine: str, own: str) -> None:
    assert in_own_names(engine) == own


def test_an_error_keeps_its_kind(logged: list[str]) -> None:
    from common.training.optim import OptimizerConfig, optimizer_values

    with pytest.raises(ConfigError, match=r"^optimizer\.momentum is set"), own_names():
        optimizer_values(OptimizerConfig(name="adam", momentum=0.9))
