"""TextBrewer's two configs as frozen dataclasses, with lossless dict and JSON forms.

Building a config checks every field it can check alone and nothing else: no directory is made, no
device is touched, and JAX is not imported. Lists become tuples, so that a config cannot change
under a running training.
"""

import dataclasses
import json
import math
import numbers
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Self

from .errors import UsageError, suggest
from .registry import (
    FEATURES,
    KD_LOSS_MAP,
    MATCH_LOSS_MAP,
    PROJ_MAP,
    TEMPERATURE_SCHEDULER,
    WEIGHT_SCHEDULER,
)

ScheduleSpec = str | Mapping[str, Any] | Callable[..., Any]
"""``"none"``, a name of ``WEIGHT_SCHEDULER``, ``{"schedule": <optax name>, ...}`` or a function
of the optimizer update."""

TemperatureSpec = str | Sequence[Any] | Callable[..., Any]
"""``"none"``, ``"constant"``, ``["flsw", beta, gamma]``, ``["cwsm", beta]`` or a rule."""


class Config:
    """Reading, writing and checking that all configs share."""

    @classmethod
    def from_dict(cls, dict_object: Mapping[str, Any]) -> Self:
        """Builds the config from a dict; unknown keys raise :class:`UsageError`."""
        if not isinstance(dict_object, Mapping):
            raise UsageError(f"{cls.__name__} must be a mapping, got {dict_object!r}.")
        names = [field.name for field in dataclasses.fields(cls)]  # type: ignore[arg-type]
        for key in dict_object:
            if key not in names:
                raise UsageError(f"{cls.__name__} has no field {key!r}: {suggest(key, names)}")
        try:
            return cls(**dict_object)
        except TypeError as error:  # a required field is missing
            message = str(error).removeprefix(f"{cls.__name__}.__init__() ")
            raise UsageError(f"{cls.__name__} is {message}.") from None

    @classmethod
    def from_json_file(cls, json_filename: str | Path) -> Self:
        """Builds the config from a JSON file; TextBrewer's own files load as they are."""
        try:
            return cls.from_dict(json.loads(Path(json_filename).read_text(encoding="utf-8")))
        except OSError as error:
            raise UsageError(f"{json_filename}: {error.strerror or error}.") from None
        except json.JSONDecodeError as error:
            raise UsageError(f"{json_filename} is not valid JSON: {error}.") from None

    def to_dict(self) -> dict[str, Any]:
        """The fields as plain values; ``from_dict`` gives the same config back.

        A function that was given as a schedule stays a function.
        """
        return {
            field.name: _plain(getattr(self, field.name))
            for field in dataclasses.fields(self)  # type: ignore[arg-type]
        }

    def to_json(self, *, indent: int | None = 2) -> str:
        """The config as JSON text.

        Raises:
            UsageError: A field holds a function, which JSON cannot; name it with
                :func:`register_new` and use the name.
        """
        name = type(self).__name__

        def refuse(value: object) -> None:
            raise UsageError(
                f"{name} holds the function {value!r}, which JSON cannot: give it a name with "
                "register_new and use the name."
            )

        return json.dumps(self.to_dict(), indent=indent, default=refuse)

    def to_json_file(self, json_filename: str | Path) -> None:
        """Writes :meth:`to_json` to a file."""
        Path(json_filename).write_text(self.to_json() + "\n", encoding="utf-8")

    def _require(self, field: str, holds: bool, allowed: str) -> None:
        if not holds:
            given = getattr(self, field)
            raise UsageError(f"{type(self).__name__}.{field} must be {allowed}, got {given!r}.")

    def _require_number(
        self, field: str, *, minimum: float | None = None, whole: bool = False
    ) -> None:
        value = getattr(self, field)
        holds = _is_int(value) if whole else _is_number(value)
        kind = "an int" if whole else "a finite number"
        bound = "" if minimum is None else f" >= {minimum}"
        self._require(field, holds and (minimum is None or value >= minimum), kind + bound)

    def _nest(self, field: str, cls: "type[Config]") -> None:
        """Builds a section from a mapping; ``None`` is the section's default."""
        value = getattr(self, field)
        if not isinstance(value, cls):
            try:
                object.__setattr__(self, field, cls.from_dict({} if value is None else value))
            except UsageError as error:
                raise UsageError(f"{field}: {error}") from None

    def _freeze(self, field: str) -> None:
        object.__setattr__(self, field, _frozen(getattr(self, field)))


def _plain(value: Any) -> Any:
    if isinstance(value, Config):
        return value.to_dict()
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return value


