"""A jitted sampler with a cache of keys and values, compiled once per bucket of shapes."""

import dataclasses
import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float, Int

from ..errors import UsageError
from ..forward.tree_keys import with_keys_of
from ..models import CausalLM
from .next_token import next_tokens
from .prompts import Prompts, bucket_of


@dataclasses.dataclass(frozen=True, kw_only=True)
class Sampling:
    """How tokens are drawn.

    Attributes:
        max_new_tokens: The largest number of tokens after the prompt.
        temperature: Divides the logits; 0 takes the most probable token.
        top_k: Number of most likely tokens to draw from; ``None`` for all.
        top_p: Draw only among the most probable tokens that together have this mass.
        eos_token_id: Tokens that end a text; ``None`` for those of the model's config, ``()`` for
            none.
        pad_token_id: The token after the end; ``None`` for the config's.

    Raises:
        UsageError: A value is out of range.

    Examples:
        >>> Sampling(temperature=-1.0)
        Traceback (most recent call last):
        jaxbrewer.errors.UsageError: Sampling temperature must be a number of at least 0, got -1.0.
    """

    max_new_tokens: int = 128
    temperature: float = 0.0
    top_k: int | None = None
    top_p: float | None = None
    eos_token_id: int | tuple[int, ...] | None = None
    pad_token_id: int | None = None

    def __post_init__(self) -> None:
        self._check("max_new_tokens", "an integer of at least 1", int, lambda x: x >= 1)
        self._check("temperature", "a number of at least 0", (int, float), lambda x: 0 <= x < 1e30)
        if self.top_k is not None:
            self._check("top_k", "an integer of at least 1", int, lambda x: x >= 1)
        if self.top_p is not None:
            self._check("top_p", "a number above 0, at most 1", (int, float), lambda x: 0 < x <= 1)

    def _check(self, name: str, rule: str, kind: Any, holds: Any) -> None:
        value = getattr(self, name)
        if isinstance(value, bool) or not isinstance(value, kind) or not holds(value):
            raise UsageError(f"Sampling {name} must be {rule}, got {value!r}.")


class Generated(NamedTuple):
    """What was drawn.

    Attributes:
        tokens: The new tokens, ``[batch, max_new_tokens]``, then padding.
        lengths: Number of new tokens of each row, its end included.
    """

    tokens: np.ndarray
    lengths: np.ndarray

    def rows(self) -> list[list[int]]:
        """The new tokens of each row, without padding."""
        return [
            row[:length].tolist() for row, length in zip(self.tokens, self.lengths, strict=True)
        ]


class Sampler:
    """Draws texts from a model.

    One program is compiled for each bucket: the number of prompts, the length of the longest and
    ``max_new_tokens``, both rounded up to a power of 2. It reads the prompts, then draws token
    after token until every row has ended. Its weights are arguments, so a student in training can
    be sampled with its present ones.

    Args:
        model: The model; it runs in evaluation mode.
        sampling: How tokens are drawn.

    Raises:
        UsageError: The model is no decoder.

    Examples:
        >>> from jaxbrewer.models import LlamaConfig, LlamaForCausalLM
        >>> config = LlamaConfig(vocab_size=50, hidden_size=8, num_hidden_layers=1,
        ...     num_attention_heads=2, intermediate_size=12)
        >>> sampler = Sampler(
        ...     LlamaForCausalLM(config, rngs=nnx.Rngs(0)), Sampling(max_new_tokens=3))
        >>> sampler([[3, 4, 5], [6]]).tokens.shape
        (2, 3)
    """

    def __init__(self, model: CausalLM, sampling: Sampling):
        if not isinstance(model, CausalLM):
            raise UsageError(
                f"{type(model).__name__} generates no text: load it with "
                "task='causal-language-modeling'."
            )
        self.sampling, self.config = sampling, model.config
        view = nnx.view(model, deterministic=True, raise_if_not_found=False)
        parts: Any = nnx.split(view, nnx.Param, ...)
        self._graph, params, self._rest = parts
        self.params = nnx.to_pure_dict(params)

    def __call__(
        self,
        input_ids: Any,
        attention_mask: Any = None,
        *,
        key: jax.Array | int = 0,
        params: Any = None,
    ) -> Generated:
        """Continues prompts.

        Args:
            input_ids: A list of lists of tokens, or a matrix of them.
            attention_mask: 0 for padding of a matrix, on either side.
            key: A random key or seed. The same key draws the same tokens for a row, whatever the
                other prompts of the batch.
            params: Weights in place of the model's: those of a train state, or nested dicts as in
                ``sampler.params``.

        Raises:
            UsageError: A prompt is empty or no list of integers, or is too long for a model with a
                table of positions.
        """
        sampling, config = self.sampling, self.config
        ends = _tuple(config.ends if sampling.eos_token_id is None else sampling.eos_token_id)
        pads = sampling.pad_token_id, config.pad_token_id, *ends, 0
        pad = next(token for token in pads if token is not None)
        prompts = Prompts.of(input_ids, attention_mask, pad=pad)
        longest = config.longest_input
        if longest is not None and prompts.longest + sampling.max_new_tokens > longest:
            raise UsageError(
                f"A prompt of {prompts.longest} tokens and max_new_tokens "
                f"{sampling.max_new_tokens} exceed the model's {longest} positions."
            )
        tokens, lengths = _draw(
            self.params if params is None else self._weights(params),
            self._rest,
            prompts,
            jax.random.key(key) if isinstance(key, int) else key,
            {
                "limit": jnp.int32(sampling.max_new_tokens),
                "temperature": jnp.float32(sampling.temperature),
                "ends": jnp.asarray(ends, jnp.int32),
                "pad": jnp.int32(pad),
                "top_k": None if sampling.top_k is None else jnp.int32(sampling.top_k),
                "top_p": None if sampling.top_p is None else jnp.float32(sampling.top_p),
            },
            graph=self._graph,
            new=bucket_of(sampling.max_new_tokens),
            greedy=sampling.temperature == 0,
        )
        return Generated(np.asarray(tokens)[:, : sampling.max_new_tokens], np.asarray(lengths))

    def _weights(self, params: Any) -> Any:
        try:
            return with_keys_of(self.params, params)
        except (KeyError, TypeError) as error:
            raise UsageError(
                f"params lack {error}: a sampler needs all weights of its model, also frozen ones."
            ) from None


