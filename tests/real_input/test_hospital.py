"""A run over DICOM files from the command line says what it did to the pictures, and leaks no patient's name."""

import json
import logging
import warnings

import numpy as np
import pytest
import torch

from feddat.cli import main
from feddat.config import load_config
from feddat.data.cache import EncodingCache
from feddat.example import DataError
from feddat.experiment import load_clients
from feddat.pictures import PictureReader
from helpers import make_tiny_vilt
from real_input.dicom_files import LOSSLESS, SECRET, dataset, written

QUESTIONS = {"train": 8, "validation": 2, "test": 3}


def scan(number: int, bright: bool) -> bytes:
    """Return a 12-bit scan without a window; the number also chooses its transfer syntax."""
    values = np.random.default_rng(number).integers(0, 1200, (48, 40)).astype(np.uint16)
    made = dataset(values + 1500 * bright, stored=12, PatientName=f"{SECRET}^{number}")
    return written(made, LOSSLESS[number % len(LOSSLESS)])


@pytest.fixture(scope="module")
def hospital(tmp_path_factory):
    """Return a folder with a model, and a clinic's scans with questions about them."""
    root = tmp_path_factory.mktemp("hospital")
    make_tiny_vilt(root / "model")
    (root / "scans").mkdir()
    number = 0
    for split, count in QUESTIONS.items():
        lines = []
        for _ in range(count):
            (root / "scans" / f"{number}.dcm").write_bytes(scan(number, number % 2 == 0))
            answer = "yes" if number % 2 == 0 else "no"
            lines.append({"image": f"{number}.dcm", "question": "is the square blue ?", "answers": answer})
            number += 1
        (root / f"{split}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    files = "".join(f"    {split}: {split}.jsonl\n" for split in QUESTIONS)
    settings = f"model: {root / 'model'}\nrounds: 1\ndata_cache: {root / 'cache'}\n"
    settings += "train: {batch_size: 4}\npictures: {grey: percentiles}\n"
    (root / "clients.yaml").write_text(f"{settings}clients:\n  clinic:\n{files}    images: scans\n")
    return root


def test_a_run_over_scans_tells_what_was_done_once_and_names_nobody(hospital, tmp_path, capfd, caplog):
    torch.set_num_threads(1)
    with (
        caplog.at_level(logging.DEBUG),
        warnings.catch_warnings(record=True) as warned,
        pytest.raises(SystemExit) as end,
    ):
        warnings.simplefilter("always")
        main(["run", "--config", str(hospital / "clients.yaml"), f"runs_dir={tmp_path}", "name=scans"])
    said = capfd.readouterr()
    assert end.value.code == 0, said.err
    folder = tmp_path / "scans"
    lines = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    told = [line["message"] for line in lines if "pictures:" in line["message"]]
    spread = "8 of more than 8 bits: the range between percentiles 0.5 and 99.5 became 0 to 255"
    assert told == [f"client clinic: pictures: {spread}"]
    assert list(folder.glob("predictions/*.png"))
    for path in [*folder.rglob("*"), *(hospital / "cache").rglob("*")]:
        assert not path.is_file() or SECRET.encode() not in path.read_bytes(), path
    heard = [said.out, said.err, caplog.text, *(str(warning.message) for warning in warned)]
    assert not [text for text in heard if SECRET in text]


def test_a_scan_that_cannot_be_read_is_named_and_nobody_else(hospital, capfd, caplog):
    """Damage the header at every fifth byte in turn: no error, log line or warning quotes it."""
    whole = scan(1, True)
    with caplog.at_level(logging.DEBUG), warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        said = []
        for at in range(128, len(whole) - 3840, 5):
            damaged = whole[:at] + SECRET.encode()[:4] + whole[at + 4 :]
            try:
                PictureReader().read(damaged)
            except DataError as error:
                said.append(str(error))
    assert said
    heard = [*said, caplog.text, *capfd.readouterr(), *(str(warning.message) for warning in warned)]
    for text in heard:
        assert SECRET[:4] not in text and "^1" not in text


# Settings of the run and of a client


def yaml_of(hospital, tmp_path, more: str):
    text = (hospital / "clients.yaml").read_text().replace(": scans", f": {hospital / 'scans'}")
    for split in QUESTIONS:
        text = text.replace(f" {split}.jsonl", f" {hospital / split}.jsonl")
    (tmp_path / "clients.yaml").write_text(text + more)
    return tmp_path / "clients.yaml"


def test_a_clients_own_settings_come_before_the_runs(hospital, tmp_path):
    own = yaml_of(hospital, tmp_path, "    pictures: {frame: middle, max_pixels: 99}\n")
    (clinic,) = load_clients(load_config(own, ["pictures.pad=true"]))
    settings = clinic.pictures
    assert (settings.grey, settings.frame, settings.max_pixels, settings.pad) == ("percentiles", "middle", 99, True)
    with pytest.raises(DataError, match=r"0\.dcm: 40 x 48 pixels are more than pictures\.max_pixels \(99\) allows"):
        PictureReader(settings).read(clinic.train[0].images[0])


@pytest.mark.parametrize(
    ("own", "wanted"),
    [
        ("{greys: declared}", r"client 'clinic': pictures: unknown key 'greys'; known: max_pixels, truncated, grey"),
        ("{grey: loud}", r"client 'clinic': pictures: grey: Input should be 'declared' or 'percentiles'$"),
        ("{frame: 0}", r"client 'clinic': pictures: frame: "),
        ("7", r"client 'clinic': pictures: expected keys and values, got 7$"),
    ],
)
def test_settings_that_cannot_be_used_are_named(hospital, tmp_path, own, wanted):
    with pytest.raises(DataError, match=wanted) as caught:
        load_clients(load_config(yaml_of(hospital, tmp_path, f"    pictures: {own}\n")))
    assert "\n" not in str(caught.value)


def test_what_changes_pixels_has_a_cache_of_its_own(hospital):
    """Settings that only decide whether a picture is read share a cache."""
    from feddat.client.encode import encode_cached
    from feddat.example import View
    from feddat.models.catalog import load_encoder
    from feddat.picture_settings import PictureSettings

    encoder = load_encoder(str(hospital / "model"))
    path = hospital / "scans" / "0.dcm"
    made = {}
    for name, settings in {
        "default": {},
        "limit": {"max_pixels": 5000, "outside": True},
        "grey": {"grey": "percentiles"},
        "frame": {"frame": "middle"},
        "pad": {"pad": True},
        "truncated": {"truncated": True},
    }.items():
        pictures = PictureSettings(**settings)
        cache = EncodingCache(hospital / "other-cache", pictures.fingerprint(encoder.fingerprint))
        views = encode_cached(encoder, [View(path, "a")], cache, PictureReader(pictures))
        made[name] = views.batch([0], torch.device("cpu"))["pixel_values"]
    folders = list((hospital / "other-cache").iterdir())
    assert len(folders) == 5
    assert torch.equal(made["default"], made["limit"]) and not torch.equal(made["default"], made["grey"])


def test_a_prepared_federation_is_read_with_the_settings_that_it_was_prepared_with(tmp_path):
    from PIL import Image

    from data.readers.layouts import write_tree
    from feddat.benchmarks.draw import Sizes
    from feddat.benchmarks.paper import FEDERATIONS
    from feddat.benchmarks.prepared import Request, load_prepared
    from feddat.client.encode import check_encoder
    from feddat.experiment import ExperimentError
    from feddat.experiment.prepare import prepare
    from feddat.models.catalog import encoder_fingerprint
    from feddat.picture_settings import PictureSettings

    model = str(make_tiny_vilt(tmp_path / "model"))
    for part in FEDERATIONS["paper/task"].parts:
        write_tree(part.source, tmp_path / "root" / part.folder, ["train", part.test], 40)
    greys = np.random.default_rng(0).integers(0, 900, (30, 40)).astype(np.uint16)
    for path in (tmp_path / "root").rglob("*.jpg"):
        Image.fromarray(greys).save(path, "png")
    spread = PictureSettings(grey="percentiles")
    request = Request("paper/task", tmp_path / "root", model, 0, Sizes(4, 2, 5), spread)
    prepare(request, tmp_path / "out", jobs=1)
    manifest, clients = load_prepared(tmp_path / "out")
    assert manifest["request"]["pictures"] == {"grey": "percentiles"}
    assert any(client.train[0].images[0].max() > 200 for client in clients)
    encoder = encoder_fingerprint(model)
    check_encoder(clients[0], spread.fingerprint(encoder), model)
    with pytest.raises(DataError, match="or with other settings of `pictures`; use the same"):
        check_encoder(clients[0], encoder, model)
    larger = Request("paper/task", tmp_path / "root", model, 0, Sizes(4, 2, 5), spread.updated({"max_pixels": 10**9}))
    assert prepare(larger, tmp_path / "out", jobs=1)["complete"]  # a limit changes no pixel
    other = Request("paper/task", tmp_path / "root", model, 0, Sizes(4, 2, 5))
    with pytest.raises(ExperimentError, match="prepared with other settings: encoder, pictures differ"):
        prepare(other, tmp_path / "out", jobs=1)
