"""Every family of decoders against PyTorch's transformers, and what all of them share."""

import dataclasses
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

from jaxbrewer import LogitsOf, UsageError
from jaxbrewer.models import FAMILIES, LlamaConfig, cut_layers, load, save
from jaxbrewer.models.families import family_of
from jaxbrewer.models.model_directory import read_model_directory
from tests.models.conftest import FIXTURES, expected, stacked

FOLDER = FIXTURES / "decoders"
CASES = sorted(path.name for path in FOLDER.iterdir())
TASK = "causal-language-modeling"
DECODERS = [name for name in FAMILIES if TASK in family_of(name).by_task]

forward = jax.jit(lambda model, inputs: model(**inputs))
logits_of = jax.jit(lambda model, inputs: model(**inputs)["logits"])


def assert_same_outputs(outputs, wanted, mask, *, tolerance):
    """Compares what tokens get; what padding gets has no meaning."""
    arrays = stacked(outputs)
    assert arrays.keys() == wanted.keys()
    for name, value in wanted.items():
        ours, theirs = np.asarray(arrays[name]), value
        if name.startswith("attention"):
            ours, theirs = np.moveaxis(ours, 1, 2), np.moveaxis(theirs, 1, 2)
        scale = np.abs(theirs[mask]).max()
        np.testing.assert_allclose(
            ours[mask], theirs[mask], atol=tolerance * scale, rtol=0, err_msg=name
        )


def tiny(model_type, **fields):
    """A model of a family with random weights."""
    family = family_of(model_type)
    known = {
        "vocab_size": 50, "hidden_size": 16, "num_hidden_layers": 3, "num_attention_heads": 4,
        "num_key_value_heads": 2, "intermediate_size": 24, "max_position_embeddings": 48,
        "sliding_window": 4, "use_sliding_window": True, "max_window_layers": 1, **fields,
    }  # fmt: skip
    names = {field.name for field in dataclasses.fields(family.config)}
    config = family.config(**{name: value for name, value in known.items() if name in names})
    model = family.by_task[TASK](config, rngs=nnx.Rngs(0))
    draw = np.random.default_rng(0)
    noise = jax.tree.map(
        lambda x: x + 0.2 * draw.normal(size=x.shape).astype(np.float32), weights(model)
    )
    nnx.update(model, noise)
    model.eval()
    return model


def weights(model):
    return nnx.to_pure_dict(nnx.state(model, nnx.Param))


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_a_decoder_answers_as_in_transformers(case):
    inputs, wanted = expected(FOLDER / case / "expected.npz")
    outputs = forward(load(FOLDER / case, output_attentions=True), inputs)
    assert_same_outputs(outputs, wanted, inputs["attention_mask"] != 0, tolerance=2e-6)


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_a_saved_decoder_has_the_tensors_and_the_config_of_transformers(case, tmp_path):
    save(load(FOLDER / case), tmp_path)
    theirs, ours = (load_file(path / "model.safetensors") for path in (FOLDER / case, tmp_path))
    assert ours.keys() == theirs.keys()
    for name, tensor in theirs.items():
        np.testing.assert_array_equal(ours[name], tensor, err_msg=name)
    given, written = (
        json.loads((path / "config.json").read_text()) for path in (FOLDER / case, tmp_path)
    )
    shared = given.keys() & written.keys() - {"torch_dtype", "dtype"}
    assert len(shared) >= 14
    assert {key: written[key] for key in shared} == {key: given[key] for key in shared}
    assert load(tmp_path).config == load(FOLDER / case).config


@pytest.mark.slow
@pytest.mark.parametrize("model_type", DECODERS)
def test_padding_on_either_side_and_packing_change_nothing(model_type):
    model = tiny(model_type)
    texts = [np.random.default_rng(seed).integers(0, 50, size) for seed, size in ((0, 9), (1, 6))]
    places = slice(0, 9), slice(0, 6), slice(7, 16), slice(10, 16)
    ids, mask = np.zeros((4, 16), int), np.zeros((4, 16), int)
    for row, (text, place) in enumerate(zip(texts * 2, places, strict=True)):
        ids[row, place], mask[row, place] = text, 1
    padded = logits_of(model, {"input_ids": ids, "attention_mask": mask})
    alone = [padded[0, :9], padded[1, :6]]
    for text, ours in zip(texts, (padded[2, 7:], padded[3, 10:]), strict=True):
        np.testing.assert_allclose(ours, alone[len(text) < 9], atol=2e-5)
    packed = {
        "input_ids": np.concatenate([*texts, [3]])[None],
        "segment_ids": np.repeat([1, 2, 0], [9, 6, 1])[None],
    }
    together = logits_of(model, packed)[0]
    np.testing.assert_allclose(together[:9], alone[0], atol=2e-5)
    np.testing.assert_allclose(together[9:15], alone[1], atol=2e-5)
    positions = np.concatenate([np.arange(9), np.arange(6), [0]])[None]
    np.testing.assert_array_equal(
        logits_of(model, {**packed, "position_ids": positions})[0], together
    )


