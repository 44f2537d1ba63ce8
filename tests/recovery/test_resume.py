"""An interrupted and resumed training equals an unbroken one, bit by bit."""

import concurrent.futures
import functools
import itertools
import json
import os
import signal

import optax
import pytest

import jaxbrewer as jb
from tests.recovery import Crash, Crashing, assert_same, bits, left_behind
from tests.toys import (
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

DATA = vector_data(24)
TEACHER = (mlp, mlp_params(8, seed=1))
SOFT = jb.DistillationConfig(temperature=2, hard_label_weight=0.5)


def plain(directory, *, distill=SOFT, loader=None, teacher=TEACHER, student=None, **settings):
    """A distiller between plain functions, and its data: 4 epochs of 3 steps."""
    config = quiet(output_dir=directory / "run", log_dir=directory / "logs", **settings)
    student = student or (mlp, mlp_params(3))
    distiller = jb.BasicDistiller(config, distill, teacher, student, logits_adaptor, logits_adaptor)
    loader = jb.ArrayLoader(DATA, 8, seed=3) if loader is None else loader
    return functools.partial(distiller.train, optax.adam(1e-2), loader, num_epochs=4)


def with_everything(directory, **settings):
    """Dropout, batch statistics, a projection, schedules, clipping, groups across epochs."""
    config = quiet(
        output_dir=directory / "run",
        log_dir=directory / "logs",
        gradient_accumulation_steps=2,
        ckpt_steps=3,
        **settings,
    )
    distill = jb.DistillationConfig(
        kd_loss_weight_scheduler="linear_decay",
        hard_label_weight_scheduler="linear_growth",
        intermediate_matches=[{**HIDDEN_MATCH, "weight_scheduler": "linear_decay"}],
    )
    distiller = jb.GeneralDistiller(
        config,
        distill,
        Encoder(8, 2, seed=1),
        Encoder(6, 2, dropout=0.3, norm=True),
        hidden_adaptor,
        hidden_adaptor,
    )
    rate = optax.warmup_cosine_decay_schedule(0.0, 1e-2, 2, 8)
    loader = jb.ArrayLoader(text_data(20), 4, seed=1)
    return functools.partial(
        distiller.train, optax.adamw(rate), loader, num_steps=8, max_grad_norm=0.5
    )


def half(directory, **settings):
    """float16, its loss scale high enough to overflow a few times."""
    return plain(directory, fp16=True, **settings)


def cached(directory, **settings):
    """The teacher's outputs in memory, by example."""
    distill = jb.DistillationConfig(temperature=2, is_caching_logits=True)
    return plain(directory, distill=distill, **settings)


def grain(directory, **settings):
    """Batches from Grain, read ahead by threads; its own iterator keeps the position."""
    from grain.python import MapDataset, ReadOptions

    source = MapDataset.source(range(24)).shuffle(seed=3)
    rows = source.map(lambda index: {name: array[index] for name, array in DATA.items()})
    loader = rows.batch(8).to_iter_dataset(ReadOptions(num_threads=2, prefetch_buffer_size=4))
    return plain(directory, loader=loader, **settings)


def transport(directory, **settings):
    """Optimal transport between layers, whose weights change during the training."""
    config = quiet(output_dir=directory / "run", log_dir=directory / "logs", **settings)
    distill = jb.DistillationConfig(kd_loss_weight=0, intermediate_matches="emd")
    models = Encoder(6, 3, seed=1), Encoder(6, 2)
    distiller = jb.GeneralDistiller(config, distill, *models, hidden_adaptor, hidden_adaptor)
    loader = jb.ArrayLoader(text_data(24), 8, seed=1)
    return functools.partial(distiller.train, optax.adam(1e-2), loader, num_epochs=4)


def tasks(directory, **settings):
    """Two tasks of different sizes, drawn at random in every step."""
    config = quiet(
        output_dir=directory / "run", log_dir=directory / "logs", ckpt_steps=3, **settings
    )

    def model(params, x):
        return {name: mlp(part, x) for name, part in params.items()}

    def head(name):
        return lambda batch, outputs: logits_adaptor(batch, outputs[name])

    names = ["up", "down"]
    distiller = jb.MultiTaskDistiller(
        config,
        SOFT,
        {name: (mlp, mlp_params(8, seed=index)) for index, name in enumerate(names)},
        (model, {name: mlp_params(3, seed=5 + index) for index, name in enumerate(names)}),
        dict.fromkeys(names, logits_adaptor),
        {name: head(name) for name in names},
    )
    loaders = {
        "up": jb.ArrayLoader(DATA, 8, seed=3),
        "down": jb.ArrayLoader(vector_data(16, seed=1), 4, seed=4),
    }

    def train(batch_postprocessor=None):
        each = batch_postprocessor and dict.fromkeys(names, batch_postprocessor)
        return distiller.train(optax.adam(1e-2), loaders, 12, batch_postprocessors=each)

    return train


@pytest.mark.parametrize(
    ("make", "crashes"),
    [
        (plain, [2, 4, 4, 1]),
        pytest.param(with_everything, [9, 7], marks=pytest.mark.slow),
        (half, [7]),
        (cached, [8]),
        (grain, [5]),
        (tasks, [9, 5]),
        (transport, [7]),
    ],
    ids=["plain", "with everything", "half", "cached", "grain", "tasks", "transport"],
)
def test_a_resumed_training_equals_an_unbroken_one(make, crashes, tmp_path):
    unbroken, broken = tmp_path / "unbroken", tmp_path / "broken"
    expected = make(unbroken)()
    for after in crashes:  # in one run, each time a little further
        with pytest.raises(Crash):
            make(broken, resume=True)(batch_postprocessor=Crashing(after))
    actual = make(broken, resume=True)()
    assert bits(actual.history) == bits(expected.history)
    assert_same(
        left_behind(unbroken / "run", unbroken / "logs"),
        left_behind(broken / "run", broken / "logs"),
    )
    if isinstance(expected.student, dict):
        assert bits(actual.student) == bits(expected.student)
    starts = json.loads((broken / "run" / "manifest.json").read_text())["resumed"]
    assert len(starts) == len(crashes)  # steps without a checkpoint are a run too


def test_sigterm_saves_between_checkpoints_and_the_resumed_run_equals_an_unbroken_one(
    finished_plain, tmp_path, capsys
):
    """The checkpoint that only SIGTERM asked for is removed once there is a later one."""
    batches = itertools.count(1)

    def preempted(batch):
        if next(batches) == 5:
            for _ in range(20):  # some senders signal the process and its group
                os.kill(os.getpid(), signal.SIGTERM)
        return batch

    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(jb.Preempted) as end:
        plain(tmp_path)(batch_postprocessor=preempted)
    assert (end.value.code, end.value.step) == (143, 5)
    assert "step 5 is saved in" in capsys.readouterr().err
    assert signal.getsignal(signal.SIGTERM) is before
    assert sorted(os.listdir(tmp_path / "run" / "checkpoints")) == ["3", "5"]
    plain(tmp_path, resume=True)()
    assert_same(
        left_behind(finished_plain / "run", finished_plain / "logs"),
        left_behind(tmp_path / "run", tmp_path / "logs"),
    )


@pytest.fixture(scope="module")
def finished_plain(tmp_path_factory):
    place = tmp_path_factory.mktemp("plain")
    plain(place)()
    return place


def test_a_callback_is_called_again_only_if_it_had_not_returned(tmp_path):
    calls = []

    def callback(model, step):
        calls.append(step)
        if calls == [3, 6]:
            raise Crash

    with pytest.raises(Crash):
        plain(tmp_path)(callback=callback)
    with pytest.raises(Crash):
        plain(tmp_path, resume=True)(callback=callback, batch_postprocessor=Crashing(4))
    plain(tmp_path, resume=True)(callback=callback)
    assert calls == [3, 6, 6, 9, 12]


def test_missing_rows_of_metrics_are_a_warning(tmp_path):
    """A machine that stops may lose them; a killed process does not."""
    with pytest.raises(Crash):
        plain(tmp_path)(batch_postprocessor=Crashing(7))
    metrics = tmp_path / "run" / "metrics.jsonl"
    metrics.write_text("".join(metrics.read_text().splitlines(keepends=True)[:4]))
    with pytest.warns(UserWarning, match="lacks 2 of the 6 steps .* the first of them step 5"):
        plain(tmp_path, resume=True)()


def test_a_training_outside_the_main_thread_leaves_signals_alone(tmp_path):
    with concurrent.futures.ThreadPoolExecutor() as pool:
        assert len(pool.submit(plain(tmp_path)).result().history["step"]) == 12
