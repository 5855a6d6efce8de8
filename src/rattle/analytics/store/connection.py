"""An open store: one client library speaks to a ClickHouse server and opens a folder with chDB."""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from types import MappingProxyType, TracebackType
from typing import Any, Final, Self
from urllib.parse import urlsplit

from rattle.addresses import ServerAddress, keep_credentials, parse_address, without_credentials
from rattle.analytics.errors import AnalyticsError
from rattle.analytics.extras import require
from rattle.analytics.query_errors import sentence_and_code, without_noise
from rattle.analytics.run_directory import is_held
from rattle.text import one_line

_FOLDER: Final = "chdb://"
_PORTS: Final = MappingProxyType({"http": 8123, "https": 8443})
_DATABASE: Final = "rattle"  # of a folder
_WRONG: Final = "write it as http://USER:PASSWORD@HOST:8123/DATABASE, or chdb:///FOLDER for a folder on this machine"
#: Codes of the engine where it does not take this user, or has not this database.
_CREDENTIALS: Final = frozenset({192, 193, 194, 516})
_UNKNOWN_DATABASE: Final = 81
_FOR_URL: Final = re.compile(r" \(for url [^)]*\)\s*$")
_CONNECT_SECONDS: Final = 10
#: Of all statements: bytes in a row that are no UTF-8 must not hide the others.
_SETTINGS: Final = {"output_format_json_validate_utf8": 1}


class StoreError(AnalyticsError):
    """A store has not done what it was asked.

    `code` is the engine's number for the reason, None where it gave none; `reason` says it in a sentence, and `answer`
    is all that the engine said.
    """

    def __init__(self, message: str, code: int | None = None, reason: str = "", answer: str = "") -> None:
        super().__init__(message)
        self.code = code
        self.reason = reason or message
        self.answer = answer


class StoreAway(StoreError):
    """Nobody answers at the store's address, or not as a store does: it may be better later."""


class StoreRefused(StoreError):
    """The store does not let this user in, or has not this database: somebody has to fix that."""


class Store:
    """An open store; methods raise StoreError. One thread at a time may use it."""

    def __init__(self, url: str, client: Any, pool: Any = None) -> None:
        """`pool` holds the connections of the client, where it has any."""
        self.url = url
        self._client, self._pool = client, pool
        self._only_reads = False

    def command(self, statement: str) -> None:
        """Run a statement that answers with no rows."""
        with _answering(self.url):
            self._client.command(statement)

    def read(self, statement: str, engine_format: str | None = "JSONEachRow") -> bytes:
        """Return the answer to a statement in one of the engine's formats, or in that which it names itself."""
        with _answering(self.url):
            return bytes(self._client.raw_query(statement, fmt=engine_format))

    def insert(self, table: str, rows: bytes, engine_format: str, settings: Mapping[str, Any]) -> None:
        """Append rows that are in one of the engine's formats to a table."""
        with _answering(self.url):
            self._client.raw_insert(table, insert_block=rows, fmt=engine_format, settings=self._known(settings))

    def only_read(self, settings: Mapping[str, Any]) -> None:
        """Have all later statements run under these settings, and change nothing."""
        with _answering(self.url):
            for name, value in self._known(settings).items():
                self._client.set_client_setting(name, value)
            if not self._only_reads:
                self._client.set_client_setting("readonly", 2)  # 1 would forbid SETTINGS too
            self._only_reads = True

    def close(self) -> None:
        """End the connection; a folder may then be opened by other processes."""
        self._client.close()
        if self._pool is not None:
            self._pool.clear()

    def _known(self, settings: Mapping[str, Any]) -> dict[str, Any]:
        """Return those settings that the store has: older servers lack some."""
        return {name: value for name, value in settings.items() if name in self._client.server_settings}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def open_store(url: str, *, create: bool = False, seconds: float = 300.0) -> Store:
    """Open the store at http[s]://HOST:PORT/DATABASE, or in the folder of chdb:///FOLDER; raises StoreError.

    Credentials are those in the URL, or those that `rattle.addresses` keeps. `create` makes a folder that is not there;
    `seconds` is how long one statement may take.
    """
    driver = require("clickhouse_connect", "store", "a store")
    for name in ("clickhouse_connect", "urllib3.connectionpool"):  # what they warn of is raised too
        logging.getLogger(name).setLevel(logging.CRITICAL)
    if url.startswith(_FOLDER):
        return _open_folder(driver, url, create=create)
    address = _address(url)
    database = address.prefix.strip("/") or None
    shown = address.url
    from clickhouse_connect.driver.httputil import get_pool_manager

    # A pool of its own, since the driver would make one that goes by the environment's proxy; no client does here.
    pool = get_pool_manager(ca_cert=os.environ.get("SSL_CERT_FILE"))
    with _answering(shown):
        client = driver.get_client(
            interface="https" if address.tls else "http",
            host=address.host,
            port=address.port,
            database=database,
            connect_timeout=_CONNECT_SECONDS,
            send_receive_timeout=max(1, int(seconds)),
            autogenerate_session_id=False,
            pool_mgr=pool,
            headers=address.headers,
            settings=_SETTINGS,
        )
    return Store(shown, client, pool)


