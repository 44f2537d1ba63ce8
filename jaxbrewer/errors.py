"""The error of bad input, suggestions for its message, and two ways a training may end."""

import contextlib
import contextvars
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence


class UsageError(ValueError):
    r"""Something the user gave cannot be used: a field, a file, a batch, an adaptor's answer.

    The message is one line that names what was given, where, and what is allowed; control
    characters in it, which may come from a file, are shown escaped. The command line prints it
    without a traceback and exits with status 2.

    Examples:
        >>> UsageError("bad.csv holds no label " + chr(27) + "[31m.").args[0]
        'bad.csv holds no label \\x1b[31m.'
    """

    def __init__(self, message: object = ""):
        super().__init__(escaped(str(message)))


class NonFiniteError(UsageError):
    """A loss or a gradient that is not finite ended the training; the message names where.

    The step that it names did not change the weights of any checkpoint.
    """


class Preempted(SystemExit):
    """SIGTERM ended the training, after a checkpoint; the exit status is 143.

    Attributes:
        step: The optimizer step from which ``resume=True`` continues.
    """

    def __init__(self, step: int):
        super().__init__(143)
        self.step = step


def shown(value: object) -> str:
    """The repr of a value for a message: on one line, and not longer than one.

    Examples:
        >>> shown("x" * 1000)[-9:], shown(10**10_000)
        ('xxxxxx...', 'a value of type int')
    """
    try:
        text = " ".join(repr(value).split())
    except Exception:  # an int of more digits than Python prints, an object that cannot be shown
        return f"a value of type {type(value).__name__}"
    return text if len(text) <= 100 else f"{text[:97]}..."


def on_one_line(text: str, most: int = 300) -> str:
    r"""The text of another library's error for a message: without line breaks, and not too long.

    Examples:
        >>> on_one_line("no route\n  to host")
        'no route to host'
    """
    line = " ".join(text.split())
    return line if len(line) <= most else f"{line[: most - 3]}..."


def escaped(text: str) -> str:
    r"""Text for a terminal: control characters, line breaks and surrogates as escape sequences.

    Examples:
        >>> print(escaped("one\ntwo \x1b[31m"))
        one\ntwo \x1b[31m
    """
    if text.isprintable():
        return text
    return "".join(
        char if char.isprintable() else char.encode("unicode_escape").decode() for char in text
    )


def reason_of(error: BaseException) -> str:
    """What the operating system reports, without the path, which the message names already.

    Examples:
        >>> reason_of(FileNotFoundError(2, "No such file or directory", "x"))
        'No such file or directory'
        >>> reason_of(ValueError("OUT_OF_RANGE: Failed: File too large [os_error_code='27']"))
        'File too large'
    """
    if isinstance(error, UnicodeEncodeError):
        return "the path holds characters that no file name can have"
    reported = re.search(r"([^:]*) \[os_error_code=", str(error))  # TensorStore's form
    if reported:
        return reported[1].strip()
    return getattr(error, "strerror", None) or str(error).rstrip(".")


class StopTraining(Exception):  # not an error
    """Raised by a callback, it ends the training in order after the checkpoint of this step.

    ``train`` returns the student and the history so far. A run directory has the checkpoint, from
    which ``resume=True`` continues.

    Args:
        scores: The dict of numbers that the callback would return, by which ``keep_best`` chooses.

    Examples:
        >>> def callback(model, step):
        ...     accuracy = 0.9  # of the model on held-out data
        ...     if accuracy > 0.8:
        ...         raise StopTraining({"accuracy": accuracy})
    """

    def __init__(self, scores: Mapping[str, float] | None = None):
        super().__init__("The training stops here.")
        self.scores = scores


def abbreviate(items: Sequence[object], most: int = 6) -> str:
    """The items, comma-separated; of more than ``most``, only the first ones and the last.

    Examples:
        >>> abbreviate([1, 2, 3]), abbreviate(range(100))
        ('1, 2, 3', '0, 1, 2, 3, 4, ..., 99')
    """
    names = [str(item) for item in items]
    shown = names if len(names) <= most else [*names[: most - 1], "...", names[-1]]
    return ", ".join(shown)


