"""Compare feddat's ALBEF with the published code on the same weights: states, answer loss, ranking of answers.

    git clone https://github.com/salesforce/ALBEF
    python tests/models/albef/compare_published_code.py ALBEF                                           # random weights
    python tests/models/albef/compare_published_code.py ALBEF --checkpoint ALBEF.pth --bert bert-base-uncased

The published code needs timm and a transformers version of 2021. It uses little of them, and stand-ins below provide
that, so that the code runs with today's versions. feddat converts the weights, and the published script's own lines
load them into the published model. The exit code is 1 if anything differs by more than 1e-4.
"""

from __future__ import annotations

import argparse
import ast
import importlib
import json
import string
import sys
import tempfile
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import torch
import transformers
from torch import Tensor, nn
from transformers import BertConfig, BertTokenizer
from transformers.utils import ModelOutput

from feddat.client.generation import AnnotatedAnswers, Generation
from feddat.config import EvalConfig
from feddat.example import Example, View
from feddat.models.albef.backbone import AlbefBackbone
from feddat.models.albef.convert import convert

TOLERANCE = 1e-4
QUESTIONS = ("What colour is the bird's tail?", "Is it sunny", "How many people are on the left-hand side of the room?")
ANNOTATED = ({"red": 0.9, "dark red": 0.3}, {"yes": 1.0}, {"two": 0.6, "2": 0.3, "two people": 0.3})
ANSWERS = ("red", "dark red", "yes", "no", "two", "2", "two people", "three", "blue", "a bus", "none of them", "dark")


class OldPreTrainedModel(nn.Module):
    """The parts of the old ``PreTrainedModel`` that the published BERT uses."""

    dtype = torch.float32

    def __init__(self, config: BertConfig, *args: Any, **kwargs: Any) -> None:
        super().__init__()
        self.config = config

    @classmethod
    def from_pretrained(cls, name: str, config: BertConfig, **kwargs: Any) -> OldPreTrainedModel:
        """Return a model with random weights, which a checkpoint replaces later."""
        return cls(config, **kwargs)

    def init_weights(self) -> None:
        """Draw weights, and tie the vocabulary head's matrix to the word embeddings."""
        self.apply(self._init_weights)
        if hasattr(self, "get_output_embeddings"):
            self.get_output_embeddings().weight = self.bert.embeddings.word_embeddings.weight

    def get_head_mask(self, head_mask: None, layers: int) -> list[None]:
        """Return no mask for each layer."""
        return [None] * layers

    def invert_attention_mask(self, mask: Tensor) -> Tensor:
        """Return the term (N, 1, 1, L) that is added to attention scores."""
        return (1.0 - mask[:, None, None, :].float()) * -1e9


