"""Whatever a loader yields becomes a batch of arrays, or is refused by name."""

from collections import OrderedDict, namedtuple

import jax.numpy as jnp
import numpy as np
import pytest

import jaxbrewer as jb
from jaxbrewer.data.batches import as_arrays


class Tensor:
    """What a PyTorch tensor looks like from here."""

    def __init__(self, values):
        self.values = np.asarray(values)

    def detach(self):
        return self

    def cpu(self):
        return self

    def __array__(self, dtype=None, copy=None):
        return self.values


def test_batches_of_all_kinds_become_arrays():
    Pair = namedtuple("Pair", "x y")
    batch = as_arrays(
        OrderedDict(
            t=Tensor([1, 2]),
            numbers=[[1], [2]],
            layers=[np.zeros(1), jnp.ones(2)],
            none=None,
            pair=Pair(1, 2.5),
        )
    )
    assert type(batch) is dict
    np.testing.assert_array_equal(batch["t"], [1, 2])
    np.testing.assert_array_equal(batch["numbers"], [[1], [2]])
    assert [layer.shape for layer in batch["layers"]] == [(1,), (2,)]
    assert batch["none"] is None
    assert [float(value) for value in as_arrays((Tensor(1), 2))] == [1, 2]


@pytest.mark.parametrize("value", [["a", "b"], np.array(["a"]), "a", np.array([None])])
def test_text_in_a_batch_is_named(value):
    with pytest.raises(jb.UsageError, match=r"'inputs.text' holds"):
        as_arrays({"inputs": {"text": value}})
