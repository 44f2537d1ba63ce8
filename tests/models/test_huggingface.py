"""Model directories: reading, writing, and messages about mismatches."""

import json
import logging
import os
import shutil
import subprocess
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from safetensors.numpy import load_file, save_file

from jaxbrewer import UsageError
from jaxbrewer.models import (
    BertConfig,
    BertForQuestionAnswering,
    BertForSequenceClassification,
    BertForTokenClassification,
    cut_layers,
    huggingface,
    load_bert,
    save_bert,
)
from tests.models.conftest import CASES, FIXTURES, TASKS, stacked

CASE = FIXTURES / "sequence_gelu"
LARGER = {
    BertForSequenceClassification: {"hidden_size": 192, "num_attention_heads": 6,
                                    "num_hidden_layers": 6, "intermediate_size": 768},
    BertForTokenClassification: {"hidden_size": 256, "num_attention_heads": 2,
                                 "num_hidden_layers": 3, "intermediate_size": 320},
    BertForQuestionAnswering: {"hidden_size": 768, "num_attention_heads": 12,
                               "num_hidden_layers": 2, "intermediate_size": 3072},
}  # fmt: skip


def weights(model):
    return nnx.to_pure_dict(nnx.state(model, nnx.Param))


def assert_same_weights(ours, theirs):
    jax.tree.map(np.testing.assert_array_equal, weights(ours), weights(theirs))


@pytest.fixture
def rewrite(tmp_path):
    """A copy of a stored model after ``change`` was done to its tensors, and its config."""

    def make(change=dict, config=None):
        tensors = change(load_file(CASE / "model.safetensors"))
        save_file(tensors, tmp_path / "model.safetensors")
        fields = json.loads((CASE / "config.json").read_text()) | (config or {})
        (tmp_path / "config.json").write_text(json.dumps(fields))
        return tmp_path

    return make


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_a_saved_model_has_the_tensors_of_transformers(case, tmp_path):
    model = load_bert(FIXTURES / case)
    save_bert(model, tmp_path / "new" / "folder")
    theirs = load_file(FIXTURES / case / "model.safetensors")
    ours = load_file(tmp_path / "new" / "folder" / "model.safetensors")
    assert ours.keys() == theirs.keys()
    for name, tensor in theirs.items():
        assert ours[name].dtype == tensor.dtype
        np.testing.assert_array_equal(ours[name], tensor, err_msg=name)
    written = json.loads((tmp_path / "new" / "folder" / "config.json").read_text())
    given = json.loads((FIXTURES / case / "config.json").read_text())
    assert written["architectures"] == given["architectures"]
    assert written["model_type"] == "bert"
    assert sorted(os.listdir(tmp_path / "new" / "folder")) == ["config.json", "model.safetensors"]


@pytest.mark.slow
@pytest.mark.parametrize("head", LARGER)
def test_save_and_load_is_bitwise(head, tmp_path):
    config = BertConfig(vocab_size=30, max_position_embeddings=9, **SMALL, labels=("a", "b"))
    model = head(config, rngs=nnx.Rngs(3))
    save_bert(model, tmp_path)
    loaded = load_bert(tmp_path)
    assert type(loaded) is head
    assert loaded.config == model.config
    assert_same_weights(loaded, model)


SMALL = {"hidden_size": 8, "num_hidden_layers": 2, "num_attention_heads": 2,
         "intermediate_size": 12}  # fmt: skip


def test_prefix_or_none_old_norm_names_and_buffers(rewrite, caplog):
    def change(tensors):
        renamed = {name.removeprefix("bert."): value for name, value in tensors.items()}
        renamed = {
            name.replace("LayerNorm.weight", "LayerNorm.gamma").replace(
                "LayerNorm.bias", "LayerNorm.beta"
            ): value
            for name, value in renamed.items()
        }
        return {**renamed, "embeddings.position_ids": np.arange(20)[None]}

    with caplog.at_level(logging.INFO, "jaxbrewer"):
        assert_same_weights(load_bert(rewrite(change)), load_bert(CASE))
    assert not caplog.records


