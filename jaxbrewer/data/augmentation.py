"""Random changes of token sequences, to make further texts for a student to learn from.

TextBrewer's ``data_utils``, with the random numbers from a generator that the caller passes:
results repeat with its seed, and no other code's draws change them. ``tokens`` are a list, a tuple
or a NumPy array with one axis, of words or of ids; the result is of the same kind, and always new.
"""

from collections.abc import Sequence
from typing import Any, TypeVar

import numpy as np

from ..errors import UsageError

Tokens = TypeVar("Tokens", list[Any], tuple[Any, ...], np.ndarray)


def masking(
    tokens: Tokens, p: float = 0.1, mask: Any = "[MASK]", *, rng: np.random.Generator
) -> Tokens:
    """Every token replaced by ``mask`` with probability ``p``.

    Args:
        tokens: The sequence.
        p: Probability for each token by itself.
        mask: What stands in the place of a token; an id if tokens are ids.
        rng: Where the random numbers come from.

    Raises:
        UsageError: An argument cannot be used, or an array of ids gets a mask that is none.

    Examples:
        >>> masking(["a", "b", "c", "d"], p=0.5, rng=np.random.default_rng(0))
        ['a', '[MASK]', '[MASK]', '[MASK]']
        >>> masking(np.array([5, 6, 7]), p=1, mask=103, rng=np.random.default_rng(0))
        array([103, 103, 103])
    """
    _check("masking", tokens, rng)
    _check_probability("masking", p)
    masked = rng.random(len(tokens)) < p
    if isinstance(tokens, np.ndarray):
        return np.where(masked, _as_token(mask, tokens.dtype), tokens)
    return _alike(
        tokens, [mask if hit else token for token, hit in zip(tokens, masked, strict=True)]
    )


def deleting(tokens: Tokens, p: float = 0.1, *, rng: np.random.Generator) -> Tokens:
    """What is left when every token is deleted with probability ``p``.

    Args:
        tokens: The sequence.
        p: Probability for each token by itself.
        rng: Where the random numbers come from.

    Raises:
        UsageError: An argument cannot be used.

    Examples:
        >>> deleting(["a", "b", "c", "d"], p=0.5, rng=np.random.default_rng(0))
        ['a']
    """
    _check("deleting", tokens, rng)
    _check_probability("deleting", p)
    return _take(tokens, np.flatnonzero(rng.random(len(tokens)) >= p))


def n_gram_sampling(
    tokens: Tokens,
    p_ng: Sequence[float] = (0.2, 0.2, 0.2, 0.2, 0.2),
    l_ng: Sequence[int] = (1, 2, 3, 4, 5),
    *,
    rng: np.random.Generator,
) -> Tokens:
    """A random span of ``tokens``, of a random length.

    Args:
        tokens: The sequence. If it is shorter than the length drawn, the span is all of it.
        p_ng: Probability of each length; they add up to 1.
        l_ng: The lengths.
        rng: Where the random numbers come from.

    Raises:
        UsageError: An argument cannot be used.

    Examples:
        >>> n_gram_sampling(list("abcdef"), rng=np.random.default_rng(0))
        ['b', 'c', 'd', 'e']
    """
    _check("n_gram_sampling", tokens, rng)
    probabilities = _distribution("n_gram_sampling", "p_ng", p_ng, len(l_ng))
    if any(int(length) != length or length < 1 for length in l_ng):
        raise UsageError(f"n_gram_sampling: l_ng must hold ints >= 1, got {l_ng!r}.")
    length = min(int(rng.choice(l_ng, p=probabilities)), len(tokens))
    start = int(rng.integers(len(tokens) - length + 1))
    return _take(tokens, np.arange(start, start + length))


_DISORDERS = ((0, 1, 2), (1, 0, 2), (2, 1, 0), (2, 0, 1), (1, 2, 0))


