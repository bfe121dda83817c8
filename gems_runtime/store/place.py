"""The directory of a store: made private, believed or not, writable or not, on this machine or on a network."""

from __future__ import annotations

import os
import re
import tempfile
from pathlib import Path

# File systems that other machines write to, or whose locks SQLite may not rely on. Every fuse.* counts as well.
_NETWORK = frozenset(
    "nfs nfs4 cifs smb smb3 smbfs smb2 lustre ceph glusterfs gpfs beegfs fhgfs afs panfs pvfs2 orangefs wekafs gfs2 ocfs2 ncpfs "
    "9p virtiofs vboxsf prl_fs drvfs".split()
)
_MOUNTS = Path("/proc/self/mounts")


def make_private(directory: Path) -> None:
    """Make the directory, and a missing parent, for the user alone. What exists keeps its permissions."""
    for place in (directory.parent, directory):
        # `parents` get the default permissions: only ours, the last two, hold anything of ours
        place.mkdir(mode=0o700, parents=True, exist_ok=True)


def append_line(path: Path, line: str) -> None:
    """Add a line to a file that several processes may be adding to. Raises OSError."""
    make_private(path.parent)
    # one write to a file opened for appending: lines do not mix
    handle = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    try:
        os.write(handle, f"{line}\n".encode())
    finally:
        os.close(handle)


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
    place = nearest(directory)
    try:
        # permissions do not say it all (root, read-only mounts, /proc): try, with a file that never has a name
        with tempfile.TemporaryFile(dir=place):
            return ""
    except OSError as error:
        return f"{place}: {error.strerror}"


def nearest(directory: Path) -> Path:
    """The directory, or the nearest one above it that exists."""
    while not directory.exists() and directory != directory.parent:
        directory = directory.parent
    return directory


def filesystem(directory: Path) -> str:
    """Type of the file system that the directory is, or would be, on (`ext4`, `nfs4`); empty where it is not known."""
    try:
        lines = _MOUNTS.read_text().splitlines()
    except OSError:  # not Linux
        return ""
    where = nearest(directory).resolve()
    # of mounts at one place the last covers the others, and max() keeps the first of equals
    mounts = [(Path(_unescaped(line.split()[1])), line.split()[2]) for line in reversed(lines) if line.count(" ") > 2]
    above = [(len(point.parts), kind) for point, kind in mounts if point == where or point in where.parents]
    return max(above, key=lambda mount: mount[0], default=(0, ""))[1]


def _unescaped(text: str) -> str:
    """A path as the kernel writes it: a space is \\040."""
    return re.sub(r"\\([0-7]{3})", lambda found: chr(int(found[1], 8)), text)


def is_network(kind: str) -> bool:
    """True for a type of file system that the local index must not be on."""
    return kind in _NETWORK or kind.startswith("fuse.")
