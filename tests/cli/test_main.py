"""The process: help, versions, exit statuses, messages, caches."""

import contextlib
import functools
import io
import os
import re
import shlex
import subprocess
import sys
import types
import warnings

import pytest

from jaxbrewer import UsageError, __version__
from jaxbrewer.cli import config, main
from jaxbrewer.cli.config import SECTIONS, JobConfig, section_defaults
from jaxbrewer.cli.messages import (
    Verbosity,
    normal_verbosity,
    report_progress,
    report_wait,
    set_verbosity,
    spell_flag,
)
from jaxbrewer.cli.output import print_facts, print_note
from jaxbrewer.cli.overrides import split_overrides
from jaxbrewer.cli.parser import make_parser
from jaxbrewer.cli.shown_fields import FIELDS
from jaxbrewer.errors import setting, spelling
from tests.cli.conftest import run

COMMANDS = [
    (), ("demo",), ("train",), ("distill",), ("evaluate",), ("predict",), ("cache",),
    ("cache", "build"), ("cache", "verify"), ("cache", "stat"), ("plan",), ("inspect",),
]  # fmt: skip


def help_of(*words):
    with contextlib.redirect_stdout(io.StringIO()) as printed, pytest.raises(SystemExit) as end:
        main([*words, "--help"])
    assert not end.value.code
    return printed.getvalue()


def without_jax(*words):
    """Runs a command and fails if it has loaded JAX."""
    code = (
        "import sys\nfrom jaxbrewer.cli import main\n"
        "try:\n    status = main(sys.argv[1:])\n"
        "except SystemExit as end:\n    status = end.code or 0\n"
        "assert 'jax' not in sys.modules and 'flax' not in sys.modules, 'JAX was loaded'\n"
        "sys.exit(status)"
    )
    command = [sys.executable, "-c", code, *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_version_and_help_come_without_jax():
    done = without_jax("--version")
    assert (done.returncode, done.stdout) == (0, f"jaxbrewer {__version__}\n"), done.stderr
    done = without_jax("--help")
    assert done.returncode == 0, done.stderr
    assert all(name in done.stdout for name in ("demo", "train", "distill", "evaluate", "inspect"))
    done = without_jax("distill", "--help")
    assert "--dry-run" in done.stdout
    assert "--section.field VALUE" in done.stdout


LIBRARIES = {"jax", "numpy", "jaxtyping", "rich", "tokenizers", "asyncio", "unittest"}
CONFIGS = {"jaxbrewer.configs", "yaml", "inspect"}
OF_ERRORS = {"difflib", "json", "logging", "traceback"}


def loaded_by(*words):
    """The modules that a command has loaded when it ends."""
    code = (
        "import sys\nfrom jaxbrewer.cli import main\n"
        "try: main(sys.argv[1:])\nexcept SystemExit: pass\nprint(*sys.modules)"
    )
    command = [sys.executable, "-c", code, *map(str, words)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return set(done.stdout.splitlines()[-1].split())


@pytest.mark.parametrize("words", [("--version",), ("--help",), ("export", "m", "--format", "x")])
def test_versions_help_and_wrong_flags_load_neither_libraries_nor_configs(words):
    """Most of the time in which a command starts is that of imports."""
    loaded = loaded_by(*words)
    assert not loaded & (LIBRARIES | CONFIGS)
    assert words[0] == "export" or not loaded & OF_ERRORS
    assert len(loaded) < 150


@pytest.mark.parametrize(
    "content",
    [None, "data: [", "teacher: {pth: a}", "student: {layers: 1}", "data: {train: nowhere.tsv}"],
)
def test_errors_of_a_job_file_load_no_libraries(content, tmp_path):
    job = tmp_path / "job.yaml"
    if content is not None:
        job.write_text(content)
    assert not loaded_by("train", job) & (LIBRARIES | {"json", "logging", "traceback"})


def test_a_process_ends_without_a_last_collection():
    code = (
        "import atexit, gc, sys\nfrom jaxbrewer.cli import main\n"
        "atexit.register(lambda: print(len(gc.get_objects()) < 1000))\n"
        "sys.exit(main())"
    )
    done = subprocess.run([sys.executable, "-c", code, "--version"], capture_output=True, text=True)
    assert done.stdout.splitlines()[-1] == "True"


@pytest.mark.slow
def test_the_help_of_commands_loads_no_libraries():
    for words in COMMANDS[1:]:
        assert not loaded_by(*words, "--help") & LIBRARIES, words


def test_help_shows_the_defaults_of_a_job():
    job = JobConfig()
    assert section_defaults() == {name: getattr(job, name) for name in SECTIONS}


@pytest.mark.slow
def test_errors_come_without_jax_as_one_line_with_status_2(job, data):
    for words, says in (
        (["train", "nowhere.yaml"], "nowhere.yaml: No such file or directory"),
        (["train", job, "--data.train", "nowhere.tsv"], "nowhere.tsv does not exist"),
        (["distill", job, "--training.sed", "1"], "did you mean 'seed'"),
        (["evaluate", data / "base", data / "test.jsonl"], "no sequence classification head"),
    ):
        done = without_jax(*words)
        assert done.returncode == 2, done.stderr
        assert done.stdout == ""
        assert done.stderr.startswith("jaxbrewer: error: ")
        assert says in done.stderr
        assert done.stderr.count("\n") == 1


@pytest.mark.parametrize("words", [(), ("cache",)])
def test_words_without_an_action_print_help(words):
    printed = run(*words)
    assert printed.startswith(" ".join(["usage: jaxbrewer", *words]))
    assert "examples:" in printed


def test_every_command_shows_an_example_that_parses():
    help_texts = {words: help_of(*words) for words in COMMANDS}
    for words, text in help_texts.items():
        lines = re.findall(r"^  (jaxbrewer .*)$", text, re.MULTILINE)
        assert lines, words
        for line in lines:
            rest, overrides = split_overrides(shlex.split(line)[1:])
            arguments = make_parser().parse_args(rest)
            assert arguments.takes_overrides or not overrides


def test_help_names_fields_of_the_job_and_their_defaults():
    text = help_of("distill")
    for groups in FIELDS.values():
        for field in {name for fields in groups.values() for name in fields}:
            functools.reduce(getattr, field.split("."), JobConfig())
    assert re.search(r"--distillation.temperature T +\S.*\(default: auto\)", text)
    assert "(-1 = disable)" in text


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["trian"], "'trian'"),
        (["train"], "JOB"),
        (["train", "job.yaml", "--dry"], "--dry"),
        (["demo", "--large.size", "3"], "--large.size: `jaxbrewer demo` takes no overrides"),
        (["evaluate", "model", "--batch-size", "few"], "--batch-size"),
        (["evaluate", "model", "--batch-size", "9" * 5000], "... (see jaxbrewer evaluate --help)"),
    ],
)
def test_words_that_make_no_command_are_refused(words, says, capsys):
    assert main(words) == 2
    error = capsys.readouterr().err
    assert error.startswith("jaxbrewer: error: ")
    assert says in error
    assert error.count("\n") == 1


