"""Optimizers of optax: every transformation trains or is refused; trees of the student's names."""

import inspect
import logging

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

import jaxbrewer as jb
from jaxbrewer.step.state import evaluation_params
from tests.tiers import exhaustive_but
from tests.toys import CLASSES, NnxMLP, cross_entropy, quiet, vector_data

pytestmark = pytest.mark.slow

DATA = vector_data(12)
MATCH = {
    "layer_T": 0, "layer_S": 0, "feature": "hidden", "loss": "hidden_mse", "weight": 1,
    "proj": ["linear", CLASSES, 4],
}  # fmt: skip


def adaptor(batch, outputs):
    return {
        "logits": outputs,
        "hidden": [outputs if outputs.shape[-1] == 4 else outputs[:, None]],
        "losses": cross_entropy(outputs, batch["labels"]),
    }


def teacher_adaptor(batch, outputs):
    return {"logits": outputs, "hidden": [batch["x"][:, None]]}


def build(optimizer, *, matches=(MATCH,), student=None, **settings):
    """``(jitted step that donates its state, first state, teacher's variables, optimizer)``."""
    student = jb.as_model(student or NnxMLP(3, 4))
    teacher = jb.as_model(NnxMLP(6, 4, seed=1))
    objective = jb.make_objective(jb.DistillationConfig(intermediate_matches=matches))
    grouped = jb.make_optimizer(optimizer, objective, student=student, **settings)
    step = jb.make_train_step(
        student, teacher, objective, grouped, adaptor_S=adaptor, adaptor_T=teacher_adaptor
    )
    state = jb.init_train_state(student, objective, grouped)
    return jax.jit(step, donate_argnums=0), state, teacher.variables


def train(optimizer, steps=2, **settings):
    step, state, teacher = build(optimizer, **settings)
    first = jax.tree.map(np.array, state.trainable)
    for _ in range(steps):
        state, metrics = step(state, teacher, DATA)
    return first, state, metrics


def moved(first, state, part):
    return max(
        float(np.abs(a - b).max())
        for a, b in zip(
            jax.tree.leaves(first[part]), jax.tree.leaves(state.trainable[part]), strict=True
        )
    )


# -- every transformation -------------------------------------------------------------------------

SGD = optax.sgd(0.1)
MADE = {
    "add_noise": lambda: optax.add_noise(0.1, 0.5, jax.random.key(0)),
    "apply_every": lambda: optax.apply_every(2),
    "apply_if_finite": lambda: optax.apply_if_finite(SGD, 3),
    "chain": lambda: optax.chain(optax.scale_by_adam(), optax.scale(-0.1)),
    "conditionally_mask": lambda: optax.conditionally_mask(SGD, lambda step: step < 5),
    "conditionally_transform": lambda: optax.conditionally_transform(SGD, lambda step: step < 5),
    "flatten": lambda: optax.flatten(SGD),
    "freeze": lambda: optax.freeze(True),
    "inject_hyperparams": lambda: optax.inject_hyperparams(optax.sgd)(learning_rate=0.1),
    "inject_stateful_hyperparams": lambda: optax.inject_stateful_hyperparams(optax.sgd)(
        learning_rate=0.1
    ),
    "lookahead": lambda: optax.lookahead(SGD, 2, 0.5),
    "masked": lambda: optax.masked(SGD, True),
    "measure_with_ema": lambda: optax.measure_with_ema(optax.tree.norm, 0.9),
    "multi_transform": lambda: optax.multi_transform({"all": SGD}, "all"),
    "named_chain": lambda: optax.named_chain(("first", SGD)),
    "noisy_sgd": lambda: optax.noisy_sgd(0.1, key=jax.random.key(0)),
    "partition": lambda: optax.partition({"all": SGD}, "all"),
    "scale_by_schedule": lambda: optax.scale_by_schedule(optax.constant_schedule(-0.1)),
    "selective_transform": lambda: optax.selective_transform(
        SGD, freeze_mask=lambda params: jax.tree.map(lambda _: False, params)
    ),
    "snapshot": lambda: optax.snapshot("norm", optax.tree.norm),
    "stateless": lambda: optax.stateless(lambda updates, params: updates),
    "stateless_with_tree_map": lambda: optax.stateless_with_tree_map(lambda g, p: -g),
    "trace": lambda: optax.trace(0.9),
    "with_extra_args_support": lambda: optax.with_extra_args_support(SGD),
    "differentially_private_aggregate": lambda: optax.contrib.differentially_private_aggregate(
        1.0, 0.1, key=jax.random.key(0)
    ),
    "dpsgd": lambda: optax.contrib.dpsgd(0.1, 1.0, 0.1, seed=0),
    "mechanize": lambda: optax.contrib.mechanize(SGD),
    "sam": lambda: optax.contrib.sam(SGD, SGD),
    "schedule_free": lambda: optax.contrib.schedule_free(SGD, 0.1),
    "split_real_and_imaginary": lambda: optax.contrib.split_real_and_imaginary(SGD),
}
ARGUMENTS = {
    "learning_rate": 0.1, "weight_decay": 0.1, "step_size": -0.1, "clipping": 1.0, "clip": 1.0,
    "max_delta": 1.0, "max_norm": 1.0, "threshold": 1.0, "decay": 0.9, "max_learning_rate": 1.0,
    "max_backtracking_steps": 3, "max_linesearch_steps": 3, "window_length": 2,
    "init_accumulator_value": 0.1, "init_learning_rate": 0.1, "min_step_size": 1e-6, "f_min": 0.0,
}  # fmt: skip
REFUSED = {
    "lookahead": "lookahead: AttributeError",
    "differentially_private_aggregate": "differentially_private_aggregate: ValueError",
    "dpsgd": "differentially_private_aggregate: ValueError",
    "measure_with_ema": "as those of a measurement have",
    "scale_by_muon": "scale_by_muon: ValueError",
    "sophia": "scale_by_sophia",
}


