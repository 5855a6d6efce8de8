"""Mode pace of `rattle sync` at 100 Hz: how even the intervals are, and whether they drift in a minute."""

from __future__ import annotations

import json
import socket
import statistics
import struct
import subprocess
import sys
from itertools import pairwise

from measure import report, table

FREQUENCY, SECONDS = 100, 60
PERIOD_MS = 1000 / FREQUENCY
#: Linux notes when a datagram arrives, so that the reader's own lateness does not count; Python has no name for this.
_TIMESTAMPS = 35


def arrivals() -> list[float]:
    """Return when datagrams arrived, in milliseconds since the first."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as receiver:
        receiver.bind(("127.0.0.1", 0))
        receiver.setsockopt(socket.SOL_SOCKET, _TIMESTAMPS, 1)
        told = f"127.0.0.1:{receiver.getsockname()[1]}"
        count = FREQUENCY * SECONDS
        command = [
            sys.executable,
            "-P",
            "-m",
            "rattle.cli",
            "sync",
            "--port",
            "0",
            "--http-port",
            "0",
            "--participant",
            told,
        ]
        command += ["--frequency", str(FREQUENCY), "--ticks", str(count)]
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL)  # noqa: S603
        times, sequence = [], 0
        while sequence < count:
            data, [(_, _, stamp)], _, _ = receiver.recvmsg(2048, 256)
            seconds, nanoseconds = struct.unpack("qq", stamp)
            times.append(seconds * 1e3 + nanoseconds * 1e-6)
            sequence = json.loads(data)["sequence"]
        process.terminate()
        process.wait()
    return [time - times[0] for time in times]


def main() -> None:
    """Measure and report."""
    times = arrivals()
    intervals = sorted(later - earlier for earlier, later in pairwise(times))
    near = statistics.fmean(abs(interval - PERIOD_MS) <= 1 for interval in intervals)
    # How far each is from the beat that the first has set, whole periods left out: late ones do not move the median.
    off = [time - round(time / PERIOD_MS) * PERIOD_MS for time in times]
    drift = statistics.median(off[-FREQUENCY:]) - statistics.median(off[:FREQUENCY])
    cuts = statistics.quantiles(intervals, n=200)
    shown = (intervals[0], cuts[0], statistics.median(intervals), cuts[-1], intervals[-1])
    row = [f"{near:.2%}", *(f"{value:.2f} ms" for value in shown), f"{drift * 1000:+.0f} µs"]
    heading = [
        "within 1 ms of the period",
        "least",
        "0.5th percentile",
        "median",
        "99.5th",
        "most",
        "drift in a minute",
    ]
    report(
        "pace",
        "Mode pace at 100 Hz",
        f"Intervals between the arrivals of {len(times)} datagrams at a socket on the same machine, as the system "
        "notes them. The drift is that of the median beat of the last second against that of the first.",
        table(heading, [row]),
    )


if __name__ == "__main__":
    main()
