"""Classes of words: columns, CoNLL files, labels at first pieces, spans as seqeval counts them."""

import json
import logging
import warnings

import jax.numpy as jnp
import numpy as np
import pytest
import seqeval.metrics
import tokenizers

from jaxbrewer import UsageError
from jaxbrewer.configs import DataConfig
from jaxbrewer.text import Tokenizer
from jaxbrewer.text.tagged import TaggedTexts, read_tagged
from jaxbrewer.text.tasks import Head, Predictions, task_of
from jaxbrewer.text.tasks.token_classification import spans_of
from jaxbrewer.text.tokenizer_files import with_spaces_before_words

NAMES = ("B-LOC", "B-PER", "O")


def task(**data):
    return task_of(DataConfig(task="token-classification", **data))


def written(path, content):
    path.write_text(content, encoding="utf-8")
    return path


def test_conll_files_and_columns_are_the_same(tmp_path):
    conll = "-DOCSTART- -X- O\n\nAda NNP B-PER\nsleeps VBZ O\n\n\nRome NNP B-LOC\n"
    tabs = conll.replace(" ", "\t").replace("\n", "\r\n")
    rows = [
        {"tokens": ["Ada", "sleeps"], "tags": ["B-PER", "O"]},
        {"tokens": ["Rome"], "tags": ["B-LOC"]},
    ]
    numbers = [{**row, "tags": [NAMES.index(tag) for tag in row["tags"]]} for row in rows]
    for name, content, options in (
        ("a.conll", conll, {}),
        ("a.txt", tabs, {}),
        ("b.conll", "Ada B-PER x\nsleeps O x\n\nRome B-LOC x", {"tags": 1}),
        ("a.jsonl", "\n".join(map(json.dumps, rows)), {}),
        ("b.jsonl", "\n".join(map(json.dumps, numbers)), {"labels": NAMES}),
        (
            "b.jsonl",
            "\n".join(map(json.dumps, numbers)),
            {"label_map": dict(zip("012", NAMES, strict=True))},
        ),
    ):
        found = read_tagged(written(tmp_path / name, content), **options)
        assert found.sentences == [["Ada", "sleeps"], ["Rome"]]
        assert found.label_names == NAMES
        assert [tags.tolist() for tags in found.tags] == [[1, 2], [0]]


def test_sentences_without_tags(tmp_path):
    for name, content in (
        ("a.conll", "Ada\nsleeps\n\nRome\n"),
        ("a.txt", "Ada sleeps\n\nRome\n"),
        ("a.jsonl", '{"tokens": ["Ada", "sleeps"]}\n{"tokens": ["Rome"]}'),
        ("b.jsonl", '{"text": "Ada  sleeps"}\n{"text": "Rome"}'),
    ):
        found = task().read_unlabelled(written(tmp_path / name, content))
        assert found.sentences == [["Ada", "sleeps"], ["Rome"]], name
        assert found.tags is None


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("a.conll", "", "a.conll is empty: it has no sentences"),
        ("a.conll", "Ada\n", "a.conll:1: one column, but a word and its tag are needed"),
        ("a.conll", "Ada\t\n", "a.conll:1: the tag is empty"),
        ("b.conll", None, "does not exist"),
        ("a.jsonl", '{"tokens": ["a"]}', "a.jsonl:1: no column 'tags' for tags"),
        ("a.jsonl", '{"tokens": "a b", "tags": ["O"]}', "the tokens 'tokens' must be a list"),
        ("a.jsonl", '{"tokens": ["a", "b"], "tags": ["O"]}', "a.jsonl:1: 2 words have 1 tags"),
        ("a.jsonl", '{"tokens": [], "tags": []}', "a.jsonl:1: the sentence has no words"),
        ("a.jsonl", '{"tokens": ["a", " "], "tags": ["O", "O"]}', "a word of 'tokens' is empty"),
        ("a.jsonl", '{"tokens": ["a"], "tags": [null]}', "a tag of 'tags' is missing"),
        ("a.jsonl", '{"tokens": ["a"], "tags": [3]}', "the tags are numbers: list the names"),
    ],
)
def test_bad_files_are_refused(tmp_path, name, content, says):
    if content is not None:
        written(tmp_path / name, content)
    with pytest.raises(UsageError) as error:
        task().read(tmp_path / name)
    assert says in str(error.value)
    assert "\n" not in str(error.value)


