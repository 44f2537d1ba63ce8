"""The directory of a run: its configs and manifest, and whether a training may resume in it."""

import contextlib
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
from types import TracebackType
from typing import Any, NotRequired, Self, TypeAlias, TypedDict

import jax

from .._version import __version__
from ..cache.database import require_addressable
from ..configs import DistillationConfig, TrainingConfig
from ..devices.processes import broadcast_json
from ..errors import UsageError, escaped, reason_of, setting
from ..json_files import is_there, read_json, write_json
from .checkpoint_store import CHECKPOINTS, DAMAGED
from .lock import DirectoryLock
from .logs import event_files
from .results import RESULTS
from .step_log import METRICS

CONFIG, MANIFEST, COMPLETED = "config.json", "manifest.json", "checkpoints.jsonl"

MAY_DIFFER = frozenset(
    {
        "log_dir", "trackers", "output_dir", "cache_dir", "compilation_cache", "progress",
        "overwrite", "resume", "force_resume",
        "device", "teacher_device", "data_parallel", "local_rank",
        "mesh", "student_rules", "teacher_rules", "local_batches", "profile_steps",
        "ckpt_frequency", "ckpt_epoch_frequency", "ckpt_steps",
        "keep_last", "keep_every", "keep_best", "best_metric", "best_mode", "patience",
        "on_nonfinite",
    }
)  # fmt: skip
"""Settings that may change when a run resumes, since they do not change what is computed."""

DistillConfigs: TypeAlias = DistillationConfig | Mapping[str, DistillationConfig] | None

_NAME = re.compile("[0-9a-f]{12}")
_PACKAGES = ("jaxbrewer", "jax", "flax", "optax", "numpy")


class RunManifest(TypedDict):
    """What every ``manifest.json`` has; versions, devices and facts are further entries.

    Attributes:
        run: The name of the run.
        resumed: The environment of each time that it was resumed.
    """

    run: str
    resumed: NotRequired[list[dict[str, Any]]]


@dataclasses.dataclass(frozen=True)
class RunDirectory:
    """A run that has a directory, which it holds as a context manager.

    A new run that ends with an error before it has anything to keep, such as a first step that does
    not compile, removes its manifest, so that the corrected training may use the directory.

    Attributes:
        directory: Where it writes.
        name: A random identifier, which the names of its TensorBoard files end in.
        resumes: Whether it continues the run that the directory holds.
        log_dir: The directory of its TensorBoard files.
        lock: Excludes other trainings; ``None`` in processes other than the first.
    """

    directory: Path
    name: str
    resumes: bool = False
    log_dir: str | Path | None = None
    lock: DirectoryLock | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self.lock is None:
            return
        if kind is not None and not self.resumes and not _remains_of(self.directory):
            with contextlib.suppress(OSError, UsageError):
                _remove_new_run(self.directory, self.name, self.log_dir)
        self.lock.release()


def open_run(
    config: TrainingConfig,
    distill_config: DistillConfigs,
    facts: Mapping[str, Any],
) -> RunDirectory | None:
    """Makes the run directory with ``config.json`` and ``manifest.json``, or opens it to resume.

    With several processes, the first one does so and holds the lock.

    Args:
        config: ``output_dir``, and whether to resume or replace the run that it holds.
        distill_config: Saved with ``config``; a dict by task for several.
        facts: Entries of the manifest beyond versions, seed, command and devices. A run resumes
            only under the same facts.

    Returns:
        The run, or ``None`` for ``output_dir=None``.

    Raises:
        UsageError: The directory holds a run that may not be replaced, or a different one; another
            training uses it; or a directory cannot be written.
    """
    if config.output_dir is None:
        if config.resume:
            raise UsageError(f"{setting('resume', True)} needs the output_dir of the run.")
        return None
    if jax.process_count() == 1:
        return _open(config, distill_config, facts)
    run, answer = None, {}
    if jax.process_index() == 0:
        try:
            run = _open(config, distill_config, facts)
            answer = {"name": run.name, "resumes": run.resumes}
        except UsageError as error:
            answer = {"error": str(error)}
    answer = broadcast_json(answer)
    if "error" in answer:
        raise UsageError(answer["error"])
    return run or RunDirectory(Path(config.output_dir), log_dir=config.log_dir, **answer)


