"""Resolves matches that depend on the models' layers, from the shapes that the models return."""

from collections.abc import Mapping
from typing import Any

import jax

from ..configs import DistillationConfig
from ..data.batch_parts import student_part, teacher_part
from ..errors import UsageError
from ..forward.adaptors import Adaptor
from ..forward.forward_pass import make_forward, module_shapes
from ..forward.model import Batch, Model
from ..forward.precision import AS_GIVEN
from ..objective import layer_maps
from .teachers import Adaptors, Teacher, make_teacher_step, models_of, parts_of_teachers


def resolve_matches(
    config: DistillationConfig,
    student: Model,
    teacher: Teacher,
    batch: Batch,
    *,
    adaptor_S: Adaptor,
    adaptor_T: Adaptors,
    args: Mapping[str, Any] = {},
) -> tuple[DistillationConfig, str]:
    """Resolves every match of a config for these models.

    Models and adaptors run on the shapes of ``batch``; nothing is compiled or computed.

    Args:
        config: May hold layer maps, transport matches without layers, globs of modules.
        student: The student.
        teacher: The teacher or teachers.
        batch: A batch, or its shapes.
        adaptor_S: The student's adaptor.
        adaptor_T: The teacher's; for several teachers one each, or one for all.
        args: Further keyword arguments of every call.

    Raises:
        UsageError: There is no teacher, or a match does not fit the models.
    """
    if teacher is None:
        raise UsageError("Matches of inner layers need a teacher.")
    student_forward = make_forward(student, adaptor_S, "student", AS_GIVEN, args)
    teacher_step = make_teacher_step(teacher, adaptor_T, args=args)
    is_one = isinstance(teacher, Model)
    several = models_of(teacher)
    variables = tuple(model.variables for model in several)
    key = jax.random.key(0)  # the student runs as it does in a step, in training mode

    def run(variables_S: Any, variables: Any, batch: Batch) -> Any:
        student_outputs, _ = student_forward(variables_S, student_part(batch), None, key)
        teacher_outputs = teacher_step(variables[0] if is_one else variables, batch)
        return student_outputs, (teacher_outputs,) if is_one else teacher_outputs

    student_shapes, teacher_shapes = jax.eval_shape(run, student.variables, variables, batch)
    modules: dict[str, Any] = {}
    if config.custom_matches:
        batches = [teacher_part(batch)] if is_one else parts_of_teachers(batch, len(several))[0]
        modules = {
            "modules_S": module_shapes(
                student, student.variables, student_part(batch), "student", args, key
            ),
            "modules_T": [
                module_shapes(model, own, part, f"teacher {index}", args)
                for index, (model, own, part) in enumerate(
                    zip(several, variables, batches, strict=True)
                )
            ],
        }
    resolved = layer_maps.resolve(config, student_shapes, teacher_shapes, **modules)
    return resolved, layer_maps.table(resolved, student_shapes, teacher_shapes, **modules)
