"""A trace of the steps that the config names."""

import gzip
import json

import optax
import pytest

import jaxbrewer as jb
from tests.toys import logits_adaptor, mlp, mlp_params, quiet, vector_data


@pytest.mark.slow
def test_the_named_steps_are_traced(tmp_path):
    config = quiet(output_dir=tmp_path / "run", profile_steps=[3, 4])
    models = [(mlp, mlp_params(8, seed=1)), (mlp, mlp_params(4))]
    distiller = jb.BasicDistiller(
        config, jb.DistillationConfig(), *models, logits_adaptor, logits_adaptor
    )
    distiller.train(optax.sgd(0.1), jb.ArrayLoader(vector_data(8), 8), num_steps=6)
    (trace,) = (tmp_path / "run" / "plugins" / "profile").glob("*/*.trace.json.gz")
    events = json.loads(gzip.decompress(trace.read_bytes()))["traceEvents"]
    calls = sorted(
        (event["ts"], event["ts"] + event["dur"])
        for event in events
        if event.get("name") == "PjitFunction(step_with_flags)"
    )
    outer = [call for call in calls if not any(a < call[0] < b for a, b in calls)]
    assert len(outer) == 2


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"profile_steps": [4, 3]}, r"profile_steps must be two steps, \[first, last\]"),
        ({"profile_steps": 3}, "must be two steps"),
        ({"profile_steps": [1, 2], "output_dir": None}, "needs a log_dir or an output_dir"),
    ],
)
def test_steps_that_cannot_be_traced_are_refused(fields, says):
    with pytest.raises(jb.UsageError, match=says):
        jb.TrainingConfig(**fields)
