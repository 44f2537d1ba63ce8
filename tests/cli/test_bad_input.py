"""Any bad input gives one line and status 2, and nothing is written."""

import json
import shutil
import subprocess
import sys

import pytest

from jaxbrewer.cli import main
from tests.cli.conftest import WORDS, write_model
from tests.pages import page_block


def refused(capsys, *words):
    """The line that a command prints when it refuses its input."""
    assert main([str(word) for word in words]) == 2
    said = capsys.readouterr()
    lines = [line for line in said.err.splitlines() if "random weights" not in line]
    assert len(lines) == 1, said.err
    assert said.out == ""
    return lines[0].removeprefix("jaxbrewer: error: ")


@pytest.mark.parametrize(
    ("name", "text", "says"),
    [
        ("empty.tsv", "", "empty.tsv is empty"),
        ("header.tsv", "label\ttext\n", "header.tsv is empty"),
        ("columns.tsv", "label\ttxt\ncat\tit purrs\n", "columns.tsv:2: no column 'text' for text"),
        ("nan.csv", "label,text\ncat,it purrs\ndog,nan\n", "nan.csv:3: the text 'text' is NaN"),
        ("nan.jsonl", '{"text": NaN, "label": "cat"}', "nan.jsonl:1: the text 'text' is NaN"),
        ("no.jsonl", '{"text": "it purrs"}', "no.jsonl:1: no column 'label' for label"),
        ("bad.jsonl", '{"text": "it', "bad.jsonl:1 is not valid JSON"),
        ("data.txt", "it purrs", "'.jsonl', '.csv', '.tsv'"),
    ],
)
@pytest.mark.parametrize("part", ["train", "test"])
def test_bad_data_files_are_refused_in_one_line(job, tmp_path, capsys, part, name, text, says):
    (tmp_path / name).write_text(text)
    line = refused(capsys, "train", job, f"--data.{part}", tmp_path / name)
    assert says in line
    assert not (tmp_path / "run").exists()


def test_labels_outside_the_set_are_refused(job, data, tmp_path, capsys):
    (tmp_path / "test.csv").write_text("label,text\ncat,it purrs\nwolf,it hides\n")
    line = refused(capsys, "train", job, "--data.test", tmp_path / "test.csv")
    assert "test.csv:3: the label 'wolf' is not one of the classes: Allowed: 'cat', 'dog'" in line
    assert "The classes are those of data.train: to have more, list all of them in data.l" in line
    line = refused(capsys, "train", job, "--data.labels", "[cat, dog]")
    assert "train.tsv:" in line
    assert "the label 'fox' is not one of the classes: " in line
    assert "The classes are those of data.labels: add it there." in line
    line = refused(capsys, "evaluate", data / "other", data / "test.jsonl")
    assert "other has other classes (2: LABEL_0, LABEL_1) than the data (3: cat, dog, fox)" in line


