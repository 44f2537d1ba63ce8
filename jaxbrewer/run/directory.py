"""The directory of a run: its configs and manifest, and whether a training may resume in it."""

import dataclasses
import json
import os
import platform
import re
import shutil
import sys
import time
import uuid
import warnings
from collections.abc import Iterator, Mapping
from importlib import metadata
from pathlib import Path
from typing import Any, TypeAlias

import jax

from .._version import __version__
from ..configs import DistillationConfig, TrainingConfig
from ..devices.processes import broadcast_json
from ..errors import UsageError, setting
from .checkpoint_store import CHECKPOINTS, DAMAGED
from .tracking import METRICS

CONFIG, MANIFEST, COMPLETED = "config.json", "manifest.json", "checkpoints.jsonl"

MAY_DIFFER = frozenset(
    {
        "log_dir", "output_dir", "overwrite", "progress", "resume", "force_resume",
        "device", "data_parallel", "local_rank",
        "mesh", "student_rules", "teacher_rules", "local_batches", "profile_steps",
        "ckpt_frequency", "ckpt_epoch_frequency", "ckpt_steps",
        "keep_last", "keep_every", "keep_best", "best_metric", "best_mode", "on_nonfinite",
    }
)  # fmt: skip
"""Settings that may change when a run resumes, since they do not change what is computed."""

DistillConfigs: TypeAlias = DistillationConfig | Mapping[str, DistillationConfig] | None


@dataclasses.dataclass(frozen=True)
class RunDirectory:
    """A run that has a directory.

    Attributes:
        directory: Where it writes.
        name: A random identifier, which the names of its TensorBoard files end in.
        resumes: Whether it continues the run that the directory holds.
    """

    directory: Path
    name: str
    resumes: bool = False


def open_run(
    config: TrainingConfig,
    distill_config: DistillConfigs,
    facts: Mapping[str, Any],
) -> RunDirectory | None:
    """Makes the run directory with ``config.json`` and ``manifest.json``, or opens it to resume.

    Args:
        config: ``output_dir``, and whether to resume or replace the run that it holds.
        distill_config: Saved with ``config``; a dict by task for several.
        facts: Entries of the manifest beyond versions, seed, command and devices. A run resumes
            only under the same facts.

    Returns:
        The run, or ``None`` for ``output_dir=None``.

    Raises:
        UsageError: The directory holds a run that may not be replaced, or a different one, or it
            cannot be written.
    """
    if config.output_dir is None:
        if config.resume:
            raise UsageError(f"{setting('resume', True)} needs the output_dir of the run.")
        return None
    if jax.process_count() == 1:
        return _open(config, distill_config, facts)
    answer: dict[str, Any] = {}
    if jax.process_index() == 0:
        try:
            run = _open(config, distill_config, facts)
            answer = {"name": run.name, "resumes": run.resumes}
        except UsageError as error:
            answer = {"error": str(error)}
    answer = broadcast_json(answer)
    if "error" in answer:
        raise UsageError(answer["error"])
    return RunDirectory(Path(config.output_dir), **answer)


def _open(
    config: TrainingConfig, distill_config: DistillConfigs, facts: Mapping[str, Any]
) -> RunDirectory:
    directory = Path(str(config.output_dir))
    configs = {"training": _json(config)}
    if isinstance(distill_config, Mapping):
        configs["tasks"] = {task: _json(config) for task, config in distill_config.items()}
    elif distill_config is not None:
        configs["distillation"] = _json(distill_config)
    facts = json.loads(json.dumps(facts))
    try:
        if (directory / MANIFEST).exists():
            if config.resume:
                return _resume(directory, config, configs, facts)
            if not config.overwrite:
                raise UsageError(
                    f"output_dir {str(directory)!r} already holds a run: choose another, resume it "
                    f"with {setting('resume', True)}, or replace it with "
                    f"{setting('overwrite', True)}."
                )
            _remove_run(directory, config.log_dir)
        directory.mkdir(parents=True, exist_ok=True)
        name = uuid.uuid4().hex[:12]
        _write_json(directory / CONFIG, configs)
        _write_json(
            directory / MANIFEST, {"run": name, "seed": config.seed, **_environment(), **facts}
        )
    except OSError as error:
        reason = error.strerror or error
        raise UsageError(f"output_dir {str(directory)!r} cannot be written: {reason}.") from None
    return RunDirectory(directory, name)


