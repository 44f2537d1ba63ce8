"""Which of the keyword arguments of ``train`` each model gets."""

from collections.abc import Iterable, Mapping
from typing import Any

from ..errors import UsageError, suggest
from .model import Model

OWN_ARGUMENTS = {"student": "args_S", "teacher": "args_T"}
"""The arguments of one model alone, as dicts of these names among the arguments of both."""


def arguments_of(model: Model, who: str, args: Mapping[str, Any]) -> dict[str, Any]:
    """The keyword arguments of every call of one model.

    Args:
        model: The model. Of the arguments of both models it gets those that its signature takes.
        who: ``"student"``, ``"teacher"`` or ``"teacher 1"``.
        args: The arguments of both models; ``"args_S"`` and ``"args_T"`` hold those of one.

    Examples:
        >>> from jaxbrewer import as_model
        >>> model = as_model((lambda params, x, scale: x, {}))
        >>> arguments_of(model, "teacher", {"scale": 1, "cache": 2, "args_S": {"scale": 3}})
        {'scale': 1}
    """
    shared = {
        name: value
        for name, value in args.items()
        if name not in OWN_ARGUMENTS.values() and (model.takes is None or name in model.takes)
    }
    return shared | dict(args.get(OWN_ARGUMENTS[who.split()[0]]) or {})


def check_arguments(args: Mapping[str, Any], models: Iterable[Model]) -> None:
    """Checks the arguments of both models.

    Raises:
        UsageError: No model takes one of them, or ``args_S`` or ``args_T`` is not a dict.
    """
    takes = [model.takes for model in models]
    known = sorted(set().union(*(names for names in takes if names is not None)))
    for name, value in args.items():
        if name in OWN_ARGUMENTS.values():
            if value is not None and not isinstance(value, Mapping):
                raise UsageError(
                    f"{name} must be a dict of keyword arguments, got {type(value).__name__}."
                )
        elif None not in takes and name not in known:
            raise UsageError(
                f"No model takes the argument {name!r}: {suggest(name, known)} The mode is set for "
                "both models; args_S={...} and args_T={...} reach one of them."
            )
