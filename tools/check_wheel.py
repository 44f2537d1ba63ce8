"""Installs a wheel in an empty environment and runs a job with it.

    python tools/check_wheel.py dist/jaxbrewer-0.1.0-py3-none-any.whl python3.11 python3.13

For each Python: an environment with the wheel and its extra ``text`` alone, ``import jaxbrewer``,
``jaxbrewer --version``, and a job of a few steps on a BERT of random weights: train, distill,
predict. Needs only the standard library.
"""

import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
LOCK = ROOT / "requirements-dev.lock"

MODEL = """
from flax import nnx
from jaxbrewer.models import BertConfig, BertForSequenceClassification, save_bert

words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "cat", "dog", "purrs", "barks", "often"]
config = BertConfig(
    vocab_size=len(words), hidden_size=16, num_hidden_layers=2, num_attention_heads=2,
    intermediate_size=32, max_position_embeddings=16, num_labels=2, labels=("cat", "dog"),
)
save_bert(BertForSequenceClassification(config, rngs=nnx.Rngs(0)), "base")
open("base/vocab.txt", "w").write("\\n".join(words))
"""
ROWS = "purrs often\tcat\nbarks often\tdog\noften purrs\tcat\noften barks\tdog\n"
JOB = """\
data: {train: train.tsv, test: train.tsv, max_length: 16}
teacher: {path: base, optimization: {num_steps: 2, batch_size: 4}}
student: {layers: [0], optimization: {num_steps: 2, batch_size: 4}}
training: {output_dir: run}
"""


def check(wheel: Path, python: str) -> None:
    """Runs the checks with one Python; raises ``CalledProcessError`` for the first that fails."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        own = {"JAX_PLATFORMS": "cpu", "XDG_CACHE_HOME": name}
        kept = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}

        def run(*command: object) -> str:
            words = list(map(str, command))
            print("$", " ".join(words).splitlines()[0], flush=True)
            done = subprocess.run(
                words,
                cwd=folder,
                env={**kept, **own},
                stdout=subprocess.PIPE,
                text=True,
                check=True,
            )
            return done.stdout

        run(python, "-m", "venv", folder / "environment")
        binaries = folder / "environment" / "bin"
        run(binaries / "pip", "install", "--quiet", "--constraint", LOCK, f"{wheel}[text]")
        version = run(binaries / "jaxbrewer", "--version")
        if version.split() != ["jaxbrewer", _version_of(wheel)]:
            sys.exit(f"{wheel.name} says that it is {version!r}.")
        where = run(binaries / "python", "-c", "import jaxbrewer; print(jaxbrewer.__file__)")
        if not where.startswith(name):
            sys.exit(f"jaxbrewer was imported from {where}.")
        run(binaries / "python", "-c", MODEL)
        (folder / "train.tsv").write_text(f"text\tlabel\n{ROWS}")
        (folder / "job.yaml").write_text(JOB)
        run(binaries / "jaxbrewer", "train", "job.yaml", "--quiet")
        run(binaries / "jaxbrewer", "distill", "job.yaml", "--quiet")
        predicted = run(binaries / "jaxbrewer", "predict", "run/student/model", "train.tsv")
        if predicted.count("\n") != ROWS.count("\n"):
            sys.exit(f"predict has printed {predicted!r}.")
        print(f"{wheel.name} works with {run(python, '--version').strip()}.", flush=True)


def _version_of(wheel: Path) -> str:
    found = re.match(r"jaxbrewer-([^-]+)-", wheel.name)
    return found[1] if found else ""


if __name__ == "__main__":
    if len(sys.argv) < 3:
        sys.exit("usage: python tools/check_wheel.py WHEEL PYTHON...")
    for each in sys.argv[2:]:
        check(Path(sys.argv[1]).resolve(), each)
