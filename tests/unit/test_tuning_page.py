"""The filter tuning_page draws a host's memory true to scale, for every eye, and says all of it in words too."""

from __future__ import annotations

import itertools
import re
from html.parser import HTMLParser
from pathlib import Path
from xml.parsers import expat

import pytest
import yaml
from ansible.errors import AnsibleFilterError
from ansible.parsing.dataloader import DataLoader
from ansible.plugins.loader import filter_loader
from ansible.template import Templar, trust_as_template
from hypothesis import given, settings
from tuning_samples import ALL, BLOG, MEMORY, RUNNING, SHOP, TUNING, hosts, row, setting, tuning

from filter_plugins import tuning_page as page_file
from filter_plugins.tuning_page import tuning_page
from filter_plugins.tuning_table import report, tuning_table

many = settings(max_examples=100, deadline=None, derandomize=True, database=None)
every_memory = pytest.mark.parametrize("host", MEMORY, ids=[str(host["budget"]["total_mib"]) for host in MEMORY])
EVERYTHING = tuning(8192, ALL, [SHOP, BLOG], huge_pages_mib=16, parts={"redis": 64})


class Node:
    """An element of a page that is well-formed; a page that is not cannot become one."""

    def __init__(self, tag="", attributes=None):
        self.tag, self.attributes, self.children = tag, attributes or {}, []

    @classmethod
    def read(cls, page):
        root = cls()
        path = [root]

        def start(tag, attributes):
            node = cls(tag, attributes)
            path[-1].children.append(node)
            path.append(node)

        parser = expat.ParserCreate()
        parser.StartElementHandler = start
        parser.EndElementHandler = lambda _tag: path.pop()
        parser.CharacterDataHandler = lambda text: path[-1].children.append(text)
        parser.Parse(page, True)
        return root

    @property
    def text(self):
        return "".join(child if isinstance(child, str) else child.text for child in self.children)

    def all(self, tag, *classes):
        for child in self.children:
            if isinstance(child, Node):
                if child.tag == tag and set(classes) <= set(child.attributes.get("class", "").split()):
                    yield child
                yield from child.all(tag, *classes)

    def number(self, name):
        return float(self.attributes[name].removesuffix("%"))


def bars(page):
    """Return the parts of each bar, from the left, by the height at which they stand."""
    parts = list(Node.read(page).all("rect", "part"))
    return [list(group) for _, group in itertools.groupby(parts, lambda part: part.attributes["y"])]


def cells(page, table):
    """Return the texts of the cells of each row of the tables of a class."""
    lines = [line for found in Node.read(page).all("table", table) for line in found.all("tr")]
    return [[cell.text for cell in line.children if isinstance(cell, Node)] for line in lines]


@many
@given(hosts)
def test_a_page_is_well_formed_whatever_stands_in_it(host):
    page = tuning_page(host)
    names = [line[0] for line in cells(page, "settings")[1:]]
    assert names == [made["name"] for made in host["settings"]]


@every_memory
def test_the_shares_fill_each_bar_side_by_side(host):
    both = bars(tuning_page(host))
    assert len(both) == 2
    for parts in both:
        assert sum(part.number("width") for part in parts) == pytest.approx(100, abs=0.01)
        assert parts[0].number("x") == 0
        for before, after in itertools.pairwise(parts):
            assert before.number("x") + before.number("width") == pytest.approx(after.number("x"), abs=0.001)


def test_a_part_is_as_wide_as_its_share():
    host, server = bars(tuning_page(EVERYTHING))
    expected = dict.fromkeys(["system", "PostgreSQL", *ALL[1:], "apps", "huge pages", "free"], 0)
    for name, mib in EVERYTHING["budget"]["mib"].items():
        expected[{"postgresql": "PostgreSQL"}.get(name, name if name in expected else "apps")] += mib
    assert {part.text: round(part.number("width") * 81.92) for part in host} == {k: v for k, v in expected.items() if v}
    part = EVERYTHING["budget"]["postgresql_mib"]
    for use, drawn in zip(EVERYTHING["memory"], server, strict=True):
        assert (drawn.text, drawn.number("width")) == (use["name"], pytest.approx(use["mib"] / part * 100, abs=0.02))


def test_a_part_of_nothing_is_in_the_table_alone():
    page = tuning_page(TUNING)
    assert TUNING["budget"]["mib"]["free"] == 0
    assert "free" not in [part.text for part in bars(page)[0]]
    assert ["-free", "0 MiB", "0 %", "for the page cache"] in cells(page, "parts")


@pytest.mark.parametrize(("screen", "pixels"), [("narrow", 300), ("wide", 640)])
@every_memory
def test_labels_never_overlap(host, screen, pixels):
    page = Node.read(tuning_page(host))
    groups = list(page.all("g", screen))
    assert len(groups) == 2
    for group in groups:
        places = [key.number("x") / 100 * pixels for key in group.all("text", "key")]
        assert min(after - before for before, after in itertools.pairwise(places)) >= 20
        assert places[0] >= 8
        assert places[-1] <= pixels - 8
    parts = {part.text: part.number("width") / 100 * pixels for part in page.all("rect", "part")}
    for name in page.all("text", "name"):
        if screen == "wide" or "wide" not in name.attributes["class"].split():
            assert 8 * len(name.text) < parts[name.text]


