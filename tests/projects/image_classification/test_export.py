"""``ml-export`` as it is typed, on runs that ``ml-train`` made."""

import json
import re
import shutil
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch

from common.data.preprocessing import Preprocessing
from common.utils.checkpoint import load_checkpoint, save_checkpoint
from common.utils.errors import CheckpointError
from common.utils.files import sha256_file
from common.utils.paths import get_project_root
from projects.image_classification.cli.export import main
from projects.image_classification.core.classifier import load_classifier
from projects.image_classification.core.config_files import run_config
from projects.image_classification.core.datasets import get_datasets
from projects.image_classification.core.export.onnx_session import OnnxClassifier
from projects.image_classification.core.inference.prediction import dataset_of, predict_dataset
from projects.image_classification.core.predictions import read_predictions
from tests.projects.image_classification.finished_runs import CLASSES, draw_fruit

QUICK = ("--opset", "14")  # the older exporter takes a tenth of the seconds
ALL = "runs/fruit_fold_[01]/weights/best.pt"


def _run(*words: object) -> int:
    with pytest.raises(SystemExit) as stopped:
        main([str(word) for word in words])
    return int(stopped.value.code or 0)


def _report(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "validation_report.json").read_text(encoding="utf-8"))


def test_the_metadata_says_all_that_is_needed_to_use_the_file(best: Path, tmp_path: Path) -> None:
    path = tmp_path / "fruit.onnx"
    assert _run("--checkpoint", best, "--output", path) == 0
    texts = {each.key: each.value for each in onnx.load(path).metadata_props}
    state = load_checkpoint(best)
    config, _ = run_config(best)
    assert json.loads(texts["class_names"]) == list(CLASSES)
    assert json.loads(texts["preprocessing"]) == Preprocessing(config.preprocessing).describe()
    assert json.loads(texts["mean"]) == config.preprocessing.mean
    assert json.loads(texts["std"]) == config.preprocessing.std
    assert json.loads(texts["temperature"]) == state["calibration"]["temperature"]
    assert json.loads(texts["checkpoint_sha256"]) == [sha256_file(best)]
    assert json.loads(texts["versions"])["torch"] == version("torch")
    assert texts["input"] == "pixels"
    assert _report(tmp_path)["passed"] is None


def test_pixels_of_training_inference_and_the_onnx_recipe_are_the_same_bits(
    best: Path, tmp_path: Path
) -> None:
    path = tmp_path / "fruit.onnx"
    assert _run("--checkpoint", best, "--output", path, *QUICK) == 0
    texts = onnxruntime.InferenceSession(str(path)).get_modelmeta().custom_metadata_map
    from_onnx = Preprocessing.from_description(json.loads(texts["preprocessing"]))
    for_inference = load_classifier(best).preprocessing
    data = get_datasets(run_config(best)[0])["val"]
    photos = [tmp_path / "photo.jpg", tmp_path / "grey.png"]
    draw_fruit(0, 7, (150, 90)).save(photos[0], quality=85)
    draw_fruit(1, 7, (50, 90)).convert("LA").save(photos[1])
    for place in range(0, len(data), 4):
        file = Path("data/fruit") / data.paths[place]
        assert torch.equal(data[place]["image"], from_onnx(file))
        assert torch.equal(data[place]["image"], for_inference(file))
    for photo in photos:
        assert torch.equal(for_inference(photo), from_onnx(photo))


