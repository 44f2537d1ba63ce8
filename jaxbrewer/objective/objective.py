"""The total loss of a distillation config, as a pure function of two models' outputs.

An objective has two halves. :meth:`Objective.terms` gives every loss as sums and counts;
:meth:`Objective.combine` weighs them and divides. Between the two, sums and counts of micro-batches
add up, which makes the split of a batch irrelevant.
"""

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import optax

from ..configs import DistillationConfig, EMDMatch
from ..errors import UsageError
from ..forward.adaptors import Outputs
from ..losses import Mean
from ..registry import MATCH_LOSS_MAP
from .ensemble import Ensemble, Targets, as_targets, make_ensemble
from .logits_loss import LogitsLoss, make_logits_loss, own_losses
from .loss_calls import BoundLoss, as_sum_and_count
from .match_terms import Projection, match_terms
from .optimal_transport import LAYER_WEIGHTS, cost_attention, equal_weights, shared_weights
from .projections import init_projection
from .schedules import temperature_schedule
from .term_weights import TermWeight, Weights, make_weights
from .value_checks import as_metric, is_check, report

Terms = dict[str, tuple[Mean, ...]]
"""Each loss by its metric name; the loss is the sum of the means."""
Metrics = dict[str, jax.Array]
Projections = dict[str, Projection]
"""That of ``intermediate_matches[i]`` under ``str(i)``, of ``custom_matches[i]`` under
``custom_<i>``, where they have one; an :class:`EMDMatch` has one per student layer, stacked."""
ObjectiveState = dict[str, Any]
"""What losses carry from step to step; arrays by the name of the term."""
Teachers = Outputs | Sequence[Outputs] | Targets | None