def _resume(
    directory: Path, config: TrainingConfig, configs: dict[str, Any], facts: Mapping[str, Any]
) -> RunDirectory:
    manifest = _read_json(directory / MANIFEST)
    saved = _read_json(directory / CONFIG)
    compared = list(facts)
    if manifest.get("optax") != metadata.version("optax"):
        compared.remove("optimizer")  # described by the names of optax's own functions
    before, now = ({name: known.get(name) for name in compared} for known in (manifest, facts))
    differences = [*_differences(saved, configs), *_differences(before, now)]
    if differences and not config.force_resume:
        more = f", and {len(differences) - 5} more" if len(differences) > 5 else ""
        raise UsageError(
            f"output_dir {str(directory)!r} holds a different run: {'; '.join(differences[:5])}"
            f"{more}. Resume with the original settings, or with {setting('force_resume', True)}."
        )
    here = _environment()
    other = [
        f"{name} {manifest[name]}, now {here[name]}"
        for name in _PACKAGES
        if manifest.get(name) != here[name]
    ]
    if other:
        warnings.warn(
            f"The run started with {', '.join(other)}: its numbers may differ from those of an "
            "uninterrupted run.",
            stacklevel=4,
        )
    if differences:
        _write_json(directory / CONFIG, configs)
        manifest |= facts
    starts = [*manifest.get("resumed", []), here]
    _write_json(directory / MANIFEST, {**manifest, "resumed": starts})
    return RunDirectory(directory, manifest["run"], resumes=True)


def _differences(before: Any, now: Any, path: str = "") -> Iterator[str]:
    if isinstance(before, dict) and isinstance(now, dict):
        for name in {**before, **now}:
            if path != "training" or name not in MAY_DIFFER:
                inner = f"{path}.{name}".strip(".")
                yield from _differences(before.get(name), now.get(name), inner)
    elif before != now:
        if path.startswith("optimizer."):
            path = f"optimizer: {path.rpartition('.')[2]}"
        yield f"{path} was {json.dumps(before)} and is {json.dumps(now)}"


def _remove_run(directory: Path, log_dir: str | Path | None) -> None:
    try:
        name = _read_json(directory / MANIFEST).get("run")
    except UsageError:  # damaged, which is a reason to start again
        name = None
    for own in (MANIFEST, CONFIG, METRICS, COMPLETED, CHECKPOINTS, DAMAGED):
        path = directory / own
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)
    for events in Path(log_dir).glob(f"events.out.tfevents.*.{name}") if log_dir else ():
        events.unlink()


def _json(config: TrainingConfig | DistillationConfig) -> Any:
    """A config as JSON; functions become their names."""
    return json.loads(
        json.dumps(config.to_dict(), default=lambda value: re.sub(r" at 0x\w+", "", repr(value)))
    )


def _read_json(path: Path) -> dict[str, Any]:
    try:
        return dict(json.loads(path.read_text(encoding="utf-8")))
    except (ValueError, FileNotFoundError):
        raise UsageError(
            f"{path} is damaged: start again in another output_dir, or with "
            f"{setting('overwrite', True)}."
        ) from None


def _write_json(path: Path, value: Any) -> None:
    """Replaces a file atomically."""
    unfinished = path.with_name(path.name + ".tmp")
    unfinished.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")
    os.replace(unfinished, path)


_PACKAGES = ("jaxbrewer", "jax", "flax", "optax", "numpy")


def _environment() -> dict[str, Any]:
    packages = (*_PACKAGES[1:], "orbax-checkpoint")
    return {
        "jaxbrewer": __version__,
        "python": platform.python_version(),
        **{package: metadata.version(package) for package in packages},
        "started": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "command": sys.argv,
        "devices": [str(device) for device in jax.devices()],
        "processes": jax.process_count(),
    }
