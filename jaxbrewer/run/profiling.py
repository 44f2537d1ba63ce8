"""A trace of some steps by ``jax.profiler``, which TensorBoard and Perfetto show."""

from types import TracebackType
from typing import Any, Self

import jax

from ..configs import TrainingConfig


class Profiler:
    """Traces the steps that ``profile_steps`` names; does nothing without it.

    It waits for the device before the first and after the last of them, and not in between.

    Args:
        config: ``profile_steps``, and the directory of the trace: ``log_dir``, or else
            ``output_dir``.
    """

    def __init__(self, config: TrainingConfig):
        self._first, self._last = config.profile_steps or (0, 0)
        self._directory = config.log_dir or config.output_dir
        self._is_running = False

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._is_running:
            jax.profiler.stop_trace()

    def before(self, step: int, state: Any) -> None:
        """Starts the trace if ``step``, which ``state`` precedes, is the first to trace."""
        if step == self._first:
            jax.block_until_ready(state)
            jax.profiler.start_trace(str(self._directory))
            self._is_running = True

    def after(self, step: int, state: Any) -> None:
        """Ends the trace if ``step``, which returned ``state``, is the last to trace."""
        if self._is_running and step == self._last:
            jax.block_until_ready(state)
            jax.profiler.stop_trace()
            self._is_running = False
