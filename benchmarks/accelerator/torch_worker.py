"""The same BERT distillation in PyTorch, in a process of its own: seconds of some steps on request.

Reads a JSON object of settings as its argument and lines ``eager 5`` or ``compile 5`` from
standard input; answers each with the seconds of that many steps, or with ``error: ...``.
"""

import json
import sys
import time

import torch
from transformers import BertConfig, BertForSequenceClassification


def model(settings, layers):
    config = BertConfig(
        vocab_size=settings["vocabulary"], hidden_size=settings["width"],
        num_hidden_layers=layers, num_attention_heads=settings["heads"],
        intermediate_size=4 * settings["width"], max_position_embeddings=512,
        hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0,
        num_labels=settings["classes"],
    )  # fmt: skip
    config._attn_implementation = "sdpa"
    return BertForSequenceClassification(config).to(settings["device"])


class Training:
    """Automatic mixed precision in bfloat16, fused AdamW where there is a GPU."""

    def __init__(self, settings, is_compiled):
        self.device, self.tau = settings["device"], settings["temperature"]
        self.teacher = model(settings, settings["teacher_layers"]).eval().requires_grad_(False)
        self.teacher = self.teacher.to(torch.bfloat16)
        self.student = model(settings, settings["student_layers"]).train()
        self.optimizer = torch.optim.AdamW(
            self.student.parameters(), lr=1e-4, fused=self.device == "cuda"
        )
        generator = torch.Generator().manual_seed(0)
        size = settings["batch"], settings["length"]
        mask = torch.ones(size, dtype=torch.int64)
        mask[::2, size[1] - size[1] // 4 :] = 0
        self.inputs = {
            "input_ids": torch.randint(0, settings["vocabulary"], size, generator=generator),
            "attention_mask": mask,
        }
        self.inputs = {name: value.to(self.device) for name, value in self.inputs.items()}
        labels = torch.randint(0, settings["classes"], size[:1], generator=generator)
        self.labels = labels.to(self.device)
        self.loss = torch.compile(self.loss_of) if is_compiled else self.loss_of

    def loss_of(self, inputs, labels):
        with torch.autocast(self.device, torch.bfloat16):
            with torch.no_grad():
                targets = self.teacher(**inputs).logits
            logits = self.student(**inputs).logits
        log_q = torch.log_softmax(logits.float() / self.tau, -1)
        log_p = torch.log_softmax(targets.float() / self.tau, -1)
        soft = torch.nn.functional.kl_div(log_q, log_p, reduction="batchmean", log_target=True)
        hard = torch.nn.functional.cross_entropy(logits.float(), labels)
        return self.tau**2 * soft + hard

    def seconds(self, steps):
        self.synchronize()
        start = time.perf_counter()
        for _ in range(steps):
            self.loss(self.inputs, self.labels).backward()
            self.optimizer.step()
            self.optimizer.zero_grad(set_to_none=True)
        self.synchronize()
        return time.perf_counter() - start

    def synchronize(self):
        if self.device == "cuda":
            torch.cuda.synchronize()


def main():
    settings = json.loads(sys.argv[1])
    torch.manual_seed(0)
    torch.set_float32_matmul_precision("high")  # TF32, as JAX by default
    trainings = {}
    for line in sys.stdin:
        kind, steps = line.split()
        try:
            if kind not in trainings:
                trainings[kind] = Training(settings, kind == "compile")
            answer = repr(trainings[kind].seconds(int(steps)))
        except Exception as error:
            answer = "error: " + " ".join(str(error).split())[:200]
        print(answer, flush=True)


if __name__ == "__main__":
    main()
