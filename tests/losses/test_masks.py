"""A mask of other positions than the states or logits is refused by every registered loss."""

import jax.numpy as jnp
import numpy as np
import pytest

from jaxbrewer import UsageError
from jaxbrewer.registry import KD_LOSS_MAP, MATCH_LOSS_MAP

ONES = np.ones((3, 4, 12), np.float32)
WRONG = [(3, 5), (3, 3), (4, 3), (3, 4, 1), (12,), (1, 4), (3, 1)]


@pytest.mark.parametrize("name", MATCH_LOSS_MAP)
def test_masks_of_states(name):
    row = MATCH_LOSS_MAP.row(name)
    state = jnp.ones((3, 2, 4, 4)) if row.scores else jnp.asarray(ONES)
    states = [state] * 2 if row.layers == 2 else state
    for shape in WRONG:
        with pytest.raises(UsageError, match="mask must"):
            MATCH_LOSS_MAP[name](states, states, jnp.ones(shape))


@pytest.mark.parametrize("name", KD_LOSS_MAP)
def test_masks_of_logits(name):
    labels = {"labels": jnp.zeros((3, 4), int)} if KD_LOSS_MAP.row(name).labels else {}
    for shape in [*WRONG, (3,)]:
        with pytest.raises(UsageError, match="mask must"):
            KD_LOSS_MAP[name](ONES, ONES, 1, mask=jnp.ones(shape), **labels)
