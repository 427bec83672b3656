"""Training under differential privacy: the releases, how far one record moves them, and what they cost."""

import json

import pytest
import torch
from safetensors import safe_open
from small_clients import label_client, same, vqa_client

from feddat.adapters.build import build_adapters
from feddat.algorithms import ALGORITHMS
from feddat.client import private_training
from feddat.client.batches import steps_of_round
from feddat.client.budget import Budget, BudgetError
from feddat.client.learner import BatchLearner
from feddat.client.member import Member
from feddat.client.private_rules import SCOPES, WHY_NOT, WHY_NOT_SHARED, check_model, check_privacy, releases
from feddat.client.private_training import PrivateTurn
from feddat.client.received import Received
from feddat.client.store import PersonalStore, StoreError
from feddat.config import ConfigError, RunConfig, load_config
from feddat.example import DataError
from feddat.models.catalog import load_backbone
from feddat.privacy.accounting import Steps, epsilon_of
from feddat.privacy.clipping import Clip
from feddat.privacy.example_gradients import ExampleGradients
from feddat.privacy.noise import NoiseSource
from helpers import make_unit

MUSEUM = vqa_client("museum")
PRIVATE = {"privacy.epsilon": 8.0, "privacy.delta": 1e-3, "privacy.noise_seed": 1, "share_metrics": "none"}
SHARED = {"privacy.scope": "shared", "algorithm.heads": "separate", "algorithm.alpha": 0.0}
JOINT = {"algorithm.order": "joint"}
#: Name -> method and settings of a run that can be private.
RUNS = {
    "feddat, all, alternating": ("feddat", {}),
    "feddat, all, joint": ("feddat", JOINT),
    "feddat, all, separate heads": ("feddat", {"algorithm.heads": "separate"}),
    "feddat, shared, alternating": ("feddat", SHARED),
    "feddat, shared, joint": ("feddat", SHARED | JOINT),
    "fedavg, all": ("fedavg", {}),
    "fedavg, shared": ("fedavg", {"privacy.scope": "shared"}),
    "fedavg, LoRA": ("fedavg", {"adapter.peft": "lora"}),
    "feddat, LoRA": ("feddat", {"adapter.peft": "lora"}),
    "feddat, bf16": ("feddat", {"train.precision": "bf16"}),
    "feddat-2, all": ("feddat-2", {}),
    "feddat-2, all, LoRA": ("feddat-2", {"adapter.peft": "lora"}),
    "fedavg-local, all": ("fedavg-local", {}),
    "fedavg-local, shared": ("fedavg-local", {"privacy.scope": "shared"}),
    "local": ("local", {}),
    "head": ("head", {}),
}


# --- per-example gradients of whole models ----------------------------------------------------------------------------


def gradients(backbone, adapters, member, named, indices, record=None):
    """Run one batch forward and backward, under a record if one is given."""
    part = member.prepared("train")
    learner = BatchLearner(backbone, adapters, "fp32")
    learner.take(member, member.training_inputs(part, indices), part.targets[indices])
    for parameter in named.values():
        parameter.grad = None
    if record is None:
        loss = learner.task_loss(learner.logits(learner.features("global")))
    else:
        with record:
            loss = learner.task_loss(learner.logits(learner.features("global")))
    (loss * len(indices)).backward()


@pytest.mark.parametrize(
    ("family", "peft", "task"),
    [
        *[("vilt", peft, "vqa") for peft in ("bottleneck", "lora", "norm", "bias", "head")],
        *[(family, "bottleneck", "vqa") for family in ("vilt-bert", "albef", "blip", "clip", "siglip")],
        *[(family, "lora", "vqa") for family in ("albef", "clip")],
        *[("vilt", "bottleneck", task) for task in ("nlvr2", "snli-ve", "vcr")],
    ],
)
def test_gradients_by_example_are_those_of_single_examples(family, peft, task, tmp_path):
    backbone = load_backbone(str(make_unit(family, tmp_path / "model")))
    adapters = build_adapters(backbone.model, peft=peft, reduction=4, rank=4)
    for parameter in adapters.parameters("global"):
        with torch.no_grad():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(0)))
    config = load_config(**{"eval.answers": "classes", "head.init": "random"})
    client = MUSEUM if task == "vqa" else label_client(task)
    member = Member(client, config, backbone, torch.device("cpu"))
    head = member.heads["main"].named_parameters()
    named = {f"adapter.{key}": p for key, p in adapters.named("global").items()} | dict(head)
    named = {key: parameter for key, parameter in named.items() if parameter.requires_grad}
    count, clip = 4, 1e9
    record = ExampleGradients(named)
    gradients(backbone, adapters, member, named, torch.arange(count), record)
    for i in range(count):
        own = torch.zeros(count)
        own[i] = 1.0
        found = record.clipped_sums(Clip(clip, count), count, own)
        gradients(backbone, adapters, member, named, torch.tensor([i]))
        for key, parameter in named.items():
            expected = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
            got = found.get(parameter, torch.zeros_like(parameter))
            torch.testing.assert_close(
                got.float(), expected, rtol=2e-3, atol=2e-5, msg=lambda m, key=key: f"{key}: {m}"
            )
            parameter.grad = None