def failing(monkeypatch, error):
    def fail(*_):
        raise error

    monkeypatch.setattr(config, "read_job", fail)
    return main(["train", "job.yaml"])


def test_an_error_is_one_line_whatever_it_holds(monkeypatch, capsys):
    assert failing(monkeypatch, UsageError("first\n  second")) == 2
    assert capsys.readouterr().err == "jaxbrewer: error: first\\n  second\n"


def test_a_terminal_shows_the_current_task(monkeypatch, capsys):
    report_wait("loading JAX")
    assert capsys.readouterr().err == ""
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    report_wait("reading \x1b[31m")
    assert capsys.readouterr().err == "jaxbrewer: reading \\x1b[31m ...\n"


def test_a_terminal_shows_how_many_texts_are_done(monkeypatch, capsys):
    report_progress(1)
    assert capsys.readouterr().err == ""
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    for done in (1000, 2000):
        report_progress(done, 2000)
    report_progress(64)
    assert capsys.readouterr().err.split("\r\x1b[K") == [
        "", "jaxbrewer: 1,000 of 2,000", "", "jaxbrewer: 64 texts"
    ]  # fmt: skip


@pytest.mark.slow
def test_messages_speak_the_dialect_of_flags(tmp_path, capsys, job):
    (tmp_path / "run" / "teacher").mkdir(parents=True)
    (tmp_path / "run" / "teacher" / "manifest.json").write_text("[")
    assert main(["train", str(job), "--training.overwrite", "true", "--resume"]) == 2
    error = capsys.readouterr().err
    assert "=True" not in error
    with spelling(spell_flag):
        assert setting("resume", True) == "--resume"
        assert setting("force_resume", True) == "--training.force_resume true"
    assert setting("resume", True) == "resume=True"


