"""Combines several teachers into targets for the student.

The teachers run one after the other. Averaged logits need only a running sum; averaged losses keep
the outputs of every teacher.
"""

import dataclasses
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Integer

from ..configs import DistillationConfig
from ..errors import UsageError
from ..forward.adaptors import Outputs
from ..losses import loss_dtype, per_position, selected, whole_logits
from .head_masks import per_head
from .logit_masks import pair_selected, pairs_by_rank
from .schedules import weight_schedule
from .top_k import TopK
from .value_checks import Checks, unequal_counts
from .vocabulary import fit_vocabularies

Weight = float | Float[Array, ""] | Float[Array, " batch"]


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Targets:
    """What the student is compared with on a batch.

    Attributes:
        compared: Outputs whose logits are the targets: those of the one teacher, the average of
            several, or those of every teacher where losses are averaged.
        weights: A weight for each of them, a scalar or one per example ``[batch]``; ``None`` is 1.
        teachers: Outputs of every teacher, for intermediate matches; without logits where those
            are averaged.
        checks: What is checked of the values of the teachers' masks.
    """

    compared: tuple[Outputs, ...]
    weights: tuple[Weight | None, ...]
    teachers: tuple[Outputs, ...]
    checks: Checks = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Ensemble:
    """How the outputs of several teachers are combined.

    Attributes:
        average: ``"logits"``, ``"probabilities"`` or ``"losses"``.
        weights: One per teacher, a schedule or a float; ``None`` for equal weights.
        temperatures: One per teacher; ``None`` for the temperature of the objective.
        vocabulary: How logits of different widths are compared.
        mask_pairing: How positions that their masks select are paired.
    """

    average: str
    weights: tuple[optax.Schedule | float, ...] | None
    temperatures: tuple[float, ...] | None
    vocabulary: str = "auto"
    mask_pairing: str = "auto"

    def require(self, teachers: int) -> None:
        """Raises :class:`UsageError` if settings per teacher do not fit the number of teachers."""
        for field in ("weights", "temperatures"):
            given = getattr(self, field)
            if given is not None and len(given) != teachers:
                raise UsageError(
                    f"DistillationConfig.teacher_{field} has {len(given)} entries for {teachers} "
                    "teachers: give one each."
                )

    def temperature(self, teacher: int, base: float | Array) -> float | Array:
        """The temperature of a teacher's logits."""
        return base if self.temperatures is None else self.temperatures[teacher]


def make_ensemble(config: DistillationConfig, total_steps: int | None = None) -> Ensemble:
    """The :class:`Ensemble` of a config.

    Raises:
        UsageError: A schedule cannot be built, or ``teacher_average="probabilities"`` is combined
            with a rule that sets the temperature from the average.
    """
    if config.teacher_average == "probabilities" and config.temperature_scheduler != "none":
        raise UsageError(
            f"temperature_scheduler={config.temperature_scheduler!r} sets the temperature from the "
            "averaged logits, but teacher_average='probabilities' averages at the temperature: "
            "average 'logits' or 'losses'."
        )
    weights = config.teacher_weights
    if weights is not None:
        weights = tuple(
            float(weight)
            if isinstance(weight, (int, float))
            else weight_schedule(weight, 1.0, total_steps)
            for weight in weights
        )
    temperatures = config.teacher_temperatures
    return Ensemble(
        config.teacher_average,
        weights,
        None if temperatures is None else tuple(temperatures),
        config.vocabulary,
        config.mask_pairing,
    )