@pytest.mark.slow
def test_missing_weights_are_initialized_with_one_warning(rewrite, caplog):
    def change(tensors):
        return {
            name: value
            for name, value in tensors.items()
            if not name.startswith(("classifier", "bert.pooler"))
        }

    folder = rewrite(change)
    with caplog.at_level(logging.INFO, "jaxbrewer"):
        model = load_bert(folder, num_labels=25)
    (record,) = caplog.records
    assert record.levelname == "WARNING"
    assert "bert.pooler.dense.bias, bert.pooler.dense.weight, classifier.bias" in record.message
    kernel = np.asarray(model.classifier.kernel[...])
    assert kernel.shape == (32, 25)
    assert 0.015 < kernel.std() < 0.025
    assert not np.asarray(model.classifier.bias[...]).any()
    assert_same_weights(model, load_bert(folder, num_labels=25))
    other = load_bert(folder, num_labels=25, seed=1)
    assert not np.allclose(other.classifier.kernel[...], kernel)


def test_new_weights_and_each_dropout_use_their_own_keys(rewrite):
    model = load_bert(rewrite(drop("bert.pooler")), num_labels=32, new_head=True)
    pooler, head = model.bert.pooler.dense.kernel[...], model.classifier.kernel[...]
    assert pooler.shape == head.shape
    assert not np.allclose(pooler, head)
    keys = [jax.random.key_data(key).tobytes() for key in jax.tree.leaves(keys_of(model))]
    assert len(set(keys)) == len(keys) == 8  # embeddings, three for each of two layers, head


def keys_of(model):
    return nnx.to_pure_dict(nnx.state(model, nnx.RngKey))


def test_a_head_can_start_afresh(caplog):
    model = load_bert(CASE, labels=list("abcd"), new_head=True)
    assert model.config.labels == tuple("abcd")
    assert model.classifier.bias.shape == (4,)
    assert "classifier.bias, classifier.weight" in caplog.text
    encoder = weights(model)["bert"]
    jax.tree.map(np.testing.assert_array_equal, encoder, weights(load_bert(CASE))["bert"])


def test_weights_without_a_place_in_the_model_are_reported(rewrite, caplog):
    def change(tensors):
        extra = {
            "cls.predictions.bias": np.zeros(60, np.float32),
            "bert.encoder.layer.2.output.dense.bias": np.zeros(32, np.float32),
        }
        return tensors | extra

    with caplog.at_level(logging.INFO, "jaxbrewer"):
        load_bert(rewrite(change))
    said = {record.levelname: record.message.rpartition(": ")[2] for record in caplog.records}
    assert said == {
        "INFO": "cls.predictions.bias",
        "WARNING": "bert.encoder.layer.2.output.dense.bias",
    }


@pytest.mark.parametrize("kind", TASKS)
def test_any_head_on_any_encoder(kind):
    task = TASKS[kind]
    model = load_bert(FIXTURES / "token_tanh", task)
    outputs = jax.eval_shape(model, jnp.ones((2, 5), int))
    shapes = {name: out.shape for name, out in outputs.items() if name.endswith("logits")}
    assert (
        shapes
        == {
            "sequence": {"logits": (2, 2)},
            "token": {"logits": (2, 5, 2)},
            "span": {"start_logits": (2, 5), "end_logits": (2, 5)},
        }[kind]
    )


@pytest.mark.slow
def test_layers_are_cut_while_loading():
    assert_same_weights(load_bert(CASE, layers=[-1]), cut_layers(load_bert(CASE), [1]))


def test_settings_differ_from_the_file():
    model = load_bert(CASE, hidden_dropout_prob=0.4)
    assert model.bert.embeddings.dropout.rate == model.dropout.rate == 0.4
    assert model.bert.embeddings.dropout.deterministic
    with pytest.raises(UsageError, match="no field 'hidden_dropout': did you mean 'hidden_drop"):
        load_bert(CASE, hidden_dropout=0.4)


@pytest.mark.slow
@pytest.mark.parametrize("stored", ["float16", "bfloat16"])
def test_half_precision_files_load_as_float32_or_as_asked(rewrite, stored):
    folder = rewrite(
        lambda tensors: {name: value.astype(stored) for name, value in tensors.items()}
    )
    wide, half = load_bert(folder), load_bert(folder, dtype=stored)
    assert {str(leaf.dtype) for leaf in jax.tree.leaves(weights(wide))} == {"float32"}
    assert {str(leaf.dtype) for leaf in jax.tree.leaves(weights(half))} == {stored}
    save_bert(half, folder)
    assert json.loads((folder / "config.json").read_text())["torch_dtype"] == stored
    assert_same_weights(load_bert(folder), wide)


def drop(prefix):
    return lambda tensors: {n: value for n, value in tensors.items() if not n.startswith(prefix)}


