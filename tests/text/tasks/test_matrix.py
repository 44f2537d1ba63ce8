"""Every family with every task whose head it has: a teacher is trained and distilled.

BERT with every task, and every family with one task, train in earnest. BERT's teachers are
fine-tuned first; the other families' are distilled as they are, since a student's step contains
that of a fine-tuning. BERT with a task whose whole job ``tests/cli/test_tasks.py`` runs is
exhaustive. The other pairs are exhaustive and only trace a step, which finds wrong shapes, heads,
masks and columns. A new family or task joins by its row in ``FAMILIES`` or ``TASKS``; a new task
gives its rows here.
"""

import jax
import pytest
from flax import nnx

import jaxbrewer as jb
from jaxbrewer import models
from jaxbrewer.cli import job_models
from jaxbrewer.configs import DataConfig, DistillationConfig, OptimizationConfig, TrainingConfig
from jaxbrewer.forward.as_model import as_model
from jaxbrewer.models import cut_layers
from jaxbrewer.models.families import family_of
from jaxbrewer.models.model_directory import read_model_directory
from jaxbrewer.models.model_types import BARE, FAMILIES
from jaxbrewer.step.teachers import make_teacher_step
from jaxbrewer.text import TASKS, Tokenizer, task_of
from jaxbrewer.text.inference import run_model
from jaxbrewer.text.rows import Rows
from jaxbrewer.text.tasks import task_class
from jaxbrewer.text.training import make_distillation, make_fine_tuning
from tests.cli.test_tasks import TASKS as JOBS
from tests.text.toy_language import save_tokenizer
from tests.tiers import exhaustive_but

TEXT = {"text": "a dog barks"}
ANSWERS = {"text": ["dog"], "answer_start": [2]}
EXAMPLES = {
    "classification": ([{**TEXT, "label": "x"}, {**TEXT, "label": "y"}], {}),
    "multi-label": ([{**TEXT, "label": ["x", "y"]}, {**TEXT, "label": []}], {}),
    "regression": ([{**TEXT, "label": 0.5}, {**TEXT, "label": 2}], {}),
    "token-classification": ([{"tokens": ["a", "dogs"], "tags": ["O", "B-X"]}] * 2, {}),
    "question-answering": (
        [{"question": "dog", "context": "a dog barks", "answers": ANSWERS}] * 2,
        {"stride": 1},
    ),
    "embeddings": ([{**TEXT, "b": "a cat", "score": 0.5}] * 2, {"text_pair": "b"}),
    "masked-language-modeling": ([TEXT] * 2, {"mask_probability": 0.5}),
    "language-modeling": ([TEXT] * 2, {"packed": False}),
}
"""Rows for each task, and fields of ``data``."""

VOCABULARY = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "dog", "cat", "bark", "##s"]
SIZES = {"hidden_size": 8, "num_hidden_layers": 2, "num_attention_heads": 2,
         "num_key_value_heads": 2, "head_dim": 4, "max_position_embeddings": 24,
         "pad_token_id": 0}  # fmt: skip
WITHOUT_DROPOUT = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
"""Of BERT, which compiles in half of the time without; the other encoders train with dropout."""

ONE_OF_EACH = {FAMILIES[name]: name for name in reversed(FAMILIES)}
"""A ``model_type`` of each family."""

PAIRS = [
    (name, task)
    for name in ONE_OF_EACH.values()
    for task in TASKS
    if task_class(task).head in family_of(name).by_task
]


def trains_in_earnest(name, task):
    own = [other for other, _ in dict.fromkeys((pair[0], None) for pair in PAIRS)]
    tasks = [other for family, other in PAIRS if family == name]
    return FAMILIES[name] == "bert" or task == tasks[own.index(name) % len(tasks)]


KEPT = [
    (name, task)
    for name, task in PAIRS
    if trains_in_earnest(name, task) and not (name == "bert" and task in JOBS)
]
"""The pairs that ``make test`` runs."""


@pytest.fixture(scope="module")
def directories(tmp_path_factory):
    """A function that gives a model directory of a family, made once: without a head if it can."""
    made = {}

    def directory_of(name):
        if name not in made:
            family, folder = family_of(name), tmp_path_factory.mktemp(name)
            is_encoder = BARE in family.by_task
            sizes = dict(SIZES) if is_encoder else {**SIZES, "pad_token_id": 0}
            if is_encoder:
                (folder / "vocab.txt").write_text("\n".join(VOCABULARY))
            else:
                save_tokenizer(folder)
            sizes["vocab_size"] = Tokenizer(folder).vocab_size
            known = family.config.__dataclass_fields__
            wanted = {"model_type": name, "intermediate_size": 12, **sizes}
            if name == "bert":
                wanted |= WITHOUT_DROPOUT
            config = family.config(**{key: wanted[key] for key in wanted if key in known})
            head = BARE if is_encoder else next(iter(family.by_task))
            models.save(family.by_task[head](config, rngs=nnx.Rngs(0)), folder)
            made[name] = folder
        return made[name]

    return directory_of


def test_every_task_has_rows_here():
    assert list(EXAMPLES) == list(EXAMPLES | dict.fromkeys(TASKS))
    assert {task for _, task in PAIRS} == set(TASKS) == {task for _, task in KEPT} | set(JOBS)
    assert {FAMILIES[name] for name, _ in KEPT} == set(FAMILIES.values())


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "task"),
    exhaustive_but(KEPT, PAIRS),
    ids=lambda value: value,
)
def test_a_family_is_distilled_in_a_task(name, task, directories):
    directory, (rows, data) = directories(name), EXAMPLES[task]
    task = task_of(DataConfig(task=task, max_length=16, **data))
    source = read_model_directory(directory)
    examples = task.read(Rows(list(enumerate(rows, start=1)), "rows"))
    head = task.head_to_train(source, examples)
    examples = task.with_head(examples, head)
    encoded = task.encode(Tokenizer(directory), examples)
    teacher = job_models.load(task, source, head)
    student = cut_layers(teacher, [0])
    config = DistillationConfig(**{"hard_label_weight": 1, **task.distillation_defaults})
    if not trains_in_earnest(name, task.name):
        (batch,) = task.make_loader(encoded, len(encoded), shuffle=False)
        loss = jax.eval_shape(loss_of(task, config, teacher, student), batch)
        assert loss.shape == ()
        return
    optimization = OptimizationConfig(num_steps=1, batch_size=2)
    training = TrainingConfig(output_dir=None, progress=False)
    if FAMILIES[name] == "bert":
        make_fine_tuning(task, teacher, encoded, optimization, training).train()
    make_distillation(task, teacher, student, encoded, config, optimization, training).train()
    predictions, _ = run_model(task, student, encoded)
    scores = task.score(examples, encoded, predictions)
    assert tuple(scores) == task.metrics
    assert task.metrics[0] == task.main_metric
    assert all(isinstance(score, float) for score in scores.values())
    assert len(list(task.decode(examples, encoded, predictions, head.names))) == len(examples)


def loss_of(task, config, teacher, student):
    """The loss of a batch."""
    models = [as_model(model) for model in (teacher, student)]

    def loss(batch):
        given, found = (
            make_teacher_step(model, task.adaptor)(model.variables, batch) for model in models
        )
        return jb.make_objective(config)(found, given, batch, step=0)[0]

    return loss
