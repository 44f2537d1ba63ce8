"""An export appears only after it was compared with the model, and is read back with care."""

import dataclasses
import json
import os
import shutil

import numpy as np
import pytest

from jaxbrewer import UsageError
from jaxbrewer.export import artifact as artifacts
from jaxbrewer.export import export, load_artifact, program_of, verify, verify_artifact
from jaxbrewer.export.artifact import FORMATS, INT8_FILE, ONNX_FILE
from jaxbrewer.export.formats import FORMAT_NAMES
from jaxbrewer.export.sentences import sentence_encoder
from jaxbrewer.models import load
from jaxbrewer.text import Tokenizer, Truncation
from tests.cli.conftest import write_model
from tests.export.conftest import has_onnxruntime, needs_onnx
from tests.export.test_card import run_programs

pytestmark = pytest.mark.slow

TEXTS = ["it often purrs", "here barks gladly today", "sneaks"]
EXACT = [name for name in FORMATS if name != "onnx" or has_onnxruntime]


@pytest.mark.parametrize("format", EXACT)
def test_an_export_equals_the_model_and_carries_the_difference(
    format, classifier, tokenizer, tmp_path
):
    metadata = export(classifier, tmp_path / "out", format, tokenizer=tokenizer, texts=TEXTS)
    assert os.listdir(tmp_path) == ["out"]
    assert metadata == json.loads((tmp_path / "out" / "export.json").read_text())
    parity = metadata["parity"]
    assert parity["max_abs_difference"] <= 1e-5
    assert parity["rows"] == 1 + 3 + 1
    assert f"{parity['max_abs_difference']:.2g}" in (tmp_path / "out" / "README.md").read_text()
    again = verify_artifact(classifier, tmp_path / "out", tokenizer=tokenizer, texts=TEXTS)
    assert again.to_dict() == parity


def test_another_program_reads_the_exported_tokenizer_as_the_model_does(tmp_path):
    import tokenizers

    directory = write_model(tmp_path / "model", head=True, num_labels=2, labels=("a", "b"))
    words = tokenizers.BertWordPieceTokenizer(str(directory / "vocab.txt"))
    words.enable_truncation(12)
    words.enable_padding(length=12)
    words.save(str(directory / "tokenizer.json"))
    (directory / "tokenizer_config.json").write_text('{"model_max_length": 6}')
    own, out = Tokenizer(directory), tmp_path / "out"
    metadata = export(load(directory), out, "stablehlo", tokenizer=own)
    assert (metadata["max_length"], metadata["longest_input"]) == (6, 16)
    card = (out / "README.md").read_text()
    assert "longest input | 6 tokens, of 16 that the program accepts" in card
    assert "logits" in run_programs(card, out)
    long = "it often purrs " * 9
    saved = tokenizers.Tokenizer.from_file(str(out / "tokenizer.json"))
    assert saved.encode(long).ids == own.encode([long], max_length=6).input_ids.tolist()

    saved.enable_truncation(12)
    saved.save(str(out / "tokenizer.json"))
    with pytest.raises(UsageError, match=r"at most 12\) than the model reads \(at most 6\)"):
        verify.check_saved_tokenizer(own, out, Truncation(6))


def test_a_mean_pooled_classifier_is_not_exported_for_transformers(tmp_path):
    mean = {"num_labels": 2, "labels": ("a", "b"), "classifier_pooling": "mean"}
    model = load(write_model(tmp_path / "model", head=True, **mean))
    with pytest.raises(UsageError, match=r"transformers cannot load this model.*'onnx'"):
        export(model, tmp_path / "out", "hf")
    assert sentence_encoder(model).config.model_type == "bert"


@needs_onnx
def test_onnx_metadata_has_the_parity(classifier, tokenizer, tmp_path):
    import onnx

    metadata = export(classifier, tmp_path / "out", "onnx", tokenizer=tokenizer)
    model = onnx.load(str(tmp_path / "out" / ONNX_FILE))
    written = {entry.key: entry.value for entry in model.metadata_props}
    assert json.loads(written["jaxbrewer.parity"]) == metadata["parity"]
    assert written["jaxbrewer.format"] == "onnx"


@needs_onnx
def test_int8_is_written_in_place_of_the_float_model(classifier, tokenizer, tmp_path):
    metadata = export(classifier, tmp_path / "out", "onnx", tokenizer=tokenizer, int8=True)
    assert (tmp_path / "out" / INT8_FILE).exists()
    assert not (tmp_path / "out" / ONNX_FILE).exists()
    assert 0 < metadata["parity"]["relative_error"] < 0.1
    assert not [
        name for name in os.listdir(tmp_path / "out" / "onnx") if name != "model_quantized.onnx"
    ]


@pytest.fixture(scope="module")
def exported_once(classifier, tokenizer, tmp_path_factory):
    directory = tmp_path_factory.mktemp("exported") / "out"
    export(classifier, directory, "stablehlo", tokenizer=tokenizer)
    return directory


@pytest.fixture
def exported(exported_once, tmp_path):
    """A copy of the export, which a test may change."""
    return shutil.copytree(exported_once, tmp_path / "out")


