// What the controls of the explorer do; Plotly draws. The view is `view`, and lies in the address.
"use strict";
const $ = (id) => document.getElementById(id);
const study = JSON.parse($("study").textContent);
const NAMES = { label_noise: "label noise", num_parameters: "number of parameters" };
const VIRIDIS = ["#440154", "#414487", "#2a788e", "#22a884", "#7ad151", "#fde725"];
const MARKS = ["circle", "square", "triangle-up", "diamond", "x", "cross", "star", "hexagon"];
const FEW = 6; // lines that are drawn at first
const MANY = 12; // places of an axis at which single seeds are named
let numbers, plain, view;

const unpack = async (text) => {
  const bytes = Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
  return new Response(stream).arrayBuffer();
};

// The study: axes, cells and their values

const INNER = ["width", "label_noise", "epoch"];
const outer = [...new Set(study.groups.flatMap((group) => Object.keys(group.at)))];
const byPlace = new Map(study.groups.map((group) => [placeOf(group.at), group]));
const entries = new Map(study.entries.map((entry) => [entry.key, entry]));
const axes = new Map();
for (const axis of [...outer, ...INNER]) {
  const all = study.groups.flatMap((group) =>
    outer.includes(axis) ? [group.at[axis] ?? null] : group[axis]);
  const values = [...new Set(all)];
  if (!values.some((value) => typeof value === "string")) values.sort((a, b) => a - b);
  if (values.length > 1) axes.set(axis, values);
}
const fixed = { ...study.groups[0].at };
for (const axis of INNER) fixed[axis] = study.groups[0][axis].at(-1);
const seeds = [...new Set(study.groups.flatMap((group) => group.seed))];
for (const lower of study.entries.filter((entry) => entry.key.startsWith("best_lower."))) {
  const norm = lower.key.slice("best_lower.".length), name = `bracket, ${lower.name.split(", ")[1]}`;
  entries.set(`bracket.${norm}`, {
    key: `bracket.${norm}`, name, kind: "brackets", unit: lower.unit, parts: [lower.key, `best_upper.${norm}`] });
}

function placeOf(at) { return JSON.stringify(outer.map((axis) => at[axis] ?? null)); }

// A cell's group and its place among the group's cells, or null where there is none.
function cellOf(at) {
  const group = byPlace.get(placeOf(at));
  const places = group && INNER.map((axis) => group[axis].indexOf(at[axis]));
  if (!group || places.includes(-1)) return null;
  const [w, n, e] = places;
  return { group, w, place: (w * group.label_noise.length + n) * group.epoch.length + e };
}

// The values of single seeds that are switched on: [seed, value].
function single(key, at) {
  const cell = cellOf(at), start = cell?.group.values[key];
  if (start === undefined) return [];
  const count = cell.group.seed.length;
  return cell.group.seed.map((seed, s) => [seed, numbers[start + cell.place * count + s]])
    .filter(([seed, value]) => !view.off.includes(seed) && Number.isFinite(value));
}

// Mean over seeds with its interval: the same as lipdescent.analysis.statistics.mean_estimate.
function estimate(entry, at) {
  if (!study.whole) {
    const cell = cellOf(at), start = cell?.group.values[entry.key];
    if (start === undefined || Number.isNaN(numbers[start + 4 * cell.place])) return null;
    const [value, low, high, n] = numbers.slice(start + 4 * cell.place, start + 4 * cell.place + 4);
    return { value, low, high, n };
  }
  const values = single(entry.key, at).map(([, value]) => value), n = values.length;
  if (!n) return null;
  const known = cellOf(at).group.seed.filter((seed) => !view.off.includes(seed)).length;
  if (n === 1) return { value: values[0], low: NaN, high: NaN, n };
  const scaled = entry.plain ? values : values.map(Math.log);
  const mean = scaled.reduce((sum, one) => sum + one, 0) / n;
  let low = Math.min(...scaled), high = Math.max(...scaled);
  if (known >= 4) {
    const half = study.half[n] * Math.sqrt(
      scaled.reduce((sum, one) => sum + (one - mean) ** 2, 0) / (n - 1)) || NaN;
    [low, high] = n >= 4 ? [mean - half, mean + half] : [NaN, NaN];
  }
  const slack = 1 + 1e-12 * entry.side; // above the rounding of logarithms and exponentials
  const back = (one) => (entry.plain ? one : Math.exp(one)) * slack;
  const [least, most] = entry.ends; // none of the values lies beyond, nor does their mean
  return { value: back(mean), n, low: Math.max(back(low), least ?? -Infinity),
    high: Math.min(back(high), most ?? Infinity) };
}

// Numbers as text: four digits, a bound rounded outwards (side -1 down, 1 up, 0 to the nearest)

