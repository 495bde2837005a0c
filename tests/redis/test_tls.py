"""TLS as the URL asks for it, and what is said when it cannot be had."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import trustme

import botsessions as bs
from tests.conftest import need_redis
from tests.servers.postgres import free_port
from tests.servers.redis import RedisServer

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

KEY = bs.SessionKey(chat_id=1)


class Encrypted:
    """A server with a certificate for 127.0.0.1, on one port with TLS, on one without.

    ``asks`` tells whether clients need a certificate as well.
    """

    def __init__(self, directory: Path, authority: trustme.CA, *, asks: bool) -> None:
        issued = authority.issue_cert("127.0.0.1")
        certificate, key = directory / "server.pem", directory / "server.key"
        certificate.write_bytes(b"".join(p.bytes() for p in issued.cert_chain_pems))
        issued.private_key_pem.write_to_path(str(key))
        self.ca = saved(authority, directory)
        self.port = free_port()
        self.plain = RedisServer(
            directory,
            *("--tls-port", str(self.port), "--tls-ca-cert-file", str(self.ca)),
            *("--tls-cert-file", str(certificate), "--tls-key-file", str(key)),
            *("--tls-auth-clients", "yes" if asks else "no"),
        )

    def url(self, host: str = "127.0.0.1") -> str:
        return f"rediss://{host}:{self.port}"


def saved(authority: trustme.CA, directory: Path) -> Path:
    path = directory / "ca.pem"
    authority.cert_pem.write_to_path(str(path))
    return path


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture(scope="module")
def encrypted(
    tmp_path_factory: pytest.TempPathFactory, authority: trustme.CA
) -> Iterator[Encrypted]:
    need_redis()
    made = Encrypted(tmp_path_factory.mktemp("tls"), authority, asks=False)
    yield made
    made.plain.stop()


@pytest.fixture(scope="module")
def asking(
    tmp_path_factory: pytest.TempPathFactory, authority: trustme.CA
) -> Iterator[Encrypted]:
    need_redis()
    made = Encrypted(tmp_path_factory.mktemp("asking"), authority, asks=True)
    yield made
    made.plain.stop()


async def use(url: str) -> None:
    async with bs.open_store(url) as store:
        assert await store.update(KEY, lambda _: {"n": 1}) == {"n": 1}
        await store.delete(KEY)


async def refused(url: str, said: str) -> None:
    with pytest.raises(bs.BackendUnavailableError, match=said):
        await bs.open_store(url).get(KEY)


async def test_a_certificate_of_the_given_authority_is_accepted(
    encrypted: Encrypted,
) -> None:
    await use(f"{encrypted.url()}?ssl_ca_certs={encrypted.ca}")
    await use(f"{encrypted.url()}?ssl_cert_reqs=none&ssl_check_hostname=false")


async def test_a_certificate_of_somebody_else_is_refused(
    encrypted: Encrypted, tmp_path: Path
) -> None:
    other = saved(trustme.CA(), tmp_path)
    said = f"127.0.0.1:{encrypted.port} cannot be used: .*certificate verify failed"
    await refused(encrypted.url(), said)
    await refused(f"{encrypted.url()}?ssl_ca_certs={other}", said)


async def test_a_certificate_for_another_host_is_refused(encrypted: Encrypted) -> None:
    url = f"{encrypted.url('localhost')}?ssl_ca_certs={encrypted.ca}"
    await refused(url, "Hostname mismatch.*not valid for 'localhost'")
    await use(f"{url}&ssl_check_hostname=false")


async def test_a_missing_file_is_said_to_be_one(encrypted: Encrypted) -> None:
    await refused(f"{encrypted.url()}?ssl_ca_certs=/no/such.pem", "No such file")


async def test_a_client_certificate_is_shown_where_the_server_asks(
    asking: Encrypted, authority: trustme.CA, tmp_path: Path
) -> None:
    url = f"{asking.url()}?ssl_ca_certs={asking.ca}"
    await refused(url, f"127.0.0.1:{asking.port} cannot be used")
    issued = authority.issue_cert("bot@example.org")
    mine = tmp_path / "mine.pem"
    issued.private_key_and_cert_chain_pem.write_to_path(str(mine))
    await use(f"{url}&ssl_certfile={mine}&ssl_keyfile={mine}")


async def test_a_server_without_tls_is_not_used_if_the_url_demands_it(
    encrypted: Encrypted,
) -> None:
    plain = encrypted.plain.port
    url = f"rediss://127.0.0.1:{plain}?ssl_ca_certs={encrypted.ca}"
    await refused(f"{url}&socket_connect_timeout=0.3", f"{plain} cannot be used")
    await refused(f"redis://127.0.0.1:{encrypted.port}", f"{encrypted.port} cannot be")