# --- how far one record moves a release -------------------------------------------------------------------------------


def releases_of(process, monkeypatch, method, settings, plan, clip=0.05):
    """Train some steps with fixed gradients, whatever the records; return each release's sums before the noise."""
    seen = []

    def noisy(sums, noise, divisor):
        seen.append(torch.cat([total.flatten() for total in sums.values()]))
        for parameter in sums:  # fixed, so that the next release is compared at the same weights
            parameter.grad = torch.full_like(parameter, 0.01)

    monkeypatch.setattr(private_training, "noisy", noisy)
    p = process(method, **PRIVATE | {"train.lr": 0.05} | settings)
    turn = PrivateTurn(tuple(plan), 4.0, Clip(clip, 8), 1.0, 2, NoiseSource.seeded(0))
    participant = p.participant(MUSEUM)
    monkeypatch.setattr(participant, "_private_turn", lambda round: turn)
    participant.fit(p.initial() if p.algorithm.communicates else None, 1)
    return seen


def moved(process, monkeypatch, method, settings, clip=0.05, times=1):
    """Return how far each release moves when one more record is in all samples: the norm of the difference.

    Args:
        times: how often the samples' other records are in them.
    """
    samples = [torch.tensor(rows * times) for rows in ([0, 1, 2, 3, 4, 5], [2, 3, 5, 7], [0, 3, 4, 8, 9], [1, 2, 4, 7])]
    more = [torch.cat([sample, torch.tensor([10])]) for sample in samples]
    without = releases_of(process, monkeypatch, method, settings, samples, clip)
    with_it = releases_of(process, monkeypatch, method, settings, more, clip)
    assert len(without) == len(with_it)
    return [(one - other).norm().item() for one, other in zip(without, with_it, strict=True)]


@pytest.mark.parametrize(("run", "times"), [*((run, 1) for run in RUNS), ("feddat, bf16", 12)])
def test_one_record_moves_every_release_by_the_clip_at_most(process, monkeypatch, run, times):
    # Records that come often and all say the same would add up what one more record changes in each.
    method, settings = RUNS[run]
    clip = 0.05
    found = moved(process, monkeypatch, method, settings, clip, times)
    config = load_config(**PRIVATE | settings | {"method": method})
    assert len(found) == 4 * releases(config)
    assert all(0 < far <= clip * 1.0001 for far in found), found


@pytest.mark.parametrize(
    ("method", "leak"),
    [("feddat", {"algorithm.heads": "shared"}), ("feddat", {"algorithm.alpha": 0.9}), ("feddat-2", {})],
)
def test_what_scope_shared_refuses_would_move_releases_further(process, monkeypatch, method, leak):
    # The control of the test above: through a shared head, the teacher or the local adapter, a record moves others'
    # gradients as well.
    found = moved(process, monkeypatch, method, SHARED | leak | {"train.lr": 0.3}, clip=0.05)
    assert max(found) > 0.06


@pytest.mark.parametrize("run", [run for run in RUNS if "all" in run or run in ("local", "head")])
def test_in_scope_all_nothing_trains_without_noise(process, monkeypatch, run):
    method, settings = RUNS[run]

    def silent(sums, noise, divisor):
        for parameter in sums:
            parameter.grad = torch.zeros_like(parameter)

    monkeypatch.setattr(private_training, "noisy", silent)
    p = process(method, **PRIVATE | {"train.weight_decay": 0.0} | settings)
    participant = p.participant(MUSEUM)
    before = {key: value.clone() for key, value in participant.members["museum"].heads["main"].state_dict().items()}
    shared = p.initial() if p.algorithm.communicates else None
    first = {name: p.weights(name) for name in ("global", "local")}
    result = participant.fit(shared, 1)
    assert same(before, participant.members["museum"].heads["main"].state_dict())
    if shared is not None:
        assert same(result.shared, shared)
        assert same(p.weights("global"), first["global"])


