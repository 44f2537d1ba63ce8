"""An adaptor's answer: checked, and brought into one form."""

import dataclasses
import numbers
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from ..errors import UsageError, suggest
from ..losses import LabelLoss, LogitsOf, Mean, loss_dtype
from ..registry import ADAPTOR_KEYS

Adaptor = Callable[[Any, Any], Mapping[str, Any]]
"""``adaptor(batch, model_outputs) -> dict``, traced and therefore pure."""

_BY_HEAD = ("logits", "logits_mask", "logits_weights", "losses", "labels")
_BY_EXAMPLE = ("logits", "logits_mask", "logits_weights", "labels", "inputs_mask", "hidden",
               "attention", "embedding", "modules_mask")  # fmt: skip
_MASKS = ("logits_mask", "inputs_mask", "modules_mask")
_MASK_KINDS = (jnp.bool_, jnp.integer, jnp.floating)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Outputs:
    """What the objective reads of a model; ``docs/adaptors.md`` has a table of it.

    A single array or a list stands for a tuple.

    Attributes:
        logits: One array per head, ``[batch, classes]`` or ``[batch, length, classes]``, or a
            :class:`~jaxbrewer.LogitsOf` of this shape; a teacher's may be a
            :class:`~jaxbrewer.TopK`.
        logits_mask: Positions that are compared, ``[batch, length]``: one per head, or one for
            all; every value but 0 selects. If both models have one, a position counts where both
            select it; masks of different lengths pair by rank
            (:func:`~jaxbrewer.objective.logit_masks.pair_selected`). Of heads
            ``[batch, classes]`` a mask ``[batch]`` selects examples, one of their own shape classes
            (:func:`~jaxbrewer.objective.head_masks.masks_of_heads`).
        logits_weights: Weights of the positions, float ``[batch, length]`` (``[batch]`` for 2-D
            heads): one per head, or one for all.
        losses: The student's own losses (those on labels, usually); the objective computes a
            :class:`~jaxbrewer.LabelLoss`.
        labels: One array of class numbers per head; negative ones are ignored.
        inputs_mask: ``[batch, length]``, 1 for tokens and 0 for padding.
        features: ``"hidden"`` (``[batch, length, width]``), ``"attention"`` (scores before the
            softmax, ``[batch, heads, length, length]``), ``"embedding"`` (``[batch, width]``) and
            registered features: a tuple of layers each, in which ``None`` stands for a layer that
            was not kept.
        modules: Outputs of submodules by their paths, as ``custom_matches`` need them.
        modules_mask: Masks of modules whose positions are not those of ``inputs_mask``, by path;
            ``None`` for a module whose positions all count.
    """

    logits: tuple[jax.Array, ...] = ()
    logits_mask: tuple[jax.Array, ...] = ()
    logits_weights: tuple[jax.Array, ...] = ()
    losses: tuple[Mean | LabelLoss, ...] = ()
    labels: tuple[jax.Array, ...] = ()
    inputs_mask: jax.Array | None = None
    features: dict[str, tuple[jax.Array | None, ...]] = dataclasses.field(default_factory=dict)
    modules: dict[str, jax.Array] = dataclasses.field(default_factory=dict)
    modules_mask: dict[str, jax.Array | None] = dataclasses.field(default_factory=dict)

    def __post_init__(self) -> None:
        """Puts single arrays and lists into tuples."""
        for field in _BY_HEAD:
            items = _single_or_list(getattr(self, field))
            if field == "losses" and isinstance(items, tuple):
                items = tuple(_as_mean(x) if hasattr(x, "shape") else x for x in items)
            object.__setattr__(self, field, items)
        if isinstance(self.features, dict):
            features = {name: _single_or_list(layers) for name, layers in self.features.items()}
            object.__setattr__(self, "features", features)


def _single_or_list(value: Any) -> Any:
    """A tuple for a single array or a list; anything else, such as a pytree's leaf, as it is."""
    if isinstance(value, list):
        return tuple(value)
    return (value,) if isinstance(value, (Mean, LabelLoss)) or hasattr(value, "shape") else value


