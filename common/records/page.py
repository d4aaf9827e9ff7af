"""One HTML page over chosen runs: curves, metrics, what differs, what made them, what they drew.

The page holds everything it shows and asks for nothing: a policy in its head forbids every request
and every script but its own. Text of a run (names, samples, values) is written as text by an XML
tree, so that it cannot become anything else.
"""

import base64
import hashlib
import json
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from xml.etree.ElementTree import Element, SubElement, tostring

from common.config.tree import ABSENT
from common.records.browse import short_labels
from common.records.charts import COLOURS, charts
from common.records.run_record import RunRecord, differences
from common.records.tables import duration

_PICTURES = {".png": "image/png", ".jpg": "image/jpeg", ".svg": "image/svg+xml"}
_TEXTS = (".txt", ".md", ".json")
_LARGEST = 4_000_000  # bytes of one picture or text


def report_page(records: Sequence[RunRecord], title: str) -> str:
    """The page as text.

    Args:
        records: The runs, in the order they are shown.
        title: Of the page.
    """
    labels = short_labels(records)
    script, style = (
        Path(__file__).with_name(f"report.{kind}").read_text() for kind in ("js", "css")
    )
    html = Element("html", {"lang": "en"})
    _head(SubElement(html, "head"), title, script, style)
    body = SubElement(html, "body")
    SubElement(body, "h1").text = title
    _runs(_section(body, "Runs"), records, labels)
    curves = {label: record.log for label, record in zip(labels, records, strict=True)}
    panels, described = charts(curves)
    if panels:
        _section(body, "Curves", "Training is dashed. Point at a curve to read it.")
        SubElement(body, "div", {"class": "panels"}).extend(panels)
    _metrics(_section(body, "Metrics"), records, labels)
    _differences(_section(body, "What differs between the configurations"), records, labels)
    _environment(_section(body, "What made them"), records, labels)
    for record, label in zip(records, labels, strict=True):
        _files(body, record, label)
    SubElement(body, "div", {"id": "tip"})
    data = SubElement(body, "script", {"id": "curves", "type": "application/json"})
    data.text = json.dumps(described).replace("<", "\\u003c")
    SubElement(body, "script").text = script
    text = tostring(html, encoding="unicode", method="html")
    return f"<!DOCTYPE html>\n{text}\n".encode("utf-8", "replace").decode()


def _head(head: Element, title: str, script: str, style: str) -> None:
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    policy = (
        "default-src 'none'; img-src data:; style-src 'unsafe-inline'; "
        f"script-src 'sha256-{digest}'; base-uri 'none'; form-action 'none'"
    )
    SubElement(head, "meta", {"charset": "utf-8"})
    SubElement(head, "meta", {"http-equiv": "Content-Security-Policy", "content": policy})
    SubElement(head, "meta", {"name": "viewport", "content": "width=device-width"})
    SubElement(head, "link", {"rel": "icon", "href": "data:,"})  # or a browser asks for one
    SubElement(head, "title").text = title
    SubElement(head, "style").text = style


def _section(body: Element, title: str, quiet: str = "") -> Element:
    SubElement(body, "h2").text = title
    if quiet:
        SubElement(body, "p", {"class": "quiet"}).text = quiet
    return body


def _runs(body: Element, records: Sequence[RunRecord], labels: Sequence[str]) -> None:
    headers = ["run", "experiment", "directory", "state", "seed", "updates", "training", "began"]
    rows = [
        [
            label,
            record.experiment,
            record.name,
            record.state,
            record.values.get("seed"),
            record.updates,
            duration(record.training_hours),
            record.values.get("started"),
        ]
        for record, label in zip(records, labels, strict=True)
    ]
    table = _table(body, headers, rows)
    for index, row in enumerate(table.findall("tbody/tr")):
        cell = row[0]
        key = Element("span", {"class": "key"})
        key.set("style", f"background: {COLOURS[index % len(COLOURS)]}")
        key.tail, cell.text = cell.text, None
        cell.insert(0, key)


def _metrics(body: Element, records: Sequence[RunRecord], labels: Sequence[str]) -> None:
    keys = list(dict.fromkeys(key for record in records for key in record.metrics))
    if keys:
        _table(body, ["metric", *labels], [[k, *(r.metrics.get(k) for r in records)] for k in keys])
    else:
        SubElement(body, "p").text = "No run has final metrics."


def _differences(body: Element, records: Sequence[RunRecord], labels: Sequence[str]) -> None:
    changed = differences(records)
    if changed:
        rows = [
            [key, *(v if v is ABSENT else str(v) for v in values)]
            for key, values in changed.items()
        ]
        _table(body, ["key", *labels], rows)
    else:
        SubElement(body, "p").text = "Nothing."


def _environment(body: Element, records: Sequence[RunRecord], labels: Sequence[str]) -> None:
    facts = [_made_by(record) for record in records]
    rows = [[name, *(fact[name] for fact in facts)] for name in facts[0]]
    _table(body, ["", *labels], rows)


def _made_by(record: RunRecord) -> dict[str, Any]:
    code = record.values.get("code", {})
    machine = record.values.get("hardware", {})
    versions = record.values.get("versions", {})
    return {
        "command": shlex.join(map(str, record.values.get("command", []))),
        "commit": code.get("commit"),
        "uncommitted changes": {True: "yes", False: "no"}.get(code.get("dirty"), "unknown"),
        "resumed": f"{len(record.parts) - 1} times",
        "processor": machine.get("processor"),
        "accelerators": ", ".join(machine.get("accelerators", [])) or "none",
        "versions": ", ".join(f"{name} {version}" for name, version in versions.items()),
    }


def _files(body: Element, record: RunRecord, label: str) -> None:
    """The pictures and texts of a run's ``plots/``, inside the page."""
    paths = sorted(path for path in record.directory.glob("plots/*") if path.is_file())
    kinds = (*_PICTURES, *_TEXTS)
    shown = [path for path in paths if path.suffix in kinds and path.name != "curves.png"]
    if not shown:
        return
    _section(body, f"Pictures and samples of {label}")
    for path in shown:
        figure = SubElement(body, "figure")
        size = path.stat().st_size
        if size > _LARGEST:
            SubElement(figure, "p").text = f"left out: {size:,} bytes"
        elif path.suffix in _PICTURES:
            content = base64.b64encode(path.read_bytes()).decode()
            source = f"data:{_PICTURES[path.suffix]};base64,{content}"
            SubElement(figure, "img", {"src": source, "alt": path.stem})
        else:
            SubElement(figure, "pre").text = path.read_text(encoding="utf-8", errors="replace")
        SubElement(figure, "figcaption", {"class": "quiet"}).text = path.name


def _table(body: Element, headers: Sequence[str], rows: Sequence[Sequence[Any]]) -> Element:
    table = SubElement(SubElement(body, "div", {"class": "scroll"}), "table")
    numbers = [
        bool(rows) and all(row[i] is None or type(row[i]) in (int, float) for row in rows)
        for i in range(len(headers))
    ]
    head = SubElement(SubElement(table, "thead"), "tr")
    for header, is_number in zip(headers, numbers, strict=True):
        SubElement(head, "th", {"class": "number"} if is_number else {}).text = header
    inner = SubElement(table, "tbody")
    for row in rows:
        line = SubElement(inner, "tr")
        for value, is_number in zip(row, numbers, strict=True):
            cell = SubElement(line, "td", {"class": "number"} if is_number else {})
            cell.text = _cell(value)
    return table


def _cell(value: Any) -> str:
    if value is None or value is ABSENT:
        return "–"
    return f"{value:.5g}" if isinstance(value, float) else str(value)
