"""Training through the distillers: loaders, checkpoints, callbacks, run directory, errors."""

import functools

import numpy as np
import optax
import pytest
from flax import nnx

import jaxbrewer as jb
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

CONFIG = jb.DistillationConfig(temperature=2, hard_label_weight=0.5)
TEACHER = (mlp, mlp_params(8, seed=1))
DATA = vector_data(24)
BATCHES = list(jb.ArrayLoader(DATA, 8, shuffle=False))
SGD = optax.sgd(0.1)


def distiller(config=None, distill=CONFIG, cls=jb.BasicDistiller, student=None):
    student = student or (mlp, mlp_params(3))
    return cls(config or quiet(), distill, TEACHER, student, logits_adaptor, logits_adaptor)


def losses(**arguments):
    return distiller().train(SGD, **arguments).history["total_loss"]


class Walked:
    def __iter__(self):
        return iter(BATCHES)


@pytest.mark.slow
@pytest.mark.parametrize(
    "loader",
    [BATCHES, tuple(BATCHES), Walked(), jb.ArrayLoader(DATA, 8, shuffle=False)],
    ids=["list", "tuple", "iterable", "ArrayLoader"],
)
def test_any_loader_trains_alike_by_epochs_and_by_steps(loader):
    expected = losses(dataloader=BATCHES, num_epochs=2)
    np.testing.assert_array_equal(losses(dataloader=loader, num_epochs=2), expected)
    np.testing.assert_array_equal(losses(dataloader=loader, num_steps=6), expected)


def test_a_generator_trains_for_its_length():
    expected = losses(dataloader=BATCHES, num_epochs=1)
    actual = losses(dataloader=(batch for batch in BATCHES), num_steps=3)
    np.testing.assert_array_equal(actual, expected)


@pytest.mark.slow
def test_a_grain_loader_trains_like_an_array_loader():
    import grain

    rows = [{key: value[i] for key, value in DATA.items()} for i in range(24)]
    dataset = grain.MapDataset.source(rows).batch(8)
    expected = losses(dataloader=BATCHES, num_epochs=2)
    np.testing.assert_array_equal(losses(dataloader=dataset, num_epochs=2), expected)
    stream = dataset.repeat().to_iter_dataset()
    np.testing.assert_array_equal(losses(dataloader=stream, num_steps=6), expected)


def test_tuple_batches_are_positional():
    pairs = [(batch["x"], batch["labels"]) for batch in BATCHES]

    def adaptor(batch, outputs):
        return logits_adaptor({"labels": batch[1]}, outputs)

    student = (mlp, mlp_params(3))
    result = jb.BasicDistiller(quiet(), CONFIG, TEACHER, student, adaptor, adaptor).train(
        SGD, pairs, num_epochs=2
    )
    expected = losses(dataloader=BATCHES, num_epochs=2)
    np.testing.assert_allclose(result.history["total_loss"], expected, rtol=1e-6)


def test_batch_postprocessor_and_args_reach_both_models():
    seen = []

    def model(params, x, scale):
        seen.append(scale)
        return mlp(params, x) * scale

    student, teacher = (model, mlp_params(3)), (model, mlp_params(8))
    trained = jb.BasicDistiller(
        quiet(), CONFIG, teacher, student, logits_adaptor, logits_adaptor
    ).train(
        SGD, [{**batch, "raw": ["text"] * 8} for batch in BATCHES], num_epochs=1, scale=2.0,
        batch_postprocessor=lambda batch: {k: v for k, v in batch.items() if k != "raw"},
    )  # fmt: skip
    assert set(seen) == {2.0}
    assert len(trained.history["step"]) == 3


@pytest.mark.slow
def test_a_second_training_starts_from_the_trained_weights():
    """Lesson B.6, 35: a second training with projections raised."""
    batches = list(jb.ArrayLoader(text_data(16), 8, shuffle=False))
    config = jb.DistillationConfig(intermediate_matches=[HIDDEN_MATCH])

    def fresh():
        return jb.GeneralDistiller(
            quiet(), config, Encoder(8, 2, seed=1), Encoder(6, 2), hidden_adaptor, hidden_adaptor
        )

    once, twice = fresh(), fresh()
    expected = once.train(SGD, batches, num_epochs=2).history["total_loss"]
    parts = [twice.train(SGD, batches, num_epochs=1).history["total_loss"] for _ in range(2)]
    np.testing.assert_allclose(np.concatenate(parts), expected, rtol=1e-5)


@pytest.mark.slow
def test_one_config_serves_two_trainings():
    """Lesson B.7, 46: schedules wrote the last weight into the config."""
    config = jb.DistillationConfig(kd_loss_weight_scheduler="linear_decay")
    first, second = (
        distiller(distill=config).train(SGD, BATCHES, num_epochs=1).history for _ in range(2)
    )
    np.testing.assert_array_equal(first["total_loss"], second["total_loss"])


@pytest.mark.slow
def test_each_batch_shape_compiles_once_and_many_shapes_warn():
    traces = []

    def counting(batch, outputs):
        traces.append(1)
        return logits_adaptor(batch, outputs)

    def train(sizes):
        batches = [{key: value[:size] for key, value in DATA.items()} for size in sizes]
        jb.BasicDistiller(
            quiet(), CONFIG, TEACHER, (mlp, mlp_params(3)), logits_adaptor, counting
        ).train(SGD, batches, num_epochs=2)

    train([1, 2, 3])
    assert len(traces) == 3
    with pytest.warns(UserWarning, match="9th different batch shape"):
        train(range(1, 11))


@pytest.mark.slow
def test_projections_with_their_own_rate_train_through_the_distiller():
    match = {**HIDDEN_MATCH, "proj": [*HIDDEN_MATCH["proj"], {"lr": 0.02}]}
    config = jb.DistillationConfig(kd_loss_weight=0, intermediate_matches=[match])
    batches = list(jb.ArrayLoader(text_data(16), 8, shuffle=False))
    result = jb.GeneralDistiller(
        quiet(), config, Encoder(8, 2, seed=1), Encoder(6, 2), hidden_adaptor, hidden_adaptor
    ).train(functools.partial(optax.adam, learning_rate=0.0), batches, num_epochs=5)
    history = result.history["unweighted_hidden_hidden_mse_-1_-1"]
    assert history[-1] < history[0]


def test_nnx_students_keep_their_own_mode():
    student = nnx.Linear(4, 5, rngs=nnx.Rngs(0))
    jb.BasicDistiller(
        quiet(), jb.DistillationConfig(), TEACHER, student, logits_adaptor,
        lambda batch, outputs: {"logits": outputs},
    ).train(SGD, [{"inputs": DATA["x"], **DATA}], num_epochs=1)  # fmt: skip
    assert np.isfinite(student.kernel[...]).all()
