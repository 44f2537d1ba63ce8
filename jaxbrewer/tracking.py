"""The run directory, and where scalars go: metrics.jsonl, TensorBoard, the terminal."""

import json
import platform
import shutil
import sys
import time
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, Self

import jax
import numpy as np
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from tensorboardX import SummaryWriter

from ._version import __version__
from .configs import DistillationConfig, TrainingConfig
from .errors import UsageError

LEAD = 2
"""So many updates the host may be ahead of the device."""

_OWN = ("checkpoints", "metrics.jsonl", "config.json", "manifest.json")


def open_run(
    config: TrainingConfig,
    distill_config: DistillationConfig | Mapping[str, DistillationConfig] | None,
    facts: Mapping[str, Any],
) -> Path | None:
    """Makes the run directory with ``config.json`` and ``manifest.json``.

    Args:
        config: Says where, and whether a run that is there may be replaced.
        distill_config: Saved beside it; a dict by task for several.
        facts: What the manifest says beyond versions, seed, command and devices.

    Returns:
        The directory, or ``None`` for ``output_dir=None``.

    Raises:
        UsageError: The directory holds a run and ``overwrite`` is off, or it cannot be written.
    """
    if config.output_dir is None:
        return None
    directory = Path(config.output_dir)
    try:
        if (directory / "manifest.json").exists():
            if not config.overwrite:
                raise UsageError(
                    f"output_dir {str(directory)!r} holds a run already: choose another, or set "
                    "overwrite=True in the TrainingConfig to replace it."
                )
            _remove_run(directory, config.log_dir)
        directory.mkdir(parents=True, exist_ok=True)
        configs = {"training": _json(config)}
        if isinstance(distill_config, Mapping):
            configs["tasks"] = {task: _json(config) for task, config in distill_config.items()}
        elif distill_config is not None:
            configs["distillation"] = _json(distill_config)
        _write_json(directory / "config.json", configs)
        _write_json(directory / "manifest.json", {**_environment(config), **facts})
    except OSError as error:
        reason = error.strerror or error
        raise UsageError(f"output_dir {str(directory)!r} cannot be written: {reason}.") from None
    return directory


def _remove_run(directory: Path, log_dir: str | Path | None) -> None:
    for name in _OWN:
        path = directory / name
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)
    for events in Path(log_dir).glob("events.out.tfevents.*") if log_dir else ():
        events.unlink()


def _json(config: TrainingConfig | DistillationConfig) -> Any:
    return json.loads(json.dumps(config.to_dict(), default=repr))