@dataclasses.dataclass(frozen=True)
class Objective:
    """``objective(student, teacher, projections, step) -> (loss, metrics)``; see the two halves.

    Attributes:
        config: The config that it was built from.
        weights: The weight of each term, a schedule or a float if it never changes.
        temperature: The base temperature, a schedule or a float.
        ensemble: How the outputs of several teachers are combined.
        total_steps: Optimizer steps of the whole training, if known.
    """

    config: DistillationConfig
    weights: Weights
    temperature: optax.Schedule | float
    ensemble: Ensemble
    total_steps: int | None
    _logits: LogitsLoss
    _match_losses: tuple[BoundLoss, ...]

    def __call__(
        self,
        student: Outputs,
        teacher: Teachers,
        projections: Projections,
        step: jax.Array | int | None = None,
        state: ObjectiveState | None = None,
    ) -> tuple[jax.Array, Metrics]:
        """The total loss and every metric.

        Args:
            student: The student's outputs.
            teacher: The teacher's, or a sequence with those of several; ``None`` trains on the
                student's own losses alone.
            projections: Parameters from :meth:`init_projections`.
            step: Optimizer steps so far; needed where a weight or the temperature is scheduled.
            state: From :meth:`init_state` or :meth:`next_state`; ``None`` where no loss has one.

        Returns:
            The total, a scalar, and metrics: ``total_loss``, ``unweighted_<term>`` under
            TextBrewer's names, and ``weighted_<term>``; ``count_<term>``, what its mean is over
            (for most losses the number of positions); and where they are scheduled
            ``weight_<term>`` and ``temperature``.

        Raises:
            UsageError: As :meth:`terms` and :meth:`combine`.
        """
        return self.combine(self.terms(student, teacher, projections, step, state), step)

    def _named_matches(self) -> list[tuple[str, str, Any]]:
        """``(projection's name, term's name, match)`` of every match."""
        inner, custom = self.config.intermediate_matches, self.config.custom_matches
        keys = [*map(str, range(len(inner))), *(f"custom_{i}" for i in range(len(custom)))]
        matches = (*inner, *custom)
        return list(zip(keys, _unique_names(matches), matches, strict=True))

    @property
    def student_modules(self) -> set[str]:
        """Paths of the student's submodules whose outputs are compared."""
        return {match.module_S for match in self.config.custom_matches}

    @property
    def projected(self) -> dict[str, Any]:
        """The matches that have a projection, by its name."""
        return {
            key: match
            for key, _, match in self._named_matches()
            if match.proj and not callable(match.proj)
        }

    def init_projections(self, key: jax.Array) -> Projections:
        """New projections: N(0, 0.02) kernels, zero biases."""
        named = [name for name, _, _ in self._named_matches()]
        projections = {}
        for name, match in self.projected.items():
            own = jax.random.fold_in(key, named.index(name))
            make = functools.partial(init_projection, dim_in=match.proj[1], dim_out=match.proj[2])
            several = isinstance(match, EMDMatch)  # one for each student layer
            keys = jax.random.split(own, len(match.layer_S)) if several else own
            projections[name] = jax.vmap(make)(keys) if several else make(own)
        return projections

    def init_state(self) -> ObjectiveState:
        """What losses carry from step to step, before the first; ``{}`` for most losses."""
        return {
            name: equal_weights(len(match.layer_S or ()), len(match.layer_T or ()))
            for _, name, match in self._named_matches()
            if isinstance(match, EMDMatch) and match.adapt
        }

    def next_state(self, state: ObjectiveState, terms: Terms) -> ObjectiveState:
        """The state after a step on ``terms``, those of the whole group of micro-batches."""
        new = {
            name: {
                who: cost_attention(own[who], terms[f"{name}/{who}"][0]) for who in LAYER_WEIGHTS
            }
            if f"{name}/{LAYER_WEIGHTS[0]}" in terms
            else own
            for name, own in state.items()
        }
        groups = {name: match.group for _, name, match in self._named_matches() if name in new}
        return shared_weights(new, groups)

    def base_temperature(self, step: jax.Array | int) -> jax.Array | float:
        """The base temperature after ``step`` optimizer steps."""
        return self.temperature(step) if callable(self.temperature) else self.temperature

    @property
    def scheduled(self) -> list[str]:
        """Names of the terms whose weight changes, ``"temperature"``, and ``"teacher_weights"``."""
        named = {**self.weights, "temperature": self.temperature}
        names = [name for name, value in named.items() if callable(value)]
        changes = any(callable(weight) for weight in self.ensemble.weights or ())
        return [*names, "teacher_weights"] if changes else names

    def _require_step(self, step: jax.Array | int | None) -> jax.Array | int:
        if step is not None:
            return step
        if self.scheduled:
            raise UsageError(
                f"The objective follows a schedule ({', '.join(self.scheduled)}): give the number "
                "of optimizer steps so far as step=, in a training state.step."
            )
        return 0

    def weights_at(self, step: int = 0) -> dict[str, TermWeight]:
        """The weight of every configured term after ``step`` optimizer steps.

        The temperature is the base temperature, also where a rule (flsw, cwsm) sets another per
        position, or teachers have their own.
        """
        weights = {name: self._weight_at(name, step) for name in self.weights}
        if self.total_steps is not None:
            last = {name: self._weight_at(name, self.total_steps) for name in self.weights}
            weights = {
                name: weight
                if weight == last[name]
                else dataclasses.replace(weight, last=last[name])
                for name, weight in weights.items()
            }
        return weights

    def _weight_at(self, name: str, step: int) -> TermWeight:
        weight = self.weights[name]
        value = float(weight(step) if callable(weight) else weight)
        if name != "kd_loss" or not self._logits.loss.row.temperature_power:
            return TermWeight(value)
        power = self._logits.loss.row.temperature_power
        return TermWeight(value, float(self.base_temperature(step)), power)

    def _weights_of_logits(self, step: jax.Array | int) -> tuple[Any, Any]:
        """The weights of ``kd_loss`` and ``hard_label_loss``."""
        both = (self.weights[name] for name in ("kd_loss", "hard_label_loss"))
        kd, hard = (weight(step) if callable(weight) else weight for weight in both)
        return kd, hard

    def terms(
        self,
        student: Outputs,
        teacher: Teachers,
        projections: Projections,
        step: jax.Array | int | None = None,
        state: ObjectiveState | None = None,
    ) -> Terms:
        """Every loss as sums and counts, in float32 (float64 for float64 inputs).

        The arguments are those of a call of the objective. No gradient reaches the teachers'
        outputs.

        Raises:
            UsageError: Something the config needs is missing or does not fit; raised while
                tracing, before anything is compiled.
        """
        terms: Terms = {}
        step = self._require_step(step)
        temperature = self.base_temperature(step)
        teacher = jax.lax.stop_gradient(teacher)
        targets = as_targets(self.ensemble, teacher, step=step, temperature=temperature)
        losses = None
        if targets is not None:
            if student.logits and targets.compared[0].logits:
                terms["kd_loss"], losses = self._logits.terms(
                    student, targets, temperature, self._weights_of_logits(step)
                )
                terms |= self._logits.checks(student, targets)
            elif not self._named_matches() or (
                (student.logits or targets.compared[0].logits) and self.weights["kd_loss"] != 0
            ):
                missing = "student" if not student.logits else "teacher"
                raise UsageError(
                    f"The {missing}'s adaptor returned no 'logits' to distil: return them, or set "
                    "kd_loss_weight=0 and match layers."
                )
            for index, (key, name, match) in enumerate(self._named_matches()):
                terms |= match_terms(
                    key,
                    name,
                    match,
                    self._match_losses[index],
                    student,
                    targets.teachers,
                    projections.get(key),
                    (state or {}).get(name),
                )
        if student.losses:
            terms["hard_label_loss"] = own_losses(student) if losses is None else losses
        elif not terms:
            raise UsageError("There is nothing to train on: the adaptor returned no 'losses'.")
        elif self.weights["hard_label_loss"] != 0:
            raise UsageError(
                "hard_label_weight is set, but the student's adaptor returned no 'losses': return "
                "them (jaxbrewer.Mean(0, 0) for a batch without labels), or set the weight to 0."
            )
        return terms

    def combine(
        self, terms: Terms, step: jax.Array | int | None = None
    ) -> tuple[jax.Array, Metrics]:
        """The weighted total of ``terms`` after ``step`` optimizer steps, and the metrics.

        Raises:
            UsageError: ``step`` is missing, but a weight or the temperature is scheduled.
        """
        step = self._require_step(step)
        metrics: Metrics = {}
        total: Any = 0.0
        for name, means in terms.items():
            if is_check(name):
                metrics[name] = as_metric(name, means[0])
            if name not in self.weights:  # a check, or what a state is updated from
                continue
            loss = functools.reduce(jnp.add, (mean.value() for mean in means))
            metrics[f"unweighted_{name}"] = loss
            weight = self.weights[name]
            metrics[f"count_{name}"] = functools.reduce(jnp.add, (mean.count for mean in means))
            if callable(weight):
                weight = jnp.asarray(weight(step), loss.dtype)
                metrics[f"weight_{name}"] = weight
            elif weight == 0:  # nothing to learn from it: no gradient is computed
                loss = jax.lax.stop_gradient(jnp.zeros_like(loss))
            metrics[f"weighted_{name}"] = weight * loss
            total = total + weight * loss
        if callable(self.temperature):
            metrics["temperature"] = jnp.asarray(self.temperature(step), jnp.float32)
        if not any(isinstance(value, jax.core.Tracer) for value in metrics.values()):
            report(metrics)
        return total, {"total_loss": total, **metrics}


