"""What the library costs: ``GeneralDistiller.train`` against a hand-written step.

Both train the same pair on the same batches and take turns in one process. The losses are soft
cross-entropy, hidden states and labels; the optimizer is AdamW with clipping and a schedule.
"""

import copy
import dataclasses
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

import jaxbrewer as jb
from jaxbrewer.models import BertConfig, BertForSequenceClassification
from jaxbrewer.run import loop

from ..common import CLASSES, TEMPERATURE, Clock, Row, ratio
from .passes import Passes, wait_for_device

RATE, TOTAL = 1e-4, 10_000


@dataclasses.dataclass(frozen=True)
class Pair:
    """A teacher and a student of one width, their batch, and how often each side has its turn."""

    name: str
    teacher_layers: int
    student_layers: int
    width: int
    batch: int
    length: int
    rounds: int
    steps: int
    matches: tuple[tuple[int, int], ...]
    heads: int = 12
    vocabulary: int = 8192

    @property
    def fields(self) -> dict[str, Any]:
        """The fields of both models' configs, except the number of layers."""
        return {
            "vocab_size": self.vocabulary,
            "hidden_size": self.width,
            "num_attention_heads": self.heads,
            "intermediate_size": 4 * self.width,
            "max_position_embeddings": 128,
            "hidden_dropout_prob": 0.0,
            "attention_probs_dropout_prob": 0.0,
            "num_labels": CLASSES,
        }

    def bert(self, layers: int, seed: int) -> BertForSequenceClassification:
        """A model with random weights."""
        config = BertConfig(num_hidden_layers=layers, **self.fields)
        return BertForSequenceClassification(config, rngs=nnx.Rngs(seed))

    def batches(self) -> list[dict[str, np.ndarray]]:
        """The batches of a turn."""
        rng = np.random.default_rng(0)
        shape = self.batch, self.length
        return [
            {
                "input_ids": rng.integers(0, self.vocabulary, shape).astype(np.int32),
                "attention_mask": np.ones(shape, np.int32),
                "labels": rng.integers(0, CLASSES, self.batch).astype(np.int32),
            }
            for _ in range(self.steps)
        ]


MINILM = Pair("MiniLM", 6, 3, 384, 16, 64, 12, 2, ((0, 0), (2, 1), (4, 2), (6, 3)))
TINY = Pair("tiny", 1, 1, 16, 2, 8, 30, 200, ((1, 1),), heads=2, vocabulary=100)
TOY = dataclasses.replace(TINY, name="toy", rounds=2, steps=2)


def adaptor(batch: dict[str, Any], outputs: dict[str, Any]) -> dict[str, Any]:
    """Logits, hidden states, the mask and the labels' loss."""
    logits = outputs["logits"]
    loss = optax.softmax_cross_entropy_with_integer_labels(logits, batch["labels"])
    return {
        "logits": logits,
        "hidden": outputs["hidden_states"],
        "inputs_mask": batch["attention_mask"],
        "losses": loss.mean(),
    }


class ByHand:
    """The same training without the library: plain nnx, optax and one jitted function."""

    def __init__(self, pair: Pair, teacher: Any, student: Any):
        graph_T, weights_T = nnx.split(teacher)
        graph_S, weights_S, rest = nnx.split(student, nnx.Param, ...)
        self.teacher = nnx.to_pure_dict(weights_T)
        self.params = jax.tree.map(jnp.copy, nnx.to_pure_dict(weights_S))
        schedule = optax.linear_schedule(RATE, 0.0, TOTAL)
        optimizer = optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(schedule))
        self.opt_state = optimizer.init(self.params)

        def loss(params: Any, teacher: Any, batch: Any) -> Any:
            inputs = batch["input_ids"], batch["attention_mask"]
            target = jax.lax.stop_gradient(nnx.merge(graph_T, teacher)(*inputs))
            output = nnx.merge(graph_S, params, rest)(*inputs)
            soft = jax.nn.softmax(target["logits"] / TEMPERATURE)
            total = optax.softmax_cross_entropy(output["logits"] / TEMPERATURE, soft).mean()
            mask = batch["attention_mask"][..., None]
            count = mask.sum() * pair.width
            for layer_T, layer_S in pair.matches:
                gap = output["hidden_states"][layer_S] - target["hidden_states"][layer_T]
                total += jnp.sum(gap**2 * mask) / count
            labels = optax.softmax_cross_entropy_with_integer_labels(
                output["logits"], batch["labels"]
            )
            return total + labels.mean()

        def step(params: Any, opt_state: Any, teacher: Any, batch: Any) -> Any:
            value, gradient = jax.value_and_grad(loss)(params, teacher, batch)
            updates, opt_state = optimizer.update(gradient, opt_state, params)
            return optax.apply_updates(params, updates), opt_state, value

        self.step = jax.jit(step, donate_argnums=(0, 1))

    def run(self, batches: list[Any]) -> list[float]:
        """Trains on the batches; returns their losses."""
        losses = []
        for batch in batches:
            self.params, self.opt_state, value = self.step(
                self.params, self.opt_state, self.teacher, batch
            )
            losses.append(value)
        return [float(value) for value in losses]


