"""Ends a training that skips every step even at the smallest loss scale."""

from collections.abc import Mapping

from ..errors import NonFiniteError
from ..forward.precision import LossScale


class SkippedStepWatch:
    """Counts the steps skipped in a row at the smallest loss scale, which no scale can help.

    It takes scalars when they are read, some steps late, so that no step waits for it.

    Examples:
        >>> watch = SkippedStepWatch()
        >>> for step in range(1, SkippedStepWatch.MOST + 1):
        ...     watch.see(step, {"loss_scale": 1.0, "skipped_steps": float(step)})
        Traceback (most recent call last):
        ...
        jaxbrewer.errors.NonFiniteError: Step 25 is the 25th in a row that was skipped although...
    """

    MOST = 25
    """Number of steps in a row, skipped at the smallest loss scale, that ends the training."""

    def __init__(self) -> None:
        self._skipped, self._in_a_row = 0.0, 0

    def see(self, step: int, scalars: Mapping[str, float]) -> None:
        """Takes the scalars of a step.

        Raises:
            NonFiniteError: Too many steps in a row were skipped.
        """
        if "skipped_steps" not in scalars:
            return
        was_skipped = scalars["skipped_steps"] > self._skipped
        self._skipped = scalars["skipped_steps"]
        is_smallest = scalars["loss_scale"] <= LossScale.SMALLEST
        self._in_a_row = self._in_a_row + 1 if was_skipped and is_smallest else 0
        if self._in_a_row >= self.MOST:
            raise NonFiniteError(
                f"Step {step} is the {self._in_a_row}th in a row that was skipped although the "
                f"loss scale is at its smallest, {LossScale.SMALLEST:g}: a loss or a gradient is "
                "not finite in float16 at any scale. Lower the learning rate, or set "
                "half_dtype='bfloat16'."
            )