def make_objective(config: DistillationConfig, *, total_steps: int | None = None) -> Objective:
    """Builds the objective of a config.

    Args:
        config: The distillation config.
        total_steps: Optimizer steps of the whole training; needed by schedules of the finished
            fraction, such as ``"linear_decay"``.

    Raises:
        UsageError: A schedule or a rule cannot be built, all weights are 0, or a match has no
            layers yet (a layer map): see :func:`~jaxbrewer.objective.layer_maps.resolve`.

    Examples:
        >>> objective = make_objective(DistillationConfig(temperature=1))
        >>> same = Outputs(logits=(jnp.zeros((1, 2)),))
        >>> loss, metrics = objective(same, same, {}, step=0)
        >>> print(f"{loss:.4f}", sorted(metrics))
        0.6931 ['count_kd_loss', 'total_loss', 'unweighted_kd_loss', 'weighted_kd_loss']
    """
    if not config.is_resolved:
        raise UsageError(
            "The config has matches that depend on the models' layers: a distiller resolves them, "
            "and so does jaxbrewer.objective.layer_maps.resolve(config, student_outputs, "
            "teacher_outputs)."
        )
    temperature = temperature_schedule(config.temperature, total_steps)
    matches = (*config.intermediate_matches, *config.custom_matches)
    match_losses = tuple(as_sum_and_count(MATCH_LOSS_MAP, match.loss) for match in matches)
    ensemble = make_ensemble(config, total_steps)
    logits = make_logits_loss(config, ensemble)
    named = list(zip(_unique_names(matches), matches, strict=True))
    weights = make_weights(config, named, total_steps)
    return Objective(config, weights, temperature, ensemble, total_steps, logits, match_losses)


def _unique_names(matches: Sequence[Any]) -> list[str]:
    """The names of terms: a repeated one is numbered, from ``#2`` on."""
    names = [match.name for match in matches]
    repeats = (names[:index].count(name) for index, name in enumerate(names))
    return [
        name if not earlier else f"{name}#{earlier + 1}"
        for name, earlier in zip(names, repeats, strict=True)
    ]
