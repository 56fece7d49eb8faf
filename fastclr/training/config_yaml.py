"""The configuration as YAML: what `--config` reads, what `--print-config` prints, and `config.yaml` of a run."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import asdict, is_dataclass
from pathlib import Path
from typing import Any

from fastclr.data.options import DataOptions
from fastclr.files import JSON_BYTES, brief
from fastclr.methods.options import ModelOptions
from fastclr.sources.packages import needed
from fastclr.training.config import PretrainConfig, RunOptions
from fastclr.training.keywords import family_of, names_of
from fastclr.training.optim import OptimizerOptions

NEED = "files of settings need PyYAML"
# YAML 1.2, where `off` is a word and 1e-3 a number; in PyYAML's own rules, of 1.1, it is the other way round
PLAIN = {
    "null": r"~|null|Null|NULL|",
    "bool": r"true|True|TRUE|false|False|FALSE",
    "int": r"[-+]?(0|[1-9][0-9]*)",
    "float": r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)",
}
# the groups of settings, but for the method's and those of views
PARTS: dict[str, type[Any]] = {
    "data": DataOptions,
    "model": ModelOptions,
    "optimiser": OptimizerOptions,
    "run": RunOptions,
}


def to_yaml(config: PretrainConfig, others: Mapping[str, Any] | None = None) -> str:
    """Return all settings as YAML, in groups, which `read_yaml` and `configure` turn into the same configuration.

    Args:
        config: the settings; the method's own stand under its name, or that of its family.
        others: what else the command was told, such as ``preset`` and ``out``; these come first.
    """
    values, lines = config.as_dict(), []
    values[family_of(config.method)] = values.pop(config.method)
    del values["extensions"]  # --extend makes them
    for title, names in (
        ("", list(others or ())),
        *((title, [n for n in names_of(part) if n in values and n != "augment"]) for title, part in PARTS.items()),
        ("method", [family_of(config.method)]),
        ("views", ["augment"]),
    ):
        shown = {name: listed({**values, **(others or {})}[name]) for name in names}
        if shown:
            lines.append((f"# {title}\n" if title else "") + dumped(shown))
    return "\n".join(lines)


def dumped(values: dict[str, Any]) -> str:
    """Return a mapping as YAML, in its order."""
    yaml = needed("yaml", NEED)
    # lists on one line; a text is quoted that looks like a number to any YAML
    dumper: Any = type("Dumper", (yaml.SafeDumper,), {})
    dumper.add_representer(list, lambda to, each: to.represent_sequence("tag:yaml.org,2002:seq", each, flow_style=True))
    add_resolvers(dumper)
    text: str = yaml.dump(values, Dumper=dumper, sort_keys=False, allow_unicode=True, width=1000)
    return text


def add_resolvers(owner: Any) -> None:
    """Let a class of PyYAML know `PLAIN`."""
    for tag, pattern in PLAIN.items():
        owner.add_implicit_resolver(f"tag:yaml.org,2002:{tag}", re.compile(f"^(?:{pattern})$"), None)


def listed(value: Any) -> Any:
    """Return a value as YAML has it: lists in place of tuples, texts in place of paths."""
    if is_dataclass(value) and not isinstance(value, type):
        value = asdict(value)
    if isinstance(value, dict):
        return {name: listed(each) for name, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [listed(each) for each in value]
    return str(value) if isinstance(value, Path) else value


def read_yaml(path: Path) -> dict[str, Any]:
    """Read the settings in a file, under the names of the options with ``_`` for ``-``; ``simclr.temperature: 0.2`` is
    the same as ``temperature: 0.2`` below ``simclr:``.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is no YAML of names and values, or a name stands there twice.
        ModuleNotFoundError: PyYAML is not installed.
    """
    yaml = needed("yaml", NEED)
    if not path.is_file():
        raise FileNotFoundError(f"--config: there is no file {path}")
    if path.stat().st_size > JSON_BYTES:
        raise ValueError(f"{path} must have at most {JSON_BYTES} bytes, got {path.stat().st_size}")
    try:
        contents = yaml.load(path.read_bytes(), loader_of(yaml))  # a subclass of SafeLoader
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise ValueError(f"{path} must hold YAML: {' '.join(str(error).split())}") from error
    if contents is None:
        return {}
    if not isinstance(contents, dict):
        raise ValueError(f"{path} must hold names and values, such as `epochs: 100`, got {brief(contents)}")
    found: dict[str, Any] = {}
    for key, value in contents.items():
        name, dot, own = named(key, path).partition(".")
        if dot or isinstance(value, dict):
            inner = {own: value} if dot else {named(each, path): item for each, item in value.items()}
            section = found.setdefault(name, {})
            clash = not isinstance(section, dict) or bool(inner.keys() & section.keys())
            found[name] = {} if clash else section | inner
        else:
            clash = name in found
            found[name] = value
        if clash:
            raise ValueError(f"{path} has {key!r} twice")
    return found


def named(key: object, path: Path) -> str:
    """Return the name of an option as Python has it."""
    if not isinstance(key, str):
        raise ValueError(f"{path} must hold names of options, got {brief(key)}")
    return key.replace("-", "_")


def loader_of(yaml: Any) -> Any:
    """Return a loader of plain YAML 1.2 values, and of nothing else, that refuses a name which stands there twice."""

    class Loader(yaml.SafeLoader):  # type: ignore[misc]
        """Reads names, numbers, texts, lists and mappings."""

        yaml_implicit_resolvers: dict[str, list[Any]] = {}  # noqa: RUF012  # as in the base class

        def construct_mapping(self, node: Any, deep: bool = False) -> Any:
            """Return a mapping."""
            keys = [each.value for each, _ in node.value if isinstance(each.value, str)]
            if twice := [key for index, key in enumerate(keys) if key in keys[:index]]:
                raise yaml.constructor.ConstructorError(None, None, f"{twice[0]!r} stands there twice", node.start_mark)
            return super().construct_mapping(node, deep=deep)

    add_resolvers(Loader)
    return Loader
