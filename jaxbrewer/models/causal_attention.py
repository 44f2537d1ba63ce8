"""Attention of decoders: which positions see which, and the keys and values of earlier ones.

Legend of axes: ``batch``; ``length``, the positions that are computed; ``slots``, the positions
that they may look at, which are the same unless a cache has earlier ones; ``heads``, those of the
queries; ``groups``, those of keys and values, each shared by ``heads / groups`` heads of queries.
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import NamedTuple, Self

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float, Int

from .layers import PADDING_SCORE, Ids, Mask, Scores, Tokens, heads_first, softmax, split_heads
from .rotary import Rotation


@dataclasses.dataclass(frozen=True)
class View:
    """What the layers of one kind know of the positions.

    Attributes:
        shape: Rows, and positions that are computed in each.
        mask: Which slots each position sees, ``[batch, 1, length, slots]``; ``None`` where it sees
            all before it.
        window: Number of the last positions that it sees, itself included; ``None`` for all. A
            mask includes the window.
        rotation: Turns queries and keys; ``None`` for models without rotary positions.
    """

    shape: tuple[int, int]
    mask: Bool[Array, "batch 1 length slots"] | None
    window: int | None
    rotation: Rotation | None


class LayerCache(NamedTuple):
    """One layer's part of a :class:`KeyValueCache`.

    Attributes:
        keys: ``[batch, slots, groups, size]``.
        values: The same of the values.
        filled: Number of slots that earlier positions fill.
    """

    keys: Float[Array, "batch slots groups size"]
    values: Float[Array, "batch slots groups size"]
    filled: Int[Array, ""]

    def append(
        self,
        keys: Float[Array, "batch length groups size"],
        values: Float[Array, "batch length groups size"],
    ) -> "LayerCache":
        """The cache with the keys and values of the next positions."""
        start = (jnp.zeros((), jnp.int32), self.filled, *[jnp.zeros((), jnp.int32)] * 2)
        return self._replace(
            keys=jax.lax.dynamic_update_slice(self.keys, keys.astype(self.keys.dtype), start),
            values=jax.lax.dynamic_update_slice(
                self.values, values.astype(self.values.dtype), start
            ),
        )


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class KeyValueCache:
    """Keys and values of the positions that a model has read.

    Attributes:
        keys: One array per layer, ``[batch, slots, groups, size]``.
        values: The same of the values.
        valid: ``[batch, slots]``: which slots hold a token, not padding.
        filled: Number of slots that are filled, the same in all rows.
        lengths: ``[batch]``: tokens that each row has in the end; rotary positions that depend on
            the length of the input are made for it.
    """

    keys: tuple[Float[Array, "batch slots groups size"], ...]
    values: tuple[Float[Array, "batch slots groups size"], ...]
    valid: Bool[Array, "batch slots"]
    filled: Int[Array, ""]
    lengths: Int[Array, " batch"]

    def layer(self, number: int) -> LayerCache:
        """The part of a layer."""
        return LayerCache(self.keys[number], self.values[number], self.filled)

    def with_tokens(self, valid: Bool[Array, "batch length"]) -> Self:
        """The cache in which the next slots are filled, before their keys and values are known."""
        start = jnp.zeros((), jnp.int32), self.filled
        return dataclasses.replace(
            self,
            valid=jax.lax.dynamic_update_slice(self.valid, valid, start),
            filled=self.filled + valid.shape[1],
        )

    def with_layers(self, parts: Sequence[LayerCache]) -> Self:
        """The cache with new keys and values of all layers."""
        keys, values = (tuple(part[which] for part in parts) for which in (0, 1))
        return dataclasses.replace(self, keys=keys, values=values)


def positions_of(attention_mask: Mask, segment_ids: Ids | None = None) -> Ids:
    """The position of each token in its text, and in its segment.

    Args:
        attention_mask: 0 for padding, which may be on either side and is not counted.
        segment_ids: The segment of each token; positions restart where it changes.

    Examples:
        >>> positions_of(jnp.array([[0, 0, 1, 1, 1]])).tolist()
        [[0, 0, 0, 1, 2]]
        >>> positions_of(jnp.ones((1, 5)), jnp.array([[1, 1, 2, 2, 2]])).tolist()
        [[0, 1, 0, 1, 2]]
    """
    count = jnp.cumsum((attention_mask != 0).astype(jnp.int32), axis=1) - 1
    if segment_ids is not None:
        starts = jnp.concatenate(
            [jnp.ones_like(count[:, :1]), jnp.diff(segment_ids, axis=1) != 0], axis=1
        )
        count = count - jax.lax.cummax(jnp.where(starts != 0, count, 0), axis=1)
    return jnp.maximum(count, 0)


def visible(
    queries: Int[Array, " length"],
    keys: Int[Array, " slots"],
    window: int | None,
    valid: Bool[Array, "batch slots"] | None = None,
    segment_ids: Ids | None = None,
) -> Bool[Array, "batch 1 length slots"]:
    """Which slots each position sees: those up to itself, of its own segment, without padding.

    Args:
        queries: The slots of the positions.
        keys: The numbers of all slots.
        window: See :class:`View`.
        valid: Slots that hold a token; ``None`` for all.
        segment_ids: Segments of the positions, which are then also the slots; ``None`` for one.

    Examples:
        >>> visible(jnp.arange(3), jnp.arange(3), window=2)[0, 0].astype(int).tolist()
        [[1, 0, 0], [1, 1, 0], [0, 1, 1]]
    """
    distance = queries[:, None] - keys[None, :]
    seen = (distance >= 0) if window is None else (distance >= 0) & (distance < window)
    mask = seen[None, None]
    if valid is not None:
        mask = mask & valid[:, None, None, :]
    if segment_ids is not None:
        mask = mask & (segment_ids[:, None, :, None] == segment_ids[:, None, None, :])
    return mask


class Gathered(NamedTuple):
    """What attention returns.

    Attributes:
        context: What each position gathers, ``[batch * length, heads * size]``.
        scores: Before the softmax, ``[batch, heads, length, slots]``, or ``None``.
        probabilities: After it, or ``None``.
        cache: The cache with the new keys and values, or ``None``.
    """

    context: Tokens
    scores: Scores | None
    probabilities: Scores | None
    cache: LayerCache | None


def causal_attention(
    query: Tokens,
    key: Tokens,
    value: Tokens,
    view: View,
    cache: LayerCache | None,
    dropout: nnx.Dropout,
    *,
    size: int,
    scale: float,
    softcap: float | None = None,
    norms: tuple[Callable[[Array], Array], Callable[[Array], Array]] | None = None,
    with_maps: bool = False,
) -> Gathered:
    """Attention of each position to those that it sees, with rotary positions and a cache.

    Args:
        query: The queries, ``[batch * length, heads * size]``.
        key: The keys, ``[batch * length, groups * size]``.
        value: The values.
        view: What each position sees.
        cache: Keys and values of earlier positions; ``None`` for none.
        dropout: Applied to the probabilities.
        size: Features of a head.
        scale: Multiplies the products.
        softcap: See :func:`attend`.
        norms: Norms of queries and of keys, applied to each head; ``None`` for none.
        with_maps: Whether to return scores and probabilities.
    """
    query, key, value = (
        split_heads(x, *view.shape, x.shape[-1] // size) for x in (query, key, value)
    )
    if norms is not None:
        query, key = norms[0](query), norms[1](key)
    if view.rotation is not None:
        query, key = view.rotation(query), view.rotation(key)
    if cache is not None:
        cache = cache.append(key, value)
        key, value = cache.keys, cache.values
    maps = attend(
        query, key, value, view, dropout, scale=scale, softcap=softcap, with_maps=with_maps
    )
    return Gathered(*maps, cache)


def attend(
    query: Float[Array, "batch length heads size"],
    key: Float[Array, "batch slots groups size"],
    value: Float[Array, "batch slots groups size"],
    view: View,
    dropout: nnx.Dropout,
    *,
    scale: float,
    softcap: float | None = None,
    with_maps: bool = False,
) -> tuple[Tokens, Scores | None, Scores | None]:
    r"""Softmax attention with shared keys and values.

    :func:`jax.nn.dot_product_attention` computes it unless the scores are asked for, capped, or
    their probabilities dropped.

    Args:
        query: The queries, turned already.
        key: The keys, turned already.
        value: The values.
        view: What each position sees.
        dropout: Applied to the probabilities.
        scale: Multiplies the products.
        softcap: :math:`c` in :math:`c \tanh(s / c)` of the scores; ``None`` for none.
        with_maps: Whether to return scores and probabilities.

    Returns:
        What each position gathers, ``[batch * length, heads * size]``; scores and probabilities
        ``[batch, heads, length, slots]`` in float32 at least, or ``None``.
    """
    batch, length, heads, size = query.shape
    slots, groups = key.shape[1:3]
    key, value = key.astype(query.dtype), value.astype(query.dtype)
    drops = dropout.rate > 0 and not dropout.deterministic
    if not (with_maps or softcap or drops):
        window = None if view.window is None or view.mask is not None else (view.window - 1, 0)
        context = jax.nn.dot_product_attention(
            query, key, value, mask=view.mask, scale=scale, is_causal=view.mask is None,
            local_window_size=window,
        )  # fmt: skip
        return context.reshape(batch * length, heads * size), None, None
    mask = view.mask
    if mask is None:
        mask = visible(jnp.arange(length), jnp.arange(slots), view.window)
    wide = jnp.promote_types(query.dtype, jnp.float32)
    grouped = query.reshape(batch, length, groups, heads // groups, size)
    scores = jnp.einsum("bqgrd,bkgd->bgrqk", grouped, key, preferred_element_type=wide) * scale
    if softcap:
        scores = softcap * jnp.tanh(scores / softcap)
    scores = jnp.where(mask[:, :, None], scores, PADDING_SCORE)
    probabilities = softmax(scores)
    weights = dropout(probabilities).astype(query.dtype)
    context = jnp.einsum("bgrqk,bgkd->bgrqd", weights, heads_first(value))
    context = heads_first(context.reshape(batch, heads, length, size))
    maps = (x.reshape(batch, heads, length, slots) for x in (scores, probabilities))
    return (context.reshape(batch * length, heads * size), *(maps if with_maps else (None, None)))