function digits(value, side) {
  if (!Number.isFinite(value) || value === 0) return value === 0 ? "0" : "-";
  if (!side) return String(Number(value.toPrecision(4)));
  const up = (side > 0) === (value > 0);
  const [whole, exponent] = Math.abs(value).toExponential(100).split("e");
  const figures = whole.replace(".", "");
  const more = up && /[1-9]/.test(figures.slice(4)) ? 1 : 0;
  const shown = Number(`${Number(figures.slice(0, 4)) + more}e${Number(exponent) - 3}`);
  return String(Math.sign(value) * shown);
}
const withUnit = (entry) => entry.unit ? `${entry.name} (${entry.unit})` : entry.name;
const named = (axis) => NAMES[axis] ?? axis.replaceAll("_", " ");
const told = (axis, value) => value === null ? "none"
  : axis === "label_noise" ? `${Number((100 * value).toPrecision(6))} %` : String(value);
const lineName = (axis, value) => typeof value === "number" && axis !== "label_noise"
  ? `${named(axis)} ${told(axis, value)}` : told(axis, value);
const estimated = (entry, one) => digits(one.value, entry.side) + (Number.isFinite(one.low)
  ? ` [${digits(one.low, entry.side && -1)}, ${digits(one.high, entry.side && 1)}]` : "");

// The view and the address

const axisOfX = () => (view.x === "num_parameters" ? "width" : view.x);
const usual = (axis) => axis === "label_noise" || outer.includes(axis)
  ? axes.get(axis)[0] : axes.get(axis).at(-1);
const several = (values) => values.length <= FEW ? [...values]
  : Array.from({ length: FEW }, (_, i) => values[Math.round(i * (values.length - 1) / (FEW - 1))]);

function start() {
  const first = (...keys) => keys.find((key) => entries.has(key));
  const norm = [...entries.keys()].find((key) => key.startsWith("bracket."));
  const x = axes.has("width") ? "width" : [...axes.keys()].at(-1) ?? "epoch";
  return {
    view: "lines", y: first("test_error", "test_loss", study.entries[0].key), x,
    below: norm ?? "", lines: "", rows: "", xscale: "log", yscale: "usual", seeds: "mean",
    at: Object.fromEntries([...axes.keys()].map((axis) => [axis, usual(axis)])),
    on: null, off: [], mark: null };
}

// Choices that contradict each other give way to the first that fits.
function settle() {
  const offered = [...axes.keys()].filter((axis) => axis !== axisOfX());
  const wanted = ["label_noise", ...offered].find((axis) => offered.includes(axis)) ?? "";
  if (!offered.includes(view.lines) && view.lines !== "none") view.lines = wanted;
  const row = ["epoch", ...offered].find((axis) => offered.includes(axis)) ?? "";
  if (!offered.includes(view.rows)) view.rows = row;
  if (!view.rows) view.view = "lines";
  const values = axes.get(view.lines) ?? [];
  view.on = view.on?.filter((value) => values.includes(value)) ?? null;
  if (!view.on?.length) view.on = several(values);
}

function toAddress() {
  const parts = new URLSearchParams();
  for (const key of ["view", "y", "below", "x", "lines", "rows", "xscale", "yscale", "seeds"])
    parts.set(key, view[key]);
  for (const [axis, value] of Object.entries(view.at)) parts.set(`at.${axis}`, value ?? "");
  parts.set("on", view.on.map((value) => value ?? "").join());
  if (view.off.length) parts.set("off", view.off.join());
  if (view.mark !== null) parts.set("mark", view.mark);
  history.replaceState(null, "", `#${parts}`);
}

function fromAddress() {
  view = start();
  const parts = new URLSearchParams(location.hash.slice(1));
  const pick = (axis, text) => axes.get(axis)?.find((value) => String(value ?? "") === text);
  const allowed = { view: ["lines", "map"], seeds: ["mean", "single"], xscale: ["log", "linear"],
    yscale: ["usual", "log", "linear"], y: [...entries.keys()], below: ["", ...entries.keys()],
    x: [...axes.keys(), "num_parameters"], lines: [...axes.keys(), "none"], rows: [...axes.keys()] };
  for (const [key, choices] of Object.entries(allowed))
    if (choices.includes(parts.get(key))) view[key] = parts.get(key);
  for (const axis of axes.keys()) {
    const value = pick(axis, parts.get(`at.${axis}`));
    if (value !== undefined) view.at[axis] = value;
  }
  settle(); // the axis of the lines, if the address does not say it
  if (parts.has("on")) view.on = parts.get("on").split(",").map((text) => pick(view.lines, text));
  view.off = seeds.filter((seed) => (parts.get("off") ?? "").split(",").includes(String(seed)));
  view.mark = pick(axisOfX(), parts.get("mark") ?? " ") ?? null;
}

