"""A session over several folds: what it leaves, how it goes on, and what it refuses."""

import csv
import json
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from common.config import load_run_config
from common.data.folds import read_folds, write_folds
from common.data.loaders import TensorLoader
from common.testing.trials import TrialServer
from common.training import Task
from common.utils.errors import CheckpointError, ConfigError, DataError, InterruptedRun
from projects.product_matching.core.config import Config
from projects.product_matching.core.items.items import read_items
from projects.product_matching.core.matching.matcher import Matcher
from projects.product_matching.core.pooling_log import PoolingLog
from projects.product_matching.core.session import deal, run_session
from projects.product_matching.core.training import embed
from tests.projects.product_matching import sessions
from tests.projects.product_matching.sessions import EACH, LABELS, composed, train

HERE = "tests.projects.product_matching.sessions"


@pytest.fixture(scope="module")
def server() -> Iterator[TrialServer]:
    modules = [HERE, "torchvision.transforms.v2", "faiss"]
    with TrialServer(modules) as started:
        yield started


def _metrics(home: Path) -> dict[str, object]:
    found: dict[str, object] = json.loads((home / "metrics.json").read_text(encoding="utf-8"))
    return found


def test_a_session_leaves_what_its_report_says() -> None:
    _, done = sessions.finished()
    home = done.directory
    metrics = _metrics(home)
    with open(home / "out_of_fold.csv", encoding="utf-8", newline="") as file:
        lines = list(csv.DictReader(file))
    assert len(lines) == LABELS * EACH
    by_label = {line["item"]: line["label"] for line in lines}
    # F of every item anew, from the lists that were written.
    for source in ("image", "title", "image and title"):
        scores = []
        for line in lines:
            listed = {line["item"], *filter(None, line[f"matches by {source}"].split(" | "))}
            truth = {item for item, label in by_label.items() if label == line["label"]}
            scores.append(2 * len(listed & truth) / (len(listed) + len(truth)))
            assert float(line[f"F by {source}"]) == pytest.approx(scores[-1], abs=5e-5)
        pooled = metrics["matching"][source]["pooled"]  # type: ignore[index]
        assert pooled["f_score"] == pytest.approx(np.mean(scores))
        assert pooled["interval"]["low"] <= pooled["f_score"] <= pooled["interval"]["high"]
    report = (home / "report.md").read_text(encoding="utf-8")
    union = report.split("### By image and title")[1].split("F over folds")[0]
    of_fold = metrics["matching"]["image and title"]["folds"]["0"]  # type: ignore[index]
    (pair,) = of_fold["judged_at"]
    cells = [cell.strip() for cell in union.split("| 0 |")[1].splitlines()[0].split("|")]
    assert cells[2] == f"{of_fold['oracle']['f_score']:.4f}"
    assert cells[5] == f"image {pair['image']:.4f}, title {pair['title']:.4f}"
    assert cells[6] == "the other folds"
    assert f"{LABELS * EACH} items, {LABELS} labels" in report


def test_no_label_is_trained_on_and_judged() -> None:
    _, done = sessions.finished()
    folds = read_folds(done.directory / "folds.json")
    of_label: dict[str, set[int]] = {}
    for label, fold in zip(folds.labels, folds.assigned.tolist(), strict=True):
        of_label.setdefault(label, set()).add(fold)
    assert all(len(found) == 1 for found in of_label.values())
    for fold in (0, 1):
        matcher = Matcher.load(done.directory, fold=fold)
        held_out = {label for label, found in of_label.items() if found == {fold}}
        assert set(matcher.class_names) == of_label.keys() - held_out


def test_a_fold_s_threshold_is_the_other_fold_s_best() -> None:
    _, done = sessions.finished()
    folds = _metrics(done.directory)["matching"]["image"]["folds"]  # type: ignore[index]
    # With two folds, the one's threshold is the other's oracle.
    assert folds["0"]["threshold"] == folds["1"]["oracle"]["threshold"]
    assert folds["1"]["threshold"] == folds["0"]["oracle"]["threshold"]
    assert folds["0"]["f_score"] <= folds["0"]["oracle"]["f_score"] + 1e-12
    assert Matcher.load(done.directory, fold=0).rule.threshold == folds["0"]["threshold"]