def transformations():
    for module in (optax, optax.contrib):
        for name, function in vars(module).items():
            if name.startswith("_") or not inspect.isfunction(function):
                continue
            with_result = inspect.signature(function).return_annotation
            if "GradientTransformation" in str(with_result):
                yield name, function


def make(name, function):
    if name in MADE:
        return MADE[name]()
    required = [
        parameter.name
        for parameter in inspect.signature(function).parameters.values()
        if parameter.default is parameter.empty and parameter.kind is not parameter.VAR_KEYWORD
    ]
    return function(**{argument: ARGUMENTS[argument] for argument in required})


EVERY = dict(transformations())
ONE_OF_EACH_KIND = (
    "adamw", "prodigy", "lbfgs", "sam", "multi_transform", "apply_if_finite", *REFUSED
)  # fmt: skip
"""Plain, the weights in its state, a line search, two gradients, labels, conditions, refused."""


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("name", exhaustive_but(ONE_OF_EACH_KIND, sorted(EVERY)))
def test_every_transformation_of_optax_trains_or_is_refused_in_one_line(name, caplog):
    caplog.set_level(logging.CRITICAL)
    with jax.numpy_rank_promotion("allow"):  # some of optax broadcasts
        trains_or_is_refused(name, make(name, EVERY[name]))


def trains_or_is_refused(name, optimizer):
    if name in REFUSED:
        with pytest.raises(jb.UsageError, match=REFUSED[name]) as error:
            trace(optimizer)
        assert "\n" not in str(error.value)
    else:
        trace(optimizer)


def trace(optimizer):
    """Traces a step, and looks whether its state can be donated."""
    step, state, teacher = build(optimizer)
    shapes, _ = jax.eval_shape(step, state, teacher, DATA)
    assert jax.tree.structure(shapes) == jax.tree.structure(state)
    buffers = [
        leaf.unsafe_buffer_pointer()
        for leaf in jax.tree.leaves((state.trainable, state.opt_state))
        if leaf.size and not jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)
    ]
    assert len(set(buffers)) == len(buffers)


OWN_AVERAGE = optax.chain(
    optax.adam(1e-2),
    optax.GradientTransformation(
        lambda params: params,
        lambda g, average, params: (g, jax.tree.map(lambda a, p: (a + p) / 2, average, params)),
    ),
)


@pytest.mark.parametrize(
    "optimizer",
    [
        OWN_AVERAGE,
        pytest.param(optax.contrib.prodigy(), marks=pytest.mark.slow),
        pytest.param(optax.contrib.cocob(), marks=pytest.mark.slow),
        pytest.param(optax.contrib.mechanize(SGD), marks=pytest.mark.slow),
        pytest.param(optax.lbfgs(), marks=pytest.mark.slow),
    ],
)
def test_optimizers_whose_state_holds_the_weights_train(optimizer):
    first, state, metrics = train(optimizer, steps=3)
    assert np.isfinite(metrics["total_loss"])
    assert moved(first, state, "student") > 0
    assert moved(first, state, "projections") > 0


