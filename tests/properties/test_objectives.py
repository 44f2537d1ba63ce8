"""Total losses of random configs over random heads and masks, against float64 NumPy."""

import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import assume, given, settings

import jaxbrewer as jb
from jaxbrewer.forward.adaptors import collect

BATCH, LENGTH, CLASSES = 3, 4, 5
weights = st.sampled_from([0, 0.5, 1])


@st.composite
def cases(draw):
    """A config, and what the adaptors of student and teacher return."""
    config = {
        "temperature": draw(st.sampled_from([0.5, 1, 4])),
        "kd_loss_type": draw(st.sampled_from(["ce", "mse"])),
        "kd_loss_weight": draw(weights),
        "hard_label_weight": draw(weights),
        "probability_shift": draw(st.booleans()),
    }
    assume(config["kd_loss_weight"] or config["hard_label_weight"])  # 0 and 0 are refused
    rng = np.random.default_rng(draw(st.integers(0, 99)))
    ranks = draw(st.lists(st.sampled_from([2, 3]), min_size=1, max_size=3))
    places = [(BATCH, LENGTH)[: rank - 1] for rank in ranks]
    student, teacher = (
        {"logits": [rng.normal(size=(*place, CLASSES)) * 3 for place in places]} for _ in range(2)
    )
    student["labels"] = [rng.integers(-1, CLASSES, place) for place in places]
    student["losses"] = [rng.random(BATCH), rng.random()][: draw(st.integers(1, 2))]
    masked = draw(st.sampled_from(["no", "one", "each"] if 3 in ranks else ["no"]))
    if masked != "no":
        dtype = draw(st.sampled_from([bool, np.int32, np.float32]))
        count = 1 if masked == "one" else len(ranks)
        masks = [rng.integers(0, 2, (BATCH, LENGTH)).astype(dtype) for _ in range(count)]
        student["logits_mask"] = masks
        if draw(st.booleans()):
            teacher["logits_mask"] = masks
    return config, student, teacher, draw(st.sampled_from(["float32", "bfloat16"]))


def total_by_hand(config, student, teacher):
    kd = 0.0
    masks = student.get("logits_mask", [None])
    for head, (S, T) in enumerate(zip(student["logits"], teacher["logits"], strict=True)):
        mask = masks[head if len(masks) > 1 else 0]
        rows = np.ones(S.shape[:-1], bool) if mask is None or S.ndim == 2 else mask != 0
        S, T, labels = S[rows], T[rows].copy(), student["labels"][head][rows]
        for row, label in zip(T, labels, strict=True):
            if config["probability_shift"] and label >= 0:
                largest = row.argmax()
                row[largest], row[label] = row[label], row[largest]
        if not len(S):
            continue
        S, T = S / config["temperature"], T / config["temperature"]
        if config["kd_loss_type"] == "mse":
            kd += np.mean((S - T) ** 2)
        else:
            p = np.exp(T) / np.exp(T).sum(-1, keepdims=True)
            kd -= np.mean(np.sum(p * (S - np.log(np.exp(S).sum(-1, keepdims=True))), -1))
    hard = sum(np.mean(loss) for loss in student["losses"])
    return config["kd_loss_weight"] * kd + config["hard_label_weight"] * hard


@pytest.mark.slow
@settings(max_examples=10)
@given(cases())
def test_the_total_is_the_weighted_sum_over_heads_and_selected_positions(case):
    config, student, teacher, dtype = case

    def rounded(answer):
        """Values as models compute them: representable in the dtype."""
        return {
            key: [jnp.asarray(x, dtype) for x in value] if key == "logits" else value
            for key, value in answer.items()
        }

    student, teacher = rounded(student), rounded(teacher)
    objective = jb.make_objective(jb.DistillationConfig(**config))

    @jax.jit
    def total(student, teacher):
        return objective(collect(student, "student"), collect(teacher, "teacher"), {})[0]

    actual = total(student, teacher)
    assert actual.dtype == jnp.float32
    in_float64 = (
        {**answer, "logits": [np.asarray(x, np.float64) for x in answer["logits"]]}
        for answer in (student, teacher)
    )
    expected = total_by_hand(config, *in_float64)
    np.testing.assert_allclose(actual, expected, rtol=1e-4, atol=1e-5)