def test_a_matcher_embeds_as_the_session_did() -> None:
    kept, done = sessions.finished()
    fold = done.directory / "fold_1"
    names = json.loads((fold / "embeddings.json").read_text(encoding="utf-8"))["names"]
    embeddings = load_file(fold / "embeddings.safetensors")["embeddings"]
    photos = [Path(kept.name) / "photos" / name for name in names]
    ours = Matcher.load(done.directory, fold=1).embed(photos)
    torch.testing.assert_close(ours, embeddings)


def test_pictures_and_the_list_of_far_samples_are_there() -> None:
    _, done = sessions.finished()
    fold = done.directory / "fold_0"
    assert (fold / "plots" / "embedding_map.png").is_file()
    assert (fold / "plots" / "gem_p.png").is_file()
    assert (done.directory / "plots" / "threshold_image_fold_0.png").is_file()
    assert list((done.directory / "plots").glob("neighbors_*_image_fold_0.png"))
    with open(fold / "far_from_center.csv", encoding="utf-8", newline="") as file:
        angles = [float(line["degrees"]) for line in csv.DictReader(file)]
    assert angles == sorted(angles, reverse=True)
    assert all(angle > 75.0 for angle in angles)


def test_what_the_data_decides_stands_in_the_fold_s_configuration() -> None:
    _, done = sessions.finished()
    config, context = load_run_config(Config, done.directory / "fold_0")
    assert config.model["backbone"]["in_channels"] == 1
    assert config.loss["num_classes"] == config.data.num_classes
    assert context.source("model.backbone.in_channels").name == "DATA"


@pytest.mark.parametrize("step", [pytest.param(1, marks=pytest.mark.slow), 3])
def test_a_session_killed_in_a_fold_ends_as_one_that_was_not(
    server: TrialServer, tmp_path: Path, step: int
) -> None:
    photos = sessions.write_photos(tmp_path / "photos")
    whole = train(tmp_path / "whole", f"data.folder={photos}", "pictures.draw=false").directory
    home = tmp_path / "killed"
    trial = server.start(
        f"{HERE}:train_and_die", home=str(home), photos=str(photos), fold="fold_1", step=step
    )
    assert trial.wait() == -signal.SIGKILL, trial.errors
    assert not (home / "report.md").exists()
    first = (home / "fold_0" / "fold.json").read_bytes()
    server.run(f"{HERE}:resume", home=str(home))
    assert (home / "fold_0" / "fold.json").read_bytes() == first  # it was not trained again
    for fold in ("fold_0", "fold_1"):
        ours, theirs = (load_file(d / fold / "embeddings.safetensors") for d in (home, whole))
        assert torch.equal(ours["embeddings"], theirs["embeddings"])
    for key in ("matching", "retrieval"):
        assert _metrics(home)[key] == _metrics(whole)[key]


