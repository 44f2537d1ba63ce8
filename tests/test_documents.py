"""The code of the pages and the examples runs; the pages' links lead somewhere."""

import ast
import importlib
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import jaxbrewer as jb
from jaxbrewer.registry import ADAPTOR_KEYS
from tests.pages import page_block
from tests.tiers import exhaustive_but

ROOT = Path(__file__).parent.parent
PAGES = [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").glob("*.md"))]


def anchors_of(page):
    """The anchors that GitHub makes of a page's headings."""
    text = re.sub(r"^```.*?^```", "", page.read_text(), flags=re.DOTALL | re.MULTILINE)
    headings = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page):
    for target in re.findall(r"\]\((?!https?:)([^)\s]+)\)", page.read_text()):
        path, _, anchor = target.partition("#")
        file = (page.parent / path).resolve() if path else page
        assert file.exists(), target
        assert not anchor or anchor in anchors_of(file), target


def test_every_page_with_programs_is_run():
    tests = "".join(path.read_text() for path in (ROOT / "tests").glob("test_*.py"))
    for page in PAGES:
        assert "```python" not in page.read_text() or f'"{page.name}"' in tests, page.name


def test_the_readme_lists_every_page():
    readme = (ROOT / "README.md").read_text()
    for page in [*(ROOT / "docs").glob("*.md"), *(ROOT / "examples").glob("*.py")]:
        assert f"({page.relative_to(ROOT)})" in readme, page.name


def test_the_site_lists_every_page_and_documents_every_public_module():
    index = (ROOT / "docs" / "index.md").read_text()
    for page in (ROOT / "docs").glob("*.md"):
        assert page.stem == "index" or f"\n{page.stem}\n" in index, page.name
    configuration = (ROOT / "docs" / "conf.py").read_text()
    for stub in (ROOT / "jaxbrewer").rglob("__init__.pyi"):
        module = ".".join(stub.parent.relative_to(ROOT).parts)
        assert f'"{module}",' in configuration, module


