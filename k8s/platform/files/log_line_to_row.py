"""Tell an event, and wait until it is a row of the store: broker and store are those of the environment variables."""

from __future__ import annotations

import logging
import os
import secrets
import sys
import time

from rattle.analytics.store import open_store
from rattle.services.utils.logger import setup
from rattle.settings.sources import load_settings

SECONDS = 120
telemetry = load_settings(None, [], os.environ).telemetry
marker = secrets.token_hex(16)
logs = setup("helm-test", level="INFO")
stop_publishing = telemetry.publish_logs(None)
logging.getLogger("helm-test").info({"event": "helm_test", "marker": marker})
logs.flush()
stop_publishing()
begun = time.monotonic()
with open_store(telemetry.store) as store:
    question = f"SELECT count() AS lines FROM logs WHERE event = 'helm_test' AND fields LIKE '%{marker}%'"  # noqa: S608 (of hex digits)
    while not int(store.read(question, "TabSeparated")):
        if time.monotonic() > begun + SECONDS:
            sys.exit(f"the line has not come to the store within {SECONDS} seconds: see the log of ingest")
        time.sleep(0.5)
print(f"a log line was a row of the store after {time.monotonic() - begun:.1f} seconds")
