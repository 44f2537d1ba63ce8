"""Several tasks, one student with a head for each."""

import dataclasses
import functools
import warnings
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import optax

from ..configs import DistillationConfig, TrainingConfig
from ..data.batches import as_arrays
from ..data.groups import GroupSource, count_examples
from ..devices.estimate import Estimate, estimate_step
from ..devices.sharding import DeviceLayout, make_layout, models_for_use, place_teacher
from ..errors import UsageError, suggest
from ..forward.adaptors import Adaptor
from ..forward.as_model import as_model
from ..forward.model import Model, PyTree
from ..forward.precision import policy_of
from ..objective.objective import make_objective
from ..run import loop
from ..run.nonfinite import finite_gradients
from ..run.plan import Plan
from ..step.optimizer import make_optimizer
from ..step.resolve_matches import resolve_matches
from ..step.state import TrainState, init_train_state
from ..step.tasks import TaskBatch, TaskObjective, make_task_step, present_in
from ..step.teachers import Adaptors, Teacher
from ..step.train_step import TrainStep
from ..step.unused_parameters import skip_absent
from .task_sampling import make_draw, task_groups, task_probabilities
from .training import Optimizer, Result, Training, check_config, peek, variables_of

Tasks = Mapping[str, Any]


class _Ready(NamedTuple):
    """A training before its first update: the data, the first state's maker, optimizer, step."""

    source: GroupSource
    start: Callable[[PyTree], TrainState]
    rule: optax.GradientTransformation
    step: TrainStep
    objective: TaskObjective


