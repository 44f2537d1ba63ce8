"""``jaxbrewer inspect``: shows what a model directory, a run directory or a job holds."""

import json
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypedDict

from ..errors import UsageError, abbreviate, reason_of
from ..json_files import conform, is_there, parse_json, read_json
from ..models.model_directory import ModelDirectory, read_model_directory
from ..models.weight_files import Tensor, is_model_directory
from ..run.results import RESULTS, SHOWN_ROLES
from .config import Job, read_job
from .output import format_bytes, print_line, print_table
from .overrides import flatten
from .run_paths import RunPaths

_SIZES = (
    "hidden_size",
    "num_hidden_layers",
    "num_attention_heads",
    "intermediate_size",
    "vocab_size",
    "max_position_embeddings",
)


def inspect(path: Path, overrides: Sequence[str] = ()) -> None:
    """Prints what is at ``path``.

    Raises:
        UsageError: It is none of these, or cannot be read.
    """
    if os.path.isfile(path):
        return _show_job(read_job(path, overrides))
    if overrides:
        raise UsageError(f"{overrides[0]}: {path} is not a job, and only a job takes overrides.")
    candidates = (path, path / "teacher", path / "baseline", path / "student")
    runs = [run for run in map(RunPaths, candidates) if run.exists]
    if not runs and os.path.isdir(path) and not is_model_directory(path):
        raise UsageError(f"{path} is not a model directory, a run directory or a job.")
    for run in runs:
        _show_run(run)
    return None if runs else _show_model(read_model_directory(path))


def _show_model(source: ModelDirectory) -> None:
    fields, tensors = source.fields, source.tensors
    facts = [
        ("model", source.directory),
        (
            "type",
            f"{fields.get('model_type', '?')}, {abbreviate(fields.get('architectures') or ['?'])}",
        ),
        *((name, fields[name]) for name in _SIZES if name in fields),
        (
            "classes",
            f"{len(source.labels)}: {abbreviate(source.labels)}" if source.heads else "no head",
        ),
    ]
    print_table(facts)
    print_line("")
    blocks: dict[str, list[Tensor]] = {}
    for name, tensor in tensors.items():
        blocks.setdefault(_block(name), []).append(tensor)
    blocks = dict(sorted(blocks.items(), key=lambda item: _natural(item[0])))
    rows = [_row(name, block) for name, block in blocks.items()]
    print_table(
        [*rows, _row("total", list(tensors.values()))],
        ["parameters of", "tensors", "numbers", "size", "types"],
        numbers=(1, 2, 3),
    )


def _block(name: str) -> str:
    """The part of a model that a tensor belongs to: one layer, the embeddings, or a head.

    Examples:
        >>> _block("bert.encoder.layer.3.output.dense.bias"), _block("classifier.weight")
        ('encoder.layer.3', 'classifier')
    """
    parts = name.removeprefix("bert.").split(".")
    for place, part in enumerate(parts):
        if part.isdecimal():
            return ".".join(parts[: place + 1])
    return ".".join(parts[:2]) if parts[0] == "embeddings" else parts[0]


def _natural(block: str) -> list[tuple[bool, int, str]]:
    """Sorts embeddings first, the layers by their number, and heads last."""
    order = ("embeddings", "encoder", "pooler")
    first = block.split(".")[0]
    rank = order.index(first) if first in order else len(order)
    parts = [
        (part.isdecimal(), int(part) if part.isdecimal() else 0, part) for part in block.split(".")
    ]
    return [(False, rank, ""), *parts]


def _row(name: str, block: Sequence[Tensor]) -> list[Any]:
    return [
        name,
        len(block),
        f"{sum(tensor.numbers for tensor in block):,}",
        format_bytes(sum(tensor.bytes for tensor in block)),
        ", ".join(sorted({tensor.dtype for tensor in block})),
    ]


class _Manifest(TypedDict, total=False):
    """The entries of a run's ``manifest.json`` that are shown."""

    command: list[str]
    distiller: str
    started: str
    parameters: dict[str, int]
    seed: int
    devices: list[str]
    total_steps: int
    jaxbrewer: str
    jax: str


class _Training(TypedDict, total=False):
    best_step: int | None


class _Chosen(TypedDict, total=False):
    """The entries of a run's ``results.json`` that are shown."""

    training: _Training


def _show_run(run: RunPaths) -> None:
    manifest = read_json(run.directory / "manifest.json", _Manifest)
    program, *words = manifest.get("command") or ["?"]
    parameters = manifest.get("parameters", {})
    checkpoints = run.directory / "checkpoints"
    names = os.listdir(checkpoints) if os.path.isdir(checkpoints) else []
    steps = sorted(int(name) for name in names if re.fullmatch(r"[0-9]{1,18}", name))
    last = _last_metrics(run.directory / "metrics.jsonl")
    step = int(last.pop("step", 0))
    print_table(
        [
            ("run", run.directory),
            (
                "trained by",
                f"{manifest.get('distiller', '?')}, started {manifest.get('started', '?')}",
            ),
            ("command", " ".join([Path(program).name, *words])),
            *(
                (SHOWN_ROLES.get(who, who), f"{count:,} parameters")
                for who, count in parameters.items()
            ),
            ("seed", manifest.get("seed")),
            ("devices", abbreviate(manifest.get("devices", []))),
            ("steps", f"{step:,} of {manifest.get('total_steps', 0):,}"),
            ("checkpoints", f"after steps {abbreviate(steps)}" if steps else "none"),
            ("model", abbreviate(run.models) + _best(run) if run.models else "not saved yet"),
            (
                "versions",
                f"jaxbrewer {manifest.get('jaxbrewer', '?')}, jax {manifest.get('jax', '?')}",
            ),
        ]
    )
    print_line("")
    if last:
        print_table(
            [[name, f"{value:.6g}"] for name, value in last.items()],
            ["metric", f"after step {step}"],
            numbers=(1,),
        )
        print_line("")


def _best(run: RunPaths) -> str:
    """Which step the saved model is of, if the best checkpoint was kept."""
    if not is_there(run.directory / RESULTS):
        return ""
    results = read_json(run.directory / RESULTS, _Chosen)
    step = results.get("training", {}).get("best_step")
    return "" if step is None else f", of step {step:,}, the best checkpoint"


def _last_metrics(path: Path) -> dict[str, float]:
    """The last complete line of a file that may still be written to."""
    if not os.path.isfile(path):
        return {}
    try:
        lines = [line for line in path.read_bytes().split(b"\n")[:-1] if line.strip()]
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {reason_of(error)}.") from None
    if not lines:
        return {}
    where = f"{path}:{len(lines)}"
    row = conform(parse_json(lines[-1], where), dict[str, float], where)
    conform(row.get("step", 0), int, f"{where}: step")
    return row


def _show_job(job: Job) -> None:
    rows = [
        [name, json.dumps(value, default=repr), job.source_of(name)]
        for name, value in flatten(job.config.to_dict()).items()
    ]
    print_table(rows, ["field", "value", "from"], title=str(job.path))
