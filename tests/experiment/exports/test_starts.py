"""Federations and clients that start from exported adapters."""

import json
import shutil

import pytest
import torch
from answers import of_run, questions, same_answers
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file
from stock import hf

from feddat.app.checkpoint import Checkpoints
from feddat.config import ConfigError
from feddat.experiment import Experiment
from feddat.experiment.single.foundation import load_foundation
from feddat.experiment.single.methods import resolve
from helpers import sent_in


def rest(**values):
    """Return settings of a run that hardly trains, so that it ends with the adapters that it starts from."""
    return {"rounds": 1, "train__lr": 1e-12} | values


def own_state(run, client, part="local"):
    """Return a client's own adapter after the first round."""
    found = load_file(run / "clients" / client / "round-0001.safetensors")
    return {key.removeprefix(f"{part}."): value for key, value in found.items() if key.startswith(f"{part}.")}


def equal(found, expected):
    assert found.keys() == expected.keys()
    for key in expected:
        torch.testing.assert_close(found[key], expected[key], atol=1e-9, rtol=1e-6)


@pytest.mark.parametrize(
    ("kind", "method", "place"),
    [
        ("bottleneck", "feddat", "export"),
        ("bottleneck", "feddat", "checkpoints"),
        ("lora", "feddat", "export"),
        ("lora", "feddat", "checkpoints/round-00002"),
        ("prompt", "fedavg", "export"),
        ("norm", "fedavg", "export"),
        ("bias", "fedavg", "checkpoints"),
    ],
)
def test_a_federation_begins_where_another_ended(finished, make_config, tmp_path, kind, method, place):
    values = {"method": method, "adapter__peft": kind}
    run = finished(**values)
    start = Experiment.open(run).export(tmp_path / "shared") if place == "export" else run / place
    config = make_config(**rest(adapter__start=start, **values))
    summary = Experiment(config).run()
    equal(sent_in(config.run_dir, 1), sent_in(run, 2))
    assert len(summary["start"]) == 32
    assert "start" not in json.loads((run / "summary.json").read_text())


def test_a_clients_route_may_be_the_beginning(finished, make_config, tmp_path):
    run = finished(method="feddat")
    Experiment.open(run).export(tmp_path / "local", "ann", "local")
    config = make_config(**rest(adapter__start=tmp_path / "local", method="fedavg"))
    Experiment(config).run()
    final = load_file(run / "clients" / "ann" / "round-0002.safetensors")
    expected = {key.removeprefix("local."): value for key, value in final.items() if key.startswith("local.")}
    equal(sent_in(config.run_dir, 1), expected)


def test_a_shared_fusion_comes_along(finished, folders, make_config, tmp_path):
    values = {
        "method": "fedavg", "model": str(folders("clip")), "fusion__kind": "transformer", "fusion__side": "shared",
        "rounds": 1,
    }  # fmt: skip
    run = finished(**values)
    Experiment.open(run).export(tmp_path / "shared")
    config = make_config(**values | rest(adapter__start=tmp_path / "shared"))
    Experiment(config).run()
    equal(sent_in(config.run_dir, 1), sent_in(run, 1))
    assert any(key.startswith("fusion.") for key in sent_in(run, 1))


def test_an_adapter_of_pefts_own_making(world, make_config, tmp_path):
    torch.manual_seed(0)
    config = LoraConfig(r=2, lora_alpha=4, target_modules=["query", "value"], init_lora_weights=False)
    model = get_peft_model(hf.ViltModel.from_pretrained(world / "model"), config)
    model.save_pretrained(tmp_path / "peft")
    lora = {"method": "fedavg-lora", "adapter__rank": 2, "adapter__alpha": 4}
    run = make_config(**rest(adapter__start=tmp_path / "peft", **lora))
    Experiment(run).run()
    expected = load_file(tmp_path / "peft" / "adapter_model.safetensors")
    equal(sent_in(run.run_dir, 1), {key.removeprefix("base_model.model."): value for key, value in expected.items()})
    with pytest.raises(ConfigError, match=r"scale \(alpha / rank\) is 2.0, but the run has 4.0"):
        Experiment(make_config(adapter__start=tmp_path / "peft", name="a", **lora | {"adapter__alpha": 8})).run()
    settings = json.loads((tmp_path / "peft" / "adapter_config.json").read_text())
    (tmp_path / "peft" / "adapter_config.json").write_text(json.dumps(settings | {"init_lora_weights": "pissa"}))
    with pytest.raises(ConfigError, match="init_lora_weights pissa changes the model's own weights"):
        Experiment(make_config(adapter__start=tmp_path / "peft", name="b", **lora)).run()


@pytest.mark.parametrize("saved", [[], ["classifier"]])
def test_an_adapter_that_peft_trained_inside_a_task_model(world, make_config, tmp_path, saved):
    torch.manual_seed(0)
    config = LoraConfig(
        r=2, lora_alpha=4, target_modules=["query", "value"], init_lora_weights=False, modules_to_save=saved or None
    )
    model = get_peft_model(hf.ViltForQuestionAnswering.from_pretrained(world / "model"), config)
    model.save_pretrained(tmp_path / "peft")
    lora = {"method": "fedavg-lora", "adapter__rank": 2, "adapter__alpha": 4}
    run = make_config(**rest(adapter__start=tmp_path / "peft", **lora))
    if saved:
        with pytest.raises(ConfigError, match=r"peft: it also holds modules that trained whole \(classifier\); a run"):
            Experiment(run).run()
        return
    Experiment(run).run()
    expected = load_file(tmp_path / "peft" / "adapter_model.safetensors")
    equal(
        sent_in(run.run_dir, 1), {key.removeprefix("base_model.model.vilt."): value for key, value in expected.items()}
    )


