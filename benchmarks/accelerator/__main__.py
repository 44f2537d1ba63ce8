"""jaxbrewer on an accelerator: tests, numbers, speed and behaviour, in one table and one JSON file.

    python -m benchmarks.accelerator --json accelerator.json            # from the repository's root
    python -m benchmarks.accelerator --json a.json --only numbers speed  # sections
    JAX_PLATFORMS=cpu python -m benchmarks.accelerator --toy --json a.json

Needs Python 3.11 to 3.13 with jax, flax, optax, orbax-checkpoint, tensorstore, jaxtyping,
lazy-loader, pyyaml, rich and tensorboardX; PyTorch and transformers for the section ``speed``'s
comparison; pytest and hypothesis for ``tests``. Where nothing can be installed, tensorboardX (and
beartype for one file of tests) travel as wheels: ``pip download --no-deps tensorboardX beartype``,
there ``pip install --no-index --no-deps --target site *.whl`` and ``PYTHONPATH=site``.

Sections: ``behaviour`` (donation, compilations, transfers, saves), ``numbers`` (losses, BERT, train
steps, attention kernels against the CPU), ``vocabulary`` (the KL at 128,256 classes), ``decoder``
(Llama-1B-shaped KD), ``speed`` (BERT-base KD: MFU, and PyTorch on the same card), ``tests``. The
JSON file is written after each section, so what is finished survives a time limit. Every ratio is
of things measured alternately in this run.
"""

import argparse
import dataclasses
import importlib.util
import json
import os
import platform
import sys
import tempfile
import time
import traceback
from importlib import metadata
from pathlib import Path

os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")  # PyTorch needs memory beside JAX
CACHE = Path(tempfile.gettempdir()) / "jaxbrewer-accelerator"
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(CACHE))  # several sections share a program

SECTIONS = ("behaviour", "numbers", "vocabulary", "decoder", "speed", "tests")
PACKAGES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy", "torch", "transformers")


def environment() -> dict[str, object]:
    """The card and the versions."""
    import jax

    def version(package: str) -> str | None:
        try:
            return metadata.version(package)
        except metadata.PackageNotFoundError:
            return None

    device = jax.devices()[0]
    return {
        "command": " ".join(["python -m benchmarks.accelerator", *sys.argv[1:]]),
        "platform": device.platform,
        "card": device.device_kind,
        "cards": len(jax.devices()),
        "python": platform.python_version(),
        "versions": {package: version(package) for package in PACKAGES},
        "driver_and_runtime": device.client.platform_version.splitlines()[-1],
    }


def python_with_torch() -> str | None:
    """This interpreter, where it has PyTorch; it is not imported beside JAX."""
    found = all(importlib.util.find_spec(name) for name in ("torch", "transformers"))
    return sys.executable if found else None


def rows_of(section: str, options: argparse.Namespace):
    """The rows of a section."""
    from ..common import TOY, Sizes
    from . import behaviour, numerics, run_tests, speed

    sizes = TOY if options.toy else Sizes()
    return {
        "behaviour": lambda: behaviour.run(sizes),
        "numbers": lambda: numerics.run(sizes),
        "vocabulary": lambda: speed.vocabulary_loss(sizes),
        "decoder": lambda: speed.decoder_speed(sizes),
        "speed": lambda: speed.bert_speed(sizes, options.torch),
        "tests": lambda: run_tests.run(options.toy, options.test_seconds, options.json),
    }[section]()


def show(row) -> None:
    """Prints one row."""
    value = row.value if isinstance(row.value, str) else f"{row.value:.4g}"
    print(f"{row.section:<11}{row.name:<66}{value:>13} {row.unit:<13} {row.note}", flush=True)


def main() -> int:
    """Runs the sections; 1 if one of them fails."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--json", type=Path, required=True, help="file for all numbers")
    parser.add_argument("--only", nargs="+", choices=SECTIONS, default=SECTIONS, metavar="SECTION",
                        help=f"of {', '.join(SECTIONS)}")  # fmt: skip
    parser.add_argument("--toy", action="store_true", help="tiny sizes, for a CPU")
    parser.add_argument(
        "--torch", metavar="PYTHON", default=python_with_torch(),
        help="interpreter with torch and transformers; default: this one",
    )  # fmt: skip
    parser.add_argument("--test-seconds", type=int, default=300, help="time limit of the tests")
    options = parser.parse_args()
    # The numbers need the host beside the accelerator.
    if "JAX_PLATFORMS" in os.environ and "cpu" not in os.environ["JAX_PLATFORMS"]:
        os.environ["JAX_PLATFORMS"] += ",cpu"
    report = {**environment(), "toy": options.toy, "rows": [], "seconds": {}, "failed": {}}
    print(json.dumps({key: report[key] for key in ("command", "card", "versions")}), flush=True)
    for section in options.only:
        start = time.perf_counter()
        try:
            for row in rows_of(section, options):
                report["rows"].append(dataclasses.asdict(row))
                show(row)
                options.json.write_text(json.dumps(report, indent=1))
        except Exception as error:  # the other sections still run
            traceback.print_exc()
            report["failed"][section] = f"{type(error).__name__}: {error}"[:500]
        report["seconds"][section] = round(time.perf_counter() - start, 1)
        options.json.write_text(json.dumps(report, indent=1))
    print(f"seconds: {report['seconds']}, failed: {report['failed'] or 'none'}")
    return 1 if report["failed"] else 0


if __name__ == "__main__":
    sys.exit(main())
