"""Logits of different widths: one vocabulary, padded to different multiples.

Embedding tables are padded to a multiple that suits the hardware, so models with the same tokenizer
may have 152,064 and 151,936 columns. The columns that only one model has are not tokens. Zeros in
the narrower model would give them the weight of real tokens; they are left out instead, or ruled
out.
"""

import warnings

import jax.numpy as jnp
from jaxtyping import Array, Float

from ..errors import UsageError

LARGEST_PADDING = 0.01
"""Largest surplus that ``"auto"`` takes for padding, as a fraction of the narrower width."""
SMALLEST_VOCABULARY = 1_000
MULTIPLE = 64
"""Padded widths are multiples of this."""


def common_columns(
    columns: tuple[int, int], rule: str, *, what: str, names: tuple[str, str]
) -> int:
    """The number of columns that the logits of two models share.

    Args:
        columns: The two widths.
        rule: ``"auto"`` takes the surplus for padding if it is under 1 % of more than 1,000
            columns and ends at a multiple of 64, with a warning; ``"common"`` always does, without
            a warning; ``"equal"`` never.
        what: Names the logits in messages.
        names: The two models.

    Raises:
        UsageError: The rule does not allow it.
    """
    narrow, wide = sorted(columns)
    surplus = wide - narrow
    if surplus == 0 or rule == "common":
        return narrow
    is_padding = (
        narrow >= SMALLEST_VOCABULARY
        and surplus < LARGEST_PADDING * narrow
        and wide % MULTIPLE == 0
    )
    widths = f"{what}: {names[0]} has {columns[0]} columns, {names[1]} {columns[1]}"
    if rule == "equal" or not is_padding:
        raise UsageError(
            f"{widths}. Are they logits of the same classes? If they are, in the same order, and "
            f"the last {surplus} are padding, set DistillationConfig.vocabulary='common'."
        )
    warnings.warn(
        f"{widths}: the last {surplus} are taken for padding of the vocabulary and not compared.",
        stacklevel=3,
    )
    return narrow


def fit_vocabularies(
    logits_S: Float[Array, "*batch student"],
    logits_T: Float[Array, "*batch teacher"],
    rule: str,
    *,
    what: str,
    rules_out: bool,
    names: tuple[str, str] = ("the student", "the teacher"),
) -> tuple[Float[Array, "*batch classes"], Float[Array, "*batch classes"]]:
    """Student's and teacher's logits over the same columns.

    Surplus columns of the teacher are cut off: its distribution is over the student's columns.
    Surplus columns of the student are ruled out by the teacher with ``-inf`` where the loss allows
    it, so that the student learns to give them no probability; otherwise they are cut off.

    Args:
        logits_S: Student's logits.
        logits_T: Teacher's logits; only the last axis may differ in length.
        rule: See :func:`common_columns`.
        what: Names the logits in messages.
        rules_out: Whether the loss allows ``-inf`` in the teacher's logits alone.
        names: The two models in messages.

    Examples:
        >>> student, teacher = jnp.zeros((1, 3)), jnp.ones((1, 2))
        >>> _, fitted = fit_vocabularies(student, teacher, "common", what="logits", rules_out=True)
        >>> print(fitted)
        [[  1.   1. -inf]]
    """
    columns_S, columns_T = logits_S.shape[-1], logits_T.shape[-1]
    columns = common_columns((columns_S, columns_T), rule, what=what, names=names)
    if columns_S > columns and rules_out:
        widths = [(0, 0)] * (logits_T.ndim - 1) + [(0, columns_S - columns)]
        padded = jnp.pad(logits_T.astype(jnp.result_type(logits_T, jnp.float32)), widths,
                         constant_values=-jnp.inf)  # fmt: skip
        return logits_S, padded
    return logits_S[..., :columns], logits_T[..., :columns]
