"""GGUF files, read as ``config.json`` and the tensors of a Hugging Face directory.

Quantised tensors are dequantised. The names, the order of rows and the offsets in which such a file
differs from Hugging Face's are undone here, so that the families know one form.

References:
    The format: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md
"""

import contextlib
import dataclasses
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import UsageError, missing_extra, suggest
from .families import family_of
from .weight_files import CONFIG, Tensor, WeightFiles

_MODEL_TYPES = {
    "gemma": "gemma",
    "gemma2": "gemma2",
    "gemma3": "gemma3_text",
    "llama": "llama",
    "qwen2": "qwen2",
    "qwen3": "qwen3",
}
"""``general.architecture``, and our ``model_type``."""
_FIELDS = {
    "block_count": "num_hidden_layers",
    "context_length": "max_position_embeddings",
    "embedding_length": "hidden_size",
    "feed_forward_length": "intermediate_size",
    "attention.head_count": "num_attention_heads",
    "attention.head_count_kv": "num_key_value_heads",
    "attention.key_length": "head_dim",
    "attention.layer_norm_rms_epsilon": "rms_norm_eps",
    "attention.sliding_window": "sliding_window",
    "rope.freq_base": "rope_theta",
    "attn_logit_softcapping": "attn_logit_softcapping",
    "final_logit_softcapping": "final_logit_softcapping",
}
"""Metadata after ``<architecture>.``, and the fields of a config."""
_TOP = {
    "token_embd": "model.embed_tokens",
    "output_norm": "model.norm",
    "output": "lm_head",
}
_IN_LAYER = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "attn_q_norm": "self_attn.q_norm",
    "attn_k_norm": "self_attn.k_norm",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
_WITH_OUTPUT_NORMS = {
    "post_attention_norm": "post_attention_layernorm",
    "ffn_norm": "pre_feedforward_layernorm",
    "post_ffw_norm": "post_feedforward_layernorm",
}
"""What Gemma 2 and 3 name otherwise."""
_ROPE_FREQUENCIES = "rope_freqs.weight"


def gguf_file(path: Path) -> Path | None:
    """The GGUF file that a path means: itself, or the only one in a directory without a config.

    Raises:
        UsageError: The directory has several.
    """
    if path.suffix == ".gguf":
        return path
    if not path.is_dir() or (path / CONFIG).exists():
        return None
    files = sorted(path.glob("*.gguf"))
    if len(files) > 1:
        names = ", ".join(file.name for file in files[:4])
        raise UsageError(f"{path} has {len(files)} GGUF files ({names}): name the one to load.")
    return files[0] if files else None


