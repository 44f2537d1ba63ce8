"""Losses of :class:`LogitsOf`: those between logits, and the labels' cross entropy, by chunks."""

import dataclasses
import functools
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Protocol, TypeVar

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Integer

from ..errors import UsageError
from ..registry import KD_LOSS_MAP
from ._chunks import Chunks, choose_chunks, describe, map_in_chunks, means_in_chunks
from ._facts import add_fact
from ._logits import Mask, Temperature, check_logits, check_temperature
from ._logits_of import LogitsOf
from ._reduction import Mean, as_loss, masked_mean, selected, valid
from ._shapes import require_mask

Result = TypeVar("Result")


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


class Positions(NamedTuple):
    """What a comparison takes besides logits; arrays have the logits' shape without the classes.

    Attributes:
        temperature: A scalar, or one per example or position.
        mask: Positions that count; ``None`` for all.
        labels: Class numbers, or ``None``.
        weights: Weights: ``None``, a scalar, or one per example or position.
        along: A pytree of further arrays per position.
    """

    temperature: Any = 1.0
    mask: Any = None
    labels: Any = None
    weights: Any = None
    along: Any = None


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
    """The cross entropy of :attr:`LabelLoss.rows`."""
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


def whole_logits(what: str, logits: Any) -> Any:
    """The logits of a :class:`LogitsOf` as an array, which is a fact; anything else as it is."""
    if not isinstance(logits, LogitsOf):
        return logits
    count = math.prod(logits.shape[:-1])
    add_fact(f"{what}: {describe(Chunks(1, count), count, logits.classes)}")
    return logits.logits()


def compare_in_chunks(
    function: Callable[[Array, Any, Positions], tuple[Mean, ...]],
    student: LogitsOf,
    teacher: Any,
    positions: Positions,
    chunks: Chunks | None = None,
    *,
    what: str,
    weights: Sequence[Any] = (1.0,),
) -> tuple[Mean, ...]:
    """Each :class:`Mean` of a comparison of logits, by chunks of positions.

    Args:
        function: ``(logits_S [n, classes], logits_T, Positions) -> tuple of Mean`` of a chunk,
            whose mask is given if it has positions beyond the last.
        student: The student's logits, to whose parts the gradient goes.
        teacher: The teacher's: a :class:`LogitsOf`, an array, or any pytree of arrays with the
            student's axes of positions; ``function`` gets an array for the first.
        positions: What else it takes.
        chunks: From :func:`choose_chunks`; ``None`` chooses.
        what: Names the loss among the facts that :func:`collect_facts` collects.
        weights: The weight of each mean in the loss, as far as it is known: their gradients are
            then made together.
    """
    count = math.prod(student.shape[:-1])
    chunks = choose_chunks(count, student.classes) if chunks is None else chunks
    add_fact(f"{what}: {describe(chunks, count, student.classes)}")
    run = functools.partial(means_in_chunks, weights=weights)
    means: tuple[Mean, ...] = _in_chunks(run, function, student, teacher, positions, chunks)
    return means


def map_positions(
    function: Callable[[Array, Any, Positions], Result],
    student: LogitsOf,
    teacher: Any = None,
    positions: Positions = Positions(),  # noqa: B008  # immutable
    chunks: Chunks | None = None,
) -> Result:
    """A function of the logits at each position, by chunks and without a gradient.

    Args:
        function: As for :func:`compare_in_chunks`; returns arrays whose first axis is that of its
            positions.
        student: Logits.
        teacher: Logits to compare with, or ``None``.
        positions: What else ``function`` takes.
        chunks: From :func:`choose_chunks`; ``None`` chooses.

    Returns:
        What ``function`` returns, with the axes of all positions.

    Examples:
        >>> logits = LogitsOf(jnp.ones((2, 3, 1)), jnp.array([[0.0, 2.0, 1.0]]))
        >>> map_positions(lambda logits, *_: logits.argmax(-1), logits).tolist()
        [[1, 1, 1], [1, 1, 1]]
    """
    found = _in_chunks(map_in_chunks, function, student, teacher, positions, chunks)
    batch = student.shape[:-1]
    whole: Result = jax.tree.map(lambda x: x.reshape(*batch, *x.shape[1:]), found)
    return whole


def _in_chunks(
    run: Callable[..., Any],
    function: Callable[..., Any],
    student: LogitsOf,
    teacher: Any,
    positions: Positions,
    chunks: Chunks | None,
) -> Any:
    """``run`` of a function of a chunk's logits, over positions in one axis."""
    batch = student.shape[:-1]
    count = math.prod(batch)
    chunks = choose_chunks(count, student.classes) if chunks is None else chunks
    if chunks.number * chunks.size * chunks.parts != count and positions.mask is None:
        positions = positions._replace(mask=jnp.ones(batch, bool))

    def flat(x: Array) -> Array:
        return x.reshape(count, *x.shape[len(batch) :])

    def spread(x: Any) -> Any:
        """One per example or position, as one per position in one axis."""
        own = x.reshape(x.shape + (1,) * (len(batch) - x.ndim))
        return jnp.broadcast_to(own, batch).reshape(count)

    fields = positions._replace(along=None)._asdict()
    arrays = {name: jnp.asarray(x) for name, x in fields.items() if x is not None}
    rows: dict[str, Any] = {name: spread(x) for name, x in arrays.items() if x.ndim}
    shared: dict[str, Any] = {name: x for name, x in arrays.items() if not x.ndim}
    rows["along"] = jax.tree.map(flat, positions.along)
    is_head = isinstance(teacher, LogitsOf)
    if is_head:
        rows["teacher"], shared["kernel"], shared["bias"] = (
            flat(teacher.hidden), teacher.kernel, teacher.bias,
        )  # fmt: skip
    else:
        rows["teacher"] = jax.tree.map(flat, teacher)

    def of_chunk(logits: Array, rows: dict[str, Any], shared: dict[str, Any]) -> Any:
        given = {name: each for name, each in {**rows, **shared}.items() if name in arrays}
        if "temperature" in rows and "mask" in rows:  # rows beyond the last hold zeros
            given["temperature"] = jnp.where(selected(given["mask"]), given["temperature"], 1)
        logits_T = rows["teacher"]
        if is_head:
            head = {name: shared[name] for name in ("kernel", "bias")}
            logits_T = dataclasses.replace(teacher, hidden=logits_T, **head).logits()
        return function(logits, logits_T, Positions(**given, along=rows["along"]))

    own = dataclasses.replace(student, hidden=flat(student.hidden))
    return run(of_chunk, own, rows, shared, chunks)
