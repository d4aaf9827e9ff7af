"""A network as one ONNX file with a free batch size, through ``torch.export``.

``torch.onnx.export(dynamo=True)`` writes operator set 18 or above, whatever is asked. For an older
one the exporter before it is taken, which PyTorch keeps but no longer develops.
"""

import logging
import os
import re
import sys
import tempfile
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from loguru import logger
from torch import nn

from common.utils.errors import ConfigError, FaultError
from common.utils.files import atomic_write, explained_write
from projects.image_classification.core.export.onnx_network import OUTPUTS, OnnxNetwork
from projects.image_classification.core.export.onnx_session import open_session

if TYPE_CHECKING:
    from onnx import ModelProto

DEFAULT_OPSET = 20
_OLDEST, _NEW = 9, 18  # of the old exporter, and of the one that follows torch.export
_LARGEST = 2**31 - 1  # bytes of a protobuf message
_MARGIN = 16 << 20  # of the graph beside the weights
_BATCH = "batch"
_FIXED_BATCH = (
    "the network's code fixes the size of the batch: {}; use x.flatten(1), or x.shape[0] in place of "
    "a number"
)


def export_network(
    network: OnnxNetwork,
    path: Path,
    image_shape: tuple[int, int, int],
    metadata: Mapping[str, str],
    opset: int | None = None,
) -> int:
    """Write the file, all or nothing.

    Args:
        network: On the CPU, in evaluation mode.
        path: Replaced only when the export has succeeded.
        image_shape: ``(C, H, W)`` of the input.
        metadata: Texts that go into the file.
        opset: The operator set; ``DEFAULT_OPSET`` by default.

    Returns:
        Size of the file in bytes.

    Raises:
        ConfigError: if ONNX is not installed, or the operator set does not exist.
        FaultError: if the network cannot be written as ONNX, naming the operator or the line of
            code; if it is too large, or the file cannot be written.
    """
    opset = DEFAULT_OPSET if opset is None else opset
    check_opset(opset)
    if network.num_bytes > _LARGEST - _MARGIN:
        raise FaultError(
            f"the weights are {network.num_bytes:,} bytes, and one ONNX file holds at most "
            f"{_LARGEST:,} (2 GB); train a smaller architecture, or export fewer folds"
        )
    dtype = torch.uint8 if network.takes == "pixels" else torch.float32
    example = torch.zeros((2, *image_shape), dtype=dtype)
    build = _exported if opset >= _NEW else _traced
    with torch.no_grad():
        model = build(network, example, opset)
    _check_graph(model, opset)
    _forget_source(model)
    for key, text in metadata.items():
        model.metadata_props.add(key=key, value=text)
    model.producer_name = "reprise"
    content = model.SerializeToString()
    _check_batch(content, network, example)
    with explained_write(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_write(path) as file:
            file.write(content)
    return len(content)


def check_opset(opset: int) -> None:
    """Refuse an operator set that no exporter writes.

    Raises:
        ConfigError: also if ONNX is not installed.
    """
    newest = _onnx().defs.onnx_opset_version()
    if not _OLDEST <= opset <= newest:
        raise ConfigError(
            f"--opset is {opset}; expected {_OLDEST} to {newest} ({_NEW} and above through "
            "torch.export, below through PyTorch's older exporter)"
        )


def _onnx() -> Any:
    try:
        import onnx
        import onnxscript  # noqa: F401  what torch.onnx needs
    except ImportError as error:
        raise ConfigError(
            f'ml-export needs the package {error.name}: uv pip install -e ".[export]"'
        ) from None
    return onnx


def _exported(network: OnnxNetwork, example: torch.Tensor, opset: int) -> "ModelProto":
    """Through ``torch.export``."""
    shapes = ({0: torch.export.Dim(_BATCH)},)
    program = None
    with silenced():
        try:
            program = torch.export.export(network, (example,), dynamic_shapes=shapes, strict=False)
            written = torch.onnx.export(
                program,
                input_names=[network.takes],
                output_names=list(OUTPUTS),
                opset_version=opset,
                dynamo=True,
                external_data=False,
                dynamic_shapes=shapes,
                verbose=False,
            )
            assert written is not None
            return written.model_proto
        except Exception as error:  # the exporter raises whatever a network's code meets
            failure = error
    raise FaultError(_explained(failure, program)) from failure


def _traced(network: OnnxNetwork, example: torch.Tensor, opset: int) -> "ModelProto":
    """Through the exporter of TorchScript, for operator sets below 18."""
    onnx = _onnx()
    names = {name: {0: _BATCH} for name in (network.takes, *OUTPUTS)}
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "model.onnx"
        with silenced() as noise, warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            try:
                torch.onnx.export(
                    network,
                    (example,),
                    str(file),
                    input_names=[network.takes],
                    output_names=list(OUTPUTS),
                    opset_version=opset,
                    dynamo=False,
                    dynamic_axes=names,
                )
                failure = None
            except Exception as error:  # as above
                failure = error
            said = noise()
        if failure is not None:
            raise FaultError(_explained_trace(failure, said, opset)) from failure
        fixed = [str(w.message) for w in caught if issubclass(w.category, torch.jit.TracerWarning)]
        if fixed:
            logger.warning(
                f"opset {opset}: the older exporter fixed {len(fixed)} decisions of the network's "
                f"code as one batch of two images met them; check the file with "
                f"--comprehensive-validate, or export it with --opset {_NEW} or above"
            )
        return onnx.load(str(file))


def _check_graph(model: "ModelProto", opset: int) -> None:
    """The operator set that was asked for, and a batch size that is free."""
    written = next(each.version for each in model.opset_import if each.domain in ("", "ai.onnx"))
    if written != opset:
        raise ConfigError(
            f"--opset is {opset}, but the exporter can only write {written} of this network; give "
            f"--opset {written}"
        )
    for value in (*model.graph.input, *model.graph.output):
        dimensions = value.type.tensor_type.shape.dim
        if not dimensions or not dimensions[0].dim_param:
            size = dimensions[0].dim_value if dimensions else "none"
            raise FaultError(_FIXED_BATCH.format(f"'{value.name}' always has {size} rows"))


def _check_batch(content: bytes, network: OnnxNetwork, example: torch.Tensor) -> None:
    """Run three images where two were traced: a size written into the graph shows at once."""
    three = torch.cat([example, example[:1]])
    session = open_session(content, "the export")
    try:
        expected = tuple(network(three)[0].shape)
    except RuntimeError as error:
        reason = " ".join(str(error).split())[:200]
        raise FaultError(_FIXED_BATCH.format(f"of three images: {reason}")) from None
    try:
        found = session.run([OUTPUTS[0]], {network.takes: three.numpy()})[0].shape
    except Exception as error:  # ONNX Runtime's own classes
        found = " ".join(str(error).split())[:200]
    if found != expected:
        raise FaultError(_FIXED_BATCH.format(f"three images give {found}, expected {expected}"))


def _forget_source(model: "ModelProto") -> None:
    """Take out what the exporters note of this machine: paths and lines of code at every node."""
    for node in model.graph.node:
        del node.metadata_props[:]
        node.doc_string = ""
    for value in (*model.graph.value_info, *model.graph.input, *model.graph.output):
        del value.metadata_props[:]
        value.doc_string = ""
    for tensor in model.graph.initializer:
        del tensor.metadata_props[:]
        tensor.doc_string = ""
    for function in model.functions:
        for node in function.node:
            del node.metadata_props[:]
            node.doc_string = ""
    del model.graph.metadata_props[:]
    del model.metadata_props[:]
    model.graph.doc_string = model.doc_string = ""


def _explained(error: Exception, program: Any) -> str:
    """One line of what ``torch.export`` or the translation to ONNX says."""
    chain: list[BaseException] = [error]
    while (cause := chain[-1].__cause__ or chain[-1].__context__) and cause not in chain:
        chain.append(cause)
    text = "\n".join(str(each) for each in chain)
    if found := re.search(r"No ONNX function found for <OpOverload\(op='([\w.]+)'", text):
        place = _place_of(found[1], program)
        return (
            f"ONNX has no operator for {found[1]}{place}; build the network without it, or train "
            "another architecture"
        )
    reason = next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
    if "Constraints violated" in text:
        return _FIXED_BATCH.format("torch.export finds it does not stay free")
    code = re.findall(r'File "([^"]+)", line (\d+), in forward\n\s*(\S.*)', text)
    where = f"; at {Path(code[-1][0]).name}, line {code[-1][1]}: {code[-1][2]}" if code else ""
    return (
        f"torch.export cannot follow the network: {reason[:300]}{where[:200]}; its forward() must "
        "not depend on the values of tensors"
    )


def _explained_trace(error: Exception, noise: str, opset: int) -> str:
    reason = next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
    if found := re.search(r"operator '(\w+::\w+)' to ONNX", reason):
        scope = re.search(rf"= {re.escape(found[1])}\(.*?scope: (\S+)", noise)
        inside = scope[1].split("/")[-1] if scope else ""
        kind, _, name = inside.rpartition("::")
        place = f" in {name} ({kind.rpartition('.')[2]})" if name else ""
        return f"ONNX opset {opset} has no operator for {found[1]}{place}: {reason[:200]}"
    return f"the older exporter (opset {opset}) cannot write the network: {reason[:300]}"


def _place_of(operator: str, program: Any) -> str:
    """`` in members.0.network.head (Softmin)``, if the traced program still knows."""
    if program is None:
        return ""
    name = operator.split(".")[1]
    for node in program.graph.nodes:
        stack = node.meta.get("nn_module_stack")
        if stack and re.search(rf"(^|[._]){re.escape(name)}(\.|$)", str(node.target)):
            path, kind = list(stack.values())[-1]
            kind = kind.__name__ if isinstance(kind, type) else str(kind).rpartition(".")[2]
            return (
                f" in {re.sub(r'^members[.]0[.]network[.]?', '', path) or 'the network'} ({kind})"
            )
    return ""


@contextmanager
def silenced() -> Iterator[Any]:
    """Keep from the terminal what the exporters print and log, also from C++; gives it as text.

    They print whole graphs before they raise.
    """
    kept = [os.dup(1), os.dup(2)]
    below = logging.root.manager.disable
    with tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace") as sink:

        def said() -> str:
            sink.flush()
            sink.seek(0)
            return sink.read()

        sys.stdout.flush()
        sys.stderr.flush()
        for number in (1, 2):
            os.dup2(sink.fileno(), number)
        logging.disable(logging.WARNING)
        try:
            with redirect_stdout(sink), redirect_stderr(sink), warnings.catch_warnings():
                warnings.simplefilter("ignore")
                yield said
        finally:
            logging.disable(below)
            for number, original in enumerate(kept, 1):
                os.dup2(original, number)
                os.close(original)


def check_input_size(network: nn.Module, example: torch.Tensor) -> None:
    """Run the network once on an input of another size than it was trained with.

    Raises:
        ConfigError: if it does not take it.
    """
    height, width = example.shape[-2:]
    try:
        with torch.inference_mode():
            network(example)
    except (RuntimeError, ValueError, AssertionError, IndexError, TypeError) as error:
        reason = next((line for line in str(error).splitlines() if line.strip()), "")
        raise ConfigError(
            f"--input_size {height} {width}: the network does not take it: {reason[:300]}; leave "
            "--input_size out for the size it was trained with"
        ) from None
