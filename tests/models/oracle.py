"""Outputs of PyTorch's transformers for a model directory; run by a Python that has both.

    python oracle.py DIRECTORY INPUTS.npz OUTPUTS.npz

The inputs are arguments of the model; the outputs are its own, all hidden states and attentions.
"""

import json
import sys
from pathlib import Path

import numpy as np


def forward(model, inputs):
    """The outputs of a torch model as arrays: ``logits``, ``hidden_0``, ``attention_0``, ..."""
    import torch

    tensors = {name: torch.from_numpy(np.int64(value)) for name, value in inputs.items()}
    with torch.no_grad():
        outputs = model(**tensors, output_hidden_states=True, output_attentions=True)
    own = ("logits", "pooler_output", "last_hidden_state")
    arrays = {name: value for name, value in outputs.items() if name.endswith(own)}
    arrays |= {f"hidden_{index}": value for index, value in enumerate(outputs.hidden_states)}
    arrays |= {f"attention_{index}": value for index, value in enumerate(outputs.attentions)}
    return {name: value.numpy() for name, value in arrays.items()}


def load(directory):
    import transformers

    config = json.loads((Path(directory) / "config.json").read_text())
    model = getattr(transformers, config["architectures"][0])
    loaded, report = model.from_pretrained(
        directory, attn_implementation="eager", output_loading_info=True
    )
    if any(report.values()):
        raise SystemExit(f"transformers had to guess: {report}")
    return loaded.eval()


if __name__ == "__main__":
    directory, inputs, outputs = sys.argv[1:]
    np.savez(outputs, **forward(load(directory), dict(np.load(inputs))))