def test_an_interruption_ends_with_130(monkeypatch, capsys):
    assert failing(monkeypatch, KeyboardInterrupt()) == 130
    assert capsys.readouterr().err == "jaxbrewer: interrupted\n"


def test_a_bug_keeps_its_traceback(monkeypatch):
    with pytest.raises(ZeroDivisionError):
        failing(monkeypatch, ZeroDivisionError())


@pytest.mark.parametrize("words", [["--version"], ["inspect", "base"]])
def test_a_closed_pipe_is_not_an_error(data, words):
    command = [sys.executable, "-m", "jaxbrewer", *words]
    buffered = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    buffered["PYTHONPATH"] = os.pathsep.join(filter(None, sys.path))
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen(command, env=buffered, cwd=data, **pipes) as process:
        process.stdout.close()
        assert process.stderr.read() == b""
    assert process.returncode == 141


@pytest.mark.slow
def test_a_training_that_is_interrupted_ends_with_130(job):
    """JAX crashed the process when it ended with a step under way."""
    code = (
        "import os, signal, sys\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"  # may be ignored by our parent
        "from jaxbrewer.run import step_log\n"
        "from jaxbrewer.cli import main\n"
        "step_log.StepLog.add = lambda *_, **__: os.kill(os.getpid(), signal.SIGINT)\n"
        "sys.exit(main())"
    )
    command = [sys.executable, "-c", code, "train", str(job)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 130, done.stderr
    assert done.stderr.endswith("jaxbrewer: interrupted\n")
    assert "optimizer" in done.stdout


def test_warnings_are_single_lines(monkeypatch, capsys):
    def read(*_):
        warnings.warn("something is odd", stacklevel=1)
        raise UsageError("end")

    monkeypatch.setattr(config, "read_job", read)
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        main(["train", "job.yaml"])
    assert capsys.readouterr().err.startswith("jaxbrewer: warning: something is odd\n")


def test_the_demo_gets_the_command_lines_options(monkeypatch):
    asked = []
    stub = types.SimpleNamespace(run_demo=lambda **keywords: asked.append(keywords))
    monkeypatch.setitem(sys.modules, "jaxbrewer.demo.run", stub)
    run("demo")
    run("demo", "--large", "--output-dir", "here", "--seed", "3", "--overwrite", "--quiet")
    assert asked == [
        {"large": False, "output_dir": "runs/demo", "seed": 0, "overwrite": False, "quiet": False},
        {"large": True, "output_dir": "here", "seed": 3, "overwrite": True, "quiet": True},
    ]


def test_quiet_commands_print_results_only(monkeypatch, capsys):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    with normal_verbosity():
        set_verbosity(Verbosity.QUIET)
        report_wait("loading JAX")
        report_progress(1, 2)
        print_note("The teacher reads 3 texts once.")
        print_facts([("teacher", "here")])
        assert capsys.readouterr() == ("", "")
        print_facts([("teacher", "here")], is_result=True)
        assert capsys.readouterr().out == "teacher  here\n"


def test_quiet_trainings_show_no_progress(monkeypatch):
    jobs = []
    monkeypatch.setattr(config, "read_job", lambda path, overrides: jobs.append(overrides) or 1 / 0)
    for command in ("train", "distill", "study", "cache build"):
        for words in ([*command.split(), "job.yaml", "-q"], ["--quiet", *command.split(), "j"]):
            with pytest.raises(ZeroDivisionError):
                main(words)
            assert jobs[-1] == ["--training.progress", "false"]
        with pytest.raises(ZeroDivisionError):
            main([*command.split(), "job.yaml"])
        assert jobs[-1] == []


def test_verbose_commands_show_times_places_and_tracebacks(monkeypatch, capsys):
    def fail(*_):
        report_wait("reading")
        warnings.warn("short", stacklevel=1)
        raise UsageError("no such file")

    monkeypatch.setattr(config, "read_job", fail)
    with warnings.catch_warnings():
        warnings.simplefilter("default")
        assert main(["train", "job.yaml", "--verbose"]) == 2
    wait, warning, *rest = capsys.readouterr().err.splitlines()
    assert re.fullmatch(r"jaxbrewer: \d+\.\d s: reading \.\.\.", wait)
    assert re.fullmatch(r"jaxbrewer: warning: short \(UserWarning, .*test_main.py:\d+\)", warning)
    assert rest[0].startswith("Traceback")
    assert rest[-1] == "jaxbrewer: error: no such file"
    assert main(["train", "job.yaml", "--quiet", "--verbose"]) == 2
    assert "not allowed with" in capsys.readouterr().err
