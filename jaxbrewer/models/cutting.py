"""Students made from some layers of a teacher."""

import dataclasses
import operator
from collections.abc import Sequence
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
from flax import nnx

from ..errors import UsageError
from .heads import TransformerModel

Model = TypeVar("Model", bound=TransformerModel)


def cut_layers(model: Model, layers: Sequence[int] | str) -> Model:
    """Makes a student from some layers of a teacher.

    Args:
        model: The teacher; it does not change and shares no array with the student.
        layers: Numbers of the layers in the student's order; negative ones count from the last.
            ``"uniform:n"`` takes n layers at equal distances, the first and the last among them.

    Returns:
        A model of these layers, with copies of the embeddings, the pooler and the head.

    Raises:
        UsageError: A layer does not exist or is named twice, or there is none.

    Examples:
        >>> from jaxbrewer.models import BertConfig, BertForSequenceClassification
        >>> config = BertConfig(vocab_size=50, hidden_size=8, num_hidden_layers=6,
        ...     num_attention_heads=2, intermediate_size=16)
        >>> teacher = BertForSequenceClassification(config, rngs=nnx.Rngs(0))
        >>> student = cut_layers(teacher, layers=[0, 2, -1])
        >>> student.config.num_hidden_layers
        3
        >>> cut_layers(teacher, layers="uniform:2").config.num_hidden_layers
        2
    """
    count = model.config.num_hidden_layers
    chosen = layer_numbers(layers, count)
    student = nnx.clone(model)
    path, _, name = model.stack.rpartition(".")
    owner = operator.attrgetter(path)(student)
    stack = getattr(owner, name)
    setattr(owner, name, nnx.List([stack[number] for number in chosen]))
    student.config = config_of_layers(model.config, chosen)
    nnx.update(student, jax.tree.map(jnp.copy, nnx.state(student)))
    return student


def config_of_layers(config: Any, layers: Sequence[int]) -> Any:
    """The config of a model that keeps only these layers.

    Raises:
        UsageError: A model of the family cannot consist of them.
    """
    return dataclasses.replace(
        config, num_hidden_layers=len(layers), **config.fields_of_layers(layers)
    )


def layer_numbers(layers: Sequence[int] | str, count: int) -> list[int]:
    """The layers that are kept.

    Args:
        layers: As for :func:`cut_layers`.
        count: Number of layers of the model.

    Raises:
        UsageError: A layer does not exist or is named twice, or there is none.

    Examples:
        >>> layer_numbers("uniform:4", 30), layer_numbers([0, -1], 30)
        ([0, 10, 19, 29], [0, 29])
    """
    if isinstance(layers, str):
        return _uniform(layers, count)
    wrong = [
        layer
        for layer in layers
        if not isinstance(layer, int) or isinstance(layer, bool) or not -count <= layer < count
    ]
    if wrong or not len(layers):
        raise UsageError(
            f"layers {list(layers)!r} must be layers of a model with {count} layers, "
            f"from {-count} to {count - 1}."
        )
    chosen = [layer % count for layer in layers]
    if len(set(chosen)) < len(chosen):
        raise UsageError(f"layers {list(layers)!r} name a layer twice.")
    return chosen


def _uniform(layers: str, count: int) -> list[int]:
    name, _, number = layers.partition(":")
    if name != "uniform" or not number.isdecimal() or not 1 <= int(number) <= count:
        raise UsageError(
            f"layers {layers!r} must be a list of layers or 'uniform:n' with n from 1 to {count}."
        )
    gaps = max(int(number) - 1, 1)
    return [(2 * place * (count - 1) + gaps) // (2 * gaps) for place in range(int(number))]
