"""How the weights of a whole job are optimized."""

import dataclasses

from ._base import Config


@dataclasses.dataclass(frozen=True)
class OptimizationConfig(Config):
    """AdamW with a linear warm-up and a linear decay to 0."""

    num_epochs: int = 3
    """Passes over the training data."""

    num_steps: int | None = None
    """Optimizer steps, instead of ``num_epochs``."""

    min_steps: int = 0
    """The fewest optimizer steps; where ``num_epochs`` are fewer, the training takes this number
    of steps. It is not used beside ``num_steps``."""

    batch_size: int = 32
    """Texts in a batch."""

    learning_rate: float = 1e-4
    """The peak."""

    warmup: float = 0.1
    """Fraction of the steps in which the rate grows from 0 to the peak."""

    weight_decay: float = 0.01
    """AdamW's, on matrices only."""

    max_grad_norm: float = 1.0
    """Norm to which gradients are clipped; -1 does not clip."""

    def __post_init__(self) -> None:
        """Checks each field."""
        for field in ("num_epochs", "batch_size"):
            self.require_number(field, minimum=1, whole=True)
        if self.num_steps is not None:
            self.require_number("num_steps", minimum=1, whole=True)
        self.require_number("min_steps", minimum=0, whole=True)
        for field in ("learning_rate", "warmup", "weight_decay"):
            self.require_number(field, minimum=0)
        self.require("warmup", self.warmup <= 1, "a fraction")
        self.require_number("max_grad_norm")

    def length(self, steps_per_epoch: int) -> tuple[int | None, int | None]:
        """The epochs or the optimizer steps of a training; the other one is ``None``.

        Args:
            steps_per_epoch: Optimizer steps of one pass over the training data.

        Examples:
            >>> OptimizationConfig(num_epochs=3, min_steps=100).length(20)
            (None, 100)
            >>> OptimizationConfig(num_epochs=3, min_steps=100).length(50)
            (3, None)
        """
        if self.num_steps is not None:
            return None, self.num_steps
        if self.num_epochs * steps_per_epoch < self.min_steps:
            return None, self.min_steps
        return self.num_epochs, None

    def total_steps(self, steps_per_epoch: int) -> int:
        """The optimizer steps of a training.

        Examples:
            >>> OptimizationConfig(num_epochs=3, min_steps=100).total_steps(50)
            150
        """
        epochs, steps = self.length(steps_per_epoch)
        return steps if epochs is None else epochs * steps_per_epoch  # type: ignore[return-value]
