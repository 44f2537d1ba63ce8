"""Values that configs accept, hold and refuse, against TextBrewer."""

import json

import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxbrewer as jb

from . import claims, document

ACCEPTED, REFUSED = document("config")["ok"], document("config")["errors"]
STAGES = ("config", "distiller", "train")

DIFFERENCES = {
    "schedulers": "stay the given names and arguments, where TextBrewer holds functions; "
    "'none' stays 'none'",
    "proj": "no {} is added to a proj without settings, and your list is not changed",
    "weight_scheduler": "a match has a schedule of its own",
    "teacher": "a match names its teacher where there are several",
    "['constant']": "means the rule 'constant' without arguments, where TextBrewer raises "
    "TypeError",
    "fp16": "trains: half precision needs no Apex",
    "str": "a config prints as a dataclass",
}
"""The attributes, inputs and forms that differ on purpose."""


def given(row) -> dict:
    return row["kwargs"] if "kwargs" in row else json.loads(row["json"])


def differences_of(row) -> str:
    """Why a row's config differs from TextBrewer's; ``""`` if it does not."""
    values = given(row)
    rule = values.get("temperature_scheduler")
    if "stage" in row:
        found = {"fp16": "fp16" in values, "['constant']": rule == ["constant"]}
    else:
        matches = values.get("intermediate_matches") or ()
        found = {
            "schedulers": row["cls"] == "DistillationConfig",
            "proj": any(len(match.get("proj", ())) == 3 for match in matches),
            "weight_scheduler": bool(matches),
            "str": "str" in row,
        }
    return "; ".join(f"{name}: {DIFFERENCES[name]}" for name, holds in found.items() if holds)


NAMES = {
    f"config/{key}[{index}]": row
    for key, rows in document("config").items()
    for index, row in enumerate(rows)
}
CLAIMS = claims(
    list(NAMES), {name: why for name, row in NAMES.items() if (why := differences_of(row))}
)


def expected_value(field: str, value, row):
    """TextBrewer's attribute in our form."""
    if field.endswith("_scheduler"):
        named = given(row).get(field, "none")
        assert value is None if named == "none" else value["callable"].startswith(_first(named))
        return named
    if field == "intermediate_matches":
        return [
            {**match, "proj": _without_empty_settings(match["proj"]), "weight_scheduler": "none"}
            | {"teacher": 0}
            for match in value
        ]
    return value


def _first(named) -> str:
    return named if isinstance(named, str) else named[0]


def _without_empty_settings(proj):
    return proj[:3] if proj and proj[3] == {} else proj


@pytest.mark.parametrize("index", range(len(ACCEPTED)))
def test_what_textbrewer_accepts_is_accepted_and_survives_json(index: int, tmp_path):
    row = ACCEPTED[index]
    cls, path = getattr(jb, row["cls"]), tmp_path / "config.json"
    untouched = json.dumps(given(row))
    if row["via"] == "from_json_file":
        path.write_text(row["json"])
        config = cls.from_json_file(path)
    else:
        config = cls.from_dict(given(row))
    held = config.to_dict()
    for field, value in row["attributes"].items():
        assert held[field] == expected_value(field, value, row), field
    assert json.dumps(given(row)) == untouched
    assert cls.from_dict(held) == config
    config.to_json_file(path)
    assert cls.from_json_file(path) == config


def model(params, x):
    hidden = [x, x * params["w"][None]]
    return {"logits": hidden[1], "hidden": hidden}


def adaptor(batch, outputs):
    return outputs


def stage_of_error(row) -> str:
    """Runs one step with a config and returns the stage that refuses it, or ``"none"``."""
    stage = "config"
    try:
        config = getattr(jb, row["cls"]).from_dict({**given(row), **_quiet(row)})
        stage = "distiller"
        pair = {"TrainingConfig": jb.TrainingConfig(**_quiet()), "DistillationConfig": None}
        pair["DistillationConfig"] = jb.DistillationConfig()
        pair[row["cls"]] = config
        models = [(model, {"w": jnp.ones(4)}) for _ in range(2)]
        distiller = jb.GeneralDistiller(*pair.values(), *models, adaptor, adaptor)
        stage = "train"
        batches = [{"x": np.ones((2, 4), np.float32)}]
        _, history = distiller.train(optax.sgd(0.1), batches, num_epochs=1)
        assert np.isfinite(history["total_loss"]).all()
    except jb.UsageError:
        return stage
    return "none"


def _quiet(row=None) -> dict:
    if row is not None and row["cls"] != "TrainingConfig":
        return {}
    return {"output_dir": None, "progress": False}


@pytest.mark.parametrize("index", range(len(REFUSED)))
def test_what_textbrewer_refuses_is_refused_no_later(index: int):
    row, latest = REFUSED[index], REFUSED[index]["stage"]
    why = CLAIMS[f"config/errors[{index}]"].why
    if why:
        assert stage_of_error(row) == "none"
    else:
        assert stage_of_error(row) in STAGES[: STAGES.index(latest) + 1]


def test_the_setup_of_refused_rows_is_accepted():
    """Otherwise :func:`stage_of_error` might report an error of its own setup."""
    assert stage_of_error({"cls": "TrainingConfig", "kwargs": {}}) == "none"
    match = {"layer_T": 0, "layer_S": 0, "feature": "hidden", "loss": "hidden_mse", "weight": 1}
    kwargs = {
        "temperature_scheduler": ["flsw", 1, 1],
        "kd_loss_weight_scheduler": "linear_decay",
        "intermediate_matches": [match, {**match, "proj": ["linear", 4, 4]}],
    }
    assert stage_of_error({"cls": "DistillationConfig", "kwargs": kwargs}) == "none"


def test_all_rows_are_accounted_for():
    assert (len(ACCEPTED), len(REFUSED)) == (14, 24)
    assert {row["stage"] for row in REFUSED} == set(STAGES)
    for row in ({"fp16": True}, {"temperature_scheduler": ["constant"]}):
        assert sum(given(refused) == row for refused in REFUSED) == 1
    for cls in (jb.TrainingConfig, jb.DistillationConfig):
        defaults = [
            row["attributes"] for row in ACCEPTED if (row["cls"], given(row)) == (cls.__name__, {})
        ]
        assert len(defaults) == 1
        assert cls().to_dict().keys() > defaults[0].keys()
