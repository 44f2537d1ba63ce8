"""Parameters that a loss does not depend on are found and left unchanged."""

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxbrewer.forward.dependence import depends_on
from jaxbrewer.step.unused_parameters import skip_absent

TASKS = ("a", "b")


def test_dependence_is_found_through_jit_scan_and_remat():
    def function(params, x):
        @jax.jit
        def both(p):
            return p["a"] * x, p["b"] * x

        left, _ = both(params)
        out, _ = jax.lax.scan(lambda c, _: (c * params["c"], None), left, None, length=2)
        return jnp.sum(jax.checkpoint(lambda y: y + 0 * params["zero"])(out))

    params = dict.fromkeys(("a", "b", "c", "zero", "never"), 1.0)
    found = depends_on(function, params, jax.ShapeDtypeStruct((3,), jnp.float32))
    assert found == {"a": True, "b": False, "c": True, "zero": True, "never": False}


def adamw_by_hand(gradients, schedule):
    """AdamW of one parameter as in PyTorch, which skips steps without a gradient."""
    w, m, v, t = 1.0, 0.0, 0.0, 0
    for update, g in enumerate(gradients):
        if g is None:
            continue
        t += 1
        m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g * g
        step = m / (1 - 0.9**t) / (np.sqrt(v / (1 - 0.999**t)) + 1e-8)
        w -= schedule(update) * (step + 0.1 * w)
    return w


def test_parameters_without_a_gradient_keep_value_and_moments():
    def schedule(count):
        return 0.1 - 0.01 * count

    present = {task: {"both": True, "own": {t: t == task for t in TASKS}} for task in TASKS}
    inner = {"student": optax.adamw(schedule, weight_decay=0.1)}
    rule = skip_absent(optax.partition(inner, "student"), present)
    params = {"both": jnp.ones(()), "own": dict.fromkeys(TASKS, jnp.ones(()))}

    @jax.jit
    def three_more(params, state):
        for task, g in zip("aba", (0.5, -0.3, 0.2), strict=True):
            gradient = jax.tree.map(lambda is_in, g=g: jnp.where(is_in, g, 0.0), present[task])
            updates, state = rule.update(gradient, state, params, present=[task])
            params = optax.apply_updates(params, updates)
        return params, state

    params, state = three_more(params, rule.init(params))
    params, state = three_more(params, state)
    gs = [0.5, -0.3, 0.2] * 2
    expected = {
        "both": adamw_by_hand(gs, schedule),
        "own": {
            "a": adamw_by_hand([g if i % 3 != 1 else None for i, g in enumerate(gs)], schedule),
            "b": adamw_by_hand([g if i % 3 == 1 else None for i, g in enumerate(gs)], schedule),
        },
    }
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-4), params, expected)
