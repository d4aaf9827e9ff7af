"""How much arithmetic a run does per second, and what share of the device's peak that is (MFU)."""

from contextlib import closing
from typing import TYPE_CHECKING, Any

import torch
from loguru import logger

from common.training.callbacks.base import Callback
from common.training.summary import summarize
from common.training.undisturbed import epoch_batches, undisturbed
from common.utils.errors import DataError
from common.utils.files import atomic_write_text

if TYPE_CHECKING:
    from common.training.trainer import Trainer

_H100_SXM = {"half": 989.4e12, "tf32": 494.7e12, "fp32": 66.9e12}
_A100 = {"half": 312e12, "tf32": 156e12, "fp32": 19.5e12}
_PEAKS = {
    "NVIDIA A100-SXM4-40GB": _A100,
    "NVIDIA A100-SXM4-80GB": _A100,
    "NVIDIA A100-PCIE-40GB": _A100,
    "NVIDIA A100 80GB PCIe": _A100,
    "NVIDIA H100 80GB HBM3": _H100_SXM,
    "NVIDIA H100 PCIe": {"half": 756e12, "tf32": 378e12, "fp32": 51e12},
    "NVIDIA H200": _H100_SXM,
    "NVIDIA GeForce RTX 4090": {"half": 165.2e12, "tf32": 82.6e12, "fp32": 82.6e12},
}


def peak_flops(device: str, precision: str, tf32: bool = False) -> float | None:
    """The FLOP/s a GPU's maker promises for dense matrix products.

    Sources: NVIDIA's data sheets of A100, H100 and H200 and its Hopper and Ada architecture white
    papers; figures that count sparsity are halved, those of the RTX 4090 accumulate in 32 bits.

    Args:
        device: As ``torch.cuda.get_device_name`` gives it; the whole name, because the variants
            of a chip differ.
        precision: ``fp32``, ``bf16`` or ``fp16``.
        tf32: Whether products of fp32 numbers may be rounded to TF32.

    Returns:
        ``None`` for a device that is not in the table.
    """
    kind = "half" if precision in ("bf16", "fp16") else "tf32" if tf32 else "fp32"
    return _PEAKS[device][kind] if device in _PEAKS else None


class Throughput(Callback):
    """Logs the model summary when a run starts, and its FLOP/s with every record.

    - ``time/tflops``: of forward and backward pass per second and process, in 10^12.
    - ``time/mfu``: that over the peak (Chowdhery et al. 2022, arXiv 2204.02311, appendix B), on a
      GPU whose peak is known.

    The FLOPs of an example are those of the first batch; the summary also goes to ``summary.txt``
    in the run directory.

    Args:
        depth: Levels of modules in the summary.
    """

    priority = -10

    def __init__(self, depth: int = 2) -> None:
        self.depth = depth
        self._flops = 0.0
        self._peak: float | None = None
        self._from = (0, 0.0)

    def on_fit_start(self, trainer: "Trainer") -> None:
        state = trainer.state
        self._from = (state.samples, state.wall_seconds)
        if not trainer.is_main:
            return
        if any(hasattr(parameter, "full_tensor") for parameter in trainer.parameters):
            logger.warning("no model summary: FLOPs are counted on a copy, and a shard has none")
            return
        stream = epoch_batches(trainer.train_loader, state.epoch, trainer.strategy)
        with undisturbed(trainer.loader_state), closing(stream) as batches:
            batch = next((batch for batch in batches if batch is not None), None)
        if batch is None:
            raise DataError("the training data has no batch to count FLOPs on")
        summary = summarize(trainer.task, batch, self.depth)
        self._flops = summary.training_flops
        logger.info(f"model\n{summary}")
        if trainer.run is not None:
            atomic_write_text(trainer.run.directory / "summary.txt", f"{summary}\n")
        if trainer.device.type == "cuda":
            name = torch.cuda.get_device_name(trainer.device)
            tf32 = torch.get_float32_matmul_precision() != "highest"
            self._peak = peak_flops(name, trainer.config.precision, tf32)
            if self._peak is None:
                logger.info(f"the peak FLOP/s of '{name}' is not known, so there is no time/mfu")

    def on_log(self, trainer: "Trainer", record: dict[str, Any]) -> None:
        if not self._flops:
            return
        samples, seconds = self._from
        self._from = (trainer.state.samples, record["time/seconds"])
        elapsed = max(record["time/seconds"] - seconds, 1e-9)
        examples = (trainer.state.samples - samples) / trainer.strategy.world_size
        per_second = examples * self._flops / elapsed
        record["time/tflops"] = per_second / 1e12
        if self._peak is not None:
            record["time/mfu"] = per_second / self._peak
