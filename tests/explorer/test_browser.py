"""The explorer in a real browser: what is drawn, hovered over, clicked and saved."""

import json
import shutil
from decimal import ROUND_CEILING, ROUND_FLOOR, Context, Decimal

import numpy as np
import pandas as pd
import pytest
import synthetic_study

from lipdescent.analysis import statistics
from lipdescent.analysis.groups import group_names, group_of
from lipdescent.explorer.contents import contents
from lipdescent.explorer.page import html
from lipdescent.storage import table as tables

PHONE = {"width": 400, "height": 800}
CHROMIUM = shutil.which("chromium")
pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(CHROMIUM is None, reason="no chromium (apt-get install chromium)"),
]


def until(page, condition):
    """Wait for a condition. Playwright's own wait evaluates strings, which the page forbids."""
    for _ in range(600):
        if page.evaluate(condition):
            return
        page.wait_for_timeout(50)
    raise AssertionError(f"never became true: {condition}")


@pytest.fixture(scope="module")
def browser():
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield started
        started.close()


@pytest.fixture(scope="module")
def table():
    return synthetic_study.make(seeds=range(5), scatter=0.2)


def written(table, path, **options):
    groups = [group_of(table, dataset=d, architecture=a) for d, a in group_names(table)]
    path.write_text(html(contents(groups, confidence=0.95, **options)), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def place(table, tmp_path_factory):
    return written(table, tmp_path_factory.mktemp("explorer") / "explorer.html")


@pytest.fixture(scope="module")
def heard():
    """What pages said and asked for."""
    return {"wrong": [], "asked": [], "opened": []}


@pytest.fixture(scope="module")
def open_page(browser, heard):
    def open_(path, address, **options):
        page = browser.new_page(**options)
        page.on("console", lambda message: heard["wrong"].append(message.text))
        page.on("pageerror", lambda error: heard["wrong"].append(str(error)))
        page.on("request", lambda request: heard["asked"].append(request.url))
        heard["opened"].append(f"file://{path}")
        page.goto(f"file://{path}{address}")
        until(page, "!!window.Plotly && !!$('plot').data")
        return page

    return open_


@pytest.fixture(scope="module")
def first(open_page, place):
    return open_page(place, "")


@pytest.fixture(scope="module")
def on_a_phone(open_page, place):
    """Opened there in the dark: a page takes a second to open, and a moment to look at again."""
    return open_page(place, "", viewport=PHONE, color_scheme="dark")


@pytest.fixture
def shown(first, open_page, heard):
    """Shows the page at an address; nothing is asked of the network, nothing goes wrong."""
    opened = []

    def show(address, path=None, page=first):
        if path:
            opened.append(open_page(path, address))
            return opened[-1]
        page.evaluate("address => { location.hash = '#'; location.hash = address; }", address)
        until(page, f"location.hash.length > {len(address)}")
        return page

    yield show
    for page in opened:
        page.close()
    assert not heard["wrong"]
    asked = [url.split("#")[0] for url in heard["asked"]]
    assert [url for url in asked if not url.startswith(("data:", "blob:"))] == heard["opened"]


def drawn(page):
    """Every trace: name, y values, hover texts."""
    return json.loads(
        page.evaluate(
            "JSON.stringify($('plot').data.map(({name, x, y, text}) => ({name, x, y, text})))"
        )
    )


def spot(page, x, y):
    """Where on the screen values lie."""
    return page.evaluate(
        """values => { const plot = $('plot'), l = plot._fullLayout;
        const box = plot.getBoundingClientRect();
        return ['x', 'y'].map((axis, i) => box[axis] + l[axis + 'axis']._offset
          + l[axis + 'axis'].d2p(values[i])); }""",
        [x, y],
    )


def column(table, quantity, **at):
    frame = table.to_pandas()
    frame = frame[frame["quantity"] == quantity]
    for name, value in at.items():
        frame = frame[frame[name] == value]
    return frame


def outwards(value, side):
    """Four digits, away from what is bounded."""
    context = Context(prec=4, rounding=ROUND_CEILING if side > 0 else ROUND_FLOOR)
    return context.create_decimal(Decimal(value))


@pytest.mark.parametrize(
    ("quantity", "side"), [("upper_lipsdp.l2", 1), ("lower_jacobian.l2.test", -1)]
)
def test_hover_shows_the_tables_values_of_single_seeds(shown, table, quantity, side):
    page = shown(f"#y={quantity}&below=&seeds=single")
    name, norm, split = [*quantity.split("."), ""][:3]
    rows = column(table, name, norm=norm, split=split, epoch=100)
    told = [text for trace in drawn(page) for text in trace["text"]]
    assert len(told) == len(rows) == 6 * 3 * 5
    for row in rows.itertuples():
        where = (
            f"seed {row.seed}<br>width {row.width}, label noise {100 * row.label_noise:g} %, epoch"
        )
        (text,) = [one for one in told if where in one]
        assert Decimal(text.split("<br>")[1].split(",")[0]) == outwards(row.value, side)


def test_the_mouse_over_a_point_shows_its_mean_interval_and_count(shown, table):
    page = shown("#y=test_loss&below=")
    trace = drawn(page)[1]
    page.mouse.move(*spot(page, trace["x"][2], trace["y"][2]))
    page.wait_for_selector(".hovertext")
    told = page.text_content(".hovertext")
    values = column(table, "test_loss", width=16, label_noise=0.2, epoch=100)["value"].to_numpy()
    mean = statistics.centre_estimate(values, confidence=0.95)
    shown_as = f"{mean.value:.4g} [{mean.low:.4g}, {mean.high:.4g}], n = 5"
    assert shown_as in told
    assert "width 16, label noise 20 %, epoch 100" in told


@pytest.mark.parametrize("largest", [10**7, 1])
def test_means_are_those_of_the_statistics(shown, table, tmp_path, largest):
    path = written(table, tmp_path / "e.html", largest=largest)
    page = shown("#y=upper_lipsdp.l2&below=&lines=none&at.label_noise=0.4", path=path)
    (trace,) = drawn(page)
    rows = column(table, "upper_lipsdp", label_noise=0.4, epoch=100).sort_values(["width", "seed"])
    mean = statistics.geometric_mean(rows["value"].to_numpy().reshape(6, 5))
    assert (np.array(trace["y"]) > mean).all()
    np.testing.assert_allclose(trace["y"], mean, rtol=1e-11)


def test_slider_and_chips_change_what_is_drawn(shown):
    page = shown("#y=test_loss&below=")
    before = drawn(page)
    page.locator('input[data-axis="epoch"]').focus()
    page.keyboard.press("ArrowLeft")
    earlier = drawn(page)
    assert [t["y"] for t in earlier] != [t["y"] for t in before]
    assert all("epoch 10<br>" in f"{text}<br>" for t in earlier for text in t["text"])
    page.locator('button[data-axis="label_noise"]', has_text="20 %").click()
    assert [t["name"] for t in drawn(page)] == ["0 %", "40 %"]
    page.locator('button[data-axis="seed"]').nth(0).click()
    assert all("n = 4" in text for t in drawn(page) for text in t["text"])
    page.select_option("#seeds", "single")
    assert len(drawn(page)) == 2 * 4


def test_the_address_holds_the_view(shown, place):
    page = shown("#y=test_loss")
    page.select_option("#x", "epoch")
    page.select_option("#y", "bracket.l2")
    page.select_option("#below", "test_loss")
    page.locator('button[data-axis="label_noise"]', has_text="20 %").click()
    address, before = page.evaluate("location.hash"), drawn(page)
    again = shown(address, path=place)
    assert drawn(again) == before
    assert again.evaluate("location.hash") == address


def test_a_click_on_a_cell_opens_its_curves(shown):
    page = shown("#view=map&y=upper_lipsdp.l2&below=&rows=epoch&at.label_noise=0.4")
    assert "width 32, label noise 40 %, epoch 10" in drawn(page)[0]["text"][1][3]
    page.mouse.click(*spot(page, 3, 1))
    until(page, "$('plot').data[0].type === 'scatter'")
    (trace,) = drawn(page)
    assert trace["name"] == "40 %"
    assert "epoch 10" in trace["text"][3]
    line = page.evaluate("$('plot').layout.shapes[0].x0")
    assert np.isclose(10**line if line < 3 else line, 32)


def test_files_of_the_view(shown, table, tmp_path):
    page = shown("#y=upper_lipsdp.l2&below=&seeds=single&at.epoch=10")
    for button, suffix in (("csv", "csv"), ("svg", "svg"), ("png", "png")):
        with page.expect_download() as waiting:
            page.click(f"#{button}")
        waiting.value.save_as(tmp_path / f"view.{suffix}")
    found = pd.read_csv(tmp_path / "view.csv")
    rows = column(table, "upper_lipsdp", epoch=10)
    key = ["width", "label_noise", "seed"]
    both = found.merge(rows, on=key, suffixes=("", "_table"))
    assert len(both) == len(found) == len(rows)
    assert (both["value"] == both["value_table"]).all()
    assert (tmp_path / "view.svg").read_text().startswith("<svg")
    assert (tmp_path / "view.png").read_bytes()[:4] == b"\x89PNG"


def test_an_axis_of_the_study_is_an_axis_here(shown, tmp_path):
    options = {"widths": (4, 8), "noises": (0.0,)}
    made = [synthetic_study.make(**options, point={"depth": depth}) for depth in (1, 2)]
    path = written(tables.concatenate(made), tmp_path / "e.html")
    page = shown("#x=depth&y=test_loss&below=&lines=width", path=path)
    assert page.evaluate("$('plot').layout.xaxis.ticktext") == ["1", "2"]
    assert [trace["name"] for trace in drawn(page)] == ["4", "8"]
    assert "depth 2" in drawn(page)[1]["text"][1]


def test_it_reflows_on_a_phone(on_a_phone):
    for scheme in ("dark", "light"):
        on_a_phone.emulate_media(color_scheme=scheme)
        assert on_a_phone.evaluate("document.documentElement.scrollWidth") <= PHONE["width"]
    on_a_phone.emulate_media(color_scheme="dark")


def told(page):
    """Tables below the chart: caption -> rows of cells."""
    return {
        table.query_selector("caption").text_content(): [
            [cell.text_content() for cell in row.query_selector_all("th, td")]
            for row in table.query_selector_all("tr")[1:]
        ]
        for table in page.query_selector_all("#told table")
    }


def test_the_table_below_says_where_the_largest_is_and_where_a_line_has_a_peak(shown, table):
    """The bound peaks at width 32; both panels show it, and it counts once."""
    page = shown("#y=upper_lipsdp.l2&below=bracket.l2&at.epoch=100&on=0.2")
    rows = told(page)["The largest values over width"]
    names = [row[0] for row in rows]
    assert len(set(names)) == len(names)
    values = [
        statistics.geometric_mean(
            column(table, "upper_lipsdp", width=w, label_noise=0.2, epoch=100)["value"].to_numpy()
        )
        for w in synthetic_study.WIDTHS
    ]
    place = int(np.argmax(values))
    assert 0 < place < len(values) - 1
    width = synthetic_study.WIDTHS[place]
    assert rows[0][1] == "20 %"
    assert float(rows[0][2]) == pytest.approx(values[place], rel=1e-3)
    assert rows[0][3] == f"width {width}"
    inner = [
        synthetic_study.WIDTHS[i]
        for i in range(1, len(values) - 1)
        if values[i - 1] < values[i] > values[i + 1]
    ]
    assert rows[0][4] == ", ".join(map(str, inner))
    monotone = told(shown("#y=test_loss&below=&x=epoch&lines=none"))
    ((*_, at, peak),) = monotone["The largest values over epoch"]
    assert (at, peak) in {("epoch 0, the first", "nowhere"), ("epoch 100, the last", "nowhere")}


def test_a_click_on_a_point_tells_every_seeds_value_there(shown, table):
    page = shown("#y=test_loss&below=&seeds=single")
    assert not any("Every seed" in caption for caption in told(page))
    trace = drawn(page)[0]
    x, y = spot(page, trace["x"][2], trace["y"][2])
    page.mouse.move(x, y)
    page.mouse.click(x, y)
    until(page, "$('told').textContent.includes('Every seed')")
    assert "mark=16" in page.evaluate("location.hash")
    rows = told(page)["Every seed at width 16, in the order of their values"]
    for _, noise, values, far in rows:
        own = column(table, "test_loss", width=16, label_noise=float(noise[:-2]) / 100, epoch=100)
        own = own.sort_values("value")
        assert values == ", ".join(
            f"{float(f'{value:.4g}'):g} (seed {seed})"
            for value, seed in zip(own["value"], own["seed"], strict=True)
        )
        logs = np.log(own["value"].to_numpy())
        place = np.abs(logs - np.median(logs)).argmax()
        assert far == f"seed {own['seed'].iloc[place]}"


def test_the_lowest_and_highest_seed_are_named_at_their_points(shown, table):
    page = shown("#y=test_loss&below=&seeds=single&lines=none&at.label_noise=0.4")
    named = page.evaluate("$('plot').layout.annotations.map(({text, y}) => [text, 10 ** y])")
    assert len(named) == 2 * len(synthetic_study.WIDTHS)
    expected = []
    for width in synthetic_study.WIDTHS:
        own = column(table, "test_loss", width=width, label_noise=0.4, epoch=100)
        own = own.sort_values("value").iloc[[0, -1]]
        expected += [
            [str(s), pytest.approx(v)] for s, v in zip(own["seed"], own["value"], strict=True)
        ]
    assert named == expected


def test_a_place_is_marked_without_a_mouse(shown):
    page = shown("#y=test_loss&below=")
    page.focus("#mark")
    page.keyboard.press("ArrowDown")
    until(page, "$('told').textContent.includes('Every seed at width 4,')")
    assert "mark=4" in page.evaluate("location.hash")
    page.select_option("#mark", "")
    until(page, "!$('told').textContent.includes('Every seed at')")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_every_line_stands_out_from_the_page(shown, first, on_a_phone, scheme):
    """By the contrast of WCAG 2.1, 1.4.11: 3 for graphics."""
    page = shown("#y=test_loss&below=", page=first if scheme == "light" else on_a_phone)
    dark = page.evaluate("matchMedia('(prefers-color-scheme: dark)').matches")
    assert dark == (scheme == "dark")
    colours = page.evaluate(
        "[2, 3, 6].flatMap((n) => [...Array(n).keys()].map((i) => colourOf(i, n)))"
    )
    page_colour = page.evaluate("getComputedStyle(document.body).backgroundColor")
    behind = luminance([int(part) for part in page_colour[4:-1].split(",")])
    for colour in colours:
        low, high = sorted([luminance(colour), behind])
        assert (high + 0.05) / (low + 0.05) >= 2.99, colour


def test_on_paper_it_is_dark_on_white_and_as_wide_as_the_sheet(shown, on_a_phone):
    page = shown("#y=test_loss&below=", page=on_a_phone)
    page.set_viewport_size({"width": 1280, "height": 720})
    page.evaluate("dispatchEvent(new Event('beforeprint'))")
    page.emulate_media(media="print")
    ink = page.evaluate("getComputedStyle(document.body).color")
    assert ink == "rgb(0, 0, 0)"
    drawn_as = page.evaluate("[$('plot')._fullLayout.width, $('plot').layout.font.color]")
    assert drawn_as[0] * 25.4 / 96 < 210 - 2 * 12
    assert drawn_as[1] == "#222"
    page.emulate_media(media="screen")
    page.evaluate("dispatchEvent(new Event('afterprint'))")
    assert page.evaluate("$('plot').layout.font.color") == "#e6e6e6"


def luminance(colour):
    shares = np.array(colour) / 255
    linear = np.where(shares <= 0.04045, shares / 12.92, ((shares + 0.055) / 1.055) ** 2.4)
    return float(linear @ (0.2126, 0.7152, 0.0722))
