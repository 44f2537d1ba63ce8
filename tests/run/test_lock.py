"""Two trainings never write one run directory, and a killed one does not keep it."""

import errno
import fcntl
import os
import signal
import subprocess
import sys

import optax
import pytest

import jaxbrewer as jb
from jaxbrewer.run.lock import LOCK, DirectoryLock
from tests.toys import logits_adaptor, mlp, mlp_params, quiet, vector_data

HOLD = """
import sys, time
from pathlib import Path
from jaxbrewer.run.lock import DirectoryLock

lock = DirectoryLock(Path(sys.argv[1]))
print("held", flush=True)
time.sleep(60)
"""


def test_a_second_lock_is_refused_until_the_first_is_released(tmp_path):
    lock = DirectoryLock(tmp_path)
    for content in (None, "", "[1]", '{"process": "\\u001b[31m", "host": 3}'):
        if content is not None:
            (tmp_path / LOCK).write_text(content)
        with pytest.raises(jb.UsageError, match="is in use by another training") as error:
            DirectoryLock(tmp_path)
        assert (f"process {os.getpid()} on" in str(error.value)) == (content is None)
        assert str(error.value).isprintable()
    lock.release()
    lock.release()
    DirectoryLock(tmp_path).release()


@pytest.mark.slow
def test_a_killed_process_leaves_no_lock(tmp_path):
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path)], stdout=subprocess.PIPE, text=True
    )
    with process:
        assert process.stdout.readline() == "held\n"
        with pytest.raises(jb.UsageError, match=f"process {process.pid} on"):
            DirectoryLock(tmp_path)
        process.send_signal(signal.SIGKILL)
        process.wait()
        DirectoryLock(tmp_path).release()


FORK = """
import os, signal, sys
from pathlib import Path
from jaxbrewer.run.lock import DirectoryLock

lock = DirectoryLock(Path(sys.argv[1]))
ready, forked = os.pipe()
child = os.fork()
if child == 0:
    os.write(forked, b"1")
    signal.pause()
os.read(ready, 1)
lock.release()
DirectoryLock(Path(sys.argv[1]))
os.kill(child, signal.SIGKILL)
os.waitpid(child, 0)
"""


@pytest.mark.slow
def test_a_forked_process_does_not_keep_the_lock(tmp_path):
    subprocess.run([sys.executable, "-c", FORK, str(tmp_path)], check=True, timeout=60)


def test_a_file_system_without_locks_is_a_warning(tmp_path, monkeypatch):
    def refuse(descriptor, operation):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", refuse)
    with pytest.warns(UserWarning, match="cannot be locked .No locks available"):
        DirectoryLock(tmp_path).release()


def trainer(directory, **settings):
    config = quiet(output_dir=directory, **settings)
    return jb.BasicTrainer(config, (mlp, mlp_params(3)), logits_adaptor)


@pytest.mark.parametrize("settings", [{}, {"resume": True}, {"overwrite": True}])
def test_a_training_is_refused_the_directory_of_a_running_one(settings, tmp_path):
    loader = jb.ArrayLoader(vector_data(8), 8)
    refused = []

    def callback(model, step):
        with pytest.raises(jb.UsageError, match="is in use by another training"):
            trainer(tmp_path, **settings).train(optax.sgd(0.1), loader, num_steps=1)
        refused.append(step)

    trainer(tmp_path).train(optax.sgd(0.1), loader, num_steps=2, callback=callback)
    assert refused == [2]
    assert len((tmp_path / "metrics.jsonl").read_text().splitlines()) == 2
    trainer(tmp_path, resume=True).train(optax.sgd(0.1), loader, num_steps=2)
