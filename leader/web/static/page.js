// The live page: keeps each run as the server tells it, and draws it. Text from outside is only ever text.

const ROUNDS = 24; // of which the table shows what each learner took
const QUIET_MS = 15000; // without a word from the server

let runs = [];
let heard = Date.now();
let drawn = false;

const $ = (selector) => document.querySelector(selector);

/** An element, of SVG where `tag` begins with "svg:"; attributes that are null or false are left out. */
function el(tag, attributes = {}, ...children) {
  const [, svg, name] = /^(svg:)?(.*)/.exec(tag);
  const node = svg ? document.createElementNS("http://www.w3.org/2000/svg", name) : document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) {
    if (value !== null && value !== false) node.setAttribute(key, value);
  }
  node.append(...children.flat(Infinity).filter(known).map((child) => child instanceof Node ? child : String(child)));
  return node;
}

function show(selector, ...children) {
  const node = $(selector);
  const full = children.flat().filter((child) => known(child) && child !== "");
  node.hidden = full.length === 0;
  node.replaceChildren(...full);
}

// Numbers in words

const known = (value) => value !== null && value !== undefined;
const isLoss = (name) => name.endsWith("loss");
const isShare = (name) => name.endsWith("accuracy");
const count = (value, noun) => `${value.toLocaleString("en")} ${noun}${value === 1 ? "" : "s"}`;
const fixed = (value) => known(value) ? Number(value.toPrecision(4)).toString() : "–";
const score = (name, value) => isShare(name) ? `${Number((100 * value).toFixed(2))} %` : fixed(value);
const title = (name) => name.replace(/^federated\.(.*)/, "$1 at the learners").replaceAll("_", " ");
const capital = (text) => text.charAt(0).toUpperCase() + text.slice(1);

function bytes(value) {
  const power = Math.min(4, value < 1000 ? 0 : Math.floor(Math.log10(value) / 3));
  return `${Number((value / 1000 ** power).toPrecision(3))} ${["B", "kB", "MB", "GB", "TB"][power]}`;
}

function duration(seconds) {
  if (seconds < 60) return `${Number(seconds.toPrecision(seconds < 10 ? 2 : 3))} s`;
  const minutes = Math.round(seconds / 60);
  if (minutes < 60) return `${minutes} min`;
  const hours = Math.floor(minutes / 60);
  return hours < 48 ? `${hours} h ${minutes % 60} min` : `${Math.round(hours / 24)} days`;
}

// What the server says

function merge(run, told) {
  const lists = { points: (item) => item.round, waits: (item) => item.round, messages: (item) => item.id };
  for (const [list, key] of Object.entries(lists)) {
    const items = new Map((run[list] ?? []).map((item) => [key(item), item]));
    for (const item of told[list]) items.set(key(item), item);
    told[list] = [...items.values()].sort((a, b) => key(a) - key(b));
  }
  told.waits = told.waits.slice(-ROUNDS);
  told.messages = told.messages.slice(-50);
  return told;
}

function listen() {
  const source = new EventSource("api/events");
  const take = (whole) => (event) => {
    heard = Date.now();
    runs = JSON.parse(event.data).runs.map((told, i) => merge(whole ? {} : runs[i], told));
    draw();
    if (runs.every((run) => run.state === "finished")) source.close();
  };
  source.addEventListener("whole", take(true));
  source.addEventListener("change", take(false));
  source.onerror = () => {
    drawState();
    if (source.readyState === EventSource.CLOSED) setTimeout(listen, 5000); // refused: too many viewers, say
  };
}

// Charts

/** Round numbers that span `low` to `high`, about `most` of them. */
function ticks(low, high, most, least = 0) {
  const finest = 1e-3 * Math.max(Math.abs(low), Math.abs(high)); // of a line that is flat
  const rough = Math.max((high - low) / most, least, finest, 1e-12);
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = power * [1, 2, 5, 10].find((factor) => factor * power >= rough * 0.999);
  const first = Math.floor(low / step + 1e-9);
  const last = Math.max(first + 1, Math.ceil(high / step - 1e-9));
  return Array.from({ length: last - first + 1 }, (_, i) => Number(((first + i) * step).toPrecision(12)));
}

