"""The policy file: exact, self-describing, and safe to read whatever is in it."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import tracemalloc
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import safetensors.numpy
from hypothesis import example, given, settings
from hypothesis import strategies as st

from rattle.policies.acting import ActingPolicy
from rattle.policies.errors import PolicyError
from rattle.policies.file import StoredPolicy, dump_policy, dump_tensors, load_policy, load_tensors
from rattle.policies.kinds import check_parameters
from rattle.policies.mlp.spec import MlpSpec
from rattle.policies.spec import PolicySpec
from tests.policies.building import hand_made_policy, policy_specs, random_parameters, random_policy

GOLDEN_SHA256 = "eb6d3f5d7c711a584827f5ac0163f6e0669cafa93171355bb4c8560d2ad01a97"
GOOD = dump_policy(hand_made_policy())
NUMBERS = sum(array.size for array in hand_made_policy().parameters.values())


def metadata_of(data: bytes) -> dict[str, str]:
    return load_tensors(data)[1]


def with_header(header: object) -> bytes:
    """Return the good file with another header."""
    encoded = json.dumps(header).encode()
    body = GOOD[8 + int.from_bytes(GOOD[:8], "little") :]
    return len(encoded).to_bytes(8, "little") + encoded + body


def header_of(data: bytes) -> dict[str, Any]:
    header: dict[str, Any] = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
    return header


def with_metadata(**changes: str | None) -> bytes:
    """Return the good file with other metadata; None leaves an entry out."""
    tensors, metadata = load_tensors(GOOD)
    merged = {**metadata, **changes}
    return dump_tensors(tensors, {name: text for name, text in merged.items() if text is not None})


def with_tensors(**changes: np.ndarray[Any, Any]) -> bytes:
    tensors, metadata = load_tensors(GOOD)
    return dump_tensors({**tensors, **{name.replace("__", "."): array for name, array in changes.items()}}, metadata)


def refusal(data: bytes) -> str:
    """Return the one line with which a file is refused."""
    with pytest.raises(PolicyError) as caught:
        load_policy(data)
    message = str(caught.value)
    assert message
    assert message.isprintable()
    return message


def read_or_refuse(data: bytes) -> None:
    """Check that a file is refused in one line or holds a policy that plays."""
    line = ""
    try:
        policy = load_policy(data)
    except PolicyError as error:
        line = str(error)
    if line:
        assert line.isprintable()
        return
    check_parameters(policy.spec, policy.parameters)
    assert all(np.isfinite(array).all() for array in policy.parameters.values())
    assert sum(array.size for array in policy.parameters.values()) == NUMBERS
    assert policy.version >= 0
    ActingPolicy(policy.spec, policy.parameters)
    load_policy(dump_policy(policy))


@settings(max_examples=40)
@given(
    spec=policy_specs(),
    version=st.integers(0, 2**63 - 1),
    environment=st.text(max_size=20),
    own=st.dictionaries(st.text(max_size=5), st.integers() | st.floats(allow_nan=False) | st.text(max_size=5)),
)
def test_a_policy_comes_back_as_it_was(spec: PolicySpec, version: int, environment: str, own: dict[str, Any]) -> None:
    policy = StoredPolicy(spec, random_parameters(spec), version, environment, own)
    data = dump_policy(policy)
    again = load_policy(data)
    assert (again.spec, again.version, again.environment) == (spec, version, environment)
    assert again.environment_settings == own
    assert {name: array.tobytes() for name, array in again.parameters.items()} == {
        name: array.tobytes() for name, array in policy.parameters.items()
    }
    assert dump_policy(again) == data


def test_golden_file() -> None:
    assert hashlib.sha256(GOOD).hexdigest() == GOLDEN_SHA256


def test_any_order_of_settings_weights_and_memory_gives_the_same_bytes() -> None:
    policy = hand_made_policy()
    parameters = {name: np.asfortranarray(policy.parameters[name]) for name in reversed(list(policy.parameters))}
    own = dict(reversed(list(policy.environment_settings.items())))
    assert dump_policy(StoredPolicy(policy.spec, parameters, policy.version, policy.environment, own)) == GOOD


OTHER_PROCESS = """
import hashlib, sys
from rattle.policies.acting import ActingPolicy
from rattle.policies.file import dump_policy, load_policy