def _write_json(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")


def _environment(config: TrainingConfig) -> dict[str, Any]:
    packages = ("jax", "flax", "optax", "orbax-checkpoint", "numpy")
    return {
        "jaxbrewer": __version__,
        "python": platform.python_version(),
        **{package: metadata.version(package) for package in packages},
        "started": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "command": sys.argv,
        "seed": config.seed,
        "devices": [str(device) for device in jax.devices()],
        "processes": jax.process_count(),
    }


class Tracker:
    """Takes the scalars of every update and shows how far the training is.

    Scalars are read from the device in blocks, an update late, so that the device never waits for
    the host; they reach ``metrics.jsonl`` and TensorBoard (tags ``scalar/<name>``) when read.

    Args:
        directory: Where ``metrics.jsonl`` goes; ``None`` writes none.
        log_dir: Where TensorBoard's events go; ``None`` writes none.
        total_steps: Updates to come, for the progress bar.
        show: Whether to show progress at all: a bar on a terminal, else a line now and then.
    """

    _BLOCK, _SECONDS = 50, 1.0

    def __init__(
        self,
        directory: Path | None,
        log_dir: str | Path | None,
        total_steps: int,
        *,
        show: bool = True,
    ):
        is_writer = jax.process_index() == 0
        self._lines = (
            (directory / "metrics.jsonl").open("a", encoding="utf-8")
            if directory is not None and is_writer
            else None
        )
        self._events = SummaryWriter(str(log_dir)) if log_dir is not None and is_writer else None
        self._pending: list[_Update] = []
        self._last_read = time.monotonic()
        self._history: list[dict[str, float]] = []
        self._shown = _Progress(total_steps) if show and is_writer else None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            if kind is None:
                self.read()
        finally:
            if self._lines is not None:
                self._lines.close()
            if self._events is not None:
                self._events.close()
            if self._shown is not None:
                self._shown.close()

    def add(self, step: int, examples: int, metrics: dict[str, jax.Array]) -> None:
        """Takes the metrics of update ``step``, still on the device."""
        if len(self._pending) >= LEAD:
            jax.block_until_ready(self._pending[-LEAD].metrics)
        self._pending.append(_Update(step, examples, time.monotonic(), metrics))
        due = time.monotonic() - self._last_read >= self._SECONDS
        if due or len(self._pending) >= self._BLOCK:
            self._read(self._pending[:-LEAD])
            self._pending = self._pending[-LEAD:]

    def read(self) -> None:
        """Reads and writes everything that is still pending."""
        self._read(self._pending)
        self._pending = []

    def history(self) -> dict[str, np.ndarray]:
        """Every scalar read so far: one array per name, one entry per update.

        An update that did not have the scalar (one of another task) has NaN there.
        """
        names = dict.fromkeys(name for scalars in self._history for name in scalars)
        return {
            name: np.asarray([scalars.get(name, np.nan) for scalars in self._history])
            for name in names
        }

    def _read(self, block: list["_Update"]) -> None:
        self._last_read = time.monotonic()
        on_host = jax.device_get([update.metrics for update in block])
        for update, metrics in zip(block, on_host, strict=True):
            step = update.step
            scalars = {name: float(value) for name, value in metrics.items()}
            self._history.append({"step": step, **scalars})
            if self._lines is not None:
                self._lines.write(json.dumps({"step": step, **scalars}) + "\n")
            if self._events is not None:
                for name, value in scalars.items():
                    self._events.add_scalar(f"scalar/{name}", value, step)
            if self._shown is not None:
                self._shown.advance(update, scalars["total_loss"])
        if self._lines is not None:
            self._lines.flush()


class _Update(NamedTuple):
    """An update whose metrics are still on the device, and when it was handed to it."""

    step: int
    examples: int
    at: float
    metrics: dict[str, jax.Array]


class _Progress:
    """A bar on a terminal or in a notebook; elsewhere a line every ten seconds, and at the end."""

    _SECONDS = 10.0

    def __init__(self, total_steps: int):
        console = Console(stderr=True)
        self._total, self._loss, self._examples = total_steps, float("nan"), 0
        # Speed leaves out the compilation and the updates that the host is ahead of the device.
        self._left_out = LEAD
        self._first: _Update | None = None
        self._last: _Update | None = None
        self._last_line = time.monotonic()
        self._bar: Progress | None = None
        if console.is_terminal or console.is_jupyter:
            self._bar = Progress(
                TextColumn("training"),
                BarColumn(),
                MofNCompleteColumn(),
                TextColumn("{task.fields[shown]}"),
                TimeRemainingColumn(),
                console=console,
            )
            self._task = self._bar.add_task("", total=total_steps, shown="compiling")
            self._bar.start()

    def advance(self, update: _Update, loss: float) -> None:
        if self._left_out:
            self._left_out -= 1
        elif self._first is None:
            self._first = update
        else:
            self._examples += update.examples
        self._last, self._loss = update, loss
        if self._bar is not None:
            shown = f"loss {loss:.4f}  {self._speed():.0f} examples/s"
            self._bar.update(self._task, completed=update.step, shown=shown)
        elif self._examples and update.at - self._last_line >= self._SECONDS:
            self._line()

    def close(self) -> None:
        if self._bar is not None:
            self._bar.stop()
        elif self._last is not None:
            self._line()

    def _seconds(self) -> float:
        return self._last.at - self._first.at if self._last and self._first else 0.0

    def _speed(self) -> float:
        return self._examples / max(self._seconds(), 1e-9)

    def _line(self) -> None:
        assert self._last is not None
        self._last_line = self._last.at
        done = self._last.step - self._first.step if self._first else 0
        left = self._seconds() / max(done, 1) * (self._total - self._last.step)
        print(
            f"step {self._last.step}/{self._total}  loss {self._loss:.4f}  "
            f"{self._speed():.0f} examples/s  {left:.0f} s left",
            file=sys.stderr,
            flush=True,
        )
