"""The fewest steps of a training, with as many checkpoints; its check, whose trace it reuses."""

import numpy as np
import pytest
from flax import nnx

from jaxbrewer.configs import DataConfig, OptimizationConfig, TrainingConfig
from jaxbrewer.models import BertConfig, BertForSequenceClassification
from jaxbrewer.text import Encoded, task_of
from jaxbrewer.text.training import make_fine_tuning

pytestmark = pytest.mark.slow

TEXTS = 20
SIZES = {
    "vocab_size": 8, "hidden_size": 4, "num_hidden_layers": 1, "num_attention_heads": 1,
    "intermediate_size": 4, "max_position_embeddings": 8, "num_labels": 2,
}  # fmt: skip


def fine_tuning(length, **training):
    tokens = np.full(3 * TEXTS, 5, np.int32)
    encoded = Encoded(
        tokens, 0 * tokens, np.arange(0, 3 * TEXTS + 1, 3), columns={"labels": tokens[:TEXTS] % 2}
    )
    return make_fine_tuning(
        task_of(DataConfig()),
        BertForSequenceClassification(BertConfig(**SIZES), rngs=nnx.Rngs(0)),
        encoded,
        OptimizationConfig(batch_size=4, **length),
        TrainingConfig(output_dir=None, progress=False, **training),
    )


@pytest.mark.parametrize(
    ("length", "training", "steps", "saved"),
    [
        ({"num_epochs": 2}, {}, 10, [5, 10]),
        ({"num_epochs": 2, "min_steps": 9}, {}, 10, [5, 10]),
        ({"num_epochs": 2, "min_steps": 31}, {}, 31, [16, 31]),
        ({"num_epochs": 2, "min_steps": 31}, {"ckpt_steps": 20}, 31, [20, 31]),
        ({"num_epochs": 2, "min_steps": 30}, {"gradient_accumulation_steps": 5}, 30, [15, 30]),
        ({"num_epochs": 2, "min_steps": 31, "num_steps": 3}, {}, 3, [3]),
    ],
)
def test_min_steps_lengthens_a_training(length, training, steps, saved):
    made = fine_tuning(length, **training)
    plan = made.check()
    assert plan.total_steps == steps
    assert list(plan.saved_steps(made.trainer.train_config)) == saved


def test_a_training_reuses_the_trace_of_its_check():
    made, traced = fine_tuning({"num_steps": 1}), []
    adaptor = made.trainer.adaptor_S
    made.trainer.adaptor_S = lambda *given: traced.append(1) or adaptor(*given)
    made.check()
    assert traced
    traced.clear()
    made.train()
    assert not traced
