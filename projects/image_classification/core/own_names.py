"""The engine's messages in the words of this project's configuration.

The Trainer speaks of ``trainer.privacy.secret_seed``; who types ``training.dp.secret_seed`` should not
have to know that.
"""

from common.utils.renaming import OwnNames

_OWN = OwnNames(
    {
        "trainer.strategy=private": "training.trainer_type=dp",
        "trainer.privacy": "training.dp",
        "trainer.max_epochs": "training.num_epochs",
        "trainer.accumulate": "training.gradient_accumulation_steps",
        "trainer.precision": "training.amp_dtype",
        "trainer.strategy": "training.trainer_type",
        "trainer.deterministic": "deterministic",
        "trainer.": "training.",
        "optim.": "optimizer.",
        "schedule.": "scheduler.",
    },
    words={"warmup_steps": "warmup_epochs"},
)
in_own_names = _OWN.rename
own_names = _OWN.used
