"""Signed bundles: what the key has signed is taken, anything else is refused with nothing written."""

from __future__ import annotations

import shutil
from pathlib import Path
from subprocess import run as run_program

import pytest
from cryptography.hazmat.primitives import serialization as pem
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from test_bundle import run
from test_layers import filled
from test_records import decision

from gems_runtime import settings, store
from gems_runtime.errors import StoreError
from gems_runtime.store import bundle, signing, team
from gems_runtime.store.bundle import Bundle


def key_pair(folder: Path, name: str, private: object | None = None, password: bytes | None = None) -> tuple[Path, Path]:
    """PEM files of a private key and its public half."""
    private = private or ed25519.Ed25519PrivateKey.generate()
    lock = pem.BestAvailableEncryption(password) if password else pem.NoEncryption()
    paths = folder / f"{name}.pem", folder / f"{name}.public.pem"
    paths[0].write_bytes(private.private_bytes(pem.Encoding.PEM, pem.PrivateFormat.PKCS8, lock))
    paths[1].write_bytes(private.public_key().public_bytes(pem.Encoding.PEM, pem.PublicFormat.SubjectPublicKeyInfo))
    return paths


@pytest.fixture
def signed(tmp_path: Path) -> tuple[Path, Path]:
    """A signed bundle of one decision, and the public key."""
    private, public = key_pair(tmp_path, "ours")
    path = tmp_path / "made.gemsx"
    bundle.write(path, [decision()])
    signing.sign(path, signing.private_key(private))
    return path, public


def test_what_export_signs_import_takes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    private, public = key_pair(tmp_path, "ours")
    file = tmp_path / "out.gemsx"
    with settings.override(cache_dir=filled(tmp_path / "from", decision())):
        assert run(capsys, "export", str(file), "--sign", str(private))[0] == 0
    with settings.override(cache_dir=tmp_path / "to"):
        assert run(capsys, "import", str(file), "--trust", str(public))[0] == 0
        assert len(list(store.current().records())) == 1


@pytest.mark.skipif(shutil.which("openssl") is None, reason="checks the signature with the program openssl, which is not here")
def test_openssl_agrees(signed: tuple[Path, Path]) -> None:
    path, public = signed
    words = ["openssl", "pkeyutl", "-verify", "-pubin", "-inkey", public, "-rawin", "-in", path, "-sigfile", signing.beside(path)]
    assert run_program(words, capture_output=True).returncode == 0


def test_another_key_a_changed_bundle_and_no_signature_are_refused(
    tmp_path: Path, signed: tuple[Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    path, public = signed
    stranger = key_pair(tmp_path, "stranger")[1]
    other = tmp_path / "other.gemsx"
    bundle.write(other, [])
    cases = {"no signature of it": (path, stranger), "cannot be read": (other, public)}
    with settings.override(cache_dir=tmp_path / "to"):
        for reason, (file, key) in cases.items():
            code, _, err = run(capsys, "import", str(file), "--trust", str(key))
            assert code != 0 and reason in err
        shutil.copy(signing.beside(path), signing.beside(other))
        assert "no signature of it" in run(capsys, "import", str(other), "--trust", str(public))[2]
        assert not (tmp_path / "to").exists()


def test_a_trusted_key_guards_every_bundle_that_is_read(tmp_path: Path, signed: tuple[Path, Path]) -> None:
    path, public = signed
    with settings.override(trusted_key=public):
        assert len(Bundle(path).records()) == 1
        assert team.sources(path)
        signing.beside(path).unlink()
        with pytest.raises(StoreError, match="signature"):
            team.sources(path)


def test_a_trusted_key_that_is_none_takes_a_layer_away_and_no_call_down(
    tmp_path: Path, signed: tuple[Path, Path], caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    path, _ = signed
    missing = tmp_path / "missing.pem"
    with settings.override(cache_dir=tmp_path / "to", team_stores=(path,), trusted_key=missing):
        assert store.current().decision(decision().key) is None
    assert str(missing) in caplog.text and "refused" in caplog.text
    code, _, err = run(capsys, "import", str(path), "--trust", str(missing))
    assert code == 2 and str(missing) in err


def test_keys_that_are_none(tmp_path: Path, signed: tuple[Path, Path], capsys: pytest.CaptureFixture[str]) -> None:
    path, public = signed
    locked = key_pair(tmp_path, "locked", password=b"secret")[0]
    elliptic = key_pair(tmp_path, "elliptic", ec.generate_private_key(ec.SECP256R1()))[0]
    with settings.override(cache_dir=filled(tmp_path / "from", decision())):
        for key in (tmp_path / "missing.pem", locked, elliptic, public):
            file = tmp_path / "never.gemsx"
            code, _, err = run(capsys, "export", str(file), "--sign", str(key))
            assert code == 2 and str(key) in err and not file.exists()
