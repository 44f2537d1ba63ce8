"""Which checkpoints of a run are kept, and whether none gets better: functions of their scores."""

import dataclasses
import math
from collections.abc import Iterable, Mapping

from ..configs import TrainingConfig
from ..errors import UsageError


@dataclasses.dataclass(frozen=True)
class CheckpointInfo:
    """A checkpoint on disk.

    Attributes:
        step: The optimizer step after which it was saved.
        number: Its number among the scheduled checkpoints of the run, from 1.
        scheduled: Whether the plan asked for it; otherwise an interruption did.
    """

    step: int
    number: int
    scheduled: bool = True


def require_best_metric(config: TrainingConfig, metrics: Iterable[str]) -> None:
    """Raises :class:`UsageError` if a training does not have the metric that chooses checkpoints.

    Args:
        config: ``best_metric``.
        metrics: The metrics of a step, and the scores of the callback if it has returned.
    """
    if needs_scores(config) and config.best_metric not in (known := sorted(metrics)):
        raise UsageError(
            f"TrainingConfig.best_metric {config.best_metric!r} is neither returned by the "
            f"callback nor a metric of the step: {', '.join(known)}."
        )


def needs_scores(config: TrainingConfig) -> bool:
    """Whether checkpoints need a score: for ``keep_best``, ``patience``, or a later choice."""
    return config.best_metric is not None


def ranked(scores: Mapping[int, float], mode: str) -> list[int]:
    """The steps of checkpoints, the best first.

    Args:
        scores: A score for each step. Of equals, the earlier is better; NaN is the worst.
        mode: ``"max"`` or ``"min"``.

    Examples:
        >>> ranked({10: 0.7, 20: 0.9, 30: float("nan"), 40: 0.9}, "max")
        [20, 40, 10, 30]
    """
    sign = -1 if mode == "max" else 1

    def key(step: int) -> tuple[float, int]:
        score = sign * scores[step]
        return (math.inf if math.isnan(score) else score), step

    return sorted(scores, key=key)


def is_out_of_patience(scores: Mapping[int, float], config: TrainingConfig) -> bool:
    """Whether ``config.patience`` checkpoints have followed the best one.

    Examples:
        >>> config = TrainingConfig(patience=2, best_metric="accuracy")
        >>> is_out_of_patience({10: 0.7, 20: 0.9, 30: 0.8}, config)
        False
        >>> is_out_of_patience({10: 0.7, 20: 0.9, 30: 0.8, 40: 0.9}, config)
        True
    """
    if config.patience is None or not scores:
        return False
    best = ranked(scores, config.best_mode)[0]
    return sum(step > best for step in scores) >= config.patience


def kept_steps(
    entries: Iterable[CheckpointInfo],
    config: TrainingConfig,
    scores: Mapping[int, float] = {},
    *,
    ended: bool = False,
) -> set[int]:
    """The steps of the checkpoints to keep.

    The latest is always kept; the others if any of ``keep_last``, ``keep_every`` and ``keep_best``
    keeps them, or if none of these is set. A checkpoint that only an interruption asked for is
    removed as soon as there is a later one, or the run has ended.

    Args:
        entries: All checkpoints.
        config: ``keep_last``, ``keep_every``, ``keep_best`` and ``best_mode``.
        scores: The value of ``best_metric`` at each step. Of equals, the earlier is better.
        ended: Whether the training has ended.

    Examples:
        >>> entries = [CheckpointInfo(step, step // 10) for step in (10, 20, 30, 40, 50)]
        >>> sorted(kept_steps(entries, TrainingConfig(keep_last=2)))
        [40, 50]
        >>> sorted(kept_steps(entries, TrainingConfig(keep_last=1, keep_every=3)))
        [30, 50]
        >>> best = TrainingConfig(keep_best=1, best_metric="accuracy")
        >>> sorted(kept_steps(entries, best, {10: 0.7, 20: 0.9, 30: 0.8}))
        [20, 50]
    """
    ordered = sorted(entries, key=lambda entry: entry.step)
    planned = [entry for entry in ordered if entry.scheduled]
    kept = {entry.step for entry in (planned if ended else ordered)[-1:]}
    if config.keep_last is config.keep_every is config.keep_best is None:
        return kept | {entry.step for entry in planned}
    if config.keep_last is not None:
        kept |= {entry.step for entry in planned[-config.keep_last :]}
    if config.keep_every is not None:
        kept |= {entry.step for entry in planned if entry.number % config.keep_every == 0}
    if config.keep_best is not None:
        own = {entry.step: scores[entry.step] for entry in planned if entry.step in scores}
        kept |= set(ranked(own, config.best_mode)[: config.keep_best])
    return kept
