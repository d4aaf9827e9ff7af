"""The diagnostics that sum over processes, on one batch of 7 and one of 5, in any number of them."""

import json
from pathlib import Path

from common.data import TensorLoader
from common.training import OptimizerConfig, Trainer, TrainerConfig
from common.training.callbacks import GradientNoise
from common.training.lr_finder import find_learning_rate
from common.training.strategies import build_strategy
from tests.training.test_gradient_callbacks import STILL, Linear, linear_data


def measure(out: str) -> None:
    """Write the noise's two means and what the search for a learning rate saw, on the main rank."""
    strategy = build_strategy(TrainerConfig(strategy="auto", device="cpu"))
    data, _ = linear_data(12)
    # Two processes take 4 + 3 and 3 + 2 examples.
    batches = [{k: v[:7] for k, v in data.items()}, {k: v[7:] for k, v in data.items()}]
    config = TrainerConfig(max_epochs=1, log_every=1, loggers=[], accumulate=2)
    noise = GradientNoise(every=1, decay=0.0)
    Trainer(config, callbacks=[noise]).fit(Linear(), batches, optim=STILL)
    loader = TensorLoader(linear_data(50)[0], 12, shuffle=True)
    optim = OptimizerConfig(name="sgd", lr=1.0)
    found = find_learning_rate(Trainer(config), Linear(), loader, optim=optim, num_iter=40)
    if strategy.rank == 0:
        means = noise.state_dict()["means"].tolist()
        result = {"means": means, "losses": found.losses, "valley": found.valley}
        Path(out).write_text(json.dumps(result))
    strategy.close()
