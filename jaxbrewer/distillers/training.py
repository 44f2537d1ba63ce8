"""What all distillers share: checked arguments, the steps of ``train``, weights that go on."""

import dataclasses
import functools
import itertools
import warnings
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple, Self, TypeAlias

import jax
import numpy as np
import optax

from ..checksums import fingerprint
from ..configs import DistillationConfig, TrainingConfig
from ..data.batches import as_arrays
from ..data.groups import GroupSource, groups
from ..devices.estimate import Estimate, estimate_step
from ..devices.sharding import (
    DeviceLayout,
    gather,
    init_state,
    make_layout,
    models_for_use,
    on_device,
    place_teacher,
    readable,
)
from ..errors import UsageError
from ..forward.adaptors import Adaptor
from ..forward.as_model import as_model
from ..forward.model import Model, PyTree
from ..forward.precision import policy_of
from ..objective.objective import Objective, TermWeight, make_objective
from ..run import loop
from ..run.directory import open_run
from ..run.nonfinite import finite_gradients
from ..run.optimizer_settings import closure_settings
from ..run.plan import Plan
from ..step.optimizer import OptimizerFactory, make_optimizer
from ..step.resolve_matches import resolve_matches
from ..step.state import TrainState, init_train_state
from ..step.teachers import Adaptors, Teacher
from ..step.train_step import TrainStep, make_train_step
from .caching import Caching

Optimizer: TypeAlias = optax.GradientTransformation | OptimizerFactory
_OF_PYTORCH = ("scheduler_class", "scheduler_args", "scheduler")


class Result(NamedTuple):
    """What ``train`` returns.

    Attributes:
        student: The trained student, of the kind that was given: the NNX module itself, updated in
            place; the variables of a Linen module; the parameters of a function.
        history: Every metric as an array with one entry per optimizer update, and ``step``.
    """

    student: Any
    history: dict[str, np.ndarray]