def collect(answer: Mapping[str, Any], who: str, *, examples: int | None = None) -> Outputs:
    """The :class:`Outputs` in an adaptor's answer.

    Args:
        answer: The dict that the adaptor returned: any of ``ADAPTOR_KEYS``, each an array or a
            list of arrays (``modules_mask``: a dict of arrays). An entry of ``losses`` may be a
            scalar, an array (its mean is taken), a :class:`~jaxbrewer.losses.Mean` or a
            :class:`~jaxbrewer.losses.LabelLoss`; scalars are averaged over micro-batches with
            equal weights, the others exactly.
        who: ``"student"`` or ``"teacher"``, for messages.
        examples: Number of examples in the batch; ``None`` if it is not known.

    Raises:
        UsageError: It is not a dict, has an unknown key, a value is not made of arrays, or arrays
            disagree about the number of examples.

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
    modules_mask = _modules_mask(who, answer.get("modules_mask"))
    lists = {key: _as_tuple(who, key, answer[key]) for key in answer if key != "modules_mask"}
    _check_examples(who, {**lists, "modules_mask": modules_mask}, examples)
    losses = tuple(_as_mean(loss) for loss in lists.pop("losses", ()))
    masks = lists.pop("inputs_mask", ())
    if len(masks) > 1:
        raise UsageError(f"The {who}'s adaptor returned {len(masks)} arrays as 'inputs_mask'.")
    given = [key for key in _BY_HEAD if key in lists]
    plain: dict[str, Any] = {key: lists.pop(key) for key in given}
    return Outputs(
        **plain,
        losses=losses,
        inputs_mask=masks[0] if masks else None,
        features=lists,
        modules_mask=modules_mask,
    )


def _modules_mask(who: str, value: Any) -> dict[str, Any]:
    if value is None:
        return {}
    if not isinstance(value, Mapping):
        raise UsageError(
            f"The {who}'s adaptor returned {type(value).__name__} under 'modules_mask'; it must be "
            "a dict of masks by the paths of custom_matches."
        )
    return {
        path: None if mask is None else _as_tuple(who, f"modules_mask[{path!r}]", mask)[0]
        for path, mask in value.items()
    }


def _as_tuple(who: str, key: str, value: Any) -> tuple[Any, ...]:
    if value is None:
        return ()
    items = (
        tuple(value)
        if isinstance(value, (list, tuple)) and not isinstance(value, Mean)
        else (value,)
    )
    for item in items:
        if not isinstance(item, (Mean, LabelLoss, numbers.Number)) and not hasattr(item, "shape"):
            raise UsageError(
                f"The {who}'s adaptor returned {type(item).__name__} under {key!r}; "
                "it must be an array or a list of arrays."
            )
    return tuple(_as_arrays(f"{who}'s {key}", item) for item in items)


def _as_arrays(what: str, item: Any) -> Any:
    """An entry as an array, or logits in another form with their parts as arrays."""
    if isinstance(item, LogitsOf):
        parts = {name: getattr(item, name) for name in ("hidden", "kernel", "bias")}
        parts = {name: None if x is None else jnp.asarray(x) for name, x in parts.items()}
        item = dataclasses.replace(item, **parts)
        item.check(f"The {what}")
        return item
    if isinstance(item, LabelLoss):
        mask = None if item.mask is None else jnp.asarray(item.mask)
        return dataclasses.replace(item, labels=jnp.asarray(item.labels), mask=mask)
    is_kept = isinstance(item, Mean) or hasattr(item, "log_tail")  # a Mean, or a TopK
    return item if is_kept else jnp.asarray(item)


def _check_examples(who: str, entries: Mapping[str, Any], examples: int | None) -> None:
    """Raises :class:`UsageError` unless all arrays have the same examples, masks a mask's dtype."""
    arrays = list(_named(entries))
    expected, reference = examples, "the batch"
    for name, array in arrays:
        key = name.partition("[")[0]
        if key in _MASKS and not any(jnp.issubdtype(array.dtype, kind) for kind in _MASK_KINDS):
            raise UsageError(
                f"The {who}'s adaptor returned {array.dtype} as {name}; a mask holds booleans or "
                "numbers, 0 where a position does not count."
            )
        rows = array.shape[0] if array.ndim else None
        if key == "losses":
            if rows is not None and examples and rows % examples and rows % (expected or rows):
                raise UsageError(
                    f"The {who}'s adaptor returned {name} of the shape {array.shape} for a batch "
                    f"of {examples} examples: return one loss per example, a scalar, or a "
                    "Mean(total, count)."
                )
            continue
        if reference == "the batch":  # an adaptor may choose examples, but one choice for all
            expected, reference = rows, name
        if rows is None or rows != expected:
            layers = (
                " and each layer its own entry of a list" if key in ("hidden", "attention") else ""
            )
            raise UsageError(
                f"The {who}'s adaptor returned {name} of the shape {array.shape}, but {reference} "
                f"has {expected} examples: the first axis must be the batch{layers}."
            )


def _named(entries: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """Every array whose first axis is the batch, by name; ``losses`` come last."""
    for key in (*_BY_EXAMPLE, "losses"):
        value = entries.get(key, ())
        items = value.items() if isinstance(value, Mapping) else enumerate(value)
        for index, array in items:
            if array is not None and not isinstance(array, (Mean, LabelLoss)):
                yield key if key == "inputs_mask" else f"{key}[{index!r}]", array


def _as_mean(loss: Any) -> Mean | LabelLoss:
    if isinstance(loss, (Mean, LabelLoss)):
        return loss
    loss = jnp.asarray(loss)
    loss = loss.astype(loss_dtype(loss))
    return Mean(jnp.sum(loss), jnp.asarray(max(loss.size, 1), loss.dtype))