@pytest.mark.slow
@pytest.mark.parametrize(
    ("words", "says"),
    [
        (
            ["--data.train=", "--data.unlabelled="],
            "has no data.train: give the file with the labelled texts there, or",
        ),
        (["--data.train", "nowhere.tsv"], "nowhere.tsv does not exist"),
        (["--data.unlabelled", "nowhere.tsv"], "nowhere.tsv does not exist"),
        (["--teacher.path="], "has no teacher.path"),
        (["--teacher.path", "nowhere"], "nowhere does not exist, or is not a directory"),
        (["--student.layers="], "has no student: give one of student.path (a directory), "),
        (["--student.path", "here"], "one of path, layers and size"),
        (["--student.layers", "[2]"], "layers [2] must be layers of a model with 2 layers"),
        (["--student.layers=", "--student.path", "nowhere"], "nowhere does not exist"),
        (
            ["--student.layers=", "--student.size", "{hidden_sizes: 8}"],
            "student.size has no field 'hidden_sizes': did you mean 'hidden_size'?",
        ),
        (
            ["--student.layers=", "--student.size", "{hidden_size: 7}"],
            "student.size: BertConfig hidden_size 7 is not a multiple of num_attention_heads 2",
        ),
        (
            ["--student.layers=", "--student.size", "{vocab_size: 10}"],
            f"The student has a vocab_size of 10, but the tokenizer has {len(WORDS)} tokens",
        ),
        (
            ["--student.layers=", "--student.size", "{max_position_embeddings: 4}"],
            "data.max_length 8 is more than the student can read",
        ),
        (
            ["--data.text_pair=text", "--student.layers=", "--student.size={type_vocab_size: 1}"],
            "The tokens are of 2 types (first and second text), but the student has a "
            "type_vocab_size of 1",
        ),
        (["--data.max_length", "17"], "data.max_length 17 is more than the teacher can read"),
        (["--data.max_lengths", "17"], "no field 'max_lengths': did you mean 'max_length'?"),
        (
            ["--student.layers=", "--student.size", "{hidden_size: 8}"],
            "intermediate_matches[0] (hidden_hidden_mse_1_2): ",
        ),
        (
            ["--distillation.intermediate_matches.0.proj", "[linear, 12, 16]"],
            "proj expects a student width of 12",
        ),
        (
            ["--distillation.intermediate_matches.0.proj", "[linear, 16, 12]"],
            "intermediate_matches[0] (hidden_hidden_mse_1_2): ",
        ),
        (["--distillation.intermediate_matches.0.layer_S", "2"], "layer_S=2 is out of range"),
        (["--distillation.intermediate_matches.0.loss", "hid"], "'hid' is unknown"),
        (
            ["--distillation.kd_loss_type", "kll"],
            "kd_loss_type 'kll' is unknown: did you mean 'kl'",
        ),
        (["--student.optimization.batch_size", "0"], "batch_size must be an int >= 1"),
        (["--training.gradient_accumulation_steps", "99"], "gradient_accumulation_steps=99"),
        (["--training.output_dir", "{job}"], "cannot be written"),
    ],
)
def test_bad_distillations_are_refused_in_one_line(job, data, capsys, words, says):
    """The teacher has a head, so that only the given fault is present."""
    teacher = data / "headed"
    if not teacher.exists():
        write_model(teacher, head=True, num_labels=3, labels=("cat", "dog", "fox"))
    words = [str(word).format(job=job) if word == "{job}" else word for word in words]
    for end in ([], ["--dry-run"]):
        assert says in refused(capsys, "distill", job, "--teacher.path", teacher, *words, *end)
    assert [path.name for path in job.parent.iterdir()] == ["job.yaml"]


def test_unusable_teachers_are_refused_with_a_remedy(job, data, tmp_path, capsys):
    remedy = f"Run `jaxbrewer train {job}` first, which trains a teacher on data.train."
    line = refused(capsys, "distill", job)
    head = "no sequence classification head, which data.task 'classification' needs"
    assert line == f"{data / 'base'} has {head}. {remedy}"
    line = refused(capsys, "distill", job, "--teacher.path", data / "other")
    assert line.endswith(f"than the data (3: cat, dog, fox). {remedy}")
    line = refused(capsys, "distill", job, "--teacher.path", data)
    assert "is not a model directory: it has no config.json" in line
    line = refused(capsys, "evaluate", job)
    assert "holds no model yet: run `jaxbrewer train" in line


@pytest.mark.slow
def test_unknown_frozen_paths_are_refused_with_a_suggestion(job, capsys):
    line = refused(capsys, "train", job, "--teacher.frozen", "[bert.embedings]")
    assert "No weights to freeze under 'bert.embedings': did you mean 'bert.embeddings'?" in line


@pytest.mark.slow
def test_a_student_that_cannot_read_its_tokenizer_is_refused(job, data, tmp_path, capsys):
    teacher = write_model(tmp_path / "teacher", head=True, num_labels=3, labels=tuple("abc"))
    student = tmp_path / "student"
    words = ["--teacher.path", teacher, "--student.layers=", "--student.path", student]
    (tmp_path / "abc.csv").write_text("label,text\na,it purrs\nb,it barks\nc,it hides\n")
    words += ["--data.train", tmp_path / "abc.csv", "--data.test=", "--data.unlabelled="]
    shutil.copytree(data / "base", student)
    (student / "vocab.txt").write_text("\n".join([*WORDS, "more"]))
    line = refused(capsys, "distill", job, *words, "--distillation.intermediate_matches", "[]")
    assert "The student has a vocab_size of 17, but the tokenizer has 18 tokens." in line