def test_a_resumed_session_refuses_other_data_and_other_values(tmp_path: Path) -> None:
    kept, done = sessions.finished()
    home = tmp_path / "session"
    shutil.copytree(done.directory, home)
    config, context = load_run_config(Config, home)
    config.data.csv = str(tmp_path / "items.csv")
    photos = Path(kept.name) / "photos"
    lines = (photos / "items.csv").read_text(encoding="utf-8").splitlines()
    lines = [lines[0], *(f"{photos}/{line}" for line in lines[2:])]
    (tmp_path / "items.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    context.resume = home
    with pytest.raises(DataError, match="missing"):
        run_session(config, context, home)
    config, context = load_run_config(Config, home, ["trainer.max_steps=9"])
    context.resume = home
    with pytest.raises(ConfigError, match=r"its own values.*trainer\.max_steps=9"):
        run_session(config, context, home)


def test_what_a_stopped_fold_says_to_type_goes_on_with_the_session(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sessions.write_photos(tmp_path / "photos")
    home = tmp_path / "session"
    monkeypatch.chdir(tmp_path)

    def stop(self: PoolingLog, trainer: Any, record: dict[str, Any]) -> None:
        trainer.request.signal_number = signal.SIGINT

    with monkeypatch.context() as patch:
        patch.setattr(PoolingLog, "on_log", stop)
        with pytest.raises(InterruptedRun, match=rf"--resume {home}$"):
            train(home, "data.folder=photos", "pictures.draw=false", "trainer.max_steps=2")
    monkeypatch.chdir(home)  # the photos are still found
    sessions.resume(str(home / "fold_0"))  # what was typed from its log, perhaps
    assert (home / "report.md").is_file()
    assert (home / "fold_1" / "fold.json").is_file()
    assert not (home / "fold_0" / "folds.json").exists()
    moved = tmp_path / "moved"
    moved.mkdir()
    (tmp_path / "photos").rename(moved / "photos")
    with pytest.raises(DataError, match="photos is no folder"):
        sessions.resume(str(home))
    monkeypatch.chdir(moved)
    sessions.resume(str(home))


def test_a_directory_without_a_session_is_not_resumed(tmp_path: Path) -> None:
    _, done = sessions.finished()
    lone = tmp_path / "lone"
    lone.mkdir()
    shutil.copy(done.directory / "fold_0" / "config.yaml", lone)
    with pytest.raises(ConfigError, match=r"lone: there is no session .*session\.json"):
        sessions.resume(str(lone))
    assert [path.name for path in lone.iterdir()] == ["config.yaml"]


def test_given_splits_make_one_fold_that_asks_what_was_trained_on(tmp_path: Path) -> None:
    words = ["folds.kind=given", "folds.query=test", "data.splits=[train,test]"]
    config, _ = composed(*words)
    items = read_items(config.data)
    folds = deal(items, config)
    train_rows, held = folds.split(1)
    assert {items.splits[row] for row in held} == {"test"}
    assert {items.splits[row] for row in train_rows} == {"train"}
    config.folds.query = "nothing"
    with pytest.raises(DataError, match=r"0 of 800 items are of the split 'nothing'"):
        deal(items, config)


def test_what_cannot_be_dealt_is_refused_before_there_is_a_directory(tmp_path: Path) -> None:
    photos = sessions.write_photos(tmp_path / "photos")
    home = tmp_path / "session"
    for words, message in (
        ((f"folds.count={LABELS + 1}",), "cannot fill 9 group folds"),
        (("folds.kind=stratified", f"folds.count={EACH + 1}"), "no label has 5 items"),
        (("folds.manifest=nothing.json",), "there is no file nothing.json"),
    ):
        with pytest.raises(DataError, match=message):
            train(home, f"data.folder={photos}", *words)
        assert not home.exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("folds.only=0", "folds.count=8"), "the only fold holds out one label"),
        (("matching.expansion=17",), "fold 0 holds out 16 items, and matching"),
        (
            ("folds.only=0", "matching.min_matches=10", "text.mode=union"),
            "half of the labels of fold 0 holds out 8 items",
        ),
    ],
)
def test_a_fold_that_cannot_be_judged_is_refused_before_it_is_trained(
    tmp_path: Path, words: tuple[str, ...], message: str
) -> None:
    photos = sessions.write_photos(tmp_path / "photos")
    with pytest.raises(DataError, match=message):
        train(tmp_path / "session", f"data.csv={photos / 'items.csv'}", *words)
    assert not (tmp_path / "session").exists()


@pytest.mark.parametrize(
    ("words", "titled", "message"),
    [
        ((), False, "no title that fold 0 is trained on has a word"),
        (("text.encoder=transformers", "text.model={}/none"), False, "fold 0 is trained on has a"),
        (("text.encoder=transformers", "text.model={}/none"), True, "none"),
    ],
)
def test_titles_of_which_nothing_can_be_made_are_refused_before_a_fold_is_trained(
    tmp_path: Path, words: tuple[str, ...], titled: bool, message: str
) -> None:
    table = sessions.write_photos(tmp_path / "photos") / "items.csv"
    if not titled:
        lines = table.read_text(encoding="utf-8").splitlines()
        lines = [lines[0], *(line.rsplit(",", 1)[0] + "," for line in lines[1:])]
        table.write_text("\n".join(lines) + "\n", encoding="utf-8")
    else:
        (tmp_path / "none").mkdir()  # a folder that holds no model
        pytest.importorskip("transformers")
    given = [word.format(tmp_path) for word in words]
    home = tmp_path / "session"
    with pytest.raises((DataError, CheckpointError), match=message):
        train(home, f"data.csv={table}", "text.mode=union", *given)
    assert not home.exists()


