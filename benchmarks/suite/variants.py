"""Precisions of jaxbrewer's sides of ``peers.py``, by the arguments of their workers."""

VARIANTS = {
    "teacher": {"teacher_products": "bfloat16"},
    "bfloat16": {"fp16": True, "half_dtype": "bfloat16"},
}
"""Fields of ``TrainingConfig``."""
