"""The table of model families, with the facts that reading, writing and cutting need.

A family is one module with a ``FAMILY`` and rows in :mod:`~jaxbrewer.models.model_types`.
"""

import dataclasses
import importlib
from collections.abc import Mapping
from typing import Any

from ..errors import UsageError, suggest
from .config import TransformerConfig
from .heads import TransformerModel
from .model_types import FAMILIES, end_of_class


@dataclasses.dataclass(frozen=True, kw_only=True)
class Family:
    """A family of models.

    Attributes:
        config: Its config.
        heads: Its models, one for each task.
        body: The attribute of the model without its head, which is the prefix of its tensors'
            names in files.
        body_parts: The names after that prefix. Names in files of a model without a head start
            with these.
        architectures: The start of Hugging Face's names of its models, by ``model_type``.
        fresh: Prefixes of the tensors that a file may lack; these get random weights.
        other_heads: Prefixes of the tensors of heads that no model here has.
        names: Prefixes that differ between our paths and the names in files: ours to theirs.
        untransposed: Names of the dense maps whose kernels files hold as ``[inputs, outputs]``.
    """

    config: type[TransformerConfig]
    heads: tuple[type[TransformerModel], ...]
    body: str
    body_parts: tuple[str, ...]
    architectures: Mapping[str, str]
    fresh: tuple[str, ...] = ()
    other_heads: tuple[str, ...] = ()
    names: Mapping[str, str] = dataclasses.field(default_factory=dict)
    untransposed: tuple[str, ...] = ()

    @property
    def by_task(self) -> dict[str, type[TransformerModel]]:
        """Its models by their tasks."""
        return {head.task: head for head in self.heads}

    def architecture(self, model: TransformerModel) -> str:
        """The name of a model's class in Hugging Face's library."""
        model_type = model.config.model_type
        return self.architectures[model_type] + end_of_class(model_type, model.task)

    def head_for(self, model_type: str, architectures: Any) -> type[TransformerModel] | None:
        """The model that a config's ``architectures`` names, if it is one of the family's."""
        start = self.architectures[model_type]
        architectures = architectures if isinstance(architectures, list) else []
        for head in self.heads:
            if start + end_of_class(model_type, head.task) in architectures:
                return head
        return None


def family_of(model_type: Any) -> Family:
    """The family of a ``model_type``.

    Raises:
        UsageError: There is none; the message lists those that there are.

    Examples:
        >>> family_of("bert").body
        'bert'
        >>> family_of("t5")
        Traceback (most recent call last):
        ...
        jaxbrewer.errors.UsageError: model_type 't5' is unknown: ...
    """
    if not isinstance(model_type, str) or model_type not in FAMILIES:
        raise UsageError(f"model_type {model_type!r} is unknown: {suggest(model_type, FAMILIES)}")
    module = importlib.import_module(f".{FAMILIES[model_type]}", __package__)
    return module.FAMILY
