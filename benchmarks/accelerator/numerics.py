"""Numbers on the accelerator against the CPU: losses, BERT, train steps, attention kernels."""

import functools
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxbrewer.registry import KD_LOSS_MAP, MATCH_LOSS_MAP

from ..common import (
    Clock,
    Row,
    Sizes,
    batch_of,
    bert,
    bert_pair,
    make_step,
    relative,
    training,
)


def float32_settings() -> dict[str, str]:
    """``jax_default_matmul_precision`` of each row in float32; a CPU has one."""
    rows = {"float32, TF32 off": "highest", "float32, TF32 on": "default"}
    return rows if jax.default_backend() == "gpu" else {"float32": "highest"}


def cpu() -> Any:
    """The host's device."""
    return jax.devices("cpu")[0]


def run(sizes: Sizes) -> Iterator[Row]:
    """All comparisons."""
    yield from losses(sizes)
    yield from forward(sizes)
    yield from steps(sizes)
    yield from attention(sizes)


# -- losses ---------------------------------------------------------------------------------------


def loss_cases() -> Iterator[tuple[str, Any, list[Any]]]:
    """Every packaged loss, and random arguments: student, teacher, mask."""
    rng = np.random.default_rng(0)
    batch, length = 8, 16
    mask = (np.arange(length) < rng.integers(1, length + 1, (batch, 1))).astype(np.int32)

    def pair(*shape: int) -> list[Any]:
        return [rng.normal(size=shape) * 2 for _ in range(2)]

    for name, loss in KD_LOSS_MAP.items():
        named = {"labels": rng.integers(0, 50, (batch, length), np.int32)} if name == "dkd" else {}
        call = functools.partial(loss, temperature=TAU, **named)
        yield name, lambda s, t, m, call=call: call(s, t, mask=m), [*pair(batch, length, 50), mask]
    for name, loss in MATCH_LOSS_MAP.items():
        row = MATCH_LOSS_MAP.row(name)
        shape = (batch, 2, length, length) if row.scores else (batch, length, 24)
        given = pair(*shape) if row.layers != 2 else pair(2, *shape)
        yield name, lambda s, t, m, loss=loss: loss(s, t, m), [*given, mask]


TAU = 2.0


def losses(sizes: Sizes) -> Iterator[Row]:
    """The largest relative error of value and gradient over all losses."""
    cases = list(loss_cases())[:: 8 if sizes.is_toy else 1]
    functions = {name: jax.value_and_grad(loss) for name, loss, _ in cases}

    def program(arguments: dict[str, Any]) -> dict[str, Any]:
        return {name: function(*arguments[name]) for name, function in functions.items()}

    with jax.enable_x64(True), jax.default_device(cpu()):
        exact = jax.device_get(jax.jit(program)({name: given for name, _, given in cases}))
    narrow = {name: [np.float32(s), np.float32(t), mask] for name, _, (s, t, mask) in cases}
    for setting, precision in float32_settings().items():
        with jax.default_matmul_precision(precision):
            actual = jax.device_get(jax.jit(program)(narrow))
        errors = {name: relative(actual[name], exact[name]) for name in exact}
        worst = max(errors, key=errors.__getitem__)
        yield Row("numbers", f"{len(cases)} losses and gradients, {setting}", errors[worst],
                  "rel. error", f"worst: {worst}; against float64 on the CPU")  # fmt: skip


# -- BERT -----------------------------------------------------------------------------------------


def forward(sizes: Sizes) -> Iterator[Row]:
    """Logits of a BERT in several precisions against float64 on the CPU."""
    from flax import nnx

    graph, weights, rest = nnx.split(bert(sizes.teacher_layers, sizes, 0), nnx.Param, ...)
    weights = jax.device_get(nnx.to_pure_dict(weights))
    batch = batch_of(sizes, *sizes.checked)

    def logits(weights: Any, rest: Any) -> Any:
        model = nnx.merge(graph, weights, rest)
        model.eval()
        return model(batch["input_ids"], batch["attention_mask"])["logits"]

    def cast(dtype: Any) -> Any:
        return jax.tree.map(lambda leaf: leaf.astype(dtype), weights)

    with jax.enable_x64(True), jax.default_device(cpu()):
        exact = jax.device_get(jax.jit(logits)(cast(np.float64), jax.device_put(rest, cpu())))
    for setting, dtype, precision in (
        *((name, jnp.float32, precision) for name, precision in float32_settings().items()),
        ("bfloat16", jnp.bfloat16, "default"),
        ("float16", jnp.float16, "default"),
    ):
        with jax.default_matmul_precision(precision):
            actual = jax.jit(logits)(cast(dtype), rest)
        yield Row("numbers", f"BERT logits, {setting}", relative(actual, exact), "rel. error",
                  "against float64 on the CPU")  # fmt: skip


