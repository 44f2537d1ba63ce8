"""The programs of docs/export.md run without this package and answer as the model."""

import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from jaxbrewer.export import export, program_of
from jaxbrewer.models import load
from jaxbrewer.text import Tokenizer
from tests.cli.conftest import write_model
from tests.pages import blocks, form, page_block

PAGE = "export.md"
ROOT = Path(__file__).parent.parent
TEXTS = ["a small domesticated feline", "the act of running a race"]


def program(section):
    page = (ROOT / "docs" / PAGE).read_text()
    (text,) = re.findall(rf"^## {section}\n(.*?)(?=^## |\Z)", page, re.DOTALL | re.MULTILINE)
    (code,) = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    assert len([line for line in code.splitlines() if line.strip()]) <= 25
    return code


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A tiny classifier with a ``tokenizer.json``."""
    import tokenizers

    directory = tmp_path_factory.mktemp("page") / "model"
    write_model(directory, head=True, num_labels=3, labels=("cat", "dog", "fox"))
    words = tokenizers.BertWordPieceTokenizer(str(directory / "vocab.txt"))
    words.save(str(directory / "tokenizer.json"))
    return directory


@pytest.mark.slow
@pytest.mark.parametrize(
    ("section", "format", "library"),
    [
        ("onnxruntime in Python", "onnx", "onnxruntime"),
        ("StableHLO in JAX alone", "stablehlo", "flatbuffers"),
    ],
)
def test_a_program_answers_as_the_model(section, format, library, model, tmp_path):
    if importlib.util.find_spec(library) is None:
        pytest.skip(f"{library} is not installed")
    tokenizer, loaded = Tokenizer(model), load(model)
    export(loaded, tmp_path / "exported" / format, format, tokenizer=tokenizer)
    code = program(section) + "import sys\nassert 'jaxbrewer' not in sys.modules\n"
    (tmp_path / "program.py").write_text(code)
    environment = {n: v for n, v in os.environ.items() if n not in ("PYTHONPATH", "PYTHONWARNINGS")}
    done = subprocess.run(
        [sys.executable, "program.py"],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr

    encoded = tokenizer.encode(TEXTS, max_length=16)
    batch = encoded.batch([0, 1], int(encoded.lengths.max()))
    logits = program_of(loaded).run(batch)["logits"]
    scores = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    names = [loaded.config.id2label[int(row.argmax())] for row in scores]
    shown = [
        f"{text}: {name} {row.max():.4f}"
        for text, name, row in zip(TEXTS, names, scores, strict=True)
    ]
    assert done.stdout.splitlines() == shown
    page = page_block("export.md", "a small domesticated")
    assert [form(line) for line in shown] == [
        form(line.replace(": animal ", f": {names[0]} ").replace(": act ", f": {names[1]} "))
        for line in page.splitlines()
    ]


def test_the_page_shows_one_answer_of_one_model_everywhere():
    answers = [text for _, text in blocks(PAGE) if text.startswith(TEXTS[0])]
    assert len(answers) == 4
    assert len(set(answers)) == 1
