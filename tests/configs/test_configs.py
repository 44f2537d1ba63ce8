"""Configs: TextBrewer's fields, defaults and files; frozen; lossless; bad input named."""

import dataclasses
import json

import pytest

import jaxbrewer as jb

PAGE_MATCHES = [
    {"layer_T": 0, "layer_S": 0, "feature": "hidden", "loss": "hidden_mse", "weight": 1,
     "proj": ["linear", 384, 768]},
    {"layer_T": [4, 8], "layer_S": [1, 2], "feature": "hidden", "loss": "nst", "weight": 1},
    {"layer_T": 12, "layer_S": 3, "feature": "hidden", "loss": "hidden_mse", "weight": 0.5,
     "proj": ["relu", 384, 768, {"lr": 1e-3}]},
]  # fmt: skip


def test_defaults_are_textbrewers():
    training = {
        "gradient_accumulation_steps": 1, "ckpt_frequency": 1, "ckpt_epoch_frequency": 1,
        "ckpt_steps": None, "log_dir": None, "output_dir": "./saved_models", "device": "cuda",
        "fp16": False, "fp16_opt_level": "O1", "data_parallel": False, "local_rank": -1,
    }  # fmt: skip
    distillation = {
        "temperature": 4, "temperature_scheduler": "none", "hard_label_weight": 0,
        "hard_label_weight_scheduler": "none", "kd_loss_type": "ce", "kd_loss_weight": 1,
        "kd_loss_weight_scheduler": "none", "probability_shift": False,
        "intermediate_matches": [], "is_caching_logits": False,
    }  # fmt: skip
    for cls, expected in ((jb.TrainingConfig, training), (jb.DistillationConfig, distillation)):
        defaults = cls().to_dict()
        assert {field: defaults[field] for field in expected} == expected


@pytest.mark.parametrize(
    "config",
    [
        jb.TrainingConfig(ckpt_steps=3, output_dir=None, log_dir="logs", fp16=True),
        jb.DistillationConfig(
            temperature={"schedule": "linear_schedule", "init_value": 8, "end_value": 1,
                         "transition_steps": 10},
            temperature_scheduler=["flsw", 1, 2],
            kd_loss_weight_scheduler="linear_decay",
            hard_label_weight_scheduler={"schedule": "constant_schedule", "value": 0.5},
            intermediate_matches=PAGE_MATCHES,
        ),
    ],
    ids=["training", "distillation"],
)  # fmt: skip
def test_round_trips_lose_nothing(config, tmp_path):
    cls = type(config)
    assert cls.from_dict(config.to_dict()) == config
    assert cls.from_dict(json.loads(config.to_json())) == config
    config.to_json_file(tmp_path / "config.json")
    assert cls.from_json_file(tmp_path / "config.json") == config


def test_building_touches_nothing(tmp_path, monkeypatch):
    """TextBrewer: a config that made its directory."""
    monkeypatch.chdir(tmp_path)
    jb.TrainingConfig(log_dir="logs")
    assert not list(tmp_path.iterdir())


def test_configs_and_their_sources_do_not_change():
    """Lesson B.7, 50: ``{}`` was appended to the user's ``proj`` list."""
    given = json.loads(json.dumps(PAGE_MATCHES))
    config = jb.DistillationConfig(intermediate_matches=given)
    assert given == PAGE_MATCHES
    given[0]["proj"].append("later")
    given.clear()
    assert config.to_dict()["intermediate_matches"][0]["proj"] == ["linear", 384, 768]
    with pytest.raises(dataclasses.FrozenInstanceError):
        config.temperature = 2


def test_none_in_a_json_file_is_the_default(tmp_path):
    """Lesson B.1, 2: ``"none"`` was compared by identity and refused."""
    (tmp_path / "c.json").write_text('{"temperature_scheduler": "none"}')
    assert jb.DistillationConfig.from_json_file(tmp_path / "c.json") == jb.DistillationConfig()


