"""TextBrewer's reference values: what a case holds, and how a result is compared with it."""

import dataclasses
import functools
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from tests.tiers import exhaustive_but

FOLDER = Path(__file__).parent
PRECISIONS = ("float32", "float64")
PRECISIONS_OF_RUNS = exhaustive_but(["float32"], PRECISIONS)
"""Of whole objectives and trainings, which take longest: users compute them in float32."""


@dataclasses.dataclass(frozen=True)
class Claim:
    """What a test claims about one case: ``"equal"``, ``"differs"`` or ``"pending"``, and why."""

    kind: str
    why: str = ""


EQUAL = Claim("equal")


def differs(why: str) -> Claim:
    """Claims that our value differs on purpose; the test checks our value."""
    return Claim("differs", why)


def pending(why: str) -> Claim:
    """Claims that the case cannot be compared yet."""
    return Claim("pending", why)


def claims(
    names: Sequence[str], differing: Mapping[str, str], missing: Mapping[str, str] | None = None
) -> dict[str, Claim]:
    """Claims all ``names`` as equal, except those that differ or cannot be compared yet."""
    missing = missing or {}
    assert {*differing, *missing} <= {*names}
    return {
        name: differs(differing[name])
        if name in differing
        else pending(missing[name])
        if name in missing
        else EQUAL
        for name in names
    }


@dataclasses.dataclass(frozen=True)
class Output:
    """A reference value; ``exact`` ones exist once, the others in both precisions."""

    float32: np.ndarray
    float64: np.ndarray
    spec: dict[str, Any]

    def check(self, actual: Any, name: str = "") -> None:
        """Asserts that ``actual`` is within the tolerance of its own dtype."""
        actual = np.asarray(actual)
        assert actual.shape == self.float64.shape, name
        if self.spec.get("exact"):
            np.testing.assert_array_equal(actual, self.float64, err_msg=name)
            return
        bits = "f64" if actual.dtype == np.float64 else "f32"
        np.testing.assert_allclose(
            actual,
            self.float64 if bits == "f64" else self.float32,
            rtol=self.spec[f"rtol_{bits}"],
            atol=self.spec[f"atol_{bits}"],
            err_msg=name,
        )


@dataclasses.dataclass(frozen=True)
class Case:
    """One call: arguments that are no arrays, arrays, and the values that came out."""

    name: str
    function: str
    args: dict[str, Any]
    inputs: dict[str, np.ndarray]
    outputs: dict[str, Output]
    spec: dict[str, Any]

    def __str__(self) -> str:
        return self.name.split("/", 1)[1]


@functools.cache
def document(family: str) -> Any:
    """The JSON document of a family without arrays (checkpoints, display, config, data_utils)."""
    return json.loads((FOLDER / f"{family}.json").read_text(encoding="utf-8"))


@functools.cache
def cases(family: str) -> tuple[Case, ...]:
    """All cases of a family, in the order of its manifest."""
    manifest = json.loads((FOLDER / f"{family}.manifest.json").read_text(encoding="utf-8"))
    arrays = FOLDER / f"{family}.npz"
    values = dict(np.load(arrays)) if arrays.exists() else {}
    return tuple(_case(case, values) for case in manifest["cases"])


def _case(spec: dict[str, Any], values: dict[str, np.ndarray]) -> Case:
    outputs = {}
    for name, output in spec.get("outputs", {}).items():
        keys = (output.get("f32", output.get("array")), output.get("f64", output.get("array")))
        outputs[name] = Output(values[keys[0]], values[keys[1]], output)
    inputs = {name: values[x["array"]] for name, x in spec.get("inputs", {}).items()}
    return Case(spec["name"], spec["function"], spec.get("args", {}), inputs, outputs, spec)


def evaluate(
    group: Sequence[Case], compute: Callable[[Case, dict[str, jax.Array]], Any], precision: str
) -> dict[str, Any]:
    """``compute(case, inputs)`` of every case in one compiled program, by the case's name.

    One program keeps the tests fast, since they spend nearly all their time compiling.
    """
    with jax.enable_x64(precision == "float64"):
        inputs = [{name: _cast(x, precision) for name, x in case.inputs.items()} for case in group]

        @jax.jit
        def program(inputs: Any) -> Any:
            return [compute(case, x) for case, x in zip(group, inputs, strict=True)]

        results = jax.device_get(program(inputs))
    return {case.name: result for case, result in zip(group, results, strict=True)}


def _cast(x: np.ndarray, precision: str) -> jax.Array:
    return jnp.asarray(x, precision if np.issubdtype(x.dtype, np.floating) else None)
