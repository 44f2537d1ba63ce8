"""TextBrewer's faults with several teachers (B.5): none of them occurs here."""

import numpy as np
import optax
import pytest

import jaxbrewer as jb
from jaxbrewer.objective.logit_masks import probability_shift
from tests.toys import logits_adaptor, mlp, mlp_params, quiet, vector_data

DATA = vector_data(8)
TEACHERS = [(mlp, mlp_params(4, seed=seed)) for seed in (1, 2)]
STUDENT = (mlp, mlp_params(3))


@pytest.mark.slow
@pytest.mark.parametrize("average", ["logits", "losses"])
def test_b13_probability_shift_applies_to_the_average_or_to_each_teacher(average):
    """The default shifts the average, as TextBrewer does; averaged losses shift each teacher."""
    config = jb.DistillationConfig(
        probability_shift=True, kd_loss_type="mse", temperature=1, teacher_average=average
    )
    one = jb.MultiTeacherDistiller(
        quiet(), config, TEACHERS, STUDENT, logits_adaptor, logits_adaptor
    )
    history = one.train(optax.sgd(0.0), [DATA], num_epochs=1).history
    student = mlp(STUDENT[1], DATA["x"])
    logits = [mlp(params, DATA["x"]) for _, params in TEACHERS]
    targets = [sum(logits) / 2] if average == "logits" else logits
    shifted = [probability_shift(target, DATA["labels"]) for target in targets]
    expected = np.mean([np.mean((student - target) ** 2) for target in shifted])
    np.testing.assert_allclose(history["total_loss"], [expected], rtol=1e-5)
