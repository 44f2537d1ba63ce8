"""Loaders without a length, endless ones, data sets of rows, and objects that are no loaders."""

import itertools
import types

import grain
import numpy as np
import optax
import pytest

import jaxbrewer as jb
from jaxbrewer.data.groups import count_batches, count_examples, groups
from tests.data.test_conversion import Frame, Tensor
from tests.toys import logits_adaptor, mlp, mlp_params, quiet, vector_data

BATCHES = list(jb.ArrayLoader(vector_data(24), 8, shuffle=False))


class Streaming:
    """A PyTorch ``DataLoader`` of an ``IterableDataset``, or tf.data: ``len`` raises."""

    def __init__(self, batches=BATCHES, error=TypeError):
        self.batches, self.error = batches, error

    def __len__(self):
        raise self.error("object of type 'IterableDataset' has no len()")

    def __iter__(self):
        return iter(self.batches)


class Endless(Streaming):
    """tf.data after ``repeat()``: its length is infinite."""

    def cardinality(self):
        return np.int64(-1)

    def __iter__(self):
        return itertools.cycle(self.batches)


def dataset_of(module, rows, name="Dataset", **methods):
    """A data set of a library, which yields ``rows``."""
    methods.setdefault("__iter__", lambda self: iter(rows))
    cls = types.new_class(name, (), {}, lambda namespace: namespace.update(methods))
    cls.__module__ = module
    return cls()


def trainer():
    return jb.BasicTrainer(quiet(), (mlp, mlp_params(3)), logits_adaptor)


@pytest.mark.parametrize("error", [TypeError, NotImplementedError])
def test_a_loader_whose_length_raises_is_counted_by_iteration(error):
    assert count_batches(Streaming(error=error)) == 3
    assert count_examples(Streaming(error=error)) == 24
    history = trainer().train(optax.sgd(0.1), Streaming(error=error), num_epochs=2).history
    assert len(history["step"]) == 6


@pytest.mark.parametrize("length", [2, 4])
def test_a_loader_whose_length_is_wrong_is_refused_after_an_epoch(length):
    loader = Streaming()
    loader.__class__ = type("Wrong", (Streaming,), {"__len__": lambda self: length})
    read = groups(loader, 1, num_epochs=2)
    assert len(list(itertools.islice(read, 3))) == 3
    with pytest.raises(jb.UsageError, match=f"3 batches in epoch 0, but its length is {length}"):
        next(read)
    assert len(list(itertools.islice(groups(loader, 1), 7))) == 7


def test_an_endless_loader_needs_num_steps(monkeypatch):
    monkeypatch.setattr("jaxbrewer.data.groups.MOST_COUNTED", 100)
    repeated = grain.MapDataset.source(BATCHES).repeat()
    uncounted = Streaming()
    uncounted.__class__ = type("Uncounted", (Streaming,), {"__iter__": Endless.__iter__})
    for loader in (repeated, Endless(), uncounted):
        with pytest.raises(jb.UsageError, match="is endless, .* pass num_steps"):
            trainer().check(optax.sgd(0.1), loader, num_epochs=1)
        assert trainer().check(optax.sgd(0.1), loader, num_steps=4).total_steps == 4
    assert count_examples(repeated) is None


@pytest.mark.parametrize(
    ("loader", "says"),
    [
        (vector_data(), r"is a dict, which yields its names.*ArrayLoader\(data, batch_size\)"),
        (Frame(x=[1]), "is a Frame, which yields its names"),
        (np.ones((4, 2)), r"is an array \(ndarray\), which yields its rows"),
        (Tensor(np.ones((4, 2))), r"is an array \(Tensor\), which yields its rows"),
        ((np.ones((4, 2)), np.ones(4)), "is a tuple of arrays with different numbers of axes"),
        ("data.csv", "must be an iterable of batches, got str"),
        (None, "must be an iterable of batches, got NoneType"),
        (jb.ArrayLoader, "got ArrayLoader itself: call it"),
        (vector_data, "got vector_data itself: call it"),
        (dataset_of("torch.utils.data.dataset", [], __iter__=None), r"examples \(Dataset\): give"),
    ],
)
def test_objects_that_are_not_loaders_are_refused(loader, says):
    for run in (count_batches, lambda loader: next(groups(loader, 1))):
        with pytest.raises(jb.UsageError, match=says):
            run(loader)


TEXT = {"input_ids": [1, 2, 3], "attention_mask": [1, 1, 1]}


@pytest.mark.parametrize(
    ("module", "remedy"),
    [
        ("datasets.arrow_dataset", "with_format"),
        ("tensorflow.python.data.ops.dataset_ops", "dataset.batch"),
        ("torch.utils.data.dataset", "DataLoader"),
    ],
)
def test_a_data_set_of_examples_is_refused_with_its_librarys_remedy(module, remedy):
    for row in (TEXT, {**TEXT, "label": 1}, {"x": np.ones(3)}, (np.ones(3), 1), {"text": "a"}):
        with pytest.raises(jb.UsageError, match=rf"of single examples \(Dataset\).*{remedy}"):
            next(groups(dataset_of(module, [row]), 1))
    batched = {name: [values, values] for name, values in TEXT.items()}
    assert next(groups(dataset_of(module, [batched]), 1)).batches == (batched,)


def test_classes_that_only_share_a_librarys_name_are_loaders():
    for loader in (
        dataset_of("datasets", [TEXT]),
        dataset_of("torch.utils.data.dataloader", [TEXT], name="DataLoader"),
    ):
        assert next(groups(loader, 1)).batches == (TEXT,)


def test_rows_are_refused_by_a_training():
    rows = [{"x": x, "labels": int(y)} for x, y in zip(*vector_data().values(), strict=True)]
    for num in ({"num_steps": 1}, {"num_epochs": 1}):
        with pytest.raises(jb.UsageError, match="single examples, not batches: its entry 'labels'"):
            trainer().train(optax.sgd(0.1), rows, **num)
