"""A forked program is as one that an interpreter has started."""

import os
import signal

import pytest

pytestmark = pytest.mark.slow

PROGRAM = """
import os, sys
import jax
print(__name__, sys.argv[1:], os.getcwd(), os.environ["GIVEN"], sys.stdin.read() == "")
print(len(jax.devices()), jax.config.jax_numpy_rank_promotion)
exec(sys.argv[1])
"""


@pytest.fixture
def run(forks, tmp_path):
    (tmp_path / "program.py").write_text(PROGRAM)
    given = {"GIVEN": "value", "JAX_NUMPY_RANK_PROMOTION": "warn"}

    def run_program(code, **variables):
        return forks.run("program.py", code, cwd=tmp_path, **given, **variables)

    return run_program


def test_a_program_has_its_own_arguments_directory_variables_and_devices(run, tmp_path):
    flags = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count=3"
    for variables, devices in (({"JAX_NUM_CPU_DEVICES": "2"}, 2), ({"XLA_FLAGS": flags}, 3)):
        done = run("pass", **variables)
        assert (done.returncode, done.stderr) == (0, "")
        assert done.stdout == f"__main__ ['pass'] {tmp_path} value True\n{devices} warn\n"


@pytest.mark.parametrize(
    ("code", "status", "says"),
    [
        ("1 / 0", 1, "ZeroDivisionError: division by zero"),
        ("import warnings; warnings.warn('old')", 1, "UserWarning: old"),
        ("sys.exit(3)", 3, ""),
        ("os.kill(os.getpid(), 15)", -signal.SIGTERM, ""),
        ("import atexit; atexit.register(print, 'at the end', file=sys.stderr)", 0, "at the end"),
    ],
)
def test_a_program_ends_with_its_status_and_its_errors(run, code, status, says):
    done = run(code)
    assert done.returncode == status
    assert done.stderr.rstrip().endswith(says)


def test_programs_run_beside_each_other(forks):
    first, second = (forks.start("-c", "import time; time.sleep(60)") for _ in range(2))
    assert first.poll() is second.poll() is None
    second.send_signal(signal.SIGTERM)
    assert second.wait() == -signal.SIGTERM
    assert first.poll() is None
    first.kill()
    assert first.wait() == -signal.SIGKILL
