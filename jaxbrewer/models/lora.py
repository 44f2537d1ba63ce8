"""Low-rank adapters beside the dense maps of a model whose own weights stay as they are.

References:
    Hu et al., 2021, section 4.1, https://arxiv.org/abs/2106.09685
"""

import fnmatch
from collections.abc import Sequence
from typing import Any, TypeVar

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from ..errors import UsageError, suggest
from .dense_maps import DenseMap, dense_maps, replaced
from .heads import TransformerModel
from .int8 import Int8Linear

MAPS = nnx.Linear, Int8Linear
"""The dense maps that may have adapters."""

Model = TypeVar("Model", bound=TransformerModel)


class LoRALinear(nnx.Module):
    r"""A dense map plus two thin ones: :math:`y = f(x) + \frac{\alpha}{r} (x A) B`.

    The weights of :math:`f` keep their paths, so that files, sharding rules and globs mean the same
    with and without adapters. ``lora_b`` starts at 0, which changes nothing.
    """

    kernel: Any

    def __init__(self, base: Any, rank: int, alpha: float, *, rngs: nnx.Rngs):
        for name, value in vars(base).items():
            if not name.startswith("_"):
                setattr(self, name, value)
        inputs, outputs = base.kernel.shape
        bound: float = inputs**-0.5
        init = nnx.initializers.uniform(2 * bound)
        self.lora_a = nnx.LoRAParam(init(rngs.params(), (inputs, rank), jnp.float32) - bound)
        self.lora_b = nnx.LoRAParam(jnp.zeros((rank, outputs)))
        self.base, self.rank, self.alpha = type(base), rank, float(alpha)

    def __call__(self, x: Float[Array, "*axes inputs"]) -> Float[Array, "*axes outputs"]:
        """The map of each row."""
        base: Any = self.base
        thin = x @ self.lora_a[...].astype(x.dtype) @ self.lora_b[...].astype(x.dtype)
        return base.__call__(self, x) + thin * jnp.asarray(self.alpha / self.rank, x.dtype)

    def merged(self) -> Float[Array, "inputs outputs"]:
        """The kernel of the one dense map that computes the same."""
        change = self.lora_a[...] @ self.lora_b[...] * (self.alpha / self.rank)
        return (self.kernel[...].astype(jnp.float32) + change).astype(self.kernel.dtype)


def add_lora(
    model: Model,
    rank: int = 8,
    alpha: float | None = None,
    *,
    targets: Sequence[str] | None = None,
    seed: int = 0,
) -> Model:
    """A copy of a model with adapters beside its dense maps.

    ``jaxbrewer.train_only(student, nnx.LoRAParam)`` trains the adapters alone: the base has no
    gradient and no optimizer state. The base may be quantised.

    Args:
        model: The model, which does not change; the copy shares its arrays.
        rank: Width between both maps of an adapter.
        alpha: Its output is multiplied by ``alpha / rank``; ``None`` for ``2 * rank``.
        targets: Which maps of the layers: the ends of their paths (``"q_proj"``,
            ``"mlp.up_proj"``), or globs of whole paths (``"model.layers.[01].*"``); ``None`` for
            all.
        seed: Seed of the adapters.

    Raises:
        UsageError: A target matches no dense map, the rank or alpha is out of range, or the model
            has adapters.

    Examples:
        >>> import jaxbrewer as jb
        >>> from jaxbrewer.models import LlamaConfig, LlamaForCausalLM
        >>> config = LlamaConfig(vocab_size=50, hidden_size=8, num_hidden_layers=1,
        ...     num_attention_heads=2, intermediate_size=12)
        >>> model = LlamaForCausalLM(config, rngs=nnx.Rngs(0))
        >>> student = jb.train_only(add_lora(model, rank=2, targets=["q_proj"]), nnx.LoRAParam)
        >>> sorted(student.params["model"]["layers"]["0"]["self_attn"]["q_proj"])
        ['lora_a', 'lora_b']
    """
    if isinstance(rank, bool) or not isinstance(rank, int) or rank < 1:
        raise UsageError(f"add_lora rank must be an integer of at least 1, got {rank!r}.")
    alpha = 2.0 * rank if alpha is None else alpha
    if isinstance(alpha, bool) or not isinstance(alpha, int | float) or not 0 < alpha < 1e30:
        raise UsageError(f"add_lora alpha must be a number above 0, got {alpha!r}.")
    if next(dense_maps(model, (LoRALinear,)), None) is not None:
        raise UsageError("add_lora: the model has adapters; merge_lora(model) ends them.")
    paths = [found.path for found in dense_maps(model, MAPS)]
    if isinstance(targets, str):
        raise UsageError(f"add_lora targets must be a list of names, got {targets!r}.")
    for target in targets or ():
        if not any(_matches(target, path) for path in paths):
            names = dict.fromkeys(path.rpartition(".")[2] for path in paths)
            raise UsageError(f"add_lora: no dense map {target!r}: {suggest(target, names)}")
    rngs = nnx.Rngs(seed)

    def adapter(found: DenseMap) -> LoRALinear | None:
        wanted = targets is None or any(_matches(target, found.path) for target in targets)
        return LoRALinear(found.module, rank, alpha, rngs=rngs) if wanted else None

    return replaced(model, adapter, MAPS)


def merge_lora(model: Model) -> Model:
    """A copy of a model in which the adapters are part of the kernels.

    Args:
        model: A model with adapters, which does not change.

    Raises:
        UsageError: The model has no adapters, or a quantised base.
    """

    def plain(found: DenseMap) -> nnx.Linear:
        module = found.module
        if module.base is not nnx.Linear:
            raise UsageError(
                f"merge_lora: {found.path} is quantised: load the adapters into the model that "
                "is not, and merge them there."
            )
        linear = nnx.Linear(1, 1, rngs=nnx.Rngs(0))
        for name in vars(linear):
            if not name.startswith("_"):
                setattr(linear, name, getattr(module, name))
        linear.kernel = nnx.Param(module.merged())
        return linear

    require_adapters(model, "merge_lora")
    return replaced(model, plain, (LoRALinear,))


def require_adapters(model: Any, who: str) -> None:
    """Raises :class:`UsageError` for a model without adapters."""
    if next(dense_maps(model, (LoRALinear,)), None) is None:
        raise UsageError(f"{who}: the model has no adapters; add_lora(model) makes them.")


def _matches(target: str, path: str) -> bool:
    return f".{path}".endswith(f".{target}") or fnmatch.fnmatchcase(path, target)
