"""How a model is used: the section of its card with a command and programs that run.

``MODEL`` stands for the directory of the card.
"""

_PREDICT = """```sh
jaxbrewer predict MODEL texts.csv
```

```python
from jaxbrewer.text import load

model = load("MODEL")
print(model.predict([{text}]))
```"""

_GENERATE = """```sh
jaxbrewer generate MODEL --prompt "A text"
```

```python
from jaxbrewer.generation import generate
from jaxbrewer.models import load
from jaxbrewer.text import Tokenizer

tokenizer = Tokenizer("MODEL")
prompt = tokenizer.encode(["A text"], max_length=64).input_ids.tolist()
drawn = generate(load("MODEL"), [prompt], max_new_tokens=20)
print(tokenizer.decode(drawn.rows()[0]))
```"""

_ARTIFACT = """```python
from jaxbrewer.export import load_artifact
from jaxbrewer.text import Tokenizer

artifact, tokenizer = load_artifact("MODEL"), Tokenizer("MODEL")
encoded = tokenizer.encode(["A text."], max_length={max_length})
print(artifact.run(encoded.batch([0], int(encoded.lengths.max()))))
```"""

_PIPELINE = """```python
from transformers import pipeline

use = pipeline("{pipeline}", model="MODEL")
print(use({text}))
```"""

_SENTENCES = """```python
from sentence_transformers import SentenceTransformer

print(SentenceTransformer("MODEL").encode(["A text."]))
```"""

_PREDICTED = {
    "sequence-classification": '"A text."',
    "token-classification": '"A text."',
    "question-answering": '{"question": "Who sleeps?", "context": "The cat sleeps."}',
    "masked-language-modeling": '"A text."',
    "sentence-similarity": '"A text."',
}
"""What ``predict`` reads, by the task of the head."""

_PIPED = {
    "sequence-classification": '"A text.", truncation=True',
    "token-classification": '"A text."',
    "question-answering": 'question="Who sleeps?", context="The cat sleeps."',
    "masked-language-modeling": 'f"A {use.tokenizer.mask_token}."',
    "causal-language-modeling": '"A text", max_new_tokens=20',
    "feature-extraction": '"A text.", truncation=True',
}
"""What a pipeline of ``transformers`` reads, by the task of the head."""


def usage(
    task: str, library: str, pipeline: str, *, format: str = "", max_length: int | None = None
) -> str:
    """The commands and programs that use a model, in Markdown; empty if there are none.

    Args:
        task: What the model does.
        library: The library that reads the files, as hubs call it.
        pipeline: Hugging Face's name of the task.
        format: The format of an export; empty for a model that a training saved.
        max_length: The number of tokens to which texts are cut.

    Examples:
        >>> print(usage("feature-extraction", "transformers", "feature-extraction"))
        ```python
        from transformers import pipeline
        <BLANKLINE>
        use = pipeline("feature-extraction", model="MODEL")
        print(use("A text.", truncation=True))
        ```
    """
    parts = []
    if format in ("onnx", "stablehlo"):
        return _ARTIFACT.format(max_length=max_length or 128)
    if task == "causal-language-modeling":
        parts.append(_GENERATE)
    elif task in _PREDICTED:
        parts.append(_PREDICT.format(text=_PREDICTED[task]))
    if library == "transformers" and task in _PIPED:
        parts.append(_PIPELINE.format(pipeline=pipeline, text=_PIPED[task]))
    if library == "sentence-transformers":
        parts.append(_SENTENCES)
    return "\n\n".join(parts)
