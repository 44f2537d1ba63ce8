"""A model and its adaptor as one function, and which part of a batch each model gets."""

from collections.abc import Callable, Mapping
from typing import Any

import jax

from .adaptors import Adaptor, Outputs, collect
from .errors import UsageError
from .functional import Batch, Model, PyTree
from .precision import Policy

Forward = Callable[..., tuple[Outputs, PyTree]]
"""``forward(variables, batch, outputs, key) -> (Outputs, state)``."""

FOR_THE_OBJECTIVE = ("teacher_cache", "teacher_id", "teacher_weights", "example_id")
"""Entries of a batch that no model sees."""


def make_forward(
    model: Model,
    adaptor: Adaptor | None,
    who: str,
    precision: Policy,
    args: Mapping[str, Any],
) -> Forward:
    """Builds ``forward(variables, batch, outputs, key) -> (Outputs, state)``.

    Given ``outputs`` (a teacher's cached ones, the model's or the adaptor's), the model is not run;
    given a ``key``, it trains.
    """

    def forward(
        variables: PyTree, batch: Batch, outputs: Any, key: jax.Array | None
    ) -> tuple[Outputs, PyTree]:
        if adaptor is None:
            raise UsageError(f"The {who} needs an adaptor.")
        new_state: PyTree = {}
        if isinstance(outputs, Outputs):
            return outputs, new_state
        if outputs is None:
            state = variables["state"]

            def run(params: PyTree, state: PyTree, inputs: Batch, key: Any) -> tuple[Any, PyTree]:
                is_training = key is not None
                return model.apply(params, state, inputs, train=is_training, rng=key, args=args)

            outputs, new_state = precision.run(
                run,
                precision.cast_weights(variables["params"]),
                state,
                precision.cast_to_compute(batch),
                key,
            )
            new_state = jax.tree.map(lambda new, old: new.astype(old.dtype), new_state, state)
        return collect(adaptor(batch, outputs), who), new_state

    return forward


def student_part(batch: Batch) -> Batch:
    """What the student and its adaptor see of a batch."""
    return _without_extras(batch["student"] if is_split(batch) else batch)


def teacher_part(batch: Batch) -> Batch:
    """What the teacher and its adaptor see, or a tuple of that for several teachers."""
    return _without_extras(batch["teacher"] if is_split(batch) else batch)


def is_split(batch: Batch) -> bool:
    """Whether a batch is ``{"teacher": ..., "student": ...}``."""
    return isinstance(batch, Mapping) and "teacher" in batch and "student" in batch


def extra(batch: Batch, name: str) -> Any:
    """An entry for the objective, ``None`` if the batch has none."""
    return batch.get(name) if isinstance(batch, Mapping) else None


def _without_extras(batch: Batch) -> Batch:
    if isinstance(batch, Mapping):
        return {name: value for name, value in batch.items() if name not in FOR_THE_OBJECTIVE}
    return batch
