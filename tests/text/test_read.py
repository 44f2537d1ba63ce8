"""Text files become examples; bad ones are refused in one line with file and line number."""

import bz2
import csv
import gzip
import json
import lzma

import numpy as np
import pytest

from jaxbrewer import UsageError
from jaxbrewer.text import UNLABELLED, Examples, read_examples

CSV = 'text,id,label\n"it barks, and runs",1,dog\n"""miaow"" it says",2,cat\n\nGröße,3,dog\n'
TSV = 'text\tid\tlabel\nit barks, and runs\t1\tdog\n"miaow" it says\t2\tcat\nGröße\t3\tdog\n'
JSONL = (
    '{"id": 1, "text": "it barks, and runs", "label": "dog"}\n'
    '{"text": "\\"miaow\\" it says", "label": "cat"}\n\n'
    '{"text": "Gr\\u00f6\\u00dfe", "label": "dog", "note": NaN}\n'
)


@pytest.mark.parametrize(("name", "content"), [("x.csv", CSV), ("x.tsv", TSV), ("x.jsonl", JSONL)])
@pytest.mark.parametrize(
    ("suffix", "pack"),
    [("", bytes), (".gz", gzip.compress), (".bz2", bz2.compress), (".xz", lzma.compress)],
)
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
def test_every_kind_of_file_gives_the_same_examples(
    tmp_path, name, content, suffix, pack, encoding
):
    path = tmp_path / (name + suffix)
    path.write_bytes(pack(content.encode(encoding)))
    examples = read_examples(path)
    assert examples.texts == ["it barks, and runs", '"miaow" it says', "Größe"]
    assert examples.label_names == ("cat", "dog")
    assert examples.labels.dtype == np.int32
    assert examples.labels.tolist() == [1, 0, 1]
    assert examples.pairs is None


def test_columns_have_the_names_the_caller_gives(tmp_path):
    path = tmp_path / "pairs.jsonl"
    path.write_text('{"q": "who?", "a": "me", "y": 10}\n{"q": "what?", "a": "it", "y": 9}\n')
    examples = read_examples(path, text="q", text_pair="a", label="y")
    assert (examples.texts, examples.pairs) == (["who?", "what?"], ["me", "it"])
    assert examples.label_names == ("9", "10")  # as numbers
    assert examples.labels.tolist() == [1, 0]
    assert read_examples(path, text="q", label=None).labels is None


def test_labels_given_decide_the_numbers(tmp_path):
    path = tmp_path / "x.csv"
    path.write_text("text,label\na,1\nb,0\n")
    examples = read_examples(path, labels=[2, 1, 0])
    assert examples.label_names == ("2", "1", "0")
    assert examples.labels.tolist() == [1, 2]


def test_a_line_break_in_a_quoted_field_is_part_of_the_text(tmp_path):
    path = tmp_path / "x.csv"
    path.write_bytes(b'text,label\r\n"two\r\nlines",a\r\nb,\r\n')
    with pytest.raises(UsageError, match=r"x\.csv:4: the label 'label' is empty"):
        read_examples(path)
    assert read_examples(path, label=None).texts == ["two\r\nlines", "b"]


