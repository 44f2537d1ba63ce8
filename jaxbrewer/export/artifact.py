"""Exported models on disk: written beside their place, verified, described, and read again.

Every directory has ``export.json``: the format, the facts of the model, the inputs and outputs, the
largest difference from the model, versions, and the size and SHA-256 of every file.
"""

import contextlib
import dataclasses
import hashlib
import json
import os
import platform
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, NotRequired, TypedDict

import numpy as np

from .._version import __version__
from ..errors import UsageError, reason_of, suggest, without_log_warnings
from ..json_files import read_json
from ..models import TransformerModel, load, save
from ..models.pooling import limit_length
from ..text import Tokenizer, Truncation
from ..text.model import truncation_of
from . import sentences, stablehlo, verify
from .card import CardFacts, card_of, write_card
from .formats import INT8_FILE, METADATA, ONNX_FILE, check_options, check_readable, is_export
from .onnx import files as onnx_files
from .onnx.int8 import quantize
from .program import Program, program_of

Run = Callable[[dict[str, np.ndarray]], Mapping[str, np.ndarray]]


class Metadata(TypedDict):
    """What ``export.json`` holds."""

    format: str
    int8: bool
    pooling: str | None
    model: dict[str, Any]
    inputs: list[str]
    outputs: list[str]
    longest_input: int | None
    max_length: NotRequired[int | None]
    parity: dict[str, Any]
    versions: dict[str, str]
    files: dict[str, dict[str, Any]]


@dataclasses.dataclass(frozen=True)
class Format:
    """A format of exported models.

    Attributes:
        write: Writes the model's files into a directory: ``write(model, program, folder, int8)``.
        load: Loads them: a function from inputs to outputs.
        library: The library that reads the files, as hubs call it.
    """

    write: Callable[[TransformerModel, Program, Path, bool], None]
    load: Callable[[Path, Mapping[str, Any]], Run]
    library: str


def _write_hf(model: TransformerModel, program: Program, folder: Path, int8: bool) -> None:
    save(model, folder)


def _load_hf(folder: Path, metadata: Mapping[str, Any]) -> Run:
    return program_of(load(folder, metadata["model"]["task"])).run


def _write_stablehlo(model: TransformerModel, program: Program, folder: Path, int8: bool) -> None:
    stablehlo.write(program, folder)
    _write_config(model, folder)


def _load_stablehlo(folder: Path, metadata: Mapping[str, Any]) -> Run:
    return stablehlo.load(folder)


def _write_onnx(model: TransformerModel, program: Program, folder: Path, int8: bool) -> None:
    onnx_files.runtime()
    path = folder / ONNX_FILE
    path.parent.mkdir()
    onnx_files.write(program, path)
    if int8:
        quantize(path, folder / INT8_FILE)
        for part in path.parent.glob(f"{path.name}*"):
            part.unlink()
    _write_config(model, folder)


def _load_onnx(folder: Path, metadata: Mapping[str, Any]) -> Run:
    session = onnx_files.open_session(folder / (INT8_FILE if metadata["int8"] else ONNX_FILE))
    return lambda inputs: onnx_files.run(session, inputs)


def _load_sentences(folder: Path, metadata: Mapping[str, Any]) -> Run:
    with without_log_warnings():  # the pooler, which the file may lack, is not used
        model = load(folder)
    return program_of(model, outputs=sentences.OUTPUTS).run


FORMATS: dict[str, Format] = {
    "hf": Format(_write_hf, _load_hf, "transformers"),
    "onnx": Format(_write_onnx, _load_onnx, "onnx"),
    "sentence-transformers": Format(_write_hf, _load_sentences, "sentence-transformers"),
    "stablehlo": Format(_write_stablehlo, _load_stablehlo, "jax"),
}
"""The formats by name."""


def _write_config(model: TransformerModel, folder: Path) -> None:
    """``config.json`` beside a program, for the labels and for tools of Hugging Face.

    The program pools by itself, so its ``model_type`` is the one that these tools know.
    """
    fields = {**model.config.to_dict(), "model_type": model.config.model_type}
    fields["model_type"] = fields["model_type"].removeprefix("mean_pooled_")
    (folder / "config.json").write_text(json.dumps(fields, indent=2) + "\n", encoding="utf-8")


