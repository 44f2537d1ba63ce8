"""The table of scores."""

import re

import pytest

from jaxbrewer.cli.score_table import print_evaluation


def scores(seed, *, compared=False):
    value = {"accuracy": 0.5 + seed / 100, "perplexity": 12345.678 * seed}
    interval = {name: [number * 0.9, number * 1.1] for name, number in value.items()}
    row = {
        "metrics": value,
        "intervals": interval,
        "parameters": 22_715_526 * seed,
        "bytes": 90_900_000 * seed,
        "latency_ms": {"p50": 3.21, "p95": 40.1},
        "examples_per_second": 1234.5,
        "cut": 3 * seed,
        "model": "m",
    }
    if compared:
        row |= {"difference": value, "difference_intervals": interval}
        row["agreement"] = {"kl_divergence": 0.1}
        row["intervals"] = {**interval, "kl_divergence": [None, None]}
    return row


def shown(capsys, rows):
    settings = {"examples": 1000, "device": "cpu"}
    print_evaluation({**settings, "rows": rows}, file="test.tsv")
    return capsys.readouterr().out


def test_many_models_are_shown_in_several_tables_of_100_columns(capsys):
    rows = {"baseline": scores(1, compared=True), "teacher": scores(2)}
    rows |= {name: scores(3, compared=True) for name in ("student", "other")}
    printed = shown(capsys, rows)
    assert max(map(len, printed.splitlines())) <= 100
    names = "baseline", "teacher", "student", "other"
    headers = [line.split("  ") for line in printed.splitlines() if line.startswith("   ")]
    found = [name.strip() for header in headers for name in header if name.strip()]
    assert found == [*names, *(f"{name} - teacher" for name in names if name != "teacher")]
    assert printed.count("1,000 texts of test.tsv, on cpu\n") == 1
    assert "Texts that were cut to the maximum length for the student: 9.\n" in printed


@pytest.mark.parametrize(
    ("name", "cell"),
    [
        ("accuracy", "0.5200 [0.4680, 0.5720]"),
        ("perplexity", "24,691 [22,222, 27,160]"),
        ("parameters", "45,431,052"),
        ("size", "181.8 MB"),
        ("latency p50, p95", "3.21, 40.10 ms"),
        ("texts/s", "1,234"),
    ],
)
def test_each_number_is_shown_with_its_unit(capsys, name, cell):
    [line] = re.findall(rf"^{name}  +(.*)$", shown(capsys, {"model": scores(2)}), re.MULTILINE)
    assert line == cell


def test_a_metric_that_is_not_defined_is_a_dash(capsys):
    row = scores(1)
    row["metrics"]["accuracy"] = None
    row["intervals"]["accuracy"] = [None, None]
    assert re.search(r"^accuracy +-$", shown(capsys, {"model": row}), re.MULTILINE)


def test_a_teacher_without_a_model_has_metrics_alone(capsys):
    row = {name: value for name, value in scores(1).items() if name in ("metrics", "intervals")}
    printed = shown(capsys, {"teacher": row, "student": scores(2, compared=True)})
    [line] = re.findall(r"^parameters +(.*)$", printed, re.MULTILINE)
    assert line == "45,431,052"
