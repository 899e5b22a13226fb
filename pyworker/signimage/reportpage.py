"""The page of a report: one HTML file that needs no network, no script and no other file.

The rules of this file:

1. Every text that is not ours passes `plain`. A policy in the page forbids everything but its own
   style, should one ever get through.
2. The same chapters give the same bytes.
3. Whatever is closed on the screen is open on paper.

`docs/doctor-and-report.md`.
"""

from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime

from signimage import __version__
from signimage.report import Anomaly, Chapter, Released, Signatory, counted
from signimage.reportdrawing import hierarchy, plain, time_line

_AT_ONCE = 100  # tags in one table; more of them fold away
_COMMAND = ": signimage "
_POLICY = "default-src 'none'; style-src 'unsafe-inline'"

_STYLE = """
:root{color-scheme:light dark;--paper:#fbfaf8;--card:#fff;--ink:#1c2430;--soft:#586374;
--line:#e2e0db;--blue:#2a5d8f;--good:#2f7d5b;--soon:#9a6200;--bad:#b3261e;--bar:#9dc3b2;--bar-soon:#e6b766;
--bar-bad:#e08a84;--tint-bad:#fcefee;--tint-soon:#fbf4e6;--tint-good:#edf6f1}
@media (prefers-color-scheme:dark){:root{--paper:#11151b;--card:#181d25;--ink:#e4e8ee;
--soft:#9aa6b6;--line:#2b333f;--blue:#8ab8e6;--good:#7cc9a4;--soon:#e9b766;--bad:#ff938b;--bar:#3f7a62;
--bar-soon:#a8781f;--bar-bad:#b4514a;--tint-bad:#2b1b1c;--tint-soon:#282115;--tint-good:#16241e}}
*{box-sizing:border-box}
html{-webkit-text-size-adjust:100%}
body{margin:0;background:var(--paper);color:var(--ink);
font:16px/1.55 system-ui,-apple-system,"Segoe UI",Roboto,"Noto Sans","Liberation Sans",sans-serif}
body>*{max-width:60rem;margin-inline:auto;padding-inline:1.5rem}
h1,h2,h3,p,ul,dl{margin:0}
h1{font-size:1.9rem;line-height:1.2;font-weight:650;letter-spacing:-.01em;overflow-wrap:anywhere}
h2{font-size:1.45rem;line-height:1.25;font-weight:650;overflow-wrap:anywhere}
h2.part,h3.part{font-size:.95rem;line-height:1.5;margin:2.6rem 0 .9rem;padding-bottom:.45rem;
font-weight:650;
border-bottom:1px solid var(--line)}
header{padding-block:3.2rem 1rem}
.over{color:var(--soft);font-size:.9rem;margin-bottom:.5rem}
.verdict{display:inline-block;margin-top:1.1rem;padding:.3rem .8rem;border-radius:1rem;
font-size:.9rem;font-weight:600}
.verdict.good{color:var(--good);background:var(--tint-good)}
.verdict.soon{color:var(--soon);background:var(--tint-soon)}
.verdict.bad{color:var(--bad);background:var(--tint-bad)}
nav ul{list-style:none;padding:0;margin-top:1.2rem;border-top:1px solid var(--line)}
nav li{display:flex;gap:1rem;justify-content:space-between;padding:.5rem 0;
border-bottom:1px solid var(--line)}
nav a{color:var(--blue);overflow-wrap:anywhere;text-decoration:none}
nav a:hover,nav a:focus{text-decoration:underline}
nav .state{flex:none;font-size:.9rem}
.state.good{color:var(--good)}.state.soon{color:var(--soon)}.state.bad{color:var(--bad)}
section{padding-block:.6rem 1rem}
section+section{border-top:1px solid var(--line);margin-top:2rem;padding-top:2rem}
.facts{display:grid;grid-template-columns:repeat(auto-fit,minmax(8.5rem,1fr));gap:.8rem;
margin-top:1.6rem}
.facts div{background:var(--card);border:1px solid var(--line);border-radius:.6rem;
padding:.8rem 1rem}
.facts dt{color:var(--soft);font-size:.82rem}
.facts dd{margin:.1rem 0 0;font-size:1.3rem;font-weight:600;overflow-wrap:anywhere}
.odd-list{list-style:none;padding:0}
.odd-list li{background:var(--tint-soon);border-left:4px solid var(--soon);border-radius:.3rem;
padding:.7rem 1rem;margin-bottom:.6rem;overflow-wrap:anywhere}
.odd-list li.bad{background:var(--tint-bad);border-color:var(--bad)}
.odd-list b{font-weight:650}
.odd-list .bad b{color:var(--bad)}.odd-list .soon b{color:var(--soon)}
.odd-list p{color:var(--soft);font-size:.92rem;margin-top:.2rem}
.calm{color:var(--soft)}
code,.code{font-family:ui-monospace,"SF Mono",Menlo,Consolas,"Liberation Mono",monospace;
font-size:.82em;overflow-wrap:anywhere}
table{width:100%;border-collapse:collapse;font-size:.93rem}
th{text-align:left;font-weight:600;color:var(--soft);font-size:.82rem}
th,td{padding:.45rem 1rem .45rem 0;border-bottom:1px solid var(--line);vertical-align:top;
overflow-wrap:anywhere}
th:last-child,td:last-child{padding-right:0}
tbody th{color:var(--ink);font-size:.93rem}
.tags{table-layout:fixed}
.tags th:nth-child(1){width:22%}.tags th:nth-child(3){width:14%}.tags code{font-size:.77rem}
td.bad{color:var(--bad)}
td i{font-style:normal;color:var(--soft)}
caption{position:absolute;width:1px;height:1px;overflow:hidden;clip-path:inset(50%)}
summary{cursor:pointer;padding:.5rem 0;font-weight:600;color:var(--blue);overflow-wrap:anywhere}
summary span{color:var(--soft);font-weight:400}
svg{display:block;width:100%;height:auto}
svg.narrow{display:none}
svg text{font-size:13px;fill:var(--ink)}
svg .name{font-size:14.5px;font-weight:650}
svg .code{font-size:12px}
svg .muted{font-size:12px;fill:var(--soft)}
svg .box{fill:var(--card);stroke:var(--line)}
svg .edge{fill:var(--good)}
svg .edge.odd{fill:var(--soon)}
svg .box.odd{stroke:var(--soon)}
svg .line{fill:none;stroke:var(--soft);stroke-opacity:.55;stroke-width:1.3}
svg .tick{stroke:var(--line)}
svg .bar.good{fill:var(--bar)}svg .bar.soon{fill:var(--bar-soon)}svg .bar.bad{fill:var(--bar-bad)}
svg .date{font-size:12.5px;fill:var(--soft);font-variant-numeric:tabular-nums}
svg .date.soon{fill:var(--soon);font-weight:600}svg .date.bad{fill:var(--bad);font-weight:600}
.pins{padding-left:1.1rem;margin-top:.5rem}
footer{padding-block:2.5rem 3rem;color:var(--soft);font-size:.85rem}
@media screen and (max-width:44rem){nav li{flex-wrap:wrap;gap:0 1rem}
body>*{padding-inline:1.1rem}header{padding-top:2rem}h1{font-size:1.5rem}
svg.wide{display:none}svg.narrow{display:block}.facts{grid-template-columns:1fr 1fr}
thead{position:absolute;width:1px;height:1px;overflow:hidden;clip-path:inset(50%)}
table,tbody,tr,tbody th,tbody td{display:block;width:100%}
tbody tr{padding:.6rem 0;border-bottom:1px solid var(--line)}
tbody th,tbody td{border:0;padding:.05rem 0}.tags th:nth-child(n){width:100%}
td[data-of]::before{content:attr(data-of) " ";color:var(--soft);font-size:.82rem}}
@media print{:root{--paper:#fff;--card:#fff;--ink:#000;--soft:#444;--line:#ccc;--blue:#000;
--good:#1f6a4a;--soon:#7a4d00;--bad:#a01a13;--bar:#9dc3b2;--bar-soon:#e6b766;--bar-bad:#e08a84;
--tint-bad:#fff;--tint-soon:#fff;--tint-good:#fff;color-scheme:light}
@page{margin:14mm}
html{font-size:10pt}body{font-size:10pt}table,tbody th{font-size:8.5pt}th,td{padding-block:.2rem}
body>*{max-width:none;padding-inline:0}header{padding-top:0}
section+section{break-before:page;border:0;margin:0}
.part{break-after:avoid}tr,li,svg,.facts div{break-inside:avoid}thead{display:table-header-group}
.verdict{padding-left:0}summary{color:#000}summary::marker{content:""}
details::details-content{content-visibility:visible;block-size:auto}}
"""


