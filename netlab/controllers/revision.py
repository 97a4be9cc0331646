"""Names that follow from a value: a template's hash, and the letters that end a generated pod name. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import MISSING, fields, is_dataclass
from hashlib import sha256

from netlab.controllers.state import Key
from netlab.topology.pod import PodTemplate

ALPHABET = "bcdfghjklmnpqrstvwxz2456789"  # Kubernetes' safe one: no vowels, nothing that looks like another
REVISION_LENGTH = 10
SUFFIX_LENGTH = 5
NAME_LENGTH = 63  # a pod's name is its hostname


def revision_of(template: PodTemplate) -> str:
    """Return the hash of a template: another one after any change, in this version of netlab or the next."""
    return _letters(repr(_told(template)), REVISION_LENGTH)


class Names:
    """The pod names of a lab: those in use, and new ones that follow from them."""

    def __init__(self, used: Iterable[Key]) -> None:
        self._used = set(used)
        self._tried: dict[Key, int] = {}

    def take(self, namespace: str, name: str) -> bool:
        """Take this name; False if another pod has it."""
        if (namespace, name) in self._used:
            return False
        self._used.add((namespace, name))
        return True

    def generate(self, namespace: str, start: str, end: str = "") -> str:
        """Take a name "<start>-<end>-<5 letters>" that nobody has; a long start is cut."""
        tail = f"-{end}" if end else ""
        start = start.replace(".", "-")[: NAME_LENGTH - len(tail) - 1 - SUFFIX_LENGTH].rstrip("-")
        base = f"{start}{tail}"
        while True:
            count = self._tried.get((namespace, base), 0)
            self._tried[namespace, base] = count + 1
            name = f"{base}-{_letters(f'{namespace}/{base}/{count}', SUFFIX_LENGTH)}"
            if self.take(namespace, name):
                return name


def _told(value: object) -> object:
    """Return what is told of a value: fields with their defaults are not, so that a new field changes no hash."""
    if is_dataclass(value) and not isinstance(value, type):
        pairs = ((field, getattr(value, field.name)) for field in fields(value))
        return [(f.name, _told(found)) for f, found in pairs if f.default is MISSING or found != f.default]
    if isinstance(value, (tuple, list)):
        return [_told(entry) for entry in value]
    return value if isinstance(value, (bool, int)) else str(value)


def _letters(text: str, length: int) -> str:
    number = int.from_bytes(sha256(text.encode()).digest()[:8])
    found = ""
    for _ in range(length):
        number, place = divmod(number, len(ALPHABET))
        found += ALPHABET[place]
    return found
