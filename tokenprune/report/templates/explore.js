// The interactive part of the report: choices, charts, one table, a row's facts. The page hides it where there is no script.
(() => {
  const content = JSON.parse(document.getElementById("content").textContent);
  const at = (id) => document.getElementById(id);
  const metrics = Object.fromEntries(content.metrics.map((metric) => [metric.name, metric]));
  const RATES = 40;  // marks; of more, keep rates are not written beside them
  const ALL = "";
  const ERRORS = 1;  // of Vega, which otherwise warns of charts without a mark
  const form = at("choices");
  const chosen = { task: at("task"), experiment: at("experiment"), x: at("x-axis"), y: at("y-axis"), find: at("find") };
  const groups = { selector: at("selectors"), treatment: at("treatments"), device: at("devices") };
  const compared = [at("first"), at("second")];
  let charts = [];  // {device, view, figure, tip, points}
  let pinned = null;

  const taskOf = (line) => {
    const how = line.execution === "auto" ? "" : `, ${line.execution}`;
    return `${line.task} on ${line.data}, scale ${line.scale}${how}`;
  };
  const unique = (values) => [...new Set(values)];
  const hasOne = (line, score) => content.metrics.some((metric) => metric.score === score && metric.name in line.values);
  const drawable = (line) => hasOne(line, true) && hasOne(line, false);
  const better = (metric) => (metric.less ? "less is better" : "more is better");

  function fill(select, options, keep) {
    const before = select.value;
    select.replaceChildren(...options.map(([value, text]) => make("option", { value }, text)));
    const values = options.map(([value]) => String(value));
    select.value = values.includes(String(before)) && before !== "" ? before : String(keep ?? values[0] ?? "");
  }

  const ofTask = () => content.lines.filter((line) => taskOf(line) === chosen.task.value);
  const ofExperiment = () => ofTask().filter((line) => chosen.experiment.value === ALL || line.experiment === chosen.experiment.value);

  function marked(group) {
    return new Set([...groups[group].querySelectorAll("input:checked")].map((box) => box.value));
  }

  function visible() {
    const allowed = Object.fromEntries(Object.keys(groups).map((name) => [name, marked(name)]));
    const wanted = chosen.find.value.toLowerCase().split(/\s+/).filter(Boolean);
    return ofExperiment().filter((line) => {
      const words = ["name", "method", "selector", "setting", "size", "experiment", "device", "status"].map((name) => line[name]);
      const text = words.join(" ").toLowerCase();
      return Object.keys(groups).every((name) => allowed[name].has(line[name])) && wanted.every((word) => text.includes(word));
    });
  }

  function symbol(shape, colour) {
    const paths = {
      circle: "M1,0A1,1 0 1 1 -1,0A1,1 0 1 1 1,0Z", square: "M-.9,-.9H.9V.9H-.9Z", diamond: "M0,-1.2L.8,0L0,1.2L-.8,0Z",
      "triangle-up": "M0,-1L1,.8H-1Z", "triangle-down": "M0,1L1,-.8H-1Z", "triangle-right": "M1,0L-.8,1V-1Z",
      cross: "M-1,-.35H-.35V-1H.35V-.35H1V.35H.35V1H-.35V.35H-1Z",
    };
    const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg"), path = document.createElementNS(svg.namespaceURI, "path");
    svg.setAttribute("viewBox", "-1.3 -1.3 2.6 2.6");
    svg.setAttribute("class", "symbol");
    svg.setAttribute("aria-hidden", "true");
    path.setAttribute("d", paths[shape] ?? shape);
    path.setAttribute("fill", colour);
    svg.append(path);
    return svg;
  }

  function boxes(group, lines) {
    const values = unique(lines.map((line) => line[group]));
    const sign = {
      selector: (value) => symbol("circle", content.colours[value]),
      treatment: (value) => symbol(content.shapes[value], "currentColor"),
    };
    const legend = groups[group].querySelector("legend");
    const labels = values.map((value) => {
      const box = make("input", { type: "checkbox", value, checked: "" });
      const text = group === "selector" && value === "none" ? "none (dense)" : value;
      return make("label", { class: "check" }, box, sign[group]?.(value) ?? null, text);
    });
    groups[group].replaceChildren(legend, ...labels);
    groups[group].hidden = values.length < 2;
  }

  function onTask() {
    const lines = ofTask(), names = unique(lines.map((line) => line.experiment));
    const options = names.map((name) => [name, name]);
    if (names.length > 1) options.push([ALL, `all ${names.length} experiments`]);
    fill(chosen.experiment, options, most(lines, (line) => line.experiment));
    onExperiment();
  }

  function onExperiment() {
    const lines = ofExperiment();
    const known = content.metrics.filter((metric) => lines.some((line) => metric.name in line.values));
    const options = known.map((metric) => [metric.name, metric.title]);
    fill(chosen.x, options, known.find((metric) => !metric.score)?.name);
    const score = known.find((metric) => metric.score)?.name;
    if (score && !metrics[chosen.y.value]?.score) chosen.y.value = "";  // the rows before had no accuracy
    fill(chosen.y, options, score);
    for (const group of Object.keys(groups)) boxes(group, lines);
    const several = unique(lines.map((line) => line.experiment)).length > 1;
    at("caution").hidden = !several;
    tableOf(lines, known);
    const all = ofTask(), differ = ["experiment", "size", "cls", "device"].filter((name) => unique(all.map((line) => line[name])).length > 1);
    const names = all.map((line) => [line.id, [line.name, ...differ.map((name) => line[name])].filter(Boolean).join("; ")]);
    fill(compared[0], names, lines[0]?.id);
    fill(compared[1], names, (lines[1] ?? lines[0])?.id);
    pin(null);
    update();
    compare();
  }

  // Returns the value that most of the lines which can be drawn have.
  function most(lines, of) {
    const counts = new Map();
    for (const line of lines) counts.set(of(line), (counts.get(of(line)) ?? 0) + (drawable(line) ? 1 : 0.001));
    return [...counts].sort((a, b) => b[1] - a[1])[0]?.[0];
  }

  // Returns the points that no other one beats in both axes; equal ones are on the front together.
  function front(points, x, y) {
    const sx = x.less ? 1 : -1, sy = y.less ? 1 : -1;
    const beats = (a, b) => sx * a.x <= sx * b.x && sy * a.y <= sy * b.y && (a.x !== b.x || a.y !== b.y);
    return points.filter((point) => !points.some((other) => beats(other, point))).sort((a, b) => a.x - b.x || a.y - b.y);
  }

  function pointsOf(lines) {
    const x = chosen.x.value, y = chosen.y.value;
    const drawn = lines.filter((line) => x in line.values && y in line.values);
    const rates = unique(drawn.map((line) => line.rate).filter((rate) => rate !== null)).length > 1 && drawn.length <= RATES;
    return drawn.map((line) => {
      const error = line.errors[y] ?? 0, value = line.values[y];
      const letter = compared.findIndex((select) => Number(select.value) === line.id);
      return {
        id: line.id, x: line.values[x], y: value, low: value - error, high: value + error, colour: content.colours[line.selector],
        shape: content.shapes[line.treatment], text: rates && line.rate !== null ? String(line.rate) : "", mark: ["A", "B"][letter] ?? "",
        words: `${line.name}: ${metrics[y].title} ${withSpread(line, metrics[y])}, ${metrics[x].title} ${withSpread(line, metrics[x])}`,
      };
    });
  }

  function chartOf(device) {
    const plot = make("div", { class: "plot", tabindex: "0", role: "group" });
    const tip = make("div", { class: "tip", role: "status", hidden: "" });
    const parts = { up: make("p", { class: "axis" }), across: make("p", { class: "axis across" }), front: make("p", { class: "front" }) };
    const stage = make("div", { class: "stage" }, plot, tip);
    const figure = make("figure", { class: "chart" }, make("h3", {}, device), parts.up, stage, parts.across, parts.front);
    at("charts").append(figure);
    const chart = { device, view: null, figure, plot, tip, lines: [], points: [], focus: null, ...parts };
    vegaEmbed(plot, content.chart, { renderer: "svg", actions: false, tooltip: () => {}, logLevel: ERRORS }).then(({ view }) => {
      chart.view = view;
      view.addEventListener("mouseover", (_, item) => item?.datum?.id !== undefined && point(chart, item.datum.id));
      view.addEventListener("mouseout", () => point(chart, null));
      view.addEventListener("click", (_, item) => item?.datum?.id !== undefined && pin(item.datum.id));
      draw(chart, chart.lines);
    });
    plot.addEventListener("keydown", (event) => onKey(chart, event));
    plot.addEventListener("blur", () => point(chart, null));
    return chart;
  }

  function onKey(chart, event) {
    const order = [...chart.points].sort((a, b) => a.x - b.x || a.y - b.y);
    const now = order.findIndex((one) => one.id === chart.focus);
    const last = order.length - 1, before = now < 0 ? last : now - 1;
    const to = { ArrowRight: now + 1, ArrowUp: now + 1, ArrowLeft: before, ArrowDown: before, Home: 0, End: last }[event.key];
    if (event.altKey || event.ctrlKey || event.metaKey || !order.length) return;
    if (event.key === "Escape") point(chart, null);
    else if (event.key === "Enter" && now >= 0) pin(order[now].id);
    else if (to === undefined) return;
    else point(chart, order[Math.max(0, Math.min(last, to))].id);
    event.preventDefault();
  }

  // Lets a mark stand out, or none.
  function light(chart, id) {
    chart.view?.signal("focus", chart.points.some((one) => one.id === id) ? id : "").runAsync();
  }

  // Shows the facts of a mark beside it, or of none.
  function point(chart, id) {
    if (chart.focus === id || !chart.view) return;
    chart.focus = id;
    light(chart, id);
    for (const row of at("lines").tBodies[0].rows) row.classList.toggle("on", Number(row.dataset.id) === id && id !== null);
    const found = chart.points.find((one) => one.id === id);
    chart.tip.hidden = !found;
    if (!found) return;
    chart.tip.replaceChildren(...facts(content.lines[id]));
    const [left, top] = chart.view.origin(), stage = chart.tip.parentElement.clientWidth;
    const x = left + chart.view.scale("x")(found.x), y = top + chart.view.scale("y")(found.y);
    chart.tip.style.left = `${Math.max(0, Math.min(x + 14, stage - chart.tip.offsetWidth))}px`;
    chart.tip.style.top = `${y + 16}px`;
  }

  function facts(line) {
    const shownMetrics = [metrics[chosen.y.value], metrics[chosen.x.value]].filter(Boolean);
    const rows = [
      ["Selector", line.selector], ["Treatment", line.treatment], ["Setting", line.setting], ["Class token", line.cls], ["Model size", line.size],
      ...shownMetrics.map((metric) => [metric.title, withSpread(line, metric)]),
      ["Spread", shownMetrics.some((metric) => metric.name in line.errors) ? line.spread : ""], ["Seeds", line.seeds.join(", ")],
      ["Device", line.device], ["Experiment", line.experiment], ["Status", line.status === "ok" ? "" : `${line.status}: ${line.why}`],
    ].filter(([, value]) => value);
    const list = make("dl", {}, ...rows.flatMap(([title, value]) => [make("dt", {}, title), make("dd", {}, value)]));
    const of = line.seeds.length > 1 ? ` for seed ${line.seeds[0]}` : "";
    const how = line.command.typed ? `Command${of}, as it was typed` : `Command for such a row${of} (other settings of it are not recorded)`;
    return [make("strong", {}, line.name), list, make("p", { class: "how" }, how), make("code", { class: "command" }, line.command.text)];
  }

  function pin(id) {
    pinned = id;
    at("pinned").hidden = id === null;
    if (id === null) return at("pinned").replaceChildren();
    const line = content.lines[id];
    const copy = make("button", { type: "button" }, "Copy the command"), close = make("button", { type: "button" }, "Close");
    copy.addEventListener("click", () => {
      const range = document.createRange();
      range.selectNodeContents(at("pinned").querySelector(".command"));
      getSelection().removeAllRanges();
      getSelection().addRange(range);
      copy.textContent = document.execCommand("copy") ? "Copied" : "Selected: copy it with a key";
    });
    close.addEventListener("click", () => pin(null));
    const notes = line.notes.length ? [make("ul", {}, ...line.notes.map((note) => make("li", {}, note)))] : [];
    at("pinned").replaceChildren(...facts(line), ...notes, make("p", {}, copy, " ", close));
  }

  function tableOf(lines, known) {
    const several = (name) => unique(lines.map((line) => line[name])).length > 1;
    const words = FACTS.filter(([, name]) => several(name));
    const heads = [
      make("th", { "data-fixed": "" }, "Compare"), make("th", {}, "Method"), ...words.map(([title]) => make("th", {}, title)),
      make("th", { class: "number" }, "Seeds"),
      ...known.map((metric) => make("th", { class: "number", title: `${metric.title}; ${better(metric)}` }, metric.short)),
    ];
    const rows = lines.map((line) => {
      const box = make("input", { type: "checkbox", "aria-label": `Compare ${line.name}` });
      box.addEventListener("change", () => tick(line.id, box.checked));
      const button = make("button", { type: "button", class: "name" }, line.name);
      button.addEventListener("click", () => pin(line.id));
      const numbers = known.map((metric) => {
        const value = line.values[metric.name], text = metric.score ? withSpread(line, metric) : shown(metric, value);
        return make("td", { class: "number", "data-value": value ?? "" }, text);
      });
      const row = make("tr", { "data-id": line.id },
        make("td", {}, box), make("td", { class: "word" }, button), ...words.map(([, name]) => make("td", { class: "word" }, line[name] || "—")),
        make("td", { class: "number" }, String(line.seeds.length)), ...numbers);
      for (const [event, id] of [["mouseenter", line.id], ["mouseleave", null], ["focusin", line.id], ["focusout", null]]) {
        row.addEventListener(event, () => charts.forEach((chart) => light(chart, id)));
      }
      return row;
    });
    const table = at("lines");
    table.tHead.replaceChildren(make("tr", {}, ...heads));
    table.tBodies[0].replaceChildren(...rows);
    sortable(table);
  }

  // Puts a row that was ticked in the place of the row that was chosen first.
  function tick(id, on) {
    const ids = compared.map((select) => Number(select.value));
    if (on && !ids.includes(id)) [compared[0].value, compared[1].value] = [ids[1], id];
    else if (!on) return compare();
    compare();
  }

  function compare() {
    const ids = compared.map((select) => Number(select.value));
    for (const row of at("lines").tBodies[0].rows) row.querySelector("input").checked = ids.includes(Number(row.dataset.id));
    const [a, b] = ids.map((id) => content.lines[id]);
    at("compared").replaceChildren(...(a && b ? comparison(a, b, content) : []));
    for (const chart of charts) draw(chart, visible().filter((line) => line.device === chart.device));
  }

  function draw(chart, lines) {
    chart.lines = lines;
    if (!chart.view) return;  // it is drawn when it is there
    const x = metrics[chosen.x.value], y = metrics[chosen.y.value];
    chart.points = pointsOf(lines);
    const best = front(chart.points, x, y), dense = lines.filter((line) => line.selector === "none" && y.name in line.values);
    const line = dense.length === 1 ? [{ y: dense[0].values[y.name] }] : [];
    const band = best.map((one) => ({ x: one.x, y: one.y }));
    chart.view.data("points", chart.points).data("front", band).data("dense", line).runAsync();
    chart.up.textContent = `↑ ${y.title} (${better(y)})`;
    chart.across.textContent = `${x.title} (${better(x)}) →`;
    const names = unique(best.map((one) => content.lines[one.id].name)).join("; ");
    chart.front.textContent = names ? `Pareto front: ${names}.` : "No row that is shown has both numbers.";
    const words = `${y.title} against ${x.title} on ${chart.device}: ${chart.points.length} marks`;
    chart.plot.setAttribute("aria-label", `${words}; arrow keys go from one to the next`);
    chart.figure.classList.toggle("empty", !chart.points.length);
  }

  function update() {
    const lines = visible(), shownIds = new Set(lines.map((line) => line.id));
    for (const row of at("lines").tBodies[0].rows) row.hidden = !shownIds.has(Number(row.dataset.id));
    at("count").textContent = `${lines.length} of ${ofExperiment().length} rows are shown.`;
    const wanted = chosen.x.value && chosen.y.value ? unique(lines.map((line) => line.device)) : [];
    for (const chart of charts.filter((one) => !wanted.includes(one.device))) {
      chart.view?.finalize();
      chart.figure.remove();
    }
    charts = wanted.map((device) => charts.find((chart) => chart.device === device) ?? chartOf(device));
    for (const chart of charts) draw(chart, lines.filter((line) => line.device === chart.device));
  }

  form.addEventListener("submit", (event) => event.preventDefault());
  form.addEventListener("reset", (event) => {
    event.preventDefault();
    chosen.find.value = "";
    for (const box of form.querySelectorAll("fieldset input")) box.checked = true;
    update();
  });
  chosen.task.addEventListener("change", onTask);
  chosen.experiment.addEventListener("change", onExperiment);
  for (const name of ["x", "y"]) chosen[name].addEventListener("change", () => { pin(pinned); update(); });
  chosen.find.addEventListener("input", update);
  for (const group of Object.values(groups)) group.addEventListener("change", update);
  for (const select of compared) select.addEventListener("change", compare);
  at("swap").addEventListener("click", () => {
    [compared[0].value, compared[1].value] = [compared[1].value, compared[0].value];
    compare();
  });
  for (const link of document.querySelectorAll(".to-explore")) {
    const line = content.lines.find((one) => one.experiment === link.dataset.experiment);
    link.hidden = !line;
    link.addEventListener("click", () => {
      chosen.task.value = taskOf(line);
      onTask();
      chosen.experiment.value = line.experiment;
      onExperiment();
    });
  }

  for (const part of document.querySelectorAll(".scripted")) part.hidden = false;
  at("explore").hidden = false;  // first: charts measure the room that they have
  fill(chosen.task, unique(content.lines.map(taskOf)).map((task) => [task, task]), most(content.lines, taskOf));
  onTask();
})();