def steps(sizes: Sizes, number: int = 5) -> Iterator[Row]:
    """Losses and weights after some steps against float32 on the CPU."""
    sizes = sizes.small()
    batches = [batch_of(sizes, *sizes.checked, seed) for seed in range(number)]
    match = {"feature": "hidden", "loss": "hidden_mse", "weight": 1, "layer_T": -1, "layer_S": -1}

    def trained(config: Any) -> tuple[Any, Any, Any]:
        pair = bert_pair(sizes)
        step, state = make_step(pair, config, intermediate_matches=[match])
        before, losses, skipped = jax.device_get(state.trainable), [], 0
        for batch in batches:
            while True:  # a step that is skipped for an overflow is repeated
                state, metrics = step(state, pair[0].variables, batch)
                if int(metrics.get("skipped_steps", 0)) == skipped:
                    break
                skipped = int(metrics["skipped_steps"])
            losses.append(float(metrics["total_loss"]))
        after = jax.device_get(state.trainable)
        return losses, jax.tree.map(lambda a, b: np.float64(a) - b, after, before), skipped

    with jax.default_device(cpu()):
        losses, moved, _ = trained(training())
    settings = [
        *((name, training(), precision) for name, precision in float32_settings().items()),
        ("bfloat16, O1", training("bfloat16", "O1"), "default"),
        ("bfloat16, O2", training("bfloat16", "O2"), "default"),
        ("float16 with loss scaling, O2", training("float16", "O2"), "default"),
    ]
    for setting, config, precision in settings[-1:] if sizes.is_toy else settings:
        with jax.default_matmul_precision(precision):
            own_losses, own_moved, skipped = trained(config)
        note = f"the way of the weights differs by {relative(own_moved, moved):.1e}"
        note += f"; {skipped} overflows skipped" if skipped else ""
        yield Row("numbers", f"loss of {number} steps, {setting}", relative(own_losses, losses),
                  "rel. error", note)  # fmt: skip


# -- attention ------------------------------------------------------------------------------------


def attention(sizes: Sizes) -> Iterator[Row]:
    """``jax.nn.dot_product_attention`` with padding, forward and backward, by its kernels."""
    batch, length, heads, width = sizes.attention
    keys = jax.random.split(jax.random.key(0), 4)
    arrays = [jax.random.normal(key, (batch, length, heads, width), jnp.bfloat16) for key in keys]
    lengths = jnp.arange(1, batch + 1, dtype=jnp.int32) * (length // batch)

    def output(query: Any, key: Any, value: Any, implementation: str | None) -> Any:
        out = jax.nn.dot_product_attention(
            query, key, value, query_seq_lengths=lengths, key_value_seq_lengths=lengths,
            implementation=implementation,
        )  # fmt: skip
        is_real = jnp.arange(length)[None, :, None, None] < lengths[:, None, None, None]
        return jnp.where(is_real, out, 0)

    def program(implementation: str) -> Any:
        def total(query: Any, key: Any, value: Any, weight: Any) -> Any:
            out = output(query, key, value, implementation)
            return jnp.sum((out * weight).astype(jnp.float32)), out

        return jax.jit(jax.value_and_grad(total, argnums=(0, 1, 2), has_aux=True))

    wide = [array.astype(jnp.float32) for array in arrays]
    with jax.default_matmul_precision("highest"):
        (_, exact), exact_gradients = program("xla")(*wide)
    flops = 3.5 * 4 * batch * heads * length**2 * width
    for implementation in ("xla", "cudnn"):
        name = f"attention {'x'.join(map(str, sizes.attention))}, bfloat16, {implementation}"
        try:
            run = program(implementation)
            (_, out), gradients = run(*arrays)
        except Exception as error:  # a kernel that this device does not have
            reason = str(error).splitlines()[0][:80]
            yield Row("numbers", name, "not available", "", reason)
            continue
        clock = Clock()
        for _ in range(sizes.rounds):
            clock.time(lambda run=run: [run(*arrays) for _ in range(sizes.steps)], sizes.steps)
        note = f"gradients {relative(gradients, exact_gradients):.1e}; against xla in float32"
        yield Row("numbers", name, relative(out, exact), "rel. error", note)
        rate = f"{flops / clock.median / 1e12:.4g} TFLOP/s, padding counted"
        yield Row("numbers", f"{name}, both passes", 1e3 * clock.median, "ms",
                  f"{rate}; {clock.quartiles()}")  # fmt: skip
