"""Configs: settings of a file, and refusals by name."""

import contextlib
import json

import pytest

from jaxbrewer import UsageError
from jaxbrewer.models import FAMILIES, BertConfig
from jaxbrewer.models.families import family_of
from tests.models.conftest import CASES, FIXTURES


@pytest.mark.parametrize("case", CASES)
def test_configs_equal_the_files_of_transformers(case):
    fields = json.loads((FIXTURES / case / "config.json").read_text())
    ours = BertConfig.from_dict(fields).to_dict()
    shared = (fields.keys() & ours.keys()) - {"label2id"}
    assert len(shared) >= 14
    assert {key: ours[key] for key in shared} == {key: fields[key] for key in shared}
    assert BertConfig.from_dict(ours) == BertConfig.from_dict(json.loads(json.dumps(ours)))


def test_keys_without_meaning_here_stay_out():
    config = BertConfig.from_dict({"use_cache": True, "gradient_checkpointing": False})
    assert config == BertConfig()
    assert "use_cache" not in config.to_dict()


def test_labels_keep_their_order_and_names():
    config = BertConfig.from_dict({"id2label": {"1": "b", "0": "a", "2": "c"}})
    assert (config.num_labels, config.labels) == (3, ("a", "b", "c"))
    assert config.to_dict()["label2id"] == {"a": 0, "b": 1, "c": 2}
    numbered = BertConfig.from_dict({"id2label": {"0": "LABEL_0"}})
    assert (numbered.num_labels, numbered.labels) == (1, None)
    assert BertConfig.from_dict({"num_labels": 5}).id2label[4] == "LABEL_4"


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"model_type": "roberta"}, "config model_type 'roberta' is not supported, only 'bert'"),
        ({"position_embedding_type": "relative_key"}, "only 'absolute'"),
        ({"is_decoder": True}, "is_decoder True is not supported"),
        ({"pruned_heads": {"0": [1]}}, "pruned_heads"),
        ({"hidden_act": "geluu"}, "hidden_act 'geluu' is unknown: did you mean 'gelu'"),
        ({"hidden_act": ["gelu"]}, "hidden_act"),
        ({"hidden_size": "384"}, "hidden_size must be an integer of at least 1, got '384'"),
        ({"num_hidden_layers": -1}, "num_hidden_layers must be an integer of at least 0"),
        ({"vocab_size": True}, "vocab_size must be an integer"),
        ({"hidden_size": 100}, "hidden_size 100 is not a multiple of num_attention_heads 12"),
        ({"hidden_dropout_prob": 1.0}, "hidden_dropout_prob must be .* got 1.0"),
        ({"classifier_dropout": "much"}, "classifier_dropout must be"),
        ({"layer_norm_eps": "tiny"}, "layer_norm_eps must be a number"),
        ({"layer_norm_eps": float("inf")}, "layer_norm_eps must be a number"),
        ({"pad_token_id": [0]}, "pad_token_id must be an integer or null"),
        ({"hidden_size": 2 * 10**12}, "hidden_size must be at most 16,777,216"),
        ({"num_hidden_layers": 10**9}, "num_hidden_layers must be at most 1,000"),
        ({"quantization_config": {"bits": 4}}, "quantization_config is not supported"),
        ({"id2label": {"1": "a"}}, "id2label must number its labels from 0"),
        ({"id2label": ["a"]}, "id2label must number its labels from 0"),
        ({"id2label": {"0": "a", "1": "a"}}, "labels must all be different"),
    ],
)
def test_unsupported_settings_are_refused_by_name(fields, message):
    with pytest.raises(UsageError, match=message):
        BertConfig.from_dict(fields)


def test_labels_and_their_number_must_agree():
    with pytest.raises(UsageError, match="labels names 3 classes, num_labels is 2"):
        BertConfig(labels=("a", "b", "c"))


ODD = [
    None, True, False, 0, -1, 3, 2**63, 10**30, 0.5, -0.5, 1e308, float("nan"), float("inf"), "",
    "x", "mean", "\ud800", [], [[]], [{}], {}, {"a": {}}, ["x"], [1, 1], [None], {"0": None},
]  # fmt: skip


@pytest.mark.parametrize("model_type", FAMILIES)
def test_any_value_in_any_field_is_taken_or_refused_in_one_line(model_type):
    config = family_of(model_type).config
    fields = {**config().to_dict(), "model_type": model_type, "num_labels": 2}
    for key in [*fields, "attention_head_size", "conv_kernel_size", "pruned_heads"]:
        for value in ODD:
            with contextlib.suppress(UsageError):
                config.from_dict({**fields, key: value}).to_dict()
