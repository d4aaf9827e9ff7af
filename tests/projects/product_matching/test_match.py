"""``match.py``: folders matched as brute force has it, neighbours shown, mistakes in one line."""

import csv
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from PIL import Image

from common.utils.paths import get_project_root
from projects.product_matching.cli.match import main
from projects.product_matching.core.config import TextConfig
from projects.product_matching.core.matching.match_rules import MatchRule, TextRule
from projects.product_matching.core.matching.matcher import Matcher
from projects.product_matching.core.matching.matcher_files import matcher_path
from projects.product_matching.core.matching.query_results import QueryResult, draw_results
from projects.product_matching.core.text.encoders import build_text_encoder
from tests.projects.product_matching.matchers import small_matcher, title_of, write_products

COUNT = 40
Run = Callable[..., tuple[int, str, str]]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """``photos/``, ``others/``, ``titles.csv`` and ``run/`` with two folds, the second better."""
    root = tmp_path_factory.mktemp("place")
    photos = write_products(root / "photos", COUNT)
    others = write_products(root / "others", 2, start=COUNT)
    lines = [f"{f.relative_to(root).as_posix()},{title_of(f)}" for f in (*photos, *others)]
    (root / "titles.csv").write_text("\n".join(["image,title", *lines]) + "\n")
    encoder = build_text_encoder(TextConfig(mode="union"), [title_of(file) for file in photos])
    rule = MatchRule(0.9995, text=TextRule("union", 0.9, image_threshold=0.9997))
    options = {"rule": rule, "text": encoder.state()}
    small_matcher(seed=0, fold=0, score=0.4, **options).save(matcher_path(root / "run", 0))
    small_matcher(seed=1, fold=1, score=0.6, **options).save(matcher_path(root / "run", 1))
    return root


