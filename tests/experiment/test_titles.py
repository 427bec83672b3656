"""Titles of methods follow from their settings, whatever name was asked for; variants replace no setting silently."""

import pytest

from feddat.cli.program import main
from feddat.config import ConfigError, load_config
from feddat.experiment import Experiment, compare
from feddat.experiment.single.folder import RunFolder
from feddat.experiment.single.methods import check_variant, known_methods, resolve, title


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


OVERRIDDEN = [
    ("feddat-mild", "algorithm.alpha=0.9", "sets it to 0.1, but got 0.9; .* use method=feddat with"),
    ("feddat-heads", "algorithm.beta=0.1", "sets it to 0.5, but got 0.1"),
    ("feddat-lora", "adapter.peft=bottleneck", "sets it to lora, but got bottleneck"),
    ("fedavg-ft", "algorithm.personal_epochs=5", "sets it to 1, but got 5"),
    ("fedadam", "server=krum", "sets it to fedadam, but got krum; .* use method=fedavg with"),
]


@pytest.mark.parametrize(("method", "setting", "reason"), OVERRIDDEN)
def test_a_variant_that_replaces_a_setting_is_refused(method, setting, reason):
    config = load_config(None, [f"method={method}", setting])
    for start in (lambda: Experiment(config), lambda: compare(load_config(None, [setting]), [method], [0])):
        with pytest.raises(ConfigError, match=reason):
            start()


def test_a_default_value_counts_if_it_was_given(capsys):
    config = load_config(None, ["method=feddat-mild", "algorithm.alpha=0.5"])
    check_variant(config)
    with pytest.raises(ConfigError, match=r"method feddat-mild sets it to 0\.1, but got 0\.5"):
        check_variant(config, ["algorithm.alpha"])
    with pytest.raises(SystemExit) as ended:
        main(["run", "method=feddat-mild", "algorithm.alpha=0.5"])
    assert ended.value.code == 2
    assert "algorithm.alpha: method feddat-mild sets it to 0.1" in " ".join(capsys.readouterr().err.split())


@pytest.mark.parametrize(
    "settings",
    [
        ["method=feddat-mild", "algorithm.alpha=0.1"],
        ["method=fedavg-2x", "train.epochs=3"],
        ["method=fedadam", "server.options={eta: 0.1}"],
        ["method=feddat-mild", "algorithm.heads=separate"],
    ],
)
def test_a_variant_keeps_the_settings_that_it_leaves_open(settings):
    config = load_config(None, settings)
    check_variant(config, [setting.partition("=")[0] for setting in settings])
    Experiment(config)


@pytest.mark.parametrize("method", known_methods())
def test_every_run_folder_opens_again(method, tmp_path):
    """Its config.yaml lists the defaults of what the variant sets."""
    config = load_config(None, [f"method={method}"], runs_dir=tmp_path)
    folder = RunFolder(config.run_dir)
    with folder.locked():
        folder.begin(config, overwrite=False)
    assert Experiment.open(folder.path).settings == resolve(config)