// Controls

function fill(id, choices) {
  const chosen = $(id);
  chosen.replaceChildren();
  let group = null;
  for (const [value, text, kind] of choices) {
    if (kind && group?.label !== kind) {
      group = Object.assign(document.createElement("optgroup"), { label: kind });
      chosen.append(group);
    }
    (kind ? group : chosen).append(new Option(text, value));
  }
  chosen.value = view[id];
}

function chips(axis, label, values, isOn, toggle) {
  const line = document.createElement("fieldset");
  line.append(`${label} `, Object.assign(document.createElement("span"), { className: "chips" }));
  for (const value of values) {
    const chip = Object.assign(document.createElement("button"),
      { type: "button", textContent: told(axis, value), onclick: () => change(() => toggle(value)) });
    chip.dataset.axis = axis;
    chip.setAttribute("aria-pressed", isOn(value));
    line.lastChild.append(chip);
  }
  return line;
}

function slider(axis) {
  const values = axes.get(axis), label = document.createElement("label");
  const range = Object.assign(document.createElement("input"), { type: "range", min: 0,
    max: values.length - 1, value: values.indexOf(view.at[axis]) });
  const shown = Object.assign(document.createElement("output"),
    { textContent: told(axis, view.at[axis]) });
  range.dataset.axis = axis;
  range.setAttribute("aria-label", named(axis));
  range.setAttribute("aria-valuetext", told(axis, view.at[axis]));
  range.oninput = () => {
    view.at[axis] = values[range.value];
    shown.textContent = told(axis, view.at[axis]);
    range.setAttribute("aria-valuetext", shown.textContent);
    draw();
  };
  label.append(named(axis), range, shown);
  return label;
}

const toggled = (list, value) =>
  list.includes(value) ? list.filter((one) => one !== value) : [...list, value];

function controls() {
  const kinds = study.kinds.flatMap((kind) => [...entries.values()].filter((e) => e.kind === kind));
  const quantities = kinds.map((entry) => [entry.key, entry.name, entry.kind]);
  const others = [...axes.keys()].filter((axis) => axis !== axisOfX());
  const list = (names) => names.map((axis) => [axis, named(axis)]);
  fill("y", quantities);
  fill("below", [["", "nothing"], ...quantities]);
  fill("x", list([...axes.keys(), ...(axes.has("width") ? ["num_parameters"] : [])]));
  fill("lines", [...list(others), ["none", "one line"]]);
  fill("rows", list(others));
  for (const id of ["view", "xscale", "yscale", "seeds"]) $(id).value = view[id];
  const map = view.view === "map";
  const places = axes.get(axisOfX()) ?? [];
  fill("mark", [["", "-"], ...places.map((value) => [String(value), told(axisOfX(), value)])]);
  $("mark").value = String(view.mark ?? "");
  $("mark-label").firstChild.textContent = `every seed at ${named(axisOfX())}`;
  $("mark-label").hidden = map || !study.whole || !places.length;
  $("lines-label").hidden = map;
  $("rows-label").hidden = !map;
  $("xscale-label").hidden = map;
  $("seeds-label").hidden = map || !study.whole;
  const rest = others.filter((axis) => axis !== (map ? view.rows : view.lines));
  const parts = [Object.assign(document.createElement("fieldset"))];
  parts[0].append(...rest.map(slider));
  if (!map && axes.has(view.lines))
    parts.push(chips(view.lines, named(view.lines), axes.get(view.lines),
      (value) => view.on.includes(value), (value) => { view.on = toggled(view.on, value); }));
  if (study.whole && seeds.length > 1)
    parts.push(chips("seed", "seeds", seeds, (seed) => !view.off.includes(seed),
      (seed) => { view.off = toggled(view.off, seed); }));
  $("axes").replaceChildren(...parts);
}

function change(how) {
  const focused = document.activeElement, { axis } = focused?.dataset ?? {};
  how();
  settle();
  controls();
  draw();
  if (axis) [...document.querySelectorAll("#axes button")].find((chip) =>
    chip.dataset.axis === axis && chip.textContent === focused.textContent)?.focus();
}

// Drawing

let rows = []; // what is drawn, for the CSV
let noted = new Set();
let ends = []; // names of the seeds that are lowest and highest at their place

function note(entry, at, one, seed) {
  const place = { ...fixed, ...at }, key = JSON.stringify([entry.key, place, seed]);
  if (noted.has(key)) return; // both panels show it
  noted.add(key);
  rows.push({ study: study.study, ...Object.fromEntries([...outer, ...INNER].map((axis) =>
    [axis, place[axis]])), num_parameters: xOf(place, "num_parameters"), seed: seed ?? "",
  quantity: entry.key, value: one.value, low: one.low ?? "", high: one.high ?? "", n: one.n ?? 1 });
}

