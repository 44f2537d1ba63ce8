"""The task of language modeling: its loaders, its loss, and its metrics against NumPy."""

import json
import math

import jax
import numpy as np
import pytest
from flax import nnx

import jaxbrewer as jb
from jaxbrewer import UsageError
from jaxbrewer.cli import main
from jaxbrewer.configs import DataConfig
from jaxbrewer.models import LlamaConfig, LlamaForCausalLM, save
from jaxbrewer.text import TextLoader, Tokenizer, task_of
from jaxbrewer.text.documents import PackedLoader
from jaxbrewer.text.inference import run_model

from .toy_language import save_tokenizer

SIZES = {
    "vocab_size": 260, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2,
    "num_key_value_heads": 1, "intermediate_size": 32, "max_position_embeddings": 64,
    "tie_word_embeddings": True, "initializer_range": 0.3,
}  # fmt: skip
ROWS = [{"text": text} for text in ("a cat sees it", "no", "the fox hides", "naïve dogs", "ab")]


def decoder(seed=0, **sizes):
    return LlamaForCausalLM(LlamaConfig(**{**SIZES, **sizes}), rngs=nnx.Rngs(seed))


def task_and_texts(tmp_path, rows=ROWS, **data):
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    task = task_of(DataConfig(**{"task": "language-modeling", "max_length": 8, **data}))
    examples = task.read(str(path))
    return task, examples, task.encode(Tokenizer(save_tokenizer(tmp_path / "t")), examples)


def loss_and_gradient(task, model, loader, fused):
    """The labels' loss over all batches, divided once, and its gradient, from the adaptor."""
    graph, params, rest = nnx.split(model, nnx.Param, ...)

    @jax.jit
    def of_batch(params, batch):
        def total(params):
            inputs = {
                name: batch[name]
                for name in ("input_ids", "attention_mask", "segment_ids", "position_ids")
            }
            answer = task.adaptor(batch, nnx.merge(graph, params, rest)(**inputs))
            loss = answer["losses"]
            mean = loss.of(answer["logits"]) if fused else loss
            return mean.total, mean.count

        return jax.value_and_grad(total, has_aux=True)(params)

    sums = [of_batch(params, batch) for batch in loader]
    (total, count), gradient = jax.tree.map(lambda *parts: sum(parts), *sums)
    return jax.tree.map(lambda part: part / count, (total, gradient))


@pytest.mark.slow
@pytest.mark.parametrize("fused", [False, True])
def test_a_decoder_learns_the_same_from_packed_and_padded_rows(tmp_path, fused):
    task, _, documents = task_and_texts(tmp_path, max_length=14)
    model = decoder(fused_logits=fused)
    padded = loss_and_gradient(task, model, TextLoader(documents, 5, num_widths=1), fused)
    packed = loss_and_gradient(task, model, PackedLoader(documents, 4, 24), fused)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6), packed, padded
    )


def test_the_job_chooses_packed_or_padded_batches(tmp_path):
    task, _, documents = task_and_texts(tmp_path)
    assert documents.lengths.max() == 8
    (width,) = task.make_loader(documents, 2, num_widths=3).widths
    assert width == 8
    task, _, documents = task_and_texts(tmp_path, packed=False, max_length=32)
    assert isinstance(task.make_loader(documents, 2, num_widths=1), TextLoader)
    task, _, documents = task_and_texts(tmp_path, truncate=True)
    assert len(documents) == len(ROWS)


@pytest.mark.slow
def test_metrics_are_those_of_numpy_over_whole_documents(tmp_path):
    task, examples, documents = task_and_texts(tmp_path)
    teacher, student = decoder(1, fused_logits=True), decoder(2, fused_logits=True)
    found = run_model(task, student, documents, teacher=teacher, batch_size=4).predictions
    alone = run_model(task, teacher, documents, batch_size=4).predictions
    metrics = task.score(examples, documents, found)
    differences = task.agreement(examples, documents, found, alone).metrics()

    @nnx.jit  # one program for all documents: what follows a position does not change its logits
    def log_softmax(model, ids):
        return jax.nn.log_softmax(model(ids)["logits"].logits()[0])

    nats, kl, correct, agree = [], [], [], []
    for row in range(len(documents)):
        batch = documents.batch([row], int(documents.lengths.max()))
        learned = batch["labels"][0] >= 0
        labels = batch["labels"][0][learned]
        log_s, log_t = (
            np.asarray(log_softmax(model, batch["input_ids"]))[learned]
            for model in (student, teacher)
        )
        nats += [-log_s[i, label] for i, label in enumerate(labels)]
        kl += np.sum(np.exp(log_t) * (log_t - log_s), axis=-1).tolist()
        correct += (log_s.argmax(-1) == labels).tolist()
        agree += (log_s.argmax(-1) == log_t.argmax(-1)).tolist()
    # every byte but each text's first is predicted, and so is the end of each
    text_bytes = sum(len(row["text"].encode()) - 1 for row in ROWS)
    assert len(nats) == text_bytes + len(ROWS)
    expected = {
        "perplexity": math.exp(np.mean(nats)),
        "accuracy": np.mean(correct),
        "bits_per_byte": np.sum(nats) / math.log(2) / text_bytes,
    }
    assert metrics == pytest.approx(expected, rel=1e-4)
    assert differences == pytest.approx({"agreement": np.mean(agree), "kl": np.mean(kl)}, rel=1e-4)
    rows = list(task.decode(examples, documents, found, ()))
    assert sum(row["log_probability"] for row in rows) == pytest.approx(-np.sum(nats), rel=1e-4)


