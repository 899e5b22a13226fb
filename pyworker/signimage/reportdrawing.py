"""The pictures of a report, as SVG within HTML: the hierarchy of keys, and what ends when.

The rules of this file:

1. Each picture is drawn twice, for wide pages and for narrow ones; the style of the page shows one.
2. Colours are the page's, by class: nothing here knows of light and dark.
3. A picture says in words, for those who do not see it, what it shows.
4. Every text passes `plain`; names of any length are cut, and stand whole in the tables.
"""

import html
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from signimage.expiry import Term
from signimage.report import Node

# Controls, marks that turn the direction of text, and what UTF-8 cannot hold.
_UNSAFE = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]"
)

_BOX, _HEIGHT, _GAP_X, _GAP_Y = 256, 70, 66, 14  # of a role; pixels, as all below
_INDENT = 20  # of a child, on narrow pages
_NARROW = 340
_WIDE = 900
_MAX_NODES = 16  # delegations that are drawn; more would be no picture
_MAX_TERMS = 24
_LABEL, _DATE = 250, 100  # columns beside the time line
# What a character takes on average in the widest of the usual fonts, bold and not.
_NAME_CHARACTER, _LABEL_CHARACTER = 10, 7.5
_ROW, _ROW_NARROW = 30, 46
_TICKS = (
    (7, "1 week"),
    (30, "1 month"),
    (91, "3 months"),
    (365, "1 year"),
    (3 * 365, "3 years"),
    (10 * 365, "10 years"),
)
_TICK_GAP = 64


def plain(text: str) -> str:
    """Return *text* for HTML: escaped, and without characters that no page should have."""
    return html.escape(_UNSAFE.sub("\N{REPLACEMENT CHARACTER}", text))


@dataclass(frozen=True, slots=True)
class _Place:
    """Where a role stands: the upper left corner, and the width."""

    x: float
    y: float
    width: float


# --- The hierarchy ------------------------------------------------------------------------------


def hierarchy(nodes: Sequence[Node], gun: str) -> str:
    """Draw who vouches for whom, from the root key to the signers."""
    shown, hidden = _shown(nodes)
    title = f"Hierarchy of keys of {gun}"
    said = "; ".join(
        f"{node.role}: {_keys(node)}, {_until(node)}"
        + (f", entrusted by {node.parent}" if node.parent else "")
        for node in shown
    )
    more = f"; and {hidden} more delegations" if hidden else ""
    return _twice(_tree(shown, hidden), _list(shown, hidden), title, said + more)


def _shown(nodes: Sequence[Node]) -> tuple[list[Node], int]:
    base = [node for node in nodes if node.parent in ("", "root")]
    others = [node for node in nodes if node.parent not in ("", "root")]
    return base + others[:_MAX_NODES], max(0, len(others) - _MAX_NODES)


def _tree(nodes: Sequence[Node], hidden: int) -> tuple[float, float, str]:
    """Roles in columns, each beside the middle of those that it entrusts."""
    places: dict[str, _Place] = {}
    rows = _Rows()
    _stand(nodes[0], nodes, 0, places, rows)
    lines = [
        _curve(places[node.parent], places[node.role]) for node in nodes if node.parent in places
    ]
    height = rows.used * (_HEIGHT + _GAP_Y) - _GAP_Y
    width = max(place.x + place.width for place in places.values())
    body = [*lines, *(_box(node, places[node.role]) for node in nodes)]
    if hidden:
        body.append(_text(width - _BOX, height + 22, "muted", f"and {hidden} more, in the table"))
        height += 30
    return width, height, "".join(body)


@dataclass(slots=True)
class _Rows:
    """How many rows have a role at the end of its branch."""

    used: int = 0


