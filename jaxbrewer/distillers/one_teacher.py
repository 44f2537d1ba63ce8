"""Distillers with one teacher, and the trainer without."""

import dataclasses
import warnings
from collections.abc import Sequence
from typing import Any

from ..configs import DistillationConfig, TrainingConfig
from ..errors import UsageError
from ..forward.adaptors import Adaptor
from .one_task import OneTaskDistiller
from .prepared import require_config


class BasicTrainer(OneTaskDistiller):
    """Trains one model on the losses that its adaptor returns, without a teacher.

    Args:
        train_config: How the training runs.
        model: An NNX module, ``(linen_module, variables)``, ``(function, params)`` or a
            :class:`~jaxbrewer.Model`.
        adaptor: ``adaptor(batch, model_outputs) -> {"losses": ...}``.

    Examples:
        >>> import jax.numpy as jnp, numpy as np, optax
        >>> def model(params, x):
        ...     return x @ params["w"]
        >>> def adaptor(batch, outputs):
        ...     return {"losses": jnp.mean((outputs - batch["y"]) ** 2)}
        >>> config = TrainingConfig(output_dir=None, progress=False)
        >>> trainer = BasicTrainer(config, (model, {"w": jnp.zeros(2)}), adaptor)
        >>> batches = [{"x": np.eye(2, dtype="f"), "y": np.ones(2, "f")}]
        >>> student, history = trainer.train(optax.sgd(1.0), batches, num_epochs=2)
        >>> print(student["w"], history["total_loss"])
        [1. 1.] [1. 0.]
    """

    def __init__(self, train_config: TrainingConfig, model: Any, adaptor: Adaptor):
        super().__init__(train_config, None, None, model, None, adaptor)


class GeneralDistiller(OneTaskDistiller):
    """One teacher, one student: logits, labels, and any intermediate layers.

    Args:
        train_config: How the training runs.
        distill_config: What the student is taught.
        model_T: The teacher, any model that :class:`BasicTrainer` takes. It runs in evaluation
            mode and is never changed.
        model_S: The student, likewise; it runs in training mode.
        adaptor_T: ``adaptor(batch, model_outputs) -> dict`` with the keys of ``ADAPTOR_KEYS``.
        adaptor_S: The same for the student.
        custom_matches: Added to those of ``distill_config``: see :class:`CustomMatch`.

    Attributes:
        projections: The projection of ``intermediate_matches[i]`` under ``str(i)``, that of
            ``custom_matches[i]`` under ``custom_<i>``, numbered as they are resolved. The next
            training starts from them; ``None`` draws new ones.
    """

    def __init__(
        self,
        train_config: TrainingConfig,
        distill_config: DistillationConfig,
        model_T: Any,
        model_S: Any,
        adaptor_T: Adaptor,
        adaptor_S: Adaptor,
        custom_matches: Sequence[Any] | None = None,
    ):
        require_config("distill_config", distill_config, DistillationConfig)
        if not isinstance(custom_matches, (list, tuple, type(None))):
            raise UsageError(
                f"custom_matches must be a list of matches, got {type(custom_matches).__name__}."
            )
        if custom_matches:
            matches = (*distill_config.custom_matches, *custom_matches)
            distill_config = dataclasses.replace(distill_config, custom_matches=matches)
        super().__init__(train_config, distill_config, model_T, model_S, adaptor_T, adaptor_S)


class BasicDistiller(GeneralDistiller):
    """One teacher, one student: logits and labels; the arguments of :class:`GeneralDistiller`.

    As in TextBrewer, ``intermediate_matches`` have no effect here; a warning says so.
    """

    def __init__(
        self,
        train_config: TrainingConfig,
        distill_config: DistillationConfig,
        model_T: Any,
        model_S: Any,
        adaptor_T: Adaptor,
        adaptor_S: Adaptor,
    ):
        require_config("distill_config", distill_config, DistillationConfig)
        if distill_config.intermediate_matches or distill_config.custom_matches:
            warnings.warn(
                "BasicDistiller does not use intermediate_matches; GeneralDistiller does.",
                stacklevel=2,
            )
            distill_config = dataclasses.replace(
                distill_config, intermediate_matches=(), custom_matches=()
            )
        super().__init__(train_config, distill_config, model_T, model_S, adaptor_T, adaptor_S)
