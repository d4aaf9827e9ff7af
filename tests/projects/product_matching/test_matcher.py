"""One file is a whole matcher: it embeds as it did, and what is not right in it is one line."""

import dataclasses
import hashlib
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from common.utils.checkpoint import load_checkpoint, save_checkpoint
from common.utils.errors import CheckpointError, ConfigError, DataError
from common.utils.paths import get_outputs_dir
from projects.product_matching.core.matching.match_rules import MatchRule, TextRule
from projects.product_matching.core.matching.matcher import Matcher
from projects.product_matching.core.matching.matcher_files import matcher_path
from tests.projects.product_matching.matchers import SECTION, small_matcher, write_products

RECIPE = small_matcher().preprocessing.describe()


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    return write_products(tmp_path_factory.mktemp("photos"), 30)


def test_embeddings_are_those_of_the_network_one_by_one(photos: list[Path]) -> None:
    matcher = small_matcher()
    found = matcher.embed(photos, batch_size=7)
    pixels = torch.stack(
        [torch.frombuffer(bytearray(Image.open(f).tobytes()), dtype=torch.uint8) for f in photos]
    )
    images = (pixels.view(-1, 1, 32, 32).float() / 255 - 0.25) / 0.2
    with torch.inference_mode():
        expected = F.normalize(torch.cat([matcher.network(image[None]) for image in images]))
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)
    assert found.dtype == torch.float32
    assert matcher.embed([]).shape == (0, 16)


def test_a_saved_matcher_is_the_same_matcher(photos: list[Path], tmp_path: Path) -> None:
    rule = MatchRule(0.7, beta=2.0, min_matches=2, expansion=3, alpha=1.0)
    rule = dataclasses.replace(rule, text=TextRule("union", 0.5, image_threshold=0.8))
    matcher = small_matcher(rule=rule, text={"encoder": "tfidf"}, fold=3, score=0.25)
    matcher.save(tmp_path / "matcher.pt")
    back = Matcher.load(tmp_path / "matcher.pt")
    assert torch.equal(back.embed(photos), matcher.embed(photos))
    assert back.mark == matcher.mark
    for name in ("section", "rule", "class_names", "run", "fold", "score", "text"):
        assert getattr(back, name) == getattr(matcher, name), name
    assert back.preprocessing.config == matcher.preprocessing.config


def test_of_a_run_the_fold_with_the_best_score_is_taken(tmp_path: Path) -> None:
    for fold, score in enumerate((float("nan"), 0.8, 0.8, 0.1)):
        small_matcher(seed=fold, fold=fold, score=score).save(matcher_path(tmp_path, fold))
    assert Matcher.load(tmp_path).fold == 1
    assert Matcher.load(tmp_path, fold=3).fold == 3
    with pytest.raises(ConfigError, match=r"--fold 4: .* has finished the folds 0, 1, 2, 3"):
        Matcher.load(tmp_path, fold=4)
    with pytest.raises(ConfigError, match="is one matcher"):
        Matcher.load(matcher_path(tmp_path, 0), fold=0)


def test_a_run_of_the_store_is_found_by_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ASSETS_DIR", str(tmp_path))
    small_matcher(fold=2).save(matcher_path(get_outputs_dir() / "product_matching" / "mine", 2))
    assert Matcher.load("mine").fold == 2


