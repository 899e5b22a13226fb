"""Draws the pictures of the Marketplace page: the log of a step, and the page on its run.

Run it after either has changed, and look at the result; the pictures are kept in the repository:

    apt-get install chromium fonts-dejavu-core
    PYTHONPATH=tests:packaging .venv/bin/python packaging/draw_pictures.py

The rules:

1. Every word in a picture was said by the packaged task, in a run like that of `make demo`.
2. The words are set in plain type; nothing here imitates the pages of Azure DevOps around them.
"""

import html
import json
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from PIL import Image, ImageChops

from peers.stack import Stack
from task.agent import StepResult
from task.demo import Demo
from task.packaged import build_vsix, unpack

IMAGES = Path(__file__).resolve().parent.parent / "images"
# Not a name of some browser: this one draws alike wherever Debian runs.
BROWSER = "chromium"
WIDTH, HEIGHT, SCALE = 1180, 1600, 2  # CSS pixels; what stays empty is cut off
BORDER = 24  # of the picture, in pixels
FOLDED_GROUPS = {"Build"}
FOLDED, UNFOLDED = "\u25b8", "\u25be"

LOG_STYLE = """
    body { background: #1b1f24; color: #d7dde4; margin: 16px;
           font: 14px/1.55 "DejaVu Sans Mono", monospace; }
    div { white-space: pre-wrap; overflow-wrap: anywhere; min-height: 1.55em; }
    .group { color: #8cc4ff; font-weight: bold; margin-top: .5em; }
    .in-group { padding-left: 2ch; }
    .warning { color: #e8c36a; }
    .error { color: #ff8a80; }
    .section { color: #7ee0a1; }
"""
PAGE_STYLE = """
    body { background: #fff; color: #1f2328; margin: 16px;
           font: 15px/1.5 "DejaVu Sans", sans-serif; }
    h2 { font-size: 24px; margin: 0 0 14px; }
    h3 { font-size: 18px; margin: 22px 0 8px; }
    table { border-collapse: collapse; margin: 0 0 14px; }
    th, td { border: 1px solid #d0d7de; padding: 5px 12px; text-align: left; }
    code, pre { font: 13px/1.5 "DejaVu Sans Mono", monospace; background: #f2f4f7; }
    code { padding: 1px 4px; }
    pre { padding: 12px; white-space: pre-wrap; overflow-wrap: anywhere; margin: 0 0 12px; }
    tr:has(th:empty) { display: none; }
"""


def signed(folder: Path) -> StepResult:
    """Sign an image by the packaged task on real parts, as `make demo` does."""
    stack = Stack.start(folder / "stack")
    try:
        demo = Demo(folder, stack, "team/app")
        key_file = demo.generate_key()
        initialised = json.loads(demo.signimage("repo", "init", "--json", demo.image))
        demo.signimage("signer", "add", "--key", str(folder / "ci.pub"), "ci", demo.image)
        task = unpack(build_vsix(), folder / "task")
        result = demo.run_step(task, key_file, initialised["rootKeys"])
        demo.expected(result)
        return result
    finally:
        stack.stop()


# --- The log ---------------------------------------------------------------------------------


def log_lines(result: StepResult) -> Iterator[str]:
    """Yield each line of the log as HTML; the agent shows what `##[…]` says by looks, too.

    The builder's own words are folded away, as groups of a log can be.
    """
    group = ""
    for line in result.log:
        found = re.match(r"##\[(\w+)\]", line)
        kind, text = (found[1], line[found.end() :]) if found else ("", line)
        if kind == "group":
            group = text
            text = f"{FOLDED if group in FOLDED_GROUPS else UNFOLDED} {text}"
        elif kind == "endgroup":
            group = ""
        elif group in FOLDED_GROUPS:
            continue
        if kind != "endgroup":
            names = f"{kind} in-group" if group and kind != "group" else kind
            yield f'<div class="{names}">{html.escape(text)}</div>'


# --- The page --------------------------------------------------------------------------------


def page_parts(markdown: str) -> Iterator[str]:
    """Yield the page as HTML: headings, tables, code and paragraphs, which is all that it has."""
    for part in re.findall(r"(?m)^```(?:.|\n)*?^```$|(?:^.+\n?)+", markdown):
        lines = part.strip().splitlines()
        if lines[0].startswith("```"):
            yield f"<pre>{html.escape(chr(10).join(lines[1:-1]))}</pre>"
        elif lines[0].startswith("#"):
            level = len(lines[0]) - len(lines[0].lstrip("#"))
            yield f"<h{level}>{inline(lines[0].lstrip('# '))}</h{level}>"
        elif lines[0].startswith("|"):
            yield f"<table>{''.join(rows(lines))}</table>"
        else:
            yield f"<p>{inline(' '.join(lines))}</p>"


def rows(lines: list[str]) -> Iterator[str]:
    """Yield the rows of a table; the second line only says that it is one."""
    for number, line in enumerate(lines):
        cell = "td" if number else "th"
        cells = [each.strip() for each in line.strip("|").split("|")]
        if number != 1:
            yield f"<tr>{''.join(f'<{cell}>{inline(each)}</{cell}>' for each in cells)}</tr>"


def inline(text: str) -> str:
    """Set what stands between backticks as code."""
    return re.sub(r"`([^`]*)`", r"<code>\1</code>", html.escape(text))


# --- The pictures ----------------------------------------------------------------------------


def draw(folder: Path, style: str, body: str, target: Path) -> None:
    """Let the browser set the text, and cut off what stays empty."""
    page, shot = folder / "page.html", folder / "shot.png"
    page.write_text(f'<meta charset="utf-8"><style>{style}</style><body>{body}', "utf-8")
    argv = [BROWSER, "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars"]
    argv += [f"--user-data-dir={folder / 'profile'}", f"--window-size={WIDTH},{HEIGHT}"]
    argv += [f"--force-device-scale-factor={SCALE}", f"--screenshot={shot}", page.as_uri()]
    subprocess.run(argv, check=True, capture_output=True)
    with Image.open(shot) as opened:
        picture = opened.convert("RGB")
    empty = Image.new("RGB", picture.size, picture.getpixel((0, 0)))
    box = ImageChops.difference(picture, empty).getbbox()
    if box is None or box[3] >= picture.height - BORDER:
        raise SystemExit(f"{target.name}: expected a page that fits, got an empty or a longer one")
    cut = picture.crop((0, 0, picture.width, box[3] + BORDER))
    cut.quantize(colors=128, dither=Image.Dither.NONE).save(target, optimize=True)


def main() -> int:
    """Run the step once, and draw both pictures of it."""
    if shutil.which(BROWSER) is None:
        print(f"error: {BROWSER} is not installed: apt-get install {BROWSER}", file=sys.stderr)
        return 1
    with tempfile.TemporaryDirectory(prefix="pictures-") as name:
        folder = Path(name)
        result = signed(folder)
        IMAGES.mkdir(exist_ok=True)
        draw(folder, LOG_STYLE, "\n".join(log_lines(result)), IMAGES / "step-log.png")
        draw(folder, PAGE_STYLE, "\n".join(page_parts(result.summary)), IMAGES / "run-page.png")
    return 0


if __name__ == "__main__":
    sys.exit(main())
