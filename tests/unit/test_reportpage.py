"""The page of a report: valid, self-contained, and deaf to whatever the names on it say."""

import hashlib
import html
import re
from dataclasses import replace
from html.parser import HTMLParser
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from signimage.errors import FormatError
from signimage.filemeta import FileMeta
from signimage.metadata import RELEASES
from signimage.report import Basis, Chapter, Subject, chapter, unread
from signimage.reportdrawing import plain
from signimage.reportpage import page
from unit.repositories import GUN, IMAGE, NOW, GoodRepository, believe, content, key

_VOID = {"meta", "br"}
_PICTURE_LEAVES = {"rect", "path", "line"}
HOSTILE = "\"><script>alert(1)</script><img src=x onerror=y>&amp;'\x1b[31m\u202e"


class StrictParser(HTMLParser):
    """Reads a page, and refuses what is not closed, not nested, or not quoted."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text: list[str] = []
        self.ids: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        names = [name for name, _ in attrs]
        assert len(set(names)) == len(names), f"{tag} has an attribute twice"
        self.tags.append((tag, dict(attrs)))
        self.ids += [value for name, value in attrs if name == "id" and value]
        raw = self.get_starttag_text() or ""
        assert re.fullmatch(r'<[a-z0-9]+(?: [a-zA-Z][a-zA-Z0-9-]*(?:="[^"<>]*")?)*/?>', raw), raw
        if tag not in _VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert tag in _PICTURE_LEAVES, f"<{tag}/> is no leaf of a picture"
        self.handle_starttag(tag, attrs)
        self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        assert self.open, f"</{tag}> closes nothing"
        assert self.open.pop() == tag, f"</{tag}> closes something else"

    def handle_data(self, data: str) -> None:
        if self.open[-1:] != ["style"]:
            self.text.append(data)


def read(text: str) -> StrictParser:
    parser = StrictParser()
    assert text.startswith("<!DOCTYPE html>\n")
    parser.feed(text.removeprefix("<!DOCTYPE html>"))
    parser.close()
    assert parser.open == []
    assert len(set(parser.ids)) == len(parser.ids)
    return parser


def meta(text: str) -> FileMeta:
    return FileMeta(529, {"sha256": hashlib.sha256(text.encode("utf-8", "replace")).digest()})


def told(*tags: str) -> Chapter:
    """A chapter about a repository with these *tags*."""
    metas = {tag: meta(tag) for tag in tags}
    good = GoodRepository(delegated={"targets/ci": content(metas), RELEASES: content(metas)})
    return chapter(Subject(believe(good.files()), "https://notary.example", Basis.FIRST_USE))


def shown(parser: StrictParser) -> str:
    return " ".join(parser.text)


@pytest.mark.parametrize("count", [0, 1, 50, 100, 101, 2000])
def test_a_page_with_any_number_of_tags_is_valid_and_has_all_of_them(count: int) -> None:
    tags = [f"1.{number}" for number in range(count)]
    parser = read(page([told(*tags)], NOW))
    text = shown(parser)
    for tag in tags:
        assert meta(tag).sha256.hex() in text
    folded = sum(tag == "details" for tag, _ in parser.tags)
    assert folded == (0 if count <= 100 else -(-count // 100))


def test_the_same_chapters_give_the_same_page() -> None:
    chapters = [told("1.0", "1.1"), unread("registry.example/x", NOW, "away")]
    assert page(chapters, NOW) == page(list(chapters), NOW)


def test_nothing_is_fetched_and_nothing_is_run() -> None:
    parser = read(page([told("1.0"), told("2.0")], NOW))
    policy = [each for tag, each in parser.tags if tag == "meta" and "http-equiv" in each]
    assert [each["content"] for each in policy] == ["default-src 'none'; style-src 'unsafe-inline'"]
    for tag, attributes in parser.tags:
        assert tag not in {"script", "link", "img", "iframe", "object", "form", "base", "use"}
        assert not any(name.startswith("on") or name == "src" for name in attributes)
        assert (attributes.get("href") or "#").startswith("#")
    style = re.search(r"<style>(.*?)</style>", page([told("1.0")], NOW), re.DOTALL)
    assert style is not None
    assert not re.search(r"url\(|@import|expression|<", style[1])


def test_the_policy_stands_before_whatever_it_governs() -> None:
    tags = [tag for tag, _ in read(page([told("1.0")], NOW)).tags]
    assert tags.index("meta") < tags.index("title") < tags.index("style")


def test_hostile_names_are_text_and_nothing_else() -> None:
    """Names of tags, of signers' paths, of servers, and the words of errors."""
    found = told("1.0")
    row = replace(
        found.released[0], tag=HOSTILE, digest=HOSTILE, signers=(HOSTILE,), in_registry=HOSTILE
    )
    signer = replace(found.signatories[0], name=HOSTILE, paths=(HOSTILE,), key_ids=(HOSTILE,))
    node = replace(found.nodes[-1], role=HOSTILE, key_ids=(HOSTILE,), keeper=HOSTILE)
    term = replace(found.terms[0], what=HOSTILE, remedy=HOSTILE)
    odd = replace(found.anomalies[0], text=HOSTILE, remedy=HOSTILE)
    lies = replace(
        found,
        gun=HOSTILE,
        trust_server=HOSTILE,
        root_key_ids=(HOSTILE,),
        released=(row,),
        signatories=(signer,),
        nodes=(*found.nodes[:-1], node),
        terms=(term,),
        anomalies=(odd,),
    )
    text = page([lies, unread(HOSTILE, NOW, HOSTILE)], NOW)
    parser = read(text)
    assert {tag for tag, _ in parser.tags}.isdisjoint({"script", "img"})
    assert "\x1b" not in text
    assert "\u202e" not in text
    assert shown(parser).count("<script>alert(1)</script>") >= 12