/** A figure of lines over the rounds; `lines` are {name, points: [[round, value]]}. */
function chart({ name, lines, format, zero = false }) {
  lines = lines.filter((line) => line.points.length);
  if (!lines.length) return null;
  const [width, height, left, right, top, bottom] = [$("#charts").chartWidth, 190, 52, 10, 8, 24];
  const all = lines.flatMap((line) => line.points);
  const values = all.map(([, value]) => value);
  const rounds = all.map(([round]) => round);
  const xs = ticks(Math.min(...rounds), Math.max(...rounds), width / 70, 1);
  const ys = ticks(zero ? 0 : Math.min(...values), Math.max(...values), 4);
  const [from, to] = [Math.min(...rounds), Math.max(...rounds, Math.min(...rounds) + 1)];
  const x = (round) => left + (round - from) / (to - from) * (width - left - right);
  const y = (value) => top + (ys.at(-1) - value) / (ys.at(-1) - ys[0]) * (height - top - bottom);
  const picture = el("svg:svg", { width, height, role: "img", "aria-label": described(name, lines, format) },
    ys.map((value) => [
      el("svg:line", { class: "grid", x1: left, x2: width - right, y1: y(value), y2: y(value) }),
      el("svg:text", { class: "y", x: left - 8, y: y(value) + 4 }, format(value)),
    ]),
    xs.filter((round) => round >= from && round <= to).map((round) =>
      el("svg:text", { class: "x", x: x(round), y: height - 6 }, round)),
    lines.map(({ points }, i) => [
      el("svg:polyline", { class: `line s${i % 8}`, points: points.map(([round, value]) => `${x(round)},${y(value)}`).join(" ") }),
      points.length <= 40 ? points.map(([round, value]) => el("svg:circle", { class: `s${i % 8}`, cx: x(round), cy: y(value), r: 2.5 })) : null,
    ]));
  const cursor = el("svg:line", { class: "cursor", y1: top, y2: height - bottom });
  picture.append(el("svg:text", { class: "y", x: left - 8, y: height - 6 }, "round"), cursor);
  const read = el("span", { class: "readout" });
  const legend = lines.map((own, i) => el("li", {}, el("span", { class: `key s${i % 8}` }), lines.length > 1 ? `${own.name} ` : "", el("output")));
  /** Tell the values of the round nearest to this one. */
  const tell = (round) => {
    const nearest = lines.map(({ points }) => points.reduce((a, b) => Math.abs(b[0] - round) < Math.abs(a[0] - round) ? b : a));
    nearest.forEach(([, value], i) => { legend[i].lastChild.textContent = format(value); });
    read.textContent = `round ${nearest[0][0]}`;
    for (const end of ["x1", "x2"]) cursor.setAttribute(end, x(nearest[0][0]));
  };
  picture.addEventListener("pointermove", (event) => tell(from + (event.offsetX - left) / (width - left - right) * (to - from)));
  picture.addEventListener("pointerleave", () => tell(to));
  tell(to);
  return el("figure", {}, el("figcaption", {}, el("h3", {}, name), read), el("ul", { class: "legend" }, legend), picture);
}

function described(name, lines, format) {
  return lines.map(({ name: own, points }) => {
    const [[first, before], [last, now]] = [points[0], points.at(-1)];
    return `${name}${lines.length > 1 ? `, ${own}` : ""}: ${format(before)} in round ${first}, ${format(now)} in round ${last}`;
  }).join("; ");
}

const line = (run, key, name = title(key)) => ({
  name,
  points: run.points.filter((point) => known(point[key])).map((point) => [point.round, point[key]]),
});

