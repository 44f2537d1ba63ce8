"""The choice of the next token."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int


def next_tokens(
    logits: Float[Array, "batch vocabulary"],
    keys: Array,
    *,
    temperature: float | Float[Array, ""] = 1.0,
    top_k: int | Int[Array, ""] | None = None,
    top_p: float | Float[Array, ""] | None = None,
) -> Int[Array, " batch"]:
    """Draws one token for each row.

    Args:
        logits: The logits.
        keys: A random key for each row, so that no row depends on the others.
        temperature: Divides the logits, above 0.
        top_k: Number of most likely tokens to draw from.
        top_p: Draw only among the most probable tokens that together have this mass, after
            ``top_k``.

    References:
        Holtzman et al., 2019, section 3.1, https://arxiv.org/abs/1904.09751
    """
    logits = logits.astype(jnp.float32) / temperature
    if top_k is not None or top_p is not None:
        logits = jnp.where(kept(logits, top_k, top_p), logits, -jnp.inf)
    return jax.vmap(jax.random.categorical)(keys, logits).astype(jnp.int32)


def kept(
    logits: Float[Array, "batch vocabulary"],
    top_k: int | Int[Array, ""] | None,
    top_p: float | Float[Array, ""] | None,
) -> Bool[Array, "batch vocabulary"]:
    """The tokens that ``top_k`` and then ``top_p`` leave; tokens of equal logits stay together.

    Examples:
        >>> logits = jnp.log(jnp.array([[0.5, 0.1, 0.3, 0.1]]))
        >>> kept(logits, 1, None)[0].tolist(), kept(logits, None, 0.7)[0].tolist()
        ([True, False, False, False], [True, False, True, False])
    """
    ordered = jnp.sort(logits, axis=-1, descending=True)
    stays = jnp.ones(ordered.shape, bool)
    if top_k is not None:
        stays = stays & (jnp.arange(ordered.shape[-1]) < top_k)[None]
    if top_p is not None:
        probabilities = jax.nn.softmax(jnp.where(stays, ordered, -jnp.inf))
        before = jnp.cumsum(probabilities, axis=-1) - probabilities
        stays = stays & (before < top_p)
    smallest = jnp.min(jnp.where(stays, ordered, jnp.inf), axis=-1, keepdims=True)
    return logits >= smallest
