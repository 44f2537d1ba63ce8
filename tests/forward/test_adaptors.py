"""Outputs that an adaptor may return, and messages for others."""

import warnings

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxbrewer as jb
from jaxbrewer.forward.adaptors import Outputs, collect
from jaxbrewer.losses import Mean
from jaxbrewer.objective.top_k import keep_top_k
from tests.toys import HIDDEN_MATCH, quiet

BATCH, LENGTH = 8, 3
DATA = {"x": np.ones((BATCH, 4), np.float32), "y": np.zeros(BATCH, int)}
LOGITS = np.zeros((BATCH, 5), np.float32)
HIDDEN = [np.ones((BATCH, LENGTH, 6), np.float32)] * 2
MASK = np.ones((BATCH, LENGTH), np.float32)


def linear(params, x):
    return x @ params


def refused(adaptor_S=None, adaptor_T=None, config=None, model=linear):
    """The one line that a training with these is refused with."""
    plain = lambda batch, outputs: {"logits": outputs}  # noqa: E731
    distiller = jb.GeneralDistiller(
        quiet(), config or jb.DistillationConfig(hard_label_weight=1),
        (linear, jnp.ones((4, 5))), (model, jnp.ones((4, 5))),
        adaptor_T or plain, adaptor_S or plain,
    )  # fmt: skip
    with pytest.raises(jb.UsageError) as error:
        distiller.check(optax.sgd(0.1), [DATA], num_epochs=1)
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.mark.parametrize(
    "answer",
    [
        {"logits": [LOGITS, np.zeros((3, 5))]},
        {"hidden": [HIDDEN[0], HIDDEN[1][:5]]},
        {"hidden": np.stack(HIDDEN)},
        {"hidden": [HIDDEN[0].swapaxes(0, 1)]},
        {"attention": np.ones((2, LENGTH, LENGTH))},
        {"labels": np.zeros(3, int)},
        {"labels": np.zeros((), int)},
        {"inputs_mask": MASK[:4]},
        {"logits_mask": MASK[:4]},
        {"logits_weights": MASK[:4]},
        {"modules_mask": {"layers.*": MASK[:4]}},
    ],
    ids=lambda answer: f"{next(iter(answer))}-{jax.tree.leaves(answer)[-1].shape}",
)
def test_every_entry_has_the_same_examples(answer):
    (key,) = answer
    says = rf"The student's adaptor returned {key}.* first axis must be the batch"
    with pytest.raises(jb.UsageError, match=says):
        collect({"logits": LOGITS, "inputs_mask": MASK, **answer}, "student")


def test_an_adaptor_may_choose_examples_if_it_does_so_everywhere():
    some = {"logits": LOGITS[:4], "inputs_mask": MASK[:4], "losses": jnp.ones(4)}
    assert len(collect(some, "student", examples=BATCH).logits[0]) == 4


@pytest.mark.parametrize("rows", [3, 12])
def test_losses_of_other_examples_than_the_batchs_are_refused(rows):
    for rest in ({}, {"logits": LOGITS}):
        says = refused(lambda b, o, rest=rest: {**rest, "losses": jnp.ones(rows)})
        assert says == (
            f"The student's adaptor returned losses[0] of the shape ({rows},) for a batch of 8 "
            "examples: return one loss per example, a scalar, or a Mean(total, count)."
        )


def test_losses_may_be_per_example_per_token_or_averaged():
    shapes = [(), (BATCH,), (BATCH, LENGTH), (BATCH * LENGTH,)]
    given = [jnp.ones(shape) for shape in shapes] + [Mean(jnp.float32(6), jnp.float32(3)), 2.0]
    losses = collect({"losses": given}, "student", examples=BATCH).losses
    assert [float(loss.value()) for loss in losses] == [1, 1, 1, 1, 2, 2]
    assert [float(loss.count) for loss in losses] == [1, 8, 24, 24, 3, 1]


@pytest.mark.parametrize("mask", [MASK + 0j, jax.random.split(jax.random.key(0), MASK.shape)])
def test_a_mask_holds_booleans_or_numbers(mask):
    collect({"inputs_mask": MASK.astype(jnp.bfloat16)}, "student")
    for key, value in (("inputs_mask", mask), ("modules_mask", {"a": mask})):
        with pytest.raises(jb.UsageError, match="a mask holds booleans or numbers"):
            collect({key: value}, "teacher")


