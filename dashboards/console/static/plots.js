// Draws what a page's twin under /api returns. Each plot has a table beside it that says the same.
"use strict";

const style = getComputedStyle(document.documentElement); // follows the reader's scheme, light or dark
const NOTHING = "Nothing here can be drawn: no figure of it was kept. The table below says what is known.";
const colour = (name) => style.getPropertyValue(`--${name}`).trim();
const TONES = { fine: "good", degraded: "bad", inconclusive: "wait" };
const MARKS = { promotion: "good", rollback: "bad", refusal: "wait", incident: "bad" };
const ROW = 105, GAP = 34, HEAT_ROW = 17;

function baseLayout() {
  return {
    paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)", hovermode: "x unified",
    font: { family: "system-ui, sans-serif", size: 12, color: colour("ink") },
    hoverlabel: { bgcolor: colour("card"), bordercolor: colour("line"), font: { color: colour("ink") } },
    margin: { l: 92, r: 16, t: 26, b: 46 }, showlegend: false, shapes: [], annotations: [],
  };
}

const axis = (extra) => ({ gridcolor: colour("line"), linecolor: colour("line"), zeroline: false, automargin: false, ...extra });
/** Plotly reads a few tags in texts: names from traffic have none. */
const plain = (text) => String(text).replace(/&/g, "&amp;").replace(/</g, "&lt;");
const local = (time) => time ? new Date(time) : null;

/** One detector: what mattered most in each window against its limit. */
function detectorTraces(detector, windows, number) {
  const rows = windows.filter((row) => row.figures[detector]);
  const of = (pick) => rows.map((row) => pick(row.figures[detector], row));
  const shared = { x: rows.map((row) => local(row.time)), xaxis: "x", yaxis: `y${number}` };
  return [
    { ...shared, name: "limit", y: of((figure) => figure.limit), mode: "lines", hoverinfo: "skip",
      line: { color: colour("muted"), width: 1, dash: "dash", shape: "hv" } },
    { ...shared, name: plain(detector), y: of((figure) => figure.value), mode: "lines+markers",
      customdata: of((figure, row) => [plain(figure.subject), figure.limit, row.detectors[detector] ?? "", row.action]),
      hovertemplate: "%{y:.4g} of %{customdata[0]} (limit %{customdata[1]:.4g}): %{customdata[2]}",
      line: { color: colour("accent"), width: 1.6 },
      marker: { size: 7, color: of((_, row) => colour(TONES[row.detectors[detector]] ?? "muted")) } },
  ];
}

/** Layers' names as they fit beside a row: without what all begin with, and cut in the middle; the table has them whole. */
function shortened(names) {
  const parts = names.map((name) => name.split(".")), common = parts[0].findIndex((part, place) => parts.some((other) => other[place] !== part));
  return names.length < 2 || common < 0 ? names.map(middleCut) : parts.map((own) => middleCut(own.slice(common).join(".")));
}
const middleCut = (name) => name.length > 15 ? `${name.slice(0, 6)}…${name.slice(-8)}` : name;

function heatTrace(grid, number) {
  return {
    type: "heatmap", x: grid.times.map(local), y: grid.names.map(plain), z: grid.values, xaxis: "x", yaxis: `y${number}`,
    zmin: 0, zmax: 2, showscale: false, hovertemplate: "%{y}: %{z:.2f} of its limit<extra></extra>",
    colorscale: [[0, colour("good-soft")], [0.5, colour("wait")], [1, colour("bad")]], xgap: 1, ygap: 1,
  };
}

const SHADES = ["#4f7df0", "#2a9d8f", "#e9a23b", "#c8553d", "#8d6cc9", "#5b8e55", "#d279a6", "#6b7a90"];

function groupTraces(grid, number) {
  return grid.names.map((name, place) => ({
    type: "bar", name: plain(name), x: grid.times.map(local), y: grid.values[place], xaxis: "x", yaxis: `y${number}`,
    marker: { color: SHADES[place % SHADES.length] }, hovertemplate: `${plain(name)}: %{y}<extra></extra>`,
  }));
}

/** What colours mean, from the right as far as there is room; the others say it under the pointer. */
function groupKeys(names, top, width) {
  const at = { x: 1, xref: "paper", xanchor: "left", y: top, yref: "paper", yanchor: "bottom", showarrow: false };
  const keys = [], room = (name) => 6.4 * name.length + 24;
  const fitting = names.findIndex((_, place) => names.slice(0, place + 1).reduce((sum, name) => sum + room(name), 0) > width);
  let used = 0;
  for (let place = (fitting < 0 ? names.length : fitting) - 1; place >= 0; place--) {
    used += room(names[place]);
    keys.push({ ...at, text: "■", xshift: -used, font: { size: 11, color: SHADES[place % SHADES.length] } });
    keys.push({ ...at, text: plain(names[place]), xshift: 12 - used, font: { size: 11, color: colour("muted") } });
  }
  return keys;
}

