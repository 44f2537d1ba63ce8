"""Adapters and quantised kernels: the base stays, and what is made of it answers alike."""

import json
import os
import subprocess
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from safetensors.numpy import load_file

import jaxbrewer as jb
from jaxbrewer import UsageError
from jaxbrewer.models import (
    add_lora,
    cut_layers,
    load,
    load_adapters,
    merge_lora,
    quantization_error,
    quantize_int8,
    save,
    save_adapters,
)
from jaxbrewer.models.int8 import Int8Linear
from tests.models.conftest import FIXTURES

pytestmark = pytest.mark.slow

LLAMA, GPT2 = FIXTURES / "decoders" / "llama", FIXTURES / "decoders" / "gpt2"
BERT = FIXTURES / "sequence_gelu"
IDS = {"input_ids": np.random.default_rng(0).integers(0, 60, (2, 9))}

logits = jax.jit(lambda model: model(**IDS)["logits"])


def weights(model):
    return nnx.traversals.flatten_mapping(nnx.to_pure_dict(nnx.state(model, nnx.Param)))


def with_random_adapters(model, **settings):
    student = add_lora(model, **settings)
    draw = np.random.default_rng(1)
    noise = jax.tree.map(
        lambda x: jnp.asarray(0.3 * draw.normal(size=x.shape), jnp.float32),
        nnx.to_pure_dict(nnx.state(student, nnx.LoRAParam)),
    )
    nnx.update(student, noise)
    return student


@pytest.mark.parametrize("directory", [LLAMA, GPT2, BERT], ids=lambda path: path.name)
def test_new_adapters_change_nothing_and_merged_ones_compute_the_same(directory):
    model = load(directory)
    before = logits(model)
    np.testing.assert_allclose(logits(add_lora(model, rank=2)), before, atol=2e-6)
    student = with_random_adapters(model, rank=2, alpha=3.0)
    after = logits(student)
    assert np.abs(after - before).max() > 0.01
    np.testing.assert_array_equal(logits(model), before)
    merged = merge_lora(student)
    np.testing.assert_allclose(logits(merged), after, atol=2e-5)
    assert weights(merged).keys() == weights(model).keys()


def test_targets_are_ends_of_paths_or_globs():
    model = load(LLAMA)
    student = add_lora(model, rank=2, targets=["q_proj", "model.layers.1.mlp.*"])
    adapted = {path[2:-1] for path in weights(student) if path[-1] == "lora_a"}
    mlp = {(1, "mlp", name) for name in ("gate_proj", "up_proj", "down_proj")}
    assert adapted == mlp | {(layer, "self_attn", "q_proj") for layer in (0, 1)}
    assert weights(student).keys() > weights(model).keys()


def distilled(student, teacher):
    """The student after two steps."""

    def adaptor(batch, outputs):
        return {"logits": outputs["logits"]}

    distiller = jb.GeneralDistiller(
        jb.TrainingConfig(output_dir=None, progress=False),
        jb.DistillationConfig(temperature=2), teacher, student, adaptor, adaptor,
    )  # fmt: skip
    data = {"input_ids": np.tile(IDS["input_ids"], (4, 1))}
    distiller.train(optax.adam(1e-2), jb.ArrayLoader(data, 4), num_epochs=1)


def test_training_adapters_leaves_the_base_as_it_is():
    teacher = load(LLAMA)
    student = add_lora(load(LLAMA, layers=[0]), rank=2)
    before = {path: np.asarray(leaf) for path, leaf in weights(student).items()}
    trained = jb.train_only(student, nnx.LoRAParam)
    distilled(trained, quantize_int8(teacher))
    moved = {path for path, leaf in weights(student).items() if np.any(leaf != before[path])}
    assert moved == {path for path in before if path[-1] in ("lora_a", "lora_b")}


def test_adapters_are_saved_under_the_names_of_peft(tmp_path):
    model = load(LLAMA)
    student = with_random_adapters(model, rank=2, alpha=3.0, targets=["q_proj", "down_proj"])
    save_adapters(student, tmp_path)
    tensors = load_file(tmp_path / "adapter_model.safetensors")
    name = "base_model.model.model.layers.0.self_attn.q_proj"
    assert tensors[f"{name}.lora_A.weight"].shape == (2, 16)
    assert tensors[f"{name}.lora_B.weight"].shape == (16, 2)
    assert len(tensors) == 8
    config = json.loads((tmp_path / "adapter_config.json").read_text())
    assert (config["r"], config["lora_alpha"], config["task_type"]) == (2, 3.0, "CAUSAL_LM")
    np.testing.assert_array_equal(logits(load_adapters(model, tmp_path)), logits(student))