function xOf(at, x) {
  const cell = x === "num_parameters" && cellOf(at);
  return x !== "num_parameters" ? at[x] : cell ? cell.group.num_parameters[cell.w] : NaN;
}

function hover(entry, at, text) {
  const where = [...axes.keys()].map((axis) => `${named(axis)} ${told(axis, at[axis])}`);
  if (view.x === "num_parameters") where.push(`${xOf(at, view.x)} parameters`);
  return `<b>${entry.name}</b><br>${text}<br>${where.join(", ")}`;
}

function colourOf(i, count) {
  const [from, to] = dark() ? [2, 5] : [0, 3]; // a contrast of 3 to the page
  const at = count < 2 ? (dark() ? 4 : 1.5) : from + (to - from) * i / (count - 1);
  const [a, b] = [VIRIDIS[Math.floor(at)], VIRIDIS[Math.ceil(at)]].map((hex) =>
    [1, 3, 5].map((place) => parseInt(hex.slice(place, place + 2), 16)));
  return a.map((one, k) => Math.round(one + (b[k] - one) * (at % 1)));
}

// The lines of one panel: of every value that is on, a mean or single seeds, or a bracket's sides.
function linesOf(entry, panel) {
  const all = axes.get(view.lines) ?? [null], traces = [];
  const on = axes.has(view.lines) ? all.filter((value) => view.on.includes(value)) : all;
  for (const value of on) {
    const i = all.indexOf(value), colour = colourOf(i, all.length);
    const cells = (axes.get(axisOfX()) ?? [fixed[axisOfX()]]).map((x) => ({ ...fixed, ...view.at,
      ...(axes.has(view.lines) && { [view.lines]: value }), [axisOfX()]: x }));
    for (const [side, key] of (entry.parts ?? [entry.key]).entries()) {
      const part = entries.get(key), lower = entry.parts && !side;
      const look = { type: "scatter", mode: "lines+markers", hovertemplate: "%{text}<extra></extra>",
        name: axes.has(view.lines) ? told(view.lines, value) : part.name, legendgroup: String(value),
        customdata: cells.map((at) => at[axisOfX()]), showlegend: !panel && !side, yaxis: panel ? "y2" : "y", connectgaps: false,
        line: { color: `rgb(${colour})`, width: 1.8, dash: lower ? "dash" : "solid" },
        marker: { symbol: MARKS[i % MARKS.length], size: 6 } };
      if (view.seeds === "single" && study.whole) {
        const known = cells.map((at) => new Map(single(key, at)));
        for (const seed of seeds.filter((one) => !view.off.includes(one))) {
          const found = cells.map((at, c) => ({ at, value: known[c].get(seed) }));
          found.filter((f) => f.value !== undefined).forEach((f) => note(part, f.at, f, seed));
          traces.push({ ...look, x: cells.map((at) => xOf(at, view.x)),
            y: found.map((f) => f.value ?? null), opacity: 0.75, showlegend: look.showlegend,
            text: found.map((f) => f.value === undefined ? "" : hover(part, f.at,
              `${digits(f.value, part.side)}, seed ${seed}`)),
            line: { ...look.line, width: 1 } });
          look.showlegend = false;
        }
        if (cells.length <= MANY) known.forEach((ofSeeds, c) => {
          const sorted = [...ofSeeds].sort((a, b) => a[1] - b[1]);
          if (sorted.length > 2) for (const [end, shift] of [[0, -9], [-1, 9]]) ends.push({
            x: xOf(cells[c], view.x), y: sorted.at(end)[1], text: String(sorted.at(end)[0]),
            yref: look.yaxis, yshift: shift, showarrow: false, log: isLog(part),
            font: { size: 11, color: `rgb(${colour})` } });
        });
      } else {
        const found = cells.map((at) => estimate(part, at));
        found.forEach((one, c) => one && note(part, cells[c], one));
        const bar = (end, sign) => found.map((one) =>
          one && Number.isFinite(one[end]) ? sign * (one[end] - one.value) : 0);
        traces.push({ ...look, x: cells.map((at) => xOf(at, view.x)),
          y: found.map((one) => one?.value ?? null),
          text: found.map((one, c) => one ? hover(part, cells[c],
            `${estimated(part, one)}, n = ${one.n}`) : ""),
          ...(entry.parts ? (side && { fill: "tonexty", fillcolor: `rgba(${colour},0.15)` })
            : { error_y: { type: "data", symmetric: false, array: bar("high", 1),
              arrayminus: bar("low", -1), thickness: 1, width: 2 } }) });
      }
    }
  }
  return traces;
}