def test_logits_of_one_model_alone_are_refused_unless_they_have_no_weight():
    def hidden(batch, outputs):
        return {"logits": outputs, "hidden": [outputs[:, None, :]]}

    def without(batch, outputs):
        return {**hidden(batch, outputs), "logits": None}

    match = {**HIDDEN_MATCH, "proj": None}
    config = jb.DistillationConfig(intermediate_matches=[match])
    says = refused(hidden, without, config)
    assert says == (
        "The teacher's adaptor returned no 'logits' to distil: return them, or set "
        "kd_loss_weight=0 and match layers."
    )
    assert refused(without, hidden, config) == says.replace("teacher", "student")
    for adaptors, weight in (((without, without), 1), ((hidden, without), 0)):
        config = jb.DistillationConfig(intermediate_matches=[match], kd_loss_weight=weight)
        models = [(linear, jnp.ones((4, 5)))] * 2
        distiller = jb.GeneralDistiller(quiet(), config, *models, *adaptors)
        assert distiller.check(optax.sgd(0.1), [DATA], num_epochs=1).total_steps == 1


def on_values(value):
    return value if value.sum() > 0 else -value


@pytest.mark.parametrize(
    ("adaptor", "says"),
    [
        (lambda b, o: {"logits": on_values(o)}, "needs the value of an array, .*on_values, .*:"),
        (lambda b, o: {"logits": np.asarray(o)}, "needs the value of an array"),
        (lambda b, o: {"losses": o.sum().item()}, "needs the value of an array"),
        (lambda b, o: {"losses": float(o.sum())}, "needs the value of an array"),
        (lambda b, o: {"losses": sum(range(int(o.sum())))}, "needs the value of an array"),
        (lambda b, o: {"logits": o[b["y"] > 0]}, "indexes with a boolean array, .*'logits_mask'"),
        (lambda b, o: {"hiden": [o]}, "unknown key 'hiden': did you mean 'hidden'"),
        (lambda b, o: [o], "must return a dict, got list"),
        (lambda b, o: {"logits": "high"}, "returned str under 'logits'"),
        (lambda b, o: {"modules_mask": b["x"]}, "under 'modules_mask'; it must be a dict of masks"),
    ],
)  # fmt: skip
def test_an_adaptor_that_cannot_be_traced_or_read_is_named_in_one_line(adaptor, says):
    for who, given in (("student", {"adaptor_S": adaptor}), ("teacher", {"adaptor_T": adaptor})):
        message = refused(**given)
        assert message.startswith(f"The {who}'s adaptor ")
        with pytest.raises(AssertionError, match=says):
            raise AssertionError(message)


def test_a_model_that_needs_values_is_named_in_one_line():
    message = refused(model=lambda params, x: on_values(x) @ params)
    assert message.startswith("The student needs the value of an array")
    assert "on_values" in message


@pytest.mark.slow
def test_outputs_take_single_arrays_and_lists_for_tuples():
    single = Outputs(logits=LOGITS, logits_mask=MASK, labels=[DATA["y"]], losses=jnp.ones(BATCH))
    assert [len(x) for x in (single.logits, single.logits_mask, single.labels)] == [1, 1, 1]
    assert float(single.losses[0].value()) == 1
    assert Outputs(losses=single.losses[0]).losses == single.losses
    assert Outputs(losses=(jnp.ones(BATCH), 2.0)).losses[0].count == BATCH
    layers = Outputs(features={"hidden": HIDDEN, "attention": MASK}).features
    assert [len(layers["hidden"]), layers["attention"][0].shape] == [2, MASK.shape]
    assert Outputs(logits=keep_top_k(LOGITS, 2)).logits[0].shape == LOGITS.shape
    objective = jb.make_objective(jb.DistillationConfig())
    assert objective(Outputs(logits=LOGITS), Outputs(logits=LOGITS), {})[0] > 0
    batch = {**DATA, "teacher_cache": Outputs(logits=LOGITS)}
    distiller = jb.BasicDistiller(
        quiet(), jb.DistillationConfig(), (linear, jnp.ones((4, 5))), (linear, jnp.ones((4, 5))),
        *[lambda b, o: {"logits": o}] * 2,
    )  # fmt: skip
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert distiller.check(optax.sgd(0.1), [batch], num_epochs=1).total_steps == 1
