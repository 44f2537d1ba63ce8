"""Trainings with a cached teacher equal trainings with a live one."""

import dataclasses
import functools

import jax
import numpy as np
import optax
import pytest

import jaxbrewer as jb
from jaxbrewer.cache import Manifest, Storage, build_cache
from jaxbrewer.cache.build import teacher_settings
from jaxbrewer.cache.memory import _Contents
from jaxbrewer.forward.precision import AS_GIVEN
from tests.toys import (
    CLASSES,
    HIDDEN_MATCH,
    Encoder,
    hidden_adaptor,
    logits_adaptor,
    mlp,
    mlp_params,
    quiet,
    text_data,
    vector_data,
)

pytestmark = pytest.mark.slow

CONFIG = jb.DistillationConfig(temperature=2, hard_label_weight=0.5)
CACHING = jb.DistillationConfig(temperature=2, hard_label_weight=0.5, is_caching_logits=True)
TEACHER = (mlp, mlp_params(8, seed=1))
DATA = vector_data(24)


def loader(size=8, **settings):
    return jb.ArrayLoader(DATA, size, **settings)


def train(config, *, teacher=TEACHER, distill=CONFIG, data=None, epochs=3, **settings):
    adaptor_T = None if teacher is None else logits_adaptor
    distiller = jb.GeneralDistiller(
        config, distill, teacher, (mlp, mlp_params(3)), adaptor_T, logits_adaptor
    )
    data = loader() if data is None else data
    return distiller.train(optax.adam(0.05), data, epochs, **settings).history["total_loss"]


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    directory = tmp_path_factory.mktemp("cache") / "full"
    build_cache(directory, TEACHER, logits_adaptor, loader(24).with_example_ids())
    return directory


def test_any_cache_trains_as_the_live_teacher(cache):
    """In another order and batch size than at the build, and with accumulation."""
    settings = {"gradient_accumulation_steps": 2}
    data = loader(6, seed=5)
    live = train(quiet(**settings), data=data)
    on_disk = quiet(**settings, cache_dir=cache)
    disk = train(on_disk, data=data)
    np.testing.assert_allclose(disk, live, rtol=1e-5)
    np.testing.assert_array_equal(train(on_disk, data=data, teacher=None), disk)
    memory = train(quiet(**settings), data=data, distill=CACHING)
    np.testing.assert_allclose(memory, live, rtol=1e-5)


def test_full_precision_is_bitwise_the_live_teacher(tmp_path):
    """In the batches of the build, against a teacher run by itself."""
    from jaxbrewer.step.teachers import make_teacher_step

    data = list(loader(8, shuffle=False).with_example_ids())
    teacher = jb.as_model(TEACHER)
    teach = jax.jit(make_teacher_step(teacher, logits_adaptor))
    live = [{**batch, "teacher_cache": teach(teacher.variables, batch)} for batch in data]
    build_cache(tmp_path / "cache", TEACHER, logits_adaptor, data)
    config = quiet(cache_dir=tmp_path / "cache")
    expected = train(quiet(), data=live)
    np.testing.assert_array_equal(train(config, data=data, teacher=None), expected)
    np.testing.assert_array_equal(train(quiet(), data=data), expected)  # in the student's program


def test_the_memory_cache_reshuffles_examples_across_batches():
    """Lesson B.4, 18."""
    rows = []

    def adaptor(batch, outputs):
        jax.debug.callback(lambda labels: rows.append(tuple(np.sort(labels))), batch["tag"])
        return logits_adaptor(batch, outputs)

    data = jb.ArrayLoader({**DATA, "tag": np.arange(24)}, 8, seed=3)
    distiller = jb.GeneralDistiller(
        quiet(), CACHING, TEACHER, (mlp, mlp_params(3)), logits_adaptor, adaptor
    )
    distiller.train(optax.sgd(0.1), data, num_epochs=4)
    jax.effects_barrier()
    assert len(set(rows)) == 12
    data.set_epoch(2)
    assert {tuple(np.sort(batch["tag"])) for batch in data} <= set(rows)


def test_the_teacher_runs_later_for_examples_that_the_first_epoch_lacks():
    data = loader(9, drop_last=True)
    live = train(quiet(), data=data, epochs=4)
    memory = train(quiet(), data=data, epochs=4, distill=CACHING)
    np.testing.assert_allclose(memory, live, rtol=1e-5)


