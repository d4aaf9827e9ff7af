"""One checkpoint is enough, and what is no whole checkpoint of this project is refused in words."""

import os
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch

from common.data.preprocessing import Preprocessing
from common.utils.checkpoint import load_checkpoint, save_checkpoint
from common.utils.errors import CheckpointError, ConfigError, DataError
from projects.image_classification.core.classifier import load_classifier
from projects.image_classification.core.config_files import run_config
from projects.image_classification.core.datasets import dataset_info, get_datasets
from projects.image_classification.core.predictions import read_predictions
from projects.image_classification.core.task import ImageClassifier
from tests.projects.image_classification.finished_runs import CLASSES, draw_fruit


def _changed(source: Path, target: Path, **changes: Any) -> Path:
    save_checkpoint({**load_checkpoint(source), **changes}, target)
    return target


def _with_config(source: Path, target: Path, old: str, new: str) -> Path:
    text = load_checkpoint(source)["config"]
    assert old in text
    return _changed(source, target, config=text.replace(old, new))


def test_a_checkpoint_alone_gives_classes_recipe_temperature_and_weights(
    best: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy = tmp_path / "copied.pt"
    copy.write_bytes(best.read_bytes())
    monkeypatch.chdir(tmp_path)  # no data, no run
    classifier = load_classifier(copy)
    assert classifier.class_names == CLASSES
    assert classifier.preprocessing.size == (12, 12)
    assert classifier.temperature == load_checkpoint(copy)["calibration"]["temperature"]
    assert not classifier.task.training
    assert not any(p.requires_grad for p in classifier.task.parameters())
    assert classifier.predict([draw_fruit(0, 99)]).argmax().item() == 0


def test_the_moving_average_is_what_is_loaded(best: Path) -> None:
    state = load_checkpoint(best)
    shadow = state["callbacks"]["EMA"]["shadow"]
    loaded = load_classifier(best).task.state_dict()
    assert shadow
    assert any(not torch.equal(state["model"][key], value) for key, value in shadow.items())
    assert all(torch.equal(loaded[key], value) for key, value in shadow.items())


def test_a_run_directory_means_its_best_weights(project: Path) -> None:
    assert load_classifier("runs/fruit_fold_0").path == Path("runs/fruit_fold_0/weights/best.pt")


def test_probabilities_are_the_softmax_of_the_recorded_logits_at_the_temperature(
    best: Path,
) -> None:
    classifier = load_classifier(best)
    recorded = read_predictions(Path("runs/fruit_fold_0/evaluation/test.pt"))
    files = [Path("data/fruit") / each for each in recorded.ids]
    expected = (recorded.logits.double() / classifier.temperature).softmax(1)
    assert torch.allclose(classifier.predict(files).double(), expected, atol=1e-6)


def test_reading_in_processes_changes_no_bit(best: Path) -> None:
    classifier = load_classifier(best)
    images = [draw_fruit(k % 3, k, (20 + k, 15)) for k in range(11)]
    alone = classifier.predict(images, batch_size=4)
    assert torch.equal(alone, classifier.predict(images, batch_size=4, num_workers=2))


def test_no_image_gives_no_row(best: Path) -> None:
    assert load_classifier(best).predict([]).shape == (0, 3)


def test_an_image_that_cannot_be_read_is_named(best: Path, tmp_path: Path) -> None:
    broken = tmp_path / "broken.jpg"
    broken.write_bytes(b"\xff\xd8 no")
    with pytest.raises(DataError, match=r"broken\.jpg"):
        load_classifier(best).predict([draw_fruit(0, 0), broken])


def test_the_pixels_of_validation_and_of_inference_are_the_same_bits(best: Path) -> None:
    classifier = load_classifier(best)
    config, _ = run_config(best)
    for split in ("val", "test"):
        data = get_datasets(config)[split]
        for place in range(0, len(data), 5):
            pixels = data[place]["image"]
            path = Path("data/fruit") / data.paths[place]
            assert torch.equal(pixels, classifier.preprocessing(path))
            described = classifier.preprocessing.describe()
            assert torch.equal(pixels, Preprocessing.from_description(described)(path))


def test_nothing_is_fetched_though_the_run_began_with_published_weights(
    best: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config, context = run_config(best)
    config.model.type, config.model.architecture = "base", "squeezenet1_1"
    config.preprocessing.image_size = [32, 32]
    task = ImageClassifier(config, has_weights=True)
    task.configure(dataset_info(config, {}), context)
    text = load_checkpoint(best)["config"]
    for old, new in (
        ("type: custom", "type: base"),
        ("architecture: resnet18", "architecture: squeezenet1_1"),
        ("pretrained: false", "pretrained: true"),
        ("image_size: [12, 12]", "image_size: [32, 32]"),
    ):
        assert old in text
        text = text.replace(old, new, 1)
    path = tmp_path / "best.pt"
    save_checkpoint({"model": task.state_dict(), "config": text}, path)

    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError("something was fetched")

    monkeypatch.setattr(torch.hub, "load_state_dict_from_url", refuse)
    monkeypatch.setattr(torch.hub, "download_url_to_file", refuse)
    loaded = load_classifier(path)
    assert loaded.predict([draw_fruit(0, 0)]).shape == (1, 3)
    assert not loaded.is_calibrated
    assert loaded.temperature == 1.0


def test_a_missing_file_is_named_with_what_is_there(best: Path) -> None:
    with pytest.raises(
        CheckpointError, match=r"no checkpoint at .*bset\.pt; there: best\.pt, last"
    ):
        load_classifier(best.with_name("bset.pt"))


@pytest.mark.parametrize("share", [0.0, 0.3, 0.9, 0.999])
def test_a_truncated_file_is_refused(best: Path, tmp_path: Path, share: float) -> None:
    content = best.read_bytes()
    damaged = tmp_path / "best.pt"
    damaged.write_bytes(content[: int(share * len(content))])
    with pytest.raises(CheckpointError, match=r"best\.pt"):
        load_classifier(damaged)


def test_a_pickle_is_refused_and_not_run(tmp_path: Path) -> None:
    canary = tmp_path / "canary"

    class Attack:
        def __reduce__(self) -> Any:
            return os.system, (f"touch {canary}",)

    path = tmp_path / "best.pt"
    torch.save({"model": {}, "config": Attack()}, path)
    with pytest.raises(CheckpointError, match="cannot be read safely"):
        load_classifier(path)
    path.write_bytes(pickle.dumps(Attack()))
    with pytest.raises(CheckpointError):
        load_classifier(path)
    assert not canary.exists()


def test_weights_without_a_configuration_are_refused(tmp_path: Path) -> None:
    save_checkpoint({"model": {"weight": torch.zeros(2)}}, tmp_path / "foreign.pt")
    with pytest.raises(CheckpointError, match="weights without a configuration"):
        load_classifier(tmp_path / "foreign.pt")


def test_weights_of_another_program_are_refused(tmp_path: Path) -> None:
    torch.save({"fc.weight": torch.zeros(2)}, tmp_path / "resnet.pth")
    with pytest.raises(CheckpointError, match="holds no model of a run"):
        load_classifier(tmp_path / "resnet.pth")


def test_a_checkpoint_of_another_project_is_refused(best: Path, tmp_path: Path) -> None:
    text = "seed: 0  # DEFAULT\nmodel:\n  d_model: 64  # DEFAULT\n"
    other = _changed(best, tmp_path / "gpt.pt", config=text)
    with pytest.raises(ConfigError, match="no checkpoint of image classification"):
        load_classifier(other)


def test_classes_that_do_not_match_their_number_are_refused(best: Path, tmp_path: Path) -> None:
    other = _with_config(best, tmp_path / "best.pt", "num_classes: 3", "num_classes: 4")
    with pytest.raises(ConfigError, match=r"names 3 classes, and data\.num_classes is 4"):
        load_classifier(other)


def test_weights_of_another_number_of_classes_are_told_in_words(best: Path, tmp_path: Path) -> None:
    state = load_checkpoint(best)
    weights = {
        key: (
            value[:2]
            if value.ndim and len(value) == 3 and "mean" not in key and "std" not in key
            else value
        )
        for key, value in state["model"].items()
    }
    shadow = {key: weights[key] for key in state["callbacks"]["EMA"]["shadow"]}
    other = _changed(
        best, tmp_path / "best.pt", model=weights, callbacks={"EMA": {"shadow": shadow}}
    )
    with pytest.raises(CheckpointError, match=r"2 outputs, .* names 3 classes"):
        load_classifier(other)


def test_missing_weights_are_listed(best: Path, tmp_path: Path) -> None:
    state = load_checkpoint(best)
    key = next(key for key in state["model"] if key.startswith("model."))
    kept = {k: v for k, v in state["model"].items() if k != key}
    other = _changed(best, tmp_path / "best.pt", model=kept, callbacks={})
    with pytest.raises(CheckpointError, match=f"missing {key}"):
        load_classifier(other)


@pytest.mark.parametrize("value", [0.0, -1.0, float("nan"), "hot"])
def test_an_impossible_temperature_is_refused(best: Path, tmp_path: Path, value: Any) -> None:
    other = _changed(best, tmp_path / "best.pt", calibration={"temperature": value})
    with pytest.raises(CheckpointError, match="temperature"):
        load_classifier(other)


def test_a_target_outside_of_the_allow_list_is_refused(best: Path, tmp_path: Path) -> None:
    old, new = "transforms: []", 'transforms: [{_target_: os.system, command: "true"}]'
    other = _with_config(best, tmp_path / "best.pt", old, new)
    with pytest.raises(ConfigError, match=r"os\.system"):
        load_classifier(other)


def test_layers_that_private_training_replaced_are_replaced_again(
    best: Path, tmp_path: Path
) -> None:
    pytest.importorskip("opacus")
    from common.training.privacy.layers import replace_layers

    text = load_checkpoint(best)["config"]
    for old, new in (
        ("trainer_type: standard", "trainer_type: dp"),
        ("noise_multiplier: null", "noise_multiplier: 1.0"),
        ("ema_decay: 0.9", "ema_decay: 0.0"),
    ):
        assert old in text
        text = text.replace(old, new, 1)
    save_checkpoint({"model": {}, "config": text}, tmp_path / "config.pt")
    config, context = run_config(tmp_path / "config.pt")
    task = ImageClassifier(config, has_weights=True)
    task.configure(dataset_info(config, {}), context)
    replace_layers(task)
    path = tmp_path / "best.pt"
    save_checkpoint({"model": task.state_dict(), "config": text}, path)
    loaded = load_classifier(path)
    assert any(isinstance(m, torch.nn.GroupNorm) for m in loaded.task.modules())
    assert loaded.predict([draw_fruit(0, 0)]).shape == (1, 3)