def test_the_design_page_lists_every_module():
    root, _, tree = page_block("design.md", "jaxbrewer/").partition("\n")
    assert root == "jaxbrewer/"
    folders, listed = [], []
    for line in tree.splitlines():
        indent, name = re.match(r"( *)(\S+)", line).groups()
        del folders[len(indent) // 2 - 1 :]
        if name.endswith("/"):
            folders.append(name)
        else:
            listed.append("".join([*folders, name]))
    package = ROOT / "jaxbrewer"
    modules = {str(path.relative_to(package)) for path in package.rglob("*.py")}
    ignored = {name for name in modules if Path(name).name.startswith("__")} | {"_version.py"}
    assert sorted(listed) == sorted(modules - ignored)


def test_files_and_tests_named_in_pages_exist():
    for page in PAGES:
        for name, test in re.findall(r"(?<!\[)`([\w/]+\.py)(?:::(\w+))?`", page.read_text()):
            places = [ROOT / name, ROOT / "tests" / name, ROOT / "jaxbrewer" / name]
            files = [place for place in places if place.exists()]
            assert files, f"{page.name}: {name}"
            assert not test or f"def {test}(" in files[0].read_text(), (
                f"{page.name}: {name}::{test}"
            )


SCRIPTS = [*(ROOT / "examples").rglob("*.py"), *(ROOT / "benchmarks").rglob("*.py")]


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_scripts_import_names_that_exist(script):
    for node in ast.walk(ast.parse(script.read_text())):
        if not isinstance(node, ast.ImportFrom) or node.level:
            continue
        if node.module.split(".")[0] == "jaxbrewer":
            module = importlib.import_module(node.module)
            for alias in node.names:
                assert hasattr(module, alias.name), f"{node.module}.{alias.name}"


def test_version_changelog_and_citation_agree():
    changelog = (ROOT / "CHANGELOG.md").read_text()
    assert re.search(r"^## \[([\d.]+)\]", changelog, re.MULTILINE)[1] == jb.__version__
    assert f"\nversion: {jb.__version__}\n" in (ROOT / "CITATION.cff").read_text()


def test_a_release_needs_the_right_tag_and_a_dated_changelog():
    command = [sys.executable, str(ROOT / "tools" / "check_release.py"), "v99.0.0"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert f"the tag v99.0.0 is not v{jb.__version__}" in done.stderr


@pytest.fixture
def run(forks, tmp_path):
    """Runs a program as a user does, who lets JAX broadcast; returns what it prints."""

    def run_program(*arguments):
        done = forks.run(*arguments, cwd=tmp_path, JAX_NUMPY_RANK_PROMOTION="allow")
        assert done.returncode == 0, done.stderr
        return done.stdout

    return run_program


@pytest.fixture
def example(run):
    """Runs an example at the size that its arguments give."""
    return lambda name, *arguments: run(ROOT / "examples" / f"{name}.py", *arguments)


@pytest.mark.slow
def test_the_readmes_code_runs_twice_in_one_session(tmp_path, run):
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    assert len(blocks) == 2
    (tmp_path / "readme.py").write_text("\n".join(blocks * 2))
    falls = re.findall(r"loss ([\d.]+) -> ([\d.]+)", run("readme.py"))
    assert len(falls) == 2
    assert all(float(last) < float(first) for first, last in falls)
    assert os.listdir(tmp_path) == ["readme.py"]


NUMBER = re.compile(r"-?\d+(?:\.\d+)?")


PROGRAMS = {
    "extending.md": 5,
    "adaptors.md": 3,
    "own-loop.md": 1,
    "schedules.md": 1,
    "cache.md": 1,
    "evaluation.md": 1,
    "trackers.md": 1,
}
"""Pages whose programs stand above what they print, and the number of programs."""


@pytest.mark.slow
@pytest.mark.parametrize(("name", "count"), PROGRAMS.items())
def test_programs_of_a_page_print_what_it_shows(name, count, tmp_path, run):
    page = (ROOT / "docs" / name).read_text()
    programs = re.findall(r"```python\n(.*?)```\n\n```text\n(.*?)```", page, re.DOTALL)
    assert len(programs) == page.count("```python") == count
    for index, (program, _) in enumerate(programs):
        assert sum(bool(line.strip()) for line in program.splitlines()) <= 40
        (tmp_path / f"program_{index}.py").write_text(program)
    # one process compiles what they share once; each program has names of its own
    lines = [f"runpy.run_path('program_{index}.py'); print('---')" for index in range(count)]
    (tmp_path / "all.py").write_text("\n".join(["import runpy", *lines]))
    outputs = run("all.py").split("---\n")[:-1]
    for output, (_, shown) in zip(outputs, programs, strict=True):
        assert NUMBER.sub("", output) == NUMBER.sub("", shown)
        numbers, expected = (list(map(float, NUMBER.findall(text))) for text in (output, shown))
        assert numbers == pytest.approx(expected, rel=0.05, abs=0.02)


def test_the_page_of_adaptors_lists_every_key():
    page = (ROOT / "docs" / "adaptors.md").read_text()
    table = page.partition("## Keys")[2].partition("## Selecting")[0]
    keys = re.findall(r"^\| `(\w+)` \|", table, re.MULTILINE)
    assert sorted(keys) == sorted(ADAPTOR_KEYS)


@pytest.mark.slow
def test_the_page_of_losses_runs_and_names_every_loss(tmp_path, run):
    page = (ROOT / "docs" / "losses.md").read_text()
    blocks = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    (tmp_path / "losses.py").write_text("\n".join(blocks))
    assert run("losses.py").startswith("lp_loss keeps 15 properties: ")
    rows = re.findall(r"^\| (`.*?) \| .*$", page, re.MULTILINE)
    names = re.findall(r"`(\w+)`", " ".join(rows))
    assert sorted(names) == sorted([*jb.KD_LOSS_MAP, *jb.MATCH_LOSS_MAP])
    (example,) = re.findall(r"```json\n(.*?)```", page, re.DOTALL)
    jb.DistillationConfig.from_dict(json.loads(example))


@pytest.mark.slow
def test_the_migration_pages_code_runs_as_one_program(tmp_path, run):
    page = (ROOT / "docs" / "migration.md").read_text()
    blocks = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    assert len(blocks) == 3
    (tmp_path / "migrated.py").write_text("\n".join(blocks) + "\nprint(tokens)")
    *saved, tokens = run("migrated.py").splitlines()
    assert saved == ["4", "8"]
    assert len(eval(tokens)) == 3


@pytest.mark.slow
def test_random_tokens(example):
    output = example("random_tokens")
    losses = dict(re.findall(r"(\w+): ([\d.]+ -> [\d.]+)", output))
    assert len(losses) == 3
    for first_and_last in losses.values():
        first, last = map(float, first_and_last.split(" -> "))
        assert last <= first
    assert output.count("step ") == 4


@pytest.mark.slow
def test_functional_loop(run):
    path = ROOT / "examples" / "functional_loop.py"
    assert len(path.read_text().splitlines()) < 80
    output = run(path)
    scores = [float(score) for score in re.findall(r"([\d.]+)% of 500", output)]
    teacher, alone, distilled = scores
    assert teacher > distilled > alone + 3


@pytest.mark.slow
def test_multi_teacher(example):
    output = example("multi_teacher", 150)
    scores = dict(re.findall(r"(\S.*\S): ([\d.]+)%", output))
    assert len(scores) == 7
    assert all(float(score) > 30 for score in scores.values())  # chance is 10


@pytest.mark.slow
def test_multi_task(example):
    output = example("multi_task", 240)
    scores = {
        name: float(score)
        for name, score in re.findall(r"(student, \w+): digit ([\d.]+)%, loop", output)
    }
    assert scores.keys() == {"student, labels", "student, distilled"}
    assert all(score > 30 for score in scores.values())  # chance is 10
    digit, loop = map(int, re.findall(r"steps of each task: digit (\d+), loop (\d+)", output)[0])
    assert digit + loop == 240
    assert digit > loop


@pytest.mark.slow
@pytest.mark.exhaustive  # tests/text and tests/models have its models, losses and metrics
def test_language_model(example):
    sizes = "--steps 2 --teacher-steps 3 --rows 2 --width 32 --test-texts 2 --losses kl"
    output = example("language_model", *sizes.split())
    rows = re.findall(r"^(\S.*?\S)  +(?:0  +)?([\d.]+)  +[\d.]+ ", output, re.MULTILINE)
    assert [name for name, _ in rows] == [
        "teacher", "2 of its layers, untrained", "trained on labels alone", "distilled, kl",
        "distilled, kl from the top 64",
    ]  # fmt: skip
    assert all(1 < float(perplexity) < 300 for _, perplexity in rows)


RECIPES = [path for path in (ROOT / "examples" / "recipes").glob("*.py") if path.stem != "recipe"]
ALIKE = ("multi_label", "question_answering", "regression")
"""Recipes that train as ``classification`` does; other tests have their tasks."""


@pytest.mark.slow
@pytest.mark.parametrize(
    "path",
    exhaustive_but([path for path in RECIPES if path.stem not in ALIKE], RECIPES),
    ids=lambda path: path.stem,
)
def test_recipes(path, run):
    output = run(path, "--toy")
    assert re.findall("^(teacher|labels alone|distilled) ", output, re.MULTILINE) == [
        "teacher", "labels alone", "distilled"
    ]  # fmt: skip
    unlabelled = 0 if path.stem == "masked_language_modeling" else 16
    assert f"32 texts with labels, {unlabelled} without, 16 to test on" in output


@pytest.mark.slow
@pytest.mark.exhaustive  # tests/objective has its matches
def test_layer_matching(example):
    output = example("layer_matching", 32, 20)
    falls = re.findall(r"  (\S+): ([\d.]+) -> ([\d.]+)", output)
    assert len(falls) == 3
    assert all(float(last) < float(first) for _, first, last in falls), falls
    assert output.count("accuracy") == 3
    assert "hidden 1, 2 [128]" in output
    assert "bert.encoder.layer.1.attention.self [128]" in output


@pytest.mark.slow
def test_cached_teacher(example):
    output = example("cached_teacher", "--texts", 1500, "--steps", 60)
    full, largest = map(int, re.findall(r"(\d+) bytes per text", output))
    assert full > 3 * largest
    scores = [float(score) for score in re.findall(r"([\d.]+)%", output)]
    assert len(scores) == 4
    assert abs(scores[2] - scores[3]) < 5
