"""The worked examples of docs/dev, applied to a copy of the package: a reader, a model family, a kind of adapter."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

ROOT = Path(__file__).parents[2]
PAGES = ("new-reader", "new-family", "new-adapter")
BLOCK = re.compile(r"^```(\w+) title=\"(src/feddat/[^\"]+)\"\n(.*?)^```$", re.DOTALL | re.MULTILINE)

MAKE_MODEL = """
import sys
from pathlib import Path
from transformers import BertConfig, BertModel, ViTConfig, ViTModel, VisionTextDualEncoderModel
from transformers.models.vit.image_processing_pil_vit import ViTImageProcessorPil
from feddat.models.tiny.words import bert_tokenizer

folder = Path(sys.argv[1])
folder.mkdir()
words = bert_tokenizer(["what", "is", "it", "red", "blue"], folder)
stack = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
text = BertConfig(**stack, vocab_size=len(words), max_position_embeddings=16, pad_token_id=0)
vision = ViTConfig(**stack, image_size=32, patch_size=16)
model = VisionTextDualEncoderModel(text_model=BertModel(text), vision_model=ViTModel(vision))
model.save_pretrained(folder)
ViTImageProcessorPil(size={"height": 32, "width": 32}).save_pretrained(folder)
"""


def applied(text: str, diff: str) -> str:
    """Return a file's text with a page's diff applied; the text before the change must occur in it once."""
    lines = diff.splitlines()
    before = "\n".join(line[1:] for line in lines if not line.startswith("+")) + "\n"
    after = "\n".join(line[1:] for line in lines if not line.startswith("-")) + "\n"
    assert text.count(before) == 1, f"expected this once:\n{before}"
    return text.replace(before, after)


@pytest.fixture(scope="module")
def extended(tmp_path_factory):
    """Return the root of a copy of the package with every change that the pages show."""
    root = tmp_path_factory.mktemp("extended")
    copy = root / "src" / "feddat"
    shutil.copytree(ROOT / "src" / "feddat", copy, ignore=shutil.ignore_patterns("__pycache__", "assets"))
    for assets in (ROOT / "src" / "feddat").rglob("assets"):
        (copy / assets.relative_to(ROOT / "src" / "feddat")).symlink_to(assets)
    for page in PAGES:
        for language, name, body in BLOCK.findall((ROOT / "docs" / "dev" / f"{page}.md").read_text()):
            path = root / name
            if language == "python":
                assert not path.exists(), f"{page}: {name} is there already"
                path.parent.mkdir(exist_ok=True)
                path.write_text(body)
            else:
                path.write_text(applied(path.read_text(), body))
    return root


def test_the_pages_show_files_and_rows():
    found = {page: BLOCK.findall((ROOT / "docs" / "dev" / f"{page}.md").read_text()) for page in PAGES}
    files = {page: [name for language, name, _ in blocks if language == "python"] for page, blocks in found.items()}
    assert len(files["new-reader"]) == 1, "a new reader is one file"
    for page in ("new-family", "new-adapter"):
        assert len({str(Path(name).parent) for name in files[page]}) == 1, f"{page}: one folder"


def test_a_run_uses_all_three(extended, tmp_path):
    for client, colours in (("ann", ("red", "blue")), ("bob", ("blue", "red"))):
        folder = tmp_path / client
        (folder / "images").mkdir(parents=True)
        for split, count in (("train", 12), ("test", 4)):
            lines = []
            for n in range(count):
                colour = colours[n % 2]
                Image.new("RGB", (40, 40), colour).save(folder / "images" / f"{split}-{n}.png")
                lines.append(f"images/{split}-{n}.png\twhat is it ?\t{colour}\n")
            (folder / f"{split}.tsv").write_text("".join(lines))
    clients = {client: {"format": "cards", "root": str(tmp_path / client)} for client in ("ann", "bob")}
    (tmp_path / "run.yaml").write_text(json.dumps({"clients": clients, "rounds": 2, "name": "all"}))
    environment = os.environ | {"PYTHONPATH": str(extended / "src"), "OMP_NUM_THREADS": "1"}

    def run(*arguments):
        done = subprocess.run(
            [sys.executable, *arguments], cwd=tmp_path, env=environment, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    run("-c", MAKE_MODEL, "model")
    settings = ("model=model", "method=feddat", "adapter.peft=shift", "train.lr=1e-2", "train.batch_size=4")
    run("-m", "feddat", "run", "--config", "run.yaml", *settings)
    summary = json.loads((tmp_path / "runs" / "all" / "summary.json").read_text())
    assert summary["clients"].keys() == {"ann", "bob"}
    # Each tower has two layers of width 16, with one vector at each.
    assert summary["parameters"]["communicated"] == 4 * 16
    adapter = json.loads((tmp_path / "runs" / "all" / "checkpoints" / "adapter_config.json").read_text())
    assert adapter["peft_type"] == "FEATURE_SHIFT"
