"""Checks of values: reported at once outside of a trace, and by the training loop inside."""

import warnings

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxbrewer as jb
from jaxbrewer.forward.adaptors import Outputs
from jaxbrewer.objective.value_checks import is_check, report
from tests.toys import quiet

RNG = np.random.default_rng(0)
LOGITS_S, LOGITS_T = (np.float32(RNG.normal(size=(3, length, 4))) for length in (5, 6))
MASK_S = np.int32([[1, 1, 0, 0, 0], [1, 1, 1, 0, 0], [1, 0, 0, 0, 0]])
MASK_T = np.int32([[0, 1, 1, 0, 0, 0], [1, 1, 0, 0, 0, 1], [1, 1, 0, 0, 0, 0]])
CONFIG = jb.DistillationConfig(temperature=1)


def compared(mask_S, mask_T, logits_T=LOGITS_T, config=CONFIG):
    student = Outputs(logits=(jnp.asarray(LOGITS_S),), logits_mask=(jnp.asarray(mask_S),))
    teacher = Outputs(logits=(jnp.asarray(logits_T),), logits_mask=(jnp.asarray(mask_T),))
    return jb.make_objective(config)(student, teacher, {}, step=0)


def adaptor(batch, outputs):
    return {"logits": outputs, "logits_mask": batch["mask"]}


def trainer(**settings):
    teacher, student = (lambda params, x, w=w: x @ (w * params) for w in (1.0, 2.0))
    return jb.BasicDistiller(
        quiet(**settings), CONFIG, (teacher, jnp.eye(4)), (student, jnp.eye(4)), adaptor, adaptor
    )


def batch_of(mask_S, mask_T=MASK_T):
    return {
        "teacher": {"x": LOGITS_T, "mask": mask_T},
        "student": {"x": LOGITS_S, "mask": mask_S},
    }


@pytest.mark.slow
def test_unequal_counts_of_an_example_name_it():
    says = r"logits\[0\]: the student's and .* select 1 and 2 positions of example 2\."
    with pytest.raises(jb.UsageError, match=says):
        compared(MASK_S, MASK_T)
    compared(MASK_S[[0, 1, 0]], MASK_T)


@pytest.mark.slow
def test_a_training_stops_at_unequal_counts_and_names_step_and_example():
    equal = MASK_T[:, :5].copy()
    equal[1, 2] = 1
    batches = [batch_of(equal)] * 2 + [batch_of(MASK_S)] * 4
    with pytest.raises(jb.UsageError, match=r"Step 3: logits\[0\]: .* of example 2\."):
        trainer().train(optax.sgd(0.0), batches, num_epochs=1)
    history = trainer().train(optax.sgd(0.0), batches[:2], num_epochs=1).history
    assert not any(map(is_check, history))


def test_averaged_teachers_must_select_equally_many_positions():
    teachers = [
        Outputs(logits=(jnp.asarray(logits),), logits_mask=(jnp.asarray(mask),))
        for logits, mask in ((LOGITS_S, MASK_S), (LOGITS_T, MASK_T))
    ]
    with pytest.raises(jb.UsageError, match=r"logits\[0\] of teacher 1: .* of example 2"):
        jb.make_objective(CONFIG)(teachers[0], teachers, {}, step=0)


def test_fractional_masks_warn_once_in_a_training():
    soft = np.where(MASK_T == 1, np.float32(0.5), 0)
    for mask_S, mask_T in ((soft[:, :5], MASK_T[:, :5]), (MASK_T[:, :5], soft[:, :5])):
        with pytest.warns(UserWarning, match="other than 0 and 1.*'logits_weights'"):
            compared(mask_S, mask_T, LOGITS_T[:, :5])
    compared(np.float32(MASK_S), np.float32(MASK_S), LOGITS_S)
    same = {"x": LOGITS_S, "mask": soft[:, :5]}
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        trainer().train(optax.sgd(0.0), [same] * 4, num_epochs=1)
    assert sorted(str(warning.message).split()[1] for warning in caught) == [
        "student's",
        "teacher's",
    ]


@pytest.mark.slow
def test_of_several_batches_the_one_that_failed_is_named():
    equal = MASK_S[[0, 1, 0]]
    step = trainer(gradient_accumulation_steps=2)
    with pytest.raises(jb.UsageError, match=r"Step 1: .* select 1 and 2 positions of example 2\."):
        step.train(optax.sgd(0.0), [batch_of(equal), batch_of(MASK_S)], num_epochs=1)
    with pytest.raises(jb.UsageError, match="Step 1: .* of an example, in 2 batches"):
        step.train(optax.sgd(0.0), [batch_of(MASK_S)] * 2, num_epochs=1)


