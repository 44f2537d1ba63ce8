"""Weights that do not move: by path, glob and class, in any kind of model."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

import jaxbrewer as jb
from tests.toys import CLASSES, LinenMLP, logits_adaptor, mlp, mlp_params, quiet, vector_data

BATCH = vector_data(8)
X = BATCH["x"]


@jax.tree_util.register_dataclass
@dataclasses.dataclass
class Layer:
    """As an Equinox module: a dataclass that is a pytree."""

    weight: jax.Array
    bias: jax.Array | None = None

    def __call__(self, x):
        return x @ self.weight + (0 if self.bias is None else self.bias[None])


def layers(first, second, x):
    return second(jnp.tanh(first(x)))


def kernels(seed):
    params = mlp_params(3, seed=seed)
    return params["first"]["kernel"], params["second"]["kernel"]


def as_list(params, x):
    return jnp.tanh(x @ params[0]) @ params[1]["kernel"]


class LoRA(nnx.Module):
    def __init__(self, seed=0):
        rngs = nnx.Rngs(seed)
        self.first = nnx.LoRALinear(4, 3, lora_rank=2, rngs=rngs)
        self.second = nnx.Linear(3, CLASSES, rngs=rngs)

    def __call__(self, x):
        return self.second(jnp.tanh(self.first(x)))


def train(student):
    distiller = jb.BasicDistiller(
        quiet(),
        jb.DistillationConfig(hard_label_weight=0.5),
        (mlp, mlp_params(8, seed=1)),
        student,
        logits_adaptor,
        logits_adaptor,
    )
    return distiller.train(optax.adam(1e-2), [BATCH], num_steps=3)


def moved(before, after):
    """The paths of the leaves that differ."""
    pairs = zip(jax.tree_util.tree_leaves_with_path(before), jax.tree.leaves(after), strict=True)
    return {
        jax.tree_util.keystr(path, simple=True, separator=".")
        for (path, old), new in pairs
        if not np.array_equal(old, new)
    }


FIRST, SECOND = kernels(0)
MODELS = {
    "dict": ((mlp, mlp_params(3)), ["first", "first.kernel", "first.bias"]),
    "list": ((as_list, [FIRST, {"kernel": SECOND}]), ["0", "0", None]),
    "dataclass": (
        (lambda params, x: layers(*params, x), (Layer(FIRST), Layer(SECOND, jnp.zeros(CLASSES)))),
        ["0", "0.weight", None],
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("kind", MODELS)
def test_frozen_weights_of_any_pytree_stay_and_the_rest_moves(kind):
    (function, params), (prefix, kernel, bias) = MODELS[kind]
    result = train(jb.freeze((function, params), prefix))
    assert jax.tree.structure(result.student) == jax.tree.structure(params)
    changed = moved(params, result.student)
    assert changed
    assert not {path for path in changed if path.startswith(prefix)}
    only = moved(params, train(jb.train_only((function, params), kernel)).student)
    assert only == {kernel}
    if bias is not None:
        assert moved(params, train(jb.train_only((function, params), "*.bias")).student) == {
            "first.bias",
            "second.bias",
        }


def test_frozen_weights_of_a_linen_module_stay():
    module = LinenMLP(3)
    variables = module.init(jax.random.key(0), X)
    result = train(jb.freeze((module, variables), "*kernel"))
    assert moved(variables, result.student) == {"params.first.bias", "params.second.bias"}


@pytest.mark.slow
def test_a_class_of_variables_is_frozen_or_trained_alone():
    def weights(module):
        return nnx.to_pure_dict(nnx.state(module, nnx.Param))

    for choose, kind, expected in (
        (jb.train_only, nnx.LoRAParam, {"first.lora_a", "first.lora_b"}),
        (jb.freeze, nnx.LoRAParam, {"first.kernel", "first.bias", "second.kernel", "second.bias"}),
    ):
        module = LoRA()
        before = jax.tree.map(np.asarray, weights(module))
        assert train(choose(module, kind)).student is module
        names = {path.replace("lora.", "") for path in moved(before, weights(module))}
        assert names == expected
    several = jb.train_only(LoRA(), nnx.LoRAParam, "second.bias")
    assert several.params["second"].keys() == {"bias"}
    assert jb.freeze(several, "second").params.keys() == {"first"}


def test_a_parameter_without_a_gradient_must_be_frozen():
    def network(params, x):
        return x[:, :3] @ params["kernel"] * params["levels"]

    student = network, {"kernel": jnp.ones((3, CLASSES)), "levels": jnp.int32(2)}
    with pytest.raises(jb.UsageError, match=r"'levels' is int32, .*freeze\(student, 'levels'\)"):
        train(student)
    assert moved(student[1], train(jb.freeze(student, "levels")).student) == {"kernel"}


def test_a_lora_student_whose_base_moves_is_reported():
    def make(student):
        return jb.BasicTrainer(quiet(), student, logits_adaptor)

    with pytest.warns(UserWarning, match=r"train_only\(student, nnx.LoRAParam\)"):
        make(LoRA())
    make(jb.train_only(LoRA(), nnx.LoRAParam))
    make(jb.freeze(LoRA(), "second"))


def test_outputs_do_not_depend_on_what_is_frozen():
    model = jb.as_model(LoRA())
    expected = model.apply(model.params, model.state, {"x": X}, train=False)[0]
    frozen = jb.freeze(model, "first.[kb]*", "second")
    outputs, _ = frozen.apply(frozen.params, frozen.state, {"x": X}, train=False)
    np.testing.assert_array_equal(outputs, expected)


@pytest.mark.parametrize(
    ("choose", "filters", "says"),
    [
        (jb.freeze, ["frist"], "No weights to freeze under 'frist': did you mean 'first'"),
        (jb.freeze, ["first", "*.scale"], r"No weights to freeze under '\*.scale'"),
        (jb.train_only, [nnx.BatchStat], "No weights to train of class BatchStat: .*'LoRAParam'"),
        (jb.train_only, [], r"train_only\(\) needs a path"),
        (jb.freeze, [3], "chosen by paths, globs or classes, got int"),
    ],
)
def test_filters_that_match_nothing_are_refused(choose, filters, says):
    with pytest.raises(jb.UsageError, match=says):
        choose(LoRA(), *filters)


def test_a_function_has_no_classes_of_weights():
    with pytest.raises(jb.UsageError, match="only NNX modules have classes of weights"):
        jb.train_only((mlp, mlp_params(3)), nnx.LoRAParam)


@pytest.mark.slow
def test_frozen_weights_cost_no_gradient_and_count_in_no_norm():
    params = mlp_params(3)
    free, frozen = (
        train(model).history["grad_norm"][0]
        for model in ((mlp, params), jb.freeze((mlp, params), "first"))
    )
    assert frozen < free
