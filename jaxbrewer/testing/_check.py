"""The contract of losses, as one call."""

from collections.abc import Callable, Collection, Mapping
from typing import Any

import jax

from ..errors import UsageError, suggest
from ._properties import PROPERTIES
from ._subject import SHAPES, Subject


def check_loss(
    loss: Callable[..., Any],
    inputs: str,
    *,
    parameters: Mapping[str, Any] = {},
    floor: float | Callable[[Any, Any], float] | None = 0.0,
    splits: bool = True,
    temperature_power: float | None = None,
    widths: tuple[int, int] | None = None,
    only: Collection[str] | None = None,
) -> str:
    """Checks a loss against the contract that distillation relies on, and reports every violation.

    The loss runs on small batches of random numbers with padded, single-position and empty
    examples. The properties, by name:

    - ``gradient``: it equals central differences, in float64;
    - ``equality``: at equal student and teacher the loss is ``floor``, and less than elsewhere;
    - ``padding length``, ``padding content``: padding changes nothing, even if it is NaN or
      infinite, and gets no gradient;
    - ``empty mask`` gives 0; ``single position``, ``zero vectors``, ``large and equal numbers``,
      ``ruled-out classes`` (``-inf`` in both models' logits): value and gradient are finite;
    - ``mask of ones`` gives the loss without a mask; ``mask dtype``: booleans, floats and integers
      give the same;
    - ``micro-batches``: sums and counts of any parts add up to the whole batch's;
    - ``half precision``: bfloat16 and float16 inputs give float32, within 1e-5 (1e-6
      absolute) of float64;
    - ``order of examples`` changes nothing;
    - ``transformations``: jit, a gradient and vmap do not change the loss; ``sharding``: neither do
      several devices (give JAX several:
      ``jax.config.update("jax_num_cpu_devices", 4)``);
    - ``temperature``: one per example or position works like a scalar;
    - ``teacher``: an objective with this loss gives the same loss, and no gradient for the teacher.

    Args:
        loss: ``loss(student, teacher, mask=None) -> scalar``, for ``"logits"`` with the
            temperature as third argument; made by :func:`~jaxbrewer.as_loss`, or a function that
            returns a :class:`~jaxbrewer.Mean`, or one that returns a scalar (whose micro-batches
            cannot be checked: they are averaged with equal weights). What needs an argument
            that it does not take (``mask``, a temperature) is not checked. With an argument
            ``labels`` it gets class numbers, one of them -100.
        inputs: What it compares: ``"logits"`` ``(batch, length, classes)``, ``"hidden"``
            ``(batch, length, width)``, ``"attention"`` scores ``(batch, heads, length, length)``,
            or a ``"pair"`` of hidden layers.
        parameters: Further keyword arguments of the loss.
        floor: The value where student and teacher are equal; a function of teacher and mask if it
            depends on them; ``None`` if the least value is elsewhere.
        splits: Whether a split of the batch may not change the loss. ``False`` for a loss between
            examples.
        temperature_power: For ``"logits"``: the power of the temperature by which the gradient
            grows where the temperature is high, 0 for a loss with the right factor (``T^2``, for
            most); ``None`` does not check it.
        widths: For ``"hidden"`` and ``"pair"``: the widths of student and teacher, for a loss that
            compares states of different widths; ``None`` for equal ones. What happens at equal
            states is not checked where the widths differ.
        only: Names of the properties to check; ``None`` checks all.

    Returns:
        A report: what holds, and what was not checked and why.

    Raises:
        AssertionError: Something does not hold. The message names every property that is broken,
            and with which numbers.
        UsageError: ``inputs`` or ``only`` names nothing, or ``widths`` does not fit ``inputs``.

    Examples:
        >>> from jaxbrewer.losses import as_loss, masked_mean, valid
        >>> @as_loss
        ... def l1_loss(state_S, state_T, mask=None):
        ...     return masked_mean(abs(valid(state_S, mask) - valid(state_T, mask)), mask)
        >>> print(check_loss(l1_loss, "hidden", only=["padding content", "empty mask"]))
        l1_loss keeps 2 properties: padding content, empty mask
        >>> def mean_loss(state_S, state_T, mask):
        ...     return abs((state_S - state_T) * mask[..., None]).sum() / mask.sum()
        >>> check_loss(mean_loss, "hidden", only=["empty mask", "micro-batches"])
        Traceback (most recent call last):
        ...
        AssertionError: mean_loss breaks 1 of 1 property:
          empty mask: without a valid position the loss is nan instead of 0
          empty mask: without a valid position the gradient is off by up to nan, ...
          not checked: micro-batches (it returns a scalar: micro-batches weigh equally)
    """
    if inputs not in SHAPES:
        raise UsageError(f"check_loss: inputs {inputs!r} is unknown: {suggest(inputs, SHAPES)}")
    for name in only or ():
        if name not in PROPERTIES:
            raise UsageError(f"check_loss: no property {name!r}: {suggest(name, PROPERTIES)}")
    _require_widths(inputs, widths)
    subject = Subject(loss, inputs, parameters, floor, temperature_power, widths)
    unchecked = _unchecked(subject, splits)
    chosen = [name for name in PROPERTIES if only is None or name in only]
    checked = [name for name in chosen if name not in unchecked]
    broken: dict[str, list[str]] = {}
    for name in checked:
        try:
            failures = list(dict.fromkeys(PROPERTIES[name](subject)))
        except Exception as error:  # it is the user's function that fails: say when
            failures = [f"it raises {type(error).__name__}: {str(error).splitlines()[0]}"]
        if failures:
            broken[name] = failures
    left_out = "".join(f"\n  not checked: {n} ({unchecked[n]})" for n in chosen if n in unchecked)
    if broken:
        lines = [f"\n  {name}: {failure}" for name in broken for failure in broken[name]]
        raise AssertionError(
            f"{subject.name} breaks {len(broken)} of {_counted(checked)}:{''.join(lines)}{left_out}"
        )
    return f"{subject.name} keeps {_counted(checked)}: {', '.join(checked)}{left_out}"


