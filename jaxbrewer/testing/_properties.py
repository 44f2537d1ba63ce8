"""The contract of losses: one function per property, which yields what breaks it."""

from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from ..configs import DistillationConfig, IntermediateMatch
from ..forward.adaptors import Outputs
from ..losses import add_means
from ..objective.objective import make_objective
from ..registry import KD_LOSS_MAP, MATCH_LOSS_MAP
from ._subject import TEMPERATURE, Batch, Subject

Failures = Iterator[str]
RTOL, ATOL = 1e-5, 1e-6


def gradient(subject: Subject) -> Failures:
    """The gradient is that of the value: against central differences in float64."""
    rng, h = np.random.default_rng(1), 1e-5
    with jax.enable_x64(True):
        batch = subject.as_dtype(subject.batch(), jnp.float64)
        value, slope = subject.value_and_grad(batch)
        if value.dtype != np.float64:
            yield f"float64 inputs give {value.dtype}"
        for _ in range(3):
            direction = jax.tree.map(lambda x: rng.normal(size=x.shape), batch["student"])
            ahead, behind = (
                jax.tree.map(lambda x, d, step=step: x + step * d, batch["student"], direction)
                for step in (h, -h)
            )
            rise = _value(subject, {**batch, "student": ahead}) - _value(
                subject, {**batch, "student": behind}
            )
            expected = rise / (2 * h)
            products = jax.tree.map(lambda g, d: np.sum(np.float64(g) * d), slope, direction)
            actual = sum(jax.tree.leaves(products))
            yield from _compare("the slope in a direction", actual, expected, 1e-5, 1e-7)


def equality(subject: Subject) -> Failures:
    """At equal student and teacher the loss is its floor, and larger everywhere else.

    The gradient there is finite; it need not be 0, for a loss may have a kink.
    """
    batch, noise = subject.batch(), subject.batch(seed=1)["student"]
    floor = subject.floor
    if callable(floor):
        floor = float(floor(batch["teacher"], batch.get("mask")))
    equal = {**batch, "student": batch["teacher"]}
    value = _value(subject, equal)
    yield from _compare("the loss at equality", value, floor, RTOL, ATOL)
    yield from _finite("at equality", subject, equal)
    for size in np.array([-1, -0.1, 0.1, 1], np.float32):
        away = jax.tree.map(lambda x, d, size=size: x + size * d, batch["teacher"], noise)
        other = _value(subject, {**batch, "student": away})
        if not other > value:
            yield f"a student {size:g} times some noise away has {other:.8g}, not over {value:.8g}"


def padding_length(subject: Subject) -> Failures:
    """More padding changes nothing."""
    batch = subject.batch()
    actual, expected = subject.value(subject.lengthened(batch)), _value(subject, batch)
    yield from _compare("with 2 more positions of padding the loss", actual, expected)


def padding_content(subject: Subject) -> Failures:
    """What padding holds changes neither value nor gradient, and gets no gradient."""
    batch = subject.batch()
    value, slope = subject.value_and_grad(batch)
    for leaf in jax.tree.leaves(slope):
        at_padding = np.where(subject.belongs(batch["mask"], leaf.ndim), 0, leaf)
        if np.any(np.abs(at_padding) > 1e-12):  # a softmax leaves exp(-50) of it
            yield f"padding gets a gradient, up to {np.max(np.abs(at_padding)):.3g}"
    for fill in (np.nan, np.inf, -np.inf):
        actual, actual_slope = subject.value_and_grad(subject.filled(batch, fill))
        yield from _compare(f"with {fill} in padding the loss", actual, value)
        yield from _compare(f"with {fill} in padding the gradient", actual_slope, slope)


def empty_mask(subject: Subject) -> Failures:
    """Without any valid position the loss is 0 and its gradient too."""
    batch = subject.batch()
    value, slope = subject.value_and_grad({**batch, "mask": np.zeros_like(batch["mask"])})
    yield from _compare("without a valid position the loss", value, 0.0)
    zeros = jax.tree.map(np.zeros_like, slope)
    yield from _compare("without a valid position the gradient", slope, zeros)


