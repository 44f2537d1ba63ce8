"""Reads and writes Hugging Face directories: ``config.json`` and ``model*.safetensors``."""

import contextlib
import functools
import itertools
import json
import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from ..errors import UsageError, suggest
from .bert import BertConfig, BertHead
from .config import TransformerConfig
from .families import Family, family_of
from .gguf_files import gguf_file, open_gguf
from .heads import TransformerModel, cut_layers
from .model_types import BARE, FAMILIES
from .pooling import DENSE, dense_weights, pooling_files, read_pooling, write_pooling
from .weight_files import (
    CONFIG,
    WEIGHTS,
    WeightFiles,
    open_files,
    open_weights,
    read_config,
    safetensors,
)

logger = logging.getLogger("jaxbrewer")

_NAME_OF_LEAF = {"kernel": "weight", "scale": "weight", "embedding": "weight"}
_OLD_NAMES = {"gamma": "weight", "beta": "bias"}

WeightPath = tuple[Any, ...]
"""Names of attributes and indices of layers, from the root of the model."""


def load(
    directory: str | os.PathLike[str],
    task: str | None = None,
    *,
    num_labels: int | None = None,
    labels: Sequence[str] | None = None,
    layers: Sequence[int] | None = None,
    new_head: bool = False,
    seed: int = 0,
    dtype: Any = jnp.float32,
    **settings: Any,
) -> TransformerModel:
    """Loads a model from a Hugging Face directory, in evaluation mode.

    ``model_type`` in ``config.json`` is the family. The tensors are in ``model.safetensors``, or in
    the files that ``model.safetensors.index.json`` lists; their names may have the encoder's prefix
    (``bert.``) or not. A pooler or head that the files lack gets random weights, and a warning in
    the log (logger ``jaxbrewer``) names it.

    Args:
        directory: The directory of ``config.json`` and the weights.
        task: One of the tasks of the family, such as ``"sequence-classification"``,
            ``"token-classification"`` or ``"feature-extraction"``; by default that of the
            config's ``architectures``.
        num_labels: Outputs of the head; by default those of the config or of ``labels``.
        labels: Names of the classes, in order.
        layers: Keep only these layers; see :func:`cut_layers`.
        new_head: Give the head random weights even if the files have one.
        seed: Seed of random weights and of dropout.
        dtype: Floating-point type of the weights, independent of the files.
        settings: Fields of the family's config that replace those of the file, such as dropout
            rates. Encoders without a head read the pooling of a sentence-transformers directory,
            unless ``pooling`` is given.

    Returns:
        The model; ``model.train()`` enables dropout.

    Raises:
        UsageError: A file is missing or cannot be read, the family is unknown, the config needs
            something that is not supported, or a tensor of the encoder is missing or has another
            shape.

    Examples:
        >>> import tempfile
        >>> from jaxbrewer.models import BertConfig, BertForTokenClassification
        >>> config = BertConfig(vocab_size=50, hidden_size=8, num_hidden_layers=4,
        ...     num_attention_heads=2, intermediate_size=16, num_labels=3)
        >>> with tempfile.TemporaryDirectory() as directory:
        ...     save(BertForTokenClassification(config, rngs=nnx.Rngs(0)), directory)
        ...     student = load(directory, layers=[0, 2])
        >>> type(student).__name__, student.config.num_hidden_layers
        ('BertForTokenClassification', 2)
    """
    folder = Path(directory)
    file = gguf_file(folder)
    gguf = None if file is None else open_gguf(file)
    fields = read_config(folder) if gguf is None else gguf.config()
    family = family_of(fields.get("model_type", "bert"))
    if labels is not None:
        settings |= {"labels": tuple(labels), "num_labels": len(labels)}
    if num_labels is not None:
        settings["num_labels"] = num_labels
    config = family.config.from_dict(fields)
    head = _head_for(task, family, config, fields, folder)
    if head.task == BARE and "pooling" not in settings:
        settings["pooling"] = read_pooling(folder)
    config = _changed(config, settings)
    with contextlib.ExitStack() as stack:
        files = stack.enter_context(
            open_weights(folder, fields) if gguf is None else gguf.weights()
        )
        path = dense_weights(folder) if head.task == BARE else None
        if path is not None:
            files = files.joined(stack.enter_context(open_files([path])), {"linear": DENSE})
        model = _build(head, family, config, files, new_head=new_head, seed=seed, dtype=dtype)
    return model if layers is None else cut_layers(model, layers)


