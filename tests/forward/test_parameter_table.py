"""The table of parameters for each kind of model; TextBrewer's own cases are in tests/golden."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from jaxbrewer import LayerNode, UsageError, as_model, display_parameters


class Block(nnx.Module):
    def __init__(self, rngs):
        self.up = nnx.Linear(2, 3, rngs=rngs)
        self.norm = nnx.BatchNorm(3, rngs=rngs)
        self.dropout = nnx.Dropout(0.1, rngs=rngs)


class Tied(nnx.Module):
    def __init__(self, rngs):
        self.embed = nnx.Embed(5, 2, rngs=rngs)
        self.blocks = nnx.List([Block(rngs), Block(rngs)])
        self.again = self.embed

    def __call__(self, ids):
        return self.blocks[0].norm(self.blocks[0].up(self.embed(ids)))


def lines_of(model, **options) -> list[list[str]]:
    text, _ = display_parameters(model, **options)
    return [line.split() for line in text.splitlines()[2:]]


def test_nnx_counts_parameters_alone_in_the_order_they_were_made():
    lines = lines_of(Tied(nnx.Rngs(0)))
    names = [line[0].strip("-:") for line in lines]
    block = ["up", "kernel", "bias", "norm", "scale", "bias"]
    assert names == ["model", "embed", "embedding", "blocks", "0", *block, "1", *block,
                     "again", "embedding(shared)"]  # fmt: skip
    assert lines[0][1] == str(10 + 2 * (6 + 3 + 3 + 3))
    assert lines[-1][1] == "0"


def test_nnx_models_and_their_state_agree():
    model = Tied(nnx.Rngs(0))
    totals = [
        display_parameters(form)[1].parameters
        for form in (model, nnx.state(model, nnx.Param), as_model(model))
    ]
    assert totals == [40] * 3


def test_linen_variables_count_their_parameters():
    boxed = nn.with_partitioning(nn.initializers.ones, ("in", "out"))
    layers = [nn.Dense(3, kernel_init=boxed), nn.BatchNorm(use_running_average=True)]
    module = nn.Sequential(layers)
    variables = module.init(jax.random.key(0), jnp.ones((1, 2)))
    text, root = display_parameters(variables)
    assert list(root.children) == list(variables["params"])
    assert root.parameters == 2 * 3 + 3 + 3 + 3
    assert display_parameters((module, variables))[0] == text
    with pytest.raises(UsageError, match="give the pair"):
        display_parameters(module)


def test_pytrees_of_any_containers():
    layers = [{"w": np.ones(2)}, {"w": np.ones(3), "scale": 1.5}]
    tree = {"layers": layers, "head": (np.ones(4), None)}
    names = [line[0].strip("-:") for line in lines_of(tree)]
    assert names == ["model", "layers", "0", "w", "1", "w", "scale", "head", "0"]
    assert display_parameters(np.ones(3))[1].parameters == 3
    with pytest.raises(UsageError, match="head must be an array, got str"):
        display_parameters({"head": "linear"})


def test_every_part_has_numbers_in_the_tree():
    _, root = display_parameters({"a.b.w": np.ones((4, 2), np.float16)})
    inner = root.children["a"].children["b"]
    assert isinstance(inner, LayerNode)
    assert (inner.fullname, inner.value) == ("a.b", (8, 16 / 2**20))


@pytest.mark.parametrize("level", [-1, 1.0, "1", True])
def test_an_invalid_max_level_is_refused(level):
    with pytest.raises(UsageError, match="max_level"):
        display_parameters({"w": np.ones(2)}, level)
