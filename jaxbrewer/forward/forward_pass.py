"""A model and its adaptor as one function."""

import dataclasses
from collections.abc import Callable, Collection, Mapping
from typing import Any

import jax
import numpy as np

from ..configs.module_paths import split_module_path
from ..errors import UsageError
from .adaptors import Adaptor, Outputs, collect
from .call_arguments import arguments_of
from .capture import element
from .error_context import adaptor_errors_name, model_errors_name
from .model import Batch, Model, PyTree
from .precision import Policy
from .tracing_errors import tracing_errors_name

Forward = Callable[..., tuple[Outputs, PyTree]]
"""``forward(variables, batch, outputs, key) -> (Outputs, state)``."""


def make_forward(
    model: Model,
    adaptor: Adaptor | None,
    who: str,
    precision: Policy,
    args: Mapping[str, Any],
    modules: Collection[str] = (),
) -> Forward:
    """Builds ``forward(variables, batch, outputs, key) -> (Outputs, state)``.

    If ``outputs`` are given (cached ones, of the model or of its adaptor), the model does not run.
    A ``key`` puts the model into training mode; ``None`` evaluates it.

    Args:
        model: The model.
        adaptor: Turns the model's outputs into the dict that the objective reads.
        who: ``"student"`` or ``"teacher"``, for messages.
        precision: The dtypes.
        args: Further keyword arguments of every call, as
            :func:`~jaxbrewer.forward.call_arguments.arguments_of` divides them.
        modules: Paths of the submodules whose outputs ``Outputs.modules`` holds, with the steps to
            one array of them.

    Raises:
        UsageError: ``modules`` are asked of a plain function, which has no submodules.
    """
    apply = model.apply
    if modules:
        paths = frozenset(split_module_path(address)[0] for address in modules)
        apply = _capturing(model, who)(paths.__contains__)
    args = arguments_of(model, who, args)

    def forward(
        variables: PyTree, batch: Batch, outputs: Any, key: jax.Array | None
    ) -> tuple[Outputs, PyTree]:
        if adaptor is None:
            raise UsageError(f"The {who} needs an adaptor.")
        new_state: PyTree = {}
        if outputs is not None and modules:
            kept = outputs.modules if isinstance(outputs, Outputs) else {}
            missing = sorted(set(modules) - kept.keys())
            if missing:
                raise UsageError(
                    f"custom_matches need the {who}'s modules {missing}, but its outputs come from "
                    "'teacher_cache', which does not hold them: leave it out, or cache them."
                )
        if isinstance(outputs, Outputs):
            return outputs, new_state
        captured: dict[str, Any] = {}
        if outputs is None:
            state = variables["state"]

            def run(params: PyTree, state: PyTree, inputs: Batch, key: Any) -> tuple[Any, PyTree]:
                is_training = key is not None
                with tracing_errors_name(f"The {who}"), model_errors_name(who, inputs):
                    return apply(params, state, inputs, train=is_training, rng=key, args=args)

            outputs, new_state = precision.run(
                run,
                precision.cast_weights(variables["params"]),
                state,
                precision.cast_to_compute(batch),
                key,
            )
            new_state = jax.tree.map(lambda new, old: new.astype(old.dtype), new_state, state)
            if modules:
                outputs, captured = outputs
                captured = {
                    address: element(address, captured[split_module_path(address)[0]])
                    for address in modules
                }
        with (
            tracing_errors_name(f"The {who}'s adaptor"),
            adaptor_errors_name(who, batch, outputs),
        ):
            answer = adaptor(batch, outputs)
        collected = collect(answer, who, examples=_examples(batch))
        return dataclasses.replace(collected, modules=captured), new_state

    return forward


def _examples(batch: Batch) -> int | None:
    """Number of examples, where all arrays of the batch agree about it."""
    sizes = {np.shape(leaf)[0] for leaf in jax.tree.leaves(batch) if np.ndim(leaf)}
    return sizes.pop() if len(sizes) == 1 else None


def module_shapes(
    model: Model,
    variables: PyTree,
    batch: Batch,
    who: str,
    args: Mapping[str, Any],
    key: jax.Array | None = None,
) -> dict[str, Any]:
    """Shapes of all that every submodule returns on ``batch``, by path; only traces the model.

    A ``key`` puts the model into training mode, as in :func:`make_forward`.
    """
    apply = _capturing(model, who)(lambda path: True)
    args = arguments_of(model, who, args)

    def run(variables: PyTree, batch: Batch) -> Any:
        with model_errors_name(who, batch):
            (_, captured), _ = apply(
                variables["params"],
                variables["state"],
                batch,
                train=key is not None,
                rng=key,
                args=args,
            )
        return captured

    return jax.eval_shape(run, variables, batch)


def _capturing(model: Model, who: str) -> Callable[..., Any]:
    if model.capturing is None:
        raise UsageError(
            f"custom_matches look into the {who}, which is a plain function without submodules: "
            "give an NNX or a Linen module, or return the state in the adaptor's 'hidden'."
        )
    return model.capturing
