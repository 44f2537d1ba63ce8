"""A teacher on a device of its own: the same numbers, computed beside the student's steps."""

import json

import pytest

import jaxbrewer as jb
from tests.toys import logits_adaptor, mlp, mlp_params, quiet

MODEL = (mlp, mlp_params(3))
TWO = [logits_adaptor] * 2


@pytest.fixture(scope="module")
def seen(forks):
    """The results on 2 fake devices."""
    done = forks.run("-m", "tests.devices.two_devices", JAX_NUM_CPU_DEVICES="2")
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.slow
def test_a_separate_teacher_changes_no_weight_beyond_rounding(seen):
    assert max(seen["gaps"].values()) < 1e-6, seen["gaps"]


@pytest.mark.slow
def test_the_teacher_begins_the_next_batch_during_a_step(seen):
    assert all(seen["beside"]), seen["beside"]


@pytest.mark.slow
def test_a_training_with_a_separate_teacher_resumes_bit_by_bit(seen):
    assert seen["exact"]


@pytest.mark.slow
def test_a_second_training_with_a_separate_teacher_compiles_nothing(seen):
    assert seen["compilations"] == 0


def general(config, teacher=MODEL, **distill):
    return jb.GeneralDistiller(config, jb.DistillationConfig(**distill), teacher, MODEL, *TWO)


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: quiet(teacher_device="npu:1"), r"must be a device such as 'cuda:1' .* 'npu:1'"),
        (lambda: quiet(teacher_device="cpu:"), "must be a device such as"),
        (lambda: quiet(teacher_device=1), "must be a device such as"),
        (lambda: quiet(teacher_device="cpu:1", mesh={"data": 2}), "excludes mesh"),
        (lambda: quiet(teacher_device="cpu:1", data_parallel=True), "excludes data_parallel"),
        (lambda: quiet(teacher_device="cpu:1", cache_dir="cache"), "excludes cache_dir"),
        (lambda: general(quiet(teacher_device="cpu:1")), "'cpu:1', but there are 1 such devices"),
        (lambda: general(quiet(teacher_device="cuda:1")), "JAX finds only cpu devices"),
        (lambda: general(quiet(teacher_device="cpu")), "'cpu', the student's device: name another"),
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
