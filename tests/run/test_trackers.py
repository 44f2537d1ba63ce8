"""Trackers: what they receive, when they fail, the packaged ones."""

import threading
import time
import types
from importlib.machinery import ModuleSpec

import optax
import pytest

import jaxbrewer as jb
from jaxbrewer.configs.training import TRACKER_NAMES
from jaxbrewer.run.trackers import TRACKERS, TrackedRun, background, write_results
from tests.toys import logits_adaptor, mlp, mlp_params, quiet, vector_data

BATCHES = [vector_data(8)] * 4


def train(trackers, callback=lambda model, step: {"accuracy": step / 10}, **settings):
    config = quiet(trackers=trackers, ckpt_steps=2, **settings)
    trainer = jb.BasicTrainer(config, (mlp, mlp_params(3)), logits_adaptor)
    return trainer.train(optax.sgd(0.1), BATCHES, num_steps=4, callback=callback)


class Recorder:
    """A writer that keeps what it receives."""

    def __init__(self):
        self.settings, self.rows, self.ends, self.threads = [], [], [], set()

    def write_settings(self, settings):
        self.settings.append(settings)

    def write_scalars(self, rows):
        self.threads.add(threading.current_thread())
        self.rows += rows

    def close(self, *, failed=False):
        self.ends.append(failed)


def test_a_writer_receives_settings_and_the_scalars_of_every_step():
    writer = Recorder()
    _, history = train([writer])
    assert writer.settings[0]["training.ckpt_steps"] == 2
    found = {}
    for step, scalars in writer.rows:
        for name, value in scalars.items():
            found.setdefault(name, []).append((step, value))
    assert found.pop("validation/accuracy") == [(2, 0.2), (4, 0.4)]
    assert found["scalar/effective_weight_hard_label_loss"][0] == (0, 1.0)
    for name in set(history) - {"step"}:
        expected = [*zip(range(1, 5), history[name].tolist(), strict=True)]
        assert found[f"scalar/{name}"][-4:] == expected
    assert writer.ends == [False]
    assert threading.current_thread() not in writer.threads


def test_a_writer_hears_that_a_training_failed():
    def fail(model, step):
        raise RuntimeError("validation")

    writer = Recorder()
    with pytest.raises(RuntimeError, match="validation"):
        train([writer], fail)
    assert writer.ends == [True]


@pytest.mark.parametrize("method", ["write_settings", "write_scalars", "close"])
def test_a_writer_that_fails_does_not_end_the_training(method, monkeypatch):
    def fail(self, *_, **__):
        calls.append(method)
        raise ConnectionError("no route\n to host")

    calls = []
    monkeypatch.setattr(Recorder, method, fail)
    with pytest.warns(UserWarning, match="The tracker Recorder") as warned:
        _, history = train([Recorder()])
    assert len(history["total_loss"]) == 4
    assert calls == [method]
    assert [str(warning.message) for warning in warned] == [
        "The tracker Recorder failed and is not used further: ConnectionError: no route to host. "
        "The training continues without it."
    ]


def test_a_writer_that_hangs_does_not_stop_the_training(monkeypatch):
    monkeypatch.setattr(background, "PATIENCE", 0.05)
    ends = threading.Event()
    writer = Recorder()
    writer.write_scalars = lambda rows: ends.wait()
    with pytest.warns(UserWarning, match="TimeoutError: it did not end within 0 seconds"):
        _, history = train([writer])
    ends.set()
    assert len(history["total_loss"]) == 4


