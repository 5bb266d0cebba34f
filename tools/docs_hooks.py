"""Hooks of MkDocs: links from names to the API reference, and a page for each script in examples/."""

import ast
import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parents[1]
# `kt.find_lr`, `kt.find_lr(model, data)` or `keras_transfer.find_lr`, as code and nothing else.
NAME = re.compile(r"<code>(kt|keras_transfer)\.([A-Za-z_][\w.]*)(\([^<]*\))?</code>")
LIST = "<!-- the list of examples -->"


def scripts() -> list[Path]:
    """Return the examples in the order of their names."""
    return sorted((ROOT / "examples").glob("*.py"))


def docstring(script: Path) -> str:
    """Return what an example says of itself."""
    text = ast.get_docstring(ast.parse(script.read_text(encoding="utf-8")))
    if text is None:
        raise ValueError(f"{script.name} has no docstring")
    return text


def example_page(script: Path) -> str:
    """Return the page of an example: its docstring, its pictures and its source."""
    title, _, text = docstring(script).partition("\n")
    pictures = sorted((ROOT / "docs" / "pictures" / script.stem).glob("*.png"))
    shown = [f"![{path.stem}](../pictures/{script.stem}/{path.name})" for path in pictures]
    source = script.read_text(encoding="utf-8").rstrip()
    return "\n\n".join(
        [
            f"# {script.name}",
            title,
            text.strip(),
            *shown,
            f"## The source, `examples/{script.name}`",
            f"~~~~python\n{source}\n~~~~",
        ]
    )


def on_config(config: Any) -> Any:
    """Put the pages of the examples into the navigation, below their list."""
    for section in config.nav:
        if isinstance(section, dict) and "Examples" in section:
            pages = [{script.name: f"examples/{script.stem}.md"} for script in scripts()]
            section["Examples"] = ["examples/index.md", *pages]
    return config


def on_files(files: Files, config: Any) -> Files:
    """Add the pages of the examples."""
    for script in scripts():
        uri = f"examples/{script.stem}.md"
        files.append(File.generated(config, uri, content=example_page(script)))
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Files) -> str:
    """Put the list of examples where it belongs."""
    lines = [
        f"- [{script.name}]({script.stem}.md): {docstring(script).partition(chr(10))[0]}"
        for script in scripts()
    ]
    return markdown.replace(LIST, "\n".join(lines))


def on_page_content(html: str, page: Any, config: Any, files: Files) -> str:
    """Link names of the package to the reference.

    In the pages a name must be there, or the build fails. In docstrings it may be one that is not part
    of the reference.
    """
    optional = " optional" if page.file.src_uri.startswith(("api/", "examples/")) else ""

    def link(match: re.Match[str]) -> str:
        whole, name = match.group(), match.group(2).rstrip(".")
        return f'<autoref identifier="keras_transfer.{name}"{optional}>{whole}</autoref>'

    return NAME.sub(link, html)
