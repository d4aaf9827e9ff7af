"""One config system: typed schemas, Hydra's composition and sweeps, provenance.

Importing it loads neither Hydra nor PyTorch.
"""

from common.config.command_line import launch
from common.config.context import RunContext
from common.config.load import compose, load_run_config
from common.config.namespace import Namespace
from common.config.origins import ConfigConflictError, Lifetime, Source, StaleValueError
from common.config.runs import default_checkpoint, find_run
from common.config.schema import nested, option
from common.config.targets import instantiate

__all__ = [
    "ConfigConflictError",
    "Lifetime",
    "Namespace",
    "RunContext",
    "Source",
    "StaleValueError",
    "compose",
    "default_checkpoint",
    "find_run",
    "instantiate",
    "launch",
    "load_run_config",
    "nested",
    "option",
]
