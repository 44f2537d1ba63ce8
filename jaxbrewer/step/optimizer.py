"""One optax transformation for the student and its projections."""

import inspect
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax

from ..configs import IntermediateMatch
from ..errors import UsageError
from ..forward.model import PyTree
from ..objective.schedules import weight_schedule
from .state import HasProjections

OptimizerFactory = Callable[..., optax.GradientTransformation]


def make_optimizer(
    optimizer: optax.GradientTransformation | OptimizerFactory,
    objective: HasProjections,
    *,
    max_grad_norm: float = -1.0,
) -> optax.GradientTransformationExtraArgs:
    """One transformation of student and projections, each group with its own settings.

    The student is moved by ``optimizer``, seen with the student's own parameter tree, so that
    masks and labels that fit the student fit here. Each projection has an
    equal optimizer of its own, or one with the settings of its ``proj[3]`` (``{"lr": 1e-3}``).

    Args:
        optimizer: An optax transformation, or a function that makes one (``optax.adamw`` with its
            arguments in a ``functools.partial``), whose arguments ``proj[3]`` then replaces.
        objective: Its matches say which projections have settings.
        max_grad_norm: Global norm to which the gradients of student and projections together are
            clipped; -1 does not clip.

    Raises:
        UsageError: ``proj[3]`` sets what cannot be set.
    """
    student = optimizer if _is_transformation(optimizer) else _make(optimizer, "optimizer", {})

    def of_projections(matches: Mapping[str, Any]) -> optax.GradientTransformation:
        return _in_groups(
            {
                name: of_projections(match)
                if isinstance(match, Mapping)
                else _projection_optimizer(name, match, optimizer, student)
                for name, match in matches.items()
            }
        )

    grouped = _in_groups({"student": student, "projections": of_projections(objective.projected)})
    if max_grad_norm > 0:
        grouped = optax.chain(_clip(max_grad_norm), grouped)
    return optax.with_extra_args_support(grouped)


def global_norm(tree: PyTree) -> jax.Array:
    """The norm of all arrays together, in float32 at least: squares overflow in float16."""
    wide = jax.tree.map(lambda x: x.astype(jnp.promote_types(x.dtype, jnp.float32)), tree)
    return optax.tree.norm(wide)


def _clip(max_norm: float) -> optax.GradientTransformation:
    """``optax.clip_by_global_norm`` by :func:`global_norm`."""

    def clip(updates: PyTree, params: PyTree = None) -> PyTree:
        norm = global_norm(updates)
        factor = jnp.where(norm < max_norm, 1.0, max_norm / norm)
        return jax.tree.map(lambda x: (x * factor).astype(x.dtype), updates)

    return optax.stateless(clip)


def _projection_optimizer(
    index: str,
    match: IntermediateMatch,
    optimizer: optax.GradientTransformation | OptimizerFactory,
    student: optax.GradientTransformation,
) -> optax.GradientTransformation:
    settings = dict(match.proj[3]) if match.proj and len(match.proj) == 4 else {}
    if not settings:
        return student
    where = f"intermediate_matches[{index}].proj[3]"
    name = settings.pop("optimizer", None)
    if name is not None:
        factory = getattr(optax, str(name), None)
        if not callable(factory):
            raise UsageError(f"{where}: optax has no optimizer {name!r}.")
    elif _is_transformation(optimizer):
        raise UsageError(
            f"{where} sets {sorted(settings)}, but the settings of a finished optax transformation "
            "cannot be changed: pass optimizer=functools.partial(optax.adamw, learning_rate=...), "
            "or name the optimizer there, as in {'optimizer': 'adamw', 'lr': 0.001}."
        )
    else:
        factory = optimizer
    arguments: dict[str, Any] = {}
    for key, value in settings.items():
        if key == "betas":
            arguments["b1"], arguments["b2"] = value
        elif key in ("lr", "learning_rate"):
            is_schedule = isinstance(value, Mapping)
            arguments["learning_rate"] = weight_schedule(value, 0.0) if is_schedule else value
        else:
            arguments[key] = value
    return _make(factory, where, arguments)


def _make(
    factory: OptimizerFactory, where: str, arguments: dict[str, Any]
) -> optax.GradientTransformation:
    try:
        return factory(**arguments)
    except TypeError as error:
        allowed = ", ".join(inspect.signature(factory).parameters)
        raise UsageError(f"{where}: {error}. The optimizer takes: {allowed}.") from None


def _is_transformation(optimizer: Any) -> bool:
    return hasattr(optimizer, "init") and hasattr(optimizer, "update")


def _in_groups(
    groups: dict[str, optax.GradientTransformation],
) -> optax.GradientTransformationExtraArgs:
    """Each transformation on the entry of its name; ``optax.partition`` without masked leaves."""
    optimizers = {name: optax.with_extra_args_support(own) for name, own in groups.items()}

    def init(params: PyTree) -> PyTree:
        return {name: own.init(params[name]) for name, own in optimizers.items()}

    def update(
        updates: PyTree, state: PyTree, params: PyTree = None, **extra: Any
    ) -> tuple[PyTree, PyTree]:
        moved = {
            name: own.update(
                updates[name], state[name], None if params is None else params[name], **extra
            )
            for name, own in optimizers.items()
        }
        return (
            {name: result[0] for name, result in moved.items()},
            {name: result[1] for name, result in moved.items()},
        )

    return optax.GradientTransformationExtraArgs(init, update)
