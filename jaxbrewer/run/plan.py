"""The length of a training, and the steps after which it saves a checkpoint."""

import dataclasses
import itertools
from collections.abc import Iterator

from ..configs import TrainingConfig


@dataclasses.dataclass(frozen=True)
class Plan:
    """The length of a training: whole epochs, or a number of optimizer steps.

    Attributes:
        total_steps: Optimizer steps in all.
        steps_per_epoch: Steps in an epoch; ``None`` if the training counts steps, not epochs.
        facts: What a distiller's ``check`` found out about the step, a line each: the chunks in
            which logits are computed, and which logits are held whole.
    """

    total_steps: int
    steps_per_epoch: int | None = None
    facts: tuple[str, ...] = ()

    @property
    def num_epochs(self) -> int | None:
        """Epochs in all; ``None`` if the training counts steps, not epochs."""
        return None if self.steps_per_epoch is None else self.total_steps // self.steps_per_epoch

    def saved_steps(self, config: TrainingConfig) -> Iterator[int]:
        """The steps at which :meth:`saves_at` holds, in order.

        Examples:
            >>> list(Plan(10, steps_per_epoch=5).saved_steps(TrainingConfig(ckpt_frequency=2)))
            [2, 5, 7, 10]
            >>> list(Plan(total_steps=10).saved_steps(TrainingConfig(ckpt_steps=4)))
            [4, 8, 10]
        """
        if self.steps_per_epoch is None:
            every = config.ckpt_steps or self.total_steps
            yield from range(every, self.total_steps, every)
            yield self.total_steps
            return
        assert self.num_epochs is not None
        every = config.ckpt_epoch_frequency
        for epoch in itertools.chain(range(every, self.num_epochs, every), [self.num_epochs]):
            first = (epoch - 1) * self.steps_per_epoch
            for step in range(first + 1, first + self.steps_per_epoch + 1):
                if self.saves_at(step, config):
                    yield step

    def saves_at(self, step: int, config: TrainingConfig) -> bool:
        """Whether a checkpoint follows step number ``step``, counted from 1.

        Counting steps: every ``ckpt_steps``, and the last. Counting epochs: ``ckpt_frequency``
        times in every ``ckpt_epoch_frequency``-th epoch and in the last, at TextBrewer's steps.

        Examples:
            >>> plan = Plan(total_steps=10, steps_per_epoch=5)
            >>> [step for step in range(1, 11) if plan.saves_at(step, TrainingConfig())]
            [5, 10]
            >>> twice = TrainingConfig(ckpt_frequency=2)
            >>> [step for step in range(1, 11) if plan.saves_at(step, twice)]
            [2, 5, 7, 10]
        """
        if self.steps_per_epoch is None:
            every = config.ckpt_steps or self.total_steps
            return step % every == 0 or step == self.total_steps
        epoch = (step - 1) // self.steps_per_epoch + 1
        if epoch % config.ckpt_epoch_frequency and epoch != self.num_epochs:
            return False
        return _is_point(step % self.steps_per_epoch, self.steps_per_epoch, config.ckpt_frequency)


def _is_point(step: int, steps: int, frequency: int) -> bool:
    """Whether ``step`` is ``int(steps * i / frequency)`` for an i below ``frequency``."""
    nearest = step * frequency // steps
    some = range(max(nearest - 1, 0), min(nearest + 3, frequency))
    return any(int(steps * i / frequency) == step for i in some)