@dataclasses.dataclass(frozen=True)
class GgufModel:
    """An open GGUF file.

    Attributes:
        path: The file.
        metadata: Its metadata.
        stored: Its tensors by name.
    """

    path: Path
    metadata: Mapping[str, Any]
    stored: Mapping[str, Any]

    @property
    def architecture(self) -> str:
        """``general.architecture``."""
        return str(self.metadata.get("general.architecture"))

    def get(self, name: str, default: Any = None) -> Any:
        """An entry of the metadata under ``<architecture>.``."""
        return self.metadata.get(f"{self.architecture}.{name}", default)

    def config(self) -> dict[str, Any]:
        """The entries of a ``config.json``.

        Raises:
            UsageError: The architecture, or something that it uses, is not supported.
        """
        model_type = self.model_type
        if self.get("expert_count"):
            raise UsageError(f"{self.path.name}: mixtures of experts are not supported.")
        fields = {ours: self.get(name) for name, ours in _FIELDS.items()}
        table = self.stored["token_embd.weight"]
        ids = {name: f"tokenizer.ggml.{name}_token_id" for name in ("bos", "eos")}
        fields |= {f"{name}_token_id": self.metadata.get(key) for name, key in ids.items()}
        fields |= {
            "pad_token_id": self.metadata.get("tokenizer.ggml.padding_token_id"),
            "vocab_size": int(table.shape[1]),
            "tie_word_embeddings": "output.weight" not in self.stored,
            "rope_scaling": self._rope_scaling(),
            "query_pre_attn_scalar": self._query_scalar(),
            "use_sliding_window": fields["sliding_window"] is not None or None,
            "attention_bias": self._has_bias("attn_q") or None,
            "mlp_bias": self._has_bias("ffn_down") or None,
        }
        return {
            "model_type": model_type,
            "architectures": [f"{family_of(model_type).architectures[model_type]}ForCausalLM"],
            **{name: value for name, value in fields.items() if value is not None},
        }

    @contextlib.contextmanager
    def weights(self) -> Iterator[WeightFiles]:
        """The tensors under Hugging Face's names.

        Raises:
            UsageError: A tensor has no such name.
        """
        names = {
            self._name(name): name for name in self.stored if not name.startswith("rope_freqs")
        }
        unknown = [own for name, own in names.items() if name is None]
        if unknown:
            raise UsageError(
                f"{self.path.name} has the tensor {unknown[0]!r}, which no "
                f"{self.architecture!r} here has."
            )
        tensors = {
            str(name): Tensor(tuple(int(size) for size in reversed(self.stored[own].shape)), "F32")
            for name, own in names.items()
        }

        def read(name: str, index: tuple[slice, ...] | None = None) -> np.ndarray:
            tensor = self._read(names[name])
            return tensor if index is None else tensor[index]

        yield WeightFiles(self.path.name, tensors, read)

    @property
    def model_type(self) -> str:
        """Our ``model_type``.

        Raises:
            UsageError: The architecture is not supported.
        """
        if self.architecture not in _MODEL_TYPES:
            raise UsageError(
                f"{self.path.name} has the architecture {self.architecture!r}, which is not "
                f"supported: {suggest(self.architecture, _MODEL_TYPES)}"
            )
        has_window = self.architecture == "llama" and self.get("attention.sliding_window")
        return "mistral" if has_window else _MODEL_TYPES[self.architecture]

    def _name(self, stored: str) -> str | None:
        """The name in a Hugging Face directory."""
        module, _, leaf = stored.rpartition(".")
        match = re.fullmatch(r"blk\.(\d+)\.(\w+)", module)
        names = _IN_LAYER
        if self.architecture in ("gemma2", "gemma3"):
            names = {**names, **_WITH_OUTPUT_NORMS}
        if match and match[2] in names:
            return f"model.layers.{match[1]}.{names[match[2]]}.{leaf}"
        return f"{_TOP[module]}.{leaf}" if module in _TOP else None

    def _has_bias(self, module: str) -> bool:
        return f"blk.0.{module}.bias" in self.stored

    def _query_scalar(self) -> float | None:
        """What llama.cpp divides queries by in Gemma 2 and 3, whose files do not hold it."""
        if self.architecture not in ("gemma2", "gemma3"):
            return None
        if (self.architecture, self.get("block_count")) in (("gemma2", 46), ("gemma3", 62)):  # 27B
            return float(self.get("embedding_length") / self.get("attention.head_count"))
        return float(self.get("attention.key_length", 256))

    def _rope_scaling(self) -> dict[str, Any] | None:
        kind, factor = self.get("rope.scaling.type", "none"), self.get("rope.scaling.factor")
        length = self.get("rope.scaling.original_context_length")
        size = self.get("rope.dimension_count")
        head = self.get("attention.key_length") or (
            self.get("embedding_length") // self.get("attention.head_count")
        )
        if size not in (None, head):
            raise UsageError(
                f"{self.path.name}: rotary positions of {size} of {head} features are not "
                "supported, only of all."
            )
        if _ROPE_FREQUENCIES in self.stored:
            factors = [float(x) for x in self._dequantised(_ROPE_FREQUENCIES)]
            return {
                "rope_type": "longrope", "short_factor": factors, "long_factor": factors,
                "attention_factor": 1.0,
            }  # fmt: skip
        if kind == "none" or (kind == "linear" and factor in (None, 1)):
            return None
        if kind not in ("linear", "yarn"):
            raise UsageError(f"{self.path.name}: rope.scaling.type {kind!r} is not supported.")
        scaling = {"rope_type": kind, "factor": factor}
        return scaling | ({"original_max_position_embeddings": length} if length else {})

    def _read(self, stored: str) -> np.ndarray:
        tensor = self._dequantised(stored)
        if self.architecture == "llama" and ".attn_q." in stored:
            return unpermuted(tensor, self.get("attention.head_count"))
        if self.architecture == "llama" and ".attn_k." in stored:
            heads = self.get("attention.head_count")
            return unpermuted(tensor, self.get("attention.head_count_kv", heads))
        is_norm = stored.endswith("norm.weight")
        return tensor - 1 if is_norm and self.architecture.startswith("gemma") else tensor

    def _dequantised(self, stored: str) -> np.ndarray:
        tensor = self.stored[stored]
        try:
            values = _library().quants.dequantize(tensor.data, tensor.tensor_type)
        except NotImplementedError:
            raise UsageError(
                f"{self.path.name}: {stored!r} has the type {tensor.tensor_type.name}, which "
                "cannot be dequantised."
            ) from None
        return np.asarray(values, np.float32)


def open_gguf(path: Path) -> GgufModel:
    """Opens a GGUF file.

    Raises:
        UsageError: It does not exist, is damaged, or ``gguf`` is not installed.
    """
    if not path.is_file():
        raise UsageError(f"{path} does not exist.")
    try:
        reader = _library().GGUFReader(path)
        metadata = {name: field.contents() for name, field in reader.fields.items()}
    except (ValueError, OSError, IndexError, KeyError, OverflowError) as error:
        raise UsageError(f"{path} is damaged or not a GGUF file: {error}") from error
    model = GgufModel(path, metadata, {tensor.name: tensor for tensor in reader.tensors})
    lacking = [name for name in ("block_count", "embedding_length", "attention.head_count")
               if not isinstance(model.get(name), int)]  # fmt: skip
    if lacking or "token_embd.weight" not in model.stored:
        what = f"{model.architecture}.{lacking[0]}" if lacking else "token_embd.weight"
        raise UsageError(f"{path} has no {what}: it is not a language model.")
    return model


def unpermuted(tensor: np.ndarray, heads: int) -> np.ndarray:
    """Rows of queries or keys in Hugging Face's order: the first half of a head's, then the second.

    Files of the architecture ``llama`` hold the two features of each rotation side by side.

    Examples:
        >>> unpermuted(np.arange(8), heads=2).tolist()
        [0, 2, 1, 3, 4, 6, 5, 7]
    """
    pairs = tensor.reshape(heads, -1, 2, *tensor.shape[1:])
    return pairs.swapaxes(1, 2).reshape(tensor.shape)


def _library() -> Any:
    try:
        import gguf
        import gguf.quants
    except ImportError:
        raise missing_extra("gguf", "gguf") from None
    return gguf
