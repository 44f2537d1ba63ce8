"""A call of a model as its signature asks."""

import inspect
from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import jax

from .model import Batch


class ModelCall:
    """Calls a model with the batch entries, the mode flag and the key that its signature names.

    Entries that the signature does not name (``labels``, say) are for the adaptor and are not
    passed; a signature with ``**kwargs`` gets all entries.

    Args:
        function: The model's function, or a bound method, whose signature is read.
        skip: Number of leading parameters that are not entries of a batch.

    Attributes:
        takes: Names of the batch entries that the signature takes; ``None`` for all.
    """

    _MODES: ClassVar = {
        "train": True,
        "training": True,
        "is_training": True,
        "deterministic": False,
    }

    def __init__(self, function: Callable[..., Any], *, skip: int = 0):
        parameters = list(inspect.signature(function).parameters.values())[skip:]
        kinds = {parameter.kind for parameter in parameters}
        names = [parameter.name for parameter in parameters]
        self._mode = next((name for name in names if name in self._MODES), None)
        self._rng = "rng" in names
        entries = [
            parameter for parameter in parameters if parameter.name not in (self._mode, "rng")
        ]
        self.takes = (
            None
            if inspect.Parameter.VAR_KEYWORD in kinds
            else frozenset(parameter.name for parameter in entries)
        )
        positional = (
            inspect.Parameter.POSITIONAL_ONLY,
            inspect.Parameter.POSITIONAL_OR_KEYWORD,
        )
        self._positional = (
            None
            if inspect.Parameter.VAR_POSITIONAL in kinds
            else sum(parameter.kind in positional for parameter in entries)
        )

    def __call__(
        self,
        function: Callable[..., Any],
        batch: Batch,
        args: Mapping[str, Any],
        *,
        train: bool,
        rng: jax.Array | None = None,
    ) -> Any:
        """Calls ``function``, which has the signature that the constructor read."""
        keywords = dict(args)
        if self._mode is not None and self._mode not in keywords:
            keywords[self._mode] = train == self._MODES[self._mode]
        if self._rng:
            keywords["rng"] = rng
        if isinstance(batch, Mapping):
            entries = {
                name: value
                for name, value in batch.items()
                if self.takes is None or name in self.takes
            }
            return function(**entries, **keywords)
        if isinstance(batch, (list, tuple)):
            return function(*batch[: self._positional], **keywords)
        return function(batch, **keywords)