// A heat map per panel; colours of logarithms where the scale is one.
function mapOf(entry, panel, count, range) {
  const columns = axes.get(axisOfX()) ?? [fixed[axisOfX()]], log = isLog(entry);
  const cells = axes.get(view.rows).map((row) => columns.map((x) =>
    ({ ...fixed, ...view.at, [view.rows]: row, [axisOfX()]: x })));
  const found = cells.map((line) => line.map((at) => estimate(entry, at)));
  found.forEach((line, r) => line.forEach((one, c) => one && note(entry, cells[r][c], one)));
  const scaled = (value) => log ? (value > 0 ? Math.log10(value) : null) : value;
  const z = found.map((line) => line.map((one) => one ? scaled(one.value) : null));
  const flat = z.flat().filter((value) => value !== null);
  range.low = Math.min(range.low, ...flat);
  range.high = Math.max(range.high, ...flat);
  return { type: "heatmap", z, yaxis: panel ? "y2" : "y", colorscale: "Viridis", xgap: 1, ygap: 1,
    x: columns.map((_, c) => c), y: cells.map((_, r) => r), hoverongaps: false,
    text: found.map((line, r) => line.map((one, c) => one ? hover(entry, cells[r][c],
      `${estimated(entry, one)}, n = ${one.n}`) : "")), hovertemplate: "%{text}<extra></extra>",
    colorbar: { title: { text: withUnit(entry), side: "right" }, len: 1 / count, thickness: 12,
      y: count > 1 ? (panel ? 0.22 : 0.78) : 0.5 } };
}

// Losses and bounds are compared by ratios, errors and accuracies by differences.
const isLog = (entry) => view.yscale === "log" ||
  (view.yscale === "usual" && !entries.get(entry.parts?.[0] ?? entry.key).plain);
const dark = () => matchMedia("(prefers-color-scheme: dark)").matches && !plain;

function axisLook(title) {
  const grid = dark() ? "#3a3d44" : "#e3e3e3";
  return { title: { text: title }, gridcolor: grid, zeroline: false, automargin: true };
}

// Ticks at the values of an axis, as many as are not too near to each other.
function ticksAt(places, texts, space) {
  const span = (places.at(-1) - places[0]) || 1, kept = [];
  places.forEach((place, i) => {
    if (!kept.length || (place - places[kept.at(-1)]) / span * space >= 36) kept.push(i);
  });
  return { tickmode: "array", tickvals: kept.map((i) => places[i]), ticktext: kept.map((i) => texts[i]) };
}

function figure() {
  [rows, noted, ends] = [[], new Set(), []];
  const map = view.view === "map", parts = [view.y, view.below].filter(Boolean);
  let panels = parts.map((key) => entries.get(key));
  if (map) panels = panels.flatMap((e) => e.parts ? e.parts.map((k) => entries.get(k)) : [e]).slice(0, 2);
  const wide = $("plot").clientWidth || 900, narrow = wide < 600, two = panels.length > 1;
  const x = axisLook(named(view.x)), values = axes.get(axisOfX()) ?? [fixed[axisOfX()]];
  const words = values.some((value) => typeof value === "string");
  let data;
  if (map) {
    const shared = { low: Infinity, high: -Infinity }, one = entries.get(view.y).parts;
    data = panels.map((entry, p) => {
      const range = one ? shared : { low: Infinity, high: -Infinity };
      return [mapOf(entry, p, panels.length, range), range];
    }).map(([trace, range], p) => ({ ...trace, zmin: range.low, zmax: range.high,
      colorbar: { ...trace.colorbar, ...(isLog(panels[p]) && colourTicks(range)) } }));
    Object.assign(x, { showgrid: false },
      ticksAt(values.map((_, c) => c), values.map((v) => told(axisOfX(), v)), wide - 150));
  } else {
    data = panels.flatMap((entry, p) => linesOf(entry, p));
    if (view.xscale === "log" && !words) logX(x, data, wide - 150);
    else if (words) x.type = "category";
  }
  const layout = { xaxis: { ...x, anchor: two ? "y2" : "y" }, height: two ? 680 : 460,
    margin: { l: narrow ? 55 : 75, r: narrow ? 10 : 20, t: 30, b: 50 },
    paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)", hovermode: "closest",
    font: { color: dark() ? "#e6e6e6" : "#222", size: narrow ? 11 : 13 },
    legend: { title: { text: axes.has(view.lines) ? named(view.lines) : "" },
      ...(narrow && { orientation: "h", y: 1.02, yanchor: "bottom" }) } };
  panels.forEach((entry, p) => {
    const name = map ? named(view.rows) : withUnit(entry);
    const y = axisLook(name.length > 34 ? name.replace(/, | (?=\()/, "<br>") : name);
    if (map) Object.assign(y, { showgrid: false }, rowTicks());
    else if (isLog(entry)) Object.assign(y, { type: "log" },
      logTicks(data.filter((trace) => trace.yaxis === (p ? "y2" : "y")).flatMap((trace) => trace.y)));
    layout[p ? "yaxis2" : "yaxis"] = { ...y, domain: two ? (p ? [0, 0.47] : [0.53, 1]) : [0, 1] };
  });
  const scaled = layout.xaxis.at ?? ((value) => value);
  const place = view.mark !== null && !map && !words ? scaled(
    xOf({ ...fixed, ...view.at, [axisOfX()]: view.mark }, view.x)) : NaN;
  layout.annotations = ends.map(({ log, ...end }) => ({ ...end, x: words ? end.x : scaled(end.x),
    y: log ? Math.log10(end.y) : end.y }));
  if (Number.isFinite(place)) layout.shapes = [{ type: "line", xref: "x", yref: "paper",
    x0: place, x1: place, y0: 0, y1: 1, line: { dash: "dot", width: 1.2, color: "#888" } }];
  delete layout.xaxis.at;
  return { data, layout };
}

