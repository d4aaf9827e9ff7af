"""``ml-export``: checkpoints as ONNX files, checked, measured, quantised."""

import argparse
import glob
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from common.utils.errors import ConfigError, RepriseError, exit_on_error
from projects.image_classification.cli.arguments import Parser

if TYPE_CHECKING:
    from projects.image_classification.core.export.exporting import Exported, ExportOptions

EXAMPLES = (
    "ml-export --checkpoint runs/digits_fold_0/weights/best.pt --validate",
    "ml-export --checkpoint runs/digits_fold_0/weights/best.pt --comprehensive-validate --benchmark",
    "ml-export --checkpoint runs/digits_fold_0/weights/best.pt --output digits.onnx --opset 14",
    'ml-export --checkpoint "runs/*/weights/best.pt" --validate',
    "ml-export --checkpoint runs/digits_fold_all --ensemble --comprehensive-validate",
)


def parser() -> Parser:
    """The command line of ``ml-export``."""
    parser = Parser("ml-export", __doc__ or "", EXAMPLES)
    parser.option(
        "checkpoint",
        "weights/best.pt of a run, the run's directory, or a pattern in quotes for many",
        nargs="+",
    )
    parser.option("output", "the ONNX file; default: best.onnx beside best.pt")
    parser.option(
        "opset", "operator set; 18 and above, or 9 to 17 through the older exporter", type=int
    )
    parser.option(
        "input_size", "of the input, if not as trained", type=int, nargs=2, metavar=("H", "W")
    )
    parser.option(
        "input",
        "pixels: uint8, normalised inside the graph (default); normalized: float32",
        choices=("pixels", "normalized"),
        default="pixels",
    )
    parser.option(
        "temperature",
        "probabilities at the checkpoint's temperature; default: yes for one network, no for an "
        "ensemble",
        action=argparse.BooleanOptionalAction,
    )
    parser.option("validate", "ONNX checker, load, one forward", action="store_true")
    parser.option(
        "comprehensive_validate",
        "PyTorch against ONNX Runtime on the whole test set",
        action="store_true",
    )
    parser.option("tolerance", "largest difference that passes", type=float, default=1e-4)
    parser.option("benchmark", "latency and throughput, batch 1 and 16", action="store_true")
    parser.option(
        "compile",
        "torch.compile in the benchmark",
        action=argparse.BooleanOptionalAction,
        default=True,
    )
    parser.option("quantize", "also write NAME.int8.onnx, and score it", action="store_true")
    parser.option(
        "ensemble", "all checkpoints as one file: the mean of softmax", action="store_true"
    )
    parser.option("data_dir", "the data set's folder, if it was moved")
    parser.option("batch_size", "of the test set; default: the run's", type=int)
    parser.option("num_workers", "processes that read images", type=int, default=0)
    return parser


def main(argv: Sequence[str] | None = None) -> None:
    """Run ``ml-export``."""
    with exit_on_error():
        arguments, words = parser().words(argv)
        _check(arguments, words)
        checkpoints = _checkpoints(arguments.checkpoint)
        if len(checkpoints) > 1 and not arguments.ensemble and arguments.output:
            raise ConfigError(
                f"--output names one file, and {len(checkpoints)} checkpoints match; leave it out, "
                "or make one file of all with --ensemble"
            )
        if arguments.ensemble and len(checkpoints) < 2:
            raise ConfigError(
                f"--ensemble needs two checkpoints or more; {arguments.checkpoint[0]} is "
                f"{len(checkpoints)}"
            )
        from common.utils import setup_logger
        from projects.image_classification.core.export.exporting import ExportOptions, export

        setup_logger()
        options = ExportOptions(
            output=_output(arguments),
            opset=arguments.opset,
            input_size=None if arguments.input_size is None else tuple(arguments.input_size),
            takes=arguments.input,
            temperature=arguments.temperature,
            validate=arguments.validate,
            comprehensive=arguments.comprehensive_validate,
            benchmark=arguments.benchmark,
            compiles=arguments.compile,
            quantize=arguments.quantize,
            tolerance=arguments.tolerance,
            data_dir=None if arguments.data_dir is None else Path(arguments.data_dir),
            batch_size=arguments.batch_size,
            num_workers=arguments.num_workers,
        )
        if arguments.ensemble or len(checkpoints) == 1:
            exported = export(checkpoints, options)
            _show(exported)
            sys.exit(1 if exported.problems else 0)
        sys.exit(_export_each(checkpoints, options))


def _check(arguments: argparse.Namespace, words: Sequence[str]) -> None:
    if words:
        raise ConfigError(f"ml-export takes no key=value words; got {words[0]}")
    if not arguments.checkpoint:
        raise ConfigError("ml-export: --checkpoint is missing; give runs/NAME/weights/best.pt")
    if arguments.output is not None and Path(arguments.output).suffix != ".onnx":
        raise ConfigError(f"--output {arguments.output} must end in .onnx")
    if arguments.input_size is not None and min(arguments.input_size) < 1:
        raise ConfigError(f"--input_size is {arguments.input_size}, expected two positive numbers")
    if not 0.0 <= arguments.tolerance < float("inf"):
        raise ConfigError(f"--tolerance is {arguments.tolerance}, expected a number from 0 on")
    for name, least in (("batch_size", 1), ("num_workers", 0)):
        value = getattr(arguments, name)
        if value is not None and value < least:
            raise ConfigError(f"ml-export: --{name} is {value}, expected {least} or more")
    if arguments.ensemble and arguments.quantize:
        raise ConfigError("--quantize and --ensemble exclude each other; quantise the folds")


