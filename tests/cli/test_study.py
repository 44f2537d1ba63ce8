"""``jaxbrewer study``: its runs, its table, that it resumes, and what it refuses."""

import json

import numpy as np
import pytest
import yaml

from jaxbrewer.cli import main
from jaxbrewer.distillers import cache_policy
from tests.cli.conftest import KINDS, run, write_model

pytestmark = pytest.mark.slow


def _counted(function, calls):
    def counted(first, *arguments, **keywords):
        calls.append(first)
        return function(first, *arguments, **keywords)

    return counted


ARMS = [
    "labels", "labels-compute", "distilled", "distilled-unlabelled", "distilled-unlabelled-matches",
]  # fmt: skip


@pytest.fixture(scope="module")
def studied(content, tmp_path_factory):
    """A study of two seeds, the job's path and what was printed."""
    place = tmp_path_factory.mktemp("study")
    distillation = {**content["distillation"], "is_caching_logits": True}
    training = {"progress": False, "output_dir": str(place / "run")}
    short = {"optimization": {"batch_size": 16, "num_steps": 12}}
    teacher, student = ({**content[name], **short} for name in ("teacher", "student"))
    path = place / "job.yaml"
    path.write_text(
        yaml.safe_dump(
            {
                **content,
                "training": training,
                "teacher": teacher,
                "student": student,
                "distillation": distillation,
            }
        )
    )
    run("train", path)
    passes = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cache_policy, "build_cache", _counted(cache_policy.build_cache, passes))
        patch.setattr(
            cache_policy, "cache_by_example", _counted(cache_policy.cache_by_example, passes)
        )
        printed = run("study", path, "--seeds", 2, "--resamplings", 50)
    (place / "passes").write_text("\n".join(map(str, passes)))
    return path, place / "run" / "study", printed


def test_every_arm_is_trained_with_every_seed_and_compared(studied):
    _, root, printed = studied
    found = json.loads((root / "study.json").read_text())
    assert list(found["arms"]) == ARMS
    for name, arm in found["arms"].items():
        metrics = []
        for directory in arm["runs"]:
            results = json.loads((root / directory / "results.json").read_text())
            metrics.append(results["rows"]["student"]["metrics"]["accuracy"])
        assert len(metrics) == 2
        assert arm["metrics"]["accuracy"] == pytest.approx(np.mean(metrics))
        assert arm["verdict"] in ("gain", "loss", "no difference"), name
    assert found["arms"]["labels"]["differences"]["accuracy"]["value"] == 0
    assert "distilled, with unlabelled texts and matches" in printed


def test_arms_have_the_same_number_of_steps_but_for_equal_compute(studied):
    _, root, _ = studied
    steps = {}
    for arm in ARMS:
        (results,) = (root / arm / "seed-1").glob("*/results.json")
        steps[arm] = json.loads(results.read_text())["training"]["steps"]
    assert steps.pop("labels-compute") > 12
    assert set(steps.values()) == {12}


def test_the_teacher_reads_the_texts_once_for_all_seeds_of_an_arm(studied):
    _, root, _ = studied
    passes = (root.parent.parent / "passes").read_text().splitlines()
    assert sorted(passes) == [str(root / "cache" / s) for s in ("all", "all-matches", "labelled")]


def test_a_finished_run_is_not_repeated(studied):
    path, root, printed = studied
    (predictions,) = (root / "distilled" / "seed-1").glob("*/predictions.safetensors")
    before = predictions.stat().st_mtime_ns
    again = run("study", path, "--seeds", 2, "--resamplings", 50)
    assert again.count("finished before") == 10
    assert predictions.stat().st_mtime_ns == before
    assert again.splitlines()[-7:] == printed.splitlines()[-7:]


