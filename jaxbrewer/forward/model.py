"""A model as one pure function over plain dicts of arrays.

The rest of the package sees every model as
``apply(params, state, batch, train=, rng=, args=) -> (outputs, new_state)``. The optimizer moves
``params``; a forward pass may change ``state`` (batch statistics). Both are nested dicts with
string keys, whatever the library, so sharding rules and checkpoints see stable paths.
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, Protocol

import jax
from flax import traverse_util

from ..errors import UsageError
from .capture import Select

PyTree = Any
Batch = Any
"""A mapping (keyword arguments of the model), a tuple or list (positional ones), or one array."""


class Apply(Protocol):
    """A model's forward pass."""

    def __call__(
        self,
        params: PyTree,
        state: PyTree,
        batch: Batch,
        *,
        train: bool,
        rng: jax.Array | None = None,
        args: Mapping[str, Any] = {},
    ) -> tuple[Any, PyTree]:
        """Returns the outputs and the new state; ``args`` are further keyword arguments."""
        ...


@dataclasses.dataclass(frozen=True)
class Model:
    """A forward pass, its initial weights, and how to return weights to the user's object.

    Attributes:
        apply: The pure forward pass.
        params: Trainable weights, a nested dict of arrays.
        state: Arrays that a forward pass changes; ``{}`` for most models.
        export: ``(params, state) -> object`` of the kind the user gave, with these weights.
        write_back: Like ``export``, but updates an NNX module in place and returns it.
        takes: Names of the batch entries that the model's signature takes; ``None`` for all.
        partitioning: How the module's metadata splits arrays over a mesh. Keys are paths, names
            joined by ``/``; values hold a mesh axis or ``None`` for each axis of the array.
        capturing: ``select -> apply``, where ``apply`` returns ``(outputs, {path: output})`` as
            outputs; the dict holds the outputs of the submodules whose path ``select`` accepts.
            ``None`` for a function, which has no submodules.
        variable_types: Class of the variable that holds a parameter, by its path with dots, for
            NNX modules.
        variable_ids: The ``id`` of each variable of an NNX module, by its path with dots.
    """

    apply: Apply
    params: PyTree
    state: PyTree = dataclasses.field(default_factory=dict)
    export: Callable[[PyTree, PyTree], Any] = lambda params, state: params
    write_back: Callable[[PyTree, PyTree], Any] = lambda params, state: params
    takes: frozenset[str] | None = None
    partitioning: Mapping[str, tuple[Any, ...]] = dataclasses.field(default_factory=dict)
    capturing: Callable[[Select], Apply] | None = None
    variable_types: Mapping[str, type] = dataclasses.field(default_factory=dict)
    variable_ids: Mapping[str, int] = dataclasses.field(default_factory=dict)

    @property
    def variables(self) -> dict[str, PyTree]:
        """``{"params": ..., "state": ...}``, as a train step takes a teacher."""
        return {"params": self.params, "state": self.state}


def check_variables(name: str, before: PyTree, after: PyTree, remedy: str) -> None:
    """Checks that a training forward pass created no variables.

    Args:
        name: The module's class.
        before: Its state before, nested dicts.
        after: Its state after.
        remedy: What creates the variables beforehand.

    Raises:
        UsageError: It did.
    """
    known = traverse_util.flatten_dict(before, sep="/")
    created = [path for path in traverse_util.flatten_dict(after, sep="/") if path not in known]
    if created:
        raise UsageError(
            f"{name} creates the variables {', '.join(map(repr, created[:3]))} in a training step, "
            f"which its state lacks: {remedy}."
        )
