"""Signing in through an OpenID Connect provider (OpenID Connect Core 1.0), beside tokens.

The provider says who somebody is. What they may do, and whether they are a user at all, stays with
the access log: a claim of the identity token is looked up among the users.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, field
from html import escape
from ipaddress import ip_address
from typing import Any
from urllib.parse import urlsplit

from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.sessions import SessionMiddleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from infra.access.accounts import User
from infra.access.directory import Directory
from infra.access.problems import page
from infra.access.roles import ANY, Role
from infra.access.sessions import BY_OIDC, Sessions
from infra.access.sign_in import led_on, note_sign_in, with_session
from infra.errors import BadInput, NotAllowed

OIDC, CALLBACK = "/-/oidc", "oidc-callback"
STATE_S = 600
"""How long somebody may take to sign in at the provider, in seconds."""
SYMMETRIC = ("none", "HS256", "HS384", "HS512")
"""Algorithms that no identity token may name, whatever the provider lists."""


@dataclass(frozen=True, slots=True)
class Provider:
    """An OpenID Connect provider, and how this workspace is registered there."""

    issuer: str
    client_id: str
    client_secret: str = field(repr=False)
    claim: str  # of the identity token, by which users are known

    def __post_init__(self) -> None:
        """Refuse a provider that is asked in the clear.

        Raises:
            BadInput: It is, and lies on another machine.
        """
        address = urlsplit(self.issuer)
        if address.scheme != "https" and not _is_here(address.hostname or ""):
            raise BadInput(
                f"REQUANT_OIDC_ISSUER is {self.issuer}: give an https:// address, as identities "
                "are not asked for in the clear"
            )


def oidc_pages(provider: Provider, sessions: Sessions, directory: Directory) -> Starlette:
    """Return the application below `/-/oidc`: there to the provider, and back from it."""
    client = _client(provider)

    async def begun(request: Request) -> Response:
        try:
            address = str(request.url_for(CALLBACK))
            redirected: Response = await client.authorize_redirect(request, address)
        except Exception as error:  # Authlib passes its own client's errors on
            return _failed(f"The provider {provider.issuer} did not answer: {error}.", 503)
        return redirected

    async def signed_in(request: Request) -> Response:
        try:
            user = await _user(await _claims(client, request), provider, directory)
        except NotAllowed as error:
            return _failed(str(error), 403)
        except Exception as error:  # whatever is wrong with the answer: nobody is let in
            return _failed(f"The provider's answer does not hold ({type(error).__name__}).", 401)
        opened = sessions.opened(user.name, BY_OIDC)
        await asyncio.to_thread(note_sign_in, directory, opened)
        return with_session(led_on("/", request.headers), sessions, opened)

    kept = Middleware(
        SessionMiddleware,
        secret_key=sessions.secret.derived("oidc state"),
        session_cookie=f"{sessions.cookie}_oidc",
        max_age=STATE_S,
        path=OIDC,
        same_site="lax",  # the provider leads back here
    )
    return Starlette(
        routes=[
            Route(f"{OIDC}/sign-in", begun),
            Route(f"{OIDC}/callback", signed_in, name=CALLBACK),
        ],
        middleware=[kept],
    )


def _client(provider: Provider) -> Any:
    try:
        from authlib.integrations.starlette_client import OAuth
    except ImportError as error:
        raise BadInput(
            "REQUANT_OIDC_ISSUER is set and Authlib is not installed: pip install 'requant[oidc]'"
        ) from error
    address = f"{provider.issuer.rstrip('/')}/.well-known/openid-configuration"
    return OAuth().register(
        "provider",
        client_id=provider.client_id,
        client_secret=provider.client_secret,
        server_metadata_url=address,
        client_kwargs={
            "scope": "openid email profile",
            "code_challenge_method": "S256",  # RFC 7636
            "timeout": 10.0,
        },
    )


async def _claims(client: Any, request: Request) -> Mapping[str, Any]:
    """Return the claims of a verified identity token: signature, issuer, audience, nonce, time."""
    metadata = await client.load_server_metadata()
    listed = metadata.get("id_token_signing_alg_values_supported") or ["RS256"]
    metadata["id_token_signing_alg_values_supported"] = [
        algorithm for algorithm in listed if algorithm not in SYMMETRIC
    ]
    answer = await client.authorize_access_token(request)
    claims: Mapping[str, Any] = answer["userinfo"]
    return claims


async def _user(claims: Mapping[str, Any], provider: Provider, directory: Directory) -> User:
    """Return the user of an identity.

    Raises:
        NotAllowed: There is none; the access log says who it was.
    """
    value = str(claims.get(provider.claim) or "")
    if provider.claim == "email" and claims.get("email_verified") is not True:
        raise NotAllowed("The provider has not verified this address of e-mail.")
    accounts = await asyncio.to_thread(directory.accounts)
    user = next((user for user in accounts.users.values() if value and user.oidc == value), None)
    if user is None:
        act = "sign in by OpenID Connect"
        await asyncio.to_thread(directory.note_refusal, value or "nobody", Role.VIEWER, ANY, act)
        raise NotAllowed(f"{value or 'Nobody'} is no user here: ask an admin to be added.")
    return user


def _failed(sentence: str, status: int) -> Response:
    return page("Not signed in", f'<p role="alert">{escape(sentence)}</p>', status)


def _is_here(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