@pytest.mark.parametrize("directory", [LLAMA, GPT2], ids=lambda path: path.name)
def test_saved_adapters_compute_the_same_in_peft(directory, tmp_path):
    python = os.environ.get("JAXBREWER_ORACLE_PYTHON")
    if not python:
        pytest.skip("JAXBREWER_ORACLE_PYTHON names no Python with torch, transformers and peft")
    model = load(directory)
    student = with_random_adapters(model, rank=2, alpha=3.0)
    base, adapters, ids, output = (tmp_path / name for name in ("base", "lora", "i.npy", "o.npy"))
    save(model, base)
    save_adapters(student, adapters)
    np.save(ids, IDS["input_ids"])
    oracle = Path(__file__).with_name("peft_oracle.py")
    subprocess.run([python, oracle, base, adapters, ids, output], check=True)
    found, wanted = np.load(output), logits(student)
    np.testing.assert_allclose(found, wanted, atol=1e-5 * np.abs(wanted).max())
    assert np.abs(found - logits(model)).max() > 0.01


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"use_dora": True}, "use_dora True is not supported"),
        ({"r": 3}, r"needs lora_A.weight of the shape \[3, 16\]"),
        ({"r": None}, "add_lora rank must be an integer"),
    ],
)
def test_adapters_of_another_kind_are_refused(change, message, tmp_path):
    model = load(LLAMA)
    save_adapters(add_lora(model, rank=2, targets=["q_proj"]), tmp_path)
    path = tmp_path / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(UsageError, match=message):
        load_adapters(model, tmp_path)
    path.write_text(json.dumps({"r": 2, "lora_alpha": 2}))
    with pytest.raises(UsageError, match="is no dense map of the model's layers"):
        load_adapters(load(GPT2), tmp_path)
    path.unlink()
    with pytest.raises(UsageError, match="has no adapters: it lacks adapter_config.json"):
        load_adapters(model, tmp_path)


def test_wrong_adapters_are_refused(tmp_path):
    model = load(LLAMA)
    student = add_lora(model, rank=2)
    for arguments, message in (
        ({"rank": 0}, "rank must be an integer of at least 1, got 0"),
        ({"alpha": -1}, "alpha must be a number above 0, got -1"),
        ({"targets": ["q_prj"]}, "no dense map 'q_prj': did you mean 'q_proj'"),
        ({"targets": "q_proj"}, "targets must be a list of names"),
    ):
        with pytest.raises(UsageError, match=message):
            add_lora(model, **arguments)
    with pytest.raises(UsageError, match="the model has adapters"):
        add_lora(student)
    with pytest.raises(UsageError, match="the model has no adapters"):
        merge_lora(model)
    with pytest.raises(UsageError, match="has LoRA parameters: save merge_lora"):
        save(student, tmp_path)
    with pytest.raises(UsageError, match="is quantised: load the adapters"):
        merge_lora(add_lora(quantize_int8(model)))
    with pytest.raises(UsageError, match="kernel is quantised: save the model"):
        save(quantize_int8(model), tmp_path)


@pytest.mark.parametrize("directory", [LLAMA, GPT2, BERT], ids=lambda path: path.name)
def test_a_quantised_model_is_near_the_model(directory):
    model, quantised = load(directory), load(directory, quantize="int8")
    inside = [leaf.dtype for path, leaf in weights(quantised).items() if path[-1] == "kernel"]
    assert inside.count(jnp.int8) >= 8
    assert 1e-5 < quantization_error(model, quantised, **IDS) < 0.05
    made = weights(quantize_int8(model))
    for path, leaf in weights(quantised).items():
        np.testing.assert_array_equal(leaf, made[path], err_msg=str(path))


def test_kernels_are_off_by_half_a_step_at_most():
    model = load(LLAMA)
    quantised = quantize_int8(model).model.layers[0].mlp.up_proj
    kernel = np.asarray(model.model.layers[0].mlp.up_proj.kernel[...])
    assert isinstance(quantised, Int8Linear)
    scale = np.asarray(quantised.kernel_scale[...])
    np.testing.assert_allclose(scale, np.abs(kernel).max(axis=0) / 127, rtol=1e-6)
    error = np.abs(np.asarray(quantised.kernel[...]) * scale - kernel)
    assert (error <= scale * 0.5001).all()


def test_a_quantised_student_is_refused_and_cut_ones_stay_quantised():
    model = load(LLAMA)
    quantised = load(LLAMA, quantize="int8")
    assert cut_layers(quantised, [1]).model.layers[0].mlp.up_proj.kernel.dtype == jnp.int8
    with pytest.raises(UsageError, match=r"is int8, which has no gradient"):
        distilled(quantised, model)
    with pytest.raises(UsageError, match="quantize must be 'int8' or None, got 'int4'"):
        load(LLAMA, quantize="int4")
