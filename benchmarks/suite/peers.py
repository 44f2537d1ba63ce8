"""The same work in other toolkits: TextBrewer, a plain PyTorch loop, Keras and Tunix.

Each toolkit, this one included, trains in a process of its own that sleeps while another has its
turn. A toolkit needs an interpreter that has its packages; without one it is skipped.
"""

import contextlib
import dataclasses
import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from jaxbrewer.run.freed_memory import VARIABLES

from ..common import TEMPERATURE, Clock, Row, ratio
from .overhead import MINILM, RATE, TOTAL, Pair
from .overhead import TOY as TINY

ROOT = Path(__file__).parents[2]


@dataclasses.dataclass(frozen=True)
class Side:
    """A toolkit's part in a job.

    Attributes:
        name: As printed.
        needs: Which interpreter runs it; ``""`` for the one of the benchmarks.
        command: The worker in this folder, and its arguments.
        environment: Variables of its process.
    """

    name: str
    needs: str
    command: tuple[str, ...]
    environment: Mapping[str, str] = dataclasses.field(default_factory=dict)


OURS = "jaxbrewer"
KEPT = {name: str(value) for name, (_, value) in VARIABLES.items()}
"""Variables of glibc that do for any process what jaxbrewer's commands do for theirs."""
PYTORCH = [
    Side(f"{name}, {kind}", needs, ("pytorch_worker.py", trainer, kind))
    for name, needs, trainer in (
        ("TextBrewer", "textbrewer", "textbrewer"), ("PyTorch loop", "pytorch", "loop"),
    )
    for kind in ("eager", "sdpa", "compile")
]  # fmt: skip
VARIANTS = {"": (), "teacher in bfloat16": ("teacher",), "bfloat16": ("bfloat16",)}
CACHED = {
    "from the cache": ("cached",),
    "bfloat16, from the cache": ("bfloat16", "cached"),
}


def of_ours(variants: dict[str, tuple[str, ...]], needs: str, *command: str) -> list[Side]:
    """Our sides, which keep freed memory as the commands do, and one that returns it."""
    sides = [
        Side(f"{OURS}, {name}".removesuffix(", "), needs, (*command, *arguments), KEPT)
        for name, arguments in variants.items()
    ]
    return [*sides, Side(f"{OURS}, freed memory returned", needs, command)]


ENCODERS = [
    *of_ours({**VARIANTS, **CACHED}, "", "jaxbrewer_worker.py"),
    *PYTORCH,
    Side("PyTorch loop, bfloat16", "pytorch", ("pytorch_worker.py", "loop", "bfloat16")),
    Side(
        "TextBrewer, eager, freed memory kept", "textbrewer",
        ("pytorch_worker.py", "textbrewer", "eager"), KEPT,
    ),
    Side("Keras Distiller", "keras", ("keras_worker.py",)),
]  # fmt: skip
TUNIX = "tunix_worker.py", "tunix"
DECODERS = [
    *of_ours(VARIANTS, "tunix", "tunix_worker.py", "jaxbrewer"),
    Side("Tunix DistillationTrainer", "tunix", TUNIX),
    Side("Tunix DistillationTrainer, freed memory kept", "tunix", TUNIX, KEPT),
]
COMPARED = "TextBrewer, eager", "Tunix DistillationTrainer"
"""Peers that each variant of ours is compared with."""
AIMS = {
    "TextBrewer": "aim at least 1.2 (AVX2), 2.2 (AVX-512)",
    "Tunix DistillationTrainer": "aim at least 1.3",
    f"{OURS}, from the cache": "aim at least 1.8 (AVX2), 3 (AVX-512)",
}


def run(is_toy: bool, pythons: dict[str, str]) -> Iterator[Row]:
    """Time of a step in each toolkit over ours, time to the end of the first turn, peak memory."""
    pair = TINY if is_toy else dataclasses.replace(MINILM, steps=3, rounds=7)
    common = {"temperature": TEMPERATURE, "rate": RATE, "total": TOTAL, "steps": pair.steps,
              "cores": len(os.sched_getaffinity(0)),
              "layers": [pair.teacher_layers, pair.student_layers]}  # fmt: skip
    encoders = {**common, "pair": dataclasses.asdict(pair), "size": pair.fields,
                "matches": pair.matches, "batch": pair.batch, "length": pair.length}  # fmt: skip
    decoders = {**common, "width": pair.width, "heads": 2 if is_toy else 6,
                "vocabulary": pair.vocabulary, "batch": pair.batch,
                "length": pair.length}  # fmt: skip
    yield from _job("encoders", ENCODERS, encoders, pair, pythons)
    yield from _job("decoders", DECODERS, decoders, pair, pythons)


