"""A contest: the same work by several contestants, in turn, and what it took each of them.

Figures are medians of whole runs in seconds; what the machine itself added is in least and most.
One run of each comes first and is not counted.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from statistics import median
from typing import TypeAlias

from bench.recorder import Recorder

Row: TypeAlias = dict[str, float]
# Does the work of one round, by its number, and gives the seconds that count.
Contestant: TypeAlias = Callable[[int], float]


@dataclass
class Series:
    """The runs of one contestant."""

    seconds: list[float] = field(default_factory=list)
    requests: list[int] = field(default_factory=list)
    connections: list[int] = field(default_factory=list)

    def row(self) -> Row:
        """The figures to print and to keep; without requests where nobody counted them."""
        figures = {
            "median_s": round(median(self.seconds), 3),
            "min_s": round(min(self.seconds), 3),
            "max_s": round(max(self.seconds), 3),
        }
        if self.requests:
            figures["trust_server_requests"] = median(self.requests)
            figures["trust_server_connections"] = median(self.connections)
        return figures


def contest(
    contestants: Mapping[str, Contestant], rounds: int, recorder: Recorder | None = None
) -> dict[str, Row]:
    """Let all work in turn, A B C A B C …; the first of them is the one compared with.

    Every other's row has `ours_to_it`: how long the first took, in times of what it took.
    """
    series = {name: Series() for name in contestants}
    for number in range(rounds + 1):
        for name, work in contestants.items():
            if recorder:
                recorder.reset()
            seconds = work(number)
            if number == 0:
                continue
            series[name].seconds.append(seconds)
            if recorder:
                series[name].requests.append(len(recorder.requests))
                series[name].connections.append(recorder.connections)
    rows = {name: each.row() for name, each in series.items()}
    (_, ours), *others = rows.items()
    for _, row in others:
        row["ours_to_it"] = round(ours["median_s"] / row["median_s"], 3)
    return rows
