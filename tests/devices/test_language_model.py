"""A decoder distils the same on one device, fully sharded, and with its tensors split."""

import json

import pytest


@pytest.mark.slow
def test_a_decoder_distils_the_same_sharded_and_split(forks):
    done = forks.run("-m", "tests.devices.language_model_on_eight", JAX_NUM_CPU_DEVICES="8")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["losses"][0] != found["losses"][-1]
    assert found["gaps"]["fsdp"] < 1e-5
    assert found["gaps"]["tensor"] < 1e-5
