"""``jaxbrewer predict`` and ``load(directory).predict``."""

import io
import json
import shutil
import subprocess
import sys

import numpy as np
import pytest
from scipy.special import softmax

from jaxbrewer import UsageError
from jaxbrewer.cli import main, prediction
from jaxbrewer.configs import DataConfig
from jaxbrewer.models import load_bert
from jaxbrewer.text import Tokenizer, load, read_examples
from jaxbrewer.text.inference import run_model
from jaxbrewer.text.tasks.classification import Classification
from tests.cli.conftest import KINDS, WORDS, run, texts, write_model
from tests.cli.test_bad_input import refused
from tests.pages import form, page_block, page_output

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    directory = tmp_path_factory.mktemp("predict") / "model"
    return write_model(directory, head=True, num_labels=3, labels=tuple(KINDS))


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    path = tmp_path_factory.mktemp("texts") / "texts.jsonl"
    rows = [json.dumps({"id": n, "text": text}) for n, (text, _) in enumerate(texts(75, 5))]
    path.write_text("\n".join(rows) + "\n")
    return path


@pytest.fixture(scope="module")
def expected(model, file):
    """Probabilities by an independent path: the loader of evaluations, softmax by SciPy."""
    task = Classification(DataConfig(max_length=16))
    encoded = task.encode(Tokenizer(model), read_examples(file, label=None))
    logits = run_model(task, load_bert(model), encoded).predictions.rows["logits"]
    return softmax(np.float64(logits), -1)


def parsed(printed):
    lines = [json.loads(line) for line in printed.splitlines()]
    for line in lines:
        assert line["label"] == max(line["probabilities"], key=line["probabilities"].get)
    return np.array([list(line["probabilities"].values()) for line in lines])


def test_the_answer_in_the_page_has_the_form_of_what_is_printed(tmp_path, monkeypatch):
    (line,) = page_output("evaluation.md", "$ echo 'a small wild cat' | jaxbrewer predict")
    answer = json.loads(line)
    model = write_model(
        tmp_path / "model", head=True, num_labels=6, labels=tuple(answer["probabilities"])
    )
    given(monkeypatch, b"a small wild cat")
    printed = run("predict", model, "-").removesuffix("\n")
    parsed(line)
    assert sum(answer["probabilities"].values()) == pytest.approx(1, abs=1e-6)
    chosen = f'"{json.loads(printed)["label"]}"'
    assert form(printed) == form(line.replace(f'"{answer["label"]}"', chosen, 1))
    classes = page_block("command-line.md", "$ jaxbrewer train job.yaml\njaxbrewer")
    assert f"classes      6: {', '.join(answer['probabilities'])}\n" in classes


@pytest.mark.parametrize("batch_size", [1, 2, 64])
def test_predictions_come_in_the_order_of_the_file(model, file, expected, batch_size):
    printed = run("predict", model, file, "--batch-size", batch_size)
    np.testing.assert_allclose(parsed(printed), expected, rtol=1e-5)
    assert list(json.loads(printed.splitlines()[0])["probabilities"]) == list(KINDS)


def given(monkeypatch, content):
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(content)))


def test_standard_input_is_json_or_plain_lines(model, file, expected, monkeypatch):
    given(monkeypatch, file.read_bytes())
    np.testing.assert_allclose(parsed(run("predict", model, "-")), expected, rtol=1e-5)
    lines = [json.loads(line)["text"] for line in file.read_text().splitlines()]
    given(monkeypatch, "\r\n\n".join(lines).encode())
    np.testing.assert_allclose(parsed(run("predict", model, "-")), expected, rtol=1e-5)
    given(monkeypatch, b"")
    assert run("predict", model, "-") == ""


def test_an_answer_is_written_before_the_next_line_is_read(model, monkeypatch, capsys):
    class Slow(io.RawIOBase):
        """Standard input that notes what was printed when its next line is asked for."""

        def __init__(self):
            self.lines, self.printed = [b"it purrs\n", b"it barks\n"], []

        def readable(self):
            return True

        def readinto(self, buffer):
            self.printed.append(capsys.readouterr().out.count("\n"))
            line = self.lines.pop(0) if self.lines else b""
            buffer[: len(line)] = line
            return len(line)

    slow = Slow()
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BufferedReader(slow)))
    assert main(["predict", str(model), "-", "--batch-size", "1"]) == 0
    assert slow.printed == [0, 1, 1]


def test_memory_does_not_depend_on_the_number_of_texts(model, file, monkeypatch):
    seen = []

    def read_unlabelled(self, path):
        seen.append(len(path.numbered))
        return read_examples(path, label=None)

    monkeypatch.setattr(Classification, "read_unlabelled", read_unlabelled)
    monkeypatch.setattr(prediction, "_BATCHES_PER_CHUNK", 4)
    run("predict", model, file, "--batch-size", 5)
    assert seen == [20, 20, 20, 15]


def test_output_is_a_file_that_appears_when_it_is_complete(model, file, tmp_path, capsys):
    output = tmp_path / "predictions.jsonl"
    run("predict", model, file, "--output", output)
    assert len(output.read_text().splitlines()) == 75
    output.unlink()
    bad = tmp_path / "bad.jsonl"
    bad.write_text('{"text": "it purrs"}\n' * 20 + '{"text": 7}\n')
    line = refused(capsys, "predict", model, bad, "--output", output, "--batch-size", 1)
    assert "bad.jsonl:21: the text 'text' must be a string, got int: 7" in line
    assert [path.name for path in tmp_path.iterdir()] == ["bad.jsonl"]
    line = refused(capsys, "predict", model, file, "--output", tmp_path / "no" / "x")
    assert "x cannot be written: No such file or directory" in line


