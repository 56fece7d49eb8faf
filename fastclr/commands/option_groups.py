"""The options of a command that takes a configuration: where each belongs, its flag, and the pages of help."""

from __future__ import annotations

import copy
import shutil
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass, field, fields, is_dataclass, make_dataclass
from functools import partial
from typing import Annotated, Any, get_type_hints

import tyro

from fastclr.augment import AugmentConfig
from fastclr.commands.option_texts import field_texts
from fastclr.methods import METHODS
from fastclr.training.config import SHORT_OPTIONS, TRANSIENT, PretrainConfig
from fastclr.training.config_yaml import PARTS
from fastclr.training.keywords import ALIASES
from fastclr.training.presets import PRESETS

# shown first, and alone by --help
USUAL = ("data", "out", "preset", "method", "encoder", "init", "size", "epochs", "batch_size", "lr")
NOT_TYPED = {*TRANSIENT, "options", "augment", "extensions"}  # --extend writes the last
GROUPS = {
    "data": "The images: where they lie, what is tested on, how they are read.",
    "model": "The encoder, the head, and what they start from.",
    "method": "The method's own.",
    "views": "The random views of an image.",
    "optimiser": "How long, how many images at a time, and the learning rate.",
    "run": "Device, precision, log, checkpoints, evaluations.",
}
LAST = "run"  # where the command's own options belong
# flags of the commands' own options that are called otherwise than their field
FLAGS: dict[str, tuple[str, tuple[str, ...]]] = {"config_file": ("config", ("-c",))}
TEXTS = {
    "preset": f"Start from the values of a preset: {', '.join(PRESETS)}.",
    "method": f"Pretraining method, see `fastclr methods`: {', '.join(METHODS)}.",
}


@dataclass(frozen=True)
class Option:
    """One option: the object that it is a field of, its name there, its type and default, and how it is typed."""

    owner: str  # config, method, augment or command
    name: str
    group: str  # empty for the usual ones
    hint: Any
    default: Any
    flag: str
    aliases: tuple[str, ...] = ()
    text: str | None = None

    @property
    def place(self) -> str:
        """Name among all options; methods and the run may both have, for one, a momentum."""
        return f"{self.owner}_{self.name}"

    @property
    def nested(self) -> bool:
        """Whether it stands for several, such as ``--finetune.share`` and its like."""
        return is_dataclass(self.default)

    @property
    def typed(self) -> list[str]:
        """The flags, as they are typed."""
        name = self.flag.replace("_", "-")
        if self.nested:
            return [f"--{name}.{each.name.replace('_', '-')}" for each in fields(self.default)]
        return [f"--{name}", *(alias for alias in self.aliases if alias.startswith("--"))]

    def annotation(self) -> Any:
        """Return what tyro makes a flag of."""
        if self.nested:
            return self.hint
        return Annotated[self.hint, tyro.conf.arg(name=self.flag, aliases=self.aliases or None, help=self.text)]


def options_of(command: type[Any], default: Any) -> list[Option]:
    """Return all options of a command, the usual ones first.

    Args:
        command: a dataclass with a field ``config``.
        default: an instance.
    """
    config: PretrainConfig = default.config
    also = {name: (f"--{alias.replace('_', '-')}",) for alias, name in ALIASES.items()}
    found: list[Option] = []

    def add(owner: str, group: str, kind: type[Any], values: Any, names: Sequence[str], prefix: str = "") -> None:
        hints, texts = get_type_hints(kind, include_extras=True), field_texts(kind)
        for name in names:
            aliases = () if prefix else also.get(name, ())
            if owner == "method" and name in SHORT_OPTIONS:
                aliases = (f"--{name.replace('_', '-')}",)
            flag, own = FLAGS.get(name, (name, ())) if owner == "command" else (prefix + name, aliases)
            usual = not prefix and name in USUAL
            text = TEXTS.get(name) or texts.get(name)
            found.append(
                Option(owner, name, "" if usual else group, hints[name], getattr(values, name), flag, own, text)
            )

    add("command", LAST, command, default, [each.name for each in fields(command) if each.name != "config"])
    for group in GROUPS:
        if group == "method":
            method = METHODS[config.method]
            names = [each.name for each in fields(method.Options)]
            prefix = f"{method.flags or config.method}."
            add("method", group, method.Options, config.options, names, prefix)
        elif group == "views":
            names = [each.name for each in fields(AugmentConfig) if each.name != "_"]
            add("augment", group, AugmentConfig, config.augment, names)
        else:
            names = [each.name for each in fields(PARTS[group]) if each.name not in NOT_TYPED]
            add("config", group, PARTS[group], config, names)
    return sorted(found, key=lambda option: USUAL.index(option.name) if not option.group else len(USUAL))


def ask(options: Sequence[Option], arguments: Sequence[str], prog: str, about: str) -> dict[str, Any]:
    """Parse arguments with tyro, in one box of help for each group.

    Returns:
        the values by `Option.place`.
    """
    here = [option for option in options if not option.group]
    apart = {name: [option for option in options if option.group == name and not option.nested] for name in GROUPS}
    outer: list[Any] = [(o.place, o.annotation(), field(default=o.default)) for o in here]
    for name, members in apart.items():
        if members:
            inner: list[Any] = [(o.place, o.annotation(), field(default=o.default)) for o in members]
            group = make_dataclass(name, inner, frozen=True, kw_only=True)
            group.__doc__ = GROUPS[name]
            outer.append((name, Annotated[group, tyro.conf.OmitArgPrefixes], field(default=group())))
    for option in options:
        if option.nested:
            outer.append((option.flag, option.hint, field(default_factory=partial(copy.copy, option.default))))
    command: Any = make_dataclass("Command", outer, kw_only=True)
    command.__doc__ = about
    parsed = tyro.cli(command, args=list(arguments), prog=prog)
    values: dict[str, Any] = {}
    for option in options:
        if option.nested:
            values[option.place] = getattr(parsed, option.flag)
        else:
            values[option.place] = getattr(getattr(parsed, option.group) if option.group else parsed, option.place)
    return values


def short_help(options: Sequence[Option]) -> str:
    """Return the names of all options but the usual ones, by group."""
    width = min(shutil.get_terminal_size((100, 24)).columns, 120)
    lines = ["The others, which --help-all explains:"]
    for name in GROUPS:
        flags = [flag for option in options if option.group == name for flag in option.typed]
        lines += textwrap.wrap(
            " ".join(flags),
            width,
            initial_indent=f"  {name:<11}",
            subsequent_indent=" " * 13,
            break_on_hyphens=False,
            break_long_words=False,
        )
    return "\n".join(lines)
