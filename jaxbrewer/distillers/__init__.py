"""TextBrewer's distillers: a constructor and ``train``, over the pure functions of the package."""

from .multi_task import MultiTaskDistiller as MultiTaskDistiller
from .multi_teacher import MultiTeacherDistiller as MultiTeacherDistiller
from .one_teacher import BasicDistiller as BasicDistiller
from .one_teacher import BasicTrainer as BasicTrainer
from .one_teacher import GeneralDistiller as GeneralDistiller
from .prepared import Result as Result
