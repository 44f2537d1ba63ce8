"""Several teachers through a distiller: settings that do not fit are refused."""

import functools

import numpy as np
import optax
import pytest

import jaxbrewer as jb
from tests.toys import (
    HIDDEN_MATCH,
    logits_adaptor,
    mlp,
    mlp_params,
    quiet,
    vector_data,
)

DATA = vector_data(12)
NETS = [jb.as_model((mlp, mlp_params(8, seed=1))), jb.as_model((mlp, mlp_params(6, seed=2)))]


def multi(config, teachers=None, adaptor_T=logits_adaptor):
    teachers = teachers or [(mlp, model.params) for model in NETS]
    return jb.MultiTeacherDistiller(
        quiet(), config, teachers, (mlp, mlp_params(3)), adaptor_T, logits_adaptor
    )


def test_mismatched_teachers_are_refused_in_one_line():
    def refused(call, *parts):
        with pytest.raises(jb.UsageError) as error:
            call()
        assert "\n" not in str(error.value)
        for part in parts:
            assert part in str(error.value)

    batches = [DATA]
    check = functools.partial(jb.MultiTeacherDistiller.check, optimizer=optax.sgd(0.1),
                              num_epochs=1)  # fmt: skip
    config = jb.DistillationConfig
    refused(lambda: multi(config(), teachers=(mlp, mlp_params(3))[0]), "model_T", "list")
    refused(lambda: check(multi(config(teacher_weights=[1, 1, 1])), dataloader=batches),
            "teacher_weights has 3 entries for 2")  # fmt: skip
    refused(lambda: check(multi(config(), adaptor_T=[logits_adaptor]), dataloader=batches),
            "1 teacher adaptors for 2 teachers")  # fmt: skip
    both = [{**DATA, "teacher_id": np.zeros(12, int), "teacher_weights": np.ones((12, 2))}]
    refused(lambda: check(multi(config()), dataloader=both), "teacher_id", "teacher_weights")
    refused(lambda: check(multi(config()), dataloader=[{**DATA, "teacher_weights": DATA["x"]}]),
            "[batch, 2]")  # fmt: skip
    refused(lambda: check(multi(config()), dataloader=[{**DATA, "teacher_cache": (None,)}]),
            "teacher_cache", "2 teachers")  # fmt: skip
    wide = [(mlp, NETS[0].params), (lambda params, x: mlp(params, x)[:, :3], NETS[1].params)]
    refused(
        lambda: check(multi(config(), wide), dataloader=batches),
        "teacher 0 has 5 columns, teacher 1 3",
    )
    matches = [{**HIDDEN_MATCH, "teacher": 2}]
    refused(lambda: check(multi(config(intermediate_matches=matches)), dataloader=batches),
            "no teacher 2 among 2")  # fmt: skip
    refused(lambda: config(teacher_average="median"), "teacher_average", "'logits'")
    refused(lambda: config(teacher_weights=[-1, 1]), "teacher_weights", ">= 0")
    refused(lambda: config(teacher_weights=[0, 0]), "teacher_weights", "not all 0")
    refused(lambda: config(teacher_temperatures=[0, 1]), "teacher_temperatures", "positive")
    ruled = {"teacher_average": "probabilities", "temperature_scheduler": ["flsw", 1, 1]}
    refused(lambda: multi(config(**ruled)), "temperature_scheduler", "probabilities")
