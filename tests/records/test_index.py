"""Generated documents: what they say, and that they are checked."""

from pathlib import Path

import pytest

from common.records import Measurement, write_results
from common.records.index import out_of_date, write_documents
from common.records.tables import between, duration, number, signed
from common.utils.errors import ConfigError
from tests.records.examples import FILES, project, row


def test_documents_are_up_to_date_after_they_are_written(tmp_path: Path) -> None:
    folder = project(tmp_path)
    write_results(folder, [row()])
    names = {path.relative_to(tmp_path).as_posix() for path in write_documents(tmp_path)}
    assert names == {"papers/method/README.md", "papers/README.md", "README.md", "docs/papers.md"}
    assert out_of_date(tmp_path) == []


def test_a_changed_record_makes_documents_out_of_date(tmp_path: Path) -> None:
    folder = project(tmp_path)
    write_documents(tmp_path)
    write_results(folder, [row()])
    assert folder / "README.md" in out_of_date(tmp_path)


def test_the_tables_of_a_readme_hold_ours_and_the_papers_number(tmp_path: Path) -> None:
    folder = project(tmp_path)
    metrics = {"test/accuracy": Measurement.of([0.8, 0.9]), "test/loss": Measurement.of([1.0, 1.0])}
    write_results(folder, [row(metrics=metrics, seeds=(0, 1), note="two <b>seeds</b>")])
    write_documents(tmp_path)
    text = (folder / "README.md").read_text()
    assert "`test/accuracy` **0.85 ± 0.071 (n=2)**<br>`test/loss` 1 ± 0 (n=2)" in text
    claim = next(line for line in text.splitlines() if line.startswith("| small (Table 1)"))
    assert "| 0.9 | 0.85 ± 0.071 (n=2) | -0.05 | ±0.005 | **differs** |" in claim
    assert "`train --config configs/full.yaml`" in claim
    assert claim.endswith("| a \\| b |")  # a bar stays in its cell
    assert "two &lt;b>seeds&lt;/b>" in text
    assert text.startswith("# A Method\n")
    assert text.endswith("\n\nprose\n")


def test_a_paper_without_rows_is_listed_and_says_so(tmp_path: Path) -> None:
    folder = project(tmp_path)
    write_documents(tmp_path)
    assert "Nothing is recorded yet." in (folder / "README.md").read_text()
    line = next(x for x in (tmp_path / "papers/README.md").read_text().splitlines() if "](m" in x)
    assert "| runs |" in line
    assert "| – | 0.9 (small) | – | – |" in line
    assert "1 not run" in (tmp_path / "docs" / "papers.md").read_text()


def test_a_reduced_row_is_no_gap_to_the_paper(tmp_path: Path) -> None:
    folder = project(tmp_path)
    write_results(folder, [row(scale="reduced: one epoch")])
    write_documents(tmp_path)
    line = next(x for x in (tmp_path / "papers/README.md").read_text().splitlines() if "](m" in x)
    assert (
        "| trained | `test/accuracy` | 0.9 (full) | 0.9 (small) | – | reduced: one epoch |" in line
    )
    assert "reduced scale" in (tmp_path / "README.md").read_text()


def test_the_root_readme_names_the_data_the_default_first(tmp_path: Path) -> None:
    project(tmp_path)
    write_documents(tmp_path)
    assert "`embedded/digits`, `cifar10`" in (tmp_path / "README.md").read_text()


def test_a_draft_without_a_readme_is_listed_without_a_link(tmp_path: Path) -> None:
    (project(tmp_path) / "README.md").unlink()
    write_documents(tmp_path)
    for page in ("README.md", "papers/README.md"):
        text = (tmp_path / page).read_text()
        assert "| A Method (Lovelace and Babbage 1843) | draft |" in text
        assert "method/README.md" not in text


def test_somebody_elses_number_says_whose_it_is(tmp_path: Path) -> None:
    text = FILES["paper.yaml"].replace("where: Table 1", "where: its page, source: A Library")
    project(tmp_path, **{"paper.yaml": text})
    write_documents(tmp_path)
    assert "| 0.9 (A Library: small) |" in (tmp_path / "papers/README.md").read_text()


@pytest.mark.parametrize(
    "text",
    ["nothing", "<!-- x -->\n", "<!-- /x -->\n<!-- x -->\n", "<!-- x -->\n<!-- /x -->\n" * 2],
)
def test_missing_or_repeated_markers_are_an_error(text: str) -> None:
    with pytest.raises(ConfigError, match=r"README\.md needs the line '<!-- x -->' once"):
        between(text, "x", "block", "README.md")


def test_a_block_may_hold_what_a_pattern_would_read() -> None:
    assert between("<!-- x -->\n<!-- /x -->\n", "x", r"\1 \g<0>", "f") == (
        "<!-- x -->\n\\1 \\g<0>\n<!-- /x -->\n"
    )


def test_numbers_are_printed_for_people() -> None:
    assert [number(v) for v in (65_000_000, 0.9125, 38.3306, 12345.6, None)] == [
        "65,000,000",
        "0.9125",
        "38.33",
        "12,346",
        "–",
    ]
    assert [signed(v) for v in (0.0021, -1_917_504.0, None)] == ["+0.0021", "-1,917,504", "–"]
    assert [duration(h) for h in (1.15, 0.5, 67.1 / 3600)] == ["1.1 h", "30 min", "67 s"]
