"""Questions: files, windows, places of answers, the best span, and SQuAD's counts."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxbrewer as jb
from jaxbrewer import UsageError
from jaxbrewer.configs import DataConfig
from jaxbrewer.text import Tokenizer
from jaxbrewer.text.questions import Answer, Questions
from jaxbrewer.text.tasks import Predictions, task_of
from jaxbrewer.text.tasks.question_answering import Window, best_answers, squad_scores

CONTEXT = "a dog barks, a cat barks"
VOCABULARY = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "dog", "cat", "bark", "##s", ","]


def task(**data):
    return task_of(DataConfig(task="question-answering", **data))


def squad(answers, **fields):
    asked = {"id": "q1", "question": "cat?", "answers": answers, **fields}
    return {"data": [{"paragraphs": [{"context": CONTEXT, "qas": [asked]}]}]}


def test_squad_files_and_columns_are_the_same(tmp_path):
    answer = {"text": "a cat", "answer_start": 13}
    row = {"id": "q1", "question": "cat?", "context": CONTEXT, "answers": [answer]}
    lists = {"text": ["a cat"], "answer_start": [13]}
    for name, content in (
        ("a.json", squad([answer])),
        ("a.jsonl", row),
        ("b.jsonl", {**row, "answers": lists}),
    ):
        (tmp_path / name).write_text(json.dumps(content))
        expected = Questions(["cat?"], [CONTEXT], [(Answer("a cat", 13),)], ["q1"])
        assert task().read(tmp_path / name) == expected
        assert task().read_unlabelled(tmp_path / name).answers == [None]
        both = expected.with_unlabelled(expected)
        assert both.answers == [(Answer("a cat", 13),), None]
        assert both.take([1]).answers == [None]


def test_impossible_questions_need_a_setting(tmp_path):
    path = tmp_path / "a.json"
    plausible = [{"text": "a cat", "answer_start": 13}]
    path.write_text(json.dumps(squad(plausible, is_impossible=True)))
    assert task(no_answer=True).read(path).answers == [()]
    with pytest.raises(UsageError, match=r"qas\[0\]: the question has no answer: .*no_answer to t"):
        task().read(path)


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("a.json", {"version": "1"}, "a.json: data must be a list, got None"),
        ("a.json", {"data": [3]}, "data[0].paragraphs must be a list"),
        ("a.json", {"data": []}, "a.json is empty: it has no questions"),
        ("a.json", squad([{"text": "a cat", "answer_start": 0}]), "does not stand at answer_start"),
        ("a.json", squad([{"text": "a cat"}]), "does not stand at answer_start None"),
        ("a.json", squad("a cat"), "the answers must be a list"),
        ("a.json", squad([{"answer_start": 0}]), "the answers: a text must be a string"),
        ("a.jsonl", {"question": "a"}, "a.jsonl:1: no column 'context' for context"),
        (
            "a.jsonl",
            {"question": " ", "context": "b", "answers": []},
            "a.jsonl:1: the question is empty",
        ),
        (
            "a.jsonl",
            {"question": "a", "context": "b", "answers": {"text": ["b"], "answer_start": []}},
            "have 1 texts and 0 places",
        ),
    ],
)
def test_bad_files_are_refused(tmp_path, name, content, says):
    (tmp_path / name).write_text(json.dumps(content))
    with pytest.raises(UsageError) as error:
        task().read(tmp_path / name)
    assert says in str(error.value)
    assert "\n" not in str(error.value)


@pytest.fixture
def tokenizer(tmp_path):
    (tmp_path / "vocab.txt").write_text("\n".join(VOCABULARY))
    return Tokenizer(tmp_path)


def asked(answer, context=CONTEXT, question="cat"):
    answers = (Answer(answer, context.rindex(answer)),) if answer else ()
    return Questions([question], [context], [answers], [""])


def test_windows_overlap_and_cover_the_text(tokenizer):
    """The text has 9 tokens; a window has room for 9 - 3 special - 1 of the question = 5."""
    found = task(max_length=9, stride=2, no_answer=True).encode(tokenizer, asked("cat"))
    assert found.facts["example"].tolist() == [0, 0, 0]
    texts = []
    for row in range(3):
        place = found.token_facts["place"][found.offsets[row] : found.offsets[row + 1]]
        own = place[place[:, 0] >= 0]
        texts.append(CONTEXT[own[0, 0] : own[-1, 1]])
    assert texts == ["a dog barks,", "s, a cat bark", "cat barks"]
    assert found.columns["start_positions"].tolist() == [0, 6, 3]
    assert found.columns["end_positions"].tolist() == [0, 6, 3]
    mask = found.batch([0, 2], 10)["can_answer"] == 1
    assert mask.astype(int).tolist() == [
        [1, 0, 0, 1, 1, 1, 1, 1, 0, 0],
        [1, 0, 0, 1, 1, 1, 0, 0, 0, 0],
    ]


def test_an_answer_inside_a_word_is_its_tokens(tokenizer):
    found = task(max_length=20, stride=2).encode(tokenizer, asked("bark"))
    (start,), (end,) = (found.columns[f"{name}_positions"] for name in ("start", "end"))
    places = found.token_facts["place"]
    assert CONTEXT[places[start, 0] : places[end, 1]] == "bark"
    found = task(max_length=20, stride=2).encode(tokenizer, asked("at ba"))
    (start,), (end,) = (found.columns[f"{name}_positions"] for name in ("start", "end"))
    assert CONTEXT[places[start, 0] : places[end, 1]] == "cat bark"


def test_long_questions_leave_half_of_the_room_to_the_text(tokenizer):
    found = task(max_length=9, stride=1).encode(tokenizer, asked("cat", question="dog " * 50))
    assert found.lengths.max() == 9
    assert (found.batch([0], 9)["token_type_ids"] == 0).sum() == 1 + 3 + 1
    with pytest.raises(UsageError, match=r"stride must be below 3, half of the 6 tokens"):
        task(max_length=9, stride=3).encode(tokenizer, asked("cat"))


@pytest.mark.slow
def test_no_probability_is_outside_of_the_text(tokenizer):
    """Neither loss sees padding, the question or special tokens but the first."""
    found = task(max_length=9, stride=2).encode(tokenizer, asked("cat"))
    batch = {name: jnp.array(array) for name, array in found.batch([0, 1, 2], 12).items()}
    draw = np.random.default_rng(0)
    logits = jnp.array(draw.normal(size=(2, 3, 12)), jnp.float32)
    noise = jnp.where(batch["can_answer"] == 1, 0, 50.0)[None]

    def losses(student, teacher):
        def outputs(z):
            answer = task().adaptor(batch, {"start_logits": z[0], "end_logits": z[1]})
            return jb.Outputs(logits=answer["logits"], logits_mask=(answer["logits_mask"],)), answer

        objective = jb.make_objective(jb.DistillationConfig(temperature=2))
        (one, answer), (other, _) = outputs(student), outputs(teacher)
        distilled = objective(one, other, {}, step=0)[0]
        return distilled + answer["losses"].value(), answer["losses"].value()

    (value, hard), grads = jax.value_and_grad(lambda z: losses(z, logits + 1), has_aux=True)(logits)
    (other, _), _ = jax.value_and_grad(lambda z: losses(z, logits + noise), has_aux=True)(
        logits + noise
    )
    assert np.isfinite(grads).all()
    assert value == pytest.approx(float(other), abs=1e-5)
    assert (np.array(grads)[:, np.array(batch["can_answer"]) != 1] == 0).all()
    reference = 0.0
    for head, name in enumerate(task().label_columns):
        for row in range(3):
            allowed = np.flatnonzero(np.array(batch["can_answer"])[row] == 1)
            z = np.array(logits[head, row], np.float64)
            label = int(batch[name][row])
            reference += np.log(np.exp(z[allowed]).sum()) - z[label]
    assert hard == pytest.approx(reference / 6, abs=1e-5)


def test_the_best_span_is_the_best_of_all():
    draw = np.random.default_rng(0)
    for trial in range(20):
        windows, expected = [], {}
        for offset in (0, 4):
            places = np.array([[-1, -1]] * 3 + [[n, n + 1] for n in range(offset, offset + 8)])
            places = np.append(places, [[-1, -1]], axis=0)
            start, end = draw.normal(size=(2, len(places))).round(1)
            windows.append(Window(places, start, end))
            for first in range(3, 11):
                for last in range(first, min(first + 3, 11)):
                    span = int(places[first, 0]), int(places[last, 1])
                    score = start[first] + end[last]
                    expected[span] = max(score, expected.get(span, -np.inf))
        if trial % 2:
            expected[0, 0] = min(start[0] + end[0] for _, start, end in windows)
        found = best_answers(windows, 3, no_answer=bool(trial % 2))
        best = sorted(expected.values(), reverse=True)[:5]
        np.testing.assert_allclose([one.score for one in found], best)
        for one in found:
            assert expected[one.start, one.end] == pytest.approx(one.score)


@pytest.mark.parametrize(
    ("predicted", "answers", "first", "second"),
    [
        ("The cat!", ["cat"], (1, 1), (1, 1)),
        ("a black cat", ["the cat", "black cat"], (1, 1), (1, 1)),
        ("black cat", ["cat sat", "white dog"], (0, 0.5), (0, 0.5)),
        ("cat cat", ["cat"], (0, 2 / 3), (0, 2 / 3)),
        ("", ["cat"], (0, 0), (0, 0)),
        ("cat", [], None, (0, 0)),
        ("", [], None, (1, 1)),
        ("the", [], None, (1, 1)),
        ("the", ["a"], (1, 0), (1, 1)),
        ("a.b", ["ab"], (1, 1), (1, 1)),
        ("x\u2014y", ["xy"], (0, 0), (0, 0)),
    ],
)
def test_answers_are_compared_as_in_the_scripts_of_squad(predicted, answers, first, second):
    if first is not None:
        assert squad_scores(predicted, answers, no_answer=False) == pytest.approx(first)
    assert squad_scores(predicted, answers, no_answer=True) == pytest.approx(second)


def test_predictions_give_the_answer_and_its_place(tokenizer):
    examples = asked("cat").with_unlabelled(asked(""))
    one = task(max_length=9, stride=2, no_answer=True)
    found = one.encode(tokenizer, examples)
    assert found.columns["start_positions"].tolist() == [0, 6, 3, -100, -100, -100]
    at = np.zeros(len(found.input_ids))
    at[found.offsets[2] + 3] = 9  # "cat" in the third window
    at[found.offsets[3:6]] = 9  # no answer in any window of the second question
    predictions = Predictions({}, {"start": at, "end": at})
    rows = list(one.decode(examples, found, predictions, ()))
    assert (rows[0]["answer"], rows[0]["start"], rows[0]["end"]) == ("cat", 15, 18)
    assert (rows[1]["answer"], rows[1]["start"]) == ("", None)
    assert len(rows[0]["n_best"]) == 5
    assert sum(row["probability"] for row in rows[0]["n_best"]) == pytest.approx(1)
    assert one.score(examples, found, predictions) == {"f1": 1, "exact_match": 1}
    assert len(one.measure(examples, found, predictions)) == 1  # the other has no known answer
    agreement = one.agreement(examples, found, predictions, predictions)
    assert agreement.metrics() == {"answer_agreement": 1}