def test_unknown_tags_name_the_source_of_the_classes(tmp_path):
    path = written(tmp_path / "a.conll", "Ada B-PER\nsleeps X\n")
    with pytest.raises(UsageError, match=r"a\.conll:1: the label 'X' is not .* of data\.labels"):
        task(labels=["B-PER", "O"]).read(path)


VOCABULARY = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "ada", "sleep", "##s", "in", "rome"]


@pytest.fixture
def encoded(tmp_path, caplog):
    """Two sentences of which the second is cut after its second word."""
    written(tmp_path / "vocab.txt", "\n".join(VOCABULARY))
    content = "Ada B-PER\nsleeps O\n\nRome B-LOC\nsleeps O\nin O\nRome B-LOC\n"
    examples = task().read(written(tmp_path / "a.conll", content))
    with caplog.at_level(logging.WARNING, "jaxbrewer"):
        found = task(max_length=5).encode(Tokenizer(tmp_path), examples)
    assert "2 of 6 words have no token: data.max_length 5 cuts them off" in caplog.text
    return examples, found


def test_labels_are_at_first_pieces(encoded):
    _, found = encoded
    batch = found.batch([0, 1], width=6)
    assert batch["labels"].tolist() == [
        [-100, 1, 2, -100, -100, -100],
        [-100, 0, 2, -100, -100, -100],
    ]
    assert (batch["first_piece"] == 1).tolist() == (batch["labels"] >= 0).tolist()


def test_a_head_in_another_order_moves_the_labels(encoded):
    examples, _ = encoded
    moved = task().with_head(examples, Head(("O", "B-PER", "B-LOC")))
    assert [tags.tolist() for tags in moved.tags] == [[1, 0], [2, 0, 0, 2]]


@pytest.mark.slow
@pytest.mark.parametrize("pieces", ["first", "all"])
def test_the_teacher_is_compared_at_first_pieces_or_at_all_tokens(encoded, pieces):
    batch = {name: jnp.array(array) for name, array in encoded[1].batch([0, 1], 6).items()}
    logits = jnp.zeros((2, 6, 3))
    answer = task(pieces=pieces).adaptor(batch, {"logits": logits})
    if pieces == "first":
        assert answer["logits_mask"].sum() == 4
    else:
        assert "logits_mask" not in answer
        assert answer["inputs_mask"].sum() == 10
    assert answer["losses"].value() == pytest.approx(np.log(3))
    assert answer["losses"].count == 4


def test_words_that_are_cut_off_count_as_outside(encoded):
    """The score of a file does not rise because its sentences are cut."""
    examples, found = encoded
    logits = np.zeros((len(found.input_ids), 3))
    labels = found.token_columns["labels"]
    logits[labels >= 0, labels[labels >= 0]] = 1
    predictions = Predictions({}, {"logits": logits})
    metrics = task().score(examples, found, predictions)
    true = [["B-PER", "O"], ["B-LOC", "O", "O", "B-LOC"]]
    predicted = [["B-PER", "O"], ["B-LOC", "O", "O", "O"]]
    assert metrics["f1"] == pytest.approx(seqeval.metrics.f1_score(true, predicted))
    assert metrics["accuracy"] == pytest.approx(5 / 6)
    assert task().details(examples, found, predictions)["LOC"] == {
        "precision": 1.0, "recall": 0.5, "F1": pytest.approx(2 / 3), "count": 2.0
    }  # fmt: skip
    rows = list(task().decode(examples, found, predictions, NAMES))
    assert rows[1]["tags"] == ["B-LOC", "O", None, None]
    assert rows[1]["spans"] == [{"type": "LOC", "start": 0, "end": 1, "text": "Rome"}]


