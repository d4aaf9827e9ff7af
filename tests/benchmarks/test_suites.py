"""Every suite runs, ours and raw only, and what it compares is the same training."""

from functools import partial
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from torch import Tensor

from benchmarks import image_pipeline, metric_losses, retrieval, step_overhead, whole_fit
from benchmarks.checkpoints import checkpoints
from benchmarks.harness import Result, run_python
from benchmarks.loops import ours_tensor_loader, raw_data_loader, raw_naive, raw_tensor_loader
from benchmarks.peers import PEERS
from benchmarks.report import filled
from benchmarks.workloads import Classifier, Loop, Workload, mlp_on_digits, run_loop
from common.data import ImageCache
from common.utils.errors import FaultError
from common.utils.paths import get_project_root


def _trained(loop: Loop, realistic: bool, monkeypatch: pytest.MonkeyPatch) -> dict[str, Tensor]:
    """The weights a loop leaves behind."""
    models: list[Classifier] = []
    build = Workload.model

    def remembered(workload: Workload, on_forward: object) -> Classifier:
        models.append(build(workload, on_forward))
        return models[-1]

    monkeypatch.setattr(Workload, "model", remembered)
    run_loop(loop, mlp_on_digits(2), lambda: None, realistic)
    monkeypatch.undo()
    return models[0].state_dict()


def _equal(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize("realistic", [False, True], ids=["plain", "realistic"])
def test_our_trainer_computes_what_the_raw_loop_computes(
    realistic: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    raw = _trained(raw_tensor_loader, False, monkeypatch)
    ours = _trained(ours_tensor_loader, realistic, monkeypatch)
    assert _equal(ours, raw)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["Ignite", "Accelerate", "Lightning"])
def test_a_peer_computes_what_the_raw_loop_computes(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """HF Trainer seeds its sampler itself, so its batches come in another order."""
    module, loop = PEERS[name]
    pytest.importorskip(module)
    raw = _trained(raw_data_loader, False, monkeypatch)
    for realistic in (False, True):
        assert _equal(_trained(loop, realistic, monkeypatch), raw)


def test_a_fused_optimizer_changes_no_result(monkeypatch: pytest.MonkeyPatch) -> None:
    naive, fused = (_trained(loop, False, monkeypatch) for loop in (raw_naive, raw_data_loader))
    for name in naive:
        torch.testing.assert_close(naive[name], fused[name], rtol=1e-4, atol=1e-5)


def test_a_clock_that_never_stopped_is_an_error() -> None:
    clock = step_overhead.StepClock(first=2, steps=3)
    for _ in range(4):
        clock()
    with pytest.raises(RuntimeError, match="4 forward passes; expected at least 5"):
        _ = clock.microseconds


def test_step_overhead_measures_steps_calls_and_fits() -> None:
    raw = step_overhead.sample("raw loop, TensorLoader", quick=True)
    ours = step_overhead.sample("ours, TensorLoader", quick=True)
    assert raw.keys() == ours.keys() >= {"mlp_realistic", "calls_realistic", "fit_realistic"}
    assert all(value > 0 for value in [*raw.values(), *ours.values()])


def test_whole_fit_measures_epochs_per_second() -> None:
    assert whole_fit.sample("raw loop, naive", quick=True)["plain"] > 0
    assert whole_fit.sample("ours", quick=True).keys() == {"plain", "realistic"}


@pytest.mark.slow
@pytest.mark.parametrize(
    "suite",
    [
        *("step_overhead", "whole_fit", "checkpoints", "import_time", "image_pipeline"),
        *("metric_losses", "retrieval"),
    ],
)
def test_a_suite_is_a_command(suite: str, tmp_path: Path) -> None:
    path = tmp_path / "result.json"
    run_python(["-m", f"benchmarks.{suite}", "--quick", "--repeats", "1", "--json", str(path)])
    result = Result.read(path)
    assert result.suite == suite
    assert len(result.samples) == 2
    assert len(result.commit) >= 40


def test_a_metric_loss_that_differs_from_its_peer_is_not_measured() -> None:
    pytest.importorskip("pytorch_metric_learning")
    for setting in metric_losses._QUICK.values():
        ours, theirs = metric_losses.our_loss(setting), metric_losses.their_loss(setting)
        metric_losses.check_values(setting, ours, theirs)

    def steeper(embeddings: Tensor, labels: Tensor) -> Tensor:
        value = ours[0](embeddings, labels)
        return value.detach() + 1.01 * (value - value.detach())

    with pytest.raises(FaultError, match=r"Multi-Similarity, B 16, D 8: the gradients differ"):
        metric_losses.check_values(setting, (steeper, ours[1]), theirs)


def test_metric_losses_measures_every_loss_and_the_floor_of_arcface() -> None:
    result = metric_losses.metric_losses(repeats=1, quick=True)
    assert result.samples["ours"].keys() == metric_losses._QUICK.keys()
    assert result.samples["linear + cross-entropy"].keys() == {"arcface_1k"}
    assert all(v[0] > 0 for row in result.samples.values() for v in row.values())


def test_every_way_of_reading_gives_whole_batches_of_the_same_shape(tmp_path: Path) -> None:
    image_pipeline.write_photos(tmp_path, 3, (40, 50))
    cache = ImageCache(sorted((tmp_path / "class").iterdir()), image_pipeline._RECIPE)
    for read in (
        *(image_pipeline._image_folder, image_pipeline._timm, image_pipeline._ours),
        partial(image_pipeline._from_cache, cache),
    ):
        for training in (True, False):
            (batch,) = read(tmp_path, training, 0)
            assert batch.shape == (3, 3, 224, 224)


def test_evaluation_is_that_of_image_folder(tmp_path: Path) -> None:
    image_pipeline.write_photos(tmp_path, 3, (375, 500))
    (theirs,) = image_pipeline._image_folder(tmp_path, False, 0)
    (ours,) = image_pipeline._ours(tmp_path, False, 0)
    grey_level = 1 / 255 / min(image_pipeline._STD)
    difference = (image_pipeline._Plain()(ours) - theirs).abs()
    assert difference.max() < 1.01 * grey_level, "Pillow's resize rounds otherwise than torch's"


def test_every_way_of_retrieval_finds_the_same() -> None:
    pytest.importorskip("faiss")
    items = retrieval.make_items(600)
    found = {
        row: prepare(*items)()
        for row, (prepare, module) in retrieval.VARIANTS.items()
        if find_spec(module) is not None
    }
    assert found[retrieval.OURS]["f1"] > 0
    for one in found:
        of_pairs = one.startswith(retrieval.PAIRS)
        same = retrieval.SKLEARN if of_pairs else retrieval.OURS
        for key, value in found[one].items():
            assert value == pytest.approx(found[same][key], abs=1e-6), (one, key)


def test_checkpoints_runs_and_leaves_nothing_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    result = checkpoints(repeats=1, quick=True)
    ours = result.samples["ours"]
    assert ours["durable"][0] >= ours["stall"][0] > 0
    assert not list(tmp_path.iterdir())


def test_the_page_says_what_the_results_say() -> None:
    root = get_project_root()
    page = (root / "docs" / "performance.md").read_text()
    assert filled(page, root / "benchmarks" / "results") == page, "run python -m benchmarks.report"
