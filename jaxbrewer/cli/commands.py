"""The functions behind the commands: each reads its flags, then imports what it needs and runs."""

import argparse
import contextlib
import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import UsageError
from ..run.compiled_programs import keep_compiled_programs
from .messages import BAD_INPUT, is_quiet, print_error, report_wait

if TYPE_CHECKING:
    from .config import Job


def demo(arguments: argparse.Namespace, _: Sequence[str]) -> None:
    """Runs ``jaxbrewer demo``."""
    _prepare_process()
    report_wait("loading JAX and the data")
    from ..demo.run import run_demo

    run_demo(
        large=arguments.large,
        output_dir=arguments.output_dir,
        seed=arguments.seed,
        overwrite=arguments.overwrite,
        quiet=is_quiet(),
    )


def train(arguments: argparse.Namespace, overrides: Sequence[str]) -> None:
    """Runs ``jaxbrewer train``."""
    from .config import read_job

    job = read_job(arguments.job, [*overrides, *_flag_overrides(arguments)])
    job.require_files("train", "validation", "test")
    from .training import train

    _prepare_process(job)
    with _processes(arguments.distributed) as is_first:
        train(job, dry_run=arguments.dry_run, is_first=is_first)


def distill(arguments: argparse.Namespace, overrides: Sequence[str]) -> None:
    """Runs ``jaxbrewer distill``."""
    from .config import read_job

    job = read_job(arguments.job, [*overrides, *_flag_overrides(arguments)])
    job.require_files("train", "unlabelled", "validation", "test")
    from .training import distill

    _prepare_process(job)
    with _processes(arguments.distributed) as is_first:
        distill(job, dry_run=arguments.dry_run, is_first=is_first, baseline=arguments.baseline)


def evaluate(arguments: argparse.Namespace, overrides: Sequence[str]) -> None:
    """Runs ``jaxbrewer evaluate``."""
    from .evaluation import evaluate

    _prepare_process()
    given = _data_fields(arguments)
    if arguments.file is not None:
        given["test"] = arguments.file
    evaluate(
        Path(arguments.path),
        given,
        overrides,
        teacher=_path(arguments.teacher),
        batch_size=arguments.batch_size,
        per_class=arguments.per_class,
        selective=arguments.selective,
        as_json=arguments.json,
        output=_path(arguments.output),
    )


def predict(arguments: argparse.Namespace, overrides: Sequence[str]) -> None:
    """Runs ``jaxbrewer predict``."""
    from .prediction import predict

    _prepare_process()
    predict(
        Path(arguments.model),
        arguments.file,
        _data_fields(arguments),
        overrides,
        batch_size=arguments.batch_size,
        output=_path(arguments.output),
    )


def generate(arguments: argparse.Namespace, _: Sequence[str]) -> None:
    """Runs ``jaxbrewer generate``."""
    from .generation import generate

    _prepare_process()
    fields = ("max_new_tokens", "temperature", "top_k", "top_p")
    generate(
        Path(arguments.model),
        prompt=arguments.prompt,
        file=arguments.file,
        seed=arguments.seed,
        sampling={name: getattr(arguments, name) for name in fields},
    )


def _data_fields(arguments: argparse.Namespace) -> dict[str, Any]:
    """The fields of ``data`` that the flags give."""
    if arguments.max_length is not None and arguments.max_length < 4:
        raise UsageError(f"--max-length must be at least 4, got {arguments.max_length}.")
    fields = ("task", "text", "text_pair", "label", "max_length")
    values = {name: getattr(arguments, name, None) for name in fields}
    return {name: value for name, value in values.items() if value is not None}


def _path(given: str | None) -> Path | None:
    return None if given is None else Path(given)


def cache(arguments: argparse.Namespace, _: Sequence[str]) -> None:
    """Prints the help of ``jaxbrewer cache``, which needs an action."""
    arguments.print_help()


def build_cache(arguments: argparse.Namespace, overrides: Sequence[str]) -> None:
    """Runs ``jaxbrewer cache build``."""
    from .config import read_job

    job = read_job(arguments.job, [*overrides, *_flag_overrides(arguments)])
    from .cache import build

    _prepare_process(job)
    build(
        job,
        kind=arguments.storage,
        k=arguments.k,
        bits=arguments.bits,
        samples=arguments.samples,
        batch_size=arguments.batch_size,
    )