def _documented(page: str) -> dict[str, Any]:
    """The names that the one Python block of a page defines."""
    text = (get_project_root() / "docs" / "image_classification" / page).read_text("utf-8")
    (block,) = re.findall(r"^```python\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    names: dict[str, Any] = {}
    exec(compile(block, page, "exec"), names)
    return names


def test_the_documented_examples_give_what_the_classifier_gives(
    best: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "fruit.onnx"
    assert _run("--checkpoint", best, "--output", path, *QUICK) == 0
    files = [tmp_path / f"{k}.jpg" for k in range(4)]
    for k, file in enumerate(files):
        draw_fruit(k % 3, k, (31 + k, 17)).save(file)
    expected = load_classifier(best).predict(files)
    found = _documented("export.md")["classify"](path, files)
    for (name, probability), row in zip(found, expected, strict=True):
        assert name == CLASSES[int(row.argmax())]
        assert probability == pytest.approx(row.max().item(), abs=1e-6)
    assert np.abs(OnnxClassifier(path).predict(files) - expected.numpy()).max() < 1e-6
    capsys.readouterr()
    _documented("inference.md")["classify"](str(best), list(map(str, files)))
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(".jpg ")[1].rsplit(" ", 1)[0] for line in lines] == [n for n, _ in found]
    assert _run("--checkpoint", best, "--output", path, "--input", "normalized", *QUICK) == 0
    assert np.abs(OnnxClassifier(path).predict(files) - expected.numpy()).max() < 1e-6


def test_every_check_passes_and_stands_in_the_report(
    project: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "fruit_fold_0"
    shutil.copytree(project / "runs" / "fruit_fold_0", run)
    words = ("--validate", "--comprehensive-validate", "--benchmark", "--no-compile", "--quantize")
    data = ("--data_dir", project / "data" / "fruit")
    assert _run("--checkpoint", run / "weights" / "best.pt", *words, *data) == 0
    report = _report(run / "weights")
    recorded = read_predictions(run / "evaluation" / "test.pt")
    accuracy = (recorded.logits.argmax(1) == recorded.labels).double().mean().item()
    compared = report["comprehensive_validation"]
    assert report["passed"] is True
    assert report["model"] == "best.onnx"
    assert report["sha256"] == sha256_file(run / "weights" / "best.onnx")
    assert compared["images"] == len(recorded.ids)
    assert compared["accuracy_pytorch"] == compared["accuracy_onnxruntime"] == accuracy
    assert compared["max_abs_difference_logits"] < 1e-4
    assert report["validation"]["checker"] == "passed"
    assert [each["batch"] for each in report["validation"]["forward"]] == [1, 3]
    assert {row["batch"] for row in report["benchmark"]["results"]} == {1, 16}
    assert report["quantisation"]["accuracy_before"] == accuracy
    assert report["quantisation"]["calibration_images"] > 0
    assert (run / "weights" / report["quantisation"]["model"]).is_file()
    assert "test images: logits differ" in capsys.readouterr().out


def test_a_tolerance_that_is_not_met_fails(
    best: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = (
        "--output",
        tmp_path / "a.onnx",
        "--comprehensive-validate",
        "--tolerance",
        "0",
        *QUICK,
    )
    assert _run("--checkpoint", best, *words) == 1
    assert "the tolerance is 0" in capsys.readouterr().err
    assert _report(tmp_path)["passed"] is False


def test_an_older_operator_set_is_written_as_asked(best: Path, tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    assert _run("--checkpoint", best, "--output", path, "--opset", "14", "--validate") == 0
    assert onnx.load(path).opset_import[0].version == 14
    assert _report(tmp_path)["opset"] == 14


def test_without_temperature_the_probabilities_are_the_plain_softmax(
    best: Path, tmp_path: Path
) -> None:
    path = tmp_path / "a.onnx"
    assert _run("--checkpoint", best, "--output", path, "--no-temperature", *QUICK) == 0
    exported = OnnxClassifier(path)
    pixels = np.stack([exported.preprocessing(draw_fruit(0, 1)).numpy()])
    logits, probabilities = exported.run(pixels)
    assert exported.metadata.temperature == 1.0
    assert probabilities == pytest.approx(torch.tensor(logits).softmax(1).numpy(), abs=1e-6)


def test_another_input_size_is_part_of_the_recipe(best: Path, tmp_path: Path) -> None:
    path = tmp_path / "a.onnx"
    words = ("--output", path, "--input_size", "20", "16", "--validate", *QUICK)
    assert _run("--checkpoint", best, *words) == 0
    exported = OnnxClassifier(path)
    assert exported.preprocessing.size == (20, 16)
    assert exported.session.get_inputs()[0].shape == ["batch", 3, 20, 16]
    assert exported.predict([draw_fruit(0, 3)]).argmax() == 0


def test_an_input_size_the_network_does_not_take_is_refused(
    best: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ("--output", tmp_path / "a.onnx", "--input_size", "1", "1")
    code = _run("--checkpoint", _vit(best, tmp_path), *words)
    assert code == 2
    assert "--input_size 1 1: the network does not take it" in capsys.readouterr().err


def _vit(best: Path, folder: Path) -> Path:
    """A checkpoint of a network that takes one size only."""
    from projects.image_classification.core.datasets import dataset_info
    from projects.image_classification.core.task import ImageClassifier

    config, context = run_config(best)
    config.model.type, config.model.architecture = "timm", "test_vit"
    config.preprocessing.image_size = [160, 160]
    task = ImageClassifier(config, has_weights=True)
    task.configure(dataset_info(config, {}), context)
    text = load_checkpoint(best)["config"]
    for old, new in (
        ("type: custom", "type: timm"),
        ("architecture: resnet18", "architecture: test_vit"),
        ("image_size: [12, 12]", "image_size: [160, 160]"),
    ):
        text = text.replace(old, new, 1)
    save_checkpoint({"model": task.state_dict(), "config": text}, folder / "vit.pt")
    return folder / "vit.pt"


# ---- several checkpoints --------------------------------------------------------------------


def test_a_pattern_exports_all_and_goes_on_after_a_failure(
    project: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    for name in ("a", "b", "c"):
        (tmp_path / "runs" / name / "weights").mkdir(parents=True)
        target = tmp_path / "runs" / name / "weights" / "best.pt"
        shutil.copy(project / "runs" / "fruit_fold_0" / "weights" / "best.pt", target)
    (tmp_path / "runs" / "b" / "weights" / "best.pt").write_bytes(b"damaged")
    monkeypatch.chdir(tmp_path)
    assert _run("--checkpoint", "runs/*/weights/best.pt", "--validate", *QUICK) == 1
    out = capsys.readouterr().out
    assert "runs/b/weights/best.pt  FAILED: runs/b/weights/best.pt (7 bytes) is truncated" in out
    assert "2 exported, 1 failed" in out
    for name in ("a", "c"):
        assert (tmp_path / "runs" / name / "weights" / "best.onnx").is_file()


def test_one_file_of_the_folds_gives_the_score_that_training_recorded(
    project: Path, tmp_path: Path
) -> None:
    path = tmp_path / "folds.onnx"
    words = ("--ensemble", "--output", path, "--validate", "--comprehensive-validate", *QUICK)
    assert _run("--checkpoint", "runs/fruit_fold_all", *words) == 0
    summary = json.loads(Path("runs/fruit_fold_all/summary.json").read_text(encoding="utf-8"))
    compared = _report(tmp_path)["comprehensive_validation"]
    assert compared["accuracy_onnxruntime"] == summary["test"]["ensemble"]["accuracy"]
    classifiers = [load_classifier(f"runs/fruit_fold_{k}") for k in (0, 1)]
    data = dataset_of(classifiers[0])
    each = [predict_dataset(c, data).logits.double().softmax(1) for c in classifiers]
    exported = OnnxClassifier(path)
    files = [Path("data/fruit") / name for name in data.paths]
    expected = ((each[0] + each[1]) / 2).numpy()
    assert np.abs(exported.predict(files) - expected).max() < 1e-6
    assert exported.metadata.temperature == [1.0, 1.0]
    assert len(exported.metadata.checkpoint_sha256) == 2


def test_an_ensemble_of_other_classes_is_refused(
    best: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    state = load_checkpoint(best)
    other = tmp_path / "other.pt"
    save_checkpoint({**state, "config": state["config"].replace("citron", "lemon")}, other)
    assert _run("--checkpoint", best, other, "--ensemble", "--output", tmp_path / "e.onnx") == 2
    assert "the first difference: 'citron' and 'lemon'" in capsys.readouterr().err


def test_an_ensemble_of_other_recipes_is_refused(
    best: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    state = load_checkpoint(best)
    other = tmp_path / "other.pt"
    text = state["config"].replace("resize: stretch", "resize: pad")
    save_checkpoint({**state, "config": text}, other)
    assert _run("--checkpoint", best, other, "--ensemble", "--output", tmp_path / "e.onnx") == 2
    assert "preprocessing.resize (stretch, pad)" in capsys.readouterr().err


# ---- mistakes -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ((), "--checkpoint is missing"),
        (("--checkpoint", "runs/none/weights/best.pt"), "is not there"),
        (("--checkpoint", "nowhere/*.pt"), "matches nothing"),
        (("--checkpoint", "config.yaml"), "truncated or no checkpoint"),
        (("--checkpoint", "runs/fruit_fold_0", "--opset", "8"), "--opset is 8; expected 9 to"),
        (("--checkpoint", "runs/fruit_fold_0", "--opset", "x"), "invalid int value"),
        (("--checkpoint", "runs/fruit_fold_0", "--output", "a.pt"), "must end in .onnx"),
        (("--checkpoint", "runs/fruit_fold_0", "--input_size", "0", "4"), "two positive numbers"),
        (("--checkpoint", "runs/fruit_fold_0", "--ensemble"), "needs two checkpoints"),
        (("--checkpoint", ALL, "--output", "a.onnx"), "2 checkpoints match"),
        (("--checkpoint", ALL, "--ensemble", "--quantize"), "exclude each other"),
        (("--checkpoint", ALL, "--ensemble", "--input", "normalized"), "--input pixels"),
        (("--checkpoint", "runs/fruit_fold_0", "--valdate"), "did you mean --validate?"),
        (
            ("--checkpoint", "runs/fruit_fold_0", "--quantize", "--data_dir", "nowhere"),
            "--data_dir nowhere is no data set's folder",
        ),
    ],
)
def test_a_mistake_is_one_line(
    project: Path, capsys: pytest.CaptureFixture[str], words: tuple[str, ...], said: str
) -> None:
    assert _run(*words) in (1, 2)
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith("error: ")
    assert said in error
    assert not Path("runs/fruit_fold_0/weights/best.onnx").exists()


def test_a_file_of_another_program_is_no_export(tmp_path: Path) -> None:
    node = onnx.helper.make_node("Identity", ["x"], ["y"])
    value = [onnx.helper.make_tensor_value_info(name, 1, [1]) for name in ("x", "y")]
    graph = onnx.helper.make_graph([node], "g", [value[0]], [value[1]])
    imports = [onnx.helper.make_opsetid("", 18)]
    model = onnx.helper.make_model(graph, opset_imports=imports, ir_version=10)
    onnx.save(model, tmp_path / "a.onnx")
    with pytest.raises(CheckpointError, match="no export of ml-export"):
        OnnxClassifier(tmp_path / "a.onnx")
    (tmp_path / "b.onnx").write_bytes(b"no model")
    with pytest.raises(CheckpointError, match="ONNX Runtime does not take"):
        OnnxClassifier(tmp_path / "b.onnx")
