"""Numbers for texts: columns, loss and metrics."""

import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

import jaxbrewer as jb
from jaxbrewer import UsageError
from jaxbrewer.configs import DataConfig
from jaxbrewer.text.tasks import task_of
from jaxbrewer.text.tasks.regression import average_ranks, measure_numbers

TASK = task_of(DataConfig(task="regression"))


@pytest.mark.parametrize(
    ("name", "value", "says"),
    [
        ("a.csv", "nan", "must be a finite number, got nan"),
        ("a.csv", "inf", "must be a finite number, got 'inf'"),
        ("a.csv", "1e39", "must be a finite number, got '1e39'"),
        ("a.csv", "good", "must be a number, got 'good'"),
        ("a.csv", "", "is missing"),
        ("a.jsonl", "null", "is missing"),
        ("a.jsonl", "true", "must be a number, got True"),
        ("a.jsonl", "[1]", "must be a number, got [1]"),
        ("a.jsonl", "1" + "0" * 400, "must be a "),
    ],
)
def test_what_is_no_number_is_refused(tmp_path, name, value, says):
    is_json = name.endswith("jsonl")
    content = f'{{"text": "a", "label": {value}}}' if is_json else f"text,label\na,{value}\n"
    (tmp_path / name).write_text(content)
    with pytest.raises(UsageError) as error:
        TASK.read(tmp_path / name)
    assert says in str(error.value)
    assert "\n" not in str(error.value)
    assert name in str(error.value)


def test_pairs_and_missing_labels(tmp_path):
    (tmp_path / "a.csv").write_text("a,b,score\nx,y,2.5\nz,w,-1\n")
    task = task_of(DataConfig(task="regression", text="a", text_pair="b", label="score"))
    some = task.read(tmp_path / "a.csv")
    assert (some.pairs, some.labels.tolist()) == (["y", "w"], [2.5, -1.0])
    both = some.with_unlabelled(task.read_unlabelled(tmp_path / "a.csv"))
    assert np.isnan(both.labels).tolist() == [False, False, True, True]
    assert task.describe(some) == [("labels", "-1 to 2.5, mean 0.75")]
    batch = {"attention_mask": jnp.ones((4, 2), int), "labels": jnp.array(both.labels)}
    answer = task.adaptor(batch, {"logits": jnp.array([[2.0], [1.0], [9.0], [9.0]])})
    assert answer["losses"].value() == (0.25 + 4) / 2


def test_metrics_are_those_of_scipy():
    draw = np.random.default_rng(0)
    x, y = draw.normal(size=(2, 50)).round(1)
    found = measure_numbers(x, y).metrics()
    assert found["mse"] == pytest.approx(np.mean((x - y) ** 2))
    assert found["pearson"] == pytest.approx(scipy.stats.pearsonr(x, y)[0], abs=1e-12)
    assert found["spearman"] == pytest.approx(scipy.stats.spearmanr(x, y)[0], abs=1e-12)
    np.testing.assert_array_equal(average_ranks(x), scipy.stats.rankdata(x))
    assert measure_numbers(np.ones(3), y[:3]).metrics()["pearson"] == 0


def test_large_offsets_do_not_cancel():
    x = np.arange(9.0)
    assert measure_numbers(x + 1e9, x).metrics()["pearson"] == pytest.approx(1, abs=1e-12)


def test_losses_between_distributions_are_refused():
    """A softmax of one logit is constant: the student would learn nothing."""
    for name in ("ce", "kl", "bce"):
        with pytest.raises(UsageError, match=f"kd_loss_type '{name}' does not fit .* use 'mse'"):
            TASK.require_losses(jb.DistillationConfig(kd_loss_type=name))
    TASK.require_losses(jb.DistillationConfig.from_dict(dict(TASK.distillation_defaults)))
