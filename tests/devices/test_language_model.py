"""A decoder distils the same on one device, fully sharded, and with its tensors split."""

import pytest


@pytest.mark.slow
def test_a_decoder_distils_the_same_sharded_and_split(forks):
    found = forks.results("tests.devices.language_model_on_eight", 8)
    assert found["losses"][0] != found["losses"][-1]
    assert found["gaps"]["fsdp"] < 1e-5
    assert found["gaps"]["tensor"] < 1e-5
