"""The manifest of a cache, a JSON file: its contents and what it was built from."""

import dataclasses
import hashlib
import json
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..errors import UsageError, suggest
from ..json_files import conform, is_there, read_json, write_json
from .record_layout import BITS, RecordLayout

FILE = "manifest.json"
FORMAT = 1
KINDS = ("full", "float16", "top_k", "sampled")

_CRC = "crc"


@dataclasses.dataclass(frozen=True)
class Storage:
    """How numbers are stored.

    Args:
        kind: ``"full"`` stores every number as the teacher returns it; ``"float16"`` halves
            float32; ``"top_k"`` stores the largest logits and the exact log-sum-exp of the others,
            and hidden states as float16; ``"sampled"`` stores ``samples`` draws from the others as
            well, which give ``ce`` and ``kl`` a gradient without bias.
        k: Number of logits of ``"top_k"`` and ``"sampled"``.
        bits: Bits per logit, 4 to 16, or 32 for float32.
        temperatures: Temperatures at which the weight of the other classes is exact; for
            ``"sampled"`` the one of the training.
        samples: ``"sampled"`` only: number of draws per position.
        seed: ``"sampled"`` only: seed of the draws, which depend on it and on the example.

    Raises:
        UsageError: A value is out of range.

    Examples:
        >>> Storage("top_k", k=32).bits
        8
    """

    kind: str = "full"
    k: int = 64
    bits: int = 8
    temperatures: Sequence[float] = (1.0,)
    samples: int = 16
    seed: int = 0

    def __post_init__(self) -> None:
        """Checks each field."""
        if self.kind not in KINDS:
            raise UsageError(f"Storage.kind {self.kind!r} is unknown: {suggest(self.kind, KINDS)}")
        if not isinstance(self.k, int) or self.k < 1:
            raise UsageError(f"Storage.k must be an int >= 1, got {self.k!r}.")
        if self.bits not in BITS:
            raise UsageError(f"Storage.bits must be 4 to 16, or 32, got {self.bits!r}.")
        temperatures = tuple(sorted({float(t) for t in self.temperatures}))
        if not temperatures or temperatures[0] <= 0:
            raise UsageError(f"Storage.temperatures must be positive, got {self.temperatures!r}.")
        object.__setattr__(self, "temperatures", temperatures)
        if not isinstance(self.samples, int) or not 1 <= self.samples < 2**16:
            raise UsageError(f"Storage.samples must be 1 to 65535, got {self.samples!r}.")
        if not isinstance(self.seed, int) or not 0 <= self.seed < 2**31:
            raise UsageError(f"Storage.seed must be an int from 0 to 2**31 - 1, got {self.seed!r}.")
        if self.kind == "sampled" and len(temperatures) > 1:
            raise UsageError(
                f"Storage.temperatures: samples are drawn at one temperature, got {temperatures}."
            )

    def to_dict(self) -> dict[str, Any]:
        """The fields that this kind uses."""
        if self.kind not in ("top_k", "sampled"):
            return {"kind": self.kind}
        fields = {**dataclasses.asdict(self), "temperatures": list(self.temperatures)}
        if self.kind == "top_k":
            del fields["samples"], fields["seed"]
        return fields


