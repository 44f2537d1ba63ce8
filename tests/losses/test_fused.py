"""Losses by chunks: the numbers of the plain losses on whole logits."""

import dataclasses
import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxbrewer as jb
from jaxbrewer.losses import (
    Chunks,
    LogitsOf,
    choose_chunks,
    compare_in_chunks,
    fused_cross_entropy,
    fused_loss,
    kl_divergence,
    map_positions,
    masked_mean,
    mean_of_labels,
)
from jaxbrewer.objective.top_k import keep_top_k, to_buckets
from jaxbrewer.registry import KD_LOSS_MAP
from jaxbrewer.testing._properties import PROPERTIES
from tests.tiers import exhaustive_but

pytestmark = pytest.mark.slow

BATCH, LENGTH, CLASSES = 2, 5, 7
CHUNKS = Chunks(3, 4)  # twelve places for ten positions
DISTRIBUTIONS = [n for n in KD_LOSS_MAP if KD_LOSS_MAP.row(n).between_distributions]
OTHERS = [n for n in KD_LOSS_MAP if n not in DISTRIBUTIONS]
MASK = np.array([[1, 1, 1, 1, 0], [1, 0, 1, 0, 0]])
TEMPERATURES = np.float32(1 + np.arange(10).reshape(BATCH, LENGTH) / 5)
LABELS = np.array([[0, 1, 6, 3, 2], [3, -100, 2, 5, -100]])


def head(seed, width, *, bias=False, **keywords):
    """Random hidden states and a head."""
    rng = np.random.default_rng(seed)
    kernel = np.float32(rng.normal(size=(width, CLASSES)))
    kernel = kernel.T.copy() if keywords.get("tied") else kernel
    own = np.float32(rng.normal(size=CLASSES)) if bias else None
    return LogitsOf(np.float32(rng.normal(size=(BATCH, LENGTH, width))), kernel, own, **keywords)


def teacher_of(kind):
    """A teacher of another width in one of its forms."""
    live = head(1, 3, bias=True, softcap=2.0)
    if kind == "live":
        return live
    return live.logits() if kind == "dense" else keep_top_k(live.logits(), 3, (1.0, 2.0))


def plain(student, teacher, loss, temperature, mask, labels, **parameters):
    """The loss as it is on whole logits."""
    logits_S = student.logits()
    if isinstance(teacher, LogitsOf):
        teacher = teacher.logits()
    if isinstance(teacher, jb.TopK):
        logits_S, teacher = to_buckets(logits_S, teacher, temperature, mask)
    named = {"labels": labels} if labels is not None else {}
    return KD_LOSS_MAP[loss](logits_S, teacher, temperature, mask=mask, **named, **parameters)


def compare(student, teacher, loss, temperature=1.0, mask=None, **parameters):
    """Compares value and gradient to every part of the student."""
    labels = LABELS if loss == "dkd" else None
    given = (loss, temperature, mask)
    form = functools.partial(fused_loss, labels=labels, chunks=CHUNKS, **parameters)
    actual = jax.jit(jax.value_and_grad(lambda s, t: form(s, t, *given), allow_int=True))
    expected = jax.jit(jax.value_and_grad(lambda s, t: plain(s, t, *given, labels, **parameters)))
    equal(actual(student, teacher), expected(student, teacher))


def equal(actual, expected):
    assert jax.tree.structure(actual) == jax.tree.structure(expected)
    jax.tree.map(lambda a, e: np.testing.assert_allclose(a, e, 1e-5, 1e-6), actual, expected)


KINDS = ["live", "dense", "top k"]
KL_OR_LIVE = [case for case in itertools.product(DISTRIBUTIONS, KINDS) if {"kl", "live"} & {*case}]


@pytest.mark.parametrize(
    ("loss", "kind"), exhaustive_but(KL_OR_LIVE, itertools.product(DISTRIBUTIONS, KINDS))
)
def test_divergences_are_those_of_whole_logits(loss, kind):
    student = head(0, 4, bias=True, softcap=3.0, scale=0.7)
    compare(student, teacher_of(kind), loss, TEMPERATURES, MASK)


