"""Env, Training and Inference services in processes of their own, which tests may kill."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import grpc

from rattle.analytics.run_directory import RunDirectory
from rattle.services.utils.protos import training_pb2, training_pb2_grpc
from tests.processes import ServiceProcess


class Cluster:
    """The services of one run; `settings` are `--set` overrides that all of them get.

    `network` stands between Inference and the others: it returns the address at which one is asked, of HOST:PORT.
    """

    def __init__(
        self,
        folder: Path,
        *settings: str,
        envs: int = 1,
        inferences: int = 1,
        env_settings: tuple[str, ...] = (),
        network: Callable[[str], str] = lambda address: address,
    ) -> None:
        self.run = RunDirectory(folder)
        self._settings = settings
        self._network = network
        self.services: dict[str, ServiceProcess] = {}
        try:
            for number in range(envs):
                self.services[f"env-{number}"] = ServiceProcess("env", settings=(*settings, *env_settings))
            self.services["training"] = ServiceProcess("training", "--run-dir", str(folder), settings=settings)
            for number in range(inferences):
                self.services[f"inference-{number}"] = self._inference(number, inferences)
        except BaseException:
            self.close()
            raise

    @property
    def address(self) -> str:
        return str(self.services["training"].hello["address"])

    def _inference(self, number: int, count: int) -> ServiceProcess:
        addresses = [
            service.url.removeprefix("http://") for name, service in self.services.items() if name.startswith("env")
        ]
        urls = [f"http://{self._network(address)}" for address in addresses]
        own = (f"inference.index={number}", f"topology.inference={count}", f"inference.envs={json.dumps(urls)}")
        return ServiceProcess(
            "inference", "--training", self._network(self.address), "--grpc-port", "0", settings=(*self._settings, *own)
        )

    def start_again_after(self, exit_status: int) -> None:
        """Start the services that have ended so, as `rattle up` does."""
        for service in self.services.values():
            if service.exit_status == exit_status:
                service.wait()
                service.start()

    def status(self, seconds: float = 240) -> training_pb2.PolicyStatus:
        """Ask the Training service for its first policy's status; waits while it is away, and raises RpcError then."""
        with grpc.insecure_channel(self.address) as channel:
            stub = training_pb2_grpc.TrainingStub(channel)
            return stub.GetStatus(training_pb2.GetStatusRequest(), wait_for_ready=True, timeout=seconds).policies[0]

    def wait_for(self, condition: Any, seconds: float = 100) -> training_pb2.PolicyStatus:
        """Wait until the status of the first policy is as wanted, and return it."""
        deadline = time.monotonic() + seconds
        while not condition(status := self.status()):
            assert time.monotonic() < deadline, status
            assert status.status != "failed", status.error
            time.sleep(0.05)
        return status

    def close(self) -> None:
        for service in self.services.values():
            service.kill()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
