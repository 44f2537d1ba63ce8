"""Warns of a term of the loss that counts no position, and so trains nothing."""

import warnings
from collections.abc import Mapping

from ..objective.term_weights import TermWeight


class UncountedTerms:
    """Warns of terms whose mean is over nothing in all steps: every label or position is masked.

    Args:
        weights: The weight of each term; those of weight 0 train nothing anyway.

    Examples:
        >>> terms = UncountedTerms({"kd_loss": TermWeight(1.0), "hard_label_loss": TermWeight(0.0)})
        >>> terms.see({"count_kd_loss": 8.0, "count_hard_label_loss": 0.0})
        >>> terms.end()
    """

    EARLY = 100
    """Number of steps after which the warning does not wait for the end."""

    def __init__(self, weights: Mapping[str, TermWeight]):
        self._steps = {name: 0 for name, weight in weights.items() if _is_active(weight)}

    def see(self, scalars: Mapping[str, float]) -> None:
        """Takes the scalars of a step; a step of another task lacks the term."""
        for name in list(self._steps):
            task, _, term = name.rpartition("/")
            count = scalars.get(f"{task}/count_{term}".removeprefix("/"))
            if count:
                del self._steps[name]
            elif count is not None:
                self._steps[name] += 1
                if self._steps[name] == self.EARLY:
                    self._warn(name, f"first {self.EARLY}")

    def end(self) -> None:
        """Warns of the terms that counted nothing in a training of fewer steps."""
        for name, steps in list(self._steps.items()):
            if steps:
                self._warn(name, str(steps))

    def _warn(self, name: str, which: str) -> None:
        del self._steps[name]
        warnings.warn(
            f"{name} counted no position in any of its {which} steps, and trained nothing: the "
            "masks and labels of the batches select none.",
            stacklevel=5,
        )


def _is_active(weight: TermWeight) -> bool:
    return weight.weight != 0 or (weight.last is not None and weight.last.weight != 0)