@pytest.mark.parametrize(
    ("change", "settings", "message"),
    [
        (
            drop("bert.encoder.layer.1"),
            {},
            "lacks 16 tensors of the model: bert.encoder.layer.1.* and 12 more",
        ),
        (
            drop("bert."),
            {},
            "It has classifier.bias, classifier.weight",
        ),
        (
            dict,
            {"num_labels": 5},
            r"classifier.bias has shape \[3\], the config asks for \[5\].*new_head=True",
        ),
        (
            lambda tensors: tensors | {"classifier.weight": np.zeros((3, 31), np.float32)},
            {},
            r"classifier.weight has shape \[3, 31\], the config asks for \[3, 32\]",
        ),
        (dict, {"intermediate_size": 50}, r"layer.0.intermediate.dense.bias has shape \[48\]"),
        (dict, {"vocab_size": 61}, r"word_embeddings.weight has shape \[60, 32\]"),
        (dict, {"task": "classification"}, "task 'classification' is unknown: .*'token-class"),
        (dict, {"labels": ["a", "b", "a"]}, "labels must all be different"),
        (dict, {"layers": [5]}, r"layers \[5\] must be layers of a model with 2 layers"),
    ],
)
def test_mismatched_files_are_refused_by_name(rewrite, change, settings, message):
    with pytest.raises(UsageError, match=message):
        load_bert(rewrite(change), **settings)


@pytest.mark.slow
def test_a_model_keeps_its_problem_type(rewrite, tmp_path):
    assert load_bert(CASE).config.problem_type is None
    model = load_bert(rewrite(config={"problem_type": "multi_label_classification"}))
    assert model.config.problem_type == "multi_label_classification"
    save_bert(model, tmp_path / "saved")
    fields = json.loads((tmp_path / "saved" / "config.json").read_text())
    assert fields["problem_type"] == "multi_label_classification"
    save_bert(load_bert(CASE), tmp_path / "saved")
    assert "problem_type" not in json.loads((tmp_path / "saved" / "config.json").read_text())
    for unknown in ("multi_label", ["regression"]):
        with pytest.raises(UsageError, match="problem_type .* is unknown: .*'regression'"):
            load_bert(rewrite(config={"problem_type": unknown}))


class TestMeanPooling:
    """``transformers`` cannot compute such a classifier, so it must not recognize the model."""

    def test_a_classifier_has_a_model_type_of_its_own(self, tmp_path):
        model = load_bert(CASE, classifier_pooling="mean")
        save_bert(model, tmp_path)
        fields = json.loads((tmp_path / "config.json").read_text())
        assert fields["model_type"] == "mean_pooled_bert"
        assert fields["architectures"] == ["MeanPooledBertForSequenceClassification"]
        again = load_bert(tmp_path)
        assert again.config == model.config
        assert_same_weights(again, model)

    def test_other_heads_and_pooling_are_those_of_transformers(self, tmp_path):
        model = load_bert(CASE, "token-classification", classifier_pooling="mean")
        save_bert(model, tmp_path)
        fields = json.loads((tmp_path / "config.json").read_text())
        assert fields["model_type"] == "bert"
        assert "classifier_pooling" not in fields

    def test_transformers_refuses_it(self, tmp_path):
        python = os.environ.get("JAXBREWER_ORACLE_PYTHON")
        if not python:
            pytest.skip("JAXBREWER_ORACLE_PYTHON names no Python with torch and transformers")
        save_bert(load_bert(CASE, classifier_pooling="mean"), tmp_path)
        code = "import sys, transformers as t; t.{}.from_pretrained(sys.argv[1])"
        for name in ("AutoConfig", "AutoModel", "AutoModelForSequenceClassification"):
            command = [python, "-c", code.format(name), str(tmp_path)]
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            assert done.returncode, name
            assert "mean_pooled_bert" in done.stderr


