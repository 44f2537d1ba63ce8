"""Texts with any number of classes: columns, loss and metrics."""

import json
import warnings

import jax.numpy as jnp
import numpy as np
import pytest
from sklearn import metrics as oracle

import jaxbrewer as jb
from jaxbrewer import UsageError
from jaxbrewer.configs import DataConfig
from jaxbrewer.text import UNLABELLED
from jaxbrewer.text.tasks import Head, Predictions, task_of
from jaxbrewer.text.tasks.multi_label import average_precision, measure_sets

NAMES = ("animal", "food", "plant")
SETS = [["animal"], ["food", "plant"], [], ["plant"]]


def task(**data):
    return task_of(DataConfig(task="multi-label", **data))


def written(path, content):
    path.write_text(content)
    return path


def test_lists_separated_names_and_indicator_columns_are_the_same(tmp_path):
    rows = [json.dumps({"text": f"t{i}", "label": s}) for i, s in enumerate(SETS)]
    lists = written(tmp_path / "a.jsonl", "\n".join(rows))
    lines = [f"t{i},{' | '.join(s)}" for i, s in enumerate(SETS)]
    bars = written(tmp_path / "b.csv", "\n".join(["text,label", *lines]))
    lines = [f"t{i},{','.join(str(float(n in s)) for n in NAMES)}" for i, s in enumerate(SETS)]
    columns = written(tmp_path / "c.csv", "\n".join([f"text,{','.join(NAMES)}", *lines]))
    expected = [[1, 0, 0], [0, 1, 1], [0, 0, 0], [0, 0, 1]]
    for path, data in ((lists, {}), (bars, {}), (columns, {"labels": NAMES})):
        found = task(**data).read(path)
        assert found.label_names == NAMES
        assert found.labels.tolist() == expected
        assert found.texts == ["t0", "t1", "t2", "t3"]


@pytest.mark.parametrize(
    ("name", "content", "data", "says"),
    [
        ("a.csv", "text\na\n", {}, "a.csv:2: no column 'label' for label"),
        ("a.csv", "text,cat\na,1\n", {"labels": ["cat", "dog"]}, "nor a column 'dog' with 0 or 1"),
        ("a.csv", "text,cat,dog\na,1,2\n", {"labels": ["cat", "dog"]}, "'dog' must be 0 or 1"),
        ("a.jsonl", '{"text": "a", "label": 3}', {}, "must be a list of names, or names separated"),
        ("a.jsonl", '{"text": "a", "label": null}', {}, "must be a list of names"),
        ("a.jsonl", '{"text": "a", "label": [[1]]}', {}, "must be a string or an integer"),
        ("a.csv", "text,label\na,x|y\n", {"labels": ["x", "z"]}, "a.csv:2: the label 'y' is not"),
        ("a.csv", "text,label\n", {}, "a.csv is empty"),
        ("a.csv", "text,label\na,1|2\n", {"label_map": {1: "x"}}, "'2' is not in data.label_map"),
    ],
)
def test_bad_columns_are_refused(tmp_path, name, content, data, says):
    with pytest.raises(UsageError) as error:
        task(**data).read(written(tmp_path / name, content))
    assert says in str(error.value)
    assert "\n" not in str(error.value)


def test_unlabelled_rows_stay_unlabelled_under_another_head(tmp_path):
    some = task().read(written(tmp_path / "a.csv", "text,label\na,x|y\nb,x\n"))
    both = some.with_unlabelled(task().read_unlabelled(tmp_path / "a.csv"))
    found = task().with_head(both, Head(("y", "z", "x")))
    assert found.labels.tolist() == [[1, 0, 1], [0, 0, 1], [UNLABELLED] * 3, [UNLABELLED] * 3]


def test_metrics_are_those_of_scikit_learn():
    draw = np.random.default_rng(0)
    logits = draw.normal(size=(60, 5)).round(1)  # with ties
    labels = (draw.random((60, 5)) < [0.5, 0.2, 0.1, 0.8, 0.0]).astype(int)
    found = measure_sets(logits, labels, 0.6).metrics()
    predicted = 1 / (1 + np.exp(-logits)) >= 0.6
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for average in ("micro", "macro"):
            expected = oracle.f1_score(labels, predicted, average=average)
            assert found[f"{average}_f1"] == pytest.approx(expected, abs=1e-12)
    expected = oracle.average_precision_score(labels[:, :4], logits[:, :4])
    assert found["mean_average_precision"] == pytest.approx(expected, abs=1e-12)
    expected = oracle.log_loss(labels.ravel(), 1 / (1 + np.exp(-logits.ravel())), labels=[0, 1])
    assert found["loss"] == pytest.approx(expected, abs=1e-12)


def test_one_step_of_equal_scores_counts_once():
    scores, is_true = np.zeros(4), np.array([True, False, False, True])
    assert average_precision(scores, is_true) == 0.5
    assert average_precision(scores, is_true[::-1]) == 0.5


@pytest.mark.slow
def test_the_labels_loss_is_a_mean_over_labelled_examples():
    logits = jnp.array([[2.0, -1.0], [0.5, 0.5], [9.0, 9.0]])
    labels = jnp.array([[1, 0], [0, 1], [UNLABELLED, UNLABELLED]])
    batch = {"attention_mask": jnp.ones((3, 2), int), "labels": labels}
    loss = task().adaptor(batch, {"logits": logits})["losses"].value()
    probabilities = 1 / (1 + np.exp(-np.array(logits[:2])))
    expected = oracle.log_loss(np.array(labels[:2]).ravel(), probabilities.ravel())
    assert loss == pytest.approx(expected, abs=1e-6)


@pytest.mark.slow
def test_distillation_between_sigmoids_has_its_least_value_where_they_are_equal():
    """A softmax is blind to a shift of all logits, which changes every probability of a sigmoid."""
    teacher = jnp.array([[2.0, -1.0, 0.5]])

    def gradient(student):
        objective = jb.make_objective(
            jb.DistillationConfig.from_dict(dict(task().distillation_defaults))
        )
        one, other = jb.Outputs(logits=student), jb.Outputs(logits=teacher)
        import jax

        return jax.grad(lambda z: objective(jb.Outputs(logits=z), other, {}, step=0)[0])(
            one.logits[0]
        )

    assert np.abs(gradient(teacher)).max() < 1e-6
    assert (np.array(gradient(teacher + 1)) > 0.01).all()


def test_losses_of_a_softmax_are_refused():
    for name in ("ce", "kl", "dkd", "standardized_kl"):
        with pytest.raises(UsageError, match=f"'{name}' does not fit the logits of data.task 'mul"):
            task().require_losses(jb.DistillationConfig(kd_loss_type=name))
    task().require_losses(jb.DistillationConfig(kd_loss_type="bce"))


def test_predictions_have_the_classes_from_the_threshold():
    predictions = Predictions({"logits": np.array([[0.0, -3.0, 3.0]])})
    (row,) = task(threshold=0.6).decode(None, None, predictions, NAMES)
    assert row["labels"] == ["plant"]
    assert row["probabilities"]["animal"] == 0.5
    (row,) = task(threshold=0.5).decode(None, None, predictions, NAMES)
    assert row["labels"] == ["animal", "plant"]
