"""Small copies of datasets on the Hub, with the file names, columns and types of the real ones."""

import json
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from PIL import Image
from pyarrow import parquet

from data.readers.layouts import COLOURS, write_tree
from feddat.benchmarks.medical import DATASETS
from hub_server import HubServer

#: The type in which Hugging Face datasets store pictures.
IMAGE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
TYPES = {"image": IMAGE, "string": pa.string()}
ANSWERS = ("yes", "no", "lung", "liver")
PLACES = ("Lung", "Liver", "Brain")


def picture(number: int) -> bytes:
    """Return a picture that differs for every number."""
    pixels = np.full((24, 32, 3), list(COLOURS.values())[number % 3], np.uint8)
    pixels[: 1 + number % 24, :, number % 3] = number % 256
    pixels[0, 0] = (number % 256, number // 256, 0)
    file = BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def row(number: int, picture_of: int, columns: dict[str, str]) -> dict[str, Any]:
    """Return one row, a question, of a table with these columns."""
    answer = ANSWERS[number % 4]
    values: dict[str, Any] = {name: f"{name} {number}" for name in columns}
    values |= {"image": {"bytes": picture(picture_of), "path": f"{picture_of}.png"}, "answer": answer}
    values["question"] = f"is it {answer} ?" if number % 4 < 2 else "what is it ?"
    return values | ({"img_id": f"img{picture_of}"} if "img_id" in columns else {})


def shard(rows: list[dict[str, Any]], columns: dict[str, str]) -> bytes:
    """Return a Parquet file with the schema and metadata that the datasets library writes."""
    kinds = {name: {"_type": "Image"} if kind == "image" else {"dtype": kind, "_type": "Value"}
             for name, kind in columns.items()}  # fmt: skip
    schema = pa.schema([(name, TYPES[kind]) for name, kind in columns.items()])
    schema = schema.with_metadata({"huggingface": json.dumps({"info": {"features": kinds}})})
    file = BytesIO()
    parquet.write_table(pa.Table.from_pylist(rows, schema=schema), file)
    return file.getvalue()


def add_parquet(hub: HubServer, key: str, rows: dict[str, int]) -> str:
    """Add a dataset of :data:`DATASETS` to the Hub; ``rows`` is split -> number of questions. Return the commit."""
    dataset = DATASETS[key]
    columns = dict(dataset.columns)
    files: dict[str, bytes] = {"README.md": b"---\nlicense: x\n---\n", ".gitattributes": b""}
    first = 0
    for split, count in rows.items():
        table = [row(number, (first + number) // 2, columns) for number in range(count)]
        first += count + 2
        halves = table[: count // 2], table[count // 2 :]
        for place, half in enumerate(halves):
            # Kvasir-VQA's files are only numbered; its card names their split.
            name = f"data/{place:05d}.parquet" if split == "raw" else f"data/{split}-{place:05d}-of-00002-0b1a.parquet"
            files[name] = shard(half, columns)
    card: dict[str, Any] = {"license": dataset.licence.lower()}
    if "raw" in rows:
        card["configs"] = [{"config_name": "default", "data_files": [{"split": "raw", "path": "data/*.parquet"}]}]
    return hub.add("dataset", dataset.repository, files, card=card)


def add_slake(hub: HubServer, folder: Path, rows: dict[str, int]) -> str:
    """Add SLAKE to the Hub in its published form, JSON files and an archive of pictures; return the commit."""
    import zipfile

    for split, count in rows.items():
        write_tree("slake", folder, [split], count)
        path = folder / f"{split}.json"
        questions = json.loads(path.read_text())
        for number, question in enumerate(questions):
            modality = ("X-Ray", "CT", "MRI")[number % 3]
            question |= {"modality": modality, "location": PLACES[number % 3]}
            question |= {"answer": ANSWERS[number % 4], "answer_type": "CLOSED" if number % 4 < 2 else "OPEN"}
        path.write_text(json.dumps(questions))
    archive = BytesIO()
    with zipfile.ZipFile(archive, "w") as opened:
        for number, path in enumerate(sorted((folder / "imgs").rglob("*.jpg"))):
            opened.writestr(path.relative_to(folder).as_posix(), picture(1000 + number))
    files = {f"{split}.json": (folder / f"{split}.json").read_bytes() for split in rows}
    files |= {"imgs.zip": archive.getvalue(), "KG.zip": b"not read", "README.md": b"x", "mask.txt": b"not read"}
    return hub.add("dataset", "BoKelvin/SLAKE", files, card={"license": "cc-by-4.0"})
