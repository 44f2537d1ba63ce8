"""What a report needs of a run directory, read as untrusted input."""

import dataclasses
import json
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypedDict

import numpy as np
from jaxtyping import Float

from ..errors import UsageError, reason_of
from ..json_files import conform, parse_json, read_json
from ..run.results import Results, read_results
from ..study.results import StudyResults, is_unfinished_study, read_study

MANIFEST, CONFIG, METRICS = "manifest.json", "config.json", "metrics.jsonl"
_OWN_PATHS = ("training.output_dir", "training.log_dir")
"""Settings that differ between any two runs."""


class Manifest(TypedDict, total=False):
    """The entries of ``manifest.json`` that a report shows."""

    command: list[str]
    devices: list[str]
    distiller: str
    parameters: dict[str, int]
    started: str
    seed: int
    total_steps: int
    jaxbrewer: str
    jax: str
    python: str


@dataclasses.dataclass(frozen=True)
class RunRecord:
    """A run as its directory describes it.

    Attributes:
        directory: The directory.
        manifest: Where and how it ran.
        settings: All settings by their dotted names.
        matches: The intermediate matches of the distillation.
        metrics: Curves by name: steps and values; steps without a value are left out.
        results: What it ended with, if it has ended.
        student_layers: Layers of the saved model, if one is saved.
    """

    directory: Path
    manifest: Manifest
    settings: Mapping[str, Any]
    matches: Sequence[Mapping[str, Any]]
    metrics: Mapping[str, Float[np.ndarray, "2 steps"]]
    results: Results | None
    student_layers: int | None = None

    @property
    def name(self) -> str:
        """The last two parts of its path."""
        return _name_of(self.directory)

    @property
    def last_step(self) -> int:
        """The last step with metrics."""
        return max((int(curve[0, -1]) for curve in self.metrics.values()), default=0)


def _name_of(directory: Path) -> str:
    return "/".join(directory.absolute().parts[-2:])


class Found(NamedTuple):
    """What a report is about.

    Attributes:
        runs: The runs.
        studies: The studies, by the last two parts of their paths.
    """

    runs: list[RunRecord]
    studies: dict[str, StudyResults]


def find_records(paths: Sequence[Path]) -> Found:
    """Reads what is at ``paths``: runs and studies, or directories that hold some.

    Raises:
        UsageError: There is neither at one of them, or a file is damaged.
    """
    runs: list[Path] = []
    studies: dict[str, StudyResults] = {}
    for path in paths:
        if not os.path.isdir(path):
            raise UsageError(f"{path} does not exist, or is not a directory.")
        places = [path, *sorted(path.iterdir())]
        here = [path] if is_run(path) else [place for place in places if is_run(place)]
        compared = {place: read_study(place) for place in places}
        found = {place: study for place, study in compared.items() if study is not None}
        if not here and not found:
            if any(is_unfinished_study(place) for place in places):
                raise UsageError(
                    f"{path} holds a study that has not finished: run `jaxbrewer study` again, "
                    "which repeats no finished run."
                )
            raise UsageError(
                f"{path} holds no run: a run directory has a {MANIFEST}, which training writes."
            )
        runs += [run for run in here if run not in runs]
        studies |= {_name_of(place): study for place, study in found.items()}
    return Found([read_run(path) for path in runs], studies)


def is_run(path: Path) -> bool:
    """Whether a training has started in a directory."""
    return os.path.isfile(path / MANIFEST)


def read_run(directory: Path) -> RunRecord:
    """Reads one run directory.

    Raises:
        UsageError: A file is damaged.
    """
    config = _optional(directory / CONFIG)
    distillation = config.get("distillation")
    matches = distillation.get("intermediate_matches") if isinstance(distillation, dict) else None
    return RunRecord(
        directory,
        read_json(directory / MANIFEST, Manifest),
        {name: value for name, value in _flat(config).items() if name not in _OWN_PATHS},
        [match for match in matches or [] if isinstance(match, dict)],
        read_metrics(directory / METRICS),
        read_results(directory),
        _layers_of(directory / "model" / CONFIG),
    )


def read_metrics(path: Path) -> dict[str, Float[np.ndarray, "2 steps"]]:
    r"""The curves in a file that may still be written to; an incomplete last line is skipped.

    Raises:
        UsageError: The file cannot be read, or another line is damaged.

    Examples:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp(), "metrics.jsonl")
        >>> _ = path.write_text('{"step": 1, "loss": 2.0}\n{"step": 2, "loss": 1.5}\n{"st')
        >>> read_metrics(path)["loss"].tolist()
        [[1.0, 2.0], [2.0, 1.5]]
    """
    if not os.path.isfile(path):
        return {}
    try:
        lines = path.read_bytes().split(b"\n")[:-1]
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {reason_of(error)}.") from None
    curves: dict[str, list[tuple[float, float]]] = {}
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        row = conform(parse_json(line, f"{path}:{number}"), dict[str, float], f"{path}:{number}")
        step = row.pop("step", number)
        for name, value in row.items():
            curves.setdefault(name, []).append((step, value))
    return {name: np.array(points, float).T for name, points in curves.items()}


def differing_settings(runs: Sequence[RunRecord]) -> dict[str, list[str]]:
    """The settings that are not the same in all runs, with the value of each run as JSON."""
    names = dict.fromkeys(name for run in runs for name in run.settings)
    table = {name: [_shown(run.settings.get(name)) for run in runs] for name in names}
    return {name: values for name, values in table.items() if len(set(values)) > 1}


def _shown(value: Any) -> str:
    return "" if value is None else json.dumps(value, ensure_ascii=False)


def _optional(path: Path) -> dict[str, Any]:
    return read_json(path, dict[str, Any]) if os.path.isfile(path) else {}


def _layers_of(path: Path) -> int | None:
    fields = _optional(path)
    for name in ("num_hidden_layers", "n_layers", "n_layer"):
        value = fields.get(name)
        if isinstance(value, int) and not isinstance(value, bool) and 0 < value < 1000:
            return value
    return None


def _flat(value: Any, prefix: str = "") -> dict[str, Any]:
    if isinstance(value, list) and value and all(isinstance(item, dict) for item in value):
        value = {str(number): item for number, item in enumerate(value)}
    if not isinstance(value, dict) or (prefix and not value):
        return {prefix: value}
    flat: dict[str, Any] = {}
    for key, item in value.items():
        flat |= _flat(item, f"{prefix}.{key}" if prefix else str(key))
    return flat


def is_term(name: str) -> bool:
    """Whether a metric is a term of the loss.

    Examples:
        >>> is_term("weighted_kd_loss"), is_term("grad_norm")
        (True, False)
    """
    return re.match(r"(un)?weighted_", name) is not None
