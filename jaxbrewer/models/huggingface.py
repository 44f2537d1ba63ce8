"""Reads and writes Hugging Face directories: ``config.json`` and ``model*.safetensors``."""

import contextlib
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import Mesh

from ..configs import TrainingConfig
from ..configs.mesh import Rules, check_rules
from ..devices.mesh import make_mesh
from ..errors import UsageError, suggest
from .bert import BertConfig, BertHead
from .building import Placement, build
from .config import TransformerConfig
from .cutting import config_of_layers, layer_numbers
from .families import Family, family_of
from .gguf_files import gguf_file, open_gguf
from .heads import TransformerModel
from .model_types import BARE, FAMILIES
from .pooling import DENSE, dense_weights, pooling_files, read_pooling, write_pooling
from .tensor_names import WeightPath, flat_weights, is_transposed, tensor_name
from .weight_files import (
    CONFIG,
    INDEX,
    WEIGHTS,
    open_files,
    open_weights,
    read_config,
    safetensors,
)


def load(
    directory: str | os.PathLike[str],
    task: str | None = None,
    *,
    num_labels: int | None = None,
    labels: Sequence[str] | None = None,
    layers: Sequence[int] | str | None = None,
    new_head: bool = False,
    seed: int = 0,
    dtype: Any = jnp.float32,
    quantize: str | None = None,
    mesh: Mesh | Mapping[str, int] | None = None,
    rules: Rules = (),
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
        layers: Keep only these layers, a list or ``"uniform:n"``, as :func:`cut_layers` does; the
            others are not read.
        new_head: Give the head random weights even if the files have one.
        seed: Seed of random weights and of dropout.
        dtype: Floating-point type of the weights, independent of the files.
        quantize: ``"int8"`` holds the kernels of all layers as 8-bit integers, for a frozen
            teacher; see :func:`~jaxbrewer.models.quantize_int8`.
        mesh: A mesh over whose devices each weight is split as soon as it is read, or the ``mesh``
            of a ``TrainingConfig``; ``None`` puts all on one device. A host reads only the parts of
            its own devices, one tensor after the other, and never holds the whole model.
        rules: Sharding rules, as ``student_rules`` of the ``TrainingConfig``; what no rule matches
            is split along ``fsdp``.
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
    if quantize not in (None, "int8"):
        raise UsageError(f"quantize must be 'int8' or None, got {quantize!r}.")
    check_rules("rules", rules, tuple(mesh.shape if isinstance(mesh, Mesh) else mesh or ()))
    if isinstance(mesh, Mapping):
        mesh = make_mesh(TrainingConfig(output_dir=None, mesh=dict(mesh)))
    placement = Placement(dtype, mesh, rules, int8=quantize == "int8")
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
    chosen = None if layers is None else layer_numbers(layers, config.num_hidden_layers)
    if chosen is not None:
        config = config_of_layers(config, chosen)
    with contextlib.ExitStack() as stack:
        files = stack.enter_context(
            open_weights(folder, fields) if gguf is None else gguf.weights()
        )
        path = dense_weights(folder) if head.task == BARE else None
        if path is not None:
            files = files.joined(stack.enter_context(open_files([path])), {"linear": DENSE})
        return build(
            head, family, config, files, layers=chosen, new_head=new_head, seed=seed,
            placement=placement,
        )  # fmt: skip


def save(
    model: TransformerModel, directory: str | os.PathLike[str], *, max_file_bytes: int = 5 * 10**9
) -> None:
    """Writes ``config.json`` and ``model.safetensors``, which ``transformers`` loads.

    A model of more than ``max_file_bytes`` is written as several files and an index, and only one
    of them is in memory at a time. A model that ``transformers`` cannot compute
    (``classifier_pooling="mean"``) has a ``model_type`` that it refuses.

    Each file is written under a temporary name and then renamed, so that readers see whole files.

    Args:
        model: The model; weights keep their dtype.
        directory: The directory, which is created if it does not exist.
        max_file_bytes: The largest size of a file's tensors; a larger tensor has a file of its own.

    Raises:
        UsageError: The model has LoRA parameters or quantised kernels.
    """
    folder, family = Path(directory), family_of(model.config.model_type)
    leaves = flat_weights(nnx.state(model, nnx.Param))
    _require_plain(leaves)
    folder.mkdir(parents=True, exist_ok=True)
    pooling = getattr(model.config, "pooling", None)
    if pooling is not None:
        longest, width = model.config.longest_input, model.config.hidden_size
        write_pooling(folder, pooling_files(pooling, width, longest))
        dense = {path: leaves.pop(path) for path in list(leaves) if path[0] == DENSE}
        linear = _tensors(dense, model, family)
        if linear:
            linear = {name.replace(DENSE, "linear"): value for name, value in linear.items()}
            _write_tensors(folder / "2_Dense" / WEIGHTS, linear)
    groups = _groups(leaves, max_file_bytes)
    names = [f"model-{i + 1:05}-of-{len(groups):05}.safetensors" for i in range(len(groups))]
    weight_map: dict[str, str] = {}
    for file, group in zip([WEIGHTS] if len(groups) == 1 else names, groups, strict=True):
        tensors = _tensors(group, model, family)
        _write_tensors(folder / file, tensors)
        weight_map |= dict.fromkeys(tensors, file)
    config = {
        "architectures": [family.architecture(model)],
        "torch_dtype": str(next(iter(leaves.values())).dtype),
        **model.config.to_dict(),
    }
    if len(groups) > 1:
        total = sum(leaf.nbytes for leaf in leaves.values())
        index = {"metadata": {"total_size": total}, "weight_map": weight_map}
        (folder / WEIGHTS).unlink(missing_ok=True)  # readers would prefer it
        with _in_place_of(folder / INDEX) as part:
            part.write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")
    with _in_place_of(folder / CONFIG) as part:
        part.write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")


def _write_tensors(path: Path, tensors: Mapping[str, np.ndarray]) -> None:
    with _in_place_of(path) as part:
        part.write_bytes(safetensors().numpy.save(dict(tensors), metadata={"format": "pt"}))


def _tensors(
    leaves: Mapping[WeightPath, Any], model: TransformerModel, family: Family
) -> dict[str, np.ndarray]:
    """Weights under their names and in their order of axes in files."""
    tensors = {}
    for path, leaf in leaves.items():
        array = np.asarray(leaf)
        name = tensor_name(path, family)
        if model.task == BARE:
            name = name.removeprefix(f"{family.body}.")
        tensors[name] = np.ascontiguousarray(array.T if is_transposed(path, family) else array)
    return tensors


def _require_plain(leaves: Mapping[WeightPath, Any]) -> None:
    for path, leaf in leaves.items():
        if path[-1] in ("lora_a", "lora_b"):
            raise UsageError("The model has LoRA parameters: save merge_lora(model) or "
                             "save_adapters(model, directory).")  # fmt: skip
        if leaf.dtype == jnp.int8:
            raise UsageError(
                f"The kernel {'.'.join(map(str, path))} is quantised: save the model that "
                "quantize_int8 was given."
            )


def _groups(leaves: Mapping[WeightPath, Any], size: int) -> list[dict[WeightPath, Any]]:
    """The weights of each file, in order."""
    groups: list[dict[WeightPath, Any]] = [{}]
    filled = 0
    for path, leaf in leaves.items():
        if groups[-1] and filled + leaf.nbytes > size:
            groups.append({})
            filled = 0
        groups[-1][path] = leaf
        filled += leaf.nbytes
    return groups


def load_bert(
    directory: str | os.PathLike[str], task: str | None = None, **options: Any
) -> BertHead:
    """:func:`load` for directories of BERT models.

    Args:
        directory: The directory.
        task: As for :func:`load`.
        **options: As for :func:`load`.

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
    """:func:`save`, under the name that goes with :func:`load_bert`.

    Args:
        model: The model.
        directory: Where to write it.
    """
    save(model, directory)


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
