"""Matches of inner states: pairs of layers, transport between all layers, outputs of modules."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ..errors import UsageError, shown
from ..registry import FEATURES, MATCH_LOSS_MAP, PROJ_MAP, loss_and_parameters
from ._base import Config, is_int, plain
from ._checks import (
    LossSpec,
    ScheduleSpec,
    require_loss,
    require_match_loss,
    require_projection,
    require_row,
    require_schedule,
)
from .layer_map import LayerMap
from .module_paths import split_module_path


@dataclasses.dataclass(frozen=True)
class IntermediateMatch(Config):
    """One entry of ``intermediate_matches``: a student layer imitates a teacher layer.

    Raises:
        UsageError: A field cannot be used; the message names it.
    """

    layer_T: int | Sequence[int]
    """Index into the teacher adaptor's ``feature`` list; negative counts from the end. A list of
    two for ``fsp`` (``gram``) and ``mmd`` (``nst``)."""

    layer_S: int | Sequence[int]
    """Index into the student adaptor's list."""

    weight: float
    """Weight of the loss in the total."""

    loss: LossSpec
    """A name of ``MATCH_LOSS_MAP``, or with parameters ``{"loss": "rkd", "angle": 0}``."""

    feature: str
    """``"hidden"`` or ``"attention"``, or a registered feature."""

    proj: Sequence[Any] | None = None
    """``[activation, student width, teacher width]``, and optionally a dict of optimizer settings
    (``{"lr": 1e-3}``) for this projection."""

    weight_scheduler: ScheduleSpec = "none"
    """Replaces ``weight`` by a schedule; see :class:`DistillationConfig`."""

    teacher: int = 0
    """Which teacher, counted from 0, where there are several."""

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
                f"{shown(plain(self.layer_T))} and {shown(plain(self.layer_S))}."
            )
        require_loss("IntermediateMatch.loss", self.loss, MATCH_LOSS_MAP)
        self._check_number_of_layers()
        self.require_number("weight")
        require_row("IntermediateMatch.feature", self.feature, FEATURES)
        require_schedule("IntermediateMatch.weight_scheduler", self.weight_scheduler)
        require_projection(self)

    def _check_number_of_layers(self) -> None:
        takes, (loss, _) = MATCH_LOSS_MAP.row(self.loss).layers, loss_and_parameters(self.loss)
        for field in ("layer_T", "layer_S"):
            layers = getattr(self, field)
            if takes == 1:
                holds = not isinstance(layers, tuple)
                self.require(field, holds, f"an int for the loss {shown(loss)}")
            elif takes is not None:
                holds = isinstance(layers, tuple) and len(layers) == takes
                self.require(field, holds, f"a list of {takes} layers for the loss {shown(loss)}")

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
class EMDMatch(Config):
    """Every student layer learns from every teacher layer, weighted by optimal transport.

    In ``intermediate_matches`` its dict has ``"kind": "emd"``. See
    :mod:`jaxbrewer.objective.optimal_transport`.

    Raises:
        UsageError: A field cannot be used; the message names it.

    References:
        Li et al., BERT-EMD: many-to-many layer mapping for BERT compression with Earth Mover's
        Distance, 2020, https://arxiv.org/abs/2010.06133
    """

    feature: str = "hidden"
    """``"hidden"`` or ``"attention"``, or a registered feature."""

    loss: Any = "hidden_mse"
    """The cost between two layers, a name of ``MATCH_LOSS_MAP`` for one layer."""

    weight: float = 1
    """Weight of the transport cost in the total."""

    layer_T: Sequence[int] | None = None
    """The teacher's layers; ``None`` takes all, found when the models are known."""

    layer_S: Sequence[int] | None = None
    """The student's layers; ``None`` takes all."""

    proj: Sequence[Any] | None = None
    """As in :class:`IntermediateMatch`; each student layer has a projection of its own."""

    epsilon: float = 0.01
    """Entropy of the plan, relative to the mean cost; towards 0 it becomes exact."""

    iterations: int = 200
    """Iterations of Sinkhorn's algorithm."""

    adapt: bool = True
    """Whether the layers' weights follow the costs (cost attention), or stay equal."""

    group: str | None = None
    """Matches with the same group share the mean of their weights, as hidden states and attention
    do in the paper."""

    weight_scheduler: ScheduleSpec = "none"
    """Replaces ``weight`` by a schedule."""

    teacher: int = 0
    """Which teacher, counted from 0, where there are several."""

    kind: str = "emd"
    """``"emd"``."""

    def __post_init__(self) -> None:
        """Checks each field and turns lists into tuples."""
        self.require_choice("kind", ("emd",))
        self.require_flag("adapt")
        holds = self.group is None or isinstance(self.group, str)
        self.require("group", holds, "a name or None")
        require_row("EMDMatch.feature", self.feature, FEATURES)
        for field in ("layer_T", "layer_S", "proj", "loss", "weight_scheduler"):
            self.freeze(field)
        require_match_loss(self, layers=1)
        for field in ("layer_T", "layer_S"):
            layers = getattr(self, field)
            holds = layers is None or (
                isinstance(layers, tuple) and bool(layers) and all(map(is_int, layers))
            )
            self.require(field, holds, "a list of ints or None")
        require_projection(self)
        self.require_number("weight")
        self.require_positive("epsilon")
        self.require_number("iterations", minimum=1, whole=True)
        require_schedule("EMDMatch.weight_scheduler", self.weight_scheduler)
        self.require_number("teacher", minimum=0, whole=True)

    @property
    def name(self) -> str:
        """The loss's name in metrics: ``hidden_emd_hidden_mse``."""
        loss, _ = loss_and_parameters(self.loss)
        whose = [f"T{self.teacher}"] if self.teacher else []
        return "_".join([self.feature, "emd", loss, *whose])