@pytest.fixture
def job(tmp_path):
    """A job with a decoder as teacher, as a file."""
    save(decoder(), tmp_path / "teacher")
    save_tokenizer(tmp_path / "teacher")
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS * 4))
    training = {"batch_size": 2, "num_steps": 2, "learning_rate": 0.01}
    content = {
        "data": {"task": "language-modeling", "train": str(tmp_path / "rows.jsonl"),
                 "max_length": 16},
        "teacher": {"path": str(tmp_path / "teacher")},
        "student": {"layers": [1], "optimization": training},
        "distillation": {"kd_loss_type": "kl", "temperature": 1},
        "training": {"output_dir": str(tmp_path / "run"), "progress": False,
                     "cache_dir": str(tmp_path / "cache")},
    }  # fmt: skip
    path = tmp_path / "job.json"
    path.write_text(json.dumps(content))
    return path


@pytest.mark.slow
def test_a_sampled_cache_is_built_and_distilled_from_packed_rows(job, tmp_path, capsys):
    storage = ["--storage", "sampled", "--k", "4", "--samples", "3"]
    assert main(["cache", "build", str(job), *storage]) == 0
    printed = capsys.readouterr().out
    assert "kind sampled, k 4, bits 8, temperatures [1.0], samples 3, seed 0" in printed
    assert "bytes per position" in printed
    assert main(["distill", str(job)]) == 0
    assert (tmp_path / "run" / "student" / "model" / "config.json").is_file()
    message = r"cached as samples, but kd_loss_type='jsd' would have a bias"
    other = ["--distillation.kd_loss_type", "jsd", "--training.output_dir", str(tmp_path / "b")]
    assert main(["distill", str(job), *other, "--dry-run"]) == 2
    assert message in capsys.readouterr().err


@pytest.mark.slow
def test_export_and_import_of_the_command_line_reproduce_a_cache(job, tmp_path, capsys):
    rows = ["--batch-size", "3"]
    assert main(["cache", "build", str(job), "--storage", "top_k", "--k", "4", *rows]) == 0
    dump = str(tmp_path / "dump.parquet")
    assert main(["cache", "export", str(job), dump]) == 0
    assert "holds the largest logits of" in capsys.readouterr().out
    again = ["--training.cache_dir", str(tmp_path / "again")]
    assert main(["cache", "import", str(job), dump, *rows, *again]) == 0
    assert main(["distill", str(job), "--dry-run", *again]) == 0
    caches = [jb.cache.TeacherCache(tmp_path / name) for name in ("cache", "again")]
    keys = caches[0].keys()
    assert caches[0]._all.read(keys) == caches[1]._all.read(keys)
    assert main(["cache", "import", str(job), str(tmp_path / "none.parquet"), *again]) == 2
    assert main(["cache", "export", str(job), str(tmp_path / "dump.csv")]) == 2
    assert main(["cache", "import", str(job), dump, "--k", "0"]) == 2
    assert main(["cache", "import", str(job), dump, "--batch-size", "0"]) == 2


@pytest.mark.slow
def test_generate_continues_prompts_and_answers_conversations(job, tmp_path, capsys):
    model = str(tmp_path / "teacher")
    few = ["--max-new-tokens", "4"]
    assert main(["generate", model, "--prompt", "a cat", *few]) == 0
    alone = capsys.readouterr().out
    prompts = tmp_path / "prompts.jsonl"
    prompts.write_text('{"prompt": "the fox hides"}\n{"prompt": "a cat"}\n')
    assert main(["generate", model, "--file", str(prompts), *few]) == 0
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [row["prompt"] for row in rows] == ["the fox hides", "a cat"]
    assert rows[1]["completion"] == alone.removesuffix("\n")
    chats = tmp_path / "chats.jsonl"
    chats.write_text('{"messages": [{"role": "user", "content": "who?"}]}\n')
    assert main(["generate", model, "--file", str(chats), *few]) == 0
    assert set(json.loads(capsys.readouterr().out)) == {"messages", "completion"}
    for words, message in (
        ([], "Give either --prompt or --file"),
        (["--prompt", " "], "--prompt is empty"),
        (["--prompt", "a", "--temperature", "-1"], "Sampling temperature must be"),
        (["--file", str(tmp_path / "none.jsonl")], "does not exist"),
        (["--file", str(tmp_path / "rows.csv")], "does not exist"),
    ):
        assert main(["generate", model, *words]) == 2
        assert message in capsys.readouterr().err


def test_scores_belong_to_language_models():
    task = task_of(DataConfig())
    with pytest.raises(UsageError, match="'classification': log-probabilities of tokens belong"):
        task.uncut(None, None)
