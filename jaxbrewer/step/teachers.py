"""One teacher, several, or their cached outputs, behind one function."""

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax

from ..configs import CustomMatch, DistillationConfig
from ..data.batch_parts import is_split, objective_entry, teacher_part
from ..errors import UsageError
from ..forward.adaptors import Adaptor, Outputs, collect
from ..forward.bfloat16_products import fast_on_cpu
from ..forward.error_context import adaptor_errors_name
from ..forward.forward_pass import Forward, make_forward
from ..forward.model import Batch, Model, PyTree
from ..forward.precision import AS_GIVEN, Policy
from ..losses import whole_logits
from ..objective.ensemble import (
    RunningTargets,
    Targets,
    add_outputs,
    as_targets,
    finish_targets,
    routing_weights,
)
from ..objective.objective import Objective

TeacherForward = Callable[[PyTree, Batch, jax.Array | int], Targets | None]
Teacher = Model | Sequence[Model] | None
"""One teacher, or several; a step takes the variables of one, or a tuple with those of each."""
Adaptors = Adaptor | Sequence[Adaptor] | None
"""The adaptor of one teacher or of all, or one for each."""


def models_of(teacher: Teacher) -> tuple[Model, ...]:
    """The teachers, however many."""
    if teacher is None:
        return ()
    return (teacher,) if isinstance(teacher, Model) else tuple(teacher)


def make_teacher_forward(
    teacher: Teacher,
    adaptor: Adaptors,
    objective: Objective,
    *,
    precision: Policy = AS_GIVEN,
    args: Mapping[str, Any] = {},
) -> TeacherForward:
    """Builds ``teacher_forward(variables, batch, step) -> Targets``, in evaluation mode.

    Several teachers run one after the other; where their logits are averaged, only the running
    sum is kept. A teacher whose outputs are in the batch's ``"teacher_cache"`` is not run.

    Args:
        teacher: The teacher or teachers; ``None`` if there is none, or if batches bring
            ``"teacher_cache"``: :class:`~jaxbrewer.Outputs`, what the adaptor reads, or without
            an adaptor logits or an adaptor's dict; a tuple of these for several teachers.
        adaptor: Its adaptor; for several teachers one each, or one for all.
        objective: Averages the teachers.
        precision: The dtypes.
        args: Further keyword arguments of every call.

    Raises:
        UsageError: The settings per teacher do not match the number of teachers.
    """
    if teacher is None:
        return functools.partial(_targets_from_cache, objective, adaptor)
    forwards = _forwards(teacher, adaptor, precision, args, objective.config.custom_matches)
    if isinstance(teacher, Model):

        def of_one(variables: PyTree, batch: Batch, step: jax.Array | int) -> Targets:
            require_variables("teacher_variables", variables)
            outputs, _ = forwards[0](variables, *_of_one(batch), None)
            outputs = jax.lax.stop_gradient(outputs)
            return Targets((outputs,), (None,), (outputs,))

        return of_one
    objective.ensemble.require(len(forwards))

    def of_several(variables: PyTree, batch: Batch, step: jax.Array | int) -> Targets:
        _require_variables_of_each(variables, len(forwards))
        ensemble, temperature = objective.ensemble, objective.base_temperature(step)
        routing = _routing_of(batch, len(forwards))
        running = RunningTargets()
        for forward, own, part, cached in zip(
            forwards, variables, *parts_of_teachers(batch, len(forwards)), strict=True
        ):
            if running.total and cached is None:  # a teacher starts when the one before is added
                part, total = jax.lax.optimization_barrier((part, running.total))
                running = dataclasses.replace(running, total=total)
            outputs, _ = forward(own, part, cached, None)
            running = add_outputs(
                ensemble,
                running,
                jax.lax.stop_gradient(outputs),
                step=step,
                temperature=temperature,
                routing=routing,
            )
        return finish_targets(ensemble, running, temperature=temperature, routing=routing)

    return of_several


def require_variables(name: str, variables: Any) -> None:
    """Raises :class:`UsageError` if these are not a model's ``variables``."""
    if not isinstance(variables, Mapping) or not {"params", "state"} <= variables.keys():
        given = type(variables).__name__
        if isinstance(variables, Mapping):
            given = f"a dict of {sorted(map(str, variables))[:4]}"
        raise UsageError(
            f"{name} must be the model's .variables, {{'params': ..., 'state': ...}}, got {given}."
        )


def _require_variables_of_each(variables: Any, teachers: int) -> None:
    if not isinstance(variables, (tuple, list)) or len(variables) != teachers:
        given = type(variables).__name__
        if isinstance(variables, (tuple, list)):
            given = f"{len(variables)}"
        raise UsageError(
            f"teacher_variables must be a tuple with the .variables of each of the {teachers} "
            f"teachers, got {given}."
        )
    for index, own in enumerate(variables):
        require_variables(f"teacher_variables[{index}]", own)


def _targets_from_cache(
    objective: Objective,
    adaptor: Adaptors,
    variables: PyTree,
    batch: Batch,
    step: jax.Array | int,
) -> Targets | None:
    """The cached outputs of teachers that are not in memory; ``None`` if the batch has none."""
    cached = objective_entry(batch, "teacher_cache")
    if cached is None:
        return None
    routing = None
    if isinstance(cached, (tuple, list)) and not hasattr(cached, "_fields"):
        adaptors = _one_each(adaptor, len(cached))
        parts, _ = parts_of_teachers(batch, len(cached))
        outputs: Any = tuple(map(_read_cached, cached, adaptors, parts))
        routing = _routing_of(batch, len(cached))
    else:
        outputs = _read_cached(cached, _one_each(adaptor, 1)[0], teacher_part(batch))
    temperature = objective.base_temperature(step)
    return as_targets(
        objective.ensemble, outputs, step=step, temperature=temperature, routing=routing
    )


