"""One optax transformation for the student and its projections."""

import contextlib
import inspect
import traceback
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import nnx

from ..configs import IntermediateMatch
from ..errors import UsageError
from ..forward.model import Model, PyTree
from ..objective.schedules import weight_schedule
from .optimizer_trees import convert_extra_args, for_projection, for_student
from .state import HasProjections

OptimizerFactory = Callable[..., optax.GradientTransformation]

_WRAPPERS = (
    "chain", "named_chain", "partition", "multi_transform", "masked", "inject_hyperparams",
    "inject_stateful_hyperparams", "with_extra_args_support", "stateless", "flatten",
)  # fmt: skip


def make_optimizer(
    optimizer: optax.GradientTransformation | OptimizerFactory,
    objective: HasProjections,
    *,
    max_grad_norm: float = -1.0,
    student: Model | None = None,
) -> optax.GradientTransformationExtraArgs:
    """One transformation of student and projections, each group with its own settings.

    ``optimizer`` moves the student and sees the student's own parameter tree, so that masks and
    labels that fit the student fit here: as a nested dict or, with ``student``, as an
    ``nnx.State``. Each projection has an equal optimizer of its own, or one with the settings of
    its ``proj[3]`` (``{"lr": 1e-3}``). Where a mask or a label function needs the student's names,
    a projection's kernel is treated as the first matrix of the student that the optimizer moves,
    its bias as the first such vector.

    Args:
        optimizer: An optax transformation, or a function that makes one (``optax.adamw`` with its
            arguments in a ``functools.partial``), whose arguments ``proj[3]`` then replaces.
        objective: Its matches have the projections and their settings.
        max_grad_norm: Global norm to which the gradients of student and projections together are
            clipped; -1 does not clip.
        student: The student; needed where the optimizer holds a tree of its parameters that is an
            ``nnx.State``, or that a projection has to fit.

    Raises:
        UsageError: ``optimizer`` is not an optimizer, ``max_grad_norm`` is neither positive nor
            -1, or ``proj[3]`` sets what cannot be set.
    """
    _require_optimizer(optimizer)
    if isinstance(max_grad_norm, bool) or not isinstance(max_grad_norm, (int, float)):
        raise UsageError(f"max_grad_norm must be a number, got {type(max_grad_norm).__name__}.")
    if max_grad_norm != -1 and not 0 < max_grad_norm < float("inf"):
        raise UsageError(
            f"max_grad_norm must be positive and finite, or -1 to not clip, got {max_grad_norm}."
        )
    own = optimizer if _is_transformation(optimizer) else _make(optimizer, "optimizer", {})
    own = of_student = with_accepted_args(own)
    form = None
    if student is not None:
        of_student, form = for_student(own, student)
    shapes = jax.eval_shape(objective.init_projections, jax.random.key(0))

    def of_projections(matches: Mapping[str, Any], shapes: PyTree) -> Any:
        return _in_groups(
            {
                name: of_projections(match, shapes[name])
                if isinstance(match, Mapping)
                else of_projection(name, match, shapes[name])
                for name, match in matches.items()
            }
        )

    def of_projection(name: str, match: IntermediateMatch, shapes: PyTree) -> Any:
        separate = _projection_optimizer(name, match, optimizer)
        if separate is not None:
            return with_accepted_args(separate)
        return own if form is None else for_projection(own, form, shapes)

    grouped: Any = _in_groups(
        {"student": of_student, "projections": of_projections(objective.projected, shapes)}
    )
    if max_grad_norm > 0:
        grouped = optax.chain(_clip(max_grad_norm), grouped)
    return reporting_failures(optax.with_extra_args_support(grouped))


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
    index: str, match: IntermediateMatch, optimizer: optax.GradientTransformation | OptimizerFactory
) -> optax.GradientTransformation | None:
    """The optimizer that ``proj[3]`` describes; ``None`` without settings."""
    settings = dict(match.proj[3]) if match.proj and len(match.proj) == 4 else {}
    if not settings:
        return None
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
        made = factory(**arguments)
    except TypeError as error:
        allowed = ", ".join(inspect.signature(factory).parameters)
        raise UsageError(f"{where}: {error}. The optimizer takes: {allowed}.") from None
    if not _is_transformation(made):
        raise UsageError(
            f"{where} must make an optax transformation, but returned {type(made).__name__}."
        )
    return made


