"""Masking, deleting, sampling and disordering of tokens, against TextBrewer."""

import collections
import copy

import numpy as np
import pytest

from jaxbrewer.data import augmentation

from . import claims, document

TABLE = document("data_utils")
DRAWS = 4000

NAMES = [f"data_utils/{key}[{index}]" for key in TABLE for index in range(len(TABLE[key]))]
CLAIMS = claims(
    NAMES,
    {
        name: "random numbers come from the caller's generator; TextBrewer can produce the same "
        "output"
        for name in NAMES
        if "seeded" in name
    },
)


def rows_of(key: str):
    names = [f"{row['function']}[{index}]" for index, row in enumerate(TABLE[key])]
    return pytest.mark.parametrize("row", TABLE[key], ids=names)


def augment(row, rng, kind=list):
    args = copy.deepcopy(row["args"])
    tokens = kind(args.pop("tokens"))
    before = copy.deepcopy(tokens)
    output = getattr(augmentation, row["function"])(tokens, **args, rng=rng)
    assert type(output) is type(tokens)
    assert output is not tokens or isinstance(tokens, tuple)
    assert np.array_equal(tokens, before)
    return list(output)


def as_array(tokens: list) -> np.ndarray:
    return np.array(tokens, None if tokens else str)


@pytest.mark.parametrize("kind", [list, tuple, as_array])
@rows_of("deterministic")
def test_deterministic_augmentations_are_textbrewers(row, kind):
    assert augment(row, np.random.default_rng(0), kind) == row["output"]


@rows_of("distribution")
def test_every_outcome_has_its_probability(row):
    """Frequencies match the probabilities within five standard deviations."""
    rng = np.random.default_rng(0)
    seen = collections.Counter(tuple(augment(row, rng)) for _ in range(DRAWS))
    expected = {tuple(outcome): p for outcome, p in row["outcomes"]}
    assert abs(sum(expected.values()) - 1) < 1e-6
    assert seen.keys() <= expected.keys()
    for outcome, p in expected.items():
        assert abs(seen[outcome] - DRAWS * p) <= 5 * np.sqrt(DRAWS * p * (1 - p)) + 1, outcome


def is_possible(function: str, tokens: list, output: list, row) -> bool:
    """Whether TextBrewer can return this output, judged by what each function leaves unchanged."""
    if function == "masking":
        pairs = zip(tokens, output, strict=True)
        return all(new in (old, "[MASK]") for old, new in pairs)
    if function == "deleting":
        rest = iter(tokens)
        return all(token in rest for token in output)
    if function == "n_gram_sampling":
        spans = [tokens[i : i + len(output)] for i in range(len(tokens))]
        return 1 <= len(output) <= 5 and output in spans
    reach = 2 if function == "short_disorder" else row["args"]["length"] // 2
    moved = max(abs(place - token) for place, token in enumerate(output))
    return sorted(output) == tokens and moved <= reach


@rows_of("seeded")
def test_seeds_decide_the_outcome(row):
    function, tokens = row["function"], row["args"]["tokens"]
    assert is_possible(function, tokens, row["output"], row)  # TextBrewer's own
    outputs = [augment(row, np.random.default_rng(seed)) for seed in (0, 0, 1, 2)]
    assert outputs[0] == outputs[1]
    assert len({tuple(output) for output in outputs}) > 1
    for output in outputs:
        assert is_possible(function, tokens, output, row)