@every_memory
def test_the_key_of_a_part_stands_beside_its_name_in_the_table(host):
    page = tuning_page(host)
    in_tables = {}
    for name, *_ in cells(page, "parts"):
        if not name.startswith("-") and name != "who":
            in_tables.setdefault(name[0], []).append(name[1:])
    drawn = [part.text for parts in bars(page) for part in parts]
    keys = [key.text for group in Node.read(page).all("g", "wide") for key in group.all("text", "key")]
    apps = ["shop web", "shop worker", "blog web", "blog clock"]
    for key, name in zip(keys, drawn, strict=True):
        assert set(in_tables.pop(key)) <= (set(apps) if name == "apps" else {name})
    assert in_tables == {}


def test_all_that_the_picture_shows_stands_in_a_table_too():
    shown, page = report(EVERYTHING), tuning_page(EVERYTHING)
    rows = cells(page, "parts")
    assert [line[0][1:] for line in rows if line[0] != "who"] == [part.name for part in (*shown.parts, *shown.uses)]
    assert ["4redis", "104 MiB", "1 %", "your owndata, and half as much to save it"] in [
        [re.sub(r"^\d", "4", line[0]), *line[1:]] for line in rows
    ]


def test_values_stand_side_by_side_with_what_is_remarkable():
    made = [setting("jit", own=True, reason="your own; ours would be on"), setting("work_mem", "8MB")]
    running = [row(pending_restart=True), row("work_mem", "4096", "kB", boot_val="4096", source="command line")]
    page = tuning_page({**TUNING, "settings": made, "running": running})
    assert cells(page, "settings") == [
        ["setting", "default", "pgtune", "ours", "now", "why"],
        ["jit", "on", "-", "off", "off", "your ownwaits for a restartours would be on"],
        ["work_mem", "4MB", "-", "8MB", "4MB", "not in force (command line)why not"],
    ]
    assert [item.text for item in Node.read(page).all("li")] == [
        "Your own: jit",
        "Waits for a restart: jit",
        "Not in force: the server runs with another value: work_mem (command line)",
    ]


def test_where_no_server_runs_there_is_no_column_for_it():
    page = tuning_page(TUNING)
    assert cells(page, "settings")[0] == ["setting", "pgtune", "ours", "why"]
    assert [item.text for item in Node.read(page).all("li")][-1].startswith("No server runs here yet")


@pytest.mark.parametrize(("own", "drawn"), [({}, False), ({"work_mem": "1GB"}, True)])
def test_a_server_that_would_take_more_than_its_part_is_drawn_beyond_it(own, drawn):
    host = tuning(own=own)
    page = Node.read(tuning_page(host))
    assert ("more than its part" in page.text) == drawn
    limits = [line.number("x1") for line in page.all("line", "limit")]
    busy = sum(use["mib"] for use in host["memory"])
    assert limits == ([pytest.approx(host["budget"]["postgresql_mib"] / busy * 100, abs=0.01)] if drawn else [])


@every_memory
def test_parts_that_are_rounded_are_not_more_than_the_whole(host):
    over = any("your own work_mem" in warning for warning in host["warnings"])
    assert ("more than its part" in tuning_page(host)) == over


EVIL = "\"'</code></td><script>alert(1)</script>&amp;<img src=x onerror=alert(2)>\u202e\x00\x1b[31m"
SHOWN_EVIL = EVIL[: EVIL.index("\u202e")] + r"\u202e\x00\x1b[31m"


class Tags(HTMLParser):
    """Collects tags and attributes as a browser finds them."""

    def __init__(self, page):
        super().__init__()
        self.found = []
        self.feed(page)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.found.append((tag, dict(attrs)))


def test_what_comes_from_outside_is_text_and_nothing_else():
    made = setting("search_path", EVIL, pgtune=EVIL, reason=EVIL)
    its = row("search_path", EVIL, boot_val=EVIL, source=EVIL)
    budget = {**TUNING["budget"], "parts": [{**part, "reason": EVIL} for part in TUNING["budget"]["parts"]]}
    memory = [{**use, "name": EVIL if use["name"] == "queries" else use["name"]} for use in TUNING["memory"]]
    page = tuning_page(
        {**TUNING, "host": EVIL, "settings": [made], "running": [its], "warnings": [EVIL], "huge_pages": EVIL,
         "budget": budget, "memory": memory}
    )  # fmt: skip
    assert Node.read(page).text.count(SHOWN_EVIL) >= 12
    assert [line[1:5] for line in cells(page, "settings")[1:]] == [[SHOWN_EVIL] * 4]
    tags = Tags(page).found
    assert {tag for tag, _ in tags} == {tag for tag, _ in Tags(tuning_page(tuning(running=RUNNING))).found}
    assert not [attributes for _, attributes in tags if any(name.startswith("on") for name in attributes)]


