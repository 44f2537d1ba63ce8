"""The data of a job on text."""

import dataclasses
from collections.abc import Sequence

from ._base import Config


@dataclasses.dataclass(frozen=True)
class DataConfig(Config):
    """The task and the files with its texts; each task reads the columns that it needs.

    Args:
        task: The name of the task, a key of ``jaxbrewer.text.TASKS``.
        train: Labelled texts: JSONL, CSV, TSV, Parquet, or a saved ``datasets`` directory.
        unlabelled: More texts for distillation; their labels, if any, are not used.
        test: Labelled texts that score the result.
        text: Column of the text.
        text_pair: Column of the second text, if texts come in pairs.
        label: Column of the label.
        labels: The names of all classes; by default those of ``train``.
        max_length: Maximum number of tokens; longer texts are cut. Those of language models are
            cut into windows.
        prompt: Language models: column of a prompt, which is not learned ...
        completion: ... and of its completion.
        messages: Language models: column of a conversation.
        packed: Language models: whether a row of a batch holds several documents.
        truncate: Language models: whether only the first window of a document is used.
        learn_prompts: Language models: whether prompts, and messages of others than the
            assistant, are learned too.
    """

    task: str = "classification"
    train: str | None = None
    unlabelled: str | None = None
    test: str | None = None
    text: str = "text"
    text_pair: str | None = None
    label: str = "label"
    labels: Sequence[str] | None = None
    max_length: int = 128
    prompt: str = "prompt"
    completion: str = "completion"
    messages: str = "messages"
    packed: bool = True
    truncate: bool = False
    learn_prompts: bool = False

    def __post_init__(self) -> None:
        """Checks each field."""
        for field in ("train", "unlabelled", "test", "text_pair"):
            value = getattr(self, field)
            self.require(field, value is None or isinstance(value, str), "a name or null")
        for field in ("packed", "truncate", "learn_prompts"):
            self.require(field, isinstance(getattr(self, field), bool), "true or false")
        for field in ("task", "text", "label", "prompt", "completion", "messages"):
            self.require(field, isinstance(getattr(self, field), str), "a name")
        if self.labels is not None:
            is_list = isinstance(self.labels, (list, tuple))
            holds = is_list and not any(isinstance(name, bool) for name in self.labels)
            self.require("labels", holds, "a list of names (yes and no need quotes in YAML)")
            holds = all(isinstance(name, (str, int)) for name in self.labels)
            self.require("labels", holds, "a list of names or integers")
            object.__setattr__(self, "labels", tuple(map(str, self.labels)))
            holds = len(set(self.labels)) == len(self.labels) > 1
            self.require("labels", holds, "at least two different names")
        self.require_number("max_length", minimum=4, whole=True)
