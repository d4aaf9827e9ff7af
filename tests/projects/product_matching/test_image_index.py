"""``match.py index``: what is added is found, what is unchanged passed over; a kill loses nothing."""

import os
import re
import shutil
import signal
import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from common.testing.trials import TrialServer
from projects.product_matching.cli.match import main
from projects.product_matching.core.index import image_index
from projects.product_matching.core.index.file_states import STATES
from projects.product_matching.core.index.image_index import ImageIndex, image_name
from projects.product_matching.core.matching.match_rules import MatchRule
from projects.product_matching.core.matching.matcher import Matcher
from projects.product_matching.core.matching.matcher_files import MATCHER
from tests.projects.product_matching.matchers import small_matcher, write_products

PROGRAMS = "tests.projects.product_matching.match_programs"
Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """``match.py index`` in a folder with ``photos/``, ``run.pt``, and parts of eight images."""
    write_products(tmp_path / "photos", 20)
    small_matcher(rule=MatchRule(0.999, min_matches=2)).save(tmp_path / "run.pt")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(image_index, "_PART", 8)

    def call(*words: str) -> tuple[int, str, str]:
        code = 0
        try:
            main(["index", *words])
        except SystemExit as stopped:
            code = int(stopped.code or 0)
        return code, *capsys.readouterr()

    return call


def _built(run: Run) -> None:
    code, told, _ = run("build", "--run", "run.pt", "--images", "photos", "--index", "shop")
    assert code == 0
    assert "20 added, 0 replaced, 0 unchanged, 0 unreadable; 20 images in shop" in told


def _neighbours(told: str) -> list[tuple[str, float, bool]]:
    lines = [line.split() for line in told.splitlines() if re.match(r" +\d+  ", line)]
    return [(line[-1], float(line[1]), line[2] == "match") for line in lines]


def test_the_nearest_images_of_an_index_are_those_of_brute_force(run: Run, tmp_path: Path) -> None:
    _built(run)
    files = [image_name(path) for path in sorted((tmp_path / "photos").rglob("*.png"))]
    other = write_products(tmp_path / "others", 1, start=50)[0]
    matcher = Matcher.load("run.pt")
    gallery = matcher.embed(files)
    words = ["--query", files[7], str(other), "--k", "5", "--out", "found"]
    code, told, _ = run("query", "--index", "shop", *words)
    found = _neighbours(told)
    assert code == 0
    inside = (gallery[7] @ gallery.T).index_fill(0, torch.tensor(7), -2.0)
    for row, block in ((inside, found[:5]), ((matcher.embed([other]) @ gallery.T)[0], found[5:])):
        best = row.topk(5)
        assert [name for name, *_ in block] == [files[i] for i in best.indices.tolist()]
        assert [score for _, score, _ in block] == pytest.approx(best.values.tolist(), abs=1e-4)
        passes = [v >= 0.999 or rank == 0 for rank, v in enumerate(best.values.tolist())]
        assert [match for *_, match in block] == passes
    assert (tmp_path / "found" / "neighbors.png").stat().st_size > 10_000


