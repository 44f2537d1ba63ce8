"""GGUF files, written here with the library's own writer, against Hugging Face directories."""

import json

import gguf
import jax
import numpy as np
import pytest
from flax import nnx
from tokenizers import Tokenizer

from jaxbrewer import UsageError
from jaxbrewer.models import convert_gguf, load, save
from jaxbrewer.models.families import family_of

pytestmark = pytest.mark.slow

SIZE = {"vocab_size": 40, "hidden_size": 32, "num_hidden_layers": 2, "intermediate_size": 64,
        "num_attention_heads": 4, "num_key_value_heads": 2,
        "max_position_embeddings": 64}  # fmt: skip
TOKENS = [
    "<unk>",
    "<|s|>",
    "<|e|>",
    *"abcdefghij",
    "Ġ",
    "ab",
    "Ġab",
    *"0123456789",
    *"klmnopqrstuvwx",
]
MERGES = ["a b", "Ġ ab"]
NAMES = {
    "model.embed_tokens": "token_embd",
    "model.norm": "output_norm",
    "lm_head": "output",
    "input_layernorm": "attn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "self_attn.q_norm": "attn_q_norm",
    "self_attn.k_norm": "attn_k_norm",
    "post_attention_layernorm": "ffn_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}
GEMMA = {
    "post_attention_layernorm": "post_attention_norm",
    "pre_feedforward_layernorm": "ffn_norm",
    "post_feedforward_layernorm": "post_ffw_norm",
}


def random_model(model_type, **fields):
    family = family_of(model_type)
    config = family.config(model_type=model_type, **SIZE, **fields)
    model = family.heads[0](config, rngs=nnx.Rngs(0))
    draw = np.random.default_rng(0)
    noise = jax.tree.map(
        lambda x: x + 0.3 * draw.normal(size=x.shape).astype(np.float32),
        nnx.to_pure_dict(nnx.state(model, nnx.Param)),
    )
    nnx.update(model, noise)
    model.eval()
    return model


def permuted(tensor, heads):
    """As llama.cpp's converter orders the rows of queries and keys."""
    halves = tensor.reshape(heads, 2, tensor.shape[0] // heads // 2, *tensor.shape[1:])
    return halves.swapaxes(1, 2).reshape(tensor.shape)


def write_gguf(model, path, *, quantised=None, tokenizer=True, metadata=(), factors=None):
    from safetensors.numpy import load_file

    save(model, path.parent / "source")
    tensors = load_file(path.parent / "source" / "model.safetensors")
    config, kind = model.config, model.config.model_type.removesuffix("_text")
    names = {**NAMES, **(GEMMA if kind in ("gemma2", "gemma3") else {})}
    writer = gguf.GGUFWriter(str(path), kind)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_key_length(config.head_dim)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(config.rope_theta)
    for name in ("attn_logit_softcapping", "final_logit_softcapping"):
        if getattr(config, name, None) is not None:
            writer.add_float32(f"{kind}.{name}", getattr(config, name))
    if getattr(config, "sliding_window", None) is not None:
        writer.add_sliding_window(config.sliding_window)
    if tokenizer:
        writer.add_tokenizer_model("gpt2")
        writer.add_tokenizer_pre("smollm")
        writer.add_token_list(TOKENS)
        writer.add_token_types([3, 3, 3] + [1] * (len(TOKENS) - 3))
        writer.add_token_merges(MERGES)
        writer.add_bos_token_id(1)
        writer.add_eos_token_id(2)
        writer.add_chat_template("{{ messages }}")
    for name, value in metadata:
        writer.add_string(name, value)
    for name, tensor in tensors.items():
        module, _, leaf = name.rpartition(".")
        prefix = "model.layers."
        if module.startswith(prefix):
            number, _, part = module.removeprefix(prefix).partition(".")
            if kind == "llama" and part in ("self_attn.q_proj", "self_attn.k_proj"):
                is_query = part == "self_attn.q_proj"
                heads = config.num_attention_heads if is_query else config.num_key_value_heads
                tensor = permuted(tensor, heads)
            stored = f"blk.{number}.{names[part]}.{leaf}"
        else:
            stored = f"{names[module]}.{leaf}"
        if kind.startswith("gemma") and stored.endswith("norm.weight"):
            tensor = tensor + 1
        if quantised and tensor.ndim == 2:
            data = gguf.quants.quantize(tensor, quantised)
            writer.add_tensor(stored, data, raw_dtype=quantised)
        else:
            writer.add_tensor(stored, tensor)
    if factors is not None:
        writer.add_tensor("rope_freqs.weight", factors)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def tensors_of(model):
    return nnx.traversals.flatten_mapping(nnx.to_pure_dict(nnx.state(model, nnx.Param)))


@pytest.mark.parametrize(
    ("model_type", "fields"),
    [
        ("llama", {"tie_word_embeddings": True, "rope_theta": 500.0}),
        ("llama", {"attention_bias": True, "head_dim": 16}),
        ("qwen2", {}),
        ("qwen3", {"head_dim": 16}),
        ("gemma", {"head_dim": 16}),
        ("gemma2", {"head_dim": 16, "query_pre_attn_scalar": 16, "attn_logit_softcapping": 2.0}),
        ("gemma3_text", {"head_dim": 16, "query_pre_attn_scalar": 16}),
    ],
)
def test_a_gguf_file_loads_as_the_directory_it_was_made_from(model_type, fields, tmp_path):
    model = random_model(model_type, **fields)
    write_gguf(model, tmp_path / "model.gguf", tokenizer=False)
    loaded = load(tmp_path / "model.gguf")
    assert type(loaded) is type(model)
    for name, value in vars(model.config).items():
        is_number = isinstance(value, float)
        expected = pytest.approx(value, rel=1e-6) if is_number else value  # float32 in the file
        assert getattr(loaded.config, name) == expected, name
    own, theirs = tensors_of(model), tensors_of(loaded)
    assert own.keys() == theirs.keys()
    for path, value in own.items():
        np.testing.assert_allclose(theirs[path], value, atol=1e-6, err_msg=str(path))


def test_factors_of_rotary_positions_are_those_of_llama_3(tmp_path):
    scaling = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0,
               "high_freq_factor": 4.0, "original_max_position_embeddings": 32}  # fmt: skip
    model = random_model("llama", head_dim=16, rope_theta=500.0, rope_scaling=scaling)
    frequencies = 500.0 ** -(np.arange(0, 16, 2) / 16)
    turns = np.clip((32 * frequencies / (2 * np.pi) - 1) / 3, 0, 1)
    factors = np.float32(1 / ((1 - turns) / 8 + turns))  # as llama.cpp's converter writes them
    write_gguf(model, tmp_path / "model.gguf", tokenizer=False, factors=factors)
    positions = np.arange(60)[None]
    ours, theirs = (
        each.config.rope_of("full_attention").rotation(positions)
        for each in (load(tmp_path / "model.gguf"), model)
    )
    np.testing.assert_allclose(ours.cos, theirs.cos, atol=1e-5)
    np.testing.assert_allclose(ours.sin, theirs.sin, atol=1e-5)


def test_quantised_tensors_are_dequantised(tmp_path):
    model = random_model("llama")
    write_gguf(model, tmp_path / "model.gguf", quantised=gguf.GGMLQuantizationType.Q8_0)
    own, theirs = tensors_of(model), tensors_of(load(tmp_path))  # the only file of a directory
    for path, value in own.items():
        largest = np.abs(value).max()
        np.testing.assert_allclose(theirs[path], value, atol=largest / 200, err_msg=str(path))


def test_a_converted_file_has_the_tokenizer_and_the_chat_template(tmp_path):
    write_gguf(random_model("llama"), tmp_path / "model.gguf")
    convert_gguf(tmp_path / "model.gguf", tmp_path / "new")
    tokenizer = Tokenizer.from_file(str(tmp_path / "new" / "tokenizer.json"))
    encoding = tokenizer.encode("ab ab12<|e|>")
    assert encoding.tokens == ["ab", "Ġab", "1", "2", "<|e|>"]
    assert tokenizer.decode(encoding.ids, skip_special_tokens=False) == "ab ab12<|e|>"
    settings = json.loads((tmp_path / "new" / "tokenizer_config.json").read_text())
    assert settings["chat_template"] == "{{ messages }}"
    assert (settings["bos_token"], settings["eos_token"]) == ("<|s|>", "<|e|>")
    config = load(tmp_path / "new").config
    assert (config.bos_token_id, config.eos_token_id) == (1, 2)


@pytest.mark.parametrize(
    ("metadata", "message"),
    [
        ([("llama.rope.scaling.type", "longrope")], "rope.scaling.type 'longrope' is not"),
        ([("llama.expert_count", "8")], "mixtures of experts are not supported"),
    ],
)
def test_what_a_gguf_file_cannot_mean_here_is_refused(metadata, message, tmp_path):
    write_gguf(random_model("llama"), tmp_path / "model.gguf", metadata=metadata)
    with pytest.raises(UsageError, match=message):
        load(tmp_path / "model.gguf")


def test_missing_damaged_and_ambiguous_files_are_refused(tmp_path):
    with pytest.raises(UsageError, match=r"none.gguf does not exist"):
        load(tmp_path / "none.gguf")
    (tmp_path / "a.gguf").write_bytes(b"not a model at all, of enough bytes to read a header")
    with pytest.raises(UsageError, match=r"a.gguf is damaged or not a GGUF file"):
        load(tmp_path)
    (tmp_path / "b.gguf").touch()
    with pytest.raises(UsageError, match=r"has 2 GGUF files \(a.gguf, b.gguf\)"):
        load(tmp_path)
    with pytest.raises(UsageError, match="is no GGUF file and no directory of one"):
        convert_gguf(tmp_path / "c", tmp_path / "new")
