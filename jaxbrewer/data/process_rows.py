"""The rows of a batch that are this process's; without JAX, unless there are several processes."""

import numpy as np

from ..errors import UsageError


class Parts:
    """Gives each of several processes an equal, contiguous part of the rows of every batch.

    Args:
        loader: The loader's name, for messages.
        batch_size: Rows of a full batch.
        per_process: Whether there are parts at all.

    Raises:
        UsageError: A batch does not divide.
    """

    def __init__(self, loader: str, batch_size: int, *, per_process: bool):
        self._index, self.count = 0, 1
        if per_process:
            import jax

            self._index, self.count = jax.process_index(), jax.process_count()
        if batch_size % self.count:
            raise UsageError(
                f"{loader}.batch_size {batch_size} must be a multiple of the {self.count} "
                "processes."
            )

    def own(self, rows: np.ndarray) -> np.ndarray:
        """This process's rows; those that do not divide are left out."""
        each = len(rows) // self.count
        return rows[self._index * each : (self._index + 1) * each]
