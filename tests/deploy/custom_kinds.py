"""What the documented APIs of others say of the fields that charts use: kinds that Kubernetes itself does not know.

Nothing else may be set: a field that a chart sets newly has to be looked up, and added here with its constraints.
"""

from __future__ import annotations

from typing import Any

Schema = dict[str, Any]


def _map(required: dict[str, Schema], **optional: Schema) -> Schema:
    """Return the schema of a map that has these fields and no others."""
    properties = {**required, **optional}
    return {"type": "object", "required": [*required], "properties": properties, "additionalProperties": False}


def _list(items: Schema, least: int = 1, most: int = 64) -> Schema:
    return {"type": "array", "items": items, "minItems": least, "maxItems": most}


def _one_of(*words: str) -> Schema:
    return {"enum": list(words)}


_TEXT: Schema = {"type": "string", "minLength": 1, "maxLength": 253}
_NAME: Schema = {"type": "string", "pattern": r"^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$", "maxLength": 253}
_HOST: Schema = {"type": "string", "pattern": r"^(\*\.)?[a-z0-9]([-a-z0-9.]*[a-z0-9])?$", "maxLength": 253}
_LABELS: Schema = {"type": "object", "minProperties": 1, "additionalProperties": {"type": "string", "maxLength": 63}}
_PORT: Schema = {"type": "integer", "minimum": 1, "maximum": 65535}
_KEY = _map({"name": _NAME, "key": _TEXT})
#: As Go parses durations, and as Prometheus does.
_GO_TIME: Schema = {"type": "string", "pattern": r"^(\d+h)?(\d+m)?(\d+s)?$", "minLength": 2}
_TIME: Schema = {"type": "string", "pattern": r"^(\d+d)?(\d+h)?(\d+m)?(\d+s)?(\d+ms)?$", "minLength": 2}

# Gateway API: routes lead to Services of their own namespace, whose group and kind are the defaults.
_ROUTE = _map(
    {
        "parentRefs": _list(_map({"name": _NAME}, namespace=_NAME, sectionName=_NAME, port=_PORT), most=32),
        "hostnames": _list(_HOST, most=16),
        "rules": _list(_map({"backendRefs": _list(_map({"name": _NAME, "port": _PORT}), most=16)}), most=16),
    }
)
_ISSUER = {"oneOf": [_map({"selfSigned": _map({})}), _map({"ca": _map({"secretName": _NAME})})]}
_CERTIFICATE = _map(
    {"secretName": _NAME, "issuerRef": _map({"name": _NAME}, kind=_one_of("Issuer", "ClusterIssuer"))},
    isCA={"type": "boolean"},
    commonName={"type": "string", "minLength": 1, "maxLength": 64},
    dnsNames=_list(_HOST),
    ipAddresses=_list(_TEXT),
    secretTemplate=_map({}, labels=_LABELS, annotations=_LABELS),
    duration=_GO_TIME,
    renewBefore=_GO_TIME,
    privateKey=_map(
        {"algorithm": _one_of("RSA", "ECDSA", "Ed25519")},
        size={"enum": [256, 384, 521, 2048, 3072, 4096]},
        rotationPolicy=_one_of("Never", "Always"),
    ),
    usages=_list(_one_of("digital signature", "key encipherment", "cert sign", "server auth", "client auth")),
)
_SERVICE_MONITOR = _map(
    {
        "selector": _map(
            {"matchLabels": _LABELS},
            matchExpressions=_list(_map({"key": _TEXT, "operator": _one_of("Exists", "DoesNotExist")})),
        ),
        "endpoints": _list(
            _map(
                {"port": _NAME},
                path={"type": "string", "pattern": "^/"},
                interval=_TIME,
                scheme=_one_of("http", "https"),
                authorization=_map({"credentials": _KEY}, type=_TEXT),
                tlsConfig=_map(
                    {}, serverName=_HOST, ca=_map({"secret": _KEY}), cert=_map({"secret": _KEY}), keySecret=_KEY
                ),
            )
        ),
    },
    jobLabel=_TEXT,
    namespaceSelector=_map({"matchNames": _list(_NAME)}),
)
#: The specs by kind, each with the version of its API.
SPECS: dict[str, tuple[str, Schema]] = {
    "Certificate": ("cert-manager.io/v1", _CERTIFICATE),
    "GRPCRoute": ("gateway.networking.k8s.io/v1", _ROUTE),
    "HTTPRoute": ("gateway.networking.k8s.io/v1", _ROUTE),
    "Issuer": ("cert-manager.io/v1", _ISSUER),
    "ServiceMonitor": ("monitoring.coreos.com/v1", _SERVICE_MONITOR),
}


def validate_custom(manifest: dict[str, Any]) -> None:
    """Raise jsonschema's ValidationError where the API of a manifest's kind would refuse it, or it has other fields."""
    import jsonschema  # it takes long, and every worker imports this module

    version, spec = SPECS[manifest["kind"]]
    about = _map({"name": _NAME, "namespace": _NAME, "labels": _LABELS}, annotations={"type": "object"})
    whole = _map({"apiVersion": {"const": version}, "kind": _TEXT, "metadata": about, "spec": spec})
    jsonschema.validate(manifest, whole)
