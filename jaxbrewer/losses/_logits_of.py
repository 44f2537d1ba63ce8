"""Logits as the last hidden states and the head that makes logits of them."""

import dataclasses
import math
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from ..errors import UsageError
from ._reduction import loss_dtype


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class LogitsOf:
    r"""Logits that are computed in chunks, so that ``[tokens, vocabulary]`` is never held.

    .. math:: z = \mathrm{cap}(s \, (h W + b)), \;
        \mathrm{cap}(x) = \kappa \tanh(x / \kappa)

    An adaptor returns it as ``logits`` in place of an array.

    Attributes:
        hidden: The last hidden states :math:`h`, after the last norm, ``[*batch, width]``.
        kernel: The head's matrix :math:`W`, ``[width, classes]``; with ``tied``, the table of
            embeddings ``[classes, width]`` as it is.
        bias: The head's bias :math:`b`, ``[classes]``; ``-inf`` rules a class out.
        softcap: :math:`\kappa`, to which logits are bounded (Gemma 2); ``None`` for no bound.
        scale: :math:`s`, which multiplies logits (Cohere; Granite divides by its inverse).
        tied: Whether ``kernel`` is a table of embeddings. No transposed copy is made of it.

    Raises:
        UsageError: ``softcap`` or ``scale`` is not a number above 0. Shapes are checked by
            :meth:`check`.

    Examples:
        >>> table = jnp.array([[1.0, 0.0], [0.0, 2.0], [1.0, 1.0]])
        >>> logits = LogitsOf(jnp.array([[1.0, 2.0]]), table, tied=True)
        >>> logits.shape, logits.logits().tolist()
        ((1, 3), [[1.0, 4.0, 3.0]])
    """

    hidden: Float[Array, "*batch width"]
    kernel: Float[Array, "width classes"] | Float[Array, "classes width"]
    bias: Float[Array, " classes"] | None = None
    softcap: float | None = dataclasses.field(default=None, metadata={"static": True})
    scale: float = dataclasses.field(default=1.0, metadata={"static": True})
    tied: bool = dataclasses.field(default=False, metadata={"static": True})

    def __post_init__(self) -> None:
        """Checks the numbers; the arrays may be whatever stands for them in a pytree."""
        for name, value in (("softcap", self.softcap), ("scale", self.scale)):
            if name == "softcap" and value is None:
                continue
            is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
            if not is_number or not 0 < value < math.inf:  # type: ignore[operator]
                raise UsageError(f"LogitsOf: {name} must be a number above 0, got {value!r}.")

    @property
    def classes(self) -> int:
        """Number of classes."""
        return int(self.kernel.shape[0 if self.tied else 1])

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of the logits."""
        return (*self.hidden.shape[:-1], self.classes)

    @property
    def ndim(self) -> int:
        """The number of axes of the logits."""
        return int(self.hidden.ndim)

    def check(self, what: str) -> None:
        """Raises :class:`UsageError` unless the shapes fit each other.

        Args:
            what: Names the logits, for messages.
        """
        kernel, width = self.kernel.shape, self.hidden.shape[-1:]
        if len(kernel) != 2:
            raise UsageError(f"{what}: the kernel of a LogitsOf must be a matrix, got {kernel}.")
        if (kernel[1:] if self.tied else kernel[:1]) != width:
            form = "(classes, width), as tied=True" if self.tied else "(width, classes)"
            flipped = (kernel[:1] if self.tied else kernel[1:]) == width
            remedy = f" Set tied={not self.tied}?" if flipped else ""
            raise UsageError(
                f"{what}: the kernel {kernel} of a LogitsOf must have the form {form} for hidden "
                f"states {self.hidden.shape}.{remedy}"
            )
        if self.bias is not None and self.bias.shape != (self.classes,):
            raise UsageError(
                f"{what}: the bias of a LogitsOf must have the shape ({self.classes},), got "
                f"{self.bias.shape}."
            )

    @property
    def dtype(self) -> Any:
        """The dtype of the logits: float32, float64 if an input is, whatever the others are."""
        return loss_dtype(self.hidden, self.kernel)

    @property
    def product_dtype(self) -> Any:
        """The dtype of the factors of ``hidden @ kernel``."""
        with jax.numpy_dtype_promotion("standard"):
            return jnp.result_type(self.hidden, self.kernel)

    def logits(self) -> Float[Array, "*batch classes"]:
        """All logits as an array; products of half-precision factors are added up in float32."""
        return self.finish(self.products())

    def products(self) -> Float[Array, "*batch classes"]:
        """``hidden @ kernel``, in :attr:`dtype`."""
        axes = ((self.hidden.ndim - 1,), (1 if self.tied else 0,)), ((), ())
        hidden, kernel = (x.astype(self.product_dtype) for x in (self.hidden, self.kernel))
        return jax.lax.dot_general(hidden, kernel, axes, preferred_element_type=self.dtype)

    def finish(self, products: Float[Array, "*batch classes"]) -> Float[Array, "*batch classes"]:
        """The logits from :meth:`products`."""
        if self.bias is not None:
            axes = tuple(range(products.ndim - 1))
            products = products + jnp.expand_dims(self.bias.astype(products.dtype), axes)
        if self.scale != 1:
            products = products * self.scale
        if self.softcap is not None:
            ruled_out = jnp.isneginf(products)
            capped = self.softcap * jnp.tanh(jnp.where(ruled_out, 0, products) / self.softcap)
            products = jnp.where(ruled_out, -jnp.inf, capped)
        return products
