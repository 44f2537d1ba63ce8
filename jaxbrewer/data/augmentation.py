"""Random changes of token sequences, which make additional training texts for a student.

TextBrewer's ``data_utils``, with random numbers from a generator that the caller passes, so results
are reproducible. ``tokens`` are a list, a tuple or a NumPy array with one axis, of words or of ids;
the result is a new object of the same kind.
"""

from collections.abc import Sequence
from typing import Any, TypeVar

import numpy as np

from ..errors import UsageError

Tokens = TypeVar("Tokens", list[Any], tuple[Any, ...], np.ndarray)


def masking(
    tokens: Tokens, p: float = 0.1, mask: Any = "[MASK]", *, rng: np.random.Generator
) -> Tokens:
    """Replaces every token by ``mask`` with probability ``p``.

    Args:
        tokens: The sequence.
        p: Probability for each token, independently.
        mask: The replacement; an id if tokens are ids. An array of objects takes any mask.
        rng: The random number generator.

    Raises:
        UsageError: An argument is invalid, or ``mask`` has no place in an array of this dtype.

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
    """Deletes every token with probability ``p``.

    Args:
        tokens: The sequence.
        p: Probability for each token, independently.
        rng: The random number generator.

    Raises:
        UsageError: An argument is invalid.

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
    """Draws a random span of ``tokens`` of a random length.

    Args:
        tokens: The sequence. If it is shorter than the length drawn, the span is all of it.
        p_ng: Probability of each length; the sum must be 1.
        l_ng: The possible lengths.
        rng: The random number generator.

    Raises:
        UsageError: An argument is invalid.

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
    """Permutes neighbouring tokens at random places.

    From left to right, at every token that has not been moved, one of five permutations is applied
    to it and the next two: ``abc -> abc``, ``bac``, ``cba``, ``cab`` or ``bca``. For the last two
    tokens, the last four all give ``ba``.

    Args:
        tokens: The sequence.
        p: Probabilities of the five permutations; the sum must be 1.
        rng: The random number generator.

    Raises:
        UsageError: An argument is invalid.

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
        if disorder < 2:  # abc or bac
            moved = disorder + 1
        order[i : i + moved] = i + np.array(_DISORDERS[disorder][:moved])
        i += moved
    return _take(tokens, order)


def long_disorder(
    tokens: Tokens, p: float = 0.1, length: float = 20, *, rng: np.random.Generator
) -> Tokens:
    """Swaps the two halves of spans at random places.

    Args:
        tokens: The sequence.
        p: Probability that the span that starts at a token is swapped; the next span starts behind
            it.
        length: Number of tokens in a span or, up to 1, its share of all tokens. It is rounded down
            to a whole number, then up to an even one; 0 swaps nothing.
        rng: The random number generator.

    Raises:
        UsageError: An argument is invalid.

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
    """``mask`` as an array without axes, of a dtype that holds it and ``np.where`` combines."""
    if dtype.kind == "O":
        token = np.empty((), object)
        token[()] = mask
        return token
    text = {"U": str, "S": bytes}.get(dtype.kind)
    if text is not None:
        fits = isinstance(mask, text)
    else:
        fits = isinstance(mask, (int, float, np.number, np.bool_)) and _holds(dtype, mask)
    if not fits:
        raise UsageError(
            f"masking: the mask {mask!r} does not fit an array of {dtype}: give a mask of that "
            "type, or tokens as a list."
        )
    return np.asarray(mask, None if text else dtype)


def _holds(dtype: np.dtype[Any], number: Any) -> bool:
    """Whether an array of ``dtype`` stores ``number`` without changing it."""
    with np.errstate(invalid="ignore", over="ignore"):
        try:
            stored = np.asarray(number).astype(dtype)
        except OverflowError:
            return False
    return bool(stored == number or (stored != stored and number != number))


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
