"""Several teachers of one task, one student."""

from collections.abc import Sequence
from typing import Any

from ..configs import DistillationConfig, TrainingConfig
from ..errors import UsageError
from ..forward.adaptors import Adaptor
from ..forward.as_model import as_model
from ..forward.model import Model
from .one_task import OneTaskDistiller
from .prepared import require_config


class MultiTeacherDistiller(OneTaskDistiller):
    """Several teachers, which may differ in architecture and tokenizer, and one student.

    The student learns from the mean of the teachers' logits, as in TextBrewer. The config may set
    ``teacher_weights``, ``teacher_average`` and ``teacher_temperatures``. A match of
    inner layers names its teacher: ``"teacher": 1``. Batches may route, by ``"teacher_id"``
    (``[batch]``) or ``"teacher_weights"`` (``[batch, teachers]``) beside their other entries. Where
    the teachers read different inputs, a batch is ``{"teacher": [one each], "student": ...}``.

    Args:
        train_config: How the training runs.
        distill_config: What the student is taught.
        model_T: The teachers, a list of models as :class:`GeneralDistiller` takes them.
        model_S: The student.
        adaptor_T: One adaptor for all teachers, or a list with one for each.
        adaptor_S: The student's adaptor.

    Raises:
        UsageError: ``model_T`` is not a list, or settings per teacher do not match it.

    Examples:
        >>> import jax.numpy as jnp, numpy as np, optax
        >>> def model(params, x):
        ...     return x @ params["w"]
        >>> def adaptor(batch, logits):
        ...     return {"logits": logits}
        >>> teachers = [(model, {"w": jnp.eye(2)}), (model, {"w": -jnp.eye(2)})]
        >>> distiller = MultiTeacherDistiller(
        ...     TrainingConfig(output_dir=None, progress=False),
        ...     DistillationConfig(temperature=1, teacher_weights=[3, 1]),
        ...     teachers, (model, {"w": jnp.zeros((2, 2))}), adaptor, adaptor,
        ... )
        >>> batches = [{"x": np.eye(2, dtype="f")}]
        >>> student, history = distiller.train(optax.sgd(1.0), batches, num_epochs=200)
        >>> print((student["w"][0, 0] - student["w"][0, 1]).round(2))  # of the mean: (3 - 1) / 4
        0.5
    """

    def __init__(
        self,
        train_config: TrainingConfig,
        distill_config: DistillationConfig,
        model_T: Sequence[Any],
        model_S: Any,
        adaptor_T: Adaptor | Sequence[Adaptor],
        adaptor_S: Adaptor,
    ):
        require_config("distill_config", distill_config, DistillationConfig)
        super().__init__(train_config, distill_config, model_T, model_S, adaptor_T, adaptor_S)

    @staticmethod
    def _as_teacher(model_T: Any) -> tuple[Model, ...] | None:
        if model_T is None:  # all of them are cached
            return None
        if not isinstance(model_T, (list, tuple)) or not model_T:
            raise UsageError(
                f"MultiTeacherDistiller.model_T must be a list of models, got "
                f"{type(model_T).__name__}."
            )
        return tuple(map(as_model, model_T))
