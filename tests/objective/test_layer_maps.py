"""Layer maps and TextBrewer's presets: which layers they pair, with which projections."""

import jax
import jax.numpy as jnp
import pytest

import jaxbrewer as jb
from jaxbrewer.forward.adaptors import Outputs
from jaxbrewer.objective import layer_maps


def outputs(blocks, width, heads=4, attention_layers=None):
    """The shapes of a model with this many blocks."""
    hidden = tuple(jax.ShapeDtypeStruct((2, 7, width), jnp.float32) for _ in range(blocks + 1))
    scores = tuple(
        jax.ShapeDtypeStruct((2, heads, 7, 7), jnp.float32)
        for _ in range(attention_layers or blocks)
    )
    return Outputs(features={"hidden": hidden, "attention": scores})


def resolved(matches, student, teacher):
    config = jb.DistillationConfig(intermediate_matches=matches)
    assert not config.is_resolved
    config = layer_maps.resolve(config, student, [teacher])
    assert config.is_resolved
    jb.make_objective(config)
    return config.intermediate_matches


def pairs(matches, student, teacher):
    return [(match.layer_S, match.layer_T) for match in resolved(matches, student, teacher)]


TEXTBREWER = {  # examples/matches/matches.py: student layers and teacher layers of each
    "L3_hidden_mse": (3, 768, "hidden_mse", [(0, 0), (1, 4), (2, 8), (3, 12)], None),
    "L3n_hidden_mse": (3, 384, "hidden_mse", [(0, 0), (1, 4), (2, 8), (3, 12)], 384),
    "L3l_hidden_mse": (3, 1024, "hidden_mse", [(0, 0), (1, 4), (2, 8), (3, 12)], 1024),
    "L3_hidden_smmd": (3, 384, "mmd", [(0, 0), (1, 4), (2, 8), (3, 12)], None),
    "L4t_hidden_mse": (4, 312, "hidden_mse", [(0, 0), (1, 3), (2, 6), (3, 9), (4, 12)], 312),
    "L4t_hidden_sgram": (4, 312, "gram", [(0, 0), (1, 3), (2, 6), (3, 9), (4, 12)], 312),
    "L6_hidden_smmd": (6, 768, "mmd", [(i, 2 * i) for i in range(7)], None),
    "small_hidden_mse": (12, 256, "hidden_mse", [(i, i) for i in range(0, 13, 2)], 256),
    "small_hidden_smmd": (12, 256, "mmd", [(i, i) for i in range(0, 13, 2)], None),
    "L3_attention_mse": (3, 384, "attention_mse", [(1, 4), (2, 8), (3, 12)], None),
    "L4_attention_ce_mean": (4, 312, "attention_ce_mean", [(i, 3 * i) for i in (1, 2, 3, 4)], None),
}


@pytest.mark.parametrize("name", TEXTBREWER)
def test_presets_are_textbrewers(name):
    blocks, width, loss, expected, projected = TEXTBREWER[name]
    # TextBrewer's models return one attention more, at the front.
    student, teacher = outputs(blocks, width, 12, blocks + 1), outputs(12, 768, 12, 13)
    matches = resolved(name, student, teacher)
    doubled = loss in ("mmd", "gram")
    assert [(match.layer_S, match.layer_T) for match in matches] == [
        ((s, s), (t, t)) if doubled else (s, t) for s, t in expected
    ]
    assert {match.loss for match in matches} == {loss}
    proj = None if projected is None else ("linear", width, 768)
    assert {match.proj for match in matches} == {proj}
    assert {match.weight for match in matches} == {1}


def test_presets_fit_any_depth():
    assert pairs("L5_hidden_mse", outputs(5, 8), outputs(24, 8)) == [
        (0, 0), (1, 5), (2, 10), (3, 14), (4, 19), (5, 24),
    ]  # fmt: skip
    assert pairs("L2_attention_mse", outputs(2, 8), outputs(6, 8)) == [
        (0, 2),
        (1, 5),
    ]  # from 0 here


def test_maps_follow_their_definitions():
    student, teacher = outputs(3, 6), outputs(6, 8)
    assert pairs("uniform", student, teacher) == [(0, 0), (1, 2), (2, 4), (3, 6)]
    assert pairs("skip", student, teacher) == [(1, 2), (2, 4)]
    assert pairs("last", student, teacher) == [(1, 4), (2, 5)]
    mixed = [{"map": "last", "loss": "cos", "weight": 0.5, "proj_group": {"lr": 0.1}}, "skip"]
    matches = resolved(mixed, student, teacher)
    assert [match.loss for match in matches] == ["cos", "cos", "hidden_mse", "hidden_mse"]
    assert matches[0].proj == ("linear", 6, 8, {"lr": 0.1})


