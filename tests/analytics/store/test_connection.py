"""Stores that cannot be opened, and what they refuse, in one line each."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from rattle.analytics.store import Store, StoreAway, StoreError, StoreRefused, create_tables, open_store
from rattle.analytics.store.connection import keep_store_credentials
from tests.clickhouse import PASSWORD, USER, ClickHouse


@pytest.fixture(scope="module")
def secured(tmp_path_factory: pytest.TempPathFactory) -> ClickHouse:
    with ClickHouse(tmp_path_factory.mktemp("secured"), secured=True) as server:
        yield server


def test_credentials_are_sent_and_not_shown(secured: ClickHouse) -> None:
    with open_store(secured.url) as store:
        assert store.read("SELECT 1 AS a") == b'{"a":1}\n'
        assert store.url == f"http://127.0.0.1:{secured.port}/default"
    kept = keep_store_credentials(secured.url)
    assert USER not in kept
    with open_store(kept) as store:
        assert store.read("SELECT 1 AS a") == b'{"a":1}\n'


def test_no_proxy_is_taken_from_the_environment(secured: ClickHouse, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    with open_store(secured.url) as store:
        assert store.read("SELECT 1 AS a") == b'{"a":1}\n'


def test_the_port_of_the_engine_is_meant_where_none_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[dict[str, object]] = []
    monkeypatch.setattr("clickhouse_connect.get_client", lambda **options: asked.append(options))
    kept = keep_store_credentials("https://me:secret@clickhouse.example/rattle")
    assert kept == "https://clickhouse.example:8443/rattle"
    open_store(kept)
    open_store("http://clickhouse.example")
    (secured, plain) = asked
    assert (secured["interface"], secured["port"], secured["database"]) == ("https", 8443, "rattle")
    assert secured["headers"] == {"Authorization": "Basic bWU6c2VjcmV0"}
    assert (plain["port"], plain["database"], plain["headers"]) == (8123, None, {})


@pytest.mark.parametrize("user", ["", f"{USER}:wrong@"])
def test_wrong_credentials(secured: ClickHouse, user: str) -> None:
    with pytest.raises(StoreRefused, match=r"/default does not take user and password .*password is incorrect"):
        open_store(f"http://{user}127.0.0.1:{secured.port}/default")


def test_a_database_that_is_not_there(clickhouse: ClickHouse) -> None:
    with pytest.raises(StoreRefused, match="Database nix does not exist: create it there with CREATE DATABASE"):
        open_store(clickhouse.url.replace("default", "nix"))


@pytest.mark.parametrize(
    "url",
    [
        "",
        "x",
        "ftp://h/d",
        "chdb://folder",
        "chdb:///x?y",
        f"http://{USER}:{PASSWORD}@:1/x",
        "http://h:x",
        "http://h/d/e",
    ],
)
def test_what_is_no_address(url: str) -> None:
    with pytest.raises(StoreRefused, match="is no store's address: write it as http://USER") as raised:
        open_store(url)
    assert PASSWORD not in str(raised.value)


def test_nobody_and_strangers(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]

        def answer() -> None:
            while True:
                try:
                    connection, _ = listener.accept()
                except OSError:
                    return
                with connection:
                    connection.recv(65536)
                    connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello")

        threading.Thread(target=answer, daemon=True).start()
        with pytest.raises(StoreAway, match="does not answer as a store does"):
            open_store(f"http://127.0.0.1:{port}/default")
        listener.shutdown(socket.SHUT_RDWR)
    with pytest.raises(StoreAway, match="connection refused; is it running, and is this its HTTP port"):
        open_store(f"http://127.0.0.1:{port}/default")
    with pytest.raises(StoreRefused, match=r"there is no store in .*: make one with 'rattle create-tables chdb://"):
        open_store(f"chdb://{tmp_path}/nothing")


@pytest.mark.parametrize("create", [True, False])
def test_a_folder_that_may_not_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, create: bool) -> None:
    (tmp_path / "status").touch()
    with pytest.raises(StoreRefused, match=r"no store in .*/status/x: .*/status is no folder"):
        open_store(f"chdb://{tmp_path}/status/x", create=True)
    may = os.access
    monkeypatch.setattr(os, "access", lambda path, mode: may(path, mode) and not mode & os.W_OK)  # as root may all
    with pytest.raises(StoreRefused, match=r"this user may not write .*, which a store in .* needs: have its owner"):
        open_store(f"chdb://{tmp_path}", create=create)


def test_a_folder_belongs_to_one_process(folder_url: str) -> None:
    holds = (
        "import sys\nfrom rattle.analytics.store import open_store\n"
        "with open_store(sys.argv[1]): print('open', flush=True); sys.stdin.read()"
    )
    with open_store(folder_url, create=True) as store:
        create_tables(store)
    command = [sys.executable, "-c", holds, folder_url]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"open\n"
        with pytest.raises(StoreError, match="is open in another process"):
            open_store(folder_url)
        holder.communicate()
    with open_store(folder_url) as store:
        assert store.read("SELECT 1 FROM runs") == b""


def test_a_store_that_dies_comes_back(tmp_path: Path) -> None:
    with ClickHouse(tmp_path / "s") as server, open_store(server.url) as store:
        create_tables(store)
        store.insert("stored_updates", b'{"run_id":"r","policy_version":1}', "JSONEachRow", {})
        server.kill()
        with pytest.raises(StoreAway):
            store.read("SELECT 1")
        server.start()
        assert store.read("SELECT run_id FROM updates") == b'{"run_id":"r"}\n'


def test_rows_that_do_not_fit_are_named(store: Store) -> None:
    strict = {"input_format_skip_unknown_fields": 0}
    with pytest.raises(StoreError, match=r"Unknown field found .* new \(row 2\)") as raised:
        store.insert("stored_updates", b'{"run_id":"r"}\n{"new":1}', "JSONEachRow", strict)
    assert raised.value.code == 117
    assert "Code" not in str(raised.value)


def test_who_only_reads_changes_nothing(store: Store) -> None:
    store.only_read({"max_block_size": 100, "a_setting_of_later_versions": 1})
    with pytest.raises(StoreError, match="readonly mode"):
        store.command("DROP TABLE stored_updates")
    assert store.read("SELECT count() AS n FROM updates SETTINGS max_threads = 1") == b'{"n":0}\n'