def test_caching_works_with_num_steps():
    """Lesson B.4, 21."""
    live = train(quiet(), epochs=None, num_steps=7)
    memory = train(quiet(), epochs=None, num_steps=7, distill=CACHING)
    np.testing.assert_allclose(memory, live, rtol=1e-5)


def test_a_missing_cache_is_built_with_is_caching_logits(tmp_path, capsys):
    config = quiet(cache_dir=tmp_path / "cache")
    with pytest.raises(jb.UsageError, match="holds no teacher cache: .* makes one"):
        train(config)
    built = train(dataclasses.replace(config, progress=True), distill=CACHING)
    assert "teacher cache: the teacher runs once over the data" in capsys.readouterr().err
    assert Manifest.read(tmp_path / "cache").examples == 24
    np.testing.assert_array_equal(train(config, teacher=None), built)


class Drawn:
    """Batches without numbers of examples, drawn anew in each epoch."""

    def __init__(self, *, shuffle=False, augment=False, rows=24):
        self.rng = np.random.default_rng(0)
        self.shuffle, self.augment, self.rows = shuffle, augment, rows

    def __len__(self):
        return 3

    def __iter__(self):
        order = self.rng.permutation(self.rows) if self.shuffle else np.arange(self.rows)
        for rows in order[:24].reshape(3, 8):
            x = vector_data(self.rows)["x"][rows]
            if self.augment:
                x = x + self.rng.normal(size=x.shape).astype(np.float32)
            yield {"x": x, "labels": np.zeros(8, np.int32)}


@pytest.mark.parametrize("kind", ["augment", "rows", "postprocessor"])
def test_caching_warns_where_the_second_epoch_has_other_examples(kind):
    """The cache would repeat the first epoch's augmentation."""
    rng = np.random.default_rng(1)
    data = {"augment": Drawn(augment=True), "rows": Drawn(shuffle=True, rows=48)}
    noise = {"batch_postprocessor": lambda batch: {**batch, "x": batch["x"] * rng.random()}}
    settings = noise if kind == "postprocessor" else {}
    with pytest.warns(UserWarning, match="second epoch of the dataloader holds examples that"):
        train(quiet(), distill=CACHING, data=data.get(kind, Drawn()), epochs=1, **settings)


def test_caching_takes_another_order_in_silence():
    train(quiet(), distill=CACHING, data=Drawn(shuffle=True), epochs=2)
    train(quiet(), distill=CACHING, data=Drawn(), epochs=2)


def test_examples_padded_with_their_batch_are_not_taken_for_changed():
    """Without a mask, an example's content depends on the width of its batch."""
    contents = _Contents()
    for width in (3, 4):
        contents.add({"x": np.ones((2, width))})
    assert not contents.lack({"x": np.zeros((2, 4))})
    masked, mask = _Contents(), np.array([[1, 1, 1, 0]])
    for width in (3, 4):
        masked.add({"x": np.ones((1, width)), "attention_mask": np.ones((1, width), int)})
    assert masked.lack({"x": np.zeros((1, 4)), "attention_mask": mask})
    assert not masked.lack({"x": np.ones((1, 4)), "attention_mask": mask})


class Stopping:
    """A loader that is interrupted before its batch number ``stop``."""

    def __init__(self, stop):
        self.batches, self.stop = list(loader().with_example_ids()), stop

    def __len__(self):
        return len(self.batches)

    def __iter__(self):
        for number, batch in enumerate(self.batches):
            if number == self.stop:
                raise KeyboardInterrupt
            yield batch


@pytest.mark.parametrize("stop", [0, 1, 2])
def test_a_training_resumes_the_cache_that_it_was_interrupted_in(stop, tmp_path):
    settings = {"cache_dir": tmp_path / "cache", "output_dir": tmp_path / "run", "resume": True}
    with pytest.raises(KeyboardInterrupt):
        train(quiet(**settings), distill=CACHING, data=Stopping(stop))
    if stop:
        assert not Manifest.read(tmp_path / "cache").complete
        other = (mlp, mlp_params(8, seed=9))
        with pytest.raises(jb.UsageError, match=r"differs in: teacher \(fingerprint"):
            train(quiet(**settings), distill=CACHING, data=loader(), teacher=other)
    resumed = train(quiet(**settings), distill=CACHING)
    whole = train(quiet(cache_dir=tmp_path / "whole"), distill=CACHING)
    np.testing.assert_array_equal(resumed, whole)