def short_disorder(
    tokens: Tokens, p: Sequence[float] = (0.9, 0.1, 0, 0, 0), *, rng: np.random.Generator
) -> Tokens:
    """Neighbours in another order, here and there.

    From left to right, at every token that has not been moved, one of five things happens to
    it and the two behind it: ``abc -> abc``, ``bac``, ``cba``, ``cab`` or ``bca``. Of the last two
    tokens, the four disorders all make ``ba``.

    Args:
        tokens: The sequence.
        p: Probabilities of the five, which add up to 1.
        rng: Where the random numbers come from.

    Raises:
        UsageError: An argument cannot be used.

    Examples:
        >>> short_disorder(list(range(8)), [0, 0, 1, 0, 0], rng=np.random.default_rng(0))
        [2, 1, 0, 5, 4, 3, 7, 6]
    """
    _check("short_disorder", tokens, rng)
    probabilities = _distribution("short_disorder", "p", p, len(_DISORDERS))
    order, i = np.arange(len(tokens)), 0
    drawn = rng.choice(len(_DISORDERS), size=max(len(tokens) - 1, 0), p=probabilities)
    while i < len(tokens) - 1:
        disorder, moved = int(drawn[i]), 3
        if disorder and i == len(tokens) - 2:
            disorder = 1
        if disorder < 2:  # nothing, or the first two
            moved = disorder + 1
        order[i : i + moved] = i + np.array(_DISORDERS[disorder][:moved])
        i += moved
    return _take(tokens, order)


def long_disorder(
    tokens: Tokens, p: float = 0.1, length: float = 20, *, rng: np.random.Generator
) -> Tokens:
    """Spans whose two halves are swapped, here and there.

    Args:
        tokens: The sequence.
        p: Probability that a span is swapped that begins at a token; the next one may begin behind
            it.
        length: Tokens in a span, or, up to 1, its share of all tokens. Fractions of a token are cut
            off, odd lengths are one longer. A share of no whole token swaps nothing.
        rng: Where the random numbers come from.

    Raises:
        UsageError: An argument cannot be used.

    Examples:
        >>> long_disorder(list(range(11)), p=1, length=0.4, rng=np.random.default_rng(0))
        [2, 3, 0, 1, 6, 7, 4, 5, 8, 9, 10]
    """
    _check("long_disorder", tokens, rng)
    _check_probability("long_disorder", p)
    if isinstance(length, bool) or not length > 0:
        raise UsageError(f"long_disorder: length must be a number > 0, got {length!r}.")
    half = (int(length if length > 1 else len(tokens) * length) + 1) // 2
    order, i = np.arange(len(tokens)), 0
    swaps = rng.random(len(tokens)) < p
    while half and i <= len(tokens) - 2 * half:
        if swaps[i]:
            order[i : i + 2 * half] = np.roll(order[i : i + 2 * half], half)
            i += 2 * half
        else:
            i += 1
    return _take(tokens, order)


def _take(tokens: Tokens, indices: np.ndarray) -> Tokens:
    if isinstance(tokens, np.ndarray):
        return tokens[indices]
    return _alike(tokens, [tokens[index] for index in indices])


def _alike(tokens: Any, items: list[Any]) -> Any:
    return tuple(items) if isinstance(tokens, tuple) else items


def _as_token(mask: Any, dtype: np.dtype[Any]) -> np.ndarray:
    """``mask`` as an array that goes with tokens of this type."""
    is_text = isinstance(mask, (str, bytes))
    if dtype.kind == "O" or (is_text and dtype.kind in "US"):
        return np.asarray(mask)
    if is_text or dtype.kind in "US" or np.asarray(mask).astype(dtype) != mask:
        raise UsageError(f"masking: the mask {mask!r} does not fit tokens of type {dtype}.")
    return np.asarray(mask, dtype)


def _check(function: str, tokens: Any, rng: Any) -> None:
    if not (
        isinstance(tokens, (list, tuple)) or (isinstance(tokens, np.ndarray) and tokens.ndim == 1)
    ):
        raise UsageError(
            f"{function}: tokens must be a list, a tuple or a NumPy array with one axis, got "
            f"{type(tokens).__name__}."
        )
    if not isinstance(rng, np.random.Generator):
        raise UsageError(
            f"{function}: rng must be a numpy.random.Generator, got {type(rng).__name__}: make one "
            "with numpy.random.default_rng(seed) and pass it to every call."
        )


def _check_probability(function: str, p: Any) -> None:
    if isinstance(p, bool) or not isinstance(p, (int, float, np.number)) or not 0 <= p <= 1:
        raise UsageError(f"{function}: p must be a probability, got {p!r}.")


def _distribution(function: str, argument: str, p: Sequence[float], size: int) -> np.ndarray:
    probabilities = np.asarray(p, float)
    if len(p) != size or np.any(probabilities < 0) or abs(probabilities.sum() - 1) > 1e-6:
        raise UsageError(
            f"{function}: {argument} must be {size} probabilities that add up to 1, got {p!r}."
        )
    return probabilities / probabilities.sum()
