"""A table of a model's parameters, in TextBrewer's layout."""

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any

import flax.linen as nn
import jax
import numpy as np
from flax import nnx

from ..errors import UsageError
from .as_model import as_model
from .model import Model

MEBIBYTE = 2**20


@dataclasses.dataclass
class LayerNode:
    """A parameter, or all parameters whose paths share a prefix.

    Attributes:
        name: Last part of the path; ``(shared)`` marks a parameter that was counted before.
        fullname: The path, parts joined by dots; ``"model"`` for the root.
        parameters: Number of scalars; one that several paths share counts at the first path.
        size: Size in bytes.
        children: The nodes below, by the next part of the path.
    """

    name: str
    fullname: str
    parameters: int = 0
    size: int = 0
    children: dict[str, "LayerNode"] = dataclasses.field(default_factory=dict)

    @property
    def value(self) -> tuple[int, float]:
        """Number of scalars and size in mebibytes, as in TextBrewer."""
        return self.parameters, self.size / MEBIBYTE


def display_parameters(model: Any, max_level: int | None = None) -> tuple[str, LayerNode]:
    r"""A table of the number of parameters and the memory of each part of a model.

    As in TextBrewer, a part with a single child has a line without numbers, which are those of the
    child; :class:`LayerNode` has them for every part.

    Args:
        model: An NNX module, of which the ``nnx.Param`` variables are counted; Linen variables, of
            which ``"params"`` is; anything else that a distiller takes as a model; or any pytree of
            arrays (or of ``jax.ShapeDtypeStruct``), all of which count. Keys with dots, as in
            PyTorch's state dicts, are paths.
        max_level: Levels below the root to show; ``None`` shows all.

    Returns:
        The text and the root node. Two paths share a parameter if they lead to the same variable
        or array object.

    Raises:
        UsageError: ``max_level`` is not an int >= 0, or a leaf of the model is not an array.

    Examples:
        >>> text, root = display_parameters({"linear": {"w": np.ones((3, 2)), "b": np.ones(2)}})
        >>> print(text.replace("\t", "|"))
        <BLANKLINE>
        LAYER NAME |        #PARAMS|     RATIO| MEM(MB)
        --model
          --linear:|              8|   100.00%|    0.00
            --w:   |              6|    75.00%|    0.00
            --b:   |              2|    25.00%|    0.00
        <BLANKLINE>
        >>> root.children["linear"].parameters
        8
    """
    if max_level is not None and (isinstance(max_level, bool) or not isinstance(max_level, int)):
        raise UsageError(f"display_parameters: max_level must be an int, got {max_level!r}.")
    if max_level is not None and max_level < 0:
        raise UsageError(f"display_parameters: max_level must not be negative, got {max_level}.")
    root, counted = LayerNode("model", "model"), set()
    for path, leaf in _parameters(model):
        nodes = [root]
        for depth, name in enumerate(path, start=1):
            node = LayerNode(name, ".".join(path[:depth]))
            nodes.append(nodes[-1].children.setdefault(name, node))
        if id(leaf) in counted:
            nodes[-1].name += "(shared)"
            nodes[-1].fullname += "(shared)"
            continue
        if isinstance(leaf, (jax.Array, np.ndarray, nnx.Variable)):
            counted.add(id(leaf))
        for node in nodes:
            node.parameters += leaf.size
            node.size += leaf.size * leaf.dtype.itemsize
    return _table(root, max_level), root


def _table(root: LayerNode, max_level: int | None) -> str:
    rows = list(_rows(root, 0, max_level))
    width = max(len(label) for label, _ in rows) + 1
    header = f"\n{'LAYER NAME':<{width}}\t{'#PARAMS':>15}\t{'RATIO':>10}\t{'MEM(MB)':>8}\n"
    lines = [header]
    for label, node in rows:
        if node is None:
            lines.append(f"{label:{width}}\n")
            continue
        count, mebibytes = node.value
        ratio = count / max(root.parameters, 1)
        lines.append(f"{label + ':':<{width}}\t{count:15,d}\t{ratio:>10.2%}\t{mebibytes:>8.2f}\n")
    return "".join(lines)


def _rows(
    node: LayerNode, level: int, max_level: int | None
) -> Iterator[tuple[str, LayerNode | None]]:
    """Labels from the root down, each with the node whose numbers follow it, or ``None``."""
    label = "  " * level + "--" + node.name
    if level == max_level:
        yield label, node
        return
    yield label, None if len(node.children) == 1 else node
    for child in node.children.values():
        yield from _rows(child, level + 1, max_level)


def _parameters(model: Any) -> Iterator[tuple[tuple[str, ...], Any]]:
    """The path and the array (or variable) of every parameter, in the model's own order."""
    if isinstance(model, nnx.Module):
        yield from _variables(model, (), ())
    elif isinstance(model, Model):
        yield from _leaves(model.params, ())
    elif isinstance(model, nn.Module):
        as_model(model)  # raises: the variables are missing
    elif isinstance(model, tuple) and len(model) == 2 and callable(model[0]):
        yield from _parameters(model[1])
    elif isinstance(model, Mapping) and isinstance(model.get("params"), Mapping):
        yield from _leaves(model["params"], ())
    else:
        yield from _leaves(model, ())


def _variables(
    value: Any, path: tuple[str, ...], inside: tuple[int, ...]
) -> Iterator[tuple[tuple[str, ...], nnx.Variable[Any]]]:
    """Parameters in the order of a module's attributes; a shared one at every path."""
    if isinstance(value, nnx.Variable):
        if isinstance(value, nnx.Param):
            yield path, value
        return
    items: list[tuple[Any, Any]]
    if isinstance(value, nnx.Pytree):
        items = [(name, part) for name, part in vars(value).items() if name[0] != "_"]
    elif isinstance(value, Mapping):
        items = list(value.items())
    elif isinstance(value, (list, tuple)):
        items = list(enumerate(value))
    else:
        return
    if id(value) in inside:  # a reference to an enclosing module
        return
    for name, part in items:
        yield from _variables(part, (*path, *str(name).split(".")), (*inside, id(value)))


def _leaves(tree: Any, path: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], Any]]:
    """The arrays of a pytree; mappings keep their own order, which JAX would sort."""
    if isinstance(tree, nn.meta.AxisMetadata):
        tree = tree.unbox()
    if hasattr(tree, "shape") and hasattr(tree, "dtype"):
        yield path or ("array",), tree
        return
    if isinstance(tree, Mapping):
        items = [(str(name), part) for name, part in tree.items()]
    elif jax.tree_util.all_leaves([tree]):
        items = []
        array = np.asarray(tree)
        if array.dtype.kind in "OUS":
            raise UsageError(
                f"display_parameters: {'.'.join(path) or 'the model'} must be an array, got "
                f"{type(tree).__name__}."
            )
        yield path or ("array",), array
    else:
        parts, _ = jax.tree_util.tree_flatten_with_path(tree, is_leaf=lambda x: x is not tree)
        items = [(jax.tree_util.keystr(key, simple=True), part) for key, part in parts]
    for name, part in items:
        yield from _leaves(part, (*path, *name.split(".")))
