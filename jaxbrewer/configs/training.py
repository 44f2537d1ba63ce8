"""How a training runs."""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path

from ..errors import UsageError
from ._base import Config, is_int
from .mesh import Rules, check_mesh, check_rules


@dataclasses.dataclass(frozen=True)
class TrainingConfig(Config):
    """How a training runs; see TextBrewer's class of the same name.

    Args:
        gradient_accumulation_steps: Batches of the loader that make one optimizer update.
        ckpt_frequency: Checkpoints in an epoch.
        ckpt_epoch_frequency: Checkpoints are made in every so many-th epoch, and in the last.
        ckpt_steps: With ``train(num_steps=...)``: updates between checkpoints, the two settings
            above then having no effect; ``None`` makes one checkpoint at the end.
        log_dir: Directory of the TensorBoard events; ``None`` writes none.
        output_dir: Directory of the run (checkpoints, configs, ``metrics.jsonl``); ``None``
            writes nothing to disk.
        device: ``"cpu"``, or an accelerator (``"cuda"``, ``"gpu"``, ``"tpu"``), which means the
            default device of JAX: the accelerator where there is one, else the CPU.
        fp16: Computes in half precision, as ``fp16_opt_level`` says.
        fp16_opt_level: ``"O0"`` to ``"O3"``, Apex's names; see :mod:`jaxbrewer.forward.precision`.
        data_parallel: Splits each batch over all devices; the mesh ``{"data": -1}``.
        local_rank: TextBrewer's rank under PyTorch's launcher. JAX finds the processes by itself
            (``jax.distributed.initialize``), so any value is accepted and none changes anything.
        seed: Seed of dropout, of new projections and of the shuffling of cached batches.
        half_dtype: The half precision of ``fp16``: ``"float16"`` or ``"bfloat16"``.
        overwrite: Whether a run may replace the one that ``output_dir`` holds.
        progress: Whether to show the progress of a training.
        mesh: Sizes of the axes ``"data"``, ``"fsdp"`` and ``"tensor"`` of the devices' mesh, -1
            for what is left: ``{"data": 2, "fsdp": -1}``. Batches are split over the first two;
            over ``"fsdp"`` weights and optimizer state are split as well, along the largest axis
            that divides. Empty: one device. Several processes always use a mesh of all devices.
        student_rules: ``[[pattern, axes], ...]``: which axis of a student's array is split over
            which axis of the mesh, such as ``["output/dense/kernel", ["tensor", null]]``. The
            pattern is a regular expression that is searched for in the weight's path, its names
            joined by ``/``; the first rule that matches holds. See
            :mod:`jaxbrewer.devices.sharding`.
        teacher_rules: The same for the teacher.
        local_batches: With several processes, each loader yields only its own process's rows of
            each batch, equally many in all. Otherwise all loaders yield the same whole batches, of
            which each process places its own rows.
        resume: Whether to go on with the run that ``output_dir`` holds, where it was left; without
            one, a run begins there.
        force_resume: Goes on even if config, models or data are not those of the interrupted run.
        keep_last: So many of the latest checkpoints are kept; ``None``, with the next two also
            ``None``, keeps all.
        keep_every: Every so many-th checkpoint is kept.
        keep_best: So many of the best checkpoints are kept, by ``best_metric``.
        best_metric: A name in what the callback returns, or of a metric of the update.
        best_mode: Whether the largest is the best (``"max"``) or the smallest (``"min"``).
        on_nonfinite: What follows when the loss or the gradient is not finite: ``"stop"`` ends the
            training with an error that tells where; ``"skip"`` leaves the update out. With a loss
            scale, such updates are left out in any case.
        cache_dir: Directory of a teacher cache, which stands in for the teacher; for several
            teachers a list, ``None`` for one that shall run.
        profile_steps: The first and the last update that ``jax.profiler`` traces, counted from 1;
            the trace goes to ``log_dir``, or else to ``output_dir``.

    Raises:
        UsageError: A value is out of range; the message names the field.

    Examples:
        >>> TrainingConfig(ckpt_frequency=2).ckpt_epoch_frequency
        1
        >>> TrainingConfig.from_dict({"ckpt_freqency": 2})
        Traceback (most recent call last):
        ...
        jaxbrewer.errors.UsageError: TrainingConfig has no field 'ckpt_freqency': did you mean...
    """

    gradient_accumulation_steps: int = 1
    ckpt_frequency: int = 1
    ckpt_epoch_frequency: int = 1
    ckpt_steps: int | None = None
    log_dir: str | Path | None = None
    output_dir: str | Path | None = "./saved_models"
    device: str = "cuda"
    fp16: bool = False
    fp16_opt_level: str = "O1"
    data_parallel: bool = False
    local_rank: int = -1
    seed: int = 0
    half_dtype: str = "float16"
    overwrite: bool = False
    progress: bool = True
    mesh: Mapping[str, int] = dataclasses.field(default_factory=dict)
    student_rules: Rules = ()
    teacher_rules: Rules = ()
    local_batches: bool = False
    resume: bool = False
    force_resume: bool = False
    keep_last: int | None = None
    keep_every: int | None = None
    keep_best: int | None = None
    best_metric: str | None = None
    best_mode: str = "max"
    on_nonfinite: str = "stop"
    cache_dir: str | Path | Sequence[str | Path | None] | None = None
    profile_steps: Sequence[int] | None = None

    def __post_init__(self) -> None:
        """Checks each field and makes paths plain text."""
        for field, minimum in (
            ("gradient_accumulation_steps", 1),
            ("ckpt_frequency", 0),
            ("ckpt_epoch_frequency", 1),
            ("seed", 0),
            ("local_rank", -1),
        ):
            self.require_number(field, minimum=minimum, whole=True)
        for field in ("ckpt_steps", "keep_last", "keep_every", "keep_best"):
            if getattr(self, field) is not None:
                self.require_number(field, minimum=1, whole=True)
        if self.keep_best is not None:
            named = isinstance(self.best_metric, str)
            self.require("best_metric", named, "the name of a metric, as keep_best is set")
        self.require("best_mode", self.best_mode in ("min", "max"), "'min' or 'max'")
        stops = self.on_nonfinite in ("stop", "skip")
        self.require("on_nonfinite", stops, "'stop' or 'skip'")
        for field in ("log_dir", "output_dir"):
            path = getattr(self, field)
            self.require(field, path is None or isinstance(path, (str, Path)), "a path or None")
            object.__setattr__(self, field, None if path is None else str(path))
        several = isinstance(self.cache_dir, (list, tuple))
        paths = tuple(self.cache_dir) if several else (self.cache_dir,)  # type: ignore[arg-type]
        holds = all(path is None or isinstance(path, (str, Path)) for path in paths)
        self.require("cache_dir", holds, "a path, a list of paths, or None")
        paths = tuple(None if path is None else str(path) for path in paths)
        object.__setattr__(self, "cache_dir", paths if several else paths[0])
        kind = str(self.device).split(":")[0]
        self.require("device", kind in ("cpu", "cuda", "gpu", "tpu"), "'cpu', 'cuda' or 'tpu'")
        levels = ("O0", "O1", "O2", "O3")
        self.require("fp16_opt_level", self.fp16_opt_level in levels, f"one of {levels}")
        halves = ("float16", "bfloat16")
        self.require("half_dtype", self.half_dtype in halves, f"one of {halves}")
        for field in (
            "fp16", "data_parallel", "overwrite", "progress", "local_batches",
            "resume", "force_resume",
        ):  # fmt: skip
            self.require(field, getattr(self, field) in (False, True), "true or false")
            object.__setattr__(self, field, bool(getattr(self, field)))
        check_mesh("TrainingConfig.mesh", self.mesh)
        self.freeze("mesh")
        axes = tuple(self.mesh) or (("data",) if self.data_parallel else ())
        for field in ("student_rules", "teacher_rules"):
            check_rules(f"TrainingConfig.{field}", getattr(self, field), axes)
            self.freeze(field)
        self._check_profile()

    def _check_profile(self) -> None:
        self.freeze("profile_steps")
        steps = self.profile_steps
        if steps is None:
            return
        holds = isinstance(steps, tuple) and len(steps) == 2 and all(map(is_int, steps))
        holds = holds and 1 <= steps[0] <= steps[1]
        self.require("profile_steps", holds, "two updates, [first, last], counted from 1")
        if self.log_dir is None and self.output_dir is None:
            raise UsageError("TrainingConfig.profile_steps needs a log_dir or an output_dir.")
