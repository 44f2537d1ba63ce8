"""Transport between layers: against an exact solver, and the weights of the layers by hand."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from scipy.optimize import linprog

import jaxbrewer as jb
from jaxbrewer import losses
from jaxbrewer.forward.adaptors import collect
from jaxbrewer.objective import optimal_transport as transport
from jaxbrewer.run.checkpoint_store import CheckpointStore
from jaxbrewer.step.resolve_matches import resolve_matches
from tests.toys import Encoder, hidden_adaptor, text_data

RNG = np.random.default_rng(0)


def exact(cost, u, v):
    """The plan of the linear program: least cost with these row and column sums."""
    m, n = cost.shape
    rows, columns = np.kron(np.eye(m), np.ones(n)), np.kron(np.ones(m), np.eye(n))
    solved = linprog(
        cost.ravel(), A_eq=np.vstack([rows, columns]), b_eq=np.concatenate([u, v]), method="highs"
    )
    return solved.x.reshape(m, n)


def problem(kind, shape=(4, 13)):
    cost = RNG.uniform(0.1, 3, shape)
    u, v = (RNG.dirichlet(np.full(size, 5.0)) for size in shape)
    if kind == "equal weights":
        u, v = (np.full(size, 1 / size) for size in shape)
    if kind == "large costs":
        cost = cost**6 * 100
    if kind == "a free pair":
        cost[0, 0] = 0
    return cost, u, v


@functools.cache
def solver():
    return jax.jit(functools.partial(transport.sinkhorn, epsilon=0.01, iterations=200))


@pytest.mark.parametrize("kind", ["random", "equal weights", "large costs", "a free pair"])
def test_the_plan_is_nearly_that_of_the_linear_program(kind):
    cost, u, v = problem(kind)
    plan = np.asarray(solver()(*(jnp.float32(x) for x in (cost, u, v))), np.float64)
    assert (plan > -1e-6).all()
    np.testing.assert_allclose(plan.sum(0), v, atol=1e-6)
    np.testing.assert_allclose(plan.sum(1), u, atol=1e-6)
    least = (exact(cost, u, v) * cost).sum()
    # The entropic plan's cost exceeds the least by at most epsilon * mean cost * log(pairs).
    assert abs((plan * cost).sum() - least) < 0.01 * cost.mean() * np.log(cost.size)


@pytest.mark.slow
def test_a_plan_far_from_converged_is_made_feasible():
    """Altschuler et al., algorithm 2, by hand."""
    plan, (_, u, v) = RNG.uniform(0, 0.2, (4, 13)), problem("random")
    plan[0] *= 0.01  # rows that have too much, and one that lacks
    scaled = np.diag(np.minimum(u / plan.sum(1), 1)) @ plan
    scaled = scaled @ np.diag(np.minimum(v / scaled.sum(0), 1))
    lacks_u, lacks_v = u - scaled.sum(1), v - scaled.sum(0)
    expected = scaled + np.outer(lacks_u, lacks_v) / np.abs(lacks_u).sum()
    actual = transport._feasible(*map(jnp.float32, (plan, u, v)))
    np.testing.assert_allclose(actual, expected, rtol=1e-4, atol=1e-7)
    for kind, iterations in (("large costs", 1), ("random", 1)):
        cost, u, v = problem(kind)
        plan = transport.sinkhorn(*map(jnp.float32, (cost, u, v)), iterations=iterations)
        assert (plan > -1e-6).all()
        np.testing.assert_allclose(plan.sum(0), v, atol=1e-6)


@pytest.mark.slow
def test_layers_that_match_exactly_cost_nothing():
    u, v = jnp.full(2, 0.5), jnp.full(3, 1 / 3)
    plan = transport.sinkhorn(jnp.zeros((2, 3)), u, v)
    np.testing.assert_allclose(plan, np.full((2, 3), 1 / 6), rtol=1e-5)


def test_default_epsilon_iterations_and_weights():
    arguments = [jnp.float32(x) for x in problem("random")]
    given = transport.sinkhorn(*arguments, epsilon=0.01, iterations=200)
    np.testing.assert_array_equal(transport.sinkhorn(*arguments), given)
    weights = transport.equal_weights(2, 4)
    np.testing.assert_array_equal(weights["student"], [0.5, 0.5])
    np.testing.assert_array_equal(weights["teacher"], [0.25] * 4)


@pytest.mark.slow
def test_the_loss_and_its_gradient_follow_the_plan():
    states_S = [RNG.normal(size=(2, 3, 4)).astype("f") for _ in range(3)]
    states_T = [RNG.normal(size=(2, 3, 4)).astype("f") for _ in range(5)]
    mask = np.array([[1, 1, 0], [1, 1, 1]])
    u, v = np.full(3, 1 / 3), np.full(5, 1 / 5)

    def loss(states_S):
        cost = functools.partial(losses.hid_mse_loss.sum_and_count, mask=mask)
        moved = transport.transport_loss(
            states_S, states_T, cost, jnp.float32(u), jnp.float32(v), epsilon=0.01, iterations=200
        )
        return moved.loss.value(), moved

    (value, moved), gradient = jax.jit(jax.value_and_grad(loss, has_aux=True))(states_S)
    kept = mask[..., None]
    cost = np.array([[((s - t) ** 2 * kept).sum() / (5 * 4) for t in states_T] for s in states_S])
    plan = np.asarray(solver()(jnp.float32(cost), jnp.float32(u), jnp.float32(v)))
    np.testing.assert_allclose(value, (plan * cost).sum(), rtol=1e-4)
    for i, g in enumerate(gradient):
        by_hand = sum(
            plan[i, j] * 2 * (states_S[i] - t) * kept / 20 for j, t in enumerate(states_T)
        )
        np.testing.assert_allclose(g, by_hand, atol=1e-6)
    unit = (plan * cost).sum(1) / u, (plan * cost).sum(0) / v
    for actual, expected in zip((moved.cost_S, moved.cost_T), unit, strict=True):
        np.testing.assert_allclose(actual.total / actual.count, expected, rtol=1e-3)


def test_weights_are_inverse_to_unit_costs():
    """BERT-EMD: sum / cost of each layer, normalised; the authors' code by hand."""
    unit = np.array([0.5, 2.0, 1.0])
    by_hand = unit.sum() / unit
    new = transport.cost_attention(
        jnp.full(3, 1 / 3), jb.Mean(jnp.float32(unit * 8), jnp.float32(8))
    )
    np.testing.assert_allclose(new, by_hand / by_hand.sum(), rtol=1e-6)
    least = 4 * transport.SMALLEST_COST  # of the largest
    np.testing.assert_allclose(
        transport.cost_attention(jnp.full(2, 0.5), jb.Mean(jnp.float32([0, 4]), jnp.float32(0.5))),
        [4 / (4 + least), least / (4 + least)],
        rtol=1e-5,
    )
    old = jnp.array([0.2, 0.3, 0.5])
    for total, count in (([0.0, 0, 0], 8), ([1.0, np.nan, 1], 8), ([1.0, 1, 1], 0)):
        kept = transport.cost_attention(old, jb.Mean(jnp.float32(total), jnp.float32(count)))
        np.testing.assert_array_equal(kept, old)


