"""Generate reference pages from the code: commands, settings, and methods that no paragraph names yet."""

from __future__ import annotations

import ast
import inspect
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import click
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page
from pydantic import BaseModel

from feddat.config.described import default_of, range_of
from feddat.report.markdown_table import TEXTS, markdown_table

CLI, CONFIGURATION, RIVALS = "reference/cli.md", "reference/configuration.md", "method/rivals.md"
#: A Sphinx role in front of code, in docstrings rendered by mkdocstrings.
ROLE = re.compile(r":(?:class|func|meth|mod|data|attr):(<code>)~?")
#: An address on arXiv.
ARXIV = re.compile(r"(?<!\[)arXiv\s+(\d{4}\.\d{4,5})")
#: Heading -> name of the settings model, and the text above its settings.
FILES = {
    "A run": (
        "RunConfig",
        "Set these keys in the YAML file of `feddat run --config FILE`, or on the command line as `KEY=VALUE`. "
        "`server=RULE` is short for `server.rule=RULE`, and `runtime=KIND` for `runtime.kind=KIND`. "
        "[Your own data](../start/your-data.md#every-key-of-a-client) lists the keys of one client below `clients:`.",
    ),
    "A client's own file": (
        "SiteConfig",
        "In a [deployment](../deployment.md), these are the keys of `client.yaml` on a client's machine. Nothing in it "
        "leaves that machine.",
    ),
}


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add both pages."""
    files.append(File.generated(config, CLI, content=commands()))
    files.append(File.generated(config, CONFIGURATION, content=settings()))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, **_: object) -> str:
    """Add methods to the page of rivals that it does not name."""
    if page.file.src_uri != RIVALS:
        return markdown
    folder = Path(config.config_file_path).parent / "src" / "feddat" / "algorithms"
    added = [paragraph for path in sorted(folder.glob("*.py")) if (paragraph := rival(path, markdown))]
    return "\n\n".join([markdown, *(["## More"] if added else []), *added])


def rival(path: Path, page: str) -> str | None:
    """Return a paragraph about the algorithm in a file, from its docstring, unless the page already names it."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    classes = [node for node in tree.body if isinstance(node, ast.ClassDef)]
    named = [
        item.value.value
        for node in classes
        for item in node.body
        if isinstance(item, ast.Assign)
        and ast.unparse(item.targets[0]) == "name"
        and isinstance(item.value, ast.Constant)
    ]
    if not named or named[0] == "feddat" or f"(`{named[0]}`)" in page:
        return None
    first, *rest = (ast.get_docstring(tree) or "").split("\n\n")
    said = " ".join(" ".join([first, *rest[:1]]).split()).replace("``", "`")
    linked = ARXIV.sub(r"[arXiv \1](https://arxiv.org/abs/\1)", said)
    return f"(`{named[0]}`) {linked} (`algorithms/{path.name}`)"


def on_page_content(html: str, **_: object) -> str:
    """Remove Sphinx roles from rendered docstrings."""
    return ROLE.sub(r"\1", html)


def commands() -> str:
    """Return the page of all commands."""
    import typer.main

    from feddat.cli.program import app

    lines = [
        "# Command line",
        "This page lists every command. It is generated from the commands, like `feddat COMMAND --help` in a terminal. "
        "Settings of a run are `KEY=VALUE` arguments: [configuration](configuration.md).",
        "Exit codes are 0 for success, 1 for failed runs, a failed check or a fault of the program, 2 for a mistake "
        "that the error explains, 3 for an audit above a limit, and 130 for Ctrl-C.",
    ]
    for path, command in every_command(typer.main.get_command(app), "feddat"):
        lines += [f"## {path}", _plain(command.help or ""), *_usage(path, command)]
    return "\n\n".join(line for line in lines if line) + "\n"


def every_command(command: click.Command, path: str) -> Iterator[tuple[str, click.Command]]:
    """Yield every command that does something, with its full name, in the order of the help text."""
    if isinstance(command, click.Group):
        for name, child in command.commands.items():
            if not child.hidden:
                yield from every_command(child, f"{path} {name}")
    else:
        yield path, command


