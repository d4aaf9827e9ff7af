"""A generated configuration is true to the data, means the defaults otherwise, and reads back."""

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from common.config.tree import leaves, plain
from projects.image_classification.cli.init_config import main
from projects.image_classification.cli.train import main as train
from projects.image_classification.core.config import Config
from projects.image_classification.core.config_files import load_config
from projects.image_classification.core.folder.splitting import SplitOptions, split_dataset
from tests.projects.image_classification.photos import write_coloured

CONFIG = "configs/pets_config.yaml"


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def changed(file: str = CONFIG) -> dict[str, Any]:
    """What a configuration says that is not the default."""
    defaults = dict(leaves(plain(Config())))
    said = leaves(plain(load_config(file)[0]))
    return {key: value for key, value in said if defaults.get(key, "none") != value}


def fails(words: list[str], capsys: pytest.CaptureFixture[str], code: int = 2) -> str:
    with pytest.raises(SystemExit) as ended:
        main(words)
    assert ended.value.code == code
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "Traceback" not in error
    return error


def test_before_the_split_classes_and_pixels_come_from_the_raw_folder(
    capsys: pytest.CaptureFixture[str],
) -> None:
    data = write_coloured(Path("data/pets"), {"dog": 4, "cat": 6})
    main(["data/pets"])
    said = changed()
    pixels = np.stack([np.asarray(Image.open(f)) for f in data.glob("raw/*/*.png")]) / 255
    assert said.pop("preprocessing.mean") == pytest.approx(
        pixels.mean((0, 1, 2)).tolist(), abs=1e-5
    )
    assert said.pop("preprocessing.std") == pytest.approx(pixels.std((0, 1, 2)).tolist(), abs=1e-5)
    assert said == {
        "data.data_dir": "data/pets",
        "data.class_names": ["cat", "dog"],
        "data.num_classes": 2,
        "preprocessing.image_size": [12, 12],
        "preprocessing.crop_share": 1.0,
        "preprocessing.mode": "RGB",
        "model.type": "custom",  # small images begin with a small network
    }
    output = capsys.readouterr().out
    assert "ml-split --raw_data data/pets/raw" in output
    assert "all 10 images of raw/" in output


def test_after_the_split_they_come_from_the_training_images_of_the_fold(
    capsys: pytest.CaptureFixture[str],
) -> None:
    data = write_coloured(Path("data/pets"), {"dog": 20, "cat": 40}, None, "L")
    split = split_dataset(data / "raw", SplitOptions(folds=3, near_duplicates=False))
    for fold in (0, 2):
        main(["data/pets", "--fold", str(fold), "--force"])
        said = changed()
        counts = [sum(f"/{c}/" in name for name in split.folds[fold][0]) for c in ("cat", "dog")]
        assert said["data.class_counts"] == counts
        assert said["preprocessing.mode"] == "L"
        assert said["preprocessing.image_size"] == [224, 224]
        assert not {"preprocessing.crop_share", "model.type"} & said.keys()
        assert said.get("data.fold", 0) == fold
    assert "ml-split" not in capsys.readouterr().out
    text = Path(CONFIG).read_text()
    assert f"- cat  # {counts[0]} images" in text
    assert "the largest class has 2 times the images of the smallest: consider inverse_sqrt" in text


def test_both_orders_of_the_commands_agree_on_the_classes() -> None:
    write_coloured(Path("data/pets"), {"b": 9, "a": 9, "Z": 9, "é": 9})
    main(["data/pets"])
    before = changed()["data.class_names"]
    split_dataset(Path("data/pets/raw"), SplitOptions(folds=2, near_duplicates=False))
    main(["data/pets", "--force"])
    assert changed()["data.class_names"] == before == sorted(before)


NAMES = ["a: b", "it's", 'say "x"', "日本語", "yes", "1e3", "null", "~", "- a", "#x", "a #b", "0"]
NAMES += [
    "{a}",
    "[x",
    "*a",
    "&a",
    "!t",
    "%",
    "@",
    "true",
    "0x10",
    "ünïcödé",
    "$x",
    "a\\b",
    "=",
    "NaN",
]


def test_class_names_of_every_kind_are_read_back_as_they_are() -> None:
    write_coloured(Path("data/pets"), dict.fromkeys(NAMES, 1))
    main(["data/pets"])
    assert changed()["data.class_names"] == sorted(NAMES)


def test_two_hundred_classes_fit() -> None:
    names = [f"{number:03} 種" for number in range(200)]
    write_coloured(Path("data/pets"), dict.fromkeys(names, 3), (4, 4))
    split_dataset(Path("data/pets/raw"), SplitOptions(folds=3, test_share=0, near_duplicates=False))
    main(["data/pets"])
    said = changed()
    assert said["data.class_names"] == names
    assert said["data.class_counts"] == [2] * 200
    assert len(Path(CONFIG).read_text().splitlines()) < 200


def test_a_search_space_names_keys_of_the_schema_within_their_limits() -> None:
    write_coloured(Path("data/pets"), {"dog": 100, "cat": 200}, (4, 4))
    main(["data/pets", "--optuna"])
    config, _ = load_config(CONFIG)
    assert config.search.sampler.type == "TPESampler"
    assert config.search.pruner.type == "MedianPruner"
    space = config.search.search_space
    assert space["training.batch_size"]["choices"] == [16, 32]
    for key, of_key in space.items():
        for value in of_key.get("choices") or (of_key["low"], of_key["high"]):
            load_config(CONFIG, [f"{key}={value}"])


