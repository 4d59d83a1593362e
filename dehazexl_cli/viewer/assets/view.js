"use strict";
const $ = id => document.getElementById(id);
const SIDES = ["left", "right"];
const STEP = 0.02; // of the page's width: how far an arrow moves the curtain; with Shift five times as far
const ZOOM = 1.5;
const chosen = { left: 0, right: 1 };
let viewer, scene, curtain = 0.5;

function sourceOf(layer, number) {
  return {
    width: layer.width, height: layer.height, tileSize: scene.tile, tileOverlap: 0,
    minLevel: 0, maxLevel: Math.log2(layer.smallest),
    // Told of transparency, the drawer would draw all but one image on a canvas apart, with smoothing of its own.
    hasTransparency: () => false,
    getTileUrl: (level, col, row) => `tiles/${number}/${layer.smallest >> level}/${row}/${col}.png`,
  };
}

// Each side is clipped where the curtain is, so that nothing of the other shows through what is transparent.
function clip() {
  const items = scene.layers.map((layer, number) => viewer.world.getItemAt(number));
  const middle = new OpenSeadragon.Point(curtain * viewer.viewport.getContainerSize().x, 0);
  const at = Math.min(1, Math.max(0, viewer.viewport.pointFromPixel(middle, true).x));
  const same = chosen.left === chosen.right;
  items.forEach((item, number) => {
    const from = same || number === chosen.left ? 0 : at;
    const to = same || number === chosen.right ? 1 : at;
    const seen = from < to && (number === chosen.left || number === chosen.right);
    item.setOpacity(seen ? 1 : 0);
    if (!seen) return;
    const { x: width, y: height } = item.getContentSize();
    const next = new OpenSeadragon.Rect(from * width, 0, (to - from) * width, height);
    const now = item.getClip();
    if (!now || !now.equals(next)) item.setClip(next);
  });
}

function moveCurtain(share) {
  curtain = Math.min(1, Math.max(0, share));
  $("curtain").style.left = `${100 * curtain}%`;
  $("curtain").setAttribute("aria-valuenow", Math.round(100 * curtain));
  clip();
}

function choose(side, number) {
  if (!scene.layers[number]) return;
  const { name, about } = scene.layers[number];
  chosen[side] = number;
  $(side).selectedIndex = number;
  $(`about-${side}`).replaceChildren(name, Object.assign(document.createElement("small"), { textContent: about }));
  clip();
}

// Pixels of the first image per pixel of the screen.
const scale = () => viewer.world.getItemAt(0).viewportToImageZoom(viewer.viewport.getZoom(true)) * devicePixelRatio;
const fit = () => viewer.viewport.goHome();
const zoomBy = factor => viewer.viewport.zoomBy(factor).applyConstraints();
const full = () => {
  const zoom = viewer.world.getItemAt(0).imageToViewportZoom(1 / devicePixelRatio);
  viewer.viewport.zoomTo(zoom).applyConstraints();
};

function follow() {
  clip();
  const now = scale();
  $("zoom").textContent = `${Number((100 * now).toPrecision(3))} %`;
  viewer.drawer.setImageSmoothingEnabled(now < 1); // closer than that, pixels are seen as they are
}

function press(event) {
  if (event.ctrlKey || event.metaKey || event.altKey || event.target.tagName === "SELECT") return;
  const digit = /^(?:Digit|Numpad)(\d)$/.exec(event.code);
  const step = event.shiftKey ? 5 * STEP : STEP;
  if (event.key === "ArrowLeft") moveCurtain(curtain - step);
  else if (event.key === "ArrowRight") moveCurtain(curtain + step);
  else if (event.key === "+" || event.key === "=") zoomBy(ZOOM);
  else if (event.key === "-") zoomBy(1 / ZOOM);
  else if (event.key === "Home" || event.key === "0") fit();
  else if (digit) choose(event.shiftKey ? "left" : "right", digit[1] - 1);
  else return;
  event.preventDefault();
}

function fail(text) {
  $("failure").textContent = text;
  $("failure").hidden = false;
}

function listen() {
  for (const side of SIDES) {
    $(side).append(...scene.layers.map(({ name }, number) => new Option(`${number + 1}  ${name}`)));
    $(side).onchange = event => {
      choose(side, event.target.selectedIndex);
      event.target.blur(); // else arrows would choose, and not move the curtain
    };
    choose(side, chosen[side]);
  }
  $("in").onclick = () => zoomBy(ZOOM);
  $("out").onclick = () => zoomBy(1 / ZOOM);
  $("full").onclick = full;
  $("fit").onclick = fit;
  const frame = document.querySelector("main");
  $("curtain").onpointerdown = event => $("curtain").setPointerCapture(event.pointerId);
  $("curtain").onpointermove = event => {
    const { left, width } = frame.getBoundingClientRect();
    if ($("curtain").hasPointerCapture(event.pointerId)) moveCurtain((event.clientX - left) / width);
  };
  frame.onpointermove = event => {
    const { left, top } = frame.getBoundingClientRect();
    const where = viewer.viewport.pointFromPixel(new OpenSeadragon.Point(event.clientX - left, event.clientY - top), true);
    const { x, y } = viewer.world.getItemAt(0).viewportToImageCoordinates(where);
    const { width, height } = scene.layers[0];
    const inside = x >= 0 && y >= 0 && x < width && y < height;
    $("place").textContent = inside ? `${Math.floor(x)}, ${Math.floor(y)}` : "";
  };
  document.addEventListener("keydown", press);
  for (const event of ["viewport-change", "resize", "open"]) viewer.addHandler(event, follow);
  viewer.addHandler("tile-load-failed", () => fail("A tile could not be had: the terminal says why, or the command has ended."));
  moveCurtain(curtain);
  follow();
}

async function start() {
  scene = await (await fetch("scene.json")).json();
  document.title = scene.layers.map(layer => layer.name).join(" · ");
  viewer = OpenSeadragon({
    id: "images", drawer: "canvas",
    tileSources: scene.layers.map((layer, number) => ({ tileSource: sourceOf(layer, number), x: 0, y: 0, width: 1 })),
    showNavigationControl: false, keyboardNavEnabled: false, crossOriginPolicy: false,
    imageLoaderLimit: 6, timeout: 600000, // browsers ask no more at a time; large blocks on slow disks take long
    animationTime: 0.5, maxZoomPixelRatio: 16, minZoomImageRatio: 0.5, visibilityRatio: 0.3,
    gestureSettingsMouse: { clickToZoom: false, dblClickToZoom: true },
    // Edges of transparent tiles would show as lines between whole pixels.
    smoothTileEdgesMinZoom: Infinity,
    subPixelRoundingForTransparency: OpenSeadragon.SUBPIXEL_ROUNDING_OCCURRENCES.ALWAYS,
  });
  // Coarser tiles are wiped before a finer one is drawn, which may be transparent.
  viewer.addHandler("tile-loaded", ({ tile }) => { tile.hasTransparency = true; });
  viewer.addOnceHandler("open", listen);
}

start().catch(error => fail(`The page could not be had: ${error.message}`));
