"""Job files and overrides."""

import json

import pytest

from jaxbrewer import UsageError
from jaxbrewer.cli.config import JobConfig, read_job
from jaxbrewer.cli.overrides import split_overrides

MATCH = {"layer_T": 2, "layer_S": 1, "feature": "hidden", "loss": "hidden_mse", "weight": 1}
YAML = """
data: {train: train.tsv, labels: ['yes', 'no', 3]}
teacher:
  path: minilm
  optimization: {num_epochs: 2}
student: {layers: [0, 1], optimization: {learning_rate: 1e-3}}
distillation:
  temperature: 2
  intermediate_matches: [{layer_T: 2, layer_S: 1, feature: hidden, loss: hidden_mse, weight: 1}]
training:
"""


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "animals.yaml"
    path.write_text(YAML)
    return path


def test_a_yaml_job_is_read(path):
    config = read_job(path).config
    assert config.data.labels == ("yes", "no", "3")
    assert config.student.layers == (0, 1)
    assert config.student.optimization.learning_rate == 1e-3
    assert config.distillation.intermediate_matches[0].to_dict() | MATCH == (
        config.distillation.intermediate_matches[0].to_dict()
    )


def test_yaml_and_json_give_the_same_job(path):
    config = read_job(path).config
    other = path.with_suffix(".json")
    other.write_text(json.dumps(config.to_dict()))
    assert read_job(other).config == config


def test_a_section_in_part_keeps_the_defaults_of_its_place(path):
    """A partial section keeps the defaults of its place, such as the teacher's learning rate."""
    config = read_job(path).config
    assert config.teacher.optimization.num_epochs == 2
    assert (
        config.teacher.optimization.learning_rate
        == 2e-4
        == (JobConfig().teacher.optimization.learning_rate)
    )


def test_the_run_is_named_after_the_file(path):
    assert read_job(path).config.training.output_dir == "runs/animals"
    given = read_job(path, ["--training.seed", "3"]).config.training
    assert (given.output_dir, given.seed) == ("runs/animals", 3)
    given = read_job(path, ["--training.output_dir", "here"]).config.training
    assert given.output_dir == "here"


@pytest.mark.parametrize(
    ("words", "found"),
    [
        (["--distillation.temperature", "8"], lambda job: job.distillation.temperature == 8),
        (["--distillation.temperature=8"], lambda job: job.distillation.temperature == 8),
        (["--student.layers", "[3]"], lambda job: job.student.layers == (3,)),
        (
            ["--student.layers=null", "--student.size", "{hidden_size: 8}"],
            lambda job: job.student.size == {"hidden_size": 8},
        ),
        (
            ["--student.optimization.max_grad_norm", "-1"],
            lambda job: job.student.optimization.max_grad_norm == -1,
        ),
        (
            ["--distillation.intermediate_matches.0.weight", "0.5"],
            lambda job: job.distillation.intermediate_matches[0].weight == 0.5,
        ),
        (
            ["--training.overwrite", "true", "--training.overwrite", "false"],
            lambda job: job.training.overwrite is False,
        ),
        (
            ["--teacher.optimization.learning_rate", "1e-4"],
            lambda job: job.teacher.optimization.learning_rate == 1e-4,
        ),
    ],
)
def test_overrides_replace_values_of_the_file(path, words, found):
    assert found(read_job(path, words).config)


def test_it_is_known_where_each_value_comes_from(path):
    sources = read_job(path, ["--data.train", "x.tsv", "--training.seed", "3"]).sources
    assert sources["data.train"] == sources["training.seed"] == "command line"
    assert sources["data.labels"] == "file"
    assert "data.test" not in sources


