"""Hugging Face directories: ``config.json`` and ``model.safetensors``, read and written."""

import contextlib
import functools
import itertools
import json
import logging
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from ..errors import UsageError, suggest
from .bert import TASKS, BertHead, cut_layers
from .config import BertConfig

logger = logging.getLogger("jaxbrewer")

CONFIG, WEIGHTS = "config.json", "model.safetensors"
_NAME_OF_LEAF = {"kernel": "weight", "scale": "weight", "embedding": "weight", "bias": "bias"}
_OLD_NAMES = {"gamma": "weight", "beta": "bias"}
_ENCODER = ("embeddings.", "encoder.", "pooler.")
_HEADS = ("classifier.", "qa_outputs.")
_MAY_START_AFRESH = (*_HEADS, "bert.pooler.")

WeightPath = tuple[Any, ...]
"""Names of attributes, and numbers of layers."""


def load_bert(
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
) -> BertHead:
    """Loads a BERT from a Hugging Face directory, in evaluation mode.

    Tensor names may carry the prefix ``bert.`` or not. A pooler or head that the file does not
    have starts from random weights, and a line in the log (logger ``jaxbrewer``) says so.

    Args:
        directory: Where ``config.json`` and ``model.safetensors`` lie.
        task: ``"sequence-classification"``, ``"token-classification"`` or
            ``"question-answering"``; ``None`` for what the config's ``architectures`` says.
        num_labels: Outputs of the head; ``None`` for what the config or ``labels`` says.
        labels: Names of the classes, in order.
        layers: Only these layers, as :func:`cut_layers` takes them.
        new_head: Start the head from random weights even if the file has one.
        seed: Of the weights that start afresh, and of dropout.
        dtype: Floating-point type of the weights, whatever the file has.
        settings: Fields of :class:`BertConfig` that shall differ from the file, dropout rates say.

    Returns:
        The model; ``model.train()`` turns dropout on.

    Raises:
        UsageError: A file is missing or cannot be read, the config asks for what this encoder does
            not do, or a tensor of the encoder is missing or has another shape.

    Examples:
        >>> import tempfile
        >>> from jaxbrewer.models import BertForTokenClassification
        >>> config = BertConfig(vocab_size=50, hidden_size=8, num_hidden_layers=4,
        ...     num_attention_heads=2, intermediate_size=16, num_labels=3)
        >>> with tempfile.TemporaryDirectory() as directory:
        ...     save_bert(BertForTokenClassification(config, rngs=nnx.Rngs(0)), directory)
        ...     student = load_bert(directory, layers=[0, 2])
        >>> type(student).__name__, student.config.num_hidden_layers
        ('BertForTokenClassification', 2)
    """
    folder = Path(directory)
    fields = _read_config(folder / CONFIG)
    head = _head_for(task, fields, folder)
    if labels is not None:
        settings |= {"labels": tuple(labels), "num_labels": len(labels)}
    if num_labels is not None:
        settings["num_labels"] = num_labels
    config = _changed(BertConfig.from_dict(fields), settings)
    with _open_weights(folder) as (names, read):
        model = _build(head, config, names, read, new_head=new_head, seed=seed, dtype=dtype)
    return model if layers is None else cut_layers(model, layers)


def save_bert(model: BertHead, directory: str | os.PathLike[str]) -> None:
    """Writes ``config.json`` and ``model.safetensors``, which ``transformers`` loads.

    Each file is written beside its place and then moved there, so that no reader sees a part.

    Args:
        model: The model; weights keep their dtype.
        directory: Where to; made if it is not there.
    """
    folder = Path(directory)
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {}
    for path, leaf in _flat(nnx.state(model, nnx.Param)).items():
        array = np.asarray(leaf)
        tensors[_name(path)] = np.ascontiguousarray(array.T if path[-1] == "kernel" else array)
    config = {
        "architectures": [type(model).__name__],
        "torch_dtype": str(tensors["bert.embeddings.word_embeddings.weight"].dtype),
        **model.config.to_dict(),
    }
    with _in_place_of(folder / WEIGHTS) as part:
        part.write_bytes(_safetensors().numpy.save(tensors, metadata={"format": "pt"}))
    with _in_place_of(folder / CONFIG) as part:
        part.write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")


def _build(
    head: type[BertHead],
    config: BertConfig,
    names: Mapping[str, str],
    read: Callable[[str], np.ndarray],
    *,
    new_head: bool,
    seed: int,
    dtype: Any,
) -> BertHead:
    """The model with the tensors of a file; only what the file lacks is drawn."""
    abstract = nnx.eval_shape(lambda: head(config, rngs=nnx.Rngs(seed)))
    graph, *parts = nnx.split(abstract, nnx.Param, ...)
    weights, rest = parts
    shapes = _flat(weights)
    wanted = {path: _name(path) for path in shapes}
    found = {
        path: name
        for path, name in wanted.items()
        if name in names and not (new_head and name.startswith(_HEADS))
    }
    _report(names, wanted, found)

    draw = np.random.default_rng(seed)  # NumPy's, as there is nothing to compile
    leaves = {}
    for path, leaf in shapes.items():
        is_kernel = path[-1] == "kernel"
        if path not in found:
            spread = config.initializer_range if is_kernel else 0.0
            leaves[path] = jnp.array(draw.normal(0.0, spread, leaf.shape).astype(dtype))
            continue
        tensor = read(names[found[path]])
        tensor = tensor.T if is_kernel else tensor
        if tensor.shape != leaf.shape:
            _refuse_shape(names[found[path]], path, tensor.shape, leaf.shape)
        leaves[path] = jnp.array(tensor.astype(dtype, order="C"))

    keys = map(functools.partial(jax.random.fold_in, jax.random.key(seed)), itertools.count())

    def start(leaf: Any) -> jax.Array:
        is_key = jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)
        return next(keys) if is_key else jnp.array(np.zeros(leaf.shape, leaf.dtype))

    streams = jax.tree.map(start, nnx.to_pure_dict(rest))
    model = nnx.merge(graph, nnx.traversals.unflatten_mapping(leaves), streams)
    model.eval()
    return model


