"""Decoder vision-language models compared with transformers' own, on a tiny random folder of each family."""

import copy
import json
import shutil

import numpy as np
import pytest
import torch
from PIL import Image as Pictures
from transformers import AutoModelForImageTextToText

from feddat.adapters.base import ROUTES
from feddat.adapters.build import build_adapters
from feddat.client.generation import FEWEST_TOKENS, AnnotatedAnswers, Generation
from feddat.config import EvalConfig
from feddat.example import Example, View
from feddat.models.base import ModelError, StagedBackbone
from feddat.models.catalog import DECODERS, load_backbone, load_encoder
from feddat.models.decoder.backbone import DecoderBackbone
from feddat.models.generative import GenerativeBackbone
from feddat.models.tiny import make_tiny
from feddat.models.tiny.settings import SIZES

CPU = torch.device("cpu")
ANSWERS = ("red", "no", "blue square", "two")
#: Larger than the models' inputs and of several shapes, so that prompts differ in length as well.
PICTURES = ((40, 56), (100, 70), (32, 32))
QUESTIONS = ("what is the color?", "is the circle red, or is it blue?", "two?")


def picture(seed, size):
    return np.random.default_rng(seed).integers(0, 256, (*size, 3), dtype=np.uint8)


VIEWS = [View(picture(n, size), text) for n, (size, text) in enumerate(zip(PICTURES, QUESTIONS, strict=True))]


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    root = tmp_path_factory.mktemp("decoders")
    return {family: make_tiny(family, root / family, SIZES["unit"]) for family in DECODERS}


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module", params=DECODERS)
def folder(request, folders):
    return folders[request.param]


@pytest.fixture(scope="module")
def bare(folder):
    """Return a backbone that no test puts adapters on."""
    return DecoderBackbone(folder)


@pytest.fixture
def backbone(folder):
    return DecoderBackbone(folder)


@pytest.fixture(scope="module")
def stock(folder):
    return AutoModelForImageTextToText.from_pretrained(folder).eval()


@pytest.fixture
def llava(folders):
    return DecoderBackbone(folders["llava"])


def batch(backbone, rows=(0, 1, 2)):
    return backbone.encode(VIEWS).batch(list(rows), CPU)


def annotated(backbone, rows=(0, 1, 2)):
    examples = [Example(str(n), (), "", answers={ANSWERS[n]: 0.9, ANSWERS[n + 1]: 0.3}) for n in range(3)]
    return batch(backbone, rows) | AnnotatedAnswers(examples, backbone).batch(torch.tensor(rows), CPU)


def stock_logits(stock, prompt, tokens):
    """Return token logits (L, V) of an answer after one prompt, from the stock model on the whole sequence."""
    length, answer = prompt["input_ids"].shape[1], torch.tensor([tokens])
    whole = prompt | {"input_ids": torch.cat([prompt["input_ids"], answer], dim=1)}
    whole["attention_mask"] = torch.ones_like(whole["input_ids"])
    value = int(stock.config.model_type == "paligemma")  # the type of words, or of PaliGemma's suffix
    for key in ("mm_token_type_ids", "token_type_ids"):
        if key in whole:
            whole[key] = torch.cat([whole[key], torch.full_like(answer, value)], dim=1)
    with torch.no_grad():
        return stock(**whole).logits[0, length - 1 : -1]


def stock_likelihood(stock, prompt, tokens):
    scores = stock_logits(stock, prompt, tokens).log_softmax(dim=-1)
    return scores[torch.arange(len(tokens)), torch.tensor(tokens)].sum().item()


def test_the_catalog_knows_every_family(folder):
    assert folder.name in DECODERS
    backbone = load_backbone(str(folder))
    assert isinstance(backbone, GenerativeBackbone) and isinstance(backbone, StagedBackbone)
    assert backbone.family == folder.name
    assert load_encoder(str(folder)).fingerprint == backbone.encoder.fingerprint


