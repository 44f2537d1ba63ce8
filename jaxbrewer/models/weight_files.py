"""``config.json`` and the safetensors files of a model directory, as untrusted input.

Imports no JAX, so that a command can read the facts about a model before JAX is loaded.
"""

import contextlib
import dataclasses
import math
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ..errors import UsageError, missing_extra
from ..json_files import read_json

CONFIG, WEIGHTS, INDEX = "config.json", "model.safetensors", "model.safetensors.index.json"
_BUFFERS = ("position_ids", "rotary_emb.inv_freq", ".attn.bias", ".attn.masked_bias")
_BYTES = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2}
"""The types of weights that can be read, as safetensors calls them, and their sizes."""


class Tensor(NamedTuple):
    """The shape and type of a tensor in a file.

    Attributes:
        shape: The shape.
        dtype: The type under its name in safetensors: ``"F32"``.
    """

    shape: tuple[int, ...]
    dtype: str

    @property
    def numbers(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)

    @property
    def bytes(self) -> int:
        """Size in the file; 0 for types that are no weights."""
        return self.numbers * _BYTES.get(self.dtype, 0)


@dataclasses.dataclass(frozen=True)
class WeightFiles:
    """The open weights of a directory.

    Attributes:
        where: The file's name, for messages; the index's where there are several files.
        tensors: Shapes and types of the tensors by name, without buffers.
        read: Reads the tensor of a name, or the part of it that an index selects.
    """

    where: str
    tensors: Mapping[str, Tensor]
    read: Callable[[str, tuple[slice, ...] | None], np.ndarray]

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the tensors."""
        return tuple(self.tensors)

    def joined(self, other: "WeightFiles", prefixes: Mapping[str, str]) -> "WeightFiles":
        """These tensors and those of another file, whose names get other prefixes."""
        new = {
            f"{prefixes[stem]}.{leaf}": name
            for name in other.names
            for stem, _, leaf in [name.partition(".")]
            if stem in prefixes
        }
        tensors = {name: other.tensors[theirs] for name, theirs in new.items()}
        return WeightFiles(
            self.where,
            {**self.tensors, **tensors},
            lambda name, index: (
                other.read(new[name], index) if name in new else self.read(name, index)
            ),
        )


def is_model_directory(folder: Path) -> bool:
    """Whether the directory has a ``config.json`` of a model; those of runs have a manifest."""
    return os.path.isfile(folder / CONFIG) and not os.path.exists(folder / "manifest.json")


def read_config(folder: Path) -> dict[str, Any]:
    """The fields of ``config.json``.

    Raises:
        UsageError: There is no such file, or it is not a JSON object.
    """
    if not os.path.isfile(folder / CONFIG):
        raise UsageError(f"{folder} is not a Hugging Face directory: it has no {CONFIG}.")
    return read_json(folder / CONFIG, dict[str, Any])


def paths_of_weights(folder: Path, fields: Mapping[str, Any]) -> list[Path]:
    """``model.safetensors``, or the files that its index lists.

    Raises:
        UsageError: There is neither, or the index is damaged.
    """
    if os.path.isfile(folder / WEIGHTS):
        return [folder / WEIGHTS]
    if os.path.isfile(folder / INDEX):
        return [folder / name for name in _files_of_index(folder / INDEX)]
    raise UsageError(f"{folder} has no {WEIGHTS}{_remedy(folder, fields)}.")


@contextlib.contextmanager
def open_weights(folder: Path, fields: Mapping[str, Any]) -> Iterator[WeightFiles]:
    """Opens the files of :func:`paths_of_weights`.

    Raises:
        UsageError: A file is missing or damaged, two files have the same tensor, or a tensor has a
            type that is not supported.
    """
    with open_files(paths_of_weights(folder, fields)) as files:
        yield files


@contextlib.contextmanager
def open_files(paths: Sequence[Path]) -> Iterator[WeightFiles]:
    """Opens the files of a model; raises as :func:`open_weights`."""
    where = WEIGHTS if paths[0].name == WEIGHTS else INDEX
    owners: dict[str, Any] = {}
    with contextlib.ExitStack() as stack:
        for path in paths:
            file = stack.enter_context(_open(path))
            for name in file.keys():  # noqa: SIM118  # not a mapping
                if name in owners:
                    raise UsageError(f"{where}: two files have the tensor {name!r}.")
                owners[name] = file
        names = [name for name in owners if not name.endswith(_BUFFERS)]

        def read(name: str, index: tuple[slice, ...] | None = None) -> np.ndarray:
            dtype = tensors[name].dtype
            if dtype not in _BYTES:
                raise UsageError(
                    f"{where}: {name!r} has the type {dtype}; weights must be {', '.join(_BYTES)}."
                )
            file = owners[name]
            part: np.ndarray = file.get_slice(name)[index] if index else file.get_tensor(name)
            return part

        tensors = {name: _tensor(owners[name].get_slice(name)) for name in names}
        yield WeightFiles(where, tensors, read)


def safetensors() -> Any:
    """The library ``safetensors``.

    Raises:
        UsageError: It is not installed.
    """
    try:
        import safetensors.numpy
    except ImportError:
        raise missing_extra("text", "safetensors") from None
    return safetensors


def _tensor(part: Any) -> Tensor:
    return Tensor(tuple(part.get_shape()), part.get_dtype())


def _open(path: Path) -> Any:
    library = safetensors()
    if not os.path.isfile(path):
        raise UsageError(f"{path} does not exist, but {INDEX} lists it.")
    try:
        return library.safe_open(path, framework="np")
    except (library.SafetensorError, OSError, ValueError) as error:
        raise UsageError(f"{path} is damaged or not a safetensors file: {error}") from error


def _files_of_index(index: Path) -> list[str]:
    """The file names in an index, all of them beside it."""
    weight_map = read_json(index, dict[str, Any]).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise UsageError(f"{index} has no weight_map.")
    names = sorted(set(map(str, weight_map.values())))
    for name in names:
        if not name or Path(name).name != name:
            raise UsageError(f"{index} lists {name!r}, which is not a file beside it.")
    return names


def _remedy(folder: Path, fields: Mapping[str, Any]) -> str:
    """How to convert the weights of older directories without losing their head."""
    if not list(folder.glob("pytorch_model*.bin")):
        return ""
    architectures = fields.get("architectures")
    names = architectures if isinstance(architectures, list) else []
    named = bool(names) and str(names[0]).isidentifier()
    loader = names[0] if named else "AutoModelForSequenceClassification"
    note = "" if named else " (or the class of its head; AutoModel would drop the head)"
    return (
        "; it has pytorch_model.bin, which transformers converts: "
        f"transformers.{loader}.from_pretrained(folder).save_pretrained(folder){note}"
    )
