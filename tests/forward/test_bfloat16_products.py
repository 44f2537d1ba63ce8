"""Products of bfloat16 in the form that a CPU multiplies: the same numbers, in the right layout."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.extend import core

import jaxbrewer as jb
from jaxbrewer.forward.bfloat16_products import fast_on_cpu
from jaxbrewer.forward.precision import policy_of
from jaxbrewer.step.teachers import make_teacher_step
from tests.toys import logits_adaptor, mlp, mlp_params, vector_data

_CPUINFO = Path("/proc/cpuinfo")
HAS_BFLOAT16 = _CPUINFO.exists() and "avx512_bf16" in _CPUINFO.read_text()
SPECS = {
    "forward": ("nk,km->nm", (6, 4), (4, 5)),
    "gradient of inputs": ("nm,km->nk", (6, 5), (4, 5)),
    "gradient of weights": ("nk,nm->km", (6, 4), (6, 5)),
    "two axes summed": ("bnk,bnm->km", (2, 6, 4), (2, 6, 5)),
    "summed in another order": ("kbn,nbm->km", (4, 2, 6), (6, 2, 5)),
    "scores": ("bqhd,bkhd->bhqk", (2, 6, 3, 4), (2, 5, 3, 4)),
    "context": ("bhqk,bkhd->bqhd", (2, 3, 6, 5), (2, 5, 3, 4)),
    "gradient of keys": ("bhqk,bqhd->bkhd", (2, 3, 6, 5), (2, 6, 3, 4)),
    "gradient of queries": ("bhdq,bhqk->bhdk", (2, 3, 4, 6), (2, 3, 6, 5)),
    "batch axis last": ("kqb,kmb->bqm", (4, 6, 2), (4, 5, 2)),
}


def products_in(jaxpr):
    """All ``dot_general`` equations, also those within calls."""
    for equation in jaxpr.eqns:
        if equation.primitive.name == "dot_general":
            yield equation
        for inner in core.jaxprs_in_params(equation.params):
            yield from products_in(inner)


def operands_of(spec):
    rng = np.random.default_rng(0)
    formula, *shapes = SPECS[spec]
    return formula, [jnp.asarray(rng.normal(size=shape), jnp.bfloat16) for shape in shapes]


@pytest.mark.parametrize("spec", SPECS)
def test_products_of_bfloat16_equal_float64_rounded_once(spec):
    formula, operands = operands_of(spec)
    expected = np.einsum(formula, *(np.asarray(x, np.float64) for x in operands))

    def product(*operands):
        return jnp.einsum(formula, *operands)

    actual = jax.jit(fast_on_cpu(product))(*operands)
    assert actual.dtype == jnp.bfloat16
    half_unit = 2.0**-8
    np.testing.assert_allclose(np.asarray(actual, np.float64), expected, rtol=half_unit, atol=1e-5)


@pytest.mark.parametrize("spec", SPECS)
def test_each_product_has_a_float32_result_and_sums_over_the_last_axes(spec):
    formula, operands = operands_of(spec)
    fast = fast_on_cpu(lambda *operands: jnp.einsum(formula, *operands))
    (product,) = products_in(jax.make_jaxpr(fast)(*operands).jaxpr)
    (summed, _), _ = product.params["dimension_numbers"]
    axes = product.invars[0].aval.ndim
    assert sorted(summed) == list(range(axes - len(summed), axes))
    assert product.outvars[0].aval.dtype == jnp.float32


@pytest.mark.skipif(
    not HAS_BFLOAT16 or jax.default_backend() != "cpu",
    reason="needs a CPU that multiplies bfloat16",
)
def test_a_compiled_weight_gradient_casts_no_operand_to_float32():
    rows = [jnp.ones((256, width), jnp.bfloat16) for width in (128, 64)]
    compiled = {}
    for name, wrap in {"plain": lambda f: f, "fast": fast_on_cpu}.items():
        program = jax.jit(wrap(lambda x, y: jnp.einsum("nk,nm->km", x, y)))
        compiled[name] = program.lower(*rows).compile().as_text()
    assert "f32[256,64]" in compiled["plain"]
    assert "f32[256,64]" not in compiled["fast"]


def test_functions_without_bfloat16_and_calls_outside_of_jit_are_left_alone():
    def function(x):
        assert not only_concrete or not isinstance(x, jax.core.Tracer)
        return x.T @ x

    x = jnp.ones((3, 2))
    only_concrete = False
    plain, fast = (str(jax.make_jaxpr(f)(x)) for f in (function, fast_on_cpu(function)))
    assert fast == plain
    only_concrete = True
    np.testing.assert_array_equal(fast_on_cpu(function)(x), function(x))


def dtypes_of_products(config):
    """Operand dtypes of the products of a teacher and of a student's step, by width."""
    student, teacher = (jb.as_model((mlp, mlp_params(width, seed=width))) for width in (4, 8))
    policy = policy_of(config)
    objective = jb.make_objective(jb.DistillationConfig(temperature=2))
    optimizer = jb.make_optimizer(optax.sgd(0.1), objective)
    state = jb.init_train_state(student, objective, optimizer, precision=policy)
    step = jb.make_train_step(
        student, teacher, objective, optimizer,
        adaptor_S=logits_adaptor, adaptor_T=logits_adaptor, precision=policy,
    )  # fmt: skip
    traced = jax.make_jaxpr(step)(state, teacher.variables, vector_data(4))
    found = {4: set(), 8: set()}
    for equation in products_in(traced.jaxpr):
        shapes = [atom.aval.shape for atom in equation.invars]
        width = 8 if any(8 in shape for shape in shapes) else 4
        found[width] |= {atom.aval.dtype.name for atom in equation.invars}
    return found


@pytest.mark.slow
def test_teacher_products_are_in_half_precision_and_the_students_are_not():
    config = jb.TrainingConfig(output_dir=None, teacher_products="bfloat16")
    assert dtypes_of_products(config) == {4: {"float32"}, 8: {"bfloat16"}}
    plain = jb.TrainingConfig(output_dir=None)
    assert dtypes_of_products(plain) == {4: {"float32"}, 8: {"float32"}}


def test_a_teacher_step_has_the_precision_of_the_teacher():
    teacher = jb.as_model((mlp, mlp_params(8, seed=1)))
    batch = vector_data(4)
    outputs = {}
    for products in (None, "bfloat16"):
        config = jb.TrainingConfig(output_dir=None, teacher_products=products)
        step = make_teacher_step(teacher, logits_adaptor, precision=policy_of(config))
        outputs[products] = np.asarray(jax.jit(step)(teacher.variables, batch).logits[0])
    assert outputs["bfloat16"].dtype == np.float32
    np.testing.assert_allclose(outputs["bfloat16"], outputs[None], atol=0.02)
    assert np.any(outputs["bfloat16"] != outputs[None])
