"""Says what is wrong with a release before it is uploaded, and fails then: `.github/workflows/release.yml` runs it.

python tests/wheel/check_release.py --repository OWNER/NAME [--tag TAG] [DIST]

The versions of pyproject.toml, CHANGELOG.md, CITATION.cff and the tag are one, [project.urls] names the repository, and
the files in DIST say the same, with licences and types inside. It needs nothing but Python 3.11.
"""

from __future__ import annotations

import argparse
import re
import sys
import tarfile
import zipfile
from email.message import Message
from email.parser import Parser
from pathlib import Path
from typing import Any

import tomllib

ROOT = Path(__file__).resolve().parents[2]
INSIDE = ("fastclr/py.typed", "fastclr/_C.so", "fastclr/_build.json")


def wrong_sources(root: Path, repository: str, tag: str) -> list[str]:
    """Return what the tree says wrongly.

    Args:
        root: the tree.
        repository: where it is public, ``OWNER/NAME``.
        tag: the tag that is released; empty for a build that is not uploaded.
    """
    project: dict[str, Any] = tomllib.loads((root / "pyproject.toml").read_text())["project"]
    version, found = project["version"], []
    if tag and tag != f"v{version}":
        found.append(f"the tag is {tag}, the version of pyproject.toml {version}")
    heads = re.findall(r"^## (.+)", (root / "CHANGELOG.md").read_text(), re.M)
    dated = [match for match in (re.fullmatch(r"(\S+) - (\d{4}-\d\d-\d\d)", head) for head in heads) if match]
    if not dated or dated[0][1] != version:
        found.append(f"CHANGELOG.md has no dated section for {version}, but {', '.join(heads[:2])}")
    cited = dict(re.findall(r"^([\w-]+): *(\S+)$", (root / "CITATION.cff").read_text(), re.M))
    if [cited.get("version"), cited.get("date-released")] != [version, dated[0][2] if dated else None]:
        found.append(f"CITATION.cff has version {cited.get('version')} of {cited.get('date-released')}")
    urls = project.get("urls", {})
    public = f"https://github.com/{repository}"
    if public not in urls.values():
        found.append(f"[project.urls] in pyproject.toml must have {public}, got {urls or 'none'}")
    return found + [
        f"{name} in [project.urls] is {url}" for name, url in urls.items() if not url.startswith("https://")
    ]


def metadata(path: Path) -> tuple[Message, list[str]]:
    """Return the metadata of a wheel or an sdist, and the names of its files, those of an sdist without its folder."""
    if path.suffix == ".whl":
        with zipfile.ZipFile(path) as wheel:
            names = wheel.namelist()
            (name,) = (name for name in names if re.fullmatch(r"[^/]+\.dist-info/METADATA", name))
            return Parser().parsestr(wheel.read(name).decode()), names
    with tarfile.open(path) as sdist:
        names = sdist.getnames()
        file = sdist.extractfile(f"{names[0].partition('/')[0]}/PKG-INFO")
        if file is None:
            raise ValueError(f"{path.name} has no PKG-INFO")
        return Parser().parsestr(file.read().decode()), [name.partition("/")[2] for name in names]


def wrong_files(root: Path, dist: Path) -> list[str]:
    """Return what is wrong with the files that would be uploaded."""
    project: dict[str, Any] = tomllib.loads((root / "pyproject.toml").read_text())["project"]
    paths, found = sorted(dist.iterdir()), []
    if not any(path.suffix == ".whl" for path in paths):
        found.append(f"{dist} has no wheel")
    for path in paths:
        if not path.name.endswith((".whl", ".tar.gz")):
            found.append(f"{path.name} is neither a wheel nor an sdist")
            continue
        said, names = metadata(path)
        expected = {
            "Name": [project["name"]],
            "Version": [project["version"]],
            "License-Expression": [project["license"]],
            "License-File": project["license-files"],
            "Project-URL": [f"{name}, {url}" for name, url in project.get("urls", {}).items()],
        }
        for key, values in expected.items():
            if sorted(said.get_all(key, [])) != sorted(values):
                found.append(f"{path.name}: {key} is {said.get_all(key, [])}, expected {values}")
        licences = project["license-files"]
        if path.suffix == ".whl":
            folder = f"{project['name']}-{project['version']}.dist-info/licenses"
            licences = [f"{folder}/{name}" for name in licences]
            if "manylinux" not in path.name:
                found.append(f"{path.name} is not built for every Linux")
        inside = INSIDE if path.suffix == ".whl" else INSIDE[:1]
        found += [f"{path.name}: {name} is missing" for name in [*licences, *inside] if name not in names]
    return found


def main(arguments: list[str]) -> int:
    """Print what is wrong, one a line; return 1 if anything is."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dist", type=Path, nargs="?", help="folder of what would be uploaded")
    parser.add_argument("--repository", required=True, help="where the project is public: OWNER/NAME")
    parser.add_argument("--tag", default="", help="what is released; without it only the rest is compared")
    options = parser.parse_args(arguments)
    found = wrong_sources(ROOT, options.repository, options.tag)
    found += wrong_files(ROOT, options.dist) if options.dist else []
    for line in found:
        print(f"release: {line}")
    return int(bool(found))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
