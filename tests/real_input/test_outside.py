"""Records of every format can name only files in the images folder, unless the owner allows others."""

import csv
import json
from collections import Counter

import pyarrow
import pytest
from PIL import Image
from pyarrow import parquet

from data.readers.layouts import write_tree
from feddat.config import RunConfig, load_config
from feddat.data.readers import read_client
from feddat.data.readers.image_folder import Below, ImageFolder, OutsideError
from feddat.data.readers.published import SOURCES
from feddat.example import DataError
from feddat.picture_settings import PictureSettings
from feddat.site import SiteConfig


@pytest.fixture
def folder(tmp_path):
    """Return an images folder with a picture, a folder, and links to files inside and outside it."""
    images = tmp_path / "client" / "images"
    (images / "sub").mkdir(parents=True)
    for path in (images / "in.png", images / "sub" / "in.png", tmp_path / "out.png", tmp_path / "client" / "near.png"):
        Image.new("RGB", (4, 4)).save(path)
    (images / "link-in.png").symlink_to("sub/in.png")
    (images / "link-out.png").symlink_to(tmp_path / "out.png")
    (images / "link-folder").symlink_to(tmp_path)
    (images / "circle.png").symlink_to("circle.png")
    (tmp_path / "client" / "images-more").mkdir()
    Image.new("RGB", (4, 4)).save(tmp_path / "client" / "images-more" / "x.png")
    return images


INSIDE = ["in.png", "sub/in.png", "./in.png", "sub/../in.png", "link-in.png", "sub//in.png", "{images}/in.png"]
OUTSIDE = ["../near.png", "sub/../../near.png", "link-out.png", "link-folder/out.png", "../images-more/x.png",
           "{top}/out.png", "/etc/hostname", "../nowhere.png"]  # fmt: skip
NOWHERE = ["nowhere.png", "sub", "circle.png", "\0", "x" * 5000, "sub/nowhere/in.png", "in.png/in.png"]


def spelt(name: str, images) -> str:
    return name.format(images=images, top=images.parents[1])


@pytest.mark.parametrize("name", INSIDE)
def test_what_lies_inside_is_found(folder, name):
    for outside in (False, True):
        found = ImageFolder(folder, outside).find(spelt(name, folder))
        assert found is not None and found.read_bytes() == (folder / "in.png").read_bytes()


@pytest.mark.parametrize("name", OUTSIDE)
def test_what_lies_outside_is_refused_unless_that_is_said(folder, name):
    with pytest.raises(OutsideError, match="lies outside the images folder"):
        ImageFolder(folder).find(spelt(name, folder))
    found = ImageFolder(folder, outside=True).find(spelt(name, folder))
    assert (found is None) == name.endswith("nowhere.png")


@pytest.mark.parametrize("name", NOWHERE)
@pytest.mark.parametrize("outside", [False, True])
def test_what_is_no_file_is_not_there(folder, name, outside):
    assert ImageFolder(folder, outside).find(name) is None


def test_a_link_in_the_place_of_a_folder_is_trusted_and_what_a_record_says_below_it_is_not(folder, tmp_path):
    (tmp_path / "dataset").mkdir()
    (tmp_path / "dataset" / "train2014").symlink_to(folder)
    images = ImageFolder(tmp_path / "dataset")
    assert images.find("in.png", "train2014") is not None
    for name in ("../images-more/x.png", "link-out.png"):
        with pytest.raises(OutsideError):
            images.find(name, "train2014")
    linked = ImageFolder(tmp_path / "dataset" / "train2014")  # the folder that the owner names may be a link itself
    assert linked.find("in.png") is not None


def write(path, rows):
    if path.suffix == ".csv":
        with path.open("w", newline="") as file:
            writer = csv.DictWriter(file, rows[0])
            writer.writeheader()
            writer.writerows(rows)
    elif path.suffix == ".parquet":
        parquet.write_table(pyarrow.Table.from_pylist(rows), path)
    else:
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def own(folder, suffix, name, **more):
    rows = [{"id": str(n), "image": name, "question": "what ?", "answers": "red"} for n in range(3)]
    path = write(folder.parent / f"records{suffix}", rows)
    return read_client("museum", {"train": path, "test": path, "images": str(folder), **more})


