"""Every family and head against PyTorch's transformers, and what all families share."""

import json
import os
import subprocess
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from safetensors.numpy import load_file, save_file

from jaxbrewer import UsageError
from jaxbrewer.models import FAMILIES, TASKS, cut_layers, load, save
from jaxbrewer.models.families import family_of
from tests.models.conftest import FIXTURES, expected, stacked

pytestmark = pytest.mark.slow

FOLDER = FIXTURES / "families"
CASES = sorted(path.name for path in FOLDER.iterdir())
DECODER_TASK = "causal-language-modeling"
ENCODERS = [name for name in FAMILIES if DECODER_TASK not in family_of(name).by_task]
SEQUENCES = [name for name in CASES if name.endswith("ForSequenceClassification")]

forward = jax.jit(lambda model, inputs: model(**inputs))


def weights(model):
    return nnx.to_pure_dict(nnx.state(model, nnx.Param))


@pytest.mark.parametrize("case", CASES)
def test_a_model_answers_as_in_transformers(case):
    inputs, wanted = expected(FOLDER / case / "expected.npz")
    outputs = stacked(forward(load(FOLDER / case), inputs))
    assert outputs.keys() == wanted.keys()
    for name, value in wanted.items():
        known = np.isfinite(value)  # of a text without any token some say NaN
        assert known[:2].all()
        np.testing.assert_allclose(
            np.where(known, outputs[name], np.nan), value, atol=1e-5, rtol=1e-5, err_msg=name
        )


@pytest.mark.parametrize("case", CASES)
def test_a_saved_model_has_the_tensors_and_the_config_of_transformers(case, tmp_path):
    save(load(FOLDER / case), tmp_path)
    theirs, ours = (load_file(path / "model.safetensors") for path in (FOLDER / case, tmp_path))
    assert ours.keys() == theirs.keys()
    for name, tensor in theirs.items():
        np.testing.assert_array_equal(ours[name], tensor, err_msg=name)
    given, written = (
        json.loads((path / "config.json").read_text()) for path in (FOLDER / case, tmp_path)
    )
    assert written["architectures"] == given["architectures"]
    shared = given.keys() & written.keys() - {"label2id", "torch_dtype", "dtype"}
    assert {key: written[key] for key in shared} == {key: given[key] for key in shared}


@pytest.mark.parametrize("case", SEQUENCES)
def test_a_cut_model_is_the_model_without_the_layers(case, tmp_path):
    model = load(FOLDER / case)
    inputs, _ = expected(FOLDER / case / "expected.npz")
    student = cut_layers(model, [0])
    outputs = forward(student, inputs)
    np.testing.assert_array_equal(
        outputs["hidden_states"][1], forward(model, inputs)["hidden_states"][1]
    )
    assert len(outputs["attentions"]) == student.config.num_hidden_layers == 1
    save(student, tmp_path)
    again = load(tmp_path)
    assert again.config == student.config
    jax.tree.map(np.testing.assert_array_equal, weights(again), weights(student))


@pytest.mark.parametrize("model_type", ENCODERS)
def test_every_family_of_encoders_has_every_task(model_type):
    family = family_of(model_type)
    assert set(family.by_task) == set(TASKS) - {DECODER_TASK}
    small = {"vocab_size": 20, "hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2,
             "intermediate_size": 12, "max_position_embeddings": 12}  # fmt: skip
    config = family.config(model_type=model_type, num_labels=3, **small, pad_token_id=1)
    for task, head in family.by_task.items():
        outputs = jax.eval_shape(
            lambda head=head: head(config, rngs=nnx.Rngs(0))(jnp.ones((2, 5), int))
        )
        own = {name for name in outputs if name.endswith(("logits", "last_hidden_state"))}
        shapes = {name: outputs[name].shape for name in own}
        assert (
            shapes
            == {
                "sequence-classification": {"logits": (2, 3)},
                "token-classification": {"logits": (2, 5, 3)},
                "question-answering": {"start_logits": (2, 5), "end_logits": (2, 5)},
                "masked-language-modeling": {"logits": (2, 5, 20)},
                "feature-extraction": {"last_hidden_state": (2, 5, 8)},
            }[task]
        )


