"""Rows of the tables: a function and what is known of it.

A row holds a function and its facts: what a config may set, what the function compares, what it
needs. Code that depends on a fact reads the row, so a new function needs one row and no list of
names anywhere. A packaged row holds its function as text, ``"module:name"``, which is imported at
the first call: configs are read and checked before JAX is loaded.
"""

import dataclasses
import functools
import importlib
import inspect
import sys
from collections.abc import Callable, Iterator, Mapping, MutableMapping
from typing import Any, ClassVar, Generic, Self, TypeVar

from ..errors import UsageError, suggest

Function = Callable[..., Any]


@dataclasses.dataclass(frozen=True)
class Row:
    """A function and the parameters that a config may set.

    Attributes:
        function: The function, or ``"module:name"``.
        parameters: What a config may set by name; ``None`` for a function that takes anything.
        required: Those without a default.
    """

    function: Function | str
    _: dataclasses.KW_ONLY
    parameters: tuple[str, ...] | None = ()
    required: tuple[str, ...] = ()

    caller_gives: ClassVar[tuple[str, ...]] = ()
    """Positional arguments that come from the caller; they are no parameters."""
    caller_gives_by_name: ClassVar[tuple[str, ...]] = ()
    signed: ClassVar[tuple[str, ...]] = ("parameters", "required")
    """The facts that a signature states."""

    @classmethod
    def of(cls, function: Function, subject: str, **facts: Any) -> Self:
        """The row of a function: its parameters from its signature, the other facts as given.

        Raises:
            UsageError: A fact is unknown, or the function cannot be called as it will be.
        """
        known = [field.name for field in dataclasses.fields(cls) if field.name != "function"]
        for name in facts:
            if name not in known:
                raise UsageError(f"{subject} has no fact {name!r}: {suggest(name, known)}")
        return cls(function, **{**cls.read_signature(function, subject), **facts})

    @classmethod
    def read_signature(cls, function: Function, subject: str) -> dict[str, Any]:
        """The facts that a signature states."""
        try:
            signature = inspect.signature(function)
        except ValueError:  # of a function that is not written in Python
            return {"parameters": None}
        own = list(signature.parameters.values())
        try:
            signature.bind_partial(*cls.caller_gives)
        except TypeError:
            needed, given = ", ".join(cls.caller_gives), _plain(signature)
            raise UsageError(f"{subject} must take ({needed}), but it takes {given}.") from None
        further = [
            parameter
            for parameter in own[len(cls.caller_gives) :]
            if parameter.kind not in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD)
            and parameter.name not in cls.caller_gives_by_name
        ]
        anything = any(parameter.kind is parameter.VAR_KEYWORD for parameter in own)
        return {
            "parameters": None if anything else tuple(parameter.name for parameter in further),
            "required": tuple(p.name for p in further if p.default is p.empty),
        }

    @classmethod
    def of_registered(cls, function: Function) -> dict[str, Any]:
        """Facts of a function that is registered without them."""
        return {}

    def unsigned_facts(self) -> dict[str, Any]:
        """The facts that no signature states."""
        return {
            field.name: getattr(self, field.name)
            for field in dataclasses.fields(self)
            if field.name not in ("function", *self.signed)
        }

    def load(self) -> Function:
        """The function, imported if need be."""
        if not isinstance(self.function, str):
            return self.function
        module, name = self.function.split(":")
        function: Function = getattr(importlib.import_module(module), name)
        return function

    def holds(self, function: Function) -> bool:
        """Whether this is the row of ``function``; imports nothing."""
        if not isinstance(self.function, str):
            return self.function is function
        module, name = self.function.split(":")
        return getattr(sys.modules.get(module), name, None) is function


