"""YAML as settings are written in it: numbers as people write them, and nothing that reads otherwise than it looks.

YAML 1.1 takes 010 for 8, 1:30 for 90, `no` for false and 1e6 for text. Here 010 is ten, 1e6 a number, 1:30 text, a key
without a value is left out, and yes, no, on and off are refused, because they are truth to some readers and text to
others.
"""

from __future__ import annotations

import re
from typing import Any

import yaml

_NULL = re.compile(r"(?:~|null|Null|NULL|)$")
_BOOL = re.compile(r"(?:true|True|TRUE|false|False|FALSE)$")
_INT = re.compile(r"[-+]?(?:0o[0-7]+|0x[0-9a-fA-F]+|[0-9]+(?:_[0-9]+)*)$")
_FLOAT = re.compile(
    r"[-+]?(?:(?:[0-9]+(?:_[0-9]+)*)?\.[0-9]+(?:_[0-9]+)*|[0-9]+(?:_[0-9]+)*\.?)(?:[eE][-+]?[0-9]+)?$"
    r"|[-+]?\.(?:inf|Inf|INF)$|\.(?:nan|NaN|NAN)$"
)
_UNCLEAR = re.compile(r"(?:yes|no|on|off)$", re.IGNORECASE)
_RESOLVERS = {"null": _NULL, "bool": _BOOL, "int": _INT, "float": _FLOAT, "unclear": _UNCLEAR}

#: An IPv6 address and a port look like a list that breaks off.
_BRACKETED_ADDRESS = re.compile(r"\[[0-9a-fA-F:.]*:[0-9a-fA-F:.]*(%\w+)?\]:[0-9]+$")


class Unclear(yaml.MarkedYAMLError):
    """Valid YAML that different people read differently; `problem` says how to write it."""


class _Reader(yaml.SafeLoader):
    """Reads scalars as the patterns above say."""

    yaml_implicit_resolvers: dict[Any, Any] = {}  # noqa: RUF012  # as PyYAML declares it

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        """Return a mapping without the keys that have no value; a key that is there twice is an error."""
        seen = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode) and key.value in seen:
                raise Unclear(problem=f"the key '{key.value}' is there twice", problem_mark=key.start_mark)
            seen.add(key.value if isinstance(key, yaml.ScalarNode) else None)
        node.value = [(key, value) for key, value in node.value if not _is_empty(value)]
        return super().construct_mapping(node, deep)

    def construct_number(self, node: yaml.ScalarNode) -> int | float:
        text = node.value.replace("_", "")
        if node.tag.endswith(":int"):
            digits = text.lstrip("+-")
            return int(text, 0) if digits[:2] in ("0x", "0o") else int(text)
        return float(re.sub(r"\.(?=[a-zA-Z])", "", text))

    def refuse(self, node: yaml.ScalarNode) -> Any:
        raise Unclear(
            problem=f"'{node.value}' is truth to some and text to others: write true or false, or the text in quotes",
            problem_mark=node.start_mark,
        )


class _Writer(yaml.SafeDumper):
    """Quotes text that this reader, or one of YAML 1.1, would take for something else."""

    yaml_implicit_resolvers = {letter: list(found) for letter, found in yaml.SafeDumper.yaml_implicit_resolvers.items()}  # noqa: RUF012


for _name, _pattern in _RESOLVERS.items():
    _Reader.add_implicit_resolver(f"tag:yaml.org,2002:{_name}", _pattern, None)
    _Writer.add_implicit_resolver(f"tag:yaml.org,2002:{_name}", _pattern, None)
for _name in ("int", "float"):
    _Reader.add_constructor(f"tag:yaml.org,2002:{_name}", _Reader.construct_number)
_Reader.add_constructor("tag:yaml.org,2002:unclear", _Reader.refuse)
_Reader.add_implicit_resolver("tag:yaml.org,2002:merge", re.compile(r"<<$"), None)


def read_document(text: str) -> Any:
    """Return the content of a YAML document; raises yaml.YAMLError."""
    try:
        return _Reader(text).get_single_data()
    except RecursionError:
        raise Unclear(problem="lists or sections are nested too deeply") from None


def read_value(text: str) -> Any:
    """Return one value from a command line or an environment variable; raises yaml.YAMLError.

    A list, a mapping or quoted text is YAML; all else is a number, true, false, null or the text as it stands.
    """
    text = text.strip()
    if text[:1] in ("[", "{", "'", '"') and not _BRACKETED_ADDRESS.match(text):
        return read_document(text)
    kind = next((name for name, pattern in _RESOLVERS.items() if pattern.match(text)), "str")
    return _Reader("").construct_object(yaml.ScalarNode(f"tag:yaml.org,2002:{kind}", text), deep=True)


def dump(values: Any) -> str:
    """Return plain values as YAML that `read_document` turns back into the same values."""
    return yaml.dump(values, Dumper=_Writer, sort_keys=False)


def _is_empty(node: yaml.Node) -> bool:
    return isinstance(node, yaml.ScalarNode) and node.value == "" and not node.style