def keep_store_credentials(url: str) -> str:
    """Return a store's URL without the credentials in it, and keep those for `open_store`; raises ValueError."""
    try:
        if not url.startswith(_FOLDER):
            _address(url)
            return keep_credentials(_with_port(url))
        _folder(url)
    except StoreRefused as error:
        raise ValueError(str(error)) from None
    return url


def _open_folder(driver: Any, url: str, *, create: bool) -> Store:
    """Open a folder; its tables have a database of their own: in the first one, files of the machine are tables."""
    require("chdb", "analytics", "a store in a folder")
    folder = _folder(url)
    status = folder / "status"  # which the engine locks, as long as it has the folder open
    if not create and not any(os.access(folder / name, os.F_OK) for name in ("status", "metadata")):
        raise StoreRefused(f"there is no store in {folder}: make one with 'rattle create-tables {url}'")
    _refuse_without_rights(folder, status)
    if is_held(status):
        raise StoreAway(f"{url} is open in another process, and a folder belongs to one at a time: stop that one first")
    with _answering(url):
        client = driver.get_client(dsn=url, settings=_SETTINGS)
        client.command(f"CREATE DATABASE IF NOT EXISTS {_DATABASE}")
        client.database = _DATABASE
        return Store(url, client)


def _refuse_without_rights(folder: Path, status: Path) -> None:
    """Raise StoreRefused where this user may not write: the engine would not say so."""
    nearest = next(path for path in (folder, *folder.parents) if os.access(path, os.F_OK))
    for path in (nearest, status):
        if path is nearest and not path.is_dir():
            raise StoreRefused(f"there can be no store in {folder}: {path} is no folder")
        if os.access(path, os.F_OK) and not os.access(path, os.R_OK | os.W_OK):
            raise StoreRefused(
                f"this user may not write {path}, which a store in {folder} needs: have its owner allow it, or name "
                "another folder"
            )


def _folder(url: str) -> Path:
    path = url.removeprefix(_FOLDER)
    if not path.startswith("/") or "?" in path or not path.isprintable():
        raise StoreRefused(f"'{one_line(url, 200)}' is no store's address: {_WRONG}")
    return Path(path)


def _with_port(url: str) -> str:
    """Return a URL with the port of ClickHouse where it has none: that is not HTTP's own."""
    parts = urlsplit(url)
    port = _PORTS.get(parts.scheme)
    return url if port is None or parts.port is not None else parts._replace(netloc=f"{parts.netloc}:{port}").geturl()


def _address(url: str) -> ServerAddress:
    with suppress(ValueError):
        address = parse_address(_with_port(url))
        if "/" not in address.prefix.strip("/"):
            return address
    raise StoreRefused(f"'{without_credentials(url)}' is no store's address: {_WRONG}")


@contextmanager
def _answering(url: str) -> Iterator[None]:
    """Turn what the client raises in the block into a StoreError."""
    from clickhouse_connect.driver.exceptions import ClickHouseError

    try:
        yield
    except (ClickHouseError, UnicodeDecodeError) as error:
        raise _error(url, error) from error
    except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:  # what answers is no store
        raise StoreAway(f"{url} does not answer as a store does: {one_line(error, 200)}") from error


def _error(url: str, error: Any) -> StoreError:
    """Return the error for what the client raised, as one line."""
    unreadable = error if isinstance(error, UnicodeDecodeError) else error.__cause__
    if isinstance(unreadable, UnicodeDecodeError):  # the engine's words quote a row that is no UTF-8
        said = unreadable.object.decode(errors="replace")
    else:
        said = _FOR_URL.sub("", str(error))
    where = re.search(r"Code: (\d+)\.", said)
    code = getattr(error, "code", None) or (int(where[1]) if where else None)
    if code is None:
        return StoreAway(_away(url, said))
    whole, _ = sentence_and_code(said[where.start() :] if where else said)
    row = re.search(r"at row (\d+)", whole)
    sentence = without_noise(whole) + (f" (row {row[1]})" if row else "")
    if code in _CREDENTIALS:
        return StoreRefused(f"{url} does not take user and password ({_short(sentence)})", code)
    if code == _UNKNOWN_DATABASE:
        return StoreRefused(f"{url}: {_short(sentence)}: create it there with CREATE DATABASE, or name another", code)
    return StoreError(f"{url}: {_short(sentence)}", code, _short(sentence), said[where.start() :] if where else said)


def _away(url: str, said: str) -> str:
    for text, words in _WORDS:
        if text in said:
            return f"{url} does not answer: {words}"
    return f"{url} does not answer as a store does: {_short(said)}"


_WORDS: Final[Iterable[tuple[str, str]]] = (
    ("Connection refused", "connection refused; is it running, and is this its HTTP port?"),
    ("Name or service not known", "no such host"),
    ("Failed to resolve", "no such host"),
    ("CERTIFICATE_VERIFY_FAILED", "its certificate is not accepted; name the authority's file in SSL_CERT_FILE"),
    ("timed out", "it took too long"),
    ("Connection aborted", "it closed the connection"),
    ("Max retries", "no connection"),
)


def _short(text: str) -> str:
    return one_line(text.rstrip(" ."), 400)