def single_position(subject: Subject) -> Failures:
    """One valid position in the whole batch gives a finite value and gradient."""
    batch = subject.batch()
    mask = np.zeros_like(batch["mask"])
    mask[0, 0] = 1
    yield from _finite("with one valid position", subject, {**batch, "mask": mask})


def zero_vectors(subject: Subject) -> Failures:
    """Zeros in student, teacher or both give a finite value, and a gradient below 1e4."""
    batch = subject.batch()
    for who in (("student",), ("teacher",), ("student", "teacher")):
        zeros = {key: jax.tree.map(np.zeros_like, batch[key]) for key in who}
        what = f"with a {' and a '.join(who)} of zeros"
        yield from _finite(what, subject, {**batch, **zeros}, largest=1e4)


def large_and_equal(subject: Subject) -> Failures:
    """Numbers of 1e4, and numbers that are all equal, give a finite value and gradient."""
    batch = subject.batch()
    large = subject.mapped(lambda x: np.sign(x) * np.float32(1e4), batch)
    yield from _finite("with numbers of 1e4", subject, large)
    yield from _finite("with ties", subject, subject.mapped(np.ones_like, batch))


def ruled_out(subject: Subject) -> Failures:
    """A class that both models rule out with -inf leaves value and gradient finite."""
    batch = subject.mapped(lambda x: np.where(np.arange(5) == 4, -np.inf, x), subject.batch())
    if "labels" in batch:
        batch["labels"] = np.minimum(batch["labels"], 3)
    yield from _finite("with a class of -inf in both models", subject, batch)


def mask_of_ones(subject: Subject) -> Failures:
    """A mask of ones gives the loss without a mask."""
    batch = subject.mapped(np.abs, subject.batch())  # negative scores may mean padding
    ones = {**batch, "mask": np.ones_like(batch["mask"])}
    without = {key: value for key, value in batch.items() if key != "mask"}
    actual, expected = _value(subject, ones), subject.value(without)
    yield from _compare("with a mask of ones the loss", actual, expected)


def mask_dtype(subject: Subject) -> Failures:
    """Masks of booleans, floats and integers give the same loss."""
    batch = subject.batch()
    for dtype in (bool, jnp.bfloat16):
        actual = subject.value({**batch, "mask": jnp.asarray(batch["mask"], dtype)})
        yield from _compare(
            f"with a mask of {np.dtype(dtype).name} the loss", actual, _value(subject, batch)
        )


def micro_batches(subject: Subject) -> Failures:
    """Sums and counts of the parts of a batch add up to those of the whole."""
    batch = subject.batch()
    without = {key: value for key, value in batch.items() if key != "mask"}
    singly, unevenly = [[0], [1], [2], [3]], [[0], [1, 2, 3]]
    for what, whole, expected, split in (
        ("", batch, _value(subject, batch), unevenly),
        ("", batch, _value(subject, batch), singly),
        (" without a mask", without, subject.value(without), singly),
    ):
        means = [subject.parts(subject.rows(whole, np.array(rows))) for rows in split]
        sizes = " + ".join(str(len(rows)) for rows in split)
        yield from _compare(f"split {sizes}{what} the loss", add_means(*means).value(), expected)


