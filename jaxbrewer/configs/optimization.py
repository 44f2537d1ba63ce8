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
        for field in ("learning_rate", "warmup", "weight_decay"):
            self.require_number(field, minimum=0)
        self.require("warmup", self.warmup <= 1, "a fraction")
        self.require_number("max_grad_norm")