def test_a_client_begins_with_its_old_local_adapter_until_it_has_trained(finished, make_config, tmp_path):
    run = finished(method="feddat")
    Experiment.open(run).export(tmp_path / "local", "ann", "local")
    begin = rest(adapter__start_local=tmp_path / "local", method="feddat")
    config = make_config(**begin)
    Experiment(config).run()
    expected = load_file(run / "clients" / "ann" / "round-0002.safetensors")
    for client in ("ann", "bob"):
        equal(
            own_state(config.run_dir, client),
            {key.removeprefix("local."): value for key, value in expected.items() if key.startswith("local.")},
        )
    # All clients have trained, so the folder is no longer needed.
    shutil.rmtree(tmp_path / "local")
    experiment = Experiment.open(config.run_dir)
    same_answers(experiment.predict("ann", questions(run)), of_run(config.run_dir, "ann", questions(run)))


def test_without_communication_the_clients_begin_from_it(finished, make_config, tmp_path):
    Experiment.open(finished(method="feddat")).export(tmp_path / "shared")
    config = make_config(**rest(method="local", adapter__start_local=tmp_path / "shared"))
    Experiment(config).run()
    equal(own_state(config.run_dir, "bob"), sent_in(finished(method="feddat"), 2))


def test_a_run_goes_on_without_the_folder_that_it_began_from(finished, make_config, tmp_path, monkeypatch):
    Experiment.open(finished(method="fedavg")).export(tmp_path / "shared")
    config = make_config(method="fedavg", adapter__start=tmp_path / "shared")
    whole = Experiment(config).run()

    save = Checkpoints.save

    def interrupted(self, state):
        save(self, state)
        raise KeyboardInterrupt

    again = make_config(method="fedavg", adapter__start=tmp_path / "shared", name="again")
    with monkeypatch.context() as patch:
        patch.setattr(Checkpoints, "save", interrupted)
        with pytest.raises(KeyboardInterrupt):
            Experiment(again).run()
    shutil.rmtree(tmp_path / "shared")
    summary = Experiment(again).run(resume=True)
    assert (summary["clients"], summary["start"]) == (whole["clients"], whole["start"])
    equal(sent_in(again.run_dir, 2), sent_in(config.run_dir, 2))


@pytest.fixture
def exported(finished, tmp_path):
    """Exports of FedDAT's shared adapter, and of ann's route, which combines two adapters."""
    experiment = Experiment.open(finished(method="feddat"))
    return {"shared": experiment.export(tmp_path / "shared"), "dat": experiment.export(tmp_path / "dat", "ann")}


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"adapter__start": "gone"}, "adapter.start: folder .*gone: no adapter_config.json; expected the folder of a"),
        ({"adapter__start": "dat"}, "route dat combines two adapters; export a route with one adapter, such as global"),
        ({"adapter__start": "shared", "adapter__peft": "lora"}, "peft_type is BOTTLENECK, but the run has .*LORA"),
        ({"adapter__start": "shared", "adapter__reduction": 2}, "has shape .*, this model expects"),
        (
            {"adapter__start": "shared", "adapter__layers": 1},
            "folder .*: the run has no place for .*: other sites",
        ),
        ({"adapter__start": "shared", "adapter__sites": ".*output"}, "folder .*: .* key .* is missing"),
        (
            {"adapter__start": "shared", "method": "fedavg-full"},
            "this adapter.peft trains the model itself",
        ),
        ({"adapter__start": "shared", "method": "local"}, "local has no global adapter; adapter.start_local sets"),
        ({"adapter__start": "shared", "method": "fedper"}, "fedper keeps a part of each adapter at its client"),
        ({"adapter__start_local": "shared", "method": "fedavg"}, "adapter.start_local: fedavg has no local adapter"),
        ({"adapter__start_local": "shared", "method": "ditto"}, "ditto's local adapter starts as the global one"),
        ({"adapter__start": "other"}, "whose weights differ from this model's"),
        ({"adapter__start": "cut"}, "adapter.start: .*cut/fusion.safetensors: cannot be read"),
        ({"adapter__start": "torn"}, "adapter.start: .*torn/adapter_model.safetensors: cannot be read"),
    ],
)
def test_what_cannot_be_begun_with_is_said_before_anything_starts(exported, make_config, tmp_path, values, message):
    other = tmp_path / "other"
    shutil.copytree(exported["shared"], other)
    info = json.loads((other / "feddat.json").read_text())
    (other / "feddat.json").write_text(json.dumps(info | {"weights": "0" * 16}))
    shutil.copytree(exported["shared"], tmp_path / "cut")
    (tmp_path / "cut" / "fusion.safetensors").write_bytes(b"x")
    shutil.copytree(exported["shared"], tmp_path / "torn")
    (tmp_path / "torn" / "adapter_model.safetensors").write_bytes(b"x")
    places = {key: tmp_path / value if key.startswith("adapter__start") else value for key, value in values.items()}
    config = make_config(**places)
    with pytest.raises(ConfigError, match=message):
        Experiment(config).run()
    assert not (config.run_dir / "config.yaml").exists()


def test_where_adapters_begin_is_no_setting_that_all_must_share(exported, make_config):
    """Each side of a deployment chooses its own start, so the settings that the sides compare leave it out."""
    starts = ({}, {"adapter__start": exported["shared"]})
    plain, begun = (load_foundation(resolve(make_config(**values))).model["settings"] for values in starts)
    assert plain == begun