def routing_weights(
    teacher_id: Integer[Array, " batch"] | None,
    teacher_weights: Float[Array, "batch teachers"] | None,
    teachers: int,
) -> Float[Array, "batch teachers"] | None:
    """The weight of every teacher for every example, from the entries of a batch.

    Args:
        teacher_id: The teacher of each example, counted from 0; -1 for none.
        teacher_weights: A weight for each example and teacher, instead of ``teacher_id``.
        teachers: The number of teachers.

    Returns:
        ``[batch, teachers]``, or ``None`` if the batch has neither entry.

    Raises:
        UsageError: Both are given, or a shape does not fit.

    Examples:
        >>> print(routing_weights(jnp.array([1, -1]), None, 2))
        [[0. 1.]
         [0. 0.]]
    """
    if teacher_id is not None and teacher_weights is not None:
        raise UsageError("The batch has both 'teacher_id' and 'teacher_weights': give one.")
    if teacher_id is not None:
        teacher_id = jnp.asarray(teacher_id)
        if teacher_id.ndim != 1 or not jnp.issubdtype(teacher_id.dtype, jnp.integer):
            raise UsageError(
                "The batch's 'teacher_id' must be integers of shape [batch], got "
                f"{teacher_id.dtype} {teacher_id.shape}."
            )
        return jax.nn.one_hot(teacher_id, teachers)
    if teacher_weights is not None:
        teacher_weights = jnp.asarray(teacher_weights)
        if teacher_weights.ndim != 2 or teacher_weights.shape[1] != teachers:
            raise UsageError(
                f"The batch's 'teacher_weights' must have the shape [batch, {teachers}], got "
                f"{list(teacher_weights.shape)}."
            )
    return teacher_weights


@dataclasses.dataclass(frozen=True)
class RunningTargets:
    """The targets while teachers are added; it is used inside a trace and is no pytree.

    Attributes:
        total: The weighted sum of logits or probabilities, one array per head.
        weight: The sum of the weights.
        masks: For each head, the positions that all teachers so far select.
        first: Outputs of the first teacher; the others are aligned to its positions.
        parts: What :class:`Targets` needs of each teacher.
        weights: Each teacher's weight.
        checks: What is checked of the values of their masks.
    """

    total: tuple[Array, ...] = ()
    weight: Weight = 0.0
    masks: tuple[Array | None, ...] = ()
    first: Outputs | None = None
    parts: tuple[Outputs, ...] = ()
    weights: tuple[Weight, ...] = ()
    checks: Checks = dataclasses.field(default_factory=dict)


def add_outputs(
    ensemble: Ensemble,
    running: RunningTargets,
    outputs: Outputs,
    *,
    step: Array | int,
    temperature: float | Array,
    routing: Float[Array, "batch teachers"] | None = None,
) -> RunningTargets:
    """Adds the outputs of the next teacher.

    Args:
        ensemble: How teachers are combined.
        running: The teachers so far; ``RunningTargets()`` before the first.
        outputs: Outputs of the next teacher.
        step: Optimizer steps so far, for scheduled weights.
        temperature: The objective's base temperature at this step.
        routing: From :func:`routing_weights`.

    Raises:
        UsageError: The teacher's heads do not fit those of the teachers before it.
    """
    teacher = len(running.parts)
    weight: Weight = 1.0
    if ensemble.weights is not None:
        schedule = ensemble.weights[teacher]
        weight = schedule(step) if callable(schedule) else schedule
    if routing is not None:
        weight = weight * routing[:, teacher]
    weights = (*running.weights, weight)
    if ensemble.average == "losses":
        return dataclasses.replace(running, parts=(*running.parts, outputs), weights=weights)
    first = running.first or outputs
    if len(outputs.logits) != len(first.logits):
        raise UsageError(
            f"Teacher {teacher}'s adaptor returned {len(outputs.logits)} 'logits', teacher 0's "
            f"{len(first.logits)}: each head needs its counterpart to be averaged with."
        )
    if any(isinstance(logits, TopK) for logits in outputs.logits):
        raise UsageError(
            f"Only the largest logits of teacher {teacher} are cached, which cannot be averaged: "
            "set teacher_average='losses', or cache all logits."
        )
    own = ensemble.temperature(teacher, temperature)
    total, masks, checks = [], [], dict(running.checks)
    masks_first = per_head("teacher 0", "logits_mask", first.logits_mask, len(first.logits))
    masks_own = per_head(
        f"teacher {teacher}", "logits_mask", outputs.logits_mask, len(first.logits)
    )
    for head, logits in enumerate(outputs.logits):
        mask = masks_first[head] if masks_first[head] is not None else masks_own[head]
        logits = whole_logits(f"logits[{head}] of teacher {teacher}, averaged", logits)
        if teacher:
            own_mask, pairing = masks_own[head], ensemble.mask_pairing
            if logits.ndim > 2 and pairs_by_rank(mask, own_mask, pairing):
                assert mask is not None
                assert own_mask is not None
                checks |= unequal_counts(f"logits[{head}] of teacher {teacher}", mask, own_mask)
            logits, mask = pair_selected(logits, mask, own_mask, pairing=pairing)
        before = running.total[head] if teacher else logits
        if logits.shape[:-1] == before.shape[:-1]:
            before, logits = fit_vocabularies(
                before,
                logits,
                ensemble.vocabulary,
                what=f"logits[{head}]",
                rules_out=False,
                names=(f"teacher {teacher - 1}", f"teacher {teacher}"),
            )
        if logits.shape != before.shape:
            raise UsageError(
                f"logits[{head}] of teacher {teacher} has the shape {logits.shape}, of those "
                f"before {before.shape}: teachers of other shapes can only be compared one by "
                "one, with teacher_average='losses'."
            )
        logits = logits.astype(loss_dtype(logits))
        if ensemble.average == "probabilities":
            logits = jax.nn.softmax(logits / own)
        elif ensemble.temperatures is not None:
            logits = logits * (temperature / own)
        aligned = per_position(weight, logits)
        # `where`, because a -inf or NaN of a teacher without weight survives a product with 0.
        weighted = jnp.where(aligned != 0, aligned * logits, 0)
        total.append(before + weighted if teacher else weighted)
        masks.append(_both(running.masks[head], mask) if teacher else mask)
    part = dataclasses.replace(outputs, logits=())
    return RunningTargets(
        tuple(total),
        running.weight + weight,
        tuple(masks),
        first,
        (*running.parts, part),
        weights,
        checks,
    )


