"""The two operations of an encoder that XLA's CPU backend does not do best by itself.

On a CPU, autodiff's weight gradient is a product whose result is transposed afterwards, at less
than half the speed of the others; written as its own product, it is as fast as they are. The
exact GELU is three times faster through ``erf`` than through ``erfc``, and recomputing it in the
backward pass is faster than reading what the forward pass could have kept. Values and gradients
are those of the plain forms.

Functions with a ``custom_vjp`` have no forward-mode derivative. Who needs ``jax.jvp`` or
``jax.hessian`` through a model on a CPU sets ``jaxbrewer.models._dense.REVERSE_MODE_ONLY = False``
before tracing.
"""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

REVERSE_MODE_ONLY = True
"""Whether gradients on a CPU take the fast forms, which forward-mode autodiff cannot see."""


def dot_general(x: Array, kernel: Array, dimension_numbers: Any, **options: Any) -> Array:
    """``jax.lax.dot_general`` for the dense layers; a product of matrices takes the fast form.

    Args:
        x: Inputs of the layer, ``(tokens, features)`` for the fast form.
        kernel: Its weights, ``(features, outputs)``.
        dimension_numbers: As for ``jax.lax.dot_general``.
        options: As for ``jax.lax.dot_general``.
    """
    is_matmul = x.ndim == kernel.ndim == 2 and dimension_numbers == (((1,), (0,)), ((), ()))
    if _on_cpu() and is_matmul and not any(value is not None for value in options.values()):
        return _matmul(x, kernel)
    return jax.lax.dot_general(x, kernel, dimension_numbers, **options)


def gelu(x: Float[Array, "..."]) -> Float[Array, "..."]:
    r"""The exact GELU, :math:`x \Phi(x)`, computed in float32 at least.

    Examples:
        >>> print(gelu(jnp.array([-1.0, 0.0, 1.0])))
        [-0.15865526  0.          0.8413447 ]

    References:
        Hendrycks and Gimpel, 2016, https://arxiv.org/abs/1606.08415
    """
    wide = x.astype(jnp.promote_types(x.dtype, jnp.float32))
    return (_gelu if _on_cpu() else _gelu_by_autodiff)(wide).astype(x.dtype)


def _on_cpu() -> bool:
    return REVERSE_MODE_ONLY and jax.default_backend() == "cpu"


@jax.custom_vjp
def _matmul(x: Array, kernel: Array) -> Array:
    return x @ kernel


def _matmul_backward(inputs: tuple[Array, Array], gradient: Array) -> tuple[Array, Array]:
    # Without the barrier XLA folds the second product back into the slow form.
    x, kernel = inputs
    x, gradient_rows = jax.lax.optimization_barrier((x, gradient))
    return (
        jnp.einsum("to,io->ti", gradient, kernel),
        jnp.einsum("ti,to->io", x, gradient_rows),
    )


_matmul.defvjp(lambda x, kernel: (x @ kernel, (x, kernel)), _matmul_backward)


def _normal_cdf(x: Array) -> Array:
    return 0.5 * (1 + jax.lax.erf(x * 0.5**0.5))


def _gelu_by_autodiff(x: Array) -> Array:
    return x * _normal_cdf(x)


@jax.custom_vjp
def _gelu(x: Array) -> Array:
    return _gelu_by_autodiff(x)


def _gelu_backward(x: Array, gradient: Array) -> tuple[Array]:
    density = jnp.exp(-0.5 * x * x) * (2 * jnp.pi) ** -0.5
    return (gradient * (_normal_cdf(x) + x * density),)


_gelu.defvjp(lambda x: (_gelu_by_autodiff(x), x), _gelu_backward)
