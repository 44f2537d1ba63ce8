"""Several tasks, one student with a head for each."""

import dataclasses
import functools
import warnings
from collections.abc import Callable, Mapping
from typing import Any

from ..checksums import fingerprint
from ..configs import DistillationConfig, TrainingConfig
from ..data.batches import as_batch
from ..devices.estimate import Estimate
from ..devices.mesh import make_layout
from ..devices.sharding import models_for_use, trace_for, variables_of
from ..errors import UsageError, suggest
from ..forward.adaptors import Adaptor
from ..forward.as_model import as_model
from ..run.loop import plan_training
from ..run.nonfinite import FlaggedStep, finite_gradients, with_finite_flags
from ..run.plan import Plan
from ..step.optimizer import make_optimizer
from ..step.tasks import TaskBatch, make_task_step
from ..step.teachers import Adaptors, Teacher
from ..step.unused_parameters import skip_absent
from .base import (
    Distiller,
    check_config,
    peek,
    refuse_pytorch_arguments,
    refuse_shared_variables,
    require_adaptor,
)
from .postprocessing import Weights
from .prepared import (
    Optimizer,
    Prepared,
    Result,
    RunRecord,
    check,
    estimate,
)
from .task_models import TaskModels
from .task_sampling import Draw, loader_probabilities, make_draw, task_groups

Tasks = Mapping[str, Any]


def _as_teacher(model: Any) -> Teacher:
    """One teacher, several or none, as a step takes them."""
    if isinstance(model, list):
        return tuple(map(as_model, model))
    return None if model is None else as_model(model)


