"""The site's hooks, and what its pages must say. `make docs` builds the whole site and checks every link."""

import importlib.util
import re
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from feddat.algorithms import ALGORITHMS
from feddat.config import RunConfig
from feddat.config.described import every_key
from feddat.site import SiteConfig

DOCS = Path(__file__).parents[2] / "docs"
pytest.importorskip("mkdocs", reason="the site needs the extra `docs`")


def hook(name):
    spec = importlib.util.spec_from_file_location(f"docs_hook_{name}", DOCS / "hooks" / f"{name}.py")
    module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


reference, links, mathml, repository = map(hook, ("reference", "links", "mathml", "repository"))


def test_every_key_has_a_row_with_default_range_and_meaning():
    page = reference.settings()
    for model in (RunConfig, SiteConfig):
        for key, field in every_key(model):
            rows = [line for line in page.splitlines() if line.startswith(f"| `{key}` |")]
            assert rows, f"{key}: no row"
            for row in rows:
                cells = [cell.strip() for cell in re.split(r"(?<!\\)\|", row)[1:-1]]
                assert len(cells) == 4 and all(cells), f"{key}: {row!r}"
            assert field.description, key
    assert "| `train.lr` | `0.0001` | number, > 0 |" in page
    assert "| `algorithm.alpha` | `0.5` | number, ≥ 0, ≤ 1 |" in page
    assert "| `runtime.jobs` | `1` | whole number, ≥ 1 or `auto` |" in page
    assert "| `client` | required | text |" in page


def test_every_command_is_there_with_its_options():
    page = reference.commands()
    for heading in (
        "feddat run",
        "feddat data prepare",
        "feddat models check",
        "feddat deploy approve",
        "feddat bench step",
    ):
        assert f"## {heading}\n" in page
    import typer.main

    from feddat.cli.program import app

    for path, command in reference.every_command(typer.main.get_command(app), "feddat"):
        section = page.partition(f"## {path}\n")[2].partition("\n## ")[0]
        for parameter in command.params:
            if not getattr(parameter, "hidden", False):
                name = reference._name(parameter) if parameter.param_type_name == "argument" else parameter.opts[0]
                start = "| `" + name.replace("|", "\\|") + "`"
                rows = [re.split(r"(?<!\\)\|", line) for line in section.splitlines() if line.startswith(start)]
                assert rows and len(rows[0]) == 5 and rows[0][2].strip(), f"{path}: {name} is not explained"
    assert "| `--resume` `RUN_DIR` |" in page
    assert "$ feddat run [OPTIONS] [KEY=VALUE...]\n" in page


def test_every_rival_has_a_paragraph_with_its_file():
    page = (DOCS / "method" / "rivals.md").read_text()
    folder = DOCS.parent / "src" / "feddat" / "algorithms"
    added = {path: reference.rival(path, page) for path in folder.glob("*.py")}
    page = "\n\n".join([page, *filter(None, added.values())])
    for name in set(ALGORITHMS.own) - {"feddat"}:
        (paragraph,) = (part for part in page.split("\n\n") if f"(`{name}`)" in part)
        assert f"algorithms/{name.replace('-', '_')}.py" in paragraph
    # A method that the page does not name yet is described by its own docstring.
    told = reference.rival(folder / "ditto.py", "")
    assert told.startswith("(`ditto`) Ditto: FedAvg's shared adapter, and") and "abs/2012.04221)" in told
    table = (DOCS / "methods.md").read_text()
    assert all(f"`{name}`" in table for name in ALGORITHMS.own)


def test_equations_become_mathml():
    drawn = mathml.on_page_content('<p><span class="arithmatex">\\(a_1 &lt; b\\)</span></p>')
    assert drawn.startswith('<p><span class="equation"><math') and "<mo>&#x0003C;</mo>" in drawn
    assert "arithmatex" not in drawn