def _flat(weights: Any) -> dict[WeightPath, Any]:
    return nnx.traversals.flatten_mapping(nnx.to_pure_dict(weights))


def _name(path: WeightPath) -> str:
    """The tensor's name in a file."""
    *modules, leaf = path
    return ".".join([*map(str, modules), _NAME_OF_LEAF[str(leaf)]])


def _canonical(name: str) -> str:
    """A name in a file as we write it: with ``bert.``, with ``weight`` and ``bias``."""
    stem, _, leaf = name.rpartition(".")
    name = f"{stem}.{_OLD_NAMES.get(leaf, leaf)}"
    return f"bert.{name}" if name.startswith(_ENCODER) else name


def _report(
    names: Mapping[str, str], wanted: Mapping[WeightPath, str], found: Mapping[WeightPath, str]
) -> None:
    """Says what starts afresh and what is left out; a lacking encoder is an error."""
    missing = [name for path, name in wanted.items() if path not in found]
    lacking = [name for name in missing if not name.startswith(_MAY_START_AFRESH)]
    if lacking:
        raise UsageError(
            f"{WEIGHTS} lacks {len(lacking)} tensors of the encoder: {_listed(lacking)}. "
            f"It has {_listed(list(names.values()))}."
        )
    if missing:
        logger.warning("Not in %s, starts from random weights: %s", WEIGHTS, _listed(missing))
    unused = set(names) - set(wanted.values())
    expected = [name for name in unused if name.startswith(("cls.", "bert.pooler.", *_HEADS))]
    if expected:
        logger.info("Heads in %s that this model does not have: %s", WEIGHTS, _listed(expected))
    surprising = unused.difference(expected)
    if surprising:
        logger.warning("Left out of %s, no place for it: %s", WEIGHTS, _listed(surprising))


def _listed(names: Sequence[str] | set[str]) -> str:
    some = sorted(names)[:4]
    return ", ".join(some) + (f" and {len(names) - len(some)} more" if len(names) > 4 else "")


def _refuse_shape(name: str, path: WeightPath, given: Sequence[int], wanted: Sequence[int]) -> None:
    if path[-1] == "kernel":
        given, wanted = given[::-1], wanted[::-1]
    remedy = " Give num_labels as the file has it, or new_head=True." if path[0] != "bert" else ""
    raise UsageError(
        f"{WEIGHTS} {name} has shape {list(given)}, the config asks for {list(wanted)}.{remedy}"
    )


def _read_config(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise UsageError(f"{path.parent} is no Hugging Face directory: there is no {path.name}.")
    try:
        fields = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UsageError(f"{path} is not JSON: {error}") from error
    if not isinstance(fields, dict):
        raise UsageError(f"{path} must hold a JSON object, got {type(fields).__name__}.")
    return fields


def _head_for(task: str | None, fields: Mapping[str, Any], folder: Path) -> type[BertHead]:
    if task is None:
        architectures = fields.get("architectures") or []
        for head in TASKS.values():
            if head.__name__ in architectures:
                return head
        raise UsageError(
            f"{folder / CONFIG} names no head (architectures {architectures}): give a task. "
            + suggest("", TASKS)
        )
    if task not in TASKS:
        raise UsageError(f"task {task!r} is unknown: {suggest(task, TASKS)}")
    return TASKS[task]


def _changed(config: BertConfig, settings: Mapping[str, Any]) -> BertConfig:
    known = vars(config)
    for name in settings:
        if name not in known:
            raise UsageError(f"BertConfig has no field {name!r}: {suggest(name, known)}")
    if settings.get("num_labels", config.num_labels) != config.num_labels:
        settings = {"labels": None, **settings}
    return type(config)(**{**known, **settings})


@contextlib.contextmanager
def _open_weights(
    folder: Path,
) -> Iterator[tuple[dict[str, str], Callable[[str], np.ndarray]]]:
    """The names in the file by our names for them, and a function that reads one tensor."""
    path = folder / WEIGHTS
    if not path.is_file():
        remedy = (
            "; it has pytorch_model.bin, which transformers converts: "
            "AutoModel.from_pretrained(folder).save_pretrained(folder)"
            if (folder / "pytorch_model.bin").is_file()
            else ""
        )
        raise UsageError(f"{folder} has no {WEIGHTS}{remedy}.")
    safetensors = _safetensors()
    try:
        file = safetensors.safe_open(path, framework="np")
    except (safetensors.SafetensorError, OSError) as error:
        raise UsageError(f"{path} is damaged or not a safetensors file: {error}") from error
    with file:
        stored = list(file.keys())
        names = {_canonical(name): name for name in stored if not name.endswith("position_ids")}
        yield names, file.get_tensor


def _safetensors() -> Any:
    try:
        import safetensors.numpy
    except ImportError as error:
        raise UsageError(
            "Model directories need safetensors: pip install jaxbrewer[text]"
        ) from error
    return safetensors


@contextlib.contextmanager
def _in_place_of(path: Path) -> Iterator[Path]:
    """A file beside ``path`` that takes its place once it is complete."""
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        yield part
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)
