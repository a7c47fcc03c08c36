"""Sealed secrets: what is stored shows nothing, opens for one recipient, and is gone when the session is."""

from __future__ import annotations

import base64
import json
import stat
from pathlib import Path

import msgspec
import pytest

from services._runtime.errors import PermanentError, TransientError
from services._runtime.memory import MemoryBucket
from services._runtime.vault import RECIPIENTS, KeyFileError, Vault, make_keys, read_secret_file, write_secret_file
from tests.support.samples import new_session

CANARY = "canary-7f3a9c"


class Token(msgspec.Struct, frozen=True):
    """A secret of a test."""

    token: str


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    make_keys(tmp_path / "keys")
    return tmp_path / "keys"


async def test_a_secret_comes_back_to_its_recipient_and_the_bucket_shows_nothing_of_it(folder: Path) -> None:
    bucket, session = MemoryBucket(), new_session()
    await Vault(bucket, folder, "hub-bridge").put(session, "hpc-launcher", Token(CANARY))
    entry = await bucket.get(f"{session}.hpc-launcher")
    assert entry is not None
    for part in entry[0].split(b"."):
        assert CANARY.encode() not in base64.urlsafe_b64decode(part + b"==")
    assert await Vault(bucket, folder, "hpc-launcher").open(session, Token) == Token(CANARY)


async def test_the_same_secret_never_looks_the_same(folder: Path) -> None:
    vault = Vault(MemoryBucket(), folder, "hub-bridge")
    assert vault.seal("tunneler", Token(CANARY)) != vault.seal("tunneler", Token(CANARY))


@pytest.mark.parametrize("other", [each for each in RECIPIENTS if each != "hpc-launcher"])
def test_no_other_service_opens_it(folder: Path, other: str) -> None:
    sealed = Vault(MemoryBucket(), folder, "hub-bridge").seal("hpc-launcher", Token(CANARY))
    with pytest.raises(PermanentError) as refused:
        Vault(MemoryBucket(), folder, other).unseal(sealed, Token)
    assert refused.value.code == "sealed-for-another"
    assert CANARY not in str(refused.value) + refused.value.remedy


@pytest.mark.parametrize("position", [0, 2, 3, 4])
def test_what_was_changed_on_its_way_is_refused(folder: Path, position: int) -> None:
    vault = Vault(MemoryBucket(), folder, "tunneler")
    parts = vault.seal("tunneler", Token(CANARY)).split(".")
    letter = "A" if parts[position][4] != "A" else "B"
    parts[position] = parts[position][:4] + letter + parts[position][5:]
    with pytest.raises(PermanentError, match="sealed-for-another"):
        vault.unseal(".".join(parts), Token)


@pytest.mark.parametrize(
    "epk",
    [
        {"kty": "OKP", "crv": "X25419", "x": "bA"},
        {"kty": "OKP", "crv": [], "x": "bA"},
        {"kty": 7},
        {},
        [],
        "x",
        1,
        None,
    ],
)
def test_a_header_that_names_no_key_is_refused(folder: Path, epk: object) -> None:
    vault = Vault(MemoryBucket(), folder, "tunneler")
    parts = vault.seal("tunneler", Token(CANARY)).split(".")
    header = {"alg": "ECDH-ES", "enc": "A256GCM", "epk": epk}
    parts[0] = base64.urlsafe_b64encode(json.dumps(header).encode()).decode().rstrip("=")
    with pytest.raises(PermanentError, match="sealed-for-another"):
        vault.unseal(".".join(parts), Token)


@pytest.mark.parametrize("sealed", [b"", b"....", b"not sealed", b"\xff\x00", b"e30.e30.e30.e30.e30"])
def test_what_was_never_sealed_is_refused(folder: Path, sealed: bytes) -> None:
    with pytest.raises(PermanentError, match="sealed-for-another"):
        Vault(MemoryBucket(), folder, "tunneler").unseal(sealed, Token)


def test_a_secret_of_another_shape_is_refused_without_showing_it(folder: Path) -> None:
    vault = Vault(MemoryBucket(), folder, "tunneler")
    with pytest.raises(PermanentError) as refused:
        vault.unseal(vault.seal("tunneler", {"token": [CANARY]}), Token)
    assert CANARY not in repr(refused.value)
    assert refused.value.__cause__ is None


