"""``_target_``: what may be built, and what is refused before anything is imported."""

import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch

from common.config import instantiate
from common.config.targets import check_targets, resolve_target
from common.utils.errors import ConfigError


def test_a_module_is_built_with_its_arguments():
    linear = instantiate({"_target_": "torch.nn.Linear", "in_features": 3, "out_features": 2})
    assert isinstance(linear, torch.nn.Linear)
    assert tuple(linear.weight.shape) == (2, 3)


def test_nested_targets_and_positional_arguments_are_built():
    layers = [{"_target_": "torch.nn.Linear", "_args_": [3, 2]}, {"_target_": "torch.nn.ReLU"}]
    model = instantiate({"_target_": "torch.nn.Sequential", "_args_": layers})
    assert [type(layer).__name__ for layer in model] == ["Linear", "ReLU"]


def test_lists_reach_the_target_as_lists():
    norm = instantiate({"_target_": "torch.nn.LayerNorm", "normalized_shape": [2, 3]})
    assert norm.normalized_shape == (2, 3)


def test_arguments_no_file_can_hold_arrive_untouched():
    parameters = [torch.nn.Parameter(torch.ones(2))]
    section = {"_target_": "torch.optim.SGD", "lr": 0.5, "momentum": 0.9}
    optimizer = instantiate(section, params=parameters, lr=0.1)
    assert optimizer.param_groups[0]["params"][0] is parameters[0]
    assert optimizer.param_groups[0]["lr"] == 0.1
    assert optimizer.param_groups[0]["momentum"] == 0.9


def test_partial_gives_a_callable():
    build = instantiate({"_target_": "torch.nn.Linear", "in_features": 3, "_partial_": True})
    assert build(out_features=5).out_features == 5


def test_a_schemas_instance_may_describe_an_object():
    @dataclass
    class Layer:
        in_features: int = 4
        out_features: int = 1
        _target_: str = field(default="torch.nn.Linear")

    assert instantiate(Layer()).in_features == 4


@pytest.mark.parametrize(
    "path",
    [
        "torch.nn.GELU",
        "torch.nn.modules.linear.Linear",
        "torch.nn.functional.relu",
        "torch.optim.AdamW",
        "torch.optim.lr_scheduler.StepLR",
        "torchvision.transforms.Normalize",
        "torchvision.transforms.v2.RandomHorizontalFlip",
        "timm.create_model",
        "timm.layers.DropPath",
        "common.models.Transformer",
        "common.models.resnet.ResNet",
        "common.training.callbacks.EMA",
    ],
)
def test_what_is_on_the_list_resolves(path: str):
    assert resolve_target(path).__name__ == path.rpartition(".")[2]


@pytest.mark.parametrize(
    "path",
    [
        "os.system",
        "builtins.open",
        "builtins.eval",
        "logging.os.system",
        "subprocess.Popen",
        "functools.partial",
        "hydra.utils.get_method",
        "torch.load",
        "torch.hub.load",
        "torch.serialization.load",
        "numpy.load",
        "torchx.nn.Linear",
        "torch.nnx.Linear",
        "commonplace.thing",
        "common.utils.files.os.system",
        "common.utils.files.atomic_write_text",
        "common.utils.runs.Run",
        "common.config.command_line.sys.exit",
        "common.config.targets.instantiate",
        "common.data.download_dataset",
        "common.data.hf_utils.download_dataset",
        "torch.nn.modules.module.functools.partial",
        "torch.nn.modules.module.torch.load",
        "torch.nn.functional.importlib.import_module",
        "torch.nn.utils.clip_grad_norm_",
        "torch.nn.Linear.forward",
        "torch.nn.Module.__init__",
        "torch.nn.Module.__init__.__globals__",
        "torch.nn.utils._deprecation_utils.lazy_deprecated_import",
        "torch.nn",
        "torch.nn.functional",
        "torch.nn.modules",
        "timm.models.load_state_dict",
        "timm.models._helpers.load_state_dict",
        "timm.utils.CheckpointSaver",
        "timm.data.readers.reader_image_in_tar.ReaderImageInTar",
        "timm.models.load_checkpoint",
        "common.models.transformer.torch.load",
        "common.models.no_such_thing",
        "common.no_such_module.Thing",
        "",
        ".",
        "torch..nn",
        "torch.nn.Linear ",
        "torch.nn.Linear()",
        "torch.nn.class",
        None,
        3,
        ["torch.nn.Linear"],
    ],
)
def test_everything_else_is_refused(path: Any):
    with pytest.raises(ConfigError) as error:
        resolve_target(path)
    assert "\n" not in str(error.value)


