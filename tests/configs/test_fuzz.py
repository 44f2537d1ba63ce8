"""Hostile values in every field of every config: a config, or one line that names it.

Seeded and short; ``JAXBREWER_FUZZ=50`` tries a thousand values in each field.
"""

import dataclasses
import datetime
import decimal
import fractions
import json
import os
import random
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest

import jaxbrewer as jb
from jaxbrewer.configs import OptimizationConfig

PER_FIELD = 20 * int(os.environ.get("JAXBREWER_FUZZ", "1"))
VALID = {
    jb.TrainingConfig: {},
    jb.DistillationConfig: {},
    OptimizationConfig: {},
    jb.IntermediateMatch: {
        "layer_T": 0, "layer_S": 0, "weight": 1, "loss": "hidden_mse", "feature": "hidden"
    },
    jb.EMDMatch: {},
    jb.LayerMap: {"map": "uniform"},
    jb.CustomMatch: {"module_S": "a", "module_T": "b"},
}  # fmt: skip
FIELDS = [(cls, field.name) for cls in VALID for field in dataclasses.fields(cls)]


class Hostile:
    """Compares, prints and converts with errors."""

    def __eq__(self, other):
        raise RuntimeError("no comparison")

    __hash__ = None

    def __repr__(self):
        raise RuntimeError("no text")

    def __bool__(self):
        raise RuntimeError("no truth")


def cyclic():
    inner = []
    inner.append(inner)
    return inner


def deep(levels):
    value = 1
    for _ in range(levels):
        value = [value]
    return value


def shared(levels):
    """A list whose copy has two to the power of ``levels`` items."""
    value = []
    for _ in range(levels):
        value = [value, value]
    return value


SCALARS = [
    None, True, False, 0, 1, -1, 2, 3.5, -0.0, 10**30, -(10**30), 2**31, 2**32, 2**63, 10**400,
    float("nan"), float("inf"), -float("inf"), 1e-320, 1j, "", "a", "none", "1", "true", "cpu",
    "hidden", "ce", "fsp", "emd", "linear", "a\0b", "a\nb", "\x1b[31m", "\ud800", "x" * 500, "*",
    "a.*", "[", b"bytes", np.float32(2), np.int64(3), np.bool_(True), np.float64("nan"),
    np.str_("ce"), decimal.Decimal("NaN"), decimal.Decimal(1), fractions.Fraction(1, 3),
    datetime.date(2020, 1, 1), Path("a"), object, len, max, print, dataclasses, jb.TrainingConfig(),
]  # fmt: skip
BUILDERS = [
    Hostile, cyclic, lambda: shared(40), lambda: deep(5), lambda: deep(3000),
    dict, list, tuple, set,
    lambda: np.zeros(3), lambda: np.zeros(0), lambda: np.array(True),
    lambda: np.array([True, False]), lambda: np.array(1), lambda: jnp.ones(()),
    lambda: jnp.array([1, 0]), lambda: iter([1]),
    lambda: (x for x in [1]), lambda: lambda: 1, lambda: lambda step: step,
    lambda: lambda *args, **more: 1, lambda: range(3), lambda: {1, 2}, lambda: {None: 1},
    lambda: bytearray(2), lambda: memoryview(b"ab"), object, lambda: [Hostile()],
    lambda: {"schedule": Hostile()}, lambda: {"loss": [1]},
    lambda: {"loss": "jsd", "beta": Hostile()},
]  # fmt: skip
KEYS = [
    "schedule", "loss", "map", "kind", "layer_T", "layer_S", "feature", "weight", "proj",
    "module_S", "module_T", "data", "fsdp", "lr", "beta", "init_value", "a", 1, None, (1,),
]  # fmt: skip
NAMES = ["linear_schedule", "cosine_decay_schedule", "linear_decay", "jsd", "kl", "flsw", "cwsm"]


def draw(rng, depth=2):
    """Any value: a scalar, something hostile, or a container of such."""
    kind = rng.random()
    if depth and kind < 0.2:
        return [draw(rng, depth - 1) for _ in range(rng.randrange(5))]
    if depth and kind < 0.4:
        return {rng.choice(KEYS): draw(rng, depth - 1) for _ in range(rng.randrange(4))}
    if kind < 0.5:
        return rng.choice(NAMES)
    if kind < 0.6:
        return rng.choice(BUILDERS)()
    return rng.choice(SCALARS)


@pytest.mark.parametrize(("cls", "name"), FIELDS, ids=lambda x: getattr(x, "__name__", x))
def test_any_value_of_a_field_is_taken_or_refused_in_one_line(cls, name, tmp_path):
    rng = random.Random(f"{cls.__name__}.{name}")
    fixed = [*SCALARS, *(build() for build in BUILDERS)]
    for index in range(len(fixed) + PER_FIELD):
        value = fixed[index] if index < len(fixed) else draw(rng)
        fields = {**VALID[cls], name: value}
        try:
            config = cls(**fields)
            cls.from_dict(fields)
            text = config.to_json()
            if isinstance(config, jb.DistillationConfig) and name != "intermediate_matches":
                jb.make_objective(config, total_steps=4)
        except jb.UsageError as error:
            message = str(error)
            assert message.isprintable(), message
            assert len(message) < 2000
        else:
            assert cls.from_dict(json.loads(text)).to_json() == text


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ('{"seed": 1, "seed": 2}', "the key 'seed' occurs twice"),
        ('{"mesh": {"data": 1, "data": 2}}', "the key 'data' occurs twice"),
        ("[" * 100_000, "nested deeper"),
        ('{"seed": ' + "9" * 5000 + "}", "not valid JSON"),
        ("[]", "must be a mapping"),
        ("{", "not valid JSON"),
        ("", "not valid JSON"),
        ('{"seed": NaN}', "seed must be an int"),
        ("\0", "not valid JSON"),
    ],
)
def test_damaged_json_files_are_refused_in_one_line(text, says, tmp_path):
    path = tmp_path / "config.json"
    path.write_text(text)
    with pytest.raises(jb.UsageError, match=says) as caught:
        jb.TrainingConfig.from_json_file(path)
    assert str(caught.value).isprintable()


@pytest.mark.parametrize("path", ["missing.json", "a\0b", "x" * 5000, "."])
def test_paths_that_hold_no_json_are_refused_in_one_line(path, tmp_path):
    with pytest.raises(jb.UsageError) as caught:
        jb.TrainingConfig.from_json_file(tmp_path / path)
    assert "\n" not in str(caught.value)
