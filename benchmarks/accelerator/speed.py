"""Against the machine and PyTorch: BERT-base, a decoder of Llama's shape, large vocabularies."""

import contextlib
import functools
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import optax

import jaxbrewer as jb

from ..common import (
    CLASSES,
    TEMPERATURE,
    Chain,
    Clock,
    Row,
    Sizes,
    alternate,
    batch_of,
    bert_pair,
    datasheet_peak,
    encoder_flops,
    make_step,
    matmul_peak,
    training,
)
from . import decoder

AIM = "aim 45 %"


def utilization(section: str, name: str, flops: float, clock: Clock, peak: float) -> Iterator[Row]:
    """Time of a step, and its FLOPs over time as shares of both peaks."""
    rate, sheet = flops / clock.median, datasheet_peak()
    yield Row(section, name, 1e3 * clock.median, "ms/step", clock.quartiles())
    note = "of the datasheet" if sheet else "of a measured product: no datasheet known"
    note += f"; {rate / 1e12:.4g} TFLOP/s, {rate / peak:.1%} of a product; {AIM}"
    yield Row(section, f"{name}, MFU", 100 * rate / (sheet or peak), "%", note)


def bert_speed(sizes: Sizes, python: str | None) -> Iterator[Row]:
    """BERT-base KD in bfloat16 and float32, alternating with PyTorch on the same device."""
    peak = matmul_peak(sizes)
    yield Row("speed", f"bfloat16 product of {sizes.product}", peak / 1e12, "TFLOP/s", "measured")
    pair = bert_pair(sizes)
    for index, (batch, length) in enumerate(sizes.batches):
        data = jax.device_put(batch_of(sizes, batch, length))
        flops = encoder_flops(sizes.teacher_layers, sizes, batch, length)
        flops += 3 * encoder_flops(sizes.student_layers, sizes, batch, length)
        with torch_process(python, sizes, batch, length) as seconds:
            peers = {} if seconds is None else {
                f"PyTorch {kind}": functools.partial(seconds, kind) for kind in ("eager", "compile")
            }  # fmt: skip
            settings = {"bfloat16 O2": training("bfloat16", "O2")}
            if index == 0 and not sizes.is_toy:
                settings["bfloat16 O1"] = training("bfloat16", "O1")
            ours = {}
            for name, config in settings.items():
                step, state = make_step(pair, config)
                ours[name] = Chain(step, state, pair[0].variables, data)
            clocks = alternate({**ours, **working(peers)}, sizes)
        shape = f"BERT KD {batch} x {length}"
        for name in ours:
            yield from utilization("speed", f"{shape}, {name}", flops, clocks[name], peak)
        for name in clocks.keys() - ours.keys():
            yield Row("speed", f"{shape}, {name}", 1e3 * clocks[name].median, "ms/step",
                      clocks[name].quartiles())  # fmt: skip
            yield Row("speed", f"{shape}, {name} over bfloat16 O2",
                      clocks[name].median / clocks["bfloat16 O2"].median, "x",
                      "time of PyTorch over ours: above 1, ours is faster")  # fmt: skip
        for name in peers.keys() - clocks.keys():
            yield Row("speed", f"{shape}, {name}", "not available")


def working(peers: dict[str, Any]) -> dict[str, Any]:
    """The peers that run a step."""
    kept = {}
    for name, run in peers.items():
        try:
            run(1)
        except RuntimeError as error:
            print(f"{name}: {error}", file=sys.stderr, flush=True)
            continue
        kept[name] = run
    return kept