@pytest.mark.slow
def test_the_weights_are_trained_exact_over_micro_batches_and_checkpointed(tmp_path):
    teacher, student = jb.as_model(Encoder(8, 4, seed=1)), jb.as_model(Encoder(6, 2))
    data = text_data(12)
    config = jb.DistillationConfig(temperature=2, intermediate_matches="emd")
    config, _ = resolve_matches(
        config, student, teacher, data, adaptor_S=hidden_adaptor, adaptor_T=hidden_adaptor
    )
    (match,) = config.intermediate_matches
    assert (match.layer_S, match.layer_T, match.proj) == ((1, 2), (1, 2, 3, 4), ("linear", 6, 8))
    objective = jb.make_objective(config)
    optimizer = jb.make_optimizer(optax.adam(0.03), objective)
    state = jb.init_train_state(student, objective, optimizer)
    assert state.trainable["projections"]["0"]["kernel"].shape == (2, 6, 8)
    step = jb.make_train_step(
        student, teacher, objective, optimizer, adaptor_S=hidden_adaptor, adaptor_T=hidden_adaptor,
        gradient_accumulation_steps=2,
    )  # fmt: skip
    jitted, values = jax.jit(step), []
    halves = tuple(jax.tree.map(lambda x, s=s: x[s], data) for s in (slice(6), slice(6, 12)))
    for _ in range(40):
        state, metrics = jitted(state, teacher.variables, halves)
        values.append(metrics["unweighted_hidden_emd_hidden_mse"])
    assert values[-1] < 0.7 * values[0]
    (weights,) = state.objective_state.values()
    for who, layers in (("student", 2), ("teacher", 4)):
        assert weights[who].shape == (layers,)
        np.testing.assert_allclose(np.sum(weights[who]), 1, rtol=1e-5)
        assert np.ptp(weights[who]) > 1e-3  # they have moved
    store = CheckpointStore(tmp_path)
    store.save(40, state, {"epoch": 0, "batch": 40})
    loaded = store.load(store.steps()[-1], like=state).state
    store.close()
    jax.tree.map(np.testing.assert_array_equal, loaded.objective_state, state.objective_state)


