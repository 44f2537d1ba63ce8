r"""A teacher's largest logits and the exact weight of all others, and the loss on them.

All classes that are not kept form one further class, for teacher and student. By the log-sum
inequality such a divergence is at most that of all classes. The gap is the difference of the two
models *among* the classes that are not kept:

.. math:: KL(p \| q) = KL_{k+1}(p \| q) + p_{rest}\, KL(p_{|rest} \| q_{|rest})

The gradient with respect to the student's logits, times the temperature, differs by
:math:`p_{rest} (p_{c|rest} - q_{c|rest})`, which is 0 for the kept classes and at most
:math:`2 p_{rest}` in total. A student that puts its mass on other classes is penalized: all of that
mass is in the further class.
"""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Shaped

from ..configs import DistillationConfig
from ..errors import UsageError
from ..losses import LogitsOf, loss_dtype, map_positions, valid
from ..registry import KD_LOSS_MAP, TEMPERATURE_SCHEDULER, loss_and_parameters
from .log_probabilities import read_pairs


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class TopK:
    """The ``k`` largest logits per position; stands among an ``Outputs``' ``logits``.

    The fields are taken as they are. :func:`keep_top_k` makes one of all logits,
    :meth:`from_log_probabilities` one of what an inference server returns.

    Attributes:
        indices: Their classes, ascending and different, ``[..., k]``. A place that holds
            ``classes``, which is no class, is left empty: positions may have fewer than ``k``.
        logits: Their logits, ``[..., k]``.
        log_tail: Log-sum-exp of all other logits, each divided by the temperature, ``[..., t]``
            for the ``t`` temperatures.
        classes: Number of classes.
        temperatures: Where the log-sum-exp is known, ascending.
        sampled: Whether some classes stand for others, from which they were drawn at the only
            temperature; then a loss must be linear in the teacher's probabilities.
    """

    indices: Int[Array, "*batch k"]
    logits: Float[Array, "*batch k"]
    log_tail: Float[Array, "*batch t"]
    classes: int = dataclasses.field(metadata={"static": True})
    temperatures: tuple[float, ...] = dataclasses.field(metadata={"static": True})
    sampled: bool = dataclasses.field(default=False, metadata={"static": True})

    @classmethod
    def from_log_probabilities(cls, ids: Any, log_probabilities: Any, *, classes: int) -> "TopK":
        """Checked top-k logits from the pairs that an inference server returns, on the host.

        What the probabilities leave of 1 is the weight of all other classes. It is known at the
        temperature 1; at other temperatures the loss uses an upper bound (:func:`log_tail_at`).

        Args:
            ids: The classes, ``[..., k]`` in any order, as an array or nested lists, whose last
                axis may be ragged. A class may stand there twice with the same probability (a
                sampled token that is also among the largest); it counts once.
            log_probabilities: Their natural logarithms of probabilities, of the same form. A pair
                with ``-inf`` is padding, whatever its id.
            classes: The number of classes of the student's logits.

        Raises:
            UsageError: Forms differ, an id is not in ``range(classes)``, a class has two
                probabilities, or probabilities are above 1, in sum or alone.

        Examples:
            >>> ids = [[7, 2], [2, 0, 2]]
            >>> log_p = [[-0.7, -1.6], [-0.1, -3.0, -0.1]]
            >>> kept = TopK.from_log_probabilities(ids, log_p, classes=10)
            >>> print(kept.indices.tolist(), [f"{p:.2f}" for p in jnp.exp(kept.log_tail[:, 0])])
            [[2, 7], [0, 2]] ['0.30', '0.05']
        """
        found = read_pairs(ids, log_probabilities, classes, "TopK.from_log_probabilities")
        indices, logits, log_tail = map(jnp.asarray, found)
        return cls(indices, logits, log_tail, classes, (1.0,))

    @property
    def empty(self) -> Bool[Array, "*batch k"]:
        """Which places hold no class."""
        return self.indices >= self.classes

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of the logits of all classes."""
        return (*self.indices.shape[:-1], self.classes)

    @property
    def ndim(self) -> int:
        """The number of axes of the logits of all classes."""
        return self.indices.ndim

    def buckets(
        self, logits_S: Float[Array, "*batch classes"], temperature: Any, mask: Any = None
    ) -> tuple[Float[Array, "*batch k1"], Float[Array, "*batch k1"]]:
        """Both models' logits of the classes kept and of the others; see :func:`to_buckets`."""
        return to_buckets(logits_S, self, temperature, mask)


