"""Rooms import only from floors below them, only some rooms import Flower, and no modules import each other."""

import ast
from pathlib import Path

import pytest

import feddat

ROOT = Path(feddat.__file__).parent
FLOORS = (
    ("json_lines", "one_line"),
    (
        *("allocator", "dotted", "files", "kinds", "log", "memory", "offline", "parent", "phases", "picture_settings"),
        *("precision", "seeding", "text", "tuners"),
    ),
    ("admitted", "client_names", "example", "hub", "seals", "tensorfile", "yaml_files"),
    ("pictures",),
    ("adapters", "config", "data", "models", "privacy", "report", "tasks", "workers"),
    ("algorithms", "benchmarks", "devices", "site"),
    ("client", "pretrain"),
    ("app",),
    ("experiment",),
    ("deploy",),
    ("audit", "bench", "watching"),
    ("cli",),
    ("__main__",),
)
FLOOR = {room: floor for floor, rooms in enumerate(FLOORS) for room in rooms}

FLOWER_ROOMS = {"app", "deploy", "experiment"}


def modules():
    return sorted(p for p in ROOT.rglob("*.py") if p.parent != ROOT or p.stem != "__init__")


def room_of(path):
    relative = path.relative_to(ROOT)
    return relative.parts[0].removesuffix(".py")


def imported(path):
    """Yield the modules that a file imports, including those inside functions."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (name.name for name in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            yield node.module


@pytest.mark.parametrize("path", modules(), ids=lambda p: str(p.relative_to(ROOT)))
def test_a_room_imports_only_from_below(path):
    room = room_of(path)
    assert room in FLOOR, f"{room}: a new room needs a floor"
    for module in imported(path):
        if not module.startswith("feddat."):
            continue
        other = module.split(".")[1]
        assert other == room or FLOOR[other] < FLOOR[room], f"{path.name} imports {module}"


@pytest.mark.parametrize("path", modules(), ids=lambda p: str(p.relative_to(ROOT)))
def test_only_the_apps_speak_flower(path):
    if room_of(path) not in FLOWER_ROOMS:
        assert not [module for module in imported(path) if module.split(".")[0] == "flwr"]


def imported_at_once(path):
    """Return the modules of the package that a file imports at its top level."""
    body = ast.parse(path.read_text(encoding="utf-8")).body
    return {node.module for node in body if isinstance(node, ast.ImportFrom) and node.module.startswith("feddat.")}


def test_no_modules_import_each_other():
    names = {".".join(("feddat", *p.relative_to(ROOT).with_suffix("").parts)): p for p in modules()}
    waiting = {name: imported_at_once(path) & names.keys() for name, path in names.items()}
    while ready := {name for name, others in waiting.items() if not others}:
        waiting = {name: others - ready for name, others in waiting.items() if name not in ready}
    assert not waiting, f"in a circle, or behind one: {sorted(waiting)}"
