"use strict";
// Asks for the state twice a second and draws it. All text goes in through textContent.

const kEvery = 500;  // ms
const kCell = { free: 0, cached: 1, shared: 2, firstRequest: 3 };
const kRowsShown = 40;

const byId = (id) => document.getElementById(id);
const colour = (name) =>
  getComputedStyle(document.documentElement).getPropertyValue("--" + name).trim();
const requestColour = (id) => `hsl(${(id * 137.508) % 360} 70% ${48 + (id % 3) * 8}%)`;
const count = (n) => Math.round(n).toLocaleString("en-US");
const percent = (part, all) => (all > 0 ? Math.round((100 * part) / all) + " %" : "-");
function time(us) {
  if (us < 1000) return Math.round(us) + " us";
  if (us < 1e6) return (us / 1000).toFixed(us < 1e4 ? 1 : 0) + " ms";
  return us < 6e7 ? (us / 1e6).toFixed(1) + " s" : (us / 6e7).toFixed(1) + " min";
}

let key = "";  // of the API, in this tab's memory only
let history = [];  // [server's time in us, stats] of the last two seconds

// ---- the pool ----

function drawMap(canvas, replica, running) {
  const colours = { [kCell.free]: colour("free"), [kCell.cached]: colour("cached"),
    [kCell.shared]: colour("shared") };
  running.forEach((r, i) => { colours[kCell.firstRequest + i] = requestColour(r.id); });
  let cells = 0;
  for (let i = 0; i < replica.cells.length; i += 3) cells += replica.cells[i];
  const width = canvas.parentElement.clientWidth * devicePixelRatio;
  const size = Math.max(2, Math.floor(width / Math.sqrt(cells * 4)));  // four times as wide as high
  const columns = Math.floor(width / size);
  canvas.style.width = (columns * size) / devicePixelRatio + "px";
  canvas.width = columns * size;
  canvas.height = Math.ceil(cells / columns) * size;
  const draw = canvas.getContext("2d");
  const gap = size > 4 ? 1 : 0;
  let at = 0;
  for (let i = 0; i < replica.cells.length; i += 3) {
    const [run, owner, used] = replica.cells.slice(i, i + 3);
    draw.fillStyle = colours[owner];
    // A cell of several slots is as bright as it is full.
    draw.globalAlpha = owner === kCell.free ? 1 : 0.35 + (0.65 * used) / replica.slots_per_cell;
    for (let n = 0; n < run; ++n, ++at) {
      draw.fillRect((at % columns) * size, Math.floor(at / columns) * size, size - gap, size - gap);
    }
  }
}

// ---- the steps ----

const median = (values) => values.sort((a, b) => a - b)[values.length >> 1] || 0;

function drawSteps(canvas, note, steps) {
  const done = steps.filter((s) => s[3] >= 0);
  const draw = canvas.getContext("2d");
  canvas.width = canvas.clientWidth * devicePixelRatio;  // also clears it
  if (done.length === 0) {
    note.textContent = "none yet";
    return;
  }
  const usual = median(done.map((s) => s[3]));
  const gapOf = (s) => Math.min(s[4], 4 * usual);  // waiting for requests would fill the picture
  const shown = done.slice(-120);
  const total = shown.reduce((sum, s) => sum + s[3] + gapOf(s), 0);
  const most = Math.max(...shown.map((s) => s[1]));
  const scale = canvas.width / total;
  let x = 0;
  for (const s of shown) {
    const [, tokens, rows, compute] = s;
    draw.fillStyle = colour("idle");
    draw.fillRect(x, canvas.height - 6, gapOf(s) * scale, 6);
    x += gapOf(s) * scale;
    const height = 8 + (canvas.height - 8) * Math.log1p(tokens) / Math.log1p(most);
    draw.fillStyle = colour(tokens > rows ? "prefill" : "decode");
    draw.fillRect(x, canvas.height - height, Math.max(1, compute * scale - 1), height);
    x += compute * scale;
  }
  const gaps = median(done.map((s) => s[4]));
  const last = done[done.length - 1];
  note.textContent = `last: number ${last[0]}, ${last[1]} tokens of ${last[2]} rows in ` +
    `${time(last[3])}; median step ${time(usual)}, median idle gap before it ${time(gaps)}`;
}

// ---- the rest ----

function replicaView(i) {
  const all = byId("replicas");
  while (all.children.length <= i) {
    all.append(byId("replica").content.cloneNode(true));
  }
  return all.children[i];
}