@pytest.mark.parametrize("loss", OTHERS)
def test_other_losses_are_those_of_whole_logits(loss):
    compare(head(0, 4), teacher_of("live"), loss, 2.0, MASK)


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("softcap", exhaustive_but([2.0], [None, 2.0]))
def test_any_head_gets_its_gradient(bias, tied, softcap):
    compare(head(0, 4, bias=bias, tied=tied, softcap=softcap), teacher_of("live"), "kl", 2.0)


def test_a_temperature_per_example_and_parameters():
    compare(head(0, 4), teacher_of("dense"), "jsd", np.float32([1.5, 3.0]), MASK, beta=0.2)


def test_classes_that_are_ruled_out():
    student, teacher = head(0, 4, bias=True), head(1, 3, bias=True)
    out = np.where(np.arange(CLASSES) == 2, -np.inf, 0).astype(np.float32)
    student, teacher = (dataclasses.replace(x, bias=x.bias + out) for x in (student, teacher))
    for loss in DISTRIBUTIONS:
        compare(student, teacher, loss, 2.0, MASK)


def test_it_is_the_kl_of_float64_numpy():
    student, teacher = head(0, 4, bias=True, softcap=3.0), head(1, 3)

    def log_softmax(z):
        z = z - z.max(-1, keepdims=True)
        return z - np.log(np.exp(z).sum(-1, keepdims=True))

    z_S = student.hidden.astype(np.float64) @ student.kernel + student.bias
    log_q = log_softmax(3 * np.tanh(z_S / 3) / TEMPERATURES[..., None])
    z_T = teacher.hidden.astype(np.float64) @ teacher.kernel
    log_p = log_softmax(z_T / TEMPERATURES[..., None])
    values = TEMPERATURES**2 * (np.exp(log_p) * (log_p - log_q)).sum(-1)
    expected = (values * MASK).sum() / MASK.sum()
    actual = fused_loss(student, teacher, "kl", TEMPERATURES, MASK, chunks=CHUNKS)
    np.testing.assert_allclose(actual, expected, rtol=1e-6)


def test_the_teacher_gets_no_gradient():
    def loss(teacher, temperature):
        return fused_loss(head(0, 4), teacher, "kl", temperature, chunks=CHUNKS)

    gradient = jax.grad(loss, argnums=(0, 1))(teacher_of("live"), 2.0)
    assert not any(np.any(leaf) for leaf in jax.tree.leaves(gradient))


@pytest.mark.parametrize("chunks", [None, CHUNKS])
def test_labels_are_counted_where_they_are_classes(chunks):
    student = head(0, 4, bias=True)

    def expected(student):
        log_q = jax.nn.log_softmax(student.logits()).reshape(10, -1)
        counted = (LABELS.reshape(-1) >= 0) & (MASK.reshape(-1) != 0)
        return -log_q[np.flatnonzero(counted), LABELS.reshape(-1)[counted]].mean()

    def actual(student):
        return fused_cross_entropy(student, LABELS, MASK, chunks=chunks)

    equal(*(jax.value_and_grad(form)(student) for form in (actual, expected)))
    assert fused_cross_entropy.sum_and_count(student, LABELS, MASK, chunks=chunks).count == 6
    equal(fused_cross_entropy(student.logits(), LABELS, MASK), actual(student))


@pytest.mark.parametrize("weights", [(1.0, 0.5), (0.0, 1.0), (3.0, 1.0)])
def test_two_means_have_one_gradient_whatever_they_weigh(weights):
    """Proportions that the forward pass did not expect are computed anew."""
    student, teacher = head(0, 4, bias=True), head(1, 3)
    own = jb.LabelLoss(jnp.asarray(LABELS), jnp.asarray(MASK))

    def of_chunk(logits_S, logits_T, given):
        values = kl_divergence(logits_S, logits_T, 2.0, where=given.mask)
        return masked_mean(values, given.mask), mean_of_labels(logits_S, given.along)

    def total(student, chunks):
        kd, labels = compare_in_chunks(
            of_chunk, student, teacher, jb.losses.Positions(mask=MASK, along=own.rows), chunks,
            what="both", weights=(1.0, 0.5),
        )  # fmt: skip
        return weights[0] * kd.value() + weights[1] * labels.value(), (kd, labels)

    program = jax.jit(jax.value_and_grad(total, has_aux=True), static_argnums=1)
    equal(program(student, CHUNKS), program(student, Chunks(1, 10)))