def _usage(path: str, command: click.Command) -> Iterator[str]:
    arguments = [p for p in command.params if p.param_type_name == "argument"]
    options = [p for p in command.params if p.param_type_name == "option" and not getattr(p, "hidden", False)]
    shown = " ".join(_name(p) if p.required else f"[{_name(p)}]" for p in arguments)
    yield f"```console\n$ {path}{' [OPTIONS]' if options else ''} {shown}".rstrip() + "\n```"
    rows = [(f"`{_name(p)}`", _meaning(p), _default(p)) for p in arguments]
    rows += [(_option(p), _meaning(p), _default(p)) for p in options]
    if rows:
        yield _table(("argument or option", "meaning", "default"), rows)


def _name(parameter: click.Parameter) -> str:
    name = (parameter.metavar or (parameter.name or "").upper()).removesuffix("...").strip("[]")
    return name + ("..." if parameter.nargs == -1 else "")


def _meaning(parameter: click.Parameter) -> str:
    return _cell(getattr(parameter, "help", None) or "")


def _option(parameter: click.Parameter) -> str:
    names = "`, `".join([*parameter.opts, *parameter.secondary_opts])
    if getattr(parameter, "is_flag", False):
        return f"`{names}`"
    choices = getattr(parameter.type, "choices", None)
    kind = parameter.metavar or ("|".join(map(str, choices)) if choices else parameter.type.name.upper())
    return f"`{names}` `{kind.replace('|', ' / ').removesuffix(' RANGE')}`"


def _default(parameter: click.Parameter) -> str:
    value = parameter.default
    if parameter.required:
        return "required"
    # Newer versions of click mark an option without default with a special value.
    if value is None or value is False or value in ((), []) or callable(value) or "UNSET" in repr(value).upper():
        return ""
    return f"`{_cell(' '.join(map(str, value)) if isinstance(value, tuple | list) else str(value))}`"


def settings() -> str:
    """Return the page of all settings."""
    lines = [
        "# Configuration",
        "This page lists every key. It is generated from the models that validate the settings. A command refuses an "
        "unknown key or a value outside its range before anything starts.",
    ]
    for title, (model, text) in FILES.items():
        lines += [f"## {title}", text, *_tables(_model(model), "")]
    lines += [
        "## Bundled models",
        "Most defaults come from the paper and suit ViLT-B. Bundled models have these defaults instead:",
        _recommended(),
    ]
    return "\n\n".join(lines) + "\n"


def _recommended() -> str:
    from feddat.config.recommended import RECOMMENDED

    rows = [
        (f"`{model}`", ", ".join(f"`{k}={v:g}`" if isinstance(v, float) else f"`{k}={v}`" for k, v in values.items()))
        for model, values in RECOMMENDED.items()
    ]
    return _table(("model", "settings"), rows)


def _model(name: str) -> type[BaseModel]:
    import feddat.config
    import feddat.site

    found: type[BaseModel] = getattr(feddat.config, name, None) or getattr(feddat.site, name)
    return found


def _tables(model: type[BaseModel], prefix: str) -> Iterator[str]:
    rows, sections = [], []
    for name, field in model.model_fields.items():
        section = field.annotation
        if inspect.isclass(section) and issubclass(section, BaseModel):
            sections.append((name, section))
        else:
            rows.append((f"`{prefix}{name}`", default_of(field), range_of(field), _cell(field.description or "")))
    yield _table(("key", "default", "range", "meaning"), rows)
    for name, section in sections:
        yield f"### {prefix}{name}"
        yield _plain((section.__doc__ or "").split("\n\n")[0])
        yield from _tables(section, f"{prefix}{name}.")


def _plain(text: str) -> str:
    """Return a docstring as Markdown: paragraphs on one line, code in single marks, no Sphinx roles."""
    text = re.sub(r":[a-z]+:`~?([^`]+)`", r"`\1`", inspect.cleandoc(text).replace("\f", "")).replace("``", "`")
    return "\n\n".join(" ".join(part.split()) for part in text.split("\n\n"))


def _table(headings: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    return markdown_table(headings, rows, [TEXTS] * len(headings)).rstrip()


def _cell(text: str) -> str:
    return _plain(text).replace("\n", " ").replace("<", "&lt;")