class Training:
    """What all distillers share: checked arguments, ``train``, and weights that go on."""

    _caching: Caching | None = None

    def __init__(
        self,
        train_config: TrainingConfig,
        distill_config: DistillationConfig | None,
        model_T: Any,
        model_S: Any,
        adaptor_T: Adaptors,
        adaptor_S: Adaptor,
    ):
        for field, value, kind in (
            ("train_config", train_config, TrainingConfig),
            ("distill_config", distill_config, (DistillationConfig, type(None))),
        ):
            if not isinstance(value, kind):
                raise UsageError(f"{field} must be a config, got {type(value).__name__}.")
        adaptors = adaptor_T if isinstance(adaptor_T, (list, tuple)) else [adaptor_T]
        for name, adaptor in [*(("adaptor_T", one) for one in adaptors), ("adaptor_S", adaptor_S)]:
            if not callable(adaptor) and not (adaptor is None and model_T is None):
                raise UsageError(f"{name} must be a function, got {type(adaptor).__name__}.")
        self.train_config, self.distill_config = train_config, distill_config
        self.adaptor_T, self.adaptor_S = adaptor_T, adaptor_S
        self._teacher = self._as_teacher(model_T)
        self._student = as_model(model_S)
        self.projections: PyTree | None = None
        _warn_of_replaced_weights(self._objective_config)
        self._resolved: DistillationConfig | None = None
        check_config(self._objective_config)
        if distill_config is not None:
            self._caching = Caching(train_config, distill_config, self._teacher, adaptor_T)
            self._caching.check()

    @staticmethod
    def _as_teacher(model_T: Any) -> Model | tuple[Model, ...] | None:
        """The teacher as the step takes it."""
        return None if model_T is None else as_model(model_T)

    @property
    def _teacher_variables(self) -> PyTree:
        """The step's second argument."""
        return variables_of(self._taught)

    @property
    def _saved_configs(self) -> DistillationConfig | Mapping[str, DistillationConfig] | None:
        """What the run directory says of the lesson."""
        return self.distill_config

    def _models(self) -> dict[str, Model]:
        """All models by the names they have in the manifest."""
        models = {"student": self._student}
        if isinstance(self._teacher, Model):
            models["teacher"] = self._teacher
        for index, model in enumerate(self._teacher if isinstance(self._teacher, tuple) else ()):
            models[f"teacher {index}"] = model
        return models

    @property
    def _weights(self) -> dict[str, PyTree]:
        """What a training begins from."""
        return {**self._student.variables, "projections": self.projections}

    @property
    def _taught(self) -> Model | tuple[Model, ...] | None:
        """The teacher that the step runs: none if all its outputs are cached."""
        return None if self._caching is not None and self._caching.covers_all else self._teacher

    @property
    def _objective_config(self) -> DistillationConfig:
        """The losses to train on; without a distillation, the model's own with weight 1."""
        return self.distill_config or DistillationConfig(hard_label_weight=1)

    def __enter__(self) -> Self:
        """TextBrewer's ``with distiller:``; modes are set without it too."""
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def train(
        self,
        optimizer: Optimizer,
        dataloader: Any,
        num_epochs: int | None = None,
        *,
        num_steps: int | None = None,
        max_grad_norm: float = -1.0,
        callback: Callable[..., Any] | None = None,
        batch_postprocessor: Callable[[Any], Any] | None = None,
        **args: Any,
    ) -> Result:
        """Trains the student; a further call goes on from its weights and projections.

        Args:
            optimizer: An optax transformation, its learning rate usually a schedule of optax; or
                a function that makes one (``functools.partial(optax.adamw, learning_rate=...)``),
                which lets ``proj[3]`` change settings for a projection.
            dataloader: Any iterable of batches: dicts (keyword arguments of the models), tuples
                (positional ones), or ``{"teacher": ..., "student": ...}`` with one for each.
            num_epochs: Passes over the data.
            num_steps: Optimizer updates, instead of ``num_epochs``; the data are then repeated as
                often as it takes.
            max_grad_norm: Global norm of the gradients of student and projections together above
                which they are scaled down; -1 does not clip.
            callback: Called as ``callback(model=student, step=update)`` after each checkpoint,
                with a copy of the student in evaluation mode. It may return a dict of numbers, by
                which ``keep_best`` chooses checkpoints.
            batch_postprocessor: ``batch -> batch``, applied before anything else.
            **args: Further keyword arguments of every call of either model.

        Returns:
            The student and the history.

        Raises:
            UsageError: Something does not fit; raised before anything is compiled.
            NonFiniteError: A loss or a gradient is not finite (``on_nonfinite="stop"``).
            Preempted: SIGTERM came, and the training is saved in ``output_dir``.
        """
        config = self.train_config
        plan = loop.plan_training(config, dataloader, num_epochs, num_steps)
        dataloader = self._resolve(dataloader, batch_postprocessor, args, show=config.progress)
        start, make_step, rule, objective = self._prepare(optimizer, plan, max_grad_norm, args)
        if self._caching is not None and self._caching.is_on:
            dataloader, batch_postprocessor = self._caching.apply(
                dataloader, batch_postprocessor, args
            )
        source = functools.partial(
            groups, dataloader, config.gradient_accumulation_steps, num_epochs=plan.num_epochs
        )
        weights = objective.weights_at(0)
        if self.distill_config is None:
            weights = {"hard_label_loss": weights["hard_label_loss"]}
        return self._fit(
            start, rule, make_step(), source, plan, weights, callback, batch_postprocessor
        )

    def _fit(
        self,
        start: Callable[[PyTree], TrainState],
        rule: optax.GradientTransformation,
        step: TrainStep,
        source: GroupSource,
        plan: Plan,
        weights_at_0: Mapping[str, TermWeight],
        callback: Callable[..., Any] | None,
        batch_postprocessor: Callable[[Any], Any] | None = None,
    ) -> Result:
        """Trains on the groups of ``source`` and keeps the weights."""
        config = self.train_config
        layout = make_layout(config)
        with on_device(config):
            state = init_state(start, self._weights, self._student, layout)
            teacher = self._placed_teacher(layout)

        def on_checkpoint(step: int, state: TrainState) -> Any:
            if callback is None:
                return None
            weights = gather((state.params, state.model_state))
            if jax.process_index() != 0:
                return None
            return callback(model=self._student.export(*weights), step=step)

        state, history = loop.run(
            step,
            state,
            teacher,
            source,
            config=config,
            plan=plan,
            layout=layout,
            weights_at_0=weights_at_0,
            run=open_run(config, self._saved_configs, self._facts(plan, rule)),
            batch_postprocessor=batch_postprocessor,
            on_checkpoint=on_checkpoint,
            given=self._weights,
        )
        self._student = dataclasses.replace(
            self._student, params=state.params, state=state.model_state
        )
        self.projections = state.trainable["projections"]
        weights = readable((state.params, state.model_state))
        return Result(self._student.write_back(*weights), history)

    def _placed_teacher(self, layout: DeviceLayout) -> PyTree:
        """The step's second argument, on its devices."""
        return place_teacher(self._teacher_variables, self._taught, layout)

    def check(
        self,
        optimizer: Optimizer,
        dataloader: Any,
        num_epochs: int | None = None,
        *,
        num_steps: int | None = None,
        max_grad_norm: float = -1.0,
        batch_postprocessor: Callable[[Any], Any] | None = None,
        **args: Any,
    ) -> Plan:
        """Finds what :meth:`train` would find wrong, without training.

        The first update is traced on the first batches, by ``jax.eval_shape``: models and adaptors
        run on shapes, nothing is compiled or computed, no directory is made.

        Args:
            optimizer: As for :meth:`train`, like all others.
            dataloader: An iterator loses its first batches.
            num_epochs: Passes over the data.
            num_steps: Optimizer updates, instead of ``num_epochs``.
            max_grad_norm: Norm to which gradients are clipped.
            batch_postprocessor: ``batch -> batch``.
            **args: Further keyword arguments of every call of either model.

        Returns:
            How many updates there would be, and after which of them a checkpoint.

        Raises:
            UsageError: Something does not fit.

        Examples:
            >>> import jax.numpy as jnp, optax
            >>> from jaxbrewer import BasicTrainer
            >>> model = (lambda params, x: x @ params, jnp.zeros((2, 3)))
            >>> config = TrainingConfig(output_dir=None)
            >>> trainer = BasicTrainer(config, model, lambda batch, y: {"losses": jnp.mean(y**2)})
            >>> trainer.check(optax.sgd(1.0), [{"x": np.ones((4, 2))}], num_epochs=5).total_steps
            5
        """
        plan, start, make_step, batches = self._first_update(
            optimizer, dataloader, num_epochs, num_steps, max_grad_norm, batch_postprocessor, args
        )
        jax.eval_shape(
            lambda weights, teacher, batch: make_step()(start(weights), teacher, batch),
            self._weights,
            self._teacher_variables,
            batches if len(batches) > 1 else batches[0],
        )
        return plan

    def estimate(
        self,
        optimizer: Optimizer,
        dataloader: Any,
        num_epochs: int | None = None,
        *,
        num_steps: int | None = None,
        max_grad_norm: float = -1.0,
        batch_postprocessor: Callable[[Any], Any] | None = None,
        **args: Any,
    ) -> Estimate:
        """What an update would need of each device, from the step compiled for the first batches.

        Nothing is run and no weights are moved. The arguments are those of :meth:`check`.

        Raises:
            UsageError: Something does not fit.
        """
        _, start, make_step, batches = self._first_update(
            optimizer, dataloader, num_epochs, num_steps, max_grad_norm, batch_postprocessor, args
        )
        compiled = functools.partial(
            estimate_step,
            start=start,
            weights=self._weights,
            config=self.train_config,
            student=self._student,
            teachers=self._taught,
            teacher_variables=self._teacher_variables,
        )
        alone = compiled(make_step(gradient_accumulation_steps=1), batch=batches[0])
        if len(batches) == 1:
            return alone
        # The compiler counts the body of a loop once, however often it runs.
        return dataclasses.replace(
            compiled(make_step(), batch=batches), flops=len(batches) * alone.flops
        )

    def _first_update(
        self,
        optimizer: Optimizer,
        dataloader: Any,
        num_epochs: int | None,
        num_steps: int | None,
        max_grad_norm: float,
        postprocessor: Callable[[Any], Any] | None,
        args: dict[str, Any],
    ) -> tuple[Plan, Callable[[PyTree], TrainState], Callable[..., TrainStep], tuple[Any, ...]]:
        """The plan, what makes the first state and the step, the batches of the first update."""
        config = self.train_config
        plan = loop.plan_training(config, dataloader, num_epochs, num_steps)
        dataloader = self._resolve(dataloader, postprocessor, args)
        start, make_step, _, _ = self._prepare(optimizer, plan, max_grad_norm, args)
        size = config.gradient_accumulation_steps
        if self._caching is not None:
            dataloader, postprocessor = self._caching.for_check(dataloader, postprocessor, args)
        batches = next(groups(dataloader, size, num_epochs=plan.num_epochs)).batches
        if postprocessor is not None:
            batches = tuple(map(postprocessor, batches))
        return plan, start, make_step, tuple(map(as_arrays, batches))

    def table(
        self,
        dataloader: Any,
        *,
        batch_postprocessor: Callable[[Any], Any] | None = None,
        **args: Any,
    ) -> str:
        """The matches of inner layers as they are written out for these models and data.

        One line each: the layers and their widths, the loss, its weight, the projection. With
        ``TrainingConfig.progress``, :meth:`train` prints it where a match was left open.

        Args:
            dataloader: Its first batch is looked at, for its shapes; an iterator loses it.
            batch_postprocessor: As for :meth:`train`.
            **args: Further keyword arguments of every call of either model.

        Raises:
            UsageError: There is no teacher, or a match does not fit the models.
        """
        return self._written_out(peek(dataloader)[0], batch_postprocessor, args)[1]

    def _written_out(
        self,
        batch: Any,
        batch_postprocessor: Callable[[Any], Any] | None,
        args: Mapping[str, Any],
    ) -> tuple[DistillationConfig, str]:
        """The config with all matches written out, and their table."""
        if batch_postprocessor is not None:
            batch = batch_postprocessor(batch)
        return resolve_matches(
            self._objective_config,
            self._student,
            self._teacher,
            as_arrays(batch),
            adaptor_S=self.adaptor_S,
            adaptor_T=self.adaptor_T,
            args=args,
        )

    def _resolve(
        self,
        dataloader: Any,
        batch_postprocessor: Callable[[Any], Any] | None,
        args: Mapping[str, Any],
        *,
        show: bool = False,
    ) -> Any:
        """Writes out matches that depend on the models' layers; returns the loader, all of it."""
        config = self._objective_config
        if config.is_resolved and not config.custom_matches:
            return dataloader
        batch, dataloader = peek(dataloader)
        self._resolved, table = self._written_out(batch, batch_postprocessor, args)
        if self._caching is not None:
            self._caching = dataclasses.replace(self._caching, distill_config=self._resolved)
        if show and jax.process_index() == 0:
            print(table)
        return dataloader

    @staticmethod
    def _refuse_of_pytorch(args: dict[str, Any]) -> None:
        for name in _OF_PYTORCH:
            if args.pop(name, None) is not None:
                raise UsageError(
                    f"train() takes no {name!r}: give the optimizer a schedule of optax as its "
                    "learning rate."
                )

    def _prepare(
        self, optimizer: Optimizer, plan: Plan, max_grad_norm: float, args: dict[str, Any]
    ) -> tuple[
        Callable[[PyTree], TrainState],
        Callable[..., TrainStep],
        optax.GradientTransformation,
        Objective,
    ]:
        """What makes the first state, what makes the step, its optimizer, and the objective."""
        self._refuse_of_pytorch(args)
        config = self.train_config
        lesson = self._resolved or self._objective_config
        objective = make_objective(lesson, total_steps=plan.total_steps)
        rule = make_optimizer(optimizer, objective, max_grad_norm=max_grad_norm)
        precision = policy_of(config)

        def start(weights: PyTree) -> TrainState:
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

        make_step = functools.partial(
            make_train_step,
            *models_for_use(self._student, self._taught, make_layout(config)),
            objective,
            rule,
            adaptor_S=self.adaptor_S,
            adaptor_T=self.adaptor_T,
            gradient_accumulation_steps=config.gradient_accumulation_steps,
            precision=precision,
            args=args,
            extra_metrics=finite_gradients,
        )
        return start, make_step, rule, objective

    def _teacher_fingerprint(self) -> str | None:
        """What tells a resumed run whether its teacher is still the same."""
        if self._caching is not None and self._teacher is None:
            return self._caching.teacher_fingerprint()
        return fingerprint(
            variables_of(self._teacher) if self._caching is not None else self._teacher_variables
        )

    def _facts(self, plan: Plan, rule: optax.GradientTransformation) -> dict[str, Any]:
        """What the run's manifest says of the models and the length."""
        written = self.train_config.output_dir is not None
        return {
            "distiller": type(self).__name__,
            "total_steps": plan.total_steps,
            "steps_per_epoch": plan.steps_per_epoch,
            "optimizer": closure_settings(rule.update),
            "teacher": self._teacher_fingerprint() if written else None,
            "parameters": {
                name: sum(leaf.size for leaf in jax.tree.leaves(model.params))
                for name, model in self._models().items()
            },
        }


