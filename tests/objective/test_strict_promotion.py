"""Everything that a mask passes through works under jax_numpy_dtype_promotion="strict"."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxbrewer as jb
from jaxbrewer.forward.adaptors import Outputs
from jaxbrewer.objective.top_k import keep_top_k
from tests.toys import quiet

RNG = np.random.default_rng(0)
MASKS = [np.dtype(name) for name in ("bool", "int32", "uint8", "float32")] + [jnp.bfloat16]
LOGITS = np.float32(RNG.normal(size=(2, 3, 4, 5)))
STATES = np.float32(RNG.normal(size=(2, 2, 3, 4, 6)))
SCORES = np.float32(RNG.normal(size=(2, 3, 2, 4, 4)))
KD = list(jb.KD_LOSS_MAP)
MATCHES = [name for name in jb.MATCH_LOSS_MAP if name != "minilm_relation"]


def gradient(config, student, teacher):
    objective = jb.make_objective(jb.DistillationConfig(**config))
    projections = objective.init_projections(jax.random.key(0))
    state = objective.init_state()

    def total(student):
        terms = objective.terms(student, teacher, projections, jnp.int32(3), state)
        return objective.combine(terms, jnp.int32(3))[0], objective.next_state(state, terms)

    with jax.numpy_dtype_promotion("strict"):
        return jax.eval_shape(jax.grad(total, has_aux=True, allow_int=True), student)


@pytest.mark.slow
@pytest.mark.parametrize("kind", KD)
def test_losses_between_logits(kind):
    labels = jnp.zeros((3, 4), jnp.int32)
    rules = ["none", ["flsw", 1, 2], ["cwsm", 1], "none", "none"]
    for index, (dtype, rule) in enumerate(zip(MASKS, rules, strict=True)):
        logits = jnp.asarray(LOGITS, (jnp.bfloat16, jnp.float32)[index % 2])
        config = {"kd_loss_type": kind, "temperature_scheduler": rule}
        mask = jnp.ones((3, 4), dtype)
        weights = {"logits_mask": mask, "logits_weights": jnp.ones((3, 4), jnp.bfloat16)}
        for given in ({"inputs_mask": mask}, weights):
            student = Outputs(logits=logits[0], labels=labels, **given)
            gradient(config, student, Outputs(logits=logits[1], **given))
        span = {"logits_mask": jnp.ones((3, 5), dtype), "labels": labels[:, 0]}
        gradient(config, Outputs(logits=logits[0, :, 0], **span), Outputs(logits=logits[1, :, 0]))


@pytest.mark.slow
@pytest.mark.parametrize("dtype", MASKS, ids=str)
def test_pairing_teachers_top_k_and_shift(dtype):
    mask, wide = jnp.ones((3, 4), dtype), jnp.ones((3, 6), dtype)
    labels = jnp.zeros((3, 4), jnp.int32)
    student = Outputs(logits=LOGITS[0], logits_mask=mask, labels=labels, losses=labels + 0.5)
    longer = Outputs(logits=np.pad(LOGITS[1], [(0, 0), (2, 0), (0, 0)]), logits_mask=wide)
    gradient({"probability_shift": True, "hard_label_weight": 1}, student, longer)
    gradient({"mask_pairing": "rank"}, student, Outputs(logits=LOGITS[1], logits_mask=mask))
    gradient({}, student, Outputs(logits=keep_top_k(LOGITS[1], 2, [4.0]), logits_mask=mask))
    for average in ("logits", "probabilities", "losses"):
        teachers = [longer, Outputs(logits=longer.logits[0].astype(jnp.bfloat16), logits_mask=wide)]
        gradient({"teacher_average": average}, student, teachers)


@pytest.mark.slow
@pytest.mark.parametrize("loss", MATCHES)
def test_losses_between_states(loss):
    row = jb.MATCH_LOSS_MAP.row(loss)
    feature, states = ("attention", SCORES) if row.scores else ("hidden", STATES[0])
    layers = [0, 0] if row.layers == 2 else 0
    match = {"layer_T": layers, "layer_S": layers, "feature": feature, "loss": loss, "weight": 1}
    if feature == "hidden":
        match["proj"] = ["linear", 6, 6]
    for index, dtype in enumerate(MASKS):
        half = (jnp.float32, jnp.bfloat16)[index % 2]
        student, teacher = (
            Outputs(features={feature: (x.astype(half),)}, inputs_mask=jnp.ones((3, 4), dtype))
            for x in states
        )
        gradient({"intermediate_matches": [match]}, student, teacher)


def test_transport_and_custom_matches():
    mask = jnp.ones((3, 4), jnp.int32)
    student, teacher = (
        Outputs(features={"hidden": tuple(x)}, modules={"m": x[0]}, inputs_mask=mask)
        for x in STATES
    )
    matches = [{"kind": "emd", "layer_S": [0, 1], "layer_T": [0, 1]}]
    custom = [{"module_S": "m", "module_T": "m", "proj": ["relu", 6, 6]}]
    gradient({"intermediate_matches": matches, "custom_matches": custom}, student, teacher)


@pytest.mark.parametrize("fp16", [False, True])
def test_a_step_with_masks(fp16):
    def adaptor(batch, outputs):
        logits, hidden = outputs
        mask = batch["mask"]
        losses = jnp.mean(logits**2, axis=(1, 2))
        return {"logits": logits, "hidden": [hidden], "inputs_mask": mask, "losses": losses}

    def model(params, x):
        return x @ params, x

    match = {"layer_T": 0, "layer_S": 0, "feature": "hidden", "loss": "hidden_mse", "weight": 1}
    config = jb.DistillationConfig(hard_label_weight=0.5, intermediate_matches=[match])
    distiller = jb.GeneralDistiller(
        quiet(fp16=fp16, gradient_accumulation_steps=2), config,
        (model, jnp.ones((6, 5))), (model, jnp.ones((6, 5))), adaptor, adaptor,
    )  # fmt: skip
    batch = {"x": STATES[0, 0], "mask": np.ones((3, 4), bool)}
    with jax.numpy_dtype_promotion("strict"):
        assert distiller.check(optax.sgd(1e-3), [batch] * 2, num_epochs=1).total_steps == 1
