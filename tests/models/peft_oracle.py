"""Logits of a model with adapters in PEFT: ``python peft_oracle.py BASE ADAPTERS IDS OUTPUT``.

Runs in an environment with torch, transformers and peft, which the project does not need.
"""

import sys

import numpy as np
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM

base, adapters, ids, output = sys.argv[1:]
model = AutoModelForCausalLM.from_pretrained(base, attn_implementation="eager")
adapted = PeftModel.from_pretrained(model, adapters).eval()
with torch.no_grad():
    found = adapted(input_ids=torch.tensor(np.load(ids)))
np.save(output, found.logits.numpy())
