"""Pages and charts: whole, escaped, of nothing from elsewhere."""

from __future__ import annotations

import re
from html.parser import HTMLParser

import pytest

from lm.evaluate import html, svg
from lm.evaluate.html import Html, element

VOID = {"meta", "br", "img", "link"}


class Reader(HTMLParser):
    """A page's text, and its elements, which have to be closed in order."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.seen: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.text: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append(tag)
        self.attributes += attrs
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if not self.open or self.open[-1] != "style":
            self.text.append(data)


def read(page: str) -> Reader:
    """The page, once it is whole: closed, without scripts, without anything from elsewhere."""
    reader = Reader()
    reader.feed(page)
    reader.close()
    assert reader.open == [] and "script" not in reader.seen
    names = {name for name, _ in reader.attributes}
    assert not names & {"src", "href", "srcset", "xlink:href"}
    assert not any(name.startswith("on") for name in names)
    assert "url(" not in page and "@import" not in page
    return reader


EVIL = '<script>alert("x")</script> & "quotes" \'too\''


def test_a_page_is_whole_and_escapes_all_but_markup() -> None:
    cells = html.table(["a", "b"], [(EVIL, 0.12345), (Html("<b>bold</b>"), None)], numbers=[1],
                       texts=[0], caption=EVIL)  # fmt: skip
    parts = (element("p", EVIL, kind=EVIL), cells, html.details(EVIL, html.values({EVIL: EVIL})))
    page = html.page(EVIL, *parts, html.figure(svg.confusion([EVIL, "b"], [[1, 2], [3, 4]]), EVIL))
    found = read(page)
    assert "".join(found.text).count(EVIL) >= 5 and "b" in found.seen
    assert page == html.page(EVIL, *parts, html.figure(
        svg.confusion([EVIL, "b"], [[1, 2], [3, 4]]), EVIL))  # fmt: skip
    assert "0.1235" in page and ">–<" in page


@pytest.mark.parametrize(
    ("value", "said"),
    [(0.0, "0"), (0.98765, "0.9877"), (41.0249, "41.02"), (1e-5, "1e-05"), (123456.0, "1.23e+05"),
     (54321.4, "54321"), (float("nan"), "–"), (None, "–")],
)  # fmt: skip
def test_numbers(value: float | None, said: str) -> None:
    assert html.number(value) == said


def test_a_confusion_matrix_has_its_axes_counts_and_shares() -> None:
    drawn = svg.confusion(["no", "yes"], [[30, 10], [0, 0]])
    words = [text.strip() for text in read(drawn).text]
    for word in ("predicted", "actual", "no", "yes", "30", "10", "75%", "25%", "0"):
        assert word in words, word
    # Of a class that does not occur there is no share.
    assert sum(word.endswith("%") for word in words) == 2
    assert 'role="img"' in drawn and "30 of 40 examples on the diagonal" in drawn
    # The more of a row, the darker.
    shades = [float(x) for x in re.findall(r'fill-opacity="([\d.]+)"', drawn)]
    assert shades[0] > shades[1] > shades[2] == shades[3]
    # Names that do not fit their column are turned, and very long ones cut.
    assert "rotate(-90" in svg.confusion(["a" * 30, "b"], [[1, 0], [0, 1]])
    assert "a" * 30 not in svg.confusion(["a" * 30, "b"], [[1, 0], [0, 1]])


def test_bars_end_at_the_share_that_is_right() -> None:
    axes = svg.Axes((0.0, 1.0), (0.0, 1.0), "x", "y")
    drawn = svg.reliability([0, 4], [0.0, 3.6], [0.0, 2.0])
    [bar] = re.findall(r'<rect x="([\d.]+)" y="([\d.]+)" width="([\d.]+)" height="([\d.]+)"', drawn)
    left, top, width, height = map(float, bar)
    assert (left, top) == pytest.approx(axes.place(0.5, 0.5), abs=0.1)
    assert (left + width + 1, top + height) == pytest.approx(axes.place(1.0, 0.0), abs=0.1)
    assert "4 examples, mean confidence 0.900, right 0.500" in drawn


def test_points_lie_where_they_should_and_ticks_are_round() -> None:
    axes = svg.Axes((0.0, 10.0), (-1.0, 1.0), "x", "y", width=200.0, height=200.0)
    (x0, y0), (x1, y1), (x2, _) = axes.place(0.0, -1.0), axes.place(10.0, 1.0), axes.place(5.0, 0.0)
    assert x0 < x2 < x1 and y0 > y1 and x2 == pytest.approx((x0 + x1) / 2)
    assert svg.ticks(0.0, 1.0) == [0, 0.2, 0.4, 0.6, 0.8, 1.0]
    assert svg.ticks(-3.0, 40.0) == [0, 10, 20, 30, 40]
    assert svg.ticks(0.513, 0.521) == [0.514, 0.516, 0.518, 0.52]
    # One value alone has axes too.
    assert "circle" in svg.scatter([2.0], [2.0])
