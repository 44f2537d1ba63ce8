"""The lines that make a model of an object of another library, for messages."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple


class _Kind(NamedTuple):
    """Objects of a library, and the code that converts one, called ``model``."""

    name: str
    is_kind: Callable[[Any], bool]
    lines: str


def lines_for(model: Any) -> str | None:
    """What ``model`` is and the code that makes a model of it, ``None`` if it is unknown."""
    for kind in _KINDS:
        if kind.is_kind(model):
            return f"{kind.name} is passed as\n{kind.lines}"
    return None


def _library(model: Any) -> set[str]:
    """Top-level packages of the object's class and its bases."""
    return {base.__module__.partition(".")[0] for base in type(model).__mro__}


_KINDS = (
    _Kind(
        "A Hugging Face Flax model",
        lambda model: "transformers" in _library(model) and hasattr(model, "module"),
        "    def run(params, train, rng, input_ids, attention_mask):\n"
        "        return model(input_ids, attention_mask, params=params, train=train, "
        "dropout_rng=rng)\n"
        "    jaxbrewer.from_function(run, model.params)",
    ),
    _Kind(
        "A Keras model (with KERAS_BACKEND=jax)",
        lambda model: "keras" in _library(model),
        "    def run(params, state, x, train):\n"
        "        return model.stateless_call(params, state, x, training=train)\n"
        "    jaxbrewer.from_function(run, [v.value for v in model.trainable_variables], "
        "[v.value for v in model.non_trainable_variables])",
    ),
    _Kind(
        "An Equinox module",
        lambda model: "equinox" in _library(model),
        "    params, static = equinox.partition(model, equinox.is_inexact_array)\n"
        "    def run(params, x): return jax.vmap(equinox.combine(params, static))(x)\n"
        "    jaxbrewer.from_function(run, params)",
    ),
    _Kind(
        "A Haiku transformation",
        lambda model: getattr(type(model), "_fields", None) == ("init", "apply"),
        "    params = model.init(key, x)\n"
        "    def run(params, x, rng): return model.apply(params, rng, x)\n"
        "    jaxbrewer.from_function(run, params)",
    ),
    _Kind(
        "A Flax TrainState",
        lambda model: hasattr(model, "apply_fn") and isinstance(model.params, Mapping),
        '    jaxbrewer.as_model((module, {"params": model.params}))',
    ),
    _Kind(
        "A PyTorch module runs outside of JAX; its logits come with the batch, so a teacher",
        lambda model: "torch" in _library(model),
        '    batch["teacher_cache"] = {"logits": model(inputs).logits}\n'
        "    jaxbrewer.GeneralDistiller(..., model_T=None, ...)",
    ),
)
