"""The seal on session cookies: a random id goes out encrypted and signed, and comes back or not.

An id is as good as a password; sealed, a forged or altered cookie is refused before any store is
asked, and a leaked database or log holds nothing that opens a session.
"""

import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from secrets import token_hex
from typing import Self

from cryptography.fernet import Fernet, InvalidToken, MultiFernet

from .errors import SettingError, StoreUnavailable

ENVIRONMENT = "KEEPALIVE_SECRET"
HOW_TO = (
    "make one with: python -c 'from cryptography.fernet import Fernet; print(Fernet.generate_key().decode())'"
)


class Seal:
    """Seals ids with Fernet (AES-128-CBC and HMAC-SHA-256, https://github.com/fernet/spec).

    Args:
        keys: Fernet keys, 32 bytes in URL-safe base64 each. The first seals, all of them open: to
            rotate, put a new one in front and drop the old ones when their sessions are over.

    Raises:
        SettingError: there is no key, or one of them is malformed.
    """

    def __init__(self, keys: Sequence[str]) -> None:
        if not keys:
            raise SettingError("the secret that seals the session cookies is empty", HOW_TO)
        try:
            self._fernet = MultiFernet([Fernet(key) for key in keys])
        except ValueError:
            raise SettingError(
                "a secret that seals the session cookies is not 32 bytes in URL-safe base64", HOW_TO
            ) from None

    def seal(self, text: str) -> str:
        """Encrypt and sign `text`; the result fits into a cookie as it is."""
        return self._fernet.encrypt(text.encode()).decode()

    def open(self, sealed: str) -> str | None:
        """What was sealed; `None` if it was not sealed by one of these keys."""
        try:
            return self._fernet.decrypt(sealed.encode()).decode()
        except (InvalidToken, UnicodeError):
            return None

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read keys that stand one a line, or with commas or blanks between them."""
        return cls(text.replace(",", " ").split())

    @classmethod
    def fresh(cls) -> Self:
        """A seal of this process alone: nothing that it sealed can be opened after a restart."""
        return cls([Fernet.generate_key().decode()])

    @classmethod
    def find(cls, environ: Mapping[str, str], path: Path, *, make: bool) -> Self:
        """Take the keys from the environment, or else from a file.

        Args:
            environ: `KEEPALIVE_SECRET` in it comes first.
            path: the file that holds the keys otherwise.
            make: whether to make the file, readable by its owner alone, if there is none yet.

        Raises:
            SettingError: there are no keys, or they are malformed.
            StoreUnavailable: the file cannot be made; a store beside it could not be, either.
        """
        if environ.get(ENVIRONMENT):
            return cls.parse(environ[ENVIRONMENT])
        if make:
            try:
                _make_once(path)
            except OSError as error:
                raise StoreUnavailable(
                    f"{path} cannot be made ({error.strerror})",
                    "name a store in a folder that can be written to",
                ) from None
        try:
            return cls.parse(path.read_text(encoding="ascii"))
        except FileNotFoundError:
            raise SettingError(f"there is no secret file {path}", HOW_TO) from None
        except (OSError, UnicodeError) as error:
            raise SettingError(f"the secret file {path} cannot be used ({error})", HOW_TO) from None


def _make_once(path: Path) -> None:
    """Make a file with a new key, whole or not at all, and never over another process's."""
    if path.exists():
        return
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.{token_hex(8)}")
    try:
        descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            file.write(Fernet.generate_key() + b"\n")
            file.flush()
            os.fsync(file.fileno())
        with suppress(FileExistsError):  # another process was faster: its key counts
            os.link(draft, path)
    finally:
        draft.unlink(missing_ok=True)
