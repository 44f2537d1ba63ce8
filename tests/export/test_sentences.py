"""Encoders of sentences: the directory's files, and embeddings against their definition."""

import json

import numpy as np
import pytest

from jaxbrewer import UsageError
from jaxbrewer.export import export, load_artifact, program_of, sentence_encoder
from jaxbrewer.models import load
from jaxbrewer.models.pooling import Pooling
from jaxbrewer.text import Tokenizer, Truncation
from tests.export.conftest import CASES, needs_onnx
from tests.models.conftest import expected

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("pooling", ["mean", "cls"])
@pytest.mark.parametrize("case", ["mpnet_Model", "modernbert_Model"])
def test_an_embedding_is_the_pooled_and_normalized_hidden_state(case, pooling):
    program = program_of(sentence_encoder(load(CASES[case]), pooling))
    inputs, wanted = expected(CASES[case] / "expected.npz")
    rows = inputs["attention_mask"].any(axis=1)
    outputs = program.run(inputs)
    hidden, mask = wanted["last_hidden_state"][rows], inputs["attention_mask"][rows, :, None] != 0
    np.testing.assert_allclose(outputs["last_hidden_state"][rows], hidden, atol=1e-5)
    mean = np.where(mask, hidden, 0).sum(1) / mask.sum(1)
    pooled = mean if pooling == "mean" else hidden[:, 0]
    unit = pooled / np.linalg.norm(pooled, axis=1, keepdims=True)
    np.testing.assert_allclose(outputs["embedding"][rows], unit, atol=1e-5)


def test_the_directory_is_one_of_sentence_transformers(classifier, tokenizer, tmp_path):
    out = tmp_path / "out"
    tokenizer.save(tmp_path / "words", Truncation(6))
    short = Tokenizer(tmp_path / "words")
    export(classifier, out, "sentence-transformers", tokenizer=short, pooling="cls")
    lengths = json.loads((out / "sentence_bert_config.json").read_text())
    assert lengths["max_seq_length"] == 6
    assert json.loads((out / "config.json").read_text())["architectures"] == ["BertModel"]
    modules = json.loads((out / "modules.json").read_text())
    assert [module["type"].rsplit(".", 1)[1] for module in modules] == [
        "Transformer", "Pooling", "Normalize",
    ]  # fmt: skip
    encoder = load(out)
    assert encoder.config.pooling == Pooling(mode="cls", normalize=True)
    assert sentence_encoder(encoder) is encoder  # its pooling is kept


@needs_onnx
def test_embeddings_are_exported_to_onnx(classifier, tokenizer, tmp_path):
    out = tmp_path / "out"
    export(classifier, out, "onnx", tokenizer=tokenizer, pooling="mean")
    artifact = load_artifact(out)
    inputs = {name: np.ones((2, 5), int) for name in artifact.metadata["inputs"]}
    embedding = artifact.run(inputs)["embedding"]
    np.testing.assert_allclose(np.linalg.norm(embedding, axis=1), 1, atol=1e-6)


def test_a_decoder_is_no_encoder_of_sentences(tmp_path):
    from flax import nnx

    from jaxbrewer.models import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(vocab_size=20, hidden_size=8, num_hidden_layers=1, num_attention_heads=2,
                         num_key_value_heads=2, intermediate_size=12)  # fmt: skip
    with pytest.raises(UsageError, match="llama for causal-language-modeling is no encoder"):
        sentence_encoder(LlamaForCausalLM(config, rngs=nnx.Rngs(0)))
