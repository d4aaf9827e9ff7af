"""Names of classes and files as text in a picture: every letter drawn, nothing taken for a formula.

Letters that matplotlib's own font lacks (Chinese, Arabic, emoji ...) are taken from a font of the
machine that has them; without one they are written as escapes rather than as boxes.
"""

import textwrap
from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING

from common.utils.text import printable

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from matplotlib.text import Text

BASE_FONT = "DejaVu Sans"
_TITLE_LINES = 3
_LINE_INCHES = 0.2


def font_families(texts: Iterable[str]) -> list[str]:
    """The base font, and fonts of this machine for the letters it lacks.

    Args:
        texts: What is going to be drawn.
    """
    missing = {ord(c) for text in texts for c in printable(text)} - _letters_of_base()
    families = [BASE_FONT]
    for family, path in _other_fonts() if missing else ():
        found = missing & _letters(path)
        if found:
            families.append(family)
            missing -= found
        if not missing:
            break
    return families


def drawable(texts: Sequence[str], limit: int | None = None) -> list[str]:
    """Texts as matplotlib can draw them with ``font_families(texts)``.

    Args:
        texts: Names from people or files.
        limit: Longer ones lose their middle.
    """
    known = _letters_of_base()
    for family in font_families(texts)[1:]:
        known = known | _letters(dict(_other_fonts())[family])
    return [_escaped(_shortened(_with_letters(printable(text), known), limit)) for text in texts]


def drawable_classes(names: Sequence[str], limit: int = 32) -> list[str]:
    """Class names for axes and legends; one that letters or length hide begins with its index.

    Args:
        names: In the order of the logits.
        limit: Longer ones lose their middle.
    """
    shown = drawable(names, limit)
    whole = [_escaped(name) for name in names]
    return [
        text if text == full and shown.count(text) == 1 else f"{index}: {text}"
        for index, (text, full) in enumerate(zip(shown, whole, strict=True))
    ]


def add_title(figure: "Figure", title: str) -> "Text":
    """Write a title in as many lines as the figure's width needs, and make room for them."""
    plain = drawable([" ".join(title.split())])[0]
    text = figure.suptitle(plain, fontfamily=font_families([title]))
    columns = len(plain)
    while columns > 1 and text.get_window_extent().width > figure.bbox.width:
        columns = columns * 9 // 10
        lines = textwrap.wrap(plain, columns, max_lines=_TITLE_LINES, placeholder="…")
        text.set_text("\n".join(lines))
    more_lines = text.get_text().count("\n")
    figure.set_figheight(figure.get_figheight() + _LINE_INCHES * more_lines)
    return text


def fitted(text: str, inches: float, size: float, weight: str = "normal") -> str:
    """A text as matplotlib can draw it, without as much of its middle as it takes to be so narrow.

    Its width is that of its outlines: measured in pixels it would be another for every resolution.

    Args:
        text: From people or files.
        inches: How wide it may be.
        size: Of the font, in points.
        weight: Of the font.
    """
    from matplotlib.font_manager import FontProperties
    from matplotlib.textpath import text_to_path

    font = FontProperties(family=font_families([text]), size=size, weight=weight)

    def shortened(limit: int | None) -> tuple[str, bool]:
        shown = drawable([text], limit)[0]
        plain = shown.replace(r"\$", "$")
        points, _, _ = text_to_path.get_text_width_height_descent(plain, font, False)
        return shown, points <= 72.0 * inches

    whole, fits = shortened(None)
    if fits:
        return whole
    low, high = 1, len(whole)  # the longest that fits is at least low and below high
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if shortened(middle)[1] else (low, middle)
    return shortened(low)[0]


def _with_letters(text: str, known: frozenset[int]) -> str:
    return "".join(
        c if ord(c) in known else c.encode("unicode_escape").decode("ascii") for c in text
    )


def _shortened(text: str, limit: int | None) -> str:
    if limit is None or len(text) <= limit:
        return text
    head = limit // 2
    return f"{text[:head]}…{text[len(text) - (limit - 1 - head) :]}"


def _escaped(text: str) -> str:
    """A dollar sign that starts no formula."""
    return text.replace("$", r"\$")


@lru_cache(maxsize=1)
def _letters_of_base() -> frozenset[int]:
    from matplotlib import font_manager

    return _letters(font_manager.findfont(BASE_FONT))


@lru_cache(maxsize=1)
def _other_fonts() -> tuple[tuple[str, str], ...]:
    """Regular fonts by family; those that stand in for all letters, or are bitmaps, are left out."""
    from matplotlib import font_manager

    found: dict[str, str] = {}
    for entry in font_manager.fontManager.ttflist:
        stands_in = any(word in entry.name for word in ("Last Resort", "LastResort", "Emoji"))
        if entry.style == "normal" and entry.weight in (400, "normal") and not stands_in:
            found.setdefault(entry.name, entry.fname)
    found.pop(BASE_FONT, None)
    # The same choice on every run; fonts for mathematics only when nothing else has the letter.
    return tuple(sorted(found.items(), key=lambda item: ("STIX" in item[0], item[0])))


@lru_cache(maxsize=512)
def _letters(path: str) -> frozenset[int]:
    from matplotlib.ft2font import FT2Font

    try:
        return frozenset(FT2Font(path).get_charmap())
    except (OSError, RuntimeError):
        return frozenset()  # a font file that is damaged or gone
