"""Valid configs survive their dict and JSON forms; bad values are refused by field name."""

import dataclasses
import json

import hypothesis.strategies as st
import pytest
from hypothesis import given, settings

import jaxbrewer as jb

finite = st.floats(-1e38, 1e38) | st.integers(-5, 5)
positive = st.floats(0.01, 1e6) | st.integers(1, 20)
optax_schedule = st.fixed_dictionaries(
    {"schedule": st.just("constant_schedule"), "value": st.floats(0, 1)}
)
weight_schedule = st.sampled_from(["none", "linear_decay", "linear_growth"]) | optax_schedule
number = st.floats(0, 4)
rule = st.one_of(
    st.sampled_from(["none", "constant"]),
    st.tuples(st.just("flsw"), number, number),
    st.tuples(st.just("cwsm"), number).map(list),
    st.tuples(st.just("cwsm"), st.fixed_dictionaries({"beta": number})),
)
layer, width = st.integers(-3, 3), st.integers(1, 9)
proj = st.none() | st.tuples(st.sampled_from(["linear", "relu", "tanh"]), width, width).map(list)
settings_of_proj = st.fixed_dictionaries({"lr": st.floats(1e-6, 1)})
PAIRS, SINGLES = ("fsp", "gram", "mmd", "nst"), ("hidden_mse", "cos", "pkd", "attention_mse")


@st.composite
def matches(draw):
    loss = draw(st.sampled_from(PAIRS + SINGLES))
    layers = st.lists(layer, min_size=2, max_size=2) if loss in PAIRS else layer
    match = {
        "layer_T": draw(layers),
        "layer_S": draw(layers),
        "weight": draw(finite),
        "loss": loss,
        "feature": "attention" if loss.startswith("attention") else "hidden",
        "weight_scheduler": draw(weight_schedule),
    }
    projection = draw(proj)
    if projection is not None:
        match["proj"] = [*projection, draw(settings_of_proj)] if draw(st.booleans()) else projection
    return match


distillation = st.fixed_dictionaries(
    {},
    optional={
        "temperature": positive | optax_schedule,
        "temperature_scheduler": rule,
        "hard_label_weight": finite,
        "hard_label_weight_scheduler": weight_schedule,
        "kd_loss_type": st.sampled_from(["ce", "mse"]),
        "kd_loss_weight": finite,
        "kd_loss_weight_scheduler": weight_schedule,
        "probability_shift": st.booleans(),
        "intermediate_matches": st.lists(matches(), max_size=3) | st.none(),
        "is_caching_logits": st.booleans(),
        "teacher_average": st.sampled_from(["logits", "probabilities", "losses"]),
        "teacher_weights": st.none() | st.lists(st.floats(0.1, 9) | optax_schedule, min_size=1),
        "teacher_temperatures": st.none() | st.lists(st.floats(0.1, 9), min_size=1),
    },
)
PATHS = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), min_size=1)
training = st.fixed_dictionaries(
    {},
    optional={
        "gradient_accumulation_steps": st.integers(1, 9),
        "ckpt_frequency": st.integers(0, 9),
        "ckpt_epoch_frequency": st.integers(1, 9),
        "ckpt_steps": st.none() | st.integers(1, 9),
        "log_dir": st.none() | PATHS,
        "output_dir": st.none() | PATHS,
        "device": st.sampled_from(["cpu", "cuda", "cuda:1", "gpu", "tpu"]),
        "fp16": st.booleans(),
        "fp16_opt_level": st.sampled_from(["O0", "O1", "O2", "O3"]),
        "data_parallel": st.booleans(),
        "local_rank": st.integers(-1, 3),
        "seed": st.integers(0, 2**31),
        "half_dtype": st.sampled_from(["float16", "bfloat16"]),
        "teacher_device": st.sampled_from([None, "cpu", "cuda:1", ("cuda:1", "cuda:2")]),
        "teacher_products": st.none() | st.sampled_from(["float16", "bfloat16"]),
        "overwrite": st.booleans(),
        "progress": st.booleans(),
        "mesh": st.sampled_from([{}, {"data": -1}, {"data": 2, "fsdp": -1}]),
        "local_batches": st.booleans(),
        "resume": st.booleans(),
        "keep_last": st.none() | st.integers(1, 9),
        "keep_every": st.none() | st.integers(1, 9),
        "best_mode": st.sampled_from(["min", "max"]),
        "on_nonfinite": st.sampled_from(["stop", "skip"]),
    },
)