def test_no_position_gives_zero_and_what_padding_holds_is_not_read():
    student, teacher = head(0, 4), teacher_of("live")
    held = np.where(MASK[..., None], student.hidden, np.nan)
    form = functools.partial(fused_loss, temperature=2.0, chunks=CHUNKS)
    actual, slope = jax.value_and_grad(
        lambda hidden: form(dataclasses.replace(student, hidden=hidden), teacher, "kl", mask=MASK)
    )(held)
    np.testing.assert_allclose(actual, form(student, teacher, "kl", mask=MASK), 1e-6)
    assert np.isfinite(slope).all()
    assert not slope[MASK == 0].any()
    assert form(student, teacher, "kl", mask=0 * MASK) == 0


def test_bfloat16_is_accumulated_in_float32():
    student, teacher = (
        dataclasses.replace(
            x,
            hidden=jnp.asarray(x.hidden, jnp.bfloat16),
            kernel=jnp.asarray(x.kernel, jnp.bfloat16),
        )
        for x in (head(0, 4), head(1, 3))
    )

    def exact(x):
        return jax.tree.map(lambda leaf: leaf.astype(jnp.float32), x)

    form = functools.partial(fused_loss, loss="kl", temperature=2.0, chunks=CHUNKS)
    value, slope = jax.value_and_grad(form)(student, teacher)
    expected, exact_slope = jax.value_and_grad(form)(exact(student), exact(teacher))
    assert value.dtype == jnp.float32
    np.testing.assert_allclose(value, expected, rtol=1e-6)
    for own, other in zip(*map(jax.tree.leaves, (slope, exact_slope)), strict=True):
        assert own.dtype == jnp.bfloat16
        np.testing.assert_allclose(exact(own), other, atol=0.01 * np.abs(other).max())


def test_a_head_without_a_gradient_is_not_multiplied_for_one():
    student, teacher = head(0, 4), teacher_of("live")

    def of_hidden(hidden, kernel):
        own = dataclasses.replace(student, hidden=hidden, kernel=kernel)
        return fused_loss(own, teacher, "kl", chunks=CHUNKS)

    given = student.hidden, student.kernel
    both, frozen = (
        str(jax.make_jaxpr(jax.grad(of_hidden, argnums))(*given)).count("dot_general")
        for argnums in ((0, 1), (0,))
    )
    assert (both, frozen) == (4, 3)
    alone = jax.grad(of_hidden)(*given)
    np.testing.assert_allclose(alone, jax.grad(of_hidden, (0, 1))(*given)[0], 1e-6)


def test_positions_are_mapped_in_their_order():
    logits = head(0, 4)

    def both(logits_S, logits_T, own):
        return {"best": logits_S.argmax(-1), "gap": (logits_S - logits_T) * own.labels[:, None]}

    given = jb.losses.Positions(labels=LABELS)
    found = map_positions(both, logits, teacher_of("live"), given, CHUNKS)
    np.testing.assert_array_equal(found["best"], logits.logits().argmax(-1))
    expected = (logits.logits() - teacher_of("live").logits()) * LABELS[..., None]
    np.testing.assert_allclose(found["gap"], expected, 1e-5, 1e-5)


