"""The rows of a batch that one of several processes loads; needs JAX only if there are several."""

import numpy as np

from ..errors import UsageError


class ProcessRows:
    """Gives each of several processes an equal, contiguous part of the rows of every batch.

    Args:
        loader: The loader's name, for messages.
        batch_size: Rows of a full batch.
        per_process: Whether rows are divided among the processes; otherwise each gets all.

    Attributes:
        count: Number of processes that share a batch.

    Raises:
        UsageError: ``batch_size`` is not a multiple of the number of processes.
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

    def of(self, rows: np.ndarray) -> np.ndarray:
        """This process's part of ``rows``; a remainder that does not divide is dropped."""
        each = len(rows) // self.count
        return rows[self._index * each : (self._index + 1) * each]
