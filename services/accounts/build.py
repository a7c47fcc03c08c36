"""Builds the accounts service from its configuration. The one place that knows what its parts stand on."""

from __future__ import annotations

import secrets

from services._runtime.connection import Broker
from services._runtime.leases import Lease
from services._runtime.service import stamp_of, utc_now, vault_of
from services._runtime.settings import Configuration
from services.accounts.access import AccessBook
from services.accounts.app import AccountsApp, Pull
from services.accounts.identity_provider import OpenIdConnect
from services.accounts.pull import PullSource
from services.accounts.settings import AccountsSettings, accounts_settings
from services.accounts.sign_ins import SignInDesk
from services.accounts.tokens import TokenKeeper


def build(configuration: Configuration, broker: Broker) -> AccountsApp:
    """The service, from its configuration and an open broker. Raises ConfigurationError."""
    stamp, settings = stamp_of(configuration, "accounts"), accounts_settings(configuration)
    book = AccessBook(
        log=broker.log,
        bucket=broker.access,
        subjects=configuration.subjects,
        stamp=stamp,
        systems=configuration.systems,
        settings=settings,
    )
    return AccountsApp(
        book=book,
        desk=_desk(configuration, broker, book),
        pull=_pull(configuration, broker, book, settings),
        log=broker.log,
        subjects=configuration.subjects,
        stamp=stamp,
        systems=configuration.catalogue,
        settings=settings,
    )


def _desk(configuration: Configuration, broker: Broker, book: AccessBook) -> SignInDesk | None:
    """Who takes sign-ins, where users sign in through a provider."""
    settings = configuration.shared.sign_in
    if settings is None:
        return None
    vault = vault_of(configuration, broker, "accounts")
    provider = OpenIdConnect(settings, configuration.file.parent, utc_now)
    tokens = TokenKeeper(
        bucket=broker.tokens,
        leases=broker.leases,
        vault=vault,
        provider=provider,
        replica=secrets.token_hex(8),
        now=utc_now,
    )
    return SignInDesk(
        log=broker.log,
        rpc=broker.rpc,
        subjects=configuration.subjects,
        vault=vault,
        tokens=tokens,
        provider=provider,
        learns=book,
        revoke_at_sign_out=settings.revoke_at_sign_out,
        now=utc_now,
    )


def _pull(configuration: Configuration, broker: Broker, book: AccessBook, settings: AccountsSettings) -> Pull | None:
    """Who asks for rights between sign-ins, where there is a place to ask."""
    if settings.pull is None:
        return None
    lease = Lease(broker.leases, "accounts.pull", secrets.token_hex(8))
    return Pull(lease, PullSource(settings.pull, configuration.file.parent, learns=book, turn=lease))
