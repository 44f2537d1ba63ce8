"""The command line: ``jaxbrewer demo | train | distill | plan | evaluate | cache | inspect``.

Nothing here imports JAX, and a command does so only when its files and settings are checked, so
that help and errors come at once.
"""

import argparse
import contextlib
import logging
import os
import sys
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NoReturn

from .._version import __version__
from ..errors import UsageError

BAD_INPUT, INTERRUPTED, BROKEN_PIPE = 2, 130, 141


def main(argv: Sequence[str] | None = None) -> int:
    """Runs a command.

    Args:
        argv: The words after ``jaxbrewer``; by default those of the process.

    Returns:
        The exit status: 0; 2 for bad input, which one line on standard error explains; 130 if
        interrupted. What is none of these is a bug and keeps its traceback.

    Raises:
        Preempted: SIGTERM ended a training, after a checkpoint; the exit status is 143.
    """
    try:
        with _plain_messages():
            try:
                _run(sys.argv[1:] if argv is None else argv)
            finally:
                sys.stdout.flush()
    except UsageError as error:
        _tell(error)
        return BAD_INPUT
    except KeyboardInterrupt:
        print("jaxbrewer: interrupted", file=sys.stderr)
        if argv is None:  # our own process, which JAX may crash if it ends with a step under way
            with contextlib.suppress(BrokenPipeError):
                sys.stdout.flush()
            sys.stderr.flush()
            os._exit(INTERRUPTED)
        return INTERRUPTED
    except BrokenPipeError:  # the reader of our output has gone
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return BROKEN_PIPE
    return 0


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise UsageError(f"{message} (see {self.prog} --help)")


