"""Model cards: ``README.md`` with the metadata that hubs read, from facts alone.

``model_card`` is a pure function of :class:`CardFacts`; ``directory_card`` collects these from a
saved model and from the results of its run.
"""

import dataclasses
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from .._version import __version__
from ..errors import UsageError
from ..json_files import conform, read_json
from ..models.config import TransformerConfig
from ..models.families import family_of
from ..models.model_directory import read_text_model
from ..models.model_types import BARE, NOT_IN_TRANSFORMERS
from ..models.pooling import MODULES
from ..run.results import RESULTS, Gain, of_task
from ..text.gain import describe_gain
from ..text.model import truncation_of
from .usage import usage

CARD = "README.md"
JAXBREWER = "jaxbrewer"
"""The library of models that ``transformers`` refuses."""
_SIZES = (
    "num_hidden_layers", "hidden_size", "num_attention_heads", "intermediate_size", "vocab_size",
)  # fmt: skip
_DATA = ("task", "train", "unlabelled", "validation", "test", "max_length")
_PARTS = {
    "teacher": ("teacher.", "training.seed"),
    "student": ("teacher.path", "student.", "distillation.", "training.seed"),
    "baseline": ("student.", "training.seed"),
}
"""The starts of the settings that made a model, by its role."""
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
        library: The library that reads the files, as hubs call it; only models for jaxbrewer
            alone have no ``pipeline_tag``.
        max_length: The number of tokens to which texts are cut; ``None`` if they are not.
        sizes: Sizes of the model, by their names.
        labels: The names of the classes.
        teacher: What the model was distilled from.
        data: What it was trained on, by name.
        settings: The settings of the training, by name.
        results: A table: each row has the same names.
        gain: A sentence that compares a student with labels alone.
        export: What ``export.json`` says of format, parity and versions; empty for a model that was
            saved, not exported.
        versions: Versions of libraries, by name.
    """

    name: str
    model_type: str
    task: str
    library: str = "transformers"
    max_length: int | None = None
    sizes: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    labels: Sequence[str] = ()
    teacher: str = ""
    data: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    settings: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    results: Sequence[Mapping[str, Any]] = ()
    gain: str = ""
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
        ## Usage
        ...
        ## Results
        <BLANKLINE>
        | model | accuracy |
        |---|---|
        | student | 0.91 |
        <BLANKLINE>
    """
    pipeline = _PIPELINES.get(facts.task, facts.task)
    front = {
        "library_name": facts.library,
        **({} if facts.library == JAXBREWER else {"pipeline_tag": pipeline}),
        "tags": [facts.model_type, "jaxbrewer", "knowledge-distillation"],
    }
    origin = f"distilled from {facts.teacher} with" if facts.teacher else "made with"
    parts = [
        f"---\n{yaml.safe_dump(front, sort_keys=False)}---\n# {_line(facts.name)}",
        f"A {facts.model_type} model for {facts.task}, {_line(origin)} jaxbrewer.",
    ]
    if facts.library == JAXBREWER:
        why = NOT_IN_TRANSFORMERS[facts.model_type]
        parts.append(
            f"`transformers` cannot load it ({why}). For other programs, export it with "
            "`jaxbrewer export MODEL --format onnx`."
        )
    if facts.max_length:
        parts.append(f"The longest input is {facts.max_length:,} tokens: longer texts are cut.")
    if facts.labels:
        parts.append(f"Classes: {_line(', '.join(facts.labels))}")
    format = facts.export.get("format", "")
    examples = usage(
        facts.task, facts.library, pipeline, format=format, max_length=facts.max_length
    )
    if examples:
        parts.append(f"## Usage\n\n`MODEL` stands for this directory.\n\n{examples}")
    if facts.sizes:
        parts.append(_section("Size", facts.sizes))
    if facts.results:
        parts.append("## Results\n\n" + _table(facts.results))
    if facts.gain:
        parts.append(_line(facts.gain))
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
            "longest input": _longest(export.get("max_length"), export["longest_input"]),
            "largest difference from the model": f"{parity['max_abs_difference']:.2g}",
            "largest output": f"{parity['largest_output']:.3g}",
            "same prediction": f"{parity['same_argmax']:.2%}",
            "compared on": f"{parity['rows']} texts, {parity['tokens']} tokens",
        },
    )


def _longest(max_length: int | None, longest: int | None) -> str:
    if max_length in (None, longest):
        return f"{longest or 'any number of'} tokens"
    return f"{max_length} tokens, of {longest or 'any number of'} that the program accepts"


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
    config: TransformerConfig,
    *,
    task: str,
    parameters: int,
    library: str = "transformers",
    max_length: int | None = None,
    export: Mapping[str, Any] | None = None,
    run: Mapping[str, Any] | None = None,
) -> CardFacts:
    """The facts of a model.

    Args:
        config: Its config.
        task: What it does.
        parameters: Its number of weights.
        library: The library that reads the files.
        max_length: The number of tokens to which texts are cut.
        export: The content of ``export.json``.
        run: What :func:`run_facts` found: further fields of :class:`CardFacts`.
    """
    sizes = {name: getattr(config, name) for name in _SIZES if hasattr(config, name)}
    named = "classification" in task
    return CardFacts(
        **{
            "name": f"{config.model_type} for {task}",
            "versions": export["versions"] if export else {"jaxbrewer": __version__},
            **(run or {}),
        },
        model_type=config.model_type,
        task=task,
        library=library,
        max_length=max_length,
        sizes={"parameters": parameters, **sizes},
        labels=getattr(config, "labels", None) or () if named else (),
        export=export or {},
    )