@pytest.mark.slow
def test_a_transport_is_one_term_among_others():
    """The costs of single layers are not losses; they only update the weights."""
    rng = np.random.default_rng(1)
    student, teacher = (
        collect(
            {
                "logits": rng.normal(size=(2, 3)).astype("f"),
                "hidden": list(rng.normal(size=(layers, 2, 4, 5)).astype("f")),
                "losses": np.float32(0.7),
            },
            "student",
        )
        for layers in (2, 3)
    )
    emd = {"kind": "emd", "layer_S": [0, 1], "layer_T": [0, 1, 2], "weight": 0.5}
    match = {"layer_T": 2, "layer_S": 1, "feature": "hidden", "loss": "cos", "weight": 2}
    config = jb.DistillationConfig(hard_label_weight=0.1, intermediate_matches=[emd, match])
    objective = jb.make_objective(config)
    total, metrics = objective(student, teacher, {}, state=objective.init_state())
    names = ["kd_loss", "hidden_emd_hidden_mse", "hidden_cos_1_2", "hard_label_loss"]
    forms = ("weighted", "unweighted", "count")
    parts = {"total_loss", *(f"{form}_{name}" for form in forms for name in names)}
    assert set(metrics) == parts
    np.testing.assert_allclose(
        total,
        sum(
            weight * metrics[f"unweighted_{name}"]
            for weight, name in zip((1, 0.5, 2, 0.1), names, strict=True)
        ),
        rtol=1e-6,
    )


def test_layers_of_unequal_shapes_are_refused():
    states = [jnp.zeros((1, 2, 3)), jnp.zeros((1, 2, 4))]
    with pytest.raises(jb.UsageError, match="student's layers have different shapes"):
        transport.transport_loss(
            states, states[:1], losses.hid_mse_loss.sum_and_count, jnp.ones(2) / 2, jnp.ones(1),
            epsilon=0.01, iterations=10,
        )  # fmt: skip


def test_hidden_states_and_attention_share_their_weights():
    state = {
        name: {"student": jnp.array(u), "teacher": jnp.array(v)}
        for name, u, v in (
            ("a", [0.2, 0.8], [1.0]), ("b", [0.4, 0.6], [1.0]), ("c", [0.9, 0.1], [1.0]),
        )
    }  # fmt: skip
    shared = transport.shared_weights(state, {"a": "emd", "b": "emd", "c": None})
    np.testing.assert_allclose(shared["a"]["student"], [0.3, 0.7])
    np.testing.assert_allclose(shared["b"]["student"], [0.3, 0.7])
    np.testing.assert_array_equal(shared["c"]["student"], state["c"]["student"])
