"""Settings as people write them: what is read, and the mistakes that are reported instead of ignored."""

from __future__ import annotations

import json
import re
import time
from pathlib import Path

import pytest
import typer

from feddat.cli import main
from feddat.cli.program import app
from feddat.client.store import PersonalStore, StoreError
from feddat.client_names import name_problem
from feddat.config import ConfigError, load_config
from feddat.config.run import _known_keys
from feddat.deploy.errors import DeployError
from feddat.deploy.folder import read_server, write_consortium
from feddat.site import read_site
from feddat.text import nearest
from feddat.yaml_files import YamlError, parse_yaml


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "x.yaml"


def said(file: Path, content: str | bytes) -> str:
    """Return the error about a file, without the file's name."""
    file.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(ConfigError) as caught:
        load_config(file)
    assert "\n" not in str(caught.value)
    start = f"config file {file}: "
    assert str(caught.value).startswith(start)
    return str(caught.value).removeprefix(start)


CLIENT = "{train: a.jsonl, test: b.jsonl}"
MISTAKES = {
    "a client twice": (
        f"clients:\n  north: {CLIENT}\n  south: {CLIENT}\n  north: {CLIENT}\n",
        "line 4: key 'north' occurs twice, first in line 2; remove one",
    ),
    "a setting twice": ("rounds: 3\nseed: 1\nrounds: 30\n", "line 3: key 'rounds' occurs twice, first in line 1"),
    "a key of a section twice": ("train: {lr: 1, lr: 2}", "line 1: key 'lr' occurs twice"),
    "a key of a client twice": ("clients:\n  a: {train: x, test: y, train: z}", "line 2: key 'train' occurs twice"),
    "a key twice in another Unicode form": (
        f"clients:\n  Südhaus: {CLIENT}\n  Su\u0308dhaus: {CLIENT}\n",
        "line 3: key 'Su\u0308dhaus' occurs twice",
    ),
    "an empty file": ("", "contains no settings; expected at least one, for example `clients:` or `benchmark:`"),
    "comments alone": ("# rounds: 3\n---\n", "contains no settings"),
    "empty braces": ("{}", "contains no settings"),
    "no client": ("clients:\nrounds: 3\n", "clients: is empty; name at least one client, or leave the key out"),
    "no client in braces": ("clients: {}\n", "clients: is empty"),
    "a list of clients": (
        "clients:\n  - north\n  - south\n",
        "clients: expected client names and their files, `clients: {north: {train: a.jsonl, test: b.jsonl}}`, not a"
        " list",
    ),
    "a text for clients": ("clients: north", "clients: expected client names and their files, "),
    "a file for a client": (
        "clients: {north: a.csv}",
        "clients: north: expected the client's files, `clients: {north: {train: a.jsonl, test: b.jsonl}}`, not a text",
    ),
    "a list for a client": ("clients: {north: [a.csv, b.csv]}", "clients: north: expected the client's files, "),
    "nothing for a client": ("clients:\n  north:\n", "clients: north: expected the client's files, "),
    "a client called no": (
        f"clients:\n  no: {CLIENT}\n",
        'line 2: key no: YAML reads it as true or false, not as a name; put it in quotes: "no"',
    ),
    "a client called on": (f"clients: {{on: {CLIENT}}}", 'put it in quotes: "on"'),
    "a client called 3": (
        f"clients:\n  3: {CLIENT}\n",
        "key 3: YAML reads it as a number, not as a name; put it in quotes",
    ),
    "a client called 1.5": (f"clients:\n  1.5: {CLIENT}\n", "key 1.5: YAML reads it as a number"),
    "a client called by a date": (
        f"clients:\n  2024-01-01: {CLIENT}\n",
        'key 2024-01-01: YAML reads it as a date, not as a name; put it in quotes: "2024-01-01"',
    ),
    "a client called null": (f"clients:\n  null: {CLIENT}\n", "key null: YAML reads it as nothing, not as a name"),
    "a client without a name": (
        f"clients:\n  ? \n  : {CLIENT}\n",
        "key (empty): YAML reads it as nothing, not as a name",
    ),
    "a list as a key": ("? [a, b]\n: 1\n", "line 1: a key must be a name, not a list or a mapping"),
    "a slash in a name": (
        f'clients:\n  "Klinik Süd / Haus 3": {CLIENT}\n',
        "clients: name 'Klinik Süd / Haus 3': expected letters, digits, spaces and signs, but none of "
        "/ \\ : * ? \" < > |, and no dot at an end; for example 'Klinik Süd - Haus 3'",
    ),
    "names that differ in letter case": (
        f"clients: {{Nord: {CLIENT}, NORD: {CLIENT}}}",
        "clients: names 'Nord' and 'NORD' differ only in letter case; rename one",
    ),
    "a number for a text": ("name: 3\n", "name: Input should be a valid string: put it in quotes (got 3)"),
    "no for a text": ("method: no\n", "method: Input should be a valid string: put it in quotes (got False)"),
    "a date for a text": ("name: 2024-01-01\n", "name: Input should be a valid string: put it in quotes (got "),
    "Latin-1": ("name: Süd\n".encode("latin-1"), "not UTF-8 text; save it as UTF-8"),
    "a tab": ("train:\n\tlr: 1\n", "not valid YAML: while scanning for the next token found character '\\t'"),
    "two documents": ("rounds: 1\n---\nrounds: 2\n", "not valid YAML: expected a single document"),
    "a date that is none": ("name: 2024-13-01\n", "not valid YAML: month must be in 1..12"),
    "a tag of another language": (
        "name: !!python/name:os.system x\n",
        "not valid YAML: could not determine a constructor",
    ),
    "an alias inside itself": ("train: &a {lr: *a}\n", "line 1: an alias refers to a value that contains it"),
    "half of a character": ('name: "\\uD83D"\n', "line 1: a text contains half of a character (a UTF-16 surrogate)"),
    "nested too deeply": ("a: " + "[" * 3000, "not valid YAML: nested too deeply"),
}


