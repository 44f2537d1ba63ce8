"""Distillers of one task: a teacher, several or none, and a loader."""

import functools
import warnings
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import optax

from ..checksums import fingerprint
from ..configs import DistillationConfig, TrainingConfig
from ..data.batch_parts import objective_entry
from ..data.batches import as_batch
from ..data.groups import groups
from ..devices.estimate import Estimate
from ..devices.mesh import make_layout, make_teacher_layout
from ..devices.separate_teacher import SeparateTeacher
from ..devices.sharding import models_for_use, place_models, trace_for, variables_of
from ..errors import UsageError
from ..forward.adaptors import Adaptor
from ..forward.as_model import as_model
from ..forward.call_arguments import arguments_of, check_arguments
from ..forward.model import Model
from ..forward.precision import policy_of
from ..objective.objective import Objective, make_objective
from ..run.loop import plan_training
from ..run.nonfinite import FlaggedStep, finite_gradients, with_finite_flags
from ..run.plan import Plan
from ..step.optimizer import make_optimizer
from ..step.resolve_matches import resolve_matches
from ..step.teachers import Adaptors, Teacher, models_of
from ..step.train_step import make_train_step
from .base import (
    Distiller,
    check_config,
    peek,
    refuse_pytorch_arguments,
    refuse_shared_variables,
    require_adaptor,
)
from .cache_policy import CachePolicy
from .postprocessing import Postprocess, Postprocessor, takes_student
from .prepared import (
    Optimizer,
    Prepared,
    Result,
    RunRecord,
    check,
    estimate,
    named_models,
    require_config,
)


class _Built(NamedTuple):
    """What depends on settings alone, not on weights or data."""

    objective: Objective
    optimizer: optax.GradientTransformationExtraArgs
    make_step: Callable[[int], FlaggedStep]
    separate_teacher: SeparateTeacher | None


