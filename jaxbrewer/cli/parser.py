"""The command line's commands and flags, with their help."""

import argparse
import functools
from collections.abc import Callable, Sequence
from typing import Any, NoReturn, Self

from .._version import __version__
from ..errors import UsageError
from ..export.formats import FORMAT_NAMES
from . import commands
from .completion import SHELLS
from .messages import Verbosity
from .shown_fields import FIELDS

Run = Callable[[argparse.Namespace, Sequence[str]], None]

_JOB = "a YAML or JSON file (docs/command-line.md)"
_OVERRIDES = """\
Every field of the job can be set as --section.field VALUE; values are read as YAML.
`jaxbrewer inspect JOB` lists all fields with their values."""


class Parser(argparse.ArgumentParser):
    """Raises :class:`UsageError` where argparse would print its usage and exit.

    Attributes:
        complete_help: Adds what only the help has. It needs the configs, whose import takes
            longer than everything else here, so it is called where the help is shown.
    """

    complete_help: Callable[[], None] | None = None

    def with_help(self) -> Self:
        """This parser with its whole help."""
        if self.complete_help is not None:
            self.complete_help()
            self.complete_help = None
        return self

    def format_help(self) -> str:
        """The whole help."""
        self.with_help()
        return super().format_help()

    def error(self, message: str) -> NoReturn:
        """Raises the error."""
        shown = message if len(message) <= 300 else f"{message[:297]}..."
        raise UsageError(f"{shown} (see {self.prog} --help)")


class _HelpFormatter(argparse.RawDescriptionHelpFormatter):
    """Keeps the examples line by line."""

    def __init__(self, prog: str):
        super().__init__(prog, max_help_position=40, width=100)


def make_parser() -> argparse.ArgumentParser:
    """The parser of ``jaxbrewer``.

    Its result has the attributes ``run``, the function of the command, and ``takes_overrides``.
    """
    parser = Parser(
        prog="jaxbrewer",
        description="Knowledge distillation for JAX and Flax: models of text from one job file.",
        epilog=_examples(
            "jaxbrewer demo", "jaxbrewer train job.yaml", "jaxbrewer distill job.yaml"
        ),
        formatter_class=_HelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"jaxbrewer {__version__}")
    _add_verbosity(parser)
    parser.set_defaults(run=lambda *_: parser.print_help(), takes_overrides=False, command=None)
    adder = parser.add_subparsers(dest="command", metavar="COMMAND")
    _add_demo(adder)
    _add_training(
        adder,
        "train",
        commands.train,
        "fine-tune the teacher of a job on labels",
        "jaxbrewer train job.yaml --dry-run",
        "jaxbrewer train job.yaml --teacher.optimization.learning_rate 1e-4",
        "jaxbrewer train job.yaml --resume",
    )
    _add_training(
        adder,
        "distill",
        commands.distill,
        "distil the teacher of a job into its student",
        "jaxbrewer distill job.yaml --dry-run",
        "jaxbrewer distill job.yaml --distillation.temperature 4 --student.layers '[0, 2, 4]'",
        "jaxbrewer distill job.yaml --baseline",
        "jaxbrewer distill job.yaml --resume",
        baseline=True,
    )
    _add_evaluate(adder)
    _add_predict(adder)
    _add_generate(adder)
    _add_cache(adder)
    _add_plan(adder)
    _add_inspect(adder)
    _add_study(adder)
    _add_report(adder)
    _add_export(adder)
    _add_completion(adder, parser)
    return parser


def _examples(*lines: str, overrides: bool = False) -> str:
    text = "\n".join(["examples:", *(f"  {line}" for line in lines)])
    return f"{_OVERRIDES}\n\n{text}" if overrides else text


def _add(
    adder: Any,
    name: str,
    run: Run,
    does: str,
    *examples: str,
    takes_overrides: bool = False,
    usage: str | None = None,
) -> Parser:
    """Adds a command; ``does`` completes the sentence "this command will ..."."""
    command: Parser = adder.add_parser(
        name,
        help=does,
        usage=usage,
        description=does[0].upper() + does[1:] + ".",
        epilog=_examples(*examples, overrides=takes_overrides),
        formatter_class=_HelpFormatter,
        allow_abbrev=False,
    )
    command.set_defaults(run=run, takes_overrides=takes_overrides)
    _add_verbosity(command)
    return command


def _add_verbosity(parser: argparse.ArgumentParser) -> None:
    """Adds ``--quiet`` and ``--verbose``, which may stand before and after the command."""
    group = parser.add_argument_group("messages").add_mutually_exclusive_group()
    for flag, value, does in (
        ("quiet", Verbosity.QUIET, "print results, warnings and errors only"),
        ("verbose", Verbosity.VERBOSE, "print times, the place of warnings, tracebacks of errors"),
    ):
        group.add_argument(
            f"-{flag[0]}",
            f"--{flag}",
            dest="verbosity",
            action="store_const",
            const=value,
            default=argparse.SUPPRESS,
            help=does,
        )


