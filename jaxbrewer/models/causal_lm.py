"""The base of all decoders: inputs, the head, and reading with a cache."""

import abc
import operator
from collections.abc import Iterator, Mapping
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int

from ..losses import LogitsOf
from .causal_attention import KeyValueCache, LayerCache, View, positions_of, visible
from .decoder_config import SLIDING, CausalConfig
from .heads import TransformerModel, per_token
from .layers import Hidden, Ids, Mask, Outputs, dense
from .rotary import Rope


class CausalLM(TransformerModel):
    """A model that gives each token the ``logits`` of the next, ``[batch, length, vocabulary]``.

    A subclass per family makes the body under the name that it has in Hugging Face's files, and
    names its final norm. The output map is the table of word embeddings where the config ties it.

    Attributes:
        final_norm: The path of the norm after the last layer.
    """

    task = "causal-language-modeling"
    final_norm: ClassVar[str]
    config: CausalConfig

    def __init__(self, config: Any, *, rngs: nnx.Rngs):
        super().__init__(config, rngs=rngs)
        if not config.tie_word_embeddings:
            self.lm_head = dense(
                config.hidden_size, config.vocab_size, config, rngs, use_bias=False
            )

    @abc.abstractmethod
    def embed(self, input_ids: Ids, position_ids: Ids) -> Hidden:
        """What the first layer reads."""

    def __call__(
        self,
        input_ids: Ids,
        attention_mask: Mask | None = None,
        segment_ids: Ids | None = None,
        position_ids: Ids | None = None,
    ) -> Outputs:
        """Computes the logits of the next token at each position.

        Args:
            input_ids: Token ids.
            attention_mask: 0 for padding, which no position sees; it may be on either side.
            segment_ids: The document of each token in packed rows: a token sees only its own.
            position_ids: The position of each token; ``None`` counts the tokens of each row from
                0, without padding, and again in each segment.

        Returns:
            ``logits`` in float32; ``hidden_states``: the embeddings, the output of every layer but
            the last, and the normalized output of the last; if the config says
            ``output_attentions``, ``attention_scores`` and ``attentions``, one per layer, in which
            heads of queries have an axis of their own. With ``fused_logits``, ``logits`` is a
            :class:`~jaxbrewer.LogitsOf`.

        Raises:
            UsageError: An input has another shape, or the input is longer than a table of
                positions.
        """
        ids = self.checked(
            input_ids, longest=self.config.longest_input, attention_mask=attention_mask,
            segment_ids=segment_ids, position_ids=position_ids,
        )  # fmt: skip
        mask = None if attention_mask is None else jnp.asarray(attention_mask) != 0
        segments = None if segment_ids is None else jnp.asarray(segment_ids)
        if position_ids is None:
            position_ids = positions_of(jnp.ones_like(ids) if mask is None else mask, segments)
        position_ids = jnp.asarray(position_ids)
        slots = jnp.arange(ids.shape[1])
        is_plain = mask is None and segments is None
        views = {
            kind: View(
                (ids.shape[0], ids.shape[1]),
                None if is_plain else visible(slots, slots, window, mask, segments),
                window,
                rope.rotation(position_ids) if rope else None,
            )
            for kind, window, rope in self._kinds()
        }
        outputs, _ = self._run(self.embed(ids, position_ids), views, None)
        head = self.logits_of if self.config.fused_logits else self.logits
        return {"logits": head(outputs["hidden_states"][-1]), **outputs}

    def _kinds(self) -> Iterator[tuple[str, int | None, Rope | None]]:
        """The kinds of the layers, with their windows and rotary positions."""
        config = self.config
        for kind in sorted({config.layer_kind(i) for i in range(config.num_hidden_layers)}):
            yield kind, config.window if kind == SLIDING else None, config.rope_of(kind)

    def _run(
        self, x: Hidden, views: Mapping[str, View], cache: KeyValueCache | None
    ) -> tuple[Outputs, list[LayerCache]]:
        """The outputs of all layers, and their caches."""
        tokens, hidden = x.reshape(-1, x.shape[-1]), [x]
        scores, probabilities, parts = [], [], []
        for number, layer in enumerate(operator.attrgetter(self.stack)(self)):
            part = None if cache is None else cache.layer(number)
            view = views[self.config.layer_kind(number)]
            tokens, gathered = layer(tokens, view, part, with_maps=self.config.output_attentions)
            hidden.append(tokens.reshape(x.shape))
            scores.append(gathered.scores)
            probabilities.append(gathered.probabilities)
            parts.append(gathered.cache)
        hidden[-1] = operator.attrgetter(self.final_norm)(self)(hidden[-1])
        outputs = {"hidden_states": tuple(hidden)}
        if self.config.output_attentions:
            outputs["attention_scores"] = tuple(scores)
            outputs["attentions"] = tuple(probabilities)
        return outputs, parts

    def logits_of(self, hidden: Hidden) -> LogitsOf:
        """The logits of the next tokens, as the normalized output of the last layer and the head.

        Args:
            hidden: The last of ``hidden_states``.
        """
        tied = self.config.tie_word_embeddings
        kernel = self.embedding_table() if tied else self.lm_head.kernel[...]
        return LogitsOf(hidden, kernel, softcap=self.config.logit_softcap, tied=tied)

    def logits(self, hidden: Hidden) -> Float[Array, "batch length vocabulary"]:
        """The logits of the next tokens, in float32 at least.

        Args:
            hidden: The last of ``hidden_states``.
        """
        return per_token(lambda tokens: self.logits_of(tokens).logits(), hidden)

    def start_cache(
        self, batch: int, slots: int, lengths: Int[Array, " batch"] | None = None
    ) -> KeyValueCache:
        """An empty cache for :meth:`extend`.

        Args:
            batch: Number of rows.
            slots: The largest number of positions of a row, padding included.
            lengths: Tokens that each row has in the end; ``None`` for ``slots``. Only rotary
                positions that depend on the length of the input (``dynamic``, ``longrope``) use
                it: keys that were read with other frequencies do not fit together.
        """
        config = self.config
        shape = batch, slots, config.key_heads, config.head_size
        zeros = (jnp.zeros(shape, self.embedding_table().dtype),) * config.num_hidden_layers
        return KeyValueCache(
            zeros,
            zeros,
            jnp.zeros((batch, slots), bool),
            jnp.zeros((), jnp.int32),
            jnp.full(batch, slots) if lengths is None else lengths,
        )

    def extend(
        self, cache: KeyValueCache, input_ids: Ids, attention_mask: Mask | None = None
    ) -> tuple[Hidden, KeyValueCache]:
        """Reads the next tokens.

        Args:
            cache: What the model has read.
            input_ids: The next tokens; the cache must have slots for them.
            attention_mask: 0 for padding, which may only precede a text.

        Returns:
            The last hidden states of these tokens, for :meth:`logits`, and the cache that holds
            them.
        """
        batch, length = input_ids.shape
        mask = jnp.ones_like(input_ids) if attention_mask is None else attention_mask
        start, new = cache.filled, cache.with_tokens(mask != 0)
        positions = jax.lax.dynamic_slice_in_dim(positions_of(new.valid), start, length, axis=1)
        queries, slots = start + jnp.arange(length), jnp.arange(new.valid.shape[1])
        views = {
            kind: View(
                (batch, length),
                visible(queries, slots, window, new.valid),
                window,
                rope.rotation(positions, cache.lengths) if rope else None,
            )
            for kind, window, rope in self._kinds()
        }
        outputs, parts = self._run(self.embed(input_ids, positions), views, cache)
        return outputs["hidden_states"][-1], new.with_layers(parts)
