"""Commands that use the Hub, as users type them: models, data, comparisons; also after a kill, offline, on errors."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from data.readers.layouts import write_image
from feddat.benchmarks import archives
from feddat.benchmarks.archives import Archive, Published
from feddat.hub import HubError
from feddat.hub.download import download, unpack
from feddat.models.catalog import load_backbone
from feddat.models.known import KNOWN
from feddat.models.named import named_folder
from helpers import call, make_unit
from hub_data import add_parquet, add_slake
from hub_server import HubServer
from models.albef.published_files import published, write_bert

VILT = "dandelin/vilt-b32-mlm"
SMOL = "HuggingFaceTB/SmolVLM-256M-Instruct"


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Tiny models of two families, in the layouts of their repositories."""
    root = tmp_path_factory.mktemp("models")
    make_unit("vilt", root / "vilt", ["lung", "liver"])
    make_unit("idefics3", root / "smol")
    return root


def test_models_are_listed_pulled_and_checked(
    hub: HubServer, models: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.set_num_threads(1)
    assert call("models", "list") == 0
    listed = capsys.readouterr().out
    assert all(name in listed for name in ("vilt-mini", *KNOWN, "ALBEF")) and "Apache-2.0" in listed

    commits = {name: hub.add("model", name, models / key, card={"license": "apache-2.0"}) for name, key in
               ((VILT, "vilt"), (SMOL, "smol"))}  # fmt: skip
    assert call("models", "pull", VILT, SMOL) == 0
    said = capsys.readouterr().out
    for name, commit in commits.items():
        assert f"{name}@{commit}" in said
    assert "licence apache-2.0" in said and str(named_folder(f"{VILT}@{commits[VILT]}")) in said
    before = len([path for path in hub.paths() if path.startswith("/cdn/")])
    assert call("models", "pull", VILT) == 0
    assert len([path for path in hub.paths() if path.startswith("/cdn/")]) == before

    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    capsys.readouterr()
    assert call("models", "check", SMOL, "train.batch_size=2") == 0
    said = capsys.readouterr().out
    assert f"{SMOL}@{commits[SMOL]}" in said and "idefics3" in said
    assert call("models", "check", "a/b") == 2
    assert capsys.readouterr().err.count("\n") == 1
    assert call("models", "pull", "vilt-mini") == 2
    assert "expected owner/name" in capsys.readouterr().err


def test_killed_while_it_pulls_data_and_gone_on_with(hub: HubServer, tmp_path: Path) -> None:
    add_parquet(hub, "vqa-rad", {"train": 200, "test": 8})
    add_parquet(hub, "pathvqa", {"train": 24, "validation": 6, "test": 8})
    add_slake(hub, tmp_path / "slake", {"train": 24, "validation": 8, "test": 8})
    kill_in_the_middle(hub, "data", "pull", "medical/small")
    assert not list((tmp_path / "cache").rglob("snapshots/*/data/train-00000-of-00002-0b1a.parquet"))
    assert call("data", "pull", "medical/small") == 0
    for path, data in hub.repos["dataset", "flaviagiammarino/vqa-rad"].commits.popitem()[1].items():
        if path.endswith(".parquet"):
            (found,) = (tmp_path / "cache" / "datasets--flaviagiammarino--vqa-rad").rglob(f"snapshots/*/{path}")
            assert found.read_bytes() == data


def kill_in_the_middle(hub: HubServer, *arguments: str) -> None:
    """Start a command in its own process, and kill it while it downloads a large file."""
    hub.pause, hub.sent = 0.2, 0
    command = [sys.executable, "-c", "from feddat.cli import main; main()", *arguments]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=dict(os.environ))
    until = time.monotonic() + 120
    while hub.sent < 4096 and process.poll() is None and time.monotonic() < until:
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    hub.pause = 0.0


def test_killed_while_it_pulls_and_gone_on_with(hub: HubServer, models: Path, tmp_path: Path) -> None:
    files = {path.name: path.read_bytes() for path in (models / "vilt").iterdir()}
    hub.add("model", VILT, files)
    kill_in_the_middle(hub, "models", "pull", VILT)
    assert not list((tmp_path / "cache").rglob("model.safetensors"))
    asked = len(hub.asked)
    assert call("models", "pull", VILT) == 0
    # Files that were complete are not fetched again.
    again = [one.path for one in hub.asked[asked:] if one.method == "GET" and "/resolve/" in one.path]
    assert not [path for path in again if path.endswith("/config.json")]
    (found,) = (tmp_path / "cache").rglob("model.safetensors")
    assert found.read_bytes() == files["model.safetensors"]


def test_weights_in_pickles_are_converted_once(hub: HubServer, models: Path, tmp_path: Path) -> None:
    from safetensors.torch import load_file

    state = load_file(models / "vilt" / "model.safetensors")
    torch.save(state, tmp_path / "pytorch_model.bin")
    files = {path.name: path.read_bytes() for path in (models / "vilt").iterdir() if path.suffix != ".safetensors"}
    hub.add("model", VILT, files | {"pytorch_model.bin": (tmp_path / "pytorch_model.bin").read_bytes()})
    assert call("convert", VILT, "--out", str(tmp_path / "made")) == 0
    made = load_backbone(str(tmp_path / "made")).model.state_dict()
    for key, value in load_backbone(str(models / "vilt")).model.state_dict().items():
        assert torch.equal(made[key], value)
    assert not (tmp_path / "made" / "pytorch_model.bin").exists()


