"""The tables: one row for each function that a config can name, and the registration of more."""

import functools
from typing import Any

from ..errors import UsageError, suggest
from ._rows import (
    Function,
    KDLossRow,
    MatchLossRow,
    Row,
    Table,
    TemperatureRuleRow,
    WeightScheduleRow,
)

_packaged = functools.partial(KDLossRow, by_position=True)
_divergence = functools.partial(_packaged, least_classes=2, between_distributions=True)

KD_LOSS_MAP = Table(
    "kd_loss_type",
    KDLossRow,
    {
        "ce": _divergence(
            "jaxbrewer.losses:kd_ce_loss",
            teacher_rules_out=True,
            temperature_power=2,
            linear_in_teacher=True,
        ),
        "mse": _packaged("jaxbrewer.losses:kd_mse_loss", temperature_power=2, elementwise=True),
        "kl": _divergence(
            "jaxbrewer.losses:kl_loss", teacher_rules_out=True, linear_in_teacher=True
        ),
        "reverse_kl": _divergence("jaxbrewer.losses:reverse_kl_loss"),
        "jsd": _divergence("jaxbrewer.losses:jsd_loss", parameters=("beta",)),
        "skew_kl": _divergence("jaxbrewer.losses:skew_kl_loss", parameters=("alpha",)),
        "skew_reverse_kl": _divergence(
            "jaxbrewer.losses:skew_reverse_kl_loss", parameters=("alpha",)
        ),
        "tvd": _divergence("jaxbrewer.losses:tvd_loss"),
        "bce": _packaged("jaxbrewer.losses:bce_loss", elementwise=True),
        "dkd": _packaged(
            "jaxbrewer.losses:dkd_loss",
            parameters=("alpha", "beta"),
            labels=True,
            least_classes=2,
        ),
        "standardized_kl": _packaged("jaxbrewer.losses:standardized_kl_loss", least_classes=2),
    },
)
"""``kd_loss_type``: ``f(logits_S, logits_T, temperature, mask) -> scalar`` or :class:`Mean`.

A function with an argument ``labels`` gets the adaptor's; further arguments are parameters."""

PACKAGED_KD_LOSSES = frozenset(KD_LOSS_MAP)
"""The names of ``KD_LOSS_MAP`` that are not registered by users."""

_layer = functools.partial(MatchLossRow, layers=1, ranks=(1, 2, 3, 4, 5))
_example = functools.partial(MatchLossRow, layers=1, ranks=(2, 3))
_scores = functools.partial(MatchLossRow, layers=1, ranks=(3, 4), scores=True)
_flow = MatchLossRow("jaxbrewer.losses:fsp_loss", layers=2, ranks=(3,))
_similarity = MatchLossRow("jaxbrewer.losses:mmd_loss", layers=2, ranks=(3,), equal_widths=False)

MATCH_LOSS_MAP = Table(
    "intermediate_matches loss",
    MatchLossRow,
    {
        "attention_mse_sum": _scores("jaxbrewer.losses:att_mse_sum_loss"),
        "attention_mse": _scores("jaxbrewer.losses:att_mse_loss"),
        "attention_ce_mean": _scores("jaxbrewer.losses:att_ce_mean_loss"),
        "attention_ce": _scores("jaxbrewer.losses:att_ce_loss"),
        "hidden_mse": _layer("jaxbrewer.losses:hid_mse_loss"),
        "cos": _layer("jaxbrewer.losses:cos_loss"),
        "pkd": _example("jaxbrewer.losses:pkd_loss"),
        "fsp": _flow,
        "gram": _flow,
        "mmd": _similarity,
        "nst": _similarity,
        "rkd": _example(
            "jaxbrewer.losses:rkd_loss",
            parameters=("distance", "angle"),
            equal_widths=False,
            splits=False,
        ),
        "crd": _example(
            "jaxbrewer.losses:crd_loss", parameters=("temperature", "dataset_size"), splits=False
        ),
        "minilm_attention": _scores("jaxbrewer.losses:minilm_attention_loss"),
        "minilm_relation": MatchLossRow(
            "jaxbrewer.losses:minilm_relation_loss",
            parameters=("heads",),
            layers=1,
            ranks=(3,),
            equal_widths=False,
        ),
    },
)
"""``intermediate_matches[i].loss``: ``f(state_S, state_T, mask) -> scalar`` or :class:`Mean`.

Further arguments are parameters."""

