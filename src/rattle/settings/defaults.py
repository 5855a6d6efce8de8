"""Settings that are not given: they follow from what agents observe. The models' own defaults are those of codes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, get_args

from rattle.policies.own.inputs import OWN_INPUTS
from rattle.policies.recurrent.spec import Cell
from rattle.settings.experiment import ExperimentSettings
from rattle.settings.sources import validated_experiment

Sections = Mapping[str, Mapping[str, Any]]

_FEW_WORLDS: Sections = {
    "env": {"worlds": 16},
    "policy": {"network": "mlp", "activation": "tanh", "inputs": []},
    "algorithm": {"id": "ppo", "scale_rewards": True},
    "train": {"actors": 1},  # such worlds are mostly stepped in Python, where threads take turns
}
_FEW_WORLDS_ALGORITHMS: Sections = {
    # Scales that follow a solved policy unlearn it.
    "a2c": {"learning_rate": 0.001, "entropy_weight": 0.001, "scale_observations": False},
    "ppo": {"ticks": 128, "passes": 8, "minibatches": 8, "learning_rate": 0.002, "entropy_weight": 0.0},
    "reinforce": {"entropy_weight": 0.001},
}
#: Worlds whose observations need encoders, such as images: their networks take longer to learn than worlds to step.
_ENCODED: Sections = {
    "env": {"worlds": 16},
    "policy": {"network": "encoders"},
    "algorithm": {"id": "ppo", "scale_rewards": True},
    "train": {"actors": 2},  # as many threads learn
}
_ENCODED_ALGORITHMS: Sections = {
    "a2c": {"learning_rate": 0.001, "entropy_weight": 0.01},
    "ppo": {"ticks": 128, "passes": 4, "minibatches": 8, "learning_rate": 0.0005, "entropy_weight": 0.01},
    "reinforce": {"entropy_weight": 0.01},
}
#: By `Observations.learnt_by`, section and key; what one algorithm has in addition is in `ALGORITHMS`.
SECTIONS: Mapping[str, Sections] = {
    "codes": {"policy": {"network": "mlp", "inputs": list(OWN_INPUTS)}, "algorithm": {"id": "a2c"}},
    "code": _FEW_WORLDS,
    "floats": {**_FEW_WORLDS, "algorithm": {**_FEW_WORLDS["algorithm"], "scale_observations": True}},
    "image": _ENCODED,
    "array": _ENCODED,
    "parts": _ENCODED,
}
#: By `Observations.learnt_by`, and the algorithm's id.
ALGORITHMS: Mapping[str, Sections] = {
    "codes": {"a2c": {"learning_rate": 0.002}},
    "code": _FEW_WORLDS_ALGORITHMS,
    "floats": _FEW_WORLDS_ALGORITHMS,
    "image": _ENCODED_ALGORITHMS,
    "array": _ENCODED_ALGORITHMS,
    "parts": _ENCODED_ALGORITHMS,
}
#: By `Observations.learnt_by`: what is observed, in words.
OBSERVED = {
    "codes": "cells",
    "code": "one of some states",
    "floats": "numbers",
    "image": "images",
    "array": "arrays",
    "parts": "several parts",
}


def not_given(settings: ExperimentSettings, kind: str) -> dict[str, dict[str, Any]]:
    """Return the defaults of a kind of observations, by section and key, for settings that nobody has given."""
    given = settings.model_dump(exclude_unset=True)
    algorithm = given.get("algorithm", {}).get("id", SECTIONS[kind]["algorithm"]["id"])
    own = ALGORITHMS[kind].get(algorithm, {})
    sections = {**SECTIONS[kind], "algorithm": {**SECTIONS[kind]["algorithm"], "id": algorithm, **own}}
    left = {
        name: {
            key: value for key, value in section.items() if _has(settings, name, key) and key not in given.get(name, {})
        }
        for name, section in sections.items()
    }
    usual = SECTIONS[kind]["policy"]["network"]
    network = given.get("policy", {}).get("network", usual)
    if network != usual:
        left["policy"] = {}  # they are those of the usual network
    if network not in ("mlp", *get_args(Cell)):
        left.get("algorithm", {}).pop("scale_observations", None)
    return {name: section for name, section in left.items() if section}


def are_complete(settings: ExperimentSettings) -> bool:
    """Whether the kind of observations changes nothing: all that it decides is given."""
    return not any(not_given(settings, kind) for kind in SECTIONS)


def completed(settings: ExperimentSettings, defaults: Sections) -> ExperimentSettings:
    """Return the settings with `defaults` where nothing was given; raises SettingsError where both do not go together.

    An algorithm's other settings may have been given without its id, and fit another one only.
    """
    given = settings.model_dump(exclude_unset=True)
    merged = {name: {**section, **given.get(name, {})} for name, section in defaults.items()}
    return validated_experiment({**given, **merged}, "settings")


def of_run(settings: ExperimentSettings, run: ExperimentSettings) -> Sections:
    """Return as defaults what a run has begun with, so that it continues so: see `completed`."""
    begun = run.model_dump()
    defaults: dict[str, dict[str, Any]] = {}
    for kind in SECTIONS.values():
        for name, section in kind.items():
            if name != "algorithm":
                kept = {key: begun[name][key] for key in section if key in begun[name]}
                defaults[name] = {**defaults.get(name, {}), **kept}
    same = settings.algorithm.id == run.algorithm.id or "id" not in settings.algorithm.model_fields_set
    return {**defaults, "algorithm": begun["algorithm"]} if same else defaults


def _has(settings: ExperimentSettings, section: str, key: str) -> bool:
    """Whether a section has a setting: a network of a user has its own ones, and which algorithm it is may change."""
    return section == "algorithm" or key in type(getattr(settings, section)).model_fields
