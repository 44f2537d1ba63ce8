"""Models of one family with one body: a student with a head for each of several tasks."""

import inspect
from collections.abc import Mapping
from typing import Any

import jax
from flax import nnx

from ..errors import UsageError
from .heads import TransformerModel
from .layers import Ids, Mask


class SharedEncoder(nnx.Module):
    """Several models whose embeddings and layers are those of the first.

    Each of them stays a whole model, which is saved and used alone.

    Args:
        models: By task; all but the first lose their own embeddings and layers.

    Attributes:
        models: The same, as NNX modules.

    Raises:
        UsageError: They are of different families, or of different sizes.

    Examples:
        >>> import jax.numpy as jnp
        >>> from jaxbrewer.models import BertConfig, BertForSequenceClassification
        >>> config = BertConfig(vocab_size=9, hidden_size=8, num_hidden_layers=1,
        ...     num_attention_heads=2, intermediate_size=16, num_labels=2)
        >>> first = BertForSequenceClassification(config, rngs=nnx.Rngs(0))
        >>> second = BertForSequenceClassification(config, rngs=nnx.Rngs(1))
        >>> student = SharedEncoder({"a": first, "b": second})
        >>> outputs = student(jnp.zeros((1, 4), jnp.int32))
        >>> outputs["b"]["logits"].shape, first.bert.encoder is second.bert.encoder
        ((1, 2), True)
    """

    def __init__(self, models: Mapping[str, TransformerModel]):
        (first_task, first), *others = models.items()
        for task, model in others:
            own = _body(model)
            for name, part in _parts(_body(first)).items():
                if name not in _parts(own):
                    continue
                if _shapes(part) != _shapes(getattr(own, name)):
                    raise UsageError(
                        f"The students of the tasks {first_task!r} and {task!r} cannot share their "
                        f"{name}: they are of different families or sizes."
                    )
                setattr(own, name, part)
            if type(model.config) is not type(first.config):
                raise UsageError(
                    f"The students of the tasks {first_task!r} and {task!r} are of different "
                    f"families: {first.config.model_type} and {model.config.model_type}."
                )
        self.models = nnx.Dict(models)

    def __call__(
        self,
        input_ids: Ids,
        attention_mask: Mask | None = None,
        token_type_ids: Ids | None = None,
    ) -> dict[str, Any]:
        """The outputs of every model, by task; a compiled program computes those that are used."""
        given = {
            "input_ids": input_ids,
            "attention_mask": attention_mask,
            "token_type_ids": token_type_ids,
        }
        return {
            task: model(**{name: given[name] for name in given.keys() & _inputs_of(model)})
            for task, model in self.models.items()
        }


def _inputs_of(model: TransformerModel) -> set[str]:
    return set(inspect.signature(type(model).__call__).parameters)


def _body(model: TransformerModel) -> nnx.Module:
    body: nnx.Module = getattr(model, model.stack.partition(".")[0])
    return body


def _parts(body: nnx.Module) -> dict[str, nnx.Module]:
    return {name: part for name, part in vars(body).items() if isinstance(part, nnx.Module)}


def _shapes(part: nnx.Module) -> Any:
    state = nnx.to_pure_dict(nnx.state(part, nnx.Param))
    return jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype), state)