@pytest.mark.parametrize("case", SEQUENCES)
def test_an_encoder_loads_without_its_head(case):
    inputs, wanted = expected(FOLDER / case / "expected.npz")
    model = load(FOLDER / case, "feature-extraction")
    outputs = stacked(forward(model, inputs))
    for name in wanted.keys() & outputs.keys():
        known = np.isfinite(wanted[name])
        np.testing.assert_allclose(
            np.where(known, outputs[name], np.nan), wanted[name], atol=1e-5, err_msg=name
        )


@pytest.mark.parametrize("case", SEQUENCES)
def test_padding_changes_nothing(case):
    model = load(FOLDER / case)
    pad = model.config.pad_token_id
    ids = np.random.default_rng(0).integers(2, 60, (1, 6))
    padded = np.concatenate([ids, np.full((1, 3), pad)], axis=1)
    mask = (np.arange(9) < 6).astype(int)[None]
    alone = forward(model, {"input_ids": ids})["logits"]
    beside = forward(model, {"input_ids": padded, "attention_mask": mask})["logits"]
    np.testing.assert_allclose(beside, alone, atol=1e-5)


def test_an_unknown_family_lists_the_known(tmp_path):
    (tmp_path / "config.json").write_text('{"model_type": "t5"}')
    with pytest.raises(UsageError, match="model_type 't5' is unknown: .*'bert'.*'modernbert'"):
        load(tmp_path)


def copy_of(case, directory, tensors, **fields):
    config = json.loads((FOLDER / case / "config.json").read_text()) | fields
    (directory / "config.json").write_text(json.dumps(config))
    for name, part in tensors.items():
        save_file(part, directory / name)


CASE = "distilbert_ForSequenceClassification"