def test_progress_counts_the_texts_up_to_the_last(model, file):
    task = Classification(DataConfig(max_length=16))
    encoded = task.encode(Tokenizer(model), read_examples(file, label=None))
    calls = []
    loaded = load_bert(model)
    found = run_model(
        task, loaded, encoded, batch_size=16, progress=lambda *call: calls.append(call)
    )
    assert calls == [(16, 75), (32, 75), (48, 75), (75, 75)]
    other = run_model(task, loaded, encoded, batch_size=16)
    np.testing.assert_array_equal(
        found.predictions.rows["logits"], other.predictions.rows["logits"]
    )


def test_numbers_that_are_not_finite_are_null():
    assert prediction._plain({"p": [float("nan"), 1.0], "n": (1,)}) == {"p": [None, 1.0], "n": [1]}


def test_a_closed_pipe_ends_the_command(model, tmp_path):
    many = tmp_path / "many.jsonl"
    many.write_text('{"text": "it purrs"}\n' * 5000)
    command = [sys.executable, "-m", "jaxbrewer", "predict", str(model), str(many)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert json.loads(process.stdout.readline())
        process.stdout.close()
        assert process.stderr.read() == b""
        assert process.wait() == 141


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("empty.csv", "", "empty.csv is empty: it has no examples."),
        ("other.csv", "txt\nit purrs\n", "other.csv:2: no column 'text' for text"),
        ("blank.csv", 'text\nit\n"  "\n', "blank.csv:3: the text 'text' is empty."),
        ("bad.jsonl", '{"text": "it"}\n{"text"\n', "bad.jsonl:2 is not valid JSON"),
        ("texts.txt", "it purrs\n", "/model - < "),
        ("none.csv", None, "none.csv does not exist"),
    ],
)
def test_files_that_cannot_be_read_are_one_line(model, tmp_path, capsys, name, content, says):
    if content is not None:
        (tmp_path / name).write_text(content)
    assert says in refused(capsys, "predict", model, tmp_path / name)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b'{"text": "it"}\nit\n', "standard input:2 is not valid JSON"),
        (b'{"text": "it"}\n[1]\n', "standard input:2: expected a JSON object"),
        (b'{"txt": "it"}\n', "standard input:1: no column 'text' for text"),
        (b"\xff\xfe\n", "standard input is not UTF-8 text"),
    ],
)
def test_standard_input_that_cannot_be_read_is_one_line(model, monkeypatch, capsys, content, says):
    given(monkeypatch, content)
    assert says in refused(capsys, "predict", model, "-")


def test_models_that_cannot_predict_are_refused(model, file, data, tmp_path, capsys):
    line = refused(capsys, "predict", data / "base", file, "--task", "classification")
    assert "no sequence classification head" in line
    assert "'clasification' is unknown: did you mean" in refused(
        capsys, "predict", model, file, "--task", "clasification"
    )
    line = refused(capsys, "predict", model, file, "--max-length", 17)
    assert "max_length 17 is more than the model can read: its max_position" in line
    assert "--batch-size" in refused(capsys, "predict", model, file, "--batch-size", 0)
    line = refused(capsys, "predict", model, file, "--training.seed", "1")
    assert "is a model, which takes only --data.field" in line
    copy = tmp_path / "model"
    shutil.copytree(model, copy)
    (copy / "vocab.txt").write_text("\n".join([*WORDS, "more"]))
    line = refused(capsys, "predict", copy, file)
    assert f"vocab_size of {len(WORDS)}, but the tokenizer has {len(WORDS) + 1} tokens" in line
    weights = copy / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    assert "model.safetensors is damaged" in refused(capsys, "predict", copy, file)


def test_three_lines_of_python_predict(model, file, expected):
    loaded = load(model)
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    found = loaded.predict([line["text"] for line in lines])
    probabilities = np.array([list(one["probabilities"].values()) for one in found])
    np.testing.assert_allclose(probabilities, expected, rtol=1e-5)
    again = loaded.predict(lines, batch_size=7)[3]["probabilities"]
    assert again == pytest.approx(found[3]["probabilities"])
    logits = loaded.logits(lines)
    np.testing.assert_allclose(softmax(np.float64(logits), -1), expected, rtol=1e-5)
    assert loaded.predict([]) == []


def test_pairs_are_read_as_in_a_file(model, tmp_path):
    (tmp_path / "pairs.csv").write_text("text,other\nit purrs,here\nit barks,it meows\n")
    printed = run("predict", model, tmp_path / "pairs.csv", "--text-pair", "other")
    found = load(model).predict(["it purrs", "it barks"], ["here", "it meows"])
    assert [json.loads(line)["label"] for line in printed.splitlines()] == [
        one["label"] for one in found
    ]
    np.testing.assert_allclose(
        parsed(printed), [list(one["probabilities"].values()) for one in found], rtol=1e-5
    )


def test_python_gets_errors_about_texts(model):
    loaded = load(model)
    with pytest.raises(UsageError, match="takes a list of texts, got one text"):
        loaded.predict("it purrs")
    with pytest.raises(UsageError, match="2 texts with 1 second texts"):
        loaded.predict(["it", "it"], ["it"])
    with pytest.raises(UsageError, match="texts:1: the text 'text' is empty"):
        loaded.predict(["it", " "])


def test_few_programs_serve_any_number_and_length_of_texts(model):
    loaded = load(model)
    for count in (1, 2, 3, 4):
        for words in (1, 5, 9):
            loaded.predict([" ".join(["it"] * words)] * count)
    forward, _ = loaded._forward
    assert forward._cache_size() == 3  # one, two and four rows of 16 tokens


def test_text_can_be_imported_without_jax():
    code = "import sys; from jaxbrewer.text import load; assert 'jax' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