def _stand(
    node: Node, nodes: Sequence[Node], depth: int, places: dict[str, _Place], rows: _Rows
) -> float:
    children = [each for each in nodes if each.parent == node.role]
    ys = [_stand(each, nodes, depth + 1, places, rows) for each in children]
    if ys:
        y = (ys[0] + ys[-1]) / 2
    else:
        y = float(rows.used * (_HEIGHT + _GAP_Y))
        rows.used += 1
    places[node.role] = _Place(depth * (_BOX + _GAP_X), y, _BOX)
    return y


def _list(nodes: Sequence[Node], hidden: int) -> tuple[float, float, str]:
    """Roles one below the other, each further to the right than who entrusts it."""
    places: dict[str, _Place] = {}
    order = [(node, depth) for node, depth in _walk(nodes, "", 0)]
    for number, (node, depth) in enumerate(order):
        x = float(depth * _INDENT)
        places[node.role] = _Place(x, number * (_HEIGHT + _GAP_Y), _NARROW - x)
    lines = [
        _elbow(places[node.parent], places[node.role]) for node, _ in order if node.parent in places
    ]
    height = len(order) * (_HEIGHT + _GAP_Y) - _GAP_Y
    body = [*lines, *(_box(node, places[node.role]) for node, _ in order)]
    if hidden:
        body.append(_text(2 * _INDENT, height + 22, "muted", f"and {hidden} more, in the table"))
        height += 30
    return _NARROW, height, "".join(body)


def _walk(nodes: Sequence[Node], parent: str, depth: int) -> Iterator[tuple[Node, int]]:
    for node in nodes:
        if node.parent == parent:
            yield node, depth
            yield from _walk(nodes, node.role, depth + 1)


def _curve(parent: _Place, child: _Place) -> str:
    x1, y1 = parent.x + parent.width, parent.y + _HEIGHT / 2
    x2, y2 = child.x, child.y + _HEIGHT / 2
    middle = (x1 + x2) / 2
    return (
        f'<path class="line" d="M{x1:g} {y1:g}C{middle:g} {y1:g} {middle:g} {y2:g} {x2:g} {y2:g}"/>'
    )


def _elbow(parent: _Place, child: _Place) -> str:
    x, y = parent.x + _INDENT / 2, parent.y + _HEIGHT
    end = child.y + _HEIGHT / 2
    way = f"M{x:g} {y:g}V{end - 6:g}Q{x:g} {end:g} {x + 6:g} {end:g}H{child.x:g}"
    return f'<path class="line" d="{way}"/>'


def _box(node: Node, place: _Place) -> str:
    odd = " odd" if node.is_odd else ""
    x, y = place.x + 16, place.y
    characters = int((place.width - 28) / _NAME_CHARACTER)
    return (
        f"<g><title>{plain(node.role)}: {plain(', '.join(node.key_ids))}</title>"
        f'<rect class="box{odd}" x="{place.x + 0.5:g}" y="{y + 0.5:g}" '
        f'width="{place.width - 1:g}" height="{_HEIGHT - 1}" rx="8"/>'
        f'<rect class="edge{odd}" x="{place.x + 0.5:g}" y="{y + 12:g}" width="4" '
        f'height="{_HEIGHT - 24}" rx="2"/>'
        + _text(x, y + 25, "name", _cut(node.role, characters))
        + _text(x, y + 43, "code", _keys(node))
        + _text(x, y + 60, "muted", f"{node.keeper} · {_until(node)}")
        + "</g>"
    )


def _keys(node: Node) -> str:
    if not node.key_ids:
        return "no key"
    if len(node.key_ids) == 1:
        return f"key {node.key_ids[0][:16]}"
    return f"{node.threshold} of {len(node.key_ids)} keys"


def _until(node: Node) -> str:
    return f"until {node.ends:%Y-%m-%d}" if node.ends else "not published"


# --- The time line ------------------------------------------------------------------------------


