"""The page of `view` in a real browser: its pixels, curtain, layers and keys, and what it asks for."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from browser import Browser
from test_page import browser  # noqa: F401
from test_view import noise, serving, write

from dehazexl_cli.viewer.server import ViewServer

HEIGHT, WIDTH = 500, 760
SHIFT = 8
CANVAS = "viewer.drawer.canvas"
READY = """new Promise(done => {
  const wait = () => {
    const items = scene ? scene.layers.map((layer, number) => viewer.world.getItemAt(number)) : [];
    const there = items.every(item => item && (item.getOpacity() === 0 || item.getFullyLoaded()));
    const ready = items.length && there && $("zoom").textContent && !viewer.isAnimating();
    const still = ready && viewer.viewport.getZoom(true) === viewer.viewport.getZoom();
    still ? frames(() => done()) : setTimeout(wait, 20);
  };
  const frames = then => requestAnimationFrame(() => requestAnimationFrame(then));
  frames(wait);  // what was asked for begins with the next
})"""


@pytest.fixture(scope="module")
def pixels() -> dict[str, np.ndarray[Any, Any]]:
    """Reddish before and greenish after, so that nobody takes one for the other; a blue map."""
    images = {}
    for name, main in (("before", 0), ("after", 1), ("map", 2)):
        images[name] = noise(HEIGHT, WIDTH, 3, 1, 60, seed=main)
        images[name][main] += 180
    images["before"][:, :100, :100] = 0
    return images


@pytest.fixture(scope="module")
def page(
    tmp_path_factory: pytest.TempPathFactory, pixels: dict[str, np.ndarray[Any, Any]]
) -> Iterator[ViewServer]:
    folder = tmp_path_factory.mktemp("view")
    with serving(*(write(folder / f"{n} <b>.tif", x, nodata=0) for n, x in pixels.items())) as server:
        yield server


@pytest.fixture
def opened(browser: Browser, page: ViewServer) -> Iterator[Browser]:  # noqa: F811
    """The page, freshly loaded; it must give no cause for complaint, and ask nobody else."""
    browser.complaints.clear()
    browser.requests.clear()
    browser.open(page.address)
    browser.run(READY)
    yield browser
    browser.run("1")
    assert browser.complaints == []
    asked = [url for url in browser.requests if not url.startswith("data:")]
    assert asked and all(url.startswith(page.address) for url in asked)


def press(browser: Browser, key: str, code: str | None = None, modifiers: int = 0) -> None:  # noqa: F811
    for kind in ("keyDown", "keyUp"):
        browser.ask("Input.dispatchKeyEvent", type=kind, key=key, code=code or key, modifiers=modifiers)
    browser.run(READY)


def colour(browser: Browser, across: float, down: float = 0.5) -> list[int]:  # noqa: F811
    """Red, green, blue and alpha of the canvas at shares of its width and height."""
    place = f"{CANVAS}.width * {across} | 0, {CANVAS}.height * {down} | 0"
    # Through another canvas, as browsers complain of reading one that is drawn by the graphics card.
    apart = "new OffscreenCanvas(1, 1).getContext('2d', {willReadFrequently: true})"
    drawn = f"c.drawImage({CANVAS}, {place}, 1, 1, 0, 0, 1, 1)"
    script = f"(c => {{ {drawn}; return [...c.getImageData(0, 0, 1, 1).data]; }})({apart})"
    return list(browser.run(script))


def main_band(browser: Browser, across: float, down: float = 0.5) -> int:  # noqa: F811
    """Which image is seen there: 0 before, 1 after, 2 the map."""
    return int(np.argmax(colour(browser, across, down)[:3]))


def test_both_are_there_beside_a_curtain_that_is_dragged(opened: Browser) -> None:
    assert opened.run("document.title") == "before <b>.tif · after <b>.tif · map <b>.tif"
    assert opened.run("$('about-left').firstChild.textContent") == "before <b>.tif"
    assert (main_band(opened, 0.45), main_band(opened, 0.55)) == (0, 1)
    left, top, width, height = opened.run(
        "(r => [r.left, r.top, r.width, r.height])($('images').getBoundingClientRect())"
    )
    middle = top + height / 2
    opened.drag((left + width / 2, middle), (left + 0.3 * width, middle))
    opened.run(READY)
    assert opened.run("curtain") == pytest.approx(0.3, abs=0.002)
    assert [main_band(opened, across) for across in (0.25, 0.35, 0.45)] == [0, 1, 1]
    opened.ask("Emulation.setTouchEmulationEnabled", enabled=True)
    for kind, across in (("touchStart", 0.3), ("touchMove", 0.5), ("touchMove", 0.7), ("touchEnd", None)):
        points = [] if across is None else [{"x": left + across * width, "y": middle}]
        opened.ask("Input.dispatchTouchEvent", type=kind, touchPoints=points)
    opened.ask("Emulation.setTouchEmulationEnabled", enabled=False)
    opened.run(READY)
    assert opened.run("curtain") == pytest.approx(0.7, abs=0.002)
    assert [main_band(opened, across) for across in (0.6, 0.75)] == [0, 1]


def test_keys_move_the_curtain_zoom_and_choose_layers(opened: Browser) -> None:
    press(opened, "ArrowLeft")
    press(opened, "ArrowLeft", modifiers=SHIFT)
    assert opened.run("curtain") == pytest.approx(0.38)
    assert opened.run("$('curtain').getAttribute('aria-valuenow')") == "38"
    assert (main_band(opened, 0.36), main_band(opened, 0.4)) == (0, 1)
    press(opened, "ArrowRight")
    assert opened.run("curtain") == pytest.approx(0.4)
    fitting = opened.run("scale()")
    press(opened, "+", "Equal", SHIFT)
    press(opened, "+", "NumpadAdd")
    assert opened.run("scale()") == pytest.approx(fitting * 1.5**2, rel=0.01)
    press(opened, "-", "Minus")
    assert opened.run("scale()") == pytest.approx(fitting * 1.5, rel=0.01)
    press(opened, "Home")
    assert opened.run("scale()") == pytest.approx(fitting, rel=0.01)
    press(opened, "3", "Digit3")
    assert [main_band(opened, across) for across in (0.36, 0.45)] == [0, 2]
    assert opened.run("$('about-right').firstChild.textContent") == "map <b>.tif"
    press(opened, '"', "Digit2", SHIFT)
    assert [main_band(opened, across) for across in (0.36, 0.45)] == [1, 2]
    press(opened, "9", "Digit9")
    assert opened.run("[chosen.left, chosen.right]") == [1, 2]
    press(opened, "2", "Digit2")  # the same on both sides
    assert [main_band(opened, across) for across in (0.36, 0.45)] == [1, 1]
    opened.run("$('right').selectedIndex = 0; $('right').dispatchEvent(new Event('change'))")
    opened.run(READY)
    assert [main_band(opened, across) for across in (0.36, 0.45)] == [1, 0]


@pytest.mark.parametrize("zoom", [1, 8])
def test_pixels_of_both_sides_are_those_of_the_files_at_full_size_and_closer(
    opened: Browser, pixels: dict[str, np.ndarray[Any, Any]], zoom: int
) -> None:
    opened.run("$('full').click()")
    opened.run(f"viewer.viewport.zoomTo(viewer.viewport.getZoom() * {zoom}, null, true); 0")
    # Pixels of the files begin where those of the screen do.
    opened.run(
        "viewer.viewport.panTo(viewer.world.getItemAt(0).imageToViewportCoordinates(512, 250), true); 0"
    )
    opened.run(READY)
    assert opened.run("scale()") == pytest.approx(zoom)
    shown = opened.run(f"[{CANVAS}.width, {CANVAS}.height]")
    for name, across in (("before", 0.4), ("before", 0.48), ("after", 0.53), ("after", 0.6)):
        x = int(512 + (int(across * shown[0]) + 0.5 - shown[0] / 2) / zoom)
        y = int(250 + (int(0.5 * shown[1]) + 0.5 - shown[1] / 2) / zoom)
        near = pixels[name][:, y - 1 : y + 2, x - 1 : x + 2].reshape(3, -1).T.tolist()
        assert colour(opened, across)[:3] in near


def test_nodata_is_transparent_and_shows_nothing_of_the_other_side(opened: Browser) -> None:
    place = "viewer.world.getItemAt(0).imageToViewerElementCoordinates(new OpenSeadragon.Point(50, 50))"
    x, y = opened.run(f"(p => [p.x, p.y])({place})")
    shares = x / opened.run(f"{CANVAS}.width"), y / opened.run(f"{CANVAS}.height")
    assert colour(opened, *shares)[3] == 0
    press(opened, "!", "Digit2", SHIFT)
    assert colour(opened, *shares)[3] == 255