def test_evaluations_and_tasks_report_their_checks():
    objective = jb.make_objective(CONFIG)
    student, teacher = (
        Outputs(logits=jnp.asarray(logits), logits_mask=jnp.asarray(mask))
        for logits, mask in ((LOGITS_S, MASK_S), (LOGITS_T, MASK_T))
    )
    terms = jax.jit(lambda: objective.terms(student, teacher, {}, 0))()
    good = jax.jit(lambda: objective.terms(student, student, {}, 0))()
    with pytest.raises(jb.UsageError, match="1 and 2 positions of example 2"):
        objective.combine(jb.add_terms(good, terms, good), 0)
    metrics = jax.jit(lambda: objective.combine(terms, 0)[1])()
    named = {f"sst/{name}": value for name, value in metrics.items()}
    with pytest.raises(jb.UsageError, match=r"logits\[0\] of the task 'sst': "):
        report(named)


@pytest.mark.slow
def test_the_intersection_is_the_loss_over_positions_that_both_masks_select():
    mask_S, mask_T = RNG.integers(0, 2, (2, 3, 5))
    loss, metrics = jax.jit(lambda: compared(mask_S, mask_T, LOGITS_T[:, :5]))()
    both = (mask_S & mask_T) != 0
    log_q, p = jax.nn.log_softmax(LOGITS_S)[both], jax.nn.softmax(LOGITS_T[:, :5])[both]
    np.testing.assert_allclose(loss, -(p * log_q).sum(-1).mean(), rtol=1e-5)
    assert not any(map(is_check, metrics))
    ranked = jb.DistillationConfig(temperature=1, mask_pairing="rank")
    rows = np.sort(mask_S, axis=1)
    assert (
        compared(rows, mask_S, LOGITS_T[:, :5], ranked)[0]
        != compared(rows, mask_S, LOGITS_T[:, :5])[0]
    )


def test_a_pairing_is_one_of_two():
    with pytest.raises(jb.UsageError, match="mask_pairing 'ranks' is unknown: did you mean 'rank'"):
        jb.DistillationConfig(mask_pairing="ranks")


SCORES = np.float32(RNG.normal(size=(2, 2, 3, 5, 5)))
ATTENTION_LOSSES = [name for name in jb.MATCH_LOSS_MAP if jb.MATCH_LOSS_MAP.row(name).scores]


def attention_loss(loss, attention_S, attention_T, mask=None, kind="layers"):
    if kind == "modules":
        match = {"custom_matches": [{"module_S": "m", "module_T": "m", "loss": loss}]}
        entries = [{"modules": {"m": jnp.asarray(x)}} for x in (attention_S, attention_T)]
    else:
        match = {"layer_T": [0], "layer_S": [0], "feature": "attention", "loss": loss}
        match |= {"kind": "emd"} if kind == "emd" else {"layer_T": 0, "layer_S": 0, "weight": 1}
        match = {"intermediate_matches": [match]}
        entries = [
            {"features": {"attention": (jnp.asarray(x),)}} for x in (attention_S, attention_T)
        ]
    objective = jb.make_objective(jb.DistillationConfig(**match))
    state = objective.init_state() or None
    student, teacher = (Outputs(inputs_mask=mask, **entry) for entry in entries)
    return objective(student, teacher, {}, 0, state)


@pytest.mark.slow
@pytest.mark.parametrize("loss", ATTENTION_LOSSES)
def test_probabilities_in_place_of_attention_scores_warn(loss):
    probabilities = jax.nn.softmax(SCORES.astype(jnp.bfloat16))
    for who, pair in (
        ("teacher", (SCORES[0], probabilities[1])),
        ("student", (probabilities[0], SCORES[1])),
    ):
        says = rf"attention\[0\] of the {who} looks like probabilities: .* before the softmax"
        with pytest.warns(UserWarning, match=says):
            attention_loss(loss, *pair)
    attention_loss(loss, *SCORES)
    attention_loss(loss, *np.abs(SCORES))
    attention_loss(loss, *np.zeros_like(SCORES))


def test_rows_of_padding_may_be_zeros():
    probabilities = np.where(np.arange(5)[:, None] < 3, jax.nn.softmax(SCORES[1]), 0)
    with pytest.warns(UserWarning, match="of the teacher looks like probabilities"):
        attention_loss("attention_mse", SCORES[0], probabilities)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["emd", "modules"])
def test_probabilities_are_noticed_in_every_kind_of_match(kind):
    with pytest.warns(UserWarning, match="of the teacher looks like probabilities"):
        attention_loss("attention_mse", SCORES[0], jax.nn.softmax(SCORES[1]), kind=kind)
    attention_loss("attention_mse", *SCORES, kind=kind)