def half_precision(subject: Subject) -> Failures:
    """bfloat16 and float16 inputs are compared in float32.

    The value is within 1e-5 (relative, or 1e-6 absolute) of that in float64 of the same inputs, the
    gradient within one unit in the last place of its dtype, relative to its largest entry.
    """
    for dtype in (jnp.float16, jnp.bfloat16):
        batch = subject.as_dtype(subject.batch(), dtype)
        if subject.has_equal_widths:  # differences of nearly equal numbers show the dtype
            near = jax.tree.map(lambda x, y: y + x / 8, batch["student"], batch["teacher"])
            batch = {**batch, "student": near}
        with jax.enable_x64(True):
            truth, exact = subject.value_and_grad(subject.as_dtype(batch, jnp.float64))
        value, slope = subject.value_and_grad(batch)
        name, step = np.dtype(dtype).name, float(jnp.finfo(dtype).eps)
        if value.dtype != np.float32:
            yield f"{name} inputs give a loss in {value.dtype}, not float32"
        yield from _compare(f"in {name} the loss", np.float64(value), truth)
        largest = max(float(np.abs(leaf).max()) for leaf in jax.tree.leaves(exact))
        slope = jax.tree.map(np.float64, slope)
        yield from _compare(f"in {name} the gradient", slope, exact, step, step * largest)


def order(subject: Subject) -> Failures:
    """The order of the examples changes nothing."""
    batch, moved = subject.batch(), np.array([2, 0, 3, 1])
    value, slope = subject.value_and_grad(batch)
    actual, actual_slope = subject.value_and_grad(subject.rows(batch, moved))
    yield from _compare("with examples in another order the loss", actual, value)
    expected = jax.tree.map(lambda x: x[moved], slope)
    yield from _compare("with examples in another order the gradient", actual_slope, expected)


def transformations(subject: Subject) -> Failures:
    """The loss is the same without jit, under jit, differentiated and under vmap."""
    first, second = subject.batch(), subject.batch(seed=1)
    expected, other = _value(subject, first), _value(subject, second)
    yield from _compare("without jit the loss", subject.scalar(first), expected)
    both = jax.tree.map(lambda *leaves: np.stack(leaves), first, second)
    actual = np.asarray(jax.jit(jax.vmap(subject.scalar))(both))
    yield from _compare("under vmap the loss", actual, np.stack([expected, other]))


def sharding(subject: Subject) -> Failures:
    """A batch on several devices gives the value and gradient of one device."""
    batch = subject.batch()
    size = max(n for n in (1, 2, 4) if n <= len(jax.devices()))
    mesh = Mesh(np.array(jax.devices()[:size]), ("data",))
    spread = jax.device_put(batch, NamedSharding(mesh, PartitionSpec("data")))
    value, slope = subject.value_and_grad(batch)
    actual, actual_slope = subject.value_and_grad(spread)
    yield from _compare(f"on {size} devices the loss", actual, value)
    yield from _compare(f"on {size} devices the gradient", actual_slope, slope)


def temperature(subject: Subject) -> Failures:
    """Temperatures per example or position work like scalars; gradients scale as claimed."""
    batch = subject.batch()
    equal, different = np.full((4, 6), TEMPERATURE), np.array([1, 2, 3, 4], np.float32)
    actual, expected = subject.value(batch, equal), _value(subject, batch)
    yield from _compare("with a temperature (batch, length) the loss", actual, expected)
    repeated = np.repeat(different[:, None], 6, axis=1)
    actual, expected = subject.value(batch, different), subject.value(batch, repeated)
    yield from _compare("with a temperature (batch,) the loss", actual, expected)
    if subject.temperature_power is None:
        return
    slopes = [subject.value_and_grad(batch, np.float32(tau))[1] for tau in (200, 400)]
    actual = np.log2(np.linalg.norm(slopes[1]) / np.linalg.norm(slopes[0]))
    yield from _compare(
        "the power of T by which the gradient grows", actual, subject.temperature_power, 0, 0.1
    )