class OneTaskDistiller(Distiller):
    """The methods of all distillers of one task.

    Args:
        train_config: How the training runs.
        distill_config: What the student is taught; ``None`` trains it on its own losses.
        model_T: The teacher, several, or ``None`` if every batch brings ``"teacher_cache"`` or the
            config names a ``cache_dir``.
        model_S: The student.
        adaptor_T: The teacher's adaptor; for several teachers one for all, or a list.
        adaptor_S: The student's adaptor.
    """

    def __init__(
        self,
        train_config: TrainingConfig,
        distill_config: DistillationConfig | None,
        model_T: Any,
        model_S: Any,
        adaptor_T: Adaptors,
        adaptor_S: Adaptor,
    ):
        super().__init__(train_config, model_S)
        if distill_config is not None:
            require_config("distill_config", distill_config, DistillationConfig)
        for name, adaptor in _named_adaptors(adaptor_T, adaptor_S):
            if not (adaptor is None and model_T is None and name != "adaptor_S"):
                require_adaptor(name, adaptor)
        self.distill_config = distill_config
        self.adaptor_T, self.adaptor_S = adaptor_T, adaptor_S
        self._teacher = self._as_teacher(model_T)
        if isinstance(self._teacher, Model) and not callable(adaptor_T):
            raise UsageError(f"adaptor_T must be a function, got {type(adaptor_T).__name__}.")
        refuse_shared_variables(self._student, named_models(self._teacher).values())
        _warn_of_replaced_weights(self._objective_config)
        check_config(self._objective_config)
        if distill_config is not None:
            self._cache_policy(distill_config).check()
        if train_config.teacher_device is not None:
            self._place_teacher()

    @staticmethod
    def _as_teacher(model_T: Any) -> Model | tuple[Model, ...] | None:
        """The teacher in the form in which a step takes it."""
        return None if model_T is None else as_model(model_T)

    def _cache_policy(self, config: DistillationConfig) -> CachePolicy:
        return CachePolicy(self.train_config, config, self._teacher, self.adaptor_T)

    @property
    def _objective_config(self) -> DistillationConfig:
        """The config of the losses; without distillation, the model's own with weight 1."""
        return self.distill_config or DistillationConfig(hard_label_weight=1)

    def train(
        self,
        optimizer: Optimizer,
        dataloader: Any,
        num_epochs: int | None = None,
        *,
        num_steps: int | None = None,
        max_grad_norm: float = -1.0,
        callback: Callable[..., Any] | None = None,
        batch_postprocessor: Postprocessor = None,
        **args: Any,
    ) -> Result:
        """Trains the student; a further call starts from its weights and projections.

        Args:
            optimizer: An optax transformation, its learning rate usually a schedule of optax; or
                a function that makes one (``functools.partial(optax.adamw, learning_rate=...)``),
                which lets ``proj[3]`` change settings for a projection.
            dataloader: Any iterable of batches: dicts (keyword arguments of the models), tuples
                (positional ones), or ``{"teacher": ..., "student": ...}`` with one for each.
            num_epochs: Passes over the data.
            num_steps: Optimizer steps, instead of ``num_epochs``; the data are then repeated as
                often as necessary.
            max_grad_norm: Global norm of the gradients of student and projections together above
                which they are scaled down; -1 does not clip.
            callback: Called as ``callback(model=student, step=step)`` after each checkpoint, with a
                copy of the student in evaluation mode. It may return a dict of numbers, by which
                ``keep_best`` chooses checkpoints, or raise :class:`~jaxbrewer.StopTraining` to end
                the training in order.
            batch_postprocessor: ``batch -> batch``, applied before anything else. With a parameter
                ``student``, it gets the student of that step too, in evaluation mode, of the kind
                that was given (an NNX module, Linen variables, parameters), to sample from it;
                its arrays live for the call only.
            **args: Further arguments of every call of the models that take them; ``args_S={...}``
                and ``args_T={...}`` reach one.

        Returns:
            The student and the history.

        Raises:
            UsageError: Something does not fit; raised before anything is compiled.
            NonFiniteError: A loss or a gradient is not finite (``on_nonfinite="stop"``).
            Preempted: After SIGTERM; the training is saved in ``output_dir``.
        """
        plan = plan_training(self.train_config, dataloader, num_epochs, num_steps)
        prepared = self._prepare(
            optimizer, dataloader, plan, max_grad_norm, batch_postprocessor, args, trains=True
        )
        return self._fit(prepared, callback)

    def check(
        self,
        optimizer: Optimizer,
        dataloader: Any,
        num_epochs: int | None = None,
        *,
        num_steps: int | None = None,
        max_grad_norm: float = -1.0,
        callback: Callable[..., Any] | None = None,
        batch_postprocessor: Postprocessor = None,
        **args: Any,
    ) -> Plan:
        """Reports what :meth:`train` would refuse, without training.

        The first step is traced on the first batches, by ``jax.eval_shape``: models and adaptors
        run on shapes, nothing is compiled or computed, no directory is made.

        Args:
            optimizer: As for :meth:`train`, like all others.
            dataloader: An iterator loses its first batches.
            num_epochs: Passes over the data.
            num_steps: Optimizer steps, instead of ``num_epochs``.
            max_grad_norm: Norm to which gradients are clipped.
            callback: Without one, ``keep_best`` needs a metric of the step.
            batch_postprocessor: ``batch -> batch``.
            **args: Further arguments of every call of the models that take them; ``args_S={...}``
                and ``args_T={...}`` reach one.

        Returns:
            The number of steps, and after which of them checkpoints are saved.

        Raises:
            UsageError: Something does not fit.

        Examples:
            >>> import jax.numpy as jnp, numpy as np, optax
            >>> from jaxbrewer import BasicTrainer
            >>> model = (lambda params, x: x @ params, jnp.zeros((2, 3)))
            >>> config = TrainingConfig(output_dir=None)
            >>> trainer = BasicTrainer(config, model, lambda batch, y: {"losses": jnp.mean(y**2)})
            >>> trainer.check(optax.sgd(1.0), [{"x": np.ones((4, 2))}], num_epochs=5).total_steps
            5
        """
        plan = plan_training(self.train_config, dataloader, num_epochs, num_steps)
        return check(
            self._prepare(optimizer, dataloader, plan, max_grad_norm, batch_postprocessor, args),
            callback,
        )

    def estimate(
        self,
        optimizer: Optimizer,
        dataloader: Any,
        num_epochs: int | None = None,
        *,
        num_steps: int | None = None,
        max_grad_norm: float = -1.0,
        batch_postprocessor: Postprocessor = None,
        **args: Any,
    ) -> Estimate:
        """Memory and work of a step on each device, from the step compiled for the first batches.

        Nothing is run and no weights are moved. The arguments are those of :meth:`check`.

        Raises:
            UsageError: Something does not fit.
        """
        plan = plan_training(self.train_config, dataloader, num_epochs, num_steps)
        return estimate(
            self._prepare(optimizer, dataloader, plan, max_grad_norm, batch_postprocessor, args)
        )

    def table(
        self, dataloader: Any, *, batch_postprocessor: Postprocessor = None, **args: Any
    ) -> str:
        """The matches of inner layers as they are resolved for these models and data.

        One line each: the layers and their widths, the loss, its weight, the projection. With
        ``TrainingConfig.progress``, :meth:`train` prints it if a match was open.

        Args:
            dataloader: The shapes of its first batch are read; an iterator loses it.
            batch_postprocessor: As for :meth:`train`.
            **args: Further arguments of every call of the models that take them; ``args_S={...}``
                and ``args_T={...}`` reach one.

        Raises:
            UsageError: There is no teacher, or a match does not fit the models.
        """
        return self._resolve(peek(dataloader)[0], batch_postprocessor, args)[1]

    def _prepare(
        self,
        optimizer: Optimizer,
        dataloader: Any,
        plan: Plan,
        max_grad_norm: float,
        postprocessor: Postprocessor,
        args: dict[str, Any],
        *,
        trains: bool = False,
    ) -> Prepared:
        """The training as data.

        Args:
            optimizer: The optimizer, or a function that makes it.
            dataloader: The batches.
            plan: Their number.
            max_grad_norm: Norm to which gradients are clipped.
            postprocessor: ``batch -> batch``.
            args: Further arguments of the models that take them; ``args_S`` and ``args_T`` hold
                those of one.
            trains: Whether the table of open matches is printed and a cache is built.
        """
        refuse_pytorch_arguments(args)
        config, distill_config = self.train_config, self._objective_config
        if not distill_config.is_resolved or distill_config.custom_matches:
            batch, dataloader = peek(dataloader)
            distill_config, table = self._resolve(batch, postprocessor, args)
            if trains and config.progress and jax.process_index() == 0:
                print(table)
        cache = None if self.distill_config is None else self._cache_policy(distill_config)
        teacher = None if cache is not None and cache.covers_all else self._teacher
        built = self._build(optimizer, distill_config, teacher, plan, max_grad_norm, args)
        cache_is_on = cache is not None and cache.is_on
        if cache is not None and cache_is_on:
            if takes_student(postprocessor):
                raise UsageError(
                    "batch_postprocessor takes the student, so batches differ in every epoch: the "
                    "teacher's outputs on them cannot be cached."
                )
            batches_of = cache.apply if trains else cache.for_check
            dataloader, postprocessor = batches_of(dataloader, postprocessor, args)
        postprocess = self._postprocess(postprocessor)
        if self.distill_config is not None and self._teacher is None and not cache_is_on:
            postprocess = _requiring_teacher_cache(postprocess)
        weights = built.objective.weights_at(0)
        if self.distill_config is None:
            weights = {"hard_label_loss": weights["hard_label_loss"]}
        return Prepared(
            config=config,
            plan=plan,
            student=self._student,
            teacher=None if built.separate_teacher else teacher,
            separate_teacher=built.separate_teacher,
            projections=self.projections,
            objective=built.objective,
            optimizer=built.optimizer,
            make_step=built.make_step,
            source=functools.partial(
                groups, dataloader, config.gradient_accumulation_steps, num_epochs=plan.num_epochs
            ),
            postprocess=postprocess,
            weights_at_0=weights,
            record=RunRecord(
                type(self).__name__,
                self.distill_config,
                {"student": self._student, **named_models(self._teacher)},
                self._teacher_fingerprint,
                self.run_facts,
            ),
        )

    def _build(
        self,
        optimizer: Optimizer,
        distill_config: DistillationConfig,
        teacher: Teacher,
        plan: Plan,
        max_grad_norm: float,
        args: Mapping[str, Any],
    ) -> _Built:
        """The objective, the optimizer and the step, those of the last call where it was equal."""
        config = self.train_config

        def build() -> _Built:
            objective = make_objective(distill_config, total_steps=plan.total_steps)
            grouped = make_optimizer(
                optimizer, objective, max_grad_norm=max_grad_norm, student=self._student
            )

            layout, separate, in_step, args_in_step = make_layout(config), None, teacher, args
            teacher_layout = make_teacher_layout(config)
            if teacher_layout is not None:
                assert teacher is not None
                check_arguments(args, (self._student, *models_of(teacher)))
                separate = SeparateTeacher(
                    teacher,
                    self.adaptor_T,
                    objective,
                    teacher_layout,
                    layout,
                    precision=policy_of(config),
                    args=args,
                )
                in_step = None
                args_in_step = {"args_S": arguments_of(self._student, "student", args)}

            def make_step(micro_batches: int) -> FlaggedStep:
                step = make_train_step(
                    *models_for_use(self._student, in_step, layout),
                    objective,
                    grouped,
                    adaptor_S=self.adaptor_S,
                    adaptor_T=self.adaptor_T,
                    gradient_accumulation_steps=micro_batches,
                    precision=policy_of(config),
                    args=args_in_step,
                    extra_metrics=finite_gradients,
                )
                step = trace_for(step, layout)
                return with_finite_flags(step, skips=config.on_nonfinite == "skip")

            return _Built(objective, grouped, functools.cache(make_step), separate)

        settings = (
            optimizer, max_grad_norm, distill_config, config, plan.total_steps, dict(args),
            self._student.apply, self._teacher, self.adaptor_S, self.adaptor_T,
        )  # fmt: skip
        return self._build_once(settings, build)

    def _resolve(
        self, batch: Any, postprocessor: Postprocessor, args: Mapping[str, Any]
    ) -> tuple[DistillationConfig, str]:
        """The config with all matches resolved for a batch, and their table."""
        return resolve_matches(
            self._objective_config,
            self._student,
            self._teacher,
            as_batch(self._postprocess(postprocessor)(batch, self._initial_weights)),
            adaptor_S=self.adaptor_S,
            adaptor_T=self.adaptor_T,
            args=args,
        )

    def _place_teacher(self) -> None:
        """Places the teacher on the config's ``teacher_device``.

        Raises:
            UsageError: There is no teacher, it runs before the training, or the device is missing.
        """
        excludes = f"TrainingConfig.teacher_device is {self.train_config.teacher_device!r}, but "
        if self._teacher is None:
            raise UsageError(f"{excludes}there is no teacher: leave it out.")
        if self._objective_config.is_caching_logits:
            raise UsageError(
                f"{excludes}is_caching_logits runs the teacher before the training: leave out one "
                "of them."
            )
        layout = make_teacher_layout(self.train_config)
        assert layout is not None
        self._teacher = place_models(self._teacher, layout)

    def _teacher_fingerprint(self) -> str | None:
        """The digest by which a resumed run knows its teacher."""
        if self.distill_config is not None and self._teacher is None:
            return self._cache_policy(self.distill_config).teacher_fingerprint()
        return fingerprint(variables_of(self._teacher))