def test_split_batches_are_cached(tmp_path):
    """Lesson B.4, 14."""
    wide = np.concatenate([DATA["x"], DATA["x"] ** 2], axis=1)
    data = [
        {
            "teacher": {"x": wide[rows], "labels": DATA["labels"][rows]},
            "student": {name: array[rows] for name, array in DATA.items()},
            "example_id": rows,
        }
        for rows in np.arange(24).reshape(3, 8)
    ]
    teacher = (mlp, mlp_params(8, features=8, seed=1))
    live = train(quiet(), teacher=teacher, data=data)
    disk = quiet(cache_dir=tmp_path / "cache")
    np.testing.assert_allclose(
        train(disk, teacher=teacher, data=data, distill=CACHING), live, rtol=1e-5
    )
    memory = train(quiet(), teacher=teacher, data=data, distill=CACHING)
    np.testing.assert_allclose(memory, live, rtol=1e-5)


def test_layers_that_matches_need_are_cached(tmp_path):
    match = {**HIDDEN_MATCH, "proj": ["linear", 6, 8]}
    histories = []
    for caching in (False, True):
        distill_config = jb.DistillationConfig(
            intermediate_matches=[match], is_caching_logits=caching
        )
        for config in (quiet(), *([quiet(cache_dir=tmp_path / "cache")] if caching else [])):
            distiller = jb.GeneralDistiller(
                config,
                distill_config,
                Encoder(8, 2, seed=1),
                Encoder(6, 2),
                hidden_adaptor,
                hidden_adaptor,
            )
            data = jb.ArrayLoader(text_data(24), 8)
            histories.append(distiller.train(optax.sgd(0.1), data, 2).history["total_loss"])
    for history in histories[1:]:
        np.testing.assert_allclose(history, histories[0], rtol=1e-5)
    entries = Manifest.read(tmp_path / "cache").layout["entries"]
    assert [entry["name"] for entry in entries if "hidden" in entry["name"]] == ["hidden/2"]


def test_some_of_several_teachers_are_cached(tmp_path):
    teachers = [TEACHER, (mlp, mlp_params(5, seed=2))]
    histories = []
    for paths in (None, [tmp_path / "0", None], [tmp_path / "0", tmp_path / "1"]):
        for absent in (False, True) if paths and paths[1] else (False,):
            distiller = jb.MultiTeacherDistiller(
                quiet(cache_dir=paths), CACHING if paths and not absent else CONFIG,
                None if absent else teachers, (mlp, mlp_params(3)),
                None if absent else logits_adaptor, logits_adaptor,
            )  # fmt: skip
            histories.append(distiller.train(optax.sgd(0.1), loader(), 2).history["total_loss"])
    for history in histories[1:]:
        np.testing.assert_allclose(history, histories[0], rtol=1e-5)


def test_a_top_k_trains_like_all_logits(tmp_path):
    """With all classes, and within the weight of the classes that are not stored."""
    live = train(quiet())
    for k, most in ((CLASSES, 1e-4), (3, 0.15)):
        storage = Storage("top_k", k=k, bits=12, temperatures=(2,))
        path = tmp_path / str(k)
        report = build_cache(
            path, TEACHER, logits_adaptor, loader().with_example_ids(), storage=storage
        ).report
        top_k = train(quiet(cache_dir=path), teacher=None)
        np.testing.assert_allclose(top_k, live, rtol=most)
    assert report["tail"] > 0.05


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"kd_loss_type": "mse"}, "kd_loss_type='mse' needs all of them; ce, kl, "),
        ({"probability_shift": True}, "probability_shift needs that of the label"),
        ({"temperature_scheduler": ["flsw", 1, 1]}, "temperature_scheduler='flsw' needs all"),
    ],
)
def test_losses_that_need_all_logits_are_refused_at_construction(tmp_path, fields, message):
    build_top_k(tmp_path)
    config = jb.DistillationConfig(**fields)
    with pytest.raises(jb.UsageError, match=message):
        jb.GeneralDistiller(
            quiet(cache_dir=tmp_path), config, None, (mlp, mlp_params(3)), None, logits_adaptor
        )