def save(model: TransformerModel, directory: str | os.PathLike[str]) -> None:
    """Writes ``config.json`` and ``model.safetensors``, which ``transformers`` loads.

    A model that ``transformers`` cannot compute (``classifier_pooling="mean"``) has a
    ``model_type`` that it refuses.

    Each file is written under a temporary name and then renamed, so that readers see whole files.

    Args:
        model: The model; weights keep their dtype.
        directory: The directory, which is created if it does not exist.
    """
    folder, family = Path(directory), family_of(model.config.model_type)
    folder.mkdir(parents=True, exist_ok=True)
    tensors, pooling = {}, getattr(model.config, "pooling", None)
    for path, leaf in _flat(nnx.state(model, nnx.Param)).items():
        array = np.asarray(leaf)
        name = _name(path, family)
        if model.task == BARE:
            name = name.removeprefix(f"{family.body}.")
        tensors[name] = np.ascontiguousarray(array.T if _is_transposed(path, family) else array)
    config = {
        "architectures": [family.architecture(model)],
        "torch_dtype": str(next(iter(tensors.values())).dtype),
        **model.config.to_dict(),
    }
    if pooling is not None:
        longest, width = model.config.longest_input, model.config.hidden_size
        write_pooling(folder, pooling_files(pooling, width, longest))
        own = [name for name in tensors if name.startswith(f"{DENSE}.")]
        linear = {name.replace(DENSE, "linear"): tensors.pop(name) for name in own}
        if linear:
            _write_tensors(folder / "2_Dense" / WEIGHTS, linear)
    _write_tensors(folder / WEIGHTS, tensors)
    with _in_place_of(folder / CONFIG) as part:
        part.write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")


def _write_tensors(path: Path, tensors: Mapping[str, np.ndarray]) -> None:
    with _in_place_of(path) as part:
        part.write_bytes(safetensors().numpy.save(dict(tensors), metadata={"format": "pt"}))


def load_bert(
    directory: str | os.PathLike[str], task: str | None = None, **options: Any
) -> BertHead:
    """:func:`load` for directories of BERT models.

    Raises:
        UsageError: As :func:`load`; or the model is of another family, which :func:`load` reads.
    """
    model_type = read_config(Path(directory)).get("model_type", "bert")
    if model_type not in BertConfig.MODEL_TYPES:
        hint = "use jaxbrewer.models.load." if model_type in FAMILIES else suggest("", FAMILIES)
        raise UsageError(f"{directory} is a model of type {model_type!r}, not 'bert': {hint}")
    model = load(directory, task, **options)
    assert isinstance(model, BertHead)
    return model


def save_bert(model: TransformerModel, directory: str | os.PathLike[str]) -> None:
    """:func:`save`, under the name that goes with :func:`load_bert`."""
    save(model, directory)


def _build(
    head: type[TransformerModel],
    family: Family,
    config: TransformerConfig,
    files: WeightFiles,
    *,
    new_head: bool,
    seed: int,
    dtype: Any,
) -> TransformerModel:
    """Builds the model from the tensors of the files; missing ones get random weights."""
    make: Any = head
    abstract = nnx.eval_shape(lambda: make(config, rngs=nnx.Rngs(seed)))
    graph, *parts = nnx.split(abstract, nnx.Param, ...)
    weights, rest = parts
    shapes = _flat(weights)
    names = _canonical_names(files, family)
    wanted = {path: _name(path, family) for path in shapes}
    heads = _starts(fresh for fresh in family.fresh if not fresh.startswith(f"{family.body}."))
    replaced = {name for name in wanted.values() if new_head and name.startswith(heads)}
    found = {path: name for path, name in wanted.items() if name in names and name not in replaced}
    _report(files, family, names, wanted, found, replaced)

    draw = np.random.default_rng(seed)  # NumPy's has nothing to compile
    leaves = {}
    for path, leaf in shapes.items():
        if path not in found:
            leaves[path] = jnp.array(_drawn(path, leaf.shape, config, draw).astype(dtype))
            continue
        tensor = files.read(names[found[path]])
        tensor = tensor.T if _is_transposed(path, family) else tensor
        if tensor.shape != leaf.shape:
            _refuse_shape(files, family, names[found[path]], path, tensor.shape, leaf.shape)
        leaves[path] = jnp.array(tensor.astype(dtype, order="C"))

    keys = map(functools.partial(jax.random.fold_in, jax.random.key(seed)), itertools.count())

    def start(leaf: Any) -> jax.Array:
        is_key = jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)
        return next(keys) if is_key else jnp.array(np.zeros(leaf.shape, leaf.dtype))

    streams = jax.tree.map(start, nnx.to_pure_dict(rest))
    model: TransformerModel = nnx.merge(graph, nnx.traversals.unflatten_mapping(leaves), streams)
    model.eval()
    return model


def _drawn(
    path: WeightPath, shape: tuple[int, ...], config: TransformerConfig, draw: np.random.Generator
) -> np.ndarray:
    """Initial values: normal for matrices, 1 for the scales of norms, 0 for biases."""
    if path[-1] == "scale":
        return np.ones(shape)
    return draw.normal(0.0, config.initializer_range if path[-1] == "kernel" else 0.0, shape)


def _flat(weights: Any) -> dict[WeightPath, Any]:
    return nnx.traversals.flatten_mapping(nnx.to_pure_dict(weights))


