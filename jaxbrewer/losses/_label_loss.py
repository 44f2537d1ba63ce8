"""The labels' cross entropy, of whole logits or by chunks of positions."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Integer

from ..errors import UsageError
from ._chunk_sizes import Chunks
from ._compare_in_chunks import Positions, compare_in_chunks
from ._logits import Mask
from ._logits_of import LogitsOf
from ._reduction import Mean, as_loss, masked_mean, selected, valid
from ._shapes import require_mask


@as_loss
def fused_cross_entropy(
    logits: LogitsOf | Float[Array, "*batch classes"],
    labels: Integer[Array, "*batch"],
    mask: Mask | None = None,
    *,
    chunks: Chunks | None = None,
) -> Mean:
    r"""Cross entropy of labels; logits in a :class:`LogitsOf` are only computed in chunks.

    .. math:: -\frac{1}{N} \sum_n \log q_{n, y_n}, \; q = \sigma(z)

    An adaptor returns ``fused_cross_entropy.sum_and_count(logits, labels)`` as ``losses``.

    Args:
        logits: Student's logits, ``(batch, classes)`` or ``(batch, length, classes)``.
        labels: Class numbers; negative ones, such as -100, are not counted.
        mask: The shape of the labels; 0 excludes a position.
        chunks: As for :func:`fused_loss`.

    Returns:
        A scalar in nats, in float32 (float64 if an input is);
        ``fused_cross_entropy.sum_and_count`` returns the sum and the number of positions.

    Raises:
        UsageError: Shapes do not fit, or labels are no integers.

    Examples:
        >>> logits = LogitsOf(jnp.ones((2, 1)), jnp.zeros((1, 4)))
        >>> print(f"{fused_cross_entropy(logits, jnp.array([3, -100])):.4f}")  # log 4
        1.3863
    """
    own = LabelLoss(labels, mask)
    own.check("fused_cross_entropy", logits)
    given = Positions(along=own.rows)

    def of_chunk(logits_S: Array, _: Any, given: Positions) -> tuple[Mean, ...]:
        return (mean_of_labels(logits_S, given.along),)

    if not isinstance(logits, LogitsOf):
        return of_chunk(logits, None, given)[0]
    logits.check("fused_cross_entropy")
    (mean,) = compare_in_chunks(of_chunk, logits, None, given, chunks, what="labels")
    return mean


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class LabelLoss:
    """The labels' cross entropy of a head, for an adaptor to return as ``losses``.

    Its number is that of :func:`fused_cross_entropy`. Where the objective computes the head in
    chunks, both losses are computed together: the student's head is multiplied three times, not
    six times.

    Attributes:
        labels: Class numbers, of the shape of the logits without the classes; negative ones are not
            counted.
        mask: Of the same shape; 0 excludes a position. ``None`` counts all.
        head: Number of the head among the adaptor's ``logits``.

    Examples:
        >>> loss = LabelLoss(jnp.array([3, -100]))
        >>> print(f"{loss.of(jnp.zeros((2, 4))).value():.4f}")  # log 4
        1.3863
    """

    labels: Integer[Array, "*batch"]
    mask: Mask | None = None
    head: int = dataclasses.field(default=0, metadata={"static": True})

    def of(self, logits: LogitsOf | Float[Array, "*batch classes"]) -> Mean:
        """The loss of logits by itself."""
        return fused_cross_entropy.sum_and_count(logits, self.labels, self.mask)

    @property
    def rows(self) -> tuple[Array, Array]:
        """The labels, and where they count."""
        counted = self.labels >= 0
        return self.labels, counted if self.mask is None else counted & selected(self.mask)

    def check(self, what: str, logits: Any) -> None:
        """Raises :class:`UsageError` unless labels and mask fit the logits."""
        positions, given = logits.shape[:-1], jnp.shape(self.labels)
        dtype = jnp.result_type(self.labels)
        if given != positions or not jnp.issubdtype(dtype, jnp.integer):
            raise UsageError(
                f"{what}: integer labels of the shape {positions} are needed for logits "
                f"{logits.shape}, got {dtype} {given}."
            )
        require_mask(what, self.mask, positions)


def mean_of_labels(logits: Float[Array, "*batch classes"], rows: tuple[Array, Array]) -> Mean:
    """The cross entropy of :attr:`LabelLoss.rows`.

    Args:
        logits: The logits.
        rows: The class of each position, and whether it counts; both ``[*batch]``.

    Examples:
        >>> logits = jnp.array([[0.0, 0.0], [9.0, 0.0]])
        >>> mean = mean_of_labels(logits, (jnp.array([0, 1]), jnp.array([True, False])))
        >>> print(mean.value().round(4))
        0.6931
    """
    labels, counted = rows
    return masked_mean(label_cross_entropy(logits, labels, counted), counted)


def label_cross_entropy(
    logits: Float[Array, "*batch classes"], labels: Integer[Array, "*batch"], where: Array
) -> Float[Array, "*batch"]:
    """``-log q`` of the label at the positions ``where`` holds; elsewhere finite, of no meaning."""
    logits = valid(logits, where)
    labels = jnp.where(where, labels, 0)[..., None]
    # A sum over a comparison is split with the classes over devices; a gather is not.
    classes = jax.lax.broadcasted_iota(labels.dtype, logits.shape, logits.ndim - 1)
    at_label = jnp.sum(jnp.where(classes == labels, logits, 0), axis=-1)
    return jax.nn.logsumexp(logits, axis=-1) - at_label
