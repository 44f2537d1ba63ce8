"""Batches of every library become arrays; containers keep their type; others are named."""

import dataclasses
from collections import OrderedDict, UserDict, namedtuple
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import struct

import jaxbrewer as jb
from jaxbrewer.data.conversion import as_arrays
from jaxbrewer.data.position import checksum

Pair = namedtuple("Pair", "x y")
Graph = namedtuple("Graph", "nodes edges globals")


class Tensor:
    """A PyTorch tensor, as far as this package sees it."""

    def __init__(self, values, dtype="torch.float32"):
        self.values, self.dtype = np.asarray(values), dtype
        self.shape = self.values.shape

    def detach(self):
        return self

    def cpu(self):
        return self

    def float(self):
        return Tensor(self.values)

    def __array__(self, dtype=None, copy=None):
        if self.dtype == "torch.bfloat16":
            raise TypeError("Got unsupported ScalarType BFloat16")
        return self.values


class Frame:
    """A data frame of pandas or Polars."""

    def __init__(self, **columns):
        self.data = columns
        self.columns = list(columns)

    def __getitem__(self, name):
        return Column(self.data[name])

    def to_numpy(self):
        return np.stack(list(self.data.values()), axis=1)


class Column:
    def __init__(self, values):
        self.values = values

    def to_numpy(self):
        return np.asarray(self.values)


@dataclasses.dataclass(frozen=True)
class Record:
    x: Any
    y: Any = None

    def __post_init__(self):
        if self.x is None:
            raise ValueError("x is required")


@struct.dataclass
class FlaxRecord:
    x: Any
    name: str = struct.field(pytree_node=False, default="fixed")


@dataclasses.dataclass
class ModelOutput(OrderedDict):
    """As Hugging Face's: a dataclass whose fields that are set are the entries of a dict."""

    logits: Any = None
    hidden_states: Any = None

    def __post_init__(self):
        for field in dataclasses.fields(self):
            if getattr(self, field.name) is not None:
                OrderedDict.__setitem__(self, field.name, getattr(self, field.name))


def test_leaves_of_all_kinds_become_arrays():
    batch = as_arrays(
        OrderedDict(
            t=Tensor([1, 2]),
            numbers=[[1], [2]],
            scalars=[np.int64(1), np.float32(2.5)],
            tensors=[Tensor(1), Tensor(2)],
            objects=np.array([1, 2], object),
            layers=[np.zeros(1), jnp.ones(2)],
            none=None,
            key=jax.random.key(0),
        )
    )
    assert type(batch) is dict
    for name, values in (
        ("t", [1, 2]),
        ("numbers", [[1], [2]]),
        ("scalars", [1, 2.5]),
        ("tensors", [1, 2]),
        ("objects", [1, 2]),
    ):
        assert batch[name].dtype.kind in "if"
        np.testing.assert_array_equal(batch[name], values)
    assert [layer.shape for layer in batch["layers"]] == [(1,), (2,)]
    assert batch["none"] is None
    assert jnp.issubdtype(batch["key"].dtype, jax.dtypes.prng_key)
    assert [float(value) for value in as_arrays((Tensor(1), 2))] == [1, 2]


def test_a_tensor_of_a_dtype_that_numpy_lacks_keeps_it():
    half = as_arrays(
        {"x": Tensor([1.0, 0.1], "torch.bfloat16"), "y": [Tensor(1, "torch.bfloat16")]}
    )
    np.testing.assert_array_equal(half["x"], jnp.bfloat16([1.0, 0.1]))
    assert half["x"].dtype == jnp.bfloat16 == half["y"].dtype


def test_an_array_is_not_copied():
    array = np.arange(3)
    assert as_arrays({"x": array})["x"] is array


def test_tables_become_dicts_of_columns():
    batch = as_arrays(Frame(a=[1, 2], b=np.array([1, 2], object)))
    assert batch["a"].tolist() == batch["b"].tolist() == [1, 2]
    loader = jb.ArrayLoader(Frame(a=[1, 2, 3]), 2, shuffle=False)
    assert [batch["a"].tolist() for batch in loader] == [[1, 2], [3]]


@pytest.mark.parametrize(
    "record",
    [
        Pair([1, 2], Tensor([3])),
        Graph(np.ones((3, 2)), [1, 2], None),
        Record([1, 2], Tensor([3])),
        FlaxRecord([1, 2]),
        ModelOutput(logits=Tensor([1, 2]), hidden_states=(Tensor([1]), Tensor([2]))),
        Record(Pair([1, 2], 3), {"deep": Record([1])}),
    ],
    ids=lambda record: type(record).__name__,
)
def test_records_keep_their_type_and_pass_through_jit(record):
    batch = as_arrays({"record": record})
    passed = jax.jit(lambda batch: batch)(batch)
    for each in (batch["record"], passed["record"]):
        assert type(each) is type(record)
        assert all(hasattr(leaf, "shape") for leaf in jax.tree.leaves(each))
    assert jax.tree.structure(passed) == jax.tree.structure(batch)
    assert type(as_arrays(record)) is type(record)


def test_a_model_output_has_attributes_and_entries():
    output = jax.jit(lambda output: output)(as_arrays(ModelOutput(logits=[1, 2])))
    assert output.logits.tolist() == output["logits"].tolist() == [1, 2]
    assert output.hidden_states is None
    assert list(output) == ["logits"]


@pytest.mark.parametrize("value", [["a", "b"], np.array(["a"]), "a", np.array([None]), {1}, b"a"])
def test_text_and_objects_in_a_batch_are_named(value):
    with pytest.raises(jb.UsageError, match=r"'inputs.text' holds \w+, not numbers"):
        as_arrays({"inputs": {"text": value}})


@pytest.mark.parametrize(
    ("batch", "says"),
    [
        ({"ids": [[1, 2], [1]]}, "'ids' holds lists or arrays of different lengths: pad them"),
        ({"ids": np.array([[1, 2], [1]], object)}, "'ids' holds lists or arrays of different"),
        ({"day": np.array(["2020"], "M8[D]")}, r"'day' holds datetime64\[D\], not numbers"),
        (Record(x="a"), "'x' holds str"),
        (Pair(1, ["a"]), "'y' holds str"),
        ((np.ones(1), "a"), r"'\[1\]' holds str"),
        ({"y": [0, 1, None]}, "'y' holds None, not numbers"),
        ({"x": np.ma.array([1, 2], mask=[0, 1])}, "'x' is a masked array"),
        ({"x": np.ones(2, np.clongdouble)}, "'x' is complex256, which JAX does not have"),
        ("a", "The batch holds str"),
        (Frame(a=["a"]), "'a' holds str"),
    ],
)
def test_unconvertible_entries_are_named(batch, says):
    with pytest.raises(jb.UsageError, match=says):
        as_arrays(batch)


@pytest.mark.parametrize(
    "make",
    [
        lambda values: Record(values),
        lambda values: UserDict(x=values),
        lambda values: Frame(x=values),
        lambda values: {"x": Tensor(values, "torch.bfloat16")},
        lambda values: ModelOutput(logits=values),
    ],
    ids=["dataclass", "mapping", "table", "bfloat16", "model output"],
)
def test_checksums_read_batches_of_every_kind(make):
    assert checksum(make([1, 2])) == checksum(make([1, 2]))
    assert checksum(make([1, 2])) != checksum(make([1, 3]))
