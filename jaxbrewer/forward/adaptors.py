"""What an adaptor answers, checked once and put into one form."""

import dataclasses
import numbers
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from ..errors import UsageError, suggest
from ..losses import Mean
from ..registry import ADAPTOR_KEYS

Adaptor = Callable[[Any, Any], Mapping[str, Any]]
"""``adaptor(batch, model_outputs) -> dict``, traced and therefore pure."""


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Outputs:
    """What a model hands to the objective.

    Attributes:
        logits: One array per head, ``[batch, classes]`` or ``[batch, length, classes]``.
        logits_mask: Positions of the 3-D heads that are compared, ``[batch, length]``: one per
            head, or one for all; every value but 0 selects. Where both models have one, a position
            counts that both select; masks of different lengths pair by rank
            (:func:`~jaxbrewer.objective.logit_masks.pair_selected`).
        losses: The student's own losses (those on labels, usually).
        labels: One array of class numbers per head; negative ones are ignored.
        inputs_mask: ``[batch, length]``, 1 for tokens and 0 for padding.
        features: ``"hidden"``, ``"attention"`` and registered features: a tuple of layers each, in
            which ``None`` stands for a layer that was not kept.
        modules: Outputs of submodules by their paths, as ``custom_matches`` need them.
    """

    logits: tuple[jax.Array, ...] = ()
    logits_mask: tuple[jax.Array, ...] = ()
    losses: tuple[Mean, ...] = ()
    labels: tuple[jax.Array, ...] = ()
    inputs_mask: jax.Array | None = None
    features: dict[str, tuple[jax.Array | None, ...]] = dataclasses.field(default_factory=dict)
    modules: dict[str, jax.Array] = dataclasses.field(default_factory=dict)


def collect(answer: Mapping[str, Any], who: str) -> Outputs:
    """The :class:`Outputs` in an adaptor's answer.

    Args:
        answer: The dict that the adaptor returned: any of ``ADAPTOR_KEYS``, each an array or a
            list of arrays. An entry of ``losses`` may be a scalar, an array (its mean is taken)
            or a :class:`~jaxbrewer.losses.Mean`; the last two are averaged exactly over
            micro-batches, scalars with equal weights.
        who: ``"student"`` or ``"teacher"``, for messages.

    Raises:
        UsageError: It is not a dict, has an unknown key, or a value is not made of arrays.

    Examples:
        >>> outputs = collect({"logits": jnp.zeros((2, 3))}, "student")
        >>> len(outputs.logits), outputs.inputs_mask
        (1, None)
    """
    if not isinstance(answer, Mapping):
        raise UsageError(f"The {who}'s adaptor must return a dict, got {type(answer).__name__}.")
    for key in answer:
        if key not in ADAPTOR_KEYS:
            raise UsageError(
                f"The {who}'s adaptor returned the unknown key {key!r}: "
                f"{suggest(key, ADAPTOR_KEYS)}"
            )
    lists = {key: _as_tuple(who, key, value) for key, value in answer.items()}
    losses = tuple(_as_mean(loss) for loss in lists.pop("losses", ()))
    masks = lists.pop("inputs_mask", ())
    if len(masks) > 1:
        raise UsageError(f"The {who}'s adaptor returned {len(masks)} arrays as 'inputs_mask'.")
    given = [key for key in ("logits", "logits_mask", "labels") if key in lists]
    plain: dict[str, Any] = {key: lists.pop(key) for key in given}
    return Outputs(**plain, losses=losses, inputs_mask=masks[0] if masks else None, features=lists)


def _as_tuple(who: str, key: str, value: Any) -> tuple[Any, ...]:
    if value is None:
        return ()
    items = (
        tuple(value)
        if isinstance(value, (list, tuple)) and not isinstance(value, Mean)
        else (value,)
    )
    for item in items:
        if not isinstance(item, (Mean, numbers.Number)) and not hasattr(item, "shape"):
            raise UsageError(
                f"The {who}'s adaptor returned {type(item).__name__} under {key!r}; "
                "it must be an array or a list of arrays."
            )
    return tuple(item if isinstance(item, Mean) else jnp.asarray(item) for item in items)


def _as_mean(loss: Any) -> Mean:
    if isinstance(loss, Mean):
        return loss
    loss = loss.astype(jnp.result_type(jnp.float32, loss))
    return Mean(jnp.sum(loss), jnp.asarray(max(loss.size, 1), loss.dtype))
