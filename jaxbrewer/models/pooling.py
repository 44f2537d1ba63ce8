"""How an encoder's tokens become one embedding, as the library sentence-transformers stores it.

A directory has the encoder as ``transformers`` saves it, and beside it ``modules.json``, which
lists ``1_Pooling``, and perhaps ``2_Dense`` (a map with a ``model.safetensors`` of its own) and
``2_Normalize``. Imports no JAX.
"""

import dataclasses
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..configs.data import POOLINGS as POOLINGS
from ..errors import UsageError, suggest
from ..json_files import read_json, write_json

MODULES = "modules.json"
DENSE = "embedding_map"
"""The name of the dense map in a model, and the prefix of its tensors here."""

_OLD_MODES = {
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_cls_token": "cls",
    "pooling_mode_max_tokens": "max",
    "pooling_mode_lasttoken": "lasttoken",
    "pooling_mode_mean_sqrt_len_tokens": "mean_sqrt_len_tokens",
    "pooling_mode_weightedmean_tokens": "weightedmean",
}
_ACTIVATIONS = {"tanh": "Tanh", "relu": "ReLU", "gelu": "GELU", "identity": "linear.Identity"}
_TYPES = "sentence_transformers.models."
_LENGTHS = "sentence_bert_config.json"
"""The file with the number of tokens to which sentence-transformers cuts texts."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Pooling:
    """How the last hidden states become an embedding.

    Attributes:
        mode: ``"mean"`` over the tokens, ``"cls"`` (the first token), ``"max"`` over the tokens, or
            ``"lasttoken"``.
        width: Width of the embedding after a dense map; ``None`` for none.
        activation: Applied to the dense map: ``"tanh"``, ``"relu"``, ``"gelu"`` or ``"identity"``.
        bias: Whether the dense map has a bias.
        normalize: Whether embeddings are scaled to length 1.

    Raises:
        UsageError: A value is not one of these.

    Examples:
        >>> Pooling(mode="cls", normalize=True).width is None
        True
        >>> Pooling(mode="average")
        Traceback (most recent call last):
        jaxbrewer.errors.UsageError: Pooling mode 'average' is unknown: Allowed: 'mean', 'cls',
        'max', 'lasttoken'.
    """

    mode: str = "mean"
    width: int | None = None
    activation: str = "tanh"
    bias: bool = True
    normalize: bool = False

    def __post_init__(self) -> None:
        for field, allowed in (("mode", POOLINGS), ("activation", tuple(_ACTIVATIONS))):
            value = getattr(self, field)
            if value not in allowed:
                raise UsageError(f"Pooling {field} {value!r} is unknown: {suggest(value, allowed)}")
        is_int = isinstance(self.width, int) and not isinstance(self.width, bool)
        if self.width is not None and not (is_int and 1 <= self.width <= 2**24):
            raise UsageError(f"Pooling width must be an integer from 1, got {self.width!r}.")
        for field in ("bias", "normalize"):
            if not isinstance(getattr(self, field), bool):
                raise UsageError(
                    f"Pooling {field} must be true or false, got {getattr(self, field)!r}."
                )

    @classmethod
    def of(cls, value: "Pooling | Mapping[str, Any]") -> "Pooling":
        """A pooling, or the pooling with these fields.

        Raises:
            UsageError: It is neither, or a field is unknown.
        """
        if isinstance(value, Pooling):
            return value
        if not isinstance(value, Mapping):
            raise UsageError(f"pooling must be a mapping of its fields, got {value!r:.60}.")
        names = [field.name for field in dataclasses.fields(cls)]
        for name in value:
            if name not in names:
                raise UsageError(f"pooling has no field {name!r}: {suggest(name, names)}")
        return cls(**value)


def read_pooling(folder: Path) -> Pooling | None:
    """The pooling of a directory; ``None`` if it has no ``modules.json``.

    Raises:
        UsageError: A file is damaged, or a module or a setting is not supported.
    """
    path = folder / MODULES
    if not os.path.isfile(path):
        return None
    pooling: Pooling | None = None
    for module in read_json(path, list[dict[str, Any]]):
        kind, place = str(module.get("type", "")).rpartition(".")[2], str(module.get("path", ""))
        if kind == "Transformer":
            if place not in ("", "."):
                raise UsageError(f"{path}: the encoder is in {place!r}: give that directory.")
        elif kind == "Pooling" and pooling is None:
            pooling = Pooling(mode=_mode(_inside(folder, place, path)))
        elif kind == "Dense" and pooling is not None and pooling.width is None:
            fields = _inside(folder, place, path)
            pooling = _with_dense(pooling, fields, f"{folder / place}")
        elif kind == "Normalize" and pooling is not None:
            pooling = dataclasses.replace(pooling, normalize=True)
        else:
            raise UsageError(
                f"{path}: the module {kind!r} is not supported in this place, only Transformer, "
                "Pooling, Dense and Normalize, in this order."
            )
    if pooling is None:
        raise UsageError(f"{path} lists no Pooling.")
    _require_no_prompt(folder)
    return pooling


def dense_weights(folder: Path) -> Path | None:
    """The ``model.safetensors`` of a directory's dense map, if it has one."""
    if not os.path.isfile(folder / MODULES):
        return None
    for module in read_json(folder / MODULES, list[dict[str, Any]]):
        if str(module.get("type", "")).endswith(".Dense"):
            return folder / str(module.get("path", "")) / "model.safetensors"
    return None


