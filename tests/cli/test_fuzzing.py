"""For any file or flag, the exit status is 0, or 2 with one line that gives the reason.

Seeded. ``JAXBREWER_FUZZ=200`` tries two hundred times as many inputs (about an hour).
"""

import contextlib
import copy
import io
import json
import os
import random
import shutil
import traceback
import types

import numpy as np
import pytest
import yaml

from jaxbrewer.cli import job_models, main
from jaxbrewer.cli.config import JobConfig
from jaxbrewer.run.plan import Plan
from jaxbrewer.text import evaluation, inference, training
from jaxbrewer.text.inference import Inference
from jaxbrewer.text.tasks import Predictions
from tests.cli.conftest import KINDS, write_model

pytestmark = pytest.mark.slow

ROUNDS = int(os.environ.get("JAXBREWER_FUZZ", "1"))
DEEP = json.loads("[" * 150 + "]" * 150)
VALUES = [
    None, True, False, 0, 1, -1, 3, 2**31, 2**63, 10**30, 0.5, -0.5, 1e-300, 1e308, float("nan"),
    float("inf"), "", " ", "x", "yes", "cpu", "1e9", "nan", "\0", "\ud800", "x" * 300, "\x1b[31m",
    "a\nb", "../..", "/dev/null", "ü日", [], [[]], {}, {"a": {}}, [True], ["x"], [1, 1], [None],
    [0.5], {"x": 1}, [{}], [["x", 1]], DEEP, "cuda:9", "mean", -(10**6), 2**40,
]  # fmt: skip
YAML = [
    "data: !!bool x", "data: !!timestamp x", "data: !!int x", "data: !!binary x", "a: &a [*a]",
    "training: {seed: !!float x}", "data: &d {train: x, test: *d}", "? [1, 2]\n: 3", "1: 2",
    "training: {seed: " + "9" * 5000 + "}", "training: {seed: 0x" + "f" * 5000 + "}", "\0",
    "data: {train: 2026-01-01}", "data: {train: 2026-99-99}", "data: !!python/object:os.system x",
    "data: !!set {train}", "data: !!omap [train: x]", "data: !!pairs [train: x]", "- [", "\tx",
    "training: {seed: 1:30}", "training: {output_dir: \"\\ud800\"}", "%YAML 9.9\n---\na: b",
    "a: " + "[" * 3000 + "]" * 3000, "{<<: 5}", "<<: {data: {train: x}}", "<<: [1]", "--- a\n--- b",
    "data: {train: \"\\0\"}", "data: {train: !!null x}", "!!str", "!!map x", "!x y", "*a", "&a",
    "a: &x [1]\nb: &y [" + "*x, " * 99 + "]\nc: &z [" + "*y, " * 99 + "]\nd: [" + "*z, " * 99 + "]",
    "data: {? train, train: x}", "data: {train: x, \"train\": y}", "training: {.inf: 1}",
]  # fmt: skip


@pytest.fixture(scope="module")
def place(data, content, tmp_path_factory):
    """A job that fits, with files of its own, and no tracing: shapes are compared, no more."""
    place = tmp_path_factory.mktemp("fuzzing")
    write_model(place / "model", head=True, num_labels=3, labels=tuple(KINDS))
    for name in ("train.tsv", "more.csv", "test.jsonl"):
        shutil.copy(data / name, place / name)
    job = json.loads(json.dumps(content).replace(str(data), str(place)))
    job["teacher"]["path"] = str(place / "model")
    job["training"] = {"output_dir": str(place / "run")}
    (place / "job.json").write_text(json.dumps(job))
    return types.SimpleNamespace(path=place, job=job, file=place / "job.json")


@pytest.fixture(autouse=True)
def nothing_is_written(place):
    yield
    assert not (place.path / "run").exists()


def status_of(*words):
    """Runs a command; the exit status, after the promise was checked."""
    with (
        contextlib.redirect_stdout(io.StringIO()) as out,
        contextlib.redirect_stderr(io.StringIO()) as err,
    ):
        status = main([str(word) for word in words])
    lines = err.getvalue().splitlines()
    errors = [line for line in lines if line.startswith("jaxbrewer: error: ")]
    assert len(errors) == (status == 2), err.getvalue()
    assert status in (0, 2)
    assert all(line.startswith("jaxbrewer: ") for line in lines), err.getvalue()
    for line in [*lines, *out.getvalue().splitlines()]:
        assert line.isprintable(), ascii(line)
    assert all(len(line) < 5000 for line in errors), errors[0][:200]
    return status