class PatchEmbed(nn.Module):
    """timm's patch embedding: one convolution."""

    def __init__(self, img_size: int, patch_size: int, in_chans: int, embed_dim: int) -> None:
        super().__init__()
        self.num_patches = (img_size // patch_size) ** 2
        self.proj = nn.Conv2d(in_chans, embed_dim, kernel_size=patch_size, stride=patch_size)

    def forward(self, x: Tensor) -> Tensor:
        """Return patches (N, patches, d) of images (N, C, H, W)."""
        return self.proj(x).flatten(2).transpose(1, 2)


def import_published(code: Path) -> tuple[Any, Any]:
    """Return the modules ``models.model_vqa`` and ``models.vit`` of a checkout."""

    def undecorated(*args: Any, **kwargs: Any) -> Any:
        return lambda function: function

    documentation = (
        "add_code_sample_docstrings",
        "add_start_docstrings",
        "add_start_docstrings_to_model_forward",
        "replace_return_docstrings",
    )
    stand_ins = {
        "timm": {},
        "timm.models": {},
        "timm.models.vision_transformer": {"_cfg": None, "PatchEmbed": PatchEmbed},
        "timm.models.registry": {"register_model": None},
        "timm.models.layers": {"trunc_normal_": nn.init.trunc_normal_, "DropPath": nn.Identity},
        "transformers.file_utils": {"ModelOutput": ModelOutput} | dict.fromkeys(documentation, undecorated),
        "transformers.modeling_utils": {
            "PreTrainedModel": OldPreTrainedModel,
            "apply_chunking_to_forward": lambda function, chunk, dim, *inputs: function(*inputs),
            "find_pruneable_heads_and_indices": None,
            "prune_linear_layer": None,
        },
    }
    kept = {name: sys.modules[name] for name in stand_ins if name in sys.modules}
    verbosity = transformers.logging.get_verbosity()
    for name, contents in stand_ins.items():
        sys.modules[name] = ModuleType(name)
        vars(sys.modules[name]).update(contents)
    sys.path.insert(0, str(code))
    try:
        return importlib.import_module("models.model_vqa"), importlib.import_module("models.vit")
    finally:
        sys.path.remove(str(code))
        for name in stand_ins:
            del sys.modules[name]
        sys.modules.update(kept)
        transformers.logging.set_verbosity(verbosity)


def load_as_published(code: Path, model: nn.Module, vit: Any, state: dict[str, Tensor]) -> None:
    """Load a checkpoint as the published ``VQA.py`` does; rename its tensors as there if it has no decoder."""
    state["visual_encoder.pos_embed"] = vit.interpolate_pos_embed(
        state["visual_encoder.pos_embed"], model.visual_encoder
    )
    if not any(name.startswith("text_decoder.") for name in state):
        script = ast.parse((code / "VQA.py").read_text(encoding="utf-8"))
        (loop,) = (
            node
            for node in ast.walk(script)
            if isinstance(node, ast.For) and ast.unparse(node.iter) == "list(state_dict.keys())"
        )
        # The loop copies each tensor of the text encoder to its new names and removes the old entry.
        exec(compile(ast.Module([loop], []), "VQA.py", "exec"), {"state_dict": state})
    message = model.load_state_dict(state, strict=False)
    if missing := [name for name in message.missing_keys if not name.endswith("position_ids")]:
        raise SystemExit(f"the published model misses {missing[:3]} ... of {len(missing)}")


def make_bert(folder: Path) -> Path:
    """Write a small vocabulary, and bert-base's configuration for it; return the folder."""
    letters = string.ascii_lowercase + string.digits
    words = {word for text in (*QUESTIONS, *ANSWERS) for word in text.lower().replace("?", "").split()}
    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *letters, *("##" + c for c in letters)]
    vocabulary += sorted(words.difference(letters))
    BertTokenizer(vocab={token: i for i, token in enumerate(vocabulary)}).save_pretrained(folder)
    BertConfig(vocab_size=len(vocabulary)).save_pretrained(folder)
    return folder


def random_checkpoint(model: nn.Module, path: Path, pretrained: bool) -> Path:
    """Write random weights in the layout of the fine-tuned files, or of the pretrained ones with smaller images."""
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():  # no value stays 0 or 1; more noise would hide how tokens differ
            parameter.add_(torch.empty_like(parameter).normal_(std=0.01))
    state = model.state_dict()
    if pretrained:
        kept = {name: value for name, value in state.items() if not name.startswith("text_decoder.bert.")}
        state = {
            name.replace("text_encoder.", "text_encoder.bert.").replace("text_decoder.cls.", "text_encoder.cls."): value
            for name, value in kept.items()
        }
        # One tensor under two names, as in the published files.
        state["text_encoder.bert.embeddings.word_embeddings.weight"] = state[
            "text_encoder.cls.predictions.decoder.weight"
        ]
        state["visual_encoder.pos_embed"] = torch.randn(1, 1 + 3 * 3, state["visual_encoder.pos_embed"].shape[2])
    torch.save({"model": state}, path)
    return path


