"""Run directories as trainings leave them, made by hand."""

import json

import numpy as np
import pytest

MATCHES = [
    {"layer_T": 3 * layer, "layer_S": layer, "feature": feature, "loss": f"{feature}_mse"}
    for layer in (0, 1, 2)
    for feature in ("hidden", "attention")
]


NAMES = ["cat", "dog", "a class with a long name"]
COUNTS = [[30, 2, 0], [1, 25, 4], [0, 0, 38]]


def results_of(directory, accuracy):
    """``results.json`` of a student and its teacher."""
    confidence = [(2 * bin + 1) / 30 for bin in range(15)]
    calibration = {"confidence": confidence, "accuracy": confidence, "count": list(range(15))}

    def row(name, accuracy, size):
        return {
            "metrics": {"accuracy": accuracy, "loss": 0.5},
            "intervals": {"accuracy": [accuracy - 0.02, accuracy + 0.02]},
            "parameters": size,
            "bytes": 4 * size,
            "latency_ms": {"p50": size / 1e7, "p95": size / 9e6},
            "examples_per_second": 1e10 / size,
            "model": str(directory.parent / name if name == "teacher" else directory / "model"),
            "diagrams": {
                "confusion": {"names": NAMES, "counts": COUNTS},
                "calibration": calibration,
            },
        }

    return {
        "format": 1,
        "role": "student",
        "task": "classification",
        "main_metric": "accuracy",
        "larger_is_better": True,
        "rows": {
            "teacher": row("teacher", 0.9, 22_713_216),
            "student": row("student", accuracy, 4_386_178),
        },
        "test": {"path": "test.tsv", "examples": 100},
        "training": {"steps": 60, "planned_steps": 60, "best_step": None, "validation": []},
        "settings": {},
        "environment": {},
    }


def write_run(directory, *, steps=60, seed=0, **settings):
    """A run of a distillation with curves of every kind."""
    directory.mkdir(parents=True)
    draw = np.random.default_rng(seed)
    manifest = {
        "command": ["/usr/bin/jaxbrewer", "distill", "job.yaml"],
        "devices": ["cpu:0"],
        "distiller": "GeneralDistiller",
        "parameters": {"teacher": 22_713_216, "student": 4_386_178},
        "started": "2026-11-27T21:00:00+0000",
        "seed": seed,
        "total_steps": steps,
        "jaxbrewer": "0.1.0",
        "jax": "0.10.2",
    }
    config = {
        "training": {"output_dir": str(directory), "seed": seed},
        "distillation": {"temperature": 4, "intermediate_matches": MATCHES, **settings},
    }
    rows = []
    for step in range(1, steps + 1):
        loss = 3 * np.exp(-3 * step / steps) + 0.1 * draw.random()
        row = {"step": step, "total_loss": loss, "grad_norm": 1e3 * loss, "count_kd_loss": 32}
        row |= {"unweighted_kd_loss": loss, "weighted_kd_loss": 2 * loss}
        rows.append(row | {"learning_rate": 1e-5 * (1 - step / steps)})
    (directory / "manifest.json").write_text(json.dumps(manifest))
    (directory / "config.json").write_text(json.dumps(config))
    (directory / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (directory / "results.json").write_text(json.dumps(results_of(directory, 0.8 + seed / 100)))
    (directory / "model").mkdir()
    (directory / "model" / "config.json").write_text('{"num_hidden_layers": 4}')
    return directory


def write_study(directory):
    """``study.json`` of labels alone and distillation, with all labels and with fewer."""

    def arm(title, accuracy, labels=None):
        gain = round(accuracy - 0.8, 10)
        change = {
            "value": gain,
            "low": gain - 0.03 if gain else 0,
            "high": gain + 0.03 if gain else 0,
        }
        return {
            "title": title,
            "labels": labels,
            "runs": [],
            "metrics": {"accuracy": accuracy},
            "deviations": {"accuracy": 0.01},
            "differences": {"accuracy": change},
            "p_value": 0.01,
            "gap_closed": {"value": gain / 0.1, "low": 0.1, "high": 0.9},
            "verdict": "gain" if gain else "no difference",
        }

    arms = {
        "labels": arm("labels alone", 0.8),
        "distilled": arm("distilled", 0.85),
        "labels-50-labels": arm("labels alone, 50 labels", 0.6, 50),
        "labels-100-labels": arm("labels alone, 100 labels", 0.7, 100),
        "distilled-50-labels": arm("distilled, 50 labels", 0.7, 50),
        "distilled-100-labels": arm("distilled, 100 labels", 0.75, 100),
    }
    content = {
        "format": 1,
        "task": "classification",
        "main_metric": "accuracy",
        "larger_is_better": True,
        "seeds": 3,
        "resamplings": 1000,
        "test": {"path": "test.tsv", "examples": 100},
        "arms": arms,
        "settings": {},
        "environment": {},
    }
    directory.mkdir(parents=True)
    (directory / "study.json").write_text(json.dumps(content))


@pytest.fixture
def runs(tmp_path):
    """The directory of two runs with different settings."""
    write_run(tmp_path / "runs" / "first")
    write_run(tmp_path / "runs" / "second", steps=1000, seed=1, temperature=8)
    return tmp_path / "runs"
