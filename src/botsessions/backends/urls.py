"""The URL of a server, taken apart and never repeated: it may hold a password.

Used by ``open`` and by the backends of servers. What the standard library says of a URL
that it cannot read quotes the part that it stumbled over, which may be the password.
"""

from __future__ import annotations

from urllib.parse import SplitResult, parse_qsl, urlsplit

_HIGHEST_PORT = 65_535


def split(url: str) -> SplitResult:
    """Take a URL apart, or raise ValueError without a word of it."""
    try:
        return urlsplit(url)
    except ValueError:
        pass
    # Out here, so that the original is not even the context of this one.
    raise unreadable()


def login_and_hosts(parts: SplitResult) -> tuple[str, str]:
    """Return what is before the servers of a URL, and these, as they are written."""
    login, _, hosts = parts.netloc.rpartition("@")
    return login, hosts


def hosts(parts: SplitResult) -> list[str]:
    """Return the servers of a URL as they are written, with their ports."""
    return login_and_hosts(parts)[1].split(",")


def check_readable(parts: SplitResult) -> None:
    """Refuse where a password that is not escaped was taken for something else.

    It then ends with an ``@`` behind what seems to be the hosts, as in
    ``user:12/pass?word=more@host``. ``host/database?user=me@tenant`` has no colon
    before it, and so cannot be meant as that.
    """
    before = parts.netloc + parts.path + parts.query.rpartition("@")[0]
    ports = [host.rpartition("]")[2].partition(":")[2] for host in hosts(parts)]
    if (
        "@" in parts.path
        or ("@" in parts.query and (not parts.path or ":" in before))
        or parts.fragment
        or not all(not port or _is_port(port) for port in ports)
        or not all("=" in pair for pair in parts.query.split("&") if parts.query)
    ):
        raise unreadable()


def has_password_in_query(parts: SplitResult) -> bool:
    """Tell whether an option in the query may be the end of a password with an ``&``.

    Then its name is not to be told.
    """
    names = [name for name, _ in parse_qsl(parts.query, keep_blank_values=True)]
    return any(name.endswith("password") for name in names)


def unreadable() -> ValueError:
    """Return the error that tells of no part of the URL."""
    return ValueError(
        "this URL cannot be read: a port in it is no number, or its user or password "
        "is not escaped; there write / as %2F, ? as %3F, # as %23, [ as %5B, and "
        "anywhere but before the hosts @ as %40"
    )


def _is_port(text: str) -> bool:
    return text.isdecimal() and int(text[:6]) <= _HIGHEST_PORT
