"""Every registered loss keeps the contract that ``jaxbrewer.testing`` checks."""

import functools
import inspect
import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from beartype import beartype
from jaxtyping import jaxtyped

from jaxbrewer.registry import KD_LOSS_MAP, MATCH_LOSS_MAP
from jaxbrewer.testing import check_loss
from jaxbrewer.testing._subject import TEMPERATURE, Subject

ROOT = Path(__file__).parents[2]


def softmax(x):
    powers = np.exp(x - x.max(-1, keepdims=True))
    return powers / powers.sum(-1, keepdims=True)


def entropy(p):
    return -np.sum(p * np.log(np.where(p > 0, p, 1)), -1)


def entropy_of_classes(teacher, mask):
    return entropy(softmax(np.float64(teacher) / TEMPERATURE))[mask != 0].mean()


def entropy_of_labels(teacher, mask):
    p = 1 / (1 + np.exp(-np.float64(teacher) / TEMPERATURE))
    return TEMPERATURE**2 * entropy(np.stack([p, 1 - p], -1))[mask != 0].mean()


def entropy_of_attention(teacher, mask, heads=lambda scores: scores):
    rows = entropy(softmax(heads(np.float64(teacher))))
    return rows[np.broadcast_to((mask != 0)[:, None], rows.shape)].mean()


entropy_of_mean_attention = functools.partial(
    entropy_of_attention, heads=lambda scores: scores.mean(1, keepdims=True)
)
CLAIMS = {
    "ce": {"floor": entropy_of_classes},
    "bce": {"floor": entropy_of_labels},
    "jsd": {"parameters": {"beta": 0.2}},
    "attention_ce": {"floor": entropy_of_attention},
    "attention_ce_mean": {"floor": entropy_of_mean_attention},
    "crd": {"floor": None},
    "minilm_relation": {"parameters": {"heads": 4}},
}
"""What a loss claims beyond the facts in its row."""


def row_of(name):
    return (KD_LOSS_MAP if name in KD_LOSS_MAP else MATCH_LOSS_MAP).row(name)


def claims_of(name):
    """The arguments of :func:`check_loss` for a packaged loss, from its row."""
    row, further = row_of(name), CLAIMS.get(name, {})
    if name in KD_LOSS_MAP:
        power = -row.temperature_power
        return {"inputs": "logits", "splits": row.splits, "temperature_power": power, **further}
    kind = "attention" if row.scores else "pair" if row.layers == 2 else "hidden"
    return {"inputs": kind, "splits": row.splits, **further}


NAMES = [*KD_LOSS_MAP, *(name for name in MATCH_LOSS_MAP if name not in ("gram", "nst"))]
ALL = pytest.mark.parametrize("name", NAMES)


def loss_of(name):
    return KD_LOSS_MAP[name] if name in KD_LOSS_MAP else MATCH_LOSS_MAP[name]


def test_every_registered_loss_has_a_contract():
    registered = {loss for table in (KD_LOSS_MAP, MATCH_LOSS_MAP) for loss in table.values()}
    assert registered == {loss_of(name) for name in NAMES}


def main(names):
    """Prints the reports of these losses, as JSON."""
    assert len(jax.devices()) == 4
    reports = {}
    for name in names:
        try:
            reports[name] = check_loss(loss_of(name), **claims_of(name))
        except AssertionError as error:
            reports[name] = str(error)
    print(json.dumps(reports))


@pytest.fixture(scope="module")
def reports(request, forks):
    """Of a process with four devices, so that sharding is checked beside everything else."""
    chosen = [item for item in request.session.items if item.originalname == "test_the_contract"]
    names = [item.callspec.params["name"] for item in chosen]
    code = f"from tests.losses.test_contract import main; main({names})"
    done = forks.run("-c", code, JAX_NUM_CPU_DEVICES="4")
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


NOT_CLAIMED = {
    "equality": {name for name, claims in CLAIMS.items() if claims.get("floor", 0) is None},
    "micro-batches": {name for name in NAMES if not row_of(name).splits},
    "ruled-out classes": set(MATCH_LOSS_MAP),
    "temperature": set(MATCH_LOSS_MAP),
}


@pytest.mark.slow
@ALL
def test_the_contract(name, reports):
    report = reports[name]
    kept, _, rest = report.partition("\n")
    assert f"{loss_of(name).__name__} keeps" in kept, report
    left_out = {line.split(": ")[1].split(" (")[0] for line in rest.splitlines()}
    assert left_out == {what for what, names in NOT_CLAIMED.items() if name in names}


@ALL
def test_annotated_shapes_hold_at_run_time(name):
    loss, claims = loss_of(name), claims_of(name)
    checked = jaxtyped(typechecker=beartype)(loss.sum_and_count)
    subject = Subject(loss, claims["inputs"], {}, None, None)
    batch = jax.tree.map(jnp.asarray, subject.batch())
    named = {"labels": batch["labels"]} if "labels" in batch else {}
    named |= claims.get("parameters", {})
    for mask in (batch["mask"], None):
        jax.eval_shape(lambda s, t, mask=mask: checked(s, t, mask=mask, **named),
                       batch["student"], batch["teacher"])  # fmt: skip


@ALL
def test_the_objective_calls_every_loss_in_one_way(name):
    parameters = list(inspect.signature(loss_of(name)).parameters.values())
    given = [p.name for p in parameters if p.kind is p.POSITIONAL_OR_KEYWORD]
    if name in KD_LOSS_MAP:
        assert given == ["logits_S", "logits_T", "temperature", "mask"]
    else:
        assert [name[-2:] for name in given[:2]] == ["_S", "_T"]
        assert given[2:] == ["mask"]
