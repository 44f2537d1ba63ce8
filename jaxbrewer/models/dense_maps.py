"""The dense maps of a model's layers, and models in which others take their place."""

import operator
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from flax import nnx


class DenseMap(NamedTuple):
    """A dense map in a layer.

    Attributes:
        path: Names from the root of the model, joined by dots: ``model.layers.0.mlp.up_proj``.
        owner: The module that has it.
        name: Its attribute there.
    """

    path: str
    owner: nnx.Module
    name: str

    @property
    def module(self) -> Any:
        """The map."""
        return getattr(self.owner, self.name)


def dense_maps(model: Any, kinds: tuple[type, ...] = (nnx.Linear,)) -> Iterator[DenseMap]:
    """The maps of some classes in the layers of a model; heads and embeddings are left out.

    Args:
        model: A :class:`~jaxbrewer.models.TransformerModel`.
        kinds: The classes.
    """
    layers = operator.attrgetter(model.stack)(model)
    owners = [(path, owner) for path, owner in nnx.iter_modules(layers)]
    for path, owner in owners:
        for name, value in list(vars(owner).items()):
            if type(value) in kinds:
                parts = (model.stack, *map(str, path), name)
                yield DenseMap(".".join(parts), owner, name)


def replaced(
    model: Any, make: Callable[[DenseMap], Any], kinds: tuple[type, ...] = (nnx.Linear,)
) -> Any:
    """A copy of a model with other maps; it shares the arrays of all that is not replaced.

    Args:
        model: The model, which does not change.
        make: A new module for each map, or ``None`` to keep it.
        kinds: The classes of the maps.
    """
    copy = nnx.merge(*nnx.split(model))
    for found in dense_maps(copy, kinds):
        new = make(found)
        if new is not None:
            setattr(found.owner, found.name, new)
    return copy
