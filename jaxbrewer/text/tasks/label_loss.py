"""The loss on labels that are classes: weights of classes, label smoothing."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Int

from ...configs import DataConfig
from ...errors import UsageError, suggest

if TYPE_CHECKING:
    from ...losses import Mean


@dataclasses.dataclass(frozen=True)
class LabelLoss:
    r"""The cross-entropy of classes, whose weights are in the sum and in the count.

    .. math:: \frac{\sum_i w_{y_i} \ell_i}{\sum_i w_{y_i}}, \quad
        \ell_i = -(1 - \epsilon) \log q_{i y_i} - \frac{\epsilon}{C} \sum_c \log q_{ic}

    With :math:`\epsilon = 0` these are the numbers of PyTorch's ``CrossEntropyLoss``. With both,
    PyTorch weighs each class of the smoothed target; here an example has the weight of its label.

    Attributes:
        weights: :math:`w`, the weight of each class; ``None`` weighs all alike.
        smoothing: :math:`\epsilon`, the probability that is spread over all classes.
    """

    weights: tuple[float, ...] | None = None
    smoothing: float = 0.0

    def __call__(self, logits: Any, labels: Any) -> "Mean":
        """The mean over all positions whose label is not negative.

        Args:
            logits: ``[*batch, classes]``.
            labels: Class numbers, ``[*batch]``; a negative one means that there is none.

        Examples:
            >>> import jax.numpy as jnp
            >>> logits, labels = jnp.array([[0.0, 0.0], [0.0, 1.0]]), jnp.array([0, 1])
            >>> print(LabelLoss(weights=(3.0, 1.0))(logits, labels).value())
            0.59817576
        """
        import jax
        import jax.numpy as jnp
        import optax

        from ...losses import masked_mean, valid

        has_label = labels >= 0
        logits, known = valid(logits, has_label), jnp.where(has_label, labels, 0)
        loss = optax.softmax_cross_entropy_with_integer_labels(logits, known)
        if self.smoothing:
            uniform = -jnp.mean(jax.nn.log_softmax(logits), axis=-1)
            loss = (1 - self.smoothing) * loss + self.smoothing * uniform
        if self.weights is None:
            return masked_mean(loss, has_label)
        weights = jnp.asarray(self.weights, jnp.float32)[known]
        return masked_mean(loss, jnp.where(has_label, weights, 0.0))


PLAIN = LabelLoss()
"""Equal weights and no smoothing."""


def make_label_loss(
    data: DataConfig, names: Sequence[str], labels: Int[np.ndarray, "..."]
) -> LabelLoss:
    """The loss that a job asks for.

    Args:
        data: ``class_weights`` and ``label_smoothing``.
        names: The classes in order.
        labels: The class numbers of all training examples; negative ones do not count.

    Raises:
        UsageError: ``class_weights`` names an unknown class.

    Examples:
        >>> data = DataConfig(class_weights="balanced")
        >>> make_label_loss(data, ("cat", "dog"), np.array([0, 0, 0, 1, -100])).weights
        (0.6666666666666666, 2.0)
    """
    given = data.class_weights
    if given is None:
        return LabelLoss(None, data.label_smoothing)
    if isinstance(given, Mapping):
        for name in given:
            if name not in names:
                raise UsageError(
                    f"data.class_weights: {name!r} is no class: {suggest(name, names)}"
                )
        weights = [float(given.get(name, 1.0)) for name in names]
    else:
        counts = np.bincount(labels[labels >= 0].ravel(), minlength=len(names))
        mean = counts.sum() / max(np.count_nonzero(counts), 1)
        weights = [float(mean / count) if count else 1.0 for count in counts]
    return LabelLoss(tuple(weights), data.label_smoothing)


def describe_label_loss(loss: LabelLoss, names: Sequence[str]) -> list[tuple[str, str]]:
    """A row for the table that a command prints, if anything is set."""
    parts = []
    if loss.weights is not None:
        pairs = [f"{name} {weight:.4g}" for name, weight in zip(names, loss.weights, strict=True)]
        shown = pairs if len(pairs) <= 8 else [*pairs[:7], "...", pairs[-1]]
        parts.append("class weights " + ", ".join(shown))
    if loss.smoothing:
        parts.append(f"label smoothing {loss.smoothing}")
    return [("labels' loss", "; ".join(parts))] if parts else []
