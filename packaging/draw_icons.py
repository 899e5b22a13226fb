"""Draws the two icons of the extension: a container image under a seal.

Run it after a change and look at the result; the pictures are kept in the repository.
The small one is not the large one shrunk: it has fewer lines, thicker ones, and no shading,
because at 32 pixels a ridge of the box is thinner than a pixel.

Lengths are in pixels of the final picture; everything is drawn eight times larger and reduced.
"""

import math
from pathlib import Path

from PIL import Image, ImageDraw

ICONS = Path(__file__).resolve().parent.parent / "icons"
SCALE = 8

NAVY = (18, 53, 91, 255)
BLUE = (23, 74, 126, 255)
TOP = (191, 222, 247, 255)
LEFT = (111, 172, 226, 255)
RIGHT = (76, 141, 206, 255)
RIDGE_LEFT = (84, 147, 208, 255)
RIDGE_RIGHT = (54, 115, 178, 255)
GOLD = (246, 184, 50, 255)
WHITE = (255, 255, 255, 255)
CLEAR = (0, 0, 0, 0)

Point = tuple[float, float]
Colour = tuple[int, int, int, int]


class Canvas:
    """A transparent square of *size* pixels, drawn on in those units."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.image = Image.new("RGBA", (size * SCALE, size * SCALE), CLEAR)
        self.draw = ImageDraw.Draw(self.image)

    def polygon(self, points: list[Point], colour: Colour) -> None:
        """Fill the polygon through *points*."""
        self.draw.polygon([(x * SCALE, y * SCALE) for x, y in points], fill=colour)

    def disc(self, centre: Point, radius: float, colour: Colour) -> None:
        """Fill a circle."""
        x, y = centre[0] * SCALE, centre[1] * SCALE
        r = radius * SCALE
        self.draw.ellipse((x - r, y - r, x + r, y + r), fill=colour)

    def stroke(self, points: list[Point], width: float, colour: Colour) -> None:
        """Draw a line through *points* with round joints and ends."""
        scaled = [(x * SCALE, y * SCALE) for x, y in points]
        self.draw.line(scaled, fill=colour, width=round(width * SCALE), joint="curve")
        for point in points:
            self.disc(point, width / 2, colour)

    def rounded_square(self, radius: float, upper: Colour, lower: Colour) -> None:
        """Fill the whole square, corners rounded, shading from *upper* to *lower*."""
        side = self.size * SCALE
        shade = Image.linear_gradient("L").resize((side, side))
        fill = Image.composite(
            Image.new("RGBA", (side, side), lower), Image.new("RGBA", (side, side), upper), shade
        )
        mask = Image.new("L", (side, side), 0)
        box = (0, 0, side - 1, side - 1)
        ImageDraw.Draw(mask).rounded_rectangle(box, radius * SCALE, fill=255)
        self.image.paste(fill, (0, 0), mask)

    def save(self, path: Path) -> None:
        """Reduce to the final size and write a PNG without metadata."""
        self.image.resize((self.size, self.size), Image.Resampling.LANCZOS).save(
            path, optimize=True
        )


def between(start: Point, end: Point, share: float) -> Point:
    """Return the point at *share* of the way from *start* to *end*."""
    return (start[0] + (end[0] - start[0]) * share, start[1] + (end[1] - start[1]) * share)


def cube(canvas: Canvas, centre: Point, edge: float, *, ridges: int) -> None:
    """Draw a box seen from above a corner, its sides ridged like a shipping container's."""
    x, y = centre
    dx, dy = edge * math.cos(math.pi / 6), edge / 2
    top, right, front, left = (x, y - edge), (x + dx, y - dy), (x, y), (x - dx, y - dy)

    def down(point: Point) -> Point:
        return (point[0], point[1] + edge)

    canvas.polygon([top, right, front, left], TOP)
    canvas.polygon([left, front, down(front), down(left)], LEFT)
    canvas.polygon([front, right, down(right), down(front)], RIGHT)
    for start, end, colour in ((left, front, RIDGE_LEFT), (front, right, RIDGE_RIGHT)):
        for number in range(ridges):
            a = between(start, end, (number + 0.62) / (ridges + 0.24))
            b = between(start, end, (number + 0.96) / (ridges + 0.24))
            rib = [between(p, down(p), share) for p, share in ((a, 0.16), (b, 0.16))]
            rib += [between(p, down(p), share) for p, share in ((b, 0.84), (a, 0.84))]
            canvas.polygon(rib, colour)


def seal(canvas: Canvas, centre: Point, radius: float, *, points: int, gap: float) -> None:
    """Draw the toothed edge of a seal; *gap* is the width of the ring that sets it off."""
    x, y = centre
    outline = []
    for step in range(points * 24):
        angle = 2 * math.pi * step / (points * 24)
        reach = radius * (1 + 0.055 * math.cos(points * angle))
        outline.append((x + reach * math.cos(angle), y + reach * math.sin(angle)))
    canvas.disc(centre, radius + gap, NAVY)
    canvas.polygon(outline, GOLD)


def tick(canvas: Canvas, centre: Point, size: float, width: float) -> None:
    """Draw a tick in a square of about *size*."""
    x, y = centre
    corner = (x - size * 0.16, y + size * 0.42)
    start, end = (x - size * 0.56, y + size * 0.02), (x + size * 0.56, y - size * 0.42)
    canvas.stroke([start, corner, end], width, NAVY)


def extension_icon() -> Canvas:
    """Draw the picture of the extension's page, 128 pixels square."""
    canvas = Canvas(128)
    canvas.rounded_square(24, BLUE, NAVY)
    cube(canvas, (57, 58), 44, ridges=4)
    seal(canvas, (90, 90), 25, points=14, gap=4.5)
    canvas.disc((90, 90), 19.5, WHITE)
    tick(canvas, (90, 90), 20, 5.5)
    return canvas


def task_icon() -> Canvas:
    """Draw the picture in the list of steps, 32 pixels square."""
    canvas = Canvas(32)
    canvas.rounded_square(6, BLUE, NAVY)
    cube(canvas, (14, 14), 11, ridges=0)
    canvas.disc((23, 23), 8.5, NAVY)
    canvas.disc((23, 23), 7, GOLD)
    tick(canvas, (23, 23), 6.4, 2.2)
    return canvas


def main() -> None:
    """Write both icons."""
    extension_icon().save(ICONS / "extension.png")
    task_icon().save(ICONS / "task.png")


if __name__ == "__main__":
    main()
