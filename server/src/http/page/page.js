// The page: a list of keys, a chart for each that is chosen, and new points as they come.
// The view is in the part of the address behind `#`, so a link carries it.

const RANGES = [["15m", 900], ["1h", 3600], ["6h", 21600], ["1d", 86400], ["7d", 604800], ["30d", 2592000], ["all", 0]];
const MAX_CHARTS = 20;
const LIST_LENGTH = 500;
/** How many keys of a longer list are live at a time: those that can be seen. */
const MAX_SEEN = 100;
const COLORS = { light: "#1a6f5c", dark: "#5cc4a8" };

const element = (id) => document.getElementById(id);
const list = element("keys"), filter = element("filter"), charts = element("charts");

/** What is shown: chosen keys, seconds before now (0: everything), or a range that was zoomed into. */
const view = { keys: [], filter: "", seconds: 3600, zoom: null, isLive: true, theme: null };
/** The keys that the filter matches, with the last point of each: [key, [second, value] or null]. */
let rows = [];
let current = -1;
/** True if more keys match than are listed. */
let isTruncated = false;
/** The charts by key: { figure, plot, data, value }. */
const shown = new Map();
let events = null;
let isReachable = true;

// The view and the address.

function readAddress() {
  const params = new URLSearchParams(location.hash.slice(1));
  view.keys = params.getAll("k").slice(0, MAX_CHARTS);
  view.filter = params.get("filter") ?? "";
  const range = RANGES.find(([name]) => name === params.get("range"));
  view.seconds = range ? range[1] : 3600;
  const from = Number(params.get("from")), until = Number(params.get("until"));
  view.zoom = params.has("from") && from < until ? [from, until] : null;
  view.isLive = params.get("live") !== "no";
  view.theme = params.get("theme");
}

function writeAddress() {
  const params = new URLSearchParams();
  view.keys.forEach((key) => params.append("k", key));
  if (view.filter) params.set("filter", view.filter);
  params.set("range", RANGES.find(([, seconds]) => seconds === view.seconds)[0]);
  if (view.zoom) {
    params.set("from", Math.floor(view.zoom[0]));
    params.set("until", Math.ceil(view.zoom[1]));
  }
  if (!view.isLive) params.set("live", "no");
  if (view.theme) params.set("theme", view.theme);
  history.replaceState(null, "", "#" + params);
}