def _require_widths(inputs: str, widths: Any) -> None:
    if widths is None:
        return
    if inputs not in ("hidden", "pair"):
        raise UsageError(f"check_loss: widths are for 'hidden' and 'pair', not for {inputs!r}.")
    numbers = isinstance(widths, (tuple, list)) and all(type(width) is int for width in widths)
    if not numbers or len(widths) != 2 or min(widths) < 1:
        raise UsageError(f"check_loss: widths must be two positive integers, got {widths!r}.")


def _counted(properties: list[str]) -> str:
    return f"{len(properties)} propert{'y' if len(properties) == 1 else 'ies'}"


def _unchecked(subject: Subject, splits: bool) -> dict[str, str]:
    """The properties that cannot be checked or are not claimed, and why."""
    reasons: dict[str, str] = {}
    if not subject.takes("mask"):
        named = ("padding length", "padding content", "empty mask", "single position",
                 "mask of ones", "mask dtype")  # fmt: skip
        reasons |= dict.fromkeys(named, "it takes no mask")
    if subject.floor is None:
        reasons["equality"] = "floor=None"
    elif not subject.has_equal_widths:
        reasons["equality"] = "the widths differ"
    if subject.kind != "logits":
        reasons["ruled-out classes"] = "its inputs are no logits"
    if not subject.takes("temperature"):
        reasons["temperature"] = "it takes no temperature"
    if not subject.has_parts:
        reasons["micro-batches"] = "it returns a scalar: micro-batches weigh equally"
    if not splits:
        reasons["micro-batches"] = "splits=False"
    if len(jax.devices()) == 1:
        reasons["sharding"] = "there is one device"
    return reasons
