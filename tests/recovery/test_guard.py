"""Steps that are not finite are reported by name, skipped, and never saved."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxbrewer as jb
from jaxbrewer.run.device_scalars import StepScalars
from jaxbrewer.run.nonfinite import NonFiniteGuard, nonfinite_arrays
from tests.recovery import bits, left_behind, saved
from tests.recovery.test_resume import SOFT, TEACHER
from tests.toys import logits_adaptor, mlp, mlp_params, quiet, vector_data

pytestmark = pytest.mark.slow

BATCHES = list(jb.ArrayLoader(vector_data(96), 8, shuffle=False))


def with_bad_value(number, entry="x", value=np.nan):
    """The batches, with one bad value in one of them, counted from 1."""
    batches = [{name: array.copy() for name, array in batch.items()} for batch in BATCHES]
    batches[number - 1][entry][3] = value
    return batches


def train(
    batches,
    *,
    student=None,
    teacher=TEACHER,
    optimizer=None,
    num_epochs=1,
    callback=None,
    **settings,
):
    config = quiet(**{"ckpt_frequency": 4, **settings})
    student = student or (mlp, mlp_params(3))
    distiller = jb.BasicDistiller(config, SOFT, teacher, student, logits_adaptor, logits_adaptor)
    return distiller.train(
        optimizer or optax.adam(1e-2), batches, num_epochs=num_epochs, callback=callback
    )


@pytest.mark.parametrize(
    "number", [5, *(pytest.param(number, marks=pytest.mark.slow) for number in (1, 6, 12))]
)
def test_a_step_that_is_not_finite_ends_the_training_after_the_last_good_checkpoint(
    number, tmp_path
):
    with pytest.raises(jb.NonFiniteError) as error:
        train(with_bad_value(number), output_dir=tmp_path / "run", log_dir=tmp_path / "logs")
    said = str(error.value)
    assert said.startswith(f"Step {number} is not finite: ")
    for term in ("total_loss = nan", "unweighted_kd_loss = nan", "grad_norm = nan"):
        assert term in said
    assert "Of the 4 gradients: student/first/bias, student/first/kernel" in said
    assert "Of the batch: 0/x." in said
    assert "Of the weights" not in said
    last = (number - 1) // 3 * 3
    assert (f"checkpoint of step {last} in" in said) == (last > 0)
    lines = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    assert len(lines) == number
    if last:
        assert left_behind(tmp_path / "run")["checkpoints"][-1] == last
        good = jb.load_student(tmp_path / "run")
        assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(good))
        train(BATCHES, output_dir=tmp_path / "corrected")
        train(BATCHES, output_dir=tmp_path / "run", resume=True, force_resume=True)
        assert left_behind(tmp_path / "run") == left_behind(tmp_path / "corrected")


def test_weights_and_teachers_that_are_not_finite_are_named():
    bad = mlp_params(3)
    bad["second"]["bias"] = bad["second"]["bias"].at[0].set(jnp.inf)
    with pytest.raises(jb.NonFiniteError, match="Of the weights: params/second/bias"):
        train(BATCHES, student=(mlp, bad))
    bad = mlp_params(8, seed=1)
    bad["first"]["kernel"] = bad["first"]["kernel"] * np.nan
    with pytest.raises(jb.NonFiniteError, match="Of the teacher's arrays: params/first/kernel"):
        train(BATCHES, teacher=(mlp, bad))


def test_a_gradient_that_is_not_finite_under_a_finite_loss_is_named():
    """sqrt at 0."""

    def model(params, x):
        return mlp(params["mlp"], x) + jnp.sqrt(params["offset"])

    student = (model, {"mlp": mlp_params(3), "offset": jnp.zeros(())})
    with pytest.raises(jb.NonFiniteError, match="Step 1 .*: grad_norm = inf") as error:
        train(BATCHES, student=student)
    assert "Of the 5 gradients: student/offset." in str(error.value)
    assert "total_loss" not in str(error.value)


def test_labels_out_of_range_are_named_and_not_the_learning_rate():
    """Such a label has no logit, and the loss on labels is NaN."""
    for value in (7, -100):
        with pytest.raises(jb.NonFiniteError) as error:
            train(with_bad_value(1, "labels", value))
        message = str(error.value)
        low, high = min(value, 0), max(value, 4)
        assert "Each label must be the number of one of the student's logits" in message
        assert f"0/labels has values from {low} to {high}" in message
        assert "earning rate" not in message.replace("no learning rate is to blame", "")
    with pytest.raises(jb.NonFiniteError) as error:
        train(with_bad_value(5))
    assert "Each label" not in str(error.value)
    assert "Lower the learning rate" in str(error.value)


@pytest.mark.filterwarnings("ignore:The student's weights are float16:UserWarning")
def test_float16_weights_under_adam_name_eps():
    def half(params):
        return jax.tree.map(lambda leaf: leaf.astype(jnp.float16), params)

    data = vector_data(16)
    data["x"][:, 0] = 0  # a gradient of 0
    batches = list(jb.ArrayLoader(data, 8))
    with pytest.raises(jb.NonFiniteError, match=r"eps of Adam, 1e-8, is 0, .* eps=1e-4"):
        train(batches, student=(mlp, half(mlp_params(3))))
    result = train(
        batches, student=(mlp, half(mlp_params(3))), optimizer=optax.adam(1e-3, eps=1e-4)
    )
    assert np.isfinite(result.history["total_loss"]).all()


def test_a_skipped_step_equals_a_training_without_its_batch(tmp_path):
    expected = train(BATCHES[:4] + BATCHES[5:], output_dir=tmp_path / "without", ckpt_frequency=1)
    settings = {"on_nonfinite": "skip", "output_dir": tmp_path / "run", "ckpt_frequency": 1}
    with pytest.warns(
        UserWarning, match="Step 5 is not finite and was skipped: .*total_loss = nan"
    ) as warned:
        actual = train(with_bad_value(5), **settings)
    assert len(warned) == 1
    assert bits(actual.student) == bits(expected.student)
    history = np.delete(actual.history["total_loss"], 4)
    np.testing.assert_array_equal(history, expected.history["total_loss"])
    assert np.isnan(actual.history["total_loss"][4])
    (one,) = (tmp_path / "run" / "checkpoints").iterdir()
    (other,) = (tmp_path / "without" / "checkpoints").iterdir()
    assert bits(saved(one)) == bits(saved(other))
    with pytest.warns(UserWarning, match="skipped") as warned:
        train([with_bad_value(1)[0]] * 3 + BATCHES, on_nonfinite="skip")
    assert "3 of 15 steps were not finite and were skipped" in str(warned[-1].message)
    assert len(warned) == 2


def test_the_guard_ignores_overflows_under_a_loss_scale():
    """Loss scaling skips them and lowers the scale; this is how it finds its scale."""
    history = train(with_bad_value(5), fp16=True).history
    assert history["skipped_steps"][-1] >= 1
    assert np.isnan(history["total_loss"][4])


def test_flags_are_read_two_steps_late():
    """Or at a checkpoint; the device never waits for the host."""

    class Scalars:
        def read(self):
            read.append(self)
            return StepScalars({})

    read, steps = [], [Scalars() for _ in range(4)]
    guard = NonFiniteGuard({})
    for number, scalars in enumerate(steps, start=1):
        guard.add(number, None, scalars, None)
        assert guard.first_nonfinite() is None
    assert read == steps[:2]
    assert guard.first_nonfinite(lead=0) is None
    assert read == steps


def test_integers_and_keys_count_as_finite():
    tree = {"ids": np.arange(3), "key": jax.random.key(0), "bad": np.array([1.0, np.inf])}
    assert nonfinite_arrays(tree) == ["bad"]
