"""Devices and meshes: what a config may name, and what must exist here."""

import os
import subprocess
import sys

import optax
import pytest

import jaxbrewer as jb
from jaxbrewer.devices.mesh import DeviceLayout, make_layout
from tests.toys import logits_adaptor, mlp, mlp_params, quiet, vector_data


@pytest.mark.parametrize(
    ("device", "says"),
    [
        ("gpu", "device is 'gpu', but JAX finds only cpu devices"),
        ("tpu:0", "device is 'tpu:0', but JAX finds only cpu devices"),
        ("cuda:1", "device is 'cuda:1', but there are 1 such devices, counted from 0"),
        ("cpu:7", "device is 'cpu:7', but there are 1 such devices"),
        ("cpu:one", "device must end in a number, got 'cpu:one'"),
        ("cuda:-1", "device must end in a number, got 'cuda:-1'"),
    ],
)
def test_a_missing_device_is_one_line_before_anything_is_compiled(device, says):
    trainer = jb.BasicTrainer(quiet(device=device), (mlp, mlp_params(3)), logits_adaptor)
    with pytest.raises(jb.UsageError, match=says) as error:
        trainer.train(optax.sgd(0.1), jb.ArrayLoader(vector_data(8), 8), num_steps=1)
    assert str(error.value).isprintable()


@pytest.mark.slow
@pytest.mark.parametrize("device", ["cuda", "cuda:0", "cpu", "cpu:0"])
def test_the_default_device_exists_everywhere(device):
    trainer = jb.BasicTrainer(quiet(device=device), (mlp, mlp_params(3)), logits_adaptor)
    loader = jb.ArrayLoader(vector_data(8), 8)
    assert len(trainer.train(optax.sgd(0.1), loader, num_steps=1).history["step"]) == 1


@pytest.mark.slow
def test_a_backend_that_does_not_start_is_one_line():
    code = (
        "import jaxbrewer as jb; from jaxbrewer.devices.mesh import on_device\n"
        "try: on_device(jb.TrainingConfig())\n"
        "except jb.UsageError as error: print(error)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], env={**os.environ, "JAX_PLATFORMS": "cuda"},
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert len(done.stdout.splitlines()) == 1
    assert done.stdout.startswith("JAX finds no devices of cuda: ")


def test_a_mesh_must_fit_the_devices():
    assert make_layout(quiet(mesh={"data": -1, "fsdp": 1})) == DeviceLayout()
    with pytest.raises(jb.UsageError, match=r"mesh .* does not fit the 1 devices"):
        make_layout(quiet(mesh={"data": 2, "fsdp": -1}))
