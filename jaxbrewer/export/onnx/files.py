"""ONNX files: written from graphs, quantised, and run by onnxruntime."""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ..._version import __version__
from ...errors import UsageError, missing_extra
from ..program import Program
from .graph import Graph
from .translate import translate

OPSET, IR_VERSION = 20, 9
LARGEST_FILE = 1_900_000_000
"""Bytes of weights in one file: protobuf reads at most 2 GiB. More lie in a file beside it."""


def library() -> Any:
    """The library ``onnx``.

    Raises:
        UsageError: It is not installed.
    """
    try:
        import onnx
    except ImportError:
        raise missing_extra("onnx", "onnx") from None
    return onnx


def runtime() -> Any:
    """The library ``onnxruntime``.

    Raises:
        UsageError: It is not installed.
    """
    try:
        import onnxruntime
    except ImportError:
        raise missing_extra("onnx", "onnxruntime") from None
    return onnxruntime


def write(program: Program, path: Path, *, largest_file: int = LARGEST_FILE) -> None:
    """Writes a program as an ONNX file.

    Args:
        program: The program.
        path: The file.
        largest_file: Bytes of weights above which they lie beside it, in ``<name>_data``.

    Raises:
        UsageError: ``onnx`` is not installed, or an operation has no translation.
    """
    onnx = library()
    graph = translate(program)
    model = _model(onnx, program, graph)
    size = sum(array.nbytes for array in graph.initializers.values())
    external = {"save_as_external_data": True, "location": f"{path.name}_data"}
    onnx.save_model(model, str(path), **(external if size > largest_file else {}))


def _model(onnx: Any, program: Program, graph: Graph) -> Any:
    helper = onnx.helper

    def info(name: str) -> Any:
        value = graph.values[name]
        kind = helper.np_dtype_to_tensor_dtype(value.dtype)
        return helper.make_tensor_value_info(
            name, kind, [dim if isinstance(dim, int) else str(dim) for dim in value.shape]
        )

    nodes = [
        helper.make_node(
            node.op, node.inputs, node.outputs, name=node.outputs[0], **node.attributes
        )
        for node in graph.nodes
    ]
    tensors = [
        onnx.numpy_helper.from_array(np.ascontiguousarray(array), name)
        for name, array in graph.initializers.items()
    ]
    body = helper.make_graph(
        nodes,
        str(program.facts["task"]),
        [info(name) for name in program.inputs],
        [info(name) for name in program.outputs],
        tensors,
    )
    return helper.make_model(
        body,
        opset_imports=[helper.make_opsetid("", OPSET)],
        ir_version=IR_VERSION,
        producer_name="jaxbrewer",
        producer_version=__version__,
    )


def annotate(path: Path, metadata: Mapping[str, Any]) -> None:
    """Writes metadata into an ONNX file, as strings under ``jaxbrewer.*``; others are JSON."""
    onnx = library()
    model = onnx.load(str(path), load_external_data=False)
    for name, value in metadata.items():
        entry = model.metadata_props.add()
        entry.key = f"jaxbrewer.{name}"
        entry.value = value if isinstance(value, str) else json.dumps(value)
    path.write_bytes(model.SerializeToString())


def open_session(path: Path, *, threads: int | None = None) -> Any:
    """An onnxruntime session on the CPU.

    Args:
        path: The file.
        threads: Threads of an operation; ``None`` for one on each core that the process may use.

    Raises:
        UsageError: ``onnxruntime`` is not installed, or cannot read the file.
    """
    ort = runtime()
    options = ort.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = threads or _cores()
    try:
        return ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # its exceptions share no narrower base
        raise UsageError(f"{path} is damaged or not an ONNX model: {_line(error)}") from error


def _cores() -> int:
    """The cores that the process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def run(session: Any, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The outputs of a session by name.

    Raises:
        UsageError: The model cannot read the inputs.
    """
    names = [output.name for output in session.get_outputs()]
    feeds = {given.name: np.asarray(inputs[given.name], np.int64) for given in session.get_inputs()}
    try:
        return dict(zip(names, session.run(names, feeds), strict=True))
    except Exception as error:  # as above
        raise UsageError(f"onnxruntime cannot run the model: {_line(error)}") from error


def _line(error: BaseException) -> str:
    return " ".join(str(error).split())[:200]
