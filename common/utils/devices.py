"""The device a person names."""

import torch

from common.utils.errors import ConfigError


def find_device(name: str = "auto", option: str = "trainer.device") -> torch.device:
    """The device of a name.

    Args:
        name: ``auto`` (the first accelerator, else the CPU), ``cpu``, ``cuda`` or ``cuda:1``.
        option: What the name was given as, for messages.

    Raises:
        ConfigError: for a name that PyTorch does not know, or CUDA where there is none.
    """
    has_cuda = torch.cuda.is_available()
    try:
        device = torch.device(("cuda" if has_cuda else "cpu") if name == "auto" else name)
    except RuntimeError:
        raise ConfigError(f"{option} is '{name}'; use auto, cpu or cuda") from None
    if device.type == "cuda" and not has_cuda:
        raise ConfigError(f"{option} is '{name}', but PyTorch sees no CUDA device")
    return device
