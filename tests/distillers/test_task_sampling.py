"""The draw of tasks: probabilities, seeds, positions."""

import json

import jax
import numpy as np
import pytest

import jaxbrewer as jb
from jaxbrewer.distillers.task_sampling import make_draw, task_groups, task_probabilities
from tests.toys import vector_data

TASKS = ("a", "b")
DATA = {"a": vector_data(24, seed=1), "b": vector_data(8, seed=2)}


def loaders(**settings):
    return {task: jb.ArrayLoader(DATA[task], 4, **settings) for task in TASKS}


def test_task_probabilities_are_examples_to_the_power_tau():
    """Lesson B.5, 26: batches were counted, not examples."""
    sizes = {"a": 400, "b": 100}
    assert task_probabilities(sizes, 1) == pytest.approx({"a": 0.8, "b": 0.2})
    assert task_probabilities(sizes, 0) == {"a": 0.5, "b": 0.5}
    draw = make_draw({"a": 0.8, "b": 0.2}, seed=0)
    drawn = [task for update in range(500) for task in draw(update, 2)]
    assert abs(drawn.count("a") / 1000 - 0.8) < 0.03


def test_the_draw_depends_on_seed_and_step_alone():
    first, again = (make_draw({"a": 0.5, "b": 0.5}, seed=3) for _ in range(2))
    np.random.seed(0)  # lesson B.5, 27: the global generator was used
    assert [first(n, 3) for n in range(20)] == [again(n, 3) for n in reversed(range(20))][::-1]
    other = make_draw({"a": 0.5, "b": 0.5}, seed=4)
    assert [first(n, 3) for n in range(20)] != [other(n, 3) for n in range(20)]


def test_task_groups_resume_from_any_position():
    def stream(start=None):
        draw = make_draw({"a": 0.6, "b": 0.4}, seed=0)
        return task_groups(loaders(seed=5), 2, draw, start=start)

    groups = [group for group, _ in zip(stream(), range(12), strict=False)]
    for at in (0, 3, 7):
        position = json.loads(json.dumps(groups[at].position))
        rest = stream(position)
        for group in groups[at + 1 :]:
            jax.tree.map(np.testing.assert_array_equal, next(rest).batches, group.batches)
