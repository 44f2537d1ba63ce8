"""LogitsOf in the objective: the numbers of whole logits, and what is held."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxbrewer as jb
from jaxbrewer.losses import LogitsOf, collect_facts
from jaxbrewer.losses import _chunk_sizes as chunks
from jaxbrewer.objective.ensemble import Targets
from jaxbrewer.objective.top_k import keep_top_k

BATCH, LENGTH, CLASSES = 2, 6, 7
MASK = np.array([[1, 1, 1, 1, 0, 0], [1, 0, 1, 0, 1, 0]])
LABELS = np.array([[0, 1, 6, 3, 2, 2], [3, -100, 2, 5, -100, 1]])
WEIGHTS = np.float32([[1, 2, 0, 1, 1, 1], [0.5, 1, 1, 1, 3, 1]])


@pytest.fixture(autouse=True)
def _small_chunks(monkeypatch):
    monkeypatch.setitem(chunks.CHUNK_BYTES, "cpu", 4 * CLASSES * 3)


def head(seed, width, positions=(BATCH, LENGTH), classes=CLASSES):
    """Random hidden states and a head."""
    rng = np.random.default_rng(seed)
    hidden, kernel = rng.normal(size=(*positions, width)), rng.normal(size=(width, classes))
    return LogitsOf(np.float32(hidden), np.float32(kernel), softcap=4.0)


def whole(outputs):
    """The same outputs with arrays for logits."""
    logits = [x.logits() if isinstance(x, LogitsOf) else x for x in outputs.logits]
    return dataclasses.replace(outputs, logits=tuple(logits))


def agrees(config, student, teachers):
    """Compares value and gradient of an objective with those on whole logits; returns facts."""
    objective = jb.make_objective(jb.DistillationConfig(**config))
    teachers = teachers() if callable(teachers) else teachers
    given = teachers if isinstance(teachers, jb.Outputs) else tuple(teachers)

    def loss(logits, form):
        outputs = form(dataclasses.replace(student, logits=logits))
        told = form(given) if isinstance(given, jb.Outputs) else tuple(map(form, given))
        return objective(outputs, told, {})[0]

    def both(logits):
        return [jax.value_and_grad(loss)(logits, form) for form in (lambda x: x, whole)]

    with collect_facts() as facts:
        actual, expected = jax.jit(both)(student.logits)
    jax.tree.map(lambda a, e: np.testing.assert_allclose(a, e, 1e-5, 1e-6), actual, expected)
    assert np.abs(np.asarray(expected[1][0].kernel)).max() > 1e-4
    return list(facts)


def outputs(*logits, **keys):
    return jb.Outputs(logits=logits, **keys)


@functools.partial(jax.jit, static_argnums=1)
def largest(logits, temperatures=(1.0,)):
    return keep_top_k(logits.logits(), 3, temperatures)


STUDENT, TEACHER = head(0, 4), head(1, 3)
IN_CHUNKS = "kd_loss of logits[0]: logits of 12 positions x 7 classes in 4 chunks of 3 positions"

CASES = {
    "masks and weights": (
        {"kd_loss_type": "kl", "temperature": 3},
        outputs(STUDENT, logits_mask=MASK, logits_weights=WEIGHTS),
        outputs(TEACHER, logits_mask=MASK.T.reshape(2, 6)),
    ),
    "masks of other lengths": (
        {"kd_loss_type": "reverse_kl"},
        outputs(STUDENT, logits_mask=MASK),
        outputs(
            head(1, 3, (BATCH, 5)), logits_mask=np.array([[1, 1, 0, 1, 1], [1, 0, 1, 0, 1]])
        ),
    ),
    "padding": ({"kd_loss_type": "jsd"}, outputs(STUDENT, inputs_mask=MASK), outputs(TEACHER)),
    "a shift": (
        {"kd_loss_type": "ce", "probability_shift": True},
        outputs(STUDENT, labels=LABELS),
        outputs(TEACHER),
    ),
    "cwsm": (
        {"kd_loss_type": "kl", "temperature_scheduler": ["cwsm", 1]},
        outputs(STUDENT, logits_mask=MASK),
        outputs(TEACHER),
    ),
    "flsw and a shift": (
        {"kd_loss_type": "kl", "temperature_scheduler": ["flsw", 1, 2], "probability_shift": True},
        outputs(STUDENT, labels=LABELS, logits_mask=MASK),
        outputs(TEACHER),
    ),
    "a wider teacher": (
        {"kd_loss_type": "kl", "vocabulary": "common"},
        outputs(STUDENT),
        outputs(head(1, 3, classes=9)),
    ),
    "a narrower teacher": (
        {"kd_loss_type": "kl", "vocabulary": "common"},
        outputs(STUDENT),
        outputs(head(1, 3, classes=5)),
    ),
    "a dense teacher": (
        {"kd_loss_type": "tvd"},
        outputs(STUDENT),
        lambda: outputs(jax.jit(LogitsOf.logits)(TEACHER)),
    ),
    "the largest logits": (
        {"kd_loss_type": "kl", "temperature": 2},
        outputs(STUDENT, logits_mask=MASK),
        lambda: outputs(largest(TEACHER, (2.0,))),
    ),
    "labels": (
        {"kd_loss_type": "dkd"},
        outputs(STUDENT, labels=np.abs(LABELS) % CLASSES),
        outputs(TEACHER),
    ),
    "several teachers": (
        {"kd_loss_type": "kl", "teacher_average": "losses", "teacher_temperatures": [1, 2]},
        outputs(STUDENT),
        [outputs(TEACHER), outputs(head(2, 5), logits_mask=MASK)],
    ),
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_chunks_give_the_numbers_of_whole_logits(case):
    facts = agrees(*CASES[case])
    assert IN_CHUNKS in facts
    assert not any("whole" in fact for fact in facts)


def test_examples_without_positions_are_positions():
    student, teacher = head(0, 4, (6,)), head(1, 3, (6,))
    facts = agrees(
        {"kd_loss_type": "kl"},
        outputs(student, logits_mask=MASK[0], logits_weights=WEIGHTS[1]),
        outputs(teacher),
    )
    (fact,) = facts
    assert fact.endswith("logits of 6 positions x 7 classes in 2 chunks of 3 positions")


@pytest.mark.slow
def test_weights_of_routed_examples():
    objective = jb.make_objective(
        jb.DistillationConfig(kd_loss_type="kl", teacher_average="losses")
    )

    def total(student, form):
        targets = Targets(
            (form(outputs(TEACHER)),), (jnp.float32([0.25, 2.0]),), (outputs(TEACHER),)
        )
        return objective(form(outputs(student, logits_mask=MASK)), targets, {})[0]

    actual, expected = (jax.value_and_grad(total)(STUDENT, form) for form in (lambda x: x, whole))
    jax.tree.map(lambda a, e: np.testing.assert_allclose(a, e, 1e-5, 1e-6), actual, expected)


def by_length(logits_S, logits_T, temperature=1, mask=None):
    """A loss that is not computed by position."""
    return jnp.mean((logits_S - logits_T)[:, 1:] ** 2) / temperature


def by_first_class(logits_S, logits_T, base, mask=None):
    """A temperature rule of a user."""
    return base + logits_S[..., 0] ** 2


@pytest.fixture
def _by_length():
    jb.register_new("kd_loss", "by_length", by_length)
    yield
    del jb.KD_LOSS_MAP["by_length"]


@pytest.mark.usefixtures("_by_length")
@pytest.mark.parametrize(
    ("config", "student", "held"),
    [
        ({"kd_loss_type": "by_length"}, outputs(STUDENT), "logits[0] of the student"),
        (
            {"kd_loss_type": "kl", "temperature_scheduler": by_first_class},
            outputs(STUDENT),
            "logits[0], for the temperature_scheduler",
        ),
        (
            {"kd_loss_type": "kl"},
            outputs(head(0, 4, (BATCH,)), logits_mask=MASK[:, :1] + np.zeros((1, 7), int)),
            "logits[0] of the student",
        ),
    ],
)  # fmt: skip
def test_what_needs_whole_logits_holds_them_and_says_so(config, student, held):
    teacher = outputs(head(1, 3, student.logits[0].shape[:-1]))
    facts = agrees(config, student, teacher)
    assert any(fact.startswith(held) and fact.endswith("whole") for fact in facts), facts


@pytest.mark.parametrize("average", ["logits", "probabilities"])
def test_averaged_teachers_are_held_whole_one_by_one(average):
    facts = agrees(
        {"kd_loss_type": "kl", "teacher_average": average},
        outputs(STUDENT),
        [outputs(TEACHER), outputs(head(2, 5))],
    )
    assert IN_CHUNKS in facts
    assert sum("averaged" in fact and "whole" in fact for fact in facts) == 2


def test_a_student_without_a_head_holds_the_teachers_logits():
    objective = jb.make_objective(jb.DistillationConfig(kd_loss_type="kl"))
    logits = STUDENT.logits()
    with collect_facts() as facts:
        actual = objective(outputs(logits), outputs(TEACHER), {})[0]
    np.testing.assert_allclose(actual, objective(outputs(logits), whole(outputs(TEACHER)), {})[0])
    assert "logits[0] of the teacher" in next(iter(facts))


@pytest.mark.parametrize(
    ("config", "student", "teacher", "words"),
    [
        ({}, outputs(STUDENT), outputs(head(1, 3, (BATCH, 4))), ["(2, 6, 7)", "(2, 4, 7)"]),
        ({}, outputs(STUDENT), outputs(head(1, 3, classes=8)), ["7 columns", "8"]),
        (
            {"kd_loss_type": "mse"},
            outputs(STUDENT),
            lambda: outputs(largest(TEACHER)),
            ["largest", "mse"],
        ),
        (
            {},
            outputs(STUDENT),
            lambda: outputs(largest(head(1, 3, classes=8))),
            ["(2, 6, 7)", "(2, 6, 8)"],
        ),
    ],
)
def test_what_does_not_fit_is_one_line(config, student, teacher, words):
    objective = jb.make_objective(jb.DistillationConfig(**{"kd_loss_type": "kl", **config}))
    teacher = teacher() if callable(teacher) else teacher
    with pytest.raises(jb.UsageError) as caught:
        objective(student, teacher, {})
    assert "\n" not in str(caught.value)
    assert all(word in str(caught.value) for word in words), str(caught.value)