function showReplicas(state) {
  state.replicas.forEach((r, i) => {
    const view = replicaView(i);
    const part = (selector) => view.querySelector(selector);
    part("h2").textContent = `Replica ${i} (epoch ${r.epoch}): ${count(r.used)} of ` +
      `${count(r.slots)} slots in use, ${count(r.cached)} cached, ${r.rows} of ${r.max_rows} rows`;
    drawMap(part(".map"), r, state.running);
    part(".note").textContent =
      r.slots_per_cell > 1 ? `${r.slots_per_cell} slots a cell` : "one cell a slot; colours: requests";
    drawSteps(part(".steps"), part(".step-note"), r.steps);
    const newest = Math.max(0, ...r.ranks.map((rank) => rank[0]));
    part(".ranks").replaceChildren(`${r.in_flight} plans in flight. `, ...r.ranks.map((rank, n) => {
      const [step, age] = rank;
      const health = document.createElement("b");
      const late = r.in_flight > 0 && age > 2e6;
      health.className = age < 0 ? "quiet" : late ? "late" : "";
      health.textContent = age < 0 ? `rank ${n}: nothing to do yet`
        : `rank ${n}: step ${step}` + (step < newest ? ` (${newest - step} behind)` : "") +
          `, ${time(age)} ago`;
      return health;
    }));
  });
  const all = byId("replicas");
  while (all.children.length > state.replicas.length) all.lastChild.remove();
}

function row(cells) {
  const tr = document.createElement("tr");
  for (const cell of cells) {
    const td = document.createElement("td");
    td.append(...[].concat(cell));
    tr.append(td);
  }
  return tr;
}

function progress(value, max) {
  const bar = document.createElement("progress");
  bar.max = max;
  bar.value = value;
  return bar;
}

function showRunning(state) {
  byId("running-count").textContent = count(state.running.length);
  byId("running").replaceChildren(...state.running.slice(0, kRowsShown).map((r) => {
    const mark = document.createElement("i");
    mark.style.background = requestColour(r.id);
    const phase = r.leaving ? "leaving" : r.prefill ? "prefill" : "decode";
    const cached = r.cached > 0 ? ` (${count(r.cached)} cached)` : "";
    return row([mark, String(r.id), phase,
      [progress(Math.min(r.computed, r.prompt), r.prompt), ` ${count(r.prompt)}${cached}`],
      [progress(r.output, r.max_output), ` ${count(r.output)} of ${count(r.max_output)}`],
      count(r.computed), time(r.age_us)]);
  }));
}

function reason(w) {
  switch (w.why) {
    case "no_replica": return "no replica is ready";
    case "pool": return "larger than the pool of every replica that is ready";
    case "rows": return "all rows are taken";
    case "targets": return "would slow running requests past their time per token";
    case "slots": return `needs ${count(w.need)} slots, ${count(Math.max(0, w.free))} predicted ` +
      "free at its peak";
    default: return "others are first";
  }
}

function showWaiting(state) {
  byId("waiting-count").textContent = count(state.waiting_total);
  byId("waiting").replaceChildren(...state.waiting.slice(0, kRowsShown).map((w) =>
    row([w.id + (w.paused ? w.output > 0 ? ` (paused after ${count(w.output)})` : " (paused)" : ""),
      count(w.prompt), time(w.age_us), reason(w)])));
}

function showFigures(state) {
  const s = state.stats;
  byId("model").textContent = state.model;
  byId("state").textContent = s.draining ? "draining" : s.ready ? "ready" : "no replica";
  byId("state").className = s.ready && !s.draining ? "state ready" : "state";
  const figures = { running: count(s.running), queued: count(s.queued), paused: count(s.paused),
    "pool in use": percent(s.slots_used, s.slots_total),
    "prompt tokens from the cache": percent(s.cached_prompt_tokens, s.prompt_tokens) };
  history = history.filter(([then]) => then > state.now - 2e6 && then < state.now);
  if (history.length > 0) {
    const [then, old] = history[0];
    const busy = s.busy_us - old.busy_us;
    figures["tokens/s"] = count((s.output_tokens - old.output_tokens) / (state.now - then) * 1e6);
    figures["device busy"] = percent(busy, busy + s.idle_us - old.idle_us);
  }
  history.push([state.now, s]);
  byId("figures").replaceChildren(...Object.entries(figures).map(([name, value]) => {
    const pair = document.createElement("div");
    const dt = document.createElement("dt");
    const dd = document.createElement("dd");
    dt.textContent = name;
    dd.textContent = value;
    pair.append(dt, dd);
    return pair;
  }));
}

async function refresh() {
  const headers = key ? { Authorization: "Bearer " + key } : {};
  const answer = await fetch("/dashboard/state", { headers, cache: "no-store" });
  byId("login").hidden = answer.status !== 401;
  if (answer.status === 401) throw new Error("wants an API key");
  if (!answer.ok) throw new Error("answers " + answer.status);
  const state = await answer.json();
  showFigures(state);
  showReplicas(state);
  showRunning(state);
  showWaiting(state);
}

async function loop() {
  try {
    if (!document.hidden) await refresh();
  } catch (error) {
    byId("state").textContent = error instanceof TypeError ? "no connection" : error.message;
    byId("state").className = "state";
  }
  setTimeout(loop, kEvery);
}

byId("login").addEventListener("submit", (event) => {
  event.preventDefault();
  key = byId("key").value.trim();
  byId("key").value = "";
});
loop();
