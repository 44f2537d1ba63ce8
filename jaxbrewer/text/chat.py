"""Chat templates of tokenizers: messages -> text, and which of it the assistant wrote."""

import datetime
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

from ..errors import UsageError, missing_extra, reason_of, shown, suggest
from ..json_files import read_json

TEMPLATE_FILE = "chat_template.jinja"
_BEGIN, _END = "\ufdd0", "\ufdd1"  # noncharacters, which no text holds


class Rendered(NamedTuple):
    """A conversation as the model reads it.

    Attributes:
        text: The text, with the special tokens written out.
        spans: Starts and ends of the parts that the assistant wrote.
    """

    text: str
    spans: list[tuple[int, int]]


class ChatTemplate:
    """The chat template of a tokenizer, a Jinja template that runs in Jinja's sandbox.

    Args:
        directory: Holds ``chat_template.jinja``, or ``tokenizer_config.json`` with
            ``chat_template``.

    Raises:
        UsageError: There is no template, it has an error, or Jinja is not installed.
    """

    def __init__(self, directory: str | Path):
        directory = Path(directory)
        path = directory / "tokenizer_config.json"
        settings = read_json(path, dict[str, Any]) if os.path.isfile(path) else {}
        path = directory / "special_tokens_map.json"
        special = read_json(path, dict[str, Any]) if os.path.isfile(path) else {}
        source, self._name = _source(directory, settings)
        self._special = _special_tokens({**special, **settings})
        self._marks = "endgeneration" in source
        self._template = _compile(source, self._name)

    def render(
        self, messages: Sequence[Mapping[str, Any]], *, add_generation_prompt: bool = False
    ) -> str:
        """The text of messages.

        Args:
            messages: Mappings with ``role`` and ``content``.
            add_generation_prompt: Whether to end with what comes before an answer.

        Raises:
            UsageError: The template refuses the messages.
        """
        text = self._render(messages, add_generation_prompt)
        return text.replace(_BEGIN, "").replace(_END, "") if self._marks else text

    def render_with_spans(self, messages: Sequence[Mapping[str, Any]]) -> Rendered:
        """The text of messages, and which of it the assistant wrote.

        A template with ``{% generation %}`` marks these parts. Of another, a part is what follows
        the text of the messages before it, with the prompt for an answer.

        Raises:
            UsageError: The template refuses the messages, or renders earlier messages otherwise
                once later ones follow, so that the parts cannot be found.
        """
        if self._marks:
            return _unmarked(self._render(messages, False))
        text, spans = self._render(messages, False), []
        for index, message in enumerate(messages):
            if message["role"] != "assistant":
                continue
            before = self._render(messages[:index], True)
            until = self._render(messages[: index + 1], False)
            if not (until.startswith(before) and text.startswith(until)):
                raise UsageError(
                    f"{self._name} renders messages[:{index + 1}] otherwise than as the beginning "
                    "of all messages, so that the assistant's words cannot be found: mark them in "
                    "the template with {% generation %} ... {% endgeneration %}."
                )
            spans.append((len(before), len(until)))
        return Rendered(text, spans)

    def _render(self, messages: Sequence[Mapping[str, Any]], add_generation_prompt: bool) -> str:
        import jinja2

        try:
            return self._template.render(
                messages=messages, add_generation_prompt=add_generation_prompt, **self._special
            )
        except UsageError:
            raise
        except (jinja2.TemplateError, TypeError, ValueError, ArithmeticError, LookupError,
                AttributeError, RecursionError) as error:  # fmt: skip
            raise UsageError(f"{self._name} refuses the messages: {reason_of(error)}.") from None