@pytest.mark.parametrize("suffix", [".jsonl", ".ndjson", ".csv", ".parquet"])
def test_own_data_names_nothing_outside_in_any_format_unless_the_yaml_says_so(folder, suffix):
    wanted = (
        r"records\.\w+, (line|row) \d: image: '\.\./near\.png' lies outside the images folder .*images; give a folder "
        r"that holds all images, or set pictures\.outside=true for this client$"
    )
    with pytest.raises(DataError, match=wanted):
        own(folder, suffix, "../near.png")
    for spec in ({"skip_missing": True}, {"pictures": {"outside": False}}):  # such a file is not missing
        with pytest.raises(DataError, match="lies outside"):
            own(folder, suffix, "../near.png", **spec)
    data = own(folder, suffix, "../near.png", pictures={"outside": True})
    assert data.test[0].images[0].read_bytes() == (folder.parent / "near.png").read_bytes()
    assert data.pictures.outside


def test_pictures_of_two_columns_and_of_structs_are_looked_at_too(folder, tmp_path):
    rows = [{"image": "in.png", "image2": "link-out.png", "question": "same ?", "label": "true"}] * 2
    path = write(tmp_path / "pairs.jsonl", [row | {"id": str(n)} for n, row in enumerate(rows)])
    with pytest.raises(DataError, match=r"image2: 'link-out\.png' lies outside"):
        read_client("c", {"train": path, "test": path, "images": str(folder), "task": "nlvr2"})
    rows = [{"image": {"bytes": None, "path": "../near.png"}, "question": "?", "answers": "a"}] * 3
    path = write(tmp_path / "structs.parquet", [row | {"id": str(n)} for n, row in enumerate(rows)])
    with pytest.raises(DataError, match=r"'\.\./near\.png' lies outside"):
        read_client("c", {"train": path, "test": path, "images": str(folder)})


def test_a_hugging_face_folder_reads_its_own_files_alone(tmp_path):
    (tmp_path / "hf" / "train").mkdir(parents=True)
    for name in ("../../data.arrow", "/data.arrow", 7):
        (tmp_path / "hf" / "train" / "state.json").write_text(json.dumps({"_data_files": [{"filename": name}]}))
        with pytest.raises(DataError, match=r"state\.json: _data_files: expected names of files in this folder"):
            read_client("c", {"format": "hf", "root": str(tmp_path / "hf")})
    rows = [{"image": {"bytes": None, "path": "/etc/hostname"}, "question": "?", "answers": "a"}] * 3
    (tmp_path / "set").mkdir()
    for split in ("train", "test"):
        write(tmp_path / "set" / f"{split}.parquet", rows)
    with pytest.raises(DataError, match="'/etc/hostname' lies outside the images folder"):
        read_client("c", {"format": "hf", "root": str(tmp_path / "set")})


@pytest.mark.parametrize("name", sorted(SOURCES))
def test_no_published_format_leads_out_of_its_folders(tmp_path, name, monkeypatch):
    """Every image that a reader asks for is below one of its dataset's own folders, and goes through the check."""
    source, asked = SOURCES[name], []
    find = ImageFolder.find
    monkeypatch.setattr(ImageFolder, "find", lambda self, *names: asked.append(names) or find(self, *names))
    split = source.splits[0]
    write_tree(name, tmp_path, [split])
    records = list(source.format.records(tmp_path, split, Counter()))
    assert all(isinstance(record.fields["image"], Below) for record in records)
    examples = list(source.read(tmp_path, split))
    assert len(asked) == sum(len(example.images) for example in examples) > 0
    image, below = asked[0]
    assert below and (tmp_path / below / image).is_file()
    moved = tmp_path / "elsewhere"
    (tmp_path / below).rename(moved)
    (tmp_path / below).symlink_to(moved)  # as if datasets shared images
    assert len(list(source.read(tmp_path, split))) == len(examples)
    target = moved / image
    target.rename(tmp_path / "out.png")
    target.symlink_to(tmp_path / "out.png")
    with pytest.raises(DataError, match="lies outside the images folder"):
        list(source.read(tmp_path, split))
    assert len(list(source.read(tmp_path, split, outside=True))) == len(examples)


def test_a_server_does_not_decide_where_a_clients_records_lead():
    config = load_config(None, ["pictures.outside=true", "pictures.grey=percentiles", "pictures.max_pixels=9"])
    site = SiteConfig(client="north", data={"train": "a.jsonl", "test": "b.jsonl"})
    applied = site.applied(config)
    assert applied.pictures == PictureSettings(grey="percentiles")
    assert not RunConfig().pictures.outside
