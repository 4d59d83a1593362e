"""The page of `compare` in a real browser: from file://, without network, and everything on it moves."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from browser import Browser, find_browser
from conftest import dehaze_file
from test_cli_evaluate import write

from dehazexl_cli import load_model
from dehazexl_cli.cli.compare import Candidate, input_row
from dehazexl_cli.cli.html_report import comparison_page, worst_places
from dehazexl_cli.config import EngineOptions
from dehazexl_cli.engine import InferenceMode
from dehazexl_cli.evaluation import Seam
from dehazexl_cli.evaluation.measures import View, measure
from dehazexl_cli.grid import Box

HEIGHT, WIDTH = 420, 560


def candidates(source: Path, reference: Path, folder: Path, weights: Path) -> list[Candidate]:
    """Two ways, run in this process, as that is quicker."""
    model = load_model(weights=weights)
    found = []
    for label, mode in (
        ("global", InferenceMode("global")),
        ("tile", InferenceMode("tile", tile=256, tile_overlap=0)),
    ):
        target = folder / f"{label}.tif"
        options = EngineOptions(device="cpu", precision="fp32", overlap=0, mode=mode)
        report = dehaze_file(source, target, model=model, options=options).to_dict()
        view = View(tuple(report["bands"]), report["low"], report["high"])
        measures, seams = measure(str(source), str(target), str(reference), view, report["seam_lines"])
        found.append(Candidate(label, [], report, measures, seams, target))
    return found


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory, tiny_weights: Path) -> Path:
    """A page about a scene with two ways and one place that somebody named."""
    folder = tmp_path_factory.mktemp("page")
    y, x = np.mgrid[:HEIGHT, :WIDTH]
    clear = np.stack([60 + (x // 7 + y // 5) % 60, 80 + x * 60 // WIDTH, 40 + y * 90 // HEIGHT])
    hazy = clear * 0.6 + 90 * (x / WIDTH)
    for name, pixels in (("clear", clear), ("hazy <!--", hazy)):
        write(folder / f"{name}.png", pixels.transpose(1, 2, 0).astype(np.uint8))
    source, reference = folder / "hazy <!--.png", folder / "clear.png"
    ways = candidates(source, reference, folder, tiny_weights)
    path = folder / "report.html"
    rows = [input_row(str(source), str(reference), ways[0].view), *(way.to_dict() for way in ways)]
    path.write_text(comparison_page(str(source), str(reference), ways, rows, [(380, 120)]), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    program = find_browser()
    if program is None:
        pytest.skip("no Chromium on this machine; install one, or name it with DEHAZEXL_BROWSER")
    with Browser(program, tmp_path_factory.mktemp("profile")) as opened:
        yield opened


@pytest.fixture
def opened(browser: Browser, page: Path) -> Iterator[Browser]:
    """The page, freshly loaded; it must give no cause for complaint."""
    browser.complaints.clear()
    browser.requests.clear()
    browser.open(page)
    yield browser
    browser.run("1")
    assert browser.complaints == []


def test_everything_is_inside_the_page(opened: Browser) -> None:
    assert [url[:5] for url in opened.requests if not url.startswith("data:")] == ["file:"]
    assert opened.run("document.title") == "hazy <!--.png in 2 ways"
    sizes = opened.run("[...document.images].map(image => image.naturalWidth)")
    assert len(sizes) == 4 and min(sizes) > 300


def test_the_slider_moves_where_the_pictures_meet(opened: Browser) -> None:
    frame = opened.run(
        "(r => [r.left, r.top, r.width, r.height])(document.querySelector('#swipe').getBoundingClientRect())"
    )
    y = frame[1] + frame[3] / 3
    opened.drag((frame[0] + frame[2] * 0.5, y), (frame[0] + frame[2] * 0.2, y))
    assert float(opened.run("document.querySelector('#slider').value")) == pytest.approx(20, abs=1)
    shown = opened.run("getComputedStyle(document.querySelector('#over')).clipPath")
    assert float(shown.split()[1].removesuffix("%")) == pytest.approx(80, abs=1)
    opened.run("slider.value = 70; slider.dispatchEvent(new Event('input'))")
    assert opened.run("document.querySelector('#edge').style.left") == "calc(70% - 1px)"


def test_either_side_shows_any_picture(opened: Browser) -> None:
    assert opened.run("[...right.options].map(o => o.textContent)") == [
        "input",
        "global",
        "tile",
        "reference",
    ]
    before = opened.run("under.src")
    opened.run("right.value = 'tile'; right.dispatchEvent(new Event('change'))")
    assert opened.run("under.src") != before
    assert opened.run("document.querySelector('#right-label').textContent") == "tile"


def test_crops_switch_and_move_together(opened: Browser) -> None:
    names = opened.run("[...places.children].map(button => button.textContent)")
    assert names[0] == "at 380, 120"
    assert any("tile: jump of" in name for name in names)
    panes = "[...document.querySelectorAll('.pane')].map(pane => pane.style.backgroundImage)"
    first = opened.run(panes)
    assert len(first) == 4
    opened.run("places.children[1].click()")
    assert all(one != other for one, other in zip(first, opened.run(panes), strict=True))
    assert opened.run("places.children[1].getAttribute('aria-pressed')") == "true"
    opened.run("document.querySelector('.pane').scrollIntoView({block: 'center'})")
    left, top = opened.run("(r => [r.left, r.top])(document.querySelector('.pane').getBoundingClientRect())")
    opened.drag((left + 100, top + 100), (left + 60, top + 130))
    moved = opened.run("[...document.querySelectorAll('.pane')].map(pane => pane.style.backgroundPosition)")
    assert len(set(moved)) == 1
    assert "-40px" in moved[0] or "- 40px" in moved[0]


def test_the_page_is_light_or_dark_as_the_system_or_the_reader_asks(opened: Browser) -> None:
    colour = "getComputedStyle(document.body).backgroundColor"
    opened.dark(False)
    light = opened.run(colour)
    opened.dark(True)
    dark = opened.run(colour)
    assert light != dark
    opened.run("theme.click()")
    assert opened.run(colour) == light
    opened.dark(False)


def test_table_maps_histograms_and_plans_are_there(opened: Browser) -> None:
    table = opened.run("[...document.querySelectorAll('#table tr')].map(row => row.innerText)")
    assert len(table) == 4 and "seam score" in table[0] and table[3].startswith("tile")
    assert opened.run("[...document.querySelectorAll('#histograms polyline')].length") == 12
    assert '"seam_lines"' in opened.run("document.querySelector('#plans').textContent")


def test_the_first_row_is_the_input_without_what_only_a_run_has(opened: Browser) -> None:
    rows = (
        "[...document.querySelectorAll('#table tr')].map(row => [...row.cells].map(cell => cell.innerText))"
    )
    titles, before, *_ = opened.run(rows)
    shown = dict(zip(titles, before, strict=True))
    assert before[0] == "input"
    run_alone = ("seconds", "peak GB", "seam score", "broad seam", "seam error")
    assert [shown[title] for title in run_alone] == [""] * 5
    assert all(float(shown[title]) > 0 for title in ("PSNR dB", "SSIM", "contrast", "dark channel"))


def test_the_worst_seams_of_each_way_are_places_and_none_twice() -> None:
    def seam(row: int, column: int, height: float) -> Seam:
        return Seam(Box(row, column, 256, 2), height)

    one = Candidate("one", [], seams=(seam(0, 255, 9), seam(100, 255, 8), seam(512, 255, 7), seam(0, 900, 6)))
    other = Candidate("other", [], seams=(seam(0, 255, 5), seam(0, 1500, 4)))
    found = [(place["row"], place["column"]) for place in worst_places([one, other])]
    assert found == [(128, 256), (640, 256), (128, 1501)]