REFUSED = {
    "empty.csv": ("", "empty.csv is empty"),
    "header.csv": ("text,label\n", "header.csv is empty"),
    "blank.jsonl": ("\n \n", "blank.jsonl is empty"),
    "kind.txt": ("text\n", r"format that cannot be read: .*'\.jsonl'"),
    "column.csv": ("Text,label\na,b\n", ":2: no column 'text' .*did you mean 'Text'.*'label'"),
    "twice.csv": ("text,text\na,b\n", ":1: two columns have the same name"),
    "short.csv": ("text,label\na,b\nc\n", ":3: 1 columns, but the first line has 2"),
    "long.tsv": ("text\tlabel\na\tb\nc\td\te\n", ":3: 3 columns, but the first line has 2"),
    "open.csv": ('text,label\n"a,b\n', ":2: malformed line"),
    "nan_label.csv": ("text,label\na,b\nc,nan\n", ":3: the label 'label' is NaN"),
    "nan_text.tsv": ("text\tlabel\nNaN\tb\n", ":2: the text 'text' is NaN"),
    "no_text.csv": ("text,label\n  ,b\n", ":2: the text 'text' is empty"),
    "no_label.csv": ("text,label\na,\n", ":2: the label 'label' is empty"),
    "bad.jsonl": ('{"text": "a", "label": 1}\n{"text": \n', ":2 is not valid JSON"),
    "list.jsonl": ('["a", 1]\n', ":1: expected a JSON object"),
    "number.jsonl": ('{"text": 5, "label": 1}\n', ":1: the text 'text' must be a string, got int"),
    "null.jsonl": ('{"text": "a", "label": null}\n', ":1: the label 'label' is missing"),
    "true.jsonl": ('{"text": "a", "label": true}\n', "must be a string or an integer, got True"),
    "float.jsonl": ('{"text": "a", "label": 0.5}\n', "must be a string, got float"),
    "nan.jsonl": ('{"text": NaN, "label": 1}\n', ":1: the text 'text' is NaN"),
    "nan_l.jsonl": ('{"text": "a", "label": NaN}\n', ":1: the label 'label' is NaN"),
    "twice.jsonl": ('{"text": "a", "text": "b"}\n', ":1 is not valid JSON: the key 'text' occurs"),
    "deep.jsonl": ('{"text": ' + "[" * 9000 + "]" * 9000 + "}\n", ":1 is nested deeper than"),
    "digits.jsonl": ('{"text": "a", "label": ' + "9" * 5000 + "}\n", ":1 is not valid JSON"),
    "wide.jsonl": ('{"text": "a", "label": ' + "9" * 50 + "}\n", "integer with more than 64 bits"),
    "long_label.jsonl": ('{"text": "a", "label": ' + str([1] * 999) + "}\n", r"got .{57}\.\.\.\.$"),
    "key.jsonl": ('{"text": "a", "label": 1}\n{"text": "a"}\n', ":2: no column 'label' for label"),
    "half.jsonl": ('{"text": "\\ud800", "label": 1}\n', ":1: .* half a surrogate pair"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_bad_files_are_refused_in_one_line(tmp_path, name):
    content, message = REFUSED[name]
    (tmp_path / name).write_text(content)
    with pytest.raises(UsageError, match=message) as error:
        read_examples(tmp_path / name)
    assert "\n" not in str(error.value)
    assert name in str(error.value)


def test_files_that_cannot_be_opened_or_decoded(tmp_path):
    with pytest.raises(UsageError, match=r"none\.csv does not exist"):
        read_examples(tmp_path / "none.csv")
    (tmp_path / "latin.csv").write_bytes("text,label\nGröße,a\n".encode("latin-1"))
    with pytest.raises(UsageError, match=r"latin\.csv is not UTF-8"):
        read_examples(tmp_path / "latin.csv")
    whole = gzip.compress(b"text,label\n" + b"a,b\n" * 50)
    for name, content in (("not.csv.gz", b"text,label\na,b\n"), ("cut.csv.gz", whole[:-12])):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(UsageError, match=f"{name} cannot be read"):
            read_examples(tmp_path / name)


def test_long_fields_and_columns_without_a_name_are_read(tmp_path):
    """As in the SMS spam corpus, whose header ends with three commas."""
    long = "word " * 30_000
    (tmp_path / "spam.csv").write_text(f'v1,v2,,,\nham,"{long}",,,\nspam,Free entry,x,,\n')
    limit = csv.field_size_limit()
    examples = read_examples(tmp_path / "spam.csv", text="v2", label="v1")
    assert examples.texts == [long, "Free entry"]
    assert csv.field_size_limit() == limit
    with pytest.raises(UsageError, match="no column '' for text"):
        read_examples(tmp_path / "spam.csv", text="", label="v1")
    (tmp_path / "long.tsv").write_text(f"text\tlabel\n{long}\tx\n")
    assert read_examples(tmp_path / "long.tsv").texts == [long]


@pytest.mark.parametrize("other", ["pos ", "Pos", "\uff50os"])
def test_labels_that_look_alike_are_warned_of(tmp_path, other):
    path = tmp_path / "x.jsonl"
    rows = [{"text": "a", "label": "pos"}, {"text": "b", "label": other}]
    path.write_text("\n".join(map(json.dumps, rows)))
    with pytest.warns(UserWarning, match="are two classes, although they differ only by case or"):
        assert len(read_examples(path).label_names) == 2


def test_a_label_outside_the_set_is_named_with_its_line(tmp_path):
    path = tmp_path / "x.csv"
    path.write_text("text,label\na,cat\nb,dgo\n")
    with pytest.raises(
        UsageError, match=r"x\.csv:3: the label 'dgo' is not one of the classes: did you mean 'dog'"
    ):
        read_examples(path, labels=["cat", "dog"])
    with pytest.raises(UsageError, match="name twice"):
        read_examples(path, labels=["cat", "cat"])


def test_take_and_with_unlabelled():
    some = Examples(["a", "b"], ["A", "B"], np.array([1, 0], np.int32), ("no", "yes"))
    assert some.take([1]).pairs == ["B"]
    assert some.take(np.array([1, 0])).labels.tolist() == [0, 1]
    both = some.with_unlabelled(some.take([0]))
    assert both.texts == ["a", "b", "a"]
    assert both.pairs == ["A", "B", "A"]
    assert both.labels.tolist() == [1, 0, UNLABELLED]
    assert both.label_names == ("no", "yes")
    with pytest.raises(UsageError, match="pairs"):
        some.with_unlabelled(Examples(["c"]))
