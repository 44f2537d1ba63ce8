"""The one error of bad input, and the suggestion that goes with it."""

import difflib
from collections.abc import Iterable


class UsageError(ValueError):
    """Something the user gave cannot be used: a field, a file, a batch, an adaptor's answer.

    The message is one line that names what was given, where, and what is allowed. The command
    line prints it without a traceback and exits with status 2.
    """


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
