r"""Resolves layer maps: which student layer learns from which teacher layer.

Layers of hidden states count from the embeddings, 0; attention has one layer for each block, or
one more at the front. With :math:`K` student blocks and :math:`D` teacher blocks,

* ``uniform`` pairs block :math:`i` with block :math:`\mathrm{round}(i D / K)`, embeddings too;
* ``skip`` pairs :math:`i` with :math:`i \lfloor D / K \rfloor` for :math:`0 < i < K`, and ``last``
  pairs :math:`i` with :math:`D - K + i` (Sun et al., Patient knowledge distillation, 2019, section
  3.2, https://arxiv.org/abs/1908.09355: the last block is left out, since the logits represent it);
* ``emd`` compares all layers with all: hidden states and, if both models return it with equal
  numbers of heads, attention, with shared weights of the layers (:class:`~jaxbrewer.EMDMatch`);
* a name of TextBrewer's examples is ``uniform`` for a student of that many blocks (``small``:
  every second block of a student of any depth), without the embeddings for attention.
"""

import dataclasses
import difflib
import fnmatch
import math
from collections.abc import Mapping, Sequence
from typing import Any

from ..configs import CustomMatch, DistillationConfig, EMDMatch, IntermediateMatch, LayerMap
from ..configs.module_paths import split_module_path
from ..errors import UsageError
from ..forward.adaptors import Outputs
from ..forward.capture import element
from ..registry import MATCH_LOSS_MAP, loss_and_parameters

Shapes = Any
"""``Outputs`` whose arrays may be shapes alone, from ``jax.eval_shape``."""


def resolve(
    config: DistillationConfig,
    student: Shapes,
    teachers: Sequence[Shapes],
    *,
    modules_S: Mapping[str, Any] | None = None,
    modules_T: Sequence[Mapping[str, Any]] = (),
) -> DistillationConfig:
    """The config with every match written out: layers, modules, and projections where needed.

    Args:
        config: A config, possibly with layer maps, transport matches without layers, or globs.
        student: Outputs of the student's adaptor, or their shapes.
        teachers: Outputs of each teacher's adaptor, or their shapes.
        modules_S: What the student's submodules return by path, or its shapes; needed for
            ``custom_matches``.
        modules_T: The same for each teacher.

    Raises:
        UsageError: A feature is missing, the student has another depth than its preset, or no
            module has a path (the nearest are listed).
    """
    matches: list[Any] = []
    for index, match in enumerate(config.intermediate_matches):
        try:
            matches += _written_out(match, student, teachers)
        except UsageError as error:
            raise UsageError(f"intermediate_matches[{index}]: {error}") from None
    custom: list[Any] = []
    for index, match in enumerate(config.custom_matches):
        try:
            custom += _of_modules(match, modules_S or {}, _of_teacher(match, modules_T))
        except UsageError as error:
            raise UsageError(f"custom_matches[{index}]: {error}") from None
    return dataclasses.replace(config, intermediate_matches=matches, custom_matches=custom)


def table(
    config: DistillationConfig,
    student: Shapes,
    teachers: Sequence[Shapes],
    *,
    modules_S: Mapping[str, Any] | None = None,
    modules_T: Sequence[Mapping[str, Any]] = (),
) -> str:
    """A table of the matches of a resolved config: layers, widths, loss, weight, projection."""
    rows: list[tuple[str, ...]] = [("student", "teacher", "loss", "weight", "projection")]
    for match in config.intermediate_matches:
        shapes_S, shapes_T = student, _of_teacher(match, teachers)
        sides = [
            _described(match.feature, layers, shapes)
            for layers, shapes in ((match.layer_S, shapes_S), (match.layer_T, shapes_T))
        ]
        loss = f"{_loss_name(match)} (emd)" if isinstance(match, EMDMatch) else _loss_name(match)
        several = len(match.layer_S) if isinstance(match, EMDMatch) and match.layer_S else 1
        rows.append((*sides, loss, f"{match.weight:g}", _projection(match, several)))
    for match in config.custom_matches:
        side_T = _of_teacher(match, modules_T)
        rows.append(
            (
                f"{match.module_S} [{_last_axis(match.module_S, modules_S or {})}]",
                f"{match.module_T} [{_last_axis(match.module_T, side_T)}]",
                _loss_name(match),
                f"{match.weight:g}",
                _projection(match, 1),
            )
        )
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = (
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    )
    return "\n".join(lines)


