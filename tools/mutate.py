"""Mutation testing of the numerical core with cosmic-ray, one forked pytest per mutant.

Importing JAX takes longer than the tests that kill most mutants, so a server imports it once and
forks for every mutant; cosmic-ray's test command is a client of that server. Sources are mutated in
place: run it in a clone of the repository that nobody else uses, with the project's environment.

    pip install cosmic-ray
    python tools/mutate.py run jaxbrewer/objective/schedules.py  # or without a name: all
    python tools/mutate.py report

Redundant mutants are left out. A binary operator has one replacement (``+`` and ``-``, ``*`` and
``/`` for each other, ``**`` to ``*``), a comparison its negation, a number its successor.
Annotations and exception types are not mutated.
"""

import argparse
import ast
import json
import os
import random
import shlex
import signal
import socket
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / ".cache" / "mutation"
SOCKET = RESULTS / "server"
SECONDS = 240
"""Time limit of a mutant; one that takes longer counts as killed."""

PYTEST = ("-x", "-q", "-p", "no:cacheprovider", "-W", "ignore::pytest.PytestAssertRewriteWarning")
LOSSES = {
    "_attention": ("attention", "attention_mse attention_mse_sum attention_ce attention_ce_mean"),
    "_classwise": ("divergences", "bce dkd standardized_kl"),
    "_divergences": ("divergences", "kl reverse_kl jsd skew_kl skew_reverse_kl tvd"),
    "_examples": ("examples", "rkd crd"),
    "_hidden": ("hidden", "hidden_mse cos pkd"),
    "_logits": ("logits divergences", "ce mse"),
    "_minilm": ("minilm", "minilm_attention minilm_relation"),
    "_reduction": ("reduction hidden logits", "ce hidden_mse fsp"),
    "_relational": ("relational", "fsp mmd"),
    "_shapes": ("logits hidden relational attention", "ce"),
}
"""For each module of losses, its files in ``tests/losses`` and its losses in the contract."""

BEYOND = ("_classwise", "_divergences", "_examples", "_minilm")
"""Modules whose losses TextBrewer does not have: no golden case calls them."""

OBJECTIVE = (
    "tests/objective/test_objective.py",
    "tests/objective/test_custom_matches.py",
    "tests/objective/test_optimal_transport.py",
    "tests/golden/test_compute_loss.py",
)
TESTS = {
    **{
        f"jaxbrewer/losses/{module}.py": (
            *(f"tests/losses/test_{name}.py" for name in files.split()),
            *(("tests/golden/test_losses.py",) if module not in BEYOND else ()),
            *(f"tests/losses/test_contract.py::test_the_contract[{x}]" for x in names.split()),
        )
        for module, (files, names) in LOSSES.items()
    },
    "jaxbrewer/objective/schedules.py": (
        "tests/objective/test_schedules.py",
        "tests/golden/test_schedulers.py",
    ),
    "jaxbrewer/objective/temperature_rules.py": (
        "tests/objective/test_temperature_rules.py",
        "tests/golden/test_schedulers.py",
    ),
    "jaxbrewer/objective/projections.py": (
        "tests/objective/test_projections.py",
        "tests/golden/test_projections.py",
    ),
    "jaxbrewer/objective/objective.py": OBJECTIVE,
    "jaxbrewer/objective/match_terms.py": OBJECTIVE,
    "jaxbrewer/objective/logit_masks.py": (
        "tests/objective/test_logit_masks.py",
        "tests/properties/test_selections.py",
        "tests/golden/test_select_shift.py",
    ),
    "jaxbrewer/objective/top_k.py": ("tests/objective/test_top_k.py",),
    "jaxbrewer/objective/optimal_transport.py": ("tests/objective/test_optimal_transport.py",),
    "jaxbrewer/objective/ensemble.py": (
        "tests/objective/test_ensemble.py",
        "tests/step/test_teachers.py",
        "tests/golden/test_compute_loss.py",
    ),
    "jaxbrewer/step/train_step.py": (
        "tests/step/test_train_step.py",
        "tests/step/test_accumulation.py",
    ),
    "jaxbrewer/step/optimizer.py": ("tests/step/test_optimizer.py",),
    "jaxbrewer/step/unused_parameters.py": ("tests/step/test_unused_parameters.py",),
}
"""The tests of each module, the quickest to fail first."""

_OPERATORS = {
    "Add_Sub", "Sub_Add", "Mul_Div", "Div_Mul", "Pow_Mul", "FloorDiv_Mul", "Mod_Mul",
    "BitAnd_BitOr", "BitOr_BitAnd", "Eq_NotEq", "NotEq_Eq", "Lt_GtE", "LtE_Gt", "Gt_LtE",
    "GtE_Lt", "Is_IsNot", "IsNot_Is", "In_NotIn", "NotIn_In",
}  # fmt: skip
_UNARY = {"Delete_USub", "Delete_Not", "Delete_Invert"}


# -- selection -------------------------------------------------------------------------------------


def spans_of_types(path):
    """Where annotations, type aliases and the types of ``except`` stand: nothing to mutate."""
    tree = ast.parse(path.read_text())
    parts = [
        node.value
        for node in tree.body
        if isinstance(node, ast.Assign) and isinstance(node.value, (ast.BinOp, ast.Subscript))
    ]
    for node in ast.walk(tree):
        parts += [getattr(node, "annotation", None), getattr(node, "returns", None)]
        if isinstance(node, ast.ExceptHandler):
            parts.append(node.type)
    return [
        ((part.lineno, part.col_offset), (part.end_lineno, part.end_col_offset))
        for part in parts
        if part is not None
    ]