@every_memory
def test_a_page_loads_nothing_and_runs_nothing(host):
    page = tuning_page(host)
    tags = Tags(page).found
    assert not {tag for tag, _ in tags} & {"script", "link", "img", "iframe", "object", "embed", "image", "use", "base"}
    assert not [attributes for _, attributes in tags if {"src", "href", "xlink:href", "srcset"} & attributes.keys()]
    assert not re.search(r"url\(|@import", page)
    (policy,) = [attributes["content"] for _, attributes in tags if "http-equiv" in attributes]
    assert policy == "default-src 'none'; style-src 'unsafe-inline'"


# How red, green and blue turn for eyes that lack one kind of cone (Machado, Oliveira and Fernandes, 2009).
EYES = {
    "all cones": ((1, 0, 0), (0, 1, 0), (0, 0, 1)),
    "protanopia": ((0.152286, 1.052583, -0.204868), (0.114503, 0.786281, 0.099216), (-0.003882, -0.048116, 1.051998)),
    "deuteranopia": ((0.367322, 0.860646, -0.227968), (0.280085, 0.672501, 0.047413), (-0.01182, 0.04294, 0.968881)),
    "tritanopia": ((1.255528, -0.076749, -0.178779), (-0.078411, 0.930809, 0.147602), (0.004733, 0.691367, 0.3039)),
}


def light(colour):
    """Return the linear red, green and blue of a colour such as #d55e00."""
    parts = [int(colour[place : place + 2], 16) / 255 for place in (1, 3, 5)]
    return [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]


def seen(colour, eyes):
    """Return a colour's place in the space CIELAB, where a distance is how different two colours look."""
    rgb = [min(max(sum(map(lambda a, b: a * b, line, light(colour))), 0), 1) for line in EYES[eyes]]
    to_xyz = ((0.4124, 0.3576, 0.1805), (0.2126, 0.7152, 0.0722), (0.0193, 0.1192, 0.9505))
    xyz = [sum(a * b for a, b in zip(line, rgb, strict=True)) for line in to_xyz]
    x, y, z = (part / white for part, white in zip(xyz, (0.9505, 1, 1.089), strict=True))
    x, y, z = (part ** (1 / 3) if part > 0.008856 else 7.787 * part + 16 / 116 for part in (x, y, z))
    return (116 * y - 16, 500 * (x - y), 200 * (y - z))


PALETTES = {
    "host": [*page_file.COLOURS.values(), page_file.APPS_COLOUR],
    "server": list(page_file.USE_COLOURS.values()),
}


@pytest.mark.parametrize("eyes", EYES)
@pytest.mark.parametrize("palette", PALETTES.values(), ids=PALETTES)
def test_colours_can_be_told_apart_by_every_eye(palette, eyes):
    for one, other in itertools.combinations([colour for colour, _ in palette], 2):
        # 2.3 is the least difference that anybody notices.
        distance = sum((a - b) ** 2 for a, b in zip(seen(one, eyes), seen(other, eyes), strict=True)) ** 0.5
        assert distance > 15, (one, other)


@pytest.mark.parametrize(("colour", "white"), sorted({*PALETTES["host"], *PALETTES["server"]}))
def test_a_name_can_be_read_on_its_colour(colour, white):
    bright = sum(share * part for share, part in zip((0.2126, 0.7152, 0.0722), light(colour), strict=True))
    contrast = 1.05 / (bright + 0.05) if white else (bright + 0.05) / 0.05
    assert contrast >= 4.5


def test_bad_input_is_refused_as_the_table_refuses_it():
    for bad in ({**TUNING, "host": 1}, {**TUNING, "memory": []}, None):
        with pytest.raises(AnsibleFilterError) as by_page:
            tuning_page(bad)
        with pytest.raises(AnsibleFilterError) as by_table:
            tuning_table(bad)
        assert str(by_page.value) == str(by_table.value)


@pytest.fixture(scope="module")
def templar():
    filter_loader.add_directory(str(Path(page_file.__file__).parent))
    return Templar(loader=DataLoader(), variables={"tuning": tuning(running=RUNNING)})


def test_ansible_finds_the_filter(templar):
    assert templar.template(trust_as_template("{{ tuning | tuning_page }}")) == tuning_page(tuning(running=RUNNING))


def test_ansible_shows_the_refusal(templar):
    with pytest.raises(Exception, match=r"host must be text, not 1"):
        templar.template(trust_as_template("{{ tuning | combine({'host': 1}) | tuning_page }}"))


def test_the_documentation_can_be_read():
    documented = [yaml.safe_load(text) for text in (page_file.DOCUMENTATION, page_file.EXAMPLES, page_file.RETURN)]
    assert documented[0]["name"] == "tuning_page"