def _add_demo(adder: Any) -> None:
    demo = _add(
        adder,
        "demo",
        commands.demo,
        "distil a real BERT on real text and compare it with what one would do without",
        "jaxbrewer demo",
        "jaxbrewer demo --large --output-dir runs/large",
    )
    demo.add_argument("--large", action="store_true", help="use twice the data")
    demo.add_argument("--output-dir", metavar="DIR", default="runs/demo", help=_default())
    demo.add_argument("--seed", metavar="N", type=int, default=0, help=_default())
    demo.add_argument("--overwrite", action="store_true", help="replace an earlier demo")


def _default(text: str = "") -> str:
    return f"{text} (default: %(default)s)".strip()


def _add_training(
    adder: Any, name: str, run: Run, does: str, *examples: str, baseline: bool = False
) -> None:
    flags = "[--dry-run] [--resume]" + " [--baseline]" * baseline
    usage = f"jaxbrewer {name} JOB {flags} [--section.field VALUE ...]"
    command = _add(adder, name, run, does, *examples, takes_overrides=True, usage=usage)
    command.add_argument("job", metavar="JOB", help=_JOB)
    running = command.add_argument_group("running")
    running.add_argument(
        "--dry-run", action="store_true", help="check everything; train and write nothing"
    )
    running.add_argument(
        "--resume", action="store_true", help="resume an interrupted run from its last checkpoint"
    )
    if baseline:
        running.add_argument(
            "--baseline",
            action="store_true",
            help="also train the same student on labels alone, for as many steps",
        )
    running.add_argument(
        "--distributed",
        action="store_true",
        help="train together with other processes (docs/scaling.md)",
    )
    command.complete_help = lambda: _add_fields(command, name)


def _add_fields(command: Parser, name: str) -> None:
    for title, fields in FIELDS[name].items():
        group = command.add_argument_group(f"fields of the job: {title}")
        for field, (metavar, meaning) in fields.items():
            # Overrides are split off before argparse: these entries only appear in the help.
            group.add_argument(f"--{field}", metavar=metavar, help=meaning + _job_default(field))


def _job_default(field: str) -> str:
    """The default of a field of the job, if it has one, as the help shows it."""
    import json

    from .config import section_defaults
    from .job_defaults import is_set_by_task

    if is_set_by_task(field):
        return " (default: auto)"
    section, *names = field.split(".")
    value: Any = functools.reduce(getattr, names, section_defaults()[section])
    is_set = value is not None and value != () and value != {}
    return f" (default: {json.dumps(value)})".replace('"', "") if is_set else ""