def directory_card(directory: Path) -> CardFacts:
    """The facts of a saved model, with those of its run where it has results.

    Raises:
        UsageError: It is no model directory, or is of an unknown family.
    """
    source = read_text_model(directory)
    family = family_of(source.model_type)
    head = family.head_for(source.model_type, source.fields.get("architectures"))
    task, library = BARE if head is None else head.task, "transformers"
    if source.model_type in NOT_IN_TRANSFORMERS:
        library = JAXBREWER
    elif task == BARE and os.path.isfile(directory / MODULES):
        task, library = "sentence-similarity", "sentence-transformers"
    truncation = truncation_of(directory, task, source.longest)
    return card_of(
        family.config.from_dict(source.fields),
        task=task,
        parameters=sum(tensor.numbers for tensor in source.tensors.values()),
        library=library,
        max_length=None if truncation.strategy is None else truncation.max_length,
        run=run_facts(directory),
    )


def run_facts(directory: Path) -> dict[str, Any]:
    """The results, data and settings of the run that made a model: fields of :class:`CardFacts`.

    Reads ``results.json`` in the directory above the model's, or, for the model of one of several
    tasks, ``model/<task>``, in the one above that. A card is no reason to fail: a file of another
    shape is skipped, and so are entries that a card has no place for.

    Args:
        directory: The model's directory.
    """
    model = directory.resolve()
    results = _results_in(model.parent)
    if results is None and model.parent.name == "model":
        results = of_task(_results_in(model.parent.parent) or {}, model.name)
    if results is None:
        return {}
    rows, settings, test = (results.get(key) for key in ("rows", "settings", "test"))
    found: dict[str, Any] = {}
    if isinstance(rows, dict) and all(isinstance(row, dict) for row in rows.values()):
        found["results"] = [{"model": name, **_scores(row)} for name, row in rows.items()]
        found["gain"] = _gain(rows.get("student", {}), str(results.get("main_metric")))
    if isinstance(settings, dict):
        parts = _PARTS.get(str(results.get("role")), _PARTS["teacher"])
        given, teacher = _given(settings), settings.get("teacher")
        found["settings"] = {n: value for n, value in given.items() if n.startswith(parts)}
        columns = _given(settings.get("data", {}))
        data = {name: columns[name] for name in _DATA if name in columns}
        if results.get("role") != "student":  # others are trained on labels alone
            data.pop("unlabelled", None)
        if isinstance(test, dict) and "examples" in test:
            data["test examples"] = test["examples"]
        found["data"] = data
        if results.get("role") == "student" and isinstance(teacher, dict) and teacher.get("path"):
            found["teacher"] = Path(str(teacher["path"])).name
    if isinstance(results.get("environment"), dict):
        found["versions"] = {
            name: value
            for name, value in results["environment"].items()
            if isinstance(value, str) and name in ("python", "jaxbrewer", "jax", "flax", "optax")
        }
    return {name: value for name, value in found.items() if value}


def _results_in(run: Path) -> dict[str, Any] | None:
    """The content of ``results.json`` in a directory; ``None`` if there is none to read."""
    if not os.path.isfile(run / RESULTS):
        return None
    try:
        return read_json(run / RESULTS, dict[str, Any])
    except UsageError:
        return None


def _scores(row: Mapping[str, Any]) -> dict[str, Any]:
    """A model's metrics and costs, as a row of the table."""
    metrics, intervals = row.get("metrics", {}), row.get("intervals", {})
    cells: dict[str, Any] = {}
    for name, value in metrics.items():
        low, high = (*(intervals.get(name) or ()), None, None)[:2]
        bounds = "" if None in (low, high) else f" [{low:.3f}, {high:.3f}]"
        cells[name] = "" if value is None else f"{value:.4f}{bounds}"
    if "parameters" in row:
        cells["parameters"] = row["parameters"]
    if isinstance(row.get("bytes"), int):
        cells["MB"] = f"{row['bytes'] / 1e6:.1f}"
    return cells


def _gain(row: Mapping[str, Any], metric: str) -> str:
    """What the student gained over labels alone; empty where that is not known."""
    try:
        return describe_gain(conform(row["gain"], Gain, "gain"), metric) if "gain" in row else ""
    except UsageError:
        return ""


def _given(settings: Any, prefix: str = "") -> dict[str, Any]:
    """The settings that have a value, by their dotted paths."""
    found: dict[str, Any] = {}
    for name, value in settings.items() if isinstance(settings, dict) else ():
        path = f"{prefix}{name}"
        if isinstance(value, dict) and value:
            found |= _given(value, f"{path}.")
        elif value not in (None, "", [], {}):
            found[path] = value
    return found


def write_card(directory: str | os.PathLike[str], facts: CardFacts) -> None:
    """Writes ``README.md`` beside a model.

    Args:
        directory: The model's directory.
        facts: What the card says.
    """
    (Path(directory) / CARD).write_text(model_card(facts), encoding="utf-8")
