"""A call of a model as its signature asks: batch entries, mode flag, random keys."""

import dataclasses
import inspect
from collections.abc import Callable, Mapping
from typing import Any

import jax

from ..errors import UsageError, suggest
from .model import Batch

MODE_FLAGS = {
    "train": True,
    "training": True,
    "is_training": True,
    "deterministic": False,
    "use_running_average": False,
}
"""Arguments and attributes that switch a model's mode, with their value in training."""

_RANDOM = ("rng", "rngs")
_POSITIONAL = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)


class ModelCall:
    """Calls a model with the batch entries, the mode flag and the keys that its signature names.

    A mapping, a named tuple or a dataclass gives entries by name; those that the signature does not
    name (``labels``, say) are for the adaptor and are not passed, while a signature with
    ``**kwargs`` gets all of them. A named tuple or dataclass none of whose fields is named, and any
    array, is the first argument as it is. A tuple or list gives positional arguments.

    Args:
        function: The model's function, or a bound method, whose signature is read.
        skip: Number of leading parameters that are not entries of a batch.
        random: The parameters among ``"rng"`` and ``"rngs"`` that receive keys.

    Attributes:
        name: The function's name, for messages.
        takes: Names of the batch entries that the signature takes; ``None`` for all.
    """

    def __init__(
        self, function: Callable[..., Any], *, skip: int = 0, random: tuple[str, ...] = _RANDOM
    ):
        self.name = _name_of(function)
        parameters = _parameters(function)[skip:]
        self._signature = inspect.Signature(parameters)
        kinds = {parameter.kind: parameter.name for parameter in parameters}
        self._rest = kinds.get(inspect.Parameter.VAR_POSITIONAL)
        self._keywords = kinds.get(inspect.Parameter.VAR_KEYWORD)
        named = [each for each in parameters if each.name not in (self._rest, self._keywords)]
        self._modes = [each.name for each in named if each.name in MODE_FLAGS]
        self._random = {each.name: each for each in named if each.name in random}
        self._entries = [each for each in named if each.name not in (*self._modes, *self._random)]
        self.takes = (
            None if self._keywords else frozenset(parameter.name for parameter in self._entries)
        )

    def __call__(
        self,
        function: Callable[..., Any],
        batch: Batch,
        args: Mapping[str, Any],
        *,
        train: bool,
        **random: jax.Array | Any,
    ) -> Any:
        """Calls ``function``, which has the signature that the constructor read.

        Args:
            function: The function.
            batch: The model's part of a batch.
            args: Further keyword arguments.
            train: The mode.
            **random: Values of the parameters ``rng`` and ``rngs``; a ``None`` leaves a default of
                the signature in place.

        Raises:
            UsageError: A required argument is missing, or an argument is unknown or given twice.
        """
        named, rest = self._entries_of(batch, args)
        self._check(named, args, batch)
        modes = {name: train == MODE_FLAGS[name] for name in self._modes}
        values = {**named, **modes, **args}
        for name in self._random:
            value = random.get(name)
            if value is not None or self.requires(name):
                values[name] = value
        bound = inspect.BoundArguments(self._signature, self._in_order(values))
        return function(*bound.args, *rest, **bound.kwargs)

    def requires(self, name: str) -> bool:
        """Whether the signature has a parameter ``name`` for keys, without a default."""
        parameter = self._random.get(name)
        return parameter is not None and parameter.default is inspect.Parameter.empty

    def _entries_of(
        self, batch: Batch, args: Mapping[str, Any]
    ) -> tuple[dict[str, Any], tuple[Any, ...]]:
        """The arguments in a batch, by name, and those beyond the named positional ones."""
        fields = _fields(batch)
        is_named = fields is not None and (self.takes is None or bool(self.takes & fields.keys()))
        entries = fields if is_named else batch
        if isinstance(entries, Mapping):
            return {k: v for k, v in entries.items() if self.takes is None or k in self.takes}, ()
        items = batch if isinstance(batch, (list, tuple)) and fields is None else (batch,)
        positional = [
            each.name
            for each in self._entries
            if each.kind in _POSITIONAL and each.name not in args
        ]
        named = dict(zip(positional, items, strict=False))
        return named, tuple(items[len(positional) :]) if self._rest else ()

    def _in_order(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """``values`` in the order of the signature, which ``BoundArguments`` needs."""
        own = [name for name in self._signature.parameters if name in values]
        arguments = {name: values[name] for name in own if name != self._keywords}
        if self._keywords:
            arguments[self._keywords] = {k: v for k, v in values.items() if k not in arguments}
        return arguments

    def _check(self, named: Mapping[str, Any], args: Mapping[str, Any], batch: Batch) -> None:
        known = [each.name for each in self._entries]
        for name in args:
            if name not in (*known, *self._modes) and not self._keywords:
                raise UsageError(f"{self.name} takes no argument {name!r}: {suggest(name, known)}")
            if name in named:
                raise UsageError(
                    f"{self.name} gets {name!r} twice, as an entry of the batch and as an argument "
                    "of the call: leave one of them out."
                )
        missing = [
            repr(each.name)
            for each in self._entries
            if each.default is inspect.Parameter.empty
            and each.name not in named
            and each.name not in args
        ]
        if missing:
            raise UsageError(
                f"{self.name} requires {', '.join(missing)}, but the batch has "
                f"{_described(batch)}: add the entry, or pass it to one model with args_T={{...}} "
                "or args_S={...}."
            )


def _described(batch: Batch) -> str:
    entries = batch if isinstance(batch, Mapping) else _fields(batch)
    if entries is not None:
        return ", ".join(repr(name) for name in entries) or "no entries"
    return f"{len(batch)} entries" if isinstance(batch, (list, tuple)) else "one array"


def method_of(model: Any, method: str, maker: str) -> Callable[..., Any]:
    """The method that runs a module.

    Raises:
        UsageError: There is none of that name; the message shows how to name another in ``maker``.
    """
    found = getattr(model, method, None)
    if callable(found):
        return found
    kind = type(model)
    own = [
        name
        for base in kind.__mro__
        if not base.__module__.startswith("flax.")
        for name, value in vars(base).items()
        if inspect.isfunction(value) and not name.startswith("_") and name != "setup"
    ]
    named = repr(own[0]) if own else "..."
    raise UsageError(
        f"{kind.__name__} has no method {method!r}: name the one that runs it, "
        f"{maker}(..., method={named})."
    )


def _fields(batch: Batch) -> dict[str, Any] | None:
    """The fields of a named tuple or a dataclass, by name."""
    if isinstance(batch, tuple) and hasattr(batch, "_fields"):
        return dict(zip(batch._fields, batch, strict=True))
    if dataclasses.is_dataclass(batch) and not isinstance(batch, (type, Mapping)):
        return {field.name: getattr(batch, field.name) for field in dataclasses.fields(batch)}
    return None


def _name_of(function: Callable[..., Any]) -> str:
    owner = getattr(function, "__self__", None)
    if owner is not None:
        return f"{type(owner).__name__}.{function.__name__}"
    name = getattr(function, "__qualname__", type(function).__qualname__)
    return name.rpartition("<locals>.")[2]


def _parameters(function: Callable[..., Any]) -> list[inspect.Parameter]:
    """The parameters of a function; any at all where Python cannot read its signature."""
    try:
        return list(inspect.signature(function).parameters.values())
    except ValueError:
        return [
            inspect.Parameter("args", inspect.Parameter.VAR_POSITIONAL),
            inspect.Parameter("kwargs", inspect.Parameter.VAR_KEYWORD),
        ]
