"""The manifest of a vector index: the one file that says what belongs to it.

    index/manifest.json   this file, replaced as a whole, last
    index/vectors-0.f32   (N, D) float32, appended to; likewise names-0.utf8, ends-0.i64 (where each
                          name ends) and removed-0.i64 (rows that no longer count)
    index/keys-3.u64      hashes of names, sorted, and their rows: see ``names``
    index/segment-5.ivf   what finds neighbours without a look at all rows: see ``approximate``

Bytes beyond the sizes it names, and files that it does not name, are what a killed process left.
File names are made of its numbers, never read from it.
"""

import hashlib
import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from common.metrics.neighbors import METRICS
from common.utils.errors import DataError, FaultError
from common.utils.files import atomic_write_text
from common.utils.text import printable

MANIFEST = "manifest.json"
KINDS = ("auto", "flat", "ivf", "hnsw")
SUFFIXES = {"vectors": "f32", "names": "utf8", "ends": "i64", "removed": "i64"}
_FORMAT = 1
_WEIGHTS_DIGITS = 64


@dataclass(frozen=True)
class ModelMark:
    """Which model embedded the vectors; those of two models cannot be compared.

    Attributes:
        run: The run that trained it.
        weights_sha256: Of its weights, 64 hex digits.

    Raises:
        DataError: if one of them is not that.
    """

    run: str
    weights_sha256: str

    def __post_init__(self) -> None:
        if not self.run or not self.run.isprintable():
            raise DataError(f"the run of a model is {self.run!a}; expected a plain name")
        digits = set(self.weights_sha256)
        if len(self.weights_sha256) != _WEIGHTS_DIGITS or not digits <= set("0123456789abcdef"):
            raise DataError(
                f"weights_sha256 is '{printable(self.weights_sha256)}'; expected the "
                f"{_WEIGHTS_DIGITS} lower-case hex digits of a SHA-256"
            )

    def __str__(self) -> str:
        return f"run '{self.run}' (weights {self.weights_sha256[:12]})"


@dataclass(frozen=True)
class Column:
    """A file that is only appended to: its committed bytes, and their CRC-32."""

    size: int = 0
    crc: int = 0


@dataclass(frozen=True)
class KeyRun:
    """A sorted file of name hashes: its number, rows and CRC-32."""

    number: int
    rows: int
    crc: int


@dataclass(frozen=True)
class Segment:
    """An approximate structure over the rows ``start`` to ``stop``.

    Attributes:
        number: Of its file.
        kind: ``ivf`` or ``hnsw``.
        start: First row.
        stop: Row after the last.
        lists: Inverted lists (IVF), else 0.
        effort: Lists that are looked into (IVF), or the queue's length ``efSearch`` (HNSW).
        recall: Of the ten nearest that lie in it, for some rows of the index, as it was built.
        size: Of the file, in bytes.
        crc: CRC-32 of the file.
    """

    number: int
    kind: str
    start: int
    stop: int
    lists: int
    effort: int
    recall: float
    size: int
    crc: int


@dataclass(frozen=True)
class Manifest:
    """What an index is made of.

    Attributes:
        dimension: D.
        metric: ``cosine`` (vectors are kept with length 1) or ``euclidean``.
        kind: One of ``KINDS``.
        model: Whose vectors they are.
        generation: The number of the four columns' files.
        next_number: For the next new file.
        rows: N, those included that no longer count.
        longest: The largest squared length of a vector.
        columns: By name, see ``SUFFIXES``.
        runs: Files of name hashes, old to new.
        segments: One after the other from row 0; rows behind the last are searched exactly.
    """

    dimension: int
    metric: str
    kind: str
    model: ModelMark
    generation: int = 0
    next_number: int = 1
    rows: int = 0
    longest: float = 0.0
    columns: dict[str, Column] = field(default_factory=lambda: dict.fromkeys(SUFFIXES, Column()))
    runs: tuple[KeyRun, ...] = ()
    segments: tuple[Segment, ...] = ()

    @property
    def removed(self) -> int:
        """Rows that no longer count."""
        return self.columns["removed"].size // 8

    @property
    def covered(self) -> int:
        """Rows that segments hold."""
        return self.segments[-1].stop if self.segments else 0

    def column_name(self, column: str) -> str:
        """The file of a column."""
        return f"{column}-{self.generation}.{SUFFIXES[column]}"

    def files(self) -> dict[str, int]:
        """The committed size of every file, by name; a column that holds nothing has none."""
        sizes = {
            self.column_name(name): column.size
            for name, column in self.columns.items()
            if column.size
        }
        sizes |= {run_name(run.number): 16 * run.rows for run in self.runs}
        return sizes | {segment_name(part.number, part.kind): part.size for part in self.segments}

    def write(self, directory: Path) -> None:
        """Replace the manifest of ``directory``; only now is what it names part of the index.

        Raises:
            FaultError: if it cannot be written.
        """
        body = _canonical({"format": _FORMAT, **asdict(self)})
        seal = hashlib.sha256(body.encode()).hexdigest()
        atomic_write_text(directory / MANIFEST, f'{{"index": {body},\n "sha256": "{seal}"}}\n')


