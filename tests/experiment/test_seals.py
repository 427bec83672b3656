"""State files that were altered after they were written are refused and named wherever they are read."""

import hashlib
import hmac
import shutil
import struct
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from feddat.app.checkpoint import CheckpointError, Checkpoints, ServerState
from feddat.client.store import PersonalStore, StoreError
from feddat.experiment import Experiment
from feddat.experiment.single.folder import ExperimentError
from feddat.seals import BLANK, Seal, SealError
from feddat.tensorfile import write_tensors


def tensors(value=1.0):
    return {"head/a/weight": torch.full((2, 3), value)}


@pytest.fixture
def store(tmp_path):
    store = PersonalStore(tmp_path / "clients", "ann")
    store.save(1, tensors(1.0))
    store.save(2, tensors(2.0), {"previous": 1})
    return store


def rewritten(path, change=lambda tensors, metadata: None):
    """Rewrite a file as somebody without the key could."""
    with safe_open(path, framework="pt") as file:
        found, metadata = {key: file.get_tensor(key) for key in file.keys()}, file.metadata()  # noqa: SIM118
    change(found, metadata)
    save_file(found, path, metadata=metadata)


def test_a_seal_is_the_hmac_of_the_file_with_a_blank_in_its_place(tmp_path):
    seal = Seal(tmp_path / "key")
    path = tmp_path / "x.safetensors"
    write_tensors(path, tensors(), {"seal": BLANK}, lambda at: seal.put(at, "x.safetensors"))
    with safe_open(path, framework="pt") as file:
        found = file.metadata()["seal"]
    content = path.read_bytes().replace(found.encode(), BLANK.encode())
    key = (tmp_path / "key").read_bytes()
    assert found == hmac.new(key, b"13:x.safetensors:" + content, hashlib.sha256).hexdigest()
    assert seal.check(path) is True


def test_the_key_is_its_owners_alone(store):
    assert store.seal.file == store.folder / ".seal.key"
    assert store.seal.file.stat().st_mode & 0o777 == 0o600
    assert len(store.seal.file.read_bytes()) == 32


def test_two_that_make_the_key_at_once_have_the_same(tmp_path):
    def write(number):
        seal = Seal(tmp_path / "key")
        path = tmp_path / f"{number}.safetensors"
        write_tensors(path, tensors(), {"seal": BLANK}, lambda at: seal.put(at, path.name))
        return seal.check(path)

    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(write, range(8))) == [True] * 8


@settings(max_examples=60)
@given(st.data())
def test_no_byte_of_a_sealed_file_can_be_changed(tmp_path_factory, data):
    folder = tmp_path_factory.mktemp("sealed")
    seal, path = Seal(folder / "key"), folder / "x.safetensors"
    write_tensors(path, tensors(), {"seal": BLANK, "meta": "{}"}, lambda at: seal.put(at, path.name))
    content = bytearray(path.read_bytes())
    place = data.draw(st.integers(0, len(content) - 1))
    content[place] ^= 1 << data.draw(st.integers(0, 7))
    path.write_bytes(content)
    with pytest.raises(SealError):
        seal.check(path)


def number(tensors, metadata):
    tensors["head/a/weight"][0, 0] = 9


def stripped(tensors, metadata):
    del metadata["seal"]


def other_meta(tensors, metadata):
    metadata["meta"] = '{"previous": null}'


def of_another_round(store):
    shutil.copyfile(store.folder / "round-0001.safetensors", store.folder / "round-0002.safetensors")
    rewritten(store.folder / "round-0002.safetensors", lambda _, metadata: metadata.update(round="2"))


def of_another_kind(store):
    store.beside("personal").save(2, tensors(7.0))
    (store.folder / "personal-0002.safetensors").replace(store.folder / "round-0002.safetensors")


def of_another_client(store):
    other = PersonalStore(store.root, "bob")
    other.save(2, tensors(7.0))
    shutil.copyfile(other.folder / "round-0002.safetensors", store.folder / "round-0002.safetensors")
    rewritten(store.folder / "round-0002.safetensors", lambda _, metadata: metadata.update(client="ann"))


