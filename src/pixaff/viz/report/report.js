"use strict";
// The page of `pixaff report`. Names are foreign text: they are only ever set as textContent or as an attribute's value.

const $ = (id) => document.getElementById(id);
const data = JSON.parse($("data").textContent);
const VOID = 255;
const photos = data.photos.map((photo, index) => ({ ...photo, index }));
const decisions = new Map();
const view = { mode: "mask", alpha: null, order: [], current: 0 };

function element(kind, settings = {}, ...children) {
  const made = document.createElement(kind);
  for (const [name, value] of Object.entries(settings)) {
    if (name === "class") made.className = value;
    else if (name === "text") made.textContent = value;
    else if (name.startsWith("on")) made.addEventListener(name.slice(2), value);
    else made.setAttribute(name, value);
  }
  made.append(...children);
  return made;
}

const percent = (share, digits = 0) => (share === null ? "-" : `${(100 * share).toFixed(digits)} %`);
const className = (value) => (value === 0 ? "background" : value === VOID ? "void" : data.classes[value - 1] ?? `class ${value}`);

// Pascal VOC's colours: bit 3k + c of the number becomes bit 7 - k of channel c.
function colour(value) {
  if (value === VOID) return [224, 224, 192];
  const found = [0, 0, 0];
  for (let bit = 0; bit < 8; bit++) if ((value >> bit) & 1) found[bit % 3] |= 128 >> Math.floor(bit / 3);
  return found;
}

// ---- Parts: pictures, masks and scores of some photos each, in the page or in files beside it.

const KEPT = 40;
const parts = new Map();
const waiting = new Map();

globalThis.pixaffPart = (number, photosOfPart) => {
  waiting.get(number)?.(photosOfPart);
  waiting.delete(number);
};

function part(number) {
  const known = parts.get(number);
  if (known) {
    parts.delete(number);
    parts.set(number, known);
    return known;
  }
  const made = new Promise((resolve, reject) => {
    const block = $(`part-${number}`);
    if (block) return resolve(JSON.parse(block.textContent));
    waiting.set(number, resolve);
    const script = element("script", { src: `${data.parts.folder}/part-${number}.js` });
    script.addEventListener("load", () => script.remove());
    script.addEventListener("error", () => { script.remove(); parts.delete(number); reject(new Error("a part is missing")); });
    document.head.append(script);
  });
  parts.set(number, made);
  if (parts.size > KEPT) parts.delete(parts.keys().next().value);
  return made;
}

// The planes of bytes that `pack_planes` wrote.
async function unpacked(text, count, height, width) {
  const packed = Uint8Array.from(atob(text), (sign) => sign.charCodeAt(0));
  const stream = new Blob([packed]).stream().pipeThrough(new DecompressionStream("deflate"));
  const bytes = new Uint8Array(await new Response(stream).arrayBuffer());
  const size = height * width;
  if (bytes.length !== count * size) throw new Error("damaged data");
  return Array.from({ length: count }, (_, number) => {
    const plane = bytes.subarray(number * size, (number + 1) * size);
    for (let y = 0, at = 0; y < height; y++) {
      for (let x = 0; x < width; x++, at++) {
        const left = x ? plane[at - 1] : 0, above = y ? plane[at - width] : 0;
        plane[at] += left + above - (x && y ? plane[at - width - 1] : 0);
      }
    }
    return plane;
  });
}

async function loaded(photo) {
  const stored = (await part(Math.floor(photo.index / data.parts.each)))[photo.index % data.parts.each];
  if (!stored.ready) {
    stored.ready = (async () => {
      const [width, height] = photo.size;
      [stored.labels] = await unpacked(stored.mask, 1, height, width);
      if (stored.truth) [stored.true] = await unpacked(stored.truth, 1, height, width);
      const scores = stored.scores;
      if (scores) {
        const planes = await unpacked(scores.planes, scores.low.length, ...scores.grid);
        scores.values = planes.map((plane, row) => {
          const step = (scores.high[row] - scores.low[row]) / 255;
          return Float32Array.from(plane, (byte) => scores.low[row] + step * byte);
        });
      }
      return stored;
    })();
  }
  return stored.ready;
}

// ---- Masks at any alpha: as pixaff.predictor.masks_at, from scores of 8 bits.

