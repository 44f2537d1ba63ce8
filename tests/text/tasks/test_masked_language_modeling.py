"""Masked language modeling: the masks, the loss at masked tokens, the metrics."""

import jax
import numpy as np
import pytest
from flax import nnx

from jaxbrewer import DistillationConfig, TrainingConfig, UsageError
from jaxbrewer.configs import DataConfig, OptimizationConfig
from jaxbrewer.models import BertConfig, BertForMaskedLM
from jaxbrewer.text import UNLABELLED, Encoded, Examples, TextLoader, Tokenizer
from jaxbrewer.text.inference import run_model
from jaxbrewer.text.masking import MaskedLoader, Masking, masking_of, with_masks
from jaxbrewer.text.tasks.masked_language_modeling import MaskedLanguageModeling, encode_windows
from jaxbrewer.text.training import cache_teacher, make_distillation
from tests.text.conftest import VOCABULARY

TASK = MaskedLanguageModeling(DataConfig(task="masked-language-modeling", max_length=16))
MASKING = Masking(0.15, mask_id=4, vocab_size=30, special=frozenset([2, 3]))


def texts(count=12, seed=0):
    draw = np.random.default_rng(seed)
    rows = [[2, *draw.integers(5, 30, draw.integers(6, 14)), 3] for _ in range(count)]
    ids = np.concatenate(rows).astype(np.int32)
    facts = {"document": np.arange(count)}
    plain = Encoded(ids, 0 * ids, np.cumsum([0, *map(len, rows)]), facts=facts)
    return with_masks(plain, MASKING)


def model(layers=1, seed=0):
    config = BertConfig(
        vocab_size=30, hidden_size=8, num_hidden_layers=layers, num_attention_heads=2,
        intermediate_size=16, initializer_range=0.3,
    )  # fmt: skip
    made = BertForMaskedLM(config, rngs=nnx.Rngs(seed))
    made.eval()
    return made


class TestMasks:
    def test_a_share_of_the_tokens_is_masked_and_no_special_one(self):
        tokens = np.array([2, *np.random.default_rng(0).integers(5, 30, 2_000), 3], np.int32)
        inputs, labels = MASKING.draw(tokens, [0, 0, 0])
        chosen = labels != UNLABELLED
        assert chosen.sum() == 300
        assert not chosen[[0, -1]].any()
        np.testing.assert_array_equal(labels[chosen], tokens[chosen])
        np.testing.assert_array_equal(inputs[~chosen], tokens[~chosen])
        assert np.mean(inputs[chosen] == 4) == pytest.approx(0.8, abs=0.06)
        assert np.mean(inputs[chosen] == tokens[chosen]) == pytest.approx(0.1, abs=0.06)

    def test_a_short_text_has_one_mask(self):
        assert (MASKING.draw(np.array([2, 9, 3]), [0])[1] != UNLABELLED).tolist() == [0, 1, 0]

    def test_epochs_and_seeds_have_different_masks_and_batches_the_same(self):
        rows = texts()

        def masks(seed, epoch, batch_size):
            loader = MaskedLoader(rows, batch_size, seed=seed)
            loader.set_epoch(epoch)
            return {
                int(row): batch["labels"][place][: rows.lengths[row]].tolist()
                for batch in loader
                for place, row in enumerate(batch["example_id"])
            }

        assert masks(0, 1, 4) == masks(0, 1, 3)
        assert masks(0, 1, 4) != masks(0, 2, 4)
        assert masks(0, 1, 4) != masks(1, 1, 4)

    def test_reading_from_a_position_gives_the_masks_of_the_whole_epoch(self):
        loader = MaskedLoader(texts(), 3, seed=5)
        loader.set_position(2, 0)
        whole = list(loader)
        loader.set_position(2, 2)
        for before, after in zip(whole[2:], loader, strict=True):
            for name in before:
                np.testing.assert_array_equal(before[name], after[name])

    def test_static_masks_are_those_of_the_encoding(self):
        static = MaskedLanguageModeling(DataConfig(static_masks=True))
        rows = texts()
        [batch] = static.make_loader(rows, 12, shuffle=False)
        assert isinstance(static.make_loader(rows, 12), TextLoader)
        order = batch["example_id"]
        wanted = rows.batch(order, batch["input_ids"].shape[1])
        np.testing.assert_array_equal(batch["input_ids"], wanted["input_ids"])

    def test_long_texts_are_cut_into_windows(self, vocab_directory):
        tokenizer = Tokenizer(vocab_directory)
        encoded = encode_windows(tokenizer, ["a dog a cat a", "cat"], 4)
        assert encoded.lengths.tolist() == [4, 4, 3, 3]
        assert encoded.facts["document"].tolist() == [0, 0, 0, 1]
        assert VOCABULARY.index("[CLS]") == encoded.input_ids[0] == encoded.input_ids[4]
        assert len(encode_windows(tokenizer, ["a dog a cat a", "cat"], 4, one_each=True)) == 2
        assert masking_of(tokenizer, 0.15).mask_id == VOCABULARY.index("[MASK]")

    def test_a_tokenizer_without_a_mask_is_refused(self, json_directory):
        with pytest.raises(UsageError, match="has no mask token"):
            masking_of(Tokenizer(json_directory), 0.15)

    @pytest.mark.parametrize("value", [-0.1, 1.1, "a"])
    def test_the_share_of_masks_is_a_probability(self, value):
        with pytest.raises(UsageError, match=r"DataConfig\.mask_probability"):
            DataConfig(mask_probability=value)


