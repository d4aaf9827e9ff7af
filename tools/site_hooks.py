"""What the documentation site says of the moment it is built: how stale each result is.

``mkdocs.yml`` names this file; the answer changes with every commit, so no checked-in page has it.
"""

from typing import Any

from common.records.staleness import staleness_of_all


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Add to the list of papers how far the code has moved since each row was recorded."""
    if page.file.src_uri != "papers.md":
        return markdown
    lines = [
        f"- `{paper.module}`, {found.row.name}: {found}" for paper, found in staleness_of_all()
    ]
    return f"{markdown}\n## Is it still true?\n\n" + ("\n".join(lines) or "No rows yet.") + "\n"
