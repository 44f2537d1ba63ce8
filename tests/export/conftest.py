"""Stored models with the outputs of transformers, and a tiny classifier with its tokenizer."""

import importlib.util
import json

import pytest

from jaxbrewer.models import load
from jaxbrewer.text import Tokenizer
from tests.cli.conftest import write_model
from tests.models.conftest import FIXTURES
from tests.tiers import exhaustive_but

CASES = [
    *sorted(FIXTURES.glob("families/*/config.json")),
    *sorted(FIXTURES.glob("decoders/*/config.json")),
    *sorted(FIXTURES.glob("*/config.json")),
]
CASES = {path.parent.name: path.parent for path in CASES}
"""The directory of each stored model by its name."""

ONE_OF_EACH_FAMILY = {
    json.loads((path / "config.json").read_text())["model_type"]: name
    for name, path in CASES.items()
}
EACH_KIND = exhaustive_but(
    {*ONE_OF_EACH_FAMILY.values(), *(name for name in CASES if name.startswith("distilbert"))},
    CASES,
)
"""Every family with one head, and one family with every head; the others are exhaustive."""

has_onnxruntime = importlib.util.find_spec("onnxruntime") is not None
needs_onnx = pytest.mark.skipif(not has_onnxruntime, reason="onnxruntime is not installed")


@pytest.fixture(scope="session")
def classifier_directory(tmp_path_factory):
    """A tiny classifier of three classes in Hugging Face's format, with ``vocab.txt``."""
    directory = tmp_path_factory.mktemp("model") / "tiny"
    return write_model(directory, head=True, num_labels=3, labels=("cat", "dog", "fox"))


@pytest.fixture(scope="session")
def classifier(classifier_directory):
    return load(classifier_directory)


@pytest.fixture(scope="session")
def tokenizer(classifier_directory):
    return Tokenizer(classifier_directory)
