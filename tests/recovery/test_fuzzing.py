"""Files of a run and of a cache, changed at random: an error of one line, or the right numbers.

Seeded. ``JAXBREWER_FUZZ=100`` tries a hundred times as many changes (about forty minutes).
"""

import json
import os
import random
import shutil
import traceback
import warnings

import optax
import pytest

import jaxbrewer as jb
from jaxbrewer.cache import TeacherCache
from tests.recovery import bits
from tests.toys import logits_adaptor, mlp, mlp_params, quiet, vector_data

ROUNDS = int(os.environ.get("JAXBREWER_FUZZ", "1"))
CASES = 20 * ROUNDS
STEPS = (2, 4, 6)
LOADER = jb.ArrayLoader(vector_data(24), 8, seed=3).with_example_ids()
BATCHES = list(LOADER)
VALUES = [
    None, True, False, 0, 1, -1, 3, 2**31, 2**63, 10**30, 0.5, -0.0, 1e308, float("nan"), "", "x",
    "*", "../x", "\x1b[2J\n", "\ud800", "0123456789ab", [], [1], [[]], {}, {"a": 1}, [None] * 3,
]  # fmt: skip


def train(place):
    """Resumes, or begins, a run of 6 steps whose teacher is cached on disk."""
    config = quiet(
        output_dir=place / "run",
        log_dir=place / "logs",
        cache_dir=place / "cache",
        resume=True,
        ckpt_steps=2,
    )
    distiller = jb.BasicDistiller(
        config,
        jb.DistillationConfig(is_caching_logits=True),
        (mlp, mlp_params(8, seed=1)),
        (mlp, mlp_params(3)),
        logits_adaptor,
        logits_adaptor,
    )
    return distiller.train(optax.adam(1e-2), LOADER, num_steps=6)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A run and what must be read from it: its result, its cache, its students."""
    place = tmp_path_factory.mktemp("finished")
    result = train(place)
    students = {step: bits(jb.load_student(place / "run", step)) for step in STEPS}
    return place, result, cached_logits(place), students


def files_of(place):
    return sorted(path for path in place.rglob("*") if path.is_file())


def is_text(path):
    return path.suffix in (".json", ".jsonl") or path.name in ("_METADATA", "_CHECKPOINT_METADATA")


def changed_value(draw, value):
    """A JSON value with one entry, at any depth, replaced, removed or doubled."""
    if isinstance(value, (dict, list)) and value and draw.random() < 0.85:
        copied = value.copy()
        place = draw.choice(list(copied) if isinstance(copied, dict) else range(len(copied)))
        what = draw.random()
        if what < 0.15:
            del copied[place]
        elif what < 0.25 and isinstance(copied, list):
            copied.append(copied[place])
        elif what < 0.25:
            copied[str(draw.choice(VALUES))] = copied[place]
        else:
            copied[place] = changed_value(draw, copied[place])
        return copied
    return draw.choice(VALUES)


def change_json(draw, path):
    lines = path.read_text().splitlines() if path.suffix == ".jsonl" else [path.read_text()]
    number = draw.randrange(len(lines))
    lines[number] = json.dumps(changed_value(draw, json.loads(lines[number])))
    path.write_text("\n".join(lines) + "\n")


def truncate(draw, path):
    os.truncate(path, draw.randrange(path.stat().st_size + 1))


def flip(draw, path):
    data = bytearray(path.read_bytes())
    for _ in range(draw.choice([1, 1, 5])):
        if data:
            data[draw.randrange(len(data))] = draw.randrange(256)
    path.write_bytes(data)


def replace_by_text(draw, path):
    path.write_bytes(draw.choice([b"", b"[", b"null\n", b"[" * 10**5, b"\xff\xfe", b"9" * 5000]))


def remove(draw, path):
    path.unlink()


def rename(draw, path):
    path.rename(path.with_name(draw.choice(["x", "10", "7", path.name + "2"])))


def make_directory(draw, path):
    path.unlink()
    path.mkdir()


def link(draw, path):
    path.unlink()
    path.symlink_to(draw.choice(["missing", ".", "/dev/null"]))


BYTES = [truncate, flip, replace_by_text, remove, rename, make_directory, link]


def change_one_file(draw, place):
    """Changes a file, or the name of a checkpoint; returns what was changed."""
    if draw.random() < 0.08:
        steps = sorted((place / "run" / "checkpoints").iterdir())
        chosen, name = draw.choice(steps), draw.choice(["10", "5", "x", "007", "6.tmp"])
        chosen.rename(chosen.with_name(name))
        return f"renamed {chosen.name} to {name}", chosen
    files = files_of(place)
    texts = [path for path in files if is_text(path)]
    own = [path for path in texts if path.suffix or path.name == "_CHECKPOINT_METADATA"]
    path = draw.choice(draw.choice([own, own, texts, files]))
    change = change_json if path in texts and draw.random() < 0.7 else draw.choice(BYTES)
    change(draw, path)
    return f"{change.__name__} {path.relative_to(place)}", path


def checkpoint_of(place, path):
    """The step of the checkpoint that a path is in."""
    parts = path.relative_to(place).parts
    return int(parts[2]) if parts[:2] == ("run", "checkpoints") else None


def outcome(function, *arguments):
    """What a function returns; ``None`` where it raises an error of one line."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            result, message = function(*arguments), ""
        except jb.UsageError as error:
            result, message = None, str(error)
    for text in [message, *(str(warning.message) for warning in caught)]:
        assert text.isprintable(), ascii(text)
        assert len(text) < 2000, text
    assert {warning.category for warning in caught} <= {UserWarning}
    return result


def cached_logits(place):
    cache = TeacherCache(place / "cache")
    list(cache.damaged())
    return [cache.outputs(batch).logits[0] for batch in BATCHES]


def holds(case, finished, copy):
    """Changes a file of a copy, uses all of it, and compares with what the original gives."""
    _, expected, logits, students = finished
    what, path = change_one_file(random.Random(case), copy)
    intact = set(STEPS) - {checkpoint_of(copy, path)}
    try:
        student = outcome(jb.load_student, copy / "run")
        assert student is None or bits(student) in students.values()
        cached = outcome(cached_logits, copy)
        assert cached is None or bits(cached) == bits(logits)
        result = outcome(train, copy)
        assert result is None or bits(result.student) == bits(expected.student)
        for step in intact:
            assert bits(jb.load_student(copy / "run", step)) == students[step], step
    except Exception as error:
        last = traceback.extract_tb(error.__traceback__)[-1]
        return f"case {case}, {what}: {error!r} at {last.filename}:{last.lineno}"
    return None


@pytest.mark.slow
@pytest.mark.parametrize("part", range(4))
def test_a_changed_file_is_one_line_or_changes_nothing(part, finished, tmp_path):
    broken = []
    for case in range(part, CASES, 4):
        copy = tmp_path / str(case)
        shutil.copytree(finished[0], copy)
        broken.append(holds(case, finished, copy))
        shutil.rmtree(copy)
    assert not list(filter(None, broken)), "\n".join(filter(None, broken))
