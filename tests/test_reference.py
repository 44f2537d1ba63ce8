"""The reference: what it documents of every public name."""

import ast
import dataclasses
import importlib
import inspect
import itertools
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
_MODULES = re.search(
    r"^PUBLIC_MODULES = (\(.*?^\))",
    (ROOT / "docs" / "conf.py").read_text(),
    re.MULTILINE | re.DOTALL,
)
MODULES = ast.literal_eval(_MODULES[1])

WITHOUT_EXAMPLE = {
    # need the files of a model or of a run; the pages and `examples/` show them
    "jaxbrewer.load_student",
    "jaxbrewer.models.convert_gguf",
    "jaxbrewer.models.load_adapters",
    "jaxbrewer.models.load_bert",
    "jaxbrewer.models.save",
    "jaxbrewer.models.save_adapters",
    "jaxbrewer.models.save_bert",
    "jaxbrewer.export.export",
    "jaxbrewer.export.load_artifact",
    "jaxbrewer.export.run_facts",
    "jaxbrewer.export.verify_artifact",
    "jaxbrewer.export.write_card",
    # parts of a loop, shown together in docs/own-loop.md and docs/cache.md
    "jaxbrewer.build_cache",
    "jaxbrewer.evaluation_params",
    "jaxbrewer.make_eval_step",
    "jaxbrewer.make_optimizer",
    "jaxbrewer.make_train_step",
    "jaxbrewer.resolve_matches",
    "jaxbrewer.losses.compare_in_chunks",
    "jaxbrewer.models.merge_lora",
    "jaxbrewer.cache.cache_by_example",
    "jaxbrewer.cache.examples_of",
    "jaxbrewer.cache.teacher_settings",
    "jaxbrewer.cache.with_outputs",
}
"""Public functions whose docstring has no example."""


def public_names():
    """Every public class and function by its first dotted name."""
    found, seen = {}, set()
    for module in MODULES:
        package = importlib.import_module(module)
        for name in getattr(package, "__all__", None) or vars(package):
            value = getattr(package, name)
            origin = str(getattr(value, "__module__", ""))
            is_own = origin == module or origin.startswith(f"{module}.")
            is_listed = hasattr(package, "__all__") or (not name.startswith("_") and is_own)
            if is_listed and (inspect.isclass(value) or callable(value)) and id(value) not in seen:
                seen.add(id(value))
                found[f"{module}.{name}"] = value
    return found


NAMES = public_names()


def parameters_of(value):
    """The names of the parameters of a function or of a class; none where a wrapper hides them."""
    try:
        signature = inspect.signature(value)
    except (TypeError, ValueError):
        return []
    wrapped = {"args", "kwargs"} == set(signature.parameters)
    named = [name for name in signature.parameters if not name.startswith("_")]
    return [] if wrapped else named


def described_in(value):
    """The text in which the parameters of a function or of a class are described."""
    if not inspect.isclass(value):
        return inspect.getdoc(value) or ""
    own = [base for base in value.__mro__ if base.__module__.startswith("jaxbrewer")]
    texts = [base.__doc__ or "" for base in own]
    if dataclasses.is_dataclass(value):  # a string below a field describes it
        for base in own:
            body = ast.parse(inspect.getsource(base)).body[0].body
            for field, text in itertools.pairwise(body):
                if isinstance(field, ast.AnnAssign) and isinstance(text, ast.Expr):
                    texts.append(f"{field.target.id}: {ast.unparse(text)}")
    return "\n".join(texts)


@pytest.mark.parametrize("name", NAMES)
def test_every_public_name_and_its_methods_are_described(name):
    value = NAMES[name]
    assert value.__doc__, name
    if not inspect.isclass(value):
        return
    fields = set(getattr(value, "__dataclass_fields__", {}))  # described by the class
    for member, attribute in vars(value).items():
        is_method = callable(getattr(value, member)) or isinstance(attribute, property)
        if not member.startswith("_") and is_method and member not in fields:
            assert inspect.getdoc(getattr(value, member)), f"{name}.{member}"


@pytest.mark.parametrize("name", NAMES)
def test_every_parameter_is_described(name):
    text = described_in(NAMES[name])
    missing = [own for own in parameters_of(NAMES[name]) if not re.search(rf"\b{own}\b", text)]
    assert not missing


def test_every_public_function_has_an_example():
    functions = {name: value for name, value in NAMES.items() if not inspect.isclass(value)}
    without = {name for name, value in functions.items() if ">>>" not in (value.__doc__ or "")}
    assert without == WITHOUT_EXAMPLE