@torch.no_grad()
def compare(published: Any, backbone: AlbefBackbone, image_size: int) -> dict[str, float]:
    """Return the largest differences between the published model and ours on a few questions."""
    generator = np.random.default_rng(0)
    images = [generator.integers(0, 256, (image_size, image_size, 3), dtype=np.uint8) for _ in QUESTIONS]
    examples = [
        Example(str(n), (image,), question, answers)
        for n, (image, question, answers) in enumerate(zip(images, QUESTIONS, ANNOTATED, strict=True))
    ]
    indices = torch.arange(len(examples))
    views = backbone.encode([View(example.images[0], example.text) for example in examples])
    annotated = AnnotatedAnswers(examples, backbone).batch(indices, torch.device("cpu"))
    inputs = views.batch(indices, torch.device("cpu")) | annotated
    question = SimpleNamespace(input_ids=inputs["input_ids"], attention_mask=inputs["attention_mask"])

    image_states = published.visual_encoder(inputs["pixel_values"])
    states = published.text_encoder(
        question.input_ids,
        attention_mask=question.attention_mask,
        encoder_hidden_states=image_states,
        encoder_attention_mask=torch.ones(image_states.shape[:2]),
        return_dict=True,
    ).last_hidden_state
    kept = question.attention_mask.bool()
    own_images = backbone.model.vision(inputs["pixel_values"]).last_hidden_state
    own = backbone.read(inputs)

    head, top = backbone.answer_head().eval(), len(ANSWERS) // 2
    generation = Generation(backbone, ANSWERS, EvalConfig(rank_top=top, batch_size=8))
    loss = published(
        inputs["pixel_values"],
        question,
        SimpleNamespace(input_ids=annotated["answer_ids"], attention_mask=annotated["answer_mask"].long()),
        k=[len(answers) for answers in ANNOTATED],
        weights=annotated["answer_weights"],
    )

    own_loss = generation.loss(head(backbone.features(inputs)), inputs, len(QUESTIONS))

    tokens = backbone.answer_tokens(ANSWERS)
    longest = max(map(len, tokens))
    ids = torch.tensor([row + [0] * (longest - len(row)) for row in tokens])
    chosen, probabilities = published(
        inputs["pixel_values"],
        question,
        SimpleNamespace(input_ids=ids, attention_mask=(ids != 0).long()),
        k=top,
        train=False,
    )
    own_probabilities, own_chosen = generation.answer(head, inputs).softmax(dim=1).topk(top)
    return {
        "image states": (image_states - own_images).abs().max().item(),
        "question states": (states - own.states)[kept].abs().max().item(),
        "answer loss": abs(loss - own_loss).item(),
        "ranked answers that differ": float((chosen != own_chosen).sum()),
        "probabilities of ranked answers": (probabilities - own_probabilities).abs().max().item(),
    }


def main() -> None:
    """Run the comparison and print its differences."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("code", type=Path, help="checkout of github.com/salesforce/ALBEF")
    parser.add_argument("--checkpoint", type=Path, help=".pth file; default: random weights")
    parser.add_argument("--bert", type=Path, help="bert-base-uncased folder; default: a small vocabulary")
    parser.add_argument("--image-size", type=int, help="default: 384 with a checkpoint, else 64")
    arguments = parser.parse_args()
    size = arguments.image_size or (384 if arguments.checkpoint else 64)
    model_vqa, vit = import_published(arguments.code.resolve())
    worst = 0.0
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        bert = arguments.bert or make_bert(work / "bert")
        settings = BertConfig.from_pretrained(bert).to_dict() | {"fusion_layer": 6, "encoder_width": 768}
        (work / "bert.json").write_text(json.dumps(settings), encoding="utf-8")
        published = model_vqa.ALBEF(
            text_encoder="",
            text_decoder="",
            tokenizer=SimpleNamespace(pad_token_id=0),
            config={"image_res": size, "bert_config": work / "bert.json", "distill": False},
        ).eval()
        checkpoints = (
            [arguments.checkpoint]
            if arguments.checkpoint
            else [
                random_checkpoint(published, work / f"{kind}.pth", kind == "pretrained")
                for kind in ("finetuned", "pretrained")
            ]
        )
        for checkpoint in checkpoints:
            own = work / f"folder-{checkpoint.stem}"
            report = convert(checkpoint, bert, own, size)
            content = torch.load(checkpoint, map_location="cpu", weights_only=True)
            load_as_published(arguments.code, published, vit, content.get("model", content))
            print(f"{checkpoint.name}: decoder from {report.decoder}; {len(report.unused)} tensors not used")
            for name, value in compare(published, AlbefBackbone(own), size).items():
                print(f"  {name}: {value:.2e}")
                worst = max(worst, value)
    sys.exit(worst > TOLERANCE)


if __name__ == "__main__":
    main()
