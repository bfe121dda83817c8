"""A `.gemsx` bundle: decisions and measurements as sorted JSON, perhaps compiled kernels, and hashes of all of it.

A zip archive of `manifest.json`, `records/KERNEL.DEVICE.json` and `kernels/TRITON_KEY/FILE`. Its comment, the last 64
bytes, is the SHA-256 of every byte before: a bundle with one byte changed is refused, even where no hash listed in the
manifest would notice. Who made it is said by a signature beside it, where one is asked for (see signing.py). Nothing in it is code of Python's, and nothing in it names where it is to be written.
"""

from __future__ import annotations

import hashlib
import json
import re
import zipfile
import zlib
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from gems_runtime import records, settings
from gems_runtime.errors import StoreError
from gems_runtime.records import SCHEMA, Json, Record, digest, name_of, parse
from gems_runtime.store import signing

FORMAT = "gemsx 1"
SUFFIX = ".gemsx"
_MANIFEST = "manifest.json"
# Triton names the directory of a compiled kernel by 52 base-32 digits.
_MEMBER = re.compile(r"records/[A-Za-z0-9_][A-Za-z0-9_.-]{0,149}\.json|kernels/[A-Z2-7]{52}/[A-Za-z0-9_][A-Za-z0-9_.-]{0,199}")
_LIMITS = {_MANIFEST: 64 << 20, "records": 64 << 20, "kernels": 256 << 20}
_COMMENT = 64
# A fixed time, so that the same entries give the same bytes.
_TIME = (1980, 1, 1, 0, 0, 0)


def write(path: Path, held: Iterable[Record], kernels: Mapping[str, bytes] = {}, toolchain: Json = None) -> dict[str, Json]:
    """Make a bundle of these records, and of kernels by `TRITON_KEY/FILE`. Gives back its manifest. Raises OSError."""
    members: dict[str, bytes] = {}
    names: dict[str, list[str]] = {}
    for member, group in sorted(_grouped(held).items()):
        names[member] = [name_of(record) for record in group]
        members[member] = _text([json.loads(records.encode(record)) for record in group])
    members.update({f"kernels/{name}": blob for name, blob in sorted(kernels.items())})
    manifest = {
        "format": FORMAT,
        "schema": SCHEMA,
        "toolchain": toolchain,
        "names": names,
        "sha256": {member: hashlib.sha256(blob).hexdigest() for member, blob in members.items()},
    }
    temporary = path.with_name(f".{path.name}.writing")
    with zipfile.ZipFile(temporary, "w", zipfile.ZIP_DEFLATED) as archive:
        for member, blob in {_MANIFEST: _text(manifest), **members}.items():
            archive.writestr(zipfile.ZipInfo(member, _TIME), blob, zipfile.ZIP_DEFLATED)
        archive.comment = b"0" * _COMMENT
    blob = temporary.read_bytes()[:-_COMMENT]
    temporary.write_bytes(blob + hashlib.sha256(blob).hexdigest().encode())
    temporary.replace(path)
    return manifest


def _grouped(held: Iterable[Record]) -> dict[str, list[Record]]:
    """Records by the file they go to: one for each kernel and device."""
    groups: dict[str, list[Record]] = {}
    for record in sorted(held, key=name_of):
        device = record.fields["device"]
        words = re.sub(r"[^A-Za-z0-9_-]+", "_", f"{record.kernel[-60:]}.{str(device.get('name'))[:40]}")
        groups.setdefault(f"records/{words}.{digest([record.kernel, device])[:8]}.json", []).append(record)
    return groups


def _text(value: Json) -> bytes:
    return (json.dumps(value, indent=1, sort_keys=True, allow_nan=False) + "\n").encode()