@pytest.mark.parametrize(
    ("positions", "classes", "expected"),
    [
        (4096, 128_256, Chunks(32, 128)),
        (4096, 151_936, Chunks(32, 128)),
        (4096, 32_000, Chunks(8, 512)),
        (512, 32_000, Chunks(1, 512)),  # fits: the plain form
        (4099, 128_256, Chunks(32, 129)),  # a prime number: the last chunk is filled up
        (3, 50_000_000, Chunks(3, 1)),  # never less than a position
    ],
)
def test_chunks_are_chosen_from_shapes(positions, classes, expected):
    chunks = choose_chunks(positions, classes, chunk_bytes=2**26)
    assert chunks == expected
    assert chunks.number * chunks.size >= positions
    parts = choose_chunks(8 * positions, classes, chunk_bytes=2**26, parts=8)
    assert parts == (*expected[:2], 8)


def test_a_batch_in_parts_has_the_same_numbers():
    student, teacher = head(0, 4, bias=True), teacher_of("live")
    form = functools.partial(fused_loss, loss="kl", temperature=TEMPERATURES)
    whole, parts = (
        jax.value_and_grad(functools.partial(form, chunks=chunks))(student, teacher, mask=MASK)
        for chunks in (Chunks(1, 10), Chunks(3, 2, parts=2))
    )
    equal(parts, whole)


def _memory(form, positions, classes, width):
    """Bytes of temporary memory of value and gradient."""
    shapes = [
        LogitsOf(
            jax.ShapeDtypeStruct((positions, width), np.float32),
            jax.ShapeDtypeStruct((width, classes), np.float32),
        )
        for _ in range(2)
    ]
    program = jax.jit(jax.value_and_grad(form)).lower(*shapes).compile()
    return program.memory_analysis().temp_size_in_bytes


def test_memory_does_not_grow_with_the_logits():
    positions, classes, width = 1024, 4096, 16
    chunks = choose_chunks(positions, classes, chunk_bytes=2**17)
    forms = [
        functools.partial(fused_loss, loss="kl", temperature=2.0, chunks=own)
        for own in (Chunks(1, positions), chunks)
    ]
    whole, chunked = (_memory(form, positions, classes, width) for form in forms)
    assert whole > 4 * positions * classes * 4
    assert chunked < whole / 50


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda s, t: fused_loss(s, t, "kll"), ["kll", "'kl'"]),
        (lambda s, t: fused_loss(s, keep_top_k(t.logits(), 2), "mse"), ["mse", "all of the"]),
        (lambda s, t: fused_loss(s, t, temperature=MASK[0] > 0), ["temperature"]),
        (lambda s, t: fused_loss(s, t, temperature=TEMPERATURES[0]), ["temperature", "(2, 5)"]),
        (lambda s, t: fused_loss(s, t.logits()[..., :3]), ["classes", "7 and 3"]),
        (lambda s, t: fused_loss(s, t, mask=MASK[0]), ["mask", "(2, 5)", "(5,)"]),
        (lambda s, t: fused_loss(s, t, "dkd", labels=LABELS[0]), ["labels", "(5,)"]),
        (lambda s, t: fused_cross_entropy(s, LABELS / 2), ["integer labels", "float"]),
        (lambda s, t: fused_cross_entropy(s, LABELS[0]), ["(2, 5)", "(5,)"]),
    ],
)
def test_what_does_not_fit_is_one_line(call, words):
    with pytest.raises(jb.UsageError) as caught:
        call(head(0, 4), head(1, 3))
    assert "\n" not in str(caught.value)
    assert all(word in str(caught.value) for word in words), str(caught.value)


@pytest.mark.parametrize("loss", exhaustive_but(["kl"], DISTRIBUTIONS))
def test_the_contract_of_losses_holds_in_chunks(loss):
    """Each class is a column of the hidden states, so that the gradient is that of the logits."""

    @jb.as_loss
    def in_chunks(logits_S, logits_T, temperature=1.0, mask=None):
        student = LogitsOf(logits_S, jnp.eye(5, dtype=logits_S.dtype))
        count = int(np.prod(logits_S.shape[:-1]))
        return fused_loss.sum_and_count(
            student, logits_T, loss, temperature, mask, chunks=Chunks(3, -(-count // 3))
        )

    checked = [name for name in PROPERTIES if name != "ruled-out classes"]  # -inf * 0 is NaN
    jb.testing.check_loss(in_chunks, "logits", floor=None, only=checked)
