"""What is decided while a step is traced, such as its chunks, for whoever reports it."""

import contextlib
import contextvars
from collections.abc import Iterator

_collected: contextvars.ContextVar[dict[str, None] | None] = contextvars.ContextVar(
    "collected facts", default=None
)


def add_fact(fact: str) -> None:
    """Adds a line to the facts that :func:`collect_facts` collects; each line once.

    Args:
        fact: The line.

    Examples:
        >>> with collect_facts() as facts:
        ...     add_fact("logits: in 2 chunks")
        >>> list(facts)
        ['logits: in 2 chunks']
    """
    collected = _collected.get()
    if collected is not None:
        collected[fact] = None


@contextlib.contextmanager
def collect_facts() -> Iterator[dict[str, None]]:
    """Collects the facts of what is traced inside, as the keys of a dict, in their order.

    Examples:
        >>> with collect_facts() as facts:
        ...     add_fact("kd_loss: 32 chunks")
        >>> list(facts)
        ['kd_loss: 32 chunks']
    """
    facts: dict[str, None] = {}
    token = _collected.set(facts)
    try:
        yield facts
    finally:
        _collected.reset(token)
