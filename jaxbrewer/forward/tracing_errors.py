"""JAX's errors about traced values, in one line that names whose code it is."""

import contextlib
import traceback
from collections.abc import Iterator

import jax

from ..errors import UsageError

_LIBRARIES = ("jax", "flax", "optax", "jaxbrewer", "contextlib")
_NEEDS_A_VALUE = (jax.errors.ConcretizationTypeError, jax.errors.TracerArrayConversionError)


@contextlib.contextmanager
def tracing_errors_name(who: str) -> Iterator[None]:
    """Turns errors about traced values into a :class:`UsageError` that names ``who``.

    Args:
        who: Whose code runs, at the beginning of a sentence.

    Raises:
        UsageError: The code needs the value of an array that is only traced.

    Examples:
        >>> @jax.jit
        ... def f(x):
        ...     with tracing_errors_name("The adaptor"):
        ...         return x if x > 0 else -x
        >>> f(1.0)
        Traceback (most recent call last):
        ...
        jaxbrewer.errors.UsageError: The adaptor needs the value of an array, but runs traced...
    """
    try:
        yield
    except jax.errors.NonConcreteBooleanIndexError as error:
        raise UsageError(
            f"{who} indexes with a boolean array, whose shape would depend on values, but runs "
            f"traced{_place(error)}: return the mask as 'logits_mask', or use jnp.where."
        ) from None
    except _NEEDS_A_VALUE as error:
        raise UsageError(
            f"{who} needs the value of an array, but runs traced, without "
            f"values{_place(error)}: use jnp.where or jax.lax.cond for a Python if, jnp for NumPy, "
            "and neither float() nor .item()."
        ) from None


def _place(error: Exception) -> str:
    """The innermost line outside of the libraries, in words."""
    found = ""
    for frame, line in traceback.walk_tb(error.__traceback__):
        if frame.f_globals.get("__name__", "").partition(".")[0] not in _LIBRARIES:
            found = f" ({frame.f_code.co_name}, {frame.f_code.co_filename}:{line})"
    return found