function theme() {
  return view.theme ?? (matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light");
}

// The server.

async function ask(path, params) {
  let response;
  try {
    response = await fetch(path + "?" + new URLSearchParams(params), { cache: "no-store" });
  } catch (error) {
    reachable(false);
    throw error;
  }
  reachable(true);
  if (!response.ok) {
    const body = await response.json().catch(() => ({}));
    throw new Error(body.error ?? response.statusText);
  }
  return response.json();
}

/** Says so when the server is gone, and asks again until it is back. */
function reachable(now) {
  if (now === isReachable) return;
  isReachable = now;
  element("trouble").hidden = now;
  element("trouble").textContent = now ? "" : "The server cannot be reached. Trying again.";
  if (now) {
    refreshCharts();
    connect();
  } else {
    retry();
  }
}

function retry() {
  setTimeout(() => {
    if (!isReachable) refreshList().catch(retry);
  }, 1000);
}

// The list of keys.

/** A filter without a wildcard matches anywhere in a key. */
function pattern() {
  return /[*?]/.test(view.filter) ? view.filter : "*" + view.filter + "*";
}

let listing = 0;

async function refreshList() {
  const number = ++listing;
  const answer = await ask("api/v1/keys", { match: pattern(), limit: LIST_LENGTH, last: true });
  // A later filter has been answered already.
  if (number !== listing) return;
  rows = answer.keys.map(({ key, last }) => [key, last]);
  const isEmpty = answer.total === 0 && !view.filter;
  element("empty").hidden = !isEmpty;
  isTruncated = answer.truncated;
  const total = answer.total.toLocaleString();
  element("count").textContent = isEmpty ? "" : isTruncated ? `${rows.length} of ${total} keys: filter to see others` : answer.total === 1 ? "1 key" : `${total} keys`;
  current = Math.min(current, rows.length - 1);
  drawList();
  connect();
}

/** Returns the keys of the rows that can be seen. */
function seenKeys() {
  const height = list.scrollHeight / Math.max(1, list.children.length);
  const first = Math.floor(list.scrollTop / height), count = Math.ceil(list.clientHeight / height) + 1;
  return rows.slice(first, first + Math.min(count, MAX_SEEN)).map(([key]) => key);
}

function drawList() {
  while (list.children.length > rows.length) list.lastChild.remove();
  rows.forEach(([key, last], index) => {
    let item = list.children[index];
    if (!item) {
      item = document.createElement("li");
      item.role = "option";
      item.append(document.createElement("span"), document.createElement("span"));
      list.append(item);
    }
    if (item.dataset.key !== key) {
      item.dataset.key = key;
      item.firstChild.textContent = key;
      item.title = key;
    }
    item.ariaSelected = view.keys.includes(key);
    item.classList.toggle("current", index === current);
    const text = last ? number(last[1]) : "";
    if (item.lastChild.textContent !== text) item.lastChild.textContent = text;
  });
  element("hint").hidden = view.keys.length > 0 || !element("empty").hidden;
  charts.hidden = view.keys.length === 0;
}

/** Large numbers have a prefix: k is left out, since thousands are still read at a glance. */
const UNITS = [[1e18, "E"], [1e15, "P"], [1e12, "T"], [1e9, "G"], [1e6, "M"], [1, ""]];

function number(value) {
  const size = Math.abs(value);
  if (size >= 1e21 || (size !== 0 && size < 1e-3)) return value.toExponential(3);
  const [unit, name] = UNITS.find(([unit]) => size >= unit) ?? [1, ""];
  const scaled = value / unit, digits = Math.abs(scaled);
  return scaled.toLocaleString(undefined, { maximumFractionDigits: digits < 10 ? 3 : digits < 100 ? 2 : 1 }) + name;
}

/** The labels of an axis, with as many digits as tell neighbours apart. */
function axisNumbers(ticks) {
  const shown = ticks.filter((tick) => tick !== null);
  const size = Math.max(...shown.map(Math.abs)), step = shown.length > 1 ? Math.abs(shown[1] - shown[0]) : size;
  if (size >= 1e21 || (size !== 0 && size < 1e-3)) return ticks.map((tick) => tick === null ? "" : tick.toExponential(1));
  const [unit, name] = UNITS.find(([unit]) => size >= unit) ?? [1, ""];
  const decimals = Math.min(6, Math.max(0, Math.ceil(-Math.log10(step / unit) - 1e-9)));
  return ticks.map((tick) => tick === null ? "" : (tick / unit).toLocaleString(undefined, { minimumFractionDigits: decimals, maximumFractionDigits: decimals }) + (tick === 0 ? "" : name));
}

/** The labels of the time axis by the seconds between them; the second line where the first is not enough. */
const TIMES = [
  [31536000, "{YYYY}", null, null, null, null, null, null, 1],
  [2419200, "{MMM}", "\n{YYYY}", null, null, null, null, null, 1],
  [86400, "{D} {MMM}", "\n{YYYY}", null, null, null, null, null, 1],
  [60, "{HH}:{mm}", "\n{D} {MMM} {YYYY}", null, "\n{D} {MMM}", null, null, null, 1],
  [1, "{HH}:{mm}:{ss}", "\n{D} {MMM} {YYYY}", null, "\n{D} {MMM}", null, null, null, 1],
];

function choose(key) {
  if (view.keys.includes(key)) view.keys = view.keys.filter((other) => other !== key);
  else if (view.keys.length < MAX_CHARTS) view.keys.push(key);
  viewChanged();
}

function viewChanged() {
  writeAddress();
  drawToolbar();
  drawList();
  refreshCharts();
  connect();
}

// The charts.

function range() {
  if (view.zoom) return view.zoom;
  const now = Date.now() / 1000;
  return view.seconds ? [now - view.seconds, now] : [null, null];
}

async function refreshCharts() {
  for (const [key, chart] of shown) {
    if (!view.keys.includes(key)) {
      chart.plot?.destroy();
      chart.figure.remove();
      shown.delete(key);
    }
  }
  await Promise.all(view.keys.map((key) => refreshChart(key).catch((error) => note(key, error.message))));
}

function note(key, message) {
  const chart = shown.get(key);
  if (chart) chart.value.textContent = message;
}

function newChart(key) {
  const figure = document.createElement("figure");
  const caption = document.createElement("figcaption");
  const name = document.createElement("span"), value = document.createElement("span");
  const close = document.createElement("button");
  name.textContent = name.title = key;
  close.type = "button";
  close.textContent = "×";
  close.ariaLabel = "Close the chart of " + key;
  close.addEventListener("click", () => choose(key));
  caption.append(name, value, close);
  figure.append(caption);
  charts.append(figure);
  const chart = { figure, value, plot: null, data: [[], []], newest: null, loading: 0 };
  shown.set(key, chart);
  return chart;
}

async function refreshChart(key) {
  const chart = shown.get(key) ?? newChart(key);
  const loading = ++chart.loading;
  const [from, until] = range();
  const params = { key, max: Math.max(100, Math.round(charts.clientWidth || 800)) };
  if (from !== null) params.from = Math.floor(from);
  if (view.zoom) params.until = Math.ceil(until);
  const answer = await ask("api/v1/points", params);
  if (loading !== chart.loading || !shown.has(key)) return;
  const points = answer.series[0].points;
  chart.data = [points.map((point) => point[0]), points.map((point) => point[1])];
  draw(key, chart);
}

function draw(key, chart) {
  const [seconds, values] = chart.data;
  const last = values.length - 1;
  // The last of the merged points is an average.
  const newest = view.zoom ? null : (chart.newest ?? rows.find((row) => row[0] === key)?.[1]);
  const value = newest && last >= 0 && newest[0] >= seconds[last] ? newest[1] : values[last];
  chart.value.textContent = last < 0 ? "no points in this time" : number(value);
  if (!chart.plot) {
    chart.plot = new uPlot(options(key, chart), chart.data, chart.figure);
  } else {
    chart.plot.setData(chart.data, false);
  }
  let [from, until] = range();
  if (from === null) [from, until] = last < 0 ? [0, 1] : [seconds[0], Math.max(seconds[last], seconds[0] + 1)];
  chart.plot.setScale("x", { min: from, max: until });
}

function options(key, chart) {
  const style = getComputedStyle(document.documentElement);
  const text = style.getPropertyValue("--faint"), line = style.getPropertyValue("--line");
  const axis = { stroke: text, grid: { stroke: line, width: 1 }, ticks: { stroke: line, width: 1 } };
  const color = COLORS[theme()];
  return {
    width: Math.max(200, chart.figure.clientWidth - 18),
    height: 190,
    cursor: {
      sync: { key: "metrics" },
      drag: { x: true, y: false, setScale: false },
      // Going back is ours.
      bind: { dblclick: () => null },
    },
    scales: { x: { time: true } },
    legend: { live: true },
    series: [{ label: "time", value: "{YYYY}-{MM}-{DD} {HH}:{mm}:{ss}" }, { label: "value", stroke: color, fill: color + "22", width: 1.5, spanGaps: true, value: (_, value) => value === null ? "" : number(value) }],
    axes: [{ ...axis, values: TIMES }, { ...axis, size: 70, values: (_, ticks) => axisNumbers(ticks) }],
    hooks: {
      // The user has dragged.
      setSelect: [(plot) => {
        const { left, width } = plot.select;
        if (width < 3) return;
        const selected = [plot.posToVal(left, "x"), plot.posToVal(left + width, "x")];
        plot.setSelect({ left: 0, top: 0, width: 0, height: 0 }, false);
        if (selected[1] - selected[0] >= 2) zoom(selected);
      }],
    },
  };
}

function zoom(seconds) {
  view.zoom = seconds;
  viewChanged();
}

function redraw() {
  for (const [key, chart] of shown) {
    chart.plot?.destroy();
    chart.plot = null;
    draw(key, chart);
  }
}

// New points.

let connected = "";

function connect() {
  const charted = view.isLive && !view.zoom ? view.keys : [];
  const listed = view.isLive && !isTruncated ? [pattern()] : [];
  const keys = [...new Set([...charted, ...(view.isLive && isTruncated ? seenKeys() : [])])];
  const params = new URLSearchParams([...keys.map((key) => ["key", key]), ...listed.map((text) => ["match", text])]);
  const path = params.size > 0 ? "api/v1/live?" + params : "";
  if (path === connected && events && events.readyState !== EventSource.CLOSED) return;
  events?.close();
  events = null;
  connected = path;
  element("state").textContent = "";
  if (!path) return;
  events = new EventSource(path);
  events.addEventListener("open", () => {
    element("state").textContent = "live";
    reachable(true);
  });
  events.addEventListener("error", () => {
    // The server has refused the stream, or cannot be reached.
    const isRefused = events.readyState === EventSource.CLOSED;
    element("state").textContent = isRefused ? "not live: the server has too many viewers" : "";
    if (isRefused) setTimeout(connect, 10000);
    else reachable(false);
  });
  events.addEventListener("points", (event) => newPoints(JSON.parse(event.data)));
}

function newPoints(points) {
  const byKey = new Map(rows.map((row) => [row[0], row]));
  let isUnknown = false;
  for (const [key, second, value] of points) {
    const row = byKey.get(key);
    if (row) row[1] = [second, value];
    else isUnknown = true;
    const chart = shown.get(key);
    if (!chart || view.zoom) continue;
    if (!chart.newest || chart.newest[0] <= second) chart.newest = [second, value];
    const [seconds, values] = chart.data;
    let at = seconds.length;
    while (at > 0 && seconds[at - 1] > second) at--;
    if (at > 0 && seconds[at - 1] === second) values[at - 1] = value;
    else {
      seconds.splice(at, 0, second);
      values.splice(at, 0, value);
    }
    draw(key, chart);
  }
  drawList();
  if (isUnknown && rows.length < LIST_LENGTH) refreshSoon();
}

let refreshing = null;

function refreshSoon() {
  refreshing ??= setTimeout(() => {
    refreshing = null;
    refreshList().catch(() => {});
  }, 500);
}

// The toolbar, the keyboard, and the beginning.

function drawToolbar() {
  for (const button of element("ranges").children) {
    button.ariaPressed = !view.zoom && button.textContent === RANGES.find(([, seconds]) => seconds === view.seconds)[0];
  }
  element("live").ariaPressed = view.isLive;
  document.documentElement.dataset.theme = theme();
}

function setRange(seconds) {
  view.seconds = seconds;
  view.zoom = null;
  viewChanged();
}

function toggleLive() {
  view.isLive = !view.isLive;
  viewChanged();
}

function toggleTheme() {
  view.theme = theme() === "dark" ? "light" : "dark";
  viewChanged();
  redraw();
}

function move(step) {
  if (rows.length === 0) return;
  current = Math.max(0, Math.min(rows.length - 1, current + step));
  drawList();
  list.children[current].scrollIntoView({ block: "nearest" });
}

for (const [name, seconds] of RANGES) {
  const button = document.createElement("button");
  button.type = "button";
  button.textContent = name;
  button.addEventListener("click", () => setRange(seconds));
  element("ranges").append(button);
}
element("live").addEventListener("click", toggleLive);
element("theme").addEventListener("click", toggleTheme);
list.addEventListener("click", (event) => {
  const item = event.target.closest("li");
  if (!item) return;
  current = [...list.children].indexOf(item);
  choose(item.dataset.key);
});
charts.addEventListener("dblclick", () => setRange(view.seconds));
let scrolling = null;
list.addEventListener("scroll", () => {
  clearTimeout(scrolling);
  scrolling = setTimeout(() => isTruncated && connect(), 300);
});
filter.addEventListener("input", () => {
  view.filter = filter.value.trim();
  current = -1;
  writeAddress();
  refreshSoon();
  connect();
});
document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  const isTyping = event.target === filter;
  const act = {
    ArrowDown: () => move(1),
    ArrowUp: () => move(-1),
    Enter: () => current >= 0 && choose(rows[current][0]),
    Escape: () => {
      if (isTyping) filter.blur();
      else {
        view.keys = [];
        viewChanged();
      }
    },
    ...(isTyping ? {} : {
      "/": () => filter.focus(),
      " ": () => current >= 0 && choose(rows[current][0]),
      l: toggleLive,
      d: toggleTheme,
    }),
  }[event.key];
  // A button has its own keys.
  if (!act || (event.target.tagName === "BUTTON" && (event.key === " " || event.key === "Enter"))) return;
  event.preventDefault();
  act();
});
addEventListener("hashchange", () => {
  readAddress();
  start();
});
addEventListener("resize", () => {
  for (const chart of shown.values()) {
    chart.plot?.setSize({ width: Math.max(200, chart.figure.clientWidth - 18), height: 190 });
  }
});
// Times before now move on, and points that were merged are merged anew.
setInterval(() => {
  if (isReachable && view.isLive && !view.zoom) for (const [key, chart] of shown) draw(key, chart);
}, 1000);
setInterval(() => {
  if (isReachable && view.isLive && !view.zoom) refreshCharts();
}, 60000);
// What is not live, because the list is long.
setInterval(() => {
  if (isReachable && view.isLive && isTruncated) refreshSoon();
}, 10000);

function start() {
  filter.value = view.filter;
  drawToolbar();
  refreshList().catch(() => {});
  refreshCharts();
  connect();
}

readAddress();
start();
