"""The text of ``display_parameters``, and the numbers behind it, against TextBrewer."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxbrewer import display_parameters

from . import claims, document

ROWS = document("display")
CLAIMS = claims([f"display/{row['name']}" for row in ROWS], {})


def state_dict(row) -> dict:
    """The parameters under their dotted keys; an alias is the very same array."""
    arrays: dict = {}
    for spec in row["params"]:
        dtype = jnp.dtype(spec["dtype"])
        same = arrays.get(spec.get("alias_of"))
        arrays[spec["key"]] = np.zeros(spec["shape"], dtype) if same is None else same
    return arrays


def nested(arrays: dict) -> dict:
    tree: dict = {}
    for key, array in arrays.items():
        *parents, leaf = key.split(".")
        inner = tree
        for name in parents:
            inner = inner.setdefault(name, {})
        inner[leaf] = array
    return tree


def values_of(node, path="model") -> dict:
    found = {path: list(node.value)}
    for child in node.children.values():
        found |= values_of(child, f"{path}/{child.name}")
    return found


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row["name"])
def test_parameter_tables_are_textbrewers(row):
    arrays = state_dict(row)
    forms = [
        arrays,
        nested(arrays),
        {"params": nested(arrays), "batch_stats": {"mean": np.ones(9)}},
    ]
    if not any("alias_of" in spec for spec in row["params"]):  # shapes have no identity
        shapes = {key: jax.ShapeDtypeStruct(x.shape, x.dtype) for key, x in arrays.items()}
        forms.append(nested(shapes))
    for model in forms:
        text, root = display_parameters(model, row["max_level"])
        assert text == row["text"]
        assert values_of(root) == row["node_values"]
