"""``config.json`` and the safetensors files of a model directory, as untrusted input."""

import contextlib
import dataclasses
import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import UsageError

CONFIG, WEIGHTS, INDEX = "config.json", "model.safetensors", "model.safetensors.index.json"
_BUFFERS = ("position_ids",)


@dataclasses.dataclass(frozen=True)
class WeightFiles:
    """The open weights of a directory.

    Attributes:
        where: The file's name, for messages; the index's where there are several files.
        names: The tensors, without buffers.
        read: Reads the tensor of a name.
    """

    where: str
    names: tuple[str, ...]
    read: Callable[[str], np.ndarray]


def read_config(folder: Path) -> dict[str, Any]:
    """The fields of ``config.json``.

    Raises:
        UsageError: There is no such file, or it is not a JSON object.
    """
    path = folder / CONFIG
    if not path.is_file():
        raise UsageError(f"{folder} is not a Hugging Face directory: it has no {CONFIG}.")
    return _json_object(path)


@contextlib.contextmanager
def open_weights(folder: Path, fields: Mapping[str, Any]) -> Iterator[WeightFiles]:
    """Opens ``model.safetensors``, or the files that its index lists.

    Raises:
        UsageError: A file is missing or damaged, or a tensor stands in two files.
    """
    single, index = folder / WEIGHTS, folder / INDEX
    if single.is_file():
        paths, where = [single], WEIGHTS
    elif index.is_file():
        paths, where = [folder / name for name in _files_of_index(index)], INDEX
    else:
        raise UsageError(f"{folder} has no {WEIGHTS}{_remedy(folder, fields)}.")
    owners: dict[str, Any] = {}
    with contextlib.ExitStack() as stack:
        for path in paths:
            file = stack.enter_context(_open(path))
            for name in file.keys():  # noqa: SIM118  # not a mapping
                if name in owners:
                    raise UsageError(f"{where}: {name!r} stands in two files.")
                owners[name] = file
        names = tuple(name for name in owners if not name.endswith(_BUFFERS))
        yield WeightFiles(where, names, lambda name: owners[name].get_tensor(name))


def safetensors() -> Any:
    """The library ``safetensors``.

    Raises:
        UsageError: It is not installed.
    """
    try:
        import safetensors.numpy
    except ImportError as error:
        raise UsageError(
            "Model directories need safetensors: pip install jaxbrewer[text]"
        ) from error
    return safetensors


def _open(path: Path) -> Any:
    library = safetensors()
    if not path.is_file():
        raise UsageError(f"{path} does not exist, but {INDEX} lists it.")
    try:
        return library.safe_open(path, framework="np")
    except (library.SafetensorError, OSError) as error:
        raise UsageError(f"{path} is damaged or not a safetensors file: {error}") from error


def _files_of_index(index: Path) -> list[str]:
    """The file names in an index, all of them beside it."""
    weight_map = _json_object(index).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise UsageError(f"{index} has no weight_map.")
    names = sorted(set(map(str, weight_map.values())))
    for name in names:
        if Path(name).name != name:
            raise UsageError(f"{index} lists {name!r}, which is not a file beside it.")
    return names


def _json_object(path: Path) -> dict[str, Any]:
    try:
        fields = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UsageError(f"{path} is not JSON: {error}") from error
    if not isinstance(fields, dict):
        raise UsageError(f"{path} must hold a JSON object, got {type(fields).__name__}.")
    return fields


def _remedy(folder: Path, fields: Mapping[str, Any]) -> str:
    """How to convert the weights of older directories, head included."""
    if not list(folder.glob("pytorch_model*.bin")):
        return ""
    architectures = fields.get("architectures")
    names = architectures if isinstance(architectures, list) else []
    loader = names[0] if names and str(names[0]).isidentifier() else "AutoModel"
    return (
        "; it has pytorch_model.bin, which transformers converts: "
        f"transformers.{loader}.from_pretrained(folder).save_pretrained(folder)"
    )