@pytest.mark.slow
@pytest.mark.parametrize("model_type", ["llama", "qwen2", "gpt2"])
def test_attention_maps_change_nothing_and_are_made_on_request(model_type):
    plain = tiny(model_type)
    mapped = tiny(model_type, output_attentions=True)
    ids = {"input_ids": np.random.default_rng(0).integers(0, 50, (2, 9))}
    outputs, full = forward(plain, ids), forward(mapped, ids)
    np.testing.assert_allclose(outputs["logits"], full["logits"], atol=2e-5)
    assert "attentions" not in outputs
    for scores, probabilities in zip(full["attention_scores"], full["attentions"], strict=True):
        assert probabilities.shape == (2, 4, 9, 9)
        np.testing.assert_allclose(jax.nn.softmax(scores), probabilities, atol=1e-6)
    assert len(full["hidden_states"]) == 4


@pytest.mark.slow
@pytest.mark.parametrize("model_type", ["llama", "gemma2", "gpt2"])
def test_fused_logits_are_the_logits(model_type):
    plain, fused = tiny(model_type), tiny(model_type, fused_logits=True)
    ids = {"input_ids": np.arange(12).reshape(2, 6)}
    logits = forward(fused, ids)["logits"]
    assert isinstance(logits, LogitsOf)
    assert logits.tied == plain.config.tie_word_embeddings
    np.testing.assert_allclose(logits.logits(), forward(plain, ids)["logits"], atol=1e-5)


@pytest.mark.slow
def test_dropped_attention_is_that_of_training_only():
    model = tiny("llama", attention_dropout=0.5)
    ids = {"input_ids": np.arange(8)[None]}
    quiet = logits_of(model, ids)
    model.train()
    assert np.abs(logits_of(model, ids) - quiet).max() > 1e-3


@pytest.mark.slow
@pytest.mark.parametrize("model_type", DECODERS)
def test_a_cut_decoder_is_the_decoder_without_the_layers(model_type, tmp_path):
    model = tiny(model_type)
    student = cut_layers(model, [0, 2])
    ids = {"input_ids": np.random.default_rng(0).integers(0, 50, (2, 9))}
    np.testing.assert_array_equal(
        forward(student, ids)["hidden_states"][1], forward(model, ids)["hidden_states"][1]
    )
    kinds = [model.config.layer_kind(layer) for layer in (0, 2)]
    assert [student.config.layer_kind(layer) for layer in (0, 1)] == kinds
    save(student, tmp_path)
    again = load(tmp_path)
    assert again.config == student.config
    np.testing.assert_array_equal(logits_of(again, ids), logits_of(student, ids))


@pytest.mark.slow
def test_a_model_in_bfloat16_keeps_float32_logits():
    model = load(FOLDER / "llama", dtype=jnp.bfloat16)
    assert {leaf.dtype for leaf in jax.tree.leaves(weights(model))} == {jnp.dtype(jnp.bfloat16)}
    inputs, wanted = expected(FOLDER / "llama" / "expected.npz")
    outputs = forward(model, inputs)
    assert outputs["logits"].dtype == jnp.float32
    assert outputs["hidden_states"][1].dtype == jnp.bfloat16
    mask = inputs["attention_mask"] != 0
    np.testing.assert_allclose(outputs["logits"][mask], wanted["logits"][mask], atol=0.2)


