"""When checkpoints are made, and how they are saved and read: Orbax, asynchronous and atomic."""

import dataclasses
from pathlib import Path
from typing import Any

import jax
from orbax.checkpoint import v1 as ocp

from .configs import TrainingConfig
from .errors import UsageError
from .functional import PyTree
from .position import Position
from .state import TrainState, copy_arrays


@dataclasses.dataclass(frozen=True)
class Plan:
    """How long a training is: whole epochs, or a number of optimizer updates.

    Attributes:
        total_steps: Optimizer updates in all.
        steps_per_epoch: Updates in an epoch; ``None`` if the training counts steps.
    """

    total_steps: int
    steps_per_epoch: int | None = None

    @property
    def num_epochs(self) -> int | None:
        """Epochs in all; ``None`` if the training counts steps."""
        return None if self.steps_per_epoch is None else self.total_steps // self.steps_per_epoch

    def saves_at(self, step: int, config: TrainingConfig) -> bool:
        """Whether a checkpoint follows update number ``step``, counted from 1.

        Counting steps: every ``ckpt_steps``, and the last. Counting epochs: ``ckpt_frequency``
        times in every ``ckpt_epoch_frequency``-th epoch and in the last, at TextBrewer's steps.

        Examples:
            >>> plan = Plan(total_steps=10, steps_per_epoch=5)
            >>> [step for step in range(1, 11) if plan.saves_at(step, TrainingConfig())]
            [5, 10]
            >>> twice = TrainingConfig(ckpt_frequency=2)
            >>> [step for step in range(1, 11) if plan.saves_at(step, twice)]
            [2, 5, 7, 10]
        """
        if self.steps_per_epoch is None:
            every = config.ckpt_steps or self.total_steps
            return step % every == 0 or step == self.total_steps
        epoch = (step - 1) // self.steps_per_epoch + 1
        if epoch % config.ckpt_epoch_frequency and epoch != self.num_epochs:
            return False
        frequency = config.ckpt_frequency
        points = {int(self.steps_per_epoch * i / frequency) for i in range(frequency)}
        return step % self.steps_per_epoch in points


class CheckpointStore:
    """The checkpoints of a run, one directory per step.

    A checkpoint holds ``student`` (weights and mutable state, loadable alone), ``training`` (the
    rest of the train state) and ``position`` (where the data go on). Saving copies the
    arrays and goes on in the background; a directory appears when it is complete.
    """

    def __init__(self, directory: str | Path):
        self._checkpointer = ocp.training.Checkpointer(
            Path(directory).absolute(),
            save_decision_policy=ocp.training.save_decision_policies.FixedIntervalPolicy(1),
            cleanup_tmp_directories=True,
        )

    def save(self, step: int, state: TrainState, position: Position) -> None:
        """Starts saving; waits first for the save before this one."""
        self._checkpointer.save_checkpointables_async(
            step, {**copy_arrays(_parts(state)), "position": position}
        )

    def steps(self) -> list[int]:
        """The steps that are completely saved, ascending."""
        self._checkpointer.wait()
        return sorted(checkpoint.step for checkpoint in self._checkpointer.checkpoints)

    def load(self, step: int, like: TrainState) -> tuple[TrainState, Position]:
        """The state and position after update ``step``.

        Args:
            step: One of :meth:`steps`.
            like: A state of the same structure, which also says where each array shall live.
        """
        template = jax.tree.map(_abstract, _parts(like))
        loaded = self._checkpointer.load_checkpointables(step, {**template, "position": None})
        student, training = loaded["student"], loaded["training"]
        trainable = {"student": student["params"], "projections": training.pop("projections")}
        state = TrainState(trainable=trainable, model_state=student["state"], **training)
        return state, loaded["position"]

    def close(self) -> None:
        """Waits until everything is saved."""
        self._checkpointer.close()


def load_student(directory: str | Path, step: int | None = None) -> dict[str, PyTree]:
    """The student's weights from a run, without its optimizer or its teacher.

    Args:
        directory: A run's ``output_dir``.
        step: The update after which they were saved; ``None`` takes the last.

    Returns:
        ``{"params": ..., "state": ...}``, nested dicts of arrays.

    Raises:
        UsageError: There is no such checkpoint.
    """
    root = Path(directory) / "checkpoints"
    if not root.is_dir():
        raise UsageError(f"{directory} holds no checkpoints of a run.")
    with ocp.training.Checkpointer(root.absolute()) as checkpointer:
        saved = sorted(checkpoint.step for checkpoint in checkpointer.checkpoints)
        if not saved or (step is not None and step not in saved):
            raise UsageError(f"{directory} has no checkpoint of step {step}; it has {saved}.")
        chosen = saved[-1] if step is None else step
        saved_as = checkpointer.checkpointables_metadata(chosen).metadata["student"]
        template = jax.tree.map(_abstract, saved_as)
        loaded = checkpointer.load_checkpointables(chosen, {"student": template})
        return {"state": {}, **loaded["student"]}


def _abstract(leaf: Any) -> jax.ShapeDtypeStruct:
    """Shape, dtype and place of an array, or of a saved one on the default device."""
    sharding = leaf.sharding if isinstance(leaf, jax.Array) else None
    if sharding is None:
        sharding = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding)


def _parts(state: TrainState) -> dict[str, PyTree]:
    training = {
        "step": state.step,
        "projections": state.trainable["projections"],
        "opt_state": state.opt_state,
        "loss_scale": state.loss_scale,
        "key": state.key,
        "objective_state": state.objective_state,
    }
    return {
        "student": {"params": state.params, "state": state.model_state},
        "training": training,
    }
