"""What the parsers of all commands are made of: help on demand, examples, flags that all have."""

import argparse
from collections.abc import Callable, Sequence
from typing import Any, NoReturn, Self

from ..errors import UsageError, suggest
from .messages import Verbosity

Run = Callable[[argparse.Namespace, Sequence[str]], None]

_OVERRIDES = """\
Every field of the job can be set as --section.field VALUE; values are read as YAML.
`jaxbrewer inspect JOB` lists all fields with their values."""


class Parser(argparse.ArgumentParser):
    """Raises :class:`UsageError` where argparse would print its usage and exit.

    Attributes:
        complete_help: Adds what only the help has. It needs the configs, whose import takes
            longer than everything else here, so it is called where the help is shown.
    """

    complete_help: Callable[[], None] | None = None

    def with_help(self) -> Self:
        """This parser with its whole help."""
        if self.complete_help is not None:
            self.complete_help()
            self.complete_help = None
        return self

    def format_help(self) -> str:
        """The whole help."""
        self.with_help()
        return super().format_help()

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        """Raises an error that proposes the nearest choice."""
        if action.choices is not None and value not in action.choices:
            message = f"invalid choice: {value!r}: {suggest(value, action.choices)}"
            raise argparse.ArgumentError(action, message)

    def error(self, message: str) -> NoReturn:
        """Raises the error."""
        shown = message if len(message) <= 300 else f"{message[:297]}..."
        raise UsageError(f"{shown} (see {self.prog} --help)")


class HelpFormatter(argparse.RawDescriptionHelpFormatter):
    """Keeps the examples line by line."""

    def __init__(self, prog: str):
        super().__init__(prog, max_help_position=40, width=100)


def add_command(
    adder: Any,
    name: str,
    run: Run,
    does: str,
    *examples: str,
    takes_overrides: bool = False,
    usage: str | None = None,
) -> Parser:
    """Adds a command; ``does`` completes the sentence "this command will ..."."""
    command: Parser = adder.add_parser(
        name,
        help=does,
        usage=usage,
        description=does[0].upper() + does[1:] + ".",
        epilog=examples_of(*examples, overrides=takes_overrides),
        formatter_class=HelpFormatter,
        allow_abbrev=False,
    )
    command.set_defaults(run=run, takes_overrides=takes_overrides)
    add_verbosity(command)
    return command


def add_verbosity(parser: argparse.ArgumentParser) -> None:
    """Adds ``--quiet`` and ``--verbose``, which may stand before and after the command."""
    group = parser.add_argument_group("messages").add_mutually_exclusive_group()
    for flag, value, does in (
        ("quiet", Verbosity.QUIET, "print results, warnings and errors only"),
        ("verbose", Verbosity.VERBOSE, "print times, the place of warnings, tracebacks of errors"),
    ):
        group.add_argument(
            f"-{flag[0]}",
            f"--{flag}",
            dest="verbosity",
            action="store_const",
            const=value,
            default=argparse.SUPPRESS,
            help=does,
        )


def with_default(text: str = "") -> str:
    """The help of a flag, with its default."""
    return f"{text} (default: %(default)s)".strip()


def examples_of(*lines: str, overrides: bool = False) -> str:
    """The end of a help: examples, after how fields of the job are set where they can be."""
    text = "\n".join(["examples:", *(f"  {line}" for line in lines)])
    return f"{_OVERRIDES}\n\n{text}" if overrides else text