def make_distiller(
    pair: Pair, teacher: Any, student: Any, training: Mapping[str, Any] = {}
) -> jb.GeneralDistiller:
    """A distiller that logs nothing.

    Args:
        pair: The sizes.
        teacher: The teacher.
        student: The student.
        training: Further fields of ``TrainingConfig``.
    """
    return jb.GeneralDistiller(
        jb.TrainingConfig(output_dir=None, progress=False, **training),
        jb.DistillationConfig(
            temperature=TEMPERATURE,
            hard_label_weight=1,
            is_caching_logits="cache_dir" in training,
            intermediate_matches=[
                {"layer_T": t, "layer_S": s, "feature": "hidden", "loss": "hidden_mse", "weight": 1}
                for t, s in pair.matches
            ],
        ),
        teacher, student, adaptor, adaptor,
    )  # fmt: skip


def timed_passes(
    batches: list[Any], other: Callable[[], object] = lambda: None
) -> tuple[Passes, Clock]:
    """A dataloader whose passes are timed until their steps have finished, and their clock.

    Args:
        batches: The batches of a turn.
        other: What has its turn after each; it is not timed.
    """
    own, start = Clock(), time.perf_counter()

    def end_turn() -> None:
        nonlocal start
        wait_for_device()
        own.seconds.append((time.perf_counter() - start) / len(batches))
        other()
        start = time.perf_counter()

    return Passes(batches, end_turn), own


def measure(pair: Pair) -> tuple[Clock, Clock]:
    """The clocks of the distiller and of the step by hand."""
    batches, teacher = pair.batches(), pair.bert(pair.teacher_layers, 0)
    student = pair.bert(pair.student_layers, 1)
    by_hand = ByHand(pair, teacher, student)
    losses: list[float] = []
    others = Clock()
    passes, own = timed_passes(
        batches, lambda: others.time(lambda: losses.extend(by_hand.run(batches)), pair.steps)
    )
    optimizer = optax.adamw(optax.linear_schedule(RATE, 0.0, TOTAL))
    total = pair.steps * (pair.rounds + 1)
    distiller = make_distiller(pair, teacher, student)
    history = distiller.train(optimizer, passes, num_steps=total, max_grad_norm=1.0).history
    trained = len(losses)  # the last turn of the distiller ends with its training
    np.testing.assert_allclose(history["total_loss"][:trained], losses, rtol=2e-3)
    for clock in (own, others):
        del clock.seconds[0]  # the first turn compiles
    return own, others


def loop_alone(pair: Pair) -> Clock:
    """The clock of the training loop around a step that returns at once what it returned first."""
    jit_step, total = loop.jit_step, pair.steps * (pair.rounds + 1)

    def jit_no_step(*arguments: Any) -> Callable[..., Any]:
        jitted, results = jit_step(*arguments), list[Any]()

        def no_step(*arguments: Any) -> Any:
            if not results:
                state, (scalars, gradients) = jax.block_until_ready(jitted(*arguments))
                results.extend((state, (copy.copy(scalars), gradients)) for _ in range(total))
            return results.pop()

        return no_step

    teacher, student = (pair.bert(n, 0) for n in (pair.teacher_layers, pair.student_layers))
    distiller = make_distiller(pair, teacher, student)
    passes, own = timed_passes(pair.batches())
    with mock.patch.object(loop, "jit_step", jit_no_step):
        distiller.train(optax.adamw(RATE), passes, num_steps=total)
    del own.seconds[0]
    return own


def run(is_toy: bool, pythons: dict[str, str]) -> Iterator[Row]:
    """Ratios for a pair of MiniLM's size and a tiny one."""
    for pair in (TOY,) if is_toy else (MINILM, TINY):
        ours, hand = measure(pair)
        yield Row("overhead", f"{pair.name}, distiller", 1e3 * ours.median, "ms/step",
                  ours.quartiles())  # fmt: skip
        aim = "" if pair is TINY else "aim at most 1.01"
        yield ratio("overhead", f"{pair.name}, distiller / by hand", ours, hand, aim)
        gap = 1e6 * np.median(np.array(ours.seconds) - np.array(hand.seconds))
        yield Row("overhead", f"{pair.name}, distiller - by hand", float(gap), "µs/step",
                  "aim at most 30" if pair is TINY else "")  # fmt: skip
    alone = loop_alone(TOY if is_toy else TINY)
    yield Row("overhead", "tiny, the loop without a step", 1e6 * alone.median, "µs/step",
              alone.quartiles())  # fmt: skip
