"""Make docs/grpc-api.md from the .proto files, and docs/rest-api.md from the OpenAPI description of the Env service."""

from __future__ import annotations

import json
import re
import tempfile
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from google.protobuf.descriptor_pb2 import (
    DescriptorProto,
    EnumDescriptorProto,
    FieldDescriptorProto,
    FileDescriptorProto,
    FileDescriptorSet,
    ServiceDescriptorProto,
)
from grpc_tools import protoc

from rattle.services.env.app import TITLE, EnvService
from rattle.services.env.openapi import describe
from rattle.services.utils.generate_protos import PROTOS, SOURCE_ROOT
from rattle.settings.sources import load_settings

FOLDER = Path(__file__).parent

GRPC_INTRODUCTION = """# gRPC APIs

Made from the .proto files by `python docs/make_protocols.py`.

Two services speak gRPC. [The Training service's API](training-api.md) and [Serving](serving.md) explain how to use
them, which status codes they answer with, and why. Both have the standard health and reflection services, too.
"""

REST_INTRODUCTION = """# REST API of the Env service

Made from the service's OpenAPI description by `python docs/make_protocols.py`.

A service answers `GET /openapi.json` with the same description, and shows it at `/docs`. It has only the routes of its
environment: the agent API needs Snake, and `/v1/history` needs lockstep. [The environment server's API](env-api.md)
explains how the routes work together, and describes the encoding in MessagePack and the WebSocket. Other services have
few routes and no such description: [Serving](serving.md#routes) has those of Inference, and
[the Sync service's API](sync-api.md) those of Sync.
"""

TAGS = {"agent": "Agent API", "vector": "Vector API", "operation": "Operation"}


class Definitions:
    """One .proto file as Markdown; comments are found by their path in the file's descriptor."""

    def __init__(self, file: FileDescriptorProto) -> None:
        self.file = file
        self.comments = {
            tuple(place.path): " ".join(f"{place.leading_comments} {place.trailing_comments}".split())
            for place in file.source_code_info.location
        }

    def page(self) -> Iterator[str]:
        """Yield the lines of the section about the file."""
        name, file = Path(self.file.name).name, self.file
        about = re.sub(r"docs/(\S+\.md)", r"[\1](\1)", self.comments[12,])
        yield from (f"## Package {file.package}", "", f"Defined in [{name}](../src/{file.name}).", "")
        yield from (textwrap.fill(about, 120), "")
        for number, service in enumerate(file.service):
            yield from self.service(service, (6, number))
        for number, message in enumerate(file.message_type):
            yield from self.message(message, message.name, (4, number))
        for number, enum in enumerate(file.enum_type):
            yield from self.enum(enum, enum.name, (5, number))

    def service(self, service: ServiceDescriptorProto, place: tuple[int, ...]) -> Iterator[str]:
        """Yield what a service has: its methods."""
        yield from self.table(service.name, place, "| method | request | answer | meaning |")
        for number, method in enumerate(service.method):
            request = "stream of " * method.client_streaming + self.link(method.input_type)
            answer = "stream of " * method.server_streaming + self.link(method.output_type)
            yield f"| `{method.name}` | {request} | {answer} | {self.comments[*place, 2, number]} |"
        yield ""

    def message(self, message: DescriptorProto, name: str, place: tuple[int, ...]) -> Iterator[str]:
        """Yield what a message has: its fields, and then the messages and enums inside it."""
        yield from self.table(name, place, "| field | number | type | meaning |" if message.field else "No fields.")
        entries = {
            f".{self.file.package}.{name}.{one.name}": one for one in message.nested_type if one.options.map_entry
        }
        for number, field in enumerate(message.field):
            meaning = self.comments[*place, 2, number]
            if field.HasField("oneof_index") and not field.proto3_optional:
                meaning += f" (one of `{message.oneof_decl[field.oneof_index].name}`)"
            yield f"| `{field.name}` | {field.number} | {self.kind(field, entries)} | {meaning} |"
        yield ""
        for number, below in enumerate(message.nested_type):
            if not below.options.map_entry:
                yield from self.message(below, f"{name}.{below.name}", (*place, 3, number))
        for number, enum in enumerate(message.enum_type):
            yield from self.enum(enum, f"{name}.{enum.name}", (*place, 4, number))

    def enum(self, enum: EnumDescriptorProto, name: str, place: tuple[int, ...]) -> Iterator[str]:
        """Yield what an enum has: its values."""
        yield from self.table(name, place, "| value | number | meaning |")
        for number, value in enumerate(enum.value):
            yield f"| `{value.name}` | {value.number} | {self.comments[*place, 2, number]} |"
        yield ""

    def table(self, name: str, place: tuple[int, ...], head: str) -> Iterator[str]:
        """Yield heading, comment and the head of the table of a definition."""
        yield from (f"### `{name}`", "", self.comments[place], "", head)
        if head.startswith("|"):
            yield "|" + "---|" * (head.count("|") - 1)

    def kind(self, field: FieldDescriptorProto, entries: dict[str, DescriptorProto]) -> str:
        """Return the type of a field as the file has it."""
        if entry := entries.get(field.type_name):
            return f"map of {' to '.join(self.kind(one, {}) for one in entry.field)}"
        name = FieldDescriptorProto.Type.Name(field.type).removeprefix("TYPE_").lower()
        label = "repeated " if field.label == field.LABEL_REPEATED else "optional " * field.proto3_optional
        return label + (self.link(field.type_name) if field.type_name else name)

    def link(self, type_name: str) -> str:
        """Return a link to the section of a message or enum."""
        name = type_name.removeprefix(f".{self.file.package}.")
        return f"[`{name}`](#{name.lower().replace('.', '')})"


