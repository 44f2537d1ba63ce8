"""Decoders as teachers and students: fused logits, attention maps, half-precision teachers."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

import jaxbrewer as jb
from jaxbrewer.losses import fused_cross_entropy
from jaxbrewer.models import load
from tests.models.conftest import FIXTURES

FOLDER = FIXTURES / "decoders"
IDS = np.random.default_rng(0).integers(0, 60, (4, 11))
SEGMENTS = np.repeat([[1, 2]], [6, 5], axis=1).repeat(4, axis=0)
DATA = {"input_ids": IDS, "segment_ids": SEGMENTS}


def adaptor(batch, outputs):
    labels = jnp.where(
        batch["segment_ids"][:, 1:] == batch["segment_ids"][:, :-1],
        batch["input_ids"][:, 1:], -100,
    )  # fmt: skip
    labels = jnp.pad(labels, ((0, 0), (0, 1)), constant_values=-100)
    losses = fused_cross_entropy.sum_and_count(outputs["logits"], labels)
    answer = {"logits": outputs["logits"], "losses": losses, "hidden": outputs["hidden_states"]}
    if "attention_scores" in outputs:
        answer["attention"] = outputs["attention_scores"]
    return answer


def trained(student, teacher, **settings):
    """Losses and weights after three steps."""
    config = jb.DistillationConfig(temperature=2, hard_label_weight=0.5, **settings)
    distiller = jb.GeneralDistiller(
        jb.TrainingConfig(output_dir=None, progress=False), config, teacher, student, adaptor,
        adaptor,
    )  # fmt: skip
    result = distiller.train(optax.sgd(0.5), jb.ArrayLoader(DATA, 4), num_epochs=3)
    return result.history["total_loss"], nnx.to_pure_dict(nnx.state(student, nnx.Param))


@pytest.mark.slow
@pytest.mark.parametrize("case", ["smollm2", "gemma2"])
def test_training_with_fused_logits_is_training(case):
    losses, weights = {}, {}
    for fused in (False, True):
        teacher = load(FOLDER / case, fused_logits=fused)
        student = load(FOLDER / case, layers=[1], fused_logits=fused)
        losses[fused], weights[fused] = trained(student, teacher)
    np.testing.assert_allclose(losses[True], losses[False], rtol=1e-5)
    assert losses[True][-1] < losses[True][0]
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, atol=1e-4), weights[True], weights[False]
    )


@pytest.mark.slow
def test_layers_and_attention_maps_of_decoders_are_matched():
    maps = {
        "layer_T": 1,
        "layer_S": 0,
        "feature": "attention",
        "loss": "attention_mse",
        "weight": 1,
    }
    hidden = {"layer_T": 2, "layer_S": 1, "feature": "hidden", "loss": "hidden_mse", "weight": 1}
    teacher = load(FOLDER / "qwen3", output_attentions=True, dtype=jnp.bfloat16)
    student = load(FOLDER / "qwen3", layers=[0], output_attentions=True)
    losses, _ = trained(student, teacher, intermediate_matches=[maps, hidden])
    assert losses[-1] < losses[0]
