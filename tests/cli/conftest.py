"""A tiny BERT without a head, its tokenizer, texts that it can learn, and jobs on them."""

import contextlib
import io
import json

import numpy as np
import pytest
import yaml
from flax import nnx
from safetensors.numpy import load_file, save_file

from jaxbrewer.cli import main
from jaxbrewer.models import BertConfig, BertForSequenceClassification, save_bert

KINDS = {"cat": ["purrs", "meows"], "dog": ["barks", "wags"], "fox": ["hides", "sneaks"]}
FILLERS = ["it", "often", "here", "today", "gladly", "there"]
OWN = [word for words in KINDS.values() for word in words]
WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *FILLERS, *OWN]
SIZES = {
    "vocab_size": len(WORDS),
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "max_position_embeddings": 16,
    "initializer_range": 0.2,
    "hidden_dropout_prob": 0.0,
    "attention_probs_dropout_prob": 0.0,
}
STEPS = {"batch_size": 16, "learning_rate": 0.01}


def texts(count, seed):
    """Texts of two lengths, so that few programs are compiled, and their labels."""
    rng = np.random.default_rng(seed)
    labels = [list(KINDS)[number] for number in rng.integers(0, len(KINDS), count)]
    return [
        (" ".join([*rng.choice(FILLERS, rng.choice([1, 3])), rng.choice(KINDS[label])]), label)
        for label in labels
    ]


def write_model(directory, *, head=False, seed=0, **settings):
    """A BERT with random weights in Hugging Face's format, with ``vocab.txt``."""
    config = BertConfig(**{**SIZES, **settings})
    save_bert(BertForSequenceClassification(config, rngs=nnx.Rngs(seed)), directory)
    if not head:
        weights = load_file(directory / "model.safetensors")
        rest = {name: array for name, array in weights.items() if "classifier" not in name}
        save_file(rest, directory / "model.safetensors")
        fields = json.loads((directory / "config.json").read_text())
        del fields["id2label"], fields["label2id"]
        fields["architectures"] = ["BertModel"]
        (directory / "config.json").write_text(json.dumps(fields))
    (directory / "vocab.txt").write_text("\n".join(WORDS))
    return directory


@pytest.fixture(scope="session")
def data(tmp_path_factory):
    """Files with texts, and the directories ``base`` (no head) and ``other`` (of 2 classes)."""
    place = tmp_path_factory.mktemp("data")
    rows = [f"{label}\t{text}\n" for text, label in texts(144, 0)]
    (place / "train.tsv").write_text("label\ttext\n" + "".join(rows))
    (place / "more.csv").write_text("text\n" + "".join(f"{text}\n" for text, _ in texts(48, 1)))
    rows = [json.dumps({"text": text, "label": label}) + "\n" for text, label in texts(32, 2)]
    (place / "test.jsonl").write_text("".join(rows))
    write_model(place / "base")
    write_model(place / "other", head=True)
    return place


@pytest.fixture(scope="session")
def content(data):
    """A complete job, as its file has it; ``output_dir`` is missing."""
    return {
        "data": {
            "train": str(data / "train.tsv"),
            "unlabelled": str(data / "more.csv"),
            "test": str(data / "test.jsonl"),
            "max_length": 8,
        },
        "teacher": {
            "path": str(data / "base"),
            "frozen": ["bert.embeddings.word_embeddings"],
            "optimization": {**STEPS, "num_epochs": 8},
        },
        "student": {"layers": [1], "optimization": {**STEPS, "num_epochs": 6}},
        "distillation": {
            "temperature": 2,
            "intermediate_matches": [
                {"layer_T": 2, "layer_S": 1, "feature": "hidden", "loss": "hidden_mse", "weight": 1}
            ],
        },
        "training": {"progress": False},
    }


@pytest.fixture
def job(content, tmp_path):
    """The job as a file that writes to a directory of its own."""
    own = {**content, "training": {"progress": False, "output_dir": str(tmp_path / "run")}}
    path = tmp_path / "job.yaml"
    path.write_text(yaml.safe_dump(own))
    return path


def run(*words):
    """What a command prints."""
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        assert main([str(word) for word in words]) == 0
    return printed.getvalue()
