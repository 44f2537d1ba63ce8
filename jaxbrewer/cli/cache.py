"""``jaxbrewer cache build | verify | stat``: a job's teacher run once, its outputs on disk."""

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..configs import DistillationConfig
from ..errors import UsageError
from ..text.tokenize import FILES, Encoded
from .config import Job
from .job_data import texts_to_distil
from .output import say, show, size, some

SHOWN = 20
"""So many damaged examples are named; the others are counted."""


def build(job: Job, *, kind: str, k: int, bits: int, batch_size: int) -> None:
    """Writes what the teacher says of a job's training texts to ``training.cache_dir``.

    Raises:
        UsageError: The job does not fit, or the directory holds another cache.
    """
    from .training import teacher_card

    config = job.config
    directory = job.need("training.cache_dir", "the directory of the cache")
    if not isinstance(directory, str):
        raise UsageError("training.cache_dir must be one directory: a job has one teacher.")
    card = teacher_card(job)
    data = texts_to_distil(job, card)

    from ..cache import Storage, build_cache
    from ..devices.sharding import on_device
    from ..forward.precision import policy_of
    from ..text import TextLoader
    from ..text.classification import adaptor
    from . import job_models

    storage = Storage(kind, k, bits, temperatures_of(config.distillation))
    with on_device(config.training):
        teacher = job_models.load(card, data.classes)
        job_models.refuse_misfit(
            "teacher", teacher.config, data.tokenizer, config.data, [data.texts]
        )
        say(f"The teacher reads {len(data.texts.encoded):,} texts once.")
        build_cache(
            directory,
            teacher,
            adaptor,
            TextLoader(data.texts.encoded, batch_size, shuffle=False),
            storage=storage,
            config=config.distillation,
            precision=policy_of(config.training),
            fingerprints=digests(card.directory, data.texts.encoded),
        )
    stat(Path(directory))


def refuse_other(job: Job, model: Path, encoded: Encoded) -> None:
    """Refuses the job's cache if it is of another tokenizer or other data."""
    from ..cache import TeacherCache

    directory = job.config.training.cache_dir
    if isinstance(directory, str) and (Path(directory) / "manifest.json").exists():
        TeacherCache(directory, fingerprints=digests(model, encoded))


def verify(directory: Path) -> None:
    """Reads every record and compares its checksum.

    Raises:
        UsageError: A record is damaged, or some are missing.
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
        named = f"{some(damaged, SHOWN)}" if damaged else "none"
        raise UsageError(
            f"{directory} is damaged: {len(damaged):,} of {found:,} records ({named}), {missing:,} "
            "missing. Remove it and build it again."
        )
    say(f"All {found:,} records of {directory} are sound.")


def stat(directory: Path) -> None:
    """Prints what a cache holds, what it costs and what it loses."""
    from ..cache import Manifest

    manifest = Manifest.read(directory)
    report = manifest.report
    facts: list[tuple[str, Any]] = [
        ("cache", directory),
        ("complete", "yes" if manifest.complete else "no: build it again, which goes on"),
        ("examples", f"{manifest.examples:,}, by {manifest.keys}"),
        ("storage", ", ".join(f"{name} {value}" for name, value in manifest.storage.items())),
        ("holds", some([entry["name"] for entry in manifest.layout["entries"]], 8)),
    ]
    if report:
        files = [path for path in (directory / "records").rglob("*") if path.is_file()]
        facts += [
            ("on disk", size(sum(path.stat().st_size for path in files))),
            ("bytes per example", f"{report['bytes_per_example']:,.1f}"),
            (
                "bytes per position",
                f"{report['bytes_per_position']:,.1f}, as float32 "
                f"{report['float32_bytes_per_position']:,.1f}",
            ),
            ("error", _error(manifest.storage["kind"], report)),
            ("built at", f"{report['examples_per_second']:,.0f} examples per second"),
        ]
    facts += [(f"{name}'s digest", value) for name, value in manifest.fingerprints.items()]
    facts += [(name, value or "none") for name, value in manifest.settings.items()]
    show(facts)


def _error(kind: str, report: Any) -> str:
    if kind == "full":
        return "none"
    error = f"KL {report['kl']:.2g} nats, largest {report['largest_error']:.2g}"
    if kind == "top_k":
        error += f"; the classes not kept weigh {report['tail']:.2%}, which is exact"
    return error


def digests(model: Path, encoded: Encoded) -> dict[str, str]:
    """Digests of the tokenizer of a model directory and of tokenized texts."""
    tokenizer, data = hashlib.sha256(), hashlib.sha256()
    for name in FILES:
        if (model / name).is_file():
            tokenizer.update(name.encode() + (model / name).read_bytes())
    for array in (encoded.input_ids, encoded.token_type_ids, encoded.offsets):
        data.update(array.tobytes())
    return {"tokenizer": tokenizer.hexdigest()[:16], "data": data.hexdigest()[:16]}


def temperatures_of(config: DistillationConfig) -> Sequence[float]:
    """Where a job needs the weight of the classes not kept."""
    at = config.temperature
    return (1.0, float(at)) if isinstance(at, (int, float)) else (1.0,)