def test_a_refused_path_imports_nothing():
    code = (
        "import sys\n"
        "from common.config.targets import resolve_target\n"
        "try:\n    resolve_target('this.thing')\nexcept Exception as error:\n    print(error)\n"
        "print('this' in sys.modules, 'torch' in sys.modules)\n"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.stdout.splitlines()[-1] == "False False", result.stderr


@pytest.fixture
def paper(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A paper's folder in a project of its own, in place of this one's papers."""
    folder = tmp_path / "project" / "papers" / "x"
    folder.mkdir(parents=True)
    for package in (folder.parent, folder):
        (package / "__init__.py").touch()
    for name in [n for n in sys.modules if n.partition(".")[0] == "papers"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.syspath_prepend(str(folder.parents[1]))
    monkeypatch.setattr("common.config.targets.get_project_root", lambda: folder.parents[1])
    yield folder
    for name in [n for n in sys.modules if n.partition(".")[0] == "papers"]:
        del sys.modules[name]  # the others come back


def test_a_papers_own_class_is_on_the_list(paper: Path):
    (paper / "model.py").write_text("from torch import nn\nclass Thing(nn.Module):\n    size = 3\n")
    assert instantiate({"_target_": "papers.x.model.Thing"}).size == 3


@pytest.mark.parametrize(
    "path",
    [
        "papers.arcface.model.ArcFaceTask",
        "papers.vit.model.build_model",
        "papers.dolg.model.build_network",
        "projects.image_classification.core.networks.small.TinyNet",
        "projects.product_matching.core.pooling_log.PoolingLog",
    ],
)
def test_parts_of_a_training_of_papers_and_projects_are_on_the_list(path: str):
    assert resolve_target(path).__name__ == path.rpartition(".")[2]


@pytest.mark.parametrize(
    "path",
    [
        "papers.resnet.train.train",
        "papers.resnet.evaluate.evaluate",
        "papers.dolg.plot.attention_maps",
        "papers.gpt2.generate.load_language_model",
        "papers.gpt2.tokenization.TextTokenizer",
        "projects.image_classification.cli.train.main",
        "projects.image_classification.core.export.exporting.export",
        "projects.product_matching.cli.index.main",
        "projects.product_matching.cli.match.main",
        "projects.product_matching.core.index.file_states.FileStates",
        "projects.product_matching.core.index.vector_index.VectorIndex",
        "projects.product_matching.core.session.run_session",
    ],
)
def test_commands_of_papers_and_projects_are_refused(path: str):
    with pytest.raises(ConfigError, match="which is no part of a training") as error:
        resolve_target(path)
    assert "\n" not in str(error.value)


def test_a_function_whose_annotation_cannot_be_read_is_refused(paper: Path):
    lines = ["from __future__ import annotations", "def build() -> Unknown: ...", "def bare(): ..."]
    (paper / "model.py").write_text("\n".join(lines))
    for name in ("build", "bare"):
        with pytest.raises(ConfigError, match="which is no part of a training"):
            resolve_target(f"papers.x.model.{name}")


@pytest.mark.parametrize("link", ["data", "other"])
def test_code_behind_a_link_out_of_the_project_is_never_imported(
    paper: Path, tmp_path: Path, link: str
):
    canary = tmp_path / "canary"
    downloaded = tmp_path / "assets" / "datasets" / "evil"
    downloaded.mkdir(parents=True)
    (downloaded / "loader.py").write_text(f"open({str(canary)!r}, 'w')\nclass Thing: pass\n")
    (paper / link).symlink_to(downloaded)
    with pytest.raises(ConfigError, match="not code of this project"):
        resolve_target(f"papers.x.{link}.loader.Thing")
    assert not canary.exists()


def test_code_in_a_papers_data_folder_is_never_imported(paper: Path, tmp_path: Path):
    canary = tmp_path / "canary"
    (paper / "data").mkdir()
    (paper / "data" / "loader.py").write_text(f"open({str(canary)!r}, 'w')\nclass Thing: pass\n")
    with pytest.raises(ConfigError, match="not code of this project"):
        resolve_target("papers.x.data.loader.Thing")
    assert not canary.exists()


def test_a_nested_target_is_checked_before_the_outer_one_is_built(tmp_path: Path):
    canary = tmp_path / "canary"
    evil = {"_target_": "os.mkdir", "path": str(canary)}
    section = {"_target_": "torch.nn.Sequential", "_args_": [{"_target_": "torch.nn.ReLU"}, evil]}
    with pytest.raises(ConfigError, match=r"_args_\[1\]._target_ is 'os.mkdir'"):
        instantiate(section)
    assert not canary.exists()


@pytest.mark.parametrize(
    ("section", "problem"),
    [
        ({"in_feature": 1}, "in_feature is no argument of torch.nn.Linear; did you mean 'in_feat"),
        ({"_partial_": "yes"}, "_partial_ is 'yes', expected true or false"),
        ({"_args_": 3}, "_args_ is 3, expected a list"),
        ({"_convert_": "some"}, "_convert_ is 'some'"),
        ({"_partal_": True}, "_partal_ is not a key; did you mean '_partial_'?"),
        ({"in_features": "${oc.env:HOME}"}, "references are resolved before"),
    ],
)
def test_a_wrong_section_is_refused(section: dict[str, Any], problem: str):
    with pytest.raises(ConfigError) as error:
        check_targets({"head": {"_target_": "torch.nn.Linear", **section}})
    assert problem in str(error.value)
    assert str(error.value).startswith("head.")


def test_a_missing_argument_is_one_line():
    with pytest.raises(ConfigError, match="missing a required argument: 'out_features'"):
        instantiate({"_target_": "torch.nn.Linear", "in_features": 3})


def test_a_misspelt_target_names_the_nearest():
    with pytest.raises(ConfigError, match="did you mean 'Linear'"):
        resolve_target("torch.nn.Linea")
