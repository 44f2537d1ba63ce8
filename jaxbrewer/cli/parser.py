"""The parser of the command line: its commands, in the order of the help."""

import argparse
from typing import Any

from .._version import __version__
from . import commands, job_parsers, model_parsers
from .completion import SHELLS
from .parser_parts import (
    HelpFormatter,
    Parser,
    add_command,
    add_verbosity,
    examples_of,
    with_default,
)


def make_parser() -> argparse.ArgumentParser:
    """The parser of ``jaxbrewer``.

    Its result has the attributes ``run``, the function of the command, and ``takes_overrides``.
    """
    parser = Parser(
        prog="jaxbrewer",
        description="Knowledge distillation for JAX and Flax: models of text from one job file.",
        epilog=examples_of(
            "jaxbrewer demo", "jaxbrewer train job.yaml", "jaxbrewer distill job.yaml"
        ),
        formatter_class=HelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"jaxbrewer {__version__}")
    add_verbosity(parser)
    parser.set_defaults(run=lambda *_: parser.print_help(), takes_overrides=False, command=None)
    adder = parser.add_subparsers(dest="command", metavar="COMMAND")
    _add_demo(adder)
    job_parsers.add_training(
        adder,
        "train",
        commands.train,
        "fine-tune the teacher of a job on labels",
        "jaxbrewer train job.yaml --dry-run",
        "jaxbrewer train job.yaml --teacher.optimization.learning_rate 1e-4",
        "jaxbrewer train job.yaml --resume",
    )
    job_parsers.add_training(
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
    model_parsers.add_evaluate(adder)
    model_parsers.add_predict(adder)
    model_parsers.add_generate(adder)
    job_parsers.add_cache(adder)
    job_parsers.add_plan(adder)
    model_parsers.add_inspect(adder)
    job_parsers.add_study(adder)
    model_parsers.add_report(adder)
    model_parsers.add_export(adder)
    _add_completion(adder, parser)
    return parser


def _add_demo(adder: Any) -> None:
    demo = add_command(
        adder,
        "demo",
        commands.demo,
        "distil a real BERT on real text and compare it with what one would do without",
        "jaxbrewer demo",
        "jaxbrewer demo --large --output-dir runs/large",
    )
    demo.add_argument("--large", action="store_true", help="use twice the data")
    demo.add_argument("--output-dir", metavar="DIR", default="runs/demo", help=with_default())
    demo.add_argument("--seed", metavar="N", type=int, default=0, help=with_default())
    demo.add_argument("--overwrite", action="store_true", help="replace an earlier demo")


def _add_completion(adder: Any, parser: argparse.ArgumentParser) -> None:
    command = add_command(
        adder,
        "completion",
        commands.completion,
        "print a script that completes commands, flags and files in a shell",
        'eval "$(jaxbrewer completion bash)"',
        "jaxbrewer completion zsh > ~/.zfunc/_jaxbrewer",
    )
    command.set_defaults(parser=parser)
    command.add_argument("shell", choices=SHELLS, help="the shell")
