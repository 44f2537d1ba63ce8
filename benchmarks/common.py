"""What the benchmarks share: sizes, pairs of models, their steps, clocks and rows of a table."""

import dataclasses
import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

import jaxbrewer as jb
from jaxbrewer.forward.precision import policy_of
from jaxbrewer.models import BertConfig, BertForSequenceClassification

TEMPERATURE, CLASSES = 4.0, 10
PEAKS = {"H100": 989e12, "H200": 989e12, "A100": 312e12, "L4": 121e12, "v5 lite": 197e12}
"""FLOP/s of dense bfloat16 products in the vendors' datasheets, by a part of the card's name."""


@dataclasses.dataclass(frozen=True)
class Sizes:
    """How large everything is; ``TOY`` runs on a CPU in seconds."""

    teacher_layers: int = 12
    student_layers: int = 6
    width: int = 768
    heads: int = 12
    vocabulary: int = 30_522
    batches: tuple[tuple[int, int], ...] = ((256, 128), (64, 512))
    checked: tuple[int, int] = (8, 64)
    attention: tuple[int, int, int, int] = (16, 1024, 12, 64)
    large_vocabulary: tuple[int, int] = (4096, 128_256)
    decoder_teacher: tuple[int, int, int, int, int] = (16, 2048, 8192, 32, 8)
    decoder_student_layers: int = 8
    decoder_batch: tuple[int, int] = (8, 1024)
    product: int = 8192
    rounds: int = 7
    steps: int = 5
    is_toy: bool = False

    def small(self) -> "Sizes":
        """Few layers: enough to compare, and soon compiled."""
        layers = min(4, self.teacher_layers), min(2, self.student_layers)
        return dataclasses.replace(self, teacher_layers=layers[0], student_layers=layers[1])


TOY = Sizes(
    teacher_layers=2, student_layers=1, width=24, heads=2, vocabulary=101, batches=((4, 8),),
    checked=(2, 8), attention=(2, 16, 2, 8), large_vocabulary=(8, 301),
    decoder_teacher=(2, 16, 32, 4, 2), decoder_student_layers=1, decoder_batch=(2, 8), product=64,
    rounds=2, steps=1, is_toy=True,
)  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Row:
    """One line of the table."""

    section: str
    name: str
    value: float | str
    unit: str = ""
    note: str = ""


def bert(layers: int, sizes: Sizes, seed: int) -> BertForSequenceClassification:
    """A BERT for classification without dropout."""
    config = BertConfig(
        vocab_size=sizes.vocabulary, hidden_size=sizes.width, num_hidden_layers=layers,
        num_attention_heads=sizes.heads, intermediate_size=4 * sizes.width,
        max_position_embeddings=512, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0,
        num_labels=CLASSES,
    )  # fmt: skip
    return BertForSequenceClassification(config, rngs=nnx.Rngs(seed))


def bert_pair(sizes: Sizes) -> tuple[Any, Any]:
    """Teacher and student, as models of the package."""
    layers = sizes.teacher_layers, sizes.student_layers
    return tuple(jb.as_model(bert(n, sizes, seed)) for seed, n in enumerate(layers))