@pytest.mark.parametrize("change", [number, stripped, other_meta])
def test_an_altered_personal_state_is_refused_and_named(store, change):
    rewritten(store.folder / "round-0002.safetensors", change)
    with pytest.raises(StoreError) as told:
        store.load(3)
    line = str(told.value)
    assert "\n" not in line
    assert line.startswith(f"client ann: personal state {store.folder / 'round-0002.safetensors'}: ")
    assert line.endswith("; restore the original file, remove the file, or accept it (accept_changes)")
    (store.folder / "round-0002.safetensors").unlink()
    assert store.load(3)[0] == 1


@pytest.mark.parametrize("exchange", [of_another_round, of_another_kind, of_another_client])
def test_a_sealed_state_is_good_in_its_own_place_alone(store, exchange):
    exchange(store)
    with pytest.raises(StoreError, match="round-0002"):
        store.load(3)


def test_a_state_that_is_accepted_is_sealed_anew(store, caplog):
    rewritten(store.folder / "round-0002.safetensors", number)
    store.accept()
    assert store.load(3)[1]["head/a/weight"][0, 0] == 9
    assert "round-0002.safetensors was altered or had no seal; it is accepted and sealed again" in caplog.text
    assert "round-0001" not in caplog.text


def test_without_its_key_a_state_is_refused(store):
    store.seal.file.unlink()
    with pytest.raises(StoreError, match=r"its seal cannot be checked: \S+/\.seal\.key is missing"):
        store.load(3)
    store.accept()
    assert store.load(3)[0] == 2


def of_earlier_version(store, *rounds):
    """Make a store look as if an earlier version without seals had written these rounds."""
    store.seal.file.unlink()
    for round in rounds:
        rewritten(store.folder / f"{store.label}-{round:04d}.safetensors", stripped)


def test_states_of_an_earlier_version_are_accepted_and_sealed_with_the_next(store, caplog):
    residual = store.beside("residual")
    residual.save(2, tensors(0.5))
    of_earlier_version(store, 1, 2)
    rewritten(residual.folder / "residual-0002.safetensors", stripped)
    assert store.load(3)[0] == 2
    assert "round-0002.safetensors has no seal: it is from an earlier version" in caplog.text
    store.save(3, tensors(3.0))
    assert store.rounds() == [2, 3]
    caplog.clear()
    assert (store.load(4)[0], store.load(3)[0], residual.load(3)[0]) == (3, 2, 2)
    assert caplog.text == "", "all are sealed now"
    rewritten(store.folder / "round-0003.safetensors", stripped)
    with pytest.raises(StoreError, match="it has no seal, but states written here have one"):
        store.load(4)


# Checkpoints of the server.


def checkpoints(tmp_path):
    return Checkpoints(tmp_path / "checkpoints", "h")


def saved(tmp_path, *rounds):
    there = checkpoints(tmp_path)
    paths = [
        there.save(ServerState({"b": torch.full((2,), float(r))}, round=r, rule={"m": torch.ones(2)})) for r in rounds
    ]
    return there, paths[-1]


def other_state(tensors, metadata):
    metadata["state"] = metadata["state"].replace('"failed": 0', '"failed": 7')


def other_rule(tensors, metadata):
    tensors["rule/m"][0] = 9


def other_adapter(tensors, metadata):
    tensors["b"][0] = 9


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("state.safetensors", other_state),
        ("state.safetensors", other_rule),
        ("state.safetensors", stripped),
        ("shared.safetensors", other_adapter),
    ],
)
def test_an_altered_checkpoint_is_refused_and_named(tmp_path, name, change, caplog):
    there, path = saved(tmp_path, 1, 2)
    rewritten(path / name, change)
    with pytest.raises(CheckpointError, match=rf"checkpoint {path}: .*or accept it \(--accept-changes\)") as told:
        there.latest()
    assert "\n" not in str(told.value)
    assert there.accept()
    assert there.latest().round == 2
    assert not there.accept(), "nothing is left to accept"
    assert f"checkpoint {path} was altered or had no seal; accepted" in caplog.text


