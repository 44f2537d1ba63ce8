"""The tables that turn names in configs into functions.

A row is a function, or ``"module:name"`` for one that is imported when it is first asked for, so
that a config can be read and checked before JAX is loaded.
"""

import importlib
import inspect
from collections.abc import Callable, Iterator, Mapping, MutableMapping
from typing import Any

from .errors import UsageError, suggest


class Table(MutableMapping[str, Any]):
    """Names to functions; a string row is imported on first use.

    Args:
        field: What the names are, for messages.
        rows: The functions.
        parameters: What a config may set of the functions in string rows, by name; those of other
            functions are read off their signatures.
        given: So many positional arguments, and ``mask`` and ``labels``, come from the caller and
            are no parameters.
        required: Those parameters of string rows that have no default, by name.
    """

    def __init__(
        self,
        field: str,
        rows: dict[str, Any],
        parameters: Mapping[str, tuple[str, ...]] = {},
        given: int = 0,
        required: Mapping[str, tuple[str, ...]] = {},
    ):
        self._field, self._rows, self._parameters, self._given = field, rows, parameters, given
        self._required = required

    def parameters(self, name: str) -> tuple[str, ...] | None:
        """What a config may set of a row; ``None`` for a function that takes anything."""
        row = self._rows[name]
        if isinstance(row, str):
            return tuple(self._parameters.get(name, ()))
        parameters = list(inspect.signature(row).parameters.values())
        if any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters):
            return None
        named = (parameter.name for parameter in parameters[self._given :])
        return tuple(name for name in named if name not in ("mask", "labels"))

    def required(self, name: str) -> tuple[str, ...]:
        """What a config must set of a row, in order."""
        row = self._rows[name]
        if isinstance(row, str):
            return tuple(self._required.get(name, ()))
        parameters = list(inspect.signature(row).parameters.values())[self._given :]
        variable = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
        return tuple(
            parameter.name
            for parameter in parameters
            if parameter.default is parameter.empty and parameter.kind not in variable
        )

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
        "kl": "jaxbrewer.losses:kl_loss",
        "reverse_kl": "jaxbrewer.losses:reverse_kl_loss",
        "jsd": "jaxbrewer.losses:jsd_loss",
        "skew_kl": "jaxbrewer.losses:skew_kl_loss",
        "skew_reverse_kl": "jaxbrewer.losses:skew_reverse_kl_loss",
        "tvd": "jaxbrewer.losses:tvd_loss",
        "bce": "jaxbrewer.losses:bce_loss",
        "dkd": "jaxbrewer.losses:dkd_loss",
        "standardized_kl": "jaxbrewer.losses:standardized_kl_loss",
    },
    parameters={
        "jsd": ("beta",),
        "skew_kl": ("alpha",),
        "skew_reverse_kl": ("alpha",),
        "dkd": ("alpha", "beta"),
    },
    given=3,
)
"""``kd_loss_type``: ``f(logits_S, logits_T, temperature, mask) -> scalar`` or :class:`Mean`.

A function with an argument ``labels`` gets the adaptor's; further arguments are parameters."""

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
        "rkd": "jaxbrewer.losses:rkd_loss",
        "crd": "jaxbrewer.losses:crd_loss",
        "minilm_attention": "jaxbrewer.losses:minilm_attention_loss",
        "minilm_relation": "jaxbrewer.losses:minilm_relation_loss",
    },
    parameters={
        "rkd": ("distance", "angle"),
        "crd": ("temperature", "dataset_size"),
        "minilm_relation": ("heads",),
    },
    given=2,
)
"""``intermediate_matches[i].loss``: ``f(state_S, state_T, mask) -> scalar`` or :class:`Mean`.

Further arguments are parameters."""

PROJ_MAP = Table(
    "intermediate_matches proj",
    {
        "linear": "jaxbrewer.objective.projections:identity",
        "relu": "jaxbrewer.objective.projections:relu",
        "tanh": "jaxbrewer.objective.projections:tanh",
    },
)
"""``proj[0]``: the activation after the linear map from student to teacher width."""

WEIGHT_SCHEDULER = Table(
    "weight scheduler",
    {
        "linear_decay": "jaxbrewer.objective.schedules:linear_decay",
        "linear_growth": "jaxbrewer.objective.schedules:linear_growth",
    },
)
"""Weight schedulers: the weight as a function of the finished fraction of training."""

TEMPERATURE_SCHEDULER = Table(
    "temperature_scheduler",
    {
        "constant": "jaxbrewer.objective.temperature_rules:constant_temperature",
        "flsw": "jaxbrewer.objective.temperature_rules:flsw_temperature",
        "cwsm": "jaxbrewer.objective.temperature_rules:cwsm_temperature",
    },
    required={"flsw": ("beta", "gamma"), "cwsm": ("beta",)},
)
"""Temperature rules: a builder whose arguments follow the name in the config, and that returns
``rule(logits_S, logits_T, base_temperature, mask) -> temperature per position``."""

FEATURES = ["hidden", "attention"]
"""Keys of an adaptor's answer that ``intermediate_matches`` may name."""

ADAPTOR_KEYS = [
    "logits", "logits_mask", "logits_weights", "losses", "inputs_mask", "labels", "hidden",
    "attention", "modules_mask",
]  # fmt: skip
"""All keys an adaptor may return."""


def loss_and_parameters(spec: str | Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    """The two parts of a loss in a config: a name, or ``{"loss": name, **parameters}``.

    Examples:
        >>> loss_and_parameters("kl"), loss_and_parameters({"loss": "jsd", "beta": 0.1})
        (('kl', {}), ('jsd', {'beta': 0.1}))
    """
    if isinstance(spec, str):
        return spec, {}
    return spec["loss"], {key: value for key, value in spec.items() if key != "loss"}


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
