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
# A small Llama that reads bytes learns definitions of WordNet. Two of its three layers become a
# student, which learns the teacher's distribution over the next byte. Then both write.

# %%
import importlib.util
import subprocess
import sys

if importlib.util.find_spec("jaxbrewer") is None:  # in Colab
    source = "jaxbrewer[demo] @ git+https://github.com/jaxbrewer/jaxbrewer"
    subprocess.run([sys.executable, "-m", "pip", "install", "--quiet", source], check=True)

# %%
import numpy as np
import optax
from flax import nnx

import jaxbrewer as jb
from jaxbrewer.demo.wordnet import load_glosses
from jaxbrewer.generation import generate
from jaxbrewer.models import LlamaConfig, LlamaForCausalLM, cut_layers

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
)
training = jb.TrainingConfig(output_dir=None, progress=False)
teacher = LlamaForCausalLM(config, rngs=nnx.Rngs(0))
schedule = optax.warmup_cosine_decay_schedule(0.0, 6e-3, 30, 300)
trainer = jb.BasicTrainer(training, teacher, adaptor)
teacher, _ = trainer.train(optax.adamw(schedule), loader, num_steps=300)
scores = {"teacher, 3 layers": perplexity(teacher)}

# %% [markdown]
# ## The student
#
# The first and the last layer, with the embeddings and the final norm. `kl` is the forward
# divergence; `reverse_kl`, `jsd` and the skewed ones have the same form.

# %%
student = cut_layers(teacher, [0, 2])
scores["student, untrained"] = perplexity(student)

distillation = jb.DistillationConfig(kd_loss_type="kl", temperature=1)
distiller = jb.BasicDistiller(training, distillation, teacher, student, adaptor, adaptor)
schedule = optax.warmup_cosine_decay_schedule(0.0, 4e-3, 10, 100)
student, history = distiller.train(optax.adamw(schedule), loader, num_steps=100)
scores["student, distilled"] = perplexity(student)
for name, score in scores.items():
    print(f"{name:18} perplexity per byte {score:6.2f}")
kl = history["unweighted_kd_loss"]
print(f"KL from the teacher, nats: {kl[0]:.3f} -> {kl[-1]:.3f}")
assert scores["student, distilled"] < scores["student, untrained"]

# %% [markdown]
# ## Both write
#
# After a minute of training the words are strange; the student has its teacher's habits.

# %%
prompt = list(b"a person who ")
for name, model in {"teacher": teacher, "student": student}.items():
    tokens = generate(model, [prompt], max_new_tokens=16).rows()[0]
    print(f"{name}: {bytes([*prompt, *map(int, tokens)]).decode()!r}")

# %% [markdown]
# For real models: `jaxbrewer.models.load(directory)` reads Llama, Mistral, Qwen, Gemma, GPT-2 and
# GGUF; `fused_logits=True` computes losses of a large vocabulary in chunks; a teacher that does not
# fit beside the student runs once into a cache of its top-k logits.
