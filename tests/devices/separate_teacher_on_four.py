"""Trains on 4 fake CPU devices, the teacher on its own ones, and prints the results as JSON.

Run by ``test_separate_teacher.py`` in a process of its own, since the number of devices is fixed
once JAX has started.
"""

import collections
import itertools
import json
import sys
import tempfile
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax

import jaxbrewer as jb
from jaxbrewer.devices.separate_teacher import SeparateTeacher
from jaxbrewer.run.device_scalars import DeviceScalars
from tests.recovery import Crash, Crashing, left_behind
from tests.toys import HIDDEN_MATCH, Encoder, hidden_adaptor, quiet, text_data

MODULES = {"module_T": "layers.0", "module_S": "layers.0", "loss": "hidden_mse", "weight": 1,
           "proj": ["linear", 6, 8]}  # fmt: skip
OPTIMIZER = optax.sgd(0.5, momentum=0.9)


def general(teacher_device="cpu:1", **settings):
    """Hidden states, modules, labels, dropout, and two micro-batches a step."""
    distill = jb.DistillationConfig(
        temperature=2,
        hard_label_weight=0.5,
        intermediate_matches=[HIDDEN_MATCH],
        custom_matches=[MODULES],
    )
    models = Encoder(8, 2, seed=1), Encoder(6, 2, dropout=0.1)
    config = quiet(gradient_accumulation_steps=2, teacher_device=teacher_device, **settings)
    distiller = jb.GeneralDistiller(config, distill, *models, hidden_adaptor, hidden_adaptor)
    return distiller, jb.ArrayLoader(text_data(32), 8, seed=1)


def routed(teacher_device="cpu:1", **settings):
    """Two teachers with inputs of their own, and examples that one or all of them teach."""
    distill = jb.DistillationConfig(temperature=2, teacher_average="losses")
    models = [Encoder(8, 2, seed=1), Encoder(10, 1, seed=2)], Encoder(6, 2)
    config = quiet(teacher_device=teacher_device, **settings)
    distiller = jb.MultiTeacherDistiller(config, distill, *models, hidden_adaptor, hidden_adaptor)
    routes = np.arange(8, dtype=np.int32) % 3 - 1
    return distiller, [
        {"teacher": [text_data(8, seed=1), batch], "student": batch, "teacher_id": routes}
        for batch in jb.ArrayLoader(text_data(16), 8, shuffle=False)
    ]


def params_of(student):
    return jb.as_model(student).params


def weights_after(make, **settings):
    distiller, loader = make(**settings)
    return params_of(distiller.train(OPTIMIZER, loader, num_steps=4).student)


def largest_gap(one, other):
    gaps = jax.tree.map(lambda a, b: float(np.abs(np.asarray(a) - np.asarray(b)).max()), one, other)
    return max(jax.tree.leaves(gaps))


def devices_of(tree):
    return sorted({device.id for leaf in jax.tree.leaves(tree) for device in leaf.devices()})


def is_exact_after_a_crash(folder):
    """Whether a training that crashed in step 4 leaves what an unbroken one leaves."""

    def train(place, after=10**9, **settings):
        distiller, loader = general(output_dir=folder / place, ckpt_steps=2, **settings)
        distiller.train(OPTIMIZER, loader, num_steps=6, batch_postprocessor=Crashing(after))
        return left_behind(folder / place)

    expected = train("unbroken")
    try:
        train("broken", after=7)
    except Crash:
        return train("broken", resume=True) == expected
    return False


def compiled(call):
    """How often each program is compiled during a call."""
    found = collections.Counter()

    def listen(name, duration, *, fun_name="", **_):
        if "backend_compile" in name:
            found[fun_name] += 1

    jax.monitoring.register_event_duration_secs_listener(listen)
    call()
    jax.monitoring.clear_event_listeners()
    return found


def order_of_events(train):
    """Dispatches of the teacher, and waits for the scalars of a step or for other arrays."""
    events, number, array = [], itertools.count(1), type(jnp.zeros(()))
    place, read, value = SeparateTeacher.place, DeviceScalars.read, array._value.fget

    def place_recorded(self, batches):
        placed = place(self, batches)
        events.append("teacher")
        return placed

    def read_recorded(self):
        if "_on_host" not in vars(self):
            events.append(f"step {next(number)}")
        return read(self)

    def waits(function):
        return lambda *args: events.append("array") or function(*args)

    SeparateTeacher.place, DeviceScalars.read = place_recorded, read_recorded
    array.block_until_ready, array.__array__ = map(
        waits, (array.block_until_ready, array.__array__)
    )
    array._value, jax.block_until_ready = property(waits(value)), waits(jax.block_until_ready)
    train()
    return events[events.index("teacher") :]


def of_two_widths():
    """Micro-batches of 7 and of 5 tokens."""
    batches = list(jb.ArrayLoader(text_data(16), 8, shuffle=False))
    cut = {name: x[:, :5] if x.ndim > 1 else x for name, x in batches[1].items()}
    return [batches[0], cut]


def main():
    (distiller, _), loader = general(), of_two_widths()
    counts = [compiled(lambda: distiller.train(OPTIMIZER, loader, num_steps=5)) for _ in range(2)]
    alone = {make: weights_after(make, teacher_device=None) for make in (general, routed)}
    gaps = {
        make.__name__: largest_gap(weights, weights_after(make)) for make, weights in alone.items()
    }
    on_meshes = weights_after(routed, teacher_device=["cpu:0", "cpu:3"], mesh={"data": 2})
    with tempfile.TemporaryDirectory() as place:
        is_exact = is_exact_after_a_crash(Path(place))
    seen = {
        "compiled": counts,
        "devices": {
            "teacher": devices_of(distiller._teacher.variables),
            "student": devices_of(distiller._student.variables),
        },
        "gaps": gaps,
        "gap on meshes": largest_gap(alone[routed], on_meshes),
        "exact": is_exact,
        "events": order_of_events(lambda: distiller.train(OPTIMIZER, loader, num_steps=5)),
    }
    json.dump(seen, sys.stdout)


if __name__ == "__main__":
    main()
