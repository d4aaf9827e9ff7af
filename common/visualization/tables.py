"""Tables of text for terminals, logs and Markdown."""

import io
from collections.abc import Sequence
from typing import Any


def text_table(rows: Sequence[Sequence[Any]], headers: Sequence[str], title: str = "") -> str:
    """A framed table; numbers are aligned to the right, nothing is cut off.

    Args:
        rows: Cells; floats are shown with four significant digits.
        headers: One per column.
        title: Above the table.
    """
    from rich import box
    from rich.console import Console
    from rich.table import Table

    table = Table(title=title or None, box=box.SIMPLE_HEAD, title_justify="left")
    for index, header in enumerate(headers):
        is_number = bool(rows) and all(isinstance(row[index], int | float) for row in rows)
        table.add_column(header, justify="right" if is_number else "left", overflow="fold")
    for row in rows:
        table.add_row(*(f"{c:.4g}" if isinstance(c, float) else str(c) for c in row))
    stream = io.StringIO()
    Console(file=stream, width=110, color_system=None, highlight=False, markup=False).print(table)
    return "\n".join(line.rstrip() for line in stream.getvalue().strip("\n").splitlines())
