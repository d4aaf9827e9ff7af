"""What tests stand on: the loopback Hub with its faults, and the contract every paper passes.

Names are imported when they are first used, so that ``python -m common.testing.hub`` runs clean.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from common.testing.hub import LoopbackHub
    from common.testing.hub_routes import Fault

_HOMES = {"Fault": "hub_routes", "LoopbackHub": "hub"}
__all__ = ["Fault", "LoopbackHub"]


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
