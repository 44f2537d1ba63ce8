"""The tables that turn names in configs into functions.

A row is a function, or ``"module:name"`` for one that is imported when it is first asked for, so
that a config can be read and checked before JAX is loaded.
"""

import importlib
from collections.abc import Callable, Iterator, MutableMapping
from typing import Any

from .errors import UsageError, suggest


class Table(MutableMapping[str, Any]):
    """Names to functions; a string row is imported on first use."""

    def __init__(self, field: str, rows: dict[str, Any]):
        self._field, self._rows = field, rows

    def __getitem__(self, name: str) -> Any:
        if name not in self._rows:
            raise UsageError(f"{self._field} {name!r} is unknown: {suggest(name, self._rows)}")
        row = self._rows[name]
        if isinstance(row, str):
            module, attribute = row.split(":")
            row = self._rows[name] = getattr(importlib.import_module(module), attribute)
        return row

    def __setitem__(self, name: str, function: Any) -> None:
        self._rows[name] = function

    def __delitem__(self, name: str) -> None:
        del self._rows[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._rows)

    def __len__(self) -> int:
        return len(self._rows)

    def __contains__(self, name: object) -> bool:
        return name in self._rows

    def __repr__(self) -> str:
        return f"Table({self._field!r}, {list(self._rows)})"


KD_LOSS_MAP = Table(
    "kd_loss_type",
    {
        "ce": "jaxbrewer.losses:kd_ce_loss",
        "mse": "jaxbrewer.losses:kd_mse_loss",
    },
)
"""``kd_loss_type``: ``f(logits_S, logits_T, temperature, mask) -> scalar`` or :class:`Mean`."""

MATCH_LOSS_MAP = Table(
    "intermediate_matches loss",
    {
        "attention_mse_sum": "jaxbrewer.losses:att_mse_sum_loss",
        "attention_mse": "jaxbrewer.losses:att_mse_loss",
        "attention_ce_mean": "jaxbrewer.losses:att_ce_mean_loss",
        "attention_ce": "jaxbrewer.losses:att_ce_loss",
        "hidden_mse": "jaxbrewer.losses:hid_mse_loss",
        "cos": "jaxbrewer.losses:cos_loss",
        "pkd": "jaxbrewer.losses:pkd_loss",
        "fsp": "jaxbrewer.losses:fsp_loss",
        "gram": "jaxbrewer.losses:fsp_loss",
        "mmd": "jaxbrewer.losses:mmd_loss",
        "nst": "jaxbrewer.losses:mmd_loss",
    },
)
"""``intermediate_matches[i].loss``: ``f(state_S, state_T, mask) -> scalar`` or :class:`Mean`."""

PROJ_MAP = Table(
    "intermediate_matches proj",
    {
        "linear": "jaxbrewer.projections:identity",
        "relu": "jaxbrewer.projections:relu",
        "tanh": "jaxbrewer.projections:tanh",
    },
)
"""``proj[0]``: the activation after the linear map from student to teacher width."""

WEIGHT_SCHEDULER = Table(
    "weight scheduler",
    {
        "linear_decay": "jaxbrewer.schedules:linear_decay",
        "linear_growth": "jaxbrewer.schedules:linear_growth",
    },
)
"""Weight schedulers: the weight as a function of the finished fraction of training."""

TEMPERATURE_SCHEDULER = Table(
    "temperature_scheduler",
    {
        "constant": "jaxbrewer.schedules:constant_temperature",
        "flsw": "jaxbrewer.schedules:flsw_temperature",
        "cwsm": "jaxbrewer.schedules:cwsm_temperature",
    },
)
"""Temperature rules: a builder whose arguments follow the name in the config, and that returns
``rule(logits_S, logits_T, base_temperature, mask) -> temperature per position``."""

FEATURES = ["hidden", "attention"]
"""Keys of an adaptor's answer that ``intermediate_matches`` may name."""

ADAPTOR_KEYS = [
    "logits", "logits_mask", "losses", "inputs_mask", "labels", "hidden", "attention",
]  # fmt: skip
"""All keys an adaptor may return."""

_TABLES: dict[str, Table] = {
    "kd_loss": KD_LOSS_MAP,
    "match_loss": MATCH_LOSS_MAP,
    "projection": PROJ_MAP,
    "weight_scheduler": WEIGHT_SCHEDULER,
    "temperature_scheduler": TEMPERATURE_SCHEDULER,
}
_LISTS: dict[str, tuple[list[str], ...]] = {
    "adaptor_key": (ADAPTOR_KEYS,),
    "feature": (FEATURES, ADAPTOR_KEYS),
}


def register_new(map_name: str, name: str, func: Callable[..., Any] | None = None) -> None:
    """Adds a row to a table, so that configs can name it.

    Args:
        map_name: ``"kd_loss"``, ``"match_loss"`` (TextBrewer's ``"match_Loss"`` too),
            ``"projection"``, ``"weight_scheduler"``, ``"temperature_scheduler"``,
            ``"adaptor_key"`` or ``"feature"``.
        name: The name for configs (or the new adaptor key or feature).
        func: The function; none for ``"adaptor_key"`` and ``"feature"``.

    Raises:
        UsageError: ``map_name`` is unknown, or ``func`` is missing or not callable.

    Examples:
        >>> register_new("match_loss", "zero", lambda state_S, state_T, mask=None: 0.0)
        >>> "zero" in MATCH_LOSS_MAP
        True
        >>> del MATCH_LOSS_MAP["zero"]
    """
    key = str(map_name).lower()
    if key in _LISTS:
        for names in _LISTS[key]:
            if name not in names:
                names.append(name)
    elif key in _TABLES:
        if not callable(func):
            raise UsageError(
                f"register_new({map_name!r}, {name!r}) needs a function, got {func!r}."
            )
        _TABLES[key][name] = func
    else:
        raise UsageError(
            f"register_new map_name {map_name!r} is unknown: {suggest(key, [*_TABLES, *_LISTS])}"
        )