def _checkpoints(places: Sequence[str]) -> list[Path]:
    """The checkpoints that were named: files, runs, patterns, or the record of all folds."""
    found: list[Path] = []
    for place in places:
        path = Path(place).expanduser()
        if path.exists():
            found += _of_directory(path) if path.is_dir() else [path]
            continue
        matches = sorted(glob.glob(str(path), recursive=True))
        if not matches:
            what = "matches nothing" if glob.has_magic(str(path)) else "is not there"
            raise ConfigError(
                f"--checkpoint {place} {what} (in {Path.cwd()}); expected a file such as "
                "runs/NAME/weights/best.pt, or a pattern in quotes"
            )
        for match in map(Path, matches):
            found += _of_directory(match) if match.is_dir() else [match]
    return list(dict.fromkeys(found))


def _of_directory(path: Path) -> list[Path]:
    """A run's best checkpoint; of a cross-validation those of its folds."""
    record = path / "cross_validation.json"
    if not record.is_file():
        return [path / "weights" / "best.pt"]
    try:
        folds = json.loads(record.read_text(encoding="utf-8"))["folds"]
        names = [folds[key] for key in sorted(folds, key=int)]
        return [path.parent / Path(name).name / "weights" / "best.pt" for name in names]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ConfigError(f"{record} is no record of folds: {error!r}") from None


def _output(arguments: argparse.Namespace) -> Path | None:
    """The file that was asked for; an ensemble of a cross-validation lies in its record."""
    if arguments.output is not None:
        return Path(arguments.output).expanduser()
    first = Path(arguments.checkpoint[0]).expanduser()
    if arguments.ensemble and (first / "cross_validation.json").is_file():
        return first / "ensemble.onnx"
    return None


def _export_each(checkpoints: Sequence[Path], options: "ExportOptions") -> int:
    """Export all, going on after a failure; the exit code."""
    from loguru import logger

    from projects.image_classification.core.export.exporting import export

    rows: list[tuple[str, str]] = []
    failures = 0
    for number, path in enumerate(checkpoints, 1):
        sys.stdout.write(f"[{number}/{len(checkpoints)}] {path}\n")
        sys.stdout.flush()
        try:
            exported = export([path], options)
            _show(exported)
            word = "; ".join(exported.problems) or "ok"
            failures += bool(exported.problems)
        except RepriseError as error:
            word, failures = " ".join(str(error).split()), failures + 1
        except Exception as error:  # the others are still to be exported
            logger.opt(exception=error).debug(f"{path}")
            word, failures = f"{type(error).__name__}: {' '.join(str(error).split())}", failures + 1
        rows.append((path.as_posix(), word))
    width = max(len(name) for name, _ in rows)
    sys.stdout.write("\n")
    for name, word in rows:
        sys.stdout.write(f"{name:<{width}}  {'ok' if word == 'ok' else 'FAILED: ' + word}\n")
    sys.stdout.write(f"{len(rows) - failures} exported, {failures} failed\n")
    return 1 if failures else 0


def _show(exported: "Exported") -> None:
    """What was written and found, on standard output; problems on standard error."""
    from common.config.files import show_path

    report = exported.report
    shape = "x".join(map(str, report["input"]["shape"]))
    sys.stdout.write(
        f"{show_path(exported.path)}  {report['bytes']:,} bytes, opset {report['opset']}, "
        f"{report['input']['name']} {shape}, temperature {_short(report['temperature'])}\n"
    )
    if (checked := report["validation"]) is not None:
        worst = max(each["max_abs_difference_logits"] for each in checked["forward"])
        sys.stdout.write(
            f"  validation: checker {checked['checker'][:60]}, ONNX Runtime loads it, batches of 1 "
            f"and 3 differ by up to {worst:.2g}\n"
        )
    if (compared := report["comprehensive_validation"]) is not None:
        sys.stdout.write(
            f"  {compared['images']:,} test images: logits differ by up to "
            f"{compared['max_abs_difference_logits']:.2g}, same class "
            f"{compared['argmax_agreement']:.2%}, accuracy {compared['accuracy_pytorch']:.4f} "
            f"PyTorch, {compared['accuracy_onnxruntime']:.4f} ONNX Runtime\n"
        )
    if (speed := report["benchmark"]) is not None:
        sys.stdout.write(f"  benchmark on the CPU, {speed['threads']} threads, medians:\n")
        for row in speed["results"]:
            sys.stdout.write(
                f"    batch {row['batch']:>2}  {row['variant']:<11}  {row['milliseconds']:>9.3f} ms  "
                f"{row['images_per_second']:>9,.0f} images/s\n"
            )
        for name, reason in speed["skipped"].items():
            sys.stdout.write(f"    {name} left out: {reason}\n")
    if (quantised := report["quantisation"]) is not None:
        sys.stdout.write(
            f"  {quantised['model']} ({quantised['method']} int8): "
            f"{quantised['bytes_before']:,} -> {quantised['bytes_after']:,} bytes, accuracy "
            f"{quantised['accuracy_before']:.4f} -> {quantised['accuracy_after']:.4f} on "
            f"{quantised['test_images']:,} test images\n"
        )
    for problem in exported.problems:
        sys.stderr.write(f"error: {show_path(exported.path)}: {problem}\n")


def _short(value: Any) -> str:
    values = value if isinstance(value, list) else [value]
    return ", ".join(f"{each:.4g}" for each in values)


if __name__ == "__main__":
    main()