def grpc_page() -> str:
    """Return the whole page of the gRPC APIs."""
    with tempfile.NamedTemporaryFile() as file:
        given = [
            "--include_source_info",
            f"--descriptor_set_out={file.name}",
            *map(str, sorted(PROTOS.glob("*.proto"))),
        ]
        if protoc.main(["protoc", f"--proto_path={SOURCE_ROOT}", *given]):
            raise SystemExit("protoc has refused the definitions")
        files = FileDescriptorSet.FromString(Path(file.name).read_bytes()).file
    return "\n".join([GRPC_INTRODUCTION, *(line for one in files for line in Definitions(one).page())]).rstrip() + "\n"


def kind_of(schema: dict[str, Any]) -> str:
    """Return the type of a value with its limits."""
    if "$ref" in schema:
        name = schema["$ref"].rpartition("/")[2]
        return f"[`{name}`](#{name.lower()})"
    if "enum" in schema:
        return ", ".join(f"`{value}`" for value in schema["enum"])
    kind = schema["type"] if isinstance(schema["type"], str) else " or ".join(schema["type"])
    if "items" in schema:
        kind = f"list of {kind_of(schema['items'])}"
    elif isinstance(schema.get("additionalProperties"), dict):
        kind = f"object with values of the type {kind_of(schema['additionalProperties'])}"
    limits = {"minimum": "from", "maximum": "to", "maxLength": "length at most", "maxItems": "length at most"}
    words = [f"{word} {number(schema[key])}" for key, word in limits.items() if key in schema]
    words += [f"matching `{schema['pattern']}`"] if "pattern" in schema else []
    return f"{kind}, {' '.join(words)}" if words else kind


def number(value: int) -> str:
    """Return a limit, as a power of two where it is one less."""
    return f"2^{value.bit_length()}-1" if value > 2**16 and value & (value + 1) == 0 else str(value)


def body_of(content: dict[str, Any]) -> str:
    """Return what a body holds and how it is encoded."""
    schemas = {f"{kind_of(one['schema'])} as " for one in content.values() if "schema" in one}
    return "".join([*schemas, " or ".join(f"`{media}`" for media in content) or "no body"])


def route(method: str, path: str, item: dict[str, Any], common: dict[str, Any]) -> Iterator[str]:
    """Yield what a route takes and answers, but for the answers that all routes have in common."""
    operation = item[method]
    yield from (f"### `{method.upper()} {path}`", "", f"{operation['summary']}.", "")
    if parameters := [*item.get("parameters", ()), *operation.get("parameters", ())]:
        yield from ("| parameter | in | type | meaning |", "|---|---|---|---|")
        for one in parameters:
            yield f"| `{one['name']}` | {one['in']} | {kind_of(one['schema'])} | {one['description']} |"
        yield ""
    if body := operation.get("requestBody"):
        yield f"- Request: {body_of(body['content'])}"
    for status, answer in operation["responses"].items():
        if status not in common:
            yield f"- Answer {status}: {body_of(answer.get('content', {}))}"
    yield ""


def thing(name: str, schema: dict[str, Any]) -> Iterator[str]:
    """Yield what an object has: its fields."""
    yield from (f"### `{name}`", "", schema["description"], "")
    if not schema["properties"]:
        yield from ("No fields.", "")
        return
    yield from ("| field | type | required | meaning |", "|---|---|---|---|")
    for field, one in schema["properties"].items():
        default = f"no; default `{json.dumps(one['default'])}`" if "default" in one else "no"
        needed = "yes" if field in schema.get("required", ()) else default
        yield f"| `{field}` | {kind_of(one)} | {needed} | {one['description']} |"
    yield ""


def rest_page() -> str:
    """Return the whole page of the REST API: that of a server of Snake in lockstep, which has all routes."""
    sessions = EnvService(load_settings(None, [], {})).sessions
    worlds, actions = sessions.limits.worlds, sessions.spec.action_space
    described = describe(TITLE, "", worlds, actions, has_agents=True, has_history=True)
    routes = [(one, path, item) for path, item in described["paths"].items() for one in item if one != "parameters"]
    answers = [item[one]["responses"] for one, _, item in routes]
    common = {status: said for status, said in answers[0].items() if all(one.get(status) == said for one in answers)}
    lines = [REST_INTRODUCTION, "## Errors", "", "Every route has these answers:", ""]
    lines += [f"- {status}: {said['description']}. {body_of(said['content'])}" for status, said in common.items()]
    lines += ["", "[Errors](env-api.md#errors) says what each `code` means.", ""]
    for tag, title in TAGS.items():
        lines += [f"## {title}", ""]
        for one, path, item in routes:
            if item[one]["tags"] == [tag]:
                lines += route(one, path, item, common)
    lines += ["## Objects", ""]
    for name, schema in sorted(described["components"]["schemas"].items()):
        lines += thing(name, schema)
    return "\n".join(lines).rstrip() + "\n"


PAGES = {"grpc-api.md": grpc_page, "rest-api.md": rest_page}

if __name__ == "__main__":
    for name, page in PAGES.items():
        (FOLDER / name).write_text(page())
