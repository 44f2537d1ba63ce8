"""Rows: the facts that configs read without importing a function are true of it."""

import functools
import subprocess
import sys

import pytest

import jaxbrewer as jb
from jaxbrewer.losses import as_loss, hid_mse_loss, jsd_loss, kd_ce_loss, kl_loss
from jaxbrewer.registry import (
    KD_LOSS_MAP,
    MATCH_LOSS_MAP,
    PROJ_MAP,
    TEMPERATURE_SCHEDULER,
    WEIGHT_SCHEDULER,
    KDLossRow,
)

TABLES = {
    "kd_loss": KD_LOSS_MAP,
    "match_loss": MATCH_LOSS_MAP,
    "weight_scheduler": WEIGHT_SCHEDULER,
    "temperature_scheduler": TEMPERATURE_SCHEDULER,
}


@pytest.mark.parametrize(
    ("table", "name"), [(table, name) for table in TABLES.values() for name in table]
)
def test_facts_written_beside_a_name_are_those_of_the_functions_signature(table, name):
    row = table.row(name)
    signed = row.read_signature(table[name], name)
    assert {fact: getattr(row, fact) for fact in row.signed} == {f: signed[f] for f in row.signed}


def test_rows_are_read_without_importing_their_functions():
    code = (
        "import sys; from jaxbrewer.registry import KD_LOSS_MAP\n"
        "assert KD_LOSS_MAP.row('dkd').labels and KD_LOSS_MAP.row('ce').temperature_power == 2\n"
        "KD_LOSS_MAP['own'] = lambda logits_S, logits_T, temperature: 0.0\n"
        "assert 'jax' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.fixture
def registered():
    """Registers a function as ``own`` in a table; the row goes with the test."""
    tables = []

    def register(map_name, function, **facts):
        tables.append(TABLES.get(map_name, PROJ_MAP))
        jb.register_new(map_name, "own", function, **facts)
        return tables[-1].row("own")

    yield register
    for table in tables:
        table.pop("own", None)


def test_a_second_name_of_a_function_has_the_facts_of_the_first(registered):
    row = registered("kd_loss", kd_ce_loss)
    assert row.unsigned_facts() == KD_LOSS_MAP.row("ce").unsigned_facts()
    row = registered("kd_loss", functools.partial(jsd_loss, beta=0.1))
    assert row.between_distributions
    assert row.parameters == ("beta",)
    assert MATCH_LOSS_MAP.row(hid_mse_loss).layers == 1


def test_facts_that_are_given_win(registered):
    row = registered("kd_loss", kl_loss, teacher_rules_out=False)
    assert (row.teacher_rules_out, row.between_distributions) == (False, True)


def test_an_unknown_function_promises_nothing(registered):
    row = registered("kd_loss", lambda logits_S, logits_T, temperature: 0.0)
    assert row.unsigned_facts() == KDLossRow("any:function").unsigned_facts()
    assert (row.least_classes, row.temperature_power, row.splits) == (1, 0, True)
    row = registered("match_loss", as_loss(lambda state_S, state_T, mask=None: 0.0))
    assert row.unsigned_facts() == {
        "layers": None, "ranks": None, "equal_widths": True, "scores": False, "splits": True
    }  # fmt: skip


@pytest.mark.parametrize(
    ("map_name", "function", "facts", "says"),
    [
        ("kd_loss", kl_loss, {"layers": 2}, "kd_loss_type 'own' has no fact 'layers'"),
        ("match_loss", hid_mse_loss, {"layer": 2}, "has no fact 'layer': did you mean 'layers'"),
        ("kd_loss", lambda logits_S: 0.0, {}, "must take .logits_S, logits_T, temperature., but"),
        ("kd_loss", lambda s, t, mask: 0.0, {}, "third argument .* is the temperature"),
        ("projection", abs, {"layers": 1}, "no fact 'layers'"),
    ],
)
def test_bad_registrations_are_refused_by_name(registered, map_name, function, facts, says):
    with pytest.raises(jb.UsageError, match=says) as caught:
        registered(map_name, function, **facts)
    assert "\n" not in str(caught.value)


def test_a_parameter_without_a_default_must_be_in_the_config(registered):
    registered("match_loss", lambda state_S, state_T, mask=None, *, power: 0.0)
    with pytest.raises(jb.UsageError, match="loss 'own' needs 'power'"):
        jb.IntermediateMatch(0, 0, 1, "own", "hidden")
    jb.IntermediateMatch(0, 0, 1, {"loss": "own", "power": 2}, "hidden")
