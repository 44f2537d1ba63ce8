"""Fields of the job that the help of a command shows."""

_DATA_FIELDS = {
    "data.task": ("TASK", "what is learned, and from which columns (docs/tasks.md)"),
    "data.train": ("FILE", "labelled texts: JSONL, CSV, TSV or Parquet"),
    "data.validation": ("FILE", "labelled texts that score each checkpoint; the best is kept"),
    "data.test": ("FILE", "labelled texts that score the result"),
    "data.class_weights": ("WEIGHTS", "of classes in the loss on labels: balanced, or a mapping"),
    "data.label_smoothing": ("P", "probability that label targets spread over all classes"),
    "data.max_length": ("TOKENS", "longer texts are cut"),
}
_TRAINING_FIELDS = {
    "training.output_dir": ("DIR", "where the run is written"),
    "training.overwrite": ("BOOL", "replace an earlier run"),
    "training.seed": ("N", "seed of weights, batches and dropout"),
    "training.ckpt_frequency": ("N", "checkpoints per epoch"),
    "training.patience": ("N", "end after N checkpoints that are no better"),
    "training.mesh": ("MESH", "devices by axis, such as '{data: 4}' (-1 = all that are left)"),
}


def _optimization_fields(model: str) -> dict[str, tuple[str, str]]:
    prefix = f"{model}.optimization"
    return {
        f"{prefix}.num_epochs": ("N", "passes over the texts"),
        f"{prefix}.num_steps": ("N", "optimizer steps, in place of epochs"),
        f"{prefix}.min_steps": ("N", "the fewest optimizer steps, where the epochs are fewer"),
        f"{prefix}.batch_size": ("N", "texts per batch"),
        f"{prefix}.learning_rate": ("RATE", "peak learning rate of AdamW"),
        f"{prefix}.max_grad_norm": ("NORM", "clip gradients at this norm (-1 = disable)"),
    }


FIELDS: dict[str, dict[str, dict[str, tuple[str, str]]]] = {
    "train": {
        "data": _DATA_FIELDS,
        "teacher": {
            "teacher.path": ("DIR", "the Hugging Face directory to start from"),
            "teacher.frozen": ("LIST", "parts that stay unchanged, such as '[bert.embeddings]'"),
            **_optimization_fields("teacher"),
        },
        "run": _TRAINING_FIELDS,
    },
    "distill": {
        "data": {
            **_DATA_FIELDS,
            "data.unlabelled": ("FILE", "more texts; their labels are not used"),
            "data.probabilities": ("COLUMN", "what a teacher from elsewhere said, per class"),
        },
        "models": {
            "teacher.path": ("DIR", "the teacher, unless `jaxbrewer train` has made one"),
            "student.layers": ("LIST", "start from these layers of the teacher: '[0, 2, 4]'"),
            "student.size": ("MAPPING", "start from random weights: '{num_hidden_layers: 2}'"),
            "student.path": ("DIR", "start from a Hugging Face directory"),
            "student.frozen": ("LIST", "parts that stay unchanged, such as '[bert.embeddings]'"),
            **_optimization_fields("student"),
        },
        "distillation": {
            "distillation.temperature": ("T", "softens the logits of both models"),
            "distillation.kd_loss_weight": ("W", "weight of the teacher's logits (0 = disable)"),
            "distillation.hard_label_weight": ("W", "weight of the labels (0 = disable)"),
            "distillation.is_caching_logits": ("BOOL", "run the teacher once, not every epoch"),
        },
        "run": {
            **_TRAINING_FIELDS,
            "training.cache_dir": ("DIR", "a teacher cache (see `jaxbrewer cache`)"),
        },
    },
}
"""By command and group: the metavariable and the meaning of each field."""