def _both(before: Array | None, mask: Array | None) -> Array | None:
    if before is None or mask is None:
        return mask if before is None else before
    return selected(before) & selected(mask)


def finish_targets(
    ensemble: Ensemble,
    running: RunningTargets,
    *,
    temperature: float | Array,
    routing: Float[Array, "batch teachers"] | None = None,
) -> Targets:
    """The targets from all teachers; averages are divided by the sum of the weights.

    An example without a weight for any teacher is not compared.
    """
    if ensemble.average == "losses":
        whole = sum(running.weights[1:], start=running.weights[0])
        divisor = jnp.where(whole != 0, whole, 1)
        return Targets(running.parts, tuple(w / divisor for w in running.weights), running.parts)
    assert running.first is not None
    weighted_by_any = jnp.asarray(running.weight) != 0
    divisor = jnp.where(weighted_by_any, running.weight, 1)
    heads = []
    for total in running.total:
        mean = total / per_position(divisor, total)
        if ensemble.average == "probabilities":  # without a teacher: ones, whose log is finite
            mean = temperature * jnp.log(
                jnp.where(per_position(weighted_by_any, mean) != 0, mean, 1)
            )
        heads.append(mean)
    masks = tuple(mask for mask in running.masks if mask is not None)
    average = dataclasses.replace(
        running.first, logits=tuple(heads), logits_mask=masks, features={}, losses=()
    )
    return Targets(
        (average,), (None if routing is None else weighted_by_any,), running.parts, running.checks
    )


def as_targets(
    ensemble: Ensemble,
    teachers: Targets | Outputs | Sequence[Outputs] | None,
    *,
    step: Array | int,
    temperature: float | Array,
    routing: Float[Array, "batch teachers"] | None = None,
) -> Targets | None:
    """:class:`Targets` from one teacher's outputs or a sequence of them; targets pass through."""
    if teachers is None or isinstance(teachers, Targets):
        return teachers
    if isinstance(teachers, Outputs):
        return Targets((teachers,), (None,), (teachers,))
    ensemble.require(len(teachers))
    running = RunningTargets()
    for outputs in teachers:
        running = add_outputs(
            ensemble, running, outputs, step=step, temperature=temperature, routing=routing
        )
    return finish_targets(ensemble, running, temperature=temperature, routing=routing)