@dataclasses.dataclass(frozen=True)
class CustomMatch(Config):
    """An entry of ``custom_matches``: the output of any submodule of the student and the teacher.

    Raises:
        UsageError: A field cannot be used; the message names it.
    """

    module_T: str
    """Path of the teacher's module, names joined by dots: ``"encoder.layers.3"``. With ``*``
    (``"encoder.layers.*.attention"``) it stands for several, in order. Of a module that returns
    several arrays, ``"layer:hidden"`` chooses an entry of a dict or dataclass, ``"layer:1"`` one
    of a tuple; ``"layers[3]"`` is a layer of a scanned stack."""

    module_S: str
    """Path of the student's module; with ``*`` it must match as many modules as ``module_T``."""

    weight: float = 1
    """Weight of the loss in the total."""

    loss: str | Mapping[str, Any] | Callable[..., Any] = "hidden_mse"
    """A name of ``MATCH_LOSS_MAP`` for one layer, or a function ``f(state_S, state_T, mask)``."""

    proj: str | Sequence[Any] | Callable[..., Any] | None = None
    """``[activation, student width, teacher width]``, an activation alone (the widths are found
    when the models are known), or a function of the student's output."""

    proj_group: Mapping[str, Any] | None = None
    """Optimizer settings of the projection, such as ``{"lr": 1e-3}``."""

    weight_scheduler: ScheduleSpec = "none"
    """Replaces ``weight`` by a schedule."""

    teacher: int = 0
    """Which teacher, counted from 0, where there are several."""

    def __post_init__(self) -> None:
        """Checks each field and turns lists into tuples."""
        for field in ("module_T", "module_S"):
            path = getattr(self, field)
            self.require(field, isinstance(path, str) and bool(path), "a module's path")
            try:
                split_module_path(path)
            except UsageError as error:
                raise UsageError(f"CustomMatch.{field}: {error}") from None
        for field in ("loss", "proj", "proj_group", "weight_scheduler"):
            self.freeze(field)
        if not callable(self.loss):
            require_match_loss(self, layers=1)
        if isinstance(self.proj, str):
            require_row("CustomMatch.proj", self.proj, PROJ_MAP)
        elif not callable(self.proj):
            require_projection(self)
        group = self.proj_group
        self.require("proj_group", group is None or isinstance(group, Mapping), "a dict or None")
        self.require_number("weight")
        require_schedule("CustomMatch.weight_scheduler", self.weight_scheduler)
        self.require_number("teacher", minimum=0, whole=True)

    @classmethod
    def from_dict(cls, dict_object: Mapping[str, Any]) -> "CustomMatch":
        """Builds it from a dict; TextBrewer's ``proj_func`` is ``proj`` here."""
        if not isinstance(dict_object, Mapping):
            return super().from_dict(dict_object)
        renamed = {
            "proj" if key == "proj_func" else key: value for key, value in dict_object.items()
        }
        return super().from_dict(renamed)

    @property
    def name(self) -> str:
        """The loss's name in metrics: ``custom_hidden_mse_<module_S>_<module_T>``."""
        if callable(self.loss):
            loss = getattr(self.loss, "__name__", "loss")
        else:
            loss, _ = loss_and_parameters(self.loss)
        whose = [f"T{self.teacher}"] if self.teacher else []
        return "_".join(["custom", loss, self.module_S, self.module_T, *whose])


Match = IntermediateMatch | EMDMatch | LayerMap | CustomMatch


def as_match(entry: Any, *, custom: bool = False) -> Match:
    """An entry of ``intermediate_matches``, or of ``custom_matches``, built."""
    if isinstance(entry, CustomMatch if custom else (IntermediateMatch, LayerMap, EMDMatch)):
        return entry
    if custom:
        return CustomMatch.from_dict(entry)
    if isinstance(entry, str):
        return LayerMap(entry)
    if isinstance(entry, Mapping) and "map" in entry:
        return LayerMap.from_dict(entry)
    if isinstance(entry, Mapping) and "kind" in entry:
        return EMDMatch.from_dict(entry)
    return IntermediateMatch.from_dict(entry)


def is_resolved(match: Match) -> bool:
    """Whether a match names its layers, modules and projections."""
    if isinstance(match, EMDMatch):
        return match.layer_S is not None and match.layer_T is not None
    if isinstance(match, CustomMatch):
        has_settings = isinstance(match.proj, tuple) and len(match.proj) == 4
        return (
            "*" not in match.module_S + match.module_T
            and not isinstance(match.proj, str)
            and (has_settings or not match.proj_group)
        )
    return isinstance(match, IntermediateMatch)