SCHEMES = {
    "any": ["O", "B-X", "I-X", "E-X", "S-X", "B-Y", "I-Y", "E-Y", "S-Y", "B", "I", "I-Y-Z"],
    "IOB": ["O", "B-X", "I-X", "B-Y", "I-Y"],
}


@pytest.mark.parametrize("scheme", SCHEMES)
def test_spans_are_those_of_seqeval(scheme):
    draw = np.random.default_rng(0)
    lengths = draw.integers(1, 12, 300)
    true, predicted = (
        [list(map(str, draw.choice(SCHEMES[scheme], length))) for length in lengths]
        for _ in range(2)
    )
    for tags in true:
        expected = seqeval.metrics.sequence_labeling.get_entities(tags)
        assert spans_of(tags) == {(kind, start, end + 1) for kind, start, end in expected}
    names = tuple(SCHEMES[scheme])
    number = {name: index for index, name in enumerate(names)}
    numbers = [np.array([number[tag] for tag in tags], np.int32) for tags in true]
    examples = TaggedTexts([["w"] * length for length in lengths], numbers, names)
    from jaxbrewer.text import Encoded

    word = np.concatenate([np.arange(length) for length in lengths])
    labels = np.concatenate(numbers)
    found = Encoded(
        np.ones_like(labels), np.zeros_like(labels), np.cumsum([0, *lengths]),
        token_columns={"labels": labels}, token_facts={"word": word},
    )  # fmt: skip
    logits = np.eye(len(names))[[number[tag] for tags in predicted for tag in tags]]
    metrics = task().score(examples, found, Predictions({}, {"logits": logits}))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for metric in ("f1", "precision", "recall"):
            expected = getattr(seqeval.metrics, f"{metric}_score")(true, predicted)
            assert metrics[metric] == pytest.approx(expected, abs=1e-12)
    assert metrics["accuracy"] == pytest.approx(seqeval.metrics.accuracy_score(true, predicted))


def test_the_f1_of_classes_that_are_no_spans_is_their_accuracy():
    names = ("NOUN", "VERB")
    from jaxbrewer.text import Encoded

    examples = TaggedTexts([["a", "b"], ["c"]], [np.int32([0, 1]), np.int32([1])], names)
    labels = np.int32([0, 1, 1])
    found = Encoded(
        labels, labels, np.array([0, 2, 3]),
        token_columns={"labels": labels}, token_facts={"word": np.array([0, 1, 0])},
    )  # fmt: skip
    metrics = task().score(examples, found, Predictions({}, {"logits": np.eye(2)[[0, 0, 1]]}))
    assert metrics["f1"] == metrics["accuracy"] == pytest.approx(2 / 3)


@pytest.mark.parametrize("kind", ["bytes", "metaspace"])
def test_words_have_the_tokens_that_they_have_in_a_text(kind):
    pieces = tokenizers.pre_tokenizers
    if kind == "bytes":
        space, before = "Ġ", pieces.ByteLevel(add_prefix_space=False)
    else:
        space, before = "▁", pieces.Metaspace(prepend_scheme="first")
    words = {"<unk>": 0, f"{space}ada": 1, "ada": 2, f"{space}sleeps": 3, "sleeps": 4}
    made = tokenizers.Tokenizer(tokenizers.models.WordLevel(words, unk_token="<unk>"))
    made.pre_tokenizer = pieces.Sequence([before])
    changed = with_spaces_before_words(made)
    ids = changed.encode(["ada", "sleeps"], is_pretokenized=True).ids
    assert ids == made.encode(" ada sleeps" if kind == "bytes" else "ada sleeps").ids == [1, 3]