@pytest.mark.parametrize("row", range(3))
def test_inputs_are_the_stock_processors(bare, row):
    """They are equal although we shrink pictures first, and tokenise prompts with one token for the picture."""
    processor, tokenizer = bare.encoder.processor, bare.encoder.tokenizer
    turn = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": QUESTIONS[row]}]}]
    text = f"<image>{QUESTIONS[row]}"
    if bare.family != "paligemma":
        template = (bare.folder / "chat_template.jinja").read_text()
        text = tokenizer.apply_chat_template(turn, chat_template=template, tokenize=False, add_generation_prompt=True)
    expected = processor(images=[[Pictures.fromarray(VIEWS[row].image)]], text=[text], return_tensors="pt")
    found = batch(bare, [row])
    for key in found:
        assert torch.equal(found[key], expected[key]), key


def test_smolvlms_picture_tokens_are_its_own_processors(folders):
    """We use Idefics3's processor, which needs no video library."""
    from transformers.models.smolvlm.processing_smolvlm import get_image_prompt_string

    encoder = DecoderBackbone(folders["smolvlm"]).encoder
    _, tokens = encoder.process(encoder.image(VIEWS[0].image))
    text = get_image_prompt_string(2, 2, 4, "<fake_token_around_image>", "<image>", "<global-img>")
    assert tokens == encoder.tokenizer(text, add_special_tokens=False)["input_ids"]


@pytest.mark.parametrize(
    ("family", "asked", "answered"),
    [
        ("smolvlm", "what is the color?<end_of_utterance>\nAssistant:", " red<end_of_utterance>"),
        ("qwen2_vl", "what is the color?<|im_end|>\n<|im_start|>assistant\n", "red<|im_end|>"),
        ("llava", "what is the color? ASSISTANT:", " red</s>"),
        ("paligemma", "<image><s>what is the color?\n", "red</s>"),
    ],
)
def test_questions_and_answers_have_the_templates_form(folders, family, asked, answered):
    backbone = DecoderBackbone(folders[family])
    tokenizer = backbone.encoder.tokenizer
    (prompt,) = backbone.encoder.texts([QUESTIONS[0]])
    assert tokenizer.decode(prompt).endswith(asked)
    (tokens,) = backbone.answer_tokens(["red"])
    # The answer as it reads after the prompt.
    assert tokenizer.decode(prompt + tokens[1:])[len(tokenizer.decode(prompt)) :] == answered
    assert backbone.answer_text(tokens[1:-1]) == "red"


def test_logits_are_the_stock_models(bare, stock):
    """We read each question once for all its answers, padded in a batch; the stock model reads each row alone."""
    inputs = annotated(bare)
    with torch.no_grad():
        logits = bare.answer_head()(bare.features(inputs))
    for row, ids, mask, found in zip(
        inputs["answer_rows"].tolist(), inputs["answer_ids"], inputs["answer_mask"], logits, strict=True
    ):
        tokens = ids[mask][1:].tolist()
        expected = stock_logits(stock, batch(bare, [row]), tokens)
        torch.testing.assert_close(found[: len(tokens)], expected, atol=2e-5, rtol=1e-4)


def test_neither_padding_nor_neighbours_change_an_answer(bare):
    head = bare.answer_head()
    with torch.no_grad():
        alone = head(bare.features(annotated(bare, [2])))
        inputs = annotated(bare)
        together = head(bare.features(inputs))[inputs["answer_rows"] == 2]
    torch.testing.assert_close(together[:, : alone.shape[1]], alone, atol=2e-5, rtol=1e-4)


@torch.no_grad()
def test_ranking_is_the_stock_models_likelihoods(bare, stock):
    """Three answers at a time, so that a question's answers lie in several batches."""
    generation = Generation(bare, ANSWERS, EvalConfig(batch_size=3))
    found = generation.answer(bare.answer_head(), batch(bare))
    for row in range(3):
        prompt = batch(bare, [row])
        expected = [stock_likelihood(stock, prompt, tokens[1:]) for tokens in bare.answer_tokens(ANSWERS)]
        assert found[row].tolist() == pytest.approx(expected, rel=1e-4)


@torch.no_grad()
def test_free_writing_is_the_stock_models(bare, stock):
    generation = Generation(bare, ANSWERS, EvalConfig(answers="generate"))
    generation.answer(bare.answer_head(), batch(bare))
    end = bare.encoder.chat.end
    most = max(FEWEST_TOKENS, max(map(len, bare.answer_tokens(ANSWERS))) - 2) + 1
    for row, (written, _) in enumerate(generation.written):
        prompt = batch(bare, [row])
        ids = stock.generate(
            **prompt, max_new_tokens=most, do_sample=False, num_beams=1, eos_token_id=end
        )[0, prompt["input_ids"].shape[1] :].tolist()  # fmt: skip
        assert written == bare.answer_text(ids[: ids.index(end) if end in ids else None])