@pytest.mark.slow
@pytest.mark.parametrize("case", json.loads((FIXTURES / "ropes.json").read_text()), ids=str)
def test_rotary_positions_turn_as_in_transformers(case):
    config = LlamaConfig.from_dict(
        {"hidden_size": 32, "num_attention_heads": 4, "max_position_embeddings": 32,
         **case["fields"]}
    )  # fmt: skip
    assert LlamaConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config
    for length, frequencies in case["frequencies"].items():
        positions = jnp.arange(int(length))[None]
        rotation = config.rope_of("full_attention").rotation(positions)
        angles = np.arange(int(length))[:, None] * np.float64(frequencies)
        np.testing.assert_allclose(rotation.cos[0], np.cos(angles) * case["factor"], atol=1e-5)
        np.testing.assert_allclose(rotation.sin[0], np.sin(angles) * case["factor"], atol=1e-5)


def test_newer_rope_parameters_mean_the_same():
    old = {"rope_theta": 500.0, "rope_scaling": {"rope_type": "linear", "factor": 2.0}}
    new = {"rope_parameters": {"rope_theta": 500.0, "rope_type": "linear", "factor": 2.0}}
    assert LlamaConfig.from_dict(new) == LlamaConfig.from_dict(old)
    gemma = family_of("gemma3_text").config
    both = {
        "full_attention": {"rope_theta": 700.0, "rope_type": "linear", "factor": 8.0},
        "sliding_attention": {"rope_theta": 90.0, "rope_type": "default"},
    }
    config = gemma.from_dict({"rope_parameters": both})
    assert (config.rope_theta, config.rope_local_base_freq) == (700.0, 90.0)
    assert config.rope_scaling.factor == 8.0


@pytest.mark.parametrize(
    ("model_type", "fields", "message"),
    [
        ("llama", {"rope_scaling": {"type": "su"}}, "rope_scaling of type 'su' is unknown"),
        ("llama", {"rope_scaling": {"type": "yarn"}}, "type 'yarn' needs factor"),
        ("llama", {"rope_scaling": "linear"}, "rope_scaling must be an object or null"),
        ("llama", {"rope_scaling": {"type": "linear", "factor": 0}}, "factor must be a number ab"),
        ("llama", {"rope_scaling": {"type": "linear", "factr": 2}}, "unknown key 'factr': did you"),
        ("llama", {"rope_scaling": {"type": "longrope", "short_factor": [1], "long_factor": [1]}},
         "short_factor must have 64 numbers"),
        ("llama", {"partial_rotary_factor": 0.5}, "partial_rotary_factor 0.5 is not supported"),
        ("llama", {"num_key_value_heads": 5}, "num_key_value_heads must divide"),
        ("llama", {"hidden_size": 33}, "is not a multiple of num_attention_heads 32: give"),
        ("llama", {"head_dim": 5}, "head_dim must be an even number"),
        ("llama", {"eos_token_id": ["x"]}, "eos_token_id must be an integer, a list of integers"),
        ("mistral", {"sliding_window": 0}, "sliding_window must be an integer of at least 1"),
        ("qwen2", {"layer_types": ["full_attention"]}, "layer_types has 1 layers"),
        ("qwen3", {"layer_types": ["chunked"] * 32}, "layer_types must be a list of"),
        ("gemma2", {"final_logit_softcapping": 0}, "final_logit_softcapping must be above 0"),
        ("gemma3_text", {"use_bidirectional_attention": True}, "is not supported, only False"),
        ("gpt2", {"add_cross_attention": True}, "add_cross_attention True is not supported"),
        ("gpt2", {"n_head": 7}, "is not a multiple of num_attention_heads 7"),
    ],
)  # fmt: skip
def test_settings_of_a_decoder_that_are_not_supported_are_refused(model_type, fields, message):
    with pytest.raises(UsageError, match=message):
        family_of(model_type).config.from_dict({"model_type": model_type, **fields})


def test_a_qwen2_has_its_biases_whatever_the_file_says():
    config = family_of("qwen2").config
    assert config.from_dict({"attention_bias": False}).query_bias
    assert "attention_bias" not in config().to_dict()
    assert family_of("qwen3").config.from_dict({"attention_bias": True}).output_bias


@pytest.mark.parametrize(
    ("layers", "message"),
    [
        ("uniform", "must be a list of layers or 'uniform:n' with n from 1 to 3"),
        ("uniform:4", "'uniform:4' must be a list of layers or 'uniform:n'"),
        ("last:2", "'last:2' must be a list of layers"),
        ([3], "must be layers of a model with 3 layers"),
    ],
)
def test_layers_that_a_model_does_not_have_are_refused(layers, message):
    with pytest.raises(UsageError, match=message):
        cut_layers(tiny("llama"), layers)