def test_weights_in_several_files_load_as_from_one(tmp_path):
    tensors = load_file(FOLDER / CASE / "model.safetensors")
    names = sorted(tensors)
    parts = {f"model-0000{i + 1}-of-00002.safetensors": names[i::2] for i in range(2)}
    copy_of(CASE, tmp_path, {file: {n: tensors[n] for n in own} for file, own in parts.items()})
    index = {"weight_map": {name: file for file, own in parts.items() for name in own}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    jax.tree.map(
        np.testing.assert_array_equal, weights(load(tmp_path)), weights(load(FOLDER / CASE))
    )


@pytest.mark.parametrize(
    ("index", "message"),
    [
        ({}, "has no weight_map"),
        ({"weight_map": {"a": "../model.safetensors"}}, "is not a file beside it"),
        ({"weight_map": {"a": "other.safetensors"}}, "does not exist, but .* lists it"),
    ],
)
def test_a_mismatched_index_is_refused(tmp_path, index, message):
    copy_of(CASE, tmp_path, {})
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(UsageError, match=message):
        load(tmp_path)


def test_a_tensor_with_and_without_the_prefix_is_refused(tmp_path):
    tensors = load_file(FOLDER / CASE / "model.safetensors")
    twin = "embeddings.LayerNorm.bias"
    tensors[twin] = tensors[f"distilbert.{twin}"] + 1
    copy_of(CASE, tmp_path, {"model.safetensors": tensors})
    with pytest.raises(UsageError, match=f"holds distilbert.{twin} twice, as .* and as"):
        load(tmp_path)


def test_a_replaced_head_is_reported_as_replaced(caplog):
    load(FOLDER / CASE, num_labels=5, new_head=True)
    assert "Replaced by random weights: classifier.bias" in caplog.text
    assert "Not in" not in caplog.text


def test_the_remedy_for_old_weights_keeps_the_head(tmp_path):
    copy_of(CASE, tmp_path, {})
    (tmp_path / "pytorch_model.bin").touch()
    with pytest.raises(UsageError, match=r"transformers\.DistilBertForSequenceClassification\."):
        load(tmp_path)


@pytest.mark.parametrize(
    ("layers", "message"),
    [([1, 2], "must begin with 0"), ([0, 3, 4], "cannot have, global every n layers")],
)
def test_a_modernbert_is_cut_only_where_its_pattern_of_layers_allows(layers, message):
    family = family_of("modernbert")
    config = family.config(vocab_size=20, hidden_size=8, num_attention_heads=2,
                           intermediate_size=12, num_hidden_layers=6, pad_token_id=0)  # fmt: skip
    model = family.by_task["sequence-classification"](config, rngs=nnx.Rngs(0))
    with pytest.raises(UsageError, match=message):
        cut_layers(model, layers)
    assert cut_layers(model, [0, 3]).config.global_attn_every_n_layers == 1
    assert cut_layers(model, [0, 1, 2, 3]).config.global_attn_every_n_layers == 3


@pytest.mark.parametrize(
    ("model_type", "fields", "message"),
    [
        ("deberta-v2", {"conv_kernel_size": 3}, "conv_kernel_size is not supported"),
        ("deberta-v2", {"attention_head_size": 5}, "attention_head_size 5 is not supported"),
        ("deberta-v2", {"pos_att_type": ["p2p"]}, "pos_att_type must hold some of c2p, p2c"),
        ("modernbert", {"classifier_pooling": "max"}, "classifier_pooling must be 'cls' or 'mean'"),
        ("modernbert", {"rope_scaling": {"type": "linear"}}, "rope_scaling .* is not supported"),
        ("roberta", {"pad_token_id": 600}, "pad_token_id must be below"),
        ("electra", {"embedding_size": 0}, "embedding_size must be an integer of at least 1"),
        ("distilbert", {"dropout": 1}, "hidden_dropout_prob must be a number"),
    ],
)
def test_unsupported_settings_of_a_family_are_refused_by_name(model_type, fields, message):
    with pytest.raises(UsageError, match=message):
        family_of(model_type).config.from_dict({"model_type": model_type, **fields})


@pytest.mark.parametrize("model_type", [name for name in ENCODERS if name != "bert"])
def test_a_saved_student_of_each_family_answers_in_transformers_as_here(model_type, tmp_path):
    python = os.environ.get("JAXBREWER_ORACLE_PYTHON")
    if not python:
        pytest.skip("JAXBREWER_ORACLE_PYTHON names no Python with torch and transformers")
    family, draw = family_of(model_type), np.random.default_rng(0)
    config = family.config(
        model_type=model_type, vocab_size=300, hidden_size=96, num_hidden_layers=4,
        num_attention_heads=4, intermediate_size=160, max_position_embeddings=64, num_labels=5,
        pad_token_id=1,
    )  # fmt: skip
    for task, head in family.by_task.items():
        model = head(config, rngs=nnx.Rngs(0))
        model.eval()
        noise = jax.tree.map(
            lambda x: x + 0.05 * draw.normal(size=x.shape).astype(np.float32), weights(model)
        )
        nnx.update(model, noise)
        student, directory = cut_layers(model, [0, 3]), tmp_path / task
        save(student, directory)
        inputs = {
            "input_ids": draw.integers(2, 300, (4, 40)),
            "attention_mask": (np.arange(40) < np.array([[40], [31], [7], [1]])).astype(int),
        }
        np.savez(directory / "inputs.npz", **inputs)
        oracle = Path(__file__).with_name("oracle.py")
        files = directory / "inputs.npz", directory / "outputs.npz"
        subprocess.run([python, oracle, directory, *files], check=True)
        outputs = stacked(forward(student, inputs))
        for name, value in np.load(files[1]).items():
            np.testing.assert_allclose(outputs[name], value, atol=1e-5, rtol=1e-5, err_msg=name)
