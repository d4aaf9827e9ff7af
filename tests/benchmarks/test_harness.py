"""The arithmetic of side-by-side measurement, on variants whose times are made up."""

import time
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from benchmarks.harness import Column, Result, installed, interleave, timed
from benchmarks.report import filled


def _variant(calls: list[str], name: str, *values: float) -> Callable[[], Mapping[str, float]]:
    """Takes ``values`` one after the other, and notes when it was asked."""
    left = iter(values)

    def measure() -> dict[str, float]:
        calls.append(name)
        return {"us": next(left)}

    return measure


def _result(samples: dict[str, dict[str, list[float]]]) -> Result:
    return Result(
        "fake",
        [Column("us", "time, us", 1, "us"), Column("more", "more", 0, "us", as_difference=True)],
        samples,
        baselines=dict.fromkeys(samples, "raw"),
        notes=["A note."],
        command="python -m benchmarks.fake",
        commit="0123456789" * 4 + "+",
        date="2026-01-02T03:04:05+00:00",
        hardware={"processor": "a processor", "threads": 1},
        versions={"torch": "2"},
    )


def test_variants_take_turns_and_the_order_rotates() -> None:
    calls: list[str] = []
    variants = {name: _variant(calls, name, *range(1, 5)) for name in "ABC"}
    interleave(variants, repeats=3, warm_up=1)
    assert "".join(calls) == "ABC" + "BCA" + "CAB" + "ABC"


def test_the_warm_up_does_not_count() -> None:
    samples = interleave({"A": _variant([], "A", 99.0, 1.0, 2.0)}, repeats=2, warm_up=1)
    assert samples == {"A": {"us": [1.0, 2.0]}}


def test_a_ratio_is_taken_within_a_round() -> None:
    # The rounds say 1.5, 1.5 and 4, though the medians, 8 and 2, would say 4.
    result = _result({"raw": {"us": [2.0, 20.0, 2.0]}, "ours": {"us": [3.0, 30.0, 8.0]}})
    assert result.ratio("ours", "us") == 1.5
    assert result.median("ours", "us") / result.median("raw", "us") == 4.0


def test_what_was_not_measured_has_no_ratio() -> None:
    result = _result({"raw": {"us": [1.0]}, "ours": {}})
    assert result.ratio("ours", "us") is None
    assert "| ours | - | - |" in result.markdown()


def test_the_table_shows_medians_ratios_and_what_made_it() -> None:
    samples = {
        "raw": {"us": [100.0, 102.0, 98.0]},
        "ours": {"us": [105.0, 107.1, 102.9], "more": [130.0, 140.0, 120.0]},
    }
    text = _result(samples).markdown()
    assert "| raw | 100.0 | - |" in text
    assert "| ours | 105.0 (1.05x) | 130 (+30) |" in text
    assert "`python -m benchmarks.fake` at `012345678+`, 2026-01-02, a processor, 1 thread" in text
    assert "3 interleaved rounds" in text


def test_a_result_is_read_back_as_it_was_written(tmp_path: Path) -> None:
    result = _result({"raw": {"us": [1.0, 2.0]}})
    result.write(tmp_path / "results" / "fake.json")
    assert Result.read(tmp_path / "results" / "fake.json") == result


def test_cpu_time_is_not_wall_time() -> None:
    took = timed(lambda: time.sleep(0.05))
    assert took.wall >= 0.05
    assert took.cpu < 0.04


def test_a_peer_that_is_not_installed_is_left_out_with_a_line(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert installed({"torch": "torch", "Nobody": "a_module_that_is_not_there"}) == ["torch"]
    assert "skipped: Nobody" in capsys.readouterr().err


def test_a_page_gets_the_tables_of_its_results_and_nothing_else(tmp_path: Path) -> None:
    result = _result({"raw": {"us": [1.0]}})
    result.write(tmp_path / "fake.json")
    page = (
        "Before.\n\n<!-- benchmark:fake -->\n| old |\n<!-- /benchmark -->\n\n"
        "Between.\n\n<!-- benchmark:later -->\n<!-- /benchmark -->\n\nAfter.\n"
    )
    text = filled(page, tmp_path)
    assert result.markdown() in text
    assert "| old |" not in text
    assert "Not measured yet: `python -m benchmarks.later" in text
    assert text.startswith("Before.")
    assert text.endswith("After.\n")
    assert filled(text, tmp_path) == text
