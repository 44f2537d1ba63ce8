"""The tables that turn names in configs into functions, with what is known of each function."""

from ._rows import KDLossRow as KDLossRow
from ._rows import MatchLossRow as MatchLossRow
from ._rows import Row as Row
from ._rows import Table as Table
from ._rows import TemperatureRuleRow as TemperatureRuleRow
from ._rows import WeightScheduleRow as WeightScheduleRow
from ._rows import loss_and_parameters as loss_and_parameters
from ._tables import ADAPTOR_KEYS as ADAPTOR_KEYS
from ._tables import FEATURES as FEATURES
from ._tables import KD_LOSS_MAP as KD_LOSS_MAP
from ._tables import MATCH_LOSS_MAP as MATCH_LOSS_MAP
from ._tables import PACKAGED_KD_LOSSES as PACKAGED_KD_LOSSES
from ._tables import PROJ_MAP as PROJ_MAP
from ._tables import TEMPERATURE_SCHEDULER as TEMPERATURE_SCHEDULER
from ._tables import WEIGHT_SCHEDULER as WEIGHT_SCHEDULER
from ._tables import register_new as register_new
