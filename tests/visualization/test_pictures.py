"""Pictures show what they were given; tables cut nothing off."""

import itertools
import json
import math
import resource
import signal
from pathlib import Path

import pytest
import torch

from common.utils.errors import DataError, FaultError, InputError
from common.visualization import plot_attention, plot_training_curves, text_table
from common.visualization.curves import rolling_mean
from common.visualization.style import PICTURES, new_figure, save_figure


def _history(offset: float = 0.0) -> list[dict]:
    return [
        {"step": s, "epoch": 1, "train/loss": 2.0 / s, "validation/loss": 2.5 / s + offset}
        | {"validation/accuracy": s / 10, "lr": 1e-3, "time/seconds": s}
        for s in range(1, 9)
    ]


def test_every_quantity_has_a_panel_and_times_have_none(tmp_path: Path) -> None:
    figure = plot_training_curves(_history(), out=tmp_path / "new" / "curves.png")
    titles = [axis.get_title() for axis in figure.axes if axis.get_visible()]
    assert titles == ["loss", "lr", "accuracy"]
    assert (tmp_path / "new" / "curves.png").stat().st_size > 10_000
    loss = figure.axes[0]
    assert [line.get_label() for line in loss.get_lines()] == ["train", "validation"]
    assert list(loss.get_lines()[0].get_ydata()) == [2.0 / s for s in range(1, 9)]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("x.nope", r"x\.nope is no name of a picture; expected one with \.png, \.svg, \.pdf"),
        ("x", r"x is no name of a picture"),
        ("folder.png", r"folder\.png is a folder"),
        ("file.txt/x.png", r"x\.png cannot be written: .*file\.txt is a file, not a folder"),
    ],
)
def test_a_place_that_no_picture_can_be_written_to_is_one_line(
    tmp_path: Path, name: str, message: str
) -> None:
    (tmp_path / "folder.png").mkdir()
    (tmp_path / "file.txt").touch()
    with pytest.raises(InputError, match=message) as caught:
        plot_training_curves(_history(), out=tmp_path / name)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("suffix", [*PICTURES, ".PNG"])
def test_every_suffix_that_is_offered_is_written(tmp_path: Path, suffix: str) -> None:
    figure = new_figure(1.0, 1.0)
    save_figure(figure, tmp_path / f"x{suffix}")
    assert (tmp_path / f"x{suffix}").stat().st_size > 0


def test_a_picture_on_a_full_disk_is_one_line_and_leaves_the_old_one(tmp_path: Path) -> None:
    old = tmp_path / "x.png"
    old.write_bytes(b"old")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, limits[1]))
    try:
        with pytest.raises(FaultError, match=r"cannot write .*x\.png"):
            save_figure(new_figure(3.0, 3.0), old)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)
    assert [path.name for path in tmp_path.iterdir()] == ["x.png"]
    assert old.read_bytes() == b"old"


def test_places_without_a_panel_stay_empty() -> None:
    history = [record | {"grad_norm": 1.0} for record in _history()]
    visible = [axis.get_visible() for axis in plot_training_curves(history).axes]
    assert visible == [True] * 4 + [False] * 2


def test_several_runs_share_a_panel() -> None:
    figure = plot_training_curves(
        {"a": _history(), "b": _history(1.0)}, metrics=["validation/loss"]
    )
    labels = [line.get_label() for line in figure.axes[0].get_lines()]
    assert labels == ["a validation", "b validation"]


def test_a_log_axis_and_a_rolling_mean() -> None:
    figure = plot_training_curves(_history(), metrics=["loss"], log=True, smooth=3)
    assert figure.axes[0].get_yscale() == "log"
    assert len(figure.axes[0].get_lines()) == 4  # raw and smooth, for training and validation
    assert rolling_mean([1, 2, 3, 4], [1.0, 2.0, 3.0, 4.0], 2) == [1.0, 1.5, 2.5, 3.5]
    assert rolling_mean([10, 20, 30], [1.0, 2.0, 3.0], 2) == [1.0, 2.0, 3.0]
    assert rolling_mean([1, 2, 3], [1.0, math.nan, 3.0], 3) == [1.0, 1.0, 2.0]


def _with_p() -> list[dict]:
    """What a task records of GeM's p: one for all channels, or mean and ends of one for each."""
    return [
        {"step": s, "train/gem_p": 3.0 + s, "train/gem_p_min": 3.0, "train/gem_p_max": 3.0 + 2 * s}
        for s in range(1, 5)
    ]


def test_a_scalar_over_training_is_a_line() -> None:
    history = [{key: record[key] for key in ("step", "train/gem_p")} for record in _with_p()]
    (axis,) = plot_training_curves(history, metrics=["gem_p"]).axes
    assert list(axis.get_lines()[0].get_ydata()) == [4.0, 5.0, 6.0, 7.0]
    assert not axis.collections