def test_overrides_stand_anywhere_on_the_command_line():
    words = ["--a.b", "-1", "train", "--c.d=2", "job.yaml", "--dry-run", "--e.f", "x"]
    rest = ["train", "job.yaml", "--dry-run"]
    assert split_overrides(words) == (rest, ["--a.b", "-1", "--c.d=2", "--e.f", "x"])


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--training.seeed", "3"], r"animals.yaml: training: TrainingConfig has no field 'seeed'"),
        (["--trainings.seed", "3"], "no field 'trainings': did you mean 'training'"),
        (["--training.seed"], "--training.seed needs a value"),
        (["--training.seed", "--dry-run"], "--training.seed needs a value"),
        (["--training.seed", "[1"], r"--training.seed cannot be read: '\[1'"),
        (["--training.seed.x", "1"], "--training.seed.x: 'seed' is 3, not a section"),
        (["--student.layers.7", "1"], "the list has no item '7'. Allowed: '0', '1'"),
        (["--student.size", "{hidden_size: 8}"], "one of path, layers and size"),
        (["--data.max_length", "many"], "max_length must be an int >= 4, got 'many'"),
        (["--data.labels", "[yes, no]"], "yes and no need quotes"),
        (["--training.output_dir", "null"], "output_dir must be a directory"),
        (["--distillation.intermediate_matches.0.loss", "hidden_msee"], r"\[0\].*'hidden_mse'"),
    ],
)
def test_wrong_overrides_are_named(path, words, says):
    words = ["--training.seed", "3", *words] if words[0] == "--training.seed.x" else words
    with pytest.raises(UsageError, match=says):
        read_job(path, words)


@pytest.mark.parametrize(
    ("name", "text", "says"),
    [
        ("a.yaml", "data: [", r"a.yaml:\d+ cannot be parsed"),
        ("a.yaml", "data: {}\ntraining: {}\ndata: {}\n", "a.yaml:3 .* 'data' is given twice"),
        ("a.yaml", "- data", "must hold a mapping"),
        ("a.yaml", "", "must hold a mapping"),
        ("a.yaml", "data: train.tsv", "a.yaml: data: DataConfig must be a mapping"),
        ("a.json", "{", "a.json is not valid JSON"),
        ("a.yaml", b"\xff\xfe\x00", "is not text in UTF-8"),
    ],
)
def test_files_that_are_not_jobs_are_refused(tmp_path, name, text, says):
    path = tmp_path / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(UsageError, match=says):
        read_job(path)


def test_missing_settings_are_named(path):
    with pytest.raises(
        UsageError, match=r"animals.yaml has no data.test: give a file .*--data.test"
    ):
        read_job(path).need("data.test", "a file")


def test_sections_that_share_an_anchor_are_overridden_apart(tmp_path):
    path = tmp_path / "job.yaml"
    path.write_text("teacher: {optimization: &a {num_epochs: 2}}\nstudent: {optimization: *a}")
    config = read_job(path, ["--student.optimization.num_epochs", "5"]).config
    assert config.teacher.optimization.num_epochs == 2
    assert config.student.optimization.num_epochs == 5


@pytest.mark.parametrize(
    ("data", "says"),
    [
        ({"labels": []}, "labels must be at least two different names"),
        ({"labels": ["a", "a"]}, "labels must be at least two different names"),
        ({"labels": [["a"], "b"]}, "labels must be a list of names or integers"),
        ({"labels": {"a": 0, "b": 1}}, "labels must be a list of names"),
        ({"train": "x" * 10 + "\0"}, "contains the character NUL"),
        ({"train": "\ud800"}, "contains half a surrogate pair"),
        ({"max_length": 2**64}, "an integer has more than 64 bits"),
    ],
)
def test_values_that_no_job_can_use_are_refused(tmp_path, data, says):
    path = tmp_path / "job.json"
    path.write_text(json.dumps({"data": data}))
    with pytest.raises(UsageError, match=says):
        read_job(path)
    path.write_text(json.dumps({"student": {"layers": [True]}}))
    with pytest.raises(UsageError, match="layers must be a list of layer numbers"):
        read_job(path)