@pytest.mark.parametrize(("content", "message"), MISTAKES.values(), ids=MISTAKES)
def test_a_mistake_is_named_in_one_line(file: Path, content: str | bytes, message: str) -> None:
    assert message in said(file, content)


def test_good_files_are_read(file: Path) -> None:
    content = (
        "# two houses\nbase: &base {test: t.csv}\n"
        'clients:\n  "no": {<<: *base, train: no.csv}\n  Klinik Süd - Haus 3: {<<: *base, train: a.csv, test: b.csv}\n'
        "  Su\u0308dhaus (St. Mary's): {train: c.csv, test: c.csv}\n  '3': *base\nname: \"2024-01-01\"\n"
    )
    for encoding in ("utf-8", "utf-8-sig", "utf-16"):
        file.write_bytes(content.replace("base: &base {test: t.csv}\n", "").replace("<<: *base, ", "").replace(
            "*base", "{test: t.csv}").encode(encoding))  # fmt: skip
        config = load_config(file)
        assert list(config.clients or {}) == ["no", "Klinik Süd - Haus 3", "Südhaus (St. Mary's)", "3"]
        assert config.name == "2024-01-01"
    assert parse_yaml(content)["clients"]["Klinik Süd - Haus 3"] == {"train": "a.csv", "test": "b.csv"}  # overridden


def test_aliases_that_stand_for_billions_of_values_are_refused_at_once(file: Path) -> None:
    lines = ["a: &a [1,1,1,1,1,1,1,1,1]"]
    lines += [f"{b}: &{b} [{','.join([f'*{a}'] * 9)}]" for a, b in zip("abcdefghij", "bcdefghijk", strict=True)]
    started = time.perf_counter()
    assert "aliases expand to more than 1,000,000 values" in said(file, "\n".join(lines))
    with pytest.raises(YamlError, match="aliases expand to"):
        parse_yaml(f"a: &a [{'1,' * 1000}]\nb: [{'*a,' * 1001}]\n")
    assert time.perf_counter() - started < 20


def test_where_no_quotes_are_left_texts_are_texts() -> None:
    config = load_config(None, ["name=no", "model=3", "root=2024", "rounds=7", "train.clip_norm=null"])
    assert (config.name, config.model, str(config.root), config.rounds) == ("no", "3", "2024", 7)
    assert load_config(None, ["name=null"]).name is None
    with pytest.raises(ConfigError, match=r"value '\{eta: 1, eta: 2\}': line 1: key 'eta' occurs twice"):
        load_config(None, ["server.options={eta: 1, eta: 2}"])


# Names of clients

GOOD_NAMES = ["north", "no", "3", "Klinik Süd", "St. Mary's (ward 3)", "a_b-c", "病院", "अस्पताल", "R&D + Lab"]
BAD_NAMES = [
    "",
    ".",
    "..",
    ".a",
    "a.",
    "a/b",
    "a\\b",
    "c:",
    "a*",
    "a?",
    '"a"',
    "<a>",
    "a|b",
    "a\nb",
    "a\0b",
    " a",
    "a ",
]
BAD_NAMES += ["Su\u0308d", "a\u00a0b", "x" * 201, "ü" * 101]


@pytest.mark.parametrize("name", GOOD_NAMES)
def test_names_that_any_folder_can_have(name: str, tmp_path: Path) -> None:
    assert name_problem(name) is None
    store = PersonalStore(tmp_path, name)
    store.save(1, {})
    assert store.load(2) is not None


@pytest.mark.parametrize("name", BAD_NAMES)
def test_names_that_some_folder_cannot_have_are_refused_with_the_rule(name: str, tmp_path: Path) -> None:
    problem = name_problem(name)
    assert problem is not None
    assert any(
        rule in problem for rule in ("expected letters, digits, spaces and signs", "did you mean", "longer than")
    )
    with pytest.raises(StoreError, match="client "):
        PersonalStore(tmp_path, name)


