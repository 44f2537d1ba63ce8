"""TextBrewer's faults in schedulers, configs and utilities (B.1, B.7, B.9): none occurs here."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxbrewer as jb
from jaxbrewer.data import augmentation
from jaxbrewer.forward.adaptors import collect
from jaxbrewer.objective.schedules import weight_schedule
from jaxbrewer.objective.temperature_rules import temperature_rule

MATCH = {"layer_T": 0, "layer_S": 0, "feature": "hidden", "loss": "hidden_mse", "weight": 1}
RNG = np.random.default_rng(0)


def test_b2_none_is_compared_by_value():
    fields = {
        f"{name}_scheduler": "".join(["no", "ne"]) for name in ("temperature", "kd_loss_weight")
    }
    assert jb.DistillationConfig.from_dict(fields) == jb.DistillationConfig()


def test_b45_schedules_start_at_step_0_and_replace_the_constant():
    growth, decay = (weight_schedule(f"linear_{way}", 0.5, 4) for way in ("growth", "decay"))
    assert [float(growth(step)) for step in range(4)] == [0, 0.25, 0.5, 0.75]
    assert [float(decay(step)) for step in range(4)] == [1, 0.75, 0.5, 0.25]


@pytest.mark.slow
def test_b46_schedules_leave_the_config_alone():
    config = jb.DistillationConfig(kd_loss_weight_scheduler="linear_decay")
    objective = jb.make_objective(config, total_steps=2)
    logits = collect({"logits": np.ones((2, 3), np.float32)}, "student")
    assert objective(logits, logits, {}, step=2)[1]["weighted_kd_loss"] == 0
    assert config.kd_loss_weight == 1


@pytest.mark.slow
@pytest.mark.parametrize("spec", [["cwsm", 10], ["flsw", 10, 1]])
def test_b47_temperatures_are_positive_and_ignore_padding(spec):
    S, T = RNG.normal(size=(2, 4, 6, 50)).astype(np.float32) * 5
    mask = np.arange(6) < np.array([[6], [4], [2], [1]])
    rule = temperature_rule(spec)
    tau = rule(S, T, 1.0, mask)
    assert (tau > 0).all()
    padded = rule(np.where(mask[..., None], S, 1e3), np.where(mask[..., None], T, -7.0), 1.0, mask)
    np.testing.assert_array_equal(np.asarray(padded)[mask], np.asarray(tau)[mask])


def test_b48_a_temperature_rule_without_its_arguments_is_refused_by_the_config():
    for spec, missing in (("flsw", "'beta' and 'gamma'"), (["flsw", 1], "'gamma'")):
        with pytest.raises(
            jb.UsageError, match=f"temperature_scheduler 'flsw' needs {missing}, got"
        ):
            jb.DistillationConfig(temperature_scheduler=spec)


def test_b49_a_config_survives_writing_and_reading():
    for config in (jb.DistillationConfig(intermediate_matches=[MATCH]), jb.TrainingConfig()):
        assert type(config).from_dict(vars(config)) == config
        assert type(config).from_dict(config.to_dict()) == config


def test_b50_the_users_projection_list_is_not_changed():
    match = {**MATCH, "proj": ["linear", 4, 8]}
    jb.DistillationConfig(intermediate_matches=[match])
    assert match["proj"] == ["linear", 4, 8]


def test_b51_match_losses_can_be_registered():
    jb.register_new("match_loss", "lesson_51", lambda state_S, state_T, mask=None: 0.0)
    assert "lesson_51" in jb.MATCH_LOSS_MAP
    del jb.MATCH_LOSS_MAP["lesson_51"]


@pytest.mark.slow
def test_b52_a_projection_takes_a_users_activation():
    jb.register_new("projection", "lesson_52", jax.nn.gelu)
    config = jb.DistillationConfig(
        intermediate_matches=[{**MATCH, "proj": ["lesson_52", 2, 3]}] * 2
    )
    objective = jb.make_objective(config)
    projections = objective.init_projections(jax.random.key(0))
    student, teacher = (
        collect({"hidden": [np.ones((2, 4, width), np.float32)]}, "student") for width in (2, 3)
    )
    assert objective(student, teacher, projections)[0] > 0
    assert not np.allclose(projections["0"]["kernel"], projections["1"]["kernel"])
    del jb.PROJ_MAP["lesson_52"]


def test_b63_augmentations_return_short_lists():
    rng = np.random.default_rng(0)
    assert augmentation.n_gram_sampling(["a", "b"], [1.0], [5], rng=rng) == ["a", "b"]
    assert augmentation.long_disorder([0, 1, 2, 3], 1, 0.2, rng=rng) == [0, 1, 2, 3]


def test_b64_buffers_do_not_count_as_parameters():
    variables = {"params": {"w": jnp.ones((2, 3))}, "batch_stats": {"mean": jnp.ones(7)}}
    text, root = jb.display_parameters(variables)
    assert root.parameters == 6
    assert root.children["w"].parameters == 6
    assert "mean" not in text


def test_further_views_of_an_array_and_empty_arrays_are_not_shared_parameters():
    base = np.arange(6.0)
    _, root = jb.display_parameters(
        {"whole": base, "part": base[:3], "none": base[:0], "empty": base[:0]}
    )
    assert root.parameters == 9
    assert jb.display_parameters({})[1].parameters == 0
    assert "0.00%" in jb.display_parameters({"empty": np.ones(0)})[0]
