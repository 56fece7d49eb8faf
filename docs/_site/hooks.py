"""What MkDocs does beyond its configuration, which names it: API pages from `__all__`, and links that leave docs/.

A page of the API names packages in its head (`packages: [fastclr.losses]`) or single names (`names: [...]`), and gets
an entry for each public name when the site is built. Files outside of docs/ that pages link to (examples, CHANGELOG.md)
become pages too. A public name without a docstring is a warning, which fails the build. `tests/docs` calls the same
functions, without MkDocs.
"""

from __future__ import annotations

import ast
import logging
import posixpath
import re
from functools import cache
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"
LINK = re.compile(r"(?<=\]\()(?!\w+:|#)([^)\s#]+)(#[^)\s]*)?(?=\))")
FENCE = re.compile(r"^ *(```|~~~)")
NAME = re.compile(r"(?<![\[`])`(fastclr(?:\.\w+)+)(\(\))?`(?![`\]])")
log = logging.getLogger("mkdocs.hooks.fastclr")


@cache
def tree(path: Path) -> ast.Module:
    """Return the parsed file."""
    return ast.parse(path.read_text(encoding="utf-8"))


def file_of(module: str) -> Path:
    """Return the file of a module or package of this tree."""
    parts = module.split(".")
    base = ROOT / ("kernels" if parts[:2] == ["fastclr", "kernels"] else "fastclr")
    base = base.joinpath(*parts[2 if base.name == "kernels" else 1 :])
    return base / "__init__.py" if base.is_dir() else base.with_suffix(".py")


def public_names(package: str) -> list[str]:
    """Return `__all__` of a package, in its order."""
    for node in tree(file_of(package)).body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__":
            return [str(name) for name in ast.literal_eval(node.value)]
    raise ValueError(f"{package} must list its public names in __all__")


def definition(module: str, name: str) -> tuple[str, ast.stmt, str] | None:
    """Return the module that defines a name, what defines it there, and its docstring; None if it is not found."""
    body = tree(file_of(module)).body
    typed = [part for node in body if isinstance(node, ast.If) for part in node.body]
    for index, node in enumerate(body):
        if isinstance(node, ast.ClassDef | ast.FunctionDef) and node.name == name and not is_overload(node):
            return module, node, ast.get_docstring(node) or ""
        if isinstance(node, ast.Assign | ast.AnnAssign):
            target = node.target if isinstance(node, ast.AnnAssign) else node.targets[0]
            if ast.unparse(target) == name:
                after = body[index + 1] if index + 1 < len(body) else None
                text = after.value if isinstance(after, ast.Expr) else None
                return module, node, str(text.value) if isinstance(text, ast.Constant) else ""
    for node in [*body, *typed]:
        if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("fastclr"):
            for alias in node.names:
                if (alias.asname or alias.name) == name:
                    return definition(node.module, alias.name)
    return None


def is_overload(node: ast.ClassDef | ast.FunctionDef) -> bool:
    """Whether a function is one of the signatures that stand before its definition."""
    return any(ast.unparse(decorator).endswith("overload") for decorator in node.decorator_list)


def undocumented(package: str, names: list[str] | None = None) -> list[str]:
    """Return the public names of a package, and methods of its classes, that are missing or have no docstring."""
    found = []
    for name in public_names(package) if names is None else names:
        defined = definition(package, name)
        if defined is None or not defined[2].strip():
            found.append(f"{package}.{name}")
        elif isinstance(defined[1], ast.ClassDef):
            methods = [n for n in defined[1].body if isinstance(n, ast.FunctionDef) and not n.name.startswith("_")]
            found += [f"{package}.{name}.{n.name}" for n in methods if not ast.get_docstring(n)]
    return found


def entries(meta: dict[str, Any]) -> list[str]:
    """Return the names that the head of an API page asks for."""
    listed = [f"{package}.{name}" for package in meta.get("packages", ()) for name in public_names(package)]
    return listed + list(meta.get("names", ()))


def entry(name: str) -> str:
    """Return what makes mkdocstrings render a name."""
    path = defined_at(name)
    return f"\n::: {path.removeprefix('fastclr.') if path.startswith('fastclr.kernels.') else path}\n"


