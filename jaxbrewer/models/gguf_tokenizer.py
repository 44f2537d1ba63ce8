"""The tokenizer and the chat template of a GGUF file, as ``tokenizer.json``.

Byte-level BPE is converted. The way in which texts are split before it has only a name in the file
(``tokenizer.ggml.pre``), so each name is one row here.
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ..errors import UsageError, missing_extra, suggest
from .gguf_files import GgufModel

_CONTROL, _USER_DEFINED = 3, 4
_LLAMA3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_QWEN2 = _LLAMA3.replace(r"\p{N}{1,3}", r"\p{N}")


def _split(pattern: str) -> Callable[[Any], list[Any]]:
    def steps(pre: Any) -> list[Any]:
        from tokenizers import Regex

        return [
            pre.Split(Regex(pattern), "isolated"),
            pre.ByteLevel(add_prefix_space=False, use_regex=False),
        ]

    return steps


_SPLITS: dict[str, Callable[[Any], list[Any]]] = {
    "gpt-2": lambda pre: [pre.ByteLevel(add_prefix_space=False)],
    "smollm": lambda pre: [
        pre.Digits(individual_digits=True), pre.ByteLevel(add_prefix_space=False),
    ],
    "llama-bpe": _split(_LLAMA3),
    "qwen2": _split(_QWEN2),
}  # fmt: skip
"""How texts are split, by ``tokenizer.ggml.pre``."""


def save_tokenizer(model: GgufModel, directory: Path) -> None:
    """Writes ``tokenizer.json`` and ``tokenizer_config.json``.

    Args:
        model: The file.
        directory: Where to write.

    Raises:
        UsageError: The file has another kind of tokenizer.
    """
    try:
        from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers
        from tokenizers.processors import TemplateProcessing
    except ImportError:
        raise missing_extra("text", "tokenizers") from None
    tokens: list[str] = _entry(model, "tokens")
    split = _splitting(model)
    merges = [tuple(merge.split(" ")) for merge in _entry(model, "merges")]
    numbers = {token: number for number, token in enumerate(tokens)}
    tokenizer = Tokenizer(models.BPE(numbers, merges, ignore_merges=split == "llama-bpe"))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(_SPLITS[split](pre_tokenizers))
    tokenizer.decoder = decoders.ByteLevel()
    if split == "qwen2":
        tokenizer.normalizer = normalizers.NFC()
    kinds = _entry(model, "token_type", [])
    for token, kind in zip(tokens, kinds, strict=False):
        if kind in (_CONTROL, _USER_DEFINED):
            added = AddedToken(token, special=kind == _CONTROL, normalized=False)
            tokenizer.add_special_tokens([added]) if kind == _CONTROL else tokenizer.add_tokens(
                [added]
            )
    names = {"bos": "bos", "eos": "eos", "unk": "unknown", "pad": "padding"}
    roles = {ours: _entry(model, f"{theirs}_token_id", None) for ours, theirs in names.items()}
    special = {
        f"{role}_token": tokens[number] for role, number in roles.items() if number is not None
    }
    adds_start = bool(_entry(model, "add_bos_token", False)) and "bos_token" in special
    if adds_start:
        start = special["bos_token"]
        tokenizer.post_processor = TemplateProcessing(
            single=f"{start} $A", pair=f"{start} $A $B", special_tokens=[(start, numbers[start])]
        )
    template = model.metadata.get("tokenizer.chat_template")
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": model.get("context_length"),
        "add_bos_token": adds_start,
        **special,
        **({"chat_template": template} if template else {}),
    }
    directory.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(directory / "tokenizer.json"))
    text = json.dumps(config, indent=2, ensure_ascii=False) + "\n"
    (directory / "tokenizer_config.json").write_text(text, encoding="utf-8")


def _entry(model: GgufModel, name: str, *default: Any) -> Any:
    key = f"tokenizer.ggml.{name}"
    if key not in model.metadata and not default:
        raise UsageError(f"{model.path.name} has no {key}: it has no tokenizer to convert.")
    return model.metadata.get(key, *default)


def _splitting(model: GgufModel) -> str:
    kind, split = _entry(model, "model"), _entry(model, "pre", "gpt-2")
    if kind != "gpt2":
        raise UsageError(
            f"{model.path.name} has a tokenizer of the kind {kind!r}; only byte-level BPE ('gpt2') "
            "is converted: take tokenizer.json from the original model."
        )
    if split not in _SPLITS:
        raise UsageError(
            f"{model.path.name} splits texts as {split!r}, which is unknown: "
            f"{suggest(split, _SPLITS)}"
        )
    return str(split)
