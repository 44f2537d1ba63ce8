"""What a student is taught."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ..errors import UsageError
from ..registry import KD_LOSS_MAP
from ._base import Config, is_number
from ._checks import (
    LossSpec,
    ScheduleSpec,
    TemperatureSpec,
    require_loss,
    require_row,
    require_schedule,
    require_temperature_rule,
)
from .matches import as_match, is_resolved

VOCABULARIES = ("auto", "common", "equal")
MASK_PAIRINGS = ("auto", "rank")
TEACHER_AVERAGES = ("logits", "probabilities", "losses")


@dataclasses.dataclass(frozen=True)
class DistillationConfig(Config):
    r"""What the student is taught; see TextBrewer's class of the same name.

    .. math:: L = w_{KD} L_{KD} + w_{hl} L_{hl} + \sum_i w_i L_{match,i}

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
    """Divides the logits of both models in :math:`L_{KD}`: a positive number, or a schedule
    (``{"schedule": ...}``, or a function of the optimizer step)."""

    temperature_scheduler: TemperatureSpec = "none"
    """A rule that sets the temperature per position from the logits: ``"none"``, ``"constant"``,
    ``["flsw", beta, gamma]`` or ``["cwsm", beta]``."""

    hard_label_weight: float = 0
    """Weight of the sum of the student adaptor's ``losses``."""

    hard_label_weight_scheduler: ScheduleSpec = "none"
    """Replaces that weight by a schedule: ``"none"``, ``"linear_decay"``, ``"linear_growth"``, any
    schedule of optax as ``{"schedule": "cosine_decay_schedule", "init_value": 1.0,
    "decay_steps": 100}``, or a function of the optimizer step."""

    kd_loss_type: LossSpec = "ce"
    """A name of ``KD_LOSS_MAP``, or with parameters ``{"loss": "jsd", "beta": 0.1}``."""

    kd_loss_weight: float = 1
    """Weight of the loss between logits."""

    kd_loss_weight_scheduler: ScheduleSpec = "none"
    """Replaces that weight by a schedule."""

    probability_shift: bool = False
    """Swaps the teacher's largest logit with that of the label."""

    intermediate_matches: Any = ()
    """Dicts or :class:`IntermediateMatch`. Layer maps find the pairs themselves, by name or as
    dicts (:class:`LayerMap`: ``"uniform"``, ``"last"``, ``"skip"``, ``"emd"``,
    ``"L3_hidden_mse"``); :class:`EMDMatch` compares all layers with all. A name alone is a list
    of one."""

    is_caching_logits: bool = False
    """Runs the teacher once per batch and keeps its logits in memory."""

    teacher_weights: Sequence[float | ScheduleSpec] | None = None
    """Several teachers: one weight each, a number >= 0 or a schedule; ``None`` for equal weights.
    Only their ratios matter. A batch may set them per example, with ``"teacher_id"`` (``[batch]``)
    or ``"teacher_weights"`` (``[batch, teachers]``)."""

    teacher_average: str = "logits"
    """Several teachers: the average of their ``"logits"`` is the target, as in TextBrewer; or
    that of their ``"probabilities"`` at the temperature; or each is a target and ``"losses"``
    are averaged."""

    teacher_temperatures: Sequence[float] | None = None
    """Several teachers: one temperature each, for their logits; with averaged losses, for the
    student's logits compared with theirs too."""

    custom_matches: Sequence[Any] = ()
    """Dicts or :class:`CustomMatch`: outputs of submodules by their paths."""

    vocabulary: str = "auto"
    """How logits of different widths are compared. ``"auto"`` takes a surplus of under 1 % of more
    than 1,000 columns, up to a multiple of 64, for padding of the vocabulary, compares the columns
    that both models have, and warns; ``"common"`` always compares those; ``"equal"`` refuses."""

    mask_pairing: str = "auto"
    """Which positions are compared where both adaptors return a ``logits_mask``. ``"auto"``: the
    same positions, where both masks select them; masks of different lengths pair by rank, the k-th
    selected position of an example with the k-th, and must select equally many. ``"rank"``: by rank
    always, as in TextBrewer."""

    def __post_init__(self) -> None:
        """Checks each field and turns lists into tuples, dicts into matches."""
        if is_number(self.temperature):
            self.require_positive("temperature")
        else:
            require_schedule("DistillationConfig.temperature", self.temperature, named=False)
            self.freeze("temperature")
        self.freeze("temperature_scheduler")
        require_temperature_rule(
            "DistillationConfig.temperature_scheduler", self.temperature_scheduler
        )
        for field in ("hard_label_weight", "kd_loss_weight"):
            self.require_number(field)
            scheduler = f"{field}_scheduler"
            require_schedule(f"DistillationConfig.{scheduler}", getattr(self, scheduler))
            self.freeze(scheduler)
        self.freeze("kd_loss_type")
        require_loss("DistillationConfig.kd_loss_type", self.kd_loss_type, KD_LOSS_MAP)
        for field in ("probability_shift", "is_caching_logits"):
            self.require_flag(field)
        self._check_teachers()
        require_row("DistillationConfig.vocabulary", self.vocabulary, VOCABULARIES)
        require_row("DistillationConfig.mask_pairing", self.mask_pairing, MASK_PAIRINGS)
        matches = self.intermediate_matches
        if isinstance(matches, str):
            matches = [matches]
        for field, entries in (
            ("intermediate_matches", matches),
            ("custom_matches", self.custom_matches),
        ):
            holds = entries is None or (
                isinstance(entries, Sequence) and not isinstance(entries, str)
            )
            self.require(field, holds, "a list")
            built = tuple(_match(field, index, entry) for index, entry in enumerate(entries or ()))
            object.__setattr__(self, field, built)

    @property
    def is_resolved(self) -> bool:
        """Whether all matches name their layers, modules and projections."""
        return all(map(is_resolved, (*self.intermediate_matches, *self.custom_matches)))

    def _check_teachers(self) -> None:
        require_row("DistillationConfig.teacher_average", self.teacher_average, TEACHER_AVERAGES)
        for field in ("teacher_weights", "teacher_temperatures"):
            values = getattr(self, field)
            if values is None:
                continue
            holds = isinstance(values, Sequence) and not isinstance(values, str) and bool(values)
            self.require(field, holds, "a list with one entry per teacher")
            self.freeze(field)
        for weight in self.teacher_weights or ():
            if not is_number(weight):
                require_schedule("DistillationConfig.teacher_weights", weight)
        numbers = [weight for weight in self.teacher_weights or () if is_number(weight)]
        self.require("teacher_weights", all(weight >= 0 for weight in numbers), "numbers >= 0")  # type: ignore[operator]
        some = len(numbers) < len(self.teacher_weights or ()) or any(numbers) or not numbers
        self.require("teacher_weights", some, "numbers that are not all 0")
        temperatures = self.teacher_temperatures or ()
        holds = all(is_number(value) and value > 0 for value in temperatures)
        self.require("teacher_temperatures", holds, "positive numbers")


def _match(field: str, index: int, entry: Any) -> Any:
    try:
        return as_match(entry, custom=field == "custom_matches")
    except UsageError as error:
        raise UsageError(f"{field}[{index}]: {error}") from None