def test_a_tracker_that_is_not_installed_is_refused_before_a_training(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    for name in TRACKERS:
        with pytest.raises(jb.UsageError, match=rf'pip install "jaxbrewer\[{name}\]"'):
            train([name])


def test_configs_name_the_packaged_trackers():
    assert set(TRACKER_NAMES) == {"tensorboard", *TRACKERS}
    assert jb.TrainingConfig(trackers="wandb").trackers == ("wandb",)


@pytest.mark.parametrize(
    ("trackers", "says"),
    [
        (["wandbb"], "no tracker 'wandbb': did you mean 'wandb'?"),
        ([3], "no tracker 3"),
        ({"wandb": 1}, "must be a list"),
        (["tensorboard"], "needs a log_dir"),
    ],
)
def test_unknown_trackers_are_refused(trackers, says):
    with pytest.raises(jb.UsageError, match=says.replace("?", r"\?")):
        jb.TrainingConfig(trackers=trackers)


class Calls:
    """An object whose every method notes its name, arguments and keywords."""

    def __init__(self, made, **attributes):
        self._made = made
        vars(self).update(attributes)

    def __getattr__(self, name):
        return lambda *args, **named: self._made.append((name, args, named))


def stand_in(monkeypatch, name, **attributes):
    module = types.ModuleType(name)
    module.__spec__ = ModuleSpec(name, None)
    vars(module).update(attributes)
    monkeypatch.setitem(__import__("sys").modules, name, module)


def test_wandb_receives_config_scalars_and_summary(monkeypatch, tmp_path):
    started, calls, config, summary = [], [], [], []
    run = Calls(calls, config=Calls(config), summary=Calls(summary))
    stand_in(monkeypatch, "wandb", init=lambda **given: started.append(given) or run)
    train("wandb", output_dir=tmp_path / "job" / "student")
    assert started[0]["name"] == "job/student"
    assert started[0]["resume"] == "allow"
    assert config[0][1][0]["training.ckpt_steps"] == 2
    assert [named["step"] for name, _, named in calls if name == "log"] == [0, 1, 2, 2, 3, 4, 4]
    assert calls[-1] == ("finish", (), {"exit_code": 0})
    write_results(quiet(trackers="wandb"), TrackedRun("a"), 4, {"lr": 1.0}, {"f1": 0.5})
    assert started[1]["id"] == "a"
    assert summary == [("update", ({"test/f1": 0.5},), {})]


def test_trackio_receives_config_and_scalars(monkeypatch, tmp_path):
    started, calls = [], []
    run = Calls(calls, config={})
    stand_in(monkeypatch, "trackio", init=lambda *_, **given: started.append(given) or run)
    train("trackio", output_dir=tmp_path / "job")
    assert "/job-" in started[0]["name"]
    assert run.config["training.ckpt_steps"] == 2
    write_results(quiet(trackers="trackio"), TrackedRun("a"), 4, {"lr": 1.0}, {"f1": 0.5})
    assert calls[-2:] == [("log", ({"test/f1": 0.5},), {"step": 4}), ("finish", (), {})]
    assert run.config["lr"] == 1.0


def test_mlflow_receives_parameters_and_metrics_and_finds_its_run_again(monkeypatch, tmp_path):
    calls, runs = [], []

    class Client(Calls):
        def __init__(self):
            super().__init__(calls)

        def get_experiment_by_name(self, name):
            return types.SimpleNamespace(experiment_id=f"id of {name}")

        def search_runs(self, experiments, wanted, max_results):
            return runs[:max_results]

        def create_run(self, experiment, tags, run_name):
            info, data = types.SimpleNamespace(run_id="r"), types.SimpleNamespace(params={})
            runs.append(types.SimpleNamespace(info=info, data=data, tags=tags, name=run_name))
            return runs[-1]

    stand_in(monkeypatch, "mlflow", MlflowClient=Client)
    stand_in(monkeypatch, "mlflow.entities", Param=lambda *p: p, Metric=lambda *m: m)
    train("mlflow", output_dir=tmp_path / "job")
    (run,) = runs
    assert set(run.tags) == {"jaxbrewer.run"}
    batches = [named for name, _, named in calls if name == "log_batch"]
    assert ("training.ckpt_steps", "2") in batches[0]["params"]
    metrics = [metric for batch in batches for metric in batch.get("metrics", [])]
    assert [step for name, _, _, step in metrics if name == "scalar/total_loss"] == [1, 2, 3, 4]
    assert calls[-1] == ("set_terminated", ("r", "FINISHED"), {})
    run.data.params = {"lr": "1.0"}
    calls.clear()
    write_results(quiet(trackers="mlflow"), TrackedRun("a"), 4, {"lr": 2.0, "x": 1}, {"f1": 0.5})
    assert runs == [run]
    assert [named["params"] for name, _, named in calls if "params" in named] == [[("x", "1")]]


@pytest.mark.parametrize("name", TRACKERS)
def test_the_installed_package_keeps_a_run_that_resumes(name, tmp_path, monkeypatch, recwarn):
    """Runs where the package is installed; nothing is sent anywhere."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path / "trackio"))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    pytest.importorskip(name)

    def stop(model, step):
        raise RuntimeError("the machine stops")

    run = {"output_dir": tmp_path / "job", "trackers": name}
    with pytest.raises(RuntimeError, match="stops"):
        train(callback=stop, **run)
    if name == "wandb":
        time.sleep(1.1)  # the names of offline runs have seconds
    train(resume=True, **run)
    config = quiet(**run)
    write_results(
        config, TrackedRun(run_name(tmp_path), tmp_path / "job"), 4, {"lr": 1}, {"f1": 0.5}
    )
    assert [str(warning.message) for warning in recwarn if "tracker" in str(warning.message)] == []
    if name == "mlflow":
        from mlflow import MlflowClient

        client = MlflowClient()
        experiment = client.get_experiment_by_name("jaxbrewer").experiment_id
        (found,) = client.search_runs([experiment])
        assert found.data.params["training.ckpt_steps"] == "2"
        assert found.data.metrics["test/f1"] == 0.5
        losses = client.get_metric_history(found.info.run_id, "scalar/total_loss")
        assert {metric.step for metric in losses} == {1, 2, 3, 4}
    elif name == "trackio":
        import trackio

        (found,) = trackio.Api().runs("jaxbrewer")
        assert found.config["lr"] == 1
    else:
        assert len(list((tmp_path / "wandb").glob("offline-run-*"))) == 3


def run_name(directory):
    import json

    return json.loads((directory / "job" / "manifest.json").read_text())["run"]