function rowTicks() {
  const values = axes.get(view.rows);
  return { tickmode: "array", tickvals: values.map((_, r) => r),
    ticktext: values.map((value) => told(view.rows, value)) };
}

function colourTicks({ low, high }) {
  const ticks = logTicks([10 ** low, 10 ** high]);
  return ticks.tickvals ? { ...ticks, tickvals: ticks.tickvals.map(Math.log10) } : {};
}

// On a logarithmic axis: 1, 2, 5 and so on, or equal steps where the values are within a factor of 4.
function logTicks(values) {
  const all = values.filter((value) => value > 0);
  const low = all.reduce((a, b) => Math.min(a, b), Infinity), high = all.reduce((a, b) => Math.max(a, b), 0);
  if (!(high > low)) return {};
  const kept = [];
  if (high / low < 4) {
    const step = [1, 2, 5, 10].map((m) => m * 10 ** Math.floor(Math.log10((high - low) / 5)))
      .find((one) => (high - low) / one <= 6);
    for (let i = Math.floor(low / step); i <= Math.ceil(high / step); i++) kept.push(i * step);
  } else {
    const decades = Math.log10(high / low), marks = decades > 6 ? [1] : decades > 3 ? [1, 3] : [1, 2, 5];
    for (let e = Math.floor(Math.log10(low)); e <= Math.log10(high) + 1; e++)
      for (const m of marks) kept.push(Number(`${m}e${e}`));
  }
  return { tickmode: "array", tickvals: kept, ticktext: kept.map((value) => digits(value, 0)) };
}

// Where there is a 0, such as epoch 0, the axis is of log(1 + x).
function logX(x, data, space) {
  const zero = data.some((trace) => trace.x.some((value) => value <= 0));
  const scale = (value) => zero ? Math.log10(1 + value) : Math.log10(value);
  const all = [...new Set(data.flatMap((trace) => trace.x))].filter(Number.isFinite);
  all.sort((a, b) => a - b);
  const texts = all.map((value) => told(view.x, value));
  data.forEach((trace) => { trace.x = trace.x.map(scale); });
  Object.assign(x, ticksAt(all.map(scale), texts, space), { at: scale });
  if (zero) x.title.text += ` (spaced as log(1 + ${named(view.x)}))`;
}

// What the eye would look for, below the chart: a table of every line's largest value, and whether
// the first quantity goes with the others; at the place that was clicked, every seed's value.

const partsShown = () => [...new Set([view.y, view.below].filter(Boolean)
  .flatMap((one) => entries.get(one).parts ?? [one]))];
const lineOf = (row) => (axes.has(view.lines) ? row[view.lines] : null);
const ofLine = (value) => (axes.has(view.lines) ? lineName(view.lines, value) : "all");

function summary() {
  const parts = partsShown(), found = [];
  if (!rows.length) return [paragraph("Nothing was measured here.")];
  if (view.view === "map") return [];
  const [head, body] = largest(parts);
  found.push(table(`The largest values over ${named(axisOfX())}`, head, body));
  if (head.at(-1).startsWith("rank")) found.push(paragraph("Rank correlation, of what is drawn: "
    + "1 where both rise and fall together, -1 where one rises as the other falls."));
  const hidden = rows.filter((row) => row.value <= 0 && isLog(entries.get(row.quantity))).length;
  if (hidden) found.push(paragraph(`${hidden} values of 0 or less are not on a logarithmic axis.`));
  if (view.mark === null) found.push(paragraph(
    `A click on a point tells every seed's value at its ${named(axisOfX())}.`));
  else if (study.whole) found.unshift(table(`Every seed at ${named(axisOfX())} ${
    told(axisOfX(), view.mark)}, in the order of their values`, ...seedsAt(parts, view.mark)));
  return found;
}