class Tried:
    """Runs commands and collects what breaks the promise, once per place in the code."""

    def __init__(self):
        self.statuses, self.broken = set(), {}

    def run(self, words, case):
        try:
            self.statuses.add(status_of(*words))
        except BaseException as error:  # also of libraries in Rust
            if isinstance(error, KeyboardInterrupt):
                raise
            frames = traceback.extract_tb(error.__traceback__)
            place = next((f for f in reversed(frames) if "jaxbrewer" in f.filename), frames[-1])
            where = f"{place.filename}:{place.lineno}"
            self.broken.setdefault(where, f"{case!r:.300}: {type(error).__name__}: {error!s:.300}")

    def verify(self):
        assert not self.broken, "\n".join(f"{where}: {what}" for where, what in self.broken.items())
        assert 2 in self.statuses


def places_in(value, prefix=()):
    """The paths of all entries of nested dicts and lists."""
    parts = value.items() if isinstance(value, dict) else enumerate(value)
    for name, part in parts:
        yield (*prefix, name)
        if isinstance(part, (dict, list)):
            yield from places_in(part, (*prefix, name))


def replaced(value, path, new):
    value = copy.deepcopy(value)
    target = value
    for name in path[:-1]:
        target = target[name]
    target[path[-1]] = new
    return value


def damaged(content, draw):
    """Bytes of which some are changed, dropped or doubled."""
    content = bytearray(content)
    for _ in range(draw.randint(1, 6)):
        start = draw.randrange(len(content) + 1)
        kind = draw.randrange(4)
        if kind == 0 and content:
            content[start % len(content)] = draw.randrange(256)
        elif kind == 1:
            del content[start : start + draw.randrange(1, 40)]
        elif kind == 2:
            content[start:start] = content[start : start + draw.randrange(1, 40)]
        else:
            content[start:start] = draw.choice([b"\0", b'"', b"\n", b"\xff", b"[", b"{", b"9" * 99])
    return bytes(content)


def full_job(place):
    """The job with every field written out."""
    config = JobConfig.from_dict(place.job).to_dict()
    config["student"] |= {"path": None, "size": None}
    return config


@pytest.mark.parametrize("suffix", ["json", "yaml"])
def test_jobs_with_any_value_anywhere(place, suffix):
    draw = random.Random(f"jobs {suffix}")
    job = full_job(place)
    places = list(places_in(job))
    tried = Tried()
    for _ in range(30 * ROUNDS):
        path = draw.choice(places)
        value = draw.choice(VALUES)
        changed = replaced(job, path, value)
        file = place.path / f"changed.{suffix}"
        text = json.dumps(changed) if suffix == "json" else yaml.safe_dump(changed)
        file.write_text(text, encoding="utf-8")
        command = draw.choice(["train", "distill", "inspect"])
        words = [command, file, *(["--dry-run"] if command != "inspect" else [])]
        tried.run(words, (command, path, value))
    tried.verify()


@pytest.mark.parametrize("text", YAML, ids=range(len(YAML)))
def test_odd_yaml(place, text):
    file = place.path / "odd.yaml"
    file.write_text(text)
    assert status_of("train", file, "--dry-run") == 2


FLAGS = [
    ["--batch-size"], ["--max-length"], ["--text"], ["--label"], ["--text-pair"],
    ["--data.train"], ["--data.labels"], ["--training.device"], ["--training.seed"],
]  # fmt: skip
WORDS = [
    "", " ", "x", "0", "-1", "1e9", "9" * 5000, "null", "nan", "[", "{a: [", "x" * 300, "\x1b[31m",
    "a\nb", "--", "--x", "*a", "&a", "!!bool x", "%", "@", "[cat, dog]", "'", "~", "\udcff",
]  # fmt: skip


def test_words_of_the_command_line(place):
    draw = random.Random("words")
    tried = Tried()
    for _ in range(30 * ROUNDS):
        command = draw.choice(
            [
                ["train", place.file, "--dry-run"],
                ["inspect", place.file],
                ["inspect", place.path / "model"],
                ["evaluate", place.path / "none", place.path / "test.jsonl"],
                ["predict", place.path / "none", place.path / "test.jsonl"],
                ["cache", "stat", place.path],
            ]
        )
        words = [*command, *draw.choice(FLAGS), draw.choice(WORDS)]
        if draw.random() < 0.2:
            words[draw.randrange(len(words))] = draw.choice(WORDS)
        if not {"-h", "--help", "--version"} & set(map(str, words)):
            tried.run(words, words)
    tried.verify()


