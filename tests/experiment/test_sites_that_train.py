"""Adapters at modules that no gradient reaches train nothing; a warning or error names them before a run begins."""

import pytest
import torch

from feddat.config import ConfigError, load_config
from feddat.example import DataError
from feddat.experiment import Experiment
from feddat.experiment.model_check import check_model, made_up_client
from feddat.experiment.single import run as run_module
from feddat.experiment.single.federation import build_federation, check_sites
from feddat.experiment.single.methods import resolve
from feddat.models.catalog import FAMILIES
from helpers import make_unit
from two_clients import numbers


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    torch.set_num_threads(1)
    return tmp_path_factory.mktemp("families")


@pytest.fixture
def federation(folders, tmp_path):
    """Return a function that makes a federation of one made-up client on a family's small model."""

    def make(family, **values):
        if not (folders / family).exists():
            make_unit(family, folders / family)
        settings = {"model": str(folders / family), "method": "fedavg"} | values
        config = resolve(load_config(None, None, **{key.replace("__", "."): value for key, value in settings.items()}))
        return build_federation(config, [made_up_client(2)], tmp_path)

    return make


@pytest.mark.parametrize("family", FAMILIES)
def test_default_sites_of_every_family_train(federation, family, caplog):
    check_sites(federation(family))
    if family in ("albef", "siglip", "qwen3_vl"):  # each has its own LoRA expression
        check_sites(federation(family, adapter__peft="lora"))
    assert not caplog.records


@pytest.mark.parametrize(
    ("family", "settings", "sites"),
    [
        (
            "albef",
            {"eval__answers": "classes"},
            "text_decoder.encoder.layer.0.output, text_decoder.encoder.layer.1.output",
        ),
        ("llava", {"adapter__parts": ["language", "vision"]}, "model.vision_tower.encoder.layers.1"),
    ],
)
def test_default_sites_that_do_not_train_are_named(federation, family, settings, sites, caplog):
    check_sites(federation(family, **settings))
    (record,) = caplog.records
    assert record.levelname == "WARNING"
    assert f"no gradient reaches the adapters of {sites.count(',') + 1} module(s): {sites}: " in record.getMessage()