def is_wanted(operator, position, spans):
    kind, _, change = operator.removeprefix("core/").partition("_")
    if any(start <= position < end for start, end in spans):
        return False
    if kind in ("ReplaceBinaryOperator", "ReplaceComparisonOperator"):
        return change in _OPERATORS
    if kind == "ReplaceUnaryOperator":
        return change in _UNARY
    return kind != "ExceptionReplacer"


def choose(session, module, most):
    """Leaves the wanted mutants in a session, or ``most`` of them; returns how many there were."""
    spans, seen = spans_of_types(ROOT / module), {}
    with sqlite3.connect(session) as database:
        rows = database.execute(
            "select job_id, operator_name, start_pos_row, start_pos_col from mutation_specs"
        ).fetchall()
        for job, operator, *position in rows:
            if is_wanted(operator, tuple(position), spans):
                seen.setdefault((operator, *position), job)
        kept = list(seen.values())
        if len(kept) > most:
            kept = random.Random(0).sample(kept, most)
        for table in ("mutation_specs", "work_items"):
            marks = ", ".join("?" * len(kept))
            database.execute(f"delete from {table} where job_id not in ({marks})", kept)
    return len(seen)


# -- one mutant ------------------------------------------------------------------------------------


def serve():
    """Forks a pytest for every connection: reads its arguments, answers with its exit status."""
    os.environ.setdefault("JAX_PLATFORMS", "cpu")
    os.environ.setdefault("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")  # programs that run once
    sys.path.insert(0, str(ROOT))
    import beartype  # noqa: F401
    import flax.linen
    import flax.nnx  # noqa: F401
    import hypothesis  # noqa: F401
    import jaxtyping  # noqa: F401
    import optax  # noqa: F401
    import orbax.checkpoint  # noqa: F401
    import pytest

    server = socket.socket(socket.AF_UNIX)
    server.bind(str(SOCKET))
    server.listen()
    while True:
        connection, _ = server.accept()
        tests = json.loads(connection.makefile().readline())
        child = os.fork()
        if child == 0:
            os.setsid()
            null = os.open(os.devnull, os.O_WRONLY)
            os.dup2(null, 1)
            os.dup2(null, 2)
            os.chdir(ROOT)
            os._exit(int(pytest.main([*PYTEST, *tests])))
        connection.sendall(f"{_wait(child)}\n".encode())
        connection.close()


def _wait(child):
    end = time.monotonic() + SECONDS
    while time.monotonic() < end:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.02)
    os.killpg(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return 1


def ask(tests):
    """The exit status of pytest over ``tests`` in a fork of the server."""
    connection = socket.socket(socket.AF_UNIX)
    connection.connect(str(SOCKET))
    connection.sendall(f"{json.dumps(tests)}\n".encode())
    return int(connection.makefile().readline())


# -- all mutants -----------------------------------------------------------------------------------


def run(names, most):
    RESULTS.mkdir(parents=True, exist_ok=True)
    SOCKET.unlink(missing_ok=True)
    server = subprocess.Popen([sys.executable, "-W", "ignore", __file__, "serve"], cwd=ROOT)
    try:
        while not SOCKET.exists():
            time.sleep(0.5)
        for module, tests in TESTS.items():
            if names and module not in names:
                continue
            if ask(list(tests)) != 0:
                sys.exit(f"{' '.join(tests)} fails on the code as it is.")
            stem = module.replace("/", ".").removesuffix(".py")
            config, session = RESULTS / f"{stem}.toml", RESULTS / f"{stem}.sqlite"
            command = shlex.join([sys.executable, "-S", __file__, "ask", *tests])
            config.write_text(
                f'[cosmic-ray]\nmodule-path = "{module}"\ntimeout = {SECONDS + 20}\n'
                f'excluded-modules = []\ntest-command = "{command}"\n'
                '[cosmic-ray.distributor]\nname = "local"\n'
            )
            tool = Path(sys.executable).with_name("cosmic-ray")
            subprocess.run([tool, "init", config, session, "--force"], cwd=ROOT, check=True)
            start, count = time.monotonic(), choose(session, module, most)
            subprocess.run([tool, "exec", config, session], cwd=ROOT, check=True)
            print(f"{module}: {count} mutants, {time.monotonic() - start:.0f} s", flush=True)
    finally:
        server.kill()


def report():
    total = killed = 0
    for session in sorted(RESULTS.glob("*.sqlite")):
        rows = (
            sqlite3.connect(session)
            .execute(
                "select m.operator_name, m.start_pos_row, r.test_outcome, r.worker_outcome, r.diff "
                "from mutation_specs m join work_results r on m.job_id = r.job_id order by 2"
            )
            .fetchall()
        )
        survivors = [row for row in rows if "SURVIVED" in str(row[2])]
        total, killed = total + len(rows), killed + len(rows) - len(survivors)
        print(f"## {session.stem}: {len(rows) - len(survivors)} of {len(rows)} killed")
        for operator, line, _, _, diff in survivors:
            changed = [
                x for x in diff.splitlines() if x[:1] in "+-" and x[:3] not in ("+++", "---")
            ]
            print(f"line {line} {operator.removeprefix('core/')}")
            print("\n".join(f"    {x}" for x in changed))
    print(f"{killed} of {total} killed")


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("command", choices=["run", "report", "serve", "ask"])
    parser.add_argument("names", nargs="*", help="modules; for ask, tests")
    parser.add_argument("--most", type=int, default=10**6, help="a random sample of each module's")
    options = parser.parse_intermixed_args()
    if options.command == "ask":
        sys.exit(ask(options.names))
    {"run": lambda: run(options.names, options.most), "report": report, "serve": serve}[
        options.command
    ]()


if __name__ == "__main__":
    main()
