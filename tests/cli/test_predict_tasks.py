"""``predict`` and ``evaluate`` find the task of every head, and agree with themselves."""

import dataclasses
import json
from typing import Any

import pytest
from flax import nnx

from jaxbrewer.models import (
    BertConfig,
    BertForMaskedLM,
    BertForQuestionAnswering,
    BertForSequenceClassification,
    BertForTokenClassification,
    LlamaConfig,
    LlamaForCausalLM,
    save,
)
from jaxbrewer.text import TASKS, load
from tests.cli.conftest import SIZES, WORDS, run

pytestmark = pytest.mark.slow

BERT = {**SIZES, "num_hidden_layers": 1}
NAMES = ("cat", "dog", "fox")
TEXTS = ["it often purrs here", "it barks", "there it sneaks today"]


@dataclasses.dataclass(frozen=True)
class Case:
    """A head, labelled rows, and what is predicted for each."""

    head: Any
    fields: dict
    rows: list
    keys: set
    config: Any = BertConfig
    words: tuple = ()


def labelled(labels):
    return [{"text": text, "label": label} for text, label in zip(TEXTS, labels, strict=True)]


CASES = {
    "classification": Case(
        BertForSequenceClassification,
        {"num_labels": 3, "labels": NAMES},
        labelled(NAMES),
        {"label", "probabilities"},
    ),
    "multi-label": Case(
        BertForSequenceClassification,
        {"num_labels": 3, "labels": NAMES, "problem_type": "multi_label_classification"},
        labelled([["cat"], [], ["fox", "dog"]]),
        {"labels", "probabilities"},
    ),
    "regression": Case(
        BertForSequenceClassification,
        {"num_labels": 1, "problem_type": "regression"},
        labelled([0.5, 1.5, 1.0]),
        {"prediction"},
    ),
    "token-classification": Case(
        BertForTokenClassification,
        {"num_labels": 3, "labels": ("O", "B-cat", "I-cat")},
        [{"tokens": text.split(), "tags": ["O"] * len(text.split())} for text in TEXTS],
        {"spans", "tags"},
    ),
    "question-answering": Case(
        BertForQuestionAnswering,
        {},
        [
            {
                "question": "it",
                "context": text,
                "answers": [{"text": text.split()[-1], "answer_start": text.rindex(" ") + 1}],
            }
            for text in TEXTS
        ],
        {"answer"},
        words=("--data.stride", 1),
    ),
    "masked-language-modeling": Case(
        BertForMaskedLM, {}, [{"text": text} for text in TEXTS], set()
    ),
    "language-modeling": Case(
        LlamaForCausalLM,
        {"num_key_value_heads": 2},
        [{"text": text} for text in TEXTS],
        {"log_probability", "perplexity"},
        LlamaConfig,
    ),
}


def test_the_cases_cover_the_table_of_tasks():
    assert set(TASKS) - set(CASES) == {"embeddings"}  # tests/text/tasks/test_embeddings.py


@pytest.fixture(scope="module", params=CASES)
def case(request, tmp_path_factory):
    place, case = tmp_path_factory.mktemp("task"), CASES[request.param]
    names = {field.name for field in dataclasses.fields(case.config)}
    sizes = {name: value for name, value in BERT.items() if name in names}
    config = case.config(**sizes, **case.fields)
    save(case.head(config, rngs=nnx.Rngs(0)), place / "model")
    (place / "model" / "vocab.txt").write_text("\n".join(WORDS))
    (place / "rows.jsonl").write_text("\n".join(map(json.dumps, case.rows)))
    return request.param, place, case


def test_the_head_tells_the_task(case):
    name, place, _ = case
    assert load(place / "model").task.name == name


def test_each_row_gets_a_line_also_without_labels(case):
    _, place, case = case
    words = ["--max-length", 12, *case.words]
    printed = run("predict", place / "model", place / "rows.jsonl", *words)
    lines = [json.loads(line) for line in printed.splitlines()]
    assert len(lines) == len(case.rows)
    assert all(set(line) >= case.keys for line in lines), lines[0]
    bare = [
        {key: value for key, value in row.items() if key not in ("label", "tags", "answers")}
        for row in case.rows
    ]
    (place / "bare.jsonl").write_text("\n".join(map(json.dumps, bare)))
    assert run("predict", place / "model", place / "bare.jsonl", *words) == printed


def test_a_model_agrees_with_itself(case):
    name, place, case = case
    model, words = place / "model", ["--max-length", 12, "--json", *case.words]
    printed = run("evaluate", model, place / "rows.jsonl", "--teacher", model, *words)
    evaluation = json.loads(printed)
    student, teacher = evaluation["rows"]["student"], evaluation["rows"]["teacher"]
    assert evaluation["task"] == name
    assert next(iter(student["metrics"])) == evaluation["main_metric"]
    assert student["metrics"] == teacher["metrics"]
    assert {value for value in student["difference"].values() if value is not None} <= {0}
    assert student["agreement"]
    for metric, value in student["agreement"].items():
        perfect = 0 if any(word in metric for word in ("kl", "divergence", "error", "mse")) else 1
        assert value is None or value == pytest.approx(perfect, abs=1e-6), metric