@pytest.mark.parametrize(
    ("method", "extra"),
    [("feddat", {}), ("feddat", JOINT), ("fedavg", {}), ("feddat-2", {}), ("fedavg-local", {}), ("local", {})],
)
def test_without_clipping_and_noise_it_is_the_published_step(process, monkeypatch, method, extra):
    # With every record in every sample, no clipping and no noise, the update is the one without privacy.
    settings = {"train.batch_size": 11, "train.eps": 1e-3}
    plain, private = process(method, **settings | extra), process(method, **PRIVATE | settings | extra)
    turn = PrivateTurn((torch.arange(11),), 11.0, Clip(1e6, 11), 0.0, 2, NoiseSource.seeded(0))
    found = []
    for p in (plain, private):
        participant = p.participant(MUSEUM)
        monkeypatch.setattr(participant, "_private_turn", lambda round, p=p: turn if p is private else None)
        result = participant.fit(p.initial() if p.algorithm.communicates else None, 1)
        found.append(stored(participant) | (result.shared or {}))
    for key, value in found[0].items():
        torch.testing.assert_close(found[1][key], value, rtol=1e-3, atol=1e-5, msg=lambda m, key=key: f"{key}: {m}")


def test_a_sample_without_records_releases_noise_alone(process, monkeypatch):
    (first, second) = releases_of(process, monkeypatch, "feddat", {}, [torch.empty(0, dtype=torch.long)])
    assert not first.any() and not second.any()


def test_noise_has_the_size_that_was_paid_for(process):
    p = process("local", **PRIVATE | {"privacy.clip": 1e-6, "train.batch_size": 11})
    participant = p.participant(MUSEUM)
    grads = []
    turn = private_training.open_turn(p.config, participant.store, 11, 1)
    turn = PrivateTurn(turn.plan, turn.expected, Clip(1e-6, 22), turn.noise, 1, turn.source)
    participant._private_turn = lambda round: turn
    original = private_training.noisy

    def keep(sums, noise, divisor):
        original(sums, noise, divisor)
        grads.append(torch.cat([parameter.grad.flatten() for parameter in sums]))

    private_training.noisy = keep
    try:
        participant.fit(None, 1)
    finally:
        private_training.noisy = original
    spread = torch.cat(grads).std().item()
    assert spread == pytest.approx(turn.noise * 1e-6 / 11, rel=0.05)


def stored(participant):
    return participant.store.read(1)[1]


# --- seeds ------------------------------------------------------------------------------------------------------------


def test_a_noise_seed_gives_the_same_numbers_and_none_others(process):
    def shared(**settings):
        p = process("feddat", **{**PRIVATE, **settings})
        return p.participant(MUSEUM).fit(p.initial(), 1).shared

    assert same(shared(), shared())
    assert not same(shared(), shared(**{"privacy.noise_seed": 2}))
    assert not same(shared(**{"privacy.noise_seed": None}), shared(**{"privacy.noise_seed": None}))


def test_the_round_decides_the_samples(process):
    p = process("fedavg", **PRIVATE)
    plans = [
        [
            one.tolist()
            for one in private_training.open_turn(p.config, PersonalStore(p.root / str(r), "museum"), 11, r).plan
        ]
        for r in (1, 2)
    ]
    assert plans[0] != plans[1]


# --- the budget -------------------------------------------------------------------------------------------------------


def test_planned_rounds_fit_and_one_more_does_not(process):
    p = process("fedavg", **PRIVATE | {"rounds": 2})
    participant, shared = p.participant(MUSEUM), p.initial()
    for round in (1, 2):
        shared = participant.fit(shared, round).shared
    budget = Budget(participant.store, p.config.privacy)
    (spent,) = budget.spent()
    assert spent.count == 2 * steps_of_round(p.config, 11) == 6
    assert 0.95 * 8 < budget.epsilon() <= 8.0
    before = participant.store.rounds(), (participant.store.folder / "privacy.json").read_bytes()
    with pytest.raises(
        BudgetError, match=r"^client museum: privacy: training stops: 6 steps are done, and 3 more would go beyond "
    ):
        participant.fit(shared, 2)  # the server asks again, although the first answer has left
    assert (participant.store.rounds(), (participant.store.folder / "privacy.json").read_bytes()) == before


