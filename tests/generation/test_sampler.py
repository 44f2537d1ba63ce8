"""The sampler against the model without a cache, and against its own promises."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from jaxbrewer import UsageError, as_model
from jaxbrewer.generation import Sampler, Sampling, generate
from jaxbrewer.generation.next_token import kept, next_tokens
from jaxbrewer.generation.sampler import _draw
from jaxbrewer.models import FAMILIES, add_lora, quantize_int8
from jaxbrewer.models.families import family_of

pytestmark = pytest.mark.slow

SMALL = {"vocab_size": 60, "hidden_size": 16, "num_hidden_layers": 3, "num_attention_heads": 4,
         "num_key_value_heads": 2, "intermediate_size": 20, "max_position_embeddings": 64,
         "eos_token_id": None}  # fmt: skip
WINDOW = {"sliding_window": 5, "use_sliding_window": True, "max_window_layers": 1}
DECODERS = [name for name in FAMILIES if "causal-language-modeling" in family_of(name).by_task]
PROMPTS = [[5, 9, 3, 8, 20, 41, 7], [11, 4], [30, 31, 32, 33, 34, 35, 36, 37, 38, 39, 40]]

forward = jax.jit(lambda model, ids, mask: model(ids, mask)["logits"])
last_hidden = jax.jit(lambda model, ids: model(ids)["hidden_states"][-1])
extend = jax.jit(lambda model, cache, ids: model.extend(cache, ids))


def decoder(name, **fields):
    family = family_of(name.partition(" ")[0])
    known = {**SMALL, **WINDOW, **fields}
    names = set(family.config.__dataclass_fields__)
    config = family.config(**{key: value for key, value in known.items() if key in names})
    model = family.heads[0](config, rngs=nnx.Rngs(0))
    draw = np.random.default_rng(0)
    noise = jax.tree.map(
        lambda x: x + 0.3 * draw.normal(size=x.shape).astype(np.float32),
        nnx.to_pure_dict(nnx.state(model, nnx.Param)),
    )
    nnx.update(model, noise)
    model.eval()
    return model


@pytest.mark.parametrize("name", DECODERS)
def test_greedy_tokens_are_those_of_the_model_without_a_cache(name):
    model = decoder(name)
    drawn = generate(model, PROMPTS, max_new_tokens=12).rows()
    texts = [[*prompt, *new] for prompt, new in zip(PROMPTS, drawn, strict=True)]
    ids, mask = np.zeros((3, 32), int), np.zeros((3, 32), int)
    for row, text in enumerate(texts):
        ids[row, : len(text)], mask[row, : len(text)] = text, 1
    best = np.argmax(forward(model, ids, mask), axis=-1)
    for row, (prompt, text) in enumerate(zip(PROMPTS, texts, strict=True)):
        assert best[row, len(prompt) - 1 : len(text) - 1].tolist() == text[len(prompt) :]
    assert len({token for new in drawn for token in new}) > 3


DYNAMIC = {"rope_scaling": {"rope_type": "dynamic", "factor": 4.0}, "max_position_embeddings": 10}


@pytest.mark.parametrize(
    ("name", "fields"),
    [("llama", DYNAMIC), ("mistral", {}), ("qwen2", {}), ("gemma3_text", {}), ("gpt2", {})],
)
def test_hidden_states_read_in_parts_are_those_read_at_once(name, fields):
    model = decoder(name, **fields)
    ids = jnp.asarray(np.random.default_rng(0).integers(0, 60, (2, 14)))
    whole = last_hidden(model, ids)
    cache, parts = model.start_cache(2, 16, jnp.full(2, 14)), []
    for place in (slice(9), slice(9, 13), slice(13, 14)):
        hidden, cache = extend(model, cache, ids[:, place])
        parts.append(hidden)
    np.testing.assert_allclose(jnp.concatenate(parts, axis=1), whole, atol=2e-5)
    shorter = last_hidden(model, ids[:, :9])
    if fields:  # keys are made for the final length
        assert np.abs(shorter - whole[:, :9]).max() > 1e-3
    else:
        np.testing.assert_allclose(shorter, whole[:, :9], atol=2e-5)


@pytest.fixture(scope="module")
def llama():
    return decoder("llama")


def test_each_bucket_is_compiled_once(llama):
    before = _draw._cache_size()
    sampler = Sampler(llama, Sampling(max_new_tokens=5))
    for prompts in ([[1], [2, 3]], [[4] * 16, [5]], [[7, 8, 9], [1] * 3]):
        sampler(prompts)
    Sampler(llama, Sampling(max_new_tokens=9))([[1], [2]])
    assert _draw._cache_size() == before + 1
    sampler([[1] * 17, [2]])
    assert _draw._cache_size() == before + 2
    for temperature in (0.5, 1.0):
        Sampler(llama, Sampling(temperature=temperature, max_new_tokens=3))([[1], [2]])
    assert _draw._cache_size() == before + 3


def test_padding_on_either_side_changes_nothing(llama):
    alone = generate(llama, [PROMPTS[0]], max_new_tokens=6).rows()[0]
    for side in (0, 1):
        matrix, mask = np.zeros((2, 11), int), np.zeros((2, 11), int)
        for row, prompt in enumerate((PROMPTS[0], PROMPTS[2])):
            place = slice(11 - len(prompt), None) if side else slice(len(prompt))
            matrix[row, place], mask[row, place] = prompt, 1
        assert generate(llama, matrix, mask, max_new_tokens=6).rows()[0] == alone


def test_a_row_ends_at_its_end_token(llama):
    free = generate(llama, PROMPTS, max_new_tokens=8).rows()
    end = free[0][3]
    drawn = generate(llama, PROMPTS, max_new_tokens=8, eos_token_id=end, pad_token_id=59)
    for row, whole in zip(drawn.rows(), free, strict=True):
        cut = whole.index(end) + 1 if end in whole else len(whole)
        assert row == whole[:cut]
    assert (drawn.tokens[0, drawn.lengths[0] :] == 59).all()


def test_a_row_draws_the_same_tokens_in_any_batch(llama):
    settings = {"max_new_tokens": 6, "temperature": 1.0, "top_k": 20, "top_p": 0.9}
    first = generate(llama, PROMPTS, key=3, **settings)
    other = generate(llama, [PROMPTS[0], [1, 2, 3], [4]], key=3, **settings)
    assert first.rows()[0] == other.rows()[0]
    assert first.rows() == generate(llama, PROMPTS, key=jax.random.key(3), **settings).rows()
    assert first.rows() != generate(llama, PROMPTS, key=4, **settings).rows()


def test_a_sampler_takes_other_weights(llama):
    other = decoder("llama", initializer_range=0.5)
    sampler = Sampler(llama, Sampling(max_new_tokens=6))
    weights = nnx.to_pure_dict(nnx.state(other, nnx.Param))
    drawn = sampler(PROMPTS, params=weights)
    assert drawn.rows() == generate(other, PROMPTS, max_new_tokens=6).rows()
    assert drawn.rows() == sampler(PROMPTS, params=as_model(other).params).rows()
    assert drawn.rows() != sampler(PROMPTS).rows()
    with pytest.raises(UsageError, match="params lack 'lm_head'"):
        sampler(PROMPTS, params={"model": weights["model"]})


def test_adapted_and_quantised_models_are_sampled_as_they_answer(llama):
    for model in (quantize_int8(llama), add_lora(llama, rank=2)):
        (new,) = generate(model, [PROMPTS[0]], max_new_tokens=6).rows()
        text = np.array([[*PROMPTS[0], *new]])
        best = np.argmax(forward(model, text, np.ones_like(text)), axis=-1)[0]
        assert best[len(PROMPTS[0]) - 1 : -1].tolist() == new


def test_draws_follow_the_softmax():
    logits = jnp.log(jnp.array([0.5, 0.2, 0.2, 0.1]))
    keys = jax.random.split(jax.random.key(0), 20_000)
    drawn = next_tokens(jnp.broadcast_to(logits[None], (20_000, 4)), keys, temperature=0.5)
    expected = np.square([0.5, 0.2, 0.2, 0.1]) / np.sum(np.square([0.5, 0.2, 0.2, 0.1]))
    np.testing.assert_allclose(np.bincount(drawn) / 20_000, expected, atol=0.015)


def test_the_most_probable_token_always_stays():
    logits = jnp.array([[3.0, 1.0, 0.0, -1.0], [0.0, 0.0, 0.0, 5.0]])
    assert kept(logits, None, 1e-6).sum(axis=1).tolist() == [1, 1]
    assert kept(logits, 3, 1.0)[0].tolist() == [True, True, True, False]
    assert kept(logits, 9, 1.0).all()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"input_ids": []}, "holds no prompt"),
        ({"input_ids": [[1], []]}, "Prompt 1 is empty"),
        ({"input_ids": [[1.5]]}, "Prompt 0 must be a list of integers"),
        ({"input_ids": 3}, "must be lists of tokens, got int"),
        ({"input_ids": [[1]], "attention_mask": [[1, 0]]}, "must have the shape of input_ids"),
        ({"input_ids": [[1]], "top_p": 1.5}, "top_p must be a number above 0, at most 1, got 1.5"),
        ({"input_ids": [[1]], "max_new_tokens": 0}, "max_new_tokens must be an integer of at"),
        ({"input_ids": [[1]], "top_k": True}, "top_k must be an integer of at least 1, got True"),
    ],
)
def test_wrong_arguments_are_refused(arguments, message, llama):
    with pytest.raises(UsageError, match=message):
        generate(llama, **arguments)


def test_an_encoder_generates_nothing():
    family = family_of("bert")
    config = family.config(vocab_size=20, hidden_size=8, num_hidden_layers=1,
                           num_attention_heads=2, intermediate_size=12)  # fmt: skip
    model = family.by_task["masked-language-modeling"](config, rngs=nnx.Rngs(0))
    with pytest.raises(UsageError, match="BertForMaskedLM generates no text"):
        generate(model, [[1]])
