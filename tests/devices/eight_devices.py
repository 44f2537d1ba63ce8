"""Trains on 8 fake CPU devices under several layouts and prints the results as JSON.

Its argument is a JSON object with the layouts of each distiller. Run by ``test_sharding.py`` in a
process of its own, since the number of devices is fixed once JAX has started.
"""

import collections
import json
import re
import sys

import jax
import numpy as np
import optax

import jaxbrewer as jb
from jaxbrewer.devices.mesh import make_layout
from jaxbrewer.devices.sharding import (
    init_state,
    jit_step,
    models_for_use,
    place_batch,
    place_teacher,
)
from tests.toys import HIDDEN_MATCH, Encoder, hidden_adaptor, quiet, text_data

TENSOR = [["layers/0/kernel", [None, "tensor"]], ["layers/1/kernel", ["tensor"]]]
LAYOUTS = {
    "one": {},
    "data": {"mesh": {"data": 8}},
    "fsdp": {"mesh": {"fsdp": 8}},
    "tensor": {
        "mesh": {"data": 2, "tensor": -1},
        "student_rules": TENSOR,
        "teacher_rules": [["layers/./kernel", [None, "tensor"]]],
    },
}
MATCH = {**HIDDEN_MATCH, "proj": ["linear", 32, 64]}
DISTIL = jb.DistillationConfig(temperature=2, hard_label_weight=0.5, intermediate_matches=[MATCH])
PLAIN = jb.DistillationConfig(temperature=2, hard_label_weight=0.5)


def general(config):
    models = Encoder(64, 2, seed=1), Encoder(32, 2)
    return jb.GeneralDistiller(config, DISTIL, *models, hidden_adaptor, hidden_adaptor)


def basic(config):
    models = Encoder(64, 2, seed=1), Encoder(32, 2)
    return jb.BasicDistiller(config, PLAIN, *models, hidden_adaptor, hidden_adaptor)


def trainer(config):
    return jb.BasicTrainer(config, Encoder(32, 2, norm=True), hidden_adaptor)


def several(config):
    teachers = Encoder(64, 2, seed=1), Encoder(32, 2, seed=2)
    matches = [MATCH, {**MATCH, "teacher": 1, "proj": None}]
    distil = jb.DistillationConfig(teacher_weights=[2, 1], intermediate_matches=matches)
    student = Encoder(32, 2)
    return jb.MultiTeacherDistiller(
        config, distil, teachers, student, hidden_adaptor, hidden_adaptor
    )


def tasks(config):
    models = {"a": Encoder(64, 2, seed=1), "b": Encoder(48, 2, seed=2)}
    adaptors = dict.fromkeys("ab", hidden_adaptor)
    return jb.MultiTaskDistiller(config, PLAIN, models, Encoder(32, 2), adaptors, adaptors)


DISTILLERS = {
    "tasks": tasks,
    "general": general,
    "basic": basic,
    "several": several,
    "trainer": trainer,
}


def trajectory(make, layout):
    """Losses and weights after four steps; the general distiller's last batches have 12 rows."""
    settings = dict(layout)
    if make is trainer:
        settings.pop("teacher_rules", None)
    loader = jb.ArrayLoader(text_data(28 if make is general else 32), 16, shuffle=False)
    optimizer = optax.sgd(0.1, momentum=0.9)
    if make is tasks:
        data = {"a": loader, "b": jb.ArrayLoader(text_data(16, seed=1), 16)}
        result = make(quiet(**settings)).train(optimizer, data, num_steps=4)
    else:
        result = make(quiet(**settings)).train(optimizer, loader, num_epochs=2)
    weights = jb.as_model(result.student).variables
    return result.history["total_loss"], jax.tree.map(np.asarray, weights)


def gap(actual, expected):
    """The largest difference, in units of the largest number of each array."""
    gaps = jax.tree.map(
        lambda a, b: float(np.abs(a - b).max() / max(np.abs(b).max(), 1e-6)), actual, expected
    )
    return max(jax.tree.leaves(gaps))


def program(layout):
    """Compiles a step on models of width 256, runs it three times; reports the compilations."""
    student, teacher = jb.as_model(Encoder(256, 2)), jb.as_model(Encoder(256, 2, seed=1))
    objective = jb.make_objective(
        jb.DistillationConfig(intermediate_matches=[{**MATCH, "proj": ["linear", 256, 256]}])
    )
    optimizer = jb.make_optimizer(optax.adam(1e-3), objective)
    where = make_layout(quiet(**layout))
    models = models_for_use(student, teacher, where)
    step = jb.make_train_step(
        *models, objective, optimizer, adaptor_S=hidden_adaptor, adaptor_T=hidden_adaptor
    )

    def start(weights):
        return jb.init_train_state(student, objective, optimizer)

    state = init_state(start, {**student.variables, "projections": None}, student, where)
    variables = place_teacher(teacher.variables, teacher, where)
    batch = place_batch(text_data(8), where)
    jitted = jit_step(step, state, where)
    compilations = []
    jax.monitoring.register_event_duration_secs_listener(
        lambda name, *_, **__: compilations.append(name) if "backend_compile" in name else None
    )
    for _ in range(3):
        state, _ = jitted(state, variables, batch)
    jax.monitoring.clear_event_listeners()
    compiled = jitted.lower(state, variables, batch).compile()
    kinds = re.findall(
        r"(all-gather|all-reduce|reduce-scatter|all-to-all|collective-permute)(?:-start)?\(",
        compiled.as_text(),
    )
    weights = state.trainable, state.opt_state, variables
    return {
        "compilations": len(compilations),
        "collectives": dict(collections.Counter(kinds)),
        "arguments": compiled.memory_analysis().argument_size_in_bytes,
        "whole": sum(leaf.nbytes for leaf in jax.tree.leaves(weights)),
    }


if __name__ == "__main__":
    seen = {"programs": {name: program(layout) for name, layout in LAYOUTS.items()}, "gaps": {}}
    for kind, names in json.loads(sys.argv[1]).items():
        make = DISTILLERS[kind]
        expected = trajectory(make, LAYOUTS["one"])
        seen["gaps"][kind] = {
            name: gap(trajectory(make, LAYOUTS[name]), expected) for name in names
        }
    json.dump(seen, sys.stdout)