def keep_top_k(
    logits: Float[Array, "*batch classes"] | LogitsOf,
    k: int,
    temperatures: Sequence[float] = (1.0,),
) -> TopK:
    """The ``k`` largest logits, and the weight of the others at each temperature.

    Args:
        logits: The teacher's, ``[..., classes]``; those of a :class:`~jaxbrewer.LogitsOf` are
            computed in chunks.
        k: Number of logits to keep; all if there are fewer.
        temperatures: Where the weight of the others is exact.

    Examples:
        >>> kept = keep_top_k(jnp.log(jnp.array([0.1, 0.5, 0.1, 0.3])), k=2)
        >>> print(kept.indices, jnp.exp(kept.log_tail).round(3))
        [1 3] [0.2]
    """
    if isinstance(logits, LogitsOf):
        return map_positions(lambda chunk, *_: keep_top_k(chunk, k, temperatures), logits)
    logits = jnp.asarray(logits, loss_dtype(logits))
    classes = logits.shape[-1]
    _, indices = jax.lax.top_k(logits, min(k, classes))
    indices = jnp.sort(indices, axis=-1)
    rest = jnp.put_along_axis(logits, indices, -jnp.inf, axis=-1, inplace=False)
    at = tuple(sorted(set(map(float, temperatures))))
    tail = jnp.stack([jax.nn.logsumexp(rest / t, axis=-1) for t in at], axis=-1)
    return TopK(indices, jnp.take_along_axis(logits, indices, axis=-1), tail, classes, at)


def log_tail_at(kept: TopK, temperature: Any) -> Float[Array, "*batch"]:
    r"""Log-sum-exp of the logits not kept, divided by ``temperature``.

    Exact at the temperatures of ``kept``. As a function of :math:`s = 1/\tau` it is convex, with
    the value :math:`\log(classes - k)` at 0, so that a line between two known points is an upper
    bound; below the smallest known temperature its slope is at most the smallest logit kept.

    Args:
        kept: The logits kept.
        temperature: A scalar, or one per position or per leading axis.

    Examples:
        >>> kept = keep_top_k(jnp.array([5.0, 1.0, 0.0]), 1, temperatures=(1, 4))
        >>> rest = jnp.array([1.0, 0.0])
        >>> print(bool(jnp.allclose(log_tail_at(kept, 4.0), jax.nn.logsumexp(rest / 4))))
        True
        >>> print(bool(log_tail_at(kept, 2.0) >= jax.nn.logsumexp(rest / 2)))
        True
    """
    s = 1 / _per_position(temperature, kept.indices.shape[:-1], kept.logits.dtype)
    most = kept.indices.shape[-1]
    log_counts = [math.log(max(kept.classes - k, 1)) for k in range(most + 1)]
    kept_here = most - jnp.sum(kept.empty, axis=-1)
    points = [(0.0, jnp.asarray(log_counts, s.dtype)[kept_here])]
    for index in reversed(range(len(kept.temperatures))):
        points.append((1 / kept.temperatures[index], kept.log_tail[..., index]))
    logits = jnp.where(kept.empty, jnp.inf, kept.logits)
    (last, value), smallest = points[-1], jnp.min(logits, axis=-1, initial=jnp.inf)
    smallest = jnp.where(jnp.isfinite(smallest), smallest, 0)
    found = value + jnp.where(s > last, (s - last) * smallest, 0)
    for (left, low), (right, high) in zip(points[-2::-1], points[:0:-1], strict=True):
        share = jnp.clip((s - left) / (right - left), 0, 1)
        exact = (share == 1) | jnp.isneginf(high)  # without any class it is -inf everywhere
        between = jnp.where(exact, high, low + share * (high - low))
        found = jnp.where(s <= right, between, found)
    return found


