"""Fields of configs: documented where they stand, TextBrewer's in TextBrewer's order."""

import ast
import copy
import dataclasses
import inspect
import pickle
import textwrap

import pytest

import jaxbrewer as jb
from jaxbrewer.configs import OptimizationConfig

DOCUMENTED = [jb.TrainingConfig, jb.DistillationConfig, OptimizationConfig]
MATCH = jb.IntermediateMatch(0, 0, 1, "hidden_mse", "hidden")


@pytest.mark.parametrize("config", DOCUMENTED, ids=lambda config: config.__name__)
def test_every_field_is_documented_at_the_field(config):
    (body,) = ast.parse(textwrap.dedent(inspect.getsource(config))).body
    documented = {
        field.target.id
        for field, after in zip(body.body, body.body[1:], strict=False)
        if isinstance(field, ast.AnnAssign)
        and isinstance(after, ast.Expr)
        and isinstance(after.value, ast.Constant)
    }
    assert documented == {field.name for field in dataclasses.fields(config)}


def test_positional_fields_are_textbrewers_in_its_order():
    names = [field.name for field in dataclasses.fields(jb.TrainingConfig) if not field.kw_only]
    assert names == [
        "gradient_accumulation_steps", "ckpt_frequency", "ckpt_epoch_frequency", "ckpt_steps",
        "log_dir", "output_dir", "device", "fp16", "fp16_opt_level", "data_parallel", "local_rank",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("build", "says"),
    [
        (lambda: jb.DistillationConfig(temprature=4), "DistillationConfig has no field 'temprature'"
                                                     ": did you mean 'temperature'"),
        (lambda: jb.TrainingConfig(*range(12)), "takes 11 values by position, got 12"),
        (lambda: jb.IntermediateMatch(layer_T=0), "needs 'layer_S' and 'weight' and 'loss'"),
        (lambda: dataclasses.replace(MATCH, lyer_T=1), "no field 'lyer_T': did you mean 'layer_T'"),
        (lambda: jb.TrainingConfig.from_dict({3: 1}), "no field 3"),
    ],
)  # fmt: skip
def test_fields_that_do_not_exist_or_are_missing_are_named(build, says):
    with pytest.raises(jb.UsageError, match=says) as caught:
        build()
    assert "\n" not in str(caught.value)


def test_configs_are_copied_and_pickled():
    for config in (MATCH, jb.DistillationConfig(intermediate_matches=[MATCH])):
        assert copy.deepcopy(config) == config == pickle.loads(pickle.dumps(config))
