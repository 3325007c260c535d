// The live parts of the console. Without it every page works, but for these. What comes from outside becomes
// text, never markup.
"use strict";
const API = "/console/api";
const ROWS = 500; // of a live list
const POINTS = 150; // of a graph
const $ = (selector, from = document) => from.querySelector(selector);
const all = (selector, from = document) => [...from.querySelectorAll(selector)];

// Numbers, as the server writes them.
const count = (number) => Math.round(number).toLocaleString("en-US");
const counted = (number, what) => `${count(number)} ${what}${number === 1 ? "" : "s"}`;
function bytes(number) {
  for (const unit of ["B", "KiB", "MiB", "GiB", "TiB"]) {
    if (number < 1000) return unit === "B" ? `${number} B` : `${number.toFixed(1)} ${unit}`;
    number /= 1024;
  }
  return `${number.toFixed(1)} PiB`;
}
function length(secs) {
  if (secs < 10) return secs > 0 ? `${secs.toFixed(1)} s` : "0 s";
  const whole = Math.round(secs);
  const [d, h, m, s] = [Math.floor(whole / 86400), Math.floor(whole / 3600) % 24, Math.floor(whole / 60) % 60, whole % 60];
  return d ? `${count(d)} d ${h} h` : h ? `${h} h ${m} min` : m ? `${m} min ${s} s` : `${s} s`;
}
const micros = (us) => (us < 1000 ? `${us.toFixed(0)} µs` : us < 1e6 ? `${(us / 1000).toFixed(1)} ms` : `${(us / 1e6).toFixed(1)} s`);

function hex(base64) {
  const found = [...atob(base64.slice(0, 136))].map((letter) => letter.charCodeAt(0).toString(16).padStart(2, "0"));
  return found.slice(0, 100).join(" ") + (found.length > 100 ? " …" : "");
}
const element = (name, className = "", textContent = "") => Object.assign(document.createElement(name), { className, textContent });

// Local time beside UTC.
const plain = (date) => date.toISOString().replace("T", " ").replace("Z", "");
function addLocal(time) {
  const date = new Date(time.dateTime);
  if (Number.isNaN(date.getTime()) || date.getTimezoneOffset() === 0) return;
  const local = plain(new Date(date.getTime() - date.getTimezoneOffset() * 60000));
  time.append(element("span", "local", `${local} local`));
}
function timeElement(ms) {
  const date = new Date(ms);
  if (Number.isNaN(date.getTime())) return element("time", "", `${ms} ms`);
  const time = Object.assign(element("time", "", `${plain(date)} UTC`), { dateTime: date.toISOString() });
  addLocal(time);
  return time;
}

// A text to the clipboard; where the browser gives none, it is selected, to be copied by hand.
async function copy(button) {
  if (!button) return;
  button.dataset.label ??= button.textContent; // it may still say what the last click did
  let said = "Copied";
  try {
    await navigator.clipboard.writeText(button.dataset.copy);
  } catch {
    const area = element("textarea", "sr", button.dataset.copy);
    document.body.append(area);
    area.select();
    if (!document.execCommand("copy")) said = "Not copied";
    area.remove();
  }
  button.textContent = said;
  setTimeout(() => { button.textContent = button.dataset.label; }, 1500);
}

// The keyboard: `/` to the search of the page or to the tables, `g` and a letter to a place, `p` pauses what is live.
function keyboard() {
  let afterG = 0;
  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    if (event.target.closest("input, select, textarea")) return event.key === "Escape" && event.target.blur();
    if (event.key === "/") {
      event.preventDefault();
      const search = $("[data-search]");
      if (search) search.focus(); else location.assign("/console/tables");
    } else if (event.key === "p") $("[data-pause]")?.click();
    else if (event.key === "g") afterG = Date.now();
    else if (Date.now() - afterG < 1500) {
      afterG = 0;
      const link = $(`nav [data-go="${CSS.escape(event.key)}"]`);
      if (link) location.assign(link.href);
    }
  });
}

