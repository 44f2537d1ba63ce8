"""A guard that needs no clock: what the compiled steps of ten reference jobs cost.

    python -m benchmarks.budget             # compares with benchmarks/budget.json; exit 1 if over
    python -m benchmarks.budget --update     # records what is measured, for this version of JAX
    python -m benchmarks.budget minilm fp16   # some jobs

For each job: compilations in three steps, host transfers in a step (callbacks, infeeds, outfeeds),
FLOPs, bytes accessed and bytes of temporary memory of the compiled step, as XLA counts them on a
CPU. They depend on the version of JAX, so the record has a budget for each version; a version
without one is not judged. ``tests/step/test_budget.py`` compares in CI.
"""

import argparse
import json
import os
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("JAX_PLATFORMS", "cpu")

import jax
import jax.numpy as jnp

import jaxbrewer as jb

from .common import Sizes, batch_of, bert, bert_pair, make_step, training

RECORD = Path(__file__).with_name("budget.json")
SIZES = Sizes(teacher_layers=2, student_layers=1, width=48, heads=12, vocabulary=500)
TOLERANCES = {
    "compilations": 0.0,
    "host transfers": 0.0,
    "GFLOP": 0.02,
    "MB accessed": 0.10,
    "MB temporary": 0.10,
}
"""How far each number may rise above its budget: exact, or a share."""

EXPLANATIONS = {
    "compilations": "a step returns a state of other shapes, dtypes or weak types than it takes",
    "host transfers": "a callback or a read of a value is part of the step",
    "GFLOP": "something is computed twice, or for nothing: a second forward pass, a gradient of "
    "the teacher, a term of weight 0",
    "MB accessed": "intermediates are written and read again: a cast, a copy, a fusion that broke",
    "MB temporary": "more is alive at once: outputs that no match needs, logits of all teachers",
}
BATCH, LENGTH = 8, 32


def match(feature: str, loss: str, **fields: Any) -> dict[str, Any]:
    """A match of the last layers."""
    return {"feature": feature, "loss": loss, "layer_T": -1, "layer_S": -1, "weight": 1, **fields}


