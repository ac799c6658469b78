// Makes the comparison of two rows: facts, differences with their errors, the same images, kept shares by block, token maps.

// Returns an element. Attributes whose value is null are left out; children may be nodes or text.
function make(tag, attributes = {}, ...children) {
  const space = ["svg", "rect", "title"].includes(tag) ? "http://www.w3.org/2000/svg" : "http://www.w3.org/1999/xhtml";
  const node = document.createElementNS(space, tag);
  for (const [name, value] of Object.entries(attributes)) if (value !== null) node.setAttribute(name, value);
  node.append(...children.filter((child) => child !== null));
  return node;
}

const signed = (value, digits) => (value > 0 ? "+" : value < 0 ? "−" : "") + Math.abs(value).toFixed(digits);

function shown(metric, value) {
  if (value === undefined) return "—";
  return metric.score ? value.toFixed(1) : value.toLocaleString("en", { maximumSignificantDigits: metric.digits });
}

function withSpread(line, metric) {
  const error = line.errors[metric.name], range = line.ranges[metric.name];
  if (line.values[metric.name] === undefined) return "—";
  const text = shown(metric, line.values[metric.name]);
  if (error !== undefined) return `${text} ± ${error.toFixed(1)}`;
  return range ? `${text} (quartiles ${range.map((value) => shown(metric, value)).join(" to ")})` : text;
}

// Returns the difference of an accuracy in words: paired by seed where two or more seeds are shared, else with the combined error.
function scoreDifference(a, b, metric) {
  const one = a.by_seed[metric.name] ?? {}, other = b.by_seed[metric.name] ?? {};
  const gaps = Object.keys(one).filter((seed) => seed in other).map((seed) => one[seed] - other[seed]);
  const n = gaps.length, mean = gaps.reduce((sum, gap) => sum + gap, 0) / n;
  if (n > 1) {
    const deviation = Math.sqrt(gaps.reduce((sum, gap) => sum + (gap - mean) ** 2, 0) / (n - 1));
    return `${signed(mean, 2)} ± ${(deviation / Math.sqrt(n)).toFixed(2)} (standard error over ${n} seeds, paired)`;
  }
  if (n === 0) return `${signed(a.values[metric.name] - b.values[metric.name], 2)} (no seed in common)`;
  const errors = [a, b].map((line) => line.errors[metric.name]);
  if (a.seeds.length > 1 || b.seeds.length > 1 || errors.includes(undefined)) return `${signed(mean, 2)} (one seed in common)`;
  return `${signed(mean, 2)} ± ${Math.hypot(...errors).toFixed(2)} (combined bootstrap error)`;
}

function difference(a, b, metric) {
  const one = a.values[metric.name], other = b.values[metric.name];
  if (one === undefined || other === undefined) return "";
  if (metric.score) return scoreDifference(a, b, metric);
  if (!metric.counted && a.device !== b.device) return "other device: not compared";
  return other ? `× ${(one / other).toLocaleString("en", { maximumSignificantDigits: 3 })}` : "";
}

const FACTS = [
  ["Selector", "selector"], ["Treatment", "treatment"], ["Setting", "setting"], ["Class token", "cls"], ["Model size", "size"],
  ["Experiment", "experiment"], ["Device", "device"], ["Status", "status"],
];

function factsTable(a, b, metrics) {
  const rows = FACTS.map(([title, name]) => [title, a[name] || "—", b[name] || "—", a[name] === b[name] ? "" : "differs"]);
  rows.push(["Seeds", a.seeds.join(", "), b.seeds.join(", "), ""]);
  for (const metric of metrics) {
    if (metric.name in a.values || metric.name in b.values) {
      rows.push([metric.title, withSpread(a, metric), withSpread(b, metric), difference(a, b, metric)]);
    }
  }
  const head = ["", `A: ${a.name}`, `B: ${b.name}`, "A minus B, or A / B"];
  return table("Facts and numbers", head, rows);
}

function table(caption, head, rows) {
  const cells = (row) => make("tr", {}, ...row.map((cell, n) => (n ? make("td", {}, String(cell)) : make("th", { scope: "row" }, cell))));
  const titles = make("tr", {}, ...head.map((title) => make("th", { scope: "col" }, title)));
  const body = make("tbody", {}, ...rows.map(cells));
  return make("div", { class: "wide" }, make("table", {}, make("caption", {}, caption), make("thead", {}, titles), body));
}

const chance = (p) => (p < 0.001 ? p.toExponential(1) : p.toFixed(3));
const ofBoth = (a, b, pairs) => pairs.filter((pair) => (pair[0] === a.id && pair[1] === b.id) || (pair[0] === b.id && pair[1] === a.id));

// Returns what is known of the images that both rows classified; of a pair that is stored the other way round, the signs turn.
function sameImages(a, b, pairs) {
  const found = ofBoth(a, b, pairs);
  if (!found.length) return null;
  const rows = found.map(([one, , seed, images, first, second, gap, low, high, p, agrees]) => {
    const turned = one !== a.id;
    const numbers = turned ? [second, first, -gap, -high, -low] : [first, second, gap, low, high];
    const [alone, other, by, from, to] = numbers;
    return [`seed ${seed}`, images, alone, other, signed(by, 2), `${signed(from, 2)} to ${signed(to, 2)}`, chance(p), `${agrees.toFixed(1)} %`];
  });
  const head = ["", "images", "A alone right", "B alone right", "A minus B (points)", "95 % interval", "McNemar's p", "same class"];
  return table("On the same images", head, rows);
}