def defined_at(name: str) -> str:
    """Return where a name that can be imported is defined: `fastclr.Run.knn` in `fastclr.api.runs.Run.knn`."""
    parts = name.split(".")
    for cut in range(len(parts) - 1, 0, -1):
        if file_of(".".join(parts[:cut])).is_file():
            found = definition(".".join(parts[:cut]), parts[cut])
            return ".".join([found[0], *parts[cut:]]) if found else name
    return name


def outside(page: str, target: str) -> Path | None:
    """Return the file or folder of the repository that a link of a page leads to, if it lies outside of docs/."""
    path = posixpath.normpath(posixpath.join("docs", posixpath.dirname(page), target))
    return None if path.split("/")[0] in ("docs", "..") or not (ROOT / path).exists() else ROOT / path


def place(path: Path) -> str:
    """Return where a file from outside of docs/ stands in the site."""
    name = path.relative_to(ROOT).as_posix()
    if path.is_dir():
        return f"{name}/index.md"
    return (name.removesuffix(path.suffix) + ".md").lower() if path.suffix in (".md", ".py") else name


def relative(page: str, path: Path) -> str:
    """Return the link from a page to the place of a file from outside."""
    return posixpath.relpath(place(path), posixpath.dirname(page) or ".")


def on_files(files: Any, config: Any) -> Any:
    """Add what pages link to outside of docs/, and what that links to in turn."""
    from mkdocs.structure.files import File, InclusionLevel

    waiting = [(page.src_uri, page.content_string) for page in files.documentation_pages()]
    seen = set()
    while waiting:
        uri, text = waiting.pop()
        for target in {match[1] for match in LINK.finditer(text)}:
            path = outside(uri, target)
            if path is None or path in seen:
                continue
            seen.add(path)
            content: str | bytes = path.read_bytes() if path.is_file() and path.suffix not in (".md", ".py") else ""
            if not content:
                content = as_page(path)
                waiting.append((place(path), content))
            files.append(File.generated(config, place(path), content=content, inclusion=InclusionLevel.NOT_IN_NAV))
    return files


def as_page(path: Path) -> str:
    """Return what lies outside as a page: the programs of a folder, a program, or Markdown with its links mended."""
    if path.is_dir():
        lines = []
        for each in sorted(path.glob("*.py")):
            purpose = (ast.get_docstring(tree(each)) or "").partition("\n")[0]
            link = posixpath.relpath(each.relative_to(ROOT).as_posix(), f"docs/{path.relative_to(ROOT).as_posix()}")
            lines.append(f"- [{each.name}]({link}): {purpose}")
        return "\n".join([f"# {path.name.capitalize()}", "", *lines, ""])
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".py":
        return f"# {path.name}\n\n```python\n{text}```\n"
    here = path.parent.relative_to(ROOT).as_posix()

    def moved(match: re.Match[str]) -> str:
        target = posixpath.normpath(posixpath.join("docs", "..", here, match[1]))
        return posixpath.relpath(target, posixpath.join("docs", posixpath.dirname(place(path)))) + (match[2] or "")

    return LINK.sub(moved, text)


def reference(match: re.Match[str]) -> str:
    """Return the link from a name to its entry; it stays code where there is none."""
    return f'<autoref optional identifier="{defined_at(match[1])}"><code>{match[1]}{match[2] or ""}</code></autoref>'


def on_page_markdown(markdown: str, page: Any, config: Any, files: Any) -> str:
    """Send links that leave docs/ to their page, link names of the API, and append the entries of an API page."""
    uri = page.file.src_uri

    def sent(match: re.Match[str]) -> str:
        path = outside(uri, match[1])
        return match[0] if path is None else relative(uri, path) + (match[2] or "" if path.suffix == ".md" else "")

    lines, fenced = [], False
    for line in markdown.split("\n"):
        if FENCE.match(line):
            fenced = not fenced
        elif not fenced and not line.startswith(("#", "    ")):
            line = LINK.sub(sent, line)
            line = NAME.sub(reference, line)
        lines.append(line)
    for package in page.meta.get("packages", ()):
        for name in undocumented(package):
            log.warning("%s is public and has no docstring", name)
    return "\n".join(lines) + "".join(entry(name) for name in entries(page.meta))
