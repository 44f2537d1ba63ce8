"""A step against the machine: FLOPs over time as a share of the peak of a float32 product."""

from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

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
    make_step,
    matmul_peak,
    training,
)

SIZES = Sizes(teacher_layers=6, student_layers=3, width=384, batches=((16, 64), (16, 128)),
              product=2048, rounds=9, steps=2)  # fmt: skip


def run(is_toy: bool, pythons: dict[str, str]) -> Iterator[Row]:
    """Forward of the teacher, forward and backward of the student, and the whole step."""
    sizes = TOY if is_toy else SIZES
    pair = teacher, student = bert_pair(sizes)
    peak = matmul_peak(sizes, jnp.float32)
    yield Row("machine", f"float32 product of {sizes.product}", peak / 1e9, "GFLOP/s", "measured")
    for batch, length in sizes.batches:
        data = jax.device_put(batch_of(sizes, batch, length))
        step, state = make_step(pair, training())
        forward_T, forward_S = (_forward(model, data) for model in pair)
        gradient = _gradient(student, data)
        clocks = alternate(
            {
                "step": Chain(step, state, teacher.variables, data),
                "teacher": _repeated(forward_T, teacher.variables),
                "student": _repeated(forward_S, student.variables),
                "gradient": _repeated(gradient, student.params, student.state),
            },
            sizes,
        )
        of_teacher, of_student = (
            encoder_flops(layers, sizes, batch, length)
            for layers in (sizes.teacher_layers, sizes.student_layers)
        )
        backward = np.median(np.subtract(clocks["gradient"].seconds, clocks["student"].seconds))
        parts = {
            "teacher, forward": (of_teacher, clocks["teacher"].median, ""),
            "student, forward": (of_student, clocks["student"].median, ""),
            "student, backward": (2 * of_student, float(backward), "aim 70 %"),
            "whole step": (of_teacher + 3 * of_student, clocks["step"].median, "aim 75 %"),
        }
        for name, (flops, seconds, aim) in parts.items():
            note = f"{1e3 * seconds:.4g} ms; {aim}".removesuffix("; ")
            yield Row("machine", f"{batch} x {length}, {name}", 100 * flops / seconds / peak,
                      "% of the product", note)  # fmt: skip


def _forward(model: Any, data: Any) -> Any:
    @jax.jit
    def forward(variables: Any) -> Any:
        outputs, _ = model.apply(variables["params"], variables["state"], data, train=False)
        return outputs["logits"]

    return forward


def _gradient(model: Any, data: Any) -> Any:
    @jax.jit
    @jax.value_and_grad
    def gradient(params: Any, state: Any) -> Any:
        outputs, _ = model.apply(params, state, data, train=True, rng=jax.random.key(0))
        return adaptor(data, outputs)["losses"].mean()

    return gradient


def _repeated(program: Any, *arguments: Any) -> Any:
    def run(steps: int) -> Any:
        for _ in range(steps):
            result = program(*arguments)
        return result

    return run
