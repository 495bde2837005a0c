"""TLS as the URL asks for it, and what is said when it cannot be had."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest
import trustme

import botsessions as bs

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.servers.postgres import PostgresServer

KEY = bs.SessionKey(chat_id=1)


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture(scope="module")
def tls_server(
    own_postgres: PostgresServer, authority: trustme.CA
) -> Iterator[PostgresServer]:
    """Return a server with a certificate for 127.0.0.1."""
    issued = authority.issue_cert("127.0.0.1")
    certificate = b"".join(part.bytes() for part in issued.cert_chain_pems)
    own_postgres.keep("server.crt", certificate)
    own_postgres.keep("server.key", issued.private_key_pem.bytes())
    own_postgres.configure("ssl", "on")
    yield own_postgres
    own_postgres.configure("ssl", "off")


def saved(authority: trustme.CA, directory: Path) -> Path:
    path = directory / "ca.pem"
    authority.cert_pem.write_to_path(str(path))
    return path


async def is_encrypted(server: PostgresServer, url: str, name: str) -> bool:
    """Use a store, and let the server say how."""
    async with bs.open_store(f"{url}&schema={name}&application_name={name}") as store:
        assert await store.update(KEY, lambda _: {"n": 1}) == {"n": 1}
        seen = (
            "SELECT bool_and(ssl) FROM pg_stat_ssl JOIN pg_stat_activity USING (pid) "
            f"WHERE application_name = '{name}'"
        )
        [(encrypted,)] = await asyncio.to_thread(server.execute, seen)
    return bool(encrypted)


async def test_a_certificate_is_used_and_checked_as_the_url_says(
    tls_server: PostgresServer, authority: trustme.CA, tmp_path: Path, schema: str
) -> None:
    ours = saved(authority, tmp_path)
    for query in (
        "sslmode=prefer",
        "sslmode=require",
        f"sslmode=verify-ca&sslrootcert={ours}",
        f"sslmode=verify-full&sslrootcert={ours}",
    ):
        url = f"{tls_server.dsn}?{query}"
        assert await is_encrypted(tls_server, url, schema), query
    assert not await is_encrypted(
        tls_server, f"{tls_server.dsn}?sslmode=disable", schema
    )


@pytest.mark.parametrize("mode", ["verify-ca", "verify-full"])
async def test_a_certificate_of_somebody_else_is_refused(
    tls_server: PostgresServer, tmp_path: Path, mode: str
) -> None:
    url = f"{tls_server.dsn}?sslmode={mode}&sslrootcert={saved(trustme.CA(), tmp_path)}"
    said = "certificate is not accepted.*give the CA that signed it with sslrootcert="
    with pytest.raises(bs.BackendUnavailableError, match=said):
        await bs.open_store(url).get(KEY)


async def test_a_certificate_for_another_host_is_refused(
    tls_server: PostgresServer, authority: trustme.CA, tmp_path: Path, schema: str
) -> None:
    ours = saved(authority, tmp_path)
    elsewhere = tls_server.dsn.replace("127.0.0.1", "localhost")
    said = "not valid for 'localhost'.*name the server in the URL as its certificate"
    with pytest.raises(bs.BackendUnavailableError, match=said):
        await bs.open_store(f"{elsewhere}?sslmode=verify-full&sslrootcert={ours}").get(
            KEY
        )
    # To check the signature only is to be asked for.
    url = f"{elsewhere}?sslmode=verify-ca&sslrootcert={ours}"
    assert await is_encrypted(tls_server, url, schema)


async def test_a_missing_file_is_said_to_be_one(tls_server: PostgresServer) -> None:
    url = f"{tls_server.dsn}?sslmode=verify-full&sslrootcert=/no/such.pem"
    with pytest.raises(bs.BackendUnavailableError, match="sslrootcert, sslcert"):
        await bs.open_store(url).get(KEY)


@pytest.mark.parametrize("mode", ["require", "verify-full"])
async def test_a_server_without_tls_is_not_used_if_the_url_demands_it(
    postgres_server: PostgresServer, authority: trustme.CA, tmp_path: Path, mode: str
) -> None:
    ours = saved(authority, tmp_path)
    url = f"{postgres_server.dsn}?sslmode={mode}&sslrootcert={ours}"
    with pytest.raises(bs.BackendUnavailableError, match="switch TLS on there"):
        await bs.open_store(url).get(KEY)