/** The names of a run's scores, the one that there is room for first. */
function scores(run) {
  const names = new Set(run.points.flatMap((point) => Object.keys(point)).filter((key) => /^(test_|federated\.)/.test(key)));
  return [...names].sort((a, b) => isLoss(a) - isLoss(b) || isShare(b) - isShare(a));
}

/** Chart by chart: its name, its lines, how values are written, and whether it begins at zero. */
function charts() {
  if (runs.length > 1) {
    const each = (key) => runs.map((run) => line(run, key(run) ?? "", run.run.id));
    const main = scores(runs[0]).find((name) => !isLoss(name)) ?? "";
    return [
      { name: "Training loss", lines: each(() => "loss"), format: fixed },
      { name: capital(title(main)), lines: each(() => main), format: (value) => score(main, value) },
      { name: "Seconds a round", lines: each(() => "seconds"), format: duration, zero: true },
      { name: "Bytes up a round", lines: each(() => "bytes_up"), format: bytes, zero: true },
    ];
  }
  const [run] = runs;
  const names = scores(run);
  const measured = names.filter((name) => !isLoss(name));
  return [
    { name: "Loss", lines: [line(run, "loss", "training loss"), ...names.filter(isLoss).map((key) => line(run, key))], format: fixed },
    { name: measured.length === 1 ? capital(title(measured[0])) : "Scores", lines: measured.map((key) => line(run, key)), format: (value) => score(measured[0], value) },
    { name: "Seconds a round", lines: [line(run, "seconds")], format: duration, zero: true },
    { name: "Bytes a round", lines: [line(run, "bytes_up", "up, from learners"), line(run, "bytes_down", "down, to learners")], format: bytes, zero: true },
    { name: "Epsilon spent", lines: [line(run, "epsilon")], format: fixed, zero: true },
  ];
}

function drawCharts() {
  const room = $("#charts").clientWidth;
  const columns = room >= 780 ? 2 : 1;
  $("#charts").chartWidth = Math.max(240, Math.floor((room - (columns - 1) * 16) / columns) - 34);
  $("#charts").replaceChildren(...charts().map(chart).filter(known));
}

// Tables

function table(caption, heads, rows) {
  return el("table", {}, el("caption", { class: "hidden" }, caption),
    el("thead", {}, el("tr", {}, heads.map(([head, kind]) => el("th", { scope: "col", class: kind ?? false }, head)))),
    el("tbody", {}, rows));
}

/** What a learner took in the last rounds: a bar for each, coloured where it was the last one. */
function strip(name, waits) {
  const longest = Math.max(0.001, ...waits.flatMap((round) => Object.values(round.took)));
  const bars = waits.map((round, i) => {
    const took = round.took[name];
    if (!known(took)) return null;
    const tall = Math.max(1.5, 22 * took / longest);
    return el("svg:rect", { class: round.last === name ? "last" : "bar", x: 7 * i, y: 22 - tall, width: 5, height: tall },
      el("svg:title", {}, `round ${round.round}: ${duration(took)}${round.last === name ? ", the last one" : ""}`));
  });
  const latest = waits.findLast((round) => known(round.took[name]));
  const label = latest ? `${duration(latest.took[name])} in round ${latest.round}` : "in none of the last rounds";
  return el("svg:svg", { class: "strip", width: 7 * waits.length, height: 22, role: "img", "aria-label": label }, bars);
}

