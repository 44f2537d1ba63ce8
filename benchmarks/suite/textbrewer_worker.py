"""TextBrewer's side of ``overhead.py``; needs torch, transformers and textbrewer.

Its second argument is the attention of the models, ``eager`` or ``sdpa``, or ``compile`` for
models that ``torch.compile`` has compiled. Reads a number of steps per line and answers with the
seconds that they took.
"""

import json
import logging
import sys
import tempfile
import time

import torch
import torch.nn.functional as F
from textbrewer import DistillationConfig, GeneralDistiller, TrainingConfig
from transformers import BertConfig, BertForSequenceClassification, get_linear_schedule_with_warmup

settings, kind = json.loads(sys.argv[1]), sys.argv[2]
answers, sys.stdout = sys.stdout, sys.stderr
logging.disable(logging.INFO)
torch.set_num_threads(2)


def bert(layers):
    config = BertConfig(
        num_hidden_layers=layers, output_hidden_states=True,
        attn_implementation="eager" if kind == "eager" else "sdpa", **settings["size"],
    )  # fmt: skip
    return BertForSequenceClassification(config)


def compiled(model):
    return torch.compile(model) if kind == "compile" else model


def adaptor(batch, outputs):
    return {
        "logits": outputs.logits,
        "hidden": outputs.hidden_states,
        "inputs_mask": batch["attention_mask"],
        "losses": F.cross_entropy(outputs.logits, batch["labels"]),
    }


def batches():
    """Yields the requested number of batches; the time between requests is not counted."""
    shape = (settings["batch"], settings["length"])
    size = settings["size"]
    while line := sys.stdin.readline():
        start = time.perf_counter()
        for _ in range(int(line)):
            yield {
                "input_ids": torch.randint(0, size["vocab_size"], shape),
                "attention_mask": torch.ones(shape, dtype=torch.long),
                "labels": torch.randint(0, size["num_labels"], shape[:1]),
            }
        print(time.perf_counter() - start, file=answers, flush=True)


teacher, student = (compiled(bert(layers)) for layers in settings["layers"])
with tempfile.TemporaryDirectory() as directory:
    distiller = GeneralDistiller(
        TrainingConfig(device="cpu", output_dir=directory, log_dir=directory, ckpt_steps=10**6),
        DistillationConfig(
            temperature=settings["temperature"],
            hard_label_weight=1,
            intermediate_matches=[
                {"layer_T": t, "layer_S": s, "feature": "hidden", "loss": "hidden_mse", "weight": 1}
                for t, s in settings["pairs"]
            ],
        ),
        teacher, student, adaptor, adaptor,
    )  # fmt: skip
    optimizer = torch.optim.AdamW(student.parameters(), lr=settings["rate"])
    with distiller:
        distiller.train(
            optimizer, batches(), num_steps=settings["total"], max_grad_norm=1.0,
            scheduler_class=get_linear_schedule_with_warmup,
            scheduler_args={"num_warmup_steps": 0, "num_training_steps": settings["total"]},
        )  # fmt: skip