// Lagrange's polynomials in log alpha, see pixaff.ops.powers.
function powerWeights(powers, alpha) {
  const at = powers.map(Math.log), x = Math.log(alpha);
  return at.map((mine) => at.reduce((product, other) => (other === mine ? product : (product * (x - other)) / (mine - other)), 1));
}

// Where the middles of `count` pixels lie between cells of `side` pixels of a photo of `pixels`: the first cell, and the share of the next.
function places(count, pixels, cells, side) {
  const first = new Int32Array(count), share = new Float32Array(count);
  for (let i = 0; i < count; i++) {
    const place = Math.min(Math.max((((i + 0.5) * pixels) / count) / side - 0.5, 0), cells - 1);
    first[i] = Math.min(Math.floor(place), Math.max(cells - 2, 0));
    share[i] = place - first[i];
  }
  return [first, share];
}

function maskAt(scores, alpha, width, height) {
  const [rows, columns] = scores.grid, count = scores.mix[0].length;
  const weights = powerWeights(scores.powers, alpha);
  const factors = Array.from({ length: count }, (_, j) => weights.reduce((sum, weight, k) => sum + weight * scores.mix[k][j], 0));
  const background = new Float32Array(rows * columns);
  for (let j = 0; j < count; j++) {
    const plane = scores.values[j], factor = factors[j];
    for (let at = 0; at < background.length; at++) background[at] += factor * plane[at];
  }
  const planes = [background, ...scores.values.slice(count)], values = [0, ...scores.classes];
  const [top, down] = places(height, scores.walked[0], rows, scores.cell), [left, right] = places(width, scores.walked[1], columns, scores.cell);
  const mask = new Uint8Array(width * height), best = new Float32Array(width), row = new Float32Array(columns);
  for (let y = 0; y < height; y++) {
    const above = top[y] * columns, below = Math.min(top[y] + 1, rows - 1) * columns, line = y * width;
    for (let k = 0; k < planes.length; k++) {
      const plane = planes[k];
      for (let x = 0; x < columns; x++) row[x] = plane[above + x] + down[y] * (plane[below + x] - plane[above + x]);
      for (let x = 0; x < width; x++) {
        const cell = left[x], next = Math.min(cell + 1, columns - 1);
        const score = Math.max(0, row[cell] + right[x] * (row[next] - row[cell]));
        if (k === 0 || score > best[x]) {
          best[x] = score;
          mask[line + x] = values[k];
        }
      }
    }
  }
  return mask;
}

// ---- Drawing

const DIFFERENCE = { missed: [47, 123, 255], extra: [255, 149, 0], wrong: [224, 33, 138] };

function paint(canvas, labels, width, height, truth) {
  canvas.width = width;
  canvas.height = height;
  canvas.labels = labels;
  const context = canvas.getContext("2d"), image = context.createImageData(width, height), pixels = image.data;
  const colours = new Map();
  const put = (at, [red, green, blue]) => pixels.set([red, green, blue, 255], 4 * at);
  for (let at = 0; at < labels.length; at++) {
    const value = labels[at];
    if (truth) {
      const real = truth[at];
      if (real === value || real === VOID) continue;
      put(at, DIFFERENCE[value === 0 ? "missed" : real === 0 ? "extra" : "wrong"]);
    } else if (value) {
      if (!colours.has(value)) colours.set(value, colour(value));
      put(at, colours.get(value));
    }
  }
  if (!truth) {
    // White within, black around: an outline that shows on snow and on asphalt.
    const edge = (one, other) => {
      if (labels[one] === labels[other] || labels[one] === VOID || labels[other] === VOID) return;
      const inner = labels[one] ? one : other;
      put(inner, [255, 255, 255]);
      put(inner === one ? other : one, [0, 0, 0]);
    };
    for (let y = 0; y < height; y++) {
      for (let x = 0; x < width; x++) {
        if (x) edge(y * width + x, y * width + x - 1);
        if (y) edge(y * width + x, (y - 1) * width + x);
      }
    }
  }
  context.putImageData(image, 0, 0);
}