const paragraph = (text) => Object.assign(document.createElement("p"), { textContent: text });

function table(caption, head, body) {
  const made = document.createElement("table"), row = (cells, kind, scope) => {
    const line = document.createElement("tr");
    line.append(...cells.map((textContent, i) => Object.assign(
      document.createElement(scope === "col" || !i ? "th" : kind), { textContent },
      scope === "col" ? { scope } : i ? {} : { scope: "row" })));
    return line;
  };
  made.append(Object.assign(document.createElement("caption"), { textContent: caption }),
    row(head, "th", "col"), ...body.map((cells) => row(cells, "td")));
  const frame = Object.assign(document.createElement("div"), { className: "frame" });
  frame.append(made);
  return frame;
}

// A row for each quantity and line; where the largest is at an end of the axis it is no peak. Of
// means the places that are above both neighbours, too: as drawn, which may be noise.
function largest(parts) {
  const axis = axisOfX(), all = axes.get(axis) ?? [fixed[axis]], first = parts[0];
  const mean = view.seeds === "mean" || !study.whole, compared = mean && parts.length > 1;
  const words = all.some((one) => typeof one === "string") || all.length < 3;
  const body = parts.flatMap((part) => [...new Set(rows.map(lineOf))].map((value) => {
    const own = rows.filter((row) => row.quantity === part && lineOf(row) === value);
    if (!own.length) return null;
    const top = own.reduce((a, b) => (b.value > a.value ? b : a)), at = top[axis];
    const end = at === all.at(-1) ? "last" : at === all[0] ? "first" : "";
    const where = `${named(axis)} ${told(axis, at)}${top.seed === "" ? "" : `, seed ${top.seed}`}`;
    const inner = own.filter((row, i) => i && i < own.length - 1
      && row.value > own[i - 1].value && row.value > own[i + 1].value);
    return [entries.get(part).name, ofLine(value), digits(top.value, entries.get(part).side),
      where + (end && !words ? `, the ${end}` : ""),
      ...(mean && !words ? [inner.map((row) => told(axis, row[axis])).join(", ") || "nowhere"] : []),
      ...(compared ? [part === first ? "" : agreement(first, part, value)] : [])];
  })).filter(Boolean);
  return [["", axes.has(view.lines) ? named(view.lines) : "line", "largest", "at",
    ...(mean && !words ? [`above both neighbours at ${named(axis)}`] : []),
    ...(compared ? [`rank correlation with ${entries.get(first).name}`] : [])], body];
}

// Spearman's rank correlation of two quantities' means along one line.
function agreement(first, part, value) {
  const ranks = (values) => values.map((v) => values.filter((w) => w < v).length
    + (values.filter((w) => w === v).length + 1) / 2);
  const of = (quantity) => new Map(rows.filter((row) => row.quantity === quantity
    && lineOf(row) === value).map((row) => [row[axisOfX()], row.value]));
  const [a, b] = [of(first), of(part)], both = [...a.keys()].filter((x) => b.has(x));
  const [x, y] = [a, b].map((one) => ranks(both.map((place) => one.get(place))));
  const middle = (both.length + 1) / 2;
  const sum = (u, v) => u.reduce((total, one, i) => total + (one - middle) * (v[i] - middle), 0);
  const rho = both.length < 3 ? NaN : sum(x, y) / Math.sqrt(sum(x, x) * sum(y, y));
  return Number.isFinite(rho) ? rho.toFixed(2) : "-";
}

// Every seed at one place of the axis, and the one that is farthest from the median of all:
// by ratios of what is compared by them.
function seedsAt(parts, place) {
  const values = axes.has(view.lines) ? axes.get(view.lines).filter((v) => view.on.includes(v)) : [null];
  const body = parts.flatMap((part) => values.map((value) => {
    const entry = entries.get(part), scale = (v) => (entry.plain ? v : Math.log(v));
    const found = single(part, { ...fixed, ...view.at, [axisOfX()]: place,
      ...(axes.has(view.lines) && { [view.lines]: value }) }).sort((a, b) => a[1] - b[1]);
    if (!found.length) return null;
    const at = (found.length - 1) / 2;
    const median = (scale(found[Math.floor(at)][1]) + scale(found[Math.ceil(at)][1])) / 2;
    const off = ([, v]) => Math.abs(scale(v) - median);
    const far = found.reduce((a, b) => (off(b) > off(a) ? b : a));
    return [entry.name, ofLine(value),
      found.map(([seed, v]) => `${digits(v, entry.side)} (seed ${seed})`).join(", "),
      found.length > 2 ? `seed ${far[0]}` : "-"];
  })).filter(Boolean);
  return [["", axes.has(view.lines) ? named(view.lines) : "line", "values",
    "farthest from the median"], body];
}

