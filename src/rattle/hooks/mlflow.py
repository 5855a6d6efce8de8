"""MLflow: a run there for each run, in a folder or on a tracking server."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from typing import Any, Literal
from urllib.parse import urlsplit

from pydantic import Field, field_validator

from rattle.analytics.extras import require
from rattle.hooks.scalars import OF_EVALUATIONS, OF_UPDATES, Scalars
from rattle.hooks.sending import Sending, SendingSettings
from rattle.settings.hook import RunInfo

#: The tag by which a run that continues is found.
_TAG = "rattle.run_id"
_STATUS = {"finished": "FINISHED", "interrupted": "KILLED", "failed": "FAILED"}
#: What MLflow takes of parameters: so many at a time, of so many characters.
_AT_A_TIME, _LONGEST = 100, 500


class MLflowSettings(SendingSettings):
    """Settings of the hook."""

    tracking_uri: str | None = Field(
        None,
        description="Folder or address of the tracking server; null: what MLFLOW_TRACKING_URI says, else the folder "
        "mlruns. Put user and password into MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD.",
    )
    experiment: str | None = Field(None, description="The experiment there; null: that of the run.")

    @field_validator("tracking_uri")
    @classmethod
    def _holds_no_password(cls, uri: str | None) -> str | None:
        if uri is not None and "@" in urlsplit(uri).netloc:
            raise ValueError("write it without user and password; MLFLOW_TRACKING_USERNAME and _PASSWORD hold them")
        return uri


class MLflow(Sending):
    """Shows a run in MLflow."""

    Settings = MLflowSettings
    tool = "MLflow"

    def __init__(self, settings: MLflowSettings) -> None:
        super().__init__(settings)
        require("mlflow", "mlflow", "the hook mlflow")

    def open(self, run: RunInfo) -> None:
        """Begin a run of the same name, or continue with it."""
        from mlflow import MlflowClient

        uri = self.settings.tracking_uri or os.environ.get("MLFLOW_TRACKING_URI") or "mlruns"
        if urlsplit(uri).scheme in ("", "file"):
            os.environ.setdefault("MLFLOW_ALLOW_FILE_STORE", "true")  # newer versions ask whether folders are meant
        self._client = MlflowClient(tracking_uri=uri)
        experiment = self._experiment(self.settings.experiment or run.settings.get("name") or "rattle")
        known = self._client.search_runs([experiment], f"tags.`{_TAG}` = '{run.run_id}'", max_results=1)
        if known:
            self._id = known[0].info.run_id
            self._client.update_run(self._id, status="RUNNING")
        else:
            self._id = self._client.create_run(experiment, tags={_TAG: run.run_id}, run_name=run.run_id).info.run_id
            self._log_settings(run.settings)
        self._sent = {name: self._last_step(name) for name in (OF_UPDATES, OF_EVALUATIONS)}

    def send(self, scalars: Scalars, env_steps: int, seconds: float) -> None:
        """Log the numbers over environment steps; those that a resumed run plays again are there already."""
        from mlflow.entities import Metric

        if env_steps > self._sent[OF_EVALUATIONS if OF_EVALUATIONS in scalars else OF_UPDATES]:
            metrics = [Metric(name, value, int(seconds * 1000), env_steps) for name, value in scalars.items()]
            self._client.log_batch(self._id, metrics=metrics)

    def close(self, status: Literal["finished", "interrupted", "failed"]) -> None:
        """Say what has happened to the run."""
        self._client.set_terminated(self._id, _STATUS[status])

    def _experiment(self, name: str) -> str:
        """Return the id of an experiment, which another run may make at the same moment."""
        from mlflow.exceptions import MlflowException

        known = self._client.get_experiment_by_name(name)
        if known is None:
            try:
                return str(self._client.create_experiment(name))
            except MlflowException:
                known = self._client.get_experiment_by_name(name)
                if known is None:
                    raise
        return str(known.experiment_id)

    def _log_settings(self, settings: Mapping[str, Any]) -> None:
        from mlflow.entities import Param

        params = [Param(key, value[:_LONGEST]) for key, value in _flat(settings, "")]
        for first in range(0, len(params), _AT_A_TIME):
            self._client.log_batch(self._id, params=params[first : first + _AT_A_TIME])

    def _last_step(self, name: str) -> int:
        """Return the environment steps of the newest number of this name that MLflow has, -1 where it has none."""
        logged = self._client.get_metric_history(self._id, name)
        return max((metric.step for metric in logged), default=-1)


def _flat(values: Mapping[str, Any], prefix: str) -> Iterator[tuple[str, str]]:
    for name, value in values.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value if isinstance(value, str) else json.dumps(value)