async function draw(picture, photo, mode = view.mode) {
  picture.wanted = true;
  let stored;
  try {
    stored = await loaded(photo);
  } catch {
    picture.replaceChildren(element("span", { class: "trouble", text: "cannot be read: is a file of the report missing?" }));
    return;
  }
  if (!picture.wanted) return;
  let [image, canvas] = picture.children;
  if (!canvas) {
    const shown = photo.classes.map(className).join(", ") || "background only";
    image = element("img", { alt: `${photo.name}: ${shown}`, draggable: "false", width: photo.size[0], height: photo.size[1] });
    if (stored.photo) image.src = stored.photo;
    else image.hidden = true;
    canvas = element("canvas", { "aria-hidden": "true" });
    picture.replaceChildren(image, canvas);
  }
  const [width, height] = photo.size;
  const alpha = view.alpha !== null && stored.scores ? view.alpha : null;
  const labels = mode === "truth" ? stored.true : alpha === null ? stored.labels : maskAt(stored.scores, alpha, width, height);
  if (labels) paint(canvas, labels, width, height, mode === "difference" ? stored.true : null);
  else canvas.width = canvas.width;
  canvas.dataset.drawn = `${mode} ${alpha ?? "saved"}`;
}

function clear(picture) {
  picture.wanted = false;
  picture.replaceChildren();
}

const watcher = new IntersectionObserver((entries) => {
  for (const entry of entries) {
    const picture = entry.target;
    if (entry.isIntersecting) draw(picture, picture.photo, picture.mode);
    else clear(picture);
  }
}, { rootMargin: "400px" });

let pending = 0;
function redraw() {
  cancelAnimationFrame(pending);
  pending = requestAnimationFrame(() => {
    for (const picture of document.querySelectorAll(".picture")) {
      if (picture.wanted && picture.photo && !picture.mode) draw(picture, picture.photo);
    }
  });
}

// ---- Cards

function pictureOf(photo, mode = "") {
  const picture = element("span", { class: "picture" });
  picture.photo = photo;
  picture.mode = mode || undefined;
  watcher.observe(picture);
  return picture;
}

function chips(photo) {
  return photo.classes.map((value) => {
    const swatch = element("span", { class: "swatch" });
    swatch.style.background = `rgb(${colour(value).join(" ")})`;
    return element("span", { class: "chip", title: className(value) }, swatch, className(value));
  });
}

function figures(photo) {
  const words = [`mask ${percent(photo.shown)}`];
  if (photo.margin !== null) words.push(`confidence ${photo.margin.toFixed(2)}`);
  if (photo.iou !== null) words.push(`IoU ${percent(photo.iou)}`);
  return words.join(", ");
}

function card(photo) {
  const open = element("button", { class: "open", type: "button", "aria-label": `Enlarge ${photo.name}`, tabindex: "-1",
    onclick: () => { select(photo, false); enlarge(photo); } }, pictureOf(photo));
  const decide = (word, kind, label) => element("button", { class: kind, type: "button", tabindex: "-1", "aria-pressed": "false",
    "aria-label": `${label} ${photo.name}`, text: label, onclick: () => { select(photo, false); decideOn(photo, word, true); } });
  const words = element("div", { class: "words" },
    element("div", { class: "name", title: photo.name, text: photo.name }),
    element("div", { class: "chips" }, ...chips(photo)), element("div", { class: "small", text: figures(photo) }));
  if (photo.trouble) words.append(element("div", { class: "small trouble", title: photo.trouble, text: photo.trouble }));
  return element("li", { class: "card" }, open, words,
    element("div", { class: "decide" }, decide("accepted", "accept", "Accept"), decide("rejected", "reject", "Reject")));
}

// All cards are of one height, so that those out of view need no layout.
const measure = new ResizeObserver(([entry]) => {
  document.documentElement.style.setProperty("--card", `${entry.borderBoxSize[0].blockSize}px`);
});

const cards = photos.map((photo) => {
  const made = card(photo);
  made.addEventListener("focusin", () => select(photo, false));
  return made;
});

function unselect() {
  const before = view.order[view.current];
  if (before) for (const button of cards[before.index].querySelectorAll("button")) button.tabIndex = -1;
}

function select(photo, focus) {
  unselect();
  view.current = Math.max(0, view.order.indexOf(photo));
  const now = view.order[view.current];
  if (!now) return;
  for (const button of cards[now.index].querySelectorAll("button")) button.tabIndex = 0;
  if (focus) {
    const open = cards[now.index].querySelector(".open");
    open.focus({ preventScroll: true });
    cards[now.index].scrollIntoView({ block: "nearest" });
  }
}

// ---- Filters

