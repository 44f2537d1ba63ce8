"""The arms of a study: one more part each, further temperatures, a curve over the labels."""

import json
from pathlib import Path
from types import SimpleNamespace

from jaxbrewer.cli.study import _fewer_labels
from jaxbrewer.configs import DistillationConfig
from jaxbrewer.study.arms import arms_of

MATCH = {"layer_T": 2, "layer_S": 1, "feature": "hidden", "loss": "hidden_mse", "weight": 1}


def test_each_arm_of_distillation_has_one_more_part():
    config = DistillationConfig(temperature=2, intermediate_matches=[MATCH])
    labels, compute, logits, texts, matches = arms_of(config, has_unlabelled=True)
    assert labels.distillation is compute.distillation is None
    assert (labels.has_equal_compute, compute.has_equal_compute) == (False, True)
    assert logits.distillation == texts.distillation
    assert not logits.distillation.intermediate_matches
    assert (logits.is_on_all_texts, texts.is_on_all_texts) == (False, True)
    assert matches.distillation == config
    assert matches.is_on_all_texts


def test_temperatures_change_the_fullest_arm_alone():
    *_, full, hot = arms_of(
        DistillationConfig(temperature=2), has_unlabelled=True, temperatures=[8]
    )
    assert hot.name == "distilled-unlabelled-temperature-8"
    assert hot.distillation == DistillationConfig(temperature=8)
    assert full.distillation.temperature == 2
    assert hot.is_on_all_texts


def test_the_learning_curve_has_both_arms_for_each_number_of_labels():
    *_, a, b, c, d = arms_of(DistillationConfig(), has_unlabelled=True, label_counts=[10, 20])
    assert [arm.labels for arm in (a, b, c, d)] == [10, 10, 20, 20]
    assert a.distillation is c.distillation is None
    assert b.is_on_all_texts
    assert d.is_on_all_texts


def test_texts_without_their_labels_become_unlabelled(tmp_path):
    rows = [{"text": f"text {number}", "label": number % 2} for number in range(9)]
    more = [{"text": "more"}]
    for name, part in (("train", rows), ("more", more)):
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in part))
    data = SimpleNamespace(
        train=str(tmp_path / "train.jsonl"), unlabelled=str(tmp_path / "more.jsonl")
    )
    config = SimpleNamespace(data=data, training=SimpleNamespace(seed=0))
    train, rest = _fewer_labels(SimpleNamespace(config=config), tmp_path, 4, keep_rest=True)
    kept, others = (
        [json.loads(line) for line in Path(path).read_text("utf-8").splitlines()]
        for path in (train, rest)
    )
    assert len(kept) == 4
    assert len(others) == 6
    assert sorted(row["text"] for row in kept + others) == ["more", *(row["text"] for row in rows)]
