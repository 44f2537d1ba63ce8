"""A byte tokenizer, documents and a causal model, all small enough for any test."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import tokenizers

from jaxbrewer.text.documents import make_documents

CHATML = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + "
    "message['content'] + '<|im_end|>' + '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
SPECIAL = ("<|pad|>", "<|end|>", "<|im_start|>", "<|im_end|>")


def save_tokenizer(folder, *, template=CHATML, bos=None):
    """Writes a tokenizer whose tokens are bytes, and four special ones."""
    folder.mkdir(exist_ok=True)
    alphabet = sorted(tokenizers.pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: number for number, token in enumerate([*SPECIAL, *alphabet])}
    made = tokenizers.Tokenizer(tokenizers.models.BPE(vocabulary, []))
    made.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = tokenizers.decoders.ByteLevel()
    made.add_special_tokens(list(SPECIAL))
    if bos:
        made.post_processor = tokenizers.processors.TemplateProcessing(
            single=f"{bos} $A", special_tokens=[(bos, vocabulary[bos])]
        )
    made.save(str(folder / "tokenizer.json"))
    settings = {"pad_token": "<|pad|>", "eos_token": "<|end|>", "chat_template": template}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    return folder


def random_documents(lengths, *, vocab=32, seed=0, prompts=False):
    """Documents of random tokens; with ``prompts`` the first third of each is not learned."""
    draw = np.random.default_rng(seed)
    tokens = [draw.integers(1, vocab, length) for length in lengths]
    targets = [np.arange(length) >= (length // 3 if prompts else 0) for length in lengths]
    return make_documents(tokens, targets)


def causal_params(vocab=32, width=16, positions=64, seed=0):
    rng = np.random.default_rng(seed)
    shapes = {"embed": (vocab, width), "place": (positions, width), "head": (width, vocab)}
    shapes |= dict.fromkeys(("query", "key", "value"), (width, width))
    return {
        name: jnp.asarray(np.float32(rng.normal(scale=0.5, size=shape)))
        for name, shape in shapes.items()
    }


def causal_logits(params, batch):
    """Logits ``[batch, length, vocab]`` of one layer of causal attention within segments."""
    x = params["embed"][batch["input_ids"]] + params["place"][batch["position_ids"]]
    query, key, value = (x @ params[name] for name in ("query", "key", "value"))
    segments = batch["segment_ids"]
    length = segments.shape[1]
    allowed = (segments[:, :, None] == segments[:, None, :]) & jnp.tri(length, dtype=bool)[None]
    scores = jnp.where(allowed, query @ key.mT, -1e30)
    return (x + jax.nn.softmax(scores) @ value) @ params["head"]


def next_token_loss(params, batch):
    """The sum of the cross-entropy over all labels, and their number."""
    log_p = jax.nn.log_softmax(causal_logits(params, batch))
    has_label = batch["labels"] != -100
    labels = jnp.where(has_label, batch["labels"], 0)
    loss = -jnp.take_along_axis(log_p, labels[..., None], axis=-1)[..., 0]
    return jnp.sum(jnp.where(has_label, loss, 0)), has_label.sum()