@contextlib.contextmanager
def torch_process(python: str | None, sizes: Sizes, batch: int, length: int) -> Iterator[Any]:
    """A function of a kind and a number of steps, or ``None`` without PyTorch."""
    if not python:
        yield None
        return
    settings = {
        "teacher_layers": sizes.teacher_layers, "student_layers": sizes.student_layers,
        "width": sizes.width, "heads": sizes.heads, "vocabulary": sizes.vocabulary,
        "batch": batch, "length": length, "temperature": TEMPERATURE, "classes": CLASSES,
        "device": "cuda" if jax.default_backend() == "gpu" else "cpu",
    }  # fmt: skip
    worker = Path(__file__).with_name("torch_worker.py")
    command = [python, str(worker), json.dumps(settings)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as own:

        def seconds(kind: str, steps: int) -> float:
            try:
                own.stdin.write(f"{kind} {steps}\n")
                own.stdin.flush()
            except OSError as error:
                raise RuntimeError("the process has ended") from error
            answer = own.stdout.readline().strip()
            if not answer or answer.startswith("error"):
                raise RuntimeError(answer or "the process has ended")
            return float(answer)

        try:
            yield seconds
        finally:
            own.kill()


# -- decoders -------------------------------------------------------------------------------------


def decoder_speed(sizes: Sizes) -> Iterator[Row]:
    """KD between plain decoders of Llama's shape, with the package's objective and step."""
    vocabulary = sizes.large_vocabulary[1]
    teacher = decoder.Shape(*sizes.decoder_teacher, vocabulary)
    student = decoder.Shape(sizes.decoder_student_layers, *sizes.decoder_teacher[1:], vocabulary)
    batch, length = sizes.decoder_batch
    shapes, keys = (teacher, student), jax.random.split(jax.random.key(0))
    weights = [decoder.init(shape, key) for shape, key in zip(shapes, keys, strict=True)]
    weights[0] = jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), weights[0])
    pair = [
        jb.as_model((functools.partial(decoder.apply, shape), weight))
        for shape, weight in zip(shapes, weights, strict=True)
    ]
    objective = jb.make_objective(jb.DistillationConfig(temperature=2, kd_loss_type="kl"))
    optimizer = jb.make_optimizer(optax.adamw(1e-4), objective)
    state = jb.init_train_state(pair[1], objective, optimizer)
    step = jb.make_train_step(pair[1], pair[0], objective, optimizer,
                              adaptor_S=logits_alone, adaptor_T=logits_alone)  # fmt: skip
    step = jax.jit(step, donate_argnums=0)
    ids = jax.random.randint(jax.random.key(1), (batch, length), 0, vocabulary)
    flops = teacher.flops(batch, length) + 3 * student.flops(batch, length)
    name = f"decoder KD {teacher.layers} and {student.layers} x {teacher.width}, {batch} x {length}"
    clocks = alternate({name: Chain(step, state, pair[0].variables, {"ids": ids})}, sizes)
    yield from utilization("decoder", f"{name}, bfloat16", flops, clocks[name], matmul_peak(sizes))


def logits_alone(batch: Any, logits: Any) -> dict[str, Any]:
    """Logits of every position."""
    return {"logits": logits}


# -- large vocabularies ---------------------------------------------------------------------------


def vocabulary_loss(sizes: Sizes) -> Iterator[Row]:
    """Time and temporary memory of the KL at a large vocabulary, from logits and from states."""
    tokens, classes = sizes.large_vocabulary
    width = sizes.decoder_teacher[1]
    keys = jax.random.split(jax.random.key(0), 4)
    states = [jax.random.normal(key, (tokens, width), jnp.bfloat16) for key in keys[:2]]
    heads = [
        jax.random.normal(key, (width, classes), jnp.bfloat16) / width**0.5 for key in keys[2:]
    ]

    def plain(state: Any, head: Any, teacher_state: Any, teacher_head: Any) -> Any:
        teacher = jax.lax.stop_gradient(teacher_state @ teacher_head)
        return jb.losses.kl_loss(state @ head, teacher, 2.0)

    def fused(state: Any, head: Any, teacher_state: Any, teacher_head: Any) -> Any:
        student, teacher = (
            jb.LogitsOf(*each) for each in ((state, head), (teacher_state, teacher_head))
        )
        return jb.losses.fused_loss(student, teacher, "kl", temperature=2.0)

    forms = {"plain": plain, "fused": fused}
    arguments = states[0], heads[0], states[1], heads[1]
    runs, memory = {}, {}
    for name, form in forms.items():
        program = jax.jit(jax.value_and_grad(form, argnums=(0, 1)))
        memory[name] = program.lower(*arguments).compile().memory_analysis().temp_size_in_bytes
        runs[name] = lambda steps, program=program: [program(*arguments) for _ in range(steps)][-1]
    clocks = alternate(runs, sizes)
    label = f"KL from states, {tokens} tokens x {classes} classes"
    for name in forms:
        yield Row("vocabulary", f"{label}, {name}", 1e3 * clocks[name].median, "ms",
                  clocks[name].quartiles())  # fmt: skip
        yield Row("vocabulary", f"{label}, {name}", memory[name] / 1e9, "GB temporary")
    yield Row("vocabulary", "memory of fused over plain", memory["fused"] / memory["plain"],
              "x", "aim at most 1/9")  # fmt: skip
    ratio = clocks["plain"].median / clocks["fused"].median
    yield Row("vocabulary", "speed of fused over plain", ratio, "x", "aim at least 1.4")
