"""The error of bad input, the suggestion that goes with it, and two ways a training may end."""

import difflib
from collections.abc import Iterable


class UsageError(ValueError):
    """Something the user gave cannot be used: a field, a file, a batch, an adaptor's answer.

    The message is one line that names what was given, where, and what is allowed. The command
    line prints it without a traceback and exits with status 2.
    """


class NonFiniteError(UsageError):
    """A loss or a gradient that is not finite ended the training; the message says where.

    Nothing was learned from the update it names, and no checkpoint was made after it.
    """


class Preempted(SystemExit):
    """SIGTERM ended the training, after a checkpoint; the exit status is 143.

    Attributes:
        step: The update after which ``resume=True`` goes on.
    """

    def __init__(self, step: int):
        super().__init__(143)
        self.step = step


def suggest(name: object, allowed: Iterable[object]) -> str:
    """Says what is allowed where ``name`` is not, the nearest first.

    Examples:
        >>> suggest("lineer", ["linear", "relu"])
        "did you mean 'linear'? Allowed: 'linear', 'relu'."
        >>> suggest(7, ["linear", "relu"])
        "Allowed: 'linear', 'relu'."
    """
    names = [str(option) for option in allowed]
    listed = "Allowed: " + ", ".join(repr(option) for option in names) + "."
    nearest = difflib.get_close_matches(str(name), names, n=1)
    return f"did you mean {nearest[0]!r}? {listed}" if nearest else listed