def generate(
    model: CausalLM,
    input_ids: Any,
    attention_mask: Any = None,
    *,
    key: jax.Array | int = 0,
    **sampling: Any,
) -> Generated:
    """Continues prompts; a :class:`Sampler` that is used once.

    Args:
        model: The model.
        input_ids: A list of lists of tokens, or a matrix of them.
        attention_mask: 0 for padding of a matrix, on either side.
        key: A random key or seed.
        sampling: The fields of :class:`Sampling`.

    Examples:
        >>> from jaxbrewer.models import LlamaConfig, LlamaForCausalLM
        >>> config = LlamaConfig(vocab_size=50, hidden_size=8, num_hidden_layers=1,
        ...     num_attention_heads=2, intermediate_size=12)
        >>> model = LlamaForCausalLM(config, rngs=nnx.Rngs(0))
        >>> [len(row) for row in generate(model, [[3, 4]], max_new_tokens=5).rows()]
        [5]
    """
    return Sampler(model, Sampling(**sampling))(input_ids, attention_mask, key=key)


@functools.partial(jax.jit, static_argnames=("graph", "new", "greedy"))
def _draw(
    params: Any,
    rest: Any,
    prompts: Prompts,
    key: jax.Array,
    settings: dict[str, Any],
    *,
    graph: Any,
    new: int,
    greedy: bool,
) -> tuple[Int[Array, "batch new"], Int[Array, " batch"]]:
    """The new tokens and their number; ``new`` is the bucket of ``limit``."""
    model: CausalLM = nnx.merge(graph, params, rest)
    batch, length = prompts.input_ids.shape
    row_keys = jax.vmap(functools.partial(jax.random.fold_in, key))(jnp.arange(batch))

    def choose(hidden: Float[Array, "batch length width"], step: Any) -> Int[Array, " batch"]:
        logits = model.logits(hidden[:, -1:])[:, 0]
        if greedy:
            return jnp.argmax(logits, axis=-1).astype(jnp.int32)
        keys = jax.vmap(lambda row_key: jax.random.fold_in(row_key, step))(row_keys)
        filters = {name: settings[name] for name in ("temperature", "top_k", "top_p")}
        return next_tokens(logits, keys, **filters)

    def write(state: Any, chosen: Int[Array, " batch"]) -> Any:
        """The state with one more token of the rows that have not ended."""
        step, tokens, ended, lengths, cache = state
        token = jnp.where(ended, settings["pad"], chosen)
        tokens = jax.lax.dynamic_update_slice(tokens, token[:, None], (jnp.int32(0), step))
        lengths = lengths + jnp.where(ended, 0, 1)
        ended = ended | jnp.any(token[:, None] == settings["ends"][None], axis=1)
        return step + 1, tokens, ended, lengths, cache

    def goes_on(state: Any) -> Any:
        step, _, ended, *_ = state
        return (step < settings["limit"]) & ~jnp.all(ended)

    def advance(state: Any) -> Any:
        step, tokens, ended, lengths, cache = state
        last = jax.lax.dynamic_slice_in_dim(tokens, step - 1, 1, axis=1)
        hidden, cache = model.extend(cache, last)
        return write((step, tokens, ended, lengths, cache), choose(hidden, step))

    lengths = jnp.sum(prompts.attention_mask, axis=1) + settings["limit"]
    cache = model.start_cache(batch, length + new, lengths)
    hidden, cache = model.extend(cache, *map(jnp.asarray, prompts))
    tokens = jnp.full((batch, new), settings["pad"], jnp.int32)
    start = jnp.int32(0), tokens, jnp.zeros(batch, bool), jnp.zeros(batch, jnp.int32), cache
    state = write(start, choose(hidden, jnp.int32(0)))
    _, tokens, _, lengths, _ = jax.lax.while_loop(goes_on, advance, state)
    return tokens, lengths


def _tuple(ends: int | tuple[int, ...]) -> tuple[int, ...]:
    return (ends,) if isinstance(ends, int) else tuple(ends)
