"""Micro-batches: fractional masks, sums in float32, one program for all epochs."""

import functools

import jax
import numpy as np
import optax
import pytest

import jaxbrewer as jb
from jaxbrewer.forward.precision import policy_of
from jaxbrewer.objective.value_checks import is_check
from tests.step.test_train_step import CONFIG, DATA, STUDENT, TEACHER, exact_adaptor, rows, setup
from tests.toys import hidden_adaptor, logits_adaptor, mlp, mlp_params, quiet, vector_data


def fractional_adaptor(batch, outputs):
    """Token losses and hidden states weighed by fractions, whose sums differ between batches."""
    weights = batch["attention_mask"] * (0.25 + batch["input_ids"] % 3 / 2)
    return exact_adaptor({**batch, "attention_mask": weights}, outputs)


@pytest.mark.slow
def test_masks_of_fractions_make_any_split_the_step_of_the_whole_batch():
    whole, state = setup(adaptor=fractional_adaptor)
    expected, metrics = whole(state, TEACHER.variables, DATA)
    plain, _ = setup()
    assert (
        abs(plain(state, TEACHER.variables, DATA)[1]["total_loss"] - metrics["total_loss"]) > 1e-3
    )
    split, state = setup(3, adaptor=fractional_adaptor)
    actual, split_metrics = split(state, TEACHER.variables, rows(2, 5))
    close = functools.partial(np.testing.assert_allclose, rtol=2e-5, atol=1e-6)
    jax.tree.map(close, actual.trainable, expected.trainable)
    assert split_metrics.keys() == metrics.keys()
    for name in metrics:
        if not is_check(name):  # a check counts batches
            close(split_metrics[name], metrics[name])


def test_gradients_of_half_precision_weights_are_summed_in_float32():
    policy = policy_of(jb.TrainingConfig(fp16=True, fp16_opt_level="O3", half_dtype="bfloat16"))
    objective = jb.make_objective(CONFIG, total_steps=10)
    rule = jb.make_optimizer(optax.sgd(1.0), objective)
    state = jb.init_train_state(STUDENT, objective, rule, precision=policy)
    step = jb.make_train_step(
        STUDENT, TEACHER, objective, rule, adaptor_S=hidden_adaptor, adaptor_T=hidden_adaptor,
        gradient_accumulation_steps=3, precision=policy,
    )  # fmt: skip
    program = jax.make_jaxpr(step)(state, TEACHER.variables, rows(4, 8)).jaxpr
    *_, loop = [equation for equation in program.eqns if equation.primitive.name == "scan"]
    weights = jax.tree.leaves(state.trainable)
    sums = loop.outvars[: len(weights)]  # what is carried comes first
    assert {str(leaf.dtype) for leaf in weights} == {"bfloat16"}
    assert [(v.aval.shape, str(v.aval.dtype)) for v in sums] == [
        (leaf.shape, "float32") for leaf in weights
    ]


@pytest.mark.slow
def test_groups_of_all_epochs_share_one_program():
    traces = []

    def counting(batch, outputs):
        traces.append(1)
        return logits_adaptor(batch, outputs)

    def train(epochs):
        traces.clear()
        models = [(mlp, mlp_params(8, seed=1)), (mlp, mlp_params(4))]
        distiller = jb.BasicDistiller(
            quiet(gradient_accumulation_steps=2), jb.DistillationConfig(), *models,
            logits_adaptor, counting,
        )  # fmt: skip
        loader = jb.ArrayLoader(vector_data(24), 4)
        optimizer = optax.adam(optax.linear_schedule(1e-2, 0.0, 9))
        history = distiller.train(optimizer, loader, num_epochs=epochs).history
        assert len(history["step"]) == 3 * epochs
        return len(traces)

    assert train(3) == train(1)
