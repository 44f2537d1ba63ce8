"""Log-probabilities made elsewhere -> a cache: tokens per second, from JSONL and from Parquet.

The files have the form that vLLM returns for scored prompts, and a row per token. Each import
reads, checks, joins, packs and writes, in a process that has imported everything. Times of the
processor change less than the clock's on a busy machine; `--without-msgspec` parses JSONL by the
standard library alone.

    python -m benchmarks.import_scores [--texts 200] [--candidates 20] [--without-msgspec]
"""

import argparse
import json
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

os.environ.setdefault("JAX_PLATFORMS", "cpu")

import numpy as np
import pyarrow
import pyarrow.parquet

from jaxbrewer.text.documents import make_documents
from jaxbrewer.text.import_scores import import_scores

CLASSES = 49_152


def scores(tokens: np.ndarray, candidates: int, rng: Any) -> tuple[np.ndarray, np.ndarray]:
    """Random candidates of each token but the first, the token among them."""
    ids = rng.integers(0, CLASSES, (len(tokens) - 1, candidates))
    ids[:, 0] = tokens[1:]
    log_p = np.log(rng.dirichlet(np.ones(candidates + 5), len(ids))[:, :candidates])
    first = np.sort(ids, axis=1)
    repeated = np.any(first[:, 1:] == first[:, :-1], axis=1)
    ids[repeated] = ids[repeated, :1] + np.arange(candidates)
    return ids % CLASSES, log_p


def response(number: int, tokens: np.ndarray, ids: np.ndarray, log_p: np.ndarray) -> str:
    """A line as vLLM's batch jobs write it."""
    entries = [
        {
            str(one): {"logprob": value, "rank": rank, "decoded_token": " word"}
            for rank, (one, value) in enumerate(zip(own, values, strict=True), start=1)
        }
        for own, values in zip(ids.tolist(), log_p.tolist(), strict=True)
    ]
    choice = {"prompt_logprobs": [None, *entries], "prompt_token_ids": tokens.tolist()}
    body = {"choices": [{"index": 0, "text": "", **choice}]}
    return json.dumps({"custom_id": f"request-{number}", "response": {"body": body}})


def write(folder: Path, texts: list[np.ndarray], candidates: int) -> dict[str, Path]:
    """Files of both kinds."""
    rng, lines, columns = np.random.default_rng(1), [], []
    for number, tokens in enumerate(texts):
        ids, log_p = scores(tokens, candidates, rng)
        lines.append(response(number, tokens, ids, log_p))
        columns.append((np.full(len(ids), number), np.arange(1, len(tokens)), tokens[1:]))
    jsonl, parquet = folder / "scores.jsonl", folder / "scores.parquet"
    jsonl.write_text("\n".join(lines) + "\n")
    rng = np.random.default_rng(1)
    pairs = [scores(tokens, candidates, rng) for tokens in texts]
    example, position, token = map(np.concatenate, zip(*columns, strict=True))
    table = pyarrow.table(
        {
            "example": example,
            "position": position,
            "token": token,
            "ids": [row for ids, _ in pairs for row in ids],
            "logprobs": [row for _, log_p in pairs for row in log_p],
        }
    )
    pyarrow.parquet.write_table(table, parquet)
    return {"JSONL": jsonl, "Parquet": parquet}


def main() -> None:
    """Runs what the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--texts", type=int, default=200)
    parser.add_argument("--length", type=int, default=400, help="tokens of a text")
    parser.add_argument("--candidates", type=int, default=20)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--without-msgspec", action="store_true")
    given = parser.parse_args()
    if given.without_msgspec:
        sys.modules["msgspec"] = None  # type: ignore[assignment]
    rng = np.random.default_rng(0)
    texts = [rng.integers(0, CLASSES, given.length) for _ in range(given.texts)]
    documents = make_documents(texts)
    with tempfile.TemporaryDirectory() as folder:
        files = write(Path(folder), texts, given.candidates)
        for name, path in files.items():
            spent = []
            for turn in range(given.rounds + 1):  # the first warms up
                start = time.perf_counter(), time.process_time()
                import_scores(
                    Path(folder, f"{name}{turn}"), [path], documents, documents.windows(1024),
                    None, classes=CLASSES, fingerprints={},
                )  # fmt: skip
                spent.append((time.perf_counter() - start[0], time.process_time() - start[1]))
            clock, processor = (min(times) for times in zip(*spent[1:], strict=True))
            count = documents.label_count
            print(
                f"{name}: {count:,} tokens x {given.candidates}, {path.stat().st_size / 1e6:.0f} "
                f"MB: {count / clock:,.0f} tokens a second, {count / processor:,.0f} a second of "
                "the processor"
            )


if __name__ == "__main__":
    main()
