"""Meshes and sharding rules: placement, refusals, and numbers that do not depend on them."""

import itertools
import json

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from jax.sharding import AbstractMesh, PartitionSpec

import jaxbrewer as jb
from jaxbrewer.devices.mesh import DeviceLayout
from jaxbrewer.devices.partitioning import partition
from jaxbrewer.devices.sharding import state_shardings
from tests.devices.eight_devices import DISTILLERS
from tests.tiers import exhaustive_but
from tests.toys import (
    HIDDEN_MATCH,
    Encoder,
)

MESH = AbstractMesh((2, 4, 2), ("data", "fsdp", "tensor"))
WEIGHTS = {
    "dense": {"kernel": np.ones((64, 128)), "bias": np.ones(128)},
    "table": np.ones((50, 64)),
    "odd": np.ones((31, 33)),
}


def test_rules_precede_fsdp_which_splits_the_largest_divisible_axis():
    specs = partition(WEIGHTS, MESH, [["kernel", [None, ["fsdp", "tensor"]]]])
    assert specs["dense"]["kernel"] == PartitionSpec(None, ("fsdp", "tensor"))
    assert specs["table"] == PartitionSpec(None, "fsdp")
    for whole in (specs["dense"]["bias"], specs["odd"]):  # small; indivisible
        assert whole == PartitionSpec()
    assert partition(WEIGHTS, MESH, [[".", []]])["table"] == PartitionSpec()


@pytest.mark.parametrize(
    ("rules", "says"),
    [
        ([["kernal", []]], r"rules\[0\]: 'kernal' matches no weight.*'dense/bias'"),
        ([["table", ["fsdp"]]], r"rules\[0\] \('table'\): table \[50, 64\]: axis 0.*fsdp = 4"),
        ([["bias", [None, "tensor"]]], r"dense/bias \[128\] has fewer axes"),
        ([["dense", []], ["kernel", []]], r"rules\[1\]: 'kernel' matches no weight that earlier"),
    ],
)
def test_rules_that_match_no_weight_are_refused(rules, says):
    with pytest.raises(jb.UsageError, match=says):
        partition(WEIGHTS, MESH, rules)


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"mesh": {"date": 2}}, "no axis 'date': did you mean 'data'"),
        ({"mesh": {"data": 0}}, r"mesh\['data'\] must be an int >= 1, or -1"),
        ({"mesh": {"data": -1, "fsdp": -1}}, "may have one -1"),
        ({"mesh": 8}, "must map axes to sizes"),
        ({"student_rules": [["kernel", ["tensor"]]]}, "student_rules need a mesh"),
        ({"mesh": {"data": 2}, "student_rules": [["k", ["tensor"]]]}, "has no axis 'tensor'"),
        ({"mesh": {"fsdp": 2}, "teacher_rules": [["k", ["fsdp", "fsdp"]]]}, "two axes .*'fsdp'"),
        (
            {"mesh": {"data": 2}, "teacher_rules": [["(", []]]},
            r"teacher_rules\[0\]: '\(' is not a re",
        ),
        ({"mesh": {"data": 2}, "teacher_rules": ["kernel"]}, "must be a pair such as"),
    ],
)
def test_meshes_and_rules_are_checked_with_the_config(fields, says):
    with pytest.raises(jb.UsageError, match=says):
        jb.TrainingConfig(**fields)


def test_a_config_with_a_mesh_survives_json():
    rules = [["kernel", [None, ["fsdp", "tensor"]]]]
    config = jb.TrainingConfig(mesh={"fsdp": -1, "tensor": 2}, student_rules=rules)
    assert jb.TrainingConfig.from_dict(json.loads(config.to_json())) == config


class Annotated(nnx.Module):
    def __init__(self):
        init = nnx.with_partitioning(nnx.initializers.ones, (None, "tensor"))
        rngs = nnx.Rngs(0)
        with nnx.use_eager_sharding(False):
            self.layers = nnx.List([nnx.Linear(4, 6, kernel_init=init, rngs=rngs)])

    def __call__(self, x):
        return self.layers[0](x)


def test_sharding_metadata_count_for_the_axes_that_the_mesh_has():
    model = jb.as_model(Annotated())
    linen = nn.Dense(
        6, kernel_init=nn.with_partitioning(nn.initializers.ones, ("experts", "tensor"))
    )
    both = {
        "layers/0/kernel": model,
        "kernel": jb.as_model((linen, linen.init(jax.random.key(0), jnp.ones((1, 4))))),
    }
    for path, model in both.items():
        specs = partition(model.params, MESH, annotations=model.partitioning)
        found = {key: spec for key, spec in _flat(specs).items() if spec != PartitionSpec()}
        assert found == {path: PartitionSpec(None, "tensor")}


