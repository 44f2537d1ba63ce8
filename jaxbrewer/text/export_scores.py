"""A cache of a language model's largest logits -> a Parquet file that ``import_scores`` reads."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int

from ..cache import TeacherCache
from ..errors import UsageError, missing_extra, reason_of
from ..objective.top_k import TopK
from .documents import Documents
from .served_scores import METADATA

_BATCH_ROWS = 256


def export_scores(directory: str | Path, path: str | Path, pieces: Documents) -> int:
    """Writes a cache's largest logits to a Parquet file, which ``jaxbrewer cache import`` reads.

    Args:
        directory: A complete cache of a top-k.
        path: The file.
        pieces: The windows that the cache was built of.

    Returns:
        The number of tokens written.

    Raises:
        UsageError: The cache holds something else, or the file cannot be written.
    """
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError:
        raise missing_extra("parquet", "pyarrow") from None
    cache = TeacherCache(directory)
    entries = cache.layout.entries
    is_top_k = len(entries) == 1 and entries[0].stored == "top_k" and not entries[0].samples
    if not is_top_k or cache.manifest.keys != "example_id":
        raise UsageError(
            f"{directory} holds {cache.layout.names}, by {cache.manifest.keys}: only the largest "
            "logits of one head (--storage top_k) can be exported."
        )
    (entry,) = entries
    origin = {
        "classes": entry.classes,
        "temperatures": list(entry.temperatures),
        "fingerprints": dict(cache.manifest.fingerprints),
        "settings": dict(cache.manifest.settings),
        "inputs": cache.manifest.inputs,
        "tokenizer": cache.manifest.fingerprints.get("tokenizer"),
    }
    numbers, floats = pyarrow.list_(pyarrow.int32()), pyarrow.list_(pyarrow.float32())
    schema = pyarrow.schema(
        {
            "example": pyarrow.int64(),
            "position": pyarrow.int32(),
            "token": pyarrow.int32(),
            "ids": numbers,
            "logits": floats,
            "log_tail": floats,
        },
        metadata={METADATA: json.dumps(origin)},
    )
    tokens = 0
    try:
        with pyarrow.parquet.ParquetWriter(path, schema) as writer:
            for start in range(0, len(pieces), _BATCH_ROWS):
                rows = np.arange(start, min(start + _BATCH_ROWS, len(pieces)))
                columns = _exported(cache, pieces, rows)
                tokens += len(columns["token"])
                writer.write_table(pyarrow.table(_lists(columns, schema), schema=schema))
    except (OSError, pyarrow.ArrowException) as error:
        raise UsageError(f"{path} cannot be written: {reason_of(error)}.") from None
    return tokens


def _exported(
    cache: TeacherCache, pieces: Documents, rows: Int[np.ndarray, " rows"]
) -> dict[str, np.ndarray]:
    batch = pieces.batch(rows, int(pieces.lengths[rows].max())) | {"example_id": rows}
    found = cache.outputs(batch)
    (kept,), (mask,) = found.logits, found.logits_mask
    assert isinstance(kept, TopK)
    row, column = np.nonzero(np.asarray(mask) & (batch["labels"] >= 0))
    return {
        "example": pieces.facts["document"][rows[row]],
        "position": pieces.facts["first"][rows[row]] + column + 1,
        "token": batch["labels"][row, column],
        "ids": np.asarray(kept.indices)[row, column],
        "logits": np.asarray(kept.logits)[row, column],
        "log_tail": np.asarray(kept.log_tail)[row, column],
    }


def _lists(columns: Mapping[str, np.ndarray], schema: Any) -> list[Any]:
    import pyarrow

    made = []
    for field in schema:
        values = columns[field.name]
        if values.ndim == 1:
            made.append(pyarrow.array(values, field.type))
            continue
        flat = pyarrow.array(values.reshape(-1), field.type.value_type)
        bounds = np.arange(len(values) + 1, dtype=np.int32) * values.shape[1]
        made.append(pyarrow.ListArray.from_arrays(pyarrow.array(bounds), flat))
    return made
