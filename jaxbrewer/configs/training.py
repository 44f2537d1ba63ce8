"""How a training runs."""

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import field
from pathlib import Path
from typing import Any

from ..errors import UsageError, shown, suggest
from ._base import LARGEST_SEED, Config, is_int
from .mesh import Rules, check_mesh, check_rules


@dataclasses.dataclass(frozen=True)
class TrainingConfig(Config):
    """How a training runs; see TextBrewer's class of the same name.

    TextBrewer's fields may be given by position, in its order; the others only by name.

    Raises:
        UsageError: A value is out of range; the message names the field.

    Examples:
        >>> TrainingConfig(ckpt_frequency=2).ckpt_epoch_frequency
        1
        >>> TrainingConfig(ckpt_freqency=2)
        Traceback (most recent call last):
        ...
        jaxbrewer.errors.UsageError: TrainingConfig has no field 'ckpt_freqency': did you mean...
    """

    # Optimization

    gradient_accumulation_steps: int = 1
    """Batches of the loader in one optimizer step."""

    seed: int = field(default=0, kw_only=True)
    """Seed of dropout, of new projections and of the shuffling of cached batches; 32 bits."""

    on_nonfinite: str = field(default="stop", kw_only=True)
    """What happens when the loss or the gradient is not finite: ``"stop"`` ends the training with
    an error that names the array; ``"skip"`` skips the step. Loss scaling always skips."""

    # Checkpoints

    ckpt_frequency: int = 1
    """Checkpoints in an epoch."""

    ckpt_epoch_frequency: int = 1
    """Epochs between those that have checkpoints; the last epoch always has."""

    ckpt_steps: int | None = None
    """With ``train(num_steps=...)``: steps between checkpoints, instead of the two fields above;
    ``None`` saves once, at the end."""

    keep_last: int | None = field(default=None, kw_only=True)
    """Latest checkpoints to keep; ``None``, with the next two also ``None``, keeps all."""

    keep_every: int | None = field(default=None, kw_only=True)
    """Also keeps every n-th checkpoint."""

    keep_best: int | None = field(default=None, kw_only=True)
    """Also keeps the n best checkpoints by ``best_metric``."""

    best_metric: str | None = field(default=None, kw_only=True)
    """A name in what the callback returns, or of a metric of the step."""

    best_mode: str = field(default="max", kw_only=True)
    """Whether the largest (``"max"``) or the smallest (``"min"``) metric is the best."""

    patience: int | None = field(default=None, kw_only=True)
    """Ends the training after this many checkpoints in a row whose ``best_metric`` is no better
    than an earlier one's; ``None`` never does."""

    # The run: its directories, how it resumes, what it logs

    log_dir: str | Path | None = None
    """Directory of the TensorBoard events; ``None`` writes none."""

    trackers: Sequence[str | Any] = field(default=(), kw_only=True)
    """Trackers beside TensorBoard's ``log_dir``: ``"mlflow"``, ``"trackio"`` or ``"wandb"``, each
    an extra of the package; in Python also an object of your own, a
    :class:`~jaxbrewer.run.trackers.Writer`. ``"tensorboard"`` may be named with a ``log_dir``."""

    output_dir: str | Path | None = "./saved_models"
    """Directory of the run (checkpoints, configs, ``metrics.jsonl``); ``None`` writes nothing."""

    overwrite: bool = field(default=False, kw_only=True)
    """Whether a new run may replace the one in ``output_dir``."""

    resume: bool = field(default=False, kw_only=True)
    """Resumes the run in ``output_dir`` at its latest checkpoint, or starts one there."""

    force_resume: bool = field(default=False, kw_only=True)
    """Resumes even if config, models or data differ from those of the interrupted run."""

    progress: bool = field(default=True, kw_only=True)
    """Whether to show progress on the terminal."""

    profile_steps: Sequence[int] | None = field(default=None, kw_only=True)
    """First and last step, counted from 1, that ``jax.profiler`` traces into ``log_dir``, else
    ``output_dir``."""

    compilation_cache: bool | str | Path | None = field(default=None, kw_only=True)
    """Where JAX keeps compiled programs for later processes: a directory, or true for
    ``~/.cache/jaxbrewer/compiled``; false keeps none. ``None`` leaves JAX's own setting as it is,
    and is true on the command line. Applies to the whole process."""

    cache_dir: str | Path | Sequence[str | Path | None] | None = field(default=None, kw_only=True)
    """Directory of a teacher cache that replaces the teacher. Several teachers need a list, with
    ``None`` for each teacher that runs."""

    # Device and precision

    device: str = "cuda"
    """``"cpu"``, or an accelerator (``"cuda"``, ``"gpu"``, ``"tpu"``), which means JAX's default
    device: the accelerator where there is one, else the CPU."""

    teacher_device: str | Sequence[str] | None = field(default=None, kw_only=True)
    """Other devices of this process for the teacher, ``"cuda:1"`` or ``["cuda:1", "cuda:2"]``. It
    computes its outputs for the next batches there while the student's device computes a step;
    several devices are a mesh ``{"fsdp": n}``. ``None`` runs the teacher in the student's step."""

    fp16: bool = False
    """Computes in half precision, as ``fp16_opt_level`` says."""

    fp16_opt_level: str = "O1"
    """``"O0"`` to ``"O3"``, Apex's names; see :mod:`jaxbrewer.forward.precision`."""

    half_dtype: str = field(default="float16", kw_only=True)
    """The half precision of ``fp16``: ``"float16"`` or ``"bfloat16"``."""

    teacher_products: str | None = field(default=None, kw_only=True)
    """Dtype of the teacher's matrix products, ``"float16"`` or ``"bfloat16"``, as in ``"O1"``,
    whatever the precision of the student; ``None`` for the precision of ``fp16``."""

    # Several devices and processes

    data_parallel: bool = False
    """Splits each batch over all devices; the mesh ``{"data": -1}``."""

    local_rank: int = -1
    """TextBrewer's rank under PyTorch's launcher. Any value is accepted and none has an effect: JAX
    finds its processes itself (``jax.distributed.initialize``)."""

    mesh: Mapping[str, int] = field(default_factory=dict, kw_only=True)
    """Sizes of the axes ``"data"``, ``"fsdp"`` and ``"tensor"`` of the device mesh, -1 for the
    rest: ``{"data": 2, "fsdp": -1}``. Batches are split over the first two. Over ``"fsdp"``,
    weights and optimizer state are split as well, along the largest axis that divides. Empty:
    one device. Several processes always use a mesh of all devices."""

    student_rules: Rules = field(default=(), kw_only=True)
    """Sharding rules of the student, ``[[pattern, axes], ...]``: which axis of an array is split
    over which axis of the mesh, such as ``["output/dense/kernel", ["tensor", null]]``. The pattern
    is a regular expression, searched for in the path of the weight (names joined by ``/``); the
    first rule that matches applies. See :mod:`jaxbrewer.devices.sharding`."""

    teacher_rules: Rules = field(default=(), kw_only=True)
    """Sharding rules of the teacher."""

    local_batches: bool = field(default=False, kw_only=True)
    """With several processes: each loader yields only the rows of its own process, equally many
    everywhere. Otherwise all loaders yield the same whole batches, and each process places its own
    rows on its devices."""

    def __post_init__(self) -> None:
        """Checks each field and converts paths to strings."""
        for name, minimum in (
            ("gradient_accumulation_steps", 1),
            ("ckpt_frequency", 0),
            ("ckpt_epoch_frequency", 1),
            ("local_rank", -1),
        ):
            self.require_number(name, minimum=minimum, whole=True)
        self.require_number("seed", minimum=0, maximum=LARGEST_SEED, whole=True)
        for name in ("ckpt_steps", "keep_last", "keep_every", "keep_best", "patience"):
            if getattr(self, name) is not None:
                self.require_number(name, minimum=1, whole=True)
        named = self.best_metric is None or isinstance(self.best_metric, str)
        self.require("best_metric", named, "the name of a metric or None")
        for name in ("keep_best", "patience"):
            if getattr(self, name) is not None:
                named = self.best_metric is not None
                self.require("best_metric", named, f"the name of a metric, as {name} is set")
        self.require_choice("best_mode", ("min", "max"))
        self.require_choice("on_nonfinite", ("stop", "skip"))
        self._check_paths()
        if self.patience is not None:
            has_directory = self.output_dir is not None
            self.require("output_dir", has_directory, "a directory, as patience is set")
        is_known = isinstance(self.device, str) and self.device.split(":")[0] in DEVICES
        self.require("device", is_known, "'cpu', 'cuda', 'gpu' or 'tpu'")
        self.require_choice("fp16_opt_level", ("O0", "O1", "O2", "O3"))
        self.require_choice("half_dtype", ("float16", "bfloat16"))
        if self.teacher_products is not None:
            self.require_choice("teacher_products", ("float16", "bfloat16"))
        for name in (
            "fp16", "data_parallel", "overwrite", "progress", "local_batches",
            "resume", "force_resume",
        ):  # fmt: skip
            self.require_flag(name)
        check_mesh("TrainingConfig.mesh", self.mesh)
        self.freeze("mesh")
        axes = tuple(self.mesh) or (("data",) if self.data_parallel else ())
        self._check_teacher_device()
        axes_of_teacher = axes if self.teacher_device is None else ("fsdp",)
        for name, own in (("student_rules", axes), ("teacher_rules", axes_of_teacher)):
            check_rules(f"TrainingConfig.{name}", getattr(self, name), own)
            self.freeze(name)
        self._check_profile()
        self._check_trackers()

    def _check_paths(self) -> None:
        for name in ("log_dir", "output_dir"):
            path = getattr(self, name)
            self.require(name, path is None or is_path(path), "a path or None")
            object.__setattr__(self, name, None if path is None else str(path))
        where = self.compilation_cache
        holds = where is None or isinstance(where, bool) or is_path(where)
        self.require("compilation_cache", holds, "true, false, a path or None")
        if isinstance(where, Path):
            object.__setattr__(self, "compilation_cache", str(where))
        several = isinstance(self.cache_dir, (list, tuple))
        paths = tuple(self.cache_dir) if several else (self.cache_dir,)  # type: ignore[arg-type]
        holds = all(path is None or is_path(path) for path in paths)
        self.require("cache_dir", holds, "a path, a list of paths, or None")
        paths = tuple(None if path is None else str(path) for path in paths)
        object.__setattr__(self, "cache_dir", paths if several else paths[0])

    def _check_teacher_device(self) -> None:
        given = self.teacher_device
        if given is None:
            return
        names = (given,) if isinstance(given, str) else given
        is_list = isinstance(names, (list, tuple)) and len(names) > 0
        allowed = "a device such as 'cuda:1', a list of these, or None"
        self.require("teacher_device", is_list and all(map(_is_device, names)), allowed)
        if not isinstance(given, str):
            self.freeze("teacher_device")
        if self.cache_dir is not None:
            raise UsageError(
                f"TrainingConfig.teacher_device is {given!r}, but the teacher's outputs come from "
                "cache_dir: leave out one of them."
            )
        if self.teacher_rules and len(names) == 1:
            raise UsageError(
                f"TrainingConfig.teacher_rules split the teacher, but teacher_device is {given!r}: "
                "name several devices, or leave out the rules."
            )

    def _check_profile(self) -> None:
        self.freeze("profile_steps")
        steps = self.profile_steps
        if steps is None:
            return
        holds = isinstance(steps, tuple) and len(steps) == 2 and all(map(is_int, steps))
        holds = holds and 1 <= steps[0] <= steps[1]
        self.require("profile_steps", holds, "two steps, [first, last], counted from 1")
        if self.log_dir is None and self.output_dir is None:
            raise UsageError("TrainingConfig.profile_steps needs a log_dir or an output_dir.")

    def _check_trackers(self) -> None:
        if isinstance(self.trackers, str):
            object.__setattr__(self, "trackers", (self.trackers,))
        self.freeze("trackers")
        allowed = f"a list of {', '.join(map(repr, TRACKER_NAMES))}, or objects with write_scalars"
        self.require("trackers", isinstance(self.trackers, tuple), allowed)
        for tracker in self.trackers:
            is_known = tracker in TRACKER_NAMES if isinstance(tracker, str) else _is_writer(tracker)
            if not is_known:
                names = suggest(tracker, TRACKER_NAMES)
                raise UsageError(
                    f"TrainingConfig.trackers has no tracker {shown(tracker)}: {names}"
                )
        if "tensorboard" in self.trackers and self.log_dir is None:
            raise UsageError("TrainingConfig.trackers has 'tensorboard', which needs a log_dir.")


TRACKER_NAMES = ("tensorboard", "mlflow", "trackio", "wandb")

DEVICES = ("cpu", "cuda", "gpu", "tpu")


def _is_device(name: object) -> bool:
    """Whether this is the name of a kind of devices, with the number of one or without."""
    kind, colon, number = name.partition(":") if isinstance(name, str) else ("", "", "")
    is_numbered = number.isascii() and number.isdecimal()
    return kind in DEVICES and is_numbered == bool(colon)


def is_path(value: object) -> bool:
    """Whether a value can be the path of a file: text that is not empty, or a ``Path``; no NUL."""
    return isinstance(value, (str, Path)) and value != "" and "\0" not in str(value)


def _is_writer(value: object) -> bool:
    """Whether an object has the methods of a :class:`~jaxbrewer.run.trackers.Writer`."""
    methods = ("write_settings", "write_scalars", "close")
    return all(callable(getattr(value, method, None)) for method in methods)