def _named_adaptors(adaptor_T: Adaptors, adaptor_S: Adaptor) -> list[tuple[str, Any]]:
    if isinstance(adaptor_T, (list, tuple)):
        of_teachers = [(f"adaptor_T[{index}]", one) for index, one in enumerate(adaptor_T)]
    else:
        of_teachers = [("adaptor_T", adaptor_T)]
    return [*of_teachers, ("adaptor_S", adaptor_S)]


def _requiring_teacher_cache(postprocess: Postprocess) -> Postprocess:
    """``postprocess``, whose batches must bring the outputs of the teacher that is not there."""

    def checked(batch: Any, weights: Any) -> Any:
        batch = postprocess(batch, weights)
        if objective_entry(batch, "teacher_cache") is None:
            raise UsageError(
                "model_T is None, and a batch has no 'teacher_cache', the teacher's logits or "
                "Outputs: give a teacher, TrainingConfig.cache_dir, or the entry."
            )
        return batch

    return checked


def _warn_of_replaced_weights(config: DistillationConfig) -> None:
    for field in ("kd_loss_weight", "hard_label_weight"):
        weight, scheduler = getattr(config, field), getattr(config, f"{field}_scheduler")
        if scheduler != "none" and weight != getattr(DistillationConfig, field):
            warnings.warn(
                f"{field}_scheduler={scheduler!r} replaces {field}={weight}, which has no effect.",
                stacklevel=4,
            )
