"""Converts files of other formats into Hugging Face directories."""

import os
from pathlib import Path
from typing import Any

import jax.numpy as jnp

from ..errors import UsageError
from .gguf_files import gguf_file, open_gguf
from .gguf_tokenizer import save_tokenizer
from .huggingface import load, save


def convert_gguf(
    source: str | os.PathLike[str], directory: str | os.PathLike[str], *, dtype: Any = jnp.float32
) -> None:
    """Converts a GGUF file into a Hugging Face directory, with its tokenizer and chat template.

    Needs ``jaxbrewer[gguf]`` and ``jaxbrewer[text]``.

    Args:
        source: The file, or a directory that holds only one.
        directory: The directory to write, which is created if it does not exist.
        dtype: Type of the weights, which are dequantised.

    Raises:
        UsageError: The model or its tokenizer is of a kind that cannot be converted.
    """
    file = gguf_file(Path(source))
    if file is None:
        raise UsageError(f"{source} is no GGUF file and no directory of one.")
    save_tokenizer(open_gguf(file), Path(directory))
    save(load(file, dtype=dtype), directory)
