"""What a student is taught."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ..errors import UsageError, suggest
from ..registry import (
    FEATURES,
    KD_LOSS_MAP,
    MATCH_LOSS_MAP,
    PROJ_MAP,
    TEMPERATURE_SCHEDULER,
    WEIGHT_SCHEDULER,
    Table,
    loss_and_parameters,
)
from ._base import Config, is_int, is_number, plain

ScheduleSpec = str | Mapping[str, Any] | Callable[..., Any]
"""``"none"``, a name of ``WEIGHT_SCHEDULER``, ``{"schedule": <optax name>, ...}`` or a function
of the optimizer update."""

LossSpec = str | Mapping[str, Any]
"""A name, or ``{"loss": name, **parameters}``."""

TemperatureSpec = str | Sequence[Any] | Callable[..., Any]
"""``"none"``, ``"constant"``, ``["flsw", beta, gamma]``, ``["cwsm", beta]`` or a rule."""


VOCABULARIES = ("auto", "common", "equal")
MASK_PAIRINGS = ("auto", "rank")
TEACHER_AVERAGES = ("logits", "probabilities", "losses")
_TWO_LAYERS = ("fsp", "gram", "mmd", "nst")
_ONE_LAYER = (
    "attention_mse_sum", "attention_mse", "attention_ce_mean", "attention_ce", "hidden_mse", "cos",
    "pkd", "rkd", "crd", "minilm_attention", "minilm_relation",
)  # fmt: skip


@dataclasses.dataclass(frozen=True)
class IntermediateMatch(Config):
    """One entry of ``intermediate_matches``: a student layer imitates a teacher layer.

    Args:
        layer_T: Index into the teacher adaptor's ``feature`` list; negative counts from the end.
            A list of two for ``fsp`` (``gram``) and ``mmd`` (``nst``).
        layer_S: The same for the student.
        weight: Weight of the loss in the total.
        loss: A name of ``MATCH_LOSS_MAP``, or with parameters
            ``{"loss": "rkd", "angle": 0}``.
        feature: ``"hidden"`` or ``"attention"``, or a registered feature.
        proj: ``[activation, student width, teacher width]``, and optionally a dict of optimizer
            settings (``{"lr": 1e-3}``) for this projection.
        weight_scheduler: Replaces ``weight`` by a schedule; see :class:`DistillationConfig`.
        teacher: Which teacher, counted from 0, where there are several.

    Raises:
        UsageError: A field cannot be used; the message names it.
    """

    layer_T: int | Sequence[int]
    layer_S: int | Sequence[int]
    weight: float
    loss: LossSpec
    feature: str
    proj: Sequence[Any] | None = None
    weight_scheduler: ScheduleSpec = "none"
    teacher: int = 0

    def __post_init__(self) -> None:
        """Checks each field and turns lists into tuples."""
        self.require_number("teacher", minimum=0, whole=True)
        for field in ("layer_T", "layer_S", "proj", "loss", "weight_scheduler"):
            self.freeze(field)
        for field in ("layer_T", "layer_S"):
            value = getattr(self, field)
            indices = value if isinstance(value, tuple) else (value,)
            holds = bool(indices) and all(is_int(index) for index in indices)
            self.require(field, holds, "an int or a list of ints")
        if isinstance(self.layer_T, tuple) != isinstance(self.layer_S, tuple):
            raise UsageError(
                "IntermediateMatch.layer_T and layer_S must both be ints or both lists, got "
                f"{plain(self.layer_T)!r} and {plain(self.layer_S)!r}."
            )
        pair = isinstance(self.layer_T, tuple)
        _require_loss("IntermediateMatch.loss", self.loss, MATCH_LOSS_MAP)
        loss, _ = loss_and_parameters(self.loss)
        if loss in _ONE_LAYER:
            self.require("layer_T", not pair, f"an int for the loss {loss!r}")
        if loss in _TWO_LAYERS:
            self.require("layer_T", pair and len(self.layer_T) == 2, "a list of two layers")  # type: ignore[arg-type]
            self.require("layer_S", pair and len(self.layer_S) == 2, "a list of two layers")  # type: ignore[arg-type]
        self.require_number("weight")
        _require_row("IntermediateMatch.feature", self.feature, FEATURES)
        _check_schedule("IntermediateMatch.weight_scheduler", self.weight_scheduler)
        if self.proj is not None:
            self._check_projection(self.proj)

    def _check_projection(self, proj: Any) -> None:
        allowed = "[activation, student width, teacher width] and optionally a dict of settings"
        self.require("proj", isinstance(proj, tuple) and len(proj) in (3, 4), allowed)
        _require_row("IntermediateMatch.proj[0]", proj[0], PROJ_MAP)
        self.require("proj", all(is_int(w) and w > 0 for w in proj[1:3]), allowed)
        self.require("proj", len(proj) == 3 or isinstance(proj[3], Mapping), allowed)

    @property
    def name(self) -> str:
        """The loss's name in metrics, TextBrewer's: ``hidden_hidden_mse_3_10`` (S, then T).

        Parameters of the loss are no part of it; those of further teachers end in ``_T1``,
        ``_T2``.

        Examples:
            >>> match = {"layer_T": 10, "layer_S": 3, "feature": "hidden", "loss": "hidden_mse"}
            >>> IntermediateMatch(**match, weight=1).name
            'hidden_hidden_mse_3_10'
        """
        layers = [
            "-".join(map(str, layer)) if isinstance(layer, tuple) else str(layer)
            for layer in (self.layer_S, self.layer_T)
        ]
        whose = [f"T{self.teacher}"] if self.teacher else []
        return "_".join([self.feature, loss_and_parameters(self.loss)[0], *layers, *whose])


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
        kd_loss_type: A name of ``KD_LOSS_MAP``, or with parameters
            ``{"loss": "jsd", "beta": 0.1}``.
        kd_loss_weight: Weight of the loss between logits.
        kd_loss_weight_scheduler: As for hard labels.
        probability_shift: Swaps the teacher's largest logit with that of the label.
        intermediate_matches: Dicts or :class:`IntermediateMatch`; also, by name or as dicts,
            layer maps that find the pairs by themselves (:class:`LayerMap`: ``"uniform"``,
            ``"last"``, ``"skip"``, ``"emd"``, ``"L3_hidden_mse"``) and :class:`EMDMatch`. A name
            alone stands for a list of one.
        custom_matches: Dicts or :class:`CustomMatch`: outputs of submodules by their paths.
        vocabulary: Where the logits of two models differ in width: ``"auto"`` takes a surplus of
            under 1 % of more than 1,000 columns, up to a multiple of 64, for padding of the
            vocabulary, compares the columns that both have and says so; ``"common"`` always
            compares those; ``"equal"`` refuses.
        mask_pairing: Which positions are compared where both adaptors return a ``logits_mask``.
            ``"auto"``: the same positions, where both masks select them; masks of different lengths
            pair by rank, the k-th selected position of an example with the k-th, and must select
            equally many. ``"rank"``: by rank always, as in TextBrewer.
        is_caching_logits: Runs the teacher once per batch and keeps its logits in memory.
        teacher_weights: Of several teachers: a weight each, a number >= 0 or a schedule as above;
            ``None`` weighs all alike. Only their ratios matter. A batch may set them per example,
            with ``"teacher_id"`` (``[batch]``) or ``"teacher_weights"`` (``[batch, teachers]``).
        teacher_average: Of several teachers: the average of their ``"logits"`` is the one target,
            as in TextBrewer; or that of their ``"probabilities"`` at the temperature; or each is a
            target and the ``"losses"`` are averaged.
        teacher_temperatures: Of several teachers: a temperature each, for their logits alone;
            with averaged losses, for the student's logits beside them too.

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
    kd_loss_type: LossSpec = "ce"
    kd_loss_weight: float = 1
    kd_loss_weight_scheduler: ScheduleSpec = "none"
    probability_shift: bool = False
    intermediate_matches: Any = ()
    is_caching_logits: bool = False
    teacher_weights: Sequence[float | ScheduleSpec] | None = None
    teacher_average: str = "logits"
    teacher_temperatures: Sequence[float] | None = None
    custom_matches: Sequence[Any] = ()
    vocabulary: str = "auto"
    mask_pairing: str = "auto"

    def __post_init__(self) -> None:
        """Checks each field and turns lists into tuples, dicts into matches."""
        if is_number(self.temperature):
            self.require("temperature", self.temperature > 0, "a positive number")  # type: ignore[operator]
        else:
            _check_schedule("DistillationConfig.temperature", self.temperature, named=False)
            self.freeze("temperature")
        self.freeze("temperature_scheduler")
        _check_temperature_rule(self.temperature_scheduler)
        for field in ("hard_label_weight", "kd_loss_weight"):
            self.require_number(field)
            scheduler = f"{field}_scheduler"
            _check_schedule(f"DistillationConfig.{scheduler}", getattr(self, scheduler))
            self.freeze(scheduler)
        self.freeze("kd_loss_type")
        _require_loss("DistillationConfig.kd_loss_type", self.kd_loss_type, KD_LOSS_MAP)
        for field in ("probability_shift", "is_caching_logits"):
            self.require(field, getattr(self, field) in (False, True), "true or false")
            object.__setattr__(self, field, bool(getattr(self, field)))
        self._check_teachers()
        _require_row("DistillationConfig.vocabulary", self.vocabulary, VOCABULARIES)
        _require_row("DistillationConfig.mask_pairing", self.mask_pairing, MASK_PAIRINGS)
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
        """Whether all matches name their layers, modules and projections: nothing is left open."""
        from . import matches  # it imports this module

        return all(map(matches.is_resolved, (*self.intermediate_matches, *self.custom_matches)))

    def _check_teachers(self) -> None:
        _require_row("DistillationConfig.teacher_average", self.teacher_average, TEACHER_AVERAGES)
        for field in ("teacher_weights", "teacher_temperatures"):
            values = getattr(self, field)
            if values is None:
                continue
            holds = isinstance(values, Sequence) and not isinstance(values, str) and bool(values)
            self.require(field, holds, "a list with one entry per teacher")
            self.freeze(field)
        for weight in self.teacher_weights or ():
            if not is_number(weight):
                _check_schedule("DistillationConfig.teacher_weights", weight)
        numbers = [weight for weight in self.teacher_weights or () if is_number(weight)]
        self.require("teacher_weights", all(weight >= 0 for weight in numbers), "numbers >= 0")  # type: ignore[operator]
        some = len(numbers) < len(self.teacher_weights or ()) or any(numbers) or not numbers
        self.require("teacher_weights", some, "numbers that are not all 0")
        temperatures = self.teacher_temperatures or ()
        holds = all(is_number(value) and value > 0 for value in temperatures)
        self.require("teacher_temperatures", holds, "positive numbers")


def _match(field: str, index: int, entry: Any) -> Any:
    from . import matches  # it imports this module

    try:
        return matches.as_match(entry, custom=field == "custom_matches")
    except UsageError as error:
        raise UsageError(f"{field}[{index}]: {error}") from None


def _require_row(field: str, name: object, rows: Any) -> None:
    if not isinstance(name, str) or name not in rows:
        raise UsageError(f"{field} {name!r} is unknown: {suggest(name, rows)}")


def _require_loss(field: str, spec: object, table: Table) -> None:
    if isinstance(spec, Mapping):
        if "loss" not in spec:
            raise UsageError(f"{field} {plain(spec)!r} needs the key 'loss', a name.")
        name, parameters = loss_and_parameters(spec)
    else:
        name, parameters = spec, {}  # type: ignore[assignment]
    _require_row(field, name, table)
    allowed = table.parameters(name)
    for parameter in parameters:
        if allowed is not None and parameter not in allowed:
            known = suggest(parameter, allowed) if allowed else "it takes none."
            raise UsageError(f"{field} {name!r} has no parameter {parameter!r}: {known}")


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
    name, *given = spec if isinstance(spec, tuple) and spec else (spec,)
    _require_row(field, name, ["none", *TEMPERATURE_SCHEDULER])
    if name == "none":
        return
    named = given.pop() if given and isinstance(given[-1], Mapping) else {}
    missing = [
        row for row in TEMPERATURE_SCHEDULER.required(name)[len(given) :] if row not in named
    ]
    if missing:
        raise UsageError(
            f"{field} {name!r} needs {' and '.join(map(repr, missing))}, got {plain(spec)!r}."
        )