def test_functions_stay_and_refuse_to_become_json():
    config = jb.DistillationConfig(kd_loss_weight_scheduler=lambda step: 1.0)
    assert jb.DistillationConfig.from_dict(config.to_dict()) == config
    with pytest.raises(jb.UsageError, match="register_new"):
        config.to_json()


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"ckpt_freqency": 2}, "did you mean 'ckpt_frequency'"),
        ({"gradient_accumulation_steps": 0}, "gradient_accumulation_steps .* >= 1, got 0"),
        ({"ckpt_steps": 0}, "ckpt_steps .* got 0"),
        ({"ckpt_steps": 2.5}, "ckpt_steps"),
        ({"ckpt_epoch_frequency": True}, "ckpt_epoch_frequency"),
        ({"fp16_opt_level": "O4"}, "fp16_opt_level .* 'O3'"),
        ({"device": "abacus"}, "device"),
        ({"output_dir": 3}, "output_dir"),
        ({"seed": -1}, "seed"),
        ({"fp16": "yes"}, "fp16"),
        ({"fp16": 2}, "fp16 must be true or false, got 2"),
    ],
)
def test_bad_training_configs_name_the_field(fields, says):
    with pytest.raises(jb.UsageError, match=says) as caught:
        jb.TrainingConfig.from_dict(fields)
    assert "\n" not in str(caught.value)


MATCH = PAGE_MATCHES[0]


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"tempreature": 2}, "did you mean 'temperature'"),
        ({"temperature": 0}, "positive number, got 0"),
        ({"temperature": float("nan")}, "temperature"),
        ({"temperature": "warm"}, "temperature"),
        ({"temperature_scheduler": None}, "temperature_scheduler None"),
        ({"temperature_scheduler": "flws"}, "did you mean 'flsw'"),
        ({"temperature_scheduler": ["flsw", {"gamma": 1}]}, "'flsw' needs 'beta', got"),
        ({"kd_loss_type": "cee"}, "did you mean 'ce'"),
        ({"kd_loss_type": {"loss": "jds", "beta": 0.1}}, "kd_loss_type 'jds' .*did you mean 'jsd'"),
        ({"kd_loss_type": {"loss": "jsd", "bta": 0.1}},
         "kd_loss_type 'jsd' has no parameter 'bta': did you mean 'beta'"),
        ({"kd_loss_type": {"loss": "dkd", "labels": 1}},
         "has no parameter 'labels': Allowed: 'alpha', 'beta'"),
        ({"kd_loss_type": {"loss": "kl", "beta": 0.1}},
         "'kl' has no parameter 'beta': it takes none"),
        ({"kd_loss_type": {"beta": 0.1}}, "needs the key 'loss'"),
        ({"intermediate_matches": [{**PAGE_MATCHES[0], "loss": {"loss": "rkd", "angel": 1}}]},
         r"\[0\]: IntermediateMatch.loss 'rkd' has no parameter 'angel': did you mean 'angle'"),
        ({"kd_loss_weight": float("inf")}, "kd_loss_weight"),
        ({"kd_loss_weight": 10**400}, "kd_loss_weight must be a finite number"),
        ({"kd_loss_weight_scheduler": "linear"}, "kd_loss_weight_scheduler 'linear'"),
        ({"hard_label_weight_scheduler": {"init_value": 1}}, "'schedule'"),
        ({"probability_shift": "yes"}, "probability_shift"),
        ({"intermediate_matches": 7}, "a list"),
        ({"intermediate_matches": [7]}, r"intermediate_matches\[0\].* mapping"),
        ({"intermediate_matches": [{**MATCH, "loss": "hiden_mse"}]}, "did you mean 'hidden_mse'"),
        ({"intermediate_matches": [{**MATCH, "feature": "hiden"}]}, "did you mean 'hidden'"),
        ({"intermediate_matches": [{**MATCH, "wieght": 1}]}, "did you mean 'weight'"),
        ({"intermediate_matches": [MATCH, {**MATCH, "proj": ["linear", 4]}]}, r"\[1\].*proj"),
        ({"intermediate_matches": [{**MATCH, "proj": ["gelu", 4, 6]}]}, r"proj\[0\] 'gelu'"),
        ({"intermediate_matches": [{**MATCH, "proj": 4}]}, r"\[0\].*proj must be"),
        ({"intermediate_matches": [{**MATCH, "layer_T": [0, 1]}]}, "both be ints or both lists"),
        ({"intermediate_matches": [{**MATCH, "layer_T": [0, 1], "layer_S": [0, 1]}]},
         "layer_T must be an int for the loss 'hidden_mse'"),
        ({"intermediate_matches": [{**MATCH, "loss": "nst"}]}, "a list of 2 layers"),
        ({"intermediate_matches": [{k: MATCH[k] for k in MATCH if k != "weight"}]}, "'weight'"),
    ],
)  # fmt: skip
def test_bad_distillation_configs_name_the_field(fields, says):
    with pytest.raises(jb.UsageError, match=says) as caught:
        jb.DistillationConfig.from_dict(fields)
    assert "\n" not in str(caught.value)


