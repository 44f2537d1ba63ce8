"""``jaxbrewer completion``: a script that completes commands, flags and files in a shell."""

import argparse
from collections.abc import Iterator

from ..errors import missing_extra

SHELLS = ("bash", "zsh", "tcsh")

_PATHS = {"DIR", "FILE", "JOB", "MODEL", "MODEL_OR_JOB", "PATH", "RUN"}
"""Metavariables of arguments that are files or directories."""


def completion(parser: argparse.ArgumentParser, shell: str) -> None:
    """Prints the script of a shell.

    Raises:
        UsageError: The library shtab is not installed.
    """
    try:
        import shtab
    except ImportError:
        raise missing_extra("completion", "shtab") from None
    for action in _actions(parser):
        if action.metavar in _PATHS:
            action.complete = shtab.FILE  # type: ignore[attr-defined]
    print(shtab.complete(parser, shell=shell), flush=True)


def _actions(parser: argparse.ArgumentParser) -> Iterator[argparse.Action]:
    """The arguments of a parser and of its commands."""
    for action in parser._actions:
        yield action
        if isinstance(action, argparse._SubParsersAction):
            for command in action.choices.values():
                yield from _actions(command.with_help())