async def test_a_session_is_forgotten_for_every_recipient_and_no_other_is(folder: Path) -> None:
    bucket, over, goes_on = MemoryBucket(), new_session(), new_session()
    vault = Vault(bucket, folder, "tunneler")
    for recipient in RECIPIENTS:
        await vault.put(over, recipient, Token(CANARY))
    await vault.put(goes_on, "tunneler", Token("kept"))
    await vault.forget(over)
    await vault.forget(over)
    assert await vault.names() == [f"{goes_on}.tunneler"]
    assert await vault.open(goes_on, Token) == Token("kept")
    with pytest.raises(PermanentError) as gone:
        await vault.open(over, Token)
    assert gone.value.code == "secrets-gone"


async def test_a_removal_that_was_cut_short_leaves_what_the_hub_finds_the_rest_by(folder: Path) -> None:
    class Killed(MemoryBucket):
        deletes = 0

        async def delete(self, key: str) -> None:
            if self.deletes == 1:
                raise TransientError("killed here")
            self.deletes += 1
            await super().delete(key)

    vault, session = Vault(Killed(), folder, "hub-bridge"), new_session()
    for recipient in ("hub-bridge", "hpc-launcher", "tunneler"):
        await vault.put(session, recipient, Token(CANARY))
    with pytest.raises(TransientError):
        await vault.forget(session)
    assert f"{session}.hub-bridge" in await vault.names()


async def test_a_later_secret_takes_the_place_of_an_earlier_one(folder: Path) -> None:
    vault, session = Vault(MemoryBucket(), folder, "tunneler"), new_session()
    await vault.put(session, "tunneler", Token("old"))
    await vault.put(session, "tunneler", Token("new"))
    assert await vault.open(session, Token) == Token("new")


def test_keys_are_made_once_and_only_public_ones_may_be_read_by_others(tmp_path: Path) -> None:
    folder = tmp_path / "keys"
    made = make_keys(folder)
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert {file.name for file in folder.iterdir()} == set(made)
    for file in folder.iterdir():
        if file.name.endswith(".public.json"):
            assert "d" not in json.loads(file.read_text()), "the private part of a key"
        else:
            assert stat.S_IMODE(file.stat().st_mode) == 0o600
    before = {file.name: file.read_bytes() for file in folder.iterdir()}
    assert make_keys(folder) == []
    (folder / "tunneler.ids").unlink()
    assert make_keys(folder) == ["tunneler.ids"]
    after = {file.name: file.read_bytes() for file in folder.iterdir()}
    assert {name for name in after if after[name] != before[name]} == {"tunneler.ids"}


def test_a_secret_file_is_never_readable_by_others_not_even_when_it_replaces_one(tmp_path: Path) -> None:
    file = tmp_path / "secret"
    file.write_text("old")
    file.chmod(0o644)
    write_secret_file(file, b"new")
    assert (file.read_bytes(), stat.S_IMODE(file.stat().st_mode)) == (b"new", 0o600)
    assert read_secret_file(file) == b"new"
    assert [each.name for each in tmp_path.iterdir()] == ["secret"]


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o644, 0o660])
def test_a_secret_file_others_may_read_is_refused_with_the_remedy(tmp_path: Path, mode: int) -> None:
    (tmp_path / "secret").write_text(CANARY)
    (tmp_path / "secret").chmod(mode)
    with pytest.raises(KeyFileError, match=rf"mode {mode:04o}\); run: chmod 600") as refused:
        read_secret_file(tmp_path / "secret")
    assert CANARY not in str(refused.value)


def test_a_missing_or_damaged_key_is_named_with_the_remedy(folder: Path) -> None:
    (folder / "tunneler.public.json").unlink()
    with pytest.raises(KeyFileError, match=r"tunneler\.public\.json: No such file .*farlab keys"):
        Vault(MemoryBucket(), folder, "hub-bridge").seal("tunneler", Token(CANARY))
    (folder / "tunneler.public.json").write_text("{}")
    with pytest.raises(KeyFileError, match=r"tunneler\.public\.json: not a key"):
        Vault(MemoryBucket(), folder, "hub-bridge").seal("tunneler", Token(CANARY))
    write_secret_file(folder / "accounts.seal.json", b"[]")
    with pytest.raises(KeyFileError, match=r"accounts\.seal\.json: not a key"):
        Vault(MemoryBucket(), folder, "accounts")
    with pytest.raises(KeyFileError, match="No such file"):
        Vault(MemoryBucket(), folder / "elsewhere", "accounts")
