"""How wide a batch is, which a host cannot ask the masks of an adaptor that is not run."""

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np

from ..forward.adaptors import Outputs


def common_places(
    before: Mapping[str, list[str]], outputs: Outputs, inputs_T: Any
) -> dict[str, list[str]]:
    """For each mask the places in the teacher's inputs that have been as wide in all batches.

    Args:
        before: What the batches so far have in common; ``{}`` before the first.
        outputs: This batch's outputs.
        inputs_T: This batch's inputs.
    """
    found = {}
    for name, width in _mask_widths(outputs).items():
        wide = _as_wide(inputs_T, width)
        found[name] = [path for path in before.get(name, wide) if path in wide]
    return found


def shared_places(parts: Sequence[Mapping[str, list[str]]]) -> dict[str, list[str]]:
    """What the places of several parts have in common; a part without batches has none.

    Examples:
        >>> shared_places([{"m": ["a", "b"]}, {}, {"m": ["b"]}])
        {'m': ['b']}
    """
    shared: dict[str, list[str]] = {}
    for part in parts:
        for name, places in part.items():
            shared[name] = [path for path in shared.get(name, places) if path in places]
    return shared


def chosen_places(common: Mapping[str, list[str]]) -> dict[str, str]:
    """The likeliest place for each mask that has one."""
    return {name: paths[0] for name, paths in common.items() if paths}


def widths_of(places: Mapping[str, str], inputs_T: Any) -> dict[str, int]:
    """How wide each mask of a batch with these inputs is."""
    if not places:
        return {}
    leaves = jax.tree_util.tree_flatten_with_path(inputs_T)[0]
    shapes = {jax.tree_util.keystr(path): np.shape(leaf) for path, leaf in leaves}
    return {name: shapes[path][1] for name, path in places.items() if path in shapes}


def _mask_widths(outputs: Outputs) -> dict[str, int]:
    masks = {f"logits_mask/{i}": mask for i, mask in enumerate(outputs.logits_mask)}
    if outputs.inputs_mask is not None:
        masks["inputs_mask"] = outputs.inputs_mask
    return {name: mask.shape[1] for name, mask in masks.items() if mask.ndim == 2}


def _as_wide(inputs_T: Any, width: int) -> list[str]:
    """The places that are so wide: masks first, then whole numbers, then real ones."""
    leaves = jax.tree_util.tree_flatten_with_path(inputs_T)[0]
    wide = [
        (jax.tree_util.keystr(path), leaf)
        for path, leaf in leaves
        if np.ndim(leaf) >= 2 and np.shape(leaf)[1] == width
    ]
    wide.sort(key=lambda item: ("mask" not in item[0], np.ndim(item[1]), item[1].dtype.kind == "f"))
    return [path for path, _ in wide]
