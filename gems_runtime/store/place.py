"""The directory of a store: made private, believed or not, writable or not."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path


def make_private(directory: Path) -> None:
    """Make the directory, and a missing parent, for the user alone. What exists keeps its permissions."""
    for place in (directory.parent, directory):
        # `parents` get the default permissions: only ours, the last two, hold anything of ours
        place.mkdir(mode=0o700, parents=True, exist_ok=True)


def distrust(directory: Path) -> str:
    """Why entries in this directory should not be believed, or the empty text."""
    try:
        info = directory.stat()
    except OSError:
        return ""
    if os.geteuid() not in (0, info.st_uid) and info.st_uid != 0 and info.st_mode & 0o022:
        return f"it belongs to user {info.st_uid}, and others may write to it"
    return ""


def is_writable(directory: Path) -> bool:
    """True if entries may be added to an existing directory."""
    return os.access(directory, os.W_OK | os.X_OK)


def why_unwritable(directory: Path) -> str:
    """What keeps a directory that may not exist yet from being written, or the empty text. Leaves nothing behind."""
    place = directory
    while not place.exists() and place != place.parent:
        place = place.parent
    try:
        # permissions do not say it all (root, read-only mounts, /proc): try, with a file that never has a name
        with tempfile.TemporaryFile(dir=place):
            return ""
    except OSError as error:
        return f"{place}: {error.strerror}"
