"""The loss between the logits of two models: heads, masks, vocabularies, several teachers."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax

from ..configs import DistillationConfig
from ..errors import UsageError
from ..forward.adaptors import Outputs
from ..losses import (
    LabelLoss,
    LogitsOf,
    Mean,
    Positions,
    add_means,
    compare_in_chunks,
    map_positions,
    mean_of_labels,
    whole_logits,
)
from ..registry import KD_LOSS_MAP, loss_and_parameters
from .ensemble import Ensemble, Targets, Weight
from .head_masks import (
    classes_as_positions,
    mask_of_examples,
    masks_of_heads,
    select_classes,
    selects_classes,
    weights_of_head,
)
from .logit_masks import pair_logits, pairs_by_rank, probability_shift
from .loss_calls import (
    BoundLoss,
    as_sum_and_count,
    combined_weights,
    require_classes,
    weighted,
)
from .temperature_rules import AroundTheMean, temperature_rule
from .top_k import TopK, require_kept_logits_suffice, to_buckets
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

    def terms(
        self,
        student: Outputs,
        targets: Targets,
        temperature: Any,
        weights: tuple[Any, Any] = (1.0, 1.0),
    ) -> tuple[tuple[Mean, ...], tuple[Mean, ...]]:
        """The losses between logits, and the student's own.

        Args:
            student: The student's outputs.
            targets: What it is compared with.
            temperature: The base temperature.
            weights: Those of the two in the total loss.

        Returns:
            One :class:`Mean` per head, a weighted one where the losses of several are averaged; and
            ``student.losses``, with those of labels computed: in the same chunks as their head
            where it has chunks and there is one teacher.
        """
        several = len(targets.compared) > 1
        labels = {} if several else _first_of_each_head(student.losses)
        parts, found = [], dict[int, Mean]()
        for index, (teacher, weight) in enumerate(
            zip(targets.compared, targets.weights, strict=True)
        ):
            own = self.ensemble.temperature(index, temperature) if several else temperature
            heads = self._terms_of_one(student, teacher, own, weight, labels, weights)
            parts.append([means[0] for means in heads])
            found |= {head: means[1] for head, means in enumerate(heads) if len(means) > 1}
        along = {labels[head][0]: mean for head, mean in found.items()}
        losses = [along.get(index, loss) for index, loss in enumerate(student.losses)]
        of_logits = tuple(add_means(*heads) for heads in zip(*parts, strict=True))
        return of_logits, own_losses(dataclasses.replace(student, losses=tuple(losses)))

    def _terms_of_one(
        self,
        student: Outputs,
        teacher: Outputs,
        temperature: Any,
        weight: Weight | None,
        labels_of_heads: Mapping[int, tuple[int, LabelLoss]],
        weights_in_total: tuple[Any, Any],
    ) -> tuple[tuple[Mean, ...], ...]:
        """For each head its loss, and that of its labels where it is computed along."""
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
            label = labels[head] if len(labels) == heads else None
            compared = _Compared(
                f"logits[{head}]",
                student.logits[head],
                teacher.logits[head],
                masks[head],
                Positions(temperature, None, label, combined_weights(weight, weights)),
                labels_of_heads[head][1] if head in labels_of_heads else None,
                weights_in_total,
            )
            means.append(self._term(compared))
        return tuple(means)

    def _term(self, compared: "_Compared") -> tuple[Mean, ...]:
        """The loss of one head, and that of its labels where it is computed along."""
        name, _ = loss_and_parameters(self.config.kd_loss_type)
        what, masks, given = compared.what, compared.masks, compared.given
        logits_S, logits_T = compared.student, compared.teacher
        for who, logits in (("student", logits_S), ("teacher", logits_T)):
            require_classes(f"{what} of the {who}", name, self.loss.row, logits)
        if isinstance(logits_T, TopK):
            sampled_at = logits_T.temperatures[0] if logits_T.sampled else None
            require_kept_logits_suffice(self.config, sampled_at=sampled_at)
        has_positions = logits_S.ndim > 2
        if not self.loss.row.by_position or (not has_positions and selects_classes(masks)):
            logits_S = whole_logits(f"{what} of the student", logits_S)
        if not isinstance(logits_S, LogitsOf):
            logits_T = whole_logits(f"{what} of the teacher", logits_T)
        mask = None
        if has_positions:
            logits_T, mask = pair_logits(logits_T, *masks, pairing=self.config.mask_pairing)
        if isinstance(logits_T, TopK) or logits_S.shape[:-1] != logits_T.shape[:-1]:
            _require_same_shape(what, logits_S, logits_T)
        if isinstance(logits_S, LogitsOf):
            mask = mask if has_positions else mask_of_examples(masks)
            given = given._replace(mask=mask)
            return self._in_chunks(compared, logits_S, logits_T, given)
        logits_S, logits_T = self._over_one_vocabulary(what, logits_S, logits_T)
        if not has_positions:
            logits_S, logits_T, mask = select_classes(what, logits_S, logits_T, masks)
        logits_T = self._shifted(logits_T, given)
        tau = given.temperature
        if self.rule is not None:
            tau = self.rule(logits_S, logits_T, tau, mask)
        if isinstance(logits_T, TopK):
            logits_S, logits_T = to_buckets(logits_S, logits_T, tau, mask)
        if not has_positions and self.loss.row.elementwise:
            logits_S, logits_T, mask = classes_as_positions(logits_S, logits_T, masks, mask)
        loss = weighted(self.loss, given.weights, self.loss.row)
        return (loss(logits_S, logits_T, tau, mask=mask, labels=given.labels),)

    def _in_chunks(
        self, compared: "_Compared", logits_S: LogitsOf, logits_T: Any, positions: Positions
    ) -> tuple[Mean, ...]:
        """The loss of one head, and that of its labels, by chunks of positions."""
        what, labels = compared.what, compared.label_loss

        def prepared(logits_S: Any, logits_T: Any, given: Positions) -> tuple[Any, Any]:
            logits_S, logits_T = self._over_one_vocabulary(what, logits_S, logits_T)
            return logits_S, self._shifted(logits_T, given)

        def of_chunk(logits_S: Any, logits_T: Any, given: Positions) -> tuple[Mean, ...]:
            along = () if labels is None else (mean_of_labels(logits_S, given.along),)
            logits_S, logits_T = prepared(logits_S, logits_T, given)
            tau = given.temperature
            if isinstance(logits_T, TopK):
                logits_S, logits_T = to_buckets(logits_S, logits_T, tau, given.mask)
            loss = weighted(self.loss, given.weights, self.loss.row)
            return (loss(logits_S, logits_T, tau, mask=given.mask, labels=given.labels), *along)

        if self.rule is not None:
            tau = self._temperatures(what, prepared, logits_S, logits_T, positions)
            positions = positions._replace(temperature=tau)
        name, weights = f"kd_loss of {what}", compared.weights[:1]
        if labels is not None:
            labels.check(f"{what}, labels", logits_S)
            name, weights = f"{name} and labels", compared.weights
            positions = positions._replace(along=labels.rows)
        return compare_in_chunks(
            of_chunk, logits_S, logits_T, positions, what=name, weights=weights
        )

    def _temperatures(
        self,
        what: str,
        prepared: Callable[..., tuple[Any, Any]],
        logits_S: LogitsOf,
        logits_T: Any,
        positions: Positions,
    ) -> Any:
        """The temperature that the rule sets, by chunks where it scores each position by itself."""
        rule = self.rule
        if isinstance(rule, AroundTheMean):
            scores = map_positions(
                lambda s, t, given: rule.score(*prepared(s, t, given), given.mask),
                logits_S, logits_T, positions,
            )  # fmt: skip
            return rule.of_scores(scores, positions.temperature, positions.mask)
        assert rule is not None
        by_rule = f"{what}, for the temperature_scheduler"
        pair = whole_logits(by_rule, logits_S), whole_logits(f"{by_rule}, teacher", logits_T)
        return rule(*prepared(*pair, positions), positions.temperature, positions.mask)

    def _over_one_vocabulary(self, what: str, logits_S: Any, logits_T: Any) -> tuple[Any, Any]:
        """Both models' logits over the same classes."""
        if isinstance(logits_T, TopK):
            return logits_S, logits_T
        return fit_vocabularies(
            logits_S,
            logits_T,
            self.config.vocabulary,
            what=what,
            rules_out=self.loss.row.teacher_rules_out,
        )

    def _shifted(self, logits_T: Any, given: Positions) -> Any:
        """The teacher's logits, with the label's as the largest if the config says so."""
        if not self.config.probability_shift:
            return logits_T
        assert given.labels is not None
        return probability_shift(logits_T, given.labels)