def test_an_adapter_of_another_round_does_not_fit(tmp_path):
    there, path = saved(tmp_path, 1, 2)
    shutil.copyfile(path.with_name("round-00001") / "shared.safetensors", path / "shared.safetensors")
    with pytest.raises(CheckpointError, match=r"shared\.safetensors was altered after it was written"):
        there.latest()


def test_an_earlier_round_cannot_be_shown_as_a_later_one(tmp_path):
    there, path = saved(tmp_path, 1, 2)
    shutil.copytree(path, path.with_name("round-00009"))
    with pytest.raises(CheckpointError, match="round-00009: altered after"):
        there.latest()


def test_a_checkpoint_of_an_earlier_version_is_accepted_once(tmp_path, caplog):
    there, path = saved(tmp_path, 1)
    (tmp_path / ".seal.key").unlink()
    rewritten(path / "state.safetensors", stripped)
    assert there.latest().round == 1
    assert f"checkpoint {path} has no seal: an earlier version wrote it" in caplog.text
    saved(tmp_path, 2)
    caplog.clear()
    assert there.latest().round == 2
    assert caplog.text == ""


def test_a_copy_elsewhere_is_read_without_its_key(tmp_path):
    there, _ = saved(tmp_path, 1)
    (tmp_path / ".seal.key").unlink()
    with pytest.raises(CheckpointError, match=r"its seal cannot be checked: \S+/\.seal\.key is missing"):
        there.latest()
    assert there.latest(elsewhere=True).round == 1


# Whole runs.


class Stopped(Exception):
    pass


def test_a_run_is_not_resumed_from_an_altered_checkpoint(make_config):
    config = make_config(threads=1, rounds=2, name="altered")

    def stop(event):
        if event["event"] == "fit" and event["round"] == 2:
            raise Stopped

    experiment = Experiment(config)
    with pytest.raises(Stopped):
        experiment.run(stop)
    path = experiment.folder.checkpoints / "round-00001" / "adapter_model.safetensors"
    found = load_file(path)
    key = next(iter(found))
    save_file(found | {key: found[key] + 1}, path, metadata={"format": "pt"})
    with pytest.raises(ExperimentError, match=r"round-00001: adapter_model\.safetensors was altered") as told:
        Experiment(config).run(resume=True)
    assert "\n" not in str(told.value)
    with pytest.raises(ExperimentError, match="was altered"):
        Experiment(config).evaluate("test")
    summary = Experiment(config).run(resume=True, accept_changes=True)
    assert {"round": 1, "what": ["checkpoints"]} in summary["changes"]


def test_a_client_does_not_go_on_from_an_altered_state(make_config):
    config = make_config(threads=1, rounds=2, name="altered-client", **{"runtime.jobs": 1})
    place = Experiment(config).folder.clients / "ann" / "round-0001.safetensors"

    def alter(event):
        if event["event"] == "round" and event["round"] == 1:
            content = bytearray(place.read_bytes())
            content[8 + struct.unpack("<Q", content[:8])[0]] ^= 1
            place.write_bytes(content)

    with pytest.raises(StoreError, match="altered after it was written"):  # at the end, when it answers samples
        Experiment(config).run(alter)
    failed = [line["failed"] for line in Experiment(config).folder.read_metrics() if "failed" in line]
    assert any(str(place) in reason and "altered after it was written: its seal" in reason for reason in failed), failed


def test_a_client_whose_disk_is_as_it_was_a_round_ago_says_so_and_goes_on(make_config, caplog):
    config = make_config(threads=1, rounds=3, name="backup", **{"runtime.jobs": 1})
    folder = Experiment(config).folder

    def put_back(event):
        if event["event"] == "round" and event["round"] == 2:
            (folder.clients / "ann" / "round-0002.safetensors").unlink()

    summary = Experiment(config).run(put_back)
    told = [record.getMessage() for record in caplog.records if "older backup" in record.getMessage()]
    assert told == [
        "client ann: its newest state is from round 1, but the server has its training of round 2: restored from "
        "an older backup? It continues from the state it has"
    ]
    assert (summary["failed"], summary["refused"]) == (0, 0)
    found = PersonalStore(folder.clients, "ann").read(3)
    assert found[2]["previous"] == 1