def batch_of(sizes: Sizes, batch: int, length: int, seed: int = 0) -> dict[str, np.ndarray]:
    """Random tokens; the last quarter of every second text is padding."""
    rng = np.random.default_rng(seed)
    mask = np.ones((batch, length), np.int32)
    mask[::2, length - length // 4 :] = 0
    return {
        "input_ids": rng.integers(0, sizes.vocabulary, (batch, length)).astype(np.int32),
        "attention_mask": mask,
        "labels": rng.integers(0, CLASSES, batch).astype(np.int32),
    }


def adaptor(batch: dict[str, Any], outputs: dict[str, Any]) -> dict[str, Any]:
    """Logits to imitate, hidden states for whoever matches them, and the labels' loss."""
    return {
        "logits": outputs["logits"],
        "hidden": outputs["hidden_states"],
        "attention": outputs["attention_scores"],
        "inputs_mask": batch["attention_mask"],
        "losses": optax.softmax_cross_entropy_with_integer_labels(
            outputs["logits"], batch["labels"]
        ),
    }


def training(half: str | None = None, level: str = "O2", **fields: Any) -> jb.TrainingConfig:
    """A quiet training in float32, or in half precision."""
    precision = {"fp16": True, "half_dtype": half, "fp16_opt_level": level} if half else {}
    return jb.TrainingConfig(**{"output_dir": None, "progress": False, **precision, **fields})


def distillation(**fields: Any) -> jb.DistillationConfig:
    """Soft and hard labels in equal parts."""
    return jb.DistillationConfig(
        **{"temperature": TEMPERATURE, "kd_loss_type": "kl", "hard_label_weight": 1, **fields}
    )


def make_step(
    pair: tuple[Any, Any], config: jb.TrainingConfig, *, accumulation: int = 1, **fields: Any
) -> tuple[Any, Any]:
    """A jitted train step with AdamW that donates its state, and the first state."""
    teacher, student = pair
    policy, objective = policy_of(config), jb.make_objective(distillation(**fields))
    optimizer = jb.make_optimizer(optax.adamw(1e-4), objective)
    state = jb.init_train_state(student, objective, optimizer, precision=policy)
    step = jb.make_train_step(
        student, teacher, objective, optimizer, adaptor_S=adaptor, adaptor_T=adaptor,
        precision=policy, gradient_accumulation_steps=accumulation,
    )  # fmt: skip
    return jax.jit(step, donate_argnums=0), state


class Clock:
    """Times calls that each run ``steps`` steps and wait for the device; medians and quartiles."""

    def __init__(self) -> None:
        self.seconds: list[float] = []

    def time(self, run: Any, steps: int = 1) -> None:
        """Adds the seconds of a step of ``run()``, which returns arrays or seconds."""
        start = time.perf_counter()
        result = run()
        spent = time.perf_counter() - start
        if not isinstance(result, float):
            jax.block_until_ready(result)
            spent = time.perf_counter() - start
        self.seconds.append((result if isinstance(result, float) else spent) / steps)

    @property
    def median(self) -> float:
        """The median, in seconds."""
        return float(np.median(self.seconds))

    def quartiles(self) -> str:
        """The quartiles, in milliseconds."""
        low, high = np.quantile(self.seconds, [0.25, 0.75])
        return f"quartiles {1e3 * low:.3g} to {1e3 * high:.3g} ms"


def ratio(section: str, name: str, above: Clock, below: Clock, note: str = "") -> Row:
    """The median of the ratios of two clocks in the same turns, and their quartiles."""
    ratios = np.array(above.seconds) / np.array(below.seconds)
    low, middle, high = np.quantile(ratios, [0.25, 0.5, 0.75])
    quartiles = f"quartiles {low:.3f} to {high:.3f}"
    return Row(section, name, float(middle), "x", f"{quartiles}; {note}" if note else quartiles)


class Chain:
    """A step with its state, run several times without waiting in between."""

    def __init__(self, step: Any, state: Any, *arguments: Any):
        self.step, self.state, self.arguments = step, state, arguments

    def __call__(self, steps: int) -> Any:
        """Runs ``steps`` steps; returns the last step's second result."""
        for _ in range(steps):
            self.state, metrics = self.step(self.state, *self.arguments)
        return metrics


def forward_program(model: Any, data: Any) -> Any:
    """A new jitted function from a model's variables to its logits for ``data``."""

    @jax.jit
    def forward(variables: Any) -> Any:
        outputs, _ = model.apply(variables["params"], variables["state"], data, train=False)
        return outputs["logits"]

    return forward


def repeated(program: Any, *arguments: Any) -> Any:
    """A function that runs a program several times without waiting in between."""

    def run(steps: int) -> Any:
        for _ in range(steps):
            result = program(*arguments)
        return result

    return run


def alternate(runs: dict[str, Any], sizes: Sizes) -> dict[str, Clock]:
    """Times ``run(steps)`` of each in turn, after one turn that compiles and warms up."""
    clocks = {name: Clock() for name in runs}
    for run in runs.values():
        jax.block_until_ready(run(1))
        jax.block_until_ready(run(sizes.steps))
    for _ in range(sizes.rounds):
        for name, run in runs.items():
            clocks[name].time(lambda run=run: run(sizes.steps), sizes.steps)
    return clocks


def encoder_flops(layers: int, sizes: Sizes, batch: int, length: int) -> float:
    """FLOPs of the products of a forward pass of a BERT: 2 for each multiplication."""
    width = sizes.width
    per_token = 8 * width**2 + 4 * width * 4 * width + 4 * length * width
    return float(batch * length * layers * per_token)


def matmul_peak(sizes: Sizes, dtype: Any = jnp.bfloat16) -> float:
    """FLOP/s of a square product of random numbers."""
    n = sizes.product
    keys = jax.random.split(jax.random.key(0))
    a, b = (jax.random.normal(key, (n, n), dtype) for key in keys)
    product = jax.jit(lambda a, b: a @ b)
    repeat = 10 * sizes.steps

    def run(steps: int) -> Any:
        for _ in range(steps):
            out = product(a, b)
        return out

    jax.block_until_ready(run(3))
    clock = Clock()
    for _ in range(sizes.rounds):
        clock.time(lambda: run(repeat), repeat)
    return 2 * n**3 / clock.median


def datasheet_peak() -> float | None:
    """FLOP/s in the datasheet of this card, where it is known."""
    name = jax.devices()[0].device_kind
    return next((peak for part, peak in PEAKS.items() if part in name), None)


def relative(actual: Any, expected: Any) -> float:
    """Norm of the difference over the norm of ``expected``, of all leaves together."""
    pairs = zip(jax.tree.leaves(actual), jax.tree.leaves(expected), strict=True)
    wide = [(np.asarray(a, np.float64), np.asarray(e, np.float64)) for a, e in pairs]
    error = sum(float(np.sum((a - e) ** 2)) for a, e in wide)
    return float(np.sqrt(error / sum(float(np.sum(e**2)) for _, e in wide)))
