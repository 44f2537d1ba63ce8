"""Students whose family or tokenizer is not the teacher's, and distillation on texts alone."""

import json
import string

import numpy as np
import pytest
import yaml
from flax import nnx

from jaxbrewer.cli import main
from jaxbrewer.models import save
from jaxbrewer.models.families import family_of
from jaxbrewer.text import Tokenizer
from tests.cli.conftest import run, write_model

LETTERS = [
    "[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]",
    *string.ascii_lowercase, *(f"##{letter}" for letter in string.ascii_lowercase),
]  # fmt: skip
SMALL = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2,
         "intermediate_size": 16}  # fmt: skip
ROBERTA = json.dumps({"model_type": "roberta", **SMALL})


@pytest.fixture
def places(data, content, tmp_path):
    """A teacher, a DistilBERT that reads letters, and a job of one epoch."""
    family = family_of("distilbert")
    config = family.config(vocab_size=len(LETTERS), max_position_embeddings=32, **SMALL)
    model = family.by_task["feature-extraction"](config, rngs=nnx.Rngs(0))
    save(model, tmp_path / "distilbert")
    for folder in ("distilbert", "letters"):
        (tmp_path / folder).mkdir(exist_ok=True)
        (tmp_path / folder / "vocab.txt").write_text("\n".join(LETTERS))
    write_model(tmp_path / "teacher", head=True, num_labels=3, labels=("cat", "dog", "fox"))
    job = {
        **content,
        "data": {**content["data"], "max_length": 16},
        "teacher": {"path": str(tmp_path / "teacher")},
        "student": {"optimization": {"batch_size": 48, "num_epochs": 1}},
        "distillation": {"temperature": 2},
        "training": {"progress": False, "output_dir": str(tmp_path / "run")},
    }
    (tmp_path / "job.yaml").write_text(yaml.safe_dump(job))
    return tmp_path


def refused(capsys, *words):
    assert main([str(word) for word in words]) == 2
    [line] = capsys.readouterr().err.strip().splitlines()[-1:]
    assert line.startswith("jaxbrewer: error: ")
    return line


@pytest.mark.slow
def test_each_model_reads_its_own_tokens_and_the_teacher_may_be_cached(places):
    job, cache = places / "job.yaml", ["--training.cache_dir", places / "cache"]
    run("cache", "build", job, *cache)
    printed = run("distill", job, "--student.path", places / "distilbert", *cache)
    assert f"the student's own, {len(LETTERS)} tokens" in printed
    saved = places / "run" / "student" / "model"
    assert Tokenizer(saved).vocab_size == len(LETTERS)
    assert json.loads((saved / "config.json").read_text())["model_type"] == "distilbert"
    assert "top1_agreement" in run("evaluate", job)


@pytest.mark.slow
def test_new_weights_of_another_family_have_the_tokenizer_of_a_directory(places):
    own = ["--student.size", ROBERTA, "--student.tokenizer", places / "letters"]
    printed = run("distill", places / "job.yaml", *own, "--dry-run")
    assert "roberta of 1 layers x 8" in printed
    assert f"the student's own, {len(LETTERS)} tokens" in printed


@pytest.mark.slow
def test_texts_alone_are_enough_without_a_weight_of_labels(places):
    own = ["--data.train=", "--student.layers", "[0]"]
    printed = run("distill", places / "job.yaml", *own)
    assert "texts" in printed
    assert "48 unlabelled in" in printed
    assert " labelled in" not in printed


@pytest.mark.slow
def test_what_tokens_and_labels_forbid_is_one_line(places, capsys):
    job = places / "job.yaml"
    line = refused(
        capsys, "distill", job, "--data.train=", "--student.layers", "[0]",
        "--distillation.hard_label_weight", "1",
    )  # fmt: skip
    assert "has no data.train, whose labels distillation.hard_label_weight 1 needs" in line
    line = refused(
        capsys, "distill", job, "--student.layers", "[0]", "--student.tokenizer", places / "letters"
    )
    assert "StudentConfig takes no tokenizer with layers" in line
    line = refused(
        capsys, "distill", job, "--student.path", places / "distilbert",
        "--distillation.intermediate_matches", "[{feature: hidden, layer_T: 0, layer_S: 0, "
        "loss: hidden_mse, weight: 1}]",
    )  # fmt: skip
    assert "compares tokens, but teacher and student have different tokenizers" in line
    line = refused(
        capsys, "distill", job, "--student.path", places / "distilbert", "--data.task",
        "masked-language-modeling", "--teacher.path", write_masked(places / "masked"),
    )  # fmt: skip
    assert "both must read the same tokens" in line
    line = refused(capsys, "cache", "build", job, "--training.cache_dir", places / "c",
                   "--data.task", "masked-language-modeling")  # fmt: skip
    assert "cannot be cached: set data.static_masks" in line
    line = refused(capsys, "train", job, "--data.task", "embeddings")
    assert "single texts, from which no encoder can be trained alone" in line


def write_masked(directory):
    from jaxbrewer.models import BertConfig, BertForMaskedLM
    from tests.cli.conftest import SIZES, WORDS

    save(BertForMaskedLM(BertConfig(**SIZES), rngs=nnx.Rngs(0)), directory)
    (directory / "vocab.txt").write_text("\n".join(WORDS))
    return directory


@pytest.mark.slow
def test_pairs_and_texts_distil_an_encoder_that_is_a_directory_of_sentences(places):
    draw = np.random.default_rng(0)
    rows = [
        {"text": f"it {a}", "text_pair": f"often {b}", "score": int(a == b)}
        for a, b in draw.choice(["purrs", "barks", "hides"], (32, 2))
    ]
    (places / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (places / "texts.jsonl").write_text("".join('{"text": "it meows"}\n' for _ in range(5)))
    words = ["--data.task", "embeddings", "--data.text_pair", "text_pair"]
    words += ["--data.train", places / "pairs.jsonl", "--data.test", places / "pairs.jsonl"]
    words += ["--data.unlabelled", places / "texts.jsonl", "--student.layers", "[0]"]
    printed = run("distill", places / "job.yaml", *words)
    assert "embedding_cos_0_0" in printed
    assert {"spearman", "recall_at_1", "neighbours_at_10"} <= set(printed.split())
    saved = places / "run" / "student" / "model"
    assert (saved / "1_Pooling" / "config.json").is_file()
    lines = run("predict", saved, places / "texts.jsonl").splitlines()
    assert [len(json.loads(line)["embedding"]) for line in lines] == [16] * 5