def _is_transformation(optimizer: Any) -> bool:
    return hasattr(optimizer, "init") and hasattr(optimizer, "update")


def _require_optimizer(optimizer: Any) -> None:
    if isinstance(optimizer, nnx.Optimizer):
        raise UsageError(
            "optimizer must be an optax transformation, got an nnx.Optimizer: give its "
            "transformation, optimizer.tx."
        )
    if not _is_transformation(optimizer) and not callable(optimizer):
        raise UsageError(
            "optimizer must be an optax transformation such as optax.adam(1e-3), or a function "
            f"that makes one, got {type(optimizer).__name__}."
        )


def _in_groups(
    groups: Mapping[str, optax.GradientTransformationExtraArgs],
) -> optax.GradientTransformationExtraArgs:
    """Each transformation on the entry of its name; ``optax.partition`` without masked leaves."""

    def init(params: PyTree) -> PyTree:
        return {name: own.init(params[name]) for name, own in groups.items()}

    def update(
        updates: PyTree, state: PyTree, params: PyTree = None, **extra: Any
    ) -> tuple[PyTree, PyTree]:
        def args_of(name: str) -> dict[str, Any]:
            return convert_extra_args(
                extra, lambda tree: tree[name], lambda own: {**(params or {}), name: own}
            )

        moved = {
            name: own.update(
                updates[name],
                state[name],
                None if params is None else params[name],
                **args_of(name),
            )
            for name, own in groups.items()
        }
        return (
            {name: result[0] for name, result in moved.items()},
            {name: result[1] for name, result in moved.items()},
        )

    return optax.GradientTransformationExtraArgs(init, update)


def with_accepted_args(
    optimizer: optax.GradientTransformation,
) -> optax.GradientTransformationExtraArgs:
    """``optimizer`` with an ``update`` that ignores the keyword arguments it does not take."""
    optimizer = optax.with_extra_args_support(optimizer)
    parameters = inspect.signature(optimizer.update).parameters.values()
    if any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters):
        return optimizer
    accepted = {parameter.name for parameter in parameters}

    def update(
        updates: PyTree, state: PyTree, params: PyTree = None, **extra: Any
    ) -> tuple[PyTree, PyTree]:
        own = {name: value for name, value in extra.items() if name in accepted}
        result: tuple[PyTree, PyTree] = optimizer.update(updates, state, params, **own)
        return result

    return optax.GradientTransformationExtraArgs(optimizer.init, update)


def reporting_failures(
    optimizer: optax.GradientTransformationExtraArgs,
) -> optax.GradientTransformationExtraArgs:
    """``optimizer``, whose errors name the transformation that raised them, in one line."""

    def init(params: PyTree) -> PyTree:
        with _failures_reported():
            return optimizer.init(params)

    def update(
        updates: PyTree, state: PyTree, params: PyTree = None, **extra: Any
    ) -> tuple[PyTree, PyTree]:
        with _failures_reported():
            moved, state = optimizer.update(updates, state, params, **extra)
        structures: list[Any] = [jax.tree.structure(tree) for tree in (moved, updates)]
        if structures[0] != structures[1]:
            raise UsageError(
                "The optimizer cannot be used in a training step: its updates have another "
                "structure than the parameters, as those of a measurement have."
            )
        return moved, state

    return optax.GradientTransformationExtraArgs(init, update)


@contextlib.contextmanager
def _failures_reported() -> Iterator[None]:
    try:
        yield
    except UsageError:
        raise
    except Exception as error:
        names = [
            frame.f_code.co_qualname.split(".")[0]
            for frame, _ in traceback.walk_tb(error.__traceback__)
            if str(frame.f_globals.get("__name__")).startswith("optax.")
        ]
        # Wrappers such as chain and partition only pass an error on.
        inner = [name for name in names if name not in _WRAPPERS]
        who = (inner or names or ["optimizer"])[0 if inner else -1]
        reason = (str(error).strip() or repr(error)).splitlines()[0]
        raise UsageError(
            f"The optimizer cannot be used in a training step: {who}: "
            f"{type(error).__name__}: {reason}"
        ) from error