/** Stack rows of the given heights from the top down; return each one's share of the whole. */
function domains(heights) {
  const whole = heights.reduce((sum, height) => sum + height + GAP, -GAP);
  let top = whole;
  return [whole, heights.map((height) => { const span = [(top - height) / whole, top / whole]; top -= height + GAP; return span; })];
}

const markWords = (mark) => ({ promotion: "▲", rollback: "▼", refusal: "✕", incident: "!" }[mark.kind]) + (mark.version ? ` ${mark.version}` : "");

/** The marks whose words have room beside those of newer ones; the others are lines, and rows of the table. */
function namedMarks(data, width) {
  const times = [...data.windows, ...data.marks].map((row) => +local(row.time));
  const [from, until] = [Math.min(...times), Math.max(...times)];
  let free = Infinity;
  return new Set([...data.marks].sort((one, other) => local(other.time) - local(one.time)).filter((mark) => {
    const middle = width * (local(mark.time) - from) / (until - from || 1), half = 4 * markWords(mark).length + 2;
    if (middle + half > free) return false;
    free = middle - half;
    return true;
  }));
}

function drawOverTime(element, data) {
  const detectors = [...new Set(data.windows.flatMap((row) => Object.keys(row.figures)))];
  const rows = detectors.map((name) => ({ title: plain(name), height: ROW, traces: (n) => detectorTraces(name, data.windows, n) }));
  if (data.saturation.names.length) rows.push({ title: "saturation of layers, of their limits", height: 24 + HEAT_ROW * data.saturation.names.length,
    traces: (n) => [heatTrace(data.saturation, n)], axis: { type: "category", autorange: "reversed", nticks: undefined, tickmode: "array", tickfont: { size: 9 },
      tickvals: data.saturation.names.map(plain), ticktext: shortened(data.saturation.names).map(plain) } });
  for (const kind of ["domain", "language"]) {
    const chosen = data.groups.names.map((name, place) => [name, place]).filter(([name]) => name.startsWith(`${kind}=`));
    if (chosen.length > 1) rows.push({ title: `requests by ${kind}`, height: ROW, keys: chosen.map(([name]) => name.slice(kind.length + 1)), traces: (n) => groupTraces({ ...data.groups,
      names: chosen.map(([name]) => name.slice(kind.length + 1)), values: chosen.map(([, place]) => data.groups.values[place]) }, n) });
  }
  if (!rows.length) return nothing(element);
  const [height, spans] = domains(rows.map((row) => row.height));
  const layout = baseLayout();
  layout.margin.t += 14; // above the first row's title: what happened
  layout.height = height + layout.margin.t + layout.margin.b;
  layout.barmode = "stack";
  layout.xaxis = axis({ type: "date", anchor: `y${rows.length}`, domain: [0, 1], side: "bottom" });
  const traces = [], width = (element.clientWidth || 900) - layout.margin.l - layout.margin.r;
  rows.forEach((row, place) => {
    layout[`yaxis${place + 1}`] = axis({ domain: spans[place], anchor: "x", nticks: 4, fixedrange: true, tickformat: row.axis ? undefined : "~g", ...row.axis });
    layout.annotations.push({ text: row.title, x: 0, xref: "paper", y: spans[place][1], yref: "paper", yanchor: "bottom", xanchor: "left",
      showarrow: false, font: { size: 12, color: colour("muted") }, bgcolor: colour("card") });
    layout.annotations.push(...groupKeys(row.keys ?? [], spans[place][1], width - 9 * row.title.length));
    traces.push(...row.traces(place + 1));
  });
  const named = namedMarks(data, width);
  for (const mark of data.marks) {
    layout.shapes.push({ type: "line", x0: local(mark.time), x1: local(mark.time), y0: 0, y1: 1, yref: "paper",
      line: { color: colour(MARKS[mark.kind]), width: 1.2, dash: mark.kind === "incident" ? "dot" : "solid" } });
    if (named.has(mark)) layout.annotations.push({ x: local(mark.time), y: 1, yref: "paper", yanchor: "bottom", yshift: 14, showarrow: false,
      text: markWords(mark),
      font: { size: 11, color: colour(MARKS[mark.kind]) } });
  }
  show(element, traces, layout);
}

function drawCosts(element, data) {
  const metrics = [...new Set(data.costs.map((cost) => cost.metric))];
  if (!metrics.length) return nothing(element);
  const [height, spans] = domains(metrics.map(() => ROW));
  const layout = baseLayout();
  layout.height = height + layout.margin.t + layout.margin.b;
  layout.xaxis = axis({ type: "category", anchor: `y${metrics.length}`, title: { text: "version" },
    categoryorder: "array", categoryarray: [...new Set(data.costs.map((cost) => cost.version))] });
  layout.margin.b = 48;
  const traces = [];
  metrics.forEach((metric, place) => {
    const rows = data.costs.filter((cost) => cost.metric === metric);
    layout[`yaxis${place + 1}`] = axis({ domain: spans[place], anchor: "x", nticks: 4, rangemode: "tozero", fixedrange: true });
    layout.annotations.push({ text: `${metric} of full precision's`, x: 0, xref: "paper", y: spans[place][1], yref: "paper",
      yanchor: "bottom", xanchor: "left", showarrow: false, font: { size: 12, color: colour("muted") } });
    for (const target of new Set(rows.map((cost) => cost.target))) {
      const own = rows.filter((cost) => cost.target === target), shared = { x: own.map((cost) => cost.version), yaxis: `y${place + 1}` };
      traces.push({ ...shared, name: `${target}, budget`, y: own.map((cost) => cost.budget), mode: "lines", hoverinfo: "skip",
        line: { color: colour("muted"), dash: "dash", width: 1 } });
      traces.push({ ...shared, name: target, y: own.map((cost) => cost.value), mode: "lines+markers", line: { color: colour("accent") },
        marker: { size: 8, color: own.map((cost) => colour(cost.verdict === "passed" ? "good" : "bad")) },
        hovertemplate: `${target}: %{y:.3g}<extra></extra>` });
    }
  });
  show(element, traces, layout);
}

