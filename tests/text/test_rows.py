"""Parquet files and saved ``datasets`` give the rows of the same table as text."""

import json
import sys

import pyarrow
import pyarrow.parquet
import pytest

from jaxbrewer import UsageError
from jaxbrewer.text import read_examples
from jaxbrewer.text.rows import read_rows

ROWS = [
    {"text": "it barks", "label": 1, "messages": [{"role": "user", "content": "Größe?"}]},
    {"text": "it purrs", "label": 0, "messages": []},
    {"text": "it sings", "label": 1, "messages": [{"role": "system", "content": ""}]},
]


def save_to_disk(folder, rows, *, files=2):
    """What ``Dataset.save_to_disk`` writes: Arrow streams, listed in ``state.json``."""
    folder.mkdir()
    table = pyarrow.Table.from_pylist(rows)
    names = [f"data-{index:05}-of-{files:05}.arrow" for index in range(files)]
    each = -(-len(rows) // files)
    for index, name in enumerate(names):
        part = table.slice(index * each, each)
        with pyarrow.ipc.new_stream(str(folder / name), table.schema) as stream:
            stream.write_table(part)
    state = {"_data_files": [{"filename": name} for name in names], "_split": "train"}
    (folder / "state.json").write_text(json.dumps(state))
    (folder / "dataset_info.json").write_text("{}")
    return folder


def write(tmp_path, kind):
    path = tmp_path / f"rows.{kind}"
    if kind == "jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    elif kind == "parquet":
        table = pyarrow.Table.from_pylist(ROWS)
        pyarrow.parquet.write_table(table, path, row_group_size=2)
    else:
        save_to_disk(path, ROWS)
    return path


@pytest.mark.parametrize("kind", ["jsonl", "parquet", "saved"])
def test_every_form_of_a_table_gives_the_same_numbered_rows(tmp_path, kind):
    assert list(read_rows(write(tmp_path, kind))) == list(enumerate(ROWS, start=1))


@pytest.mark.parametrize("kind", ["parquet", "saved"])
def test_labelled_texts_are_read_from_tables(tmp_path, kind):
    examples = read_examples(write(tmp_path, kind))
    assert examples.texts == ["it barks", "it purrs", "it sings"]
    assert examples.labels.tolist() == [1, 0, 1]
    with pytest.raises(UsageError, match=r":1: no column 'txet' for text: did you mean 'text'"):
        read_examples(tmp_path / f"rows.{kind}", text="txet")


def damaged(tmp_path):
    whole = write(tmp_path, "parquet").read_bytes()
    (tmp_path / "cut.parquet").write_bytes(whole[:-20])
    (tmp_path / "text.parquet").write_text("text\nit barks\n")
    (tmp_path / "plain").mkdir()
    splits = tmp_path / "splits"
    splits.mkdir()
    (splits / "dataset_dict.json").write_text('{"splits": ["train", "test"]}')
    cut = save_to_disk(tmp_path / "cut", ROWS, files=1)
    (arrow,) = cut.glob("*.arrow")
    arrow.write_bytes(arrow.read_bytes()[:300])
    save_to_disk(tmp_path / "gone", ROWS, files=1)
    (next((tmp_path / "gone").glob("*.arrow"))).unlink()
    outside = save_to_disk(tmp_path / "outside", ROWS)
    (outside / "state.json").write_text('{"_data_files": [{"filename": "../rows.parquet"}]}')
    return {
        "cut.parquet": "cannot be read",
        "text.parquet": "cannot be read",
        "none.parquet": "does not exist",
        "rows.parquet.gz": r"format that cannot be read.*'\.parquet'",
        "plain": "a directory without state.json",
        "splits": "holds several splits: give one, such as .*train or .*test",
        "cut": "cannot be read",
        "gone": "cannot be read",
        "outside": "lists no data files of its own directory",
    }


def test_damaged_tables_are_refused_in_one_line(tmp_path):
    for name, message in damaged(tmp_path).items():
        with pytest.raises(UsageError, match=message) as error:
            list(read_rows(tmp_path / name))
        assert "\n" not in str(error.value)
        assert name in str(error.value)


def test_parquet_without_pyarrow_names_the_extra(tmp_path, monkeypatch):
    path = write(tmp_path, "parquet")
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(UsageError, match=r'pip install "jaxbrewer\[parquet\]"'):
        list(read_rows(path))