def page(chapters: Sequence[Chapter], now: datetime) -> str:
    """Set *chapters* as one page, as of *now* (UTC)."""
    alone = len(chapters) == 1
    title = chapters[0].gun if alone else f"{len(chapters):,} repositories"
    parts = [
        "<!DOCTYPE html>",
        '<html lang="en">',
        "<head>",
        '<meta charset="utf-8">',
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        '<meta name="referrer" content="no-referrer">',
        f"<title>Who may sign: {plain(title)}</title>",
        f"<style>{_STYLE}</style>",
        "</head>",
        "<body>",
        "<header>",
        f'<p class="over">Who may sign what · {now:%Y-%m-%d %H:%M} UTC</p>',
        f"<h1>{plain(title)}</h1>",
        _verdict(chapters),
        *([] if alone else _contents(chapters)),
        "</header>",
        "<main>",
        *(_section(each, number, alone=alone) for number, each in enumerate(chapters, start=1)),
        "</main>",
        _footer(now),
        "</body>",
        "</html>",
    ]
    return "\n".join(parts) + "\n"


def _footer(now: datetime) -> str:
    return (
        f"<footer>Made by signimage {plain(__version__)} from trust data that was verified at "
        f"{now:%Y-%m-%d %H:%M:%S} UTC. Times are UTC.</footer>"
    )