def bert_job(
    half: str | None = None, level: str = "O2", accumulation: int = 1, **fields: Any
) -> tuple[Any, ...]:
    """A step over a BERT pair: the jitted step, its state, the teacher's weights, a batch."""
    pair = bert_pair(SIZES)
    step, state = make_step(pair, training(half, level), accumulation=accumulation, **fields)
    batch = batch_of(SIZES, BATCH, LENGTH)
    batches = tuple(
        batch_of(SIZES, BATCH // accumulation, LENGTH, seed) for seed in range(accumulation)
    )
    return step, state, pair[0].variables, batches if accumulation > 1 else batch


def cached() -> tuple[Any, ...]:
    """The teacher's logits are in the batch."""
    step, state, variables, batch = bert_job()
    logits = jnp.zeros((BATCH, 10))
    outputs = jb.Outputs(logits=(logits,))
    return step, state, variables, {**batch, "teacher_cache": outputs}


def labels_alone() -> tuple[Any, ...]:
    """No teacher."""
    step, state = make_step((None, bert_pair(SIZES)[1]), training(), kd_loss_weight=0)
    return step, state, None, batch_of(SIZES, BATCH, LENGTH)


def three_teachers() -> tuple[Any, ...]:
    """Averaged logits."""
    teachers = [jb.as_model(bert(1, SIZES, seed)) for seed in range(3)]
    step, state = make_step((teachers, bert_pair(SIZES)[1]), training())
    return step, state, tuple(teacher.variables for teacher in teachers), batch_of(
        SIZES, BATCH, LENGTH
    )  # fmt: skip


def large_vocabulary() -> tuple[Any, ...]:
    """Value and gradient of the KL over many classes, as a step whose state is the logits."""

    def descend(student: jax.Array, teacher: jax.Array, mask: jax.Array) -> Any:
        value, gradient = jax.value_and_grad(jb.losses.kl_loss)(student, teacher, 2.0, mask)
        return student - gradient, value

    keys = jax.random.split(jax.random.key(0))
    logits = [jax.random.normal(key, (64, 4_000)) for key in keys]
    return jax.jit(descend, donate_argnums=0), *logits, jnp.ones(64)


JOBS: dict[str, Callable[[], tuple[Any, ...]]] = {
    "logits": bert_job,
    "labels": labels_alone,
    "cached": cached,
    "hidden": lambda: bert_job(
        intermediate_matches=[match("hidden", "hidden_mse", proj=["linear", 48, 48])]
    ),
    "attention": lambda: bert_job(intermediate_matches=[match("attention", "attention_mse")]),
    "minilm": lambda: bert_job(intermediate_matches=[match("hidden", "minilm_relation")]),
    "accumulation": lambda: bert_job(accumulation=4),
    "bfloat16": lambda: bert_job("bfloat16"),
    "float16": lambda: bert_job("float16", "O1"),
    "teachers": three_teachers,
    "vocabulary": large_vocabulary,
}


def measure(name: str) -> dict[str, float]:
    """The numbers of a job's step."""
    step, state, *arguments = JOBS[name]()
    arguments = jax.device_put(arguments)
    compiled = step.lower(state, *arguments).compile()
    cost, memory = compiled.cost_analysis(), compiled.memory_analysis()
    signatures = {signature(state)}
    with jax.transfer_guard("disallow_explicit"):
        for _ in range(2):
            state, _ = step(state, *arguments)
            signatures.add(signature(state))
    on_host = re.findall(r"callback|\b(?:infeed|outfeed|send|recv)\(", compiled.as_text())
    return {
        "compilations": len(signatures),
        "host transfers": len(on_host),
        "GFLOP": round(cost["flops"] / 1e9, 6),
        "MB accessed": round(cost["bytes accessed"] / 1e6, 4),
        "MB temporary": round(memory.temp_size_in_bytes / 1e6, 4),
    }


def signature(state: Any) -> Any:
    """What a compilation depends on."""
    leaves, structure = jax.tree.flatten(state)
    return structure, tuple((x.shape, x.dtype, getattr(x, "weak_type", False)) for x in leaves)


def budgets() -> dict[str, dict[str, float]] | None:
    """The budget of each job for this version of JAX, or ``None``."""
    record = json.loads(RECORD.read_text()) if RECORD.exists() else {}
    return record.get(jax.__version__)


def compare(measured: dict[str, float], budget: dict[str, float]) -> list[str]:
    """A line for each number above its budget: what it was, what it is, what it may mean."""
    lines = []
    for metric, allowed in TOLERANCES.items():
        before, after = budget[metric], measured[metric]
        if after > before * (1 + allowed):
            rise = f"+{after / before - 1:.1%}" if before else "from none"
            lines.append(f"{metric}: {before:g} -> {after:g} ({rise}): {EXPLANATIONS[metric]}")
    return lines


def main() -> int:
    """Compares or records; 1 if a job is above its budget."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("jobs", nargs="*", choices=[*JOBS, []], help=f"of {', '.join(JOBS)}")
    parser.add_argument("--update", action="store_true", help="record what is measured")
    options = parser.parse_args()
    known, over = budgets() or {}, False
    measured = {name: measure(name) for name in options.jobs or JOBS}
    for name, numbers in measured.items():
        changes = compare(numbers, known[name]) if name in known else ["no budget"]
        shown = ", ".join(f"{value:g} {metric}" for metric, value in numbers.items())
        print("\n  ".join([f"{name}: {shown}", *changes]))
        over = over or (name in known and bool(changes))
    if options.update:
        record = json.loads(RECORD.read_text()) if RECORD.exists() else {}
        record[jax.__version__] = {**known, **measured}
        RECORD.write_text(json.dumps(record, indent=1) + "\n")
        return 0
    return int(over)


if __name__ == "__main__":
    sys.exit(main())
