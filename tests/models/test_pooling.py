"""Embeddings of sentence-transformers directories, read and written."""

import json
import shutil

import jax
import numpy as np
import pytest
from flax import nnx
from safetensors.numpy import load_file

from jaxbrewer import UsageError
from jaxbrewer.models import BertConfig, BertForFeatureExtraction, cut_layers, load, save
from jaxbrewer.models.pooling import POOLINGS, Pooling, read_pooling
from jaxbrewer.text import Tokenizer
from tests.models.conftest import FIXTURES

pytestmark = pytest.mark.slow

EXPECTED = dict(np.load(FIXTURES / "embeddings.npz"))
SENTENCES = EXPECTED.pop("sentences").tolist()

embed = jax.jit(lambda model, ids, mask: model(ids, mask)["embedding"])


def embeddings(model, directory):
    encoded = Tokenizer(directory).encode(SENTENCES, max_length=64)
    batch = encoded.batch(range(len(SENTENCES)), 24)
    return embed(model, batch["input_ids"], batch["attention_mask"])


def tiny(**pooling):
    config = BertConfig(vocab_size=20, hidden_size=8, num_hidden_layers=2, num_attention_heads=2,
                        intermediate_size=12, pooling=pooling)  # fmt: skip
    return BertForFeatureExtraction(config, rngs=nnx.Rngs(0))


def test_minilm_has_the_pooling_of_its_directory(minilm):
    assert read_pooling(minilm) == Pooling(mode="mean", normalize=True)
    model = load(minilm)
    assert model.config.pooling == read_pooling(minilm)


@pytest.mark.parametrize("mode", POOLINGS)
def test_embeddings_are_those_of_sentence_transformers(minilm, mode):
    model = load(minilm, pooling={"mode": mode, "normalize": True})
    np.testing.assert_allclose(embeddings(model, minilm), EXPECTED[mode], atol=2e-6)


def test_a_dense_map_is_that_of_sentence_transformers(minilm, tmp_path):
    shutil.copytree(minilm, tmp_path / "model", ignore=shutil.ignore_patterns("*odul*", "1_*"))
    shutil.copytree(FIXTURES / "embeddings", tmp_path / "model", dirs_exist_ok=True)
    model = load(tmp_path / "model")
    assert model.config.pooling == Pooling(mode="mean", width=5)
    np.testing.assert_allclose(embeddings(model, minilm), EXPECTED["dense"], atol=2e-6)


@pytest.mark.parametrize(
    "pooling",
    [{"mode": "cls"}, {"mode": "max", "normalize": True},
     {"width": 3, "bias": False, "activation": "identity", "normalize": True}],
)  # fmt: skip
def test_a_saved_pooling_is_read_back(tmp_path, pooling):
    model = tiny(**pooling)
    model.eval()
    save(model, tmp_path)
    again = load(tmp_path)
    assert again.config == model.config
    jax.tree.map(np.testing.assert_array_equal, *(nnx.state(m, nnx.Param) for m in (model, again)))
    assert not [name for name in load_file(tmp_path / "model.safetensors") if "map" in name]
    kinds = [module["type"] for module in json.loads((tmp_path / "modules.json").read_text())]
    assert [kind.rpartition(".")[2] for kind in kinds] == [
        "Transformer", "Pooling", *(["Dense"] if "width" in pooling else []),
        *(["Normalize"] if "normalize" in pooling else []),
    ]  # fmt: skip


def test_a_cut_encoder_keeps_its_pooling(tmp_path):
    student = cut_layers(tiny(width=3), [1])
    save(student, tmp_path)
    assert load(tmp_path).config == student.config


def test_an_encoder_without_pooling_has_no_embedding(tmp_path):
    save(tiny(), tmp_path)
    (tmp_path / "modules.json").unlink()
    model = load(tmp_path)
    assert model.config.pooling is None
    outputs = jax.eval_shape(lambda: model(np.ones((1, 3), int)))
    assert "embedding" not in outputs


@pytest.mark.parametrize("mode", POOLINGS)
def test_padding_changes_no_embedding(mode):
    model, ids = tiny(mode=mode), np.array([[3, 4, 5, 0, 0]])
    model.eval()
    alone = embed(model, ids[:, :3], np.ones((1, 3), int))
    padded = embed(model, ids, (ids != 0).astype(int))
    np.testing.assert_allclose(padded, alone, atol=1e-5)


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("modules.json", [{"type": "a.Transformer", "path": ""}], "lists no Pooling"),
        ("modules.json", [{"type": "a.CNN", "path": ""}], "module 'CNN' is not supported"),
        ("modules.json", [{"type": "a.Pooling", "path": "../x"}], "is not a directory beside it"),
        ("modules.json", [{"type": "a.Transformer", "path": "0_T"}], "the encoder is in '0_T'"),
        ("modules.json", {}, "must be a list"),
        ("1_Pooling/config.json", {"pooling_mode": "weightedmean"}, "weightedmean is not support"),
        ("1_Pooling/config.json", {"pooling_mode": ["cls", "max"]}, "cls [+] max is not supported"),
        ("2_Dense/config.json", {"activation_function": "a.Mish"}, "'a.Mish' is not supported"),
        ("2_Dense/config.json", {"use_residual": True}, "use_residual True is not supported"),
        ("config_sentence_transformers.json", {"default_prompt_name": "q"}, "put the prompt"),
    ],
)
def test_what_is_not_supported_is_refused(tmp_path, file, content, message):
    save(tiny(width=3), tmp_path)
    (tmp_path / file).write_text(json.dumps(content))
    with pytest.raises(UsageError, match=message):
        load(tmp_path)


@pytest.mark.parametrize(
    ("pooling", "message"),
    [("cls", "must be a mapping"), ({"kind": 1}, "has no field 'kind'"), ({"width": 0}, "width")],
)
def test_wrong_settings_of_a_pooling_are_refused(pooling, message):
    with pytest.raises(UsageError, match=message):
        BertConfig(pooling=pooling)