@pytest.fixture
def run(place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """``match.py`` in the place: exit code, standard output and standard error."""
    monkeypatch.chdir(place)

    def call(*words: str) -> tuple[int, str, str]:
        code = 0
        try:
            main(list(words))
        except SystemExit as stopped:
            code = int(stopped.code or 0)
        return code, *capsys.readouterr()

    return call


def _cosines(place: Path, fold: int = 1) -> tuple[list[str], torch.Tensor]:
    files = sorted((place / "photos").rglob("*.png"))
    rows = Matcher.load(place / "run", fold).embed(files)
    return [str(file.relative_to(place)) for file in files], (rows @ rows.T).fill_diagonal_(-2.0)


def _written(folder: Path) -> set[tuple[str, str]]:
    with open(folder / "matches.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert len({(row["image"], row["match"]) for row in rows}) == len(rows)
    return {(row["image"], row["match"]) for row in rows}


def _passing(names: list[str], cosines: torch.Tensor, threshold: float) -> set[tuple[str, str]]:
    return {(names[q], names[i]) for q, i in (cosines.double() >= threshold).nonzero().tolist()}


@pytest.mark.parametrize("words", [[], ["--threshold", "0.999"], ["--fold", "0"]])
def test_every_image_is_written_with_all_that_passes(
    run: Run, place: Path, tmp_path: Path, words: list[str]
) -> None:
    code, told, _ = run("--run", "run", "--images", "photos", "--out", str(tmp_path), *words)
    fold = 0 if "--fold" in words else 1
    names, cosines = _cosines(place, fold)
    threshold = 0.999 if "--threshold" in words else 0.9995
    expected = _passing(names, cosines, threshold)
    assert code == 0
    assert expected
    assert _written(tmp_path) == expected
    assert f"matcher: run first, fold {fold} held out" in told
    assert (
        f"{COUNT} images, 0 unreadable; {len(expected)} matches (cosine >= {threshold:g})" in told
    )


def test_scores_are_written_best_first(run: Run, place: Path, tmp_path: Path) -> None:
    run("--run", "run", "--images", "photos", "--out", str(tmp_path), "--threshold=-1")
    names, cosines = _cosines(place)
    with open(tmp_path / "matches.csv", newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["image"] == names[3]]
    assert len(rows) == COUNT - 1
    best = cosines[3].topk(COUNT - 1).values.tolist()
    assert [float(row["score"]) for row in rows] == pytest.approx(best, abs=1e-5)


def test_neighbours_of_queries_are_told_and_drawn_wherever_they_lie(
    run: Run, place: Path, tmp_path: Path
) -> None:
    names, cosines = _cosines(place)
    outside = sorted((place / "others").rglob("*.png"))
    words = ["--query", names[5], *map(str, outside), "--k", "4", "--out", str(tmp_path)]
    code, told, _ = run("--run", "run", "--images", "photos", *words)
    assert code == 0
    matcher = Matcher.load(place / "run")
    gallery = matcher.embed([place / name for name in names])
    rows = [cosines[5], *(matcher.embed(outside) @ gallery.T)]
    blocks = re.split(r"^\S.*: \d+ match.*\n", told, flags=re.MULTILINE)[1:]
    for row, block in zip(rows, blocks, strict=True):
        lines = [line.split() for line in block.splitlines() if line.startswith(" ")]
        assert [line[-1] for line in lines] == [names[i] for i in row.topk(4).indices.tolist()]
        assert [line[2] == "match" for line in lines] == (row.topk(4).values >= 0.9995).tolist()
        assert [float(line[1]) for line in lines] == pytest.approx(
            row.topk(4).values.tolist(), abs=1e-4
        )
    picture = Image.open(tmp_path / "neighbors.png")
    assert picture.width > picture.height > 300


def test_many_neighbours_of_many_queries_go_on_several_sheets(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a sheet can hold is the picture's own limit; here it is counted, not drawn."""
    drawn = []
    monkeypatch.setattr("common.visualization.plot_neighbors", lambda rows, *_: drawn.append(rows))
    file = write_products(tmp_path, 1)[0]
    for count, sheets in ((7, [20, 5]), (35, [5] * 5), (130, [2] * 12 + [1])):
        result = QueryResult(file, [file] * count, [1.0] * count, [True] * count)
        names = [path.name for path in draw_results([result] * 25, tmp_path, "cosine >= 0.5")]
        assert [len(rows) for rows in drawn] == sheets
        assert len(drawn[0][0].neighbors) == len(drawn[0][0].names) == min(count, 100)
        assert names[:2] == ["neighbors.png", "neighbors_2.png"]
        drawn.clear()


def test_titles_are_united_with_images(run: Run, place: Path, tmp_path: Path) -> None:
    words = ["--titles", "titles.csv", "--out", str(tmp_path), "--query", "others"]
    code, told, _ = run("--run", "run", "--images", "photos", *words)
    names, cosines = _cosines(place)
    encoder = Matcher.load(place / "run").text_encoder
    titles = encoder.encode([title_of(Path(name)) for name in names])
    by_title = _passing(names, (titles @ titles.T).fill_diagonal_(-2.0), 0.9)
    by_image = _passing(names, cosines, 0.9997)
    assert code == 0
    assert _written(tmp_path) == by_title | by_image
    assert by_title - by_image
    assert "of images >= 0.9997 or of titles >= 0.9" in told


def test_what_cannot_be_read_is_listed_or_stops(run: Run, place: Path, tmp_path: Path) -> None:
    folder = tmp_path / "mixed"
    write_products(folder, 5)
    (folder / "cut.jpg").write_bytes(b"\xff\xd8\xff")
    (folder / "notes.txt").write_text("no image")
    out = tmp_path / "out"
    code, told, said = run("--run", "run", "--images", str(folder), "--out", str(out))
    assert code == 0
    assert "5 images, 1 unreadable" in told
    assert "cut.jpg" in said
    assert "cut.jpg" in (out / "matches.unreadable.csv").read_text()
    words = ["--out", str(tmp_path / "none"), "--on-bad", "fail"]
    code, told, said = run("--run", "run", "--images", str(folder), *words)
    assert (code, told) == (2, "")
    assert "error: 1 of 6 images cannot be read; nothing was written" in said
    assert not (tmp_path / "none").exists()
    code, _, said = run("--run", "run", "--images", str(folder), "--query", str(folder / "cut.jpg"))
    assert code == 2
    assert re.search(r"error: --query: .*cut.jpg", said)


def test_a_query_elsewhere_that_cannot_be_read_is_refused_before_the_images(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cut, embedded = tmp_path / "cut.jpg", list[int]()
    cut.write_bytes(b"\xff\xd8\xff")
    before = Matcher.embed_pixels
    monkeypatch.setattr(
        Matcher, "embed_pixels", lambda m, images: embedded.append(1) or before(m, images)
    )
    code, told, said = run("--run", "run", "--images", "photos", "--query", str(cut))
    assert (code, told, embedded) == (2, "", [])
    assert re.fullmatch(r"error: --query: .*cut\.jpg.*\n", said)


def test_a_used_folder_holds_what_the_last_call_wrote(run: Run, tmp_path: Path) -> None:
    folder, out = tmp_path / "few", tmp_path / "out"
    files = write_products(folder, 5)
    cut = folder / "cut.jpg"
    cut.write_bytes(b"\xff\xd8\xff")
    words = ["--run", "run", "--images", str(folder), "--out", str(out)]
    assert run(*words, "--query", str(files[0]))[0] == 0
    assert {file.name for file in out.iterdir()} == {
        "matches.csv",
        "matches.unreadable.csv",
        "neighbors.png",
    }
    others = {"neighbors_mine.png", "notes.txt"}
    for name in (*others, "neighbors_2.png"):
        (out / name).write_bytes(b"")
    cut.unlink()
    assert run(*words)[0] == 0
    assert {file.name for file in out.iterdir()} == {"matches.csv", *others}


@pytest.mark.parametrize(
    ("words", "code", "expected"),
    [
        (["--images", "photos"], 2, "--run is missing"),
        (["--run", "run"], 2, "--images is missing"),
        (["--run", "run", "--images", "nothing"], 2, "--images: there is nothing at 'nothing'"),
        (["--run", "run", "--images", "empty"], 2, "--images: no image in empty"),
        (
            ["--run", "run", "--images", "photos", "--query", "no.png"],
            2,
            "--query: there is nothing",
        ),
        (["--run", "nothing", "--images", "photos"], 2, "no run directory 'nothing'"),
        (["--run", "empty", "--images", "photos"], 1, "empty holds no matcher"),
        (["--run", "run", "--images", "photos", "--fold", "7"], 2, "has finished the folds 0, 1"),
        (["--run", "run", "--images", "photos", "--k", "0"], 2, "--k is 0, expected 1 or more"),
        (["--run", "run", "--images", "photos", "--threshold", "nan"], 2, "--threshold is nan"),
        (["--run", "run", "--images", "photos", "--device", "tpu9"], 2, "--device is 'tpu9'"),
        (["--run", "run", "--images", "photos", "--threshold", "5"], 2, "a cosine, from -1 to 1"),
        (["--run", "run", "--images", "photos", "--threshold", "-1.01"], 2, "from -1 to 1"),
        (
            ["--run", "run", "--images", "photos", "--out", "titles.csv"],
            2,
            "is a file; name a folder",
        ),
        (["data.k=1", "--run", "run", "--images", "photos"], 2, "takes no key=value words"),
        (["--run", "run", "--images", "photos", "--qery", "x"], 2, "did you mean --query?"),
        (
            ["--run", "run", "--images", "photos", "--titles", "short.csv"],
            2,
            "no line for 39 of 40",
        ),
        (["--run", "run", "--images", "photos", "--titles", "wrong.csv"], 2, "no column 'title'"),
        (
            ["--run", "run", "--images", "photos", "--titles", "titles.csv", "--threshold", "0.5"],
            2,
            "which have a threshold each",
        ),
    ],
)
def test_a_mistake_is_one_line(
    run: Run, place: Path, words: list[str], code: int, expected: str
) -> None:
    (place / "empty").mkdir(exist_ok=True)
    first = next((place / "photos").rglob("*.png")).relative_to(place)
    (place / "short.csv").write_text(f"image,title\n{first},item\n")
    (place / "wrong.csv").write_text(f"image,name\n{first},item\n")
    found, told, said = run(*words)
    assert (found, told) == (code, "")
    assert said.startswith("error: ")
    assert said.count("\n") == 1
    assert expected in said


def test_a_network_that_has_diverged_writes_nothing(run: Run, tmp_path: Path) -> None:
    matcher = small_matcher()
    matcher.network.neck.bias.fill_(torch.nan)
    matcher.save(tmp_path / "matcher.pt")
    out = tmp_path / "out"
    code, _, said = run(
        "--run", str(tmp_path / "matcher.pt"), "--images", "photos", "--out", str(out)
    )
    assert code == 2
    assert re.fullmatch(r"error: 40 of 40 embeddings are not finite, or zero .*\n", said)
    assert not out.exists()


def test_help_is_told_without_pytorch_from_the_folder_of_the_project() -> None:
    code = (
        "import runpy, sys\nsys.argv = ['match.py', *sys.argv[1:]]\n"
        "try: runpy.run_path('match.py', run_name='__main__')\n"
        "except SystemExit as stopped: assert not stopped.code\n"
        "assert 'torch' not in sys.modules"
    )
    folder = get_project_root() / "projects" / "product_matching"
    for words, expected in ((["--help"], "--threshold"), (["index", "add", "--help"], "--index")):
        done = subprocess.run(
            [sys.executable, "-c", code, *words],
            cwd=folder,
            capture_output=True,
            text=True,
            check=True,
        )
        assert expected in done.stdout