@pytest.mark.slow
@settings(max_examples=60)
@given(
    st.tuples(st.just(jb.DistillationConfig), distillation)
    | st.tuples(st.just(jb.TrainingConfig), training)
)
def test_valid_configs_survive_dict_and_json(case):
    cls, fields = case
    before = json.dumps(fields)
    config = cls.from_dict(fields)
    assert json.dumps(fields) == before
    assert cls.from_dict(config.to_dict()) == config
    assert cls.from_dict(json.loads(config.to_json())) == config
    assert json.loads(config.to_json()) == config.to_dict()
    for name, value in fields.items():
        if value is not None and name != "intermediate_matches":
            assert json.loads(json.dumps(value)) == config.to_dict()[name]


WRONG = {
    "int": ["2", 2.5, None, True, [1], -7, float("nan")],
    "number": ["2", None, True, [1], float("nan"), float("inf"), {}, 10**400],
    "bool": ["yes", None, 2, [True], float("nan")],
    "name": ["bogus", 3, None, ["bogus"], {"a": 1}, True],
}
FIELDS = {
    jb.TrainingConfig: {
        "gradient_accumulation_steps": "int", "ckpt_frequency": "int", "seed": "int",
        "ckpt_epoch_frequency": "int", "local_rank": "int", "fp16": "bool", "overwrite": "bool",
        "data_parallel": "bool", "progress": "bool", "fp16_opt_level": "name", "device": "name",
        "half_dtype": "name", "best_mode": "name", "on_nonfinite": "name", "resume": "bool",
        "force_resume": "bool", "local_batches": "bool",
    },
    jb.DistillationConfig: {
        "temperature": "number", "hard_label_weight": "number", "kd_loss_weight": "number",
        "temperature_scheduler": "name", "kd_loss_weight_scheduler": "name",
        "hard_label_weight_scheduler": "name", "kd_loss_type": "name",
        "probability_shift": "bool", "is_caching_logits": "bool", "teacher_average": "name",
    },
    jb.IntermediateMatch: {
        "layer_T": "name", "layer_S": "name", "weight": "number", "loss": "name",
        "feature": "name", "weight_scheduler": "name",
    },
}  # fmt: skip
VALID = {"layer_T": 0, "layer_S": 0, "weight": 1, "loss": "hidden_mse", "feature": "hidden"}


def is_fine(cls, name, value) -> bool:
    """Values of the lists above that a field accepts."""
    return name in ("layer_T", "layer_S") and value == 3


@pytest.mark.parametrize(
    ("cls", "name", "value"),
    [
        (cls, name, value)
        for cls, fields in FIELDS.items()
        for name, kind in fields.items()
        for value in WRONG[kind]
        if not is_fine(cls, name, value)
    ],
    ids=lambda x: x.__name__ if isinstance(x, type) else str(x)[:30],
)
def test_bad_values_are_refused_by_the_fields_name(cls, name, value):
    base = VALID if cls is jb.IntermediateMatch else {}
    with pytest.raises(jb.UsageError, match=name) as caught:
        cls.from_dict({**base, name: value})
    assert "\n" not in str(caught.value)


@settings(max_examples=30)
@given(st.sampled_from([jb.DistillationConfig, jb.TrainingConfig, jb.IntermediateMatch]), st.data())
def test_misspelt_fields_are_refused_with_the_right_name(cls, data):
    names = [field.name for field in dataclasses.fields(cls)]
    name = data.draw(st.sampled_from([name for name in names if len(name) > 6]))
    at = data.draw(st.integers(1, len(name) - 2))
    misspelt = name[:at] + name[at + 1 :]
    if misspelt in names:
        return
    with pytest.raises(jb.UsageError, match=f"no field '{misspelt}': did you mean"):
        cls.from_dict({misspelt: 1})
