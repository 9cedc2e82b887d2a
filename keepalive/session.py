"""`KeepaliveStorage`: an aiohttp-session storage on a session store.

A drop-in: handlers go on using `get_session` and `new_session`. The browser holds a random id,
sealed; the store holds the session under the id's hash. Saves only update, so a slow request
never brings back a session that was logged out meanwhile; a login always gets a new id.
"""

import os
from collections.abc import Callable, Mapping
from secrets import token_urlsafe
from typing import Any, TypeVar

from aiohttp import hdrs, web
from aiohttp_session import AbstractStorage, Session

from . import audit
from .errors import SettingError, StoreError
from .policy import Policy, Reason
from .seal import ENVIRONMENT, HOW_TO, Seal
from .stores import SessionStore
from .touchers import Left, Ticket, Touch, key_of
from .trust import Trust, cookie_in

PASSIVE_HEADER = "X-Keepalive"
PASSIVE_VALUE = "passive"
_PASSIVE_MARK = "__keepalive_passive__"
_Handler = TypeVar("_Handler", bound=Callable[..., object])

ChoosePolicy = Callable[[Mapping[str, Any]], Policy]
"""Chooses the rules of a session by its data."""

# What this request's session was when it was loaded: its key, and whose it was.
_LOADED = web.RequestKey("keepalive_loaded", tuple[bytes, str | None])


def passive(handler: _Handler) -> _Handler:
    """Mark a handler whose requests do not extend the session: a background poller's, say.

    A page can ask for the same with the header `X-Keepalive: passive`.
    """
    setattr(handler, _PASSIVE_MARK, True)
    return handler


def is_passive(request: web.Request) -> bool:
    """Whether a request is not to extend its session."""
    return request.headers.get(PASSIVE_HEADER, "").lower() == PASSIVE_VALUE or hasattr(
        request.match_info.handler, _PASSIVE_MARK
    )


