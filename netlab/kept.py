"""What takes long to find out about a machine and can be found out again: one value to a file of the cache folder."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import suppress
from typing import Any, TypeVar

from netlab import paths
from netlab.errors import StoreError
from netlab.store.local import write_json

T = TypeVar("T")


def kept(name: str, key: str, read: Callable[[Any], T], find: Callable[[], T], write: Callable[[T], Any]) -> T:
    """Return the value that is kept in a file under a key, or else find it and keep it there, instead of what was.

    `read` and `write` turn the value from and to JSON. A file that is none, or cannot be written, is no error.
    """
    file = paths.cache_dir() / name
    with suppress(OSError, ValueError, KeyError, TypeError, AttributeError):
        return read(json.loads(file.read_text())[key])
    found = find()
    with suppress(StoreError):
        write_json(file, {key: write(found)})
    return found
