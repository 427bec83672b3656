"""Datasets named on the Hub, and federations made of them, with a stand-in for the Hub on the loopback address."""

import json
import logging
from dataclasses import asdict
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from data.readers.layouts import NAMES, write_image
from feddat.benchmarks import load_benchmark
from feddat.benchmarks.medical import DATASETS, MEDICAL, pin_revisions, questions
from feddat.benchmarks.sites import split_sites
from feddat.config import load_config
from feddat.data.cache import image_key
from feddat.data.readers import read_client
from feddat.data.readers.hub_data import pin_data
from feddat.data.readers.shards import find_shards
from feddat.example import ClientData, DataError, Example
from feddat.experiment import Experiment, pinned
from feddat.hub.client import cache_folder
from hub_data import add_parquet, add_slake, picture, row, shard
from hub_server import HubServer

RAD = DATASETS["vqa-rad"].repository
COLUMNS = {"image": "image", "question": "string", "answer": "string"}


@pytest.mark.parametrize(
    ("files", "found"),
    [
        (["data/train-00000-of-00001.parquet", "data/test-00000-of-00001.parquet"], {"train": 1, "test": 1}),
        (["data/train-00001-of-00002.parquet", "data/train-00000-of-00002.parquet", "README.md"], {"train": 2}),
        (["default/train/0000.parquet", "default/validation/0000.parquet"], {"train": 1, "validation": 1}),
        (["en/train/0000.parquet", "default/train/0000.parquet", "default/test/0.parquet"], {"train": 1, "test": 1}),
        (["val.parquet", "train.parquet"], {"train": 1, "validation": 1}),
        (["one.parquet", "two.parquet"], {"train": 2}),
        (["train.json"], {}),
        (
            ["data/train-0.parquet", "data/test-0.parquet", "old/train/0.parquet", "x/y/z.parquet"],
            {"train": 1, "test": 1},
        ),
        (["x/y/z.parquet", "one.parquet"], {"train": 1}),
        (["a/b/0.parquet", "other/train/0.parquet"], {"train": 1}),
    ],
)
def test_splits_are_known_by_folder_or_name(files: list[str], found: dict[str, int]) -> None:
    shards = find_shards(files)
    assert {split: len(paths) for split, paths in shards.items()} == found
    assert all(paths == sorted(paths) for paths in shards.values())


def test_a_card_says_which_files_a_split_has() -> None:
    configs = (
        {"config_name": "b", "data_files": "b/*.parquet"},
        {"config_name": "a", "default": True, "data_files": [{"split": "raw", "path": ["x/*.parquet", "y.parquet"]}]},
    )
    files = ("x/1.parquet", "y.parquet", "b/1.parquet", "x/0.parquet")
    assert find_shards(files, configs) == {"raw": ["x/0.parquet", "x/1.parquet", "y.parquet"]}
    assert find_shards(files, configs, "b") == {"train": ["b/1.parquet"]}
    assert find_shards(files, configs, "c") == {}


