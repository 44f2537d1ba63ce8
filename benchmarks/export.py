"""Size, time and accuracy of a model and of its exports, measured alternately on one CPU.

    python -m benchmarks.export runs/job/student/model test.jsonl
    taskset -c 1 python -m benchmarks.export runs/job/student/model test.jsonl  # on one core

Each round runs all of them on the same batch, one after another. Wall times are medians; the ratio
to the model is the median over rounds, so that other load on the machine falls on both. CPU time is
what all threads of the process spent, per text; on several cores it includes that of threads which
spin while they wait, so compare it on one core.
"""

import argparse
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

os.environ.setdefault("JAX_PLATFORMS", "cpu")

import numpy as np

from jaxbrewer.export import export, load_artifact, program_of
from jaxbrewer.models import load
from jaxbrewer.text import Tokenizer
from jaxbrewer.text.rows import read_rows

SHAPES = ((1, 16), (1, 64), (1, 128), (32, 32))
EXPORTS = {
    "StableHLO": {"format": "stablehlo"},
    "ONNX": {"format": "onnx"},
    "ONNX int8": {"format": "onnx", "int8": True},
}
Run = Callable[[dict[str, np.ndarray]], dict[str, np.ndarray]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", help="a directory of a sequence classifier")
    parser.add_argument("file", help="labelled texts, with the columns text and label")
    parser.add_argument("--runs", type=int, default=30, help="rounds of each shape")
    parser.add_argument("--texts", type=int, default=2000, help="texts that are classified")
    arguments = parser.parse_args()
    model, tokenizer = load(arguments.model), Tokenizer(arguments.model)
    program = program_of(model)
    runs: dict[str, Run] = {"model": program.run}
    sizes = {"model": sum(leaf.nbytes for leaf in program.weights.values())}
    differences = {"model": 0.0}
    with tempfile.TemporaryDirectory() as folder:
        for name, options in EXPORTS.items():
            directory = Path(folder, name.replace(" ", "-"))
            metadata = export(model, directory, tokenizer=tokenizer, **options)
            runs[name] = load_artifact(directory).run
            files = [*directory.glob("onnx/*"), *directory.glob("*.npz"), *directory.glob("*.st*")]
            sizes[name] = sum(file.stat().st_size for file in files)
            differences[name] = metadata["parity"]["max_abs_difference"]
        scores = accuracies(runs, model, tokenizer, arguments.file, arguments.texts)
        print("| | MB | of the model | largest difference | accuracy | same class |")
        print("|---|---|---|---|---|---|")
        for name in runs:
            accuracy, same = scores[name]
            print(
                f"| {name} | {sizes[name] / 1e6:.1f} | {sizes[name] / sizes['model']:.0%} | "
                f"{differences[name]:.1g} | {accuracy:.2%} | {same:.2%} |"
            )
        print("\n| texts x tokens | | ms | of the model | CPU ms per text | of the model |")
        print("|---|---|---|---|---|---|")
        for shape in SHAPES:
            measure(runs, program.inputs, shape, arguments.runs, program.facts["vocab_size"])


def accuracies(
    runs: dict[str, Run], model: object, tokenizer: Tokenizer, file: str, count: int
) -> dict[str, tuple[float, float]]:
    """The share of right labels, and of labels equal to the model's."""
    rows = [row for _, row in read_rows(file)][:count]
    names = list(model.config.id2label.values())
    labels = np.array([names.index(str(row["label"])) for row in rows])
    encoded = tokenizer.encode([row["text"] for row in rows], max_length=48)
    chosen = {name: [] for name in runs}
    for start in range(0, len(rows), 50):
        batch = encoded.batch(np.arange(start, min(start + 50, len(rows))), 48)
        for name, run in runs.items():
            chosen[name].append(run(batch)["logits"].argmax(-1))
    found = {name: np.concatenate(parts) for name, parts in chosen.items()}
    return {
        name: ((classes == labels).mean(), (classes == found["model"]).mean())
        for name, classes in found.items()
    }


def measure(
    runs: dict[str, Run],
    names: tuple[str, ...],
    shape: tuple[int, int],
    rounds: int,
    vocabulary: int,
) -> None:
    draw = np.random.default_rng(0)
    values = {
        "input_ids": draw.integers(0, vocabulary, shape),
        "attention_mask": np.ones(shape, int),
        "token_type_ids": np.zeros(shape, int),
    }
    batch = {name: values[name].astype(np.int32) for name in names}
    wall = {name: [] for name in runs}
    cpu = {name: [] for name in runs}
    for number in range(rounds + 1):
        for name, run in runs.items():
            start = time.perf_counter(), time.process_time()
            run(batch)
            if number:  # the first round compiles
                wall[name].append(1e3 * (time.perf_counter() - start[0]))
                cpu[name].append(1e3 * (time.process_time() - start[1]) / shape[0])

    def ratio(times: dict[str, list[float]], name: str) -> float:
        pairs = zip(times[name], times["model"], strict=True)
        return statistics.median(own / model for own, model in pairs)

    for name in runs:
        print(
            f"| {shape[0]} x {shape[1]} | {name} | {statistics.median(wall[name]):.2f} | "
            f"{ratio(wall, name):.2f} | {statistics.median(cpu[name]):.2f} | "
            f"{ratio(cpu, name):.2f} |"
        )


if __name__ == "__main__":
    main()
