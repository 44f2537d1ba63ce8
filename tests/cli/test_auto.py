"""``distillation: auto``: what a job that says nothing has, and what a given field changes."""

import dataclasses
import json
import re
from pathlib import Path

import pytest

from jaxbrewer import UsageError
from jaxbrewer.cli.config import JobConfig, read_job
from jaxbrewer.configs import DistillationConfig, OptimizationConfig
from jaxbrewer.configs.auto import AUTO_SETTINGS, KEEPS_AUTO, settings_of_task
from jaxbrewer.text.tasks import TASKS, task_class
from tests.cli.conftest import run

SIZE = {"num_hidden_layers": 2}


@pytest.mark.parametrize("task", TASKS)
def test_a_job_that_says_nothing_has_the_row_of_its_task(task):
    row, needs = settings_of_task(task), task_class(task).distillation_defaults
    job = JobConfig(data={"task": task, "train": "x.tsv"})
    assert job.distillation == DistillationConfig(**{**needs, **row.distillation})
    assert job.teacher.optimization == OptimizationConfig(**row.teacher)
    assert job.student.optimization == OptimizationConfig(**row.student)
    new = JobConfig(data={"task": task}, student={"size": SIZE}).student
    assert new.optimization == OptimizationConfig(**row.new_student)
    for section in ("auto", {}):
        assert JobConfig(data=job.data, distillation=section).distillation == job.distillation
    assert JobConfig.from_dict(json.loads(job.to_json())) == job


@pytest.mark.parametrize("task", TASKS)
def test_a_given_field_leaves_the_others_to_distillation_config(task):
    needs = dict(task_class(task).distillation_defaults)
    given = {"probability_shift": True}
    job = JobConfig(data={"task": task, "train": "x.tsv"}, distillation=given)
    assert job.distillation == DistillationConfig(**{**needs, **given})


@pytest.mark.parametrize("length", [{"num_epochs": 2}, {"num_steps": 5}, {"min_steps": 7}])
def test_a_given_length_replaces_the_fewest_steps(length):
    job = JobConfig(teacher={"optimization": length}, student={"optimization": length})
    for section in (job.teacher, job.student):
        expected = {"min_steps": 0, **length}
        assert {name: getattr(section.optimization, name) for name in expected} == expected
        assert section.optimization.learning_rate == 2e-4


@pytest.mark.parametrize("task", AUTO_SETTINGS)
def test_the_settings_of_a_task_need_no_labels(task):
    assert JobConfig(data={"task": task}).distillation.hard_label_weight == 0


def test_each_of_several_tasks_has_its_own_row():
    tasks = {"a": {"data": {"train": "x.tsv"}}, "b": {"data": {"task": "regression"}}}
    job = JobConfig(tasks=tasks)
    assert job.tasks["a"].distillation == JobConfig(data={"train": "x.tsv"}).distillation
    assert job.tasks["b"].distillation.kd_loss_type == "mse"
    job = JobConfig(tasks=tasks, distillation={"temperature": 3})
    assert job.tasks["b"].distillation is None


def test_an_override_of_one_field_ends_auto(tmp_path):
    path = tmp_path / "job.yaml"
    path.write_text("data: {train: x.tsv}\n")
    job = read_job(path)
    assert job.is_auto
    assert job.source_of("distillation.temperature") == "auto"
    assert job.source_of("teacher.optimization.min_steps") == "auto"
    assert job.source_of("distillation.probability_shift") == "default"
    job = read_job(path, ["--distillation.temperature", "3"])
    assert not job.is_auto
    assert job.source_of("distillation.temperature") == "command line"
    assert job.source_of("distillation.hard_label_weight") == "default"
    path.write_text("distillation: auto\n")
    for words in ([], ["--distillation.is_caching_logits", "true"]):
        with pytest.raises(UsageError, match="distillation.temperature: .*job.yaml has `dist.*rem"):
            read_job(path, [*words, "--distillation.temperature", "3"])


@pytest.mark.parametrize("where", ["", "tasks.a."])
@pytest.mark.parametrize("section", [None, "auto", {"is_caching_logits": True}, "given"])
def test_a_switch_that_changes_no_result_keeps_the_settings_of_the_task(tmp_path, where, section):
    rows = {name: {"data": {"train": "x.tsv"}} for name in "ab"}
    content = {"tasks": rows} if where else {"data": {"train": "x.tsv"}}
    own = content["tasks"]["a"] if where else content
    if section != "given":
        own["distillation"] = section
    path, words = tmp_path / "job.json", []
    path.write_text(json.dumps(content))
    if not isinstance(section, dict):
        words = [f"--{where}distillation.is_caching_logits", "true"]
    job = read_job(path, words)
    found = job.config.tasks["a"].distillation if where else job.config.distillation
    row = settings_of_task("classification").distillation
    assert found == DistillationConfig(**row, is_caching_logits=True)
    if not where:
        assert job.is_auto
        assert job.source_of("distillation.temperature") == "auto"
        assert job.source_of("distillation.is_caching_logits") != "auto"


def test_the_fields_that_keep_auto_exist():
    assert {field.name for field in dataclasses.fields(DistillationConfig)} > KEEPS_AUTO


def test_the_page_has_the_table():
    page = Path("docs/auto.md").read_text("utf-8")
    rows = re.findall(r"^\| `([\w-]+)` \| (.*) \|$", page, re.MULTILINE)
    assert [name for name, _ in rows] == list(AUTO_SETTINGS)

    def shown(fields):
        return ", ".join(f"{name} {value}" for name, value in fields.items())

    for name, cells in rows:
        row = AUTO_SETTINGS[name]
        distillation = {**task_class(name).distillation_defaults, **row.distillation}
        sections = (distillation, row.teacher, row.student, row.new_student)
        assert cells.split(" | ") == [shown(fields) for fields in sections], name


def test_every_field_of_a_row_exists():
    for row in AUTO_SETTINGS.values():
        DistillationConfig(**row.distillation)
        for section in (row.teacher, row.student, row.new_student):
            OptimizationConfig(**section)


@pytest.mark.slow
def test_the_settings_are_printed(job):
    text = job.read_text()
    start, end = text.index("distillation:"), text.index("student:")
    job.write_text(text[:start] + text[end:])
    words = ["--teacher.optimization.num_steps", 1, "--data.test="]
    run("train", job, *words)
    printed = run("distill", job, "--dry-run")
    fields = settings_of_task("classification").distillation
    shown = ", ".join(f"{name} {value}" for name, value in fields.items())
    assert f"distillation  auto: {shown}\n" in printed
    assert "auto:" not in run("distill", job, "--dry-run", "--distillation.temperature", 2)
