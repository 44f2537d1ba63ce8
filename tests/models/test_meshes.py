"""Decoders on several devices: files read in parts, the same numbers as on one."""

import json
import re
from pathlib import Path

import jax
import pytest
import yaml
from jax.sharding import AxisType

from jaxbrewer import UsageError
from jaxbrewer.models import load
from tests.models.conftest import FIXTURES

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
def test_decoders_on_eight_devices_equal_those_on_one(forks, tmp_path):
    page = (ROOT / "docs" / "language-models.md").read_text()
    (block,) = re.findall(r"```yaml\n(training:\n  mesh: .*?)```", page, re.DOTALL)
    rules = yaml.safe_load(block)["training"]["student_rules"]
    words = ["-m", "tests.models.eight_devices", json.dumps(rules), tmp_path]
    done = forks.run(*words, JAX_NUM_CPU_DEVICES="8")
    assert done.returncode == 0, done.stderr
    seen = json.loads(done.stdout)
    assert seen["files"] > 3
    for name, parts in (("fsdp", 8), ("tensor", 4)):
        found = seen[name]
        assert found["equal"]
        assert found["split"] == 22  # seven maps in each of three layers, and the embeddings
        assert found["largest part"] == pytest.approx(1 / parts)
        assert found["logits"] < 1e-5
        assert found["tokens"]
        assert found["losses"] < 1e-5
        assert found["fused losses"] < 1e-5
        assert found["int8"] < 0.1


def test_rules_need_a_mesh_and_axes_that_it_has():
    directory = FIXTURES / "decoders" / "llama"
    mesh = jax.make_mesh((1,), ("tensor",), axis_types=(AxisType.Auto,))
    with pytest.raises(UsageError, match="rules need a mesh"):
        load(directory, rules=[["kernel", ["tensor"]]])
    with pytest.raises(UsageError, match="has no axis 'tensr': did you mean 'tensor'"):
        load(directory, mesh={"tensr": 1})
    with pytest.raises(UsageError, match=r"rules\[0\]: 'kernal' matches no weight"):
        load(directory, mesh=mesh, rules=[["kernal", ["tensor"]]])