def test_an_interrupted_run_is_resumed_and_the_study_ends_alike(studied):
    path, root, _ = studied
    before = (root / "study.json").read_text()
    (results,) = (root / "distilled" / "seed-0").glob("*/results.json")
    results.unlink()
    (results.parent / "predictions.safetensors").unlink()
    again = run("study", path, "--seeds", 2, "--resamplings", 50)
    assert again.count("finished before") == 9
    assert "distilled/seed-0/student: 12 steps ..." in again
    ours, theirs = (json.loads(text) for text in (before, (root / "study.json").read_text()))
    assert ours["arms"] == theirs["arms"]


def test_chosen_arms_run_beside_labels_alone_with_the_steps_of_all(studied, tmp_path):
    path, studied_root, _ = studied
    root, teacher = tmp_path / "chosen", studied_root.parent / "teacher" / "model"
    command = ("study", path, "--arms", "distilled", "--seeds", 1, "--resamplings", 50)
    run(*command, "--training.output_dir", root, "--teacher.path", teacher)
    found = json.loads((root / "study" / "study.json").read_text())
    assert list(found["arms"]) == ["labels", "distilled"]
    (results,) = (root / "study" / "distilled" / "seed-0").glob("*/results.json")
    assert json.loads(results.read_text())["training"]["steps"] == 12


def test_an_interrupted_study_says_how_it_continues(studied, tmp_path, monkeypatch, capsys):
    path, studied_root, _ = studied
    teacher = studied_root.parent / "teacher" / "model"
    new = ["--training.output_dir", str(tmp_path / "cut"), "--teacher.path", str(teacher)]

    def interrupted(*arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr("jaxbrewer.cli.study._run", interrupted)
    assert main(["study", str(path), *new]) == 130
    assert "The same command continues the study" in "".join(capsys.readouterr())
    assert main(["report", str(tmp_path / "cut"), "--output", str(tmp_path / "r.html")]) == 2
    assert "holds a study that has not finished" in capsys.readouterr().err


def test_attention_of_several_widths_is_not_cached(content, tmp_path, monkeypatch, capsys):
    teacher = write_model(tmp_path / "teacher", head=True, num_labels=3, labels=sorted(KINDS))
    match = {"layer_T": 1, "layer_S": 0, "feature": "attention", "loss": "attention_mse",
             "weight": 1}  # fmt: skip
    distillation = {"is_caching_logits": True, "intermediate_matches": [match]}
    path = tmp_path / "job.yaml"
    path.write_text(
        yaml.safe_dump(
            {
                **content,
                "teacher": {"path": str(teacher)},
                "distillation": distillation,
                "training": {"progress": False, "output_dir": str(tmp_path / "run")},
            }
        )
    )
    monkeypatch.setattr("jaxbrewer.text.loader.TextLoader.widths", [8, 16])
    assert main(["study", str(path), "--dry-run"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "batches are 8, 16 tokens wide: leave out distillation.is_caching_logits" in line
    job = ["distill", str(path), "--dry-run", "--training.cache_dir", str(tmp_path / "cache")]
    assert main(job) == 2
    assert "tokens wide: leave out training.cache_dir" in capsys.readouterr().err


def test_bad_studies_are_refused_in_one_line(studied, capsys):
    path, root, _ = studied

    def refused(*words):
        assert main(["study", str(path), *map(str, words)]) == 2
        (line,) = capsys.readouterr().err.splitlines()
        return line

    assert "--seeds must be at least 1" in refused("--seeds", 0)
    assert "--labels 1,000: " in refused("--labels", 1000)
    line = refused("--arms", "distiled")
    assert "'distiled' is no arm of this study. Did you mean distilled?" in line
    assert "has no data.test" in refused("--data.test=")
    assert "holds a study with other settings (distillation)" in refused(
        "--distillation.temperature", 3
    )
    (predictions,) = (root / "labels" / "seed-0").glob("*/predictions.safetensors")
    whole = predictions.read_bytes()
    predictions.write_bytes(whole[:100])
    assert "predictions.safetensors cannot be read" in refused("--seeds", 2)
    predictions.write_bytes(whole)
