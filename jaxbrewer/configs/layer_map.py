"""Layer maps: matches that find their pairs of layers when the models are known."""

import dataclasses
import re
from collections.abc import Mapping
from typing import Any

from ..errors import UsageError, shown, suggest
from ..registry import FEATURES, MATCH_LOSS_MAP, PROJ_MAP
from ._base import Config
from ._checks import require_loss, require_row

LAYER_MAPS = ("uniform", "last", "skip", "emd")
_PRESET = re.compile(
    r"(?:L(?P<layers>[1-9]\d*)[nlt]?|small)_(?P<feature>attention|hidden)_"
    r"(?P<loss>mse_sum|mse|ce_mean|ce|smmd|sgram)"
)
_DEFAULT_LOSS = {"hidden": "hidden_mse", "attention": "attention_mse"}


@dataclasses.dataclass(frozen=True)
class LayerMap(Config):
    """An entry of ``intermediate_matches`` that finds the pairs of layers itself.

    It is resolved when the models' layers are known: see :mod:`jaxbrewer.objective.layer_maps`.

    Raises:
        UsageError: A field cannot be used; the message names it.

    Examples:
        >>> LayerMap("L3n_hidden_mse").named_loss
        ('hidden', 'hidden_mse')
    """

    map: str
    """Which layers: ``"uniform"`` (spread evenly, first and last together), ``"last"`` (the
    teacher's last ones), ``"skip"`` (every n-th), ``"emd"`` (all with all, see
    :class:`EMDMatch`), or a name of TextBrewer's examples, for any depth: ``L<layers of the
    student>_<feature>_<loss>``, such as ``L3_hidden_mse``, ``L4t_hidden_sgram``,
    ``small_hidden_smmd``."""

    weight: float = 1
    """Weight of each match in the total."""

    feature: str | None = None
    """``"hidden"`` or ``"attention"``; ``None`` for that of the name, or hidden states."""

    loss: Any = None
    """A name of ``MATCH_LOSS_MAP``; ``None`` for that of the name, or the squared error."""

    proj: str = "linear"
    """Activation of the projections that are added where widths differ."""

    proj_group: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    """Optimizer settings of these projections, such as ``{"lr": 1e-3}``."""

    teacher: int = 0
    """Which teacher, counted from 0, where there are several."""

    def __post_init__(self) -> None:
        """Checks each field."""
        if not isinstance(self.map, str) or not (
            self.map in LAYER_MAPS or _PRESET.fullmatch(self.map)
        ):
            raise UsageError(
                f"LayerMap.map {shown(self.map)} is unknown: "
                f"{suggest(self.map, [*LAYER_MAPS, 'L3_hidden_mse', 'L4_attention_mse'])}"
            )
        named = self.feature is not None or self.loss is not None
        if self.map not in LAYER_MAPS and named:
            raise UsageError(
                f"LayerMap.map {shown(self.map)} already names its feature and its loss."
            )
        if self.feature is not None:
            require_row("LayerMap.feature", self.feature, FEATURES)
            if self.loss is None and self.feature not in _DEFAULT_LOSS:
                raise UsageError(f"LayerMap.loss is needed for the feature {shown(self.feature)}.")
        require_loss("LayerMap.loss", self.named_loss[1], MATCH_LOSS_MAP)
        require_row("LayerMap.proj", self.proj, PROJ_MAP)
        self.freeze("proj_group")
        self.freeze("loss")
        self.require_number("weight")
        self.require_number("teacher", minimum=0, whole=True)

    @property
    def named_loss(self) -> tuple[str, Any]:
        """The feature and the loss that the map stands for."""
        preset = _PRESET.fullmatch(self.map)
        if preset is None:
            feature = "hidden" if self.feature is None else self.feature
            return feature, _DEFAULT_LOSS[feature] if self.loss is None else self.loss
        feature, loss = preset["feature"], preset["loss"]
        return feature, {"smmd": "mmd", "sgram": "gram"}.get(loss, f"{feature}_{loss}")

    @property
    def student_layers(self) -> int | None:
        """The depth of the student that a preset is for; ``None`` for any."""
        preset = _PRESET.fullmatch(self.map)
        return int(preset["layers"]) if preset and preset["layers"] else None