@dataclasses.dataclass(frozen=True)
class Artifact:
    """An exported model that was loaded again.

    Attributes:
        directory: Its directory.
        metadata: What its ``export.json`` holds.
    """

    directory: Path
    metadata: Metadata
    _run: Run

    def run(self, inputs: Mapping[str, np.ndarray]) -> Mapping[str, np.ndarray]:
        """The outputs by name.

        Args:
            inputs: The arrays that ``metadata["inputs"]`` names, ``[batch, length]``.

        Raises:
            UsageError: One of them is missing, or they are longer than the model reads.
        """
        names = self.metadata["inputs"]
        for name in names:
            if name not in inputs:
                raise UsageError(f"{self.directory} needs the inputs {', '.join(names)}.")
        length, longest = inputs[names[0]].shape[1], self.metadata["longest_input"]
        if longest is not None and length > longest:
            raise UsageError(
                f"The inputs are {length} tokens long, {self.directory} reads at most {longest}: "
                "truncate the texts."
            )
        return self._run({name: np.asarray(inputs[name]) for name in names})


def export(
    model: TransformerModel,
    directory: str | os.PathLike[str],
    format: str,
    *,
    tokenizer: Tokenizer | None = None,
    int8: bool = False,
    texts: Sequence[str] | None = None,
    pooling: str | None = None,
    overwrite: bool = False,
    run: Mapping[str, Any] | None = None,
) -> Metadata:
    """Exports a model, loads the result again and compares it with the model.

    The directory appears only once the comparison has succeeded.

    Args:
        model: The model.
        directory: The directory to make.
        format: A key of :data:`FORMATS`.
        tokenizer: The model's tokenizer, whose files are copied beside it.
        int8: Quantize the weights (``"onnx"`` only).
        texts: Real texts for the comparison.
        pooling: ``"mean"`` or ``"cls"``: export the embedding of the whole text in place of the
            head's outputs; ``"mean"`` by default for ``"sentence-transformers"``.
        overwrite: Replace an earlier export there.
        run: What the card says of the run that made the model, from
            :func:`~jaxbrewer.export.card.run_facts`.

    Returns:
        The content of ``export.json``; ``["parity"]["max_abs_difference"]`` is the largest
        difference.

    Raises:
        UsageError: The format is unknown or cannot hold the model, the directory exists, an extra
            is missing, the tokenizer belongs to another model, or the result differs from the
            model.
    """
    check_options(format, int8=int8, pooling=pooling)
    check_readable(format, model.config.model_type)
    kind = FORMATS[format]
    model, program = _prepared(model, format, pooling)
    truncation, max_length = _truncation(tokenizer, program)
    inputs = verify.sample_inputs(program, tokenizer, texts, max_length=max_length)
    with _new_directory(Path(directory), overwrite=overwrite) as folder:
        kind.write(model, program, folder, int8)
        if tokenizer is not None and truncation is not None:
            tokenizer.save(folder, truncation)
            limit_length(folder, truncation.max_length)
            verify.check_saved_tokenizer(tokenizer, folder, truncation, texts)
        metadata: Metadata = {
            "format": format,
            "int8": int8,
            "pooling": pooling,
            "model": dict(program.facts),
            "inputs": list(program.inputs),
            "outputs": list(program.outputs),
            "longest_input": program.longest,
            "max_length": max_length,
            "parity": {},
            "versions": versions(),
            "files": {},
        }
        artifact = kind.load(folder, metadata)
        parity = verify.compare(program.run, artifact, inputs, per_token=program.per_token)
        verify.require(parity, quantized=int8)
        metadata["parity"] = parity.to_dict()
        if format == "onnx":
            onnx_files.annotate(folder / (INT8_FILE if int8 else ONNX_FILE), metadata)
        write_card(folder, _card(model, program, metadata, run))
        metadata["files"] = _checksums(folder)
        (folder / METADATA).write_text(json.dumps(metadata, indent=2) + "\n", encoding="utf-8")
    return metadata


def _prepared(
    model: TransformerModel, format: str, pooling: str | None
) -> tuple[TransformerModel, Program]:
    """The model to export, which may be that of sentences, and its program."""
    if format == "sentence-transformers" or pooling is not None:
        model = sentences.sentence_encoder(model, pooling)
        return model, program_of(model, outputs=sentences.OUTPUTS)
    return model, program_of(model)


def _truncation(
    tokenizer: Tokenizer | None, program: Program
) -> tuple[Truncation | None, int | None]:
    """How jaxbrewer cuts the model's texts, and to how many tokens; ``None`` if it does not."""
    if tokenizer is None:
        return None, None
    verify.check_tokenizer(program, tokenizer)
    found = truncation_of(tokenizer.directory, program.facts["task"], program.longest)
    return found, None if found.strategy is None else found.max_length


