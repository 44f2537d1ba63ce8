"""Compiled programs on disk: where, how many, and what a second process compiles."""

import json
import os
import subprocess
import sys

import pytest

import jaxbrewer as jb
from jaxbrewer.run import compiled_programs
from jaxbrewer.run.compiled_programs import keep_compiled_programs

pytestmark = pytest.mark.slow

SETTINGS = ("jax_compilation_cache_dir", "jax_persistent_cache_min_compile_time_secs")
SHOW = f"import jax, json; print(json.dumps([getattr(jax.config, name) for name in {SETTINGS}]))"
KEEP = "from jaxbrewer.run.compiled_programs import keep_compiled_programs as keep; "


def python(code, tmp_path, **environment):
    inherited = {name: value for name, value in os.environ.items() if "CACHE" not in name}
    inherited |= {"XDG_CACHE_HOME": str(tmp_path), **environment}
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, env=inherited, capture_output=True, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.parametrize("before", ["", "import jax; "])
def test_compiled_programs_are_kept_in_the_users_cache(before, tmp_path):
    assert python(f"{before}{KEEP}keep(True); {SHOW}", tmp_path) == [
        f"{tmp_path}/jaxbrewer/compiled", 0
    ]  # fmt: skip


@pytest.mark.parametrize(("where", "expected"), [(True, ["mine", 1.0]), ("other", ["other", 0])])
def test_a_directory_of_jax_is_changed_only_by_name(where, expected, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shown = python(f"{KEEP}keep({where!r}); {SHOW}", tmp_path, JAX_COMPILATION_CACHE_DIR="mine")
    assert shown == expected


def test_a_named_directory_that_cannot_be_written_is_refused(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    with pytest.raises(jb.UsageError, match=r"compilation_cache '.*' cannot be written"):
        keep_compiled_programs(str(tmp_path / "file" / "inner"))
    monkeypatch.setattr(compiled_programs, "_directory_of_jax", lambda: None)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    keep_compiled_programs(True)
    with pytest.raises(jb.UsageError, match="must be true, false, a path or None"):
        jb.TrainingConfig(compilation_cache=3)


def test_programs_that_were_not_used_for_longest_are_removed(tmp_path):
    for number in range(5):
        path = tmp_path / f"{number}-cache"
        path.write_bytes(bytes(100))
        os.utime(path, (1000 - number, 0))
    compiled_programs._shrink(tmp_path, 250)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["0-cache", "1-cache"]


def test_a_second_process_of_a_distillation_compiles_nothing(tmp_path):
    code = """
import json, jax, optax
misses = []
jax.monitoring.register_event_listener(
    lambda name, **_: misses.append(name) if name.endswith("/cache_misses") else None
)
import jaxbrewer as jb
from tests.toys import logits_adaptor, mlp, mlp_params, vector_data
jb.GeneralDistiller(
    jb.TrainingConfig(output_dir=None, progress=False, compilation_cache=True),
    jb.DistillationConfig(temperature=2),
    (mlp, mlp_params(6)), (mlp, mlp_params(3)), logits_adaptor, logits_adaptor,
).train(optax.adam(0.1), [vector_data(8), vector_data(6)], num_steps=2)
print(json.dumps(len(misses)))
"""
    assert python(code, tmp_path) > 0
    assert python(code, tmp_path) == 0
