"""All settings as frozen dataclasses, with lossless dict and JSON forms.

Building a config checks every field it can check alone and nothing else: no directory is made, no
device is touched, and JAX is not imported. Lists become tuples, so that a config cannot change
under a running training.
"""

from ._base import Config as Config
from .data import DataConfig as DataConfig
from .distillation import DistillationConfig as DistillationConfig
from .layer_map import LayerMap as LayerMap
from .matches import CustomMatch as CustomMatch
from .matches import EMDMatch as EMDMatch
from .matches import IntermediateMatch as IntermediateMatch
from .matches import as_match as as_match
from .optimization import OptimizationConfig as OptimizationConfig
from .training import TrainingConfig as TrainingConfig