// Returns the differences of scores over resamples of the pictures that both rows saw.
function sameResamples(a, b, pairs, metrics) {
  const found = ofBoth(a, b, pairs);
  if (!found.length) return null;
  const titles = Object.fromEntries(metrics.map((metric) => [metric.name, metric.title]));
  const rows = found.map(([one, , seed, metric, pictures, gap, low, high, p]) => {
    const [by, from, to] = one === a.id ? [gap, low, high] : [-gap, -high, -low];
    return [`${titles[metric] ?? metric}, seed ${seed}`, pictures, signed(by, 2), `${signed(from, 2)} to ${signed(to, 2)}`, chance(p)];
  });
  const head = ["", "pictures", "A minus B (points)", "95 % interval", "p (normal test)"];
  return table("On the same pictures, over the same resamples of them", head, rows);
}

// Returns what both rows did on the same pictures, or why that is not known.
function samePictures(a, b, content) {
  const parts = [sameImages(a, b, content.pairs), sameResamples(a, b, content.resamples, content.metrics)].filter((part) => part !== null);
  if (parts.length) return make("div", {}, ...parts);
  const why = "No predictions of single images and no resamples of the pictures lie beside both rows: rows of a results folder have them, tables do not.";
  return make("p", { class: "expect" }, why);
}

const percent = (share) => (share === undefined ? "?" : `${Math.round(100 * share)} %`);

function bars(line) {
  const step = 10, height = 30;
  const rects = line.kept.map((share, block) => {
    const size = height * Math.min(share, 1);
    const place = { x: step * block, y: height - size, width: step - 1.5, height: size };
    return make("rect", place, make("title", {}, `block ${block}: ${percent(share)} of the tokens`));
  });
  const words = `share of the tokens that each block keeps: ${line.kept.map(percent).join(", ")}`;
  const box = { viewBox: `0 0 ${step * line.kept.length} ${height}`, preserveAspectRatio: "none" };
  return make("svg", { class: "bars", ...box, role: "img", "aria-label": words }, ...rects);
}

function keptBars(a, b) {
  if (!a.kept.length && !b.kept.length) return null;
  const figures = [["A", a], ["B", b]].map(([letter, line]) => {
    const drawn = line.kept.length ? bars(line) : make("p", { class: "expect" }, "not stored");
    const range = `${percent(line.kept.at(0))} in the first block to ${percent(line.kept.at(-1))} in the last`;
    return make("figure", {}, drawn, make("figcaption", {}, `${letter}: ${line.name}, ${range}`));
  });
  return make("div", {}, make("h4", {}, "Kept share by block"), make("div", { class: "pair" }, ...figures));
}

function grid(map, caption, colour) {
  const rects = map.flatMap((row, y) => row.map((value, x) => {
    const [fill, opacity] = colour(value);
    const words = make("title", {}, `row ${y}, column ${x}: ${value.toFixed(2)}`);
    return make("rect", { x, y, width: 1, height: 1, fill, "fill-opacity": opacity }, words);
  }));
  const words = `${caption}; a map of ${map.length} by ${map[0].length} tokens`;
  const drawn = make("svg", { class: "map", viewBox: `0 0 ${map[0].length} ${map.length}`, role: "img", "aria-label": words }, ...rects);
  return make("figure", {}, drawn, make("figcaption", {}, caption));
}

function tokenMaps(a, b) {
  if (!a.map && !b.map) return null;
  const values = [a.map, b.map].filter(Boolean).flat(2), least = Math.min(...values), most = Math.max(...values);
  const share = (value) => (0.06 + (0.94 * (value - least)) / (most - least || 1)).toFixed(3);
  const figures = [["A", a], ["B", b]].filter(([, line]) => line.map).map(([letter, line]) =>
    grid(line.map, `${letter}: ${line.name}`, (value) => ["var(--link)", share(value)]));
  if (a.map && b.map && a.map.length === b.map.length && a.map[0].length === b.map[0].length) {
    const gap = a.map.map((row, y) => row.map((value, x) => value - b.map[y][x]));
    const reach = Math.max(...gap.flat().map(Math.abs)) || 1;
    const caption = `A minus B: blue where A uses a token in more blocks, orange where B does, up to ${reach.toFixed(1)}`;
    figures.push(grid(gap, caption, (value) => [value > 0 ? "var(--link)" : "var(--warm)", (Math.abs(value) / reach).toFixed(3)]));
  }
  const range = `Mean number of blocks that use each token, ${least.toFixed(1)} (pale) to ${most.toFixed(1)}`;
  return make("div", {}, make("h4", {}, "Token maps"), make("p", { class: "expect" }, range), make("div", { class: "pair" }, ...figures));
}

function showCommand(a, b) {
  if (!a.rows.length || !b.rows.length) return null;
  const words = "Look at the tokens that both keep of a picture of yours: ";
  return make("p", {}, words, make("code", {}, `tokenprune show PICTURE --model ${a.rows[0]} ${b.rows[0]}`));
}

// Returns the parts of the comparison of two lines.
function comparison(a, b, content) {
  if (a.id === b.id) return [make("p", { class: "expect" }, "Both are the same row: choose another one.")];
  const apart = a.experiment === b.experiment ? null
    : make("p", { class: "note" }, "The rows are of two experiments: training, start or model may differ, too.");
  const parts = [apart, factsTable(a, b, content.metrics), samePictures(a, b, content), keptBars(a, b), tokenMaps(a, b), showCommand(a, b)];
  return parts.filter((part) => part !== null);
}
