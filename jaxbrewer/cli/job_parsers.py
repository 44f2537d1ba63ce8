"""The parsers of the commands that take a job: train, distill, cache, plan, study."""

import functools
from typing import Any

from . import commands
from .parser_parts import Parser, Run, add_command, with_default
from .shown_fields import FIELDS

JOB = "a YAML or JSON file (docs/command-line.md)"


def add_training(
    adder: Any, name: str, run: Run, does: str, *examples: str, baseline: bool = False
) -> None:
    """Adds ``train`` or ``distill``; the fields of the job are listed when the help is shown."""
    flags = "[--dry-run] [--resume]" + " [--baseline]" * baseline
    usage = f"jaxbrewer {name} JOB {flags} [--section.field VALUE ...]"
    command = add_command(adder, name, run, does, *examples, takes_overrides=True, usage=usage)
    command.add_argument("job", metavar="JOB", help=JOB)
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


def add_cache(adder: Any) -> None:
    """Adds ``cache`` and its actions."""
    cache = add_command(
        adder,
        "cache",
        commands.cache,
        "run the teacher of a job once and keep its outputs on disk",
        "jaxbrewer cache build job.yaml --training.cache_dir runs/cache",
        "jaxbrewer distill job.yaml --training.cache_dir runs/cache",
    )
    cache.set_defaults(print_help=cache.print_help, action=None)
    actions = cache.add_subparsers(dest="action", metavar="ACTION")
    build = add_command(
        actions,
        "build",
        commands.build_cache,
        "run the teacher over a job's training texts",
        "jaxbrewer cache build job.yaml --training.cache_dir runs/cache",
        "jaxbrewer cache build job.yaml --training.cache_dir runs/small --storage top_k --k 8",
        takes_overrides=True,
    )
    build.add_argument("job", metavar="JOB", help=f"{JOB} with training.cache_dir")
    storage = build.add_argument_group("storage")
    storage.add_argument(
        "--storage",
        choices=("full", "float16", "top_k", "sampled"),
        default="full",
        help=with_default(
            "full numbers, float16, only the largest logits, or these and samples of the others"
        ),
    )
    storage.add_argument(
        "--k",
        type=int,
        default=64,
        metavar="N",
        help=with_default("top_k, sampled: number of logits"),
    )
    storage.add_argument(
        "--bits",
        type=int,
        default=8,
        metavar="N",
        help=with_default("top_k, sampled: bits per logit"),
    )
    storage.add_argument(
        "--samples",
        type=int,
        default=16,
        metavar="N",
        help=with_default("sampled: number of draws"),
    )
    build.add_argument(
        "--batch-size", type=int, default=64, metavar="N", help=with_default("texts per batch")
    )
    import_ = add_command(
        actions,
        "import",
        commands.import_cache,
        "store log-probabilities that were computed elsewhere: vLLM, OpenAI, Parquet",
        "jaxbrewer cache import job.yaml scores.jsonl --training.cache_dir runs/cache",
        takes_overrides=True,
    )
    import_.add_argument("job", metavar="JOB", help=f"{JOB} with training.cache_dir")
    import_.add_argument(
        "files", metavar="FILE", nargs="+", help="JSONL or Parquet (docs/cache.md)"
    )
    import_.add_argument("--k", type=int, metavar="N", help="candidates per token that are kept")
    import_.add_argument(
        "--bits", type=int, default=8, metavar="N", help=with_default("bits per candidate")
    )
    import_.add_argument(
        "--batch-size",
        type=int,
        default=64,
        metavar="N",
        help=with_default("that of the build whose records are to be equal; trainings read any"),
    )
    export = add_command(
        actions,
        "export",
        commands.export_cache,
        "write a cache's largest logits to Parquet",
        "jaxbrewer cache export job.yaml scores.parquet --training.cache_dir runs/cache",
        takes_overrides=True,
    )
    export.add_argument("job", metavar="JOB", help=f"{JOB} with training.cache_dir")
    export.add_argument("file", metavar="FILE", help="the file to write")
    for name, run, does in (
        ("verify", commands.verify_cache, "read every record and compare its checksum"),
        ("stat", commands.stat_cache, "show what a cache holds, its size and its error"),
    ):
        action = add_command(actions, name, run, does, f"jaxbrewer cache {name} runs/cache")
        action.add_argument("directory", metavar="DIR", help="a teacher cache")


def add_plan(adder: Any) -> None:
    """Adds ``plan``."""
    plan = add_command(
        adder,
        "plan",
        commands.plan,
        "estimate the memory and work of a distillation per device, without running it",
        "jaxbrewer plan job.yaml",
        "jaxbrewer plan job.yaml --devices 8 --training.mesh '{fsdp: 8}'",
        takes_overrides=True,
    )
    plan.add_argument("job", metavar="JOB", help=JOB)
    plan.add_argument(
        "--devices", type=int, metavar="N", help="simulate N devices (default: those that are here)"
    )


def add_study(adder: Any) -> None:
    """Adds ``study``."""
    study = add_command(
        adder,
        "study",
        commands.study,
        "find out whether distillation pays on the data of a job, over several seeds",
        "jaxbrewer study job.yaml --dry-run",
        "jaxbrewer study job.yaml --seeds 5 --temperatures 1 4 --labels 100 300",
        "jaxbrewer study job.yaml --arms distilled-unlabelled",
        takes_overrides=True,
    )
    study.add_argument("job", metavar="JOB", help=JOB)
    study.add_argument(
        "--dry-run", action="store_true", help="check everything; train and write nothing"
    )
    arms = study.add_argument_group("arms")
    arms.add_argument(
        "--seeds", type=int, default=3, metavar="N", help=with_default("seeds of each arm")
    )
    arms.add_argument(
        "--arms",
        nargs="+",
        metavar="ARM",
        help="the arms to run beside labels alone, by their names (default: all)",
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
        "--resamplings", type=int, default=1000, metavar="N", help=with_default("bootstrap samples")
    )
