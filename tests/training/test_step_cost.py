"""What the trainer adds to a training step, counted in calls: the same number on every machine."""

import pytest

from benchmarks.calls import CallCount, count_calls
from benchmarks.loops import ours_tensor_loader, raw_tensor_loader
from benchmarks.workloads import Workload, mlp_on_digits

LIMIT = 0.75  # times the calls of a loop written by hand, of which most are the optimizer's


@pytest.fixture(scope="module")
def workload() -> Workload:
    return mlp_on_digits(epochs=1, copies=8, validation=False)  # 180 steps


@pytest.fixture(scope="module")
def raw(workload: Workload) -> CallCount:
    """TensorLoader, fused AdamW, zero_grad, backward, a loss appended to a list."""
    return count_calls(raw_tensor_loader, workload)


@pytest.mark.parametrize("realistic", [False, True], ids=["plain", "realistic"])
def test_a_step_makes_fewer_calls_than_a_loop_written_by_hand(
    workload: Workload, raw: CallCount, realistic: bool
) -> None:
    """Realistic: accuracy, progress bar, metrics.jsonl and TensorBoard, with their log records."""
    ours = count_calls(ours_tensor_loader, workload, realistic)
    ratio = ours.per_step / raw.per_step
    added = ours.added_to(raw)
    assert ratio <= LIMIT, (
        f"{ours.per_step:.2f} calls a step are {ratio:.3f} times the raw loop's "
        f"{raw.per_step:.2f}; allowed: {LIMIT * raw.per_step:.2f}. Most was added by:\n"
        + "\n".join(f"{calls:7.2f}  {name}" for name, calls in added[:30])
    )


def test_the_count_is_the_same_every_time(workload: Workload, raw: CallCount) -> None:
    assert count_calls(raw_tensor_loader, workload).calls == raw.calls
