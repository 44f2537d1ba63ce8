"""Texts, prompts with completions and conversations become documents with the right labels."""

import json

import numpy as np
import pytest

from jaxbrewer import UsageError
from jaxbrewer.data.packing import IGNORED
from jaxbrewer.text import Tokenizer
from jaxbrewer.text.chat import ChatTemplate
from jaxbrewer.text.corpus import Columns, encode_corpus, read_corpus

from .toy_language import CHATML, save_tokenizer

MESSAGES = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "Größe?"},
    {"role": "assistant", "content": "Klein."},
    {"role": "user", "content": "Ja?"},
    {"role": "assistant", "content": "Ja!"},
]
MARKED = CHATML.replace(
    "'\n' + message['content'] + '<|im_end|>' + '\n' }}",
    "'\n' }}{% if message['role'] == 'assistant' %}{% generation %}"
    "{{ message['content'] + '<|im_end|>\n' }}{% endgeneration %}"
    "{% else %}{{ message['content'] + '<|im_end|>\n' }}{% endif %}",
)


def corpus_of(tmp_path, *rows, columns=Columns()):  # noqa: B008
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return read_corpus(path, columns)


def learned(tokenizer, documents, row=0):
    """The text of what a document's labels are."""
    start, stop = documents.offsets[row : row + 2]
    labels = documents.token_columns["labels"][start:stop]
    return tokenizer._tokenizer.decode(
        labels[labels != IGNORED].tolist(), skip_special_tokens=False
    )


def test_plain_text_is_learned_from_its_second_token_to_its_end(tmp_path):
    tokenizer = Tokenizer(save_tokenizer(tmp_path / "t"))
    documents = encode_corpus(tokenizer, corpus_of(tmp_path, {"text": "Größe"}, {"text": "no"}))
    assert learned(tokenizer, documents) == "röße<|end|>"
    assert learned(tokenizer, documents, 1) == "o<|end|>"
    assert documents.token_facts["label_bytes"].sum() == len("röße".encode()) + 1
    with_bos = Tokenizer(save_tokenizer(tmp_path / "bos", bos="<|im_start|>"))
    documents = encode_corpus(with_bos, corpus_of(tmp_path, {"text": "Größe"}), end=False)
    assert learned(with_bos, documents) == "Größe"
    assert documents.token_facts["label_bytes"].sum() == len("Größe".encode())


def test_a_prompt_is_read_and_its_completion_learned(tmp_path):
    tokenizer = Tokenizer(save_tokenizer(tmp_path / "t"))
    corpus = corpus_of(
        tmp_path, {"q": "2+2=", "a": "4"}, columns=Columns(prompt="q", completion="a")
    )
    documents = encode_corpus(tokenizer, corpus)
    assert learned(tokenizer, documents) == "4<|end|>"
    assert tokenizer.decode(documents.input_ids) == "2+2=4"
    assert documents.token_facts["label_bytes"].sum() == 1
    everything = encode_corpus(tokenizer, corpus, learn_prompts=True)
    assert learned(tokenizer, everything) == "+2=4<|end|>"


@pytest.mark.parametrize("template", [CHATML, MARKED])
def test_only_the_assistants_words_are_learned(tmp_path, template):
    tokenizer = Tokenizer(save_tokenizer(tmp_path / "t", template=template))
    documents = encode_corpus(tokenizer, corpus_of(tmp_path, {"messages": MESSAGES}))
    assert learned(tokenizer, documents) == "Klein.<|im_end|>\nJa!<|im_end|>\n"
    whole = tokenizer._tokenizer.decode(documents.input_ids.tolist(), skip_special_tokens=False)
    assert whole == ChatTemplate(tmp_path / "t").render(MESSAGES)
    assert whole.startswith("<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nGröße?")


def test_a_template_that_changes_earlier_messages_is_refused_with_file_and_line(tmp_path):
    forgets = "{{ messages[-1]['content'] }}"
    tokenizer = Tokenizer(save_tokenizer(tmp_path / "t", template=forgets))
    corpus = corpus_of(tmp_path, {"messages": MESSAGES[:2] + MESSAGES[2:3]}, {"messages": MESSAGES})
    with pytest.raises(UsageError, match=r"rows\.jsonl:1: .*messages\[:3\].*\{% generation %\}"):
        encode_corpus(tokenizer, corpus)