def test_what_holds_no_matcher_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"holds no matcher .*--resume"):
        Matcher.load(tmp_path)
    with pytest.raises(ConfigError, match="no run directory"):
        Matcher.load(tmp_path / "nothing")
    save_checkpoint({"model": {}}, tmp_path / "other.pt")
    with pytest.raises(CheckpointError, match="is no matcher"):
        Matcher.load(tmp_path / "other.pt")
    (tmp_path / "other.pt").write_bytes(b"PK")
    with pytest.raises(CheckpointError, match="truncated or no checkpoint"):
        Matcher.load(tmp_path / "other.pt")


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (
            {"model": {"_target_": "os.system", "command": "true"}},
            "is 'os.system', which is not allowed",
        ),
        ({"model": {"_target_": "subprocess.Popen", "args": "true"}}, "not allowed"),
        ({"model": {"_target_": "common.metrics.nearest_neighbors"}}, "which is no network"),
        (
            {"model": {"_target_": "projects.product_matching.cli.index.main", "argv": ["build"]}},
            r"model\._target_ is 'projects\.product_matching\.cli\.index\.main', which is no part",
        ),
        (
            {
                "model": {
                    **SECTION,
                    "backbone": {"_target_": "timm.create_model", "model_name": "a"},
                }
            },
            r"model\.backbone\._target_ is timm\.create_model, which is no network",
        ),
        (
            {"model": {**SECTION, "x": ({"y": {"_target_": "common.data.ImageCache"}},)}},
            r"model\.x\[0\]\.y\._target_ is common\.data\.ImageCache, which is no network",
        ),
        ({"model": {**SECTION, "embedding_dim": 10**9}}, r"expected \(1000000000, 16\)"),
        ({"model": {**SECTION, "embedding_dim": 10**13}}, "does not fit"),
        ({"model": {**SECTION, "embedding_dim": 10**30}}, "cannot be used"),
        ({"model": {**SECTION, "embedding_dim": torch.ones(2)}}, "cannot be used"),
        ({"preprocessing": {**RECIPE, "image_size": [10**6, 10**6]}}, "the limit is 89,478,485"),
        ({"preprocessing": {**RECIPE, "resize": "crop", "crop_share": 1e-9}}, "the limit is"),
        ({"fold": -1}, "'fold' is -1, expected 0 or more"),
        ({"fold": True}, "'fold' is True"),
        ({"model": {"_target_": "torch.nn.Identity"}}, "has no embedding_dim"),
        ({"model": {"backbone": 1}}, "expected a section with _target_"),
        ({"model": {"_target_": "common.models.EmbeddingNetwork"}}, "backbone"),
        ({"preprocessing": {"mode": "L"}}, "the preprocessing lacks"),
        ({"rule": {"threshold": float("nan")}}, "thresholds are"),
        ({"rule": {"threshold": 0.5, "limit": 1.0}}, "limit"),
        ({"rule": {"threshold": 0.5, "units": 3}}, "units is a int"),
        ({"run": 7}, "'run' is int"),
        ({"run": "a\nb"}, "expected a plain name"),
        ({"weights_sha256": hashlib.sha256().hexdigest()}, "its weights are not those"),
        ({"class_names": None}, "'class_names' is NoneType"),
    ],
)
def test_a_file_of_somebody_else_is_judged_before_it_is_used(
    change: dict[str, Any], expected: str, tmp_path: Path
) -> None:
    path = tmp_path / "matcher.pt"
    small_matcher().save(path)
    save_checkpoint(load_checkpoint(path) | change, path)
    with pytest.raises((ConfigError, CheckpointError, DataError), match=expected) as caught:
        Matcher.load(path)
    assert "\n" not in str(caught.value)


def test_weights_of_another_network_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "matcher.pt"
    small_matcher(dimension=8).save(path)
    state = load_checkpoint(path)
    small_matcher().save(path)
    save_checkpoint(load_checkpoint(path) | {"weights": state["weights"]}, path)
    with pytest.raises(CheckpointError, match=r"has shape \(8, 16\), expected \(16, 16\)"):
        Matcher.load(path)


def test_embeddings_that_point_nowhere_name_their_images(photos: list[Path]) -> None:
    matcher = small_matcher()
    matcher.network.neck.bias.fill_(torch.nan)
    with pytest.raises(
        DataError, match=rf"5 of 5 embeddings are not finite.*{photos[0].name}.*'first'"
    ):
        matcher.embed(photos[:5])
    for parameter in matcher.network.neck.parameters():
        parameter.zero_()
    with pytest.raises(DataError, match="not finite, or zero"):
        matcher.embed(photos[:5])