// The overview: numbers every two seconds, metrics every ten.
let isLeaving = false; // to where a form leads: what is refused once one has signed out must not lead back
async function ask(path) {
  const response = await fetch(path, { headers: { accept: "application/json, text/plain" } });
  // Where a page wants somebody to sign in, it leads there.
  const isOut = response.status === 401 || response.redirected;
  if (isOut && !isLeaving) location.reload();
  // A server that has no numbers is as good as one that does not answer, for which `fetch` throws a TypeError.
  if (response.status >= 500) throw new TypeError(String(response.status));
  if (isOut || !response.ok) throw new Error(String(response.status));
  return response;
}
const valueOf = (line) => Number(line.slice(line.lastIndexOf(" ") + 1));
function metric(text, name, label = "") {
  const lines = text.split("\n").filter((line) => line.startsWith(name) && "{ ".includes(line[name.length]) && line.includes(label));
  return lines.reduce((sum, line) => sum + valueOf(line), 0);
}
// The buckets of a histogram: upper bounds in seconds, and how many were at most that.
function buckets(text, name) {
  const lines = text.split("\n").filter((line) => line.startsWith(`${name}_bucket`));
  const bound = (line) => Number(/le="([^"]+)"/.exec(line)[1].replace("+Inf", "Infinity"));
  return lines.map((line) => [bound(line), valueOf(line)]).sort((a, b) => a[0] - b[0]);
}
function quantile(now, before, wanted) {
  const grown = now.map(([bound, number], place) => [bound, number - (before[place]?.[1] ?? 0)]);
  const total = grown.at(-1)?.[1] ?? 0;
  if (total <= 0) return null;
  let [low, below] = [0, 0];
  for (const [bound, number] of grown) {
    const part = (total * wanted - below) / Math.max(number - below, 1);
    if (number >= total * wanted) return bound === Infinity ? low : low + (bound - low) * part;
    [low, below] = [bound, number];
  }
  return low;
}
const say = (name, text) => all(`[data-live="${name}"]`).filter((place) => place.textContent !== text).forEach((place) => { place.textContent = text; });

// What a graph shows: its points, or the last minute if there are too few. Without any, uPlot begins in 1970.
const span = (_, from, to) => (to > from && to - from < 86400 ? [from, to] : [Date.now() / 1000 - 60, Date.now() / 1000]);
class Chart {
  constructor(name, format, colour) {
    this.place = $(`[data-chart="${name}"]`);
    [this.name, this.format, this.colour, this.data, this.plot] = [name, format, colour, [[], []], null];
    if (!this.place || !window.uPlot) return;
    this.draw();
    new ResizeObserver(() => this.plot?.setSize({ width: this.place.clientWidth, height: 150 })).observe(this.place);
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => this.draw());
  }
  draw() {
    this.plot?.destroy();
    const style = getComputedStyle(document.documentElement);
    const [ink, grid, line] = ["--muted", "--line", this.colour].map((name) => style.getPropertyValue(name).trim());
    const axis = { stroke: ink, font: "11px system-ui, sans-serif", grid: { stroke: grid, width: 1 }, ticks: { show: false } };
    const values = (_, ticks) => ticks.map((tick) => this.format(tick));
    const clock = (_, ticks) => ticks.map((tick) => new Date(tick * 1000).toTimeString().slice(0, 8));
    this.plot = new uPlot({
      width: this.place.clientWidth, height: 150, legend: { show: false }, cursor: { show: false },
      scales: { x: { range: span }, y: { range: (_, __, most) => [0, Math.max(most * 1.15, 10)] } },
      axes: [{ ...axis, values: clock, space: 90, size: 28 }, { ...axis, values, size: 62 }],
      series: [{}, { stroke: line, width: 1.5, fill: `${line}22`, spanGaps: true, points: { show: false } }],
    }, this.data, this.place);
  }
  add(seconds, value) {
    if (!this.plot) return;
    this.data[0].push(seconds);
    this.data[1].push(value);
    if (this.data[0].length > POINTS) this.data.forEach((column) => column.shift());
    this.plot.setData(this.data);
  }
}

