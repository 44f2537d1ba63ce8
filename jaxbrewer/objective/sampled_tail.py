r"""A teacher's largest logits and samples of all other classes, for a gradient without bias.

With :math:`p` the teacher's probabilities at the temperature, :math:`K` the classes kept and
:math:`p_{rest}` the probability of the others, :math:`n` classes :math:`c_1, \dots, c_n` are drawn
from :math:`p_{|rest}`. The estimate

.. math:: \hat p_c = p_c \; (c \in K), \qquad
    \hat p_c = \frac{p_{rest}}{n} \, |\{i : c_i = c\}| \; (c \notin K)

has the sum 1 and the mean :math:`p`. The gradient of :math:`CE(p, q)` and :math:`KL(p \| q)` with
respect to the student's logits is :math:`(q - p) / \tau`, linear in :math:`p`, so that its mean
under :math:`\hat p` is exact. The draws are stratified: one from each of :math:`n` equal parts of
the distribution, which keeps the mean and lowers the variance.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, UInt32

from ..losses import LogitsOf, map_positions
from .top_k import TopK, keep_top_k


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class SampledTail:
    """The largest logits per position, and samples of the other classes.

    Attributes:
        kept: The largest logits, and the weight of the others at one temperature.
        samples: Classes drawn from the others at that temperature, ascending, with repetitions,
            ``[..., n]``.
    """

    kept: TopK
    samples: Int[Array, "*batch n"]

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of the logits of all classes."""
        return self.kept.shape

    @property
    def ndim(self) -> int:
        """The number of axes of the logits of all classes."""
        return self.kept.ndim

    def estimate(self) -> TopK:
        """The estimated distribution, whose further class has no probability; on the host.

        Returns:
            ``k + n`` places. A class that was drawn several times takes one of them and leaves the
            others empty.

        Examples:
            >>> kept = keep_top_k(jnp.log(jnp.array([0.1, 0.5, 0.2, 0.2])), 1)
            >>> found = SampledTail(kept, jnp.array([2, 2])).estimate()
            >>> print(found.indices, np.exp(found.logits).round(3))
            [1 2 4] [0.5 0.5 0. ]
        """
        kept, samples = jax.tree.map(np.asarray, (self.kept, self.samples))
        (temperature,) = kept.temperatures
        draws = samples.shape[-1]
        repeats = (samples[..., :, None] == samples[..., None, :]).sum(-1)
        is_first = np.ones_like(samples, bool)
        is_first[..., 1:] = samples[..., 1:] != samples[..., :-1]
        log_share = np.log(repeats / draws).astype(np.float32)
        logits = np.float32(temperature) * (kept.log_tail + log_share)
        present = is_first & (kept.log_tail > -np.inf)
        indices = np.concatenate([kept.indices, np.where(present, samples, kept.classes)], axis=-1)
        logits = np.concatenate([kept.logits, np.where(present, logits, -np.inf)], axis=-1)
        order = np.argsort(indices, axis=-1, kind="stable")
        return TopK(
            np.take_along_axis(indices, order, axis=-1).astype(np.int32),  # type: ignore[arg-type]
            np.take_along_axis(logits, order, axis=-1).astype(np.float32),  # type: ignore[arg-type]
            np.full_like(kept.log_tail, -np.inf),
            kept.classes,
            kept.temperatures,
            sampled=True,
        )


def keep_sampled(
    logits: Float[Array, "*batch classes"] | LogitsOf,
    k: int,
    samples: int,
    temperature: float,
    seeds: UInt32[Array, "*batch"],
) -> SampledTail:
    """The ``k`` largest logits, and samples of the other classes.

    Args:
        logits: The teacher's, ``[..., classes]``; those of a :class:`~jaxbrewer.LogitsOf` are
            computed in chunks.
        k: Number of logits to keep; all but one if there are fewer.
        samples: Number of draws.
        temperature: Where the gradient has no bias.
        seeds: A number for each position, which decides its draws.
    """
    if isinstance(logits, LogitsOf):
        return map_positions(
            lambda chunk, own, _: keep_sampled(chunk, k, samples, temperature, own), logits, seeds
        )
    kept = keep_top_k(logits, min(k, logits.shape[-1] - 1), (temperature,))
    logits = jnp.asarray(logits, kept.logits.dtype)
    rest = jnp.put_along_axis(logits, kept.indices, -jnp.inf, axis=-1, inplace=False)
    flat, positions = rest.reshape(-1, rest.shape[-1]), seeds.reshape(-1)

    def draw(logits: Array, seed: Array) -> Array:
        below = jnp.cumsum(jnp.exp(logits / temperature - jnp.max(logits) / temperature))
        strata = jnp.arange(samples) + jax.random.uniform(jax.random.key(seed), (samples,))
        found = jnp.searchsorted(below, strata / samples * below[-1], side="right")
        # a product that rounds up to the total stands for the last class with a probability
        return jnp.minimum(found, jnp.searchsorted(below, below[-1], side="left"))

    drawn = jax.vmap(draw)(flat, positions).astype(kept.indices.dtype)
    drawn = jnp.clip(drawn, 0, logits.shape[-1] - 1)  # without any other class all are NaN
    return SampledTail(kept, drawn.reshape(*seeds.shape, samples))


def seeds_of_positions(
    rows: UInt32[Array, " batch"], positions: tuple[int, ...], seed: int
) -> UInt32[Array, "*batch"]:
    """A seed for each position, from a number for each row."""
    number = jnp.arange(int(np.prod(positions)), dtype=jnp.uint32)
    keys = jax.vmap(lambda row: jax.random.fold_in(jax.random.key(seed), row))(rows)
    drawn = jax.vmap(lambda key: jax.vmap(lambda n: jax.random.fold_in(key, n))(number))(keys)
    return jax.random.key_data(drawn)[..., 0].reshape(len(rows), *positions)