def _frozen(value: Any) -> Any:
    """A deep copy with tuples for lists, so that nobody else's list can change it."""
    if isinstance(value, Mapping):
        return {key: _frozen(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return tuple(_frozen(item) for item in value)
    return value


def _is_int(value: Any) -> bool:
    return isinstance(value, numbers.Integral) and not isinstance(value, bool)


def _is_number(value: Any) -> bool:
    return (
        isinstance(value, numbers.Real)
        and not isinstance(value, bool)
        and math.isfinite(float(value))
    )


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
            self._require_number(field, minimum=minimum, whole=True)
        if self.ckpt_steps is not None:
            self._require_number("ckpt_steps", minimum=1, whole=True)
        for field in ("log_dir", "output_dir"):
            path = getattr(self, field)
            self._require(field, path is None or isinstance(path, (str, Path)), "a path or None")
            object.__setattr__(self, field, None if path is None else str(path))
        kind = str(self.device).split(":")[0]
        self._require("device", kind in ("cpu", "cuda", "gpu", "tpu"), "'cpu', 'cuda' or 'tpu'")
        levels = ("O0", "O1", "O2", "O3")
        self._require("fp16_opt_level", self.fp16_opt_level in levels, f"one of {levels}")
        halves = ("float16", "bfloat16")
        self._require("half_dtype", self.half_dtype in halves, f"one of {halves}")
        for field in ("fp16", "data_parallel", "overwrite", "progress"):
            self._require(field, isinstance(getattr(self, field), (bool, int)), "true or false")
            object.__setattr__(self, field, bool(getattr(self, field)))


@dataclasses.dataclass(frozen=True)
class IntermediateMatch(Config):
    """One entry of ``intermediate_matches``: a student layer imitates a teacher layer.

    Args:
        layer_T: Index into the teacher adaptor's ``feature`` list; negative counts from the end.
            A list of two for ``fsp`` (``gram``) and ``mmd`` (``nst``).
        layer_S: The same for the student.
        weight: Weight of the loss in the total.
        loss: A name of ``MATCH_LOSS_MAP``.
        feature: ``"hidden"`` or ``"attention"``, or a registered feature.
        proj: ``[activation, student width, teacher width]``, and optionally a dict of optimizer
            settings (``{"lr": 1e-3}``) for this projection.
        weight_scheduler: Replaces ``weight`` by a schedule; see :class:`DistillationConfig`.

    Raises:
        UsageError: A field cannot be used; the message names it.
    """

    layer_T: int | Sequence[int]
    layer_S: int | Sequence[int]
    weight: float
    loss: str
    feature: str
    proj: Sequence[Any] | None = None
    weight_scheduler: ScheduleSpec = "none"

    def __post_init__(self) -> None:
        """Checks each field and turns lists into tuples."""
        for field in ("layer_T", "layer_S", "proj", "weight_scheduler"):
            self._freeze(field)
        for field in ("layer_T", "layer_S"):
            value = getattr(self, field)
            indices = value if isinstance(value, tuple) else (value,)
            holds = bool(indices) and all(_is_int(index) for index in indices)
            self._require(field, holds, "an int or a list of ints")
        if isinstance(self.layer_T, tuple) != isinstance(self.layer_S, tuple):
            raise UsageError(
                "IntermediateMatch.layer_T and layer_S must both be ints or both lists, got "
                f"{_plain(self.layer_T)!r} and {_plain(self.layer_S)!r}."
            )
        pair = isinstance(self.layer_T, tuple)
        if self.loss in ("fsp", "gram", "mmd", "nst"):
            self._require("layer_T", pair and len(self.layer_T) == 2, "a list of two layers")  # type: ignore[arg-type]
            self._require("layer_S", pair and len(self.layer_S) == 2, "a list of two layers")  # type: ignore[arg-type]
        self._require_number("weight")
        _require_row("IntermediateMatch.loss", self.loss, MATCH_LOSS_MAP)
        _require_row("IntermediateMatch.feature", self.feature, FEATURES)
        _check_schedule("IntermediateMatch.weight_scheduler", self.weight_scheduler)
        if self.proj is not None:
            self._check_projection(tuple(self.proj))

    def _check_projection(self, proj: tuple[Any, ...]) -> None:
        allowed = "[activation, student width, teacher width] and optionally a dict of settings"
        self._require("proj", len(proj) in (3, 4), allowed)
        _require_row("IntermediateMatch.proj[0]", proj[0], PROJ_MAP)
        self._require("proj", all(_is_int(w) and w > 0 for w in proj[1:3]), allowed)
        self._require("proj", len(proj) == 3 or isinstance(proj[3], Mapping), allowed)

    @property
    def name(self) -> str:
        """The loss's name in metrics, TextBrewer's: ``hidden_hidden_mse_3_10`` (S, then T).

        Examples:
            >>> match = {"layer_T": 10, "layer_S": 3, "feature": "hidden", "loss": "hidden_mse"}
            >>> IntermediateMatch(**match, weight=1).name
            'hidden_hidden_mse_3_10'
        """
        layers = [
            "-".join(map(str, layer)) if isinstance(layer, tuple) else str(layer)
            for layer in (self.layer_S, self.layer_T)
        ]
        return "_".join([self.feature, self.loss, *layers])


@dataclasses.dataclass(frozen=True)
class DistillationConfig(Config):
    r"""What the student is taught; see TextBrewer's class of the same name.

    .. math:: L = w_{KD} L_{KD} + w_{hl} L_{hl} + \sum_i w_i L_{match,i}

    Args:
        temperature: Divides the logits of both models in :math:`L_{KD}`; a positive number, or a
            schedule of the optimizer update (``{"schedule": ...}`` or a function).
        temperature_scheduler: A rule that sets the temperature per position from the logits:
            ``"none"``, ``"constant"``, ``["flsw", beta, gamma]`` or ``["cwsm", beta]``.
        hard_label_weight: Weight of the sum of the student adaptor's ``losses``.
        hard_label_weight_scheduler: Replaces that weight by a schedule: ``"none"``,
            ``"linear_decay"``, ``"linear_growth"``, any schedule of optax as
            ``{"schedule": "cosine_decay_schedule", "init_value": 1.0, "decay_steps": 100}``, or a
            function of the optimizer update.
        kd_loss_type: A name of ``KD_LOSS_MAP``.
        kd_loss_weight: Weight of the loss between logits.
        kd_loss_weight_scheduler: As for hard labels.
        probability_shift: Swaps the teacher's largest logit with that of the label.
        intermediate_matches: Dicts or :class:`IntermediateMatch`.
        is_caching_logits: Runs the teacher once per batch and keeps its logits in memory.

    Raises:
        UsageError: A field cannot be used; the message names it.

    Examples:
        >>> config = DistillationConfig(temperature=8)
        >>> DistillationConfig.from_dict(config.to_dict()) == config
        True
        >>> DistillationConfig(kd_loss_type="cee")
        Traceback (most recent call last):
        ...
        jaxbrewer.errors.UsageError: DistillationConfig.kd_loss_type 'cee' is unknown: did you...
    """

    temperature: float | Mapping[str, Any] | Callable[..., Any] = 4
    temperature_scheduler: TemperatureSpec = "none"
    hard_label_weight: float = 0
    hard_label_weight_scheduler: ScheduleSpec = "none"
    kd_loss_type: str = "ce"
    kd_loss_weight: float = 1
    kd_loss_weight_scheduler: ScheduleSpec = "none"
    probability_shift: bool = False
    intermediate_matches: Sequence[IntermediateMatch] = ()
    is_caching_logits: bool = False

    def __post_init__(self) -> None:
        """Checks each field and turns lists into tuples, dicts into matches."""
        if _is_number(self.temperature):
            self._require("temperature", self.temperature > 0, "a positive number")  # type: ignore[operator]
        else:
            _check_schedule("DistillationConfig.temperature", self.temperature, named=False)
            self._freeze("temperature")
        self._freeze("temperature_scheduler")
        _check_temperature_rule(self.temperature_scheduler)
        for field in ("hard_label_weight", "kd_loss_weight"):
            self._require_number(field)
            scheduler = f"{field}_scheduler"
            _check_schedule(f"DistillationConfig.{scheduler}", getattr(self, scheduler))
            self._freeze(scheduler)
        _require_row("DistillationConfig.kd_loss_type", self.kd_loss_type, KD_LOSS_MAP)
        for field in ("probability_shift", "is_caching_logits"):
            self._require(field, getattr(self, field) in (False, True), "true or false")
            object.__setattr__(self, field, bool(getattr(self, field)))
        matches = self.intermediate_matches
        if matches is not None:
            holds = isinstance(matches, Sequence) and not isinstance(matches, str)
            self._require("intermediate_matches", holds, "a list")
        object.__setattr__(
            self, "intermediate_matches", tuple(map(_match, enumerate(matches or ())))
        )


def _match(numbered: tuple[int, Any]) -> IntermediateMatch:
    index, match = numbered
    if isinstance(match, IntermediateMatch):
        return match
    try:
        return IntermediateMatch.from_dict(match)
    except UsageError as error:
        raise UsageError(f"intermediate_matches[{index}]: {error}") from None


def _require_row(field: str, name: object, rows: Any) -> None:
    if not isinstance(name, str) or name not in rows:
        raise UsageError(f"{field} {name!r} is unknown: {suggest(name, rows)}")


def _check_schedule(field: str, spec: object, *, named: bool = True) -> None:
    if callable(spec):
        return
    if isinstance(spec, Mapping):
        if not isinstance(spec.get("schedule"), str):
            raise UsageError(f"{field} {dict(spec)!r} needs the key 'schedule', a name of optax.")
        return
    if named:
        _require_row(field, spec, ["none", *WEIGHT_SCHEDULER])
    else:
        raise UsageError(f"{field} must be a positive number or a schedule, got {spec!r}.")


def _check_temperature_rule(spec: object) -> None:
    field = "DistillationConfig.temperature_scheduler"
    if callable(spec):
        return
    name = spec[0] if isinstance(spec, tuple) and spec else spec
    _require_row(field, name, ["none", *TEMPERATURE_SCHEDULER])