const ORDERS = {
  doubtful: (a, b) => a.margin - b.margin,
  sure: (a, b) => b.margin - a.margin,
  name: (a, b) => (a.name < b.name ? -1 : 1),
  small: (a, b) => a.shown - b.shown,
  large: (a, b) => b.shown - a.shown,
  worst: (a, b) => (a.iou ?? 2) - (b.iou ?? 2),
  best: (a, b) => (b.iou ?? -1) - (a.iou ?? -1),
};

function filter() {
  const name = $("name").value.toLowerCase(), wanted = $("class").value, most = $("margin").value / 100;
  const from = $("area-from").value / 100, to = ($("area-to").value === "" ? 100 : $("area-to").value) / 100;
  const decision = $("decision").value;
  $("margin-value").textContent = most.toFixed(2);
  const kept = document.activeElement?.closest("#grid") ? view.order[view.current] : null;
  unselect();
  view.order = photos.filter((photo) => photo.name.toLowerCase().includes(name)
    && (wanted === "" || photo.classes.includes(Number(wanted)))
    && (most === 1 || photo.margin === null || photo.margin <= most)
    && photo.shown >= from && photo.shown <= to
    && (decision === "" || (decisions.get(photo.name) ?? "open") === decision));
  view.order.sort((a, b) => ORDERS[$("sort").value](a, b) || a.index - b.index);
  $("grid").replaceChildren(...view.order.map((photo) => cards[photo.index]));
  measure.disconnect();
  if (view.order.length) measure.observe(cards[view.order[0].index]);
  $("count").textContent = `${view.order.length} of ${photos.length} photos`;
  select(kept ?? view.order[0], false);
}

// ---- Review

const STORE = `pixaff-report-${data.id}`;

function mark(photo) {
  const decision = decisions.get(photo.name), made = cards[photo.index];
  made.classList.toggle("accepted", decision === "accepted");
  made.classList.toggle("rejected", decision === "rejected");
  made.querySelector(".accept").setAttribute("aria-pressed", decision === "accepted");
  made.querySelector(".reject").setAttribute("aria-pressed", decision === "rejected");
}

const named = (decision) => photos.filter((photo) => decisions.get(photo.name) === decision).map((photo) => photo.name);

function tally() {
  const accepted = named("accepted").length, rejected = named("rejected").length;
  $("review").textContent = `${accepted} accepted, ${rejected} rejected, ${photos.length - accepted - rejected} open`;
  $("get-accepted").disabled = !accepted;
  $("get-rejected").disabled = !rejected;
  try {
    localStorage.setItem(STORE, JSON.stringify([...decisions]));
  } catch { /* not every browser remembers for files */ }
}

function decideOn(photo, decision, toggle = false) {
  if (decision === null || (toggle && decisions.get(photo.name) === decision)) decisions.delete(photo.name);
  else decisions.set(photo.name, decision);
  mark(photo);
  tally();
}

function takeDecisions(entries) {
  const known = new Map(photos.map((photo) => [photo.name, photo]));
  for (const [name, decision] of entries) {
    if (!known.has(name) || (decision !== "accepted" && decision !== "rejected")) continue;
    decisions.set(name, decision);
    mark(known.get(name));
  }
  tally();
}

// An image list that pixaff reads (--list): "images"; the other two serve to continue here.
function download(decision) {
  const list = { images: named(decision), accepted: named("accepted"), rejected: named("rejected") };
  const url = URL.createObjectURL(new Blob([JSON.stringify(list, null, 1)], { type: "application/json" }));
  element("a", { href: url, download: `${decision}.json` }).click();
  setTimeout(() => URL.revokeObjectURL(url), 10000);
}

async function continueReview(file) {
  try {
    const found = JSON.parse(await file.text());
    takeDecisions(["accepted", "rejected"].flatMap((word) => found[word].map((name) => [name, word])));
    filter();
  } catch {
    $("review").textContent = "That file is no review of this page: expected one that was downloaded here.";
  }
}

// ---- Viewer

function enlarge(photo) {
  const viewer = $("viewer"), picture = $("viewer-picture");
  if (picture.photo !== photo) clear(picture);
  picture.photo = photo;
  $("viewer-name").textContent = photo.name;
  const words = [`${view.alpha === null ? "" : "saved "}${figures(photo)}`, decisions.get(photo.name) ?? "", photo.trouble];
  $("viewer-facts").replaceChildren(...chips(photo), ...words.filter((text) => text).map((text) => element("span", { text })));
  $("viewer-key").classList.toggle("shown", view.mode === "difference");
  if (!viewer.open) viewer.showModal();
  draw(picture, photo);
}

