"""What a build takes from this machine's apt: where Debian's archive is mirrored, and how to get there. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from pathlib import Path

KEYRING = Path("/usr/share/keyrings/debian-archive-keyring.gpg")
PATIENCE = ('Acquire::Retries "2";', 'Acquire::http::Timeout "30";', 'Acquire::https::Timeout "30";')
CODENAMES = {"buster", "bullseye", "bookworm", "trixie", "forky", "oldstable", "stable", "testing"}

_OPTION = re.compile(r'Acquire::(https?::|Check-|ForceIPv).* ".+";')
_SUITE = re.compile(r"(?P<name>[a-z]+)(?P<pocket>(-updates|-security)?)")
_LINE = re.compile(r"deb\s+(?:\[(?P<options>[^]]*)\]\s*)?(?P<uri>\S+)\s+(?P<suite>\S+)\s+(?P<components>[^#]+)")
_FIELD = re.compile(r"^([\w-]+):[ \t]*(.*(?:\n[ \t]+.*)*)", re.MULTILINE)

Source = dict[str, str]  # in deb822 style: field, in lower case -> value


def options(dump: str) -> tuple[str, ...]:
    """Return the settings that a download may need, such as a proxy, from the output of `apt-config dump`."""
    return (*PATIENCE, *(line for line in dump.splitlines() if _OPTION.fullmatch(line)))


def debian_sources(texts: Iterable[tuple[str, str]], suite: str) -> str:
    """Return those of a machine's sources that are Debian's own archive, changed to `suite` (sources.list(5), deb822).

    `texts` holds names and contents of files. Empty when there are none, as on Ubuntu.
    """
    found: list[Source] = []
    for name, text in texts:
        for source in _stanzas(text) if name.endswith(".sources") else _lines(text):
            wanted = _for_suite(source, suite)
            if _is_debian(source) and wanted not in found:
                found.append(wanted)
    return "\n".join("".join(f"{field}: {value}\n" for field, value in source.items()) for source in found)


def _stanzas(text: str) -> Iterator[Source]:
    without_comments = "\n".join(line for line in text.splitlines() if not line.startswith("#"))
    for block in re.split(r"\n\s*\n", without_comments):
        if fields := _FIELD.findall(block):
            yield {name.lower(): value for name, value in fields}


def _lines(text: str) -> Iterator[Source]:
    for line in text.splitlines():
        if match := _LINE.match(line.strip()):
            signed = re.search(r"signed-by=(\S+)", match["options"] or "")
            yield {
                "types": "deb",
                "uris": match["uri"],
                "suites": match["suite"],
                "components": match["components"].strip(),
                **({"signed-by": signed[1]} if signed else {}),
            }


def _is_debian(source: Source) -> bool:
    """Say whether a source is Debian's archive, or a mirror of it: others sign with keys of their own."""
    signed = source.get("signed-by", "")
    return (
        "deb" in source.get("types", "").split()
        and source.get("enabled", "yes").lower() != "no"
        and "main" in source.get("components", "").split()
        and (not signed or "debian-archive" in signed or "BEGIN PGP" in signed)
        and bool(_pockets(source))
    )


def _pockets(source: Source) -> list[str]:
    """Return "", "-updates", "-security" for what a source has of a Debian suite; backports are left out."""
    matches = (_SUITE.fullmatch(name) for name in source.get("suites", "").split())
    return [match["pocket"] for match in matches if match and match["name"] in CODENAMES]


def _for_suite(source: Source, suite: str) -> Source:
    suites = " ".join(f"{suite}{pocket}" for pocket in _pockets(source))
    return {**source, "types": "deb", "suites": suites, "components": "main"}
