"""The arms of a study: labels alone, and distillation with one more part each."""

import dataclasses
import difflib
from collections.abc import Sequence

from ..configs import DistillationConfig
from ..errors import UsageError

LABELS = "labels"
"""The arm that all others are compared with."""


@dataclasses.dataclass(frozen=True)
class Arm:
    """A way to train the student.

    Attributes:
        name: Its name, which is also that of its directory.
        title: What it is.
        distillation: Losses and matches; ``None`` trains on labels alone.
        is_on_all_texts: Whether it also sees the texts without labels.
        labels: Number of labelled examples that keep their labels; ``None`` for all.
        has_equal_compute: Whether it gets more steps, for the work of the teacher.
    """

    name: str
    title: str
    distillation: DistillationConfig | None
    is_on_all_texts: bool = False
    labels: int | None = None
    has_equal_compute: bool = False


def arms_of(
    distillation: DistillationConfig,
    *,
    has_unlabelled: bool,
    temperatures: Sequence[float] = (),
    label_counts: Sequence[int] = (),
) -> list[Arm]:
    """The arms of a study of a job.

    Args:
        distillation: The job's losses and matches.
        has_unlabelled: Whether the job has texts without labels.
        temperatures: Further temperatures.
        label_counts: Numbers of labelled examples for a learning curve.

    Returns:
        Labels alone, at equal updates and at equal compute; distillation by logits, then with the
        unlabelled texts, then with the matches; the fullest arm at each temperature; and labels
        alone and the fullest arm for each number of labels.

    Examples:
        >>> [arm.name for arm in arms_of(DistillationConfig(), has_unlabelled=True)]
        ['labels', 'labels-compute', 'distilled', 'distilled-unlabelled']
    """
    by_logits = dataclasses.replace(distillation, intermediate_matches=(), custom_matches=())
    arms = [
        Arm(LABELS, "labels alone", None),
        Arm("labels-compute", "labels alone, equal compute", None, has_equal_compute=True),
        Arm("distilled", "distilled", by_logits),
    ]
    if has_unlabelled:
        title = "distilled, with unlabelled texts"
        arms.append(Arm("distilled-unlabelled", title, by_logits, is_on_all_texts=True))
    full = arms[-1]
    if distillation.intermediate_matches or distillation.custom_matches:
        full = dataclasses.replace(
            full,
            name=f"{full.name}-matches",
            title=f"{full.title}{' and' if has_unlabelled else ', with'} matches",
            distillation=distillation,
        )
        arms.append(full)
    assert full.distillation is not None
    for temperature in temperatures:
        changed = dataclasses.replace(full.distillation, temperature=temperature)
        arms.append(
            dataclasses.replace(
                full,
                name=f"{full.name}-temperature-{temperature:g}",
                title=f"{full.title}, temperature {temperature:g}",
                distillation=changed,
            )
        )
    for count in label_counts:
        arms += [
            dataclasses.replace(
                arm,
                name=f"{arm.name}-{count}-labels",
                title=f"{arm.title}, {count:,} labels",
                labels=count,
            )
            for arm in (arms[0], full)
        ]
    return arms


def choose_arms(arms: Sequence[Arm], names: Sequence[str] | None) -> list[Arm]:
    """The arms with these names, and those of labels alone that they are compared with.

    Args:
        arms: All arms of a study.
        names: Names of some; ``None`` for all.

    Raises:
        UsageError: A name is not that of an arm.

    Examples:
        >>> arms = arms_of(DistillationConfig(), has_unlabelled=True)
        >>> [arm.name for arm in choose_arms(arms, ["distilled-unlabelled"])]
        ['labels', 'distilled-unlabelled']
    """
    if names is None:
        return list(arms)
    allowed = [arm.name for arm in arms]
    for name in names:
        if name not in allowed:
            near = difflib.get_close_matches(name, allowed, n=1)
            suggestion = f" Did you mean {near[0]}?" if near else ""
            raise UsageError(f"--arms: {name!r} is no arm of this study.{suggestion} "
                             f"Allowed: {', '.join(allowed)}.")  # fmt: skip
    counts = {arm.labels for arm in arms if arm.name in names}
    baselines = [
        arm.name
        for arm in arms
        if arm.distillation is None and not arm.has_equal_compute and arm.labels in {*counts, None}
    ]
    return [arm for arm in arms if arm.name in {*names, *baselines}]
