"""Markdown made of records: the tables of a paper's README, and the text between two markers.

A number is printed with its spread over seeds; what was not measured here is a dash.
"""

import re
from collections.abc import Mapping, Sequence

from common.records.paper import Paper
from common.records.results import Measurement, Row
from common.records.verdicts import Judgement, Standing, Verdict
from common.utils.errors import ConfigError

NOTHING = "–"


def results_block(standing: Standing) -> str:
    """What stands between ``<!-- results -->`` and ``<!-- /results -->`` in a paper's README."""
    parts = []
    if standing.rows:
        parts.append("Measured here:")
        parts.append(measured_table(standing.rows, standing.paper))
        if notes := [f"- {cell(row.name)}: {cell(row.note)}" for row in standing.rows if row.note]:
            parts.append("\n".join(notes))
    else:
        parts.append("Nothing is recorded yet.")
    if standing.judgements:
        others = any(judgement.claim.source for judgement in standing.judgements)
        parts.append(f"The paper's numbers{', and others that say whose' if others else ''}:")
        parts.append(claims_table(standing.judgements, standing.paper))
    return "\n\n".join(parts)


def measured_table(rows: Sequence[Row], paper: Paper) -> str:
    """What was measured here, one line for each row."""
    lines = []
    for row in rows:
        metrics = "<br>".join(
            f"`{key}` {f'**{text}**' if key == paper.headline.metric else text}"
            for key, value in _headline_first(row.metrics, paper.headline.metric).items()
            if (text := measurement(value))
        )
        size = f"{row.parameters:,}" if row.parameters is not None else NOTHING
        seeds = ", ".join(map(str, row.seeds))
        lines.append(
            [
                cell(row.name),
                metrics,
                cell(row.scale),
                code(short_command(row.command, paper)),
                f"{seeds}<br>{commit(row)}",
                size,
                f"{duration(row.hours)}<br>{cell(row.hardware)}",
            ]
        )
    headers = ["Run", "Result", "Scale", "Command", "Seeds, commit", "Parameters"]
    return table([*headers, "Training, hardware"], lines)


def claims_table(judgements: Sequence[Judgement], paper: Paper) -> str:
    """The paper's claims and what became of them, one line each."""
    lines = []
    for judgement in judgements:
        claim = judgement.claim
        verdict = str(judgement.verdict)
        if judgement.verdict in (Verdict.REPRODUCED, Verdict.DIFFERS):
            verdict = f"**{verdict}**"
        lines.append(
            [
                f"{cell(claim.name)} ({cell(', '.join(filter(None, [claim.source, claim.where])))})",
                f"`{claim.metric}`",
                number(claim.value),
                ours(judgement, claim.metric),
                signed(judgement.gap),
                f"±{number(claim.tolerance)}",
                verdict,
                code(f"train --config {claim.config}"),
                cell(claim.note) or NOTHING,
            ]
        )
    headers = ["Claim", "Metric", "Paper", "Here", "Gap", "Tolerance", "Verdict", "Command", "Note"]
    return table(headers, lines)


def ours(judgement: Judgement, metric: str) -> str:
    """Our number for a claim, with its spread and, if it is reduced, saying so."""
    if judgement.row is None or judgement.ours is None:
        return NOTHING
    measured = judgement.row.metrics.get(metric)
    return measurement(measured) if measured is not None else number(judgement.ours)


def table(headers: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table; cells are Markdown already."""
    lines = [headers, ["---"] * len(headers), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def between(text: str, marker: str, block: str, place: str) -> str:
    """Replace what stands between ``<!-- marker -->`` and ``<!-- /marker -->``.

    Args:
        text: The whole document.
        marker: The word in the two comments, each on a line of its own.
        block: What shall stand between them.
        place: The document's name, for the error.

    Raises:
        ConfigError: if each marker does not stand there exactly once, in order.
    """
    begin, end = f"<!-- {marker} -->", f"<!-- /{marker} -->"
    pattern = rf"^{re.escape(begin)}$.*?^{re.escape(end)}$"
    found = re.findall(pattern, text, re.MULTILINE | re.DOTALL)
    if len(found) != 1 or text.count(begin) != 1 or text.count(end) != 1:
        raise ConfigError(
            f"{place} needs the line '{begin}' once and '{end}' once after it; "
            "what stands between them is generated"
        )
    return text.replace(found[0], f"{begin}\n{block}\n{end}")


def measurement(value: Measurement) -> str:
    """``0.9731 ± 0.0012 (n=3)``, or the number alone."""
    if value.std is None:
        return number(value.mean)
    return f"{number(value.mean)} ± {value.std:.2g} (n={len(value.values)})"


def number(value: float | None) -> str:
    """Four significant digits; whole numbers whole, in groups of three."""
    if value is None:
        return NOTHING
    if isinstance(value, int) or (abs(value) >= 10_000 and float(value).is_integer()):
        return f"{int(value):,}"
    return f"{value:,.0f}" if abs(value) >= 10_000 else f"{value:.4g}"


def signed(value: float | None) -> str:
    """A difference with its sign."""
    if value is None:
        return NOTHING
    return f"{value:+,.0f}" if abs(value) >= 1000 else f"{value:+.3g}"


def duration(hours: float | None) -> str:
    """Hours in the unit a person would use."""
    if hours is None:
        return NOTHING
    if hours >= 1.0:
        return f"{hours:.1f} h"
    seconds = hours * 3600.0
    return f"{seconds / 60:.0f} min" if seconds >= 120 else f"{seconds:.0f} s"


def commit(row: Row) -> str:
    """The commit's first digits, with a mark if the code was not exactly that."""
    return f"`{row.commit[:7]}`" + (" + changes" if row.dirty else "")


def short_command(command: str, paper: Paper) -> str:
    """A command without the part that all of the paper's have in common."""
    return command.replace(f"python -m {paper.module}.", "", 1)


def cell(text: str) -> str:
    """Text that cannot leave its table cell: one line, no bars, no tags."""
    line = " ".join(text.split())
    return line.replace("&", "&amp;").replace("<", "&lt;").replace("|", "\\|")


def code(text: str) -> str:
    """Text as code in a cell."""
    line = " ".join(text.split()).replace("|", "\\|")
    fence = "``" if "`" in line else "`"
    return f"{fence}{line}{fence}"


def _headline_first(metrics: Mapping[str, Measurement], headline: str) -> dict[str, Measurement]:
    first = {key: value for key, value in metrics.items() if key == headline}
    return first | dict(metrics)
