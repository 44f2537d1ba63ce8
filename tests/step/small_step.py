"""A small train step with everything in it, for tests of the step and of its optimizer."""

import jax
import jax.numpy as jnp
import optax

import jaxbrewer as jb
from jaxbrewer.forward.precision import Policy
from tests.toys import HIDDEN_MATCH, Encoder, cross_entropy, hidden_adaptor, text_data

CONFIG = jb.DistillationConfig(
    temperature=3, hard_label_weight=0.5, intermediate_matches=[HIDDEN_MATCH]
)
TEACHER, STUDENT = jb.as_model(Encoder(8, 2, seed=1)), jb.as_model(Encoder(6, 2))
DATA = text_data(12)


def exact_adaptor(batch, outputs):
    """Token-level losses and masks whose counts differ between micro-batches."""
    answer = hidden_adaptor(batch, outputs)
    mask = batch["attention_mask"]
    logits = outputs["hidden"][-1][..., :5]
    loss = cross_entropy(logits, batch["input_ids"] % 5)
    mean = jb.Mean(jnp.sum(loss * mask), jnp.sum(mask).astype(jnp.float32))
    return {**answer, "logits": logits, "logits_mask": mask, "losses": mean}


def setup(accumulation=1, *, optimizer=None, adaptor=exact_adaptor, precision=None, config=CONFIG):
    objective = jb.make_objective(config, total_steps=10)
    grouped = jb.make_optimizer(optimizer or optax.sgd(1.0), objective)
    policy = precision or Policy()
    state = jb.init_train_state(STUDENT, objective, grouped, precision=policy)
    step = jb.make_train_step(
        STUDENT, TEACHER, objective, grouped, adaptor_S=adaptor, adaptor_T=adaptor,
        gradient_accumulation_steps=accumulation, precision=policy,
    )  # fmt: skip
    return jax.jit(step), state