def test_given_noise_training_stops_before_the_budget_is_gone(tmp_path):
    settings = load_config(**PRIVATE | {"privacy.epsilon": 3.0, "privacy.noise_multiplier": 2.0}).privacy
    budget = Budget(PersonalStore(tmp_path, "ann"), settings)
    done = 0
    with pytest.raises(BudgetError, match="training stops"):
        for _ in range(1000):
            budget.spend(0.2, 1, 5, 10)
            done += 5
    assert epsilon_of([Steps(0.2, 2.0, 1, done)], 1e-3) <= 3.0 < epsilon_of([Steps(0.2, 2.0, 1, done + 5)], 1e-3)


def test_a_client_whose_records_change_pays_at_the_new_rate(tmp_path):
    budget = Budget(PersonalStore(tmp_path, "ann"), load_config(**PRIVATE).privacy)
    noise = budget.spend(0.5, 1, 5, 20)
    assert budget.spend(0.1, 1, 5, 20) == noise
    assert budget.spent() == [Steps(0.5, noise, 1, 5), Steps(0.1, noise, 1, 5)]
    assert budget.epsilon() == epsilon_of(budget.spent(), 1e-3)


def test_a_damaged_ledger_is_no_new_budget(tmp_path):
    (tmp_path / "ann").mkdir()
    (tmp_path / "ann" / "privacy.json").write_text("{}")
    with pytest.raises(StoreError, match=r"client ann: privacy: .*privacy\.json cannot be read"):
        Budget(PersonalStore(tmp_path, "ann"), load_config(**PRIVATE).privacy).spend(0.1, 1, 5, 20)


@pytest.mark.parametrize("what", ["restored", "removed", "folder removed"])
def test_an_older_ledger_gives_no_budget_back_where_the_key_has_a_folder_of_its_own(tmp_path, caplog, what):
    settings = load_config(**PRIVATE).privacy
    store = PersonalStore(tmp_path / "state", "ann", key=tmp_path / "seals" / "r1.key")
    budget, path = Budget(store, settings), store.folder / "privacy.json"
    noise = budget.spend(0.1, 1, 5, 20)
    backup = path.read_bytes()
    budget.spend(0.1, 1, 5, 20)
    if what == "restored":
        path.write_bytes(backup)
    else:
        path.unlink()
    if what == "removed":
        store.save(1, {"x": torch.zeros(1)})
    assert budget.spent() == [Steps(0.1, noise, 1, 10)]
    assert "has spent less than its copy beside the seal key" in caplog.text
    for _ in range(2):
        budget.spend(0.1, 1, 5, 20)
    with pytest.raises(BudgetError, match="training stops: 20 steps are done"):
        budget.spend(0.1, 1, 5, 20)
    assert path.read_bytes() == (tmp_path / "seals" / "r1.spent.json").read_bytes()


def test_a_ledger_without_a_copy_is_that_of_an_earlier_version(tmp_path):
    settings = load_config(**PRIVATE).privacy
    store = PersonalStore(tmp_path / "state", "ann", key=tmp_path / "seals" / "r1.key")
    Budget(store, settings).spend(0.1, 1, 5, 20)
    (tmp_path / "seals" / "r1.spent.json").unlink()
    assert [part.count for part in Budget(store, settings).spent()] == [5]


def test_a_copy_that_was_altered_is_refused(tmp_path):
    settings = load_config(**PRIVATE).privacy
    store = PersonalStore(tmp_path / "state", "ann", key=tmp_path / "seals" / "r1.key")
    Budget(store, settings).spend(0.1, 1, 5, 20)
    copy = tmp_path / "seals" / "r1.spent.json"
    copy.write_text(copy.read_text().replace('"count": 5', '"count": 4'))
    with pytest.raises(StoreError, match=r"r1\.spent\.json: altered after it was written"):
        Budget(store, settings).spent()


