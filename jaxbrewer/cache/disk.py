"""A complete cache on disk."""

import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from ..configs import DistillationConfig
from ..errors import UsageError
from ..objective.top_k import require_kept_logits_suffice
from .database import RecordDatabase
from .keys import show_key
from .lookup import KeptRecords, OutputLookup
from .manifest import Manifest
from .records import is_sound
from .writer import RECORDS

KEPT_BYTES = 1 << 28
"""The most bytes of records that an open cache keeps in memory."""


class TeacherCache(OutputLookup):
    """A complete cache on disk.

    Args:
        directory: From :func:`build_cache`.
        fingerprints: Digests that must equal those of the cache; names that it does not have are
            not compared.
        settings: Settings, compared likewise.
        number: The index among several teachers, for batches with a part for each.

    Attributes:
        manifest: The cache's contents and origin.
        layout: The layout of a record.

    Raises:
        UsageError: There is no cache, it is not complete, or it was built from something else;
            the message names what differs.
    """

    def __init__(
        self,
        directory: str | Path,
        *,
        fingerprints: Mapping[str, str] | None = None,
        settings: Mapping[str, Any] | None = None,
        number: int | None = None,
    ):
        self.manifest = Manifest.read(directory)
        self.manifest.require_built_from(directory, fingerprints, settings)
        if not self.manifest.complete:
            raise UsageError(
                f"The teacher cache {directory} is not complete: build it again, which "
                "resumes the interrupted build."
            )
        self.layout = self.manifest.record_layout(directory)
        self._all = RecordDatabase(Path(directory) / RECORDS)
        name = f"the teacher cache {directory}"
        kept = KeptRecords(self._all, KEPT_BYTES)
        super().__init__(self.manifest, self.layout, kept, name, number)

    def require_holds(self, config: DistillationConfig) -> None:
        """Refuses a config that needs layers or logits that the cache does not hold.

        Raises:
            UsageError: A layer is missing, or a loss needs logits that are not kept.
        """
        self.layout.require_layers(config, self._number, self._name)
        top_k = [entry for entry in self.layout.entries if entry.stored == "top_k"]
        if not top_k or config.kd_loss_weight == 0:
            return
        sampled_at = top_k[0].temperatures[0] if top_k[0].samples else None
        require_kept_logits_suffice(config, sampled_at=sampled_at)
        exact = top_k[0].temperatures
        if config.temperature not in exact and top_k[0].k < top_k[0].classes:
            warnings.warn(
                f"{self._name} has the exact weight of the logits that it does not hold at the "
                f"temperatures {list(exact)}, not at {config.temperature}: between them it uses "
                "an upper bound.",
                stacklevel=3,
            )

    def keys(self) -> Sequence[bytes]:
        """The keys of all examples."""
        return self._all.keys()

    def damaged(self) -> Iterator[str]:
        """Yields the names of examples whose records are damaged."""
        for key in self.keys():
            try:
                (record,) = self._all.read([key])
                sound = record is not None and is_sound(record)
            except UsageError:
                sound = False
            if not sound:
                yield show_key(key)