class KeepaliveStorage(AbstractStorage):
    """Keeps aiohttp-session's sessions in a `SessionStore`.

    Args:
        store: where they live; `keepalive.setup` opens and closes it with the app.
        policy: their rules, or a function that chooses them by a session's data.
        seal: seals the cookies. By default with the keys in `KEEPALIVE_SECRET`, or those in the
            file beside the store's database that has `.secret` after its name, which is made once;
            a store that forgets its sessions with the process gets a seal that does so too.
        user_key: the item of a session that says whose it is. When it changes, that is a login:
            the session gets a new id and the old one ends.
        cookie_name: gets the prefix `__Host-` on https.
        secure: whether browsers reach the app by https; by default what aiohttp, or a trusted proxy,
            says of the request. Behind another that ends TLS, say `True`.

    Raises:
        SettingError: the secret is malformed or missing, or the policy is none.
    """

    def __init__(
        self,
        store: SessionStore,
        policy: Policy | ChoosePolicy | None = None,
        *,
        seal: Seal | None = None,
        user_key: str = "user",
        cookie_name: str = "keepalive",
        secure: bool | None = None,
    ) -> None:
        super().__init__(cookie_name=cookie_name, secure=secure, samesite="Lax")
        self.toucher = store
        self._store = store
        if not (policy is None or isinstance(policy, Policy) or callable(policy)):
            raise SettingError(f"the policy is {policy!r}", "write keepalive.Policy(idle_timeout=…)")
        self._policy = policy or Policy()
        self._seal = seal or _seal_for(store)
        self.user_key = user_key
        self._secure = secure
        self.trust = Trust()

    # What aiohttp-session calls.

    async def load_session(self, request: web.Request) -> Session:
        """The session of a request; extends its idle deadline unless the request is passive."""
        session_id = self._id_in(request)
        if session_id is None:
            return await self.new_session()
        key = key_of(session_id)
        try:
            found = await self._store.load(key)
            if isinstance(found, Reason):
                return await self.new_session()
            data = self._decoder(found.data.decode())
            policy = self._policy_for(data)
            # Little is left to gain near the absolute deadline, and that little counts.
            gain = policy.idle_timeout - found.left.idle if found.left.idle < found.left.absolute else 0.0
            # After the last page was closed, a request tells that another one is on its way.
            if (gain >= policy.touch_every or found.left.closing) and not is_passive(request):
                (left,) = await self._store.touch([Touch(key, policy.idle_timeout, idle=0.0)])
                if isinstance(left, Reason):
                    return await self.new_session()
        except StoreError as error:
            raise _unavailable() from error
        request[_LOADED] = key, found.user
        return Session(session_id, data={"created": int(found.created), "session": data}, new=False)

    async def save_session(
        self, request: web.Request, response: web.StreamResponse, session: Session
    ) -> None:
        """Write what a handler has changed, and end or rotate where that is what it has done."""
        loaded, former_user = request.get(_LOADED, (None, None))
        if loaded is None and (presented := self._id_in(request)) is not None:
            loaded = key_of(presented)  # `new_session` does not load what was there before
        try:
            if session.empty:
                if loaded is not None and await self._store.end(loaded, Reason.LOGOUT):
                    address = self.trust.address(request)
                    audit.ended(loaded, former_user, reason=Reason.LOGOUT, address=address)
                self._forget(request, response)
                return
            data = self._encoder(dict(session)).encode()
            user = self._user_of(session)
            if loaded is not None and not session.new and user == former_user:
                # It may have ended while the request was under way: then nothing is written, and the
                # cookie is left alone, for it may by now be that of the next login.
                await self._store.save(loaded, data=data, user=user)
                return
            session_id = token_urlsafe(32)
            new, policy = key_of(session_id), self._policy_for(session)
            if loaded is None:
                left = await self._store.create(new, data=data, user=user, policy=policy)
            else:
                left = await self._store.rotate(loaded, new, data=data, user=user, policy=policy)
        except StoreError as error:
            raise _unavailable() from error
        audit.began(
            new,
            user,
            former=loaded,
            address=self.trust.address(request),
            idle=policy.idle_timeout,
            ends_in=left.absolute,
        )
        request[_LOADED] = new, user
        secure = self.is_secure(request)
        response.headers.setdefault(hdrs.CACHE_CONTROL, "no-store")  # a cache would hand the session on
        response.set_cookie(
            self._name(secure),
            self._seal.seal(session_id),
            path="/",
            httponly=True,
            samesite="Lax",
            secure=secure,
        )

    # What the server asks (`keepalive.door.Door`).

    async def admit(self, request: web.Request, response: web.StreamResponse) -> Ticket | Reason:
        """The session of a page that wants to connect; touches nothing.

        A session cookie needs no renewal: it lasts as long as the browser runs.

        Raises:
            StoreError: nothing is known of the session.
        """
        key = await self.key(request)
        if key is None:
            return Reason.UNKNOWN
        found = await self._store.load(key)
        if isinstance(found, Reason):
            return found
        return Ticket(key, self._policy_of(found.data), found.user, found.left)

    async def look(self, request: web.Request) -> tuple[Policy, Left] | Reason:
        """The rules of a request's session, and what remains of it; touches nothing.

        Raises:
            StoreError: nothing is known of the session.
        """
        found = await self.admit(request, web.Response())
        return found if isinstance(found, Reason) else (found.policy, found.left)

    async def key(self, request: web.Request) -> bytes | None:
        """The key of the session that a request presents, alive or not."""
        session_id = self._id_in(request)
        return None if session_id is None else key_of(session_id)

    def is_secure(self, request: web.Request) -> bool:
        """Whether the browser reaches the app by https."""
        return self.trust.is_secure(request) if self._secure is None else self._secure

    def presents(self, request: web.Request) -> bool:
        """Whether a request has a session cookie, of a session or not.

        Raises:
            web.HTTPBadRequest: it has two.
        """
        return self._sealed_in(request) is not None

    async def open(self) -> None:
        await self._store.open()

    async def close(self) -> None:
        await self._store.close()

    async def sweep(self) -> None:
        await self._store.sweep()

    async def end_user(self, user: str, reason: Reason, *, keep: bytes | None = None) -> int:
        return await self._store.end_user(user, reason, keep=keep)

    # The parts.

    def _policy_for(self, data: Mapping[str, Any]) -> Policy:
        return self._policy if isinstance(self._policy, Policy) else self._policy(data)

    def _policy_of(self, encoded: bytes) -> Policy:
        return (
            self._policy
            if isinstance(self._policy, Policy)
            else self._policy(self._decoder(encoded.decode()))
        )

    def _user_of(self, session: Session) -> str | None:
        user = session.get(self.user_key)
        return None if user is None else str(user)

    def _name(self, secure: bool) -> str:
        return f"__Host-{self.cookie_name}" if secure else self.cookie_name

    def _id_in(self, request: web.Request) -> str | None:
        sealed = self._sealed_in(request)
        return None if sealed is None else self._seal.open(sealed)

    def _sealed_in(self, request: web.Request) -> str | None:
        return cookie_in(request, self._name(self.is_secure(request)))

    def _forget(self, request: web.Request, response: web.StreamResponse) -> None:
        secure = self.is_secure(request)
        response.del_cookie(self._name(secure), path="/", secure=secure, httponly=True, samesite="Lax")


def _seal_for(store: SessionStore) -> Seal:
    if store.path is not None:
        return Seal.find(os.environ, store.path.with_name(f"{store.path.name}.secret"), make=True)
    if keys := os.environ.get(ENVIRONMENT):
        return Seal.parse(keys)
    if store.forgets:
        return Seal.fresh()
    raise SettingError(
        "there is no secret to seal the session cookies with, and this store has no file to keep one beside",
        f"give every node the same key in {ENVIRONMENT}, or in a secret file; {HOW_TO}",
    )


def _unavailable() -> web.HTTPServiceUnavailable:
    return web.HTTPServiceUnavailable(
        headers={"Retry-After": "2"},
        text="The session store is not available. Please try again in a moment.\n",
    )