function move(steps) {
  const next = view.order[Math.min(Math.max(view.current + steps, 0), view.order.length - 1)];
  if (!next) return;
  const open = $("viewer").open;
  select(next, !open);
  if (open) enlarge(next);
}

function act(word) {
  const photo = view.order[view.current];
  if (word === "close") $("viewer").close();
  else if (word === "next") move(1);
  else if (word === "previous") move(-1);
  else if (photo) {
    decideOn(photo, word);
    if ($("viewer").open) enlarge(photo);
  }
}

$("viewer").addEventListener("click", (event) => {
  const word = event.target.dataset?.do;
  if (word) act(word);
});
$("viewer").addEventListener("close", () => {
  clear($("viewer-picture"));
  if (view.order.length) select(view.order[view.current], true);
});

// ---- Opacity, overlay, alpha

function setOpacity(value) {
  $("opacity").value = value;
  $("opacity-value").textContent = `${$("opacity").value} %`;
  document.documentElement.style.setProperty("--opacity", $("opacity").value / 100);
}

function setMode(mode) {
  view.mode = $("mode").value = mode;
  $("viewer-key").classList.toggle("shown", mode === "difference");
  redraw();
}

function nextMode() {
  const modes = [...$("mode").options].map((option) => option.value);
  setMode(modes[(modes.indexOf(view.mode) + 1) % modes.length]);
}

const alphaOf = (position) => {
  const { from, to } = data.alpha;
  return Math.min(Math.max(Number((from * (to / from) ** (position / 160)).toPrecision(3)), from), to);
};
const positionOf = (alpha) => Math.round((160 * Math.log(alpha / data.alpha.from)) / Math.log(data.alpha.to / data.alpha.from));

function setAlpha(alpha) {
  view.alpha = alpha;
  if ($("viewer").open) enlarge(view.order[view.current]);
  $("alpha").value = positionOf(alpha ?? data.alpha.saved);
  $("alpha-value").textContent = alpha === null ? "as saved" : String(alpha);
  $("alpha").setAttribute("aria-valuetext", $("alpha-value").textContent);
  const shown = alpha ?? data.alpha.saved;
  $("command").textContent = data.alpha.command.replaceAll("{alpha}", String(shown));
  redraw();
}

async function copy() {
  try {
    await navigator.clipboard.writeText($("command").textContent);
    $("copy").textContent = "Copied";
  } catch {
    getSelection().selectAllChildren($("command"));
    $("copy").textContent = document.execCommand("copy") ? "Copied" : "Selected";
  }
  setTimeout(() => { $("copy").textContent = "Copy"; }, 1500);
}

// ---- Ground truth

function showScores({ iou, miou, matrix, images, rank, worst, best }) {
  $("scores").hidden = false;
  $("rank").hidden = rank === null;
  $("rank").textContent = `Rank correlation of the confidence with the IoU: ${rank === null ? "" : rank.toFixed(2)}. `
    + "1 would mean that the order by confidence is that by IoU, 0 that it tells nothing about it.";
  $("miou").textContent = `mIoU ${percent(miou, 2)} on ${images} photos`;
  const present = iou.map((value, index) => [index, value]).filter(([, value]) => value !== null);
  $("bars").replaceChildren(...present.map(([value, found]) => {
    const fill = element("div", { class: "fill" });
    fill.style.width = `${100 * found}%`;
    return element("div", { class: "row", role: "listitem" },
      element("span", { class: "label", title: className(value), text: className(value) }),
      element("span", { class: "track" }, fill), element("span", { class: "number", text: (100 * found).toFixed(1) }));
  }));
  const shown = present.map(([value]) => value);
  const head = element("tr", {}, element("td"), ...shown.map((value) => element("th", { scope: "col", text: className(value) })));
  const rows = shown.map((value) => {
    const sum = matrix[value].reduce((total, count) => total + count, 0);
    return element("tr", {}, element("th", { scope: "row", title: className(value), text: className(value) }), ...shown.map((other) => {
      const share = sum ? matrix[value][other] / sum : 0;
      const cell = element("td", { text: share >= 0.0005 ? (100 * share).toFixed(1) : "" });
      const strength = Math.round(60 * Math.sqrt(share));
      cell.style.background = `color-mix(in srgb, var(${value === other ? "--yes" : "--no"}) ${strength}%, transparent)`;
      return cell;
    }));
  });
  $("matrix").replaceChildren(element("thead", {}, head), element("tbody", {}, ...rows));
  for (const [id, some] of [["worst", worst], ["best", best]]) {
    $(id).replaceChildren(...some.map((index) => {
      const photo = photos[index];
      return element("li", { class: "card" }, element("button", { class: "open", type: "button",
        "aria-label": `Enlarge ${photo.name}`, onclick: () => { select(photo, false); setMode("difference"); enlarge(photo); } },
        pictureOf(photo, "difference")),
        element("div", { class: "words" }, element("div", { class: "name", title: photo.name, text: photo.name }),
          element("div", { class: "small", text: figures(photo) })));
    }));
  }
}

