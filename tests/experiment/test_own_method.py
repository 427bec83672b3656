"""Algorithms of other packages are found by name and run like built-in ones; errors name what is wrong with one."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from feddat.algorithms import ALGORITHMS, Algorithm
from feddat.algorithms.declared import check_declared
from feddat.algorithms.registry import Registry
from feddat.algorithms.server import ServerPart
from feddat.config import ConfigError, RunConfig
from feddat.experiment import Experiment, ExperimentError, known_methods
from feddat.experiment.single.methods import resolve
from feddat.report.methods import METHODS
from helpers import sent_in

EXAMPLE = Path(__file__).parents[2] / "examples" / "own-method"


def installed(root: Path, package: str, points: str, module: str = "") -> Path:
    """Write a package's module and metadata as an installer does, and return ``root``."""
    (root / f"{package}.py").write_text(module)
    info = root / f"{package}-0.1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: 0.1\n")
    (info / "entry_points.txt").write_text(f"[feddat.algorithms]\n{points}\n")
    return root


@pytest.fixture
def clipped(tmp_path, monkeypatch):
    installed(tmp_path, "clipped", "clipped = clipped:Clipped")
    shutil.copy(EXAMPLE / "clipped.py", tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(ALGORITHMS, "_loaded", {})
    yield tmp_path
    sys.modules.pop("clipped", None)


def test_the_example_is_found_and_its_updates_are_short(clipped, make_config):
    assert "FedAvg with flat clipping" in known_methods()["clipped"]
    assert "clipped" not in ALGORITHMS.own
    lengths = {}
    for norm in (0.01, 1e9):
        config = make_config(method="clipped", rounds=2, name=f"norm-{norm}", **{"algorithm.options": {"norm": norm}})
        moved = []

        def seen(event, moved=moved):
            if event["event"] == "fit":
                moved.append(event["client"])

        Experiment(config).run(seen)
        assert moved == ["ann", "bob"] * 2
        before, after = (sent_in(config.run_dir, n) for n in (1, 2))
        lengths[norm] = torch.cat([(after[key] - before[key]).flatten() for key in after]).norm().item()
    assert lengths[0.01] <= 0.01 * (1 + 1e-5) < lengths[1e9], "the mean of two updates is no longer than they are"


def test_another_process_finds_it_too(clipped):
    code = "from feddat.algorithms import ALGORITHMS; print(ALGORITHMS['clipped'].trains)"
    found = subprocess.run(
        [sys.executable, "-c", code], env={"PYTHONPATH": str(clipped)}, capture_output=True, text=True, check=True
    )
    assert found.stdout == "('global',)\n"


def test_its_settings_are_its_own(clipped, make_config):
    for options, said in (
        ({"norm": 0}, "norm: expected a number above 0, got 0"),
        ({"nrom": 1}, "unknown nrom; method"),
    ):
        with pytest.raises(ConfigError, match=said):
            Experiment(make_config(method="clipped", **{"algorithm.options": options})).run()


NAMED = "from feddat.algorithms import Algorithm\nclass Mine(Algorithm):\n    name = 'mine'\n"
NEEDY = NAMED + "    trains, routes = (), ('none',)\n    def __init__(self, needed): ...\n"


@pytest.mark.parametrize(
    ("point", "module", "said"),
    [
        ("mine = other:Mine", "", r"method mine, other:Mine of package other: cannot be loaded: AttributeError"),
        ("mine = other:Mine", "import nothing_such", "cannot be loaded: ModuleNotFoundError: No module named 'nothing"),
        ("mine = other:Mine", "Mine = 3", "expected a subclass of feddat.algorithms.Algorithm, got 3"),
        ("own = other:Mine", NAMED, "its `name` is 'mine'; expected 'own'"),
        ("mine = other:Mine", NAMED, "expected the class attributes `trains` and `routes`"),
        (
            "mine = other:Mine",
            NAMED + "    trains, routes = 'global', ('global',)\n",
            "`trains`: expected a tuple of names, got",
        ),
        ("mine = other:Mine", NEEDY, "cannot be instantiated: .*needed"),
    ],
)
def test_what_is_wrong_is_said(tmp_path, monkeypatch, point, module, said):
    monkeypatch.syspath_prepend(installed(tmp_path, "other", point, module))
    monkeypatch.delitem(sys.modules, "other", raising=False)
    name = point.partition(" ")[0]
    methods = Registry([])
    assert name in methods and list(methods) == [name]
    with pytest.raises(ConfigError, match=said):
        methods[name]


def test_a_broken_package_leaves_all_other_methods(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(installed(tmp_path, "other", "mine = other:Mine", "import nothing_such"))
    monkeypatch.delitem(sys.modules, "other", raising=False)
    known = known_methods()
    assert "cannot be loaded: ModuleNotFoundError" in known["mine"]
    assert known["fedavg"] == METHODS["fedavg"].note
    with pytest.raises(ConfigError, match=r"method: 'nope' is unknown; methods are feddat, .*mine"):
        resolve(RunConfig(method="nope"))


def test_a_notebook_adds_one_to_its_own_process():
    class Mine(Algorithm):
        name, trains, routes = "mine", ("global",), ("global",)

        def step(self, learner, context):
            return {}

    class Taken(Mine):
        name = "fedavg"

    methods = Registry([ALGORITHMS["fedavg"]])
    first, again = Mine(), Mine()
    methods.add(first)
    assert methods["mine"] is first and list(methods) == ["fedavg", "mine"] and methods.own == ("fedavg",)
    methods.add(again)  # as when a notebook cell is run again
    assert methods["mine"] is again and len(methods) == 2
    with pytest.raises(ConfigError, match="method fedavg: this name is already taken"):
        methods.add(Taken())


class Part(ServerPart):
    """The plain mean."""


@pytest.mark.parametrize(
    ("attributes", "said"),
    [
        ({"name": 3}, "`name`: expected a text, got 3"),
        ({"trains": "global"}, r"`trains`: expected a tuple of names, got 'global'; write \('global',\)"),
        ({"trains": ("shared",)}, "`trains`: expected names among global, local, got 'shared'"),
        ({"keeps": ("global",)}, "`keeps`: expected names among local, anchor, got 'global'"),
        ({"routes": ()}, "`routes`: expected at least one route"),
        (
            {"routes": ("globl",)},
            "`routes`: 'globl' is none of global, .*; a method with other routes defines",
        ),
        ({"logs": "loss"}, "`logs`: expected a tuple of names, got 'loss'"),
        ({"logs": ("loss", "loss")}, "`logs`: 'loss' occurs twice"),
        ({"logs": ("loss", "steps")}, "`logs`: 'steps' is what clients call a count of their own; choose another name"),
        ({"logs": ("distance",)}, r"`logs`: expected 'loss' among the names, got \('distance',\)"),
        ({"reads": ("alfa",)}, "`reads`: expected names among .*alpha.*, got 'alfa'"),
        ({"kinds": ("loar",)}, "`kinds`: expected names among .*lora.*, got 'loar'"),
        ({"sends": "anchor"}, "`sends`: expected 'global' or 'local', got 'anchor'"),
        ({"communicates": "no"}, "`communicates`: expected True or False, got 'no'"),
        (
            {"server": Part},
            r"`server`: expected an object of a .*; it is a class, so write its name with \(\)",
        ),
        ({"server": 3}, "`server`: expected an object of a subclass of feddat.algorithms.server.ServerPart, got 3"),
    ],
)
def test_wrong_class_attributes_are_said_before_a_run(attributes, said):
    declared = {"name": "mine", "trains": ("global",), "routes": ("global",)} | attributes
    with pytest.raises(ConfigError, match=f"method {declared['name']}: {said}"):
        Registry([]).add(type("Mine", (Algorithm,), declared)())


@pytest.mark.parametrize("name", ALGORITHMS.own)
def test_own_methods_declare_as_others_must(name):
    check_declared(type(ALGORITHMS[name]), name)


def test_a_method_with_its_own_answer_may_name_its_routes():
    answers = {"answer": lambda self, learner, route, context: learner.answers("global")}
    declared = {"name": "mine", "trains": ["global"], "routes": ("mine", "other"), "server": Part()}
    Registry([]).add(type("Mine", (Algorithm,), declared | answers)())


def returning(value):
    """Return a step that trains and returns a value, given its loss."""

    def step(self, learner, context):
        loss = learner.task_loss(learner.logits(learner.features("global")))
        learner.update(loss)
        return value(loss)

    return step


def run_of(make_config, monkeypatch, **defined):
    monkeypatch.setattr(ALGORITHMS, "_added", {})
    declared = {"name": "mine", "trains": ("global",), "routes": ("global",)}
    ALGORITHMS.add(type("Mine", (Algorithm,), declared | defined)())
    return Experiment(make_config(method="mine", rounds=1)).run()


@pytest.mark.parametrize(
    ("defined", "said"),
    [
        (
            {"step": returning(lambda loss: None)},
            r"step: expected a dict with exactly the keys in `logs` \(loss\), got N",
        ),
        ({"step": returning(lambda loss: {"los": loss})}, r"step: expected a dict .* \(loss\), got keys los"),
        ({"step": returning(lambda loss: {"loss": 1.0})}, "step: loss: expected a tensor with one number, got float"),
        (
            {"step": returning(lambda loss: {"loss": loss.expand(3)})},
            r"step: loss: .*, got a tensor of shape \(3,\)",
        ),
        ({"finish": lambda self, learner, context: None}, "finish: expected a dict of tensors, got NoneType"),
        (
            {"begin": lambda self, learner, context: context.state.update(seen=3)},
            "context.state: 'seen': expected tensors by name, got int",
        ),
        (
            {"answer": lambda self, learner, route, context: learner.answers(route)[:, 0]},
            r"answer on route global: expected a tensor of shape \(\d+, classes\), got a tensor of shape \(\d+,\)",
        ),
    ],
)
def test_what_a_method_returns_wrongly_is_said(make_config, monkeypatch, defined, said):
    with pytest.raises(ExperimentError, match=f"client ann: MethodError: method mine: {said}"):
        run_of(make_config, monkeypatch, **defined)


def test_a_logged_loss_may_need_gradients_and_have_one_dimension(make_config, monkeypatch):
    summary = run_of(make_config, monkeypatch, step=returning(lambda loss: {"loss": loss.reshape(1)}))
    assert 0 <= summary["mean"] <= 100 and summary["clients"].keys() == {"ann", "bob"}


def test_names_are_taken_once(tmp_path, monkeypatch):
    class Ours(Algorithm):
        name, trains, routes = "mine", ("global",), ("global",)

        def step(self, learner, context):
            return {}

    for package in ("one", "two"):
        installed(tmp_path, package, "mine = one:Mine")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ConfigError, match=r"several packages provide it \((one, two|two, one)\)"):
        Registry([])["mine"]
    ours = Ours()
    methods = Registry([ours])
    assert methods["mine"] is ours, "another package cannot take a name of this one"
    assert list(methods) == ["mine"] and len(methods) == 1
    with pytest.raises(KeyError):
        methods["nothing"]