@dataclasses.dataclass(frozen=True)
class KDLossRow(Row):
    """A loss between logits, ``f(logits_S, logits_T, temperature, mask) -> scalar or Mean``.

    Attributes:
        least_classes: Logits with fewer classes are refused: 2 for a loss between distributions, 1
            for a loss on each number.
        between_distributions: Whether it compares distributions over the classes, so that the
            classes that a :class:`~jaxbrewer.TopK` does not keep may be taken as one.
        linear_in_teacher: Whether its gradient with respect to the student is linear in the
            teacher's probabilities, so that samples of them give it without bias.
        elementwise: Whether it is the mean over classes of a loss of each class by itself, so that
            a class that a mask leaves out does not count.
        teacher_rules_out: Whether the student learns to give no probability to a class that only
            the teacher rules out with ``-inf``; otherwise such a class is cut off both.
        temperature_power: Its gradient at the temperature T is ``1 / T**temperature_power`` of that
            at 1, for large T; 0 for a loss that is multiplied back.
        labels: Whether it needs the adaptor's ``labels``.
        splits: Whether any split of the batch gives the number of the whole batch.
        by_position: Whether it is a mean over positions, returned as a
            :class:`~jaxbrewer.Mean`, of a loss of each position by itself, and takes positions in
            one axis, ``[positions, classes]``: it can then be computed in chunks of them.
    """

    least_classes: int = 1
    between_distributions: bool = False
    linear_in_teacher: bool = False
    elementwise: bool = False
    teacher_rules_out: bool = False
    temperature_power: float = 0
    labels: bool = False
    splits: bool = True
    by_position: bool = False

    caller_gives: ClassVar[tuple[str, ...]] = ("logits_S", "logits_T", "temperature")
    caller_gives_by_name: ClassVar[tuple[str, ...]] = ("mask", "labels")
    signed: ClassVar[tuple[str, ...]] = ("parameters", "required", "labels")

    @classmethod
    def read_signature(cls, function: Function, subject: str) -> dict[str, Any]:
        """The facts that a signature states, among them whether it needs labels."""
        facts = super().read_signature(function, subject)
        names = list(_parameters(function))
        if names[2:3] == ["mask"]:
            raise UsageError(
                f"{subject}: the third argument of a loss between logits is the temperature: write "
                "f(logits_S, logits_T, temperature, mask=None)."
            )
        return {**facts, "labels": "labels" in names}


@dataclasses.dataclass(frozen=True)
class MatchLossRow(Row):
    """A loss between inner states, ``f(state_S, state_T, mask) -> scalar or Mean``.

    Attributes:
        layers: How many layers of each model it takes; ``None`` for any number.
        ranks: How many axes a state may have; ``None`` for any number.
        equal_widths: Whether student and teacher must have the same width, so that a projection is
            needed where they differ.
        scores: Whether it takes attention scores, the numbers before the softmax.
        splits: Whether any split of the batch gives the number of the whole batch.
    """

    layers: int | None = None
    ranks: tuple[int, ...] | None = None
    equal_widths: bool = True
    scores: bool = False
    splits: bool = True

    caller_gives: ClassVar[tuple[str, ...]] = ("state_S", "state_T")
    caller_gives_by_name: ClassVar[tuple[str, ...]] = ("mask", "labels")

    @property
    def of_examples(self) -> bool:
        """Whether it compares one vector of each example, whatever its positions are."""
        return self.ranks == (2, 3)


@dataclasses.dataclass(frozen=True)
class WeightScheduleRow(Row):
    """A weight or temperature as a function of the training's progress.

    Attributes:
        argument: What the function gets: ``"fraction"``, the finished fraction of the training from
            0 to 1, or ``"step"``, the number of optimizer steps so far. The name of the function's
            argument says which: ``fraction``, or ``step`` (``count`` in optax).
    """

    argument: str | None = None

    caller_gives: ClassVar[tuple[str, ...]] = ("step or fraction",)
    _meanings: ClassVar[Mapping[str, str]] = {
        "step": "step", "count": "step", "fraction": "fraction",
    }  # fmt: skip

    def __post_init__(self) -> None:
        """Refuses a function of which nobody knows what it takes."""
        if self.argument not in ("step", "fraction"):
            name = getattr(self.function, "__name__", repr(self.function))
            raise UsageError(
                f"The schedule {name!r} must say what it takes: name its argument 'step' "
                "(optimizer steps so far) or 'fraction' (finished fraction of the training, 0 to "
                "1), or state argument='step' or 'fraction' in register_new."
            )

    @classmethod
    def read_signature(cls, function: Function, subject: str) -> dict[str, Any]:
        """The facts that a signature states, among them what the function takes."""
        facts = super().read_signature(function, subject)
        first = next(iter(_parameters(function)), "")
        return {**facts, "argument": cls._meanings.get(first)}

    @classmethod
    def of_registered(cls, function: Function) -> dict[str, Any]:
        """TextBrewer registers functions of ``x``, the finished fraction."""
        is_textbrewers = next(iter(_parameters(function)), "") == "x"
        return {"argument": "fraction"} if is_textbrewers else {}


