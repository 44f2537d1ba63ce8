"""Log-probabilities made elsewhere become a cache; what does not fit the texts is refused."""

import json

import jax
import numpy as np
import pyarrow
import pyarrow.parquet
import pytest

from jaxbrewer import UsageError
from jaxbrewer.cache import Storage, TeacherCache, build_cache
from jaxbrewer.text import TextLoader, Tokenizer, responses
from jaxbrewer.text.corpus import encode_corpus, read_corpus
from jaxbrewer.text.documents import PackedLoader
from jaxbrewer.text.export_scores import export_scores
from jaxbrewer.text.import_scores import import_scores

from .toy_language import causal_logits, causal_params, save_tokenizer

pytestmark = pytest.mark.slow

CLASSES, WIDTH, K = 260, 16, 5
PARAMS = causal_params(vocab=CLASSES)
TEXTS = ["a cat sees", "it barks", "a fox hides in the wood, naïve", "two", "the end is near"]
CHATS = [
    {"prompt": "who barks?", "completion": "a dog barks"},
    {"prompt": "who?", "completion": "naïve cats"},
]
DIGESTS = {"tokenizer": "1" * 16, "data": "2" * 16}


def model(params, input_ids, segment_ids, position_ids):
    batch = {"input_ids": input_ids, "segment_ids": segment_ids, "position_ids": position_ids}
    return {"logits": causal_logits(params, batch)}


def adaptor(batch, outputs):
    mask = batch["attention_mask"]
    return {**outputs, "logits_mask": batch["loss_mask"], "inputs_mask": mask}


class Made:
    """Texts, their tokenizer, their documents and the teacher's log-probabilities of each."""

    def __init__(self, folder, rows):
        (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        self.folder = folder
        self.tokenizer = Tokenizer(save_tokenizer(folder / "tokenizer"))
        self.documents = encode_corpus(self.tokenizer, read_corpus(folder / "rows.jsonl"))
        self.pieces = self.documents.windows(WIDTH)
        self.log_p = []
        for row in range(len(self.documents)):
            batch = self.documents.batch([row], int(self.documents.lengths[row]))
            self.log_p.append(np.asarray(jax.nn.log_softmax(causal_logits(PARAMS, batch)[0])))

    def ids(self, row):
        return self.documents.input_ids[slice(*self.documents.offsets[row : row + 2])]

    def read(self, *paths, name="cache", **settings):
        return import_scores(
            self.folder / name, paths, self.documents, self.pieces, self.tokenizer,
            classes=CLASSES, fingerprints=DIGESTS, **settings,
        )  # fmt: skip

    def largest(self, row, place, k=K):
        scores = self.log_p[row][place - 1]
        return {int(token): float(scores[token]) for token in np.argsort(-scores)[:k]}


@pytest.fixture
def texts(tmp_path):
    return Made(tmp_path, [{"text": text} for text in TEXTS])


@pytest.fixture
def chats(tmp_path):
    return Made(tmp_path, CHATS)


def vllm_lines(made, *, token_ids=True):
    """What vLLM returns for texts as prompts: the text's token with its ``K`` likeliest."""
    for row in range(len(made.documents)):
        ids, entries = made.ids(row), [None]
        for place in range(1, len(ids)):
            token = int(ids[place])
            pairs = {token: float(made.log_p[row][place - 1][token])} | made.largest(row, place)
            entries.append({str(i): {"logprob": p, "rank": 1} for i, p in pairs.items()})
        choice = {"index": 0, "text": "", "prompt_logprobs": entries}
        if token_ids:
            choice["prompt_token_ids"] = ids.tolist()
        yield {"custom_id": f"request-{row}", "response": {"body": {"choices": [choice]}}}


def chat_lines(made, *, as_ids):
    """What chat completions return: tokens as text and bytes, or as ``token_id:7``."""
    for row in range(len(made.documents)):
        ids, prompt = made.ids(row), len(CHATS[row]["prompt"].encode())
        content = []
        for place in range(prompt, len(ids)):

            def pair(token, place=place, row=row):
                text = made.tokenizer._tokenizer.id_to_token(token)
                found = {"logprob": float(made.log_p[row][place - 1][token])}
                if as_ids:
                    return {**found, "token": f"token_id:{token}"}
                special = text.startswith("<|")
                by_byte = made.tokenizer.ids_by_bytes()
                own = next(key for key, number in by_byte.items() if number == token)
                return {**found, "token": text, "bytes": None if special else list(own)}

            top = [pair(token) for token in made.largest(row, place)]
            content.append({**pair(int(ids[place])), "top_logprobs": top})
        yield {"example": row, "choices": [{"logprobs": {"content": content}}]}


def write_lines(made, lines, name="scores.jsonl"):
    path = made.folder / name
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def table_of(made):
    rows = []
    for row in range(len(made.documents)):
        for place in range(1, len(made.ids(row))):
            pairs = made.largest(row, place)
            rows.append(
                {
                    "example": row, "position": place, "token": int(made.ids(row)[place]),
                    "ids": list(pairs), "logprobs": list(pairs.values()),
                }
            )  # fmt: skip
    return rows


def write_table(made, rows, name="scores.parquet"):
    path = made.folder / name
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path)
    return path