def _add_evaluate(adder: Any) -> None:
    evaluate = _add(
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


def _add_predict(adder: Any) -> None:
    predict = _add(
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


def _add_generate(adder: Any) -> None:
    generate = _add(
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
        "--max-new-tokens", type=int, default=128, metavar="N", help=_default("tokens at most")
    )
    sampling.add_argument(
        "--temperature", type=float, default=0.0, metavar="T",
        help=_default("softens the distribution; 0 takes the likeliest token"),
    )  # fmt: skip
    sampling.add_argument(
        "--top-k", type=int, metavar="N", help="draw among the N likeliest tokens"
    )
    sampling.add_argument(
        "--top-p", type=float, metavar="P", help="draw among the likeliest with this probability"
    )
    sampling.add_argument("--seed", type=int, default=0, metavar="N", help=_default("of the draws"))


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
        "--batch-size", type=int, default=64, metavar="N", help=_default("texts per batch")
    )


def _add_cache(adder: Any) -> None:
    cache = _add(
        adder,
        "cache",
        commands.cache,
        "run the teacher of a job once and keep its outputs on disk",
        "jaxbrewer cache build job.yaml --training.cache_dir runs/cache",
        "jaxbrewer distill job.yaml --training.cache_dir runs/cache",
    )
    cache.set_defaults(print_help=cache.print_help, action=None)
    actions = cache.add_subparsers(dest="action", metavar="ACTION")
    build = _add(
        actions,
        "build",
        commands.build_cache,
        "run the teacher over a job's training texts",
        "jaxbrewer cache build job.yaml --training.cache_dir runs/cache",
        "jaxbrewer cache build job.yaml --training.cache_dir runs/small --storage top_k --k 8",
        takes_overrides=True,
    )
    build.add_argument("job", metavar="JOB", help=f"{_JOB} with training.cache_dir")
    storage = build.add_argument_group("storage")
    storage.add_argument(
        "--storage",
        choices=("full", "float16", "top_k", "sampled"),
        default="full",
        help=_default(
            "full numbers, float16, only the largest logits, or these and samples of the others"
        ),
    )
    storage.add_argument(
        "--k", type=int, default=64, metavar="N", help=_default("top_k, sampled: number of logits")
    )
    storage.add_argument(
        "--bits", type=int, default=8, metavar="N", help=_default("top_k, sampled: bits per logit")
    )
    storage.add_argument(
        "--samples", type=int, default=16, metavar="N", help=_default("sampled: number of draws")
    )
    build.add_argument(
        "--batch-size", type=int, default=64, metavar="N", help=_default("texts per batch")
    )
    import_ = _add(
        actions,
        "import",
        commands.import_cache,
        "store log-probabilities that were computed elsewhere: vLLM, OpenAI, Parquet",
        "jaxbrewer cache import job.yaml scores.jsonl --training.cache_dir runs/cache",
        takes_overrides=True,
    )
    import_.add_argument("job", metavar="JOB", help=f"{_JOB} with training.cache_dir")
    import_.add_argument(
        "files", metavar="FILE", nargs="+", help="JSONL or Parquet (docs/cache.md)"
    )
    import_.add_argument("--k", type=int, metavar="N", help="candidates per token that are kept")
    import_.add_argument(
        "--bits", type=int, default=8, metavar="N", help=_default("bits per candidate")
    )
    import_.add_argument(
        "--batch-size",
        type=int,
        default=64,
        metavar="N",
        help=_default("that of the build whose records are to be equal; trainings read any"),
    )
    export = _add(
        actions,
        "export",
        commands.export_cache,
        "write a cache's largest logits to Parquet",
        "jaxbrewer cache export job.yaml scores.parquet --training.cache_dir runs/cache",
        takes_overrides=True,
    )
    export.add_argument("job", metavar="JOB", help=f"{_JOB} with training.cache_dir")
    export.add_argument("file", metavar="FILE", help="the file to write")
    for name, run, does in (
        ("verify", commands.verify_cache, "read every record and compare its checksum"),
        ("stat", commands.stat_cache, "show what a cache holds, its size and its error"),
    ):
        action = _add(actions, name, run, does, f"jaxbrewer cache {name} runs/cache")
        action.add_argument("directory", metavar="DIR", help="a teacher cache")


def _add_plan(adder: Any) -> None:
    plan = _add(
        adder,
        "plan",
        commands.plan,
        "estimate the memory and work of a distillation per device, without running it",
        "jaxbrewer plan job.yaml",
        "jaxbrewer plan job.yaml --devices 8 --training.mesh '{fsdp: 8}'",
        takes_overrides=True,
    )
    plan.add_argument("job", metavar="JOB", help=_JOB)
    plan.add_argument(
        "--devices", type=int, metavar="N", help="simulate N devices (default: those that are here)"
    )


def _add_inspect(adder: Any) -> None:
    inspect = _add(
        adder,
        "inspect",
        commands.inspect,
        "show a model, a run, or every field of a job",
        "jaxbrewer inspect runs/job/student/model",
        "jaxbrewer inspect job.yaml",
        takes_overrides=True,
    )
    inspect.add_argument("path", metavar="PATH", help="a model or run directory, or a job")


def _add_study(adder: Any) -> None:
    study = _add(
        adder,
        "study",
        commands.study,
        "find out whether distillation pays on the data of a job, over several seeds",
        "jaxbrewer study job.yaml --dry-run",
        "jaxbrewer study job.yaml --seeds 5 --temperatures 1 4 --labels 100 300",
        takes_overrides=True,
    )
    study.add_argument("job", metavar="JOB", help=_JOB)
    study.add_argument(
        "--dry-run", action="store_true", help="check everything; train and write nothing"
    )
    arms = study.add_argument_group("arms")
    arms.add_argument(
        "--seeds", type=int, default=3, metavar="N", help=_default("seeds of each arm")
    )
    arms.add_argument(
        "--temperatures",
        type=float,
        nargs="+",
        default=[],
        metavar="T",
        help="further temperatures",
    )
    arms.add_argument(
        "--labels",
        type=int,
        nargs="+",
        default=[],
        metavar="N",
        help="numbers of labelled examples for a learning curve",
    )
    study.add_argument(
        "--resamplings", type=int, default=1000, metavar="N", help=_default("bootstrap samples")
    )


def _add_report(adder: Any) -> None:
    report = _add(
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
    report.add_argument("--output", metavar="FILE", default="report.html", help=_default())
    report.add_argument("--title", metavar="TEXT", help="its title (default: the runs)")


def _add_completion(adder: Any, parser: argparse.ArgumentParser) -> None:
    command = _add(
        adder,
        "completion",
        commands.completion,
        "print a script that completes commands, flags and files in a shell",
        'eval "$(jaxbrewer completion bash)"',
        "jaxbrewer completion zsh > ~/.zfunc/_jaxbrewer",
    )
    command.set_defaults(parser=parser)
    command.add_argument("shell", choices=SHELLS, help="the shell")


def _add_export(adder: Any) -> None:
    export = _add(
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
        "--text", metavar="COLUMN", default="text", help=_default("the column of the texts")
    )
    comparison.add_argument(
        "--verify-only", action="store_true", help="compare an export that is there; write nothing"
    )


def _list_poolings(argument: argparse.Action) -> None:
    from ..configs.data import POOLINGS

    argument.help = "export embeddings of texts: " + " | ".join(POOLINGS)