def _job(
    name: str, sides: list[Side], settings: dict[str, Any], pair: Pair, pythons: dict[str, str]
) -> Iterator[Row]:
    """Starts the sides one after the other, then lets them take turns."""
    interpreters = {"": sys.executable, **pythons}
    for side in sides:
        if side.needs not in interpreters:
            yield Row("peers", f"{name}, {side.name}", "skipped", "",
                      f"needs --peer {side.needs}=PYTHON")  # fmt: skip
    with contextlib.ExitStack() as stack:
        workers = {
            side.name: stack.enter_context(Worker.started(interpreters[side.needs], side, settings))
            for side in sides
            if side.needs in interpreters
        }
        clocks = {each: Clock() for each in workers}
        for worker in workers.values():
            worker.train(pair.steps)
        for _ in range(pair.rounds):
            for each, worker in workers.items():
                clocks[each].seconds.append(worker.train(pair.steps) / pair.steps)
        for each, worker in workers.items():
            found = f"{name}, {each}"
            yield Row("peers", found, pair.batch / clocks[each].median, "examples/s",
                      f"{1e3 * clocks[each].median:.4g} ms/step; {clocks[each].quartiles()}; "
                      f"first turn after {worker.first:.1f} s; "
                      f"{worker.megabytes():,.0f} MB at most")  # fmt: skip
            if not each.startswith(OURS):
                aim = AIMS.get(each.partition(",")[0], "aim at least 1")
                own = f"{OURS}, bfloat16" if each.endswith("bfloat16") else OURS
                yield ratio("peers", f"{found} / {own}", clocks[each], clocks[own], aim)
            elif each != OURS:
                for peer in COMPARED:
                    if peer in clocks:
                        yield ratio("peers", f"{name}, {peer} / {each}", clocks[peer],
                                    clocks[each], AIMS.get(each, ""))  # fmt: skip


class Worker:
    """A process that trains when asked to.

    Attributes:
        first: Seconds from its start to the end of its first turn, imports included.
    """

    def __init__(self, process: "subprocess.Popen[str]", name: str):
        self.process, self.name = process, name

    @classmethod
    @contextlib.contextmanager
    def started(cls, python: str, side: Side, settings: dict[str, Any]) -> Iterator["Worker"]:
        """A worker after its first turn, which ends with the process of this context."""
        # Threads that spin while they wait would slow down the side that is measured.
        environment = {**os.environ, "OMP_WAIT_POLICY": "PASSIVE", "GOMP_SPINCOUNT": "0",
                       "PYTHONPATH": str(ROOT), **side.environment}  # fmt: skip
        program, *arguments = side.command
        start = time.perf_counter()
        with subprocess.Popen(
            [python, str(Path(__file__).with_name(program)), json.dumps(settings), *arguments],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment,
        ) as process:  # fmt: skip
            try:
                worker = cls(process, " ".join(side.command))
                worker.train(settings["steps"])
                worker.first = time.perf_counter() - start
                yield worker
            finally:
                process.kill()  # TextBrewer cycles through an empty loader

    first: float

    def train(self, steps: int) -> float:
        """The seconds that the worker takes for some steps."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(f"{steps}\n")
        self.process.stdin.flush()
        answer = self.process.stdout.readline()
        if not answer:
            raise RuntimeError(f"{self.name} has ended: see its message above")
        return float(answer)

    def megabytes(self) -> float:
        """The most memory that the process has had, where the system says so."""
        status = Path(f"/proc/{self.process.pid}/status")
        found = re.search(r"VmHWM:\s+(\d+)", status.read_text() if status.exists() else "")
        return int(found[1]) / 1e3 if found else float("nan")