def teacher(subject: Subject) -> Failures:
    """An objective gives the same loss, and no gradient for the teacher."""
    batch = subject.batch()
    name, table = "being checked", KD_LOSS_MAP if subject.kind == "logits" else MATCH_LOSS_MAP
    facts: dict[str, Any] = {} if subject.has_equal_widths else {"equal_widths": False}
    table.register(name, subject.loss, **facts)
    try:
        spec = {"loss": name, **subject.parameters}
        if subject.kind == "logits":
            config = DistillationConfig(kd_loss_type=spec, temperature=float(TEMPERATURE))
        else:
            layers = [0, 1] if subject.kind == "pair" else 0
            feature = "attention" if subject.kind == "attention" else "hidden"
            match = IntermediateMatch(layers, layers, weight=1, loss=spec, feature=feature)
            config = DistillationConfig(intermediate_matches=[match])
        objective = make_objective(config)
    finally:
        del table[name]

    def outputs(key: str, batch: Batch) -> Outputs:
        mask, labels = batch.get("mask"), batch.get("labels")
        if subject.kind == "logits":
            return Outputs(
                logits=(batch[key],),
                logits_mask=() if mask is None else (mask,),
                labels=() if labels is None else (labels,),
            )
        layers = tuple(batch[key]) if subject.kind == "pair" else (batch[key],)
        return Outputs(inputs_mask=mask, features={feature: layers})

    def total(teacher: Any, batch: Batch) -> jax.Array:
        batch = {**batch, "teacher": teacher}
        loss, _ = objective(outputs("student", batch), outputs("teacher", batch), {})
        return loss

    value, slope = jax.jit(jax.value_and_grad(total))(batch["teacher"], batch)
    yield from _compare("in an objective the loss", value, _value(subject, batch))
    if any(np.any(leaf) for leaf in jax.tree.leaves(jax.device_get(slope))):
        yield "in an objective the teacher gets a gradient"


PROPERTIES: dict[str, Callable[[Subject], Failures]] = {
    "gradient": gradient,
    "equality": equality,
    "padding length": padding_length,
    "padding content": padding_content,
    "empty mask": empty_mask,
    "single position": single_position,
    "zero vectors": zero_vectors,
    "large and equal numbers": large_and_equal,
    "ruled-out classes": ruled_out,
    "mask of ones": mask_of_ones,
    "mask dtype": mask_dtype,
    "micro-batches": micro_batches,
    "half precision": half_precision,
    "order of examples": order,
    "transformations": transformations,
    "sharding": sharding,
    "temperature": temperature,
    "teacher": teacher,
}


def _value(subject: Subject, batch: Batch) -> Any:
    """The loss, from the program that all properties share, since compiling dominates a check."""
    value, _ = subject.value_and_grad(batch)
    return value


def _compare(
    what: str, actual: Any, expected: Any, rtol: float = RTOL, atol: float = ATOL
) -> Failures:
    """Yields the difference of ``actual`` and ``expected``, if there is one."""
    pairs = zip(jax.tree.leaves(actual), jax.tree.leaves(expected), strict=True)
    arrays = [(np.float64(np.asarray(a)), np.float64(np.asarray(e))) for a, e in pairs]
    if all(np.allclose(a, e, rtol, atol) for a, e in arrays):
        return
    if all(a.ndim == 0 for a, _ in arrays):
        yield from (f"{what} is {a:.8g} instead of {e:.8g}" for a, e in arrays)
        return
    off = max(float(np.max(np.abs(a - e))) for a, e in arrays)
    largest = max(float(np.max(np.abs(e))) for _, e in arrays)
    yield f"{what} is off by up to {off:.3g}, its largest entry being {largest:.3g}"


def _finite(what: str, subject: Subject, batch: Batch, largest: float = np.inf) -> Failures:
    value, slope = subject.value_and_grad(batch)
    if not np.isfinite(value):
        yield f"{what} the loss is {value}"
    if not all(np.isfinite(np.float64(leaf)).all() for leaf in jax.tree.leaves(slope)):
        yield f"{what} the gradient is not finite"
    elif any(np.any(np.abs(leaf) > largest) for leaf in jax.tree.leaves(slope)):
        yield f"{what} the gradient is larger than {largest:g}"
