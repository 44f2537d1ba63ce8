"""Estimates on real devices; ``tests/cli/test_plan.py`` has fake ones."""

import jax
import optax
import pytest

import jaxbrewer as jb
from tests.toys import logits_adaptor, mlp, mlp_params, quiet, vector_data


@pytest.mark.slow
def test_an_estimate_counts_bytes_and_products():
    teacher, student = mlp_params(64, seed=1), mlp_params(32)
    distiller = jb.BasicDistiller(
        quiet(gradient_accumulation_steps=2), jb.DistillationConfig(),
        (mlp, teacher), (mlp, student), logits_adaptor, logits_adaptor,
    )  # fmt: skip
    loader = jb.ArrayLoader(vector_data(16), 8)
    estimate = distiller.estimate(optax.adam(1e-3), loader, num_epochs=1)
    bytes_T, bytes_S = (
        sum(leaf.nbytes for leaf in jax.tree.leaves(tree)) for tree in (teacher, student)
    )
    assert (estimate.teacher, estimate.student) == (bytes_T, bytes_S)
    assert 2 * bytes_S < estimate.optimizer < 2 * bytes_S + 64  # counters and the key
    assert estimate.batch == 16 * (4 + 1) * 4
    assert (estimate.devices, estimate.collectives) == (1, {})
    # A product of a weight and a row is 2 operations: once in the teacher, and in the student once
    # forwards and, but for the first layer's inputs, twice backwards.
    kernels_T, kernels_S = 64 * (4 + 5), 32 * (4 + 5)
    work = 2 * 16 * (kernels_T + 3 * kernels_S - 32 * 4)
    assert work < estimate.flops < 2 * work