def assert_holds_the_teacher(made, name="cache", *, k=K):
    """Every learned position has the teacher's largest probabilities and the mass of the rest."""
    cache = TeacherCache(made.folder / name)
    for batch in PackedLoader(made.pieces, 2, WIDTH):
        found = cache.outputs(batch)
        (kept,), (mask,) = found.logits, found.logits_mask
        np.testing.assert_array_equal(mask, batch["loss_mask"])
        for row, column in np.argwhere(mask):
            piece = batch["example_id"][row, column]
            document = made.pieces.facts["document"][piece]
            place = made.pieces.facts["first"][piece] + batch["position_ids"][row, column]
            log_p = made.log_p[document][place]
            named = kept.indices[row, column] < CLASSES
            ids = kept.indices[row, column][named]
            assert set(np.argsort(-log_p)[:k]) <= set(ids)
            np.testing.assert_allclose(kept.logits[row, column][named], log_p[ids], atol=2e-5)
            rest = 1 - np.exp(log_p[ids]).sum()
            np.testing.assert_allclose(np.exp(kept.log_tail[row, column, 0]), rest, atol=1e-5)


@pytest.fixture(params=["msgspec", "json"])
def decoder(request, monkeypatch):
    """Each of the two ways to decode a scored prompt."""
    if request.param == "json":
        monkeypatch.setattr(responses, "_decoder_of_prompts", lambda: None)
    else:
        assert responses._decoder_of_prompts() is not None


@pytest.mark.usefixtures("decoder")
@pytest.mark.parametrize("token_ids", [True, False])
def test_scored_prompts_of_vllm_give_the_teachers_distribution(texts, token_ids):
    path = write_lines(texts, vllm_lines(texts, token_ids=token_ids))
    manifest = texts.read(path, bits=32, k=K + 1)
    assert manifest.examples == len(texts.pieces)
    assert manifest.report["positions"] == texts.documents.label_count
    assert manifest.fingerprints == DIGESTS
    assert_holds_the_teacher(texts)


def test_the_fast_decoder_takes_the_plain_form_and_agrees_with_the_other(texts):
    for line in vllm_lines(texts):
        bare = {"example": 3, **line["response"]["body"]}
        for row in (line, bare):
            text = json.dumps(row).encode()
            fast, slow = responses._plain_prompt(text), responses._read(text, None, "line")
            assert {name: row[name] for name in fast[0]} == fast[0] != {}
            jax.tree.map(np.testing.assert_array_equal, fast[1:], slow[1:])
    assert texts.read(write_lines(texts, vllm_lines(texts))).examples == len(texts.pieces)


@pytest.mark.parametrize(
    "entry",
    ['{"7": {"logprob": -Infinity}}', '{"7": {"logprob": "1"}}', '{"7": {}}', '{"x": 1}', "5"],
)
def test_the_fast_decoder_leaves_all_other_forms_to_the_standard_library(entry):
    line = f'{{"choices": [{{"prompt_logprobs": [null, {entry}]}}]}}'
    assert responses._plain_prompt(line.encode()) is None


@pytest.mark.parametrize("as_ids", [True, False])
def test_scored_answers_of_chat_completions_join_the_learned_tokens(chats, as_ids):
    chats.read(write_lines(chats, chat_lines(chats, as_ids=as_ids)), bits=32, k=K + 1)
    assert_holds_the_teacher(chats)