function draw() {
  settle();
  plain = false;
  const { data, layout } = figure();
  Plotly.react("plot", data, layout, { displaylogo: false, responsive: true,
    modeBarButtonsToRemove: ["lasso2d", "select2d", "toImage"] });
  $("told").replaceChildren(...summary());
  $("plot").setAttribute("aria-label",
    `${view.view === "map" ? "Heat map" : "Curves"} of ${entries.get(view.y).name} over ${named(view.x)}`);
  toAddress();
}

// A click on a heat map's cell opens its curves; on a point of a curve, what all seeds have there.
function open({ points: [point] }) {
  if (view.view === "lines" && point) {
    const all = axes.get(axisOfX()) ?? [fixed[axisOfX()]], at = point.customdata;
    change(() => { view.mark = all.includes(at) && at !== view.mark ? at : null; });
    return;
  }
  if (view.view !== "map" || point?.data.type !== "heatmap") return;
  const row = axes.get(view.rows)[point.y];
  change(() => {
    view.view = "lines";
    view.at[view.rows] = row;
    if (axes.has(view.lines)) view.on = [view.at[view.lines]];
    view.mark = (axes.get(axisOfX()) ?? [])[point.x] ?? null;
  });
}

// Files

function save(name, text) {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([text], { type: "text/csv" }));
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 1000);
}

function csv() {
  const names = Object.keys(rows[0] ?? { study: "" });
  const cell = (value) => value === null || Number.isNaN(value) ? ""
    : /[",\n]/.test(value) ? `"${String(value).replaceAll('"', '""')}"` : String(value);
  return [names.join(), ...rows.map((row) => names.map((name) => cell(row[name])).join())].join("\n") + "\n";
}

function picture(format) {
  plain = true; // dark on white, whatever the screen is
  const { data, layout } = figure();
  plain = false;
  const look = { ...layout, paper_bgcolor: "#fff", plot_bgcolor: "#fff" };
  Plotly.downloadImage({ data, layout: look }, { format, filename: `${study.study}_${view.y}`,
    width: 900, height: layout.height, scale: format === "png" ? 2 : 1 });
}

// As wide as A4 has room for, dark on white, the legend above.
function onPaper() {
  plain = true;
  const { data, layout } = figure();
  plain = false;
  Plotly.react("plot", data, { ...layout, width: 680,
    legend: { ...layout.legend, orientation: "h", y: 1.02, yanchor: "bottom" } });
}

async function begin() {
  if (!("DecompressionStream" in window)) {
    $("said").textContent = "This page needs a browser of 2023 or later (DecompressionStream).";
    return;
  }
  const library = document.createElement("script");
  library.textContent = new TextDecoder().decode(await unpack($("plotly").textContent));
  document.head.append(library);
  numbers = new Float64Array(await unpack(study.values));
  fromAddress();
  settle();
  controls();
  for (const id of ["view", "y", "below", "x", "lines", "rows", "xscale", "yscale", "seeds"])
    $(id).onchange = () => change(() => {
      if (id === "x") view.xscale = $(id).value === "label_noise" ? "linear" : "log";
      if (id === "lines") view.on = null;
      if (id !== "xscale" && id !== "yscale" && id !== "seeds") view.mark = null;
      view[id] = $(id).value;
    });
  $("mark").onchange = () => change(() => {
    view.mark = axes.get(axisOfX()).find((value) => String(value) === $("mark").value) ?? null;
  });
  $("csv").onclick = () => save(`${study.study}_${view.y}.csv`, csv());
  for (const format of ["svg", "png"]) $(format).onclick = () => picture(format);
  $("reset").onclick = () => { history.replaceState(null, "", "#"); fromAddress(); change(() => {}); };
  $("intervals").textContent = `Intervals: ${100 * study.confidence} % by Student's t; of fewer than ` +
    "four seeds the range over them.";
  draw();
  $("plot").on("plotly_click", open);
  addEventListener("hashchange", () => { fromAddress(); change(() => {}); });
  addEventListener("resize", () => draw());
  addEventListener("beforeprint", onPaper);
  addEventListener("afterprint", draw);
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", draw);
  $("said").textContent = study.said;
}
begin().catch((error) => { $("said").textContent = `The page cannot be shown: ${error.message}`; throw error; });
