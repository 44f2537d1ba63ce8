"""PyTorch's side of ``peers.py``; needs torch and transformers, and textbrewer for TextBrewer.

The second argument is who trains, ``textbrewer`` or ``loop``, a plain loop with the same losses;
the third is the attention of the models, ``eager`` or ``sdpa``, ``compile`` for models that
``torch.compile`` has compiled, or ``bfloat16`` for ``sdpa`` under ``torch.autocast``.
"""

import json
import logging
import sys
import tempfile

import torch
import torch.nn.functional as F
from transformers import BertConfig, BertForSequenceClassification, get_linear_schedule_with_warmup
from turns import steps

settings, trainer, kind = json.loads(sys.argv[1]), sys.argv[2], sys.argv[3]
logging.disable(logging.INFO)
torch.set_num_threads(settings["cores"])
temperature, pairs = settings["temperature"], settings["matches"]


def bert(layers):
    config = BertConfig(
        num_hidden_layers=layers, output_hidden_states=True,
        attn_implementation="eager" if kind == "eager" else "sdpa", **settings["size"],
    )  # fmt: skip
    model = BertForSequenceClassification(config)
    return torch.compile(model) if kind == "compile" else model


def adaptor(batch, outputs):
    return {
        "logits": outputs.logits,
        "hidden": outputs.hidden_states,
        "inputs_mask": batch["attention_mask"],
        "losses": F.cross_entropy(outputs.logits, batch["labels"]),
    }


def batches():
    shape, size = (settings["batch"], settings["length"]), settings["size"]
    for _ in steps():
        yield {
            "input_ids": torch.randint(0, size["vocab_size"], shape),
            "attention_mask": torch.ones(shape, dtype=torch.long),
            "labels": torch.randint(0, size["num_labels"], shape[:1]),
        }


def with_textbrewer(teacher, student, optimizer):
    from textbrewer import DistillationConfig, GeneralDistiller, TrainingConfig

    with tempfile.TemporaryDirectory() as folder:
        distiller = GeneralDistiller(
            TrainingConfig(device="cpu", output_dir=folder, log_dir=folder, ckpt_steps=10**6),
            DistillationConfig(
                temperature=temperature,
                hard_label_weight=1,
                intermediate_matches=[
                    {"layer_T": t, "layer_S": s, "feature": "hidden", "loss": "hidden_mse",
                     "weight": 1}
                    for t, s in pairs
                ],
            ),
            teacher, student, adaptor, adaptor,
        )  # fmt: skip
        with distiller:
            distiller.train(
                optimizer, batches(), num_steps=settings["total"], max_grad_norm=1.0,
                scheduler_class=get_linear_schedule_with_warmup,
                scheduler_args={"num_warmup_steps": 0, "num_training_steps": settings["total"]},
            )  # fmt: skip


def with_a_loop(teacher, student, optimizer):
    teacher.eval()
    student.train()
    scheduler = get_linear_schedule_with_warmup(optimizer, 0, settings["total"])
    for batch in batches():
        inputs = batch["input_ids"], batch["attention_mask"]
        with torch.no_grad():
            target = teacher(*inputs)
        output = student(*inputs)
        soft = F.softmax(target.logits / temperature, dim=-1)
        loss = -(soft * F.log_softmax(output.logits / temperature, dim=-1)).sum(-1).mean()
        loss = loss + F.cross_entropy(output.logits, batch["labels"])
        mask = batch["attention_mask"][..., None]
        for layer_T, layer_S in pairs:
            gap = (output.hidden_states[layer_S] - target.hidden_states[layer_T]) * mask
            loss = loss + (gap**2).sum() / (mask.sum() * gap.shape[-1])
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(student.parameters(), 1.0)
        optimizer.step()
        scheduler.step()


if __name__ == "__main__":
    teacher, student = (bert(layers) for layers in settings["layers"])
    optimizer = torch.optim.AdamW(student.parameters(), lr=settings["rate"])
    train = with_textbrewer if trainer == "textbrewer" else with_a_loop
    with torch.autocast("cpu", torch.bfloat16, enabled=kind == "bfloat16"):
        train(teacher, student, optimizer)