def _run(words: Sequence[str]) -> None:
    from .config import split_overrides

    words, overrides = split_overrides(words)
    arguments = _parser().parse_args(words)
    if overrides and not arguments.takes_overrides:
        raise UsageError(f"{overrides[0]}: `jaxbrewer {arguments.command}` takes no overrides.")
    arguments.run(arguments, overrides)


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="jaxbrewer", description="Knowledge distillation for JAX and Flax.", allow_abbrev=False
    )
    parser.add_argument("--version", action="version", version=f"jaxbrewer {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    def add(name: str, run: Any, does: str, *, takes_overrides: bool = True) -> Any:
        epilog = (
            "Any field of the job can be set: --section.field VALUE, such as "
            "--distillation.temperature 8. Values are read as YAML."
        )
        command = commands.add_parser(
            name,
            help=does,
            description=does[0].upper() + does[1:] + ".",
            epilog=epilog if takes_overrides else None,
            allow_abbrev=False,
        )
        command.set_defaults(run=run, takes_overrides=takes_overrides)
        return command

    demo = add("demo", _demo, "distil a real BERT on real text", takes_overrides=False)
    demo.add_argument("--large", action="store_true", help="twice the data")
    demo.add_argument("--output-dir", default="runs/demo", help="default: %(default)s")
    demo.add_argument("--seed", type=int, default=0, help="default: %(default)s")
    demo.add_argument("--overwrite", action="store_true", help="replace an earlier demo")
    for name, run, does in (
        ("train", _train, "fine-tune the teacher of a job on labels"),
        ("distill", _distill, "distil the teacher of a job into its student"),
    ):
        command = add(name, run, does)
        command.add_argument("job", metavar="JOB", help="a YAML or JSON file")
        command.add_argument(
            "--dry-run", action="store_true", help="check everything, train and write nothing"
        )
        command.add_argument(
            "--distributed",
            action="store_true",
            help="train with other processes, as the environment says (docs/scaling.md)",
        )
        command.add_argument(
            "--resume", action="store_true", help="go on where an interrupted run was left"
        )
    plan = add("plan", _plan, "show what a distillation needs of each device, without running it")
    plan.add_argument("job", metavar="JOB", help="a YAML or JSON file")
    plan.add_argument(
        "--devices", type=int, metavar="N", help="compile for so many fake CPU devices"
    )
    evaluate = add("evaluate", _evaluate, "score a model, or the models of a job")
    evaluate.add_argument("path", metavar="MODEL_OR_JOB", help="a model directory or a job")
    evaluate.add_argument("file", metavar="FILE", nargs="?", help="labelled texts")
    for field, what in (
        ("text", "the column of the text"),
        ("text-pair", "the column of the second text"),
        ("label", "the column of the label"),
    ):
        evaluate.add_argument(f"--{field}", metavar="COLUMN", help=what)
    evaluate.add_argument("--max-length", type=int, metavar="TOKENS", help="longer texts are cut")
    evaluate.add_argument("--batch-size", type=int, default=64, help="default: %(default)s")
    _add_cache(add("cache", None, "keep what the teacher of a job says on disk, and train from it"))
    inspect = add("inspect", _inspect, "show what a model, a run or a job is")
    inspect.add_argument("path", metavar="PATH", help="a model or run directory, or a job")
    return parser


def _add_cache(cache: argparse.ArgumentParser) -> None:
    actions = cache.add_subparsers(dest="action", required=True, metavar="ACTION")

    def add(name: str, run: Any, does: str, *, takes_overrides: bool = False) -> Any:
        action = actions.add_parser(
            name, help=does, description=does[0].upper() + does[1:] + ".", allow_abbrev=False
        )
        action.set_defaults(run=run, takes_overrides=takes_overrides)
        return action

    build = add(
        "build", _build_cache, "run the teacher over a job's training texts", takes_overrides=True
    )
    build.add_argument("job", metavar="JOB", help="a YAML or JSON file with training.cache_dir")
    build.add_argument(
        "--storage",
        choices=("full", "float16", "top_k"),
        default="full",
        help="all numbers as they are, as float16, or the largest logits; default: %(default)s",
    )
    build.add_argument("--k", type=int, default=64, help="logits of top_k, default: %(default)s")
    build.add_argument("--bits", type=int, default=8, help="of each of them, default: %(default)s")
    build.add_argument("--batch-size", type=int, default=64, help="default: %(default)s")
    for name, run, does in (
        ("verify", _verify_cache, "read every record and compare its checksum"),
        ("stat", _stat_cache, "show what a cache holds, costs and loses"),
    ):
        add(name, run, does).add_argument("directory", metavar="DIR", help="a teacher cache")


def _build_cache(arguments: argparse.Namespace, overrides: Sequence[str]) -> None:
    from .config import read_job

    job = read_job(arguments.job, overrides)
    from .cache import build

    _keep_compiled_programs()
    build(
        job,
        kind=arguments.storage,
        k=arguments.k,
        bits=arguments.bits,
        batch_size=arguments.batch_size,
    )


def _verify_cache(arguments: argparse.Namespace, _: Sequence[str]) -> None:
    from .cache import verify

    verify(Path(arguments.directory))


def _stat_cache(arguments: argparse.Namespace, _: Sequence[str]) -> None:
    from .cache import stat

    stat(Path(arguments.directory))


def _demo(arguments: argparse.Namespace, _: Sequence[str]) -> None:
    _keep_compiled_programs()
    from ..demo.run import run_demo

    run_demo(
        large=arguments.large,
        output_dir=arguments.output_dir,
        seed=arguments.seed,
        overwrite=arguments.overwrite,
    )


def _train(arguments: argparse.Namespace, overrides: Sequence[str]) -> None:
    from .config import read_job

    job = read_job(arguments.job, [*overrides, *_resuming(arguments)])
    from .training import train

    _keep_compiled_programs()
    with _processes(arguments.distributed) as is_first:
        train(job, dry_run=arguments.dry_run, is_first=is_first)


def _distill(arguments: argparse.Namespace, overrides: Sequence[str]) -> None:
    from .config import read_job

    job = read_job(arguments.job, [*overrides, *_resuming(arguments)])
    from .training import distill

    _keep_compiled_programs()
    with _processes(arguments.distributed) as is_first:
        distill(job, dry_run=arguments.dry_run, is_first=is_first)


@contextlib.contextmanager
def _processes(are_several: bool) -> Iterator[bool]:
    """Joins the other processes, if there are any; whether this is the one that prints and saves.

    An error ends this process at once, as the others may be waiting for it.
    """
    if not are_several:
        yield True
        return
    from ..devices.processes import exit_all_on_error, exit_process, initialize_from_environment

    is_first = initialize_from_environment() == 0
    exit_all_on_error()
    with contextlib.ExitStack() as stack:
        if not is_first:
            stack.enter_context(
                contextlib.redirect_stdout(stack.enter_context(open(os.devnull, "w")))
            )
        try:
            yield is_first
        except UsageError as error:
            _tell(error)
            exit_process(BAD_INPUT)


def _tell(error: UsageError) -> None:
    print(f"jaxbrewer: error: {' '.join(str(error).split())}", file=sys.stderr)


def _resuming(arguments: argparse.Namespace) -> list[str]:
    return ["--training.resume", "true"] if arguments.resume else []


def _plan(arguments: argparse.Namespace, overrides: Sequence[str]) -> None:
    from .config import read_job

    job = read_job(arguments.job, overrides)
    if arguments.devices is not None:
        if arguments.devices < 1:
            raise UsageError(f"--devices must be at least 1, got {arguments.devices}.")
        if "jax" in sys.modules:
            raise UsageError("--devices can be set only before JAX is loaded.")
        os.environ |= {"JAX_PLATFORMS": "cpu", "JAX_NUM_CPU_DEVICES": str(arguments.devices)}
    _keep_compiled_programs()
    from .plan import plan

    plan(job, fake_devices=arguments.devices is not None)


def _evaluate(arguments: argparse.Namespace, overrides: Sequence[str]) -> None:
    from .evaluation import evaluate

    _keep_compiled_programs()
    fields = ("text", "text_pair", "label", "max_length")
    data = {"test": arguments.file, **{name: getattr(arguments, name) for name in fields}}
    given = {name: value for name, value in data.items() if value is not None}
    evaluate(Path(arguments.path), given, overrides, batch_size=arguments.batch_size)


def _inspect(arguments: argparse.Namespace, overrides: Sequence[str]) -> None:
    from .inspection import inspect

    inspect(Path(arguments.path), overrides)


@contextlib.contextmanager
def _plain_messages() -> Iterator[None]:
    """Warnings and the package's log as single lines on standard error."""

    def show(message: Any, *_: Any, **__: Any) -> None:
        print(f"jaxbrewer: warning: {message}", file=sys.stderr)

    logger, handler = logging.getLogger("jaxbrewer"), logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("jaxbrewer: %(message)s"))
    propagates = logger.propagate
    with warnings.catch_warnings():
        warnings.showwarning = show
        logger.addHandler(handler)
        logger.propagate = False  # libraries that JAX loads give the root logger a handler
        try:
            yield
        finally:
            logger.propagate = propagates
            logger.removeHandler(handler)


def _keep_compiled_programs() -> None:
    """Lets JAX keep what it compiles in the user's cache directory, unless it is told where."""
    if "JAX_COMPILATION_CACHE_DIR" in os.environ or "jax" in sys.modules:
        return
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    directory = Path(base) / "jaxbrewer" / "compiled"
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError:  # a home that cannot be written
        return
    os.environ["JAX_COMPILATION_CACHE_DIR"] = str(directory)
    os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
    os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES", "-1")
