"""Model cards: ``README.md`` with the metadata that hubs read, from facts alone.

``model_card`` is a pure function of :class:`CardFacts`; ``run_facts`` finds the results, the data
and the settings of the run that made a model.
"""

import dataclasses
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import yaml
from flax import nnx

from .._version import __version__
from ..errors import UsageError
from ..json_files import read_json
from ..models import TransformerModel

CARD = "README.md"
_PIPELINES = {
    "sequence-classification": "text-classification",
    "token-classification": "token-classification",
    "question-answering": "question-answering",
    "masked-language-modeling": "fill-mask",
    "causal-language-modeling": "text-generation",
    "feature-extraction": "feature-extraction",
    "sentence-similarity": "sentence-similarity",
}
"""Hugging Face's name of what each task does."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class CardFacts:
    """What a model card says.

    Attributes:
        name: The title.
        model_type: The family.
        task: The task of the head.
        library: The library that reads the files.
        sizes: Sizes of the model, by their names.
        labels: The names of the classes.
        teacher: What the model was distilled from.
        data: What it was trained on, by name.
        settings: The settings of the training, by name.
        results: A table: each row has the same names.
        export: What ``export.json`` says of format, parity and versions; empty for a model that was
            saved, not exported.
        versions: Versions of libraries, by name.
    """

    name: str
    model_type: str
    task: str
    library: str = "transformers"
    sizes: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    labels: Sequence[str] = ()
    teacher: str = ""
    data: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    settings: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    results: Sequence[Mapping[str, Any]] = ()
    export: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    versions: Mapping[str, str] = dataclasses.field(default_factory=dict)


def model_card(facts: CardFacts) -> str:
    """The text of a model card, in Markdown with YAML front matter.

    Examples:
        >>> facts = CardFacts(name="student", model_type="bert", task="sequence-classification",
        ...     labels=("no", "yes"), results=[{"model": "student", "accuracy": 0.91}])
        >>> print(model_card(facts))
        ---
        library_name: transformers
        pipeline_tag: text-classification
        tags:
        - bert
        - jaxbrewer
        - knowledge-distillation
        ---
        # student
        <BLANKLINE>
        A bert model for sequence-classification, made with jaxbrewer.
        <BLANKLINE>
        Classes: no, yes
        <BLANKLINE>
        ## Results
        <BLANKLINE>
        | model | accuracy |
        |---|---|
        | student | 0.91 |
        <BLANKLINE>
    """
    front = {
        "library_name": facts.library,
        "pipeline_tag": _PIPELINES.get(facts.task, facts.task),
        "tags": [facts.model_type, "jaxbrewer", "knowledge-distillation"],
    }
    origin = f"distilled from {facts.teacher} with" if facts.teacher else "made with"
    parts = [
        f"---\n{yaml.safe_dump(front, sort_keys=False)}---\n# {_line(facts.name)}",
        f"A {facts.model_type} model for {facts.task}, {_line(origin)} jaxbrewer.",
    ]
    if facts.labels:
        parts.append(f"Classes: {_line(', '.join(facts.labels))}")
    if facts.sizes:
        parts.append(_section("Size", facts.sizes))
    if facts.results:
        parts.append("## Results\n\n" + _table(facts.results))
    if facts.data:
        parts.append(_section("Data", facts.data))
    if facts.settings:
        parts.append(_section("Training", facts.settings))
    if facts.export:
        parts.append(_parity(facts.export))
    if facts.versions:
        parts.append(_section("Versions", facts.versions))
    return "\n\n".join(parts) + "\n"


def _parity(export: Mapping[str, Any]) -> str:
    parity = export["parity"]
    kind = f"{export['format']}, int8 weights" if export["int8"] else export["format"]
    return _section(
        "Export",
        {
            "format": kind,
            "inputs": ", ".join(export["inputs"]),
            "outputs": ", ".join(export["outputs"]),
            "longest input": f"{export['longest_input']} tokens",
            "largest difference from the model": f"{parity['max_abs_difference']:.2g}",
            "largest output": f"{parity['largest_output']:.3g}",
            "same prediction": f"{parity['same_argmax']:.2%}",
            "compared on": f"{parity['rows']} texts, {parity['tokens']} tokens",
        },
    )


def _section(title: str, rows: Mapping[str, Any]) -> str:
    return f"## {title}\n\n" + _table([{"": n, " ": v} for n, v in rows.items()])


def _table(rows: Sequence[Mapping[str, Any]]) -> str:
    header = list(dict.fromkeys(name for row in rows for name in row))
    lines = [header, ["---"] * len(header), *([row.get(n, "") for n in header] for row in rows)]
    cells = ([_line(_shown(cell)).replace("|", "\\|") for cell in line] for line in lines)
    table = ["| " + " | ".join(line) + " |" for line in cells]
    table[1] = table[1].replace(" ", "")
    return "\n".join(table)


def _shown(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, int) and not isinstance(value, bool):
        return f"{value:,}"
    return value if isinstance(value, str) else json.dumps(value, default=str)


def _line(text: str) -> str:
    return " ".join(text.split())


def card_of(
    model: TransformerModel,
    *,
    library: str = "transformers",
    export: Mapping[str, Any] | None = None,
    run: Mapping[str, Any] | None = None,
    name: str = "",
) -> CardFacts:
    """The facts of a model.

    Args:
        model: The model.
        library: The library that reads the files.
        export: The content of ``export.json``.
        run: What :func:`run_facts` found: further fields of :class:`CardFacts`.
        name: The title; by default the family and the task.
    """
    config = model.config
    count = sum(leaf.size for leaf in jax.tree.leaves(nnx.state(model, nnx.Param)))
    names = ("num_hidden_layers", "hidden_size", "num_attention_heads", "vocab_size")
    classes = getattr(config, "labels", None) if "classification" in model.task else None
    return CardFacts(
        name=name or f"{config.model_type} for {model.task}",
        model_type=config.model_type,
        task=export["model"]["task"] if export else model.task,
        library=library,
        sizes={
            "parameters": count,
            **{key: getattr(config, key) for key in names if hasattr(config, key)},
        },
        labels=classes or (),
        export=export or {},
        versions=export["versions"] if export else {"jaxbrewer": __version__},
        **(run or {}),
    )


def run_facts(directory: Path) -> dict[str, Any]:
    """What the run that made a model recorded: ``results``, ``data`` and ``settings``.

    Reads ``results.json`` and ``card.json`` beside the model or in the directories above it, up to
    two; files of another shape are skipped, since a card is no reason to fail.
    """
    found: dict[str, Any] = {}
    for folder in (directory, *list(directory.resolve().parents)[:2]):
        for file in ("card.json", "results.json"):
            if os.path.isfile(folder / file):
                try:
                    content = read_json(folder / file, dict[str, Any])
                except UsageError:
                    continue
                found = {**_known(content), **found}
    return found


def _known(content: Mapping[str, Any]) -> dict[str, Any]:
    """The entries that a card has a place for."""
    found: dict[str, Any] = {}
    rows = content.get("results", content.get("rows"))
    if isinstance(rows, list) and rows and all(isinstance(row, dict) for row in rows):
        found["results"] = rows
    for name in ("data", "settings"):
        if isinstance(content.get(name), dict) and content[name]:
            found[name] = content[name]
    if isinstance(content.get("teacher"), str):
        found["teacher"] = content["teacher"]
    return found


def write_card(directory: str | os.PathLike[str], facts: CardFacts) -> None:
    """Writes ``README.md`` beside a model."""
    (Path(directory) / CARD).write_text(model_card(facts), encoding="utf-8")
