"""Labels of files: names, numbers, maps and files that list them."""

import json

import pytest

from jaxbrewer import UsageError
from jaxbrewer.configs import DataConfig
from jaxbrewer.text import read_examples
from jaxbrewer.text.labels import read_label_names
from jaxbrewer.text.tasks import task_of


def read(path, content, **options):
    path.write_text(content)
    examples = read_examples(path, **options)
    return [examples.label_names[number] for number in examples.labels]


def test_numbers_that_pandas_wrote_as_floats_are_ids(tmp_path):
    path = tmp_path / "x.csv"
    assert read(path, "text,label\na,0.0\nb,1.0\n") == ["0", "1"]
    assert read(path, "text,label\na,1.0\n", labels=["0", "1"]) == ["1"]
    assert read(path, "text,label\na,1.0\n", labels=["1.0", "1"]) == ["1.0"]
    assert read(path, "text,label\na,1.0\nb,1.5\n") == ["1.0", "1.5"]  # versions
    assert read(tmp_path / "x.jsonl", '{"text": "a", "label": 2.0}\n') == ["2"]


def test_a_label_map_names_the_labels_of_files(tmp_path):
    names = {"0": "NEGATIVE", "1": "POSITIVE"}
    path = tmp_path / "x.csv"
    content = "text,label\na,0\nb,1.0\nc,POSITIVE\n"
    assert read(path, content, label_map=names) == ["NEGATIVE", "POSITIVE", "POSITIVE"]
    with pytest.raises(UsageError, match=r"x\.csv:2: the label '2' is not in data\.label_map: All"):
        read(path, "text,label\na,2\n", label_map=names)


def test_integers_and_names_are_the_keys_of_a_label_map():
    assert DataConfig(label_map={0: "no", "1": "yes"}).label_map == {"0": "no", "1": "yes"}
    for wrong in ({}, {0: 1.5}, {True: "x"}, [0], {0: "a", "0": "b"}):
        with pytest.raises(UsageError, match=r"DataConfig\.label_map must be a mapping"):
            DataConfig(label_map=wrong)


def test_a_file_may_list_the_labels(tmp_path):
    text, json_file = tmp_path / "a.txt", tmp_path / "a.json"
    text.write_text("dog\n\n cat \n")
    json_file.write_text('["dog", "cat"]')
    for path in (text, json_file):
        assert task_of(DataConfig(labels=str(path))).label_names == ("dog", "cat")
    assert task_of(DataConfig(labels=["dog", "cat"])).label_names == ("dog", "cat")


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("a.txt", "", "must list at least two different names"),
        ("a.txt", "dog\ndog\n", "must list at least two different names"),
        ("a.json", json.dumps({"a": 1}), "a.json"),
        ("a.json", json.dumps(["a", None]), "a name is missing"),
        ("b.txt", None, "is not a file: give a list or a file"),
    ],
)
def test_bad_files_of_labels_are_refused(tmp_path, name, content, says):
    if content is not None:
        (tmp_path / name).write_text(content)
    with pytest.raises(UsageError) as error:
        read_label_names(tmp_path / name)
    assert says in str(error.value)
    assert "\n" not in str(error.value)
