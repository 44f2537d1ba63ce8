"""The loss between the logits of two models: heads, masks, vocabularies, several teachers."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax

from ..configs import DistillationConfig
from ..errors import UsageError
from ..forward.adaptors import Outputs
from ..losses import LogitsOf, Mean, add_means
from ..registry import KD_LOSS_MAP, loss_and_parameters
from .ensemble import Ensemble, Targets, Weight
from .head_masks import classes_as_positions, masks_of_heads, select_classes, weights_of_head
from .logit_masks import pair_selected, pairs_by_rank, probability_shift
from .loss_calls import BoundLoss, LossCall, as_sum_and_count, require_classes, weighted
from .temperature_rules import temperature_rule
from .top_k import TopK, pair_top_k, require_kept_logits_suffice, to_buckets
from .value_checks import Checks, fractional_mask, unequal_counts
from .vocabulary import fit_vocabularies


@dataclasses.dataclass(frozen=True)
class LogitsLoss:
    """The ``kd_loss`` of a config, with what prepares logits for it.

    Attributes:
        config: The config.
        ensemble: How the outputs of several teachers are combined.
        loss: The loss as a sum and a count, with its row.
        rule: Sets a temperature per position, if the config has a rule.
    """

    config: DistillationConfig
    ensemble: Ensemble
    loss: BoundLoss
    rule: Callable[..., Any] | None

    def checks(self, student: Outputs, targets: Targets) -> Checks:
        """What is checked of the values of both models' ``logits_mask``."""
        checks = dict(targets.checks)
        for mask in student.logits_mask:
            checks |= fractional_mask("The student's", mask)
        for index, teacher in enumerate(targets.compared):
            whose = f" of teacher {index}" if len(targets.compared) > 1 else ""
            for mask in teacher.logits_mask:
                checks |= fractional_mask("The teacher's", mask)
            for head, (mask_S, mask_T) in enumerate(masks_of_heads(student, teacher)):
                if mask_S is None or mask_T is None or student.logits[head].ndim == 2:
                    continue
                if pairs_by_rank(mask_S, mask_T, self.config.mask_pairing):
                    checks |= unequal_counts(f"logits[{head}]{whose}", mask_S, mask_T)
        return checks

    def terms(self, student: Outputs, targets: Targets, temperature: Any) -> tuple[Mean, ...]:
        """One :class:`Mean` per head, a weighted one where the losses of several are averaged."""
        several = len(targets.compared) > 1
        parts = [
            self._terms_of_one(
                student,
                teacher,
                self.ensemble.temperature(index, temperature) if several else temperature,
                weight,
            )
            for index, (teacher, weight) in enumerate(
                zip(targets.compared, targets.weights, strict=True)
            )
        ]
        return tuple(add_means(*heads) for heads in zip(*parts, strict=True))

    def _terms_of_one(
        self, student: Outputs, teacher: Outputs, temperature: Any, weight: Weight | None
    ) -> tuple[Mean, ...]:
        heads = len(student.logits)
        if len(teacher.logits) != heads:
            raise UsageError(
                f"The student's adaptor returned {heads} 'logits', the teacher's "
                f"{len(teacher.logits)}: each head needs its counterpart."
            )
        labels = student.labels or teacher.labels
        if self.config.probability_shift and len(labels) != heads:
            raise UsageError(
                f"probability_shift needs 'labels' from the student's adaptor for each of its "
                f"{heads} heads, got {len(labels)}."
            )
        masks, pairing = masks_of_heads(student, teacher), self.config.mask_pairing
        means = []
        for head in range(heads):
            weights = weights_of_head(student, teacher, head, masks[head], pairing)
            loss = weighted(self.loss, weight, self.loss.row, positions=weights)
            label = labels[head] if len(labels) == heads else None
            logits_S, logits_T = [
                logits.logits() if isinstance(logits, LogitsOf) else logits
                for logits in (student.logits[head], teacher.logits[head])
            ]
            means.append(
                self._term(
                    f"logits[{head}]", loss, logits_S, logits_T, temperature, masks[head], label
                )
            )
        return tuple(means)

    def _term(
        self,
        what: str,
        loss: LossCall,
        logits_S: jax.Array,
        logits_T: Any,
        temperature: Any,
        masks: tuple[jax.Array | None, jax.Array | None],
        label: jax.Array | None,
    ) -> Mean:
        """The loss of one head."""
        name, _ = loss_and_parameters(self.config.kd_loss_type)
        for who, logits in (("student", logits_S), ("teacher", logits_T)):
            require_classes(f"{what} of the {who}", name, self.loss.row, logits)
        mask, has_positions, is_top_k = None, logits_S.ndim > 2, isinstance(logits_T, TopK)
        if is_top_k:
            sampled_at = logits_T.temperatures[0] if logits_T.sampled else None
            require_kept_logits_suffice(self.config, sampled_at=sampled_at)
        if has_positions:
            pair: Any = pair_top_k if is_top_k else pair_selected
            logits_T, mask = pair(logits_T, *masks, pairing=self.config.mask_pairing)
        if logits_S.shape[:-1] == logits_T.shape[:-1] and not is_top_k:
            logits_S, logits_T = fit_vocabularies(
                logits_S,
                logits_T,
                self.config.vocabulary,
                what=what,
                rules_out=self.loss.row.teacher_rules_out,
            )
        _same_shape(what, logits_S, logits_T)
        if not has_positions:
            logits_S, logits_T, mask = select_classes(what, logits_S, logits_T, masks)
        if self.config.probability_shift:
            assert label is not None
            logits_T = probability_shift(logits_T, label)
        tau = temperature
        if self.rule is not None:
            tau = self.rule(logits_S, logits_T, temperature, mask)
        if is_top_k:
            logits_S, logits_T = to_buckets(logits_S, logits_T, tau, mask)
        if not has_positions and self.loss.row.elementwise:
            logits_S, logits_T, mask = classes_as_positions(logits_S, logits_T, masks, mask)
        return loss(logits_S, logits_T, tau, mask=mask, labels=label)


def make_logits_loss(config: DistillationConfig, ensemble: Ensemble) -> LogitsLoss:
    """The :class:`LogitsLoss` of a config.

    Raises:
        UsageError: The rule of the temperature cannot be built.
    """
    spec = config.temperature_scheduler
    rule = None if isinstance(spec, str) and spec == "none" else temperature_rule(spec)
    return LogitsLoss(config, ensemble, as_sum_and_count(KD_LOSS_MAP, config.kd_loss_type), rule)


def _same_shape(what: str, student: jax.Array, teacher: jax.Array) -> None:
    if student.shape != teacher.shape:
        raise UsageError(
            f"{what}: the student's shape {student.shape} and the teacher's {teacher.shape} differ."
        )