function drawLearners(run) {
  const here = run.rows.length;
  $("#learners").hidden = !here;
  if (!here) return;
  const last = run.waits.at(-1);
  const often = (name) => run.waits.filter((round) => round.last === name).length;
  const sent = run.rows.some((row) => row.state === "sent");
  const missing = run.state === "finished" || !sent ? [] : run.rows.filter((row) => row.state === "training").map((row) => row.name);
  show("#waits",
    last?.last && run.learners > 1 ? `Round ${last.round} took ${duration(last.seconds)}; for ${duration(last.alone)} of that it waited for ${last.last} alone. ` : "",
    missing.length ? `Round ${run.round} waits for ${missing.slice(0, 3).join(", ")}${missing.length > 3 ? ` and ${missing.length - 3} more` : ""} now.` : "");
  const rows = run.rows.map((row) => el("tr", { class: row.state === "left" ? "gone" : false },
    el("th", { scope: "row" }, row.name, el("small", {}, row.device)),
    el("td", {}, el("span", { class: `chip ${row.state}` }, row.state)),
    el("td", { class: "number" }, row.images_per_s ? Math.round(row.images_per_s).toLocaleString("en") : "–"),
    el("td", { class: "number" }, fixed(row.loss)),
    el("td", { class: "number" }, row.total ? `${row.done} / ${row.total}` : "–"),
    el("td", { class: "number" }, run.waits.length ? `${often(row.name)} of ${run.waits.length}` : "–"),
    el("td", {}, strip(row.name, run.waits))));
  const heads = [["Learner"], ["State"], ["Examples/s", "number"], ["Loss", "number"], ["Steps", "number"],
    ["Was last", "number"], [`Seconds in the last ${run.waits.length > 1 ? `${run.waits.length} rounds` : "round"}`]];
  $("#learners .scroll").replaceChildren(table("Learners and what each round waited for", heads, rows));
  $("#learners-title").textContent = `${count(run.learners, "learner")} here`;
  const more = run.learners - run.rows.filter((row) => row.state !== "left").length;
  show("#more", more > 0 ? `and ${more.toLocaleString("en")} more that are faster` : "");
}

function drawRuns() {
  $("#runs").hidden = runs.length < 2;
  const sum = (run, key) => run.points.reduce((total, point) => total + (point[key] ?? 0), 0);
  const rows = runs.map((run, i) => el("tr", {},
    el("th", { scope: "row" }, el("span", { class: `key s${i % 8}` }), run.run.id, el("small", {}, `${run.run.model}, ${run.run.dataset}`)),
    el("td", {}, el("span", { class: `chip ${run.state}` }, run.state)),
    el("td", { class: "number" }, `${run.committed} of ${run.rounds}`),
    el("td", { class: "number" }, fixed(run.points.at(-1)?.loss)),
    el("td", { class: "number" }, run.best ? `${title(run.best.metric)} ${score(run.best.metric, run.best.value)}` : "–"),
    el("td", { class: "number" }, duration(sum(run, "seconds"))),
    el("td", { class: "number" }, bytes(sum(run, "bytes_up") + sum(run, "bytes_down")))));
  const heads = [["Run"], ["State"], ["Rounds", "number"], ["Loss", "number"], ["Best", "number"], ["Training", "number"], ["Traffic", "number"]];
  $("#runs .scroll").replaceChildren(table("Runs", heads, rows));
}

// The whole page

function figure(name, value, remark = "") {
  return el("div", {}, el("dt", {}, name), el("dd", {}, value, el("small", {}, remark)));
}

function drawFigures(run) {
  const point = run.points.findLast((each) => known(each.seconds));
  const { newest, best } = run;
  const figures = point ? [
    known(point.epsilon) ? figure("Epsilon spent", fixed(point.epsilon), run.budget ? `of ${fixed(run.budget)}` : "")
      : figure("Training loss", fixed(point.loss), `round ${point.round}`),
    newest ? figure(`Test ${newest.metric}`, score(newest.metric, newest.value),
      best ? `best ${score(best.metric, best.value)} in round ${best.round}` : "") : null,
    figure("A round took", duration(point.seconds), count(point.learners, "learner")),
    figure("Bytes a round", bytes(point.bytes_up + point.bytes_down), `${bytes(point.bytes_up)} up, ${bytes(point.bytes_down)} down`),
    run.refused ? figure("Refused calls", run.refused.toLocaleString("en"), "see the messages") : null,
  ] : [];
  show("#figures", figures.filter(known));
}

