"""A tiny tokenizer, in the files of a Hugging Face directory."""

import json

import pytest

VOCABULARY = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "dog", "cat", "bark", "##s", "É"]


@pytest.fixture
def vocab_directory(tmp_path):
    (tmp_path / "vocab.txt").write_text("\n".join(VOCABULARY), encoding="utf-8")
    return tmp_path


@pytest.fixture
def json_directory(tmp_path):
    """``tokenizer.json`` with padding and truncation to 5 baked in, and token 3 for padding."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors

    words = {"[CLS]": 0, "[SEP]": 1, "[UNK]": 2, "<fill>": 3, "a": 4, "dog": 5, "cat": 6}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[("[CLS]", 0), ("[SEP]", 1)],
    )
    tokenizer.enable_truncation(5)
    tokenizer.enable_padding(length=5, pad_id=3, pad_token="<fill>")
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"pad_token": "<fill>"}))
    (tmp_path / "model.safetensors").write_bytes(b"")
    return tmp_path