def test_a_round_that_fails_is_paid_for(process, monkeypatch):
    p = process("fedavg", **PRIVATE)
    participant = p.participant(MUSEUM)
    monkeypatch.setattr(participant.store, "save", lambda *args: (_ for _ in ()).throw(StoreError("full")))
    with pytest.raises(StoreError, match="full"):
        participant.fit(p.initial(), 1)
    written = json.loads((participant.store.folder / "privacy.json").read_text())
    assert written["epsilon"] == 8.0 and written["steps"][0]["count"] == 3


def test_a_delta_that_gives_a_record_away_is_refused(process):
    p = process("fedavg", **PRIVATE | {"privacy.delta": 0.1})
    with pytest.raises(DataError, match=r"privacy\.delta is 0\.1 for 11 records; expected below 1/11"):
        p.participant(MUSEUM).fit(p.initial(), 1)


# --- what can be combined ---------------------------------------------------------------------------------------------

#: Setting -> a value without a privacy argument, under every method and scope.
NEVER = {
    "share_metrics": "counts",
    "server.weighting": "examples",
    "server.rule": "qfedavg",
    "train.clip_norm": 1.0,
    "train.trap": "all",
    "train.checkpointing": True,
    "momentum.alpha": 0.4,
    "fusion.kind": "transformer",
    "adapter.peft": "full",
}
WIRES = [{"wire.format": f, "wire.delta": d} for f in ("fp32", "fp16", "bf16", "int8") for d in (False, True)]
ALLOWED = {
    ("feddat", "all"),
    ("feddat", "shared"),
    ("fedavg", "all"),
    ("fedavg", "shared"),
    ("fedavg-local", "all"),
    ("fedavg-local", "shared"),
    ("feddat-2", "all"),
    ("local", "all"),
    ("head", "all"),
}


def refusal(values):
    try:
        check_privacy(load_config(**PRIVATE | values))
    except ConfigError as error:
        return str(error)
    return None


def test_every_method_says_why_it_can_be_private_or_cannot():
    assert sorted([*SCOPES, *WHY_NOT]) == sorted(ALGORITHMS.own)
    assert {method for method, scopes in SCOPES.items() if scopes == ("all",)} == WHY_NOT_SHARED.keys()


@pytest.mark.parametrize("wire", WIRES, ids=lambda wire: " ".join(str(value) for value in wire.values()))
@pytest.mark.parametrize("scope", ["all", "shared"])
@pytest.mark.parametrize("method", [*ALGORITHMS.own, "of-another-package"])
def test_every_combination_has_an_argument_or_is_refused(method, scope, wire):
    good = {"method": method, "privacy.scope": scope, **wire}
    if (method, scope) == ("feddat", "shared"):
        good |= SHARED
    answer = refusal(good)
    assert (answer is None) == ((method, scope) in ALLOWED), answer
    for key, value in {} if answer else {**NEVER}.items():
        refused = refusal({**good, key: value})
        assert refused is not None and refused.startswith(f"privacy: {key} is {value}: "), key
        assert "\n" not in refused
    if answer:
        assert answer.startswith(("privacy: ", "privacy.scope: ")) and "\n" not in answer


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        (SHARED | {"algorithm.heads": "shared"}, "algorithm.heads is shared: a shared head carries"),
        (SHARED | {"algorithm.alpha": 0.1}, "algorithm.alpha is 0.1: the teacher's logits carry"),
        ({"method": "fedavg", "algorithm.personal_epochs": 1}, "personal fine-tuning has no noise"),
        ({"adapter.start_local": "x"}, "adapter.start_local is x: it may have learned from the same records without"),
        ({"method": "local", "adapter.start_local": "x"}, "or set privacy.scope=shared"),
        ({"adapter.peft": "prompt"}, "gradients by example of this kind are not known"),
        ({"method": "fedavg", "adapter.peft": "norm", "train.precision": "bf16"}, "train.precision is bf16"),
    ],
)
def test_what_depends_on_other_settings_is_refused_too(values, reason):
    assert reason in refusal(values)


def test_personal_fine_tuning_is_post_processing_in_scope_shared(process):
    values = {"method": "fedavg", "privacy.scope": "shared", "algorithm.personal_epochs": 1}
    assert refusal(values) is None
    p = process(**PRIVATE | values)
    participant = p.participant(MUSEUM)
    shared = participant.fit(p.initial(), 1).shared
    spent = (participant.store.folder / "privacy.json").read_bytes()
    participant.evaluate(Received(shared, 1, final=True), "test")
    assert (participant.store.folder / "privacy.json").read_bytes() == spent


