"""The command line, ``jaxbrewer COMMAND``; the commands are listed in :mod:`.parser`.

Nothing here imports JAX. A command does so only after it has checked its files and settings, so
that help and errors come at once.
"""

import contextlib
import gc
import os
import signal
import sys
from collections.abc import Iterator, Sequence
from types import FrameType

from ..errors import UsageError, spelling
from .messages import (
    BAD_INPUT,
    Verbosity,
    normal_verbosity,
    plain_messages,
    print_error,
    set_verbosity,
    spell_flag,
)

INTERRUPTED, BROKEN_PIPE, TERMINATED = 130, 141, 143


class _Terminated(BaseException):
    """SIGTERM, outside the steps of a training."""


def main(argv: Sequence[str] | None = None) -> int:
    """Runs a command.

    Args:
        argv: The words after ``jaxbrewer``; by default those of the process.

    Returns:
        The exit status: 0; 2 for bad input, after one line on standard error; 130 if interrupted;
        143 after SIGTERM. Any other exception is a bug and keeps its traceback.

    Raises:
        Preempted: SIGTERM ended a training, after a checkpoint; the exit status is 143.
    """
    try:
        with normal_verbosity():
            return _main(argv)
    finally:
        if argv is None:
            gc.freeze()  # the process ends: its last collection would look through every module


def _main(argv: Sequence[str] | None) -> int:
    try:
        with plain_messages(), spelling(spell_flag):
            try:
                if argv is None:
                    with _sigterm_raises():
                        _run(sys.argv[1:])
                else:
                    _run(argv)
            finally:
                sys.stdout.flush()
    except UsageError as error:
        print_error(error)
        return BAD_INPUT
    except (KeyboardInterrupt, _Terminated) as signalled:
        is_terminated = isinstance(signalled, _Terminated)
        what, status = ("terminated", TERMINATED) if is_terminated else ("interrupted", INTERRUPTED)
        print(f"jaxbrewer: {what}", file=sys.stderr)
        if argv is None:  # JAX may crash a process that exits during a step
            with contextlib.suppress(BrokenPipeError):
                sys.stdout.flush()
            sys.stderr.flush()
            os._exit(status)
        return status
    except BrokenPipeError:  # the reader of standard output has closed it
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return BROKEN_PIPE
    return 0


@contextlib.contextmanager
def _sigterm_raises() -> Iterator[None]:
    """Makes SIGTERM end the command in order, as Ctrl-C does; trainings catch it themselves."""

    def end(number: int, frame: FrameType | None) -> None:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # a second one would interrupt the first
        raise _Terminated

    before = signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _run(words: Sequence[str]) -> None:
    from .overrides import split_overrides
    from .parser import make_parser

    words, overrides = split_overrides(words)
    arguments = make_parser().parse_args(words)
    if overrides and not arguments.takes_overrides:
        command = " ".join(filter(None, ["jaxbrewer", arguments.command]))
        raise UsageError(f"{overrides[0]}: `{command}` takes no overrides.")
    set_verbosity(getattr(arguments, "verbosity", Verbosity.NORMAL))
    arguments.run(arguments, overrides)
