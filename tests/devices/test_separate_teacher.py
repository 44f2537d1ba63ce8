"""A teacher on devices of its own: the same weights, and outputs ahead of the student's steps."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxbrewer as jb
from jaxbrewer.devices.mesh import DeviceLayout
from jaxbrewer.devices.separate_teacher import SeparateTeacher
from tests.toys import logits_adaptor, mlp, mlp_params, quiet

MODEL = (mlp, mlp_params(3))
TWO = [logits_adaptor] * 2


@pytest.fixture(scope="module")
def seen(forks):
    """The results on 4 fake devices."""
    return forks.results("tests.devices.separate_teacher_on_four", 4)


@pytest.mark.slow
def test_a_separate_teacher_changes_no_bit_of_the_weights(seen):
    assert seen["gaps"] == {"general": 0, "routed": 0}


@pytest.mark.slow
def test_a_teacher_on_several_devices_beside_a_mesh_changes_weights_by_rounding_only(seen):
    assert seen["gap on meshes"] < 1e-6


@pytest.mark.slow
def test_weights_of_teacher_and_student_live_on_their_own_devices(seen):
    assert seen["devices"] == {"teacher": [1], "student": [0]}


@pytest.mark.slow
def test_the_teacher_begins_the_next_batch_before_a_step_is_waited_for(seen):
    assert seen["events"] == [
        *["teacher"] * 3, "step 1", "teacher", "step 2", "teacher", "step 3", "step 4", "step 5"
    ]  # fmt: skip


@pytest.mark.slow
def test_a_training_with_a_separate_teacher_resumes_bit_by_bit(seen):
    assert seen["exact"]


@pytest.mark.slow
def test_a_separate_teacher_compiles_once_for_each_shape_and_nothing_in_a_second_training(seen):
    first, second = seen["compiled"]
    assert first["jit(teacher_without_heads)"] == 2  # the widths of the micro-batches
    assert first["jit(step_with_flags)"] == 1
    assert second == {}


def with_head(head):
    """A SeparateTeacher whose logits are a ``LogitsOf`` with the kernel ``head(params, batch)``."""
    layout = DeviceLayout(device=jax.devices()[0])
    teacher = jb.as_model((lambda params, x: x, {"kernel": jnp.ones((4, 5))}))
    return SeparateTeacher(
        jb.as_model((lambda params, x: {"x": x, "kernel": head(params, x)}, teacher.params)),
        lambda batch, outputs: {"logits": jb.LogitsOf(outputs["x"], outputs["kernel"])},
        jb.make_objective(jb.DistillationConfig()),
        layout,
        layout,
    )


def test_the_head_of_a_separate_teacher_is_placed_once():
    separate = with_head(lambda params, x: 2 * params["kernel"])
    batches = [{"x": np.full((size, 4), size, np.float32)} for size in (2, 3)]
    first, second = (batch["teacher_cache"].logits[0] for batch in separate.place(tuple(batches)))
    assert first.kernel is second.kernel
    np.testing.assert_array_equal(second.logits(), np.full((3, 5), 24.0))


def test_a_head_that_depends_on_the_batch_is_refused():
    separate = with_head(lambda params, x: params["kernel"] + x.mean())
    with pytest.raises(jb.UsageError, match="depends on the batch"):
        separate.place(({"x": np.ones((2, 4), np.float32)},))


def general(config, teacher=MODEL, **distill):
    return jb.GeneralDistiller(config, jb.DistillationConfig(**distill), teacher, MODEL, *TWO)


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: quiet(teacher_device="npu:1"), r"must be a device such as 'cuda:1'.* 'npu:1'"),
        (lambda: quiet(teacher_device="cpu:"), "must be a device such as"),
        (lambda: quiet(teacher_device=1), "must be a device such as"),
        (lambda: quiet(teacher_device=[]), "must be a device such as"),
        (lambda: quiet(teacher_device="cpu:1", cache_dir="cache"), "come from cache_dir"),
        (
            lambda: quiet(teacher_device="cpu:1", mesh={"data": 2}, teacher_rules=[[".", []]]),
            "name several devices",
        ),
        (lambda: general(quiet(teacher_device="cpu:1")), "'cpu:1', but there are 1 such devices"),
        (lambda: general(quiet(teacher_device="cuda:1")), "JAX finds only cpu devices"),
        (lambda: general(quiet(teacher_device="cpu")), "'cpu', the student's device: name another"),
        (lambda: general(quiet(teacher_device=["cpu", "cpu:0"])), "must be different devices"),
        (lambda: general(quiet(teacher_device="cpu:1"), None), "there is no teacher"),
        (
            lambda: general(quiet(teacher_device="cpu:1"), is_caching_logits=True),
            "is_caching_logits runs the teacher before",
        ),
        (
            lambda: jb.BasicTrainer(quiet(teacher_device="cpu:1"), MODEL, logits_adaptor),
            "there is no teacher",
        ),
        (
            lambda: jb.MultiTaskDistiller(
                quiet(teacher_device="cpu:1"), jb.DistillationConfig(), {"a": MODEL}, MODEL,
                *({"a": one} for one in TWO),
            ),
            "MultiTaskDistiller runs its teachers in",
        ),
    ],
)  # fmt: skip
def test_what_excludes_a_separate_teacher_is_refused_at_construction(make, says):
    with pytest.raises(jb.UsageError, match=says) as error:
        make()
    assert "teacher_device" in str(error.value)
    assert str(error.value).isprintable()


def test_a_separate_teacher_of_several_processes_is_refused(monkeypatch):
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    with pytest.raises(jb.UsageError, match="2 processes share the training"):
        general(quiet(teacher_device="cpu:1"))
