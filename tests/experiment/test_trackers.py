"""TensorBoard and MLflow: numbers are read back, a resumed run continues in place, missing packages are named."""

import sys

import pytest

from feddat.config import ConfigError, RunConfig
from feddat.example import DataError
from feddat.experiment import Experiment
from feddat.experiment.single.trackers import _mlflow_run, check_trackers, scalars, trackers

ROUND = {
    "event": "round",
    "metrics": {"loss": 0.5},
    "scores": {"validation": {"dat": 40.0}},
    "bytes": {"up": 100, "down": 200},
}


def session(config, folder, first, rounds):
    """Send the events of some rounds to the trackers; ann's loss is the number of the round."""
    with trackers(config, folder) as opened:
        assert opened
        for tell in opened:
            tell({"event": "start", "round": first - 1, "clients": ["ann"]})
            for round in rounds:
                tell({"event": "fit", "round": round, "client": "ann", "metrics": {"loss": float(round)}})
                tell(ROUND | {"round": round})


def test_numbers_of_events_have_names():
    assert scalars({"event": "fit", "client": "ann", "metrics": {"loss": 1.0}}) == {"loss/ann": 1.0}
    evaluated = {"event": "eval", "client": "ann", "split": "test", "scores": {"dat": 2.0, "local": 3.0}}
    assert scalars(evaluated) == {"test/dat/ann": 2.0, "test/local/ann": 3.0}
    assert scalars(ROUND) == {"validation/dat/mean": 40.0, "loss/mean": 0.5, "bytes/up": 100.0, "bytes/down": 200.0}
    assert scalars({"event": "failed", "client": "ann"}) == {}


def test_tensorboard_shows_each_round_once_after_a_resume(make_config, tmp_path):
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    config = make_config(log__tensorboard=True)
    session(config, tmp_path, 1, [1, 2, 3])
    session(config, tmp_path, 3, [3, 4])  # as if round 3 had not been finished
    found = accumulator.EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    assert [(event.step, event.value) for event in found.Scalars("loss/ann")] == [(n, float(n)) for n in (1, 2, 3, 4)]
    assert [event.value for event in found.Scalars("bytes/down")] == [200.0] * 4


def test_mlflow_has_one_run_over_a_resume(make_config, tmp_path, monkeypatch):
    mlflow = pytest.importorskip("mlflow")
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    config = make_config(log__mlflow=(tmp_path / "mlruns").as_uri(), train__lr=0.25)
    session(config, tmp_path, 1, [1, 2])
    with pytest.raises(KeyboardInterrupt), trackers(config, tmp_path):
        raise KeyboardInterrupt
    session(config, tmp_path, 3, [3])
    client = mlflow.MlflowClient(tracking_uri=config.log.mlflow)
    (experiment,) = client.search_experiments(filter_string="name = 'feddat/own-data'")
    (run,) = client.search_runs([experiment.experiment_id])
    assert run.info.status == "FINISHED"
    assert run.info.run_name == "run"
    assert run.data.params["train.lr"] == "0.25"
    history = client.get_metric_history(run.info.run_id, "loss/ann")
    assert sorted((metric.step, metric.value) for metric in history) == [(1, 1.0), (2, 2.0), (3, 3.0)]


def test_an_mlflow_server_that_fails_later_does_not_end_the_run(make_config, tmp_path, monkeypatch, caplog):
    mlflow = pytest.importorskip("mlflow")
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")

    def refuse(self, *args, **kwargs):
        raise mlflow.exceptions.MlflowException("no space left")

    monkeypatch.setattr(mlflow.MlflowClient, "log_batch", refuse)
    monkeypatch.setattr(mlflow.MlflowClient, "set_terminated", refuse)
    session(make_config(log__mlflow=(tmp_path / "mlruns").as_uri()), tmp_path, 1, [1])
    assert "did not accept numbers of round 1: no space left" in caplog.text
    assert "did not accept the end of the run: no space left" in caplog.text


def test_an_mlflow_server_that_is_not_there_is_named(make_config, tmp_path, monkeypatch):
    pytest.importorskip("mlflow")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    config = make_config(log__mlflow="http://127.0.0.1:9")
    with pytest.raises(ConfigError, match=r"log\.mlflow: http://127\.0\.0\.1:9: "), trackers(config, tmp_path):
        pass


@pytest.mark.parametrize(
    ("values", "module", "reason"),
    [
        (
            {"log__tensorboard": True},
            "torch.utils.tensorboard",
            r"log.tensorboard: .*pip install 'feddat\[tensorboard\]'",
        ),
        ({"log__mlflow": "file:x"}, "mlflow", r"log.mlflow: .*pip install 'feddat\[mlflow\]'"),
    ],
)
def test_what_is_not_installed_is_named_before_anything_is_written(make_config, monkeypatch, values, module, reason):
    monkeypatch.setitem(sys.modules, module, None)
    config = make_config(**values)
    with pytest.raises(ConfigError, match=reason):
        Experiment(config).run()
    assert not (config.run_dir / "config.yaml").exists()
    check_trackers(make_config())


@pytest.mark.parametrize("content", ["", "{}", "[]"])
def test_a_note_of_the_mlflow_run_that_is_not_whole_is_named(tmp_path, content):
    note = tmp_path / "mlflow.json"
    note.write_text(content)
    with pytest.raises(DataError, match=r"mlflow\.json: (not JSON|expected a JSON object|key 'run_id' is missing)"):
        _mlflow_run(None, RunConfig(), note, Exception)
