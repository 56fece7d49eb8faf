"""`--config FILE`: settings in YAML, of the training and of the command itself."""

from __future__ import annotations

from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any, get_type_hints

from fastclr.files import brief, check_types
from fastclr.methods import METHODS
from fastclr.training.config_yaml import read_yaml
from fastclr.training.keywords import check_names, family_of, names_of

NOT_IN_FILES = {"config", "config_file", "print_config"}


def settings_in(path: Path) -> dict[str, Any]:
    """Return the settings in a file, those of a method under the name of its family.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is no YAML of names and values.
    """
    settings = read_yaml(path)
    for method in METHODS:
        name = method.replace("-", "_")
        if name in settings and name != family_of(method):
            section = settings.setdefault(family_of(method), {})
            settings[family_of(method)] = section | settings.pop(name) if isinstance(section, dict) else section
    return settings


def own_settings(command: type[Any], settings: dict[str, Any], source: str) -> dict[str, Any]:
    """Remove the command's own options from the settings, and return them.

    Raises:
        ValueError: one has another type than its option.
    """
    hints = {name: hint for name, hint in get_type_hints(command).items() if name not in NOT_IN_FILES}
    own: dict[str, Any] = {}
    for each in fields(command):
        if each.name not in hints or each.name not in settings:
            continue
        value = settings.pop(each.name)
        hint: Any = hints[each.name]
        if isinstance(hint, type) and is_dataclass(hint):
            if not isinstance(value, dict):
                raise ValueError(f"{each.name} in {source} must hold names and values, got {brief(value)}")
            try:
                check_names(value, names_of(hint), f"option of {each.name}")
            except TypeError as error:
                raise ValueError(f"{source}: {error}") from error
            inner = get_type_hints(hint)
            check_types(value, {name: inner[name] for name in value}, source)
            own[each.name] = hint(**value)
        elif hint == Path | None:
            check_types({each.name: value}, {each.name: str | None}, source)
            own[each.name] = None if value is None else Path(value)
        else:
            check_types({each.name: value}, {each.name: hint}, source)
            own[each.name] = value
    return own