BLIP_DECODER = r"text_decoder\.bert\.encoder\.layer\.0\.output"
#: Family, settings, expression, and the modules that no gradient reaches (None: it reaches all).
BESIDE = [
    ("clip", {}, r".*_projection", None),
    ("clip", {"fusion__kind": "transformer"}, r"visual_projection", None),
    ("vilt", {}, r".*pooler\.dense", None),
    ("blip", {}, BLIP_DECODER, None),
    ("blip", {"eval__answers": "classes"}, BLIP_DECODER, "1 module(s): text_decoder.bert.encoder.layer.0.output"),
    ("blip", {"eval__answers": "classes"}, rf"{BLIP_DECODER}|text_encoder\.encoder\.layer\.0\.output",
     "1 module(s): text_decoder.bert.encoder.layer.0.output"),
    ("smolvlm", {}, r".*lm_head", "1 module(s): lm_head"),
    ("smolvlm", {}, r".*lm_head|.*text_model\.layers\.0\.mlp", "1 module(s): lm_head"),
    ("llava", {}, r".*vision_tower\.encoder\.layers\.\d", "1 module(s): model.vision_tower.encoder.layers.1"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("kind", "family", "settings", "expression", "beside"),
    [
        *(("bottleneck", *case) for case in BESIDE),
        *(("lora", *case) for case in BESIDE if case[2].endswith(("projection", "dense", "lm_head"))),
    ],
)
def test_chosen_sites_that_do_not_train_are_refused_by_name(federation, family, settings, expression, beside, kind):
    found = federation(family, adapter__sites=expression, adapter__peft=kind, **settings)
    if beside is None:
        check_sites(found)
        return
    with pytest.raises(ConfigError) as caught:
        check_sites(found)
    assert str(caught.value).startswith(f"adapter.sites: no gradient reaches {beside}: ")


def test_what_rests_at_one_client_may_train_at_others(federation, caplog):
    both = rf"{BLIP_DECODER}|text_encoder\.encoder\.layer\.0\.output"
    check_sites(federation("blip", adapter__sites=both, eval__answers="classes"), others=True)
    assert "no gradient reaches the adapters of 1 module(s): text_decoder" in caplog.text
    with pytest.raises(ConfigError, match="no gradient reaches 1 module"):
        check_sites(federation("blip", adapter__sites=BLIP_DECODER, eval__answers="classes"), others=True)


@pytest.mark.parametrize("method", ["feddat", "fedavg", "fedrep", "local", "central"])
def test_a_run_is_refused_before_its_folder_is_touched(make_config, monkeypatch, method):
    monkeypatch.setattr("feddat.experiment.single.federation.unreached_sites", lambda *given: ["pooler.dense"])
    config = make_config(method=method, adapter__sites=r".*layer\.0\.output")
    with pytest.raises(ConfigError, match="no gradient reaches 1 module"):
        Experiment(config).run()
    assert not (config.run_dir / "config.yaml").exists()


def test_a_model_is_checked_with_its_sites(folders):
    make_unit("smolvlm", folders / "checked")
    with pytest.raises(ConfigError, match="no gradient reaches 1 module"):
        check_model(load_config(None, None, model=str(folders / "checked"), **{"adapter.sites": ".*lm_head"}))


def test_heads_alone_have_no_sites_to_look_at(make_config, monkeypatch):
    monkeypatch.delattr("feddat.experiment.single.federation.unreached_sites")
    Experiment(make_config(method="head", rounds=1)).run()


def test_looking_changes_no_number(make_config, monkeypatch):
    first, second = make_config(rounds=1), make_config(rounds=1, name="other")
    Experiment(first).run()
    monkeypatch.setattr(run_module, "check_sites", lambda federation: None)
    Experiment(second).run()
    assert numbers(first.run_dir) == numbers(second.run_dir)


def test_a_client_whose_example_cannot_be_used_says_so_itself(make_config, tmp_path):
    config = make_config(rounds=1)
    clients = {name: dict(spec) for name, spec in config.clients.items()}
    broken = tmp_path / "broken.jsonl"
    (tmp_path / "no.png").write_bytes(b"no picture")
    broken.write_text('{"image": "no.png", "question": "what ?", "answers": "red"}\n' * 3)
    clients["ann"] |= {"train": str(broken)}
    with pytest.raises(DataError, match=r"client ann, train: .*no\.png: cannot be decoded"):
        Experiment(make_config(rounds=1, clients=clients)).run()


@pytest.mark.parametrize(
    ("family", "sites"),
    [
        ("blip", "vision_model"),
        ("blip", "text_encoder"),
        ("clip", "text_model"),
        ("siglip", r"vision_model\.encoder"),
        ("albef", "vision"),
        ("vilt-bert", "bert"),
        ("qwen2_5_vl", ".*visual"),
        ("smolvlm", ".*text_model"),
    ],
)
def test_whole_towers_cannot_have_bottlenecks(federation, family, sites):
    with pytest.raises(ConfigError, match=r"^adapter: sites: .* a whole stack of layers"):
        federation(family, adapter__sites=sites)


@pytest.mark.parametrize(
    ("family", "sites"),
    [
        ("vilt", r"encoder\.layer\.0\.attention"),
        ("vilt", "pooler"),
        ("clip", r".*\.self_attn"),
        ("siglip", r"vision_model\.head"),
        ("qwen2_5_vl", r".*visual\.merger"),
        ("smolvlm", r".*(text_model\.layers\.\d+|connector)"),
        ("albef", r"text_encoder\.encoder\.layer\.\d+\.crossattention"),
    ],
)
def test_modules_in_layers_and_beside_them_can_have_bottlenecks(federation, family, sites):
    check_sites(federation(family, adapter__sites=sites))