@pytest.mark.parametrize(
    ("page", "fault"),
    [
        ('<a href="b.html#there">', None),
        ('<a href="https://example.org/x">', None),
        ('<a href="c.html">', "a.html: c.html leads nowhere"),
        ('<a href="b.html#gone">', "a.html: b.html#gone: no such anchor"),
        ('<a href="#gone">', "a.html: #gone: no such anchor"),
        ('<img src="gone.png">', "a.html: gone.png leads nowhere"),
        ('<script src="https://example.org/x.js"></script>', "a.html: loads https://example.org/x.js from elsewhere"),
        ('<link rel="stylesheet" href="//example.org/x.css">', "a.html: loads //example.org/x.css from elsewhere"),
    ],
)
def test_dead_links_and_things_from_elsewhere_are_found(tmp_path, page, fault):
    (tmp_path / "a.html").write_text(page)
    (tmp_path / "b.html").write_text('<h2 id="there">b</h2>')
    assert list(links.faults(tmp_path)) == ([fault] if fault else [])


def test_links_in_code_are_ignored():
    text = '[a](x.md) ![b](y.png)\n\n```python\n[c](z.md)\n```\n<img src="w.svg"> [d](https://e.org) [e](#f)\n'
    assert list(repository.links(text)) == ["x.md", "y.png", "w.svg"]


def test_links_also_work_without_the_site():
    """On a code host, only files of the repository can be linked; elsewhere a page must say that the site has it."""
    generated = {DOCS / "reference" / "cli.md", DOCS / "reference" / "configuration.md"}
    for path in sorted(DOCS.rglob("*.md")):
        for part in re.split(r"\n(?:\n|(?=\|))", repository.FENCE.sub("", path.read_text())):
            for target in repository.links(part):
                found = (path.parent / target).resolve()
                told = found in generated and "`make docs`" in part
                assert told or found.exists(), f"{path.relative_to(DOCS)}: {target} is not in the repository"


def test_a_link_to_a_notebook_leads_to_its_page(monkeypatch):
    monkeypatch.setitem(repository._repository_paths, "start/x.md", "docs/start/x.md")
    config = SimpleNamespace(config_file_path=str(DOCS.parent / "mkdocs.yml"), docs_dir=str(DOCS))
    files = SimpleNamespace(get_file_from_path=lambda uri: uri == "notebooks/federation.md" or None)
    page = SimpleNamespace(file=SimpleNamespace(src_uri="start/x.md"))
    text = "[a](../notebooks/federation.ipynb#there) [b](../notebooks/other.ipynb)"
    turned = repository.on_page_markdown(text, page, config, files)
    assert turned == "[a](../notebooks/federation.md#there) [b](../notebooks/other.ipynb)"


def test_the_reading_test_finds_its_answers():
    rows = re.findall(r"^\| +\d+ \|.*$", (DOCS / "dev" / "reading-test.md").read_text(), re.MULTILINE)
    assert len(rows) == 10
    for row in rows:
        *_, where, said = [cell.strip() for cell in row.strip("|").split("|")]
        pages = [DOCS / "dev" / target for target in re.findall(r"\(([^)#]+)", where)]
        assert any(said in " ".join(page.read_text().split()) for page in pages), row


def test_paragraphs_are_short():
    """No paragraph has more than about five lines of 120 characters. Tables, lists and code may be longer."""
    for path in sorted(DOCS.rglob("*.md")):
        text = repository.FENCE.sub("", path.read_text())
        for part in text.split("\n\n"):
            if not re.match(r"[\s]*([|>#<:!-]|\d+\.|\*)", part):
                assert len(part) <= 5 * 125, f"{path.relative_to(DOCS)}: {part[:60]!r}: {len(part)} characters"


def test_links_to_headings_work_on_the_site_and_in_the_repository():
    """A heading's anchor keeps letters like ε in the repository, and loses them on the site."""
    for path in sorted(DOCS.rglob("*.md")):
        for target in re.findall(r"\]\(([^)\s]*#[^)\s]*)\)", repository.FENCE.sub("", path.read_text())):
            assert target.isascii(), f"{path.relative_to(DOCS)}: {target}; link to the page instead"