def suggest(name: object, allowed: Iterable[object], *, not_listed: Iterable[object] = ()) -> str:
    """Says what is allowed where ``name`` is not, the nearest first.

    Args:
        name: What was given.
        allowed: What is allowed.
        not_listed: What is allowed too, and is proposed if it is the nearest.

    Examples:
        >>> suggest("lineer", ["linear", "relu"])
        "did you mean 'linear'? Allowed: 'linear', 'relu'."
        >>> suggest("layers.0", ["embed", "layer"], not_listed=["layer.0", "layer.1"])
        "did you mean 'layer.0'? Allowed: 'embed', 'layer'."
        >>> suggest("lr", ["batch_size", "learning_rate"])
        "did you mean 'learning_rate'? Allowed: 'batch_size', 'learning_rate'."
        >>> suggest(7, ["linear", "relu"])
        "Allowed: 'linear', 'relu'."
    """
    import difflib  # most commands start without it

    names = [str(option) for option in allowed]
    listed = "Allowed: " + ", ".join(repr(option) for option in names) + "."
    every = [*names, *map(str, not_listed)]
    nearest = difflib.get_close_matches(name, every, n=1) if isinstance(name, str) else []
    if not nearest and isinstance(name, str) and len(name) > 1:
        nearest = [full for full in every if name == "".join(w[:1] for w in full.split("_"))]
    return f"did you mean {nearest[0]!r}? {listed}" if nearest else listed


_spelling: contextvars.ContextVar[Callable[[str, object], str]] = contextvars.ContextVar(
    "spelling", default=lambda name, value: f"{name}={value!r}"
)


def setting(name: str, value: object) -> str:
    """A setting of :class:`TrainingConfig` as the user writes it, for a message that proposes it.

    Examples:
        >>> setting("resume", True)
        'resume=True'
    """
    return _spelling.get()(name, value)


@contextlib.contextmanager
def spelling(spell: Callable[[str, object], str]) -> Iterator[None]:
    """Makes :func:`setting` use ``spell``, so that the command line proposes its own flags.

    Examples:
        >>> with spelling(lambda name, value: f"--{name} {value}"):
        ...     setting("seed", 3)
        '--seed 3'
    """
    token = _spelling.set(spell)
    try:
        yield
    finally:
        _spelling.reset(token)


def _to_log(message: str) -> None:
    import logging  # most commands start without it

    logging.getLogger("jaxbrewer").warning("%s", message)


_warning_writer: contextvars.ContextVar[Callable[[str], None]] = contextvars.ContextVar(
    "warning_writer", default=_to_log
)


def log_warning(message: str) -> None:
    """Writes a warning to the log ``jaxbrewer``, or where :func:`log_warnings_to` says."""
    _warning_writer.get()(message)


@contextlib.contextmanager
def log_warnings_to(write: Callable[[str], None]) -> Iterator[None]:
    """Makes :func:`log_warning` call ``write``, so that the command line prints the message.

    Examples:
        >>> with log_warnings_to(print):
        ...     log_warning("the head is new")
        the head is new
    """
    token = _warning_writer.set(write)
    try:
        yield
    finally:
        _warning_writer.reset(token)


def without_log_warnings() -> contextlib.AbstractContextManager[None]:
    """A context in which the warnings of the log are expected, and not written."""
    return log_warnings_to(lambda message: None)


def missing_file(path: object) -> UsageError:
    """The error that a file which the user named is missing.

    Examples:
        >>> print(missing_file("trian.tsv"))
        trian.tsv does not exist, or is not a file.
    """
    return UsageError(f"{path} does not exist, or is not a file.")


def missing_extra(extra: str, library: str) -> UsageError:
    """The error that ``library``, which belongs to an extra of the package, is not installed.

    Examples:
        >>> print(missing_extra("text", "tokenizers"))
        The library tokenizers is not installed: pip install "jaxbrewer[text]", or in a clone
        pip install -e ".[text]".
    """
    return UsageError(
        f'The library {library} is not installed: pip install "jaxbrewer[{extra}]", or in a clone '
        f'pip install -e ".[{extra}]".'
    )
