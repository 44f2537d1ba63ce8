"""What jaxbrewer costs on this machine's CPU: every section of the benchmarks in one command.

    python -m benchmarks.suite                                 # from the repository's root
    python -m benchmarks.suite --only overhead machine
    python -m benchmarks.suite --peer textbrewer=ENVIRONMENT/bin/python

Sections: ``overhead`` (a hand-written step), ``peers`` (the same work in other toolkits),
``machine`` (FLOPs over time as shares of a product's), ``parts`` (where a step's time goes),
``less`` (work that is not done twice),
``input`` (loaders, tokenization, caches), ``starting`` (the time to a first step), ``growth`` (with
batches, lengths, matches, teachers, data) and ``checkpoints`` (the share of time that they take).
What is compared takes turns in one run. Each section is printed and written to
``docs/results/benchmarks/SECTION.json``, which pages of ``docs`` show;
``--toy`` writes nothing. A peer without an interpreter is skipped; Tunix's also needs jaxbrewer's
dependencies.
"""

import argparse
import dataclasses
import datetime
import importlib
import json
import os
import platform
from importlib import metadata
from pathlib import Path

from jaxbrewer.run.freed_memory import keep_freed_memory
from tools.update_results import update

os.environ.setdefault("JAX_PLATFORMS", "cpu")

ROOT = Path(__file__).parents[2]
SECTIONS = {
    "overhead": "overhead", "peers": "peers", "machine": "machine", "parts": "parts",
    "less": "less", "input": "inputs", "starting": "starting", "growth": "growth",
    "checkpoints": "checkpoints",
}  # fmt: skip
"""Sections, and the modules that measure them."""
PEERS = ("textbrewer", "pytorch", "keras", "tunix")
"""What an interpreter may have; ``pytorch`` is torch and transformers."""
PACKAGES = ("jaxbrewer", "jax", "flax", "optax", "orbax-checkpoint", "numpy")


def facts(section: str, peers: dict[str, str]) -> dict[str, object]:
    """The command, the machine with its versions, and the date."""
    asked = [f"--peer {name}={name.upper()}/bin/python" for name in peers] * (section == "peers")
    versions = ", ".join(f"{package} {metadata.version(package)}" for package in PACKAGES)
    cores = len(os.sched_getaffinity(0))
    python = platform.python_version()
    return {
        "command": " ".join([f"python -m benchmarks.suite --only {section}", *asked]),
        "machine": f"{cores} cores of {processor()}, Python {python}, {versions}",
        "date": datetime.date.today().isoformat(),
    }


def processor() -> str:
    """The processor's name and its widest vectors, where the system says so."""
    found = Path("/proc/cpuinfo")
    text = found.read_text() if found.exists() else ""
    names = [line.partition(":")[2].strip() for line in text.splitlines() if "model name" in line]
    vectors = next((name for flag, name in (("avx512f", "AVX-512"), ("avx2", "AVX2"))
                    if flag in text), "")  # fmt: skip
    return " ".join(filter(None, [names[0] if names else platform.processor(), vectors]))


def peer(text: str) -> tuple[str, str]:
    """The peer and the interpreter of ``NAME=PYTHON``."""
    name, _, python = text.partition("=")
    if name not in PEERS or not python:
        raise argparse.ArgumentTypeError(f"NAME=PYTHON with a name of {', '.join(PEERS)}")
    return name, python


def main() -> None:
    """Measures the sections, and prints and writes their rows."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--only", nargs="+", choices=SECTIONS, default=SECTIONS, metavar="SECTION",
                        help=f"of {', '.join(SECTIONS)}")  # fmt: skip
    parser.add_argument("--toy", action="store_true", help="tiny sizes, and nothing is written")
    parser.add_argument("--peer", type=peer, action="append", default=[], metavar="NAME=PYTHON",
                        help=f"an interpreter with {', '.join(PEERS)}")  # fmt: skip
    options = parser.parse_args()
    peers = dict(options.peer)
    for section in options.only:
        module = importlib.import_module(f".{SECTIONS[section]}", __package__)
        rows = []
        for row in module.run(options.toy, peers):
            shown = row.value if isinstance(row.value, str) else f"{row.value:.4g}"
            print(f"{section:12}{row.name:64}{shown:>10} {row.unit:17}{row.note}", flush=True)
            value = row.value if isinstance(row.value, str) else float(f"{row.value:.4g}")
            rows.append({**dataclasses.asdict(row), "value": value})
        if not options.toy:
            path = ROOT / "docs" / "results" / "benchmarks" / f"{section}.json"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(json.dumps({**facts(section, peers), "rows": rows}, indent=1) + "\n")
            update()


if __name__ == "__main__":
    keep_freed_memory()  # as the commands do
    main()
