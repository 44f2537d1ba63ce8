"""A vocabulary that is split over devices: the numbers of one device, and what is exchanged."""

from pathlib import Path

import pytest

CLASSES = 256
ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def seen(forks):
    """The results of 8 fake devices."""
    return forks.results("tests.devices.vocabulary_on_eight", 8)


@pytest.mark.slow
def test_a_split_vocabulary_gives_the_numbers_of_one_device(seen):
    assert {name: own["gap"] for name, own in seen["losses"].items() if own["gap"] > 2e-6} == {}
    assert seen["gap"] < 2e-6


@pytest.mark.slow
def test_no_device_gets_the_logits_of_the_whole_vocabulary(seen):
    for name, own in seen["losses"].items():
        sizes = [shape for _, shape in own["exchanged"]]
        assert not [shape for shape in sizes if CLASSES in shape], name
        # Per device a quarter of the vocabulary: only the gradient of the head is that wide.
        wide = [shape for shape in sizes if CLASSES // 4 in shape]
        expected = [[CLASSES // 4], [8, CLASSES // 4]] if "2 parts" in name else []
        assert sorted(wide) == sorted(expected), name


@pytest.mark.slow
def test_devices_share_each_chunk(seen):
    chunks = "logits of 24 positions x 16 classes in 4 chunks of 3 positions in each of 2 parts"
    assert seen["facts"] == [f"kd_loss of logits[0] and labels: {chunks}"]