class TestLoss:
    @pytest.mark.slow
    def test_logits_at_the_masks_give_the_loss_of_all_positions(self):
        batch = texts().batch(range(6), 16)
        outputs = jax.jit(lambda m, b: m(b["input_ids"], b["attention_mask"]))(model(), batch)
        answer = TASK.adaptor(batch, outputs)
        assert answer["logits"].shape == (6, 2, 30)
        log_p = jax.nn.log_softmax(outputs["logits"])
        labels = batch["labels"]
        own = -np.take_along_axis(log_p, np.maximum(labels, 0)[..., None], axis=-1)[..., 0]
        wanted = own[labels != UNLABELLED]
        assert int(answer["losses"].count) == len(wanted) == int(answer["logits_mask"].sum())
        np.testing.assert_allclose(answer["losses"].total, wanted.sum(), rtol=1e-5)

    @pytest.mark.slow
    def test_metrics_are_those_of_the_masked_tokens(self):
        rows, student, teacher = texts(), model(seed=0), model(seed=1)
        found, _ = run_model(TASK, student, rows, teacher=teacher)
        other, _ = run_model(TASK, teacher, rows)
        examples = Examples(["x"] * len(rows))
        batch = rows.batch(range(len(rows)), 16)
        run = jax.jit(
            lambda m, b: jax.nn.log_softmax(m(b["input_ids"], b["attention_mask"])["logits"])
        )
        log_p, log_t = (np.float64(run(m, batch)) for m in (student, teacher))
        chosen = batch["labels"] != UNLABELLED
        labels = batch["labels"][chosen]
        nats = -log_p[chosen][np.arange(len(labels)), labels]
        scores = TASK.score(examples, rows, found)
        assert scores["perplexity"] == pytest.approx(np.exp(nats.mean()), rel=1e-4)
        assert scores["accuracy"] == np.mean(log_p[chosen].argmax(-1) == labels)
        differences = TASK.agreement(examples, rows, found, other).metrics()
        kl = np.sum(np.exp(log_t) * (log_t - log_p), axis=-1)[chosen].mean()
        assert differences["kl"] == pytest.approx(kl, rel=1e-4)
        same = log_p[chosen].argmax(-1) == log_t[chosen].argmax(-1)
        assert differences["agreement"] == np.mean(same)


def distil(task, **training):
    config = {
        "temperature": 1,
        "hard_label_weight": 1,
        "intermediate_matches": [
            {"feature": "hidden", "layer_T": 0, "layer_S": 0, "loss": "hidden_mse", "weight": 1},
            {"feature": "hidden", "layer_T": 2, "layer_S": 1, "weight": 1,
             "loss": {"loss": "minilm_relation", "heads": 2}},
        ],
    }  # fmt: skip
    return make_distillation(
        task, model(2), model(1, seed=1), texts(), DistillationConfig(**config),
        OptimizationConfig(num_epochs=6, batch_size=6, learning_rate=0.02),
        TrainingConfig(**{"output_dir": None, "progress": False, **training}),
    )  # fmt: skip


@pytest.mark.slow
def test_a_student_learns_masked_tokens_and_inner_states():
    history = distil(TASK).train().history
    for term in ("kd_loss", "hidden_hidden_mse_0_0"):
        values = history[f"unweighted_{term}"]
        assert np.mean(values[-2:]) < np.mean(values[:2]), term


def test_new_masks_in_every_epoch_allow_no_cache(tmp_path):
    with pytest.raises(UsageError, match=r"cannot be cached: set data\.static_masks"):
        distil(TASK, cache_dir=str(tmp_path))
    with pytest.raises(UsageError, match=r"cannot be cached: set data\.static_masks"):
        cache_teacher(tmp_path, TASK, model(), texts())
    config = DistillationConfig(is_caching_logits=True)
    with pytest.raises(UsageError, match=r"cannot be cached"):
        make_distillation(
            TASK, model(), model(), texts(), config, OptimizationConfig(),
            TrainingConfig(output_dir=None),
        )  # fmt: skip


@pytest.mark.slow
def test_static_masks_train_from_a_cache_as_from_the_teacher(tmp_path):
    task, teacher, rows = MaskedLanguageModeling(DataConfig(static_masks=True)), model(2), texts()
    cache_teacher(tmp_path, task, teacher, rows)
    losses = []
    for cache in (None, str(tmp_path)):
        training = make_distillation(
            task, teacher, model(1, seed=1), rows, DistillationConfig(temperature=1),
            OptimizationConfig(num_epochs=1, batch_size=6),
            TrainingConfig(output_dir=None, progress=False, cache_dir=cache),
        )  # fmt: skip
        losses.append(training.train().history["total_loss"])
    np.testing.assert_allclose(*losses, rtol=1e-5)


def test_masks_need_the_same_tokens():
    with pytest.raises(UsageError, match="compares tokens: teacher and student must have the same"):
        make_distillation(
            TASK, model(), model(), texts(), DistillationConfig(), OptimizationConfig(),
            TrainingConfig(output_dir=None), student_encoded=texts(seed=1),
        )  # fmt: skip