def time_line(terms: Sequence[Term], now: datetime, gun: str) -> str:
    """Draw what ends when, the first first; a step to the right is some times as long as before."""
    shown = terms[:_MAX_TERMS]
    longest = max([_days(term, now) for term in shown] + [_TICKS[0][0]])
    title = f"What ends when in {gun}"
    said = "; ".join(f"{term.what}: {term.ends:%Y-%m-%d}" for term in shown)
    return _twice(
        _bars(shown, now, longest, len(terms) - len(shown), is_narrow=False),
        _bars(shown, now, longest, len(terms) - len(shown), is_narrow=True),
        title,
        said,
    )


def _bars(
    terms: Sequence[Term], now: datetime, longest: float, hidden: int, *, is_narrow: bool
) -> tuple[float, float, str]:
    width, row = (_NARROW, _ROW_NARROW) if is_narrow else (_WIDE, _ROW)
    left = 0 if is_narrow else _LABEL
    span = width - left - (0 if is_narrow else _DATE)
    top = 30
    height = top + row * len(terms) + 4
    body = [
        f'<line class="tick" x1="{x:g}" y1="{top - 8}" x2="{x:g}" y2="{height:g}"/>'
        + _text(x, top - 14, "muted", label, anchor)
        for x, label, anchor in _ticks(left, span, longest)
    ]
    for number, term in enumerate(terms):
        y = top + row * number
        length = max(3.0, span * _scaled(_days(term, now), longest))
        kind = "bad" if term.has_ended(now) else "soon" if term.is_due(now) else "good"
        at = y + (row - 20 if is_narrow else row / 2 - 5)
        label_y = y + (18 if is_narrow else row / 2 + 5)
        characters = int((width - _DATE if is_narrow else _LABEL) / _LABEL_CHARACTER)
        body += [
            _text(0, label_y, "label", _cut(term.what, characters), title=term.what),
            (
                f'<rect class="bar {kind}" x="{left}" y="{at:g}" width="{length:g}" height="10" '
                'rx="5"/>'
            ),
            _text(width, label_y, f"date {kind}", f"{term.ends:%Y-%m-%d}", "end"),
        ]
    if hidden > 0:
        body.append(_text(0, height + 18, "muted", f"and {hidden} that end later"))
        height += 26
    return width, height, "".join(body)


def _ticks(left: float, span: float, longest: float) -> Iterator[tuple[float, str, str]]:
    yield left, "today", "start"
    last = left
    for days, label in _TICKS:
        x = left + span * _scaled(days, longest)
        if days <= longest and x - last >= _TICK_GAP:
            last = x
            yield x, label, "end" if x > left + span - 30 else "middle"


def _scaled(days: float, longest: float) -> float:
    """Where a day stands between 0 and 1: a fortnight and ten years are both to be seen."""
    week = 7
    return math.log1p(max(days, 0.0) / week) / math.log1p(longest / week)


def _days(term: Term, now: datetime) -> float:
    return (term.ends - now).total_seconds() / 86400


# --- Pieces -------------------------------------------------------------------------------------


def _twice(
    wide: tuple[float, float, str], narrow: tuple[float, float, str], title: str, said: str
) -> str:
    return "".join(
        f'<svg class="{name}" role="img" viewBox="0 0 {width:g} {height:g}" '
        f'style="max-width:{width:g}px"><title>{plain(title)}</title>'
        f"<desc>{plain(said)}</desc>{body}</svg>\n"
        for name, (width, height, body) in _named(wide, narrow).items()
    )


def _named(
    wide: tuple[float, float, str], narrow: tuple[float, float, str]
) -> Mapping[str, tuple[float, float, str]]:
    return {"wide": wide, "narrow": narrow}


def _text(x: float, y: float, kind: str, text: str, anchor: str = "start", title: str = "") -> str:
    whole = f"<title>{plain(title)}</title>" if title and title != text else ""
    return (
        f'<text class="{kind}" x="{x:g}" y="{y:g}" text-anchor="{anchor}">{whole}'
        f"{plain(text)}</text>"
    )


def _cut(text: str, characters: int) -> str:
    return text if len(text) <= characters else f"{text[: characters - 1]}…"
