"""What every distiller keeps between its trainings: the student, its projections, its step."""

import dataclasses
import functools
import inspect
import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, Self, TypeVar

import jax
import numpy as np
from flax import nnx

from ..configs import DistillationConfig, TrainingConfig
from ..data.loader_checks import check_loader
from ..errors import UsageError
from ..forward.as_model import as_model
from ..forward.freezing import warn_of_moving_lora_base
from ..forward.model import Model, PyTree
from ..forward.tree_keys import named_leaves
from ..objective.objective import make_objective
from ..run.compiled_programs import keep_compiled_programs
from ..run.load_student import best_step, load_student
from ..run.trackers import require_trackers
from .postprocessing import Postprocess, Postprocessor, make_postprocess
from .prepared import Fitted, Prepared, Result, fit, require_config

T = TypeVar("T")

_OF_PYTORCH = ("scheduler_class", "scheduler_args", "scheduler")


class Distiller:
    """A student between its trainings.

    Args:
        train_config: How the training runs.
        model_S: The student.

    Attributes:
        projections: The projections that the next training starts from; ``None`` draws new ones.
        student: The student as ``train`` returns it, also after an error or Ctrl-C.
        history: The history of the last training, likewise.
        run_facts: Computes further entries of the run's manifest, as JSON; a run resumes only under
            the same ones.
    """

    def __init__(self, train_config: TrainingConfig, model_S: Any):
        require_config("train_config", train_config, TrainingConfig)
        require_trackers(train_config)
        keep_compiled_programs(train_config.compilation_cache)
        self.train_config = train_config
        self.projections: PyTree | None = None
        self.history: dict[str, np.ndarray] = {}
        self.run_facts: Callable[[], Mapping[str, Any]] = dict
        self._student = as_model(model_S)
        warn_of_moving_lora_base(self._student)
        is_module = isinstance(model_S, nnx.Module)
        self.student = model_S if is_module else self._student.export(*self._initial_weights())
        self._built: tuple[Any, Any] | None = None

    def __enter__(self) -> Self:
        """TextBrewer's ``with distiller:``; modes are set without it too."""
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def restore(self, step: int | None = None) -> Any:
        """Takes the student's weights from a checkpoint in ``output_dir``; returns the student.

        Args:
            step: The step of the checkpoint; ``None`` takes the best one by ``best_metric``.

        Raises:
            UsageError: There is no such checkpoint.
        """
        directory = self.train_config.output_dir
        if directory is None:
            raise UsageError("restore() needs the output_dir of the run.")
        step = best_step(directory, self.train_config) if step is None else step
        loaded = load_student(directory, step)
        params, state = (
            jax.tree.map_with_path(functools.partial(_entry, loaded[name]), tree)
            for name, tree in self._student.variables.items()
        )
        self._student = dataclasses.replace(self._student, params=params, state=state)
        self.student = self._student.write_back(params, state)
        return self.student

    def _initial_weights(self) -> tuple[PyTree, PyTree]:
        return self._student.params, self._student.state

    def _postprocess(self, function: Postprocessor) -> Postprocess:
        return make_postprocess(function, self._student, self.student)

    def _fit(self, prepared: Prepared, callback: Callable[..., Any] | None) -> Result:
        """Trains, and keeps the student and its projections."""
        results = []

        def keep(fitted: Fitted) -> None:
            self._student, self.projections = fitted.student, fitted.projections
            self.student, self.history = fitted.result
            results.append(fitted.result)

        fit(prepared, callback, keep)
        return results[0]

    def _build_once(self, settings: Any, build: Callable[[], T]) -> T:
        """``build()``, or its last result under equal settings, so that nothing compiles again."""
        if self._built is None or not _is_same(self._built[0], settings):
            self._built = settings, build()
        result: T = self._built[1]
        return result


def _entry(tree: Mapping[str, Any], path: tuple[Any, ...], _: Any) -> Any:
    """The leaf of nested dicts at a path."""
    return functools.reduce(lambda node, key: node[key.key], path, tree)


def _is_same(one: Any, other: Any) -> bool:
    """Whether two settings are equal; objects of unknown types only if they are the same."""
    if one is other:
        return True
    if type(one) is not type(other):
        return False
    if isinstance(one, (bool, int, float, str, DistillationConfig, TrainingConfig)):
        return bool(one == other)
    if isinstance(one, tuple):
        return len(one) == len(other) and all(map(_is_same, one, other))
    if isinstance(one, Mapping):
        return one.keys() == other.keys() and all(_is_same(one[key], other[key]) for key in one)
    return False


def require_adaptor(name: str, adaptor: Any) -> None:
    """Raises :class:`UsageError` if ``adaptor`` cannot be called with a batch and outputs."""
    if not callable(adaptor):
        raise UsageError(f"{name} must be a function, got {type(adaptor).__name__}.")
    try:
        inspect.signature(adaptor).bind("batch", "outputs")
    except TypeError as error:
        raise UsageError(f"{name} is called as {name}(batch, model_outputs): {error}.") from None
    except ValueError:  # a function without a signature
        pass


def refuse_shared_variables(student: Model, teachers: Iterable[Model]) -> None:
    """Raises :class:`UsageError` if a training of the student would change a teacher.

    NNX modules can share variables, and a trained module is updated in place.
    """
    moving = {".".join(names) for names, _ in named_leaves(student.params)}
    own = {
        identity: path
        for path, identity in student.variable_ids.items()
        if path in moving or path not in student.variable_types
    }
    ids = {identity for teacher in teachers for identity in teacher.variable_ids.values()}
    shared = sorted(own[identity] for identity in own.keys() & ids)
    if shared:
        more = f" and {len(shared) - 3} more" if len(shared) > 3 else ""
        raise UsageError(
            f"The student and the teacher share variables, {', '.join(shared[:3])}{more}, so a "
            "training would change the teacher: give nnx.clone(teacher) as the teacher, or freeze "
            "them in the student with jaxbrewer.freeze."
        )


def refuse_pytorch_arguments(args: dict[str, Any]) -> None:
    """Removes TextBrewer's scheduler arguments from ``args``; raises if one of them is set."""
    for name in _OF_PYTORCH:
        if args.pop(name, None) is not None:
            raise UsageError(
                f"train() takes no {name!r}: give the optimizer a schedule of optax as its "
                "learning rate."
            )


def check_config(config: DistillationConfig) -> None:
    """Raises :class:`UsageError` for a config whose objective cannot be built.

    Matches that depend on the models' layers are not checked yet; a weight of the labels stands for
    theirs, so that the others may be 0.
    """
    if not config.is_resolved:
        config = dataclasses.replace(
            config,
            intermediate_matches=(),
            custom_matches=(),
            hard_label_weight=config.hard_label_weight or 1,
        )
    make_objective(config, total_steps=1)


def peek(dataloader: Any) -> tuple[Any, Any]:
    """The first batch, and a loader that still yields it."""
    check_loader(dataloader)
    first = next(iter(dataloader), None)
    if first is None:
        raise UsageError("The dataloader is empty: it has no batches.")
    if isinstance(dataloader, Iterator):
        return first, itertools.chain([first], dataloader)
    return first, dataloader
