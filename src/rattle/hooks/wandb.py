"""Weights & Biases: a run there for each run, offline unless the user wants otherwise."""

from __future__ import annotations

import os
from typing import Any, Literal

from pydantic import Field

from rattle.analytics.extras import require
from rattle.hooks.scalars import Scalars
from rattle.hooks.sending import Sending, SendingSettings
from rattle.settings.hook import RunInfo


class WandBSettings(SendingSettings):
    """Settings of the hook."""

    project: str = Field("rattle", min_length=1, description="The project there.")
    entity: str | None = Field(None, description="The user or team there; null: that of the account.")
    mode: Literal["offline", "online"] | None = Field(
        None,
        description="offline: into the run directory, for `wandb sync`; online: sent at once, with the account of "
        "WANDB_API_KEY or `wandb login`; null: what WANDB_MODE says, else offline.",
    )


class WandB(Sending):
    """Shows a run in Weights & Biases."""

    Settings = WandBSettings
    tool = "Weights & Biases"

    def __init__(self, settings: WandBSettings) -> None:
        super().__init__(settings)
        self._wandb = require("wandb", "wandb", "the hook wandb")

    def open(self, run: RunInfo) -> None:
        """Begin a run of the same name, or continue with it."""
        own = self.settings
        self._run_there: Any = self._wandb.init(
            project=own.project,
            entity=own.entity,
            mode=own.mode or os.environ.get("WANDB_MODE") or "offline",
            dir=str(run.path),
            id=run.run_id,
            name=run.run_id,
            group=run.settings.get("name"),
            resume="allow",
            config=dict(run.settings),
            # Standard output belongs to Rattle, and what the user has not asked for is not sent.
            settings=self._wandb.Settings(silent=True, console="off", disable_git=True, save_code=False),
        )
        self._run_there.define_metric("*", step_metric="env_steps")

    def send(self, scalars: Scalars, env_steps: int, seconds: float) -> None:
        """Log the numbers over environment steps."""
        self._run_there.log({**scalars, "env_steps": env_steps, "time": seconds})

    def close(self, status: Literal["finished", "interrupted", "failed"]) -> None:
        """Say what has happened to the run, and finish it."""
        self._run_there.summary["status"] = status
        self._run_there.finish(exit_code=int(status == "failed"))