def test_a_file_is_only_replaced_with_force(capsys: pytest.CaptureFixture[str]) -> None:
    write_coloured(Path("data/pets"), {"dog": 2, "cat": 2})
    Path("configs").mkdir()
    Path("elsewhere").write_text("mine")
    Path(CONFIG).symlink_to("../elsewhere")
    assert f"{CONFIG} exists; --force" in fails(["data/pets"], capsys)
    main(["data/pets", "--force"])
    assert Path("elsewhere").read_text() == "mine"  # a link is replaced, not followed
    main(["data/pets/", "--output", "other.yaml"])
    assert Path("other.yaml").read_text() == Path(CONFIG).read_text()


def test_images_that_cannot_be_read_are_counted_and_left_out(
    capsys: pytest.CaptureFixture[str],
) -> None:
    data = write_coloured(Path("data/pets"), {"dog": 3, "cat": 3})
    whole = (data / "raw" / "dog" / "0.png").read_bytes()
    (data / "raw" / "dog" / "cut.png").write_bytes(whole[: len(whole) // 2])
    (data / "raw" / "cat" / "empty.jpg").touch()
    main(["data/pets"])
    said = capsys.readouterr().err.splitlines()
    (line,) = [line for line in said if "cannot be read" in line]
    assert "2 of the 8 images looked at cannot be read" in line
    assert "empty.jpg" in line
    assert changed()["preprocessing.image_size"] == [12, 12]


@pytest.mark.parametrize(
    ("words", "problem"),
    [
        ([], "the folder of the data set is missing"),
        (["nowhere"], "there is no folder nowhere; expected a folder such as data/pets"),
        (["file"], "file is a file"),
        (["."], "has no folder raw"),
        (["good/raw"], "good/raw is the raw folder itself; give good"),
        (["blank"], "has no images"),
        (["single"], "images of one class only, 'cat'"),
        (["broken"], "none of 2 images can be read"),
        (["reference"], "means something else in a configuration"),
        (["good", "--fold", "1"], "good is not split; run ml-split"),
        (["good", "--fold", "x"], "invalid int value"),
        (["good", "--output", "no/such/file.yaml"], "there is no folder no/such"),
        (["good", "--output", "good"], "good is a folder"),
        (["good", "training.num_epochs=3"], "takes no 'training.num_epochs=3'"),
        (["good", "--optunas"], "did you mean --optuna?"),
    ],
)
def test_a_mistake_is_one_line_and_writes_nothing(
    capsys: pytest.CaptureFixture[str], words: list[str], problem: str
) -> None:
    write_coloured(Path("good"), {"dog": 2, "cat": 2})
    write_coloured(Path("single"), {"cat": 2})
    write_coloured(Path("reference"), {"cat": 2, "${seed}": 2})
    Path("blank/raw/cat").mkdir(parents=True)
    for name in ("a", "b"):
        Path(f"broken/raw/{name}").mkdir(parents=True)
        Path(f"broken/raw/{name}/1.png").write_bytes(b"no image")
    Path("file").touch()
    assert problem in fails(words, capsys)
    assert not Path("configs").exists()


@pytest.mark.skipif(os.geteuid() == 0, reason="root writes anywhere")
def test_a_folder_that_cannot_be_written_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    write_coloured(Path("data/pets"), {"dog": 2, "cat": 2})
    Path("configs").mkdir(0o500)
    assert "cannot write configs" in fails(["data/pets"], capsys, code=1)


@pytest.mark.slow
def test_the_demonstration_writes_digits_that_are_split_and_a_configuration(
    capsys: pytest.CaptureFixture[str],
) -> None:
    main(["--demo", "data/digits"])
    config, _ = load_config("configs/digits_config.yaml")
    assert config.data.class_names == list("0123456789")
    assert config.preprocessing.image_size == [8, 8]
    assert config.preprocessing.mode == "L"
    assert len(list(Path("data/digits/splits").glob("fold_*_train.txt"))) == 5
    assert "ml-train --config configs/digits_config.yaml" in capsys.readouterr().out
    main(["--demo", "data/digits", "--output", "again.yaml"])
    assert Path("again.yaml").read_text() == Path("configs/digits_config.yaml").read_text()


OLD = """
model: {type: custom, custom_architecture: tiny_net}
training:
  trainer_type: dp
  dp: {noise_multiplier: 1.1, max_grad_norm: 1.0, target_epsilon: 3.0, target_delta: 1.0e-5}
"""


def test_an_old_configuration_with_noise_and_epsilon_is_one_clear_line(
    capsys: pytest.CaptureFixture[str],
) -> None:
    Path("old.yaml").write_text(OLD)
    with pytest.raises(SystemExit) as ended:
        train(["--config", "old.yaml", "--cfg", "job"])
    assert ended.value.code == 2
    error = capsys.readouterr().err
    assert "exactly one of noise_multiplier" in error
    assert "both are set" in error
    assert error.count("\n") == 1
    train(["--config", "old.yaml", "--cfg", "job", "training.dp.noise_multiplier=null"])
    assert "target_epsilon: 3.0" in capsys.readouterr().out
