import json

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import AutoModel, CLIPTokenizer, PreTrainedTokenizerFast, SiglipConfig, SiglipModel
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil
from transformers.models.siglip.image_processing_pil_siglip import SiglipImageProcessorPil

from feddat.example import View
from feddat.models.base import ModelError
from feddat.models.two_towers.backbone import TwoTowersBackbone
from feddat.models.two_towers.fusion import product_fusion
from helpers import make_unit

CPU = torch.device("cpu")
TEXTS = ["what color is the circle ?", "red"]
PROCESSORS = {"clip": CLIPImageProcessorPil, "siglip": SiglipImageProcessorPil}


def picture(height=32, width=32, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    root = tmp_path_factory.mktemp("towers")
    return {family: make_unit(family, root / family) for family in ("clip", "siglip")}


@pytest.fixture(params=["clip", "siglip"])
def folder(request, folders):
    return folders[request.param]


@pytest.fixture
def backbone(folder):
    return TwoTowersBackbone(folder)


def batch(backbone, texts=TEXTS):
    return backbone.encode([View(picture(seed=i), text) for i, text in enumerate(texts)]).batch(range(len(texts)), CPU)


def stock_output(folder):
    """Return the stock pipeline's output for TEXTS and their pictures."""
    images = [picture(seed=i) for i in range(len(TEXTS))]
    if folder.name == "clip":
        words = CLIPTokenizer.from_pretrained(folder)(TEXTS, padding=True, truncation=True, max_length=16)
    else:
        words = PreTrainedTokenizerFast.from_pretrained(folder)(
            TEXTS, padding="max_length", truncation=True, max_length=16, return_attention_mask=False
        )
        words.pop("token_type_ids", None)
    pixels = PROCESSORS[folder.name].from_pretrained(folder)(images, return_tensors="pt")
    return AutoModel.from_pretrained(folder).eval()(
        **{key: torch.tensor(value) for key, value in words.items()}, **pixels
    )


@torch.no_grad()
def test_embeddings_equal_the_stock_models(folder, backbone):
    stock, inputs = stock_output(folder), batch(backbone)
    del inputs["pixel_mask"]
    text, image = (torch.nn.functional.normalize(part, dim=-1) for part in backbone.model.embeddings(**inputs))
    torch.testing.assert_close(text, stock.text_embeds, atol=1e-5, rtol=0)
    torch.testing.assert_close(image, stock.image_embeds, atol=1e-5, rtol=0)
    features = backbone.features(batch(backbone))
    torch.testing.assert_close(features, product_fusion(stock.text_embeds, stock.image_embeds), atol=1e-4, rtol=0)


def test_product_by_hand():
    # Both inputs are scaled to length √2: (3, 4) / 5 · √2 and (1, 0) · √2.
    fused = product_fusion(torch.tensor([[3.0, 4.0]]), torch.tensor([[2.0, 0.0]]))
    root = 2**0.5
    torch.testing.assert_close(fused, torch.tensor([[0.6 * root, 0.8 * root, root, 0.0, 1.2, 0.0]]))


@torch.no_grad()
def test_tokens_hold_the_embeddings_and_padding_is_zero(folder, backbone):
    inputs = batch(backbone)
    del inputs["pixel_mask"]
    text, image = backbone.model.embeddings(**inputs)
    tokens = backbone.model.tokens(**inputs)
    length = inputs["input_ids"].shape[1]
    assert tokens.shape == (2, length + (5 if folder.name == "clip" else 4), backbone.feature_dim // 3)
    last = inputs["attention_mask"].sum(dim=1) - 1
    torch.testing.assert_close(tokens[torch.arange(2), last], text, atol=1e-5, rtol=0)
    assert ((tokens[:, :length] == 0).all(-1) == (inputs["attention_mask"] == 0)).all()
    if folder.name == "clip":
        assert last[0] != last[1]
        torch.testing.assert_close(tokens[:, length], image, atol=1e-5, rtol=0)  # [CLS]
    else:
        assert last.tolist() == [15, 15]


@pytest.mark.parametrize(("height", "width"), [(32, 32), (48, 80), (80, 47), (333, 517), (20, 20), (10, 90)])
def test_pixels_equal_the_stock_processors_to_one_of_256_levels(folder, backbone, height, width):
    # Smooth images only: noise would be clipped at 0 and 255 between the two passes of resampling, whose order may
    # differ between Pillow and torch.
    image = np.asarray(Image.fromarray(picture(6, 6)).resize((width, height), Image.Resampling.BICUBIC))
    processor = PROCESSORS[folder.name].from_pretrained(folder)
    expected = processor(image, return_tensors="pt")["pixel_values"]
    actual = backbone.encode([View(image, "red")]).batch([0], CPU)["pixel_values"]
    assert actual.shape == expected.shape == (1, 3, 32, 32)
    levels = (actual - expected).abs() * torch.tensor(processor.image_std).view(3, 1, 1) * 255
    assert levels.max() < 1.01
    assert (levels > 0.5).float().mean() < 0.15


@pytest.mark.parametrize("side", ["personal", "shared"])
def test_a_transformer_pools_the_tokens(folder, backbone, side):
    backbone.fuse("transformer", side)
    width = 16 if folder.name == "clip" else 32
    features = backbone.features(batch(backbone))
    personal = backbone.personal_fusion()
    assert (personal is not None) == (side == "personal")
    pooled = features if personal is None else personal(features)
    assert pooled.shape == (2, backbone.feature_dim) == (2, width)
    alone = backbone.features(batch(backbone, TEXTS[1:]))
    assert alone.shape[0] == 1
    assert not any(parameter.requires_grad for parameter in backbone.model.parameters())
    backbone.fuse("product", "personal")
    assert backbone.personal_fusion() is None
    assert backbone.features(batch(backbone)).shape == (2, 3 * width)


def change(folder, name, **values):
    path = folder / name
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def test_other_sizes_are_refused(tmp_path):
    folder = make_unit("clip", tmp_path / "clip")
    change(folder, "preprocessor_config.json", crop_size={"height": 16, "width": 16})
    with pytest.raises(ModelError, match=r"image processor makes 16 x 16 pixels, but config\.json requires 32 x 32"):
        TwoTowersBackbone(folder)
    change(folder, "preprocessor_config.json", crop_size={"height": 64, "width": 64})
    with pytest.raises(ModelError, match="crop_size exceeds the shortest edge"):
        TwoTowersBackbone(folder)
    change(folder, "preprocessor_config.json", do_resize=False)
    with pytest.raises(ModelError, match="expected size of height and width, or shortest_edge and crop_size"):
        TwoTowersBackbone(folder)


def test_towers_without_a_common_width_are_refused(tmp_path):
    folder = make_unit("siglip", tmp_path / "siglip")
    config = SiglipConfig.from_pretrained(folder)
    config.text_config.projection_size = 24
    SiglipModel(config).save_pretrained(folder)
    with pytest.raises(ModelError, match="text embeddings of width 24, image embeddings of width 32"):
        TwoTowersBackbone(folder)
