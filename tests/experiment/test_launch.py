"""A run that this process follows while its server is on another machine."""

import httpx
import pytest

from feddat.deploy import launch
from feddat.deploy.errors import DeployError
from feddat.experiment import Experiment
from feddat.experiment.serving.app_config import AppConfig


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
