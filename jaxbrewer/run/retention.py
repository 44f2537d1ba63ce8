"""Which checkpoints of a run are kept: a function of what there is, and of the config."""

import dataclasses
from collections.abc import Iterable, Mapping

from ..configs import TrainingConfig


@dataclasses.dataclass(frozen=True)
class CheckpointInfo:
    """A checkpoint that is on disk.

    Attributes:
        step: The update it follows.
        number: It is the so many-th checkpoint of the run, from 1.
        scheduled: Whether the plan asks for it, or only an interruption did.
    """

    step: int
    number: int
    scheduled: bool = True


def kept_steps(
    entries: Iterable[CheckpointInfo],
    config: TrainingConfig,
    scores: Mapping[int, float] = {},
    *,
    ended: bool = False,
) -> set[int]:
    """The steps of the checkpoints that stay.

    The latest always does; the others if any rule of the config keeps them, or if there is none.
    One that only an interruption asked for goes as soon as a later one is there, or the run ended.

    Args:
        entries: All checkpoints.
        config: ``keep_last``, ``keep_every``, ``keep_best`` and ``best_mode``.
        scores: What ``best_metric`` was at each step. Of equals, the earlier is the better.
        ended: Whether the training has come to its end.

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
        sign = -1 if config.best_mode == "max" else 1
        scored = [entry.step for entry in planned if entry.step in scores]
        kept |= set(sorted(scored, key=lambda step: sign * scores[step])[: config.keep_best])
    return kept