def test_the_template_comes_from_its_own_file_first_and_from_a_list_by_name(tmp_path):
    folder = save_tokenizer(tmp_path / "t", template=[{"name": "default", "template": "{{ 1 }}"}])
    assert ChatTemplate(folder).render(MESSAGES) == "1"
    (folder / "chat_template.jinja").write_text("{{ eos_token }}")
    assert ChatTemplate(folder).render(MESSAGES) == "<|end|>"
    Tokenizer(folder).save(tmp_path / "copy")
    assert (tmp_path / "copy" / "chat_template.jinja").read_text() == "{{ eos_token }}"


@pytest.mark.parametrize(
    ("template", "message"),
    [
        ("{% for %}", "is not a template"),
        ("{{ raise_exception('only users speak') }}", "refuses the messages: only users speak"),
        ("{{ ''.__class__.__mro__ }}", "refuses the messages: .*unsafe"),
        ("{{ messages.append(1) }}", "refuses the messages"),
        ("{{ messages[9].content.x }}", "refuses the messages"),
        ("{{ 1 / 0 }}", "refuses the messages"),
        (None, "has no chat template"),
        ([{"name": "tools", "template": "x"}], "no chat template named 'default'"),
        (5, "has no chat template"),
    ],
)
def test_bad_templates_are_refused_in_one_line(tmp_path, template, message):
    folder = save_tokenizer(tmp_path / "t", template=template)
    with pytest.raises(UsageError, match=message) as error:
        ChatTemplate(folder).render(MESSAGES)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"txt": "a"}, "none of the columns 'messages'; 'prompt' and 'completion'; 'text'"),
        ({"text": 5}, ":1: the column 'text' must be a string"),
        ({"text": " "}, ":1: the column 'text' is empty"),
        ({"prompt": "a", "completion": ["b"]}, "the column 'completion' must be a string"),
        ({"messages": []}, "must be a list of messages"),
        ({"messages": "hello"}, "must be a list of messages"),
        ({"messages": [{"content": "a"}]}, r"'messages'\[0\] must have a role"),
        ({"messages": [{"role": "user"}]}, r"'messages'\[0\] has no content"),
        ({"messages": [{"role": "user", "content": "\ufdd0"}]}, "noncharacter"),
    ],
)
def test_bad_rows_are_refused_with_file_and_line(tmp_path, row, message):
    with pytest.raises(UsageError, match=message) as error:
        corpus_of(tmp_path, row)
    assert "rows.jsonl:1" in str(error.value)


def test_texts_without_anything_to_learn_are_refused(tmp_path):
    tokenizer = Tokenizer(save_tokenizer(tmp_path / "t"))
    with pytest.raises(UsageError, match=r":1: the text has 1 tokens"):
        encode_corpus(tokenizer, corpus_of(tmp_path, {"text": "a"}), end=False)
    with pytest.raises(UsageError, match=r":1: nothing to learn"):
        encode_corpus(tokenizer, corpus_of(tmp_path, {"messages": MESSAGES[:2]}))
    with pytest.raises(UsageError, match="is empty"):
        corpus_of(tmp_path)


def test_a_text_file_is_one_text(tmp_path):
    (tmp_path / "a.txt").write_text("one\n\ntwo\n", encoding="utf-8")
    corpus = read_corpus(tmp_path / "a.txt")
    assert (corpus.form, corpus.items) == ("text", ["one\n\ntwo\n"])
    (tmp_path / "b.txt").write_bytes(b"\xff\xfe")
    with pytest.raises(UsageError, match=r"b\.txt cannot be read"):
        read_corpus(tmp_path / "b.txt")


def test_corpora_of_one_form_are_joined_and_of_two_refused(tmp_path):
    texts = corpus_of(tmp_path, {"text": "a"}, {"text": "b"})
    assert texts.with_unlabelled(texts.take([1])).items == ["a", "b", "b"]
    chats = corpus_of(tmp_path, {"messages": MESSAGES})
    with pytest.raises(UsageError, match="has the form 'messages', the other texts 'text'"):
        texts.with_unlabelled(chats)


def test_bytes_of_a_text_add_up_whatever_its_tokens_are(tmp_path):
    tokenizer = Tokenizer(save_tokenizer(tmp_path / "t", bos="<|im_start|>"))
    texts = ["naïve café 😀 end", "plain", "漢字かな"]
    documents = encode_corpus(tokenizer, corpus_of(tmp_path, *({"text": x} for x in texts)))
    per_document = np.add.reduceat(documents.token_facts["label_bytes"], documents.offsets[:-1])
    assert per_document.tolist() == [len(text.encode()) for text in texts]
