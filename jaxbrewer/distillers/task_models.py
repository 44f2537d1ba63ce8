"""The models of several tasks: their matches, their objective, the parameters that each moves."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import optax

from ..configs import DistillationConfig, TrainingConfig
from ..devices.sharding import variables_of
from ..forward.adaptors import Adaptor
from ..forward.model import Model, PyTree
from ..forward.precision import policy_of
from ..objective.objective import Objective, make_objective
from ..step.resolve_matches import resolve_matches
from ..step.state import init_train_state
from ..step.tasks import TaskBatch, TaskObjective, present_in
from ..step.teachers import Adaptors, Teacher
from .prepared import named_models


@dataclasses.dataclass(frozen=True)
class TaskModels:
    """A student with a head for each task, and by task the teachers, adaptors and configs.

    Attributes:
        train_config: How the training runs.
        distill_configs: By task, what the student is taught.
        student: The student.
        teachers: By task, a teacher or several.
        adaptors_S: By task, the student's adaptor.
        adaptors_T: By task, the teacher's adaptor; for several one for all, or a list.
        args: Further keyword arguments of every call of any model.
    """

    train_config: TrainingConfig
    distill_configs: Mapping[str, DistillationConfig]
    student: Model
    teachers: Mapping[str, Teacher]
    adaptors_S: Mapping[str, Adaptor]
    adaptors_T: Mapping[str, Adaptors]
    args: Mapping[str, Any]

    def named(self) -> dict[str, Model]:
        """All models by their names in a manifest."""
        return {"student": self.student, **self.named_teachers()}

    def named_teachers(self) -> dict[str, Model]:
        """The teachers by their names in a manifest."""
        return {
            name: model
            for task, teacher in self.teachers.items()
            for name, model in named_models(teacher, f"teacher{{}} of {task}").items()
        }

    def forward_settings(self) -> dict[str, Any]:
        """The keyword arguments of functions that run the models."""
        return {
            "adaptors_S": self.adaptors_S,
            "adaptors_T": self.adaptors_T,
            "precision": policy_of(self.train_config),
            "args": self.args,
        }

    def resolve(self, task: str, batch: Any) -> tuple[DistillationConfig, str]:
        """The task's config with all matches resolved for a batch, and their table."""
        return resolve_matches(
            self.distill_configs[task],
            self.student,
            self.teachers[task],
            batch,
            adaptor_S=self.adaptors_S[task],
            adaptor_T=self.adaptors_T[task],
            args=self.args,
        )

    def make_objective(
        self,
        batches: Mapping[str, Any],
        total_steps: int,
        *,
        has_one_config: bool,
        shows_tables: bool,
    ) -> TaskObjective:
        """The objective of all tasks.

        Args:
            batches: By task, a batch, for the shapes that open matches depend on.
            total_steps: Steps of the training.
            has_one_config: Whether all tasks have the same config. They then share projections,
                unless the widths of their teachers' layers differ.
            shows_tables: Whether the tables of open matches are printed.
        """
        objectives: dict[str, Objective] = {}
        for task, batch in batches.items():
            config = self.distill_configs[task]
            if not config.is_resolved or config.custom_matches:
                config, table = self.resolve(task, batch)
                if shows_tables and jax.process_index() == 0:
                    print(f"{task}:\n{table}")
            objectives[task] = make_objective(config, total_steps=total_steps)
        projections = [
            {name: match.proj for name, match in objective.projected.items()}
            for objective in objectives.values()
        ]
        return TaskObjective(
            objectives,
            self.train_config.gradient_accumulation_steps,
            shares_projections=has_one_config and projections[1:] == projections[:-1],
        )

    def present(
        self, batches: Mapping[str, Any], objective: TaskObjective, projections: PyTree | None
    ) -> dict[str, PyTree]:
        """By task, which of the trained arrays its loss depends on; only shapes matter."""
        precision, seed = policy_of(self.train_config), self.train_config.seed

        def start(variables: PyTree, projections: PyTree) -> Any:
            student = dataclasses.replace(self.student, **variables)
            return init_train_state(
                student,
                objective,
                optax.identity(),
                seed=seed,
                precision=precision,
                projections=projections,
            )

        state = jax.eval_shape(start, self.student.variables, projections)
        return {
            task: present_in(
                state,
                variables_of(self.teachers),
                TaskBatch(task, batch),
                self.student,
                self.teachers,
                objective,
                **self.forward_settings(),
            )
            for task, batch in batches.items()
        }