def to_buckets(
    logits_S: Float[Array, "*batch classes"],
    kept: TopK,
    temperature: Any,
    mask: Shaped[Array, "*batch"] | None = None,
) -> tuple[Float[Array, "*batch k1"], Float[Array, "*batch k1"]]:
    """Both models' logits of the kept classes, and of all others as one class.

    A loss between distributions at this ``temperature`` takes the two like any logits.

    Args:
        logits_S: The student's logits of all classes.
        kept: The teacher's.
        temperature: As for :func:`log_tail_at`.
        mask: Positions where it is 0 are zeros in what is returned.

    Returns:
        Student and teacher, ``[..., k + 1]``; ``[..., k]`` if all classes are kept.

    Raises:
        UsageError: The student has other classes.

    Examples:
        >>> p = jnp.log(jnp.array([0.1, 0.5, 0.1, 0.3]))
        >>> print((10 * jnp.exp(to_buckets(p, keep_top_k(p, 2), 1.0)[0])).round())
        [5. 3. 2.]
    """
    if logits_S.shape != kept.shape:
        raise UsageError(
            f"The student's logits {logits_S.shape} and those the teacher's largest were taken of, "
            f"{kept.shape}, differ."
        )
    logits_S = valid(logits_S, mask)
    tau = _per_position(temperature, logits_S.shape[:-1], logits_S.dtype)[..., None]
    # An empty place is a class that both models rule out, which no loss sees.
    student = jnp.take_along_axis(logits_S, kept.indices, axis=-1, mode="fill", fill_value=-jnp.inf)
    teacher = jnp.where(kept.empty, -jnp.inf, jnp.asarray(kept.logits, logits_S.dtype))
    if kept.indices.shape[-1] == kept.classes:
        return student, teacher
    rest = jnp.put_along_axis(logits_S, kept.indices, -jnp.inf, axis=-1, inplace=False)
    rest_S = jax.nn.logsumexp(rest / tau, axis=-1, keepdims=True)
    rest_T = log_tail_at(kept, temperature)[..., None].astype(logits_S.dtype)
    return (
        jnp.concatenate([student, rest_S * tau], axis=-1),
        jnp.concatenate([teacher, rest_T * tau], axis=-1),
    )


def require_kept_logits_suffice(
    config: DistillationConfig, *, sampled_at: float | None = None
) -> None:
    """Refuses a config whose losses need the logits of all classes.

    Args:
        config: The config.
        sampled_at: The temperature at which the other classes were sampled, if they were.

    Raises:
        UsageError: The field and what it may be.
    """
    rule: Any = config.temperature_scheduler
    rule = rule[0] if isinstance(rule, tuple) else rule
    needs = None
    if not KD_LOSS_MAP.row(config.kd_loss_type).between_distributions:
        loss, _ = loss_and_parameters(config.kd_loss_type)
        suffice = [n for n in KD_LOSS_MAP if KD_LOSS_MAP.row(n).between_distributions]
        needs = f"kd_loss_type={loss!r} needs all of them; {', '.join(suffice)} do not"
    elif config.probability_shift:
        needs = "probability_shift needs that of the label, which may be another"
    elif rule != "none" and (callable(rule) or TEMPERATURE_SCHEDULER.row(rule).reads_teacher):
        needs = f"temperature_scheduler={rule!r} needs all of them; 'cwsm' does not"
    if needs is not None:
        raise UsageError(f"Only the teacher's largest logits are cached, but {needs}.")
    if sampled_at is None:
        return
    row = KD_LOSS_MAP.row(config.kd_loss_type)
    if not row.linear_in_teacher:
        loss, _ = loss_and_parameters(config.kd_loss_type)
        suffice = [name for name in KD_LOSS_MAP if KD_LOSS_MAP.row(name).linear_in_teacher]
        needs = f"kd_loss_type={loss!r} would have a bias; {', '.join(suffice)} do not"
    elif rule != "none" or config.temperature != sampled_at:
        other = config.temperature if rule == "none" else f"temperature_scheduler={rule!r}"
        needs = f"for the temperature {sampled_at}, not {other}: build the cache for that one"
    if needs is not None:
        raise UsageError(f"The teacher's other classes are cached as samples, but {needs}.")


def _per_position(temperature: Any, positions: tuple[int, ...], dtype: Any) -> Array:
    temperature = jnp.asarray(temperature, dtype)
    trailing = (1,) * (len(positions) - temperature.ndim) if temperature.ndim else ()
    return jnp.broadcast_to(temperature.reshape(temperature.shape + trailing), positions)
