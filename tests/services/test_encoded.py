"""Images, and observations of several parts with masks, over services: the same runs, and the same answers."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import grpc
import numpy as np
import pytest
from numpy.typing import NDArray

from rattle.analytics.run_directory import RunDirectory
from rattle.policies.acting import ActingPolicy
from rattle.policies.file import StoredPolicy, load_policy
from rattle.rollouts.complete import complete
from rattle.services.utils.protos import open_inference_pb2 as messages
from rattle.services.utils.protos import open_inference_pb2_grpc
from rattle.settings.sources import load_settings
from rattle.trainer.train import train
from tests.policies.building import play
from tests.services.cluster import Cluster
from tests.services.inference.serving.inference_process import DATATYPES, JSON_LENGTH, InferenceProcess, serving
from tests.trainer.conftest import Silence, read_rows

CLOCKS = ("time", "seconds", "env_steps_per_second", "run_id")
SHORT = ("env.size=5", "env.worlds=8", "policy.hidden_sizes=[8]", "algorithm.ticks=16", "train.steps=512")
MODEL = "policy"  # the name of the file
NAMES = ["Lights", "MaskedLights"]

pytestmark = pytest.mark.integration


def settings(name: str) -> tuple[str, ...]:
    """Return the settings of a short run."""
    return (f"env.id=tests.encoded_worlds:{name}", *SHORT)


@pytest.fixture(scope="module", params=NAMES)
def run(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> RunDirectory:
    folder = tmp_path_factory.mktemp("encoded") / request.param
    train(complete(load_settings(None, settings(request.param), {})), folder, Silence())
    return RunDirectory(folder)


@pytest.fixture(scope="module")
def policy(run: RunDirectory) -> StoredPolicy:
    return load_policy(run.policy.read_bytes())


@pytest.fixture(scope="module")
def observation(policy: StoredPolicy) -> NDArray[np.generic]:
    drawn: NDArray[np.generic] = policy.spec.observation.draw(np.random.default_rng(0), 3)
    return drawn


@pytest.fixture(scope="module")
def server(run: RunDirectory) -> Iterator[InferenceProcess]:
    with serving(run.policy) as process:
        yield process


def test_services_learn_the_same(run: RunDirectory, tmp_path: Path) -> None:
    with Cluster(tmp_path / "there", *settings(run.path.name), envs=2) as cluster:
        cluster.wait_for(lambda status: status.status == "finished")
    other = RunDirectory(tmp_path / "there")
    assert other.policy.read_bytes() == run.policy.read_bytes()
    for table in ("episodes", "updates"):
        assert read_rows(other, table, *CLOCKS) == read_rows(run, table, *CLOCKS)


def test_a_policy_is_served_over_rest(
    server: InferenceProcess, policy: StoredPolicy, observation: NDArray[np.generic]
) -> None:
    expected = play(ActingPolicy(policy.spec, policy.parameters, 5), observation).action.tolist()
    answer = server.infer(MODEL, observation, seed=5)
    assert answer.json["outputs"][0]["data"] == expected
    described = {"name": "observation", "shape": observation.shape, "datatype": DATATYPES[str(observation.dtype)]}
    head = {
        "inputs": [{**described, "parameters": {"binary_data_size": observation.nbytes}}],
        "parameters": {"seed": 5},
    }
    said = json.dumps(head).encode()
    binary = server.ask(
        "POST", f"/v2/models/{MODEL}/infer", said + observation.tobytes(), {JSON_LENGTH: str(len(said))}
    )
    assert binary.json["outputs"][0]["data"] == expected


def test_a_policy_is_served_over_grpc(
    server: InferenceProcess, policy: StoredPolicy, observation: NDArray[np.generic]
) -> None:
    expected = play(ActingPolicy(policy.spec, policy.parameters, 5), observation).action
    asked = messages.ModelInferRequest(model_name=MODEL, raw_input_contents=[observation.tobytes()])
    asked.inputs.add(name="observation", datatype=DATATYPES[str(observation.dtype)], shape=observation.shape)
    asked.parameters["seed"].int64_param = 5
    with grpc.insecure_channel(server.grpc) as channel:
        answer = open_inference_pb2_grpc.GRPCInferenceServiceStub(channel).ModelInfer(asked, timeout=60)
    np.testing.assert_array_equal(np.frombuffer(answer.raw_output_contents[0], np.int64), expected)
