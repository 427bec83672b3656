"""Titles of methods follow from their settings, whatever name was asked for."""

import pytest

from feddat.config import load_config
from feddat.experiment.single.methods import known_methods, title


@pytest.mark.parametrize(
    ("settings", "called"),
    [
        ([], "FedDAT"),
        (["algorithm.alpha=0.1", "algorithm.beta=0.1"], "FedDAT, mild distillation"),
        (["algorithm.alpha=0", "algorithm.beta=0"], "FedDAT, no distillation"),
        (["algorithm.alpha=0.2"], "FedDAT, alpha 0.2"),
        (["algorithm.order=joint", "algorithm.beta=0.2"], "FedDAT, joint, beta 0.2"),
        (["algorithm.heads=separate"], "FedDAT, separate heads"),
        (["algorithm.answer=mixture"], "FedDAT, answer mixture"),
        (["method=feddat-mild", "algorithm.heads=separate"], "FedDAT, mild distillation, separate heads"),
        (["method=feddat-mild", "adapter.peft=lora"], "FedDAT, mild distillation, LoRA"),
        (["method=fedavg", "adapter.peft=norm"], "FedAvg, norms"),
        (["method=fedavg", "train.epochs=2"], "FedAvg"),
        (["method=fedavg-2x"], "FedAvg, twice the epochs"),
        (["method=fedavg", "algorithm.alpha=0.1"], "FedAvg"),
    ],
)
def test_a_title_says_what_the_settings_make_of_a_method(settings, called):
    assert title(load_config(None, settings)) == called


def test_every_method_has_a_title_of_its_own():
    titles = [title(load_config(None, [f"method={name}"])) for name in known_methods()]
    assert len(set(titles)) == len(titles)
