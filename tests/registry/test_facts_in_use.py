"""Every feature reads the facts of a loss from its row: a second name changes nothing."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxbrewer as jb
from jaxbrewer import Outputs
from jaxbrewer.objective.layer_maps import resolve
from jaxbrewer.objective.top_k import keep_top_k
from jaxbrewer.registry import KD_LOSS_MAP, MATCH_LOSS_MAP

RNG = np.random.default_rng(0)
LOGITS_S, LOGITS_T = RNG.normal(size=(2, 4, 6)).astype(np.float32)
LABELS = np.array([0, 1, 2, 3])


@pytest.fixture
def alias(request):
    """A packaged loss under its own name and under a second one."""
    name, table = request.param
    key = "kd_loss" if table is KD_LOSS_MAP else "match_loss"
    jb.register_new(key, "second_name", table[name])
    yield name, "second_name"
    del table["second_name"]


def packaged(table):
    rows = [(name, table) for name in table]
    return pytest.mark.parametrize("alias", rows, indirect=True, ids=[name for name, _ in rows])


def result(function):
    """What a function returns, or the line it raises, without the loss's name."""
    try:
        return jax.tree.map(lambda leaf: leaf if isinstance(leaf, str) else np.asarray(leaf),
                            function())  # fmt: skip
    except jb.UsageError as error:
        return type(error).__name__


def same_under_both_names(alias, function):
    first, second = (result(lambda name=name: function(name)) for name in alias)
    jax.tree.map(np.testing.assert_array_equal, first, second)
    return first


def objective_of(name, **fields):
    return jb.make_objective(jb.DistillationConfig(kd_loss_type=name, temperature=2, **fields))


def kd(name, logits_S, logits_T, **fields):
    student = Outputs(logits=(jnp.asarray(logits_S),), labels=(jnp.asarray(LABELS),))
    several = logits_T if isinstance(logits_T, list) else [logits_T]
    teachers = [Outputs(logits=(logits,)) for logits in several]
    teacher = teachers if len(teachers) > 1 else teachers[0]
    return objective_of(name, **fields)(student, teacher, {})[0]


RULED_OUT = np.where(np.arange(6) == 5, -np.inf, LOGITS_T).astype(np.float32)
FEATURES = {
    "surplus columns": lambda n: kd(n, LOGITS_S, jnp.asarray(LOGITS_T[:, :5]), vocabulary="common"),
    "top-k": lambda n: kd(n, LOGITS_S, keep_top_k(jnp.asarray(LOGITS_T), 2, (2.0,))),
    "class ruled out": lambda n: kd(n, LOGITS_S, jnp.asarray(RULED_OUT)),
    "one class": lambda n: kd(n, LOGITS_S[:, :1], jnp.asarray(LOGITS_T[:, :1])),
    "no class axis": lambda n: kd(n, LOGITS_S[:, 0], jnp.asarray(LOGITS_T[:, 0])),
    "effective weight": lambda n: objective_of(n).weights_at(0)["kd_loss"].effective,
    "weights of teachers": lambda n: kd(
        n, LOGITS_S, [jnp.asarray(LOGITS_T), jnp.asarray(LOGITS_S)],
        teacher_average="losses", teacher_weights=[1, 2],
    ),
}  # fmt: skip


@pytest.mark.slow
@packaged(KD_LOSS_MAP)
@pytest.mark.parametrize("feature", FEATURES)
def test_a_kd_loss_under_a_second_name(alias, feature):
    same_under_both_names(alias, FEATURES[feature])


def test_features_differ_between_losses_as_their_facts_do():
    """The features above ask for the facts: each has losses on both sides."""
    refused = {
        feature: {
            name for name in KD_LOSS_MAP if result(lambda c=call, n=name: c(n)) == "UsageError"
        }
        for feature, call in FEATURES.items()
    }
    rows = {name: KD_LOSS_MAP.row(name) for name in KD_LOSS_MAP}
    assert refused.pop("top-k") == {n for n, row in rows.items() if not row.between_distributions}
    assert refused.pop("one class") == {n for n, row in rows.items() if row.least_classes > 1}
    assert refused.pop("no class axis") == set(rows)
    assert not any(refused.values())


WIDTHS = {"hidden": (4, 3), "attention": (5, 5)}


def states(row, count, who):
    rng = np.random.default_rng(count)
    if row.scores:
        return {"attention": tuple(np.float32(rng.random((2, 3, 5, 5))) for _ in range(count))}
    width = WIDTHS["hidden"][who]
    return {"hidden": tuple(np.float32(rng.random((2, 5, width))) for _ in range(count))}


def resolved(name):
    """A layer map with this loss: number of layers, projections, and the loss of the result."""
    row = MATCH_LOSS_MAP.row(name)
    feature = "attention" if row.scores else "hidden"
    loss = {"loss": name, "heads": 1} if "heads" in (row.parameters or ()) else name
    config = jb.DistillationConfig(
        intermediate_matches=[{"map": "last", "feature": feature, "loss": loss}]
    )
    student, teacher = (Outputs(features=states(row, n, who)) for n, who in ((3, 0), (5, 1)))
    config = resolve(config, student, [teacher])
    objective = jb.make_objective(config)
    projections = objective.init_projections(jax.random.key(0))
    total, _ = objective(student, teacher, projections)
    return [match.layer_T for match in config.intermediate_matches], len(projections), total


@pytest.mark.slow
@packaged(MATCH_LOSS_MAP)
def test_a_match_loss_under_a_second_name(alias):
    layers, projections, _ = same_under_both_names(alias, resolved)
    row = MATCH_LOSS_MAP.row(alias[0])
    assert np.size(layers[0]) == row.layers
    assert bool(projections) == (row.equal_widths and not row.scores)


@packaged(MATCH_LOSS_MAP)
def test_checks_of_a_match_under_a_second_name(alias):
    def refused(build):
        return lambda name: result(lambda: build(name) and 1)

    emd = refused(lambda name: jb.EMDMatch(loss=name))
    custom = refused(lambda name: jb.CustomMatch("a", "b", loss=name))
    single = refused(lambda name: jb.IntermediateMatch(0, 0, 1, name, "hidden"))
    pair = refused(lambda name: jb.IntermediateMatch([0, 1], [0, 1], 1, name, "hidden"))
    two = MATCH_LOSS_MAP.row(alias[0]).layers == 2
    for check, takes_two in ((emd, False), (custom, False), (single, False), (pair, True)):
        first, second = (check(name) for name in alias)
        assert (first == second == "UsageError") == (takes_two != two)
        assert type(first) is type(second)


@packaged(MATCH_LOSS_MAP)
def test_states_of_other_ranks_are_refused_under_both_names(alias):
    def run(name):
        row = MATCH_LOSS_MAP.row(name)
        layers = [0, 0] if row.layers == 2 else 0
        loss = {"loss": name, "heads": 1} if "heads" in (row.parameters or ()) else name
        match = jb.IntermediateMatch(layers, layers, 1, loss, "hidden")
        objective = jb.make_objective(jb.DistillationConfig(intermediate_matches=[match]))
        scalar = Outputs(features={"hidden": (jnp.ones(()),)})
        return objective(scalar, scalar, {})[0]

    assert same_under_both_names(alias, run) == "UsageError"