def import_cache(arguments: argparse.Namespace, overrides: Sequence[str]) -> None:
    """Runs ``jaxbrewer cache import``."""
    from .config import read_job

    job = read_job(arguments.job, overrides)
    from .cache import import_

    given = {name: getattr(arguments, name) for name in ("k", "bits", "batch_size")}
    import_(job, arguments.files, **given)


def export_cache(arguments: argparse.Namespace, overrides: Sequence[str]) -> None:
    """Runs ``jaxbrewer cache export``."""
    from .config import read_job

    job = read_job(arguments.job, overrides)
    from .cache import export

    export(job, arguments.file)


def verify_cache(arguments: argparse.Namespace, _: Sequence[str]) -> None:
    """Runs ``jaxbrewer cache verify``."""
    from .cache import verify

    verify(Path(arguments.directory))


def stat_cache(arguments: argparse.Namespace, _: Sequence[str]) -> None:
    """Runs ``jaxbrewer cache stat``."""
    from .cache import stat

    stat(Path(arguments.directory))


def plan(arguments: argparse.Namespace, overrides: Sequence[str]) -> None:
    """Runs ``jaxbrewer plan``."""
    from .config import read_job

    job = read_job(arguments.job, overrides)
    if arguments.devices is not None:
        if arguments.devices < 1:
            raise UsageError(f"--devices must be at least 1, got {arguments.devices}.")
        if "jax" in sys.modules:
            raise UsageError("--devices can be set only before JAX is loaded.")
        os.environ |= {"JAX_PLATFORMS": "cpu", "JAX_NUM_CPU_DEVICES": str(arguments.devices)}
    _prepare_process(job)
    from .plan import plan

    plan(job, fake_devices=arguments.devices is not None)


def inspect(arguments: argparse.Namespace, overrides: Sequence[str]) -> None:
    """Runs ``jaxbrewer inspect``."""
    from .inspection import inspect

    inspect(Path(arguments.path), overrides)


def study(arguments: argparse.Namespace, overrides: Sequence[str]) -> None:
    """Runs ``jaxbrewer study``."""
    from .config import read_job

    job = read_job(arguments.job, [*overrides, *_flag_overrides(arguments)])
    _prepare_process(job)
    from .study import StudyOptions, study

    options = StudyOptions(
        seeds=arguments.seeds,
        temperatures=tuple(arguments.temperatures),
        label_counts=tuple(arguments.labels),
        resamplings=arguments.resamplings,
        arms=arguments.arms,
    )
    study(job, options, dry_run=arguments.dry_run)


def report(arguments: argparse.Namespace, _: Sequence[str]) -> None:
    """Runs ``jaxbrewer report``."""
    from .report import report

    report(list(map(Path, arguments.paths)), Path(arguments.output), title=arguments.title)


def completion(arguments: argparse.Namespace, _: Sequence[str]) -> None:
    """Runs ``jaxbrewer completion``."""
    from .completion import completion

    completion(arguments.parser, arguments.shell)


def export(arguments: argparse.Namespace, _: Sequence[str]) -> None:
    """Runs ``jaxbrewer export``."""
    from ..export.formats import check_options

    check_options(arguments.format, int8=arguments.int8, pooling=arguments.pooling)
    _prepare_process()
    from .export import export

    export(
        Path(arguments.model),
        arguments.format,
        output=None if arguments.output is None else Path(arguments.output),
        texts=arguments.texts,
        column=arguments.text,
        int8=arguments.int8,
        pooling=arguments.pooling,
        overwrite=arguments.overwrite,
        verify_only=arguments.verify_only,
    )


def _prepare_process(job: "Job | None" = None) -> None:
    """Keeps compiled programs on disk, unless a job says otherwise, and freed memory."""
    from ..run.freed_memory import keep_freed_memory

    where = None if job is None else job.config.training.compilation_cache
    keep_compiled_programs(True if where is None else where)
    keep_freed_memory()


def _flag_overrides(arguments: argparse.Namespace) -> list[str]:
    """The fields of the job that flags set."""
    resumes = getattr(arguments, "resume", False)
    return [
        *(["--training.resume", "true"] if resumes else []),
        *(["--training.progress", "false"] if is_quiet() else []),
    ]


@contextlib.contextmanager
def _processes(distributed: bool) -> Iterator[bool]:
    """Joins the other processes, if asked to; yields whether this one prints and saves.

    An error ends this process at once, because the others may be waiting for it.
    """
    if not distributed:
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
            print_error(error)
            exit_process(BAD_INPUT)
