"""The seal on cookies, and where its keys come from."""

import stat
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier

import pytest
from cryptography.fernet import Fernet

from keepalive.errors import SettingError, StoreUnavailable
from keepalive.seal import Seal

OLD, NEW = (Fernet.generate_key().decode() for _ in range(2))


def test_opens_what_it_sealed() -> None:
    seal = Seal([OLD])
    sealed = seal.seal("an id")
    assert "an id" not in sealed
    assert sealed != seal.seal("an id")
    assert seal.open(sealed) == "an id"


@pytest.mark.parametrize(
    "forged",
    ["", "x", "é", "\udcff", "A" * 5000, Seal([NEW]).seal("an id")],
    ids=["empty", "short", "accent", "surrogate", "long", "another key's"],
)
def test_opens_nothing_else(forged: str) -> None:
    assert Seal([OLD]).open(forged) is None


def test_opens_nothing_that_was_altered() -> None:
    sealed = Seal([OLD]).seal("an id")
    for place in range(0, len(sealed) - 2, 7):
        altered = sealed[:place] + ("A" if sealed[place] != "A" else "B") + sealed[place + 1 :]
        assert Seal([OLD]).open(altered) is None


def test_rotation() -> None:
    """The first key seals, all of them open."""
    rotated = Seal([NEW, OLD])
    assert rotated.open(Seal([OLD]).seal("an id")) == "an id"
    assert Seal([NEW]).open(rotated.seal("an id")) == "an id"


@pytest.mark.parametrize("between", ["\n", ",", " ", ", ", "\r\n"])
def test_several_keys_in_one_text(between: str) -> None:
    seal = Seal.parse(f"{NEW}{between}{OLD}\n")
    assert seal.open(Seal([OLD]).seal("an id")) == "an id"
    assert Seal([NEW]).open(seal.seal("an id")) == "an id"


@pytest.mark.parametrize("bad", ["hunter2", NEW[:-2], f"{NEW} hunter2", "pässwörd" * 6], ids=range(4))
def test_a_bad_key_is_refused_without_showing_it(bad: str) -> None:
    with pytest.raises(SettingError, match="not 32 bytes in URL-safe base64") as refused:
        Seal.parse(bad)
    assert bad not in str(refused.value)
    assert NEW not in str(refused.value)
    assert refused.value.__suppress_context__
    assert "Fernet.generate_key" in refused.value.solution


@pytest.mark.parametrize("empty", ["", " \n", ",,"])
def test_no_key_is_refused(empty: str) -> None:
    with pytest.raises(SettingError, match="is empty"):
        Seal.parse(empty)


def test_the_environment_comes_first(tmp_path: Path) -> None:
    file = tmp_path / "secret"
    found = Seal.find({"KEEPALIVE_SECRET": NEW}, file, make=True)
    assert found.open(Seal([NEW]).seal("an id")) == "an id"
    assert not file.exists()


def test_a_file_is_made_once(tmp_path: Path) -> None:
    file = tmp_path / "new folder" / "secret"
    first = Seal.find({}, file, make=True)
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert stat.S_IMODE(file.parent.stat().st_mode) == 0o700
    assert Seal.find({"KEEPALIVE_SECRET": ""}, file, make=True).open(first.seal("an id")) == "an id"
    assert list(file.parent.iterdir()) == [file]


def test_a_file_that_is_missing_is_not_made_unasked(tmp_path: Path) -> None:
    with pytest.raises(SettingError, match="there is no secret file"):
        Seal.find({}, tmp_path / "secret", make=False)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("content", [b"hunter2", b"", b"\xff\xfe"])
def test_a_file_that_is_bad_is_left_alone(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "secret"
    file.write_bytes(content)
    with pytest.raises(SettingError) as refused:
        Seal.find({}, file, make=True)
    assert "hunter2" not in str(refused.value)
    assert file.read_bytes() == content


def test_a_folder_is_no_secret_file(tmp_path: Path) -> None:
    with pytest.raises(SettingError, match="cannot be used"):
        Seal.find({}, tmp_path, make=False)


def test_a_file_that_cannot_be_made_is_no_mistake_in_the_secret(tmp_path: Path) -> None:
    """It is the store's folder that cannot be used."""
    (tmp_path / "file").touch()
    for path in tmp_path / "file" / "secret", tmp_path / "file" / "folder" / "secret":
        with pytest.raises(StoreUnavailable) as refused:
            Seal.find({}, path, make=True)
        assert str(refused.value).startswith(f"{path} cannot be made (")
        assert refused.value.solution == "name a store in a folder that can be written to"


def test_all_threads_agree_on_one_file(tmp_path: Path) -> None:
    together = Barrier(8)

    def find(_: int) -> Seal:
        together.wait()
        return Seal.find({}, tmp_path / "secret", make=True)

    for _ in range(20):
        with ThreadPoolExecutor(8) as threads:
            seals = list(threads.map(find, range(8)))
        assert {seal.open(seals[0].seal("an id")) for seal in seals} == {"an id"}
        (tmp_path / "secret").unlink()
    assert list(tmp_path.iterdir()) == []


def test_all_processes_agree_on_one_file(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from keepalive.seal import Seal\n"
        "file = Path(sys.argv[1])\n"
        "print('ready', flush=True); input()\n"
        "print(Seal.find({}, file, make=True).seal('an id'))"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "secret")]
    pipe = subprocess.PIPE
    processes = [subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True) for _ in range(2)]
    for process in processes:
        assert process.stdout
        assert process.stdout.readline() == "ready\n"
    for process in processes:
        assert process.stdin
        process.stdin.write("\n")
        process.stdin.flush()
    sealed = [process.communicate()[0].strip() for process in processes]
    seal = Seal.find({}, tmp_path / "secret", make=False)
    assert [seal.open(each) for each in sealed] == ["an id"] * 2