policy = load_policy(sys.stdin.buffer.read())
ActingPolicy(policy.spec, policy.parameters)
print(hashlib.sha256(dump_policy(policy)).hexdigest(), "torch" in sys.modules)
"""


@pytest.mark.parametrize("hash_seed", ["1", "2"])
def test_another_process_reads_and_writes_the_same_bytes_without_pytorch(hash_seed: str) -> None:
    ended = subprocess.run(
        [sys.executable, "-c", OTHER_PROCESS],
        input=GOOD,
        capture_output=True,
        check=True,
        env={**os.environ, "PYTHONHASHSEED": hash_seed},
    )
    assert ended.stdout.decode().split() == [GOLDEN_SHA256, "False"]


def test_the_file_is_an_aligned_safetensors_file_that_says_what_it_is() -> None:
    assert (8 + int.from_bytes(GOOD[:8], "little")) % 8 == 0
    assert set(safetensors.numpy.load(GOOD)) == set(hand_made_policy().parameters)
    metadata = metadata_of(GOOD)
    assert list(metadata) == ["environment", "format", "format_version", "policy_version", "spec", "sha256"]
    assert (metadata["format"], metadata["format_version"], metadata["policy_version"]) == ("rattle.policy", "1", "12")
    assert json.loads(metadata["environment"]) == {"id": "snake", "settings": {"food": 2, "width": 9}}
    assert json.loads(metadata["spec"])["observation"]["encoding"] == "one_hot_without_zero"


def test_a_policy_that_does_not_fit_its_spec_is_not_written() -> None:
    policy = hand_made_policy()
    parameters = {**policy.parameters, "policy.bias": np.zeros(4, np.float32)}
    with pytest.raises(PolicyError, match=r"policy.bias must be float32 \(3,\)"):
        dump_policy(StoredPolicy(policy.spec, parameters, 0, "snake", {}))


NOT_ONE = "not a safetensors file, or a damaged one"
FOREIGN: dict[str, tuple[Callable[[], bytes], str]] = {
    "empty": (lambda: b"", NOT_ONE),
    "text": (lambda: b"name: snake\nseed: 0\n", NOT_ONE),
    "a zip": (lambda: b"PK\x03\x04" + bytes(200), NOT_ONE),
    "a pickle": (
        lambda: b"\x80\x04\x95\x1a\x00\x00\x00\x00\x00\x00\x00\x8c\x05posix\x94\x8c\x06system\x94\x93.",
        NOT_ONE,
    ),
    "cut off": (lambda: GOOD[:-1], NOT_ONE),
    "trailing bytes": (lambda: GOOD + b"\0", NOT_ONE),
    "header cut off": (lambda: GOOD[:100], NOT_ONE),
    "an escape sequence in a key": (
        lambda: with_metadata(spec=metadata_of(GOOD)["spec"].replace('"network"', '"\\u001b[2J"')),
        "damaged (spec. [2J: Extra inputs are not permitted)",
    ),
    "a line break in a type": (lambda: GOOD.replace(b'"F32"', b'"\\n2"', 1), NOT_ONE),
    "tensors of something else": (
        lambda: safetensors.numpy.save({"a": np.zeros(3, np.float32)}),
        "not a Rattle policy: a safetensors file of something else",
    ),
    "no metadata": (lambda: with_header({**header_of(GOOD), "__metadata__": None}), "not a Rattle policy"),
    "a checkpoint": (lambda: with_metadata(format="rattle.checkpoint"), "not a Rattle policy"),
    "numbers that NumPy lacks": (
        lambda: with_header({"a": {"dtype": "BF16", "shape": [2 * NUMBERS], "data_offsets": [0, 4 * NUMBERS]}}),
        "a safetensors file of something else: it holds numbers of type 'BF16'",
    ),
    "a newer format": (
        lambda: with_metadata(format_version="2"),
        r"policy format '2' is not known here (this version reads '1'): update Rattle",
    ),
    "a format with a line break": (lambda: with_metadata(format_version="2\n3"), r"policy format '2\n3' is not known"),
    "no format version": (lambda: with_metadata(format_version=None), "policy format None is not known here"),
    "no spec": (lambda: with_metadata(spec=None), "description is damaged (spec: Field required)"),
    "a spec of a newer network": (
        lambda: with_metadata(spec=metadata_of(GOOD)["spec"].replace('"mlp"', '"transformer"')),
        "description is damaged (spec.network: Input should be 'mlp')",
    ),
    "an unknown key in the spec": (
        lambda: with_metadata(spec=metadata_of(GOOD)["spec"].replace("{", '{"norm":1,', 1)),
        "description is damaged (spec.norm: Extra inputs are not permitted)",
    ),
    "deep nesting": (lambda: with_metadata(environment="[" * 100_000), "damaged (environment: Invalid JSON"),
    "an environment without settings": (
        lambda: with_metadata(environment='{"id": "snake"}'),
        "damaged (environment.settings: Field required)",
    ),
    "a negative version": (lambda: with_metadata(policy_version="-1"), "damaged (policy_version: Input should be"),
    "an endless version": (lambda: with_metadata(policy_version="9" * 5000), "damaged (policy_version: "),
    "wrong sizes": (
        lambda: with_metadata(spec=metadata_of(GOOD)["spec"].replace("[4]", "[5]")),
        "parameter trunk.0.weight must be float32 (5, 4), got float32 (4, 4)",
    ),
    "a wrong shape": (
        lambda: with_tensors(policy__bias=np.zeros((3, 1), np.float32)),
        "parameter policy.bias must be float32 (3,), got float32 (3, 1)",
    ),
    "a wrong type": (
        lambda: with_tensors(policy__bias=np.zeros(3)),
        "parameter policy.bias must be float32 (3,), got float64 (3,)",
    ),
    "another parameter": (lambda: with_tensors(**{"a\nb": np.zeros(3)}), r"got ['a\nb', 'policy.bias', "),
    "not a number": (
        lambda: with_tensors(value__bias=np.array([np.nan], np.float32)),
        "parameter value.bias holds values that are not finite numbers",
    ),
    "an infinite number": (
        lambda: with_tensors(policy__bias=np.array([0, -np.inf, 0], np.float32)),
        "parameter policy.bias holds values that are not finite numbers",
    ),
}


@pytest.mark.parametrize("name", FOREIGN)
def test_what_is_no_policy_is_refused_in_one_line(name: str) -> None:
    make, message = FOREIGN[name]
    assert message in refusal(make())


def test_sizes_that_a_file_only_claims_take_no_memory() -> None:
    header = header_of(GOOD)
    vast = {**header, "policy.bias": {"dtype": "F32", "shape": [2**40], "data_offsets": [0, 2**42]}}
    files = [
        (2**63).to_bytes(8, "little") + GOOD[8:],
        with_header(vast),
        with_metadata(spec=metadata_of(GOOD)["spec"].replace('"cells":2', '"cells":1000000000000000')),
        with_metadata(spec=metadata_of(GOOD)["spec"].replace('"num_actions":3', '"num_actions":1000000000000000')),
    ]
    tracemalloc.start()
    for data in files:
        refusal(data)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1_000_000


@settings(max_examples=400)
@given(flips=st.lists(st.tuples(st.integers(0, len(GOOD) - 1), st.integers(1, 255)), min_size=1, max_size=4))
def test_flipped_bits_are_refused_or_leave_a_policy(flips: list[tuple[int, int]]) -> None:
    damaged = bytearray(GOOD)
    for position, mask in flips:
        damaged[position] ^= mask
    read_or_refuse(bytes(damaged))


@settings(max_examples=200)
@given(start=st.integers(0, len(GOOD)), stop=st.integers(0, len(GOOD)), put=st.binary(max_size=20))
def test_cut_and_pasted_files_are_refused_or_leave_a_policy(start: int, stop: int, put: bytes) -> None:
    read_or_refuse(GOOD[:start] + put + GOOD[stop:])


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
    max_leaves=10,
)


@settings(max_examples=300)
@given(
    key=st.sampled_from(["format", "format_version", "policy_version", "spec", "environment"]),
    text=st.text(max_size=30) | JSON.map(json.dumps),
)
@example(key="policy_version", text="\u0663")
@example(key="environment", text='{"id": "snake", "settings": {"a": 1e999}}')
def test_any_metadata_is_refused_or_leaves_a_policy(key: str, text: str) -> None:
    read_or_refuse(with_metadata(**{key: text}))


def spec_parts() -> st.SearchStrategy[dict[str, Any]]:
    """Draw specs with parts replaced by anything."""
    good = json.loads(metadata_of(GOOD)["spec"])
    keys = st.sampled_from([*good, "observation.kind", "observation.cells", "observation.codes", "other"])

    def replace(changes: dict[str, Any]) -> dict[str, Any]:
        spec = json.loads(json.dumps(good))
        for key, value in changes.items():
            if key.startswith("observation.") and isinstance(spec["observation"], dict):
                spec["observation"][key.removeprefix("observation.")] = value
            else:
                spec[key] = value
        return dict(spec)

    return st.dictionaries(keys, JSON | st.integers(0, 8), min_size=1, max_size=3).map(replace)


@settings(max_examples=300)
@given(spec=spec_parts())
def test_any_spec_is_refused_or_leaves_a_policy(spec: dict[str, Any]) -> None:
    read_or_refuse(with_metadata(spec=json.dumps(spec)))


def test_big_policies_keep_their_bytes() -> None:
    spec = MlpSpec.model_validate({**hand_made_policy().spec.model_dump(), "hidden_sizes": (512, 512)})
    data = dump_policy(random_policy(spec))
    assert len(data) > 4 * 512 * 512
    assert dump_policy(load_policy(data)) == data