function overview() {
  if (!$("[data-poll]")) return;
  const rate = new Chart("rate", (value) => count(value), "--hot");
  const p99 = new Chart("p99", (value) => micros(value), "--cold");
  let [last, seen] = [null, []];
  function verdict(kind, first, more = "") {
    $("[data-verdict]").dataset.verdict = kind;
    say("verdict", first);
    say("verdict-more", more);
  }
  async function numbers() {
    const { verdict: said, stats } = await (await ask("/console/numbers")).json();
    const now = performance.now() / 1000;
    if (last) {
      const each = Math.max(stats.writes.total - last.total, 0) / (now - last.now);
      rate.add(Date.now() / 1000, each);
      say("rate", count(each));
    }
    last = { now, total: stats.writes.total };
    say("appended", count(stats.writes.total));
    say("p99", micros(stats.writes.p99_latency_us));
    const { unflushed_events: waiting, unflushed_bytes: size, lost_offsets: lost, tables, partitions, hot_bytes: hot } = stats.totals;
    say("unflushed", count(waiting));
    say("unflushed-bytes", bytes(size));
    say("age", length(stats.flush.oldest_unflushed_secs));
    say("lost", count(lost));
    say("hot", bytes(hot));
    $("[data-meter]").value = hot;
    say("totals", `${counted(tables, "table")}, ${counted(partitions, "partition")}, ${bytes(hot)} of events on the volume`);
    say("errors", count(stats.errors_total));
    say("uptime", length(stats.uptime_secs));
    verdict(said.kind, said.first, said.more);
  }
  async function metrics() {
    const text = await (await ask(`${API}/metrics`)).text();
    const flushed = metric(text, "zombi_flush_last_success_timestamp_seconds");
    say("flushed", flushed ? `${length(Math.max(Date.now() / 1000 - flushed, 0))} ago` : "none yet");
    if (flushed) $("[data-flushed]").replaceChildren(timeElement(Math.trunc(flushed * 1000)));
    say("s3-errors", count(metric(text, "zombi_s3_requests_total", 'outcome="error"')));
    seen = [...seen, buckets(text, "zombi_append_batch_duration_seconds")].slice(-7);
    const slow = seen.length > 1 ? quantile(seen.at(-1), seen[0], 0.99) : null;
    p99.add(Date.now() / 1000, slow === null ? null : slow * 1e6);
    say("p99-minute", seen.length < 2 ? "…" : slow === null ? "no write" : micros(slow * 1e6));
  }
  // The tables, as this page would have them now; not while somebody is among them.
  async function tables() {
    const page = new DOMParser().parseFromString(await (await fetch(location.href)).text(), "text/html");
    const [shown, now] = [$("[data-tables]"), $("[data-tables]", page)];
    if (now && !shown.contains(document.activeElement)) shown.replaceWith(now);
  }
  // What is shown stays until a round succeeds. A request that nobody answers is a TypeError.
  const failed = (error) => error instanceof TypeError && verdict("bad", "No answer from the server; the numbers are from before");
  const every = (ms, round) => {
    const next = () => (document.hidden ? Promise.resolve() : round().catch(failed)).then(() => setTimeout(next, ms));
    next();
  };
  every(2000, numbers);
  every(10000, () => Promise.all([metrics(), tables()]));
}