def _verdict(chapters: Sequence[Chapter]) -> str:
    problems = sum(each.problems for each in chapters)
    notices = sum(len(each.anomalies) for each in chapters) - problems
    return f'<p class="verdict {_kind(problems, notices)}">{_said(problems, notices)}</p>'


def _kind(problems: int, notices: int) -> str:
    return "bad" if problems else "soon" if notices else "good"


def _said(problems: int, notices: int) -> str:
    if not problems and not notices:
        return "All in order"
    parts = [
        counted(number, noun)
        for number, noun in ((problems, "problem"), (notices, "notice"))
        if number
    ]
    return " · ".join(parts)


def _contents(chapters: Iterable[Chapter]) -> Iterator[str]:
    yield '<nav aria-label="Repositories"><ul>'
    for number, each in enumerate(chapters, start=1):
        notices = len(each.anomalies) - each.problems
        kind, said = _kind(each.problems, notices), _said(each.problems, notices)
        yield (
            f'<li><a href="#r{number}">{plain(each.gun)}</a>'
            f'<span class="state {kind}">{said}</span></li>'
        )
    yield "</ul></nav>"


def _section(chapter: Chapter, number: int, *, alone: bool) -> str:
    level = "h2" if alone else "h3"

    def heading(text: str) -> str:
        return f'<{level} class="part">{text}</{level}>'

    parts = [f'<section id="r{number}" aria-label="{plain(chapter.gun)}">']
    if not alone:
        parts.append(f"<h2>{plain(chapter.gun)}</h2>")
    if chapter.basis is not None:
        parts.append(_facts(chapter))
    parts += [f"{heading(each)}\n{text}" for each, text in _parts(chapter)]
    return "\n".join([*parts, "</section>"])


def _parts(chapter: Chapter) -> Iterator[tuple[str, str]]:
    """The parts of a section, by their headings; one that could not be read has but one."""
    yield "What needs attention", _anomalies(chapter.anomalies)
    if chapter.basis is not None:
        yield "Who may sign what", _signatories(chapter.signatories)
        yield "Who vouches for whom", hierarchy(chapter.nodes, chapter.gun)
        yield "What ends when", time_line(chapter.terms, chapter.now, chapter.gun)
        yield "What is signed", _tags(chapter.released, is_compared=chapter.is_compared)
        yield "What to believe it by", _basis(chapter)


def _facts(chapter: Chapter) -> str:
    due = [term for term in chapter.terms if term.notice is not None]
    rows = {
        "Signed tags": f"{len(chapter.released):,}",
        "Signers": f"{len(chapter.signatories):,}",
        "Next renewal": f"{due[0].ends:%Y-%m-%d}" if due else "none",
        "Root": chapter.basis.value if chapter.basis else "",
    }
    cells = (f"<div><dt>{name}</dt><dd>{plain(value)}</dd></div>" for name, value in rows.items())
    return f'<dl class="facts">{"".join(cells)}</dl>'


