"""The commands that serve, and that check servers."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from rattle.cli.options import (
    ADVERTISE,
    ALLOW_CHANGED_CODE,
    AUTHORITY,
    EXPERIMENT,
    FILE,
    FOLDER,
    SECURITY,
    TOKEN_FILE,
    Range,
)

if TYPE_CHECKING:
    from rattle.settings.experiment import ExperimentSettings


@click.command("env")
@click.argument("experiment", type=EXPERIMENT, required=False)
@click.option("--host", help="Address to listen on.  [default: 127.0.0.1]")
@ADVERTISE
@click.option("--port", type=click.IntRange(0, 65535), help="Port to listen on; 0: any free one.  [default: 5000]")
@click.option("--clock", type=click.Choice(["realtime", "turns", "sync"]), help="What advances the agent API's world.")
@click.option("--fps", type=Range(0, min_open=True), help="Ticks a second of the clock realtime.")
@click.option(
    "--sync-port", type=click.IntRange(0, 65535), help="UDP port of the clock sync; 0: any free one.  [default: 5556]"
)
@click.option("--seed", type=click.IntRange(0, 2**63 - 1), help="Decides the games of the agent API.")
@click.option("--set", "overrides", multiple=True, metavar="KEY=VALUE", help="Change a setting; may be repeated.")
def env_service(
    experiment: Path | None,
    host: str | None,
    advertise: str | None,
    port: int | None,
    clock: str | None,
    fps: float | None,
    sync_port: int | None,
    seed: int | None,
    overrides: tuple[str, ...],
) -> None:
    """Serve an experiment's environment over REST.

    One agent in JSON, thousands of worlds in one binary request; watch and play at /watch, all routes are at /docs.
    The first line printed is JSON with the address. Settings come from the file, then from environment variables, then
    from --set (env.width=20, env_service.snakes=4).
    """
    from rattle.analytics.extras import require

    for module in ("fastapi", "fastapi_swagger", "uvicorn", "uvloop", "httptools", "websockets", "prometheus_client"):
        require(module, "env", "the Env service")
    from rattle.output import claim_stdout
    from rattle.services.env.serve import run

    own = {"host": host, "advertise": advertise, "port": port, "clock": clock, "fps": fps, "sync_port": sync_port}
    flags = {"seed": seed, **{f"env_service.{key}": value for key, value in own.items()}}
    claim_stdout()
    run(_load(experiment, overrides, flags))


def _load(
    experiment: Path | None, overrides: Sequence[str], flags: Mapping[str, Any], *, plays: bool = True
) -> ExperimentSettings:
    """Return the settings of a service, and have its logs published where they say so.

    Without `plays` it is none that makes worlds: it may lack the environment's package.
    """
    from rattle.events import context
    from rattle.rollouts.worlds import check_one_policy
    from rattle.settings.sources import load_settings

    settings = load_settings(experiment, overrides, os.environ, flags=flags, plays=plays)
    check_one_policy(settings)
    context.experiment = context.experiment or settings.experiment
    folder = os.environ.get("RUN_DIR")
    settings.telemetry.publish_logs(Path(folder) / "outbox" if folder else None)
    return settings


class _MockEnvCommand(click.Command):
    """Lists the faults below its options."""

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        from rattle.analytics.errors import AnalyticsError
        from rattle.analytics.extras import require

        with formatter.section("Faults"):
            try:
                require("flask", "mock-env", "their list")
            except AnalyticsError as missing:
                formatter.write_text(str(missing))
                return
            from rattle.services.mock_env.faults import FAULTS

            formatter.write_dl(
                [(name, f"{fault.description} (the rule: {fault.rule})") for name, fault in FAULTS.items()]
            )


@click.command("mock-env", cls=_MockEnvCommand)
@click.option("--host", default="127.0.0.1", show_default=True, help="Listen here; 0.0.0.0 for every interface.")
@ADVERTISE
@click.option("--port", type=click.IntRange(0, 65535), default=5000, show_default=True, help="0: any free one.")
@click.option(
    "--snakes", type=click.IntRange(1, 1000), default=8, show_default=True, help="Room for so many at a time."
)
@click.option("--length", type=click.IntRange(1, 10_000), default=10, show_default=True, help="Moves of a script.")
@click.option(
    "--delay",
    type=Range(0.001, 3600),
    default=0.1,
    show_default=True,
    help="Seconds that a snake waits for a move.",
)
@click.option("--fault", "faults", multiple=True, metavar="NAME", help="Break a rule on purpose; may be repeated.")
@click.option(
    "--fault-every", type=click.IntRange(1), default=1, show_default=True, help="In every N-th line or answer."
)
@click.option("--access-log", is_flag=True, help="Show each request as an event on stderr.")
@SECURITY
def mock_env(
    host: str,
    advertise: str | None,
    port: int,
    snakes: int,
    length: int,
    delay: float,
    faults: tuple[str, ...],
    fault_every: int,
    access_log: bool,
    overrides: tuple[str, ...],
) -> None:
    """Serve a fixed script of states, for testing agents.

    It speaks the agent API and has no game. The first line on stdout is JSON that says where; SIGTERM or Ctrl-C
    stops it.
    """
    from rattle.analytics.extras import require

    for module in ("flask", "prometheus_client"):
        require(module, "mock-env", "the mock environment")
    from rattle.services.mock_env.server import MockSettings, serve
    from rattle.settings.sources import load_security

    if access_log:
        click.get_current_context().obj.show("INFO")
    security = load_security(overrides, os.environ)
    serve(MockSettings(host, port, snakes, length, delay, faults, fault_every, access_log, security, advertise))


@click.command("check-env")
@click.argument("url", required=False)
@click.option("--timeout", type=Range(0.1, 600), default=5.0, show_default=True, help="Seconds of a wait.")
@click.option("--only", multiple=True, metavar="PATTERN", help="Run these checks: an id, its beginning, or with *.")
@click.option("--skip", "without", multiple=True, metavar="PATTERN", help="Leave these checks out.")
@click.option("--list", "as_list", is_flag=True, help="List the checks instead; needs no server.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object instead of a list.")
@click.option("--junit", type=FILE, help="Write JUnit XML to this file as well.")
@TOKEN_FILE
@AUTHORITY
def check_env(
    url: str | None,
    timeout: float,
    only: tuple[str, ...],
    without: tuple[str, ...],
    as_list: bool,
    as_json: bool,
    junit: Path | None,
) -> None:
    """Play against the server at URL and say what is wrong.

    The server may be written in any language: docs/env-api.md is what is checked, docs/check-env.md lists the checks.
    Every game on the server is reset. Exits with 0 when nothing failed, 1 when something did, 2 when it could not run.
    """
    from rattle.analytics.extras import require
    from rattle.conformance.report import listing
    from rattle.conformance.runner import choose
    from rattle.conformance.table import CHECKS

    chosen = choose(CHECKS, only, without)
    if not chosen:
        raise click.UsageError("no check fits these patterns: --list lists them all")
    if as_list:
        click.echo(listing(chosen))
    elif url is None:
        raise click.UsageError("name the server, for example http://127.0.0.1:5000")
    else:
        for module in ("httpx", "websockets"):
            require(module, "clients", "check-env")
        from rattle.conformance.session import check

        sys.exit(check(url, timeout, chosen, as_json=as_json, junit=junit))


@click.command("training")
@click.argument("experiment", type=EXPERIMENT, required=False)
@click.option("--run-dir", type=FOLDER, help="Store the run here, or go on with the one that is here.")
@click.option("--host", help="Address to listen on.  [default: 127.0.0.1]")
@ADVERTISE
@click.option("--port", type=click.IntRange(0, 65535), help="Port to listen on; 0: any free one.  [default: 50051]")
@click.option(
    "--http-port", type=click.IntRange(0, 65535), help="Port of status and metrics; 0: any free one.  [default: none]"
)
@click.option("--mode", type=click.Choice(["on_policy", "async"]), help="Which rollouts an update waits for.")
@click.option("--until-finished", is_flag=True, help="End when all runs have: with 0, with 1 where one has failed.")
@ALLOW_CHANGED_CODE
@click.option("--set", "overrides", multiple=True, metavar="KEY=VALUE", help="Change a setting; may be repeated.")
def training_service(
    experiment: Path | None,
    run_dir: Path | None,
    host: str | None,
    advertise: str | None,
    port: int | None,
    http_port: int | None,
    mode: str | None,
    until_finished: bool,
    allow_changed_code: bool,
    overrides: tuple[str, ...],
) -> None:
    """Improve policies from the rollouts that actors send, over gRPC.

    A run directory that already holds a run is gone on with from its newest checkpoint. With --until-finished a signal
    that comes before the end has it exit with 143, so that who has started it knows that something is left to do. The
    first line printed is JSON with the address. Settings come from the file, then from environment variables, then
    from --set.
    """
    from rattle.analytics.extras import require

    over_http = ("uvicorn", "uvloop", "httptools", "websockets", "prometheus_client")
    for module in ("grpc", "grpc_health", "grpc_reflection", *over_http, "torch", "pyarrow"):
        require(module, "training", "the Training service")
    from rattle.output import claim_stdout
    from rattle.runs.stored_run import accept_code_of
    from rattle.services.training.serve import run

    own = {"host": host, "advertise": advertise, "port": port, "http_port": http_port, "mode": mode}
    flags = {f"training.{key}": value for key, value in own.items()}
    claim_stdout()
    if allow_changed_code:
        accept_code_of(run_dir)
    if not run(_load(experiment, overrides, flags, plays=False), run_dir, until_finished=until_finished):
        sys.exit(128 + signal.SIGTERM)


@click.command("inference")
@click.argument("experiment", type=EXPERIMENT, required=False)
@click.option("--policy", metavar="RUN|FILE", help="Serve this policy, without playing.")
@click.option("--host", help="Address to listen on.  [default: 127.0.0.1]")
@ADVERTISE
@click.option("--port", type=click.IntRange(0, 65535), help="Port of the REST API; 0: any free one.  [default: 8000]")
@click.option(
    "--grpc-port", type=click.IntRange(0, 65535), help="Port of the gRPC API; 0: any free one.  [default: 8001]"
)
@click.option("--training", multiple=True, metavar="ADDRESS", help="A Training service; may be repeated.")
@click.option("--env", "envs", multiple=True, metavar="URL", help="An Env service to play in; may be repeated.")
@click.option("--set", "overrides", multiple=True, metavar="KEY=VALUE", help="Change a setting; may be repeated.")
def inference_service(
    experiment: Path | None,
    policy: str | None,
    host: str | None,
    advertise: str | None,
    port: int | None,
    grpc_port: int | None,
    training: tuple[str, ...],
    envs: tuple[str, ...],
    overrides: tuple[str, ...],
) -> None:
    """Play the agents of Env services, and serve policies in the Open Inference Protocol.

    What is played goes to the Training service, whose new policies are swapped in. With --policy nothing is played. The
    first line printed is JSON with the addresses. Settings come from the file, then from environment variables, then
    from --set.
    """
    from rattle.analytics.extras import require

    for module in ("grpc", "grpc_health", "grpc_reflection", "uvicorn", "prometheus_client", "tenacity", "websockets"):
        require(module, "inference", "the Inference service")
    from rattle.output import claim_stdout
    from rattle.services.inference.serve import run

    own: dict[str, Any] = {"host": host, "advertise": advertise, "port": port, "grpc_port": grpc_port}
    own |= {"training": training or None, "envs": envs or None}
    flags = {f"inference.{key}": value for key, value in own.items()}
    claim_stdout()
    run(_load(experiment, overrides, flags, plays=False), policy)


@click.command("sync")
@click.argument("experiment", type=EXPERIMENT, required=False)
@click.option("--mode", type=click.Choice(["pace", "lockstep"]), help="[default: the experiment's, else pace]")
@click.option("--host", help="Address to listen on.  [default: 127.0.0.1]")
@ADVERTISE
@click.option("--port", type=click.IntRange(0, 65535), help="UDP port; 0: any free one.  [default: 5555]")
@click.option(
    "--http-port", type=click.IntRange(0, 65535), help="Port of status and metrics; 0: any free one.  [default: 8005]"
)
@click.option(
    "--participant",
    "participants",
    multiple=True,
    metavar="HOST:PORT|NAME",
    help="Pace: HOST:PORT to tell; lockstep: name of a member to wait for; may be repeated.",
)
@click.option("--members", type=click.IntRange(1, 256), help="Lockstep: begin when so many have joined.  [default: 2]")
@click.option(
    "--frequency",
    type=Range(0, 10_000, min_open=True),
    help="Ticks a second, at most in lockstep.  [default: 10; lockstep: as fast as all answer]",
)
@click.option("--silent", type=click.Choice(["wait", "drop", "forward"]), help="What becomes of a silent member.")
@click.option("--ticks", type=click.IntRange(1), help="End after this many.")
@click.option("--history", type=FILE, help="Lockstep: write a line a phase with all histories' hashes; pace has none.")
@click.option("--set", "overrides", multiple=True, metavar="KEY=VALUE", help="Change a setting; may be repeated.")
def sync_service(
    experiment: Path | None,
    mode: str | None,
    participants: tuple[str, ...],
    history: Path | None,
    overrides: tuple[str, ...],
    **own: Any,
) -> None:
    """Tell others when to tick, over UDP.

    Mode pace tells everybody the time at a fixed frequency; mode lockstep leads members through every tick, each phase
    of which waits for all. The first line printed is JSON with the addresses. Settings come from the file, then from
    environment variables, then from --set.
    """
    from rattle.analytics.extras import require

    for module in ("uvicorn", "uvloop", "httptools", "websockets", "prometheus_client"):
        require(module, "sync", "the Sync service")
    from rattle.services.sync.serve import run

    flags = {f"sync.{key}": value for key, value in {**own, "participants": participants or None}.items()}
    settings = _load(experiment, overrides, {**flags, "sync.mode": mode}, plays=False)
    if settings.sync.mode == "none":
        settings = _load(experiment, overrides, {**flags, "sync.mode": "pace"}, plays=False)
    run(settings, history)
