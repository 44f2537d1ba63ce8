"""Errors of models and adaptors name the model and what it was given."""

import contextlib
from collections.abc import Iterator, Mapping
from typing import Any

import jax

from ..errors import UsageError


@contextlib.contextmanager
def model_errors_name(who: str, batch: Any) -> Iterator[None]:
    """Puts the model's role before the message of a :class:`UsageError`; others get a note.

    Args:
        who: ``"student"`` or ``"teacher"``.
        batch: The model's part of a batch.
    """
    try:
        yield
    except UsageError as error:
        raise UsageError(f"{who.capitalize()}: {error}") from error.__cause__
    except Exception as error:
        error.add_note(f"The {who} was called on a batch of {shapes(batch)}.")
        raise


@contextlib.contextmanager
def adaptor_errors_name(who: str, batch: Any, outputs: Any) -> Iterator[None]:
    """Turns a missing key into a :class:`UsageError`; other errors get a note.

    Args:
        who: ``"student"`` or ``"teacher"``.
        batch: The model's part of a batch.
        outputs: What the model returned.
    """
    try:
        yield
    except KeyError as error:
        raise UsageError(
            f"The {who}'s adaptor finds no {error}: the batch has {_names(batch)}, the outputs "
            f"{_names(outputs)}."
        ) from error
    except UsageError:
        raise
    except Exception as error:
        error.add_note(
            f"The {who}'s adaptor was called with a batch of {shapes(batch)} and outputs of "
            f"{shapes(outputs)}."
        )
        raise


def shapes(tree: Any) -> str:
    """The arrays of a pytree in one line, as JAX writes them.

    Examples:
        >>> import jax.numpy as jnp
        >>> shapes({"x": jnp.zeros((4, 8)), "labels": jnp.zeros(4, "int32")})
        'labels int32[4], x float32[4,8]'
    """
    found = []
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        name = jax.tree_util.keystr(path, simple=True, separator=".")
        kind = type(leaf).__name__
        if hasattr(leaf, "shape") and hasattr(leaf, "dtype"):
            kind = f"{leaf.dtype}[{','.join(map(str, leaf.shape))}]"
        found.append(f"{name} {kind}".strip())
    return ", ".join(found) or "no arrays"


def _names(tree: Any) -> str:
    if isinstance(tree, Mapping):
        return ", ".join(repr(name) for name in tree) or "no entries"
    is_array = hasattr(tree, "shape")
    return "no names, as one array" if is_array else f"no names, as {type(tree).__name__}"