@pytest.mark.parametrize("name", ["weights.npz", "model.stablehlo", "vocab.txt", "config.json"])
def test_a_damaged_file_is_named(exported, name):
    content = bytearray((exported / name).read_bytes())
    content[len(content) // 2] ^= 1
    (exported / name).write_bytes(content)
    with pytest.raises(UsageError, match=rf"{name} is not the file that was exported"):
        load_artifact(exported)
    (exported / name).unlink()
    with pytest.raises(UsageError, match=rf"{name} is missing"):
        load_artifact(exported)


def test_a_directory_that_is_no_export_is_refused(tmp_path):
    with pytest.raises(UsageError, match=r"is not an exported model: it has no export\.json"):
        load_artifact(tmp_path)
    (tmp_path / "export.json").write_text("{}")
    with pytest.raises(UsageError, match=r"export\.json"):
        load_artifact(tmp_path)


def test_unreadable_files_are_one_line(tmp_path):
    (tmp_path / "model.onnx").write_bytes(b"nothing")
    with pytest.raises(UsageError, match="holds no readable model.stablehlo"):
        artifacts.stablehlo.load(tmp_path)
    if has_onnxruntime:
        with pytest.raises(UsageError, match="is damaged or not an ONNX model"):
            artifacts.onnx_files.open_session(tmp_path / "model.onnx")


def test_an_input_longer_than_the_model_reads_is_refused(exported):
    artifact = load_artifact(exported)
    names = artifact.metadata["inputs"]
    assert artifact.run({name: np.ones((2, 16), int) for name in names})["logits"].shape == (2, 3)
    with pytest.raises(UsageError, match=r"17 tokens long, .* reads at most 16: truncate"):
        artifact.run({name: np.ones((2, 17), int) for name in names})
    with pytest.raises(UsageError, match="needs the inputs input_ids, attention_mask"):
        artifact.run({"input_ids": np.ones((2, 3), int)})


def test_the_tokenizer_of_another_model_is_refused(classifier, tokenizer, tmp_path):
    other = type("Other", (), {"vocab_size": 500})()
    with pytest.raises(UsageError, match="500 tokens, the model a vocab_size of"):
        export(classifier, tmp_path / "out", "hf", tokenizer=other)
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"format": "onxx"}, "format 'onxx' is unknown: did you mean 'onnx'"),
        ({"format": "hf", "int8": True}, "int8 is for the format 'onnx', got format 'hf'"),
        ({"format": "hf", "texts": []}, "no text to compare"),
        ({"format": "hf", "pooling": "mean"}, "'hf' has no place for a pooling"),
        ({"format": "onnx", "pooling": "sum"}, "pooling 'sum' is unknown: Allowed: 'mean', 'cls'"),
    ],
)
def test_wrong_arguments_are_one_line(classifier, tokenizer, tmp_path, arguments, message):
    with pytest.raises(UsageError, match=message):
        export(classifier, tmp_path / "out", tokenizer=tokenizer, **arguments)
    assert os.listdir(tmp_path) == []


def test_only_an_export_is_replaced_and_only_where_asked(classifier, exported, tmp_path):
    with pytest.raises(UsageError, match="out exists: choose another output"):
        export(classifier, exported, "hf")
    export(classifier, exported, "hf", overwrite=True)
    assert load_artifact(exported).metadata["format"] == "hf"
    (tmp_path / "other").mkdir()
    with pytest.raises(UsageError, match="other is not an exported model, so it is not replaced"):
        export(classifier, tmp_path / "other", "hf", overwrite=True)


@pytest.mark.parametrize("spoil", [lambda x: x + 1e-3, lambda x: x * np.nan, lambda x: x[:, 1:]])
def test_a_result_that_differs_is_not_kept(classifier, tokenizer, tmp_path, monkeypatch, spoil):
    load = FORMATS["hf"].load

    def load_spoiled(folder, metadata):
        run = load(folder, metadata)
        return lambda inputs: {name: spoil(value) for name, value in run(inputs).items()}

    monkeypatch.setitem(FORMATS, "hf", dataclasses.replace(FORMATS["hf"], load=load_spoiled))
    with pytest.raises(UsageError, match=r"differs from the model by|not finite|returns logits"):
        export(classifier, tmp_path / "out", "hf", tokenizer=tokenizer)
    assert os.listdir(tmp_path) == []


def test_every_format_has_a_name():
    assert tuple(sorted(FORMATS)) == FORMAT_NAMES


def test_without_a_tokenizer_token_ids_are_random(classifier):
    program = program_of(classifier)
    batches = verify.sample_inputs(program, None)
    assert [batch["input_ids"].shape for batch in batches] == [(1, 5), (3, 9), (1, 16)]
    assert all(batch["input_ids"].max() < classifier.config.vocab_size for batch in batches)


def test_padding_is_not_compared():
    batch = {"attention_mask": np.array([[1, 1, 0]])}
    one = {"logits": np.array([[[0.0, 1.0], [1.0, 0.0], [5.0, 0.0]]])}
    other = {"logits": np.array([[[0.0, 1.0], [1.0, 0.5], [0.0, 9.0]]])}
    parity = verify.compare(lambda _: one, lambda _: other, [batch], per_token=["logits"])
    assert parity.max_abs_difference == 0.5
    assert parity.same_argmax == 1.0


@pytest.mark.parametrize(
    ("extra", "library"), [("onnx", "onnx"), ("onnx", "onnxruntime"), ("stablehlo", "flatbuffers")]
)
def test_a_missing_extra_is_named(classifier, tmp_path, monkeypatch, extra, library):
    import builtins

    plain = builtins.__import__

    def without(name, *rest, **named):
        if name.split(".")[0] == library:
            raise ImportError(name)
        return plain(name, *rest, **named)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(UsageError, match=rf"{library} is not installed: pip install .*\[{extra}\]"):
        export(classifier, tmp_path / "out", extra)
    assert os.listdir(tmp_path) == []