def _anomalies(anomalies: Sequence[Anomaly]) -> str:
    if not anomalies:
        return '<p class="calm">Nothing: every role is valid, every tag signed as it must be.</p>'
    rows = []
    for each in anomalies:
        kind, word = ("bad", "Problem") if each.is_problem else ("soon", "Notice")
        remedy = f"<p>{_remedy(each.remedy)}</p>" if each.remedy else ""
        rows.append(f'<li class="{kind}"><b>{word}:</b> {plain(each.text)}{remedy}</li>')
    return f'<ul class="odd-list">{"".join(rows)}</ul>'


def _remedy(text: str) -> str:
    """Set the command in a remedy, which stands at its end, as one that can be copied."""
    said, mark, command = text.partition(_COMMAND)
    if not mark:
        return plain(text)
    return f"{plain(said)}: <code>{plain(mark.removeprefix(': ') + command)}</code>"


def _signatories(signatories: Sequence[Signatory]) -> str:
    rows = []
    for each in signatories:
        keys = "<br>".join(f"<code>{plain(key_id)}</code>" for key_id in each.key_ids)
        count = "not believed" if each.tags is None else counted(each.tags, "tag")
        seen = "" if each.releases else ", not released"
        rows.append(
            f'<tr><th scope="row">{plain(each.name)}</th><td>{_paths(each.paths)}</td>'
            f'<td data-of="Signed:">{count}{seen}</td>'
            f'<td data-of="Key:">{keys or "none"}</td></tr>'
        )
    return _table("who", "Who may sign what", ("Signer", "May sign", "Has signed", "Keys"), rows)


def _paths(paths: Sequence[str]) -> str:
    if "" in paths:
        return "every tag"
    if not paths:
        return "no tag"
    return "tags that begin with " + " or ".join(f"<code>{plain(path)}</code>" for path in paths)


def _tags(rows: Sequence[Released], *, is_compared: bool) -> str:
    if not rows:
        return '<p class="calm">No tag is released.</p>'
    whole = _tag_table(rows)
    note = ""
    if is_compared and not any(row.in_registry for row in rows):
        note = '<p class="calm">The registry has the same under every tag.</p>'
    if len(rows) <= _AT_ONCE:
        return note + whole
    parts = []
    for begin in range(0, len(rows), _AT_ONCE):
        some = rows[begin : begin + _AT_ONCE]
        count = counted(len(some), "tag")
        name = " … ".join(dict.fromkeys(plain(each.tag) for each in (some[0], some[-1])))
        summary = f"<summary>{name} <span>{count}</span></summary>"
        parts.append(f"<details>{summary}{_tag_table(some)}</details>")
    return note + "\n".join(parts)


def _tag_table(rows: Iterable[Released]) -> str:
    return _table("tags", "Signed tags", ("Tag", "Digest", "Signed by"), map(_tag_row, rows))


def _tag_row(row: Released) -> str:
    digest = f"<code>{plain(row.digest)}</code>" if row.digest else "no SHA-256 hash"
    if row.in_registry:
        digest += (
            f'<br><span class="state bad">registry: <code>{plain(row.in_registry)}</code></span>'
        )
    names = plain(row.signed_by) if row.signers else f"<i>{plain(row.signed_by)}</i>"
    return (
        f'<tr><th scope="row">{plain(row.tag)}</th><td>{digest}</td>'
        f'<td data-of="Signed by:">{names}</td></tr>'
    )


def _table(kind: str, caption: str, headings: Iterable[str], rows: Iterable[str]) -> str:
    heads = "".join(f'<th scope="col">{each}</th>' for each in headings)
    return (
        f'<table class="{kind}"><caption>{caption}</caption><thead><tr>{heads}</tr></thead>\n'
        f"<tbody>{chr(10).join(rows)}</tbody></table>"
    )


def _basis(chapter: Chapter) -> str:
    basis = chapter.basis.value if chapter.basis else ""
    pins = "".join(f"<li><code>{plain(key_id)}</code></li>" for key_id in chapter.root_key_ids)
    return (
        f"<p>The trust server is <code>{plain(chapter.trust_server)}</code>; its root was {basis}. "
        "Whoever pins these root keys believes no others:</p>"
        f'<ul class="pins">{pins}</ul>'
    )
