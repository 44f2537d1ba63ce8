"""Makes ``jaxbrewer/demo/data/wordnet_glosses.tsv.xz`` from WordNet 3.0's ``data.noun``.

    python tools/build_wordnet.py /usr/share/wordnet/data.noun

``data.noun`` comes with WordNet 3.0 (on Debian: package ``wordnet-base``). An example is the
definition of a noun synset, its gloss up to the first quoted example sentence; its class is the
lexicographer file of the synset (``lexnames(5WN)``). Left out are definitions that occur in
several classes, repetitions within a class, and classes with fewer than 50 examples ("motive").
81,434 examples of 25 classes remain, sorted by class and text, so that the file does not depend on
anything but its source.
"""

import argparse
import collections
import lzma
from collections.abc import Iterable
from pathlib import Path

OUTPUT = Path(__file__).parent.parent / "jaxbrewer/demo/data/wordnet_glosses.tsv.xz"
MINIMUM = 50
"""Minimum number of examples per class."""

LEXICOGRAPHER_FILES = {
    3: "Tops", 4: "act", 5: "animal", 6: "artifact", 7: "attribute", 8: "body", 9: "cognition",
    10: "communication", 11: "event", 12: "feeling", 13: "food", 14: "group", 15: "location",
    16: "motive", 17: "object", 18: "person", 19: "phenomenon", 20: "plant", 21: "possession",
    22: "process", 23: "quantity", 24: "relation", 25: "shape", 26: "state", 27: "substance",
    28: "time",
}  # fmt: skip


def parse(lines: Iterable[str]) -> list[tuple[str, str]]:
    """(class, definition) of every synset in the lines of ``data.noun``.

    >>> parse(["  1 licence", '00001740 03 n 01 entity 0 000 | a thing; "an example"'])
    [('Tops', 'a thing')]
    """
    examples = []
    for line in lines:
        if line.startswith("  "):  # the licence at the head of the file
            continue
        synset, gloss = line.split(" | ", maxsplit=1)
        definition = gloss.split('; "', maxsplit=1)[0].strip()
        examples.append((LEXICOGRAPHER_FILES[int(synset.split()[1])], definition))
    return examples


def select(examples: Iterable[tuple[str, str]], minimum: int = MINIMUM) -> list[tuple[str, str]]:
    """One of each example whose definition has one class, in classes that are large enough.

    >>> select([("act", "a"), ("act", "b"), ("food", "b"), ("act", "a")], minimum=1)
    [('act', 'a')]
    """
    unique = set(examples)
    classes = collections.Counter(text for _, text in unique)
    kept = [(name, text) for name, text in unique if classes[text] == 1]
    sizes = collections.Counter(name for name, _ in kept)
    return sorted((name, text) for name, text in kept if sizes[name] >= minimum)


def main() -> None:
    """Reads the arguments, writes the file and prints its contents."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("source", type=Path, help="WordNet 3.0's data.noun")
    parser.add_argument("output", type=Path, nargs="?", default=OUTPUT)
    arguments = parser.parse_args()
    with arguments.source.open(encoding="utf-8") as lines:
        examples = select(parse(lines))
    table = "label\ttext\n" + "".join(f"{name}\t{text}\n" for name, text in examples)
    arguments.output.write_bytes(lzma.compress(table.encode(), preset=9 | lzma.PRESET_EXTREME))
    classes, size = len({name for name, _ in examples}), arguments.output.stat().st_size
    print(f"{arguments.output}: {len(examples):,} examples, {classes} classes, {size:,} bytes")


if __name__ == "__main__":
    main()
