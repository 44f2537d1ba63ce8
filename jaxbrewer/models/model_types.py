"""The table of model types and of the heads in their files.

Imports no JAX, so that a command can read it before JAX is loaded.
"""

from collections.abc import Mapping

FAMILIES = {
    "bert": "bert",
    "mean_pooled_bert": "bert",
    "camembert": "roberta",
    "deberta-v2": "deberta",
    "distilbert": "distilbert",
    "electra": "electra",
    "gemma": "gemma",
    "gemma2": "gemma2",
    "gemma3_text": "gemma3",
    "gpt2": "gpt2",
    "llama": "llama",
    "mistral": "mistral",
    "modernbert": "modernbert",
    "mpnet": "mpnet",
    "qwen2": "qwen2",
    "qwen3": "qwen3",
    "roberta": "roberta",
    "xlm-roberta": "roberta",
}
"""The ``model_type`` of ``config.json``, and the module of its family."""

NOT_IN_TRANSFORMERS = {
    "mean_pooled_bert": "classifier_pooling 'mean' has no counterpart there",
}
"""Each ``model_type`` that ``transformers`` refuses, and why."""

BARE = "feature-extraction"
"""The task of an encoder without a head, whose tensors have no prefix in files."""

TASKS = {
    "sequence-classification": "ForSequenceClassification",
    "token-classification": "ForTokenClassification",
    "question-answering": "ForQuestionAnswering",
    "masked-language-modeling": "ForMaskedLM",
    "causal-language-modeling": "ForCausalLM",
    BARE: "Model",
}
"""The task of a head, and the end of Hugging Face's names of models with such a head."""

_OTHER_ENDS = {("gpt2", "causal-language-modeling"): "LMHeadModel"}


def end_of_class(model_type: str, task: str) -> str:
    """The end of Hugging Face's name of the model of a family with a head.

    Examples:
        >>> end_of_class("gpt2", "causal-language-modeling")
        'LMHeadModel'
    """
    return _OTHER_ENDS.get((model_type, task), TASKS[task])


PROBLEM_TYPES = ("single_label_classification", "multi_label_classification", "regression")
"""What the logits of a sequence classification head are: ``problem_type`` of ``config.json``."""

_CLASSIFIER, _SPANS = ("classifier.weight",), ("qa_outputs.weight",)
_POOLED = ("pooler.dense.weight", *_CLASSIFIER)
_TWO_LAYERS = ("classifier.dense.weight", "classifier.out_proj.weight")
_BERT_LM = ("cls.predictions.transform.dense.weight",)
_ROBERTA_LM = ("lm_head.dense.weight",)
_DECODER: Mapping[str, tuple[str, ...]] = {"causal-language-modeling": ()}


def _heads(
    sequence: tuple[str, ...],
    words: tuple[str, ...],
    token: tuple[str, ...] = _CLASSIFIER,
    spans: tuple[str, ...] = _SPANS,
) -> Mapping[str, tuple[str, ...]]:
    return {
        "sequence-classification": sequence,
        "token-classification": token,
        "question-answering": spans,
        "masked-language-modeling": words,
        BARE: (),
    }


_HEAD_TENSORS = {
    "bert": _heads(_POOLED, _BERT_LM),
    "deberta": _heads(_POOLED, _BERT_LM),
    "distilbert": _heads(("pre_classifier.weight", *_CLASSIFIER), ("vocab_transform.weight",)),
    "electra": _heads(_TWO_LAYERS, ("generator_predictions.dense.weight",)),
    "modernbert": _heads(
        ("head.dense.weight", *_CLASSIFIER),
        ("head.dense.weight",),
        ("head.dense.weight", *_CLASSIFIER),
        ("head.dense.weight", *_CLASSIFIER),
    ),
    "mpnet": _heads(_TWO_LAYERS, _ROBERTA_LM),
    "roberta": _heads(_TWO_LAYERS, _ROBERTA_LM),
}
"""The tensors of the heads of each family of encoders, by task."""


def head_tensors(model_type: str, task: str) -> tuple[str, ...] | None:
    """Ends of the names of the tensors without which a file has no head for a task.

    A decoder's head may be tied to its word embeddings, and then has no tensors. ``None`` if the
    family has no such head.

    Examples:
        >>> head_tensors("roberta", "token-classification")
        ('classifier.weight',)
    """
    if (model_type, task) == ("mean_pooled_bert", "sequence-classification"):
        return _CLASSIFIER
    return _HEAD_TENSORS.get(FAMILIES[model_type], _DECODER).get(task)
