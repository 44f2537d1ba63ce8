"""A step against the machine: FLOPs over time as shares of a float32 product in the same turns."""

from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxbrewer.forward.bfloat16_products import fast_on_cpu

from ..common import (
    TOY,
    Chain,
    Row,
    Sizes,
    adaptor,
    alternate,
    batch_of,
    bert_pair,
    encoder_flops,
    forward_program,
    make_step,
    ratio,
    repeated,
    training,
)

SIZES = Sizes(teacher_layers=6, student_layers=3, width=384, batches=((16, 64), (16, 128)),
              product=2048, rounds=9, steps=2)  # fmt: skip
HALVES = {
    "step with the teacher in bfloat16": {"teacher_products": "bfloat16"},
    "step in bfloat16 (O1)": {"half": "bfloat16", "level": "O1"},
    "step in bfloat16 (O2)": {"half": "bfloat16", "level": "O2"},
}
"""Arguments of ``training``."""


def run(is_toy: bool, pythons: dict[str, str]) -> Iterator[Row]:
    """Forward of the teacher, forward and backward of the student, and the whole step."""
    sizes = TOY if is_toy else SIZES
    pair = teacher, student = bert_pair(sizes)
    multiply, of_product = _product(sizes.product, jnp.float32)
    in_bfloat16, _ = _product(sizes.product, jnp.bfloat16)
    for batch, length in sizes.batches:
        data = jax.device_put(batch_of(sizes, batch, length))
        step, state = make_step(pair, training())
        forward_T, forward_S = (forward_program(model, data) for model in pair)
        gradient = _gradient(student, data)
        halves = {
            name: Chain(*make_step(pair, training(**fields)), teacher.variables, data)
            for name, fields in HALVES.items()
        }
        clocks = alternate(
            {
                "product": multiply,
                "product in bfloat16": in_bfloat16,
                **halves,
                "step": Chain(step, state, teacher.variables, data),
                "teacher": repeated(forward_T, teacher.variables),
                "student": repeated(forward_S, student.variables),
                "gradient": repeated(gradient, student.params, student.state),
            },
            sizes,
        )
        of_teacher, of_student = (
            encoder_flops(layers, sizes, batch, length)
            for layers in (sizes.teacher_layers, sizes.student_layers)
        )
        seconds = {name: np.array(clock.seconds) for name, clock in clocks.items()}
        peaks = of_product / seconds["product"]
        yield Row("machine", f"{batch} x {length}, float32 product of {sizes.product}",
                  float(np.median(peaks)) / 1e9, "GFLOP/s", "of the same turns")  # fmt: skip
        parts = {
            "teacher, forward": (of_teacher, seconds["teacher"], ""),
            "student, forward": (of_student, seconds["student"], ""),
            "student, backward": (
                2 * of_student, seconds["gradient"] - seconds["student"], "aim 70 %"
            ),
            "whole step": (of_teacher + 3 * of_student, seconds["step"], "aim 75 %"),
        }  # fmt: skip
        for name, (flops, spent, aim) in parts.items():
            low, share, high = np.quantile(100 * flops / spent / peaks, [0.25, 0.5, 0.75])
            note = f"quartiles {low:.1f} to {high:.1f}; {1e3 * np.median(spent):.4g} ms; {aim}"
            yield Row("machine", f"{batch} x {length}, {name}", float(share), "% of the product",
                      note.removesuffix("; "))  # fmt: skip
        for above, below in (("product", "product in bfloat16"), *(("step", n) for n in halves)):
            yield ratio(
                "machine", f"{batch} x {length}, {above} / {below}", clocks[above], clocks[below]
            )


def _product(n: int, dtype: Any) -> tuple[Any, float]:
    """A square product of random numbers, and its FLOPs."""
    keys = jax.random.split(jax.random.key(0))
    a, b = (jax.random.normal(key, (n, n), dtype) for key in keys)
    return repeated(jax.jit(fast_on_cpu(jnp.matmul)), a, b), 2.0 * n**3


def _gradient(model: Any, data: Any) -> Any:
    @jax.jit
    @jax.value_and_grad
    def gradient(params: Any, state: Any) -> Any:
        outputs, _ = model.apply(params, state, data, train=True, rng=jax.random.key(0))
        return adaptor(data, outputs)["losses"].mean()

    return gradient