def variables_of(teacher: Teacher) -> PyTree:
    """What a step takes for a teacher: its variables, or a tuple for several."""
    if teacher is None or isinstance(teacher, Model):
        return teacher and teacher.variables
    return tuple(model.variables for model in teacher)


def check_config(config: DistillationConfig) -> None:
    """Raises :class:`UsageError` for a config that cannot be built, as far as that is known."""
    make_objective(closed(config), total_steps=1)


def closed(config: DistillationConfig) -> DistillationConfig:
    """The config without its matches if some of them are still to be written out."""
    if config.is_resolved:
        return config
    return dataclasses.replace(config, intermediate_matches=(), custom_matches=())


def peek(dataloader: Any) -> tuple[Any, Any]:
    """The first batch, and a loader that still gives it."""
    first = next(iter(dataloader), None)
    if first is None:
        raise UsageError("The dataloader is empty: it has no batches.")
    if isinstance(dataloader, Iterator):
        return first, itertools.chain([first], dataloader)
    return first, dataloader


def _warn_of_replaced_weights(config: DistillationConfig) -> None:
    for field in ("kd_loss_weight", "hard_label_weight"):
        weight, scheduler = getattr(config, field), getattr(config, f"{field}_scheduler")
        if scheduler != "none" and weight != getattr(DistillationConfig, field):
            warnings.warn(
                f"{field}_scheduler={scheduler!r} replaces {field}={weight}, which has no effect.",
                stacklevel=4,
            )