class _Compared(NamedTuple):
    """A head of both models, and what its comparison takes besides the logits.

    Attributes:
        what: Names the head in messages.
        student: The student's logits, an array or a :class:`LogitsOf`.
        teacher: The teacher's, an array, a :class:`LogitsOf` or a :class:`TopK`.
        masks: The masks of both models.
        given: Base temperature, labels and weights.
        label_loss: The loss of the head's labels, to be computed along in chunks.
        weights: The weights of both losses in the total.
    """

    what: str
    student: Any
    teacher: Any
    masks: tuple[jax.Array | None, jax.Array | None]
    given: Positions
    label_loss: LabelLoss | None
    weights: tuple[Any, ...]


def own_losses(student: Outputs) -> tuple[Mean, ...]:
    """The student's own losses, with those of labels computed.

    Raises:
        UsageError: A loss of labels names a head that there is not, or does not fit it.
    """
    found = []
    for index, loss in enumerate(student.losses):
        if isinstance(loss, LabelLoss):
            if not 0 <= loss.head < len(student.logits):
                raise UsageError(
                    f"losses[{index}] of the student's adaptor is a LabelLoss of "
                    f"logits[{loss.head}], but there are {len(student.logits)} 'logits'."
                )
            loss = loss.of(student.logits[loss.head])
        found.append(loss)
    return tuple(found)


def _first_of_each_head(losses: Sequence[Any]) -> dict[int, tuple[int, LabelLoss]]:
    """The first loss of the labels of each head, with its index."""
    found: dict[int, tuple[int, LabelLoss]] = {}
    for index, loss in enumerate(losses):
        if isinstance(loss, LabelLoss):
            found.setdefault(loss.head, (index, loss))
    return found


def make_logits_loss(config: DistillationConfig, ensemble: Ensemble) -> LogitsLoss:
    """The :class:`LogitsLoss` of a config.

    Raises:
        UsageError: The rule of the temperature cannot be built.
    """
    spec = config.temperature_scheduler
    rule = None if isinstance(spec, str) and spec == "none" else temperature_rule(spec)
    return LogitsLoss(config, ensemble, as_sum_and_count(KD_LOSS_MAP, config.kd_loss_type), rule)


def _require_same_shape(what: str, student: jax.Array, teacher: jax.Array) -> None:
    if student.shape != teacher.shape:
        raise UsageError(
            f"{what}: the student's shape {student.shape} and the teacher's {teacher.shape} differ."
        )