const PLACES = [["top center", 0, -16], ["bottom center", 0, 16], ["middle right", 1, 0], ["middle left", -1, 0],
  ["top right", 1, -12], ["top left", -1, -12], ["bottom right", 1, 12], ["bottom left", -1, 12]];

/** Where each label covers no point and no other label; null where it has no such place. The first come first. */
function labelPlaces(points, width, height) {
  const parts = (values, least) => {
    const low = Math.min(least, ...values), span = Math.max(...values) - low || 1;
    return values.map((value) => (value - low) / span);
  };
  const across = parts(points.map((point) => point.x), 0), up = parts(points.map((point) => point.y), Infinity);
  const box = (x, y, wide, high) => ({ left: x - wide / 2, right: x + wide / 2, top: y - high / 2, bottom: y + high / 2 });
  const apart = (one, other) => one.right <= other.left || other.right <= one.left || one.bottom <= other.top || other.bottom <= one.top;
  const taken = points.map((_, place) => box(across[place] * width, (1 - up[place]) * height, 12, 12));
  return points.map((point, place) => {
    const wide = 8 * String(point.name).length, x = across[place] * width, y = (1 - up[place]) * height;
    for (const [name, side, down] of PLACES) {
      const label = box(x + side * (wide / 2 + 9), y + down, wide, 15);
      if (taken.every((other) => apart(label, other))) { taken.push(label); return name; }
    }
    return null;
  });
}

function drawFront(element, data) {
  const rank = (point) => (point.name === data.version ? 0 : point.dominated ? 2 : 1);
  const points = [...data.front].sort((one, other) => rank(one) - rank(other));
  if (!points.length) return nothing(element);
  const layout = baseLayout();
  layout.height = 300;
  layout.hovermode = "closest";
  layout.xaxis = axis({ title: { text: data.front_axes[0] }, rangemode: "tozero" });
  layout.yaxis = axis({ title: { text: data.front_axes[1], standoff: 12 }, automargin: true });
  layout.margin.b = 48;
  const places = labelPlaces(points, 0.9 * (element.clientWidth || 900) - layout.margin.l, 190);
  show(element, [{ x: points.map((point) => point.x), y: points.map((point) => point.y), mode: "markers+text", cliponaxis: false,
    textposition: places.map((place) => place ?? "top center"), text: points.map((point, place) => places[place] ? plain(point.name) : ""),
    customdata: points.map((point) => [plain(point.name), plain(point.recipe)]),
    hovertemplate: "version %{customdata[0]}, %{customdata[1]}: %{x:.3g}, %{y:.4g}<extra></extra>",
    marker: { size: points.map((point) => point.name === data.version ? 15 : 11), symbol: points.map((point) => point.dominated ? "circle-open" : "circle"),
      line: { width: points.map((point) => point.name === data.version ? 3 : 1), color: colour("ink") },
      color: points.map((point) => colour(point.passed ? "good" : "bad")) } }], layout);
}

function nothing(element) {
  const sentence = document.createElement("p");
  element.style.height = "";
  sentence.textContent = NOTHING;
  element.replaceChildren(sentence);
}

function show(element, traces, layout) {
  element.replaceChildren();
  element.style.height = `${layout.height}px`; // at a resize Plotly fills what its element has
  Plotly.newPlot(element, traces, layout, { displaylogo: false, responsive: true, modeBarButtonsToRemove: ["lasso2d", "select2d"] });
}

const DRAWERS = { "over-time": drawOverTime, costs: drawCosts, front: drawFront };

document.addEventListener("DOMContentLoaded", async () => {
  const wanted = new Map();
  for (const element of document.querySelectorAll("[data-plot]")) {
    const address = element.dataset.source;
    if (!wanted.has(address)) wanted.set(address, fetch(address).then((answer) => answer.ok ? answer.json() : Promise.reject(answer.statusText)));
    try {
      const data = await wanted.get(address), draw = () => DRAWERS[element.dataset.plot](element, data);
      draw();
      matchMedia("(prefers-color-scheme: dark)").addEventListener("change", draw);
    } catch (error) {
      element.textContent = `The plot cannot be drawn (${error}); the table below it says the same.`;
    }
  }
});
