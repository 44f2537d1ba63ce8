"""What is found before a teacher is trained: its student, its frozen parts, the distillation."""

import re

import jax
import numpy as np
import pytest
from flax import nnx

from jaxbrewer.models import load_bert
from tests.cli.conftest import KINDS, run, write_model
from tests.cli.test_bad_input import refused

NO_LAYERS = "--student.layers="


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--student.layers", "[0, 9]"], "layers [0, 9] must be layers of a model with 2 layers"),
        ([NO_LAYERS, "--student.size", "{hidden_size: 15}"], "student.size: "),
        ([NO_LAYERS, "--student.size", "{hiden_size: 8}"], "did you mean 'hidden_size'?"),
        ([NO_LAYERS, "--student.size", "{model_type: x}"], "'x'"),
        ([NO_LAYERS, "--student.path", "nowhere"], "nowhere"),
        (["--student.frozen", "[bert.encoder.layer.1]"], "student.frozen: No weights to freeze"),
        (
            ["--teacher.frozen", "[bert.encoder.layers.1]"],
            "teacher.frozen: No weights to freeze under 'bert.encoder.layers.1': did you mean "
            "'bert.encoder.layer.1'? Allowed: 'bert', 'bert.embeddings', ",
        ),
    ],
)
def test_train_checks_the_student_that_it_trains_for(job, tmp_path, capsys, words, says):
    assert says in refused(capsys, "train", job, *words)
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
@pytest.mark.parametrize("command", [["distill", "--dry-run"], ["plan"]])
def test_a_distillation_is_checked_before_its_teacher_is_trained(job, capsys, command):
    *_, line = run(command[0], job, *command[1:]).splitlines()
    assert re.search(r"^The teacher is not trained yet: .* no sequence .* `jaxbrewer train", line)
    capsys.readouterr()
    line = refused(capsys, command[0], job, *command[1:], "--student.layers", "[9]")
    assert "must be layers of a model with 2 layers" in line
    assert "has no sequence classification head" in refused(capsys, "distill", job)


@pytest.mark.slow
def test_frozen_parts_of_the_student_and_of_the_baseline_stay(job, data, tmp_path):
    words = ["--student.frozen", "[bert.embeddings]", "--student.layers=", "--baseline"]
    words += ["--student.path", data / "base", "--student.optimization.num_steps", 2]
    words += ["--distillation.intermediate_matches", "[]"]
    words += ["--data.test=", "--data.unlabelled=", "--teacher.path", tmp_path / "teacher"]
    write_model(tmp_path / "teacher", head=True, num_labels=3, labels=tuple(KINDS))
    printed = run("distill", job, *words)
    assert re.search("^frozen +bert.embeddings$", printed, re.MULTILINE)
    base = load_bert(data / "base").bert
    for name in ("student", "baseline"):
        own = load_bert(tmp_path / "run" / name / "model").bert
        for part, stays in (("embeddings", True), ("encoder", False)):
            one, other = (
                jax.tree.leaves(nnx.state(getattr(m, part), nnx.Param)) for m in (base, own)
            )
            assert all(map(np.array_equal, one, other)) == stays