@pytest.mark.parametrize("case", ["gemma3", "gpt2", "qwen2"])
def test_layers_chosen_when_loading_are_those_cut_from_the_whole(case, caplog):
    layers = [0] if case == "gpt2" else [-1]
    read = load(FOLDER / case, layers=layers)
    cut = cut_layers(load(FOLDER / case), layers)
    assert read.config == cut.config
    jax.tree.map(np.testing.assert_array_equal, weights(read), weights(cut))
    assert not caplog.records


def test_weights_in_several_files_are_those_in_one(tmp_path):
    model = load(FOLDER / "llama")
    save(model, tmp_path, max_file_bytes=4_000)
    assert len(list(tmp_path.glob("model-*-of-*.safetensors"))) > 3
    jax.tree.map(np.testing.assert_array_equal, weights(load(tmp_path)), weights(model))


def test_a_gpt2_is_as_long_as_its_table_and_cut_where_its_attention_allows():
    model = load(FOLDER / "gpt2")
    with pytest.raises(UsageError, match="21 tokens long, the model has 20 positions"):
        model(jnp.ones((1, 21), int))
    with pytest.raises(UsageError, match="attention depends on the number of its layer"):
        cut_layers(model, [1])


@pytest.mark.parametrize("case", CASES)
def test_a_directory_names_the_head_and_the_length_of_its_decoder(case):
    directory = read_model_directory(FOLDER / case)
    assert directory.heads == (TASK,)
    assert directory.longest == load(FOLDER / case).config.max_position_embeddings


def test_files_without_the_head_of_an_untied_model_are_refused(tmp_path):
    save(tiny("llama"), tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    del tensors["lm_head.weight"]
    save_file(tensors, tmp_path / "model.safetensors")
    with pytest.raises(UsageError, match=r"lacks 1 tensors of the model: lm_head.weight"):
        load(tmp_path)


def test_a_decoder_has_no_classes(tmp_path):
    save(tiny("llama"), tmp_path)
    with pytest.raises(UsageError, match="LlamaConfig has no field 'labels'"):
        load(tmp_path, labels=["a", "b"])
    with pytest.raises(UsageError, match="task 'token-classification' is unknown"):
        load(tmp_path, "token-classification")


def test_buffers_of_old_files_are_skipped(tmp_path, caplog):
    save(load(FOLDER / "gpt2"), tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    tensors = {name.removeprefix("transformer."): value for name, value in tensors.items()}
    tensors["h.0.attn.bias"] = np.ones((1, 1, 20, 20), np.float32)
    save_file(tensors, tmp_path / "model.safetensors")
    jax.tree.map(np.testing.assert_array_equal, weights(load(tmp_path)),
                 weights(load(FOLDER / "gpt2")))  # fmt: skip
    assert not caplog.records


@pytest.mark.parametrize("size", [48, 96])
@pytest.mark.parametrize("model_type", DECODERS)
def test_a_saved_decoder_answers_in_transformers_as_here(model_type, size, tmp_path):
    python = os.environ.get("JAXBREWER_ORACLE_PYTHON")
    if not python:
        pytest.skip("JAXBREWER_ORACLE_PYTHON names no Python with torch and transformers")
    model = tiny(
        model_type, vocab_size=300, hidden_size=size, num_hidden_layers=4, num_attention_heads=6,
        num_key_value_heads=6 if size == 48 else 2, intermediate_size=size + 20, head_dim=size // 6,
        max_position_embeddings=64, sliding_window=9, output_attentions=True,
    )  # fmt: skip
    student = cut_layers(model, [0, 1, 3])
    save(student, tmp_path)
    mask = (np.arange(40) < np.array([[40], [31], [7], [33]])).astype(int)
    mask[3] = mask[3, ::-1]
    inputs = {
        "input_ids": np.random.default_rng(0).integers(2, 300, (4, 40)),
        "attention_mask": mask,
        "position_ids": np.maximum(np.cumsum(mask, axis=1) - 1, 0),
    }
    np.savez(tmp_path / "inputs.npz", **inputs)
    files = tmp_path / "inputs.npz", tmp_path / "outputs.npz"
    oracle = Path(__file__).with_name("oracle.py")
    subprocess.run([python, oracle, tmp_path, *files], check=True)
    outputs = forward(student, inputs)
    wanted = dict(np.load(files[1]))
    assert_same_outputs(outputs, wanted, mask != 0, tolerance=3e-5)
