"""Losses between logits that are only computed by chunks of positions."""

import functools
from typing import Any, Protocol

from jaxtyping import Array, Float, Integer

from ..errors import UsageError
from ..registry import KD_LOSS_MAP
from ._chunk_sizes import Chunks
from ._compare_in_chunks import Positions, compare_in_chunks
from ._logits import Mask, Temperature, check_logits, check_temperature
from ._logits_of import LogitsOf
from ._reduction import Mean, as_loss
from ._shapes import require_mask


class KeptLogits(Protocol):
    """Some of a teacher's logits, such as :class:`~jaxbrewer.TopK`: a pytree of rows."""

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of the logits of all classes."""
        ...

    @property
    def ndim(self) -> int:
        """The number of axes of the logits of all classes."""
        ...

    def buckets(self, logits_S: Array, temperature: Any, mask: Any) -> tuple[Array, Array]:
        """Student's and teacher's logits of the classes kept, and of the others as one."""
        ...


@as_loss
def fused_loss(
    student: LogitsOf,
    teacher: LogitsOf | Float[Array, "*batch classes"] | KeptLogits,
    loss: str = "kl",
    temperature: Temperature = 1,
    mask: Mask | None = None,
    *,
    labels: Integer[Array, "*batch"] | None = None,
    chunks: Chunks | None = None,
    **parameters: Any,
) -> Mean:
    r"""A loss between logits that are only computed in chunks of positions.

    Value and gradient are those of the plain loss on ``student.logits()``, but ``[positions,
    classes]`` is never held. The gradient is made in the same pass as the value, so the head is
    multiplied as often as by the plain loss. The teacher gets no gradient.

    Args:
        student: Hidden states ``(batch, width)`` or ``(batch, length, width)``, and the head.
        teacher: The same of the teacher, whose width may differ; or its logits as an array; or its
            largest ones (:class:`~jaxbrewer.TopK`), for losses between distributions.
        loss: A name of ``KD_LOSS_MAP`` with the fact ``by_position``: every packaged loss.
        temperature: :math:`\tau > 0`: a scalar, one per example, or one per position.
        mask: The shape of the logits without the classes; 0 excludes a position.
        labels: Class numbers of the positions, for ``dkd``.
        chunks: From :func:`choose_chunks`; ``None`` chooses. One chunk is the plain form.
        **parameters: Parameters of the loss, such as ``beta`` of ``jsd``.

    Returns:
        A scalar, in float32 (float64 if an input is). ``fused_loss.sum_and_count`` returns the
        sum and the count.

    Raises:
        UsageError: Shapes do not fit, or the loss is not computed by position.

    Examples:
        >>> import jax.numpy as jnp
        >>> student = LogitsOf(jnp.ones((1, 2)), jnp.array([[0.0, 1.0], [0.0, 1.0]]))
        >>> teacher = LogitsOf(jnp.ones((1, 1)), jnp.array([[2.0, 0.0]]))
        >>> print(f"{fused_loss(student, teacher, 'kl', temperature=2.0):.4f}")
        1.8485
        >>> from jaxbrewer.losses import kl_loss
        >>> print(f"{kl_loss(student.logits(), teacher.logits(), temperature=2.0):.4f}")
        1.8485

    References:
        Hsu et al., Liger Kernel, 2024 (gradients made in the forward pass, by chunks of tokens),
        https://arxiv.org/abs/2410.10989
    """
    row = KD_LOSS_MAP.row(loss)
    if not row.by_position:
        names = ", ".join(name for name in KD_LOSS_MAP if KD_LOSS_MAP.row(name).by_position)
        raise UsageError(f"fused_loss: {loss!r} is not computed by position; {names} are.")
    is_kept = hasattr(teacher, "buckets")
    if is_kept and not row.between_distributions:
        raise UsageError(f"fused_loss: {loss!r} needs all of the teacher's logits.")
    for who, logits in (("student", student), ("teacher", teacher)):
        if isinstance(logits, LogitsOf):
            logits.check(f"fused_loss: the {who}")
    check_logits("fused_loss", student, teacher, mask)
    check_temperature("fused_loss", temperature, mask, student.shape[:-1])
    require_mask("fused_loss, labels", labels, student.shape[:-1])
    function = functools.partial(KD_LOSS_MAP[loss].sum_and_count, **parameters)

    def of_chunk(logits_S: Array, logits_T: Any, own: Positions) -> tuple[Mean, ...]:
        if is_kept:
            logits_S, logits_T = logits_T.buckets(logits_S, own.temperature, own.mask)
        named = {"labels": own.labels} if row.labels else {}
        return (function(logits_S, logits_T, own.temperature, mask=own.mask, **named),)

    given = Positions(temperature, mask, labels)
    (mean,) = compare_in_chunks(of_chunk, student, teacher, given, chunks, what=f"fused {loss}")
    return mean