def test_emd_takes_all_layers_but_the_embeddings():
    hidden, attention = resolved("emd", outputs(2, 6), outputs(4, 8))
    assert (hidden.layer_S, hidden.layer_T) == ((1, 2), (1, 2, 3, 4))
    assert (attention.layer_S, attention.layer_T) == ((0, 1), (0, 1, 2, 3))
    assert (hidden.proj, attention.proj) == (("linear", 6, 8), None)
    assert (hidden.loss, attention.loss) == ("hidden_mse", "attention_mse")
    assert hidden.group == attention.group == "emd"
    (alone,) = resolved(
        "emd", outputs(2, 6, heads=4), outputs(4, 8, heads=8)
    )  # heads do not compare
    assert (alone.feature, alone.group) == ("hidden", None)
    (chosen,) = resolved(
        [{"map": "emd", "feature": "hidden", "loss": "cos"}], outputs(2, 6), outputs(4, 8)
    )
    assert (chosen.feature, chosen.loss) == ("hidden", "cos")


def test_the_table_names_layers_widths_and_projections():
    student, teacher = outputs(2, 6), outputs(4, 8)
    config = jb.DistillationConfig(intermediate_matches=["last", "emd"])
    config = layer_maps.resolve(config, student, [teacher])
    lines = layer_maps.table(config, student, [teacher]).splitlines()
    assert [line.split("  ")[0] for line in lines] == [
        "student", "hidden 1 [6]", "hidden 1, 2 [6]", "attention 0, 1 [4 heads]",
    ]  # fmt: skip
    assert lines[1].split() == ["hidden", "1", "[6]", "hidden", "3", "[8]", "hidden_mse", "1",
                                "linear", "6", "->", "8"]  # fmt: skip
    assert "hidden 1 to 4 [8]" in lines[2]
    assert "2 x linear 6 -> 8" in lines[2]
    assert lines[3].endswith("none")


@pytest.mark.parametrize(
    ("matches", "student", "says"),
    [
        (
            "L3_hidden_mse",
            outputs(4, 6),
            "for a student with 3 layers.*has 4: use 'L4_hidden_mse'",
        ),
        ("uniform", outputs(8, 6), "1 to 6 layers.*has 8"),
        ("uniform", Outputs(), r"intermediate_matches\[0\]: it needs 'hidden'.*student"),
        ([{"map": "last", "teacher": 1}], outputs(3, 6), "no teacher 1 among 1"),
    ],
)
def test_mismatches_are_refused_in_one_line(matches, student, says):
    config = jb.DistillationConfig(intermediate_matches=matches)
    with pytest.raises(jb.UsageError, match=says) as error:
        layer_maps.resolve(config, student, [outputs(6, 8)])
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("entry", "says"),
    [
        ("unifrom", "'unifrom' is unknown: did you mean 'uniform'"),
        ("L3_hidden_kl", "is unknown"),
        ({"map": "L3_hidden_mse", "loss": "cos"}, "already names its feature and its loss"),
        ({"map": "last", "feature": "hiden"}, "LayerMap.feature 'hiden'"),
        ({"map": "last", "loss": "cosine"}, "LayerMap.loss 'cosine'"),
        ({"kind": "emd", "epsilon": 0}, "EMDMatch.epsilon must be a positive number"),
        ({"kind": "ot"}, "EMDMatch.kind must be 'emd'"),
        ({"kind": "emd", "layer_S": []}, "EMDMatch.layer_S must be a list of ints"),
    ],
)
def test_bad_entries_are_refused_by_field(entry, says):
    with pytest.raises(jb.UsageError, match=says):
        jb.DistillationConfig(intermediate_matches=[entry])


def test_configs_round_trip_and_unresolved_maps_make_no_objective():
    config = jb.DistillationConfig(
        intermediate_matches=["uniform", {"kind": "emd", "group": "g"}, {"map": "last"}],
        custom_matches=[{"module_T": "a.*", "module_S": "b.*", "proj": "linear"}],
    )
    assert jb.DistillationConfig.from_dict(config.to_dict()) == config
    with pytest.raises(jb.UsageError, match=r"layer_maps\.resolve"):
        jb.make_objective(config)
