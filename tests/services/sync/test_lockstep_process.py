"""A real `rattle sync` leads members over a UDP that loses, delays and brings garbage; and is killed."""

from __future__ import annotations

import json
import resource
import signal
import socket
import subprocess
from pathlib import Path

import pytest

from rattle.tokens import derive_key
from rattle.wire.lockstep import Codec, Join, Phase, Role
from tests.processes import RATTLE
from tests.services.sync.sync_process import PATIENCE, BareMember, SyncProcess, history, lines_of, members, until

pytestmark = pytest.mark.integration

LOCKSTEP = ("--mode", "lockstep")


def whole(ticks: int) -> list[tuple[int, str]]:
    """Return the lines of a run that is complete: hashes are as of the last complete tick."""
    both = [pair for tick in range(1, ticks + 1) for pair in ((tick - 1, "act"), (tick, "step"))]
    return [*both, (ticks, "act")]


def work(ticks: int, phase: Phase) -> list[tuple[int, int]]:
    last = ticks + (phase == Phase.ACT)  # after the last tick, agents tie up loose ends
    return [(tick, int(phase)) for tick in range(1, last + 1)]


def test_a_run_from_the_first_member_to_the_goodbye(tmp_path: Path) -> None:
    path = tmp_path / "history.jsonl"
    with SyncProcess(*LOCKSTEP, "--members", "3", "--ticks", "300", "--history", str(path)) as sync:
        assert sync.ask("/readyz")[0] == 503
        assert sync.status()["state"] == "gathering"
        with members(sync, 3) as (environment, *agents):
            until(lambda: all(one.over for one in (environment, *agents)))
        assert environment.did == work(300, Phase.STEP)
        assert all(agent.did == work(300, Phase.ACT) for agent in agents)
        assert lines_of(path) == whole(300)
        stepped = json.loads(path.read_text().splitlines()[-2])
        assert stepped["hashes"] == {"m0": history("m0", 300, Phase.STEP).hex()}
        status = sync.status()
        assert (status["finished"], status["epoch"]) == (True, 1)
        assert sync.ask("/readyz") == (200, b'{"status":"ready"}')
        assert sync.number("rattle_sync_round_trip_seconds_count") >= 3 * 300
        assert sync.number('rattle_sync_members{state="present"}') == 3
        sync.kill()
        sync.start()  # with nobody left to ask: its history says that it is over
        assert (sync.status()["finished"], sync.status()["waiting_for"]) == (True, [])
        assert sync.ask("/readyz")[0] == 200
        assert sync.kill(signal.SIGTERM) == 0
        assert lines_of(path) == whole(300)


def test_what_is_lost_late_or_garbage_changes_nothing(tmp_path: Path) -> None:
    path, faults = tmp_path / "history.jsonl", ("sync.loss=0.2", "sync.delay_seconds=0.002")
    with (
        SyncProcess(*LOCKSTEP, "--members", "3", "--ticks", "60", "--history", str(path), settings=faults) as sync,
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as stranger,
        members(sync, 2) as (environment, agent),
    ):
        garbage = [
            b"",
            b"\xff",
            b"{}",
            bytes(1500),
            b"\x93\x05",
            Codec().encode(Join(1, "m9", Role(1), *[0] * 5, False))[:-3],
        ]
        for data in garbage * 3:
            stranger.sendto(data, sync.udp)
        until(lambda: sync.status()["datagrams"]["malformed"] == 3 * len(garbage))
        last = BareMember(sync.udp, "m2", Role.AGENT)
        until(lambda: bool(environment.over and agent.over and last.over))
        last.stop()
        assert environment.did == work(60, Phase.STEP)
        assert agent.did == last.did == work(60, Phase.ACT)
        assert lines_of(path) == whole(60)
        datagrams = sync.status()["datagrams"]
        assert datagrams["lost_on_purpose"] > 0
        assert datagrams["repeated"] > 0
        assert sync.number('rattle_sync_datagrams_dropped_total{reason="malformed"}') == 3 * len(garbage)


def test_without_the_key_nobody_takes_part(tmp_path: Path) -> None:
    key = tmp_path / "key"
    key.write_bytes(bytes(range(32)))
    key.chmod(0o600)
    arguments = (*LOCKSTEP, "--members", "2", "--ticks", "20")
    with SyncProcess(*arguments, settings=(f"sync.key_file={key}",)) as sync:
        wrong = BareMember(sync.udp, "m0", Role.ENVIRONMENT, bytes(32))
        none = BareMember(sync.udp, "m1", Role.AGENT)
        until(lambda: sync.status()["datagrams"]["unauthenticated"] >= 4)
        assert sync.status()["arrived"] == []
        wrong.stop()
        none.stop()
        with members(sync, 2, key.read_bytes()) as right:
            until(lambda: all(one.over for one in right))
        assert wrong.did == none.did == []


