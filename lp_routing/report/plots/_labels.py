"""Names beside points, placed when the figure is drawn, so that none covers another or a point.

Each name takes the first free place around its point, near ones first; a short line leads to it
where it stands further away. The places depend on the data alone: the same figure has the same
names in the same places.
"""

from collections.abc import Iterator, Sequence
from math import cos, pi, sin
from typing import Any

REACH = 40
"""Most rings of places around a point that are tried; each is one line of text further out.

More find room in fuller figures; forty points at page width need up to 12.
"""

AROUND = 16
"""Places on a ring."""

GAP = 0.35
"""Least room between a name and what is beside it, in lines of text."""

FAR = 1.6
"""Distance from its point, in lines of text, from which a line leads to a name."""

Box = tuple[float, float, float, float]
"""Left, bottom, right, top, in dots."""


def label_points(
    axes: Any, points: Sequence[tuple[float, float]], names: Sequence[str], styles: Sequence[Any]
) -> None:
    """Write a name beside each point, the first ones in the best places.

    Args:
        axes: where; limits and scales may still change, as nothing is placed before it is drawn.
        points: of the data, the most important first.
        names: one for each.
        styles: keywords of each text, such as its colour.
    """
    from matplotlib.artist import Artist
    from matplotlib.lines import Line2D
    from matplotlib.text import Text

    class PointLabels(Artist):
        """All names of an axes; its texts are placed anew whenever they are drawn."""

        def __init__(self) -> None:
            super().__init__()
            self.set_zorder(4)
            self.set_in_layout(False)
            self.texts = [
                Text(0, 0, name, va="center", ha="center", **style)
                for name, style in zip(names, styles, strict=True)
            ]

        def get_children(self) -> list[Any]:
            return list(self.texts)

        def draw(self, renderer: Any) -> None:
            dots = axes.transData.transform(points)
            for text in self.texts:
                text.set_figure(axes.get_figure())
            sizes = [text.get_window_extent(renderer) for text in self.texts]
            frame = axes.get_window_extent(renderer)
            line = max(size.height for size in sizes)
            within = (frame.x0, frame.y0, frame.x1, frame.y1)
            boxes = placed(dots.tolist(), [(s.width, s.height) for s in sizes], within, line)
            for text, (x, y), box in zip(self.texts, dots, boxes, strict=True):
                at = ((box[0] + box[2]) / 2, (box[1] + box[3]) / 2)
                text.set_position(at)
                near = (min(max(x, box[0]), box[2]), min(max(y, box[1]), box[3]))
                if ((near[0] - x) ** 2 + (near[1] - y) ** 2) ** 0.5 > FAR * line:
                    ends = [x, near[0]], [y, near[1]]
                    lead = Line2D(*ends, linewidth=0.4, color=text.get_color())
                    lead.set_figure(axes.get_figure())
                    lead.draw(renderer)
                text.draw(renderer)

    axes.add_artist(PointLabels())


def placed(
    points: Sequence[tuple[float, float]],
    sizes: Sequence[tuple[float, float]],
    within: Box,
    line: float,
) -> list[Box]:
    """A box for each name; free of all points and of the boxes before it where there is room.

    Args:
        points: in dots, (x, y).
        sizes: of the names, (width, height).
        within: what no name may leave.
        line: height of a line of text.
    """
    room = GAP * line
    taken = [(x - room, y - room, x + room, y + room) for x, y in points]
    boxes: list[Box] = []
    for point, size in zip(points, sizes, strict=True):
        candidates = list(_around(point, size, line, within))
        costs = [sum(_overlap(box, other, room) for other in taken) for box in candidates]
        best = next((i for i, cost in enumerate(costs) if cost == 0), None)
        box = candidates[costs.index(min(costs)) if best is None else best]
        taken.append(box)
        boxes.append(box)
    return boxes


def _around(
    point: tuple[float, float], size: tuple[float, float], line: float, within: Box
) -> Iterator[Box]:
    """Places around a point, near ones first, to the right before the left; moved inside."""
    (x, y), (width, height) = point, size
    for ring in range(REACH):
        for turn in range(AROUND):
            angle = 2 * pi * (turn // 2 if turn % 2 == 0 else -(turn // 2 + 1)) / AROUND
            apart = (0.7 + ring) * line
            mid_x = x + cos(angle) * (width / 2 + apart)
            mid_y = y + sin(angle) * (height / 2 + apart)
            mid_x = min(max(mid_x, within[0] + width / 2), within[2] - width / 2)
            mid_y = min(max(mid_y, within[1] + height / 2), within[3] - height / 2)
            yield (mid_x - width / 2, mid_y - height / 2, mid_x + width / 2, mid_y + height / 2)


def _overlap(one: Box, other: Box, room: float) -> float:
    """The area that two boxes share, with some room around them."""
    wide = min(one[2], other[2]) - max(one[0], other[0]) + room
    high = min(one[3], other[3]) - max(one[1], other[1]) + room
    return wide * high if wide > 0 and high > 0 else 0.0