def test_parquet_in_any_order_of_examples_and_in_several_files(texts):
    rows = table_of(texts)
    late = [row for row in rows if row["example"] >= 2]
    early = [row for row in rows if row["example"] < 2]
    texts.read(write_table(texts, late, "b.parquet"), write_table(texts, early), bits=32)
    assert_holds_the_teacher(texts)


def test_fewer_candidates_leave_places_empty_and_more_are_cut_to_the_largest(texts):
    rows = table_of(texts)
    rows[3] = {**rows[3], "ids": rows[3]["ids"][:2], "logprobs": rows[3]["logprobs"][:2]}
    texts.read(write_table(texts, rows), k=3, bits=32)
    assert_holds_the_teacher(texts, k=2)
    entry = TeacherCache(texts.folder / "cache").layout.entries[0]
    assert (entry.k, entry.classes, entry.temperatures) == (3, CLASSES, (1.0,))


@pytest.mark.parametrize("bits", [8, 32])
@pytest.mark.parametrize("temperatures", [(1.0,), (1.0, 4.0)])
def test_importing_an_exported_cache_gives_its_records_bit_for_bit(texts, bits, temperatures):
    storage = Storage("top_k", K, bits, temperatures)
    loader = TextLoader(texts.pieces.without("labels"), 3, shuffle=False)
    folder = texts.folder / "built"
    build_cache(folder, (model, PARAMS), adaptor, loader, storage=storage, fingerprints=DIGESTS)
    path = texts.folder / "dump.parquet"
    assert export_scores(folder, path, texts.pieces) == texts.documents.label_count
    texts.read(path, bits=bits, batch_size=3)
    built, read = TeacherCache(folder), TeacherCache(texts.folder / "cache")
    keys = built.keys()
    assert read._all.read(keys) == built._all.read(keys)
    assert read.keys() == keys
    assert read.layout == built.layout
    for name in ("fingerprints", "settings", "storage", "keys", "inputs", "examples"):
        assert getattr(read.manifest, name) == getattr(built.manifest, name)


def changed(rows, index, **fields):
    return [{**row, **fields} if number == index else row for number, row in enumerate(rows)]


REFUSED_TABLES = {
    "example": ({"example": 99}, r":3: example 99 is none of the 5 texts"),
    "position": ({"position": 40}, r":3: position 40 of text 0 has no scores: its 11 tokens"),
    "first": ({"position": 0}, r":3: position 0 of text 0 has no scores"),
    "token": ({"token": 9}, r":3: position 3 of text 0 is token \d+ \('a'\) in the data and 9 in"),
    "vocabulary": ({"ids": [260, 1, 2, 3, 4]}, r":3: position 3: the id 260 is not one of 260"),
    "twice": ({"ids": [1, 1, 2, 3, 4]}, r":3: position 3: the id 1 has two probabilities"),
    "sum": ({"logprobs": [-0.1] * 5}, r":3: position 3: the probabilities add up to 4.5"),
    "above": ({"logprobs": [3.0] * 5}, r":3: position 3: a log-probability is at most 0, got 3"),
    "nan": ({"logprobs": [float("nan")] * 5}, r":3: position 3: .* got nan"),
    "again": ({"position": 2, "token": None}, r":3: a place of the text comes a second time"),
    "lengths": ({"ids": [1, 2]}, "have other numbers of ids than of logprobs"),
}


@pytest.mark.parametrize("name", REFUSED_TABLES)
def test_rows_that_do_not_fit_the_texts_are_refused_with_file_and_row(texts, name):
    fields, message = REFUSED_TABLES[name]
    rows = table_of(texts)
    if name == "again":
        fields = {**fields, "token": rows[1]["token"]}
    with pytest.raises(UsageError, match=message) as error:
        texts.read(write_table(texts, changed(rows, 2, **fields)))
    assert "scores.parquet" in str(error.value)
    assert "\n" not in str(error.value)


