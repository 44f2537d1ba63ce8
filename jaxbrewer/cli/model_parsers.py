"""The parsers of the commands that take models and runs: evaluate, predict, export, inspect, ..."""

import argparse
from typing import Any

from ..export.formats import FORMAT_NAMES
from . import commands
from .parser_parts import add_command, with_default


def add_evaluate(adder: Any) -> None:
    """Adds ``evaluate``."""
    evaluate = add_command(
        adder,
        "evaluate",
        commands.evaluate,
        "score a model, or the models of a job, on labelled texts",
        "jaxbrewer evaluate job.yaml",
        "jaxbrewer evaluate runs/job/student/model test.tsv --teacher runs/job/teacher/model",
        "jaxbrewer evaluate runs/job/student/model pairs.csv --text premise --text-pair hypothesis",
        takes_overrides=True,
    )
    evaluate.add_argument("path", metavar="MODEL_OR_JOB", help="a model directory or a job")
    evaluate.add_argument(
        "file", metavar="FILE", nargs="?", help="labelled texts (default: data.test of the job)"
    )
    evaluate.add_argument("--teacher", metavar="DIR", help="a model to compare the model with")
    results = evaluate.add_argument_group("results")
    results.add_argument(
        "--per-class", action="store_true", help="show the metrics of each class too"
    )
    results.add_argument(
        "--selective",
        metavar="RATE",
        type=float,
        help="find the confidence above which the student agrees with the teacher at this rate",
    )
    results.add_argument("--json", action="store_true", help="print JSON in place of the table")
    results.add_argument("--output", metavar="FILE", help="also write the JSON to a file")
    _add_columns(evaluate).add_argument(
        "--label", metavar="COLUMN", help="the label (default: label)"
    )
    _add_batches(evaluate)


def add_predict(adder: Any) -> None:
    """Adds ``predict``."""
    predict = add_command(
        adder,
        "predict",
        commands.predict,
        "print what a model predicts for each text, as a line of JSON",
        "jaxbrewer predict runs/job/student/model texts.csv --output predictions.jsonl",
        "jaxbrewer predict runs/job/student/model -",
        takes_overrides=True,
    )
    predict.add_argument("model", metavar="MODEL", help="a model directory")
    predict.add_argument(
        "file", metavar="FILE", help="texts, or - for JSONL or plain lines of standard input"
    )
    predict.add_argument("--output", metavar="FILE", help="write to a file")
    _add_columns(predict)
    _add_batches(predict)


def add_generate(adder: Any) -> None:
    """Adds ``generate``."""
    generate = add_command(
        adder,
        "generate",
        commands.generate,
        "continue prompts and answer conversations with a decoder",
        'jaxbrewer generate runs/job/student/model --prompt "A whale is"',
        "jaxbrewer generate smollm2 --file chats.jsonl --temperature 0.8 --top-p 0.95",
    )
    generate.add_argument("model", metavar="MODEL", help="a model directory")
    generate.add_argument("--prompt", metavar="TEXT", help="the text to continue")
    generate.add_argument(
        "--file",
        metavar="FILE",
        help="rows with 'messages', 'prompt' or 'text'; prints a line of JSON for each",
    )
    sampling = generate.add_argument_group("sampling")
    sampling.add_argument(
        "--max-new-tokens", type=int, default=128, metavar="N", help=with_default("tokens at most")
    )
    sampling.add_argument(
        "--temperature", type=float, default=0.0, metavar="T",
        help=with_default("softens the distribution; 0 takes the likeliest token"),
    )  # fmt: skip
    sampling.add_argument(
        "--top-k", type=int, metavar="N", help="draw among the N likeliest tokens"
    )
    sampling.add_argument(
        "--top-p", type=float, metavar="P", help="draw among the likeliest with this probability"
    )
    sampling.add_argument(
        "--seed", type=int, default=0, metavar="N", help=with_default("of the draws")
    )


def _add_columns(command: argparse.ArgumentParser) -> Any:
    columns = command.add_argument_group("columns of the file")
    columns.add_argument(
        "--task", metavar="TASK", help="the task (default: that of the job or of the model's head)"
    )
    columns.add_argument("--text", metavar="COLUMN", help="the text (default: text)")
    columns.add_argument("--text-pair", metavar="COLUMN", help="the second text (default: none)")
    return columns


def _add_batches(command: argparse.ArgumentParser) -> None:
    batches = command.add_argument_group("batches")
    batches.add_argument(
        "--max-length",
        type=int,
        metavar="TOKENS",
        help="longer texts are cut (default: that of the training)",
    )
    batches.add_argument(
        "--batch-size", type=int, default=64, metavar="N", help=with_default("texts per batch")
    )


def add_export(adder: Any) -> None:
    """Adds ``export``."""
    export = add_command(
        adder,
        "export",
        commands.export,
        "write a model for another runtime, and compare the result with the model",
        "jaxbrewer export runs/job/student/model --format onnx --int8",
        "jaxbrewer export runs/job/student/model --format stablehlo --texts test.tsv",
        "jaxbrewer export runs/job/student/model --format onnx --output DIR --verify-only",
    )
    export.add_argument("model", metavar="MODEL", help="a model directory")
    export.add_argument("--format", metavar="FORMAT", required=True, help=" | ".join(FORMAT_NAMES))
    export.add_argument(
        "--output", metavar="DIR", help="the directory to make (default: MODEL-FORMAT beside it)"
    )
    export.add_argument("--int8", action="store_true", help="quantize the weights (onnx)")
    pooling = export.add_argument("--pooling", metavar="KIND")
    export.complete_help = lambda: _list_poolings(pooling)
    export.add_argument("--overwrite", action="store_true", help="replace an earlier export")
    comparison = export.add_argument_group("comparison")
    comparison.add_argument(
        "--texts", metavar="FILE", help="texts to compare on (default: a few sentences)"
    )
    comparison.add_argument(
        "--text", metavar="COLUMN", default="text", help=with_default("the column of the texts")
    )
    comparison.add_argument(
        "--verify-only", action="store_true", help="compare an export that is there; write nothing"
    )


def _list_poolings(argument: argparse.Action) -> None:
    from ..configs.data import POOLINGS

    argument.help = "export embeddings of texts: " + " | ".join(POOLINGS)


def add_inspect(adder: Any) -> None:
    """Adds ``inspect``."""
    inspect = add_command(
        adder,
        "inspect",
        commands.inspect,
        "show a model, a run, or every field of a job",
        "jaxbrewer inspect runs/job/student/model",
        "jaxbrewer inspect job.yaml",
        takes_overrides=True,
    )
    inspect.add_argument("path", metavar="PATH", help="a model or run directory, or a job")


def add_report(adder: Any) -> None:
    """Adds ``report``."""
    report = add_command(
        adder,
        "report",
        commands.report,
        "write one HTML page about runs: curves, results, settings",
        "jaxbrewer report runs/job",
        "jaxbrewer report runs/first/student runs/second/student --output compared.html",
    )
    report.add_argument(
        "paths", metavar="RUN", nargs="+", help="a run, a study, or a directory that holds some"
    )
    report.add_argument("--output", metavar="FILE", default="report.html", help=with_default())
    report.add_argument("--title", metavar="TEXT", help="its title (default: the runs)")
