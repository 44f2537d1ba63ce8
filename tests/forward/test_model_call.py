"""A model gets the batch entries, arguments, mode and keys that its signature names."""

import dataclasses
from collections import namedtuple

import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxbrewer as jb
from jaxbrewer.forward.model_call import ModelCall
from tests.toys import logits_adaptor, mlp, mlp_params, quiet, vector_data

BATCH = {"x": 1, "labels": 2}
Pair = namedtuple("Pair", "x labels")
Graph = namedtuple("Graph", "nodes edges")


@dataclasses.dataclass
class Record:
    x: int
    labels: int


def call(function, batch, args=(), *, train=False, **random):
    return ModelCall(function)(function, batch, dict(args), train=train, **random)


def test_a_mapping_gives_the_entries_that_the_signature_names():
    assert call(lambda x: x, BATCH) == 1
    assert call(lambda **entries: sorted(entries), BATCH) == ["labels", "x"]
    assert call(lambda x, /: x, BATCH) == 1
    assert ModelCall(lambda x, train: x).takes == {"x"}
    assert ModelCall(lambda **entries: entries).takes is None


def test_a_tuple_gives_positional_arguments():
    assert call(lambda x: x, (1, 2)) == 1
    assert call(lambda *items: items, (1, 2)) == (1, 2)
    assert call(lambda rng, *items: (rng, items), (1, 2), rng="key") == ("key", (1, 2))
    assert call(lambda x, train, y: (x, train, y), (1, 2), train=True) == (1, True, 2)
    assert call(lambda x, scale: (x, scale), (1, 2), {"scale": 3}) == (1, 3)
    assert call(lambda x: x, 5) == 5


@pytest.mark.parametrize("batch", [Pair(1, 2), Record(1, 2)])
def test_a_record_gives_its_fields_by_name(batch):
    assert call(lambda labels: labels, batch) == 2
    assert call(lambda labels, x: (x, labels), batch) == (1, 2)


def test_a_record_that_the_signature_does_not_name_is_one_argument():
    graph = Graph(1, 2)
    assert call(lambda graph: graph, graph) is graph
    assert call(lambda graph, labels: (graph, labels), {"graph": graph, "labels": 3})[0] is graph


@pytest.mark.parametrize(
    ("name", "in_training"),
    [("train", True), ("training", True), ("is_training", True), ("deterministic", False)],
)
def test_a_mode_flag_follows_the_mode_unless_an_argument_sets_it(name, in_training):
    function = eval(f"lambda x, {name}: {name}")
    assert call(function, BATCH, train=True) is in_training
    assert call(function, BATCH, train=False) is not in_training
    assert call(function, BATCH, {name: "own"}, train=True) == "own"


def test_keys_are_given_where_the_signature_names_them():
    assert call(lambda x, rng: rng, BATCH) is None
    assert call(lambda x, rng="default": rng, BATCH) == "default"
    assert call(lambda x, rngs=None: rngs, BATCH, rngs="streams") == "streams"


@pytest.mark.parametrize(
    ("function", "batch", "args", "says"),
    [
        (lambda x, cache: x, BATCH, {}, r"requires 'cache', but the batch has 'x', 'labels': add"),
        (lambda x, y, z: x, (1,), {}, r"requires 'y', 'z', but the batch has 1 entries"),
        (lambda x, y: x, 1, {}, r"requires 'y', but the batch has one array"),
        (lambda x, mask: x, Pair(1, 2), {}, r"requires 'mask', but the batch has 'x', 'labels'"),
        (lambda x, *, y: x, {}, {"x": 1}, r"requires 'y', but the batch has no entries"),
        (lambda x: x, BATCH, {"cash": 1}, r"takes no argument 'cash': Allowed: 'x'"),
        (lambda x, cache=0: x, BATCH, {"x": 1}, r"gets 'x' twice"),
    ],
)
def test_arguments_that_do_not_fit_a_signature_are_named(function, batch, args, says):
    with pytest.raises(jb.UsageError, match=says):
        call(function, batch, args)


def test_a_function_without_a_signature_gets_everything():
    assert call(jnp.ufunc(lambda x, y: x + y, 2, 1), (np.ones(2), np.ones(2))).tolist() == [2, 2]
    assert ModelCall(dict).takes is None
    assert call(dict, BATCH) == BATCH


def scaled(params, x, scale):
    return mlp(params, x) * scale


def distiller(teacher=mlp, student=mlp):
    return jb.BasicDistiller(
        quiet(),
        jb.DistillationConfig(hard_label_weight=1),
        (teacher, mlp_params(8, seed=1)),
        (student, mlp_params(3)),
        logits_adaptor,
        logits_adaptor,
    )


def losses(distiller, **args):
    batches = [vector_data(8)]
    return distiller.train(optax.sgd(0.1), batches, num_steps=1, **args).history["total_loss"]


@pytest.mark.slow
def test_an_argument_reaches_the_models_that_take_it():
    plain = losses(distiller())
    np.testing.assert_array_equal(losses(distiller(teacher=scaled), scale=1.0), plain)
    np.testing.assert_array_equal(losses(distiller(student=scaled), scale=1.0), plain)
    assert losses(distiller(teacher=scaled), scale=2.0) != plain


@pytest.mark.slow
def test_args_T_and_args_S_reach_one_model():
    def run(**args):
        return losses(distiller(teacher=scaled, student=scaled), **args)

    plain = run(scale=1.0)
    np.testing.assert_array_equal(run(args_T={"scale": 1.0}, args_S={"scale": 1.0}), plain)
    np.testing.assert_array_equal(run(scale=2.0, args_T={"scale": 1}, args_S={"scale": 1}), plain)
    assert run(scale=1.0, args_T={"scale": 2.0}) != plain


@pytest.mark.parametrize(
    ("args", "says"),
    [
        ({"scle": 1.0}, "No model takes the argument 'scle': did you mean 'scale'"),
        ({}, r"^Teacher: scaled requires 'scale', but the batch has 'labels', 'x'|'x', 'labels'"),
        ({"args_T": {"scle": 1.0}}, "^Teacher: scaled takes no argument 'scle': did you mean"),
        ({"args_T": 1.0, "scale": 1.0}, "args_T must be a dict of keyword arguments, got float"),
        ({"scale": 1.0, "args_S": {"scale": 1.0}}, "^Student: mlp takes no argument 'scale'"),
    ],
)
def test_arguments_that_no_model_takes_are_refused(args, says):
    with pytest.raises(jb.UsageError, match=says):
        losses(distiller(teacher=scaled), **args)


def test_the_mode_and_the_key_of_a_function_follow_the_step():
    seen = []

    def spy(params, x, train, rng):
        seen.append((train, rng is None))
        return mlp(params, x)

    losses(distiller(teacher=spy, student=spy))
    assert set(seen) == {(False, True), (True, False)}
