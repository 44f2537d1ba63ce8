"""LogitsOf in the objective: the numbers of whole logits."""

import jax
import numpy as np

import jaxbrewer as jb

RNG = np.random.default_rng(0)


def head(width, batch=(2, 3), classes=7):
    """Random hidden states and a head."""
    hidden, kernel = RNG.normal(size=(*batch, width)), RNG.normal(size=(width, classes))
    return jb.LogitsOf(np.float32(hidden), np.float32(kernel))


def test_an_objective_takes_them_for_logits():
    student, teacher = head(4), head(5)
    objective = jb.make_objective(jb.DistillationConfig(kd_loss_type="kl"))

    def loss(student):
        return objective(jb.Outputs(logits=(student,)), jb.Outputs(logits=(teacher,)), {})[0]

    def plain(student):
        logits = [jb.Outputs(logits=(own.logits(),)) for own in (student, teacher)]
        return objective(*logits, {})[0]

    actual, expected = (jax.jit(jax.value_and_grad(each))(student) for each in (loss, plain))
    jax.tree.map(lambda a, e: np.testing.assert_allclose(a, e, 1e-5, 1e-6), actual, expected)
