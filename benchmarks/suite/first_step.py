"""Prints the seconds of the parts of starting a training, as JSON; ``starting.py`` runs it."""

import json
import sys
import time


def main() -> None:
    """Trains in two calls, whose first steps are timed."""
    seconds = {}
    start = time.perf_counter()

    import jax
    import numpy as np
    import optax
    from flax import nnx

    import jaxbrewer as jb
    from jaxbrewer.models import BertConfig, BertForSequenceClassification

    seconds["imports"] = time.perf_counter() - start
    layers, width = int(sys.argv[1]), int(sys.argv[2])

    def bert(count):
        config = BertConfig(
            hidden_size=width, num_hidden_layers=count, num_attention_heads=12,
            intermediate_size=4 * width, num_labels=2,
        )  # fmt: skip
        return BertForSequenceClassification(config, rngs=nnx.Rngs(0))

    def adaptor(batch, outputs):
        return {"logits": outputs["logits"]}

    start = time.perf_counter()
    teacher, student = jax.block_until_ready((bert(layers), bert(-(-layers // 2))))
    seconds["models"] = time.perf_counter() - start
    ids = np.random.default_rng(0).integers(0, 30_522, (8, 32)).astype(np.int32)
    batches = [{"input_ids": ids, "attention_mask": np.ones_like(ids)}]
    distiller = jb.GeneralDistiller(
        jb.TrainingConfig(output_dir=None, progress=False),
        jb.DistillationConfig(temperature=4),
        teacher, student, adaptor, adaptor,
    )  # fmt: skip
    for name in ("training", "second training"):
        start = time.perf_counter()
        distiller.train(optax.adamw(1e-4), batches, num_steps=1)
        seconds[name] = time.perf_counter() - start
    print(json.dumps(seconds))


if __name__ == "__main__":
    main()