def check_messages(value: Any, where: str) -> list[dict[str, Any]]:
    """Messages of a conversation as a file has them, checked.

    Raises:
        UsageError: They are not a list of mappings with ``role`` and ``content``.
    """
    if not isinstance(value, (list, tuple)) or not value:
        raise UsageError(f"{where} must be a list of messages, got {shown(value)}.")
    for index, message in enumerate(value):
        if not isinstance(message, Mapping) or not isinstance(message.get("role"), str):
            raise UsageError(
                f"{where}[{index}] must have a role and a content, got {shown(message)}."
            )
        content = message.get("content")
        if isinstance(content, str) and not {_BEGIN, _END}.isdisjoint(content):
            raise UsageError(f"{where}[{index}] holds a noncharacter, U+FDD0 or U+FDD1.")
        if content is None and not message.get("tool_calls"):
            raise UsageError(f"{where}[{index}] has no content.")
    return [{key: item for key, item in message.items() if item is not None} for message in value]


def _source(directory: Path, settings: Mapping[str, Any]) -> tuple[str, str]:
    """The template's text, and its name in messages."""
    path = directory / TEMPLATE_FILE
    if os.path.isfile(path):
        try:
            return path.read_text("utf-8"), str(path)
        except (OSError, UnicodeDecodeError) as error:
            raise UsageError(f"{path} cannot be read: {reason_of(error)}.") from None
    found = settings.get("chat_template")
    if isinstance(found, list):  # several, by name
        named = {row.get("name"): row.get("template") for row in found if isinstance(row, dict)}
        if "default" not in named:
            names = suggest("default", named)
            raise UsageError(f"{directory} has no chat template named 'default'. {names}")
        found = named["default"]
    if not isinstance(found, str):
        raise UsageError(
            f"{directory} has no chat template: neither {TEMPLATE_FILE} nor chat_template in "
            "tokenizer_config.json."
        )
    return found, f"the chat template of {directory}"


def _special_tokens(settings: Mapping[str, Any]) -> dict[str, str]:
    tokens = {}
    for name in ("bos_token", "eos_token", "pad_token", "unk_token"):
        token = settings.get(name)
        token = token.get("content") if isinstance(token, dict) else token
        if isinstance(token, str):
            tokens[name] = token
    return tokens


def _compile(source: str, name: str) -> Any:
    try:
        import jinja2
        import jinja2.ext
        import jinja2.sandbox
    except ImportError:
        raise missing_extra("chat", "jinja2") from None

    class Generation(jinja2.ext.Extension):
        """Marks the text between ``{% generation %}`` and ``{% endgeneration %}``."""

        tags = {"generation"}  # noqa: RUF012

        def parse(self, parser: Any) -> Any:
            line = next(parser.stream).lineno
            body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
            call = self.call_method("_marked")
            return jinja2.nodes.CallBlock(call, [], [], body).set_lineno(line)

        def _marked(self, caller: Any) -> str:
            return f"{_BEGIN}{caller()}{_END}"

    def refuse(message: object) -> NoReturn:
        raise jinja2.TemplateError(str(message))

    def to_json(value: Any, **options: Any) -> str:
        return json.dumps(value, ensure_ascii=False, **options)

    environment = jinja2.sandbox.ImmutableSandboxedEnvironment(
        trim_blocks=True,
        lstrip_blocks=True,
        extensions=[Generation, jinja2.ext.loopcontrols],
    )
    environment.filters["tojson"] = to_json
    environment.globals["raise_exception"] = refuse
    environment.globals["strftime_now"] = lambda form: datetime.datetime.now().strftime(form)
    try:
        return environment.from_string(source)
    except jinja2.TemplateError as error:
        raise UsageError(f"{name} is not a template: {reason_of(error)}.") from None


def _unmarked(text: str) -> Rendered:
    """Text without its marks, and the spans between them."""
    parts, spans, length = [], [], 0
    for index, piece in enumerate(text.split(_BEGIN)):
        marked, end, rest = piece.partition(_END) if index else ("", "", piece)
        if index and not end:
            raise UsageError("A chat template nests {% generation %}, or leaves it open.")
        if marked:
            spans.append((length, length + len(marked)))
        parts += [marked, rest]
        length += len(marked) + len(rest)
    return Rendered("".join(parts), spans)
