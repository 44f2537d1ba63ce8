"""Infers a batch's width from the teacher's inputs when no adaptor runs."""

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np

from ..forward.adaptors import Outputs


def common_paths(
    before: Mapping[str, list[str]], outputs: Outputs, inputs_T: Any
) -> dict[str, list[str]]:
    """For each mask, the paths of teacher inputs that were as wide as it in all batches.

    Args:
        before: The result for the batches before this one; ``{}`` before the first.
        outputs: This batch's outputs.
        inputs_T: This batch's inputs.
    """
    found = {}
    for name, width in _mask_widths(outputs).items():
        wide = _as_wide(inputs_T, width)
        found[name] = [path for path in before.get(name, wide) if path in wide]
    return found


def shared_paths(parts: Sequence[Mapping[str, list[str]]]) -> dict[str, list[str]]:
    """The intersection of several parts' paths; parts without batches do not count.

    Examples:
        >>> shared_paths([{"m": ["a", "b"]}, {}, {"m": ["b"]}])
        {'m': ['b']}
    """
    shared: dict[str, list[str]] = {}
    for part in parts:
        for name, paths in part.items():
            shared[name] = [path for path in shared.get(name, paths) if path in paths]
    return shared


def chosen_paths(common: Mapping[str, list[str]]) -> dict[str, str]:
    """The most likely path for each mask that has one."""
    return {name: paths[0] for name, paths in common.items() if paths}


def widths_of(paths: Mapping[str, str], inputs_T: Any) -> dict[str, int]:
    """The width of each mask of a batch with these inputs."""
    if not paths:
        return {}
    leaves = jax.tree_util.tree_flatten_with_path(inputs_T)[0]
    shapes = {jax.tree_util.keystr(path): np.shape(leaf) for path, leaf in leaves}
    return {name: shapes[path][1] for name, path in paths.items() if path in shapes}


def _mask_widths(outputs: Outputs) -> dict[str, int]:
    masks = {f"logits_mask/{i}": mask for i, mask in enumerate(outputs.logits_mask)}
    if outputs.inputs_mask is not None:
        masks["inputs_mask"] = outputs.inputs_mask
    return {name: mask.shape[1] for name, mask in masks.items() if mask.ndim == 2}


def _as_wide(inputs_T: Any, width: int) -> list[str]:
    """The paths of inputs of this width: masks first, then integers, then floats."""
    leaves = jax.tree_util.tree_flatten_with_path(inputs_T)[0]
    wide = [
        (jax.tree_util.keystr(path), leaf)
        for path, leaf in leaves
        if np.ndim(leaf) >= 2 and np.shape(leaf)[1] == width
    ]
    wide.sort(key=lambda item: ("mask" not in item[0], np.ndim(item[1]), item[1].dtype.kind == "f"))
    return [path for path, _ in wide]