def refused_files(made):
    rows = table_of(made)
    short = [row for row in rows if row["example"] != 3]
    broken = [row for row in rows if row["example"] == 0] * 1
    yield write_table(made, short, "a.parquet"), "the files lack 1 of 5 texts, the first is text 3"
    yield (
        write_table(made, [*rows, *broken], "b.parquet"),
        r":\d+: a place of the text comes a second time",
    )
    yield write_table(made, [{"example": 1}], "c.parquet"), "no column 'position'"
    yield (
        write_table(made, [{**rows[0], "ids": "x"}], "d.parquet"),
        "the column 'ids' must hold lists, got string",
    )
    yield (
        write_table(made, [{**rows[0], "token": 0.5}], "e.parquet"),
        "the column 'token' must hold integers, got double",
    )
    (made.folder / "f.parquet").write_bytes(b"PAR1")
    yield made.folder / "f.parquet", "cannot be read"
    yield made.folder / "g.parquet", "cannot be read"
    yield made.folder / "h.csv", "did you mean|Allowed"


def test_files_that_are_no_scores_are_refused_in_one_line(texts):
    for number, (path, message) in enumerate(refused_files(texts)):
        with pytest.raises(UsageError, match=message) as error:
            texts.read(path, name=f"cache{number}")
        assert path.name in str(error.value)
        assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", ":1 is not valid JSON"),
        ("[1]", ":1: expected a JSON object"),
        ('{"error": {"message": "busy"}}', ":1 is an error of the server"),
        ('{"response": 5}', ":1 has no response"),
        ('{"choices": []}', ":1: a response needs 'choices' with one entry"),
        ('{"choices": [{"text": "a"}]}', "has neither 'prompt_logprobs' nor 'logprobs'"),
        ('{"example": -1, "choices": [{"prompt_logprobs": []}]}', "'example' must be the number"),
        ('{"custom_id": "x", "choices": [{"prompt_logprobs": []}]}', "'custom_id' must end with"),
        ('{"choices": [{"prompt_logprobs": 5}]}', "must be lists"),
        (
            '{"choices": [{"prompt_logprobs": [null], "prompt_token_ids": [1, 2]}]}',
            "2 prompt_token_ids, but 1 prompt_logprobs",
        ),
        ('{"choices": [{"prompt_logprobs": [null, {"a": 1}]}]}', r"prompt_logprobs\[1\] must be"),
        (
            '{"choices": [{"logprobs": {"content": [{"token": "a"}]}}]}',
            r"content\[0\] must have token, logprob and top_logprobs",
        ),
        (
            '{"choices": [{"logprobs": {"content": [{"token": "no such", "logprob": -1, '
            '"top_logprobs": []}]}}]}',
            "'no such' is not one token of the tokenizer",
        ),
    ],
)
def test_responses_of_another_form_are_refused_with_file_and_line(texts, line, message):
    (texts.folder / "scores.jsonl").write_text(line + "\n")
    with pytest.raises(UsageError, match=message) as error:
        texts.read(texts.folder / "scores.jsonl")
    assert "scores.jsonl:1" in str(error.value)


def test_an_answer_of_another_text_and_one_that_is_too_long_are_refused(chats):
    lines = list(chat_lines(chats, as_ids=True))
    lines[1]["choices"][0]["logprobs"]["content"] *= 2
    with pytest.raises(UsageError, match=r":2: text 1 has 12 tokens of answers, but the file"):
        chats.read(write_lines(chats, lines))
    swapped = [{**line, "example": 1 - line["example"]} for line in chat_lines(chats, as_ids=True)]
    with pytest.raises(UsageError, match=r":1: position 0 of text 1 is token .* in the file"):
        chats.read(write_lines(chats, swapped), name="other")


def test_an_export_of_another_tokenizer_or_vocabulary_is_refused(texts):
    loader = TextLoader(texts.pieces.without("labels"), 3, shuffle=False)
    folder, path = texts.folder / "built", texts.folder / "dump.parquet"
    storage = Storage("top_k", K)
    build_cache(folder, (model, PARAMS), adaptor, loader, storage=storage, fingerprints=DIGESTS)
    export_scores(folder, path, texts.pieces)
    given = (texts.folder / "c", [path], texts.documents, texts.pieces, texts.tokenizer)
    other = {**DIGESTS, "tokenizer": "3" * 16}
    with pytest.raises(UsageError, match="from a cache with another tokenizer"):
        import_scores(*given, classes=CLASSES, fingerprints=other)
    with pytest.raises(UsageError, match="from logits of 260 classes, not 300"):
        import_scores(*given, classes=300, fingerprints=DIGESTS)
    build_cache(texts.folder / "full", (model, PARAMS), adaptor, loader)
    with pytest.raises(UsageError, match="only the largest logits"):
        export_scores(texts.folder / "full", path, texts.pieces)
