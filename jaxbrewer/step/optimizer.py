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
    its ``proj[3]``: ``{"lr_scale": 10}`` scales its steps, ``{"optimizer": "adamw", "lr": 1e-3}``
    names another optimizer, ``{"lr": 1e-3}`` changes a setting of this one. Where a mask or a label
    function needs the student's names, a projection's kernel is treated as the first matrix of the
    student that the optimizer moves, its bias as the first such vector.

    Args:
        optimizer: An optax transformation, or a function that makes one. ``proj[3]`` replaces
            arguments of a function (``functools.partial(optax.adamw, learning_rate=1e-3)``) and
            numbers of ``optax.inject_hyperparams(optax.adamw)(learning_rate=1e-3)``.
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
        settings = _settings_of(match)
        scale = settings.pop("lr_scale", None)
        where = f"intermediate_matches[{name}].proj[3]"
        if not settings:
            chosen = own if form is None else for_projection(own, form, shapes)
        elif "optimizer" in settings or not _is_transformation(optimizer):
            chosen = with_accepted_args(_from_settings(settings, optimizer, where))
        else:
            chosen = _with_hyperparameters(own, settings, where, shapes)
        if scale is None:
            return chosen
        if isinstance(scale, bool) or not isinstance(scale, (int, float)) or not scale >= 0:
            raise UsageError(f"{where}: lr_scale must be a number >= 0, got {scale!r}.")
        return optax.chain(chosen, optax.scale(scale))

    grouped: Any = _in_groups(
        {"student": of_student, "projections": of_projections(objective.projected, shapes)}
    )
    if max_grad_norm > 0:
        grouped = optax.chain(_clip(max_grad_norm), grouped)
    return reporting_failures(optax.with_extra_args_support(grouped))


def squared_norm(tree: PyTree) -> jax.Array:
    """The squared norm of all arrays, in float32 at least: squares overflow in float16."""
    wide = jax.tree.map(lambda x: x.astype(jnp.promote_types(x.dtype, jnp.float32)), tree)
    return optax.tree.norm(wide, squared=True)


def global_norm(tree: PyTree) -> jax.Array:
    """The norm of all arrays together, in float32 at least."""
    return jnp.sqrt(squared_norm(tree))


def _clip(max_norm: float) -> optax.GradientTransformation:
    """``optax.clip_by_global_norm`` by :func:`global_norm`."""

    def clip(updates: PyTree, params: PyTree = None) -> PyTree:
        norm = global_norm(updates)
        factor = jnp.where(norm < max_norm, 1.0, max_norm / norm)
        return jax.tree.map(lambda x: (x * factor).astype(x.dtype), updates)

    return optax.stateless(clip)


def _settings_of(match: IntermediateMatch) -> dict[str, Any]:
    """The optimizer settings of a match's projection, under the names of optax."""
    given = dict(match.proj[3]) if match.proj and len(match.proj) == 4 else {}
    settings: dict[str, Any] = {}
    for key, value in given.items():
        if key == "betas":
            if not isinstance(value, (list, tuple)) or len(value) != 2:
                raise UsageError(f"proj[3]: betas must be two numbers, got {value!r}.")
            settings["b1"], settings["b2"] = value
        elif key in ("lr", "learning_rate"):
            is_schedule = isinstance(value, Mapping)
            settings["learning_rate"] = weight_schedule(value, 0.0) if is_schedule else value
        else:
            settings[key] = value
    return settings


def _from_settings(
    settings: dict[str, Any],
    optimizer: optax.GradientTransformation | OptimizerFactory,
    where: str,
) -> optax.GradientTransformation:
    """A new optimizer, by its name in optax or by the user's function."""
    if "optimizer" not in settings:
        assert not _is_transformation(optimizer)
        return _make(optimizer, where, settings)
    name = settings["optimizer"]
    factory = getattr(optax, str(name), None)
    if not callable(factory):
        raise UsageError(f"{where}: optax has no optimizer {name!r}.")
    return _make(factory, where, {key: x for key, x in settings.items() if key != "optimizer"})


def _with_hyperparameters(
    optimizer: optax.GradientTransformationExtraArgs,
    settings: Mapping[str, Any],
    where: str,
    shapes: PyTree,
) -> optax.GradientTransformationExtraArgs:
    """``optimizer``, from ``optax.inject_hyperparams``, that starts with these hyperparameters."""
    state = jax.eval_shape(optimizer.init, shapes)
    scheduled = getattr(state, "hyperparams_states", {})
    settable = sorted(getattr(state, "hyperparams", {}).keys() - scheduled.keys())
    is_number = all(isinstance(value, (int, float)) for value in settings.values())
    if not settings.keys() <= set(settable) or not is_number:
        hint = f" Numbers can be set for {settable}." if settable else ""
        raise UsageError(
            f"{where} sets {sorted(settings)}, but the settings of a finished optax transformation "
            f"cannot be changed.{hint} Pass optimizer=functools.partial(optax.adamw, "
            "learning_rate=...), name the optimizer there, as in {'optimizer': 'adamw', 'lr': "
            "0.001}, or scale its steps with {'lr_scale': 10}."
        )

    def init(params: PyTree) -> PyTree:
        state: Any = optimizer.init(params)
        own = {
            name: jnp.asarray(value, state.hyperparams[name].dtype)
            for name, value in settings.items()
        }
        return state._replace(hyperparams={**state.hyperparams, **own})

    return optax.GradientTransformationExtraArgs(init, optimizer.update)


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