function drawProgress(run) {
  $("#progress").hidden = runs.length > 1 || !(run.round || run.committed);
  $("#round").textContent = `Round ${Math.min(run.rounds, Math.max(run.round, run.committed, 1))} of ${run.rounds.toLocaleString("en")}`;
  const going = run.state === "training" && known(run.left_s);
  $("#left").textContent = going ? `about ${duration(Math.round(run.left_s))} left` : "";
  $("#bar").value = run.fraction;
  $("#bar").textContent = `${Math.round(100 * run.fraction)} %`;
  $("#step").textContent = `${count(run.committed, "round")} committed` +
    (run.state === "training" ? `, ${Math.round(100 * run.inside)} % of round ${run.round} done` : "");
}

function drawMessages(run) {
  $("#messages").hidden = !run.messages.length;
  $("#messages ol").replaceChildren(...run.messages.toReversed().map((message) =>
    el("li", { class: message.warning ? "warning" : false }, el("time", {}, message.clock), el("span", {}, message.text))));
}

function drawServices(run) {
  $("#services").hidden = !run.services.length;
  $("#services ul").replaceChildren(...run.services.map(([name, up, waiting]) =>
    el("li", {}, up === null ? el("span", { class: "chip" }, "starting")
      : el("span", { class: `chip ${up ? "finished" : "stalled"}` }, up ? "up" : "down"), name,
      waiting ? el("small", {}, `${count(waiting, "row")} waiting`) : null)));
}

function drawState() {
  const [run] = runs;
  const over = runs.length && runs.every(({ state }) => ["finished", "stopped"].includes(state));
  const lost = Date.now() - heard > QUIET_MS && !over;
  const state = lost ? "disconnected" : runs.length > 1 ? `${runs.length} runs` : run?.state ?? "connecting";
  if ($("#state").textContent !== state) $("#state").textContent = state; // a screen reader says what changes
  $("#state").className = `chip ${state}`;
  document.title = run ? `${runs.length > 1 ? state : `${run.committed}/${run.rounds} ${state}`} – Flockstep` : "Flockstep";
  const quiet = { stalled: `Nothing has happened for ${duration(Math.round(run?.quiet_s ?? 0))}: the learners at work may hang, or a step takes that long.` };
  const words = lost ? "No contact with the leader. This page goes on by itself when it is back." : run?.words || quiet[state] || "";
  show("#words", runs.length > 1 ? "" : capital(words));
}

function drawRun(run) {
  const { waiting, run: facts } = run;
  const invited = run.state === "waiting" && facts.join;
  $("#waiting").hidden = !invited;
  if (invited) {
    $("#have").textContent = waiting ? `${waiting.have} of ${waiting.need} here.` : "";
    if ($("#join").textContent !== facts.join) $("#join").textContent = facts.join;
  }
  drawProgress(run);
  drawFigures(run);
  drawLearners(run);
  drawServices(run);
  drawMessages(run);
  $("#run").textContent = facts.id ?? "";
  $("#facts").replaceChildren(...(facts.id ? [
    `${facts.model}, ${count(facts.parameters, "parameter")}`, facts.dataset, `${facts.exchange} exchange`,
    facts.address ? `leader at ${facts.address}` : null, `results in ${facts.folder}`,
  ] : []).filter(known).map((fact) => el("span", {}, fact)));
}

function draw() {
  if (!drawn) { // at most once a frame, and not at all while nobody looks
    drawn = true;
    requestAnimationFrame(() => {
      drawn = false;
      drawState();
      drawRuns();
      if (runs.length === 1) drawRun(runs[0]);
      drawCharts();
    });
  }
}

new ResizeObserver(() => runs.length && draw()).observe($("main"));
setInterval(drawState, 1000);
listen();