@pytest.fixture
def without_models_running(monkeypatch):
    """What a model computes does not depend on what is odd in these files, and takes long."""
    plan = Plan(total_steps=10, steps_per_epoch=5)
    monkeypatch.setattr(training.TextTraining, "check", lambda self, callback=None: plan)

    def run_model(task, model, encoded, **_):
        labels = model.params["classifier"]["bias"].size
        logits = np.zeros((len(encoded), labels), np.float32)
        return Inference(Predictions({"logits": logits}), 1.0)

    def run_in_shapes(forward, variables, encoded, **_):
        size = variables["params"]["classifier"]["bias"].shape
        return Predictions({"logits": np.zeros((len(encoded), *size), np.float32)})

    monkeypatch.setattr(evaluation, "run_model", run_model)
    monkeypatch.setattr(inference, "run_in_shapes", run_in_shapes)
    monkeypatch.setattr(evaluation, "measure_latency", lambda *_, **__: np.ones(2))
    monkeypatch.setattr(job_models, "describe_match", lambda *_: "")


@pytest.fixture
def models_loaded_once(without_models_running, monkeypatch):
    """For files beside a model that stays the same."""
    loaded, load = {}, job_models.load

    def load_once(task, source, head, **settings):
        key = str(head), str(settings)
        if key not in loaded:
            loaded[key] = load(task, source, head, **settings)
        return loaded[key]

    monkeypatch.setattr(job_models, "load", load_once)


@pytest.mark.usefixtures("models_loaded_once")
def test_texts_with_any_bytes(place):
    draw = random.Random("texts")
    tried = Tried()
    files = [path for path in place.path.iterdir() if path.suffix in (".tsv", ".csv", ".jsonl")]
    for _ in range(40 * ROUNDS):
        source = draw.choice(files)
        file = place.path / f"texts{source.suffix}"
        file.write_bytes(damaged(source.read_bytes(), draw))
        field = "unlabelled" if source.suffix == ".csv" else draw.choice(["train", "test"])
        words = ["distill", place.file, "--dry-run", f"--data.{field}", file]
        tried.run(words, (source.name, field, file.read_bytes()))
        file.unlink()
    tried.verify()


ROWS = {"text": "it purrs", "label": "cat"}


@pytest.mark.usefixtures("models_loaded_once")
def test_rows_with_any_values(place):
    draw = random.Random("rows")
    tried = Tried()
    file = place.path / "rows.jsonl"
    for _ in range(20 * ROUNDS):
        row = {**ROWS, draw.choice(list(ROWS)): draw.choice(VALUES)}
        file.write_text(f"{json.dumps(ROWS)}\n{json.dumps(row)}\n")
        tried.run(["distill", place.file, "--dry-run", "--data.train", file], row)
    file.unlink()
    tried.verify()


@pytest.fixture
def model(place, tmp_path, without_models_running):
    """A copy of the model, to be damaged, and words of commands that read it."""
    copy = tmp_path / "model"
    shutil.copytree(place.path / "model", copy)
    texts = place.path / "test.jsonl"
    commands = [
        ["inspect", copy],
        ["evaluate", copy, texts, "--max-length", 8],
        ["predict", copy, texts],
        ["train", place.file, "--dry-run", "--teacher.path", copy],
        ["distill", place.file, "--dry-run", "--teacher.path", copy],
        ["distill", place.file, "--dry-run", "--student.layers=", "--student.path", copy],
    ]
    return types.SimpleNamespace(path=copy, commands=commands)


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "tokenizer_config.json"])
def test_json_of_a_model_with_any_value_anywhere(model, name, request):
    draw = random.Random(name)
    tried = Tried()
    content = json_of(model.path, name)
    places = list(places_in(content))
    if name != "config.json":
        request.getfixturevalue("models_loaded_once")
    for _ in range(30 * ROUNDS):
        path, value = draw.choice(places), draw.choice(VALUES)
        (model.path / name).write_text(json.dumps(replaced(content, path, value)))
        tried.run(draw.choice(model.commands), (path, value))
    tried.verify()


