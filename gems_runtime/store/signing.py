"""Who made a bundle: a detached Ed25519 signature of its bytes, in a file beside it.

Keys are PEM files, as OpenSSL makes them, and 64 bytes are the whole signature, so that it can be made and checked without us:

    openssl genpkey -algorithm ed25519 -out key.pem
    openssl pkey -in key.pem -pubout -out public.pem
    openssl pkeyutl -verify -pubin -inkey public.pem -rawin -in tuned.gemsx -sigfile tuned.gemsx.sig
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from gems_runtime.errors import StoreError, UsageError

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

SUFFIX = ".sig"


def beside(bundle: Path) -> Path:
    """Where the signature of a bundle lies."""
    return bundle.with_name(bundle.name + SUFFIX)


def private_key(path: Path) -> Ed25519PrivateKey:
    """The key in a PEM file, to sign with. Raises UsageError."""
    return _key(path, private=True)


def public_key(path: Path) -> Ed25519PublicKey:
    """The key in a PEM file, to check with. Raises UsageError."""
    return _key(path, private=False)


def sign(bundle: Path, key: Ed25519PrivateKey) -> Path:
    """Write the signature of a bundle and give back its path. Raises OSError."""
    signature = beside(bundle)
    signature.write_bytes(key.sign(bundle.read_bytes()))
    return signature


def require(bundle: Path, blob: bytes, trusted: Path) -> None:
    """Raise StoreError unless the file beside the bundle signs these bytes with the private half of the key in `trusted`."""
    try:
        key = public_key(trusted)
    except UsageError as error:
        raise StoreError(f"the bundle {bundle} is refused: {error}") from None
    from cryptography.exceptions import InvalidSignature

    try:
        key.verify(beside(bundle).read_bytes(), blob)
    except OSError as error:
        raise StoreError(f"the bundle {bundle} is refused: its signature {beside(bundle)} cannot be read: {error.strerror}") from None
    except InvalidSignature:
        raise StoreError(f"the bundle {bundle} is refused: {beside(bundle)} is no signature of it by the key {trusted}") from None


def _key(path: Path, private: bool) -> Ed25519PrivateKey | Ed25519PublicKey:
    """The key in a PEM file. Raises UsageError."""
    try:
        from cryptography.hazmat.primitives import serialization
        from cryptography.hazmat.primitives.asymmetric import ed25519
    except ImportError:
        raise UsageError("signatures need the package cryptography: pip install gems-runtime[sign]") from None
    kind = "private" if private else "public"
    try:
        pem = path.read_bytes()
        key = serialization.load_pem_private_key(pem, None) if private else serialization.load_pem_public_key(pem)
    except OSError as error:
        raise UsageError(f"the key {path} cannot be read: {error.strerror}") from None
    except (ValueError, TypeError) as error:  # TypeError: one that is encrypted
        raise UsageError(f"{path} holds no {kind} key that can be read without a password: {error}") from None
    if not isinstance(key, ed25519.Ed25519PrivateKey if private else ed25519.Ed25519PublicKey):
        raise UsageError(f"{path} holds a {type(key).__name__}, signatures are made with Ed25519")
    return key