class Bundle:
    """A bundle that is read, and verified, a kernel at a time. Any doubt raises StoreError."""

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            blob = path.read_bytes()
        except OSError as error:
            raise StoreError(f"the bundle {path} cannot be read: {error.strerror}") from None
        if hashlib.sha256(blob[:-_COMMENT]).hexdigest().encode() != blob[-_COMMENT:]:
            raise self._refusal("it was changed after it was made, or is not whole")
        if trusted := settings.current().trusted_key:
            signing.require(path, blob, trusted)
        self._archive = self._opened()
        self.manifest = self._checked_manifest()
        self._member_of = {name: member for member, names in self.manifest["names"].items() for name in names}
        self._groups: dict[str, dict[str, Json]] = {}

    @property
    def kernels(self) -> list[str]:
        """Names of compiled files, as `TRITON_KEY/FILE`."""
        return [m.removeprefix("kernels/") for m in self.manifest["sha256"] if m.startswith("kernels/")]

    def kernel(self, name: str) -> bytes:
        """One compiled file."""
        return self._read(f"kernels/{name}")

    def verify_kernels(self) -> None:
        """Raise StoreError unless every compiled file is as the manifest says."""
        for name in self.kernels:
            self.kernel(name)

    def get(self, name: str) -> str | None:
        """The text of an entry, or None."""
        member = self._member_of.get(name)
        # the one text that the record has in a store, made for those alone that are asked for
        return None if member is None else records.canonical(self._group(member)[name])

    def items(self) -> Iterator[tuple[str, str | None]]:
        """Every name with its text."""
        for name in sorted(self._member_of):
            yield name, self.get(name)

    def records(self) -> list[Record]:
        """Every record, each verified against its own key. Raises StoreError."""
        held = []
        for name, text in self.items():
            try:
                record = records.decode(text or "")
                records.verify_key(record)
            except ValueError as error:
                raise self._refusal(f"{name}: {error}") from None
            if name_of(record) != name:
                raise self._refusal(f"{name} is the entry {name_of(record)}")
            held.append(record)
        return held

    def close(self) -> None:
        """Nothing is held open."""

    def _opened(self) -> zipfile.ZipFile:
        try:
            archive = zipfile.ZipFile(self.path)
        except (zipfile.BadZipFile, OSError, ValueError) as error:
            raise self._refusal(str(error)) from None
        return archive

    def _checked_manifest(self) -> dict[str, Json]:
        members = [info.filename for info in self._archive.infolist()]
        strange = [m for m in members if m != _MANIFEST and not _MEMBER.fullmatch(m)]
        if strange or len(members) != len(set(members)) or _MANIFEST not in members:
            raise self._refusal(f"it has the member {strange[0][:80]!r}" if strange else "its members are not those of a bundle")
        # an archive of a megabyte may say that it unpacks to a terabyte, and would
        for info in self._archive.infolist():
            if info.file_size > _LIMITS[info.filename.split("/")[0]]:
                raise self._refusal(f"{info.filename} is too large")
        manifest = self._json(_MANIFEST)
        if not isinstance(manifest, dict) or manifest.get("format") != FORMAT or manifest.get("schema") != SCHEMA:
            raise self._refusal(f"it is not of format {FORMAT!r} with entries of schema {SCHEMA}")
        hashes, names = manifest.get("sha256"), manifest.get("names")
        listed = isinstance(hashes, dict) and isinstance(names, dict) and all(map(_is_list_of_text, names.values()))
        groups = {m for m in members if m.startswith("records/")}
        if not listed or set(hashes) != set(members) - {_MANIFEST} or set(names) != groups:
            raise self._refusal("its manifest does not list what it holds")
        self._hashes = hashes
        return manifest

    def _group(self, member: str) -> dict[str, Json]:
        if member not in self._groups:
            held = self._json(member)
            names = self.manifest["names"][member]
            if not isinstance(held, list) or len(held) != len(names):
                raise self._refusal(f"{member} is not the list of entries that its manifest names")
            self._groups[member] = dict(zip(names, held, strict=True))
        return self._groups[member]

    def _json(self, member: str) -> Json:
        try:
            # a record lies in a list, and its body in the record
            return parse(self._read(member).decode(), records.MAX_DEPTH + 2)
        except ValueError as error:
            raise self._refusal(f"{member}: {error}") from None

    def _read(self, member: str) -> bytes:
        try:
            blob = self._archive.read(member)
        except (zipfile.BadZipFile, OSError, ValueError, EOFError, NotImplementedError, RuntimeError, zlib.error) as error:
            raise self._refusal(f"{member}: {error}") from None
        if member != _MANIFEST and self._hashes[member] != hashlib.sha256(blob).hexdigest():
            raise self._refusal(f"{member} is not as its manifest says")
        return blob

    def _refusal(self, reason: str) -> StoreError:
        return StoreError(f"the bundle {self.path} is refused: {reason}")


def _is_list_of_text(value: Json) -> bool:
    return isinstance(value, list) and all(isinstance(one, str) for one in value)
