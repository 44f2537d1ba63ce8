"""What the command line writes to standard error: errors, warnings and the package's log."""

import contextlib
import contextvars
import enum
import sys
import time
import warnings
from collections.abc import Iterator
from typing import Any

from ..errors import escaped, log_warnings_to

BAD_INPUT = 2
"""Exit status of bad input."""


class Verbosity(enum.Enum):
    """What a command prints beside its results, warnings and errors.

    ``QUIET`` is nothing. ``NORMAL`` is the facts of a job and the progress. ``VERBOSE`` adds the
    time at which each part of the work begins, also where standard error is no terminal, the place
    of each warning, and the traceback of each error.
    """

    QUIET = "quiet"
    NORMAL = "normal"
    VERBOSE = "verbose"


_verbosity = contextvars.ContextVar("verbosity", default=Verbosity.NORMAL)
_started = time.monotonic()


@contextlib.contextmanager
def normal_verbosity() -> Iterator[None]:
    """Ends what :func:`set_verbosity` sets inside the context."""
    token = _verbosity.set(Verbosity.NORMAL)
    try:
        yield
    finally:
        _verbosity.reset(token)


def set_verbosity(value: Verbosity) -> None:
    """Sets what is printed from here on."""
    _verbosity.set(value)


def is_quiet() -> bool:
    """Whether only results, warnings and errors are printed."""
    return _verbosity.get() is Verbosity.QUIET


def is_verbose() -> bool:
    """Whether everything is printed."""
    return _verbosity.get() is Verbosity.VERBOSE


def print_error(error: Exception) -> None:
    """Prints a :class:`UsageError` as one line, after its traceback if verbose."""
    if is_verbose():
        import traceback

        traceback.print_exception(error, file=sys.stderr)
    print(f"jaxbrewer: error: {error}", file=sys.stderr)


def report_wait(reason: str) -> None:
    """Tells a person at a terminal what takes the next seconds."""
    if is_verbose() or (sys.stderr.isatty() and not is_quiet()):
        at = f"{time.monotonic() - _started:.1f} s: " if is_verbose() else ""
        print(f"jaxbrewer: {at}{escaped(reason)} ...", file=sys.stderr, flush=True)


def report_progress(done: int, total: int | None = None) -> None:
    """Shows a person at a terminal how many texts are done, in a line that is written over.

    Args:
        done: The number of texts.
        total: That of all, if it is known; the line is removed once they are done.
    """
    if sys.stderr.isatty() and not is_quiet():
        shown = (
            f"jaxbrewer: {done:,} texts" if total is None else f"jaxbrewer: {done:,} of {total:,}"
        )
        print(f"\r\x1b[K{'' if done == total else shown}", end="", file=sys.stderr, flush=True)


def spell_flag(name: str, value: object) -> str:
    """A setting of the training as a flag, for messages that propose it.

    Examples:
        >>> spell_flag("resume", True), spell_flag("overwrite", True)
        ('--resume', '--training.overwrite true')
    """
    import json

    return "--resume" if name == "resume" else f"--training.{name} {json.dumps(value)}"


@contextlib.contextmanager
def plain_messages() -> Iterator[None]:
    """Prints warnings, and those of the package's log, as single lines."""

    def show_warning(
        message: Any, category: Any, filename: str, lineno: int, *_: Any, **__: Any
    ) -> None:
        place = f" ({category.__name__}, {filename}:{lineno})" if is_verbose() else ""
        _print_message(f"warning: {message}{place}")

    with warnings.catch_warnings(), log_warnings_to(_print_message):
        warnings.showwarning = show_warning
        yield


def _print_message(text: str) -> None:
    print(f"jaxbrewer: {escaped(' '.join(text.split()))}", file=sys.stderr)