def pair_layers(kind: str, student: int, teacher: int) -> list[tuple[int, int]]:
    """Pairs of blocks, student first; 0 stands for the embeddings.

    Args:
        kind: ``"uniform"``, ``"last"`` or ``"skip"``.
        student: Blocks of the student.
        teacher: Blocks of the teacher.

    Raises:
        UsageError: The student has no block, or more than the teacher.

    Examples:
        >>> pair_layers("uniform", 3, 12)
        [(0, 0), (1, 4), (2, 8), (3, 12)]
        >>> pair_layers("skip", 6, 12)
        [(1, 2), (2, 4), (3, 6), (4, 8), (5, 10)]
        >>> pair_layers("last", 6, 12)
        [(1, 7), (2, 8), (3, 9), (4, 10), (5, 11)]
    """
    if not 0 < student <= teacher:
        raise UsageError(
            f"a layer map needs a student with 1 to {teacher} layers, the teacher's number, but it "
            f"has {student}."
        )
    if kind == "uniform":
        return [(i, math.floor(i * teacher / student + 0.5)) for i in range(student + 1)]
    last = max(student, 2)  # a student of one block has its one pair
    if kind == "skip":
        return [(i, i * (teacher // student)) for i in range(1, last)]
    return [(i, teacher - student + i) for i in range(1, last)]


def _written_out(match: Any, student: Shapes, teachers: Sequence[Shapes]) -> list[Any]:
    if isinstance(match, IntermediateMatch):
        return [match]
    teacher = _of_teacher(match, teachers)
    if isinstance(match, EMDMatch):
        return [_with_layers(match, student, teacher)]
    assert isinstance(match, LayerMap)
    named = feature, loss = match.named_loss
    if match.map == "emd":
        return _emd_matches(match, student, teacher)
    blocks_S, blocks_T = _blocks("student", student, feature), _blocks("teacher", teacher, feature)
    if match.student_layers not in (None, blocks_S):
        raise UsageError(
            f"{match.map!r} is for a student with {match.student_layers} layers, but this one has "
            f"{blocks_S}: use {match.map.replace(f'L{match.student_layers}', f'L{blocks_S}', 1)!r}."
        )
    kind = match.map if match.map in ("last", "skip") else "uniform"
    pairs = pair_layers(kind, blocks_S, blocks_T)
    if match.map.startswith("small_"):
        pairs = pairs[::2]
    if feature == "attention":
        pairs = [(i, j) for i, j in pairs if i > 0]
    takes = MATCH_LOSS_MAP.row(loss).layers
    several = None if takes in (None, 1) else takes
    written = []
    for block_S, block_T in pairs:
        layer_S, layer_T = (
            block + len(shapes.features[feature]) - blocks - 1
            for block, shapes, blocks in (
                (block_S, student, blocks_S),
                (block_T, teacher, blocks_T),
            )
        )
        written.append(
            IntermediateMatch(
                layer_T=[layer_T] * several if several else layer_T,
                layer_S=[layer_S] * several if several else layer_S,
                weight=match.weight,
                loss=loss,
                feature=feature,
                proj=_needed_projection(match, named, student, teacher, layer_S, layer_T),
                teacher=match.teacher,
            )
        )
    return written


def _emd_matches(match: LayerMap, student: Shapes, teacher: Shapes) -> list[EMDMatch]:
    """Hidden states and attention, with the weights of the layers in common."""
    heads = {
        shapes.features["attention"][-1].shape[1] if shapes.features.get("attention") else None
        for shapes in (student, teacher)
    }
    both = len(heads) == 1 and None not in heads
    chosen = {"hidden": "hidden_mse", **({"attention": "attention_mse"} if both else {})}
    if match.feature or match.loss:
        chosen = dict([match.named_loss])
    written = []
    for feature, loss in chosen.items():
        blocks_S = _blocks("student", student, feature)
        blocks_T = _blocks("teacher", teacher, feature)
        layers: dict[str, Any] = {
            "layer_S": [*range(len(student.features[feature]))][-blocks_S:],
            "layer_T": [*range(len(teacher.features[feature]))][-blocks_T:],
        }
        written.append(
            EMDMatch(
                feature=feature,
                loss=loss,
                weight=match.weight,
                proj=_needed_projection(match, (feature, loss), student, teacher, -1, -1),
                group="emd" if len(chosen) > 1 else None,
                teacher=match.teacher,
                **layers,
            )
        )
    return written


def _with_layers(match: EMDMatch, student: Shapes, teacher: Shapes) -> EMDMatch:
    found: dict[str, Any] = {}
    for field, who, shapes in (("layer_S", "student", student), ("layer_T", "teacher", teacher)):
        layers = shapes.features.get(match.feature, ())
        if not layers:
            raise _missing(who, match.feature)
        if getattr(match, field) is None:
            found[field] = list(range(len(layers)))
    return dataclasses.replace(match, **found)


def _blocks(who: str, shapes: Shapes, feature: str) -> int:
    """The number of blocks of a model; hidden states have one more layer, the embeddings."""
    layers = shapes.features.get(feature, ())
    if not layers:
        raise _missing(who, feature)
    if feature == "attention" and not shapes.features.get("hidden"):
        return len(layers)
    return len(shapes.features["hidden" if feature == "attention" else feature]) - 1


def _missing(who: str, feature: str) -> UsageError:
    return UsageError(f"it needs {feature!r}, which the {who}'s adaptor does not return.")


def _needed_projection(
    match: LayerMap,
    named: tuple[str, Any],
    student: Shapes,
    teacher: Shapes,
    layer_S: int,
    layer_T: int,
) -> list[Any] | None:
    """A projection where a loss needs equal widths and they differ."""
    feature, loss = named
    if feature == "attention" or not MATCH_LOSS_MAP.row(loss).equal_widths:
        return None
    width_S, width_T = (
        shapes.features[feature][layer].shape[-1]
        for shapes, layer in ((student, layer_S), (teacher, layer_T))
    )
    if width_S == width_T:
        return None
    return [match.proj, width_S, width_T, *([match.proj_group] if match.proj_group else [])]


def _of_modules(
    match: CustomMatch, modules_S: Mapping[str, Any], modules_T: Mapping[str, Any]
) -> list[CustomMatch]:
    """One match for each pair of modules that the paths stand for."""
    paths_S = _matching("module_S", match.module_S, modules_S)
    paths_T = _matching("module_T", match.module_T, modules_T)
    if len(paths_S) != len(paths_T):
        raise UsageError(
            f"module_S {match.module_S!r} stands for {len(paths_S)} modules {paths_S}, module_T "
            f"{match.module_T!r} for {len(paths_T)} {paths_T}: both must stand for equally many."
        )
    written = []
    for path_S, path_T in zip(paths_S, paths_T, strict=True):
        proj = match.proj
        width_S, width_T = _last_axis(path_S, modules_S), _last_axis(path_T, modules_T)
        if isinstance(proj, str):
            proj = (proj, width_S, width_T)
        if isinstance(proj, tuple) and match.proj_group:
            proj = (*proj[:3], match.proj_group)
        if proj is None and width_S != width_T and MATCH_LOSS_MAP.row(match.loss).equal_widths:
            raise UsageError(
                f'{path_S} has width {width_S}, {path_T} has {width_T}: give "proj": "linear" (a '
                "loss that compares any widths is registered with equal_widths=False)."
            )
        written.append(dataclasses.replace(match, module_S=path_S, module_T=path_T, proj=proj))
    return written


def _matching(field: str, pattern: str, modules: Mapping[str, Any]) -> list[str]:
    """The paths that a pattern stands for, in the order of their numbers, with its steps."""
    glob = split_module_path(pattern)[0]
    found = [path for path in modules if fnmatch.fnmatchcase(path, glob)]
    if not found:
        nearest = difflib.get_close_matches(glob, list(modules), n=5, cutoff=0.0)
        listed = ", ".join(map(repr, nearest)) or "it has none that are called"
        raise UsageError(f"{field} {glob!r} is not a module; the nearest: {listed}.")
    return [path + pattern[len(glob) :] for path in sorted(found, key=_natural)]


def _last_axis(address: str, modules: Mapping[str, Any]) -> int:
    """The width of the array that a module's path leads to."""
    shape: tuple[int, ...] = element(address, modules[split_module_path(address)[0]]).shape
    if not shape:
        raise UsageError(f"{address} is a single number; a match compares vectors.")
    return shape[-1]


def _natural(path: str) -> list[Any]:
    """``layers.10`` after ``layers.9``."""
    return [(0, int(part), "") if part.isdigit() else (1, 0, part) for part in path.split(".")]


def _of_teacher(match: Any, teachers: Sequence[Any]) -> Any:
    if match.teacher >= len(teachers):
        raise UsageError(f"there is no teacher {match.teacher} among {len(teachers)}.")
    return teachers[match.teacher]


def _loss_name(match: Any) -> str:
    if callable(match.loss):
        return getattr(match.loss, "__name__", "loss")
    return loss_and_parameters(match.loss)[0]


def _described(feature: str, layers: Any, shapes: Outputs) -> str:
    numbers = layers if isinstance(layers, tuple) else (layers,)
    text = ", ".join(map(str, numbers))
    if len(numbers) > 2:
        text = f"{numbers[0]} to {numbers[-1]}"
    shape = shapes.features[feature][numbers[0]]
    return f"{feature} {text} [{_width(shape, heads=feature == 'attention')}]"


def _width(shape: Any, *, heads: bool = False) -> str:
    if shape is None:
        return "?"
    return f"{shape.shape[1]} heads" if heads and len(shape.shape) == 4 else str(shape.shape[-1])


def _projection(match: Any, several: int) -> str:
    if match.proj is None:
        return "none"
    if callable(match.proj):
        return getattr(match.proj, "__name__", "a function")
    text = f"{match.proj[0]} {match.proj[1]} -> {match.proj[2]}"
    return text if several == 1 else f"{several} x {text}"