def read_manifest(directory: Path) -> Manifest:
    """Read and check the manifest of an index.

    Raises:
        DataError: if there is no index in ``directory``, or one of a newer format.
        FaultError: if the manifest cannot be read or is damaged.
    """
    path = directory / MANIFEST
    try:
        text = path.read_text(encoding="utf-8")
    except (FileNotFoundError, NotADirectoryError):
        raise DataError(
            f"{directory} holds no index ({MANIFEST} is missing); make one first"
        ) from None
    except OSError as error:
        raise FaultError(f"cannot read {path}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise _damaged(path, "it is no UTF-8") from None
    try:
        outer = json.loads(text)
        values, seal = outer["index"], outer["sha256"]
        version = values.pop("format")
    except (ValueError, KeyError, TypeError, AttributeError):
        raise _damaged(path, "it is not the JSON that was written") from None
    if version != _FORMAT:
        raise DataError(
            f"{path} has format {version!r}; this version reads {_FORMAT}; build it anew"
        )
    body = _canonical({"format": version, **values})
    if hashlib.sha256(body.encode()).hexdigest() != seal:
        raise _damaged(path, "its checksum does not fit")
    try:
        manifest = _parsed(values)
    except (TypeError, KeyError, ValueError, AttributeError, DataError) as error:
        raise _damaged(path, str(error)) from None
    return manifest


def run_name(number: int) -> str:
    """The file of a key run."""
    return f"keys-{number}.u64"


def segment_name(number: int, kind: str) -> str:
    """The file of a segment."""
    return f"segment-{number}.{kind}"


def _canonical(values: dict[str, Any]) -> str:
    return json.dumps(values, sort_keys=True)


def _parsed(values: dict[str, Any]) -> Manifest:
    read = dict(values)
    read["model"] = ModelMark(**values["model"])
    read["columns"] = {name: Column(**column) for name, column in values["columns"].items()}
    read["runs"] = tuple(KeyRun(**run) for run in values["runs"])
    read["segments"] = tuple(Segment(**segment) for segment in values["segments"])
    manifest = Manifest(**read)
    numbers = [
        *(manifest.dimension - 1, manifest.generation, manifest.next_number, manifest.rows),
        *(n for c in manifest.columns.values() for n in (c.size, c.crc)),
        *(n for r in manifest.runs for n in (r.number, r.rows, r.crc)),
        *(n for s in manifest.segments for n in (s.number, s.lists, s.effort, s.size, s.crc)),
    ]
    if any(type(number) is not int or number < 0 for number in numbers):
        raise ValueError("a number in it is no count")
    if manifest.metric not in METRICS or manifest.kind not in KINDS:
        raise ValueError("its metric or kind is unknown")
    if any(segment.kind not in KINDS[2:] for segment in manifest.segments):
        raise ValueError("the kind of a segment is unknown")
    edges = [0, *(segment.stop for segment in manifest.segments)]
    if [segment.start for segment in manifest.segments] != edges[:-1] or edges != sorted(edges):
        raise ValueError("its segments do not follow one another")
    rows, columns = manifest.rows, manifest.columns
    if set(columns) != set(SUFFIXES) or edges[-1] > rows or columns["removed"].size > 8 * rows:
        raise ValueError("its parts do not fit its rows")
    if (columns["vectors"].size, columns["ends"].size) != (4 * rows * manifest.dimension, 8 * rows):
        raise ValueError("its columns do not fit its rows")
    return manifest


def _damaged(path: Path, why: str) -> FaultError:
    return FaultError(f"{path} is damaged: {why}; restore the folder from a copy, or build it anew")
