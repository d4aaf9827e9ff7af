"""A block without autocast, for what half precision would spoil: powers, norms, averages."""

from contextlib import AbstractContextManager, nullcontext

import torch


def full_precision(device_type: str) -> AbstractContextManager[None]:
    """Switch autocast off inside; inputs still have to be made float32.

    Args:
        device_type: Of the tensors in it. Where there is no autocast, as on ``meta``, nothing has
            to be switched off.
    """
    if not torch.amp.is_autocast_available(device_type):
        return nullcontext()
    return torch.autocast(device_type, enabled=False)
