"""Paths of weights here, and names of tensors in files."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from flax import nnx

from ..errors import UsageError
from .families import Family
from .weight_files import WeightFiles

_NAME_OF_LEAF = {"kernel": "weight", "scale": "weight", "embedding": "weight"}
_OLD_NAMES = {"gamma": "weight", "beta": "bias"}

WeightPath = tuple[Any, ...]
"""Names of attributes and indices of layers, from the root of the model."""


def flat_weights(weights: Any) -> dict[WeightPath, Any]:
    """The leaves of an NNX state, or of nested dicts, by path."""
    plain = weights if isinstance(weights, dict) else nnx.to_pure_dict(weights)
    return nnx.traversals.flatten_mapping(plain)


def starts(stems: Iterable[str]) -> tuple[str, ...]:
    """The stems as beginnings of longer names."""
    return tuple(f"{stem}." for stem in stems)


def tensor_name(path: WeightPath, family: Family) -> str:
    """The tensor's name in a file."""
    *modules, leaf = path
    name = ".".join([*map(str, modules), _NAME_OF_LEAF.get(str(leaf), str(leaf))])
    for ours, theirs in family.names.items():
        if f"{name}.".startswith(f"{ours}."):
            return theirs + name.removeprefix(ours)
    return name


def is_transposed(path: WeightPath, family: Family) -> bool:
    """Whether a file holds this weight as ``[outputs, inputs]``."""
    return path[-1] == "kernel" and path[-2] not in family.untransposed


def canonical_names(files: WeightFiles, family: Family) -> dict[str, str]:
    """Maps our names, with the encoder's prefix, ``weight`` and ``bias``, to those in the files.

    Raises:
        UsageError: Two tensors have one name, once with and once without the encoder's.
    """
    names: dict[str, str] = {}
    for stored in files.names:
        stem, _, leaf = stored.rpartition(".")
        name = f"{stem}.{_OLD_NAMES.get(leaf, leaf)}" if stem else leaf
        if name.startswith(starts(family.body_parts)):
            name = f"{family.body}.{name}"
        if name in names:
            raise UsageError(
                f"{files.where} holds {name} twice, as {names[name]!r} and as {stored!r}: remove "
                "one of them."
            )
        names[name] = stored
    return names


def names_of_layers(names: Mapping[str, str], stack: str, layers: Sequence[int]) -> dict[str, str]:
    """The names of a model that has only some layers of the files.

    Args:
        names: Our names, to those in the files.
        stack: The path of the list of layers.
        layers: The numbers in the files of the model's layers.

    Examples:
        >>> names = {"h.0.w": "a", "h.1.w": "b", "h.2.w": "c", "head.w": "d"}
        >>> names_of_layers(names, "h", [2, 0])
        {'h.1.w': 'a', 'h.0.w': 'c', 'head.w': 'd'}
    """
    places = {number: place for place, number in enumerate(layers)}
    kept = {}
    for name, stored in names.items():
        number, _, rest = name.removeprefix(f"{stack}.").partition(".")
        if not name.startswith(f"{stack}.") or not number.isdecimal():
            kept[name] = stored
        elif int(number) in places:
            kept[f"{stack}.{places[int(number)]}.{rest}"] = stored
    return kept