class MultiTaskDistiller(Distiller):
    """One teacher or several for each task, one student with a head for each task.

    Every step draws the task of each of its batches, with a probability that grows with the task's
    number of examples; the draw depends on ``TrainingConfig.seed`` and the step alone. Parameters
    that the step's tasks do not touch (the heads of the others) are not moved, and neither are
    their moments, as in PyTorch's optimizers: see :mod:`jaxbrewer.step.unused_parameters`.
    Metrics carry the task's name: ``<task>/unweighted_kd_loss``.

    Args:
        train_config: How the training runs.
        distill_config: What the student is taught, one for all tasks or a dict with one for each.
            Under one config, a match has one projection that all tasks share, as in TextBrewer;
            with a config for each, every task has its own.
        model_T: By task, a teacher as :class:`GeneralDistiller` takes it, or a list of several;
            ``None`` for a task that learns from the losses of its adaptor alone, or whose batches
            bring ``"teacher_cache"``.
        model_S: The student.
        adaptor_T: By task, the teacher's adaptor; for several teachers one for all or a list.
        adaptor_S: By task, the student's adaptor, which returns the outputs of the task's head.

    Raises:
        UsageError: A task is missing somewhere.

    Examples:
        >>> import jax.numpy as jnp, numpy as np, optax
        >>> def model(params, x):
        ...     return {name: x @ w for name, w in params.items()}
        >>> def head(name):
        ...     return lambda batch, outputs: {"logits": outputs[name]}
        >>> teacher = (lambda params, x: {"up": x @ params, "down": -x @ params}, jnp.eye(2))
        >>> distiller = MultiTaskDistiller(
        ...     TrainingConfig(output_dir=None, progress=False), DistillationConfig(temperature=1),
        ...     {"up": teacher, "down": teacher},
        ...     (model, {"up": jnp.zeros((2, 2)), "down": jnp.zeros((2, 2))}),
        ...     {"up": head("up"), "down": head("down")}, {"up": head("up"), "down": head("down")},
        ... )
        >>> batches = [{"x": np.eye(2, dtype="f")}]
        >>> student, history = distiller.train(
        ...     optax.sgd(1.0), {"up": batches, "down": batches}, num_steps=200)
        >>> print(student["up"].round(1))
        [[ 0.5 -0.5]
         [-0.5  0.5]]
    """

    def __init__(
        self,
        train_config: TrainingConfig,
        distill_config: DistillationConfig | Mapping[str, DistillationConfig],
        model_T: Tasks,
        model_S: Any,
        adaptor_T: Mapping[str, Adaptors],
        adaptor_S: Mapping[str, Adaptor],
    ):
        super().__init__(train_config, model_S)
        if not isinstance(model_T, Mapping) or not model_T:
            raise UsageError(
                f"MultiTaskDistiller.model_T must be a dict by task, got {type(model_T).__name__}."
            )
        if train_config.cache_dir is not None:
            raise UsageError(
                "TrainingConfig.cache_dir: MultiTaskDistiller does not read a cache; give each "
                "task's batches their 'teacher_cache' instead, with jaxbrewer.cache.with_outputs."
            )
        if train_config.teacher_device is not None:
            raise UsageError(
                f"TrainingConfig.teacher_device is {train_config.teacher_device!r}, but "
                "MultiTaskDistiller runs its teachers in the student's step: leave it out."
            )
        for task in model_T:
            if not isinstance(task, str) or not task or "/" in task:
                raise UsageError(f"A task's name must be text without a slash, got {task!r}.")
        self._tasks = list(model_T)
        self._has_one_config = isinstance(distill_config, DistillationConfig)
        if isinstance(distill_config, DistillationConfig):
            distill_config = dict.fromkeys(self._tasks, distill_config)
        for field, given in (
            ("distill_config", distill_config),
            ("adaptor_T", adaptor_T),
            ("adaptor_S", adaptor_S),
        ):
            self._require_tasks(f"MultiTaskDistiller.{field}", given)
        self.distill_configs = {task: distill_config[task] for task in self._tasks}
        if any(config.is_caching_logits for config in self.distill_configs.values()):
            warnings.warn(
                "MultiTaskDistiller does not cache: is_caching_logits has no effect.", stacklevel=2
            )
        for task in self._tasks:
            require_adaptor(f"adaptor_S[{task!r}]", adaptor_S[task])
        self.adaptor_T, self.adaptor_S = adaptor_T, adaptor_S
        self._teachers: dict[str, Teacher] = {
            task: _as_teacher(model) for task, model in model_T.items()
        }
        refuse_shared_variables(self._student, self._models({}).named_teachers().values())
        for config in self.distill_configs.values():
            check_config(config)

    def _require_tasks(self, field: str, given: Any) -> None:
        if not isinstance(given, Mapping):
            raise UsageError(f"{field} must be a dict by task, got {type(given).__name__}.")
        for task in given:
            if task not in self._tasks:
                raise UsageError(f"{field}: no teacher for {task!r}: {suggest(task, self._tasks)}")
        missing = [task for task in self._tasks if task not in given]
        if missing:
            raise UsageError(f"{field} lacks the tasks {missing}.")

    def train(
        self,
        optimizer: Optimizer,
        dataloaders: Tasks,
        num_steps: int,
        *,
        max_grad_norm: float = -1.0,
        tau: float = 1.0,
        callback: Callable[..., Any] | None = None,
        batch_postprocessors: Mapping[str, Callable[..., Any]] | None = None,
        **args: Any,
    ) -> Result:
        r"""Trains the student; a further call starts from its weights and projections.

        Args:
            optimizer: As for :meth:`GeneralDistiller.train`.
            dataloaders: By task, any iterable of batches; the data are repeated as often as
                necessary.
            num_steps: Optimizer steps.
            max_grad_norm: Global norm to which gradients are clipped; -1 does not clip.
            tau: A task with :math:`n` examples is drawn with a probability proportional to
                :math:`n^\tau`. Where the number of examples is unknown (an iterator), all tasks
                are drawn alike, and a warning says so.
            callback: As for :meth:`GeneralDistiller.train`.
            batch_postprocessors: By task, as for :meth:`GeneralDistiller.train`.
            **args: Further keyword arguments of every call of any model.

        Returns:
            The student and the history; a metric of a task is NaN in steps without that task.

        Raises:
            UsageError: Something does not fit; raised before anything is compiled.
        """
        prepared = self._prepare(
            optimizer,
            dataloaders,
            num_steps,
            max_grad_norm,
            tau,
            batch_postprocessors or {},
            args,
            shows_tables=self.train_config.progress,
        )
        return self._fit(prepared, callback)

    def check(
        self,
        optimizer: Optimizer,
        dataloaders: Tasks,
        num_steps: int,
        *,
        max_grad_norm: float = -1.0,
        tau: float = 1.0,
        callback: Callable[..., Any] | None = None,
        batch_postprocessors: Mapping[str, Callable[..., Any]] | None = None,
        **args: Any,
    ) -> Plan:
        """Reports what :meth:`train` would refuse, in any task, without training.

        The arguments are those of :meth:`train`; iterators lose their first batches.
        """
        postprocessors = batch_postprocessors or {}
        return check(
            self._prepare(
                optimizer, dataloaders, num_steps, max_grad_norm, tau, postprocessors, args
            ),
            callback,
        )

    def estimate(
        self,
        optimizer: Optimizer,
        dataloaders: Tasks,
        num_steps: int,
        *,
        max_grad_norm: float = -1.0,
        tau: float = 1.0,
        batch_postprocessors: Mapping[str, Callable[..., Any]] | None = None,
        task: str | None = None,
        **args: Any,
    ) -> Estimate:
        """Memory and work of a step on each device, from the step compiled for its task.

        The arguments are those of :meth:`check`, and ``task``, the task of the step's batches; by
        default they are those that the first step draws. The FLOPs of a group of batches are
        counted as if all had the first one's task and shape.
        """
        if task is not None and task not in self._tasks:
            raise UsageError(f"task: {task!r}: {suggest(task, self._tasks)}")
        postprocessors = batch_postprocessors or {}
        return estimate(
            self._prepare(
                optimizer,
                dataloaders,
                num_steps,
                max_grad_norm,
                tau,
                postprocessors,
                args,
                draw=None if task is None else lambda step, size: [task] * size,
            )
        )

    def table(
        self,
        dataloaders: Tasks,
        *,
        batch_postprocessors: Mapping[str, Callable[..., Any]] | None = None,
        **args: Any,
    ) -> str:
        """The matches of inner layers of every task, as they are resolved for its models and data.

        Args:
            dataloaders: By task; the shapes of the first batch are read, which an iterator loses.
            batch_postprocessors: As for :meth:`train`.
            **args: Further keyword arguments of every call of any model.

        Raises:
            UsageError: A match does not fit the models.
        """
        firsts, _ = self._first_batches(dataloaders, batch_postprocessors or {})
        models = self._models(args)
        return "\n".join(
            f"{task}:\n{models.resolve(task, batch)[1]}" for task, batch in firsts.items()
        )

    def _prepare(
        self,
        optimizer: Optimizer,
        dataloaders: Tasks,
        num_steps: int,
        max_grad_norm: float,
        tau: float,
        postprocessors: Mapping[str, Callable[..., Any]],
        args: dict[str, Any],
        *,
        shows_tables: bool = False,
        draw: Draw | None = None,
    ) -> Prepared:
        """The training as data; ``draw`` replaces the draw by the seed."""
        refuse_pytorch_arguments(args)
        config = self.train_config
        plan = plan_training(config, dataloaders, None, num_steps)
        firsts, dataloaders = self._first_batches(dataloaders, postprocessors)
        models = self._models(args)
        objective = models.make_objective(
            firsts,
            plan.total_steps,
            has_one_config=self._has_one_config,
            shows_tables=shows_tables,
        )
        draw = draw or make_draw(loader_probabilities(dataloaders, tau), config.seed)
        grouped = skip_absent(
            make_optimizer(
                optimizer, objective, max_grad_norm=max_grad_norm, student=self._student
            ),
            models.present(firsts, objective, self.projections),
        )
        in_use = models_for_use(self._student, self._teachers, make_layout(config))

        def make_step(micro_batches: int) -> FlaggedStep:
            step = make_task_step(
                *in_use,
                dataclasses.replace(objective, micro_batches=micro_batches),
                grouped,
                extra_metrics=finite_gradients,
                **models.forward_settings(),
            )
            step = trace_for(step, make_layout(config))
            return with_finite_flags(step, skips=config.on_nonfinite == "skip")

        own = {task: self._postprocess(postprocessors.get(task)) for task in self._tasks}

        def postprocess(batch: TaskBatch, weights: Weights) -> TaskBatch:
            return TaskBatch(batch.task, as_batch(own[batch.task](batch.batch, weights)))

        return Prepared(
            config=config,
            plan=plan,
            student=self._student,
            teacher=self._teachers,
            separate_teacher=None,
            projections=self.projections,
            objective=objective,
            optimizer=grouped,
            make_step=make_step,
            source=functools.partial(
                task_groups, dataloaders, config.gradient_accumulation_steps, draw
            ),
            postprocess=postprocess,
            weights_at_0=objective.weights_at(0),
            record=RunRecord(
                type(self).__name__,
                self.distill_configs,
                models.named(),
                lambda: fingerprint(variables_of(self._teachers)),
                self.run_facts,
            ),
        )

    def _first_batches(
        self, dataloaders: Tasks, postprocessors: Mapping[str, Callable[..., Any]]
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        """The first batch of each task, and loaders that still yield it."""
        self._require_tasks("dataloaders", dataloaders)
        for task in postprocessors:
            if task not in self._tasks:
                raise UsageError(f"batch_postprocessors: {task!r}: {suggest(task, self._tasks)}")
        firsts, loaders = {}, {}
        for task in self._tasks:
            batch, loaders[task] = peek(dataloaders[task])
            postprocess = self._postprocess(postprocessors.get(task))
            firsts[task] = as_batch(postprocess(batch, self._initial_weights))
        return firsts, loaders

    def _models(self, args: Mapping[str, Any]) -> TaskModels:
        return TaskModels(
            self.train_config,
            self.distill_configs,
            self._student,
            self._teachers,
            self.adaptor_S,
            self.adaptor_T,
            args,
        )