def _flat(specs):
    leaves = jax.tree_util.tree_leaves_with_path(specs)
    return {jax.tree_util.keystr(p, simple=True, separator="/"): spec for p, spec in leaves}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("optimizer", "moments"),
    [
        (optax.adamw(1e-3, mask=lambda tree: jax.tree.map(lambda x: x.ndim > 1, tree)), 2),
        (optax.partition({"a": optax.sgd(1.0, 0.9)}, lambda t: jax.tree.map(lambda _: "a", t)), 1),
        (optax.adafactor(1e-3, min_dim_size_to_factor=8), 0),  # sums over rows and over columns
    ],
    ids=["masked adamw", "partition", "adafactor"],
)
def test_the_optimizer_state_is_placed_as_its_weights(optimizer, moments):
    student = jb.as_model(Encoder(32, 2))
    config = jb.DistillationConfig(
        intermediate_matches=[{**HIDDEN_MATCH, "proj": ["relu", 32, 64]}]
    )
    objective = jb.make_objective(config)
    rule = jb.make_optimizer(optimizer, objective)
    state = jax.eval_shape(lambda: jb.init_train_state(student, objective, rule))
    layout = DeviceLayout(MESH, student_rules=[["layers/0/kernel", ["tensor"]]])
    shardings = state_shardings(state, student, layout)
    assert shardings.params["layers"]["0"]["kernel"].spec == PartitionSpec("tensor")
    assert shardings.trainable["projections"]["0"]["kernel"].spec == PartitionSpec(None, "fsdp")
    shapes = _flat(state.opt_state)
    alike = [
        sharding.spec
        for path, sharding in _flat(shardings.opt_state).items()
        if path.endswith("layers/0/kernel") and shapes[path].shape == (32, 32)
    ]
    assert alike == [PartitionSpec("tensor")] * moments


PAIRS = list(itertools.product(DISTILLERS, ("data", "fsdp", "tensor")))
ONE_OF_EACH = [
    ("tasks", "tensor"), ("general", "data"), ("general", "fsdp"), ("general", "tensor"),
    ("basic", "data"), ("several", "fsdp"), ("trainer", "data"),
]  # fmt: skip


@pytest.fixture(scope="module")
def seen(request, forks):
    """The results of 8 fake devices under each layout of the chosen tests."""
    chosen = {}
    for item in request.session.items:
        if item.originalname == "test_every_distiller_trains_the_same_on_any_layout":
            kind, layout = item.callspec.params.values()
            chosen.setdefault(kind, []).append(layout)
    words = ["-m", "tests.devices.eight_devices", json.dumps(chosen)]
    done = forks.run(*words, JAX_NUM_CPU_DEVICES="8")
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "layout"), exhaustive_but(ONE_OF_EACH, PAIRS))
def test_every_distiller_trains_the_same_on_any_layout(kind, layout, seen):
    """Up to float32 rounding over four steps, some of them on incomplete batches."""
    # The trainer's model has a batch norm, whose variance, E[x^2] - E[x]^2, loses digits.
    assert seen["gaps"][kind][layout] <= (5e-5 if kind == "trainer" else 2e-6)


@pytest.mark.slow
def test_a_step_compiles_once_on_any_layout(seen):
    assert {program["compilations"] for program in seen["programs"].values()} == {1}


@pytest.mark.slow
def test_fsdp_gives_each_device_an_eighth_of_weights_and_optimizer(seen):
    one, split = seen["programs"]["one"], seen["programs"]["fsdp"]
    assert split["whole"] == one["whole"]
    # The arguments are student, moments and teacher, and half a kilobyte of batch.
    assert one["arguments"] < 1.001 * one["whole"]
    assert split["arguments"] == pytest.approx(one["arguments"] / 8, rel=0.05)


@pytest.mark.slow
def test_the_program_has_the_collectives_of_its_layout(seen):
    kinds = {name: set(program["collectives"]) for name, program in seen["programs"].items()}
    assert kinds == {
        "one": set(),
        "data": {"all-reduce"},  # gradients and sums of losses
        # Weights before use; gradients; a projection, which meets hidden states as it is split.
        "fsdp": {"all-gather", "all-reduce", "all-to-all"},
        "tensor": {"all-gather", "all-reduce"},
    }
    # Gradients of all weights and all scalars travel together.
    assert seen["programs"]["data"]["collectives"]["all-reduce"] <= 3