def pooling_files(pooling: Pooling, width: int, longest: int | None) -> dict[str, Any]:
    """What JSON files hold about a pooling, by their paths in the model's directory.

    Args:
        pooling: The pooling.
        width: The encoder's hidden size.
        longest: The largest number of tokens of an input.
    """
    kinds = ["Transformer", "Pooling"]
    kinds += ["Dense"] if pooling.width is not None else []
    kinds += ["Normalize"] if pooling.normalize else []
    paths = ["", *(f"{number}_{kind}" for number, kind in enumerate(kinds) if number)]
    modules = [
        {"idx": number, "name": str(number), "path": path, "type": f"{_TYPES}{kind}"}
        for number, (kind, path) in enumerate(zip(kinds, paths, strict=True))
    ]
    modes = {key: mode == pooling.mode for key, mode in _OLD_MODES.items()}
    files: dict[str, Any] = {
        MODULES: modules,
        "1_Pooling/config.json": {"word_embedding_dimension": width, **modes},
        _LENGTHS: {"max_seq_length": longest, "do_lower_case": False},
        "config_sentence_transformers.json": {"similarity_fn_name": "cosine"},
    }
    if pooling.width is not None:
        files["2_Dense/config.json"] = {
            "in_features": width,
            "out_features": pooling.width,
            "bias": pooling.bias,
            "activation_function": f"torch.nn.modules.{_module_of(pooling.activation)}",
        }
    return files


def _module_of(activation: str) -> str:
    name = _ACTIVATIONS[activation]
    return name if "." in name else f"activation.{name}"


def _inside(folder: Path, place: str, path: Path) -> dict[str, Any]:
    """The ``config.json`` of a module."""
    if not place or Path(place).name != place:
        raise UsageError(f"{path} lists {place!r}, which is not a directory beside it.")
    return read_json(folder / place / "config.json", dict[str, Any])


def _mode(fields: Mapping[str, Any]) -> str:
    given = fields.get("pooling_mode")
    modes = given if isinstance(given, list) else [given]
    if given is None:
        modes = [mode for key, mode in _OLD_MODES.items() if fields.get(key)]
    if len(modes) != 1 or modes[0] not in POOLINGS:
        raise UsageError(
            f"The pooling {' + '.join(map(str, modes)) or 'none'} is not supported, only one of "
            f"{', '.join(POOLINGS)}."
        )
    return str(modes[0])


def _with_dense(pooling: Pooling, fields: Mapping[str, Any], where: str) -> Pooling:
    name = str(fields.get("activation_function", "torch.nn.modules.activation.Tanh"))
    by_class = {theirs.rpartition(".")[2]: ours for ours, theirs in _ACTIVATIONS.items()}
    activation = by_class.get(name.rpartition(".")[2])
    other = {"module_input_name": "sentence_embedding", "use_residual": False}
    for key, only in other.items():
        if fields.get(key, only) != only:
            raise UsageError(f"{where}: {key} {fields[key]!r} is not supported, only {only!r}.")
    if activation is None:
        raise UsageError(f"{where}: the activation {name!r} is not supported.")
    return dataclasses.replace(
        pooling,
        width=fields.get("out_features"),
        bias=fields.get("bias", True),
        activation=activation,
    )


def _require_no_prompt(folder: Path) -> None:
    """Refuses models that put a prompt before every text."""
    path = folder / "config_sentence_transformers.json"
    fields = read_json(path, dict[str, Any]) if os.path.isfile(path) else {}
    prompt = fields.get("default_prompt_name")
    if prompt is not None:
        raise UsageError(
            f"{path}: default_prompt_name {prompt!r} is not supported: put the prompt before the "
            "texts and remove the entry."
        )


def write_pooling(folder: Path, files: Mapping[str, Any]) -> None:
    """Writes the files of :func:`pooling_files`; ``modules.json`` last."""
    for name in sorted(files, key=lambda name: name == MODULES):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        write_json(folder / name, files[name])
    for module in files[MODULES]:
        (folder / module["path"]).mkdir(exist_ok=True)


def limit_length(folder: Path, max_length: int) -> None:
    """Makes sentence-transformers cut texts as jaxbrewer does; does nothing to other directories.

    Args:
        folder: The model's directory.
        max_length: Maximum number of tokens.
    """
    path = folder / _LENGTHS
    if os.path.isfile(path):
        write_json(path, {**read_json(path, dict[str, Any]), "max_seq_length": max_length})