def test_a_token_alone_seals_datagrams_too(tmp_path: Path) -> None:
    token = tmp_path / "token"
    token.write_text("a-token-of-this-test\n")
    token.chmod(0o600)
    arguments = (*LOCKSTEP, "--members", "2", "--ticks", "20")
    with SyncProcess(*arguments, settings=(f"security.token_file={token}",)) as sync:
        strangers = [BareMember(sync.udp, "m0", Role.ENVIRONMENT), BareMember(sync.udp, "m1", Role.AGENT)]
        with members(sync, 2, derive_key("a-token-of-this-test", "rattle.sync/1")) as right:
            until(lambda: all(one.over for one in right))
        for stranger in strangers:
            stranger.stop()
            assert stranger.did == []


def test_after_kill_9_the_run_goes_on_and_the_history_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "history.jsonl"
    arguments = (*LOCKSTEP, "--members", "3", "--ticks", "3000", "--frequency", "1500", "--history", str(path))
    with SyncProcess(*arguments) as sync, members(sync, 3) as (environment, *agents):
        for tick in (200, 700, 1300):
            until(lambda tick=tick: len(environment.did) >= tick)  # type: ignore[misc]
            sync.kill()
            with path.open("ab") as file:
                file.write(b'{"tick":77,"pha')  # as if the life had ended in the middle of a line
            sync.start()
        until(lambda: all(one.over for one in (environment, *agents)))
        assert sync.status()["epoch"] == 4
        assert environment.did == work(3000, Phase.STEP)
        for agent in agents:
            assert agent.did == work(3000, Phase.ACT)
            assert agent.epochs == [1, 2, 3, 4]
            assert agent.session == environment.session == sync.status()["session"]
        assert lines_of(path) == whole(3000)


def test_a_service_that_is_stopped_says_nothing_to_members() -> None:
    with SyncProcess(*LOCKSTEP, "--members", "2") as sync, members(sync, 2) as (environment, agent):
        until(lambda: len(environment.did) >= 10)
        assert sync.kill(signal.SIGTERM) == 0
        before = len(environment.did)
        sync.start()
        until(lambda: len(environment.did) >= before + 10)
        assert not environment.over + agent.over
        assert agent.epochs == [1, 2]


def test_named_members_are_waited_for_and_nobody_else() -> None:
    named = ("--participant", "m0", "--participant", "m1")
    with SyncProcess(*LOCKSTEP, *named, "--ticks", "5") as sync:
        stranger = BareMember(sync.udp, "m7", Role.AGENT)
        until(lambda: bool(stranger.refused))
        assert "'m7' is not one of sync.participants: m0, m1" in stranger.refused
        problem = json.loads(sync.ask("/readyz")[1])
        assert problem["code"] == "not_ready"
        assert "m0, m1" in problem["detail"]
        stranger.stop()
        with members(sync, 2) as both:
            until(lambda: all(one.over for one in both))


def test_a_silent_member_is_said_on_stderr(capfd: pytest.CaptureFixture[str]) -> None:
    with (
        SyncProcess(*LOCKSTEP, settings=("sync.silence_seconds=0.2", "sync.heartbeat_seconds=0.1")) as sync,
        members(sync, 2) as both,
    ):
        until(lambda: len(both[0].did) >= 3)
        both[1].stop()
        until(lambda: sync.ask("/readyz")[0] == 503)
        assert "m1" in json.loads(sync.ask("/readyz")[1])["detail"]
        sync.kill(signal.SIGTERM)  # at once, it would not write what it has just said
    assert '"message":"m1 has not been heard for 0.2 s: it is waited for"' in capfd.readouterr().err


def test_a_history_that_cannot_be_written_ends_the_service(tmp_path: Path) -> None:
    """Nothing follows what is not written: the disk is full, as a limit plays it."""
    path = tmp_path / "history.jsonl"
    arguments = ["sync", *LOCKSTEP, "--port", "0", "--http-port", "0", "--members", "1", "--history", str(path)]
    with subprocess.Popen(
        [*RATTLE, *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000)),
    ) as process:
        try:
            assert process.stdout is not None
            host, _, port = json.loads(process.stdout.readline())["address"].rpartition(":")
            member = BareMember((host, int(port)), "m0", Role.AGENT)
            _, said = process.communicate(timeout=PATIENCE)
            member.stop()
        finally:
            process.kill()
    assert process.returncode == 1
    assert said == f"Error: {path}: File too large: no tick may follow that is not written\n"
    written, _, part = path.read_text().rpartition("\n")
    told = [tick for tick, _ in member.did]
    assert len(written.splitlines()) >= len(told) * 2 - 2
    assert len(written) + len(part) < 1000
