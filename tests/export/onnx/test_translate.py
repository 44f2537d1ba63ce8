"""Functions of JAX and their graphs compute the same, for every batch and length."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxbrewer import UsageError
from jaxbrewer.export import Program
from tests.export.conftest import needs_onnx

pytestmark = needs_onnx
TABLE = np.random.default_rng(0).normal(size=(50, 6)).astype(np.float32)


def program(function):
    return Program(
        inputs=("ids", "mask"),
        outputs=("y",),
        per_token=frozenset(),
        weights={"table": jnp.asarray(TABLE)},
        call=lambda weights, inputs: {"y": function(weights["table"], **inputs)},
        longest=32,
        facts={"task": "test"},
    )


def embed(table, ids):
    return jnp.take(table, ids, axis=0)


def attend(table, ids, mask):
    x = embed(table, ids).reshape(*ids.shape, 2, 3)
    scores = jnp.einsum("bqhd,bkhd->bhqk", x, x) + jnp.where(mask[:, None, None] == 0, -1e30, 0.0)
    return jnp.einsum("bhqk,bkhd->bqhd", jax.nn.softmax(scores), x).reshape(*ids.shape, 6)


def relative(table, ids, mask):
    x = embed(table, ids)
    positions = jnp.arange(ids.shape[1])
    index = jnp.clip(positions[:, None] - positions[None, :], -3, 2) + 3
    scores = jnp.einsum("bld,rd->blr", x, table[:6])
    return jnp.take_along_axis(scores, index[None], axis=-1).swapaxes(1, 2)


FUNCTIONS = {
    "attend": attend,
    "relative": relative,
    "mean": lambda t, ids, mask: jnp.einsum("bld,bl->bd", embed(t, ids), mask.astype(t.dtype))
    / jnp.maximum(mask.sum(1, keepdims=True), 1),
    "positions": lambda t, ids, mask: jnp.cumsum(mask, axis=1) * mask + 1,
    "average": lambda t, ids, mask: embed(t, ids).mean(axis=1),
    "broadcast": lambda t, ids, mask: jnp.ones((1, 1, 6)) + jnp.zeros((*ids.shape, 1)),
    "constant": lambda t, ids, mask: jnp.zeros((*ids.shape, 3)),
    "table": lambda t, ids, mask: (t @ t.T)[None, :4] + ids[:, :1, None],
    "first": lambda t, ids, mask: embed(t, ids)[:, 0],
    "last": lambda t, ids, mask: embed(t, ids)[..., -1],
    "halves": lambda t, ids, mask: jnp.concatenate(jnp.split(embed(t, ids), 2, -1)[::-1], -1),
    "slice": lambda t, ids, mask: embed(t, ids)[:, :, 1:5:2],
    "gelu": lambda t, ids, mask: jax.nn.gelu(embed(t, ids), approximate=True),
    "erfc": lambda t, ids, mask: jax.nn.silu(embed(t, ids)) ** 3 - jnp.tanh(embed(t, ids)) ** 2,
    "compare": lambda t, ids, mask: jnp.where((ids > 9) & (mask != 0) | (ids <= 3), ids, -ids),
    "clamp": lambda t, ids, mask: jnp.sign(jnp.clip(ids, 5, 9) - 7),
    "waves": lambda t, ids, mask: jnp.cos(ids / 3.0) + jnp.sin(jnp.abs(-ids) + 0.5),
    "roots": lambda t, ids, mask: jnp.sqrt(ids + 1.0)
    + jax.lax.rsqrt(ids + 1.0) + jnp.log(2.0 + ids),
    "extremes": lambda t, ids, mask: ids.max(1) + ids.min(1) + jnp.floor(ids / 2.0).sum(1),
    "outer": lambda t, ids, mask: jnp.einsum("bi,bj->bij", ids, ids).astype(jnp.float32),
    "sizes": lambda t, ids, mask: jnp.ones(ids.shape).reshape(-1).sum() + jnp.zeros(3),
    "heads": lambda t, ids, mask: jnp.einsum(
        "bhld,rhd->bhlr", embed(t, ids).reshape(*ids.shape, 2, 3).swapaxes(1, 2),
        t.reshape(50, 2, 3),
    ),
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("name", FUNCTIONS)
def test_a_graph_computes_what_jax_computes(name, tmp_path):
    from jaxbrewer.export.onnx import files

    given = program(FUNCTIONS[name])
    files.write(given, tmp_path / "model.onnx")
    session = files.open_session(tmp_path / "model.onnx")
    draw = np.random.default_rng(1)
    for shape in ((1, 4), (3, 7)):
        inputs = {"ids": draw.integers(0, 40, shape), "mask": draw.integers(0, 2, shape)}
        with jax.numpy_rank_promotion("allow"):
            wanted = given.run(inputs)["y"]
        got = files.run(session, inputs)["y"]
        assert got.shape == wanted.shape
        assert got.dtype == wanted.dtype
        np.testing.assert_allclose(got, wanted, atol=1e-5, rtol=1e-5)


def operations(function):
    from jaxbrewer.export.onnx.translate import translate

    return [node.op for node in translate(program(function)).nodes]


def test_softmax_and_gelu_are_single_operations():
    from jaxbrewer.models.layers import gelu

    assert operations(lambda t, ids, mask: gelu(embed(t, ids))).count("Gelu") == 1
    assert operations(attend).count("Softmax") == 1


def test_transpositions_in_a_row_become_one():
    count = operations(attend).count("Transpose")
    assert count == 3  # the query, which is the value here, the key, and the result


def test_equal_computations_are_done_once():
    twice = operations(lambda t, ids, mask: jnp.sin(ids / 2.0) + jnp.sin(ids / 2.0))
    assert twice.count("Sin") == 1


def test_an_operation_without_a_translation_is_named():
    with pytest.raises(UsageError, match="The ONNX export does not support the operation 'sort'"):
        operations(lambda t, ids, mask: jnp.sort(ids, axis=1))


def test_large_weights_lie_beside_the_file(tmp_path):
    from jaxbrewer.export.onnx import files

    given = program(FUNCTIONS["first"])
    files.write(given, tmp_path / "model.onnx", largest_file=1000)
    assert (tmp_path / "model.onnx_data").stat().st_size >= TABLE.nbytes
    assert (tmp_path / "model.onnx").stat().st_size < 1000
    files.annotate(tmp_path / "model.onnx", {"format": "onnx"})
    inputs = {"ids": np.ones((2, 3), int), "mask": np.ones((2, 3), int)}
    got = files.run(files.open_session(tmp_path / "model.onnx"), inputs)["y"]
    np.testing.assert_array_equal(got, TABLE[[1, 1]])


def test_an_id_outside_of_the_table_is_one_line(tmp_path):
    from jaxbrewer.export.onnx import files

    files.write(program(FUNCTIONS["first"]), tmp_path / "model.onnx")
    session = files.open_session(tmp_path / "model.onnx")
    with pytest.raises(UsageError, match="onnxruntime cannot run the model: .*out of data bounds"):
        files.run(session, {"ids": np.full((1, 2), 99), "mask": np.ones((1, 2), int)})


def test_int8_keeps_a_quarter_of_the_weights(tmp_path):
    from jaxbrewer.export.onnx import files
    from jaxbrewer.export.onnx.int8 import quantize

    table = np.random.default_rng(0).normal(size=(500, 64)).astype(np.float32)
    kernel = np.random.default_rng(1).normal(size=(64, 256)).astype(np.float32)
    given = Program(
        inputs=("ids",), outputs=("y",), per_token=frozenset(), longest=32, facts={"task": "test"},
        weights={"kernel": jnp.asarray(kernel), "table": jnp.asarray(table)},
        call=lambda weights, inputs: {"y": embed(weights["table"], inputs["ids"])[:, 0] @
                                      weights["kernel"]},
    )  # fmt: skip
    files.write(given, tmp_path / "model.onnx")
    quantize(tmp_path / "model.onnx", tmp_path / "int8.onnx")
    sizes = [(tmp_path / name).stat().st_size for name in ("model.onnx", "int8.onnx")]
    assert sizes[1] < 0.3 * sizes[0]
    inputs = {"ids": np.arange(8)[:, None]}
    got = files.run(files.open_session(tmp_path / "int8.onnx"), inputs)["y"]
    wanted = table[:8] @ kernel
    assert np.sqrt(np.mean((got - wanted) ** 2) / np.mean(wanted**2)) < 0.05