def _open(
    config: TrainingConfig, distill_config: DistillConfigs, facts: Mapping[str, Any]
) -> RunDirectory:
    directory = Path(str(config.output_dir))
    configs = configs_as_json(config, distill_config)
    facts = json.loads(json.dumps(facts))
    _make_directory("output_dir", directory)
    require_addressable(directory)
    if config.log_dir is not None:
        _make_directory("log_dir", Path(config.log_dir))
    lock = DirectoryLock(directory)
    try:
        holds_run = is_there(directory / MANIFEST)
        if holds_run and config.resume:
            name = _resume(directory, config, configs, facts)
        else:
            name = _start(directory, config, configs, facts)
        return RunDirectory(directory, name, holds_run and config.resume, config.log_dir, lock)
    except OSError as error:
        lock.release()
        reason = reason_of(error)
        raise UsageError(f"output_dir {str(directory)!r} cannot be written: {reason}.") from None
    except BaseException:
        lock.release()
        raise


def configs_as_json(config: TrainingConfig, distill_config: DistillConfigs) -> dict[str, Any]:
    """The content of ``config.json``; functions and other objects become their names."""
    configs = {"training": _json(config)}
    if isinstance(distill_config, Mapping):
        configs["tasks"] = {task: _json(config) for task, config in distill_config.items()}
    elif distill_config is not None:
        configs["distillation"] = _json(distill_config)
    return configs


def _start(
    directory: Path, config: TrainingConfig, configs: dict[str, Any], facts: Mapping[str, Any]
) -> str:
    """Starts a run, after removing the one that it replaces; returns its name."""
    found = [MANIFEST] if is_there(directory / MANIFEST) else _remains_of(directory)
    if found and not config.overwrite:
        if found != [MANIFEST]:
            raise UsageError(
                f"output_dir {str(directory)!r} holds {' and '.join(found)} of a run without its "
                f"{MANIFEST}: choose another, or replace it with {setting('overwrite', True)}."
            )
        raise UsageError(
            f"output_dir {str(directory)!r} already holds a run: choose another, resume it with "
            f"{setting('resume', True)}, or replace it with {setting('overwrite', True)}."
        )
    if found:
        _remove_run(directory, _name_of_run(directory), config.log_dir)
    name = uuid.uuid4().hex[:12]
    write_json(directory / CONFIG, configs)
    write_json(directory / MANIFEST, {"run": name, "seed": config.seed, **environment(), **facts})
    return name


def _resume(
    directory: Path, config: TrainingConfig, configs: dict[str, Any], facts: Mapping[str, Any]
) -> str:
    """Checks that the directory holds this run; returns its name."""
    manifest, saved = _read_run(directory)
    compared = list(facts)
    if manifest.get("optax") != metadata.version("optax"):
        compared.remove("optimizer")  # described by the names of optax's own functions
    before, now = ({name: known.get(name) for name in compared} for known in (manifest, facts))
    # an optimizer's closures hold the same setting several times
    differences = list(dict.fromkeys((*_differences(saved, configs), *_differences(before, now))))
    if differences and not config.force_resume:
        more = f", and {len(differences) - 5} more" if len(differences) > 5 else ""
        raise UsageError(
            f"output_dir {str(directory)!r} holds a different run: {'; '.join(differences[:5])}"
            f"{more}. Resume with the original settings, or with {setting('force_resume', True)}."
        )
    here = environment()
    other = [
        f"{name} {manifest.get(name)}, now {here[name]}"
        for name in _PACKAGES
        if manifest.get(name) != here[name]
    ]
    if other:
        started_with = escaped(", ".join(other))
        warnings.warn(
            f"The run started with {started_with}: its numbers may differ from those of an "
            "uninterrupted run.",
            stacklevel=5,
        )
    if differences:
        write_json(directory / CONFIG, configs)
        manifest |= facts
    starts = [*manifest.get("resumed", []), here]
    write_json(directory / MANIFEST, {**manifest, "resumed": starts})
    return str(manifest["run"])


