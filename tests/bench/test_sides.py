"""The compared schedules do the same work: the published one and ours end at the same weights."""

import pytest
import torch

from feddat.bench.clock import Clock, hardware, matmul_rates
from feddat.bench.folders import make_client, model_folder, write_client
from feddat.bench.published import make_stock
from feddat.bench.sides import PHASES, Side, load_side_model, side_config
from feddat.config import load_config
from feddat.models.catalog import load_backbone
from helpers import WORDS, make_tiny_albef, make_tiny_blip, make_tiny_vilt

CPU = torch.device("cpu")
BATCH, STEPS = 4, 3


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    root = tmp_path_factory.mktemp("models")
    makers = {"vilt": make_tiny_vilt, "blip": make_tiny_blip, "albef": make_tiny_albef}
    return {family: make(root / family) for family, make in makers.items()}


@pytest.fixture(scope="module")
def client(tmp_path_factory):
    words = [word for word in WORDS if word.isalpha()]
    return write_client(tmp_path_factory.mktemp("pictures"), "bench", 40, words, 4, BATCH * STEPS)


def trained(folders, client, family, schedule):
    """Train three steps; return the adapters' first weights, the last weights of adapters and head, and the clock."""
    config = load_config(
        model=str(folders[family]),
        **{"adapter.peft": "bottleneck", "adapter.reduction": 4, "train.lr": 1e-2, "train.batch_size": BATCH},
    )
    config = side_config(schedule, config)
    model = load_side_model(schedule, config)
    backbone, adapters = model.backbone, model.adapters
    for seed, name in enumerate(("global", "local")):
        adapters.initialise(torch.Generator().manual_seed(seed), name)
    adapters.refresh_anchor()
    start = [p.detach().clone() for name in ("global", "local") for p in adapters.parameters(name)]
    side = Side(schedule, config, client, model)
    backbone.model.eval()  # no dropout: BERT would draw other masks in each schedule
    for indices in torch.arange(BATCH * STEPS).split(BATCH):
        losses = side.step(indices)
        assert losses["loss"].isfinite()
    end = [p.detach() for name in ("global", "local") for p in adapters.parameters(name)]
    return start, [*end, *(p.detach() for p in side.member.heads["main"].parameters())], side.clock


@pytest.mark.parametrize("family", ["vilt", "blip", pytest.param("albef", marks=pytest.mark.slow)])
def test_three_steps_of_the_published_schedule_equal_ours_in_the_published_order(folders, client, family):
    start, published, _ = trained(folders, client, family, "published")
    _, ours, _ = trained(folders, client, family, "alternating")
    for a, b in zip(published, ours, strict=True):
        torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-5)
    assert max((a - b).abs().max() for a, b in zip(start, published, strict=False)) > 1e-3


def test_a_published_step_reads_its_files_in_each_of_three_passes(folders, client, monkeypatch):
    from feddat.models.vilt.encoder import ViltEncoder

    read, encode = [], ViltEncoder.image

    def note(self, image):
        if image.any():  # loading a model encodes a blank picture
            read.append(image)
        return encode(self, image)

    monkeypatch.setattr(ViltEncoder, "image", note)
    counts = {}
    for schedule in ("published", "alternating", "joint", "plain"):
        read.clear()
        trained(folders, client, "vilt", schedule)
        counts[schedule] = len(read)
    once = BATCH * STEPS
    assert counts == {"published": once + 3 * once, "alternating": once, "joint": once, "plain": once}


def test_stock_vilt_runs_the_librarys_code(folders):
    names = {type(module).__name__ for module in make_stock(load_backbone(str(folders["vilt"]))).model.modules()}
    assert {"ViltEmbeddings", "ViltSelfAttention"} <= names
    assert not [name for name in names if name.startswith("Fast")]


def test_a_step_is_divided_into_phases(folders, client):
    _, _, clock = trained(folders, client, "vilt", "joint")
    assert set(clock.seconds) == set(PHASES)
    assert all(seconds > 0 for seconds in clock.seconds.values())


def test_a_clock_counts_by_phase_until_it_is_reset():
    clock = Clock(CPU)
    for name in ("a", "b", "a"):
        with clock.phase(name):
            sum(range(1000))
    assert clock.seconds["a"] > 0 and clock.seconds["b"] > 0
    clock.reset()
    assert not clock.seconds


def test_rates_and_hardware_are_told():
    assert all(rate > 0 for rate in matmul_rates(CPU, torch.float32, seconds=0.001).values())
    assert {"cpu", "cores", "threads", "torch"} <= hardware(CPU).keys()


def test_a_bundled_model_gets_a_client_of_its_own_words(tmp_path):
    name = model_folder("vilt-mini", tmp_path)
    made = make_client("vilt-mini", name, tmp_path / "pictures", 2)
    assert [len(example.text.split()) for example in made.train] == [8, 8]
    assert all(example.images[0].is_file() for example in made.train)
    tokenizer = load_backbone(name).encoder.tokenizer
    assert tokenizer.unk_token_id not in tokenizer(made.train[0].text)["input_ids"]
    with pytest.raises(ValueError, match="expected one of vilt-mini"):
        model_folder("gpt", tmp_path)