class MultiTaskDistiller(Training):
    """One teacher or several for each task, one student with a head for each task.

    Every update draws the task of each of its batches, with a probability that grows with the
    task's number of examples; the draw depends on ``TrainingConfig.seed`` and the update alone.
    Parameters that an update's tasks do not touch (the heads of the others) are not moved, and
    neither are their moments, as PyTorch's optimizers do it: see
    :mod:`jaxbrewer.step.unused_parameters`.
    Metrics carry the task's name: ``<task>/unweighted_kd_loss``.

    Args:
        train_config: How the training runs.
        distill_config: What the student is taught, one for all tasks or a dict with one for each.
        model_T: By task, a teacher as :class:`GeneralDistiller` takes it, or a list of several.
        model_S: The student.
        adaptor_T: By task, the teacher's adaptor; for several teachers one for all or a list.
        adaptor_S: By task, the student's adaptor, which returns the outputs of the task's head.

    Raises:
        UsageError: A task is missing somewhere.

    Examples:
        >>> import jax.numpy as jnp, numpy as np
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
        if not isinstance(train_config, TrainingConfig):
            raise UsageError(f"train_config must be a config, got {type(train_config).__name__}.")
        if not isinstance(model_T, Mapping) or not model_T:
            raise UsageError(
                f"MultiTaskDistiller.model_T must be a dict by task, got {type(model_T).__name__}."
            )
        if train_config.cache_dir is not None:
            raise UsageError(
                "TrainingConfig.cache_dir: MultiTaskDistiller does not read a cache; give each "
                "task's batches their 'teacher_cache' instead, with jaxbrewer.cache.with_outputs."
            )
        for task in model_T:
            if not isinstance(task, str) or not task or "/" in task:
                raise UsageError(f"A task's name must be text without a slash, got {task!r}.")
        self._tasks = list(model_T)
        if isinstance(distill_config, DistillationConfig):
            distill_config = dict.fromkeys(self._tasks, distill_config)
        for field, given in (
            ("distill_config", distill_config),
            ("adaptor_T", adaptor_T),
            ("adaptor_S", adaptor_S),
        ):
            self._require_tasks(f"MultiTaskDistiller.{field}", given)
        self.train_config, self.distill_config = train_config, None
        self._configs = {task: distill_config[task] for task in self._tasks}
        if any(config.is_caching_logits for config in self._configs.values()):
            warnings.warn(
                "MultiTaskDistiller does not cache: is_caching_logits has no effect.", stacklevel=2
            )
        self.adaptor_T, self.adaptor_S = adaptor_T, adaptor_S  # type: ignore[assignment]
        self._teachers: dict[str, Teacher] = {
            task: tuple(map(as_model, model)) if isinstance(model, list) else as_model(model)
            for task, model in model_T.items()
        }
        self._student = as_model(model_S)
        self.projections: PyTree | None = None
        for config in self._configs.values():
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

    def train(  # type: ignore[override]
        self,
        optimizer: Optimizer,
        dataloaders: Tasks,
        num_steps: int,
        *,
        max_grad_norm: float = -1.0,
        tau: float = 1.0,
        callback: Callable[..., Any] | None = None,
        batch_postprocessors: Mapping[str, Callable[[Any], Any]] | None = None,
        **args: Any,
    ) -> Result:
        r"""Trains the student; a further call goes on from its weights and projections.

        Args:
            optimizer: As for :meth:`GeneralDistiller.train`.
            dataloaders: By task, any iterable of batches; the data are repeated as often as it
                takes.
            num_steps: Optimizer updates.
            max_grad_norm: Global norm to which gradients are clipped; -1 does not clip.
            tau: A task with :math:`n` examples is drawn with a probability proportional to
                :math:`n^\tau`. Where the number of examples is unknown (an iterator), all tasks
                are drawn alike, and a warning says so.
            callback: As for :meth:`GeneralDistiller.train`.
            batch_postprocessors: By task, ``batch -> batch``, applied before anything else.
            **args: Further keyword arguments of every call of any model.

        Returns:
            The student and the history; a metric of a task is NaN in updates without that task.

        Raises:
            UsageError: Something does not fit; raised before anything is compiled.
        """
        config = self.train_config
        plan = loop.plan_training(config, dataloaders, None, num_steps)
        ready = self._prepare_tasks(
            optimizer,
            dataloaders,
            plan,
            max_grad_norm,
            tau,
            batch_postprocessors or {},
            args,
            show=config.progress,
        )
        weights = ready.objective.weights_at(0)
        return self._fit(ready.start, ready.rule, ready.step, ready.source, plan, weights, callback)

    def check(  # type: ignore[override]
        self,
        optimizer: Optimizer,
        dataloaders: Tasks,
        num_steps: int,
        *,
        max_grad_norm: float = -1.0,
        tau: float = 1.0,
        batch_postprocessors: Mapping[str, Callable[[Any], Any]] | None = None,
        **args: Any,
    ) -> Plan:
        """Finds what :meth:`train` would find wrong, in any task, without training.

        The arguments are those of :meth:`train`; iterators lose their first batches.
        """
        plan = loop.plan_training(self.train_config, dataloaders, None, num_steps)
        self._prepare_tasks(
            optimizer, dataloaders, plan, max_grad_norm, tau, batch_postprocessors or {}, args
        )
        return plan

    def estimate(  # type: ignore[override]
        self,
        optimizer: Optimizer,
        dataloaders: Tasks,
        num_steps: int,
        *,
        max_grad_norm: float = -1.0,
        tau: float = 1.0,
        batch_postprocessors: Mapping[str, Callable[[Any], Any]] | None = None,
        **args: Any,
    ) -> Estimate:
        """What the first update would need of each device, from the step compiled for its task.

        The arguments are those of :meth:`check`. In a group, batches of one shape are a loop, whose
        FLOPs the compiler counts once.
        """
        plan = loop.plan_training(self.train_config, dataloaders, None, num_steps)
        ready = self._prepare_tasks(
            optimizer, dataloaders, plan, max_grad_norm, tau, batch_postprocessors or {}, args
        )
        batches = tuple(map(as_arrays, next(ready.source(start=None)).batches))
        return estimate_step(
            ready.step,
            ready.start,
            self._weights,
            batches if len(batches) > 1 else batches[0],
            self.train_config,
            student=self._student,
            teachers=self._teachers,
            teacher_variables=self._teacher_variables,
        )

    @property
    def _teacher_variables(self) -> PyTree:
        return {task: variables_of(teacher) for task, teacher in self._teachers.items()}

    def _prepare_tasks(
        self,
        optimizer: Optimizer,
        dataloaders: Tasks,
        plan: Plan,
        max_grad_norm: float,
        tau: float,
        postprocessors: Mapping[str, Callable[[Any], Any]],
        args: dict[str, Any],
        *,
        show: bool = False,
    ) -> _Ready:
        self._refuse_of_pytorch(args)
        self._require_tasks("dataloaders", dataloaders)
        for task in postprocessors:
            if task not in self._tasks:
                raise UsageError(f"batch_postprocessors: {task!r}: {suggest(task, self._tasks)}")
        config = self.train_config
        size, precision = config.gradient_accumulation_steps, policy_of(config)
        firsts, dataloaders = {}, dict(dataloaders)
        for task in self._tasks:
            batch, dataloaders[task] = peek(dataloaders[task])
            batch = postprocessors[task](batch) if task in postprocessors else batch
            firsts[task] = as_arrays(batch)
        objective = TaskObjective(
            {
                task: make_objective(
                    self._lesson(task, batch, args, show=show), total_steps=plan.total_steps
                )
                for task, batch in firsts.items()
            },
            size,
        )
        draw = make_draw(self._probabilities(dataloaders, tau), config.seed)
        parts: dict[str, Any] = {
            "adaptors_S": self.adaptor_S,
            "adaptors_T": self.adaptor_T,
            "precision": precision,
            "args": args,
        }

        def start(rule: optax.GradientTransformation, weights: PyTree) -> TrainState:
            return init_train_state(
                dataclasses.replace(
                    self._student, params=weights["params"], state=weights["state"]
                ),
                objective,
                rule,
                seed=config.seed,
                precision=precision,
                projections=weights["projections"],
            )

        state = jax.eval_shape(functools.partial(start, optax.identity()), self._weights)
        present = {
            task: present_in(
                state,
                self._teacher_variables,
                TaskBatch(task, batch),
                self._student,
                self._teachers,
                objective,
                **parts,
            )
            for task, batch in firsts.items()
        }
        rule = make_optimizer(optimizer, objective, max_grad_norm=max_grad_norm)
        rule = skip_absent(rule, present)
        models = models_for_use(self._student, self._teachers, make_layout(config))
        step = make_task_step(*models, objective, rule, extra_metrics=finite_gradients, **parts)
        source = functools.partial(
            task_groups, dataloaders, size, draw, postprocessors=postprocessors
        )
        return _Ready(source, functools.partial(start, rule), rule, step, objective)

    def _lesson(
        self, task: str, batch: Any, args: Mapping[str, Any], *, show: bool
    ) -> DistillationConfig:
        """The task's config with its matches written out."""
        config = self._configs[task]
        if config.is_resolved and not config.custom_matches:
            return config
        config, table = resolve_matches(
            config,
            self._student,
            self._teachers[task],
            batch,
            adaptor_S=self.adaptor_S[task],  # type: ignore[index]
            adaptor_T=self.adaptor_T[task],  # type: ignore[index, call-overload]
            args=args,
        )
        if show and jax.process_index() == 0:
            print(f"{task}:\n{table}")
        return config

    def _probabilities(self, dataloaders: Tasks, tau: float) -> dict[str, float]:
        sizes = {task: count_examples(dataloaders[task]) for task in self._tasks}
        unknown = [task for task, size in sizes.items() if size is None]
        if unknown:
            warnings.warn(
                f"The numbers of examples of {unknown} are unknown: tau={tau} has no effect, and "
                "all tasks are drawn alike.",
                stacklevel=4,
            )
            tau = 0.0
        return task_probabilities({task: size or 1 for task, size in sizes.items()}, tau)

    def _placed_teacher(self, layout: DeviceLayout) -> PyTree:
        return place_teacher(self._teacher_variables, self._teachers, layout)

    @property
    def _saved_configs(self) -> Mapping[str, DistillationConfig]:
        return self._configs

    def _models(self) -> dict[str, Model]:
        models = {"student": self._student}
        for task, teacher in self._teachers.items():
            several = (teacher,) if isinstance(teacher, Model) else teacher or ()
            for index, model in enumerate(several):
                number = f" {index}" if len(several) > 1 else ""
                models[f"teacher{number} of {task}"] = model
        return models