class TestDirectories:
    def test_no_config(self, tmp_path):
        with pytest.raises(
            UsageError, match=r"is not a Hugging Face directory: it has no config\.json"
        ):
            load_bert(tmp_path)

    @pytest.mark.parametrize(
        ("text", "message"),
        [
            ("{", "is not valid JSON"),
            ("[]", "must be an object"),
            ('{"hidden_size": 8, "hidden_size": 9}', "the key 'hidden_size' occurs twice"),
            ("[" * 5000 + "]" * 5000, "nested deeper"),
        ],
    )
    def test_a_config_that_is_none(self, tmp_path, text, message):
        (tmp_path / "config.json").write_text(text)
        with pytest.raises(UsageError, match=message):
            load_bert(tmp_path)

    def test_no_task_in_the_config(self, rewrite):
        with pytest.raises(UsageError, match="names no head .*'BertForPreTraining'.* give a"):
            load_bert(rewrite(config={"architectures": ["BertForPreTraining"]}))

    def test_a_bare_encoder_in_the_config_loads_without_a_head(self, rewrite):
        model = load_bert(rewrite(config={"architectures": ["BertModel"]}))
        assert model.task == "feature-extraction"
        assert not hasattr(model, "classifier")

    @pytest.mark.parametrize("architectures", [5, "BertModel", [None], [["x"]]])
    def test_architectures_of_another_type_name_no_head(self, rewrite, architectures):
        with pytest.raises(UsageError, match="names no head"):
            load_bert(rewrite(config={"architectures": architectures}))

    def test_the_remedy_for_bin_files_keeps_the_head(self, rewrite, tmp_path):
        rewrite()
        (tmp_path / "model.safetensors").unlink()
        (tmp_path / "pytorch_model.bin").touch()
        with pytest.raises(
            UsageError, match=r"transformers\.BertForSequenceClassification\.from_p"
        ):
            load_bert(tmp_path)
        fields = json.loads((tmp_path / "config.json").read_text())
        del fields["architectures"]
        (tmp_path / "config.json").write_text(json.dumps(fields))
        with pytest.raises(UsageError, match="AutoModelForSequenceClassification.*would drop the"):
            load_bert(tmp_path, "sequence-classification")

    def test_weights_of_unknown_types_are_refused(self, rewrite):
        def whole(tensors):
            return tensors | {"classifier.bias": np.zeros(3, np.int32)}

        with pytest.raises(UsageError, match=r"'classifier.bias' has the type I32; weights must"):
            load_bert(rewrite(whole))

    def test_no_weights(self, tmp_path):
        shutil.copy(CASE / "config.json", tmp_path)
        with pytest.raises(UsageError, match=r"has no model\.safetensors\."):
            load_bert(tmp_path)
        (tmp_path / "pytorch_model.bin").touch()
        with pytest.raises(UsageError, match=r"pytorch_model\.bin, which transformers converts"):
            load_bert(tmp_path)

    @pytest.mark.parametrize("size", [0, 5, 2000])
    def test_damaged_weights(self, tmp_path, size):
        shutil.copy(CASE / "config.json", tmp_path)
        whole = (CASE / "model.safetensors").read_bytes()
        (tmp_path / "model.safetensors").write_bytes(whole[:size])
        with pytest.raises(UsageError, match="is damaged or not a safetensors file"):
            load_bert(tmp_path)

    def test_a_save_that_fails_leaves_what_was_there(self, tmp_path, monkeypatch):
        save_bert(load_bert(CASE), tmp_path)
        before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
        other = load_bert(FIXTURES / "sequence_silu")

        def fail(part, place):
            raise OSError("disk full")

        monkeypatch.setattr(huggingface.os, "replace", fail)
        with pytest.raises(OSError, match="disk full"):
            save_bert(other, tmp_path)
        assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


@pytest.mark.parametrize("head", LARGER)
def test_a_saved_student_answers_in_transformers_as_here(head, tmp_path):
    python = os.environ.get("JAXBREWER_ORACLE_PYTHON")
    if not python:
        pytest.skip("JAXBREWER_ORACLE_PYTHON names no Python with torch and transformers")
    config = BertConfig(vocab_size=500, max_position_embeddings=40, **LARGER[head], num_labels=9)
    model = head(config, rngs=nnx.Rngs(0))
    model.eval()
    draw = np.random.default_rng(0)
    noisy = jax.tree.map(
        lambda leaf: leaf + 0.05 * draw.normal(size=leaf.shape).astype(np.float32), weights(model)
    )
    nnx.update(model, noisy)
    student = cut_layers(model, [0, -1])
    save_bert(student, tmp_path)
    inputs = {
        "input_ids": draw.integers(0, 500, (4, 40)),
        "attention_mask": (np.arange(40) < np.array([[40], [31], [7], [1]])).astype(int),
        "token_type_ids": draw.integers(0, 2, (4, 40)),
    }
    np.savez(tmp_path / "inputs.npz", **inputs)
    oracle = Path(__file__).with_name("oracle.py")
    subprocess.run(
        [python, oracle, tmp_path, tmp_path / "inputs.npz", tmp_path / "outputs.npz"], check=True
    )
    outputs = stacked(jax.jit(lambda inputs: student(**inputs))(inputs))
    theirs = dict(np.load(tmp_path / "outputs.npz"))
    assert outputs.keys() == theirs.keys()
    for name, value in theirs.items():
        np.testing.assert_allclose(outputs[name], value, atol=1e-5, rtol=0, err_msg=name)