def test_only_what_is_new_or_changed_is_embedded(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _built(run)
    files = sorted((tmp_path / "photos").rglob("*.png"))
    shutil.copyfile(files[0], files[3])
    os.utime(files[3], ns=(1, 1))
    write_products(tmp_path / "photos", 2, start=30)
    seen = []
    whole = Matcher.embed_pixels

    def counted(self: Matcher, images: torch.Tensor) -> torch.Tensor:
        seen.append(len(images))
        return whole(self, images)

    monkeypatch.setattr(Matcher, "embed_pixels", counted)
    told = run("add", "--index", "shop", "--images", "photos")[1]
    assert "2 added, 1 replaced, 19 unchanged, 0 unreadable; 22 images in shop" in told
    assert sum(seen) == 3
    index = ImageIndex.open(Path("shop"))
    found = index.vectors.search(index.matcher.embed([files[0]]), 2)[0]
    assert set(found.ids) == {image_name(files[0]), image_name(files[3])}
    assert found.scores.tolist() == pytest.approx([1.0, 1.0])
    (tmp_path / "shop" / STATES).unlink()
    told = run("add", "--index", "shop", "--images", "photos")[1]
    assert "0 added, 22 replaced, 0 unchanged" in told, "without the cache all are embedded again"


def test_images_are_removed_by_place_or_when_their_files_are_gone(run: Run, tmp_path: Path) -> None:
    _built(run)
    files = sorted((tmp_path / "photos").rglob("*.png"))
    folder = files[4].parent
    below = len([file for file in files if file.parent == folder])
    shutil.rmtree(folder)
    told = run("remove", "--index", "shop", "--images", f"photos/{folder.name}")[1]
    assert told == f"removed {below} images; {20 - below} are left\n"
    files[0].unlink()
    left = 19 - below
    assert run("remove", "--index", "shop", "--gone")[1] == f"removed 1 images; {left} are left\n"
    assert run("remove", "--index", "shop", "--gone")[1] == f"removed 0 images; {left} are left\n"
    code, _, said = run("remove", "--index", "shop", "--images", "photo")
    assert code == 2
    assert "nothing of 'photo' is in shop" in said
    told = run("info", "--index", "shop")[1]
    assert re.search(rf"images +{left}\n", told)
    assert re.search(r"model +run 'first, fold 0' \(weights [0-9a-f]{12}\)", told)


def test_what_cannot_be_added_is_listed_or_stops_behind_what_was(run: Run, tmp_path: Path) -> None:
    (tmp_path / "photos" / "aaa.png").write_bytes(b"no image")
    (tmp_path / "photos" / "a\nb.png").write_bytes(
        (next((tmp_path / "photos").glob("*/*"))).read_bytes()
    )
    code, told, said = run("build", "--run", "run.pt", "--images", "photos", "--index", "shop")
    assert code == 0
    assert "20 added, 0 replaced, 0 unchanged, 2 unreadable" in told
    assert "aaa.png is no" in said
    assert "an id is one line of plain text: rename the file" in said
    words = ["--run", "run.pt", "--images", "photos", "--index", "other", "--on-bad", "fail"]
    code, _, said = run("build", *words)
    assert code == 2
    assert said.count("\n") == 1
    (tmp_path / "photos" / "a\nb.png").unlink()
    (tmp_path / "photos" / "zz").mkdir()
    (tmp_path / "photos" / "aaa.png").rename(tmp_path / "photos" / "zz" / "zzz.png")
    code, _, said = run("build", *words)
    assert code == 2
    assert re.fullmatch(r"error: .*zzz.png is no .*\n", said)
    assert len(ImageIndex.open(Path("other")).vectors) == 16, "the parts before it are kept"
    (tmp_path / "photos" / "zz" / "zzz.png").unlink()
    told = run("add", "--index", "other", "--images", "photos")[1]
    assert "4 added, 0 replaced, 16 unchanged" in told


def test_nothing_that_can_be_read_leaves_an_index_that_can_still_be_built(
    run: Run, tmp_path: Path
) -> None:
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "bad.png").write_bytes(b"no image")
    code, _, said = run("build", "--run", "run.pt", "--images", "bad", "--index", "shop")
    assert code == 2
    assert "none of 1 images could be added" in said
    words = ("--run", "run.pt", "--images", "photos", "--index", "shop", "--kind", "flat")
    code, _, said = run("build", *words)
    assert (code, said.count("\n")) == (2, 1), "the kind that is there is not kept silently"
    assert "holds an empty index of the kind auto, not flat; build it with --kind auto" in said
    code, _, said = run("query", "--index", "shop", "--query", "photos")
    assert code == 2
    assert "shop holds no images yet" in said
    _built(run)