@dataclasses.dataclass(frozen=True)
class Manifest:
    """The contents of a cache and what it was built from.

    Attributes:
        fingerprints: By name (``"teacher"``, ``"tokenizer"``, ``"data"``), digests of what the
            outputs depend on.
        settings: By name, the settings that they depend on.
        storage: The fields of :class:`Storage`.
        keys: ``"example_id"``, or ``"content"`` where batches have no example numbers.
        inputs: The batch entries that the teacher takes; ``None`` for all.
        widths: For each mask, the path of a teacher input of the same width.
        layout: The fields of :class:`~jaxbrewer.cache.record_layout.RecordLayout`.
        complete: Whether it holds every example.
        examples: Number of examples.
        report: Sizes and errors, measured while the cache was built.
        format: The version of the manifest.
    """

    fingerprints: Mapping[str, str]
    settings: Mapping[str, Any]
    storage: Mapping[str, Any]
    keys: str
    inputs: Sequence[str] | None
    widths: Mapping[str, str]
    layout: Mapping[str, Any]
    complete: bool = False
    examples: int = 0
    report: Mapping[str, float] = dataclasses.field(default_factory=dict)
    format: int = FORMAT

    def write(self, directory: Path) -> None:
        """Replaces the directory's manifest.

        Raises:
            UsageError: It cannot be written.
        """
        plain = dataclasses.asdict(self)
        write_json(directory / FILE, {**plain, _CRC: _crc(plain)})

    @classmethod
    def find(cls, directory: str | Path) -> "Manifest | None":
        """The manifest of a directory; ``None`` if there is none.

        Raises:
            UsageError: It cannot be read.
        """
        return cls.read(directory) if is_there(Path(directory) / FILE) else None

    @classmethod
    def read(cls, directory: str | Path) -> "Manifest":
        """The manifest of a directory.

        Raises:
            UsageError: There is none, or it cannot be read.
        """
        path = Path(directory) / FILE
        if not is_there(path):
            raise UsageError(
                f"{directory} holds no teacher cache: `jaxbrewer cache build` or build_cache makes "
                "one."
            )
        try:
            return cls(**_checked(read_json(path, dict), str(path)))
        except UsageError as error:
            raise UsageError(f"{error} Remove the cache and build it again.") from None

    def record_layout(self, directory: str | Path) -> RecordLayout:
        """The layout of the records of the cache in ``directory``.

        Raises:
            UsageError: It is not a layout.
        """
        return RecordLayout.from_dict(self.layout, str(Path(directory) / FILE))

    @property
    def identity(self) -> str:
        """A digest of what the cache was built from, and of how it stores numbers."""
        origin = [self.fingerprints, self.settings, self.storage]
        return hashlib.sha256(json.dumps(_plain(origin), sort_keys=True).encode()).hexdigest()[:16]

    def require_built_from(
        self,
        directory: str | Path,
        fingerprints: Mapping[str, str] | None = None,
        settings: Mapping[str, Any] | None = None,
    ) -> None:
        """Refuses other fingerprints or settings; a name that either side lacks is not compared.

        Raises:
            UsageError: Something differs; the message names all of it.
        """
        differing = [
            f"{name} (fingerprint {self.fingerprints[name][:8]} in the cache, {value[:8]} now)"
            for name, value in (fingerprints or {}).items()
            if name in self.fingerprints and self.fingerprints[name] != value
        ]
        differing += [
            f"{name} ({self.settings[name]!r} in the cache, {_plain(value)!r} now)"
            for name, value in (settings or {}).items()
            if name in self.settings and self.settings[name] != _plain(value)
        ]
        if differing:
            raise UsageError(
                f"The teacher cache {directory} was built from something else; it differs in: "
                f"{', '.join(differing)}. Build it again in a new directory, or remove this one."
            )


def _plain(value: Any) -> Any:
    """The value after a round trip through JSON."""
    return json.loads(json.dumps(value, default=str))


def _checked(plain: Mapping[str, Any], source: str) -> dict[str, Any]:
    """The fields of a manifest, as a file has them."""
    if plain.get("format") != FORMAT:
        found = plain.get("format")
        raise UsageError(f"{source} has the format {found!r}; this version reads {FORMAT}.")
    conform(plain, Manifest, source)
    names = {field.name for field in dataclasses.fields(Manifest)}
    fields = {name: value for name, value in plain.items() if name in names}
    if plain.get(_CRC, _crc(fields)) != _crc(fields):
        raise UsageError(f"{source} is damaged: its checksum does not match.")
    return fields


def _crc(plain: Mapping[str, Any]) -> int:
    return zlib.crc32(json.dumps(_plain(plain), sort_keys=True).encode())


def identities(
    directories: str | Path | Sequence[str | Path | None] | None,
) -> list[str | None] | None:
    """Digests of what caches were built from, which identify them in any directory.

    Args:
        directories: ``TrainingConfig.cache_dir``.

    Returns:
        Sixteen hexadecimal digits for each cache, ``None`` for a teacher without one.
    """
    if directories is None:
        return None
    if isinstance(directories, (str, Path)):
        directories = [directories]
    found = [None if path is None else Manifest.find(path) for path in directories]
    return [None if manifest is None else manifest.identity for manifest in found]
