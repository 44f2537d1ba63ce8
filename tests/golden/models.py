"""The models of the training runs, as functions of parameters under PyTorch's names.

Every ``*.weight`` of a linear map is ``(out, in)``. Answers are dicts: ``logits`` (one array per
head), ``hidden`` and, for the transformer, ``attention`` (scores before the softmax).
"""

import functools
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import jax
import jax.numpy as jnp

Params = Mapping[str, jax.Array]


def make_model(spec: Mapping[str, Any]) -> Callable[..., dict[str, list[jax.Array]]]:
    """``model(params, ...)`` of a case's description; its arguments are entries of the batch."""
    act = {"tanh": jnp.tanh, "gelu_tanh": jax.nn.gelu}[spec["act"]]
    if spec["arch"] == "mlp":

        def mlp(params: Params, x: jax.Array) -> dict[str, list[jax.Array]]:
            first = act(_linear(params, "lin0", x))
            second = act(_linear(params, "lin1", first))
            return {"logits": _heads(params, second), "hidden": [first, second]}

        return mlp

    def transformer(params: Params, ids: jax.Array, mask: jax.Array) -> dict[str, list[jax.Array]]:
        h = params["emb.weight"][ids] + params["pos.weight"][None, : ids.shape[1]]
        bias = ((1 - mask) * -10000.0).astype(h.dtype)[:, None, None, :]
        hidden, attention = [h], []
        for index in range(spec["layers"]):
            h, scores = _layer(params, f"layers.{index}.", h, bias, spec["heads"], act)
            hidden.append(h)
            attention.append(scores)
        top = h if spec["kind"] == "token" else h[:, 0]
        return {"logits": _heads(params, top), "hidden": hidden, "attention": attention}

    return transformer


def make_adaptor(
    keys: Iterable[str], *, head: int | None = None, zero_touch: bool = False
) -> Callable[..., dict[str, Any]]:
    """``adaptor(batch, outputs)`` that returns the named keys.

    Args:
        keys: Of the dict it returns.
        head: Only this head is returned.
        zero_touch: One more loss, 0 times all logits of all heads.
    """

    def adaptor(batch: Mapping[str, jax.Array], outputs: Mapping[str, Any]) -> dict[str, Any]:
        heads = outputs["logits"] if head is None else [outputs["logits"][head]]
        touch = [0 * sum(jnp.sum(z) for z in outputs["logits"])] if zero_touch else []

        def labels() -> list[jax.Array]:
            if heads[0].ndim == 2 and batch["labels"].ndim == 2:  # a column for each head
                return list(batch["labels"].T)
            return [batch["labels"]] * len(heads)

        entries = {
            "logits": lambda: heads,
            "losses": lambda: [*map(cross_entropy, heads, labels()), *touch],
            "labels": labels,
            "hidden": lambda: outputs["hidden"],
            "attention": lambda: outputs["attention"],
            "logits_mask": lambda: [batch["mask"]] * len(heads),
            "logits_mask_one": lambda: batch["mask"],
            "logits_mask_labels": lambda: [label >= 0 for label in labels()],
            "inputs_mask": lambda: batch["mask"],
        }
        answer = {key: entries[key]() for key in keys}
        for key in ("logits_mask_one", "logits_mask_labels"):
            if key in answer:
                answer["logits_mask"] = answer.pop(key)
        return answer

    return adaptor


def cross_entropy(logits: jax.Array, labels: jax.Array) -> jax.Array:
    """Mean over the labels >= 0 of the batch."""
    log_p = jax.nn.log_softmax(logits)
    nll = -jnp.take_along_axis(log_p, jnp.maximum(labels, 0)[..., None], axis=-1)[..., 0]
    return jnp.sum(nll, where=labels >= 0) / jnp.sum(labels >= 0)


def _linear(params: Params, name: str, x: jax.Array) -> jax.Array:
    y = x @ params[f"{name}.weight"].T
    bias = params.get(f"{name}.bias")
    return y if bias is None else y + jnp.reshape(bias, (1,) * (y.ndim - 1) + (-1,))


def _heads(params: Params, x: jax.Array) -> list[jax.Array]:
    count = sum(name.startswith("heads.") and name.endswith(".weight") for name in params)
    return [_linear(params, f"heads.{head}", x) for head in range(count)]


def _layer(
    params: Params, at: str, h: jax.Array, bias: jax.Array, heads: int, act: Callable[..., Any]
) -> tuple[jax.Array, jax.Array]:
    """One layer, normalised after each residual: the new states, and the attention scores."""
    batch, length, width = h.shape
    shape = (batch, length, heads, width // heads)
    q, k, v = (_linear(params, at + name, h).reshape(shape) for name in "qkv")
    scores = jnp.einsum("bqhd,bkhd->bhqk", q, k) / (width // heads) ** 0.5 + bias
    context = jnp.einsum("bhqk,bkhd->bqhd", jax.nn.softmax(scores), v).reshape(h.shape)
    norm = functools.partial(_layer_norm, params)
    h = norm(at + "ln1", h + _linear(params, at + "o", context))
    return norm(
        at + "ln2", h + _linear(params, at + "ff2", act(_linear(params, at + "ff1", h)))
    ), scores


def _layer_norm(params: Params, name: str, x: jax.Array) -> jax.Array:
    x = (x - x.mean(-1, keepdims=True)) / jnp.sqrt(x.var(-1, keepdims=True) + 1e-5)
    return x * params[f"{name}.weight"][None, None] + params[f"{name}.bias"][None, None]
