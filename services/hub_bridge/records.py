"""What the bridge writes into JupyterHub's own database: all of it, in one place. Asks the event log nothing.

JupyterHub keeps a spawner's state only when `start()` returned, takes a server that was still starting for one that
runs, and knows where a server is only from its start. These functions close those gaps.
"""

from __future__ import annotations

from typing import Any

from jupyterhub import orm
from jupyterhub.utils import hash_token

NOTE = "Server at "
"""What JupyterHub notes at the token of a server (`User.spawn`); row numbers may be given again."""


def save_state(spawner: Any) -> None:
    """Commits the spawner's state now, so that a hub that is killed during the start finds its session again."""
    spawner.orm_spawner.state = spawner.get_state()
    spawner.user.db.commit()


def token_id(spawner: Any) -> int | None:
    """The row of the token the spawner holds, which is no secret: it deletes the token when the token is not known."""
    row = orm.APIToken.find(spawner.user.db, spawner.api_token) if spawner.api_token else None
    return None if row is None else int(row.id)


def keep_token(spawner: Any, kept: str) -> int:
    """Makes the token that the job already holds valid in place of the one JupyterHub made for this start; its row.

    JupyterHub can re-use a token too, but then takes away the scopes of the server's OAuth client
    (`add_client` without `allowed_scopes` at the end of `User.spawn`, 6.1.1), and nobody gets in.
    """
    db, made = spawner.user.db, spawner.api_token
    row = orm.APIToken.find(db, kept)
    fresh = orm.APIToken.find(db, made) if made and made != kept else None
    scopes = list(fresh.scopes) if fresh is not None else None
    note = fresh.note if fresh is not None else f"{NOTE}{spawner.server.base_url}"
    if row is not None and row.user is not spawner.user.orm_user:
        raise ValueError("the kept token belongs to someone else")
    if row is None:
        spawner.user.new_api_token(kept, generated=False, note=note, scopes=scopes)
    if fresh is not None:
        db.delete(fresh)
    if spawner.orm_spawner.oauth_client is not None:
        spawner.orm_spawner.oauth_client.secret = hash_token(kept)
    db.commit()
    return int(orm.APIToken.find(db, kept).id)


def forget_token(spawner: Any, row_id: int | None) -> None:
    """Deletes a token whose text is lost: its session ended while the hub was down."""
    db = spawner.user.db
    row = db.get(orm.APIToken, row_id) if row_id is not None else None
    if row is not None and row.user is spawner.user.orm_user and (row.note or "").startswith(NOTE):
        db.delete(row)
        db.commit()


def forget_half_start(spawner: Any) -> None:
    """Takes away the server that JupyterHub noted before it was there, so that a new hub does not stop it as dead."""
    spawner.server = None
    spawner.orm_spawner.started = None


def forget_session(spawner: Any, row_id: int | None) -> None:
    """Clears what is left of a start whose session is over."""
    forget_token(spawner, row_id)
    spawner.clear_state()
    save_state(spawner)


def move_server(spawner: Any, host: str, port: int) -> bool:
    """Notes where the server is now. False: it was there already, or there is none."""
    server = spawner.server
    if server is None or (server.ip, server.port) == (host, port):
        return False
    server.ip, server.port = host, port
    spawner.user.db.commit()
    return True