def test_a_mean_with_its_lowest_and_highest_is_a_line_in_a_band() -> None:
    (axis,) = plot_training_curves(_with_p()).axes
    assert axis.get_title() == "gem_p"
    (band,) = axis.collections
    corners = {tuple(corner) for corner in band.get_paths()[0].vertices}
    assert corners == {(s, edge) for s in (1, 2, 3, 4) for edge in (3.0, 3.0 + 2 * s)}
    assert band.get_label() == "train, lowest to highest"


def test_lowest_and_highest_without_a_mean_keep_their_panels() -> None:
    history = [{"step": s, "train/x_min": 1.0, "train/x_max": 2.0} for s in range(3)]
    axes = plot_training_curves(history).axes
    assert [axis.get_title() for axis in axes] == ["x_max", "x_min"]
    assert [a.get_title() for a in plot_training_curves(_with_p(), metrics=["gem_p_min"]).axes] == [
        "gem_p_min"
    ]


def test_the_torn_last_line_of_a_killed_run_is_left_out(tmp_path: Path) -> None:
    lines = [json.dumps(record) for record in _history()]
    (tmp_path / "metrics.jsonl").write_text("\n".join([*lines, lines[0][:20]]))
    figure = plot_training_curves(tmp_path)
    assert len(figure.axes[0].get_lines()[0].get_xdata()) == 8


def test_files_and_run_directories_are_read(tmp_path: Path) -> None:
    (tmp_path / "history.json").write_text(json.dumps(_history()))
    lines = "\n".join(json.dumps(record) for record in _history())
    for source in (tmp_path, tmp_path / "history.json"):
        assert plot_training_curves(source).axes
    (tmp_path / "metrics.jsonl").write_text(lines)
    assert plot_training_curves(str(tmp_path / "metrics.jsonl")).axes


def test_a_missing_history_or_metric_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no run directory"):
        plot_training_curves(tmp_path / "nothing")
    with pytest.raises(DataError, match="no records"):
        plot_training_curves([])
    with pytest.raises(DataError, match="did you mean 'loss'"):
        plot_training_curves(_history(), metrics=["los"])


def test_attention_has_a_panel_per_head(tmp_path: Path) -> None:
    weights = torch.rand(5, 3, 4).softmax(-1)
    figure = plot_attention(weights, ["$a", " ", "c", "d"], ["x", "y", "z"], tmp_path / "a.png")
    assert sum(axis.get_visible() for axis in figure.axes) == 5
    assert (tmp_path / "a.png").stat().st_size > 5_000


WORDS = "ein junger Mann in einer roten Jacke fährt Rad "


@pytest.mark.parametrize(
    ("heads", "tokens", "text"),
    [
        *itertools.product([1], [2, 12], [WORDS, "MW" * 30, "$"]),
        (4, 12, "MW" * 30),
        (8, 30, WORDS),
    ],
)
def test_a_title_of_any_length_is_inside_the_picture(heads: int, tokens: int, text: str) -> None:
    weights = torch.full((heads, tokens, tokens), 1 / tokens)
    figure = plot_attention(weights, ["x"] * tokens, ["y"] * tokens, title=text * 9)
    figure.canvas.draw()
    box, whole = figure._suptitle.get_window_extent(), figure.bbox
    assert whole.x0 <= box.x0 < box.x1 <= whole.x1
    assert whole.y0 <= box.y0 < box.y1 <= whole.y1
    assert all(axis.get_window_extent().y1 < box.y0 for axis in figure.axes if axis.get_visible())


def test_a_short_title_stays_whole_and_a_long_one_ends_in_an_ellipsis() -> None:
    weights = torch.full((1, 2, 2), 0.5)
    titles = [
        plot_attention(weights, ["a", "b"], ["c", "d"], title=title).get_suptitle()
        for title in ("two words", "word " * 100)
    ]
    assert titles[0] == "two words"
    assert titles[1].endswith("…")


def test_attention_that_does_not_fit_its_tokens_is_refused() -> None:
    with pytest.raises(DataError, match=r"shape \(2, 3\)"):
        plot_attention(torch.rand(2, 3), ["a"], ["b", "c"])


def test_a_table_cuts_nothing_off() -> None:
    long = "word " * 60
    table = text_table([["bleu", 35.123456], ["text", long]], ["name", "value"], "results")
    assert "35.12" in table
    assert table.count("word") == 60
    assert table.splitlines()[0].strip() == "results"


def test_drawing_leaves_the_process_as_it_was() -> None:
    import matplotlib as mpl

    before = mpl.rcParams["axes.grid"], mpl.get_backend()
    plot_training_curves(_history())
    assert (mpl.rcParams["axes.grid"], mpl.get_backend()) == before