def test_files_that_cannot_be_read(tmp_path):
    with pytest.raises(jb.UsageError, match=r"nowhere\.json"):
        jb.TrainingConfig.from_json_file(tmp_path / "nowhere.json")
    (tmp_path / "broken.json").write_text("{")
    for content in (b"{", b"\xff"):
        (tmp_path / "broken.json").write_bytes(content)
        with pytest.raises(jb.UsageError, match=r"broken\.json is not valid JSON"):
            jb.TrainingConfig.from_json_file(tmp_path / "broken.json")


def test_new_names_become_usable_in_configs():
    """Lesson B.7, 51: the key of ``register_new`` was misspelt."""
    for key in ("match_loss", "match_Loss"):
        jb.register_new(key, "own", lambda state_S, state_T, mask=None: 0.0)
        jb.DistillationConfig(intermediate_matches=[{**MATCH, "loss": "own"}])
        del jb.MATCH_LOSS_MAP["own"]
    with pytest.raises(jb.UsageError, match="did you mean 'match_loss'"):
        jb.register_new("match_los", "own", len)
    with pytest.raises(jb.UsageError, match="needs a function"):
        jb.register_new("kd_loss", "own")


def test_losses_with_parameters_survive_json(tmp_path):
    match = {**PAGE_MATCHES[0], "loss": {"loss": "minilm_relation", "heads": 4}}
    config = jb.DistillationConfig(
        kd_loss_type={"loss": "jsd", "beta": 0.1}, intermediate_matches=[match]
    )
    config.to_json_file(tmp_path / "c.json")
    assert jb.DistillationConfig.from_json_file(tmp_path / "c.json") == config
    assert config.to_dict()["kd_loss_type"] == {"loss": "jsd", "beta": 0.1}
    assert config.intermediate_matches[0].name.startswith("hidden_minilm_relation_")


def test_parameters_of_a_users_loss_are_read_off_it():
    def own(state_S, state_T, mask=None, *, power, scale=1.0):
        return 0.0

    jb.register_new("match_loss", "own", own)
    try:
        jb.IntermediateMatch(0, 0, 1, {"loss": "own", "power": 2}, "hidden")
        with pytest.raises(jb.UsageError, match="'exponent': Allowed: 'power', 'scale'"):
            jb.IntermediateMatch(0, 0, 1, {"loss": "own", "exponent": 2}, "hidden")
        jb.register_new("match_loss", "own", lambda state_S, state_T, **anything: 0.0)
        jb.IntermediateMatch(0, 0, 1, {"loss": "own", "exponent": 2}, "hidden")
    finally:
        del jb.MATCH_LOSS_MAP["own"]
