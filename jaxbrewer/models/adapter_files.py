"""Adapters on disk, under the names of the library PEFT."""

import json
import os
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np

from ..errors import UsageError
from ..json_files import read_json
from .dense_maps import dense_maps
from .families import family_of
from .heads import TransformerModel
from .lora import MAPS, LoRALinear, Model, add_lora, require_adapters
from .tensor_names import tensor_name
from .weight_files import safetensors

_CONFIG, _WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
_PREFIX = "base_model.model."
_LEAVES = {"lora_a": "lora_A.weight", "lora_b": "lora_B.weight"}
_SUPPORTED = {"peft_type": "LORA", "bias": "none", "use_dora": False, "use_rslora": False,
              "rank_pattern": {}, "alpha_pattern": {}, "modules_to_save": None}  # fmt: skip
_TASK_TYPES = {
    "causal-language-modeling": "CAUSAL_LM",
    "sequence-classification": "SEQ_CLS",
    "token-classification": "TOKEN_CLS",
    "question-answering": "QUESTION_ANS",
}


def save_adapters(model: TransformerModel, directory: str | os.PathLike[str]) -> None:
    """Writes the adapters alone, under the names of the library PEFT.

    Args:
        model: A model with adapters.
        directory: The directory of ``adapter_config.json`` and ``adapter_model.safetensors``, which
            is created if it does not exist.

    Raises:
        UsageError: The model has no adapters.
    """
    require_adapters(model, "save_adapters")
    family, folder = family_of(model.config.model_type), Path(directory)
    adapted = list(dense_maps(model, (LoRALinear,)))
    tensors = {
        f"{_PREFIX}{_module_name(found.path, model)}.{_LEAVES[leaf]}": np.ascontiguousarray(
            np.asarray(getattr(found.module, leaf)[...]).T
        )
        for found in adapted
        for leaf in _LEAVES
    }
    first = adapted[0].module
    config = {
        "peft_type": "LORA",
        "task_type": _TASK_TYPES.get(model.task),
        "r": first.rank,
        "lora_alpha": first.alpha,
        "lora_dropout": 0.0,
        "bias": "none",
        "fan_in_fan_out": bool(family.untransposed),
        "target_modules": sorted(_module_name(found.path, model) for found in adapted),
    }
    folder.mkdir(parents=True, exist_ok=True)
    content = safetensors().numpy.save(tensors, metadata={"format": "pt"})
    (folder / _WEIGHTS).write_bytes(content)
    (folder / _CONFIG).write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")


def load_adapters(model: Model, directory: str | os.PathLike[str]) -> Model:
    """A copy of a model with the adapters of a directory that PEFT or :func:`save_adapters` wrote.

    Args:
        model: The model, which does not change.
        directory: The directory.

    Raises:
        UsageError: A file is missing, the adapters are of another kind or shape, or belong to maps
            that the model does not have.
    """
    folder = Path(directory)
    for name in (_CONFIG, _WEIGHTS):
        if not (folder / name).is_file():
            raise UsageError(f"{folder} has no adapters: it lacks {name}.")
    config = read_json(folder / _CONFIG, dict[str, Any])
    for key, only in _SUPPORTED.items():
        if config.get(key) not in (only, None):
            raise UsageError(
                f"{folder / _CONFIG}: {key} {config[key]!r} is not supported, only {only!r}."
            )
    library = safetensors()
    try:
        tensors = library.numpy.load_file(folder / _WEIGHTS)
    except (library.SafetensorError, OSError, ValueError) as error:
        raise UsageError(f"{folder / _WEIGHTS} is damaged: {error}") from error
    paths = {_module_name(found.path, model): found.path for found in dense_maps(model, MAPS)}
    modules = {name.removeprefix(_PREFIX).partition(".lora_")[0] for name in tensors}
    unknown = sorted(modules - paths.keys())
    if unknown or not modules:
        what = f"{unknown[0]!r} is no dense map of the model's layers" if unknown else "it is empty"
        raise UsageError(f"{folder / _WEIGHTS}: {what}.")
    targets = [paths[module] for module in sorted(modules)]
    rank: Any = config.get("r")
    adapted = add_lora(model, rank, config.get("lora_alpha"), targets=targets)
    for found in dense_maps(adapted, (LoRALinear,)):
        for leaf, ending in _LEAVES.items():
            variable = getattr(found.module, leaf)
            tensor = tensors.get(f"{_PREFIX}{_module_name(found.path, model)}.{ending}")
            if tensor is None or tensor.T.shape != variable.shape:
                raise UsageError(
                    f"{folder / _WEIGHTS}: {found.path} needs {ending} of the shape "
                    f"{list(variable.shape[::-1])}."
                )
            variable.set_value(jnp.array(tensor.T))
    return adapted


def _module_name(path: str, model: TransformerModel) -> str:
    """The name of a map in a Hugging Face directory."""
    family = family_of(model.config.model_type)
    return tensor_name((*path.split("."), "kernel"), family).removesuffix(".weight")