def _read_run(directory: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """The manifest and the saved configs."""
    try:
        manifest = dict(read_json(directory / MANIFEST, RunManifest))
        if not _NAME.fullmatch(str(manifest["run"])):
            raise UsageError(f"{directory / MANIFEST}: run cannot be {manifest['run']!r}.")
        return manifest, read_json(directory / CONFIG, dict)
    except UsageError as error:
        raise UsageError(
            f"{error} Start again in another output_dir, or with {setting('overwrite', True)}."
        ) from None


def _name_of_run(directory: Path) -> str | None:
    """The name of the run that a directory holds; ``None`` if its manifest is damaged."""
    try:
        name = read_json(directory / MANIFEST, RunManifest)["run"]
    except UsageError:
        return None
    return name if _NAME.fullmatch(name) else None


def _differences(before: Any, now: Any, path: str = "") -> Iterator[str]:
    if isinstance(before, dict) and isinstance(now, dict):
        for name in {**before, **now}:
            if path != "training" or name not in MAY_DIFFER:
                inner = f"{path}.{name}".strip(".")
                yield from _differences(before.get(name), now.get(name), inner)
    elif before != now:
        if path.startswith("optimizer."):
            path = f"optimizer: {path.rpartition('.')[2]}"
        yield f"{path} was {_short(before)} and is {_short(now)}"


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 80 else f"{text[:77]}..."


def _remains_of(directory: Path) -> list[str]:
    """The files of a run that hold something."""
    held = [name for name in (METRICS, COMPLETED) if _size_of(directory / name)]
    kept = [name for name in (CHECKPOINTS, DAMAGED) if any(_entries_of(directory / name))]
    return held + kept


def _size_of(path: Path) -> int:
    return path.stat().st_size if path.is_file() else 0


def _entries_of(path: Path) -> Iterator[Path]:
    return path.iterdir() if path.is_dir() else iter(())


def _remove_run(directory: Path, name: str | None, log_dir: str | Path | None) -> None:
    """Removes what a run wrote, its manifest last: a removal that is interrupted is noticed."""
    for own in (CHECKPOINTS, DAMAGED, METRICS, COMPLETED, RESULTS, CONFIG):
        path = directory / own
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)
    _remove_events(name, log_dir)
    (directory / MANIFEST).unlink(missing_ok=True)


def _remove_new_run(directory: Path, name: str, log_dir: str | Path | None) -> None:
    """Removes what a run wrote that has nothing to keep."""
    _remove_events(name, log_dir)
    for own in (CONFIG, MANIFEST):
        (directory / own).unlink(missing_ok=True)


def _remove_events(name: str | None, log_dir: str | Path | None) -> None:
    if name is not None and log_dir is not None:
        for path in event_files(log_dir, name):
            path.unlink()


def _make_directory(field: str, path: Path) -> None:
    """Makes a directory that can be written, before anything of a run is."""
    try:
        path.mkdir(parents=True, exist_ok=True)
        reason = None if os.access(path, os.W_OK | os.X_OK) else "no permission to write"
    except (OSError, ValueError) as error:
        reason = "it is a link to a missing directory" if _is_dangling(path) else reason_of(error)
    if reason is not None:
        raise UsageError(f"{field} {str(path)!r} cannot be written: {reason}.")


def _is_dangling(path: Path) -> bool:
    try:
        return any(part.is_symlink() and not part.exists() for part in (path, *path.parents))
    except (OSError, ValueError):
        return False


def _json(config: TrainingConfig | DistillationConfig) -> Any:
    """A config as JSON; functions become their names."""
    return json.loads(
        json.dumps(config.to_dict(), default=lambda value: re.sub(r" at 0x\w+", "", repr(value)))
    )


def environment() -> dict[str, Any]:
    """Versions, time, command and devices of this process."""
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