@dataclasses.dataclass(frozen=True)
class TemperatureRuleRow(Row):
    """A builder of ``rule(logits_S, logits_T, base_temperature, mask) -> temperature``.

    Attributes:
        reads_teacher: Whether the rule looks at the teacher's logits, and so needs all of them.
    """

    reads_teacher: bool = True


class UnknownName(UsageError, KeyError):
    """A name that a table does not have; a ``KeyError`` too, as of any mapping."""

    __str__ = BaseException.__str__  # a KeyError shows the repr of its message


R = TypeVar("R", bound=Row)


class Table(MutableMapping[str, Any], Generic[R]):
    """Names to functions; :meth:`row` gives what is known of one.

    Args:
        field: What the names are, for messages.
        kind: The class of the rows.
        rows: The rows by name.
    """

    def __init__(self, field: str, kind: type[R], rows: dict[str, R]):
        self._field, self._kind, self._rows = field, kind, rows

    def register(self, name: str, function: Function, **facts: Any) -> None:
        """Adds a row; the facts of a function that has a row already are those of that row."""
        known = self._known(function)
        inherited = self._kind.of_registered(function) if known is None else known.unsigned_facts()
        self._rows[name] = self._kind.of(
            function, f"{self._field} {name!r}", **{**inherited, **facts}
        )

    def row(self, spec: Any) -> R:
        """The row of a name, of ``{"loss": name, ...}``, or of a function."""
        if callable(spec):
            name, known = getattr(spec, "__name__", repr(spec)), self._known(spec)
            inherited = {} if known is None else known.unsigned_facts()
            return self._kind.of(spec, f"{self._field} {name!r}", **inherited)
        name, _ = loss_and_parameters(spec)
        if name not in self._rows:
            raise UnknownName(f"{self._field} {name!r} is unknown: {suggest(name, self._rows)}")
        return self._rows[name]

    def _known(self, function: Function) -> R | None:
        """The row of a function, or of the one that ``functools.partial`` fills in."""
        while isinstance(function, functools.partial):
            function = function.func
        return next((row for row in self._rows.values() if row.holds(function)), None)

    def __getitem__(self, name: str) -> Any:
        row = self.row(name)
        if isinstance(row.function, str):
            row = self._rows[name] = dataclasses.replace(row, function=row.load())
        return row.function

    def __setitem__(self, name: str, function: Function) -> None:
        self.register(name, function)

    def __delitem__(self, name: str) -> None:
        del self._rows[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._rows)

    def __len__(self) -> int:
        return len(self._rows)

    def __contains__(self, name: object) -> bool:
        return name in self._rows

    def __repr__(self) -> str:
        return f"Table({self._field!r}, {list(self._rows)})"


def loss_and_parameters(spec: str | Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    """The two parts of a loss in a config: a name, or ``{"loss": name, **parameters}``.

    Examples:
        >>> loss_and_parameters("kl"), loss_and_parameters({"loss": "jsd", "beta": 0.1})
        (('kl', {}), ('jsd', {'beta': 0.1}))
    """
    if isinstance(spec, str):
        return spec, {}
    return spec["loss"], {key: value for key, value in spec.items() if key != "loss"}


def _parameters(function: Function) -> Mapping[str, inspect.Parameter]:
    try:
        return inspect.signature(function).parameters
    except ValueError:
        return {}


def _plain(signature: inspect.Signature) -> str:
    """The signature without annotations, which are long."""
    own = [p.replace(annotation=p.empty) for p in signature.parameters.values()]
    return str(inspect.Signature(own))
