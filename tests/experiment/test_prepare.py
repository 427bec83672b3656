"""Prepared folders hold the same data as published files, decoded once, also after interruptions and damage."""

import errno
import json
import os
import pickle
import shutil
from pathlib import Path

import numpy as np
import pytest
from published_tree import write_published

from feddat.benchmarks import BenchmarkError, about_benchmark, load_benchmark
from feddat.benchmarks.draw import Sizes
from feddat.benchmarks.prepared import Request, is_prepared, load_prepared
from feddat.config import RunConfig
from feddat.data.cache import EncodedImage
from feddat.example import DataError
from feddat.experiment import Experiment, ExperimentError, Study
from feddat.experiment import prepare as prepare_module
from feddat.experiment.prepare import prepare
from feddat.models.catalog import load_encoder
from feddat.models.encoding import encode_image
from feddat.models.vilt.encoder import ViltEncoder
from feddat.pictures import PictureReader
from helpers import make_tiny_vilt

SIZES = Sizes(12, 6, 100)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return make_tiny_vilt(tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    return write_published(tmp_path_factory.mktemp("published"), "paper/task")


@pytest.fixture
def request_(published, model):
    return Request("paper/task", published, str(model), sizes=SIZES)


@pytest.fixture(scope="module")
def done(published, model, tmp_path_factory):
    """The folder of an undisturbed preparation; tests must not change it."""
    folder = tmp_path_factory.mktemp("done") / "task"
    prepare(Request("paper/task", published, str(model), sizes=SIZES), folder, jobs=1)
    return folder


def contents(folder: Path) -> dict:
    """Return all questions of a prepared folder by client, with pixels."""
    return {
        client.name: [
            (split, e.id, e.text, e.answers, e.choices, e.label, [image.tobytes() for image in e.images])
            for split in ("train", "validation", "test")
            for e in client.split(split)
        ]
        for client in load_prepared(folder)[1]
    }


def shard_files(folder: Path) -> dict[Path, int]:
    return {path: path.stat().st_mtime_ns for path in folder.rglob("*.safetensors")}


def no_decoding(*arguments, **more):
    raise AssertionError("an image was decoded")


def test_a_prepared_folder_is_described_as_its_federation(done, tmp_path):
    about = about_benchmark(str(done))
    assert about == about_benchmark("paper/task") and about.differs == "the task, its head and its loss"
    with pytest.raises(BenchmarkError, match="unknown benchmark"):
        about_benchmark(str(tmp_path))


def test_a_study_has_only_points_that_prepared_clients_reach(done):
    study = Study.parse("examples=6,12,13,50").fitted(RunConfig(benchmark=str(done)))
    assert study.values == (6, 12) and study.reach.short == {}
    (left_out,) = study.reach.notes
    assert left_out == "Left out: 13, 50 (no client has so many training examples; vqa has the most, 12)."


def test_a_prepared_folder_holds_what_drawing_gives(done, published, model):
    drawn = load_benchmark("paper/task", 0, SIZES.train, SIZES.test, published)
    prepared = load_benchmark(str(done))
    encoder = load_encoder(str(model))
    assert [client.name for client in prepared.clients] == ["vqa", "nlvr2", "snli-ve", "vcr"]
    for one, other in zip(drawn.clients, prepared.clients, strict=True):
        assert (one.task, one.answers, one.description) == (other.task, other.answers, other.description)
        for split in ("train", "validation", "test"):
            for a, b in zip(one.split(split), other.split(split), strict=True):
                assert (a.id, a.text, a.answers, a.choices, a.label) == (b.id, b.text, b.answers, b.choices, b.label)
                for image, encoded in zip(a.images, b.images, strict=True):
                    assert isinstance(encoded, EncodedImage)
                    assert np.array_equal(encode_image(encoder, image, PictureReader()), encoded.encoded)


def test_counts_say_what_became_of_every_question(done):
    clients = json.loads((done / "prepare.json").read_text())["clients"]
    counts = clients["snli-ve"]["counts"]
    assert counts["train"]["published"] + counts["validation"]["published"] == 40
    assert counts["train"]["skipped"] == {"without a gold label": 1}
    assert (counts["train"]["kept"], counts["validation"]["kept"], counts["test"]["kept"]) == (12, 1, 6)


def test_a_run_over_a_prepared_folder_decodes_nothing(done, model, tmp_path, monkeypatch):
    monkeypatch.setattr(PictureReader, "_decode", no_decoding)
    tokenised, tokenise = [], ViltEncoder.texts

    def note(self, texts):
        if texts == ["what ?"]:  # loading a model encodes this question
            return tokenise(self, texts)
        return tokenised.extend(texts) or []

    monkeypatch.setattr(ViltEncoder, "texts", note)
    before = shard_files(done)
    values = {"benchmark": str(done), "model": str(model), "runs_dir": tmp_path, "rounds": 1, "threads": 1}
    # The samples for the report would be tokenised.
    monkeypatch.setattr("feddat.experiment.single.rounds.write_samples", lambda *arguments: [])
    experiment = Experiment.load(None, **values)
    summary = experiment.run()
    assert set(summary["clients"]) == {"vqa", "nlvr2", "snli-ve", "vcr"}
    assert experiment.config.run_name == "feddat-task-s0"
    assert shard_files(done) == before and not tokenised


def test_a_name_of_the_paper_finds_the_prepared_folder_below_root(done):
    named, direct = load_benchmark("paper/task", root=done.parent), load_benchmark(str(done))
    assert (named.name, direct.name) == ("paper/task", str(done))
    for one, other in zip(named.clients, direct.clients, strict=True):
        assert [e.id for e in one.train] == [e.id for e in other.train]


def test_caps_apply_to_a_prepared_folder(done, model, tmp_path):
    from feddat.config import load_config
    from feddat.experiment import load_clients

    clients = load_clients(load_config(benchmark=str(done), train_examples=5, test_examples=2))
    assert {(len(c.train), len(c.validation), len(c.test)) for c in clients} == {(5, 1, 2)}


def test_another_model_is_refused_before_anything_starts(done, tmp_path):
    other = make_tiny_vilt(tmp_path / "other", words=["more"])
    experiment = Experiment.load(None, benchmark=str(done), model=str(other), runs_dir=tmp_path / "runs")
    with pytest.raises(DataError, match=r"client nlvr2: prepared for another image processor or tokenizer"):
        experiment.run()


class Stopped(Exception):
    pass


def test_an_interrupted_preparation_goes_on_where_it_was(done, request_, tmp_path, monkeypatch):
    monkeypatch.setattr("feddat.data.cache.SHARD_IMAGES", 3)
    folder = tmp_path / "task"

    def stop(event):
        if event.get("done") == 6:
            raise Stopped

    with pytest.raises(Stopped):
        prepare(request_, folder, jobs=1, progress=stop)
    before = shard_files(folder)
    assert len(before) >= 2
    assert not is_prepared(folder, request_)
    with pytest.raises(DataError, match="`feddat data prepare` has not finished this folder"):
        load_prepared(folder)
    monkeypatch.setattr(prepare_module, "draw_client", no_decoding)  # the questions have already been drawn
    prepare(request_, folder, jobs=1)
    after = shard_files(folder)
    assert len(after) > len(before) and after.items() >= before.items()
    assert contents(folder) == contents(done)
    assert is_prepared(folder, request_)


@pytest.mark.slow
def test_worker_processes_give_the_same(done, request_, tmp_path, monkeypatch):
    monkeypatch.setattr(prepare_module, "IMAGES_PER_WORKER", 10)
    prepare(request_, tmp_path / "task", jobs=2)
    assert contents(tmp_path / "task") == contents(done)


def test_what_workers_are_given_can_be_sent_and_their_failure_is_told(done, request_, tmp_path, monkeypatch):
    """The tasks are pickled but run in this process, since new processes take long to load their libraries."""
    sent = []

    def run_here(function, tasks, jobs, on_event):
        sent.append(jobs)
        for name, task in tasks.items():
            function(pickle.loads(pickle.dumps(task)), lambda event, name=name: on_event(name, event))

    monkeypatch.setattr(prepare_module, "IMAGES_PER_WORKER", 10)
    monkeypatch.setattr(prepare_module, "run_parallel", run_here)
    prepare(request_, tmp_path / "task", jobs=2)
    assert sent == [2]
    assert contents(tmp_path / "task") == contents(done)

    monkeypatch.setattr("os.sched_getaffinity", lambda pid: {0, 2, 3})
    prepare(request_, tmp_path / "default")
    assert sent == [2, 3], "one process per core that this one may use"

    def died(function, tasks, jobs, on_event):
        on_event(next(iter(tasks)), {"event": "failure", "reason": "its process ended (exit code -9)"})

    monkeypatch.setattr(prepare_module, "run_parallel", died)
    with pytest.raises(DataError, match=r"client vqa: its process ended \(exit code -9\)"):
        prepare(request_, tmp_path / "other", jobs=2)


@pytest.mark.parametrize("name", ["vqa/train.jsonl", "vcr/client.json", "nlvr2/**/images/*.safetensors"])
@pytest.mark.parametrize("harm", ["cut", "remove"])
def test_damage_is_found_and_mended(done, request_, tmp_path, name, harm):
    folder = tmp_path / "task"
    shutil.copytree(done, folder)
    (path,) = folder.glob(name)
    if harm == "cut":
        path.write_bytes(path.read_bytes()[:-2])
    else:
        path.unlink()
    assert not is_prepared(folder, request_)
    with pytest.raises(DataError, match=r"prepare the data again|cannot be read"):
        load_prepared(folder)
    prepare(request_, folder, jobs=1)
    assert contents(folder) == contents(done)
    assert is_prepared(folder, request_)


def test_a_folder_of_something_else_is_left_alone(done, request_, tmp_path):
    (tmp_path / "thesis.txt").write_text("x")
    with pytest.raises(ExperimentError, match="not empty and not prepared by"):
        prepare(request_, tmp_path)
    with pytest.raises(ExperimentError, match="not empty and not prepared by"):
        prepare(request_, tmp_path, overwrite=True)
    assert (tmp_path / "thesis.txt").exists()


def test_another_request_needs_overwrite(done, published, model, tmp_path):
    folder = tmp_path / "task"
    shutil.copytree(done, folder)
    other = Request("paper/task", published, str(model), seed=1, sizes=SIZES)
    with pytest.raises(ExperimentError, match=r"prepared with other settings: seed differ; replace it \(--overwrite\)"):
        prepare(other, folder)
    assert contents(folder) == contents(done)
    prepare(other, folder, jobs=1, overwrite=True)
    assert contents(folder) != contents(done)
    assert load_prepared(folder)[0]["request"]["seed"] == 1


def test_images_that_cannot_be_decoded_are_named_or_counted(done, model, tmp_path):
    root = write_published(tmp_path / "root", "paper/task")
    request = Request("paper/task", root, str(model), sizes=SIZES)
    record = json.loads((done / "vqa" / "test.jsonl").read_text().splitlines()[0])
    broken = (
        root
        / "vqav2"
        / Path(record["images"][0]["file"]).relative_to(load_prepared(done)[0]["request"]["root"] + "/vqav2")
    )
    broken.write_bytes(b"no image")
    folder = tmp_path / "task"
    with pytest.raises(DataError, match=rf"client vqa: image .*{broken.name}: cannot be decoded"):
        prepare(request, folder, jobs=1)
    manifest = prepare(request, folder, jobs=1, skip_bad=True)
    counts = manifest["clients"]["vqa"]["counts"]["test"]
    assert (counts["drawn"], counts["broken"], counts["kept"]) == (6, 1, 5)
    assert len(load_prepared(folder)[1][0].test) == 5
    assert is_prepared(folder, request)


def test_a_full_disk_is_one_line_and_the_same_command_goes_on(done, request_, tmp_path, monkeypatch):
    folder = tmp_path / "task"
    replace = Path.replace

    def full(self, other):
        if other.suffix == ".safetensors":
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(other))
        return replace(self, other)

    monkeypatch.setattr(Path, "replace", full)
    with pytest.raises(DataError, match="No space left on device; other shards are kept; run the same command to con"):
        prepare(request_, folder, jobs=1)
    monkeypatch.setattr(Path, "replace", replace)
    prepare(request_, folder, jobs=1)
    assert contents(folder) == contents(done)


def test_the_paper_needs_a_root():
    with pytest.raises(BenchmarkError, match=r"benchmark paper/task: give root=DIR, .* or prepare them once"):
        load_benchmark("paper/task")


def test_own_data_is_encoded_once(make_config, tmp_path, monkeypatch):
    config = make_config(data_cache=str(tmp_path / "cache"), name="first")
    first = Experiment(config).run()
    monkeypatch.setattr("feddat.models.vilt.encoder.ViltEncoder.image", no_decoding)
    monkeypatch.setattr("feddat.experiment.single.rounds.write_samples", lambda *arguments: [])
    second = Experiment(make_config(data_cache=str(tmp_path / "cache"), name="second")).run()
    assert second["clients"] == first["clients"]
    assert sorted(path.name for path in (tmp_path / "cache").iterdir()) == ["ann", "bob"]