@pytest.mark.parametrize(
    ("words", "code", "expected"),
    [
        (
            ["build", "--run", "run.pt", "--images", "photos", "--index", "shop"],
            2,
            "holds an index of 20",
        ),
        (
            ["add", "--images", "photos", "--index", "shop", "--run", "wide.pt"],
            2,
            "of dimension 16, not 8",
        ),
        (
            ["add", "--images", "photos", "--index", "shop", "--run", "new.pt"],
            2,
            "of run 'second, fold 0'",
        ),
        (["query", "--query", "photos", "--index", "photos"], 2, "holds no index"),
        (["query", "--query", "photos", "--index", "none"], 2, "none holds no index"),
        (["query", "--query", "no.png", "--index", "shop"], 2, "--query: there is nothing"),
        (["query", "--query", "photos", "--index", "shop", "--k", "0"], 2, "--k is 0"),
        (["query", "--index", "shop"], 2, "--query is missing"),
        (
            ["add", "--images", "photos", "--index", "shop", "--fold", "1"],
            2,
            "--fold belongs to --run",
        ),
        (["remove", "--index", "shop"], 2, "either --images, or --gone"),
        (["buld"], 2, "did you mean 'build'?"),
        (["info", "--index", "broken"], 1, "vectors-0.f32 has 5 bytes"),
        (["query", "--query", "photos", "--index", "bare"], 1, "holds no matcher.pt"),
        (["add", "--images", "photos", "--index", "damaged"], 1, "files.sqlite cannot be used"),
    ],
)
def test_a_mistake_is_one_line(
    run: Run, tmp_path: Path, words: list[str], code: int, expected: str
) -> None:
    _built(run)
    small_matcher(seed=1, run="second").save(tmp_path / "new.pt")
    small_matcher(dimension=8).save(tmp_path / "wide.pt")
    for name in ("broken", "bare", "damaged"):
        shutil.copytree(tmp_path / "shop", tmp_path / name)
    (tmp_path / "broken" / "vectors-0.f32").write_bytes(b"short")
    (tmp_path / "bare" / MATCHER).unlink()
    (tmp_path / "damaged" / STATES).write_bytes(b"no data base, but a text of some length" * 50)
    before = (tmp_path / "shop" / "manifest.json").read_bytes()
    found, _, said = run(*words)
    assert found == code
    assert said.startswith("error: ")
    assert said.count("\n") == 1
    assert expected in said
    assert (tmp_path / "shop" / "manifest.json").read_bytes() == before


def test_a_folder_without_its_matcher_gets_it_back_from_the_run(run: Run, tmp_path: Path) -> None:
    _built(run)
    (tmp_path / "shop" / MATCHER).unlink()
    assert run("add", "--index", "shop", "--images", "photos", "--run", "run.pt")[0] == 0
    assert run("query", "--index", "shop", "--query", "photos", "--k", "1")[0] == 0


@pytest.fixture(scope="module")
def trials() -> Iterator[TrialServer]:
    with TrialServer([PROGRAMS]) as server:
        yield server


@pytest.mark.parametrize(("point", "number"), [("rename", 4), ("fsync directory", 4)])
def test_a_killed_addition_keeps_its_parts_and_the_same_command_goes_on(
    run: Run, trials: TrialServer, tmp_path: Path, point: str, number: int
) -> None:
    _built(run)
    write_products(tmp_path / "more", 24, start=60)
    fault = {"kind": "killed_at", "point": point, "number": number, "below": str(tmp_path / "shop")}
    words = ["index", "add", "--index", "shop", "--images", "more"]
    trial = trials.start(f"{PROGRAMS}:match", directory=str(tmp_path), words=words, fault=fault)
    assert trial.wait() == -signal.SIGKILL, trial.errors
    index = ImageIndex.open(Path("shop"))
    index.vectors.verify()
    kept = len(index.vectors) - 20
    assert kept in (8, 16)
    told = run("add", "--index", "shop", "--images", "more")[1]
    assert f"{24 - kept} added" in told
    # Killed behind the manifest, what was added last is not known to be what the files are now.
    assert f"{8 if point == 'fsync directory' else 0} replaced" in told
    with sqlite3.connect(tmp_path / "shop" / STATES) as base:
        assert base.execute("SELECT count(*) FROM states").fetchone() == (44,)
    whole = ImageIndex.open(Path("shop"))
    names = [image_name(file) for file in sorted((tmp_path / "more").rglob("*.png"))]
    found = whole.vectors.search(whole.matcher.embed(names), 1)
    assert [matches.ids[0] for matches in found] == names


def test_ctrl_c_says_what_is_kept(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = Matcher.embed_pixels
    calls = []

    def interrupted(self: Matcher, images: torch.Tensor) -> torch.Tensor:
        calls.append(len(images))
        if len(calls) == 2:
            raise KeyboardInterrupt
        return whole(self, images)

    with monkeypatch.context() as patch:
        patch.setattr(Matcher, "embed_pixels", interrupted)
        code, _, said = run("build", "--run", "run.pt", "--images", "photos", "--index", "shop")
    assert code == 130
    assert said == "interrupted: 8 of 20 images are in shop; 'index add' goes on with the rest\n"
    told = run("add", "--index", "shop", "--images", "photos")[1]
    assert "12 added, 0 replaced, 8 unchanged" in told
