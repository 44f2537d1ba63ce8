"""A run resumes only under the settings, models and data that it started with."""

import dataclasses
import functools
import json
import shutil

import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxbrewer as jb
from jaxbrewer.run.optimizer_settings import closure_settings
from tests.pages import page_block
from tests.recovery import Crash, Crashing, left_behind
from tests.recovery.test_resume import DATA, SOFT, TEACHER, plain
from tests.toys import logits_adaptor, mlp, mlp_params, quiet


@pytest.fixture(scope="module")
def begun(tmp_path_factory):
    """A run that was interrupted after step 7."""
    place = tmp_path_factory.mktemp("begun")
    with pytest.raises(Crash):
        plain(place)(batch_postprocessor=Crashing(7))
    return place


def resume(place, *, optimizer=None, epochs=4, loader=None, cls=jb.BasicDistiller, **parts):
    distill, teacher = parts.pop("distill", SOFT), parts.pop("teacher", TEACHER)
    config = quiet(**{"output_dir": place / "run", "resume": True, **parts})
    student = (mlp, mlp_params(3))
    distiller = cls(config, distill, teacher, student, logits_adaptor, logits_adaptor)
    loader = loader or jb.ArrayLoader(DATA, 8, seed=3)
    return distiller.train(optimizer or optax.adam(1e-2), loader, num_epochs=epochs)


OTHER = {
    "temperature": (
        {"distill": dataclasses.replace(SOFT, temperature=4)},
        "distillation.temperature was 2 and is 4",
    ),
    "seed": ({"seed": 1}, "training.seed was 0 and is 1"),
    "precision": ({"fp16": True}, "training.fp16 was false and is true"),
    "length": ({"epochs": 5}, "total_steps was 12 and is 15"),
    "batches": (
        {"loader": jb.ArrayLoader(DATA, 6, seed=3)},
        "steps_per_epoch was 3 and is 4",
    ),
    "distiller": ({"cls": jb.GeneralDistiller}, 'distiller was "BasicDistiller"'),
    "teacher": ({"teacher": (mlp, mlp_params(8, seed=2))}, 'teacher was "[0-9a-f]{16}" and is'),
    "teacher's size": (
        {"teacher": (mlp, mlp_params(9, seed=1))},
        "parameters.teacher was 85 and is 95",
    ),
    "learning rate": (
        {"optimizer": optax.adam(2e-2)},
        r"optimizer: step_size was -0.01 and is -0.02",
    ),
    "schedule": (
        {"optimizer": optax.adam(optax.linear_schedule(1e-2, 0.0, 12))},
        "optimizer: ",
    ),
    "data": (
        {"loader": jb.ArrayLoader({**DATA, "x": DATA["x"] + 1}, 8, seed=3)},
        "does not yield batch 3 of epoch 1 as it did before the interruption: the data differ",
    ),
    "order": (
        {"loader": jb.ArrayLoader(DATA, 8, seed=4)},
        "does not yield batch 3 of epoch 1 as it did before the interruption",
    ),
}


@pytest.mark.parametrize(("parts", "says"), OTHER.values(), ids=OTHER)
def test_the_message_names_what_differs(parts, says, begun):
    with pytest.raises(jb.UsageError, match=says) as error:
        resume(begun, **parts)
    assert len(str(error.value).splitlines()) == 1


def test_the_message_in_the_page_is_the_message(begun):
    changed = dataclasses.replace(SOFT, temperature=4)
    with pytest.raises(jb.UsageError) as error:
        resume(begun, distill=changed, optimizer=optax.adam(2e-2))
    page = page_block("reliability.md", "output_dir 'runs/mine'").replace("\n", " ")
    assert str(error.value) == page.replace("runs/mine", str(begun / "run"))


@pytest.mark.slow
def test_force_resume_continues_and_replaces_the_saved_settings(tmp_path):
    with pytest.raises(Crash):
        plain(tmp_path)(batch_postprocessor=Crashing(7))
    changed = {"distill": dataclasses.replace(SOFT, temperature=4), "epochs": 5}
    other = jb.ArrayLoader({**DATA, "x": DATA["x"] + 1}, 8, seed=3)
    history = resume(tmp_path, loader=other, force_resume=True, **changed).history
    assert len(history["step"]) == 15
    saved = json.loads((tmp_path / "run" / "config.json").read_text())
    assert saved["distillation"]["temperature"] == 4
    assert len(resume(tmp_path, loader=other, **changed).history["step"]) == 15