PROJ_MAP = Table(
    "intermediate_matches proj",
    Row,
    {
        "linear": Row("jaxbrewer.objective.projections:identity"),
        "relu": Row("jaxbrewer.objective.projections:relu"),
        "tanh": Row("jaxbrewer.objective.projections:tanh"),
    },
)
"""``proj[0]``: the activation after the linear map from student to teacher width."""

WEIGHT_SCHEDULER = Table(
    "weight scheduler",
    WeightScheduleRow,
    {
        "linear_decay": WeightScheduleRow(
            "jaxbrewer.objective.schedules:linear_decay", argument="fraction"
        ),
        "linear_growth": WeightScheduleRow(
            "jaxbrewer.objective.schedules:linear_growth", argument="fraction"
        ),
    },
)
"""Schedules of weights and temperatures, functions of the step or of the finished fraction."""

TEMPERATURE_SCHEDULER = Table(
    "temperature_scheduler",
    TemperatureRuleRow,
    {
        "constant": TemperatureRuleRow(
            "jaxbrewer.objective.temperature_rules:constant_temperature", reads_teacher=False
        ),
        "flsw": TemperatureRuleRow(
            "jaxbrewer.objective.temperature_rules:flsw_temperature",
            parameters=("beta", "gamma", "eps", "minimum"),
            required=("beta", "gamma"),
        ),
        "cwsm": TemperatureRuleRow(
            "jaxbrewer.objective.temperature_rules:cwsm_temperature",
            parameters=("beta", "minimum"),
            required=("beta",),
            reads_teacher=False,
        ),
    },
)
"""Temperature rules: a builder whose arguments follow the name in the config, and that returns
``rule(logits_S, logits_T, base_temperature, mask) -> temperature per position``."""

FEATURES = ["hidden", "attention", "embedding"]
"""Keys of an adaptor's answer that ``intermediate_matches`` may name."""

ADAPTOR_KEYS = [
    "logits", "logits_mask", "logits_weights", "losses", "inputs_mask", "labels", "hidden",
    "attention", "embedding", "modules_mask",
]  # fmt: skip
"""All keys an adaptor may return."""


_TABLES: dict[str, Table[Any]] = {
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


def register_new(map_name: str, name: str, func: Function | None = None, **facts: Any) -> None:
    """Adds a row to a table, so that configs can name it.

    Args:
        map_name: ``"kd_loss"``, ``"match_loss"`` (TextBrewer's ``"match_Loss"`` too),
            ``"projection"``, ``"weight_scheduler"``, ``"temperature_scheduler"``,
            ``"adaptor_key"`` or ``"feature"``.
        name: The name for configs (or the new adaptor key or feature).
        func: The function; none for ``"adaptor_key"`` and ``"feature"``. Its parameters are read
            off its signature.
        **facts: What else is known of the function, which its signature does not say: the
            attributes of :class:`~jaxbrewer.registry.KDLossRow` for a ``"kd_loss"``, of
            :class:`~jaxbrewer.registry.MatchLossRow` for a ``"match_loss"``, and so on. The
            defaults promise nothing; a function that has a row already keeps that row's facts.

    Raises:
        UsageError: ``map_name`` or a fact is unknown, or ``func`` is missing, not callable, or does
            not take what it will be given.

    Examples:
        >>> def cubic(logits_S, logits_T, temperature=1, mask=None, *, scale=1.0):
        ...     return scale * abs(logits_S - logits_T) ** 3
        >>> register_new("kd_loss", "cubic", cubic, temperature_power=3)
        >>> KD_LOSS_MAP["cubic"] is cubic, KD_LOSS_MAP.row("cubic").parameters
        (True, ('scale',))
        >>> del KD_LOSS_MAP["cubic"]
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
        _TABLES[key].register(name, func, **facts)
    else:
        raise UsageError(
            f"register_new map_name {map_name!r} is unknown: {suggest(key, [*_TABLES, *_LISTS])}"
        )
