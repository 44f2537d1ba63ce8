"""Objects of other libraries are met with the lines that convert them."""

import re
import types
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from flax.training.train_state import TrainState

import jaxbrewer as jb
from tests.toys import LinenMLP, NnxMLP, mlp_params, vector_data

X = vector_data(4)["x"]
MODULE = LinenMLP(3)
VARIABLES = {"params": mlp_params(3)}


class Transformed(NamedTuple):
    """Haiku's."""

    init: object
    apply: object


def instance(library, name, **attributes):
    cls = types.new_class(name)
    cls.__module__ = f"{library}.models"
    found = cls()
    vars(found).update(attributes)
    return found


FOREIGN = {
    "Hugging Face Flax": instance("transformers", "FlaxBert", module=MODULE, params={}),
    "Keras": instance("keras", "Functional"),
    "Equinox": instance("equinox", "MLP"),
    "Haiku": Transformed(print, print),
    "TrainState": TrainState(0, MODULE.apply, {}, None, None),
    "PyTorch": instance("torch", "Linear"),
}


@pytest.mark.parametrize("library", FOREIGN)
def test_the_message_shows_the_code_for_an_object_of_another_library(library):
    with pytest.raises(jb.UsageError, match=library) as error:
        jb.as_model(FOREIGN[library])
    code = str(error.value).partition(" is given as: ")[2].removesuffix(" (docs/models.md).")
    compile(code, "message", "exec")


@pytest.mark.parametrize(
    ("model", "says"),
    [
        (MODULE, r"LinenMLP holds no weights: give the pair \(module, variables\)"),
        (LinenMLP, "LinenMLP is a class: give an instance"),
        (NnxMLP, "NnxMLP is a class: give an instance"),
        ((LinenMLP, VARIABLES), "LinenMLP is a class: give an instance"),
        ((NnxMLP(3, 4), {}), "The NNX module NnxMLP holds its weights: give it alone"),
        ((FOREIGN["Keras"], {}), r"A pair must be .*, got \(Functional, dict\)"),
        (("bert", {}), r"A pair must be .*, got \(str, dict\)"),
        ("bert", "got str"),
        (None, "got NoneType"),
        ((MODULE, {"weights": 1}), "'params' collection"),
        ((lambda params, x: x, {"activation": jnp.tanh}), "must hold arrays, got .* 'activation'"),
        ((lambda params, x: x, "weights"), "must hold arrays, got str: pass"),
    ],
)
def test_objects_that_are_not_models_are_refused(model, says):
    with pytest.raises(jb.UsageError, match=says):
        jb.as_model(model)


def outputs(model):
    return model.apply(model.params, model.state, {"x": X}, train=False)[0]


def test_bound_modules_and_apply_methods_are_linen_modules():
    expected = outputs(jb.as_model((MODULE, VARIABLES)))
    for model in (MODULE.bind(VARIABLES), (MODULE.apply, VARIABLES)):
        np.testing.assert_array_equal(outputs(jb.as_model(model)), expected)


class Forward(nnx.Module):
    def __init__(self):
        self.layer = nnx.Linear(4, 3, rngs=nnx.Rngs(0))

    def encode(self, x):
        return self.layer(x)


class LinenForward(nn.Module):
    def setup(self):
        self.layer = nn.Dense(3)

    def encode(self, x):
        return self.layer(x)


def test_a_module_without_call_is_run_by_a_named_method():
    module = Forward()
    with pytest.raises(jb.UsageError, match=r"Forward has no method '__call__': .*method='encode'"):
        jb.as_model(module)
    np.testing.assert_array_equal(outputs(jb.from_nnx(module, method="encode")), module.encode(X))
    linen = LinenForward()
    variables = linen.init(jax.random.key(0), X, method="encode")
    with pytest.raises(jb.UsageError, match=re.escape("from_linen(..., method='encode')")):
        jb.as_model((linen, variables))
    np.testing.assert_array_equal(
        outputs(jb.from_linen(linen, variables, method="encode")),
        linen.apply(variables, X, method="encode"),
    )