def test_a_line_search_sees_the_loss_of_the_whole_group():
    """One step of backtracking never increases the loss, of which a micro-batch is a part."""
    optimizer = optax.chain(
        optax.sgd(30.0),
        optax.scale_by_backtracking_linesearch(max_backtracking_steps=15, store_grad=False),
    )
    student, config = NnxMLP(3, 4), quiet(gradient_accumulation_steps=2)
    trainer = jb.BasicTrainer(config, student, adaptor)
    halves = [
        {key: value[rows] for key, value in DATA.items()} for rows in (slice(6), slice(6, 12))
    ]
    history = trainer.train(optimizer, halves, num_epochs=4).history["total_loss"]
    assert (np.diff(history) < 0).all()


# -- trees of the student's parameters ------------------------------------------------------------


def by_rank(tree):
    return jax.tree.map(lambda leaf: leaf.ndim > 1, tree)


def labelled(params):
    """Reads the student's names, and fails without them."""
    return {"first": "frozen", "second": jax.tree.map(lambda _: "trained", params["second"])}


def trees():
    state = nnx.state(NnxMLP(3, 4), nnx.Param)
    groups = {"frozen": optax.set_to_zero(), "trained": optax.sgd(0.1)}
    return {
        "dict": optax.adamw(0.1, mask=by_rank(jb.as_model(NnxMLP(3, 4)).params)),
        "nnx.State": optax.adamw(0.1, mask=by_rank(state)),
        "dict of nnx": optax.adamw(0.1, mask=by_rank(nnx.to_pure_dict(state))),
        "labels": optax.multi_transform(groups, labelled(jb.as_model(NnxMLP(3, 4)).params)),
        "label function": optax.multi_transform(groups, labelled),
        "labels in a chain": optax.chain(
            optax.clip(1.0), optax.multi_transform(groups, labelled), optax.trace(0.9)
        ),
    }


@pytest.mark.parametrize("name", trees())
def test_trees_of_the_students_parameters_train_it_and_its_projections(name):
    optimizer = trees()[name]
    step, state, teacher = build(optimizer)
    shapes, _ = jax.eval_shape(step, state, teacher, DATA)
    assert jax.tree.structure(shapes) == jax.tree.structure(state)
    first = jax.tree.map(np.array, state.trainable)
    state, _ = step(state, teacher, DATA)
    assert moved(first, state, "student") > 0
    for leaf in ("kernel", "bias"):
        own = state.trainable["projections"]["0"][leaf]
        assert np.abs(own - first["projections"]["0"][leaf]).max() > 0
    if "label" in name:
        np.testing.assert_array_equal(
            state.params["first"]["kernel"], first["student"]["first"]["kernel"]
        )


class Layers(nnx.Module):
    """More than ten layers in a list, whose numbers and names sort differently."""

    def __init__(self):
        rngs = nnx.Rngs(0)
        self.layers = nnx.List([nnx.Linear(4, 4, rngs=rngs) for _ in range(11)])
        self.head = nnx.Linear(4, CLASSES, rngs=rngs)

    def __call__(self, x):
        for layer in self.layers:
            x = layer(x)
        return self.head(x)


def test_a_state_of_nnx_names_the_parameters_that_it_masks():
    chosen = nnx.map_state(
        lambda path, _: "layers" in path and 10 in path, nnx.state(Layers(), nnx.Param)
    )
    frozen = optax.masked(optax.set_to_zero(), jax.tree.map(lambda x: not x, chosen))
    first, state, _ = train(
        optax.chain(optax.sgd(0.1), frozen), steps=1, student=Layers(), matches=()
    )
    different = jax.tree.map(lambda a, b: bool((a != b).any()), first["student"], state.params)
    assert different.pop("layers") == {
        str(number): {"kernel": number == 10, "bias": number == 10} for number in range(11)
    }
    assert not any(jax.tree.leaves(different))


