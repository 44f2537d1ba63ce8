"""Studies: whether distillation pays on given data, over seeds, with intervals."""