def test_without_epsilon_nothing_is_refused():
    check_privacy(RunConfig(method="scaffold"))
    check_privacy(RunConfig().updated({"adapter.start_local": "x"}))


@pytest.mark.parametrize("values", [SHARED, {"privacy.unit": "client"}])
def test_a_local_start_is_left_to_clients_whose_local_adapter_is_not_private(values):
    assert refusal(values | {"adapter.start_local": "x"}) is None


# --- what a client's state may have learned from ----------------------------------------------------------------------

ALL = PRIVATE | {"algorithm.heads": "separate"}
OPEN = {"share_metrics": "none", "algorithm.heads": "separate", "algorithm.alpha": 0.0}
OF_CLIENTS = OPEN | {"privacy.epsilon": 8.0, "privacy.delta": 1e-3, "privacy.unit": "client"}


@pytest.mark.parametrize(
    ("before", "now", "reason"),
    [
        (OPEN, ALL, r"was trained without noise of records, but this run promises privacy\.scope=all; begin a new run"),
        (OPEN, PRIVATE | SHARED, r"without noise of records, but this run promises privacy\.scope=shared"),
        (OF_CLIENTS, ALL, "without noise of records"),
        (PRIVATE | SHARED, ALL, r"was trained with privacy\.scope=shared, but"),
        (ALL, ALL, None),
        (ALL, PRIVATE | SHARED, None),
        (PRIVATE | SHARED, OPEN, None),
        (OPEN, OF_CLIENTS, None),
    ],
)
def test_a_state_that_learned_without_the_promised_noise_is_not_continued(process, before, now, reason):
    first = process(**before)
    shared = first.participant(MUSEUM).fit(first.initial(), 1).shared
    participant = process(root=first.root, **now).participant(MUSEUM)
    if reason is None:
        participant.fit(shared, 2)
        return
    for accepted in (False, True):  # a client that accepts what was altered does not make it private
        if accepted:
            participant.store.accept()
        with pytest.raises(StoreError, match=rf"^client museum: privacy: personal state .*round-0001.*{reason}"):
            participant.fit(shared, 2)
    assert participant.store.rounds() == [1]


def test_a_round_without_noise_in_the_middle_of_a_private_run_ends_it(process):
    first = process(**ALL)
    shared = first.participant(MUSEUM).fit(first.initial(), 1).shared
    shared = process(root=first.root, **OPEN).participant(MUSEUM).fit(shared, 2).shared
    with pytest.raises(StoreError, match=r"round-0002\.safetensors was trained without noise of records"):
        process(root=first.root, **ALL).participant(MUSEUM).fit(shared, 3)


def test_a_residual_of_plain_rounds_is_not_sent_by_a_private_one(tmp_path):
    """The states are removed, but the residual of int8 is left; it is made of adapters that had no noise."""
    PersonalStore(tmp_path, "ann").beside("residual").save(1, {"x": torch.ones(2)})
    private = PersonalStore(tmp_path, "ann", promise="all")
    with pytest.raises(StoreError, match=r"residual-0001\.safetensors was trained without noise"):
        private.beside("residual").load(2)


def test_a_state_of_a_version_without_privacy_has_no_noise(process):
    p = process(**ALL)
    shared = p.participant(MUSEUM).fit(p.initial(), 1).shared
    store = p.participant(MUSEUM).store
    path = store.folder / "round-0001.safetensors"
    with safe_open(path, framework="pt") as file:
        metadata = {key: value for key, value in file.metadata().items() if key != "privacy"}
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    store._write(path, tensors, metadata)
    with pytest.raises(StoreError, match="was trained without noise of records"):
        p.participant(MUSEUM).fit(shared, 2)


def test_models_whose_gradients_by_example_are_not_known_are_refused(process):
    p = process("fedavg", **PRIVATE)
    with pytest.raises(ConfigError, match="written answers"):
        check_model(p.config, p.backbone, writes=True)
    p.backbone.family = "qwen2_vl"
    with pytest.raises(ConfigError, match="family qwen2_vl"):
        p.participant(MUSEUM)