@pytest.mark.slow
def test_settings_that_change_no_number_may_differ(begun, tmp_path):
    shutil.copytree(begun, tmp_path / "copy")
    resume(tmp_path / "copy", keep_last=1, log_dir=tmp_path / "elsewhere", ckpt_frequency=3)
    assert left_behind(tmp_path / "copy" / "run")["checkpoints"] == [12]


@pytest.mark.slow
def test_resume_needs_a_directory_and_starts_a_run_in_an_empty_one(tmp_path):
    with pytest.raises(jb.UsageError, match="needs the output_dir"):
        resume(tmp_path, output_dir=None)
    assert len(resume(tmp_path, epochs=1).history["step"]) == 3
    again = resume(tmp_path, epochs=1)  # a run that has ended
    assert len(again.history["step"]) == 3
    (tmp_path / "run" / "manifest.json").write_text("{")
    with pytest.raises(jb.UsageError, match="manifest.json is not valid JSON.*overwrite=True"):
        resume(tmp_path, epochs=1)
    resume(tmp_path, epochs=1, resume=False, overwrite=True)


@pytest.mark.slow
def test_another_version_of_a_package_is_a_warning(begun, tmp_path, monkeypatch):
    shutil.copytree(begun, tmp_path / "copy")
    manifest = tmp_path / "copy" / "run" / "manifest.json"
    content = json.loads(manifest.read_text())
    manifest.write_text(json.dumps({**content, "jax": "0.9.9", "optax": "0.2.0"}))
    with pytest.warns(UserWarning, match="started with jax 0.9.9, now .*, optax 0.2.0"):
        resume(tmp_path / "copy", optimizer=optax.adam(1e-2, eps=1e-7))


@pytest.mark.slow
def test_a_generator_is_read_again_up_to_the_position_of_the_checkpoint(tmp_path):
    """An iterator is used up; a fresh one of the same batches resumes."""

    def generator():
        for _ in range(4):
            yield from jb.ArrayLoader(DATA, 8, shuffle=False)

    def train(place, **arguments):
        config = quiet(output_dir=place / "run", resume=True, ckpt_steps=2)
        trainer = jb.BasicTrainer(config, (mlp, mlp_params(3)), logits_adaptor)
        return trainer.train(optax.adam(1e-2), generator(), num_steps=9, **arguments)

    expected = train(tmp_path / "unbroken").history["total_loss"]
    with pytest.raises(Crash):
        train(tmp_path / "broken", batch_postprocessor=Crashing(5))
    np.testing.assert_array_equal(train(tmp_path / "broken").history["total_loss"], expected)


def test_closure_settings_distinguish_optimizers():
    made = [
        optax.sgd(0.1),
        optax.sgd(0.2),
        optax.sgd(0.1, momentum=0.9),
        optax.adam(0.1),
        optax.adam(0.1, b1=0.8),
        optax.adam(optax.cosine_decay_schedule(0.1, 10)),
        optax.adam(optax.cosine_decay_schedule(0.1, 11)),
        optax.chain(optax.clip_by_global_norm(1.0), optax.sgd(0.1)),
        optax.masked(optax.sgd(0.1), {"a": True, "b": False}),
        optax.masked(optax.sgd(0.1), {"a": True, "b": True}),
        optax.masked(optax.sgd(0.1), {str(index): True for index in range(40)}),
        optax.masked(optax.sgd(0.1), {str(index): index > 0 for index in range(40)}),
        optax.adam(lambda count: 0.1 / (1 + count)),
    ]
    settings = [json.dumps(closure_settings(rule.update)) for rule in made]
    assert len(set(settings)) == len(made)
    assert json.dumps(closure_settings(optax.adam(0.1, b1=0.8).update)) == settings[4]

    def recursive(depth):
        return recursive(depth - 1) if depth else jnp.zeros(functools.partial(max, 1)(2))

    assert closure_settings(recursive) == {}