def test_a_question_is_read_once_however_many_answers_it_has(backbone, monkeypatch):
    seen = []
    plain = backbone._decoder.forward
    monkeypatch.setattr(
        backbone._decoder, "forward", lambda *args, **given: (seen.append(_tokens(given)), plain(*args, **given))[1]
    )
    inputs = batch(backbone)
    with torch.no_grad():
        Generation(backbone, ANSWERS, EvalConfig(batch_size=6)).answer(backbone.answer_head(), inputs)
    longest = max(map(len, backbone.answer_tokens(ANSWERS))) - 2
    assert seen[0] == tuple(inputs["input_ids"].shape)
    assert len(seen) == 3 and all(rows == 6 and length <= longest for rows, length in seen[1:])


def _tokens(given):
    ids = given.get("input_ids")
    return tuple((given["inputs_embeds"] if ids is None else ids).shape[:2])


@pytest.mark.parametrize("kind", ["bottleneck", "lora"])
def test_adapters_in_every_part_move_answers_and_get_gradients(backbone, kind):
    language = build_adapters(DecoderBackbone(backbone.folder).model, peft=kind).named("global")
    assert all(".text_model." in key or ".language_model." in key for key in language)
    adapters = build_adapters(backbone.model, peft=kind, parts=("language", "vision", "projector"))
    assert set(language) < set(adapters.named("global"))
    torch.manual_seed(0)
    for name in ("global", "local"):
        for parameter in adapters.parameters(name):
            torch.nn.init.normal_(parameter, std=0.2)
    head, inputs, logits = backbone.answer_head(), annotated(backbone), []
    for route in ("none", "global", "dat"):
        adapters.route(route)
        logits.append(head(backbone.features(inputs)))
    assert not torch.allclose(logits[0], logits[1], atol=1e-3) and not torch.allclose(logits[1], logits[2], atol=1e-3)
    torch.stack(logits[1:]).log_softmax(dim=-1)[..., 0].sum().backward()
    for name in ("global", "local"):
        without = [key for key, p in adapters.named(name).items() if p.grad is None or not p.grad.abs().sum() > 0]
        # LLaVA takes its picture features before the last layer of its tower.
        assert all("vision_tower" in key and ".layers.1" in key for key in without), without
        assert not without or backbone.family == "llava"
    assert all(p.dtype == torch.float32 for p in adapters.parameters("global"))


def test_routes_share_the_pictures_unless_adapters_change_them(backbone):
    inputs = annotated(backbone)
    adapters = build_adapters(backbone.model)
    adapters.route("global")
    expected = backbone.features(inputs)
    assert backbone.prefix(inputs) is inputs  # not staged yet
    backbone.stage(adapters.changed)
    with torch.no_grad():
        shared = backbone.prefix(inputs)
    assert "pixel_values" not in shared
    for _ in range(2):
        torch.testing.assert_close(backbone.features(shared), expected, atol=1e-6, rtol=1e-6)
    other = DecoderBackbone(backbone.folder)
    other.stage(build_adapters(other.model, parts=("language", "projector")).changed)
    assert other.prefix(inputs) is inputs


@pytest.mark.parametrize("kind", ["prompt", "norm", "bias", "full"])
def test_other_kinds_of_adapter(backbone, kind):
    adapters = build_adapters(backbone.model, peft=kind)
    assert not [key for key in adapters.named("global") if key.startswith("lm_head")]
    inputs = annotated(backbone)
    with torch.no_grad():
        for parameter in adapters.parameters("local"):
            parameter.add_(0.1 * torch.randn(parameter.shape))
    results = []
    for route in ("none", "global", "local"):
        adapters.route(route)
        results.append(backbone.answer_head()(backbone.features(inputs)))
    assert not torch.allclose(results[1], results[2], atol=1e-4)
    assert torch.allclose(results[0], results[1], atol=1e-5) == (kind != "prompt")
    results[1].log_softmax(dim=-1)[..., 0].sum().backward()
    assert any(p.grad is not None and p.grad.abs().sum() > 0 for p in adapters.parameters("global"))


