"""One config system: typed schemas, Hydra's composition and sweeps, provenance.

Importing it loads neither Hydra nor PyTorch.
"""

from common.config.compose import compose, load_run_config
from common.config.context import ConfigConflictError, Lifetime, RunContext, Source
from common.config.instantiate import instantiate
from common.config.launch import launch
from common.config.option import nested, option

__all__ = [
    "ConfigConflictError",
    "Lifetime",
    "RunContext",
    "Source",
    "compose",
    "instantiate",
    "launch",
    "load_run_config",
    "nested",
    "option",
]