def _routing_of(batch: Batch, teachers: int) -> jax.Array | None:
    """The weights of the teachers for each example that a batch brings."""
    return routing_weights(
        objective_entry(batch, "teacher_id"), objective_entry(batch, "teacher_weights"), teachers
    )


def _read_cached(cached: Any, adaptor: Adaptor | None, batch: Batch) -> Outputs:
    """The outputs in an entry ``"teacher_cache"`` of a teacher that is not in memory."""
    if isinstance(cached, Outputs):
        return cached
    if adaptor is not None:
        with adaptor_errors_name("teacher", batch, cached):
            answer = adaptor(batch, cached)
        return collect(answer, "teacher")
    return collect(cached if isinstance(cached, Mapping) else {"logits": cached}, "teacher")


def make_teacher_step(
    teacher: Model | Sequence[Model],
    adaptor: Adaptors,
    *,
    precision: Policy = AS_GIVEN,
    args: Mapping[str, Any] = {},
    custom_matches: Sequence[CustomMatch] = (),
) -> Callable[[PyTree, Batch], Outputs | tuple[Outputs, ...]]:
    """Builds ``teacher_step(teacher_variables, batch) -> Outputs``, in evaluation mode.

    Its result, for several teachers a tuple, may stand in a batch as ``"teacher_cache"``; they are
    then not run. It holds the outputs of the modules that ``custom_matches`` name.
    """
    forwards = _forwards(teacher, adaptor, precision, args, custom_matches)

    @fast_on_cpu
    def of_one(variables: PyTree, batch: Batch) -> Outputs:
        require_variables("teacher_variables", variables)
        return forwards[0](variables, *_of_one(batch), None)[0]

    @fast_on_cpu
    def of_several(variables: PyTree, batch: Batch) -> tuple[Outputs, ...]:
        _require_variables_of_each(variables, len(forwards))
        return tuple(
            forward(own, part, cached, None)[0]
            for forward, own, part, cached in zip(
                forwards, variables, *parts_of_teachers(batch, len(forwards)), strict=True
            )
        )

    return of_one if isinstance(teacher, Model) else of_several


def only_needed(outputs: Outputs, config: DistillationConfig, *, teacher: int = 0) -> Outputs:
    """Removes the layers that no match of this teacher needs, before outputs are stored.

    Layers keep their numbers; ``None`` stands for a layer that is left out.
    """
    needed: dict[str, set[int]] = {}
    for match in config.intermediate_matches:
        if match.teacher == teacher:
            layers = match.layer_T if isinstance(match.layer_T, tuple) else (match.layer_T,)
            needed.setdefault(match.feature, set()).update(layers)
    features = {
        name: tuple(
            layer if {index, index - len(layers)} & needed[name] else None
            for index, layer in enumerate(layers)
        )
        for name, layers in outputs.features.items()
        if name in needed
    }
    return dataclasses.replace(outputs, features=features)


def with_whole_logits(outputs: Outputs) -> Outputs:
    """Outputs that can be stored by example: arrays in place of each ``LogitsOf``.

    The head of a :class:`~jaxbrewer.LogitsOf` belongs to no example.
    """
    logits: Any = tuple(whole_logits("the teacher's logits, stored", x) for x in outputs.logits)
    return dataclasses.replace(outputs, logits=logits)


def _forwards(
    teacher: Model | Sequence[Model],
    adaptor: Adaptors,
    precision: Policy,
    args: Mapping[str, Any],
    custom_matches: Sequence[CustomMatch],
) -> tuple[Forward, ...]:
    precision = precision.of_teacher()

    def modules(index: int) -> set[str]:
        return {match.module_T for match in custom_matches if match.teacher == index}

    if isinstance(teacher, Model):
        one: Any = adaptor
        return (make_forward(teacher, one, "teacher", precision, args, modules(0)),)
    adaptors = _one_each(adaptor, len(teacher))
    return tuple(
        make_forward(model, own, f"teacher {index}", precision, args, modules(index))
        for index, (model, own) in enumerate(zip(teacher, adaptors, strict=True))
    )


def _one_each(adaptor: Adaptors, teachers: int) -> Sequence[Adaptor | None]:
    """The adaptor of each teacher."""
    adaptors = adaptor if isinstance(adaptor, Sequence) else [adaptor] * teachers
    if len(adaptors) != teachers:
        raise UsageError(
            f"There are {len(adaptors)} teacher adaptors for {teachers} teachers: give one "
            "each, or one for all."
        )
    return adaptors


def _of_one(batch: Batch) -> tuple[Batch, Any]:
    """The teacher's batch, and its cached outputs if the batch brings them."""
    return teacher_part(batch), objective_entry(batch, "teacher_cache")


def parts_of_teachers(batch: Batch, teachers: int) -> tuple[Sequence[Batch], Sequence[Any]]:
    """Every teacher's batch, and its cached outputs or ``None``."""
    part, cached = teacher_part(batch), objective_entry(batch, "teacher_cache")
    if cached is None:
        cached = (None,) * teachers
    elif not isinstance(cached, (tuple, list)) or len(cached) != teachers:
        raise UsageError(
            f"'teacher_cache' must be a tuple with the outputs of each of the {teachers} teachers."
        )
    holds_batches = isinstance(part, (tuple, list)) and any(
        isinstance(item, (Mapping, tuple, list)) for item in part
    )
    if not is_split(batch) or not holds_batches:  # one batch, with positional arguments perhaps
        return (part,) * teachers, cached
    if len(part) != teachers:
        raise UsageError(
            f"The batch's 'teacher' holds {len(part)} batches for {teachers} teachers: give one "
            "each, or one for all."
        )
    return part, cached