// A list of events that grows at its top, and is cut at its end.
function liveEvents() {
  const [list, toggle, pause] = [$("#events"), $("[data-live-toggle]"), $("[data-pause]")];
  if (!list) return;
  const status = $(".live-status");
  let [source, place, number, waiting, isPaused, frame] = [null, "", 0, [], false, 0];
  const tell = (text) => { if (status.textContent !== text) status.textContent = text; };
  function row(data) {
    const ends = [...data.matchAll(/,"timestamp_ms":(-?\d+),"partition":(\d+),"offset":(\d+)(?=[,}])/g)].at(-1);
    const [, ms, partition, offset] = ends ?? [];
    const record = JSON.parse(data);
    const [made, line] = [element("li", "event"), element("a", "summary")];
    line.href = `/console/event?${new URLSearchParams({ table: list.dataset.table, partition, offset })}`;
    const [when, what] = [element("span", "when"), element("span", "what")];
    when.append(timeElement(Number(ms)));
    if (record.key !== undefined) what.append(element("span", "key", record.key));
    if (record.headers?.type) what.append(element("span", "type", record.headers.type));
    // The payload as it came, before anything that JavaScript would make of its numbers.
    const raw = data.slice(data.indexOf(":") + 1, ends?.index ?? data.length);
    const text = record.erased ? "erased" : "payload_base64" in record ? hex(record.payload_base64) : typeof record.payload === "string" ? record.payload : raw;
    const shown = text.slice(0, 300).replace(/[\u0000-\u001f\u007f-\u009f\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069]/g, " ");
    line.append(when, element("span", "place", `${partition}:${offset}`), what, element("code", "line", shown));
    made.append(line);
    return made;
  }
  function show() {
    frame = 0;
    list.prepend(...waiting.splice(0).map(row).reverse());
    while (list.children.length > ROWS) list.lastElementChild.remove();
    $("#count").textContent = counted(number, "event");
    $("#nothing")?.remove();
  }
  function open() {
    const url = place ? `${API}/tables/${encodeURIComponent(list.dataset.table)}?cursor=${encodeURIComponent(place)}` : list.dataset.follow;
    source = new EventSource(url);
    source.onopen = () => tell("Following");
    source.onerror = () => tell(source.readyState === EventSource.CLOSED ? "The stream was refused: load the page again." : "Trying to connect");
    source.addEventListener("caught-up", (event) => { place = event.lastEventId || place; });
    source.onmessage = (event) => {
      place = event.lastEventId || place;
      number += 1;
      waiting.push(event.data);
      if (waiting.length > ROWS) waiting.shift();
      // Frames are not drawn in a tab that is hidden: what waits is bounded all the same.
      frame ||= requestAnimationFrame(show);
    };
  }
  function set(isLive) {
    toggle.setAttribute("aria-pressed", String(isLive));
    pause.hidden = !isLive;
    [isPaused, pause.textContent] = [false, "Pause"];
    source?.close();
    history.replaceState(null, "", isLive ? list.dataset.selfLive : list.dataset.self);
    // The foot says what is on the screen; pages lead elsewhere while it moves.
    $("[data-address] code").textContent = $("[data-address] button").dataset.copy = location.href;
    $("[data-live-command]").hidden = !isLive;
    $(".pages").hidden = isLive;
    if (!isLive) return tell("");
    [place, number, waiting] = ["", 0, []];
    list.replaceChildren();
    open();
  }
  toggle.addEventListener("click", () => set(toggle.getAttribute("aria-pressed") !== "true"));
  pause.addEventListener("click", () => {
    isPaused = !isPaused;
    pause.textContent = isPaused ? "Go on" : "Pause";
    source?.close();
    if (isPaused) tell("Paused"); else open();
  });
  if ("start" in list.dataset) set(true);
}

for (const hidden of all(".needs-script")) hidden.hidden = false;
for (const time of all("time[datetime]")) addLocal(time);
document.addEventListener("click", (event) => copy(event.target.closest?.("[data-copy]")));
document.addEventListener("submit", () => { isLeaving = true; });
for (const start of [keyboard, overview, liveEvents]) start();
