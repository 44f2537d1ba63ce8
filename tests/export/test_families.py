"""Every family and head, exported and loaded again, answers as transformers does."""

import json

import numpy as np
import pytest

from jaxbrewer.export import program_of, stablehlo
from jaxbrewer.export.onnx import files
from jaxbrewer.models import EncoderModel, load
from jaxbrewer.models.families import family_of
from jaxbrewer.models.model_types import FAMILIES
from tests.export.conftest import CASES, EACH_KIND, needs_onnx
from tests.models.conftest import expected
from tests.tiers import exhaustive_but

pytestmark = pytest.mark.slow


def assert_answers(run, program, case):
    """Compares with the outputs that PyTorch's transformers gave."""
    inputs, wanted = expected(CASES[case] / "expected.npz")
    if "position_ids" in inputs:  # which no artifact reads
        wanted = program.run(inputs)
    valid = inputs["attention_mask"] != 0
    rows = valid.any(axis=1)  # of a text without any token some say NaN
    outputs = run({name: inputs[name] for name in program.inputs})
    assert outputs.keys() == set(program.outputs)
    for name, value in outputs.items():
        assert value.dtype == np.float32
        kept = valid if name in program.per_token else rows
        np.testing.assert_allclose(
            value[kept], wanted[name][kept], atol=1e-5, rtol=1e-5, err_msg=name
        )


EVERY_HEAD = [name for name in CASES if name.startswith(("distilbert", "llama"))]
"""JAX exports every family in one way; ONNX has operations of its own for each."""


@pytest.mark.parametrize("case", exhaustive_but(EVERY_HEAD, CASES))
def test_stablehlo_answers_as_transformers(case, tmp_path):
    program = program_of(load(CASES[case]))
    stablehlo.write(program, tmp_path)
    assert_answers(stablehlo.load(tmp_path), program, case)


@needs_onnx
@pytest.mark.parametrize("case", EACH_KIND)
def test_onnx_answers_as_transformers(case, tmp_path):
    import onnx

    program = program_of(load(CASES[case]))
    files.write(program, tmp_path / "model.onnx")
    session = files.open_session(tmp_path / "model.onnx")
    assert_answers(lambda inputs: files.run(session, inputs), program, case)
    model = onnx.load(str(tmp_path / "model.onnx"))
    onnx.checker.check_model(model, full_check=True)
    sizes = {d.dim_param for value in model.graph.input for d in value.type.tensor_type.shape.dim}
    assert sizes == {"batch", "length"}
    ops = [node.op_type for node in model.graph.node]
    loaded = load(CASES[case])
    assert ops.count("Softmax") == loaded.config.num_hidden_layers
    parts = {"Erf", "ReduceMax"} | ({"Sqrt"} if isinstance(loaded, EncoderModel) else set())
    assert not parts.intersection(ops)  # all became single operations


def test_a_model_of_every_family_and_head_is_stored():
    stored = set()
    for directory in CASES.values():
        fields = json.loads((directory / "config.json").read_text())
        family = family_of(fields["model_type"])
        stored.add(family.head_for(fields["model_type"], fields["architectures"]))
    for model_type in FAMILIES:
        family = family_of(model_type)
        for head in family.heads:
            assert head in stored, head
