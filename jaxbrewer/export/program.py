"""A model as a function of arrays, with free batch and length: what every export writes."""

import dataclasses
import inspect
from collections.abc import Callable, Collection, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from ..models import TransformerModel

INNER = ("hidden_states", "attention_scores", "attentions", "logits_of")
"""Outputs of a model that no artifact computes."""

Arrays = dict[str, Any]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Program:
    """A model as a pure function.

    Attributes:
        inputs: Names of the inputs, integers ``[batch, length]``.
        outputs: Names of the outputs.
        per_token: Those of the outputs that have an entry per token: ``[batch, length, ...]``.
        weights: The weights by their paths, float32.
        call: ``call(weights, inputs) -> outputs``, all of them dicts of arrays.
        longest: The largest length of an input; ``None`` if the model has no limit.
        facts: What describes the model in metadata: ``model_type``, ``task`` and sizes.
    """

    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    per_token: frozenset[str]
    weights: Arrays
    call: Callable[[Arrays, Arrays], Arrays]
    longest: int | None
    facts: Mapping[str, Any]

    def abstract(self) -> tuple[Arrays, Arrays]:
        """Shapes and dtypes of the weights and of inputs with symbolic ``batch`` and ``length``."""
        limits = [] if self.longest is None else [f"length <= {self.longest}"]
        batch, length = jax.export.symbolic_shape("batch, length", constraints=limits)
        return (
            jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), self.weights),
            {name: jax.ShapeDtypeStruct((batch, length), jnp.int32) for name in self.inputs},
        )

    def run(self, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """The outputs as arrays of NumPy; each shape of inputs compiles once.

        Args:
            inputs: At least those of :attr:`inputs`.
        """
        outputs = self._compiled(self.weights, {name: inputs[name] for name in self.inputs})
        return {name: np.asarray(value) for name, value in outputs.items()}

    def __post_init__(self) -> None:
        object.__setattr__(self, "_compiled", jax.jit(self.call))

    _compiled: Any = dataclasses.field(init=False, repr=False)


def program_of(model: TransformerModel, *, outputs: Collection[str] | None = None) -> Program:
    """The program of a model in evaluation mode, computed in float32.

    The outputs are those of the head, without hidden states and attentions. ``token_type_ids`` is
    an input where the model has more than one type, and ``position_ids`` never is.

    Args:
        model: The model, which does not change.
        outputs: The outputs to keep; ``None`` for all.

    Examples:
        >>> from jaxbrewer.models import BertConfig, BertForSequenceClassification
        >>> config = BertConfig(vocab_size=50, hidden_size=8, num_hidden_layers=1,
        ...     num_attention_heads=2, intermediate_size=16, num_labels=3)
        >>> program = program_of(BertForSequenceClassification(config, rngs=nnx.Rngs(0)))
        >>> program.inputs, program.outputs
        (('input_ids', 'attention_mask', 'token_type_ids'), ('logits',))
    """
    graph, *parts = nnx.split(model, nnx.Param, ...)
    params, rest = parts
    leaves = nnx.traversals.flatten_mapping(nnx.to_pure_dict(params))
    paths = {".".join(map(str, path)): path for path in leaves}
    weights = {name: jnp.asarray(leaves[path], jnp.float32) for name, path in paths.items()}

    def call(weights: Arrays, inputs: Arrays) -> Arrays:
        nested = nnx.traversals.unflatten_mapping({paths[name]: x for name, x in weights.items()})
        rebuilt: Any = nnx.merge(graph, nnx.State(nested), rest)
        rebuilt.eval()
        found = rebuilt(**inputs)
        return {
            name: value
            for name, value in found.items()
            if name not in INNER and (outputs is None or name in outputs)
        }

    config = model.config
    known = inspect.signature(type(model).__call__).parameters
    names = ["input_ids", "attention_mask"]
    if "token_type_ids" in known and getattr(config, "type_vocab_size", 0) > 1:
        names.append("token_type_ids")
    program = Program(
        inputs=tuple(names),
        outputs=(),
        per_token=frozenset(),
        weights=weights,
        call=call,
        longest=config.longest_input,
        facts={
            "model_type": config.model_type,
            "task": model.task,
            "vocab_size": config.vocab_size,
            "parameters": sum(leaf.size for leaf in weights.values()),
        },
    )
    shapes = {name: x.shape for name, x in jax.eval_shape(call, *program.abstract()).items()}
    per_token = {name for name, shape in shapes.items() if str(shape[1]) == "length"}
    return dataclasses.replace(program, outputs=tuple(shapes), per_token=frozenset(per_token))
