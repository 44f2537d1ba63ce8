"""What each term of a loss counts in the total, at a step and at the end of the training."""

import dataclasses
from collections.abc import Mapping, Sequence

import optax

from ..configs import DistillationConfig
from ..errors import UsageError
from .schedules import weight_schedule

Weights = dict[str, optax.Schedule | float]
"""By the name of a term: a schedule, or a float for a weight that never changes."""


@dataclasses.dataclass(frozen=True)
class TermWeight:
    """How much a term counts in the total.

    Attributes:
        weight: The configured weight.
        temperature: T, the base temperature, for the loss between logits.
        power: The gradient is ``1 / T**power`` of what it is at T = 1; 0 for a loss that is
            multiplied back.
        last: The weight at the end of the training, where it changes; ``None`` where it does not,
            or the end is unknown.
    """

    weight: float
    temperature: float = 1.0
    power: float = 0
    last: "TermWeight | None" = None

    @property
    def effective(self) -> float:
        """``weight / T**power``.

        Examples:
            >>> TermWeight(1.0, temperature=4.0, power=2).effective
            0.0625
        """
        return self.weight / self.temperature**self.power


def make_weights(
    config: DistillationConfig, matches: Sequence[tuple[str, object]], total_steps: int | None
) -> Weights:
    """The weight of every term of a config.

    Args:
        config: The config.
        matches: Name and config of the match of every further term.
        total_steps: Optimizer steps of the whole training.

    Raises:
        UsageError: A schedule cannot be built, or all weights are 0.
    """
    specs = {
        "kd_loss": (config.kd_loss_weight_scheduler, config.kd_loss_weight),
        "hard_label_loss": (config.hard_label_weight_scheduler, config.hard_label_weight),
    }
    for name, match in matches:
        specs[name] = (match.weight_scheduler, match.weight)  # type: ignore[attr-defined]
    weights = {name: weight_schedule(*spec, total_steps) for name, spec in specs.items()}
    if all(weight == 0 for weight in weights.values()):
        raise UsageError(
            "DistillationConfig: all weights are 0, so nothing is trained: set kd_loss_weight, "
            "hard_label_weight or the weight of a match."
        )
    return weights


def describe(weights: Mapping[str, TermWeight], step: int = 0) -> str:
    """One line: the effective weight of each term, and where it ends.

    Examples:
        >>> kd = TermWeight(1.0, 4.0, 2, last=TermWeight(0.5, 1.0, 2))
        >>> print(describe({"kd_loss": kd, "hard_label_loss": TermWeight(0.5)}))
        effective weights at step 0: kd_loss 0.0625 (1 / T^2, T = 4; at the end 0.5, T = 1), hard...
    """
    terms = []
    for name, term in weights.items():
        reasons = []
        if term.power:
            reasons.append(f"{term.weight:g} / T^{term.power:g}, T = {term.temperature:g}")
        if term.last is not None:
            end = f"at the end {term.last.effective:g}"
            reasons.append(f"{end}, T = {term.last.temperature:g}" if term.power else end)
        reason = f" ({'; '.join(reasons)})" if reasons else ""
        terms.append(f"{name} {term.effective:g}{reason}")
    return f"effective weights at step {step}: {', '.join(terms)}"