@pytest.mark.parametrize("text", ["\x00", "\x85", "\u2028", "\u2066", "\ud800"])
def test_what_no_page_should_have_is_replaced(text: str) -> None:
    assert plain(f"a{text}b") == "a\N{REPLACEMENT CHARACTER}b"


@given(st.text())
def test_any_text_can_be_read_again_and_is_never_markup(text: str) -> None:
    written = plain(text)
    assert not set(written) & set("<>\"'")
    assert len(html.unescape(written)) == len(text)


def test_names_that_utf_8_cannot_hold_are_no_obstacle() -> None:
    """A role file cannot hold them either, and the page does not rely on that."""
    with pytest.raises(FormatError, match="surrogate"):
        told("half \ud83d")
    found = told("1.0")
    row = replace(found.released[0], tag="half \ud83d")
    assert page([replace(found, released=(row,))], NOW).encode("utf-8")


def test_pictures_and_tables_can_be_heard() -> None:
    parser = read(page([told("1.0", "2.0")], NOW))
    pictures = [each for tag, each in parser.tags if tag == "svg"]
    assert len(pictures) == 4
    assert all(each.get("role") == "img" for each in pictures)
    names = [tag for tag, _ in parser.tags]
    assert names.count("desc") == 4
    assert all(each.get("scope") in {"row", "col"} for tag, each in parser.tags if tag == "th")
    assert names.count("caption") == names.count("table")
    assert ("html", {"lang": "en"}) in parser.tags
    assert f"targets/ci: key {key('ci').public_key.canonical_id[:16]}" in shown(parser)


def test_headings_of_one_repository_and_of_several_go_down_step_by_step() -> None:
    for chapters in ([told("1.0")], [told("1.0"), told("2.0")]):
        tags = [tag for tag, _ in read(page(chapters, NOW)).tags]
        levels = [int(tag[1]) for tag in tags if re.fullmatch("h[1-6]", tag)]
        assert levels[0] == 1
        assert levels.count(1) == 1
        for former, later in pairwise(levels):
            assert later <= former + 1


def test_several_repositories_can_be_found_from_the_top() -> None:
    text = page([told("1.0"), unread("registry.example/lost", NOW, "it is away")], NOW)
    parser = read(text)
    links = [each["href"] for tag, each in parser.tags if tag == "a"]
    assert links == ["#r1", "#r2"]
    assert parser.ids == ["r1", "r2"]
    assert "it is away" in shown(parser)
    assert "1 problem · 1 notice" in shown(parser)


def test_many_signers_are_drawn_as_far_as_that_is_a_picture() -> None:
    targets = content({})
    for number in range(40):
        public = key(f"signer {number}").public_key
        targets = targets.with_delegation(f"targets/s{number}", [public])
    good = GoodRepository(targets=targets.with_delegation(RELEASES, [key("ci").public_key]),
                          delegated={RELEASES: content({})})  # fmt: skip
    subject = Subject(believe(good.files()), "https://notary.example", Basis.PINNED)
    parser = read(page([chapter(subject)], NOW))
    assert "and 25 more, in the table" in shown(parser)
    rows = [tag for tag, _ in parser.tags if tag == "tr"]
    assert len(rows) == 41


def test_the_longest_name_ends_before_its_frame_and_its_bar_do() -> None:
    """DejaVu Sans is the widest of the usual fonts: 10 and 7.5 pixels a character at our sizes."""
    name = "release-managers-of-the-platform-team-europe"
    targets = content({}).with_delegation(f"targets/{name}", [key("ci").public_key])
    good = GoodRepository(targets=targets, delegated={f"targets/{name}": content({"1.0": IMAGE})})
    subject = Subject(believe(good.files()), "https://notary.example", Basis.PINNED)
    text = page([chapter(subject)], NOW)
    frames = re.findall(r'class="box[^>]* width="([0-9]+)".*?class="name"[^>]*>([^<]*)<', text)
    bars = re.findall(r'class="label"[^>]*>(?:<title>[^<]*</title>)?([^<]*)</text>'
                      r'<rect class="bar [a-z]+" x="([0-9]+)"', text)  # fmt: skip
    assert sum(named.endswith("…") for _, named in frames) == 2
    assert all(16 + 10 * len(named) <= int(width) for width, named in frames)
    assert sum(label.endswith("…") for label, _ in bars) == 2
    # On narrow pages the label stands above its bar, and beside the date.
    assert all(7.5 * len(label) <= (int(x) or 340 - 100) for label, x in bars)


@pytest.mark.parametrize("width", ["screen and (max-width:44rem)", "print"])
def test_headings_of_rows_follow_the_page_where_it_is_narrow_or_printed(width: str) -> None:
    """Their own width and size, made for wide pages, are stronger than those of all cells."""
    style = page([told("1.0")], NOW).partition(f"@media {width}{{")[2].partition("@media")[0]
    wanted = {"print": r"tbody th\{font-size:8\.5pt\}"}
    assert re.search(wanted.get(width, r"\.tags th:nth-child\(n\)\{width:100%\}"),
                     style.replace("table,", ""))  # fmt: skip


def test_the_page_names_its_repository_and_its_moment() -> None:
    text = shown(read(page([told("1.0")], NOW)))
    assert GUN in text
    assert "2026-11-22 12:00 UTC" in text
