"""``jaxbrewer cache build | verify | stat``: runs a job's teacher once and keeps its outputs."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..configs import DistillationConfig
from ..errors import UsageError, abbreviate
from ..text import task_of
from ..text.model import check_fits
from .config import Job
from .job_data import (
    fingerprints,
    outside_columns,
    read_distillation_texts,
    require_matching_cache,
)
from .messages import report_wait
from .output import format_bytes, print_line, print_note, print_table
from .run_paths import find_teacher

MAX_LISTED = 20
"""Number of damaged examples that are listed by name."""


def build(job: Job, *, kind: str, k: int, bits: int, samples: int, batch_size: int) -> None:
    """Writes the teacher's outputs on a job's training texts to ``training.cache_dir``.

    Raises:
        UsageError: The job does not fit, or the directory holds another cache.
    """
    config = job.config
    directory = _directory_of(job)
    _require_batch_size(batch_size)
    task, source = task_of(config.data), find_teacher(job)
    task.require_cacheable()
    report_wait("reading the texts")
    data = read_distillation_texts(job, task, source)

    report_wait("loading JAX and the teacher")
    from ..cache import Storage
    from ..devices.mesh import on_device
    from ..forward.precision import policy_of
    from ..run.progress import PassProgress
    from ..text.training import cache_teacher
    from . import job_models

    storage = Storage(kind, k, bits, temperatures_of(config.distillation, kind), samples)
    with on_device(config.training):
        teacher = job_models.load(task, source, data.head)
        check_fits("teacher", teacher.config, data.tokenizer, config.data, [data.texts.encoded])
        texts = len(data.texts.encoded)
        print_note(f"The teacher reads {texts:,} texts once.")
        progress = PassProgress("teacher cache", -(-texts // batch_size))
        cache_teacher(
            directory,
            task,
            teacher,
            data.texts.encoded,
            batch_size=batch_size,
            storage=storage,
            config=config.distillation,
            precision=policy_of(config.training),
            fingerprints=fingerprints(source.directory, data.texts.encoded),
            batch_postprocessor=progress.counting(lambda batch: batch),
        )
    stat(directory)


def import_(job: Job, paths: Sequence[str], *, k: int | None, bits: int, batch_size: int) -> None:
    """Writes log-probabilities that were computed elsewhere to ``training.cache_dir``.

    Raises:
        UsageError: The job does not fit, a file is not of its texts, or the directory holds
            another cache.
    """
    directory = _directory_of(job)
    if k is not None and k < 1:
        raise UsageError(f"--k must be at least 1, got {k}.")
    _require_batch_size(batch_size)
    task, source = task_of(job.config.data), find_teacher(job)
    report_wait("reading the texts")
    data = read_distillation_texts(job, task, source)
    documents = task.uncut(data.tokenizer, data.texts.examples)
    report_wait("reading the log-probabilities")
    from ..text.import_scores import import_scores

    pieces: Any = data.texts.encoded
    import_scores(
        directory,
        paths,
        documents,
        pieces,
        data.tokenizer,
        classes=int(source.fields["vocab_size"]),
        k=k,
        bits=bits,
        fingerprints=fingerprints(source.directory, pieces),
        names=data.texts.examples.places,
        batch_size=batch_size,
    )
    stat(directory)


def export(job: Job, path: str) -> None:
    """Writes the largest logits of a job's cache to a Parquet file.

    Raises:
        UsageError: There is no such cache, it is of other texts, or the file cannot be written.
    """
    directory = _directory_of(job)
    if not path.endswith(".parquet"):
        raise UsageError(f"{path}: the file must end with .parquet.")
    task, source = task_of(job.config.data), find_teacher(job)
    report_wait("reading the texts")
    data = read_distillation_texts(job, task, source)
    pieces: Any = data.texts.encoded
    task.uncut(data.tokenizer, data.texts.examples.take([0]))  # other tasks are refused
    require_matching_cache(job, source.directory, pieces)
    report_wait("reading the cache")
    from ..text.export_scores import export_scores

    tokens = export_scores(directory, path, pieces)
    print_line(f"{path} holds the largest logits of {tokens:,} tokens.")


def _require_batch_size(batch_size: int) -> None:
    if batch_size < 1:
        raise UsageError(f"--batch-size must be at least 1, got {batch_size}.")


def _directory_of(job: Job) -> Path:
    directory = job.need("training.cache_dir", "the directory of the cache")
    if not isinstance(directory, str):
        raise UsageError("training.cache_dir must be one directory: a job has one teacher.")
    if job.config.teachers:
        raise UsageError(
            f"{job.path} has several teachers: a cache is built of one, from a job with "
            "teacher.path; a distillation then lists the caches in training.cache_dir."
        )
    if outside_columns(job.config.data) is not None:
        raise UsageError("data.probabilities has no model: there is nothing to cache.")
    return Path(directory)


def verify(directory: Path) -> None:
    """Reads every record and compares its checksum.

    Raises:
        UsageError: A record is damaged or missing.
    """
    from ..cache import TeacherCache

    cache = TeacherCache(directory)
    try:
        found = len(cache.keys())
        damaged = list(cache.damaged())
    except ValueError as error:
        raise UsageError(f"{directory} is damaged: {error}") from None
    missing = cache.manifest.examples - found
    if damaged or missing:
        listed = abbreviate(damaged, MAX_LISTED) if damaged else "none"
        raise UsageError(
            f"{directory} is damaged: {len(damaged):,} of {found:,} records ({listed}), "
            f"{missing:,} missing. Remove it and build it again."
        )
    print_line(f"All {found:,} records of {directory} match their checksums.")


def stat(directory: Path) -> None:
    """Prints what a cache holds, its size and its error."""
    from ..cache import Manifest

    manifest = Manifest.read(directory)
    report = manifest.report
    facts: list[tuple[str, Any]] = [
        ("cache", directory),
        ("complete", "yes" if manifest.complete else "no: build it again to resume"),
        ("examples", f"{manifest.examples:,}, by {manifest.keys}"),
        ("storage", ", ".join(f"{name} {value}" for name, value in manifest.storage.items())),
        ("entries", abbreviate([entry["name"] for entry in manifest.layout["entries"]], 8)),
    ]
    if report:
        files = [path for path in (directory / "records").rglob("*") if path.is_file()]
        facts += [
            ("on disk", format_bytes(sum(path.stat().st_size for path in files))),
            ("bytes per example", f"{report['bytes_per_example']:,.1f}"),
            (
                "bytes per position",
                f"{report['bytes_per_position']:,.1f}, as float32 "
                f"{report['float32_bytes_per_position']:,.1f}",
            ),
            ("error", _describe_error(manifest.storage["kind"], report)),
            ("built at", f"{report['examples_per_second']:,.0f} examples per second"),
        ]
    facts += [(f"{name}'s digest", value) for name, value in manifest.fingerprints.items()]
    facts += [(name, value or "none") for name, value in manifest.settings.items()]
    print_table(facts)


def _describe_error(kind: str, report: Any) -> str:
    if kind == "full":
        return "none"
    error = f"KL {report['kl']:.2g} nats, largest {report['largest_error']:.2g}"
    if kind in ("top_k", "sampled"):
        error += f"; the other classes have {report['tail']:.2%} of the probability, which is exact"
    return error


def temperatures_of(config: DistillationConfig, kind: str) -> Sequence[float]:
    """The temperatures at which a job needs the probability of the classes outside the top k."""
    temperature = config.temperature
    if kind == "sampled" and isinstance(temperature, (int, float)):
        return (float(temperature),)
    return (1.0, float(temperature)) if isinstance(temperature, (int, float)) else (1.0,)