def test_a_client_names_a_dataset(
    hub: HubServer, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    commit = add_parquet(hub, "vqa-rad", {"train": 20, "test": 6})
    spec = {"format": "hf", "root": RAD}
    monkeypatch.setattr(logging.getLogger("feddat"), "propagate", True)  # commands detach it from the root logger
    with caplog.at_level(logging.INFO, "feddat.data"):
        client = read_client("radiology", spec)
    assert "columns taken as image=image, question=question, answers=answer" in caplog.text
    assert (len(client.train), len(client.validation), len(client.test)) == (18, 2, 6)
    assert client.test[0].images[0] == picture(11)
    assert client.test[2].answers == {"lung": 1.0}
    # Two questions about one picture share its bytes.
    assert client.test[0].images[0] is client.test[1].images[0]
    assert pin_data(spec) == {"format": "hf", "root": f"{RAD}@{commit}"}
    again = read_client("radiology", pin_data(spec))
    assert [e.text for e in again.test] == [e.text for e in client.test]


NUMBERED = [{"data_files": [{"split": "raw", "path": "data/0*"}, {"split": "test", "path": "data/1*"}]}]


@pytest.mark.parametrize(
    ("files", "configs", "named"),
    [
        ({"data/train-0.parquet": 9, "data/validation-0.parquet": 5, "data/test-0.parquet": 4}, None, {}),
        ({"data/train-0.parquet": 9, "data/train-1.parquet": 8, "val.parquet": 4}, None, {}),
        ({"default/train/0000.parquet": 9, "default/test/0000.parquet": 4, "other/train/0.parquet": 7}, None, {}),
        ({"data/00.parquet": 9, "data/10.parquet": 4}, NUMBERED, {"train": "raw"}),
    ],
)
def test_a_folder_gives_what_the_hub_gives(
    hub: HubServer, tmp_path: Path, files: dict[str, int], configs: list | None, named: dict[str, str]
) -> None:
    columns = {"id": "string"} | COLUMNS
    rows = [row(number, number // 2, columns) for number in range(40)]
    starts = range(0, 40, 10)
    content = {
        path: shard(rows[start : start + count], columns)
        for start, (path, count) in zip(starts, files.items(), strict=False)
    }
    card = {"license": "mit"} | ({"configs": configs} if configs else {})
    content["README.md"] = f"---\n{json.dumps(card)}\n---\n# A dataset\n".encode()
    hub.add("dataset", "a/set", content, card=card)
    for path, data in content.items():
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_bytes(data)
    expected, found = (read_client("c", {"format": "hf", "root": root} | named) for root in ("a/set", str(tmp_path)))
    assert asdict(found) == asdict(expected)
    assert len(found.test) == 4


@pytest.mark.parametrize(
    "card",
    [b"---\nconfigs: [\n---\n", b"---\nA table\n---\n", "\u00e9t\u00e9".encode("latin-1"), "notes".encode("utf-16")],
)
def test_a_readme_that_is_no_card_does_not_matter(
    tmp_path: Path, card: bytes, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logging.getLogger("feddat"), "propagate", True)  # commands detach it from the root logger
    for split in ("train", "test"):
        (tmp_path / f"{split}.parquet").write_bytes(shard([row(1, 1, COLUMNS)] * 3, COLUMNS))
    (tmp_path / "README.md").write_bytes(card)
    assert len(read_client("c", {"format": "hf", "root": str(tmp_path)}).test) == 3
    assert "README.md: its YAML cannot be read" in caplog.text


@pytest.mark.parametrize("data_files", [5, [5], [{"split": "train", "path": 5}], [{"split": "train"}], [[]], {}])
def test_entries_of_a_card_that_name_no_files_are_left_out(data_files: object) -> None:
    assert find_shards(["data/train-0.parquet"], [{"data_files": data_files}]) == {"train": ["data/train-0.parquet"]}


def test_a_revision_that_moved_is_another_dataset(hub: HubServer, make_config, world: Path) -> None:
    first = add_parquet(hub, "vqa-rad", {"train": 20, "test": 6})
    clients = {"radiology": {"format": "hf", "root": RAD}}
    experiment = Experiment(make_config(clients=clients, rounds=1))
    summary = experiment.run()
    assert experiment.folder.read_config().clients == {"radiology": {"format": "hf", "root": f"{RAD}@{first}"}}
    assert summary["kinds"].keys() == {"radiology"}
    second = add_parquet(hub, "vqa-rad", {"train": 24, "test": 6})
    assert first != second
    assert Experiment.open(experiment.folder.path).run(resume=True) == summary
    held = clients["radiology"] | {"root": f"{RAD}@{first}"}
    assert len(read_client("c", clients["radiology"]).train) > len(read_client("c", held).train)
    with pytest.raises(Exception, match=r"clients\.radiology\.root differ"):
        Experiment(make_config(clients=clients, rounds=1)).run(resume=True)


def test_offline_a_warm_cache_serves_and_a_cold_one_says_so(hub: HubServer, monkeypatch: pytest.MonkeyPatch) -> None:
    add_parquet(hub, "vqa-rad", {"train": 20, "test": 6})
    spec = {"format": "hf", "root": RAD}
    online = read_client("c", spec)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    before = len(hub.asked)
    assert pin_data(spec)["root"].startswith(f"{RAD}@")
    offline = read_client("c", spec)
    assert [e.images for e in offline.test] == [e.images for e in online.test]
    with pytest.raises(DataError, match=r"client 'c': a/b: not in .*cache, and HF_HUB_OFFLINE is set; pull it once"):
        read_client("c", {"format": "hf", "root": "a/b"})
    assert len(hub.asked) == before


def test_what_is_not_there_is_one_line(hub: HubServer, tmp_path: Path) -> None:
    add_parquet(hub, "vqa-rad", {"train": 20, "test": 6})
    hub.add("dataset", "a/json", {"train.json": b"[]", "README.md": b""})
    hub.add("dataset", "a/gated", {"data/train-0.parquet": b"x", "data/test-0.parquet": b"x"}, gated=True)
    odd = {"picture": "image", "words": "string"}
    table = [{"picture": {"bytes": picture(0), "path": None}, "words": "x"}]
    hub.add("dataset", "a/odd", {f"{split}.parquet": shard(table, odd) for split in ("train", "test")})
    for spec, said in (
        ({"root": "a/b"}, f"a/b: no such dataset at {hub.url}, or it is private and no token was sent"),
        ({"root": RAD, "test": "dev"}, f"{RAD}: no split 'dev' in Parquet files; splits are test, train"),
        ({"root": f"{RAD}@v9"}, f"{RAD}: has no revision 'v9'"),
        ({"root": "a/json"}, "a/json: no Parquet files, and the Hub has converted none"),
        ({"root": "a/gated"}, "a/gated: its owner restricts access to this dataset; request access on http"),
        ({"root": "hf://models/a/b"}, "hf://models/a/b: names a model; expected a dataset"),
    ):
        with pytest.raises(DataError) as error:
            read_client("c", {"format": "hf"} | spec)
        assert str(error.value).startswith(f"client 'c': {said}")
        assert "\n" not in str(error.value)
    with pytest.raises(DataError, match=r"no column looks like 'question' \(columns: picture, words\); name it"):
        read_client("c", {"format": "hf", "root": "a/odd"})


def test_a_dataset_without_parquet_is_taken_as_the_hub_converted_it(hub: HubServer) -> None:
    hub.add("dataset", "a/folder", {"images/1.png": b"x", "README.md": b""})
    rows = [row(number, number, COLUMNS) for number in range(6)]
    files = {f"default/{split}/0000.parquet": shard(rows, COLUMNS) for split in ("train", "test")}
    commit = hub.add("dataset", "a/folder", files, revision="refs/convert/parquet")
    spec = {"format": "hf", "root": "a/folder"}
    assert len(read_client("c", spec).test) == 6
    assert pin_data(spec)["root"] == f"a/folder@{commit}"
    assert len(read_client("c", pin_data(spec)).test) == 6


def test_files_of_the_hub_stand_for_files(hub: HubServer, tmp_path: Path) -> None:
    lines = "".join(
        json.dumps({"image": f"{i}.png", "question": "?", "answers": NAMES[i % 3]}) + "\n" for i in range(4)
    )
    for i in range(4):
        write_image(tmp_path / f"{i}.png", i)
    pictures = {f"pictures/{i}.png": (tmp_path / f"{i}.png").read_bytes() for i in range(4)}
    hub.add("dataset", "a/lines", {"train.jsonl": lines.encode(), "other.bin": b"x" * 999} | pictures)
    place = "hf://datasets/a/lines@main"
    (tmp_path / "c.yaml").write_text(
        f"clients: {{c: {{train: '{place}/train.jsonl', test: '{place}/train.jsonl', images: '{place}/pictures'}}}}"
    )
    config = load_config(tmp_path / "c.yaml")
    assert config.clients is not None
    client = read_client("c", config.clients["c"])
    assert [e.answers for e in client.test] == [{name: 1.0} for name in (*NAMES, "red")]
    assert not [path for path in hub.paths() if path.endswith("other.bin")]
    pin = pinned(config).clients
    assert pin is not None and pin["c"]["train"].endswith("/train.jsonl") and len(pin["c"]["train"].split("@")[1]) > 40
    with pytest.raises(DataError, match=r"client 'c': train: .*no such file in the repository"):
        read_client("c", config.clients["c"] | {"train": f"{place}/nothing.jsonl"})


def test_links_of_the_cache_are_followed_and_no_others(hub: HubServer, tmp_path: Path) -> None:
    write_image(tmp_path / "0.png", 0)
    line = json.dumps({"image": "0.png", "question": "?", "answers": "red"}) + "\n"
    hub.add(
        "dataset", "a/lines", {"train.jsonl": 2 * line.encode(), "pictures/0.png": (tmp_path / "0.png").read_bytes()}
    )
    place = "hf://datasets/a/lines@main"
    spec = {"train": f"{place}/train.jsonl", "test": f"{place}/train.jsonl", "images": f"{place}/pictures"}
    (path,) = {example.images[0] for example in read_client("c", spec).test}
    assert isinstance(path, Path) and path.is_symlink()
    # If the library keeps the files of all repositories in one place, a repository's own blobs are links, too.
    blob, shared = path.resolve(), cache_folder() / "blobs" / "ab" / "cd"
    shared.parent.mkdir(parents=True)
    blob.rename(shared)
    blob.symlink_to(shared)
    assert path.resolve() == shared
    assert read_client("c", spec).test[0].images == (path,)
    path.unlink()
    path.symlink_to(tmp_path / "0.png")
    with pytest.raises(DataError, match="lies outside the images folder"):
        read_client("c", spec)


#: From the datasets' cards on the Hub: columns, numbers of questions by split, licence.
CARDS = {
    "vqa-rad": (
        {"image": "image", "question": "string", "answer": "string"},
        {"train": 1793, "test": 451},
        "cc0-1.0",
    ),
    "pathvqa": (
        {"image": "image", "question": "string", "answer": "string"},
        {"train": 19654, "validation": 6259, "test": 6719},
        "mit",
    ),
    "kvasir": (
        {"image": "image", "source": "string", "question": "string", "answer": "string", "img_id": "string"},
        {"raw": 58849},
        "cc-by-nc-4.0",
    ),
}


@pytest.mark.parametrize("name", CARDS)
def test_tables_of_the_published_schema_are_read(hub: HubServer, name: str) -> None:
    columns, splits, licence = CARDS[name]
    dataset = DATASETS[name]
    assert (dict(dataset.columns), dict(dataset.questions)) == (columns, splits)
    assert dataset.licence.lower().startswith(licence)
    table = [row(number, number // 2, columns) for number in range(12)]
    files = {f"data/{split}-00000-of-00001.parquet": shard(table, columns) for split in splits}
    hub.add("dataset", dataset.repository, files, card={"configs": [
        {"data_files": [{"split": split, "path": f"data/{split}-*"} for split in splits]}
    ]})  # fmt: skip
    first, last = next(iter(splits)), list(splits)[-1]
    client = read_client("c", {"format": "hf", "root": dataset.repository, "train": first, "test": last})
    assert [example.text for example in client.test[:3]] == ["is it yes ?", "is it no ?", "what is it ?"]
    assert [dict(example.answers) for example in client.test[:2]] == [{"yes": 1.0}, {"no": 1.0}]
    assert client.test[3].images[0] == picture(1)
    assert client.test[0].meta.get("img_id") == ("img0" if "img_id" in columns else None)


@pytest.fixture
def medical(hub: HubServer, tmp_path: Path) -> HubServer:
    """A Hub with small versions of all medical datasets."""
    add_parquet(hub, "vqa-rad", {"train": 40, "test": 12})
    add_parquet(hub, "pathvqa", {"train": 40, "validation": 8, "test": 12})
    add_parquet(hub, "kvasir", {"raw": 80})
    add_slake(hub, tmp_path / "slake", {"train": 180, "validation": 60, "test": 60})
    return hub


def images(examples: tuple[Example, ...]) -> set[bytes]:
    return {image_key(example.images[0]) for example in examples}


@pytest.mark.parametrize("name", list(MEDICAL))
def test_federations_of_the_hub_keep_published_splits(medical: HubServer, name: str) -> None:
    revisions = pin_revisions(name)
    federation = load_benchmark(name, revisions=revisions)
    clients = {client.name: client for client in federation.clients}
    for client in clients.values():
        assert client.train and client.validation and client.test
        assert not images(client.train) & images(client.test)
        assert not images(client.train) & images(client.validation)
        assert {example.meta["answer_type"] for example in client.test} <= {"open", "closed"}
        assert set(client.answers) <= {"yes", "no", "lung", "liver"}
    again = load_benchmark(name, revisions=revisions)
    assert [[e.id for e in client.train] for client in again.clients] == [
        [e.id for e in client.train] for client in federation.clients
    ]
    if name == "medical/vqa":
        assert {n: len(c.test) for n, c in clients.items() if n != "kvasir"} == {
            "vqa-rad": 12,
            "slake": 60,
            "pathvqa": 12,
        }
        assert len(clients["pathvqa"].train) == 40
        whole = clients["kvasir"]
        assert len(whole.train) + len(whole.validation) + len(whole.test) == 80
    if name == "medical/modality":
        assert {e.meta["modality"] for e in clients["ct"].train} == {"CT"}
    if name == "medical/sites":
        assert list(clients) == [f"hospital-{number}" for number in range(1, 6)]
        ids = [e.id for client in clients.values() for e in client.train]
        assert len(ids) == len(set(ids)) == 180
        other = load_benchmark(name, seed=1, revisions=revisions)
        assert [len(c.train) for c in other.clients] != [len(c.train) for c in federation.clients]


def test_a_revision_of_a_named_federation_is_held(medical: HubServer, make_config) -> None:
    config = make_config(clients=None, benchmark="medical/small", rounds=1, train_examples=8, test_examples=12)
    experiment = Experiment(config)
    summary = experiment.run()
    held = experiment.folder.read_config().revisions
    assert held is not None and held.keys() == {
        dataset.repository for dataset in MEDICAL["medical/small"].datasets().values()
    }
    assert summary["kinds"]["slake"].keys() == {"closed", "open"}
    for client, kinds in summary["kinds"].items():
        own = summary["clients"][client]["dat"]
        assert min(kinds.values()) - 1e-6 <= own <= max(kinds.values()) + 1e-6
    page = experiment.folder.report_file.read_text()
    assert "By kind of question" in page and "slake, closed" in page
    add_parquet(medical, "vqa-rad", {"train": 44, "test": 12})
    assert Experiment.open(experiment.folder.path).run(resume=True) == summary
    with pytest.raises(Exception, match=r"revisions.* differ"):
        Experiment(config).run(resume=True)


def test_numbers_of_questions_are_those_of_the_cards() -> None:
    assert questions("medical/vqa", None, None) == (1793 + 4919 + 19654 + 58849, 451 + 1061 + 6719 + 11770)
    assert questions("medical/small", 1200, 450) == (3600, 1350)
    assert questions("medical/sites", 100, 50) == (500, 250)


def client_of(counts: list[int]) -> ClientData:
    """Return a client with ``counts[i]`` images of label i and two questions per image, in every split."""
    made = {}
    for split in ("train", "validation", "test"):
        made[split] = tuple(
            Example(f"{split}-{label}-{i}-{q}", (f"{split}-{label}-{i}".encode(),), "?", {"x": 1.0}, (), None,
                    {"location": str(label)})
            for label, count in enumerate(counts) for i in range(count) for q in range(2)
        )  # fmt: skip
    return ClientData("h", "vqa", made["train"], made["validation"], made["test"])


@given(st.lists(st.integers(30, 60), min_size=2, max_size=4), st.integers(0, 99))
def test_every_question_has_one_hospital_and_images_stay_whole(counts: list[int], seed: int) -> None:
    client = client_of(counts)
    sites = split_sites(client, 3, seed, "location")
    for split in ("train", "validation", "test"):
        parts = [site.split(split) for site in sites]
        assert sorted(e.id for part in parts for e in part) == sorted(e.id for e in client.split(split))
        assert len({e.images for part in parts for e in part}) == sum(len({e.images for e in part}) for part in parts)


def test_too_little_for_so_many_hospitals_is_said() -> None:
    with pytest.raises(DataError, match="client h: 8 training questions are too few for 5 different hospitals"):
        split_sites(client_of([2, 2]), 5, 0, "location")