def build_top_k(directory, **settings):
    return build_cache(
        directory, TEACHER, logits_adaptor, loader(24).with_example_ids(),
        storage=Storage("top_k", k=2, **settings),
    )  # fmt: skip


def test_a_top_k_takes_cwsm_and_warns_of_temperatures_that_it_was_not_built_for(tmp_path):
    build_top_k(tmp_path, temperatures=(4,))
    rule = jb.DistillationConfig(temperature_scheduler=["cwsm", 1])
    assert np.isfinite(train(quiet(cache_dir=tmp_path), teacher=None, distill=rule)).all()
    with pytest.warns(UserWarning, match=r"at the temperatures \[4.0\], not at 3: between"):
        train(quiet(cache_dir=tmp_path), teacher=None, distill=jb.DistillationConfig(temperature=3))


def test_the_cache_of_another_teacher_is_refused_at_construction(cache):
    other = (mlp, mlp_params(8, seed=9))
    make = functools.partial(
        jb.GeneralDistiller, model_S=(mlp, mlp_params(3)),
        adaptor_T=logits_adaptor, adaptor_S=logits_adaptor, distill_config=CONFIG,
    )  # fmt: skip
    with pytest.raises(jb.UsageError, match=r"differs in: teacher \(fingerprint"):
        make(quiet(cache_dir=cache), model_T=other)
    half = quiet(cache_dir=cache, fp16=True, half_dtype="bfloat16")
    with pytest.raises(
        jb.UsageError, match=r"precision \('as given' in the cache, '.*bfloat16.*' now"
    ):
        make(half, model_T=TEACHER)
    with pytest.raises(jb.UsageError, match="cache_dir lists 2 directories for 1 teacher"):
        make(quiet(cache_dir=[cache, cache]), model_T=TEACHER)


def test_check_reads_the_cache(cache):
    distiller = jb.GeneralDistiller(
        quiet(cache_dir=cache), CONFIG, None, (mlp, mlp_params(3)), None, logits_adaptor
    )
    assert distiller.check(optax.sgd(0.1), loader(), 2).total_steps == 6
    other = jb.ArrayLoader({**DATA, "x": DATA["x"] + 1}, 8)
    with pytest.raises(jb.UsageError, match="is not the one that the teacher cache"):
        distiller.check(optax.sgd(0.1), other, 2)


def test_example_id_is_not_passed_to_models(cache):
    def greedy(params, **batch):
        assert set(batch) == {"x", "labels"}
        return mlp(params, batch["x"])

    distiller = jb.GeneralDistiller(
        quiet(cache_dir=cache), CONFIG, None, (greedy, mlp_params(3)), None, logits_adaptor
    )
    distiller.check(optax.sgd(0.1), loader(), 1)


def test_a_resumed_training_equals_an_unbroken_one(cache, tmp_path):
    def run(folder, callback=None, **settings):
        config = quiet(output_dir=tmp_path / folder, ckpt_steps=2, cache_dir=cache, **settings)
        distiller = jb.GeneralDistiller(
            config, CONFIG, None, (mlp, mlp_params(3)), None, logits_adaptor
        )
        return distiller.train(optax.adam(0.05), loader(), num_steps=6, callback=callback).student

    def stop(model, step):
        if step == 4:
            raise KeyboardInterrupt

    unbroken = run("unbroken")
    with pytest.raises(KeyboardInterrupt):
        run("broken", stop)
    jax.tree.map(np.testing.assert_array_equal, run("broken", resume=True), unbroken)


def test_arguments_of_the_student_do_not_change_a_cache():
    def scaled(params, x, scale):
        return mlp(params, x) * scale

    model = jb.as_model((scaled, TEACHER[1]))
    settings = teacher_settings(model, AS_GIVEN, {"scale": 2, "cash": 1, "args_S": {"scale": 3}})
    assert settings == teacher_settings(model, AS_GIVEN, {"args_T": {"scale": 2}})
    assert settings["args"] == {"scale": "2"}