def test_a_site_says_the_same(tmp_path: Path) -> None:
    file = tmp_path / "client.yaml"
    for content, message in (
        ("client: no\ndata: {}\n", "client: Input should be a valid string: put it in quotes (got False)"),
        ("client: a/b\ndata: {}\n", "client: expected letters, digits, spaces and signs, but none of "),
        ("client: a\nclient: b\ndata: {}\n", "line 2: key 'client' occurs twice"),
        ("client: a\ndta: {}\n", "unknown key 'dta'; did you mean 'data'?"),
        ("", "expected keys and values at the top level"),
    ):
        file.write_text(content)
        with pytest.raises(ConfigError) as caught:
            read_site(file)
        assert str(caught.value).startswith(f"client file {file}: ") and message in str(caught.value)
    file.write_text("client: Su\u0308d\ndata: {}\n")
    assert read_site(file).client == "Süd"


def test_a_consortium_may_have_clients_called_no_and_3(tmp_path: Path) -> None:
    names = ["no", "3", "2024-01-01", "north", "1e3"]
    write_consortium(tmp_path / "c", names, ["127.0.0.1", "::1"])
    assert read_server(tmp_path / "c" / "server").clients == tuple(names)
    assert read_server(tmp_path / "c" / "server").hosts == ("127.0.0.1", "::1")
    assert [read_site(tmp_path / "c" / "clients" / name / "client.yaml").client for name in names] == names
    assert list(load_config(tmp_path / "c" / "server" / "run.yaml").clients or {}) == names
    server = tmp_path / "c" / "server" / "server.yaml"
    server.write_text("hosts: [h]\nport: 1\nclients: [no]\n")
    with pytest.raises(DeployError, match=r"server\.yaml: False: expected a name; put it in quotes"):
        read_server(tmp_path / "c" / "server")


# Unknown keys


def error(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    with pytest.raises(SystemExit) as ended:
        main(list(arguments))
    assert ended.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    return line


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["run", "overwrite=true"], "unknown key 'overwrite' (--overwrite is an option of `feddat run`)"),
        (["run", "resume=x"], "unknown key 'resume' (--resume is an option of `feddat run`)"),
        (
            ["compare", "seeds=3"],
            "unknown key 'seeds'; did you mean 'seed'? (--seeds is an option of `feddat compare`)",
        ),
        (["compare", "tune_on=x"], "unknown key 'tune_on' (--tune-on is an option of `feddat compare`)"),
        (["run", "seeds=3"], "unknown key 'seeds'; did you mean 'seed'?"),
        (["run", "lr=1"], "unknown key 'lr'; did you mean 'head.lr' or 'train.lr'?"),
        (["run", "train.batchsize=1"], "unknown key 'train.batchsize'; did you mean 'train.batch_size'?"),
        (["run", "trian.lr=1"], "unknown key 'trian'; did you mean 'train'?"),
        (["run", "clinets={}"], "unknown key 'clinets'; did you mean 'clients'?"),
        (["run", "colour=1"], "unknown key 'colour'"),
        (["run", "algorithm.gamma=1"], "unknown key 'algorithm.gamma'"),
    ],
)
def test_an_unknown_key_suggests_what_is_near_or_nothing(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert error(capsys, *arguments) == f"error: configuration: {message}"


def test_options_in_a_file_are_told_from_settings(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file.write_text("overwrite: true\n")
    line = error(capsys, "run", "--config", str(file))
    assert line == f"error: config file {file}: unknown key 'overwrite' (--overwrite is an option of `feddat run`)"


def test_every_setting_is_near_itself_and_words_with_little_in_common_are_near_nothing() -> None:
    keys = _known_keys()
    for key in keys:
        assert key in nearest(key, keys)
        assert key in nearest(key.rpartition(".")[2], keys)
    # Options of commands are not settings. An option is near a setting only if they share a word or a first letter.
    options = {option.lstrip("-") for command in typer.main.get_command(app).commands.values()  # type: ignore[attr-defined]
               for parameter in command.params for option in parameter.opts if option.startswith("--")}  # fmt: skip
    near = {option: nearest(option, keys) for option in sorted(options - set(keys)) if nearest(option, keys)}
    assert "overwrite" in options and "overwrite" not in near
    for option, found in near.items():
        words = set(option.split("-"))
        assert any(words & set(re.split(r"[._]", key)) or option[0] == key.rpartition(".")[2][0] for key in found), (
            found
        )


def test_resolved_settings_of_a_run_read_back(tmp_path: Path, file: Path) -> None:
    (tmp_path / "a.jsonl").write_text(json.dumps({"image": "x.png", "question": "?", "answers": "a"}))
    file.write_text("name: 'no'\nclients:\n  'on': {train: a.jsonl, test: a.jsonl, description: '2024-01-01'}\n")
    config = load_config(file)
    (tmp_path / "again.yaml").write_text(config.to_yaml())
    assert load_config(tmp_path / "again.yaml") == config
