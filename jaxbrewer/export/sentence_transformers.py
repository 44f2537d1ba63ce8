"""Directories of the library sentence-transformers: an encoder, its pooling, a norm.

A directory has the encoder as ``transformers`` saves it, and beside it ``modules.json``,
``1_Pooling/config.json``, ``2_Normalize``, ``sentence_bert_config.json`` and
``config_sentence_transformers.json``.
"""

import json
from pathlib import Path
from typing import Any

import jax.numpy as jnp
from flax import nnx

from .._version import __version__
from ..errors import UsageError
from ..models import EncoderModel, TransformerModel, save
from ..models.families import family_of
from ..models.heads import mean_of_tokens
from ..models.model_types import BARE
from .program import Program, program_of


def sentence_program(model: TransformerModel, pooling: str = "mean") -> Program:
    """The program from tokens to ``sentence_embedding``, ``[batch, width]`` of length 1.

    ``last_hidden_state``, ``[batch, length, width]``, is its other output.

    Args:
        model: A model of any head, which is not used.
        pooling: One of :data:`~jaxbrewer.export.formats.POOLINGS`.

    Raises:
        UsageError: The model is no encoder.
    """
    if not isinstance(model, EncoderModel):
        raise UsageError(
            f"A {model.config.model_type} for {model.task} is no encoder of sentences."
        )

    def outputs(hidden: Any, mask: Any) -> dict[str, Any]:
        pooled = mean_of_tokens(hidden, mask) if pooling == "mean" else hidden[:, 0]
        norm = jnp.sqrt(jnp.sum(pooled * pooled, axis=-1, keepdims=True))
        embedding = pooled / jnp.maximum(norm, 1e-12)
        return {"sentence_embedding": embedding, "last_hidden_state": hidden}

    return program_of(model, head=outputs, task="sentence-similarity", pooling=pooling)


def write(model: TransformerModel, folder: Path, *, pooling: str = "mean") -> None:
    """Writes a directory of sentence-transformers, without the tokenizer.

    Raises:
        UsageError: The model is no encoder.
    """
    config = model.config
    save(bare_encoder(model), folder)
    parts = [
        ("0", "", "Transformer"),
        ("1", "1_Pooling", "Pooling"),
        ("2", "2_Normalize", "Normalize"),
    ]
    modules = [
        {"idx": int(n), "name": n, "path": path, "type": f"sentence_transformers.models.{kind}"}
        for n, path, kind in parts
    ]
    for name in ("1_Pooling", "2_Normalize"):
        (folder / name).mkdir()
    width = config.hidden_size
    modes = {f"pooling_mode_{name}_tokens": False for name in ("max", "mean", "mean_sqrt_len")}
    modes["pooling_mode_cls_token"] = pooling == "cls"
    modes["pooling_mode_mean_tokens"] = pooling == "mean"
    files: dict[str, Any] = {
        "modules.json": modules,
        "1_Pooling/config.json": {"word_embedding_dimension": width, **modes},
        "2_Normalize/config.json": {},
        "sentence_bert_config.json": {
            "max_seq_length": config.longest_input,
            "do_lower_case": False,
        },
        "config_sentence_transformers.json": {
            "__version__": {"jaxbrewer": __version__},
            "similarity_fn_name": "cosine",
        },
    }
    for name, content in files.items():
        (folder / name).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def bare_encoder(model: TransformerModel) -> TransformerModel:
    """The model without its head, with the same arrays.

    Raises:
        UsageError: The family has no encoder without a head.
    """
    family = family_of(model.config.model_type)
    if BARE not in family.by_task:
        raise UsageError(f"A {model.config.model_type} is no encoder of sentences.")
    make: Any = family.by_task[BARE]
    bare: TransformerModel = nnx.eval_shape(lambda: make(model.config, rngs=nnx.Rngs(0)))
    setattr(bare, family.body, getattr(model, family.body))
    return bare