def json_of(directory, name):
    """A mutated file content."""
    if name == "config.json":
        fields = json.loads((directory / name).read_text())
        more = ["problem_type", "quantization_config", "pruned_heads", "classifier_pooling"]
        return {**dict.fromkeys(more), **fields, "num_labels": 3, "tie_word_embeddings": True}
    if name == "tokenizer_config.json":
        return {"do_lower_case": True, "tokenize_chinese_chars": True, "strip_accents": None,
                "pad_token": {"content": "[PAD]"}, "model_max_length": 16}  # fmt: skip
    import tokenizers

    tokenizers.BertWordPieceTokenizer(str(directory / "vocab.txt")).save(str(directory / name))
    content = json.loads((directory / name).read_text())
    content["truncation"] = {"max_length": 5, "strategy": "LongestFirst", "stride": 0,
                             "direction": "Right"}  # fmt: skip
    content["padding"] = {
        "strategy": {"Fixed": 9}, "direction": "Right", "pad_to_multiple_of": None, "pad_id": 0,
        "pad_type_id": 0, "pad_token": "[PAD]",
    }  # fmt: skip
    return content


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "vocab.txt"])
def test_files_of_a_model_with_any_bytes(model, name):
    draw = random.Random(f"bytes of {name}")
    tried = Tried()
    content = (model.path / name).read_bytes()
    head = content[:2000] if name == "model.safetensors" else content
    for _ in range(30 * ROUNDS):
        changed = damaged(head, draw) + content[len(head) :]
        (model.path / name).write_bytes(changed)
        tried.run(draw.choice(model.commands), changed[:300])
    tried.verify()


def test_safetensors_headers_with_any_value_anywhere(model):
    draw = random.Random("header")
    tried = Tried()
    file = model.path / "model.safetensors"
    content = file.read_bytes()
    length = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + length])
    places = list(places_in(header))
    values = [*VALUES, "F16", "BF16", "F64", "I8", "BOOL", "F8_E4M3", [0], [2**40, 2**40], [0, 4]]
    for _ in range(40 * ROUNDS):
        path, value = draw.choice(places), draw.choice(values)
        changed = json.dumps(replaced(header, path, value)).encode()
        file.write_bytes(len(changed).to_bytes(8, "little") + changed + content[8 + length :])
        tried.run(draw.choice(model.commands), (path, value))
    tried.verify()


MANIFEST = {
    "run": "0123456789ab", "command": ["jaxbrewer", "train"], "distiller": "BasicTrainer",
    "started": "now", "parameters": {"student": 10}, "seed": 0, "devices": ["cpu:0"],
    "total_steps": 3, "jaxbrewer": "0.1.0", "jax": "0.10",
}  # fmt: skip


def test_runs_with_any_value_and_any_bytes(tmp_path):
    draw = random.Random("runs")
    tried = Tried()
    (tmp_path / "checkpoints" / "3").mkdir(parents=True)
    (tmp_path / "checkpoints" / "²").mkdir()
    row = {"step": 3, "total_loss": 0.5, "grad_norm": float("nan")}
    contents = {"manifest.json": MANIFEST, "metrics.jsonl": row}
    for _ in range(75 * ROUNDS):
        for name, content in contents.items():
            (tmp_path / name).write_text(json.dumps(content) + "\n")
        name = draw.choice(list(contents))
        if draw.random() < 0.5:
            path = draw.choice(list(places_in(contents[name])))
            changed = json.dumps(replaced(contents[name], path, draw.choice(VALUES))).encode()
        else:
            changed = damaged(json.dumps(contents[name]).encode(), draw)
        (tmp_path / name).write_bytes(changed + b"\n")
        tried.run(["inspect", tmp_path], (name, changed))
    tried.verify()


def test_caches_with_any_value_and_any_bytes(place, tmp_path):
    draw = random.Random("caches")
    tried = Tried()
    cache = tmp_path / "cache"
    words = ["--distillation.intermediate_matches", "[]", "--data.unlabelled="]
    assert status_of("cache", "build", place.file, "--training.cache_dir", cache, *words) == 0
    content = (cache / "manifest.json").read_bytes()
    manifest = json.loads(content)
    places = list(places_in(manifest))
    for _ in range(30 * ROUNDS):
        if draw.random() < 0.5:
            path = draw.choice(places)
            changed = json.dumps(replaced(manifest, path, draw.choice(VALUES))).encode()
        else:
            changed = damaged(content, draw)
        (cache / "manifest.json").write_bytes(changed)
        tried.run(["cache", draw.choice(["stat", "verify"]), cache], changed[:300])
    tried.verify()