def test_a_mask_by_rank_decays_a_projections_kernel_and_not_its_bias():
    """With a gradient of zero, decay alone moves a parameter."""
    model = jb.as_model(NnxMLP(3, 4))
    objective = jb.make_objective(jb.DistillationConfig(intermediate_matches=[MATCH]))
    mask = by_rank(nnx.state(NnxMLP(3, 4), nnx.Param))
    optimizer = jb.make_optimizer(
        optax.chain(optax.add_decayed_weights(0.5, mask), optax.scale(-1.0)),
        objective,
        student=model,
    )
    params = {
        "student": model.params,
        "projections": {"0": {"kernel": jnp.ones((5, 4)), "bias": jnp.ones(4)}},
    }
    zeros = jax.tree.map(jnp.zeros_like, params)
    updates, _ = optimizer.update(zeros, optimizer.init(params), params)
    np.testing.assert_array_equal(updates["projections"]["0"]["kernel"], -0.5 * np.ones((5, 4)))
    np.testing.assert_array_equal(updates["projections"]["0"]["bias"], np.zeros(4))


# -- weights for evaluation -----------------------------------------------------------------------


def test_schedule_free_students_are_returned_with_their_evaluation_weights():
    optimizer = optax.contrib.schedule_free_sgd(0.5)
    _, state, _ = train(optimizer, steps=3, matches=())
    expected = optax.contrib.schedule_free_eval_params(state.opt_state["student"], state.params)
    actual = evaluation_params(state)
    jax.tree.map(np.testing.assert_array_equal, actual, expected)
    different = jax.tree.map(lambda a, b: bool((a != b).any()), actual, state.params)
    assert all(jax.tree.leaves(different))


def test_schedule_free_runs_save_evaluation_weights_and_resume(tmp_path):
    optimizer = optax.contrib.schedule_free_sgd(0.5)

    def trained(directory, steps, **settings):
        config = quiet(output_dir=tmp_path / directory, ckpt_steps=2, **settings)
        student = NnxMLP(3, 4)
        seen = []
        jb.BasicTrainer(config, student, adaptor).train(
            optimizer, [DATA], num_steps=steps, callback=lambda model, step: seen.append(model)
        )
        params = jb.as_model(student).params
        jax.tree.map(np.testing.assert_array_equal, jb.as_model(seen[-1]).params, params)
        saved = jb.load_student(tmp_path / directory)["params"]
        jax.tree.map(np.testing.assert_array_equal, saved, params)
        return params

    whole = trained("whole", 4)
    trained("parts", 2)
    resumed = trained("parts", 4, resume=True, force_resume=True)
    jax.tree.map(np.testing.assert_array_equal, resumed, whole)


def test_sams_students_are_returned_without_the_step_away():
    optimizer = optax.contrib.sam(optax.sgd(0.1), optax.sgd(0.5))
    first, state, _ = train(optimizer, steps=1, matches=())
    assert moved(first, state, "student") > 0
    jax.tree.map(np.testing.assert_array_equal, evaluation_params(state), first["student"])
    _, state, _ = train(optimizer, steps=2, matches=())
    jax.tree.map(np.testing.assert_array_equal, evaluation_params(state), state.params)


# -- what is no optimizer -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("optimizer", "settings", "says"),
    [
        (1e-3, {}, "optax.adam.*got float"),
        ("adam", {}, "got str"),
        (None, {}, "got NoneType"),
        (nnx.Optimizer(NnxMLP(3, 4), SGD, wrt=nnx.Param), {}, "nnx.Optimizer.*optimizer.tx"),
        (optax.adam, {}, "learning_rate"),
        (lambda: 3, {}, "returned int"),
        (SGD, {"max_grad_norm": float("nan")}, "max_grad_norm must be positive.*nan"),
        (SGD, {"max_grad_norm": -2.0}, "max_grad_norm must be positive.*-2"),
        (SGD, {"max_grad_norm": 0}, "max_grad_norm must be positive.*0"),
        (SGD, {"max_grad_norm": float("inf")}, "max_grad_norm must be positive.*inf"),
        (SGD, {"max_grad_norm": "1"}, "max_grad_norm must be a number, got str"),
    ],
)
def test_bad_optimizers_are_refused_in_one_line(optimizer, settings, says):
    with pytest.raises(jb.UsageError, match=says) as error:
        jb.make_optimizer(optimizer, jb.make_objective(jb.DistillationConfig()), **settings)
    assert "\n" not in str(error.value)
