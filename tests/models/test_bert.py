"""The encoder and its heads, against PyTorch's and against themselves."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

import jaxbrewer as jb
from jaxbrewer import UsageError
from jaxbrewer.models import (
    BertConfig,
    BertForSequenceClassification,
    BertForTokenClassification,
    cut_layers,
    load_bert,
)
from tests.models.conftest import CASES, FIXTURES, expected, stacked

pytestmark = pytest.mark.slow

CONFIG = BertConfig(
    vocab_size=50,
    hidden_size=16,
    num_hidden_layers=4,
    num_attention_heads=2,
    intermediate_size=24,
    max_position_embeddings=12,
    num_labels=3,
)
SHALLOW = dataclasses.replace(CONFIG, num_hidden_layers=1)
IDS = np.random.default_rng(0).integers(0, 50, (2, 7))
MASK = np.array([[1, 1, 1, 1, 1, 1, 1], [1, 1, 1, 0, 0, 0, 0]])

forward = jax.jit(lambda model, inputs: model(**inputs))


@pytest.fixture(scope="module")
def model():
    model = BertForSequenceClassification(CONFIG, rngs=nnx.Rngs(0))
    model.eval()
    return model


@pytest.mark.parametrize("case", CASES)
def test_random_models_answer_as_in_transformers(case):
    inputs, wanted = expected(FIXTURES / case / "expected.npz")
    outputs = stacked(forward(load_bert(FIXTURES / case), inputs))
    assert outputs.keys() == wanted.keys()
    for name, value in wanted.items():
        np.testing.assert_allclose(outputs[name], value, atol=1e-5, rtol=0, err_msg=name)


def test_minilm_answers_as_in_transformers(minilm):
    inputs, wanted = expected(FIXTURES / "minilm.npz")
    model = load_bert(minilm, "sequence-classification", num_labels=2)

    def pooled(model, inputs):
        outputs = model(**inputs)
        pooled = model.bert.pooler(outputs["hidden_states"][-1])
        return {"pooler_output": pooled, **stacked(outputs)}

    outputs = jax.jit(pooled)(model, inputs)
    stride = 384 // wanted["hidden_0"].shape[-1]
    for name, value in wanted.items():
        ours = outputs[name]
        ours = ours[:, ::stride] if name.startswith("attention") else ours[..., ::stride]
        np.testing.assert_allclose(ours, value, atol=1e-5, rtol=0, err_msg=name)


def test_scores_are_the_inputs_of_the_softmax_with_padding_very_negative(model):
    outputs = forward(model, {"input_ids": IDS, "attention_mask": MASK})
    for scores, attention in zip(outputs["attention_scores"], outputs["attentions"], strict=True):
        np.testing.assert_allclose(jax.nn.softmax(scores), attention, rtol=1e-5, atol=1e-7)
        assert (scores[1, :, :, 3:] < -1e4).all()
        assert jnp.isfinite(scores).all()
        assert (jnp.abs(scores[0]) < 1e4).all()


def test_padding_changes_nothing(model):
    padded = forward(model, {"input_ids": IDS, "attention_mask": MASK})
    alone = forward(model, {"input_ids": IDS[1:, :3]})
    np.testing.assert_allclose(padded["logits"][1], alone["logits"][0], atol=1e-6)
    np.testing.assert_allclose(
        padded["hidden_states"][-1][1, :3], alone["hidden_states"][-1][0], atol=1e-5
    )


def test_defaults_are_zero_types_and_counted_positions(model):
    given = {
        "attention_mask": np.ones_like(IDS),
        "token_type_ids": np.zeros_like(IDS),
        "position_ids": np.broadcast_to(np.arange(7), (2, 7)),
    }
    left_out = forward(model, {"input_ids": IDS})["logits"]
    np.testing.assert_allclose(
        forward(model, {"input_ids": IDS, **given})["logits"], left_out, atol=1e-6
    )
    given["token_type_ids"] = given["token_type_ids"] + 1
    assert (forward(model, {"input_ids": IDS, **given})["logits"] != left_out).all()


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ({"input_ids": np.zeros((2, 13), int)}, "13 tokens long, the model has 12 positions"),
        ({"input_ids": np.zeros(3, int)}, r"integers \[batch, length\], got int32\[3\]"),
        ({"input_ids": np.zeros((2, 3))}, r"integers \[batch, length\], got float32\[2, 3\]"),
        ({"input_ids": IDS, "attention_mask": MASK[:1]}, r"attention_mask .*\[2, 7\], got \[1, 7"),
        ({"input_ids": IDS, "token_type_ids": MASK[:, :3]}, r"token_type_ids .* got \[2, 3\]"),
    ],
)
def test_bad_inputs_are_refused_before_compiling(model, inputs, message):
    with pytest.raises(UsageError, match=message):
        jax.eval_shape(lambda: model(**inputs))


def test_dropout_is_active_in_training_only():
    model = BertForTokenClassification(SHALLOW, rngs=nnx.Rngs(0))
    model.train()
    draw = nnx.jit(lambda model: model(IDS)["logits"])
    first, second = draw(model), draw(model)
    assert (first != second).all()
    model.eval()
    first, second = (forward(model, {"input_ids": IDS})["logits"] for _ in range(2))
    np.testing.assert_array_equal(first, second)


def test_every_dropout_rate_of_the_config_is_used():
    for name in ("hidden_dropout_prob", "attention_probs_dropout_prob", "classifier_dropout"):
        rates = {"hidden_dropout_prob": 0, "attention_probs_dropout_prob": 0} | {name: 0.5}
        config = dataclasses.replace(SHALLOW, **rates)
        model = BertForSequenceClassification(config, rngs=nnx.Rngs(0))
        dropped = nnx.jit(lambda model: model(IDS)["logits"])(model)
        model.eval()
        assert not np.allclose(dropped, forward(model, {"input_ids": IDS})["logits"]), name


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_compute_follows_the_weights(model, dtype):
    half = nnx.clone(model)
    nnx.update(half, jax.tree.map(lambda leaf: leaf.astype(dtype), nnx.state(half, nnx.Param)))
    inputs = {"input_ids": IDS, "attention_mask": MASK}
    outputs, reference = forward(half, inputs), forward(model, inputs)
    assert {str(state.dtype) for state in outputs["hidden_states"]} == {dtype}
    assert str(outputs["logits"].dtype) == dtype
    for name in ("attention_scores", "attentions"):
        assert {str(array.dtype) for array in outputs[name]} == {"float32"}
    np.testing.assert_allclose(np.float32(outputs["logits"]), reference["logits"], atol=0.02)


def test_a_model_distils_into_one_cut_out_of_it():
    model = BertForSequenceClassification(
        dataclasses.replace(CONFIG, num_hidden_layers=2), rngs=nnx.Rngs(0)
    )
    student = cut_layers(model, [-1])
    data = {"input_ids": IDS, "attention_mask": MASK, "labels": np.array([0, 2])}

    def adaptor(batch, outputs):
        return {
            "logits": outputs["logits"],
            "hidden": outputs["hidden_states"],
            "attention": outputs["attention_scores"],
            "inputs_mask": batch["attention_mask"],
        }

    match = {"layer_S": -1, "layer_T": -1, "weight": 1}
    config = jb.DistillationConfig(
        intermediate_matches=[
            {**match, "feature": "attention", "loss": "attention_mse"},
            {**match, "feature": "hidden", "loss": "hidden_mse"},
        ]
    )
    before = jax.tree.map(np.array, nnx.to_pure_dict(nnx.state(model, nnx.Param)))
    distiller = jb.GeneralDistiller(
        jb.TrainingConfig(output_dir=None, progress=False), config, model, student, adaptor, adaptor
    )
    with distiller:
        trained, history = distiller.train(optax.adam(1e-3), [data], num_epochs=8)
    assert trained is student
    assert history["total_loss"][-1] < history["total_loss"][0]
    after = nnx.to_pure_dict(nnx.state(model, nnx.Param))
    jax.tree.map(np.testing.assert_array_equal, after, before)


class TestCutLayers:
    def test_takes_the_layers_named_and_all_around_them(self, model):
        student = cut_layers(model, [3, 0, -2])
        teacher = model.bert.encoder.layer
        for layer, source in zip(student.bert.encoder.layer, (3, 0, 2), strict=True):
            jax.tree.map(
                np.testing.assert_array_equal, params_of(layer), params_of(teacher[source])
            )
        assert student.config == dataclasses.replace(CONFIG, num_hidden_layers=3)
        inputs = {"input_ids": IDS}
        ours, theirs = forward(student, inputs), forward(model, inputs)
        np.testing.assert_array_equal(ours["hidden_states"][0], theirs["hidden_states"][0])
        hidden = theirs["hidden_states"][-1]
        np.testing.assert_array_equal(student.bert.pooler(hidden), model.bert.pooler(hidden))
        np.testing.assert_array_equal(student.classifier.kernel, model.classifier.kernel)

    def test_shares_nothing_with_the_teacher(self, model):
        student = cut_layers(model, [0, 2])
        weights = {leaf.unsafe_buffer_pointer() for leaf in jax.tree.leaves(params_of(model))}
        for leaf in jax.tree.leaves(params_of(student)):
            assert leaf.unsafe_buffer_pointer() not in weights
        assert len(model.bert.encoder.layer) == model.config.num_hidden_layers == 4

    @pytest.mark.parametrize(
        ("layers", "message"),
        [
            ([0, 4], r"layers \[0, 4\] must be layers of a model with 4 layers, from -4 to 3"),
            ([-5], "must be layers"),
            ([0.5], "must be layers"),
            ([], "must be layers"),
            ([1, 2, -3], r"layers \[1, 2, -3\] name a layer twice"),
        ],
    )
    def test_layers_that_are_not_there_are_refused(self, model, layers, message):
        with pytest.raises(UsageError, match=message):
            cut_layers(model, layers)


def params_of(model):
    return nnx.to_pure_dict(nnx.state(model, nnx.Param))