def _card(
    model: TransformerModel,
    program: Program,
    metadata: Metadata,
    run: Mapping[str, Any] | None,
) -> CardFacts:
    return card_of(
        model.config,
        task="sentence-similarity" if "embedding" in program.outputs else model.task,
        parameters=program.facts["parameters"],
        library=FORMATS[metadata["format"]].library,
        max_length=metadata.get("max_length"),
        export=metadata,
        run={name: value for name, value in (run or {}).items() if name != "versions"},
    )


def load_artifact(directory: str | os.PathLike[str]) -> Artifact:
    """Loads an exported model after its files were compared with their checksums.

    Args:
        directory: What :func:`export` wrote.

    Raises:
        UsageError: It is no exported model, or a file is missing, damaged or another one.
    """
    folder = Path(directory)
    metadata = read_metadata(folder)
    for name, facts in metadata["files"].items():
        path = folder / name
        if not os.path.isfile(path):
            raise UsageError(f"{path} is missing: export the model again.")
        if facts != _checksum(path):
            raise UsageError(f"{path} is not the file that was exported: export the model again.")
    return Artifact(folder, metadata, FORMATS[metadata["format"]].load(folder, metadata))


def read_metadata(folder: Path) -> Metadata:
    """The content of ``export.json``.

    Raises:
        UsageError: There is none, or it is damaged.
    """
    if not is_export(folder):
        raise UsageError(f"{folder} is not an exported model: it has no {METADATA}.")
    metadata = read_json(folder / METADATA, Metadata)
    if metadata["format"] not in FORMATS:
        raise UsageError(
            f"{folder / METADATA}: format {metadata['format']!r} is unknown: "
            + suggest(metadata["format"], sorted(FORMATS))
        )
    return metadata


def verify_artifact(
    model: TransformerModel,
    directory: str | os.PathLike[str],
    *,
    tokenizer: Tokenizer | None = None,
    texts: Sequence[str] | None = None,
) -> verify.Parity:
    """Compares an exported model with the model that it was made of.

    Args:
        model: The model.
        directory: What :func:`export` wrote.
        tokenizer: The tokenizer of the model, for ``texts``.
        texts: Texts to compare the outputs for; by default random tokens.

    Raises:
        UsageError: A file is damaged, the tokenizer belongs to another model, or the outputs
            differ.
    """
    artifact = load_artifact(directory)
    _, program = _prepared(model, artifact.metadata["format"], artifact.metadata["pooling"])
    truncation, max_length = _truncation(tokenizer, program)
    inputs = verify.sample_inputs(program, tokenizer, texts, max_length=max_length)
    if tokenizer is not None and truncation is not None:
        verify.check_saved_tokenizer(tokenizer, artifact.directory, truncation, texts)
    parity = verify.compare(program.run, artifact.run, inputs, per_token=program.per_token)
    verify.require(parity, quantized=artifact.metadata["int8"])
    return parity


def versions() -> dict[str, str]:
    """The versions of Python, of this package and of what an export was made with."""
    found = {"python": platform.python_version(), "jaxbrewer": __version__}
    for name in ("jax", "flax", "onnx", "onnxruntime"):
        with contextlib.suppress(PackageNotFoundError):
            found[name] = version(name)
    return found


@contextlib.contextmanager
def _new_directory(target: Path, *, overwrite: bool) -> Iterator[Path]:
    """A directory that takes its place once it is complete."""
    if os.path.lexists(target) and not overwrite:
        raise UsageError(f"{target} exists: choose another output, or give --overwrite.")
    if os.path.lexists(target) and not is_export(target):
        raise UsageError(f"{target} is not an exported model, so it is not replaced: remove it.")
    part = target.with_name(f".{target.name}.{os.getpid()}.part")
    try:
        part.mkdir(parents=True)
    except (OSError, ValueError) as error:
        raise UsageError(f"{target} cannot be written: {reason_of(error)}.") from error
    try:
        yield part
        if os.path.lexists(target):
            shutil.rmtree(target)
        part.rename(target)
    except OSError as error:
        raise UsageError(f"{target} cannot be written: {reason_of(error)}.") from error
    finally:
        shutil.rmtree(part, ignore_errors=True)


def _checksums(folder: Path) -> dict[str, dict[str, Any]]:
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): _checksum(path) for path in paths}


def _checksum(path: Path) -> dict[str, Any]:
    try:
        with open(path, "rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        return {"bytes": path.stat().st_size, "sha256": digest}
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {reason_of(error)}.") from None
