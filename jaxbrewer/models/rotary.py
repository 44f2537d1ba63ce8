r"""Rotary positions, with the forms of ``rope_scaling`` that extend them to longer inputs.

At position ``m``, features ``i`` and ``i + size / 2`` of a head turn by the angle
:math:`m \theta^{-2i/d}`. The forms of scaling change these frequencies.

References:
    Su et al., 2021, section 3.2, https://arxiv.org/abs/2104.09864
    Linear: Chen et al., 2023, https://arxiv.org/abs/2306.15595
    YaRN: Peng et al., 2023, section 3, https://arxiv.org/abs/2309.00071
    Llama 3: Grattafiori et al., 2024, https://arxiv.org/abs/2407.21783
    LongRoPE: Ding et al., 2024, https://arxiv.org/abs/2402.13753
"""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any, NamedTuple, Self

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from ..errors import UsageError, suggest

_NEEDED = {
    "default": (),
    "linear": ("factor",),
    "dynamic": ("factor",),
    "yarn": ("factor",),
    "llama3": (
        "factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings",
    ),
    "longrope": ("short_factor", "long_factor"),
}  # fmt: skip
"""The forms of scaling, and the numbers that each needs."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class RopeScaling:
    """The entry ``rope_scaling`` of a ``config.json``.

    Attributes:
        rope_type: The form of the scaling.
        factor: By how much inputs are longer than in training.
        original_max_position_embeddings: Their length in training; ``None`` for the config's.
        attention_factor: Multiplies cosines and sines; ``None`` for that of the paper.
        beta_fast: (YaRN) Features with more turns than this keep their frequency.
        beta_slow: (YaRN) Those with fewer are slowed down by ``factor``.
        mscale: (YaRN) With the next, another ``attention_factor``.
        mscale_all_dim: (YaRN) See ``mscale``.
        truncate: (YaRN) Whether the bounds between features are whole numbers.
        low_freq_factor: (Llama 3) Longer waves than the length in training divided by this are
            slowed down by ``factor``.
        high_freq_factor: (Llama 3) Shorter waves than with this keep their frequency.
        short_factor: (LongRoPE) Divides each frequency for inputs of the length in training.
        long_factor: (LongRoPE) The same for longer inputs.
    """

    rope_type: str = "default"
    factor: float | None = None
    original_max_position_embeddings: float | None = None
    attention_factor: float | None = None
    beta_fast: float | None = None
    beta_slow: float | None = None
    mscale: float | None = None
    mscale_all_dim: float | None = None
    truncate: bool = True
    low_freq_factor: float | None = None
    high_freq_factor: float | None = None
    short_factor: tuple[float, ...] | None = None
    long_factor: tuple[float, ...] | None = None

    @classmethod
    def from_dict(cls, entry: Any, size: int) -> Self:
        """Reads and checks the entry.

        Args:
            entry: The entry, a mapping; ``type`` is an older name of ``rope_type``.
            size: Features of a head.

        Raises:
            UsageError: It is no mapping, the form is unknown, or a number is missing, unknown or
                out of range.

        Examples:
            >>> RopeScaling.from_dict({"type": "linear", "factor": 2}, 64).factor
            2
            >>> RopeScaling.from_dict({"rope_type": "yarn"}, 64)
            Traceback (most recent call last):
            jaxbrewer.errors.UsageError: config rope_scaling of type 'yarn' needs factor.
        """
        if not isinstance(entry, Mapping):
            raise UsageError(f"config rope_scaling must be an object or null, got {entry!r}.")
        fields = {name: value for name, value in entry.items() if value is not None}
        kind = fields.pop("type", "default")
        kind = fields.setdefault("rope_type", kind)
        if not isinstance(kind, str) or kind not in _NEEDED:
            raise UsageError(
                f"config rope_scaling of type {kind!r} is unknown: {suggest(kind, _NEEDED)}"
            )
        if fields.pop("partial_rotary_factor", 1.0) != 1.0:
            raise UsageError("config rope_scaling partial_rotary_factor is not supported.")
        known = {field.name for field in dataclasses.fields(cls)}
        for name, value in fields.items():
            if name not in known:
                raise UsageError(
                    f"config rope_scaling has the unknown key {name!r}: {suggest(name, known)}"
                )
            if name.endswith(("short_factor", "long_factor")):
                fields[name] = _factors(name, value, size // 2)
            elif name == "truncate":
                if not isinstance(value, bool):
                    raise UsageError(f"config rope_scaling truncate must be a bool, got {value!r}.")
            elif name != "rope_type" and not _is_positive(value):
                raise UsageError(
                    f"config rope_scaling {name} must be a number above 0, got {value!r}."
                )
        lacking = [name for name in _NEEDED[kind] if name not in fields]
        if lacking:
            raise UsageError(f"config rope_scaling of type {kind!r} needs {', '.join(lacking)}.")
        return cls(**fields)

    def to_dict(self) -> dict[str, Any]:
        """The entry of a ``config.json``."""
        given = {name: value for name, value in vars(self).items() if value is not None}
        if self.truncate:
            del given["truncate"]
        return {
            name: list(value) if isinstance(value, tuple) else value
            for name, value in given.items()
        }


class Rotation(NamedTuple):
    """Cosines and sines of the angles of some positions, float32.

    Attributes:
        cos: The cosines.
        sin: The sines.
    """

    cos: Float[Array, "batch length half"]
    sin: Float[Array, "batch length half"]

    def __call__(
        self, x: Float[Array, "batch length heads size"]
    ) -> Float[Array, "batch length heads size"]:
        """Queries or keys, turned; computed in float32."""
        first, second = jnp.split(x.astype(jnp.float32), 2, axis=-1)
        cos, sin = self.cos[:, :, None], self.sin[:, :, None]
        turned = jnp.concatenate([first * cos - second * sin, second * cos + first * sin], axis=-1)
        return turned.astype(x.dtype)


@dataclasses.dataclass(frozen=True)
class Rope:
    """The rotary positions of some layers.

    Attributes:
        size: Features of a head.
        theta: The base of the frequencies.
        max_positions: ``max_position_embeddings`` of the config.
        scaling: The scaling.
    """

    size: int
    theta: float
    max_positions: int
    scaling: RopeScaling = dataclasses.field(default_factory=RopeScaling)

    @property
    def depends_on_length(self) -> bool:
        """Whether the frequencies depend on the length of the input."""
        return self.scaling.rope_type in ("dynamic", "longrope")

    def rotation(
        self, position_ids: Int[Array, "batch length"], lengths: Int[Array, " batch"] | None = None
    ) -> Rotation:
        """The angles of some positions.

        Args:
            position_ids: The positions.
            lengths: Lengths of the inputs for forms that depend on them; ``None`` for the largest
                position of each row, plus 1.

        Examples:
            >>> rope = Rope(size=2, theta=10000.0, max_positions=16)
            >>> x = jnp.ones((1, 2, 1, 2))
            >>> turned = rope.rotation(jnp.arange(2)[None])(x)
            >>> [[round(float(value), 3) for value in row] for row in turned[0, :, 0]]
            [[1.0, 1.0], [-0.301, 1.382]]
        """
        if not self.depends_on_length:
            inverse = jnp.asarray(self._fixed_frequencies(), jnp.float32)[None, None]
        else:
            lengths = jnp.max(position_ids, axis=1) + 1 if lengths is None else lengths
            inverse = self._frequencies_at(lengths)[:, None]
        angles = position_ids.astype(jnp.float32)[:, :, None] * inverse
        factor = self._attention_factor()
        return Rotation(jnp.cos(angles) * factor, jnp.sin(angles) * factor)

    @property
    def _trained_length(self) -> float:
        return self.scaling.original_max_position_embeddings or self.max_positions

    @property
    def _factor(self) -> float:
        return self.scaling.factor or 1.0

    def _powers(self) -> np.ndarray:
        return np.arange(0, self.size, 2) / self.size

    def _fixed_frequencies(self) -> np.ndarray:
        frequencies = self.theta ** -self._powers()
        scaling = self.scaling
        if scaling.rope_type == "linear":
            return frequencies / self._factor
        if scaling.rope_type == "llama3":
            return self._llama3(frequencies)
        if scaling.rope_type == "yarn":
            return self._yarn(frequencies)
        return frequencies

    def _llama3(self, frequencies: np.ndarray) -> np.ndarray:
        """Waves between both bounds get a frequency between the scaled and the plain one."""
        scaling = self.scaling
        low, high = scaling.low_freq_factor or 1.0, scaling.high_freq_factor or 4.0
        turns = self._trained_length * frequencies / (2 * math.pi)
        share = np.clip((turns - low) / (high - low), 0, 1)
        return (1 - share) * frequencies / self._factor + share * frequencies

    def _yarn(self, frequencies: np.ndarray) -> np.ndarray:
        """Peng et al., equations 15 to 17 (section 3.2), with bounds in features."""
        scaling = self.scaling

        def feature(turns: float) -> float:
            wave = self._trained_length / (turns * 2 * math.pi)
            return self.size * math.log(wave) / (2 * math.log(self.theta))

        low, high = feature(scaling.beta_fast or 32), feature(scaling.beta_slow or 1)
        if scaling.truncate:
            low, high = math.floor(low), math.ceil(high)
        low, high = max(low, 0), min(high, self.size - 1)
        width = (high - low) or 0.001
        slowed = np.clip((np.arange(self.size // 2) - low) / width, 0, 1)
        return slowed * frequencies / self._factor + (1 - slowed) * frequencies

    def _frequencies_at(self, lengths: Int[Array, " batch"]) -> Float[Array, "batch half"]:
        powers = jnp.asarray(self._powers(), jnp.float32)[None]
        scaling, lengths = self.scaling, lengths.astype(jnp.float32)
        if scaling.rope_type == "dynamic":
            factor = self._factor
            ratio = jnp.maximum(lengths, self.max_positions) / self.max_positions
            base = self.theta * (factor * ratio - (factor - 1)) ** (self.size / (self.size - 2))
            return base[:, None] ** -powers
        is_long = (lengths > self._trained_length)[:, None]
        short, long = (
            jnp.asarray(factors, jnp.float32)[None]
            for factors in (scaling.short_factor, scaling.long_factor)
        )
        return self.theta**-powers / jnp.where(is_long, long, short)

    def _attention_factor(self) -> float:
        scaling = self.scaling
        if scaling.attention_factor is not None:
            return scaling.attention_factor
        if scaling.rope_type == "yarn":
            factor = self._factor
            if scaling.mscale and scaling.mscale_all_dim:
                return _magnitude(factor, scaling.mscale) / _magnitude(
                    factor, scaling.mscale_all_dim
                )
            return _magnitude(factor, 1.0)
        if scaling.rope_type == "longrope":
            trained = self._trained_length
            is_given = scaling.original_max_position_embeddings is not None
            factor = self.max_positions / trained if is_given else self._factor
            return math.sqrt(1 + math.log(factor) / math.log(trained)) if factor > 1 else 1.0
        return 1.0


def _magnitude(factor: float, mscale: float) -> float:
    return 0.1 * mscale * math.log(factor) + 1.0 if factor > 1 else 1.0


def _factors(name: str, value: Any, count: int) -> tuple[float, ...]:
    if not isinstance(value, (list, tuple)) or not all(map(_is_positive, value)):
        raise UsageError(f"config rope_scaling {name} must be a list of numbers above 0.")
    if len(value) != count:
        raise UsageError(
            f"config rope_scaling {name} must have {count} numbers, half of a head's features, got "
            f"{len(value)}."
        )
    return tuple(value)


def _is_positive(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 < value < 1e30
