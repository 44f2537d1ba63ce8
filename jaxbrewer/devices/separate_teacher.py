"""A teacher on devices of its own, whose outputs reach the student's step with the batch.

JAX returns from a call before the device has computed, and each device computes its calls in their
order. :mod:`jaxbrewer.run.loop` waits for a step only when it has dispatched later ones, so the
teacher's devices begin the next batch while the student's still compute. No batch is read early: a
position in the data is that of the last step.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import jax

from ..data.batch_parts import is_split, objective_entry, student_part, teacher_part
from ..errors import UsageError
from ..forward.adaptors import Outputs
from ..forward.dependence import depends_on
from ..forward.model import Batch, Model, PyTree
from ..forward.precision import AS_GIVEN, Policy
from ..losses import LogitsOf
from ..objective.objective import Objective
from ..step.teachers import Adaptors, make_teacher_step, only_needed
from .mesh import DeviceLayout
from .sharding import place_batch, place_teacher, place_whole, teachers_for_use, variables_of


class SeparateTeacher:
    """Places batches for a step without a teacher, and adds the teacher's outputs to them.

    Args:
        teacher: The teacher or teachers. Their variables are placed once.
        adaptor: Its adaptor; for several teachers one each, or one for all.
        objective: Its config names the layers and modules that the outputs keep.
        layout: The teacher's devices.
        student_layout: The student's devices.
        precision: The dtypes.
        args: Further keyword arguments of every call.

    Examples:
        >>> import jax.numpy as jnp, numpy as np, optax
        >>> import jaxbrewer as jb
        >>> def adaptor(batch, logits):
        ...     return {"logits": logits}
        >>> teacher, student = (
        ...     jb.as_model((lambda w, x: x @ w, w)) for w in (jnp.eye(2), jnp.zeros((2, 2)))
        ... )
        >>> objective = jb.make_objective(jb.DistillationConfig(temperature=1))
        >>> optimizer = jb.make_optimizer(optax.sgd(0.1), objective)
        >>> step = jb.make_train_step(student, None, objective, optimizer, adaptor_S=adaptor)
        >>> state = jb.init_train_state(student, objective, optimizer)
        >>> first, last = (DeviceLayout(device=jax.devices()[n]) for n in (0, -1))
        >>> separate = SeparateTeacher(teacher, adaptor, objective, last, first)
        >>> (batch,) = separate.place(({"x": np.eye(2, dtype="f")},))
        >>> state, metrics = jax.jit(step)(state, None, batch)
        >>> print(metrics["total_loss"].round(2))
        0.69
    """

    def __init__(
        self,
        teacher: Model | Sequence[Model],
        adaptor: Adaptors,
        objective: Objective,
        layout: DeviceLayout,
        student_layout: DeviceLayout,
        *,
        precision: Policy = AS_GIVEN,
        args: Mapping[str, Any] = {},
    ):
        config = objective.config
        teacher_step = make_teacher_step(
            teachers_for_use(teacher, layout),
            adaptor,
            precision=precision,
            args=args,
            custom_matches=config.custom_matches,
        )

        def needed(variables: PyTree, batch: Batch) -> tuple[Outputs, ...]:
            outputs = teacher_step(variables, batch)
            several = (outputs,) if isinstance(outputs, Outputs) else outputs
            return tuple(
                dataclasses.replace(only_needed(one, config, teacher=index), losses=())
                for index, one in enumerate(several)
            )

        def teacher_without_heads(variables: PyTree, batch: Batch) -> PyTree:
            return _with_heads(needed(variables, batch))

        self.variables: PyTree = place_teacher(variables_of(teacher), teacher, layout)
        self._is_one = isinstance(teacher, Model)
        self._layout, self._student_layout = layout, student_layout
        self._outputs = needed
        self._without_heads = jax.jit(teacher_without_heads)
        self._heads: PyTree = None

    def place(self, batches: tuple[Batch, ...]) -> tuple[Batch, ...]:
        """Dispatches the teacher on batches; waits for nothing.

        Args:
            batches: Batches of arrays.

        Returns:
            The batches as the student's step takes them, on its devices, with ``"teacher_cache"``.

        Raises:
            UsageError: The head of a :class:`~jaxbrewer.LogitsOf` depends on the batch.
        """
        return tuple(map(self._place, batches))

    def shapes(self, batch: Batch) -> Batch:
        """As :meth:`place` of one batch, with shapes for outputs; the teacher is only traced."""
        outputs = jax.eval_shape(self._outputs, self.variables, _of_teacher(batch))
        return self._with_outputs(_of_student(batch), outputs)

    def _place(self, batch: Batch) -> Batch:
        own = place_batch(_of_teacher(batch), self._layout)
        if self._heads is None:
            self._heads = self._place_heads(own)
        outputs = place_batch(self._without_heads(self.variables, own), self._student_layout)
        placed = place_batch(_of_student(batch), self._student_layout)
        return self._with_outputs(placed, _with_heads(outputs, self._heads))

    def _place_heads(self, batch: Batch) -> PyTree:
        """The heads of the teacher's logits, whole on the student's devices."""

        def heads(batch: Batch, variables: PyTree) -> PyTree:
            return _heads_of(self._outputs(variables, batch))

        if any(jax.tree.leaves(depends_on(heads, batch, self.variables))):
            raise UsageError(
                "TrainingConfig.teacher_device: the kernel or bias of the teacher's LogitsOf "
                "depends on the batch, but it is copied to the student's devices once: return "
                "logits, or leave teacher_device out."
            )
        return place_whole(jax.jit(heads)(batch, self.variables), self._student_layout)

    def _with_outputs(self, batch: Batch, outputs: tuple[Outputs, ...]) -> Batch:
        return {**batch, "teacher_cache": outputs[0] if self._is_one else outputs}


def _heads_of(outputs: PyTree) -> PyTree:
    """The kernel and bias of each ``LogitsOf``, and ``None`` for other leaves."""
    return jax.tree.map(
        lambda node: (node.kernel, node.bias) if _is_logits_of(node) else None,
        outputs,
        is_leaf=_is_logits_of,
    )


def _with_heads(outputs: PyTree, heads: PyTree = None) -> PyTree:
    """Outputs with the heads from :func:`_heads_of`, or without any."""

    def replaced(node: Any, head: Any = (None, None)) -> Any:
        if not _is_logits_of(node):
            return node
        kernel, bias = head
        return dataclasses.replace(node, kernel=kernel, bias=bias)

    rest = () if heads is None else (heads,)
    return jax.tree.map(replaced, outputs, *rest, is_leaf=_is_logits_of)


def _is_logits_of(node: Any) -> bool:
    return isinstance(node, LogitsOf)


def _of_teacher(batch: Batch) -> Batch:
    """What the teachers read of a batch."""
    part, cached = teacher_part(batch), objective_entry(batch, "teacher_cache")
    if is_split(batch):
        part = {"teacher": part, "student": ()}
    return part if cached is None else {**part, "teacher_cache": cached}


def _of_student(batch: Batch) -> dict[str, Any]:
    """What the student's step reads of a batch beside the teacher's outputs."""
    routing = {
        name: entry
        for name in ("teacher_id", "teacher_weights")
        if (entry := objective_entry(batch, name)) is not None
    }
    return {"teacher": (), "student": student_part(batch), **routing}
