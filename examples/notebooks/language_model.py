# ---
# jupyter:
#   jupytext:
#     text_representation:
#       extension: .py
#       format_name: percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # A language model
#
# [![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/jaxbrewer/jaxbrewer/blob/main/examples/notebooks/language_model.ipynb)
#
# A small Llama that reads bytes learns definitions of WordNet. A student of one layer learns the
# teacher's distribution over the next byte, beside one that learns from the text alone. Then they
# write.

# %%
import importlib.util
import subprocess
import sys

if importlib.util.find_spec("jaxbrewer") is None:  # in Colab
    source = "jaxbrewer[demo] @ git+https://github.com/jaxbrewer/jaxbrewer"
    subprocess.run([sys.executable, "-m", "pip", "install", "--quiet", source], check=True)

# %%
import dataclasses

import numpy as np
import optax
from flax import nnx

import jaxbrewer as jb
from jaxbrewer.demo.wordnet import load_glosses
from jaxbrewer.generation import generate
from jaxbrewer.models import LlamaConfig, LlamaForCausalLM

# %% [markdown]
# ## Data
#
# Rows of 64 bytes. A real job reads text files and packs documents of a tokenizer
# (`data.task: language-modeling`); here the arrays are made by hand.

# %%
texts = load_glosses().texts
texts = [texts[row] for row in np.random.default_rng(0).permutation(len(texts))[:1500]]
stream = np.frombuffer("\n".join(texts).encode("ascii", "ignore"), np.uint8).astype(np.int32)
rows = stream[: len(stream) // 64 * 64].reshape(-1, 64)
train, test = rows[:-64], rows[-64:]
loader = jb.ArrayLoader({"input_ids": train}, batch_size=16, drop_last=True)
print(f"{len(train):,} rows to train on, {len(test)} to test on")

# %% [markdown]
# ## The teacher
#
# Position n predicts byte n + 1, so logits and labels are shifted by one in the adaptor.


# %%
def adaptor(batch, outputs):
    logits = outputs["logits"][:, :-1]
    loss = optax.softmax_cross_entropy_with_integer_labels(logits, batch["input_ids"][:, 1:])
    return {"logits": logits, "losses": loss.mean(-1)}


def perplexity(model):
    return float(np.exp(adaptor({"input_ids": test}, model(test))["losses"].mean()))


config = LlamaConfig(
    vocab_size=128,
    hidden_size=64,
    num_hidden_layers=3,
    num_attention_heads=4,
    num_key_value_heads=2,
    intermediate_size=96,
    max_position_embeddings=128,
    tie_word_embeddings=True,
    initializer_range=0.1,  # for so narrow a model
)
training = jb.TrainingConfig(output_dir=None, progress=False)
teacher = LlamaForCausalLM(config, rngs=nnx.Rngs(0))
schedule = optax.warmup_cosine_decay_schedule(0.0, 6e-3, 20, 250)
trainer = jb.BasicTrainer(training, teacher, adaptor)
teacher, _ = trainer.train(optax.adamw(schedule), loader, num_steps=250)
scores = {"teacher, 3 layers": perplexity(teacher)}

# %% [markdown]
# ## The students
#
# A Llama of one layer with new weights, for the same number of steps: once from the text, once from
# the teacher. `kl` is the forward divergence; `reverse_kl`, `jsd` and the skewed ones have the same
# form. (`cut_layers(teacher, [0, 2])` would make a student of the teacher's own layers.)


# %%
def new_student():
    return LlamaForCausalLM(dataclasses.replace(config, num_hidden_layers=1), rngs=nnx.Rngs(1))


def optimizer():
    return optax.adamw(optax.warmup_cosine_decay_schedule(0.0, 5e-3, 10, 100))


scores["student, untrained"] = perplexity(new_student())
trainer = jb.BasicTrainer(training, new_student(), adaptor)
alone, _ = trainer.train(optimizer(), loader, num_steps=100)
scores["student, text alone"] = perplexity(alone)

distillation = jb.DistillationConfig(kd_loss_type="kl", temperature=1)
distiller = jb.BasicDistiller(training, distillation, teacher, new_student(), adaptor, adaptor)
student, history = distiller.train(optimizer(), loader, num_steps=100)
scores["student, distilled"] = perplexity(student)
for name, score in scores.items():
    print(f"{name:20} perplexity per byte {score:6.2f}")
kl = history["unweighted_kd_loss"]
print(f"KL from the teacher, nats: {kl[0]:.3f} -> {kl[-1]:.3f}")
assert kl[-1] < kl[0] / 5

# %% [markdown]
# ## They write
#
# Models of this size learn frequent words in a minute, and not what they mean.

# %%
prompt = list(b"a person who ")
for name, model in {"teacher": teacher, "student": student}.items():
    tokens = generate(model, [prompt], max_new_tokens=16).rows()[0]
    print(f"{name}: {bytes([*prompt, *map(int, tokens)]).decode()!r}")

# %% [markdown]
# For real models: `jaxbrewer.models.load(directory)` reads Llama, Mistral, Qwen, Gemma, GPT-2 and
# GGUF; `fused_logits=True` computes losses of a large vocabulary in chunks; a teacher that does not
# fit beside the student runs once into a cache of its top-k logits.