def test_bad_model_directories_are_refused_in_one_line(data, tmp_path, capsys):
    file = data / "test.jsonl"
    assert "does not exist" in refused(capsys, "evaluate", tmp_path / "no", file)
    assert "Give a file with labelled texts" in refused(capsys, "evaluate", data / "other")
    assert "--batch-size" in refused(capsys, "evaluate", data / "other", file, "--batch-size", "0")
    assert "is a model, which takes only --data.field" in refused(
        capsys, "evaluate", data / "other", file, "--training.seed", "1"
    )
    line = refused(capsys, "evaluate", data / "other", file, "--data.text", "x")
    assert "test.jsonl:1: no column 'x' for text" in line
    model = tmp_path / "model"
    shutil.copytree(data / "other", model)
    (model / "model.safetensors").write_bytes(b"no tensors")
    assert "model.safetensors is damaged" in refused(capsys, "inspect", model)
    (model / "model.safetensors").unlink()
    assert "has no model.safetensors." in refused(capsys, "inspect", model)
    (model / "config.json").write_text("{")
    assert "config.json is not valid JSON" in refused(capsys, "inspect", model)
    (model / "config.json").unlink()
    line = refused(capsys, "inspect", model)
    assert "is not a model directory, a run directory or a job" in line
    shutil.copytree(data / "other", model / "model")
    assert f"Did you mean {model / 'model'}?" in refused(capsys, "evaluate", model, file)
    (model / "model" / "vocab.txt").unlink()
    (tmp_path / "numbers.csv").write_text("label,text\n0,it purrs\n1,it barks\n")
    line = refused(capsys, "evaluate", model / "model", tmp_path / "numbers.csv")
    assert "has no tokenizer" in line
    fields = json.loads((data / "other" / "config.json").read_text()) | {"model_type": "bloom"}
    (model / "model" / "config.json").write_text(json.dumps(fields))
    assert "a model of type 'bloom'" in refused(capsys, "evaluate", model / "model", file)


def test_one_class_is_no_classification(job, data, tmp_path, capsys):
    (tmp_path / "one.csv").write_text("label,text\ncat,it purrs\ncat,it meows\n")
    words = ["--data.train", tmp_path / "one.csv", "--data.test="]
    line = refused(capsys, "train", job, *words)
    assert line == "data.train has one class, cat: a classifier needs two."
    teacher = write_model(tmp_path / "t", head=True, num_labels=1, labels=("cat",))
    line = refused(capsys, "distill", job, *words, "--teacher.path", teacher)
    assert "t has 1 classes: a classifier needs two." in line


def test_run_directories_that_cannot_be_written_are_refused(job, tmp_path, capsys):
    (tmp_path / "dangling").symlink_to(tmp_path / "nowhere")
    (tmp_path / "circle").symlink_to(tmp_path / "circle")
    for path, says in (
        (tmp_path / "dangling", "dangling is not a directory"),
        (tmp_path / "circle" / "runs", "circle is not a directory"),
        (tmp_path / "job.yaml" / "runs", "job.yaml is not a directory"),
        (tmp_path / ("x" * 300), "a name in it is too long"),
    ):
        line = refused(capsys, "train", job, "--dry-run", "--training.output_dir", path)
        assert "cannot be written: " in line
        assert says in line


@pytest.mark.parametrize("problem", ["multi_label_classification", "regression"])
def test_teachers_of_other_problems_are_refused(job, data, tmp_path, capsys, problem):
    teacher = write_model(tmp_path / "t", head=True, num_labels=3, labels=("cat", "dog", "fox"))
    fields = json.loads((teacher / "config.json").read_text()) | {"problem_type": problem}
    (teacher / "config.json").write_text(json.dumps(fields))
    for words in (["distill", job, "--dry-run"], ["train", job, "--dry-run"]):
        line = refused(capsys, *words, "--teacher.path", teacher)
        assert (
            f"has the problem_type '{problem}', not that of data.task 'classification': it" in line
        )
        task = {"regression": "regression"}.get(problem, "multi-label")
        assert line.endswith(f"needs data.task '{task}'.")
    if problem == "multi_label_classification":
        page = page_block("tasks.md", "jaxbrewer: error: toxic ")
        assert line == page.replace("jaxbrewer: error: toxic", str(teacher))


@pytest.mark.slow
def test_a_process_exits_with_status_2_and_one_line(job, data, tmp_path):
    for words, says in (
        (["train", job, "--data.labels", "[cat, dog]", "--dry-run"], "is not one of the classes"),
        (["train", job, "--data.max_length", "99"], "more than the teacher can read"),
        (["inspect", tmp_path], "is not a model directory"),
    ):
        command = [sys.executable, "-m", "jaxbrewer", *map(str, words)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 2
        assert done.stderr.splitlines()[-1].startswith("jaxbrewer: error: ")
        assert says in done.stderr
        assert "Traceback" not in done.stderr
        assert done.stderr.count("random weights") == ("--data.max_length" in words)
