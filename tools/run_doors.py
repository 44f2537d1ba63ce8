"""Runs the programs of docs/export.md, each where it runs, and prints their output and versions.

    python tools/run_doors.py CLASSIFIER ENCODER --torch PYTHON --sentences PYTHON --node FOLDER

CLASSIFIER is a sequence classifier that transformers knows, ENCODER an encoder of sentences. The
interpreters have transformers and sentence-transformers; FOLDER has ``node_modules`` with
``@huggingface/transformers``. A door without its interpreter is skipped.
"""

import argparse
import re
import subprocess
import sys
import tempfile
from pathlib import Path

from jaxbrewer.export import export
from jaxbrewer.models import load
from jaxbrewer.text import Tokenizer

PAGE = Path(__file__).parent.parent / "docs" / "export.md"
PACKAGES = ("jax", "flatbuffers", "onnxruntime", "tokenizers", "torch", "transformers",
            "sentence-transformers")  # fmt: skip


def programs() -> dict[str, str]:
    """The program of each section."""
    sections = re.split(r"^## ", PAGE.read_text(encoding="utf-8"), flags=re.MULTILINE)[1:]
    found = {}
    for section in sections:
        block = re.search(r"```(?:python|js)\n(.*?)```", section, re.DOTALL)
        if block:
            found[section.partition("\n")[0]] = block[1]
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("classifier")
    parser.add_argument("encoder")
    parser.add_argument("--torch", help="a Python with torch and transformers")
    parser.add_argument("--sentences", help="a Python with sentence-transformers")
    parser.add_argument("--node", help="a folder with node_modules")
    arguments = parser.parse_args()
    interpreters = {
        "transformers": arguments.torch,
        "sentence-transformers": arguments.sentences,
        "onnxruntime in Python": sys.executable,
        "onnxruntime in Node": "node" if arguments.node else None,
        "StableHLO in JAX alone": sys.executable,
    }
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        (root / "exported").mkdir()
        for format in ("hf", "onnx", "stablehlo"):
            model, tokenizer = load(arguments.classifier), Tokenizer(arguments.classifier)
            export(model, root / "exported" / format, format, tokenizer=tokenizer)
        export(
            load(arguments.encoder),
            root / "exported" / "sentence-transformers",
            "sentence-transformers",
            tokenizer=Tokenizer(arguments.encoder),
        )
        if arguments.node:
            (root / "node_modules").symlink_to(Path(arguments.node).resolve() / "node_modules")
        for name, program in programs().items():
            interpreter = interpreters[name]
            print(f"## {name}")
            if interpreter is None:
                print("skipped: no interpreter was given\n")
                continue
            file = root / ("program.mjs" if interpreter == "node" else "program.py")
            file.write_text(program)
            done = subprocess.run(
                [interpreter, file.name], cwd=root, capture_output=True, text=True, check=False
            )
            print(done.stdout or done.stderr)
            print(versions(interpreter, root), end="\n\n")


def versions(interpreter: str, root: Path) -> str:
    """The versions of what a program may have used."""
    if interpreter == "node":
        code = (
            "const v = n => JSON.parse(require('fs').readFileSync("
            "'node_modules/' + n + '/package.json')).version;"
            "console.log('node', process.version, '@huggingface/transformers',"
            "v('@huggingface/transformers'), 'onnxruntime-node', v('onnxruntime-node'))"
        )
        command = ["node", "-e", code]
    else:
        code = (
            "import platform; from importlib.metadata import distributions\n"
            "known = {d.metadata['Name']: d.version for d in distributions()}\n"
            f"print('python', platform.python_version(), *(f'{{n}} {{known[n]}}' "
            f"for n in {PACKAGES!r} if n in known))"
        )
        command = [interpreter, "-c", code]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, check=True)
    return done.stdout.strip()


if __name__ == "__main__":
    main()
