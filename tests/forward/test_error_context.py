"""Errors of models and adaptors name the model and what it was given."""

import numpy as np
import optax
import pytest

import jaxbrewer as jb
from tests.toys import cross_entropy, logits_adaptor, mlp, mlp_params, quiet, vector_data

BATCH = vector_data(8)


def train(adaptor_T=logits_adaptor, adaptor_S=logits_adaptor, batch=BATCH, **settings):
    distiller = jb.BasicDistiller(
        quiet(**settings),
        jb.DistillationConfig(hard_label_weight=1),
        (mlp, mlp_params(8, seed=1)),
        (mlp, mlp_params(3)),
        adaptor_T,
        adaptor_S,
    )
    distiller.train(optax.sgd(0.1), [batch], num_steps=1)


def misspelt(batch, outputs):
    return {"logits": outputs, "losses": cross_entropy(outputs, batch["label"])}


@pytest.mark.parametrize(("who", "adaptors"), [("student", "adaptor_S"), ("teacher", "adaptor_T")])
def test_a_key_that_an_adaptor_does_not_find_is_one_line(who, adaptors):
    says = (
        f"^The {who}'s adaptor finds no 'label': the batch has 'labels', 'x', the outputs no names"
    )
    with pytest.raises(jb.UsageError, match=says):
        train(**{adaptors: misspelt})
    with pytest.raises(jb.UsageError, match="finds no 'hidden'.*the outputs 'logits'"):
        train(
            adaptor_T=lambda batch, outputs: {"logits": outputs["hidden"]},
            batch={**BATCH, "teacher_cache": {"logits": np.ones((8, 5), np.float32)}},
        )


@pytest.mark.parametrize(
    ("batch", "note"),
    [
        (
            {**BATCH, "x": BATCH["x"][:, :3]},
            "The teacher was called on a batch of labels int32[8], x float32[8,3].",
        ),
        (
            {**BATCH, "labels": BATCH["labels"][:5]},
            "The teacher's adaptor was called with a batch of labels int32[5], x float32[8,4] and "
            "outputs of float32[8,5].",
        ),
    ],
)
def test_other_errors_say_what_was_given(batch, note):
    with pytest.raises((TypeError, ValueError)) as error:
        train(batch=batch)
    assert note in error.value.__notes__