def test_a_union_over_a_single_fold_with_one_candidate_ends(tmp_path: Path) -> None:
    photos = sessions.write_photos(tmp_path / "photos")
    words = ("text.mode=union", "text.max_features=200", "folds.only=0", "matching.neighbors=1")
    csv_file = f"data.csv={photos / 'items.csv'}"
    done = train(
        tmp_path / "session", csv_file, "trainer.max_steps=2", "pictures.draw=false", *words
    )
    assert 0.0 < done.judged["image and title"].pooled["f_score"] <= 1.0


def test_an_image_that_cannot_be_read_stops_or_is_left_out(tmp_path: Path) -> None:
    photos = sessions.write_photos(tmp_path / "photos")
    bad = sorted(photos.glob("*/1.png"))[0]
    bad.write_bytes(bad.read_bytes()[:60])
    words = (f"data.folder={photos}", "pictures.draw=false", "trainer.max_steps=2")
    with pytest.raises(DataError, match=bad.name):
        train(tmp_path / "fails", *words)
    assert not (tmp_path / "fails").exists()  # nothing was trained, so nothing is left
    done = train(tmp_path / "skips", *words, "data.on_bad=skip")
    assert done.metrics["data"]["unreadable"] == 1
    assert done.metrics["data"]["items"] == LABELS * EACH - 1


def test_folds_of_a_manifest_hold_without_the_images_that_cannot_be_read(tmp_path: Path) -> None:
    photos = sessions.write_photos(tmp_path / "photos")
    config, _ = composed(f"data.folder={photos}", "folds.count=2")
    write_folds(tmp_path / "all.json", deal(read_items(config.data), config))
    bad = sorted(photos.glob("*/1.png"))[0]
    bad.write_bytes(bad.read_bytes()[:60])
    words = (
        f"data.folder={photos}",
        "data.on_bad=skip",
        "pictures.draw=false",
        "trainer.max_steps=2",
    )
    whole, name = read_folds(tmp_path / "all.json"), bad.relative_to(photos).as_posix()
    expected = dict(zip(whole.names, whole.assigned.tolist(), strict=True))
    assert expected.pop(name) in (0, 1)
    homes = [tmp_path / "first", tmp_path / "again", tmp_path / "dealt"]
    manifests: list[Path | None] = [tmp_path / "all.json", homes[0] / "folds.json", None]
    for home, manifest in zip(homes, manifests, strict=True):
        more = [] if manifest is None else [f"folds.manifest={manifest}"]
        done = train(home, *words, *more)
        assert done.metrics["data"]["unreadable"] == 1
        found = read_folds(home / "folds.json")
        assert dict(zip(found.names, found.assigned.tolist(), strict=True)) == expected
    sessions.resume(str(homes[0]))  # finished, and of the same items
    good = sorted(photos.glob("*/2.png"))[0]
    good.rename(good.with_name("new.png"))
    with pytest.raises(DataError, match=r"1 items are missing \(the first: .*2\.png"):
        train(tmp_path / "other", *words, f"folds.manifest={homes[0] / 'folds.json'}")
    shutil.copy(good.with_name("new.png"), good)
    with pytest.raises(DataError, match=r"lacks 1 of 32 items .* \(the first: .*new\.png"):
        train(tmp_path / "other", *words, f"folds.manifest={homes[0] / 'folds.json'}")
    assert not (tmp_path / "other").exists()


class _Broken(Task):
    """Gives the mean of an image, and for a black one nothing that is a number."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones(1))

    def predict_step(self, batch: dict[str, torch.Tensor]) -> torch.Tensor:
        means = batch["image"].float().mean((1, 2, 3))
        return (means / means * self.weight)[:, None]


def test_embeddings_that_are_not_finite_name_their_images() -> None:
    images = torch.ones(5, 1, 2, 2, dtype=torch.uint8)
    images[[1, 3]] = 0
    loader = TensorLoader({"image": images}, batch_size=2)
    with pytest.raises(DataError, match=r"2 of 5 images are not finite \(b, d\)"):
        embed(_Broken(), loader, tuple("abcde"), "fp32")  # type: ignore[arg-type]
