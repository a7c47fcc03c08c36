"""The provider's two pages, as HTML. Escapes everything."""

from __future__ import annotations

from html import escape

_PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title><style>
body {{ font: 16px/1.5 system-ui, sans-serif; background: #eef1f4; }}
main {{ margin: 15vh auto; background: #fff; padding: 2rem; border-radius: .8rem; width: min(22rem, 90vw); }}
label {{ display: block; margin: .8rem 0; }}
input {{ width: 100%; box-sizing: border-box; font: inherit; padding: .5rem; }}
button {{ font: inherit; padding: .5rem 1rem; margin-top: .5rem; }} .error {{ color: #a3261f; }}
</style></head><body><main><h1>{title}</h1>{inside}</main></body></html>"""


def page(title: str, inside: str) -> str:
    """A page; `inside` is HTML."""
    return _PAGE.format(title=escape(title), inside=inside)


def sign_in_page(title: str, *, client: str, second_factor: bool, trouble: str = "") -> str:
    """The form to sign in with; it is sent to the address it was read from."""
    code = (
        '<label>One-time code <input name="code" inputmode="numeric" autocomplete="one-time-code" required></label>'
        if second_factor
        else ""
    )
    error = f'<p class="error" role="alert">{escape(trouble)}</p>' if trouble else ""
    return page(
        title,
        f"<p>Sign in to go on to {escape(client)}.</p>{error}"
        '<form method="post">'
        '<label>User name <input name="username" autocomplete="username" autofocus required></label>'
        '<label>Password <input name="password" type="password" autocomplete="current-password" required></label>'
        f'{code}<button type="submit">Sign in</button></form>',
    )
