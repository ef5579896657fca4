"""The gateway's counters, in the text format of Prometheus."""

from __future__ import annotations

import bisect
import math
from collections import Counter
from collections.abc import Iterator, Mapping

BOUNDS_S = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 5.0, 30.0)


class Metrics:
    """Counters, and a histogram for each route; for the event loop only."""

    def __init__(self) -> None:
        self._events: Counter[str] = Counter()
        self._requests: Counter[tuple[str, int]] = Counter()
        self._buckets: dict[str, list[int]] = {}
        self._seconds: dict[str, float] = {}

    def count(self, event: str) -> None:
        self._events[event] += 1

    def request(self, route: str, status: int, seconds: float) -> None:
        self._requests[route, status] += 1
        buckets = self._buckets.setdefault(route, [0] * (len(BOUNDS_S) + 1))
        buckets[bisect.bisect_left(BOUNDS_S, seconds)] += 1
        self._seconds[route] = self._seconds.get(route, 0.0) + seconds

    def text(self, gauges: Mapping[tuple[str, str, str], float]) -> str:
        """All metrics; `gauges` by metric, label, and value of the label."""
        return "\n".join(self._lines(gauges)) + "\n"

    def _lines(self, gauges: Mapping[tuple[str, str, str], float]) -> Iterator[str]:
        yield "# TYPE coppice_sandbox_events_total counter"
        for event, number in sorted(self._events.items()):
            yield f'coppice_sandbox_events_total{{event="{event}"}} {number}'
        yield "# TYPE coppice_requests_total counter"
        for (route, status), number in sorted(self._requests.items()):
            yield f'coppice_requests_total{{route="{route}",status="{status}"}} {number}'
        yield "# TYPE coppice_request_seconds histogram"
        for route, buckets in sorted(self._buckets.items()):
            total = 0
            for bound, number in zip((*BOUNDS_S, math.inf), buckets, strict=True):
                total += number
                le = "+Inf" if bound == math.inf else bound
                yield f'coppice_request_seconds_bucket{{route="{route}",le="{le}"}} {total}'
            yield f'coppice_request_seconds_sum{{route="{route}"}} {self._seconds[route]}'
            yield f'coppice_request_seconds_count{{route="{route}"}} {total}'
        previous = ""
        for (name, label, value), level in sorted(gauges.items()):
            if name != previous:
                yield f"# TYPE {name} gauge"
                previous = name
            labels = f'{{{label}="{value}"}}' if label else ""
            yield f"{name}{labels} {level}"
