"""The picture of a threshold says what the curve says, and where the curve is not exact."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from common.metrics import ThresholdCurve, sweep_thresholds
from common.utils.errors import DataError, InputError
from common.visualization import plot_threshold_curve


def _curve(seed: int = 0, queries: int = 20, is_complete: bool = False) -> ThresholdCurve:
    generator = torch.Generator().manual_seed(seed)
    scores = torch.rand(queries, 10, generator=generator).sort(1, descending=True).values
    hits = torch.rand(queries, 10, generator=generator) < scores
    return sweep_thresholds(scores, hits, hits.sum(1) + 1, is_complete=is_complete)


def _legend(figure) -> list[str]:
    return [text.get_text() for text in figure.axes[0].get_legend().get_texts()]


def _drawn(line, threshold: float) -> float:
    """What a reader sees above a threshold: the line's next point, as ``steps-pre`` draws it."""
    assert line.get_drawstyle() == "steps-pre"
    x, y = line.get_data()
    return float(y[np.searchsorted(x, threshold)])


def test_the_line_is_the_curve_at_and_between_its_thresholds() -> None:
    curve = _curve()
    line = plot_threshold_curve(curve, 0.5).axes[0].get_lines()[0]
    t = curve.thresholds
    for threshold in [*t.tolist(), *((t[1:] + t[:-1]) / 2).tolist(), float(t[0]) + 1e-6]:
        assert _drawn(line, threshold) == curve.at(threshold)


def test_the_chosen_threshold_is_marked_on_every_curve_and_the_oracle_on_the_others() -> None:
    first, second = _curve(0), _curve(1)
    chosen, best = first.best
    oracle, highest = second.best
    axis = plot_threshold_curve({"a": first, "b": second}, chosen).axes[0]
    points = {
        (line.get_marker(), line.get_xdata()[0], line.get_ydata()[0])
        for line in axis.get_lines()
        if line.get_marker() in ("o", "D")
    }
    at = second.at(chosen)
    assert points == {("o", chosen, best), ("o", chosen, at), ("D", oracle, highest)}
    assert _legend(axis.figure)[:3] == [
        f"a: F1 {best:.3f} at {chosen:.4g}",
        f"b: F1 {at:.3f} at {chosen:.4g}",
        f"b: F1 {highest:.3f} at {oracle:.4g}, its best (oracle)",
    ]
    assert [text.get_text() for text in axis.texts] == [f"chosen: {chosen:.4g}"]


def test_the_oracle_is_the_largest_of_equally_good_thresholds() -> None:
    flat = ThresholdCurve(torch.tensor([3.0, 2.0, 1.0]), torch.tensor([0.2, 0.7, 0.7]), -1e9, 1.0)
    texts = _legend(plot_threshold_curve({"a": flat, "b": flat}, 3.0))
    assert flat.best[0] == 2.0
    assert texts[2] == "b: F1 0.700 at 2, its best (oracle)"


def test_where_candidates_are_missing_the_ground_is_grey_and_said() -> None:
    curve = _curve()
    axis = plot_threshold_curve(curve, 0.5).axes[0]
    (shade,) = axis.patches
    assert shade.get_x() + shade.get_width() == pytest.approx(curve.exact_above)
    assert shade.get_x() <= axis.get_xlim()[0]
    assert _legend(axis.figure)[-1].startswith(f"not exact below {curve.exact_above:.4g}")
    whole = plot_threshold_curve(_curve(is_complete=True), 0.5).axes[0]
    assert not whole.patches
    assert len(_legend(whole.figure)) == 1


def test_a_large_curve_is_thinned_and_looks_the_same() -> None:
    curve = _curve(queries=3000)
    line = plot_threshold_curve(curve, 0.5).axes[0].get_lines()[0]
    x, y = line.get_data()
    assert len(curve.thresholds) > 20_000 > 4100 > len(x)
    assert (np.diff(x) > 0).all()
    assert y.max() == float(curve.scores.max())
    at = [abs(_drawn(line, t) - curve.at(t)) for t in torch.linspace(0, 1, 99).tolist()]
    assert max(at) < 5e-3


def test_precision_and_recall_stand_at_the_thresholds_of_the_first_curve() -> None:
    curve = _curve()
    recall = torch.linspace(0, 1, len(curve.thresholds))
    figure = plot_threshold_curve(curve, 0.5, precision=1 - recall, recall=recall)
    line = next(line for line in figure.axes[0].get_lines() if line.get_label() == "mean recall")
    assert _drawn(line, float(curve.thresholds[7])) == pytest.approx(float(recall[7]))
    assert "mean precision" in _legend(figure)


@pytest.mark.parametrize("chosen", [-3.0, 0.5, 9.0])
def test_everything_is_inside_the_picture(tmp_path: Path, chosen: float) -> None:
    curves = {f"fold {k} 猫 $x$ {'W' * 40}": _curve(k) for k in range(5)}
    figure = plot_threshold_curve(curves, chosen, tmp_path / "t.png", "MW" * 50, unit="距離")
    figure.draw_without_rendering()
    axis = figure.axes[0]
    shown = [axis.get_legend(), axis.xaxis.label, axis.yaxis.label, *axis.texts, figure._suptitle]
    for box in (part.get_window_extent() for part in shown):
        assert 0 <= box.x0 < box.x1 <= figure.bbox.width
        assert 0 <= box.y0 < box.y1 <= figure.bbox.height
    assert axis.get_xlim()[0] < chosen < axis.get_xlim()[1]
    assert np.asarray(Image.open(tmp_path / "t.png").convert("L")).std() > 3.0


def test_one_threshold_is_a_picture() -> None:
    curve = sweep_thresholds(torch.tensor([[-5.0]]), torch.tensor([[True]]), torch.tensor([1]))
    assert _legend(plot_threshold_curve(curve, -5.0))[0] == "F1 1.000 at -5"


def test_what_is_no_curve_is_refused() -> None:
    curve = _curve()
    with pytest.raises(DataError, match="no curve to draw"):
        plot_threshold_curve({}, 0.5)
    with pytest.raises(DataError, match="chosen threshold is nan"):
        plot_threshold_curve(curve, float("nan"))
    with pytest.raises(DataError, match=r"of 'recall' have shape \(200,\) and their values \(3,\)"):
        plot_threshold_curve(curve, 0.5, recall=[1, 2, 3])
    with pytest.raises(DataError, match="thresholds must fall"):
        plot_threshold_curve(replace(curve, thresholds=curve.thresholds.flip(0)), 0.5)
    with pytest.raises(DataError, match="be finite"):
        plot_threshold_curve(replace(curve, scores=curve.scores * float("nan")), 0.5)
    with pytest.raises(DataError, match="beta 1, 2; expected one"):
        plot_threshold_curve({"a": curve, "b": replace(curve, beta=2.0)}, 0.5)
    with pytest.raises(InputError, match="no name of a picture"):
        plot_threshold_curve(curve, 0.5, "x.nope")