def _starts(stems: Any) -> tuple[str, ...]:
    return tuple(f"{stem}." for stem in stems)


def _name(path: WeightPath, family: Family) -> str:
    """The tensor's name in a file."""
    *modules, leaf = path
    name = ".".join([*map(str, modules), _NAME_OF_LEAF.get(str(leaf), str(leaf))])
    for ours, theirs in family.names.items():
        if f"{name}.".startswith(f"{ours}."):
            return theirs + name.removeprefix(ours)
    return name


def _is_transposed(path: WeightPath, family: Family) -> bool:
    """Whether a file holds this weight as ``[outputs, inputs]``."""
    return path[-1] == "kernel" and path[-2] not in family.untransposed


def _canonical_names(files: WeightFiles, family: Family) -> dict[str, str]:
    """Maps our names, with the encoder's prefix, ``weight`` and ``bias``, to those in the files.

    Raises:
        UsageError: Two tensors have one name, once with and once without the encoder's.
    """
    names: dict[str, str] = {}
    for stored in files.names:
        stem, _, leaf = stored.rpartition(".")
        name = f"{stem}.{_OLD_NAMES.get(leaf, leaf)}" if stem else leaf
        if name.startswith(_starts(family.body_parts)):
            name = f"{family.body}.{name}"
        if name in names:
            raise UsageError(
                f"{files.where} holds {name} twice, as {names[name]!r} and as {stored!r}: remove "
                "one of them."
            )
        names[name] = stored
    return names


def _report(
    files: WeightFiles,
    family: Family,
    names: Mapping[str, str],
    wanted: Mapping[WeightPath, str],
    found: Mapping[WeightPath, str],
    replaced: set[str],
) -> None:
    """Logs what gets random weights and what is not used; refuses files without the encoder."""
    missing = [name for path, name in wanted.items() if path not in found]
    fresh = _starts((*family.fresh, DENSE))
    lacking = [name for name in missing if not name.startswith(fresh)]
    if lacking:
        raise UsageError(
            f"{files.where} lacks {len(lacking)} tensors of the model: {_listed(lacking)}. "
            f"It has {_listed(list(names.values()))}."
        )
    there = [name for name in missing if name in replaced and name in names]
    absent = [name for name in missing if name not in there]
    if there:
        logger.warning("Replaced by random weights: %s", _listed(there))
    if absent:
        logger.warning("Not in %s, starts from random weights: %s", files.where, _listed(absent))
    unused = set(names) - set(wanted.values())
    heads = _starts((*family.fresh, *family.other_heads))
    expected = [name for name in unused if name.startswith(heads)]
    if expected:
        logger.info("Heads in %s that this model lacks: %s", files.where, _listed(expected))
    surprising = unused.difference(expected)
    if surprising:
        logger.warning("In %s but not in the model: %s", files.where, _listed(surprising))


def _listed(names: Sequence[str] | set[str]) -> str:
    some = sorted(names)[:4]
    return ", ".join(some) + (f" and {len(names) - len(some)} more" if len(names) > 4 else "")


def _refuse_shape(
    files: WeightFiles,
    family: Family,
    name: str,
    path: WeightPath,
    given: Sequence[int],
    wanted: Sequence[int],
) -> None:
    if _is_transposed(path, family):
        given, wanted = given[::-1], wanted[::-1]
    is_head = path[0] != family.body
    remedy = " Give num_labels as the file has it, or new_head=True." if is_head else ""
    raise UsageError(
        f"{files.where} {name} has shape {list(given)}, the config asks for {list(wanted)}.{remedy}"
    )


def _head_for(
    task: str | None,
    family: Family,
    config: TransformerConfig,
    fields: Mapping[str, Any],
    folder: Path,
) -> type[TransformerModel]:
    if task is not None:
        if task not in family.by_task:
            raise UsageError(f"task {task!r} is unknown: {suggest(task, family.by_task)}")
        return family.by_task[task]
    architectures = fields.get("architectures") or []
    head = family.head_for(fields.get("model_type", config.model_type), architectures)
    if head is None:
        raise UsageError(
            f"{folder / CONFIG} names no head (architectures {architectures}): give a task. "
            + suggest("", family.by_task)
        )
    return head


def _changed(config: TransformerConfig, settings: Mapping[str, Any]) -> TransformerConfig:
    known = vars(config)
    for name in settings:
        if name not in known:
            raise UsageError(
                f"{type(config).__name__} has no field {name!r}: {suggest(name, known)}"
            )
    if settings.get("num_labels") not in (None, known.get("num_labels")):
        settings = {"labels": None, **settings}
    return type(config)(**{**known, **settings})


@contextlib.contextmanager
def _in_place_of(path: Path) -> Iterator[Path]:
    """A file beside ``path`` that takes its place once it is complete."""
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        yield part
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)