def test_soft_prompts_are_seen_by_cached_answers(llava):
    """The soft prompt's tokens are in the cache; answers after it get the logits of one whole sequence."""
    adapters = build_adapters(llava.model, peft="prompt")
    adapters.route("global")
    inputs = annotated(llava, [1])
    with torch.no_grad():
        found = llava.answer_head()(llava.features(inputs))
        for ids, mask, logits in zip(inputs["answer_ids"], inputs["answer_mask"], found, strict=True):
            tokens = ids[mask][1:].tolist()
            expected = stock_logits(llava.model, batch(llava, [1]), tokens)
            torch.testing.assert_close(logits[: len(tokens)], expected, atol=2e-5, rtol=1e-4)


def test_the_head_is_the_models_own_and_has_nothing_to_train(bare, stock):
    head = bare.answer_head()
    assert list(head.parameters()) == [] and head.state_dict() == {}
    states = torch.randn(2, 3, bare.feature_dim)
    logits = head(states)
    cap = getattr(stock.config.get_text_config(), "final_logit_softcapping", None)
    expected = stock.lm_head(states)
    expected = expected if cap is None else cap * (expected / cap).tanh()
    torch.testing.assert_close(logits, expected)
    again = copy.deepcopy(head)
    assert torch.equal(again(states), logits)
    assert again._words[0] is head._words[0]


def test_long_questions_are_cut_and_say_nothing_of_pictures(llava):
    ids = llava.encoder.texts(["red " * 999, "<image> two <image>?"])
    assert len(ids[0]) < 300
    assert all(row.count(llava.encoder.chat.image_id) == 1 for row in ids)
    assert len(llava.encode([])) == 0


def test_every_route_of_feddat_is_known_to_the_decoder(llava):
    adapters = build_adapters(llava.model)
    inputs = annotated(llava)
    for route in ROUTES:
        adapters.route(route)
        assert llava.features(inputs).isfinite().all()


# Unusable folders


def _rewrite(name, change):
    def damage(folder):
        path = folder / name
        path.write_text(change(path.read_text()))

    return damage


def _config(**changes):
    return _rewrite("config.json", lambda text: json.dumps(json.loads(text) | changes))


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda folder: (folder / "tokenizer.json").unlink(), "no tokenizer"),
        (lambda folder: (folder / "model.safetensors").unlink(), "no weights"),
        (_rewrite("preprocessor_config.json", lambda text: "{"), "cannot be loaded as a llava image processor"),
        (_rewrite("processor_config.json", lambda text: "{"), "processor"),
        (_rewrite("chat_template.jinja", lambda text: "{% for"), "chat template cannot be rendered"),
        (_rewrite("chat_template.jinja", lambda text: "{{ messages[0]['role'] }}"), "the picture 0 times"),
        (_rewrite("chat_template.jinja", lambda text: "<image>"), "the question 0 times"),
    ],
)
def test_an_unusable_folder_is_named(folders, tmp_path, damage, said):
    copied = tmp_path / "llava"
    shutil.copytree(folders["llava"], copied)
    damage(copied)
    with pytest.raises(ModelError, match=said) as error:
        DecoderBackbone(copied)
    assert str(copied) in str(error.value) and "\n" not in str(error.value)


def test_a_folder_without_a_template_is_asked_in_words(folders, tmp_path):
    copied = tmp_path / "llava"
    shutil.copytree(folders["llava"], copied)
    before = load_encoder(str(copied)).fingerprint
    (copied / "chat_template.jinja").unlink()
    encoder = load_encoder(str(copied))
    assert encoder.fingerprint != before
    text = encoder.tokenizer.decode(encoder.texts(["two?"])[0])
    assert text.endswith("<image>\nQuestion: two?\nAnswer:")
    assert encoder.tokenizer.decode(encoder.chat.answers(["red"])[0]).split() == ["red</s>"]


def test_other_models_are_refused(folders, tmp_path):
    copied = tmp_path / "other"
    shutil.copytree(folders["llava"], copied)
    _config(model_type="pix2struct")(copied)
    with pytest.raises(ModelError, match=r"does not tell which tokens are a picture|cannot be loaded"):
        load_backbone(str(copied))
    _config(model_type="nothing")(copied)
    with pytest.raises(ModelError, match="model_type 'nothing' is not supported"):
        load_backbone(str(copied))
