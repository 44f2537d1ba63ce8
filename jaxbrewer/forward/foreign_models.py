"""The code that makes a model of an object of another library, for messages."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple


class _Kind(NamedTuple):
    """Objects of a library, and the code that converts one, called ``model``."""

    name: str
    is_kind: Callable[[Any], bool]
    code: str


def code_for(model: Any) -> str | None:
    """Says how ``model`` is converted; ``None`` if its library is unknown."""
    for kind in _KINDS:
        if kind.is_kind(model):
            return f"{kind.name} is given as: {kind.code} (docs/models.md)."
    return None


def _library(model: Any) -> set[str]:
    """Top-level packages of the object's class and its bases."""
    return {base.__module__.partition(".")[0] for base in type(model).__mro__}


_KINDS = (
    _Kind(
        "A Hugging Face Flax model",
        lambda model: "transformers" in _library(model) and hasattr(model, "module"),
        "jaxbrewer.from_function(lambda params, train, rng, input_ids, attention_mask: "
        "model(input_ids, attention_mask, params=params, train=train, dropout_rng=rng), "
        "model.params)",
    ),
    _Kind(
        "A Keras model (with KERAS_BACKEND=jax)",
        lambda model: "keras" in _library(model),
        "jaxbrewer.from_function(lambda params, state, x, train: "
        "model.stateless_call(params, state, x, training=train), "
        "[v.value for v in model.trainable_variables], "
        "[v.value for v in model.non_trainable_variables])",
    ),
    _Kind(
        "An Equinox module",
        lambda model: "equinox" in _library(model),
        "params, static = equinox.partition(model, equinox.is_inexact_array); "
        "jaxbrewer.from_function(lambda params, x: "
        "jax.vmap(equinox.combine(params, static))(x), params)",
    ),
    _Kind(
        "A Haiku transformation",
        lambda model: getattr(type(model), "_fields", None) == ("init", "apply"),
        "jaxbrewer.from_function(lambda params, x, rng: model.apply(params, rng, x), "
        "model.init(key, x))",
    ),
    _Kind(
        "A Flax TrainState",
        lambda model: hasattr(model, "apply_fn") and isinstance(model.params, Mapping),
        'jaxbrewer.as_model((module, {"params": model.params}))',
    ),
    _Kind(
        "A PyTorch teacher, which cannot run inside a JAX step,",
        lambda model: "torch" in _library(model),
        'batch["teacher_cache"] = model(inputs).logits',
    ),
)
