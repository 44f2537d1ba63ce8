"""How a training runs."""

import dataclasses
from pathlib import Path

from ._base import Config


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
        fp16_opt_level: ``"O0"`` to ``"O3"``, Apex's names; see :mod:`jaxbrewer.precision`.
        data_parallel: Splits each batch over all devices.
        local_rank: TextBrewer's rank under PyTorch's launcher. JAX finds the processes by itself
            (``jax.distributed.initialize``), so any value is accepted and none changes anything.
        seed: Seed of dropout, of new projections and of the shuffling of cached batches.
        half_dtype: The half precision of ``fp16``: ``"float16"`` or ``"bfloat16"``.
        overwrite: Whether a run may replace the one that ``output_dir`` holds.
        progress: Whether to show the progress of a training.

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
        if self.ckpt_steps is not None:
            self.require_number("ckpt_steps", minimum=1, whole=True)
        for field in ("log_dir", "output_dir"):
            path = getattr(self, field)
            self.require(field, path is None or isinstance(path, (str, Path)), "a path or None")
            object.__setattr__(self, field, None if path is None else str(path))
        kind = str(self.device).split(":")[0]
        self.require("device", kind in ("cpu", "cuda", "gpu", "tpu"), "'cpu', 'cuda' or 'tpu'")
        levels = ("O0", "O1", "O2", "O3")
        self.require("fp16_opt_level", self.fp16_opt_level in levels, f"one of {levels}")
        halves = ("float16", "bfloat16")
        self.require("half_dtype", self.half_dtype in halves, f"one of {halves}")
        for field in ("fp16", "data_parallel", "overwrite", "progress"):
            self.require(field, getattr(self, field) in (False, True), "true or false")
            object.__setattr__(self, field, bool(getattr(self, field)))
