"""A run that this process follows while its server is on another machine."""

import httpx
import pytest

from feddat.deploy import launch
from feddat.deploy.errors import DeployError
from feddat.experiment import Experiment
from feddat.experiment.serving.app_config import AppConfig
from feddat.json_lines import append

SUMMARY = {"method": "local", "seed": 0, "rounds": 2, "clients": {"ann": {"score": 1.0}}, "mean": 1.0}


@pytest.mark.parametrize(("resume", "seen"), [(False, [0, 1, 2]), (True, [1, 2])])
def test_events_of_a_run_come_from_its_own_log(make_config, resume, seen):
    """A run that replaces another one also replaces its log; a resumed one adds to it."""
    experiment = Experiment(make_config(rounds=2))
    log = experiment.folder.log_file
    log.parent.mkdir(parents=True)
    append(log, [{"event": "start", "round": 0}, {"event": "round", "round": 9}])

    class Control:
        address = "127.0.0.1:9092"
        looks = 0

        def start_run(self, *of):
            if not resume:
                log.unlink()
                append(log, [{"event": "start", "round": 0, "clients": ["ann", "bob"] * 20}])
            return 1

        def failure(self, run):
            self.looks += 1
            with log.open("a") as file:
                file.write('torn by a full disk\n{"event": "asked", "round": 1}\n')
            append(log, [{"event": "round", "round": self.looks}])
            if self.looks == 2:
                experiment.folder.write_json(experiment.folder.summary_file, SUMMARY)
                return ""
            return None

    events = []
    config = AppConfig(experiment.config, resume=resume, overwrite=not resume)
    summary = launch._follow(experiment, launch._Runtime(Control()), events.append, config)
    assert summary == SUMMARY
    assert [event["event"] for event in events] == ["start"] * (not resume) + ["round", "round", "done"]
    assert [event["round"] for event in events[:-1]] == seen


def test_a_server_that_is_lost_is_named_and_the_run_can_be_resumed(make_config):
    class Control:
        address = "127.0.0.1:9092"

        def start_run(self, *of):
            return 1

        def failure(self, run):
            raise httpx.ConnectError("Connection refused")

        stop = failure

    runtime, experiment = launch._Runtime(Control()), Experiment(make_config())
    with pytest.raises(
        DeployError, match=r"SuperLink 127\.0\.0\.1:9092: connection lost: .*; resume the run when it is back"
    ):
        launch._follow(experiment, runtime, lambda event: None, AppConfig(experiment.config))
