"""Models named on the Hub, with a stand-in for the Hub on the loopback address."""

from importlib import metadata
from pathlib import Path

import pytest
import torch
import yaml

from feddat.config import ConfigError, load_config
from feddat.deploy.folder import write_consortium
from feddat.experiment import Experiment
from feddat.experiment.single.foundation import model_hashes
from feddat.hub import HubError, parse_address
from feddat.hub.client import cache_folder
from feddat.models.base import ModelError
from feddat.models.catalog import load_backbone, load_encoder
from feddat.models.named import named_folder, pin_model
from feddat.site import read_site
from helpers import make_unit
from hub_server import TOKEN, HubServer, converted_request

VILT = "dandelin/vilt-b32-mlm"


@pytest.fixture(scope="module")
def vilt(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """The files of a tiny ViLT, and other files that repositories have."""
    folder = make_unit("vilt", tmp_path_factory.mktemp("vilt") / "tiny")
    files = {path.name: path.read_bytes() for path in folder.iterdir()}
    beside = {"README.md": b"# a card", "onnx/model.onnx": b"x", "pytorch_model.bin": b"pickle", "code.py": b"1/0"}
    return files | beside


@pytest.mark.parametrize(
    ("text", "name", "revision", "path"),
    [
        ("a/b", "a/b", None, ""),
        ("Qwen/Qwen2.5-VL-3B@v1.0", "Qwen/Qwen2.5-VL-3B", "v1.0", ""),
        ("a/b@refs/pr/4", "a/b", "refs/pr/4", ""),
        ("hf://a/b@main", "a/b", "main", ""),
        ("hf://models/a/b", "a/b", None, ""),
        ("hf://a/b@refs%2Fpr%2F4/x/y.bin", "a/b", "refs/pr/4", "x/y.bin"),
    ],
)
def test_addresses_are_read_as_they_are_written(text: str, name: str, revision: str | None, path: str) -> None:
    found = parse_address(text, "model")
    assert found is not None
    assert (found.name, found.revision, found.path) == (name, revision, path)
    assert parse_address(str(found), "model") == found


@pytest.mark.parametrize("text", ["vilt-mini", "./a/b", "../a", "/models/a", "a/b/c", "~/a", "", "a/b@", "-a/b"])
def test_paths_and_bundled_names_are_no_addresses(text: str) -> None:
    assert parse_address(text, "model") is None


@pytest.mark.parametrize("text", ["hf://a", "hf://datasets/a/b", "hf://"])
def test_invalid_hub_addresses_are_refused(text: str) -> None:
    with pytest.raises(HubError, match=text):
        parse_address(text, "model")


def test_only_what_the_family_needs_is_fetched(hub: HubServer, vilt: dict[str, bytes]) -> None:
    commit = hub.add("model", VILT, vilt)
    pinned = pin_model(VILT)
    assert pinned == f"{VILT}@{commit}"
    backbone = load_backbone(pinned)
    assert (backbone.family, backbone.name) == ("vilt", pinned)
    fetched = {path.name for path in named_folder(pinned).iterdir()}
    assert fetched == vilt.keys() - {"README.md", "onnx/model.onnx", "pytorch_model.bin", "code.py"}
    # Everything is cached: neither a pinned name nor the encoder asks the Hub again.
    before = len(hub.asked)
    named_folder.cache_clear()
    assert load_encoder(pinned).fingerprint == backbone.encoder.fingerprint
    assert pin_model(pinned) == pinned
    assert len(hub.asked) == before


def test_an_existing_folder_comes_before_the_hub(
    hub: HubServer, vilt: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_unit("vilt", tmp_path / "dandelin" / "vilt-b32-mlm")
    monkeypatch.chdir(tmp_path)
    assert pin_model(VILT) == VILT
    assert load_backbone(VILT).family == "vilt"
    assert not hub.asked


def test_pickles_are_never_fetched_and_the_hubs_own_conversion_is(hub: HubServer, vilt: dict[str, bytes]) -> None:
    plain = {name: data for name, data in vilt.items() if not name.endswith(".safetensors")}
    hub.add("model", VILT, plain)
    with pytest.raises(
        ModelError, match=r"no safetensors, but pytorch_model\.bin; convert them with `feddat convert dande"
    ):
        pin_model(VILT)
    stranger = converted_request(3) | {"author": {"name": "stranger"}}
    commit = hub.add("model", VILT, vilt, revision="refs/pr/4")
    hub.add("model", VILT, plain | {"model.safetensors": b"theirs"}, revision="refs/pr/3")
    hub.repos["model", VILT].requests = [stranger, converted_request(4)]
    assert pin_model(VILT) == f"{VILT}@{commit}"
    assert not [path for path in hub.paths() if path.endswith("pytorch_model.bin")]


def test_offline_a_warm_cache_serves_and_a_cold_one_says_so(
    hub: HubServer, vilt: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.add("model", VILT, {k: v for k, v in vilt.items() if k != "model.safetensors"})
    hub.repos["model", VILT].requests = [converted_request(4)]
    hub.add("model", VILT, vilt, revision="refs/pr/4")
    pinned = pin_model(VILT)
    before = len(hub.asked)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    named_folder.cache_clear()
    assert pin_model(VILT) == pinned
    assert load_backbone(pinned).family == "vilt"
    with pytest.raises(ModelError, match=r"model a/b: not complete in .*cache, and HF_HUB_OFFLINE is set; pull"):
        pin_model("a/b")
    next((cache_folder() / "models--dandelin--vilt-b32-mlm" / "snapshots").glob("*/config.json")).unlink()
    named_folder.cache_clear()
    with pytest.raises(ModelError, match="not complete in"):
        load_backbone(pinned)
    assert len(hub.asked) == before


def test_without_the_network_a_name_with_a_commit_serves(
    hub: HubServer, vilt: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.add("model", VILT, vilt)
    pinned = pin_model(VILT)
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    named_folder.cache_clear()
    assert load_backbone(pinned).family == "vilt"
    with pytest.raises(ModelError, match=r"cannot be fetched from http://127\.0\.0\.1:9: .*refused"):
        pin_model("a/b")


def test_a_gated_repository_says_where_to_ask(
    hub: HubServer, vilt: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.add("model", "google/gated", vilt, gated=True)
    with pytest.raises(ModelError, match=f"request access on {hub.url}/google/gated, .*no token was sent"):
        pin_model("google/gated")
    monkeypatch.setenv("HF_TOKEN", "hf_other")
    with pytest.raises(ModelError, match="does your token have access"):
        pin_model("google/gated")
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    assert pin_model("google/gated").startswith("google/gated@")
    # The token goes only to the Hub, not to the address of its large files.
    stored = [one for one in hub.asked if one.path.startswith("/cdn/")]
    assert stored and not [one for one in stored if "authorization" in one.headers]


def test_what_is_not_there_is_one_line(hub: HubServer, vilt: dict[str, bytes], monkeypatch: pytest.MonkeyPatch) -> None:
    hub.add("model", VILT, vilt)
    hub.add("model", "a/nothing", {"README.md": b""})
    hub.add("model", "a/bert", {"config.json": b'{"model_type": "bert"}', "model.safetensors": b"x" * 100})
    for name, said in {
        "a/b": f"model a/b: no such model at {hub.url}, or it is private and no token was sent",
        f"{VILT}@v9": f"model {VILT}: has no revision 'v9'; expected a branch, a tag or a commit",
        "a/nothing": "model a/nothing: no config.json; expected a repository in the layout of transformers",
        "a/bert": "model a/bert: model_type 'bert' is not supported; expected ",
    }.items():
        with pytest.raises(ModelError) as error:
            pin_model(name)
        assert str(error.value).startswith(said)
        assert "\n" not in str(error.value)
    monkeypatch.setenv("HF_TOKEN", "hf_x")
    with pytest.raises(ModelError, match="your token has no access"):
        pin_model("a/b")
    assert not [path for path in hub.paths() if path.startswith("/cdn/")]  # no weights were fetched


def test_broken_connections_and_crowds_are_waited_for(
    hub: HubServer, vilt: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.DOWNLOAD_CHUNK_SIZE", 1024)
    hub.add("model", VILT, vilt)
    hub.breaks, hub.crowd = 1, 1
    named = pin_model(VILT)
    weights = named_folder(named) / "model.safetensors"
    assert weights.read_bytes() == vilt["model.safetensors"]
    # The download continued about where the connection broke, and after the Hub stopped refusing it as too busy.
    (again,) = [one.headers["range"] for one in hub.asked if "range" in one.headers]
    half = len(vilt["model.safetensors"]) // 2
    assert half - 1024 < int(again.removeprefix("bytes=").rstrip("-")) <= half
    assert hub.crowd == 0


def test_too_many_requests_are_said(hub: HubServer, vilt: dict[str, bytes]) -> None:
    hub.add("model", VILT, vilt)
    hub.too_many = 1
    with pytest.raises(ModelError, match=f"cannot be fetched from {hub.url}: too many requests; wait a few minutes"):
        pin_model(VILT)
    assert pin_model(VILT).startswith(VILT)


def test_requests_name_who_asks_and_what_for_alone(hub: HubServer, vilt: dict[str, bytes]) -> None:
    """The ``hub`` fixture checks every request of every test; this test checks that requests exist, and their parts."""
    hub.add("model", VILT, vilt)
    load_backbone(pin_model(VILT))
    assert {one.path.split("/")[1] for one in hub.asked} == {"api", "dandelin", "cdn"}
    assert all("authorization" not in one.headers for one in hub.asked)
    agents = {one.headers["user-agent"] for one in hub.asked}
    assert len(agents) == 1 and agents.pop().startswith(f"feddat/{metadata.version('feddat')}; hf_hub/")


def test_a_run_holds_on_to_its_revision_and_weights(
    hub: HubServer, vilt: dict[str, bytes], make_config, tmp_path: Path
) -> None:
    torch.set_num_threads(1)
    commit = hub.add("model", VILT, vilt)
    experiment = Experiment(make_config(model=VILT, rounds=1))
    summary = experiment.run()
    config = experiment.folder.read_config()
    assert config.model == summary["model"] == f"{VILT}@{commit}"
    assert config.model_weights == summary["model_weights"]
    assert len(summary["model_weights"]) == 16
    page = (experiment.folder.path / "report.html").read_text()
    assert commit in page and summary["model_weights"] in page

    # The branch moves on: the run stays with the old commit, and the name now means another run.
    other = make_unit("vilt", tmp_path / "other", ["other"])
    moved = hub.add("model", VILT, {path.name: path.read_bytes() for path in other.iterdir()})
    assert moved != commit
    assert Experiment.open(experiment.folder.path).run(resume=True) == summary
    with pytest.raises(Exception, match=f"model differ.*@{commit} there, .*@{moved} now"):
        Experiment(make_config(model=VILT, rounds=1)).run(resume=True)


def test_other_weights_under_the_same_name_are_refused(make_config, world: Path) -> None:
    experiment = Experiment(make_config(rounds=1, model_weights="0" * 16))
    with pytest.raises(Exception, match=r"model_weights: expected 0{16}, but model .* has "):
        experiment.run()
    assert not experiment.folder.config_file.exists()


def test_a_bundled_model_on_other_data_says_what_it_is_for(make_config, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("WARNING", "feddat"):
        Experiment(make_config(model="vilt-mini", rounds=1, train__steps=1)).run()
    (said,) = [record.message for record in caplog.records if "vilt-mini" in record.message]
    assert said.startswith("model vilt-mini knows only the generated pictures of the mini federations")
    assert f"model={VILT}" in said and "\n" not in said


def test_a_consortium_agrees_on_a_commit_and_each_client_takes_it_himself(
    hub: HubServer, vilt: dict[str, bytes], tmp_path: Path
) -> None:
    commit = hub.add("model", VILT, vilt)
    pinned = pin_model(VILT)
    hashes = model_hashes(pinned)
    write_consortium(tmp_path / "c", ["ann"], ["127.0.0.1"], 9092, (pinned, hashes))
    server = yaml.safe_load((tmp_path / "c" / "server" / "run.yaml").read_text())
    assert (server["model"], server["model_weights"]) == (f"{VILT}@{commit}", hashes["weights"])
    path = tmp_path / "c" / "clients" / "ann" / "client.yaml"
    written = yaml.safe_load(path.read_text())
    assert written["model"] == pinned
    config = load_config(None, None, model=pinned, clients={"ann": {}}, benchmark=None)
    assert read_site(path).applied(config).model == pinned
    # A client downloads no model that its own file does not name.
    path.write_text(yaml.safe_dump({key: value for key, value in written.items() if key != "model"}))
    with pytest.raises(ConfigError, match=r"client ann: the run's model is dandelin/.*; name it in client\.yaml"):
        read_site(path).applied(config)