// ---- Photos without a mask

function showFailed(failed) {
  $("failures").hidden = !failed.length;
  $("failures-title").textContent = `${failed.length === 1 ? "1 photo" : `${failed.length} photos`} failed`;
  $("failed").replaceChildren(...failed.map(([name, why]) =>
    element("li", {}, element("strong", { text: name }), ` ${why}`)));
}

// ---- Keys

const KEYS = {
  a: () => act("accepted"), r: () => act("rejected"), u: () => act(null), m: nextMode,
  ArrowRight: () => move(1), ArrowLeft: () => move(-1),
  ArrowDown: () => move($("viewer").open ? 1 : perRow()), ArrowUp: () => move(-($("viewer").open ? 1 : perRow())),
  "+": () => setOpacity(Number($("opacity").value) + 10), "-": () => setOpacity(Number($("opacity").value) - 10),
  "[": () => stepAlpha(-1), "]": () => stepAlpha(1),
};
const perRow = () => getComputedStyle($("grid")).gridTemplateColumns.split(" ").length;

function stepAlpha(step) {
  if (data.alpha) setAlpha(alphaOf(Math.min(Math.max(Number($("alpha").value) + step, 0), 160)));
}

document.addEventListener("keydown", (event) => {
  const typing = event.target.closest("input, select, summary, .scroll");
  if (event.ctrlKey || event.metaKey || event.altKey || typing || !KEYS[event.key]) return;
  event.preventDefault();
  KEYS[event.key]();
});

// ---- Start

function start() {
  $("title").textContent = data.title;
  document.title = `${data.title} - pixaff report`;
  $("facts").textContent = data.facts;
  const values = [...new Set(photos.flatMap((photo) => photo.classes))].sort((a, b) => a - b);
  $("class").append(...values.map((value) => element("option", { value, text: className(value) })));
  if (photos.every((photo) => photo.margin === null)) {
    for (const made of document.querySelectorAll(".margin")) made.remove();
  }
  if (!data.scores) {
    for (const made of document.querySelectorAll("#mode option:not(:first-child), #sort .truth")) made.remove();
  }
  if (!$("margin")) $("tools").append(element("input", { type: "hidden", id: "margin", value: "100" }), element("output", { id: "margin-value", hidden: "" }));
  for (const id of ["name", "class", "margin", "area-from", "area-to", "decision", "sort"]) $(id).addEventListener("input", filter);
  $("opacity").addEventListener("input", () => setOpacity($("opacity").value));
  $("mode").addEventListener("input", () => setMode($("mode").value));
  $("get-accepted").addEventListener("click", () => download("accepted"));
  $("get-rejected").addEventListener("click", () => download("rejected"));
  $("load").addEventListener("change", () => $("load").files.length && continueReview($("load").files[0]));
  if (data.alpha) {
    $("alphas").hidden = false;
    $("alpha-note").textContent = data.alpha.note;
    $("alpha").addEventListener("input", () => setAlpha(alphaOf($("alpha").value)));
    $("saved").addEventListener("click", () => setAlpha(null));
    $("copy").addEventListener("click", copy);
    setAlpha(null);
  }
  if (matchMedia("(max-width: 40rem)").matches) $("tools").open = false;
  if (data.scores) showScores(data.scores);
  showFailed(data.failed);
  setOpacity(55);
  try {
    takeDecisions(JSON.parse(localStorage.getItem(STORE) ?? "[]"));
  } catch {
    tally();
  }
  filter();
  document.documentElement.dataset.ready = "yes";
}

start();