def test_albef_is_converted_from_its_published_address(
    hub: HubServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from safetensors.torch import load_file

    state = published("pretrained")
    torch.save({"model": state, "epoch": 7}, tmp_path / "x.pth")
    hub.blobs["ALBEF.pth"] = (tmp_path / "x.pth").read_bytes()
    words = write_bert(tmp_path / "bert")
    hub.add("model", "google-bert/bert-base-uncased", {p.name: p.read_bytes() for p in words.iterdir()})
    hub.breaks = 1
    options = ["--bert", "google-bert/bert-base-uncased", "--image-size", "64"]
    assert call("convert", f"{hub.url}/cdn/ALBEF.pth", "--out", str(tmp_path / "albef"), *options) == 0
    assert len([one for one in hub.asked if "range" in one.headers]) == 1  # it continued where the connection broke
    backbone = load_backbone(str(tmp_path / "albef"))
    assert backbone.family == "albef"
    norm = backbone.model.state_dict()["vision.layernorm.weight"]
    assert torch.equal(norm, state["visual_encoder.norm.weight"])
    assert load_file(tmp_path / "albef" / "model.safetensors")
    # A second conversion does not fetch the file again.
    asked = len([path for path in hub.paths() if path == "/cdn/ALBEF.pth"])
    assert call("convert", f"{hub.url}/cdn/ALBEF.pth", "--out", str(tmp_path / "again"), *options) == 0
    assert len([path for path in hub.paths() if path == "/cdn/ALBEF.pth"]) == asked


def test_a_pickle_that_would_run_something_is_refused(
    hub: HubServer, models: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    class Runs:
        def __reduce__(self) -> tuple[object, ...]:
            return (os.mkdir, (str(tmp_path / "it ran"),))

    torch.save({"a": Runs()}, tmp_path / "pytorch_model.bin")
    config = (models / "vilt" / "config.json").read_bytes()
    hub.add("model", VILT, {"config.json": config, "pytorch_model.bin": (tmp_path / "pytorch_model.bin").read_bytes()})
    assert call("convert", VILT, "--out", str(tmp_path / "made")) == 2
    assert "pytorch_model.bin: is damaged or holds more than tensors" in capsys.readouterr().err
    assert not (tmp_path / "it ran").exists()


def test_one_command_compares_on_real_data(
    hub: HubServer,
    models: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    request: pytest.FixtureRequest,
) -> None:
    torch.set_num_threads(1)
    hub.add("model", VILT, models / "vilt")
    add_parquet(hub, "vqa-rad", {"train": 24, "test": 8})
    add_parquet(hub, "pathvqa", {"train": 24, "validation": 6, "test": 8})
    add_slake(hub, tmp_path / "slake", {"train": 24, "validation": 8, "test": 8})
    assert call("data", "pull", "medical/small") == 0
    said = capsys.readouterr().out
    assert "licence CC-BY-4.0" in said and "BoKelvin/SLAKE@" in said

    monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    small = ["rounds=1", "train.steps=1", "train.precision=fp32", "head.init=random", f"runs_dir={tmp_path / 'runs'}"]
    assert call("real", "--seeds", "1", "--methods", "feddat,head", *small) == 0
    said = capsys.readouterr().out
    assert said.index("downloads") < said.index("time ") < said.index("FedDAT")
    assert f"{VILT}  about 540 MB  Apache-2.0" in said
    comparison = json.loads((tmp_path / "runs" / "real" / "comparison.json").read_text())
    assert comparison["model"].startswith(f"{VILT}@")
    assert comparison["runs"][0]["clients"].keys() == {"vqa-rad", "slake", "pathvqa"}
    assert call("report", str(tmp_path / "runs" / "real"), "--markdown") == 0
    table = capsys.readouterr().out
    assert "| method | trained | sent | vqa-rad | slake | pathvqa |" in table and "| vqa-rad, closed |" in table

    # Everything is there now: the same command succeeds offline. It has nothing to compute, so this process is enough.
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    request.getfixturevalue("no_workers")
    asked = len(hub.asked)
    assert call("real", "--seeds", "1", "--methods", "feddat,head", *small) == 0
    assert call("data", "describe", "--benchmark", "medical/small", "--markdown") == 0
    rows = capsys.readouterr().out.splitlines()[-3:]
    assert [row.split(" | ")[0] for row in rows] == ["| vqa-rad", "| slake", "| pathvqa"]
    assert [row.split(" | ")[3] for row in rows] == ["8", "8", "8"]
    assert call("data", "describe", "--benchmark", "medical/small") == 0
    shared, differs = capsys.readouterr().out.splitlines()[:2]
    assert shared == "shared: medical pictures and words" and differs.startswith("differs: organ and modality")
    to = tmp_path / "prepared"
    arguments = ["--benchmark", "medical/small", "--out", str(to), "--model", VILT, "--jobs", "1"]
    assert call("data", "prepare", *arguments) == 0
    manifest = json.loads((to / "prepare.json").read_text())
    assert manifest["clients"]["slake"]["counts"]["test"]["kept"] == 8
    assert manifest["request"]["sizes"]["answers"] == 500, "as if the run read the datasets itself"
    run = [f"benchmark={to}", f"model={VILT}", *small]
    assert call("run", *run, "name=prepared") == 0
    assert len(hub.asked) == asked
    one = json.loads((tmp_path / "runs" / "prepared" / "summary.json").read_text())
    assert one["kinds"].keys() == {"vqa-rad", "slake", "pathvqa"}


def test_the_suite_of_medical_federations_says_what_it_takes(
    hub: HubServer, models: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    # Without the datasets nothing is computed; the error names the first missing one.
    hub.add("model", VILT, models / "vilt")
    assert call("compare", "--suite", "medical", f"model={VILT}", f"runs_dir={tmp_path}") == 2
    captured = capsys.readouterr()
    assert "flaviagiammarino/path-vqa  about 785 MB" in captured.out
    assert "flaviagiammarino/vqa-rad: no such dataset" in captured.err


def archive_of(folder: Path) -> bytes:
    import io
    import zipfile

    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as opened:
        for path in sorted(folder.rglob("*")):
            if path.is_file():
                opened.write(path, path.relative_to(folder).as_posix())
    return file.getvalue()


def test_archives_of_the_paper_go_on_where_they_were_and_name_what_to_ask_for(
    hub: HubServer, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for i in range(40):
        write_image(tmp_path / "source" / "images" / f"{i}.png", i)
    data = archive_of(tmp_path / "source")
    hub.blobs["one.zip"] = data
    hub.blobs["train.json"] = b"[]"
    table = {
        "vqav2": Published("CC BY 4.0", (Archive(f"{hub.url}/cdn/one.zip", 1, "pictures"),)),
        "nlvr2": Published("CC BY 4.0", (Archive(f"{hub.url}/cdn/train.json", 1, "data/train.json"),),
                           (("the photos", "a.org/form", "images"),)),
        "snli-ve": Published("research"),
        "vcr": Published("research"),
    }  # fmt: skip
    monkeypatch.setattr(archives, "PUBLISHED", table)
    root = tmp_path / "root"
    assert call("data", "pull", "paper/task", "--root", str(root), "--dry-run") == 0
    said = capsys.readouterr().out
    assert (
        f"{hub.url}/cdn/one.zip" in said and f"request the photos at a.org/form; put it at {root}/nlvr2/images" in said
    )
    assert not hub.asked and not root.exists()

    (root / "vqav2").mkdir(parents=True)
    (root / "vqav2" / "one.zip.part").write_bytes(data[:1000])  # as after a kill
    hub.breaks = 1
    assert call("data", "pull", "paper/task", "--root", str(root)) == 0
    ranges = [one.headers["range"] for one in hub.asked if "range" in one.headers]
    assert ranges[0] == "bytes=1000-" and len(ranges) == 2
    assert len(list((root / "vqav2" / "pictures" / "images").glob("*.png"))) == 40
    assert (root / "nlvr2" / "data" / "train.json").read_bytes() == b"[]"
    assert not list(root.rglob("*.zip"))
    asked = len(hub.asked)
    assert call("data", "pull", "paper/task", "--root", str(root)) == 0
    assert len(hub.asked) == asked
    assert {one.headers["user-agent"] for one in hub.asked} == {"feddat"}
    assert call("data", "pull", "mini/domain") == 2
    assert "has no data to fetch; expected one of paper/domain" in capsys.readouterr().err
    assert call("data", "pull", "paper/task") == 2
    assert "give --root" in capsys.readouterr().err


def test_missing_files_and_unsafe_or_damaged_archives_are_refused(hub: HubServer, tmp_path: Path) -> None:
    with pytest.raises(HubError, match="/nowhere: the server answered 404"):
        download(f"{hub.url}/nowhere", tmp_path / "y")
    import zipfile

    with zipfile.ZipFile(tmp_path / "bad.zip", "w") as opened:
        opened.writestr("../outside.txt", "x")
    with pytest.raises(HubError, match="is outside the folder; the archive is not safe to unpack"):
        unpack(tmp_path / "bad.zip", tmp_path / "in")
    (tmp_path / "torn.zip").write_bytes(b"PK\x03\x04")
    with pytest.raises(HubError, match="cannot be unpacked"):
        unpack(tmp_path / "torn.zip", tmp_path / "in")
    assert not (tmp_path / "outside.txt").exists()


def test_published_addresses_serve_every_folder_of_the_paper() -> None:
    from feddat.benchmarks.paper import FEDERATIONS

    folders = {part.folder for federation in FEDERATIONS.values() for part in federation.parts}
    assert folders == archives.PUBLISHED.keys()
    for one in archives.PUBLISHED.values():
        assert one.terms and (one.archives or one.asks)
        assert all(archive.url.startswith("http") and archive.megabytes > 0 for archive in one.archives)
