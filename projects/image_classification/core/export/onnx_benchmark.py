"""How fast the same network is in PyTorch, compiled, and in ONNX Runtime, taking turns.

All three get the same uint8 images and as many threads. A machine drifts, so no variant is measured
to the end before the next begins: they run A B C, B C A, ..., and the median over rounds counts.
"""

import statistics
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from loguru import logger

from projects.image_classification.core.export.onnx_export import silenced
from projects.image_classification.core.export.onnx_network import OUTPUTS, OnnxNetwork
from projects.image_classification.core.export.onnx_session import open_session

BATCH_SIZES = (1, 16)
_ROUNDS = 15
_SECONDS = 0.05  # of one measurement, at least
_MOST_CALLS = 1_000


def benchmark(
    path: Path,
    network: OnnxNetwork,
    image_shape: tuple[int, int, int],
    *,
    batch_sizes: Sequence[int] = BATCH_SIZES,
    rounds: int = _ROUNDS,
    compiles: bool = True,
) -> dict[str, Any]:
    """Measure latency and throughput on the CPU.

    Args:
        path: The ONNX file.
        network: What it was exported from, on the CPU.
        image_shape: ``(C, H, W)``.
        batch_sizes: Each is measured.
        rounds: That count, after one that warms up.
        compiles: Whether to measure ``torch.compile`` too.

    Returns:
        ``results`` with milliseconds a batch and images a second for each variant and batch size,
        ``threads``, and in ``skipped`` why a variant is not there.
    """
    threads = torch.get_num_threads()
    session = open_session(path, threads=threads)
    skipped: dict[str, str] = {}
    results = []
    for size in batch_sizes:
        draw = torch.Generator().manual_seed(size)
        pixels = torch.randint(0, 256, (size, *image_shape), generator=draw, dtype=torch.uint8)
        fed = network.feed(pixels)
        array = {session.get_inputs()[0].name: np.ascontiguousarray(fed.numpy())}
        variants: dict[str, Callable[[], Any]] = {
            "eager": partial(network, fed),
            "onnxruntime": partial(session.run, list(OUTPUTS), array),
        }
        if compiles and "compiled" not in skipped:
            compiled = _compiled(network, fed, skipped)
            if compiled is not None:
                variants["compiled"] = partial(compiled, fed)
        with torch.inference_mode():
            times = _interleaved(variants, rounds)
        for name, seconds in times.items():
            median = statistics.median(seconds)
            results.append(
                {
                    "variant": name,
                    "batch": size,
                    "milliseconds": round(median * 1e3, 4),
                    "slowest_round_milliseconds": round(max(seconds) * 1e3, 4),
                    "images_per_second": round(size / median, 1),
                }
            )
    if not compiles:
        skipped["compiled"] = "not asked for"
    return {
        "device": "cpu",
        "threads": threads,
        "rounds": rounds,
        "results": results,
        "skipped": skipped,
    }


def _compiled(
    network: OnnxNetwork, fed: torch.Tensor, skipped: dict[str, str]
) -> Callable[[torch.Tensor], Any] | None:
    """``torch.compile`` of the network, warm; ``None`` and a word where it cannot be."""
    torch.compiler.reset()
    compiled: Callable[[torch.Tensor], Any] = torch.compile(network, dynamic=False)
    try:
        with torch.inference_mode(), silenced():
            compiled(fed)
    except Exception as error:  # no C++ compiler, or a network it cannot follow: it is optional
        lines = [line for line in str(error).splitlines() if line.strip()]
        skipped["compiled"] = (lines[0] if lines else type(error).__name__)[:300]
        logger.warning(f"torch.compile is left out of the benchmark: {skipped['compiled']}")
        return None
    return compiled


def _interleaved(variants: dict[str, Callable[[], Any]], rounds: int) -> dict[str, list[float]]:
    """Seconds a call of every variant in every round."""
    calls = {name: _calls(run) for name, run in variants.items()}
    names = list(variants)
    times: dict[str, list[float]] = {name: [] for name in names}
    for number in range(1 + rounds):
        first = number % len(names)
        for name in names[first:] + names[:first]:
            run, count = variants[name], calls[name]
            started = time.perf_counter()
            for _ in range(count):
                run()
            if number:
                times[name].append((time.perf_counter() - started) / count)
    return times


def _calls(run: Callable[[], Any]) -> int:
    """How many calls a measurement needs to be longer than the clock and its noise."""
    run()
    started = time.perf_counter()
    run()
    once = time.perf_counter() - started
    return min(_MOST_CALLS, max(1, round(_SECONDS / max(once, 1e-7))))
