"""One body for the models of several tasks."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from jaxbrewer import UsageError, as_model
from jaxbrewer.models import BertConfig
from jaxbrewer.models.families import family_of
from jaxbrewer.models.shared_encoder import SharedEncoder

pytestmark = pytest.mark.slow

CONFIG = BertConfig(
    vocab_size=11, hidden_size=8, num_hidden_layers=1, num_attention_heads=2,
    intermediate_size=16, num_labels=3, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0,
)  # fmt: skip
IDS = jnp.arange(8).reshape(2, 4)


def model(task, seed, **settings):
    make = family_of("bert").by_task[task]
    return make(dataclasses.replace(CONFIG, **settings), rngs=nnx.Rngs(seed))


def test_models_of_different_heads_share_one_body():
    first = model("sequence-classification", 0)
    second = model("token-classification", 1, num_labels=5)
    own_head = second.classifier.kernel[...]
    expected = first(IDS)["logits"]
    student = SharedEncoder({"sentence": first, "words": second})
    assert first.bert.encoder is second.bert.encoder
    outputs = student(IDS, token_type_ids=jnp.zeros_like(IDS))
    np.testing.assert_array_equal(outputs["sentence"]["logits"], expected)
    np.testing.assert_array_equal(
        outputs["sentence"]["hidden_states"][-1], outputs["words"]["hidden_states"][-1]
    )
    assert outputs["words"]["logits"].shape == (2, 4, 5)
    np.testing.assert_array_equal(second.classifier.kernel[...], own_head)
    count = sum(leaf.size for leaf in jax.tree.leaves(as_model(student).params))
    alone = sum(leaf.size for leaf in jax.tree.leaves(as_model(first).params))
    assert count == alone + 8 * 5 + 5


def test_one_weight_of_the_body_moves_every_model():
    student = SharedEncoder({name: model("sequence-classification", 0) for name in ("a", "b")})
    wrapped = as_model(student)
    params = jax.tree.map(lambda leaf: leaf * 0.5, wrapped.params)
    moved = wrapped.export(params, wrapped.state)
    assert moved.models["a"].bert.encoder is moved.models["b"].bert.encoder
    wrapped.write_back(params, wrapped.state)
    np.testing.assert_array_equal(
        student.models["b"](IDS)["logits"], moved.models["b"](IDS)["logits"]
    )


@pytest.mark.parametrize("settings", [{"hidden_size": 4}, {"num_hidden_layers": 2}])
def test_models_of_other_sizes_are_refused(settings):
    models = {
        "a": model("sequence-classification", 0),
        "b": model("sequence-classification", 0, **settings),
    }
    with pytest.raises(UsageError, match="tasks 'a' and 'b' cannot share their"):
        SharedEncoder(models)
