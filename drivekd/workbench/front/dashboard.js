// The run dashboard: what there is to draw, then the drawing, then what is pressed. Fed by a snapshot, and by a kernel that reads on if there is one; colours and ticks from drawings.js.

const MEMORY = "main memory of the run's processes: now, or once it has ended its peak; accelerator: the most that tensors took";
const SECTIONS = [["overview", "Overview"], ["losses", "Losses"], ["weights", "Weights"], ["cosines", "Cosines"], ["fired", "What fired"], ["machine", "Machine"], ["log", "Trainer\u2019s log"]];
const BADGES = {running: "\u25b6", queued: "\u2026", ok: "\u2713", failed: "\u2715", killed: "\u2715", timeout: "\u2715", refused: "\u2298"};
const EVERY = 2000;  // milliseconds between two looks of the kernel
const KEYS = [["1 \u2026 7", "section"], ["\u2190 \u2192", "step under the line; with Shift ten at a time"], ["Home End", "first, last step"], ["+ \u2212 0", "zoom in, out, everything; or drag across a chart"], ["t", "steps or time"], ["l", "logarithmic"], ["m", "smoothing"],
  ["Space", "pause or go on (live)"], ["p", "picture of this view"], ["Esc", "let go"], ["?", "this list"]];

// --- numbers ---------------------------------------------------------------------------------------------------------------------

/** A number as one reads it. */
function brief(x) {
  if (x == null || !Number.isFinite(x)) return "\u2013";
  const a = Math.abs(x);
  if (a >= 1e5 || (a < 1e-3 && a > 0)) return x.toExponential(1).replace("-", "\u2212");
  return (a >= 100 ? x.toFixed(0) : a >= 10 ? x.toFixed(1) : a >= 1 ? x.toFixed(2) : x.toFixed(3)).replace("-", "\u2212");
}
const duration = s => s == null ? "\u2013" : s < 90 ? Math.round(s) + " s" : s < 5400 ? Math.round(s / 60) + " min" : (s / 3600).toFixed(1) + " h";
const gigabytes = bytes => (bytes / 1e9).toFixed(2) + " GB";

const progress = student => student.of ? `${student.step} of ${student.of}` : String(student.step);

/** Mean of the last k known values; a gap begins it again. */
function smoothed(values, k) {
  const window = [];
  return values.map(v => {
    if (v == null) { window.length = 0; return null; }
    window.push(v);
    if (window.length > k) window.shift();
    return sum(window) / window.length;
  });
}

/** The clock of a run that was resumed goes on where it stopped. */
function onward(seconds) {
  let base = 0, last = 0;
  return seconds.map(s => {
    if (s == null) return base + last;
    if (s < last) base += last;
    last = s;
    return base + s;
  });
}

/** Place of the last x that is not beyond. */
function placeOf(xs, x) {
  let low = 0, high = xs.length - 1;
  while (low < high) { const mid = (low + high + 1) >> 1; if (xs[mid] <= x) low = mid; else high = mid - 1; }
  return low;
}

// --- panels ------------------------------------------------------------------------------------------------------------------------

const word = key => key.slice(key.indexOf("/") + 1);
const starting = (students, prefix) => [...new Set(students.flatMap(s => Object.keys(s.curves).filter(k => k.startsWith(prefix + "/"))))];

/** A panel: title, what its numbers are, and which curves of each student it draws (of two, the first one pale). */
const panel = (key, title, more = {}) => ({key, title, curves: [key], ...more});
const SHARE = {low: 0, high: 1, unit: "share"}, COSINE = {zero: true}, POSITIVE = {positive: true};

const PANELS = {
  overview: s => [panel("loss", "Total loss, as minimised", POSITIVE), panel("losses/ce", "Answer loss (CE)", POSITIVE), panel("ce_share", "Share of CE in the gradient", SHARE),
    panel("any/fired_stage1", "Stage 1 fired, share of capabilities", {...SHARE, flag: true}), panel("rate", "Steps per second", {low: 0}), panel("memory", "Main memory of the run's processes, GB", {low: 0, own: true})],
  losses: s => [panel("loss", "Total loss, as minimised", POSITIVE), ...starting(s, "losses").map(k => panel(k, "Loss: " + word(k), POSITIVE))],
  weights: s => [...starting(s, "loss_weights").map(k => panel(k, "Weight: " + word(k), {low: 0})), ...starting(s, "ratios").map(k => panel(k, "Weighted gradient of " + word(k) + " relative to CE", POSITIVE)),
    ...starting(s, "norms_unweighted").map(k => panel(k, "Gradient norm: " + word(k), POSITIVE))],
  cosines: s => [...starting(s, "cosines").map(k => panel(k, "Raw: " + word(k), {...COSINE, curves: [k, k.replace("cosines/", "cosines_stage1/")], note: "pale: before stage 1, strong: after"})),
    ...starting(s, "cosines_merged").map(k => panel(k, "Merged with CE: " + word(k), {...COSINE, curves: [k, k.replace("cosines_merged/", "cosines_stage2/")], note: "pale: before stage 2, strong: after"}))],
  fired: s => [...starting(s, "fired_stage1").map(k => panel(k, "Stage 1 on " + word(k), {...SHARE, flag: true})), ...starting(s, "fired_stage2").map(k => panel(k, "Stage 2: " + word(k), {...SHARE, flag: true})), panel("ce_share", "Share of CE in the gradient", SHARE)],
  machine: s => [panel("rate", "Steps per second", {low: 0}), panel("memory", "Main memory of the run's processes, GB", {low: 0, own: true}), panel("memory_gb", "Accelerator memory, peak so far, GB", {low: 0}), panel("seconds", "Seconds since the trainer began", {low: 0})],
  log: s => [...new Set(s.flatMap(x => Object.keys(x.log || {})))].map(k => panel("log/" + k, k.replace(/_/g, " "))),
};

/** x and y of a student's curve; null if it has none. */
function curveOf(student, key, byTime) {
  if (key === "memory") return student.memory.length ? {x: student.memory.map(m => m[0] - student.memory[0][0]), y: student.memory.map(m => m[1] / 1e9)} : null;
  if (key.startsWith("log/")) { const pairs = (student.log || {})[word(key)]; return pairs ? {x: pairs.map(p => p[0]), y: pairs.map(p => p[1])} : null; }
  const x = byTime ? student.curves.seconds && onward(student.curves.seconds) : student.steps;
  if (key === "any/fired_stage1") {
    const all = Object.keys(student.curves).filter(k => k.startsWith("fired_stage1/")).map(k => student.curves[k]);
    return x && all.length ? {x, y: x.map((_, i) => all[0][i] == null ? null : sum(all.map(c => c[i])) / all.length)} : null;
  }
  return x && student.curves[key] ? {x, y: student.curves[key]} : null;
}

// --- one chart -------------------------------------------------------------------------------------------------------------------------

const FACE = "11px " + FONT, LEFT = 46, BOTTOM = 18, TOP = 6, RIGHT = 8;

class Chart {
  constructor(view, spec) {
    this.view = view; this.spec = spec;
    this.base = el("canvas"); this.over = el("canvas", {tabindex: 0, role: "img", class: "dk-over2"});
    this.legend = el("div", {class: "dk-legend"});
    this.node = el("figure", {class: "dk-chart", "data-panel": spec.key}, el("figcaption", {}, el("b", {}, spec.title), spec.note ? el("span", {}, spec.note) : null), el("div", {class: "dk-plot"}, this.base, this.over), this.legend);
    const at = e => this.toX(e.clientX - this.over.getBoundingClientRect().left);
    on(this.over, "pointermove", e => { if (this.from != null) this.mark = [this.from, at(e)]; if (!spec.own) view.point(at(e)); });
    on(this.over, "pointerleave", () => { if (!spec.own) view.point(null); });
    on(this.over, "pointerdown", e => { if (!spec.own) { this.from = at(e); this.over.setPointerCapture(e.pointerId); } });
    on(this.over, "pointerup", e => { const from = this.from; this.from = this.mark = null; if (from != null && Math.abs(this.px(at(e)) - this.px(from)) > 8) view.zoom([from, at(e)].sort((a, b) => a - b)); });
    on(this.over, "dblclick", () => view.zoom(null));
  }
  fit(width) {
    this.w = width; this.h = 150;
    const ratio = window.devicePixelRatio || 1;
    for (const canvas of [this.base, this.over]) { canvas.width = width * ratio; canvas.height = this.h * ratio; canvas.style.width = width + "px"; canvas.style.height = this.h + "px"; canvas.getContext("2d").scale(ratio, ratio); }
  }
  px(x) { const [a, b] = this.domain; return LEFT + (x - a) / (b - a || 1) * (this.w - LEFT - RIGHT); }
  toX(px) { const [a, b] = this.domain; return a + (px - LEFT) / (this.w - LEFT - RIGHT) * (b - a); }
  py(y) { const [a, b] = this.range, t = this.log ? (Math.log10(y) - a) / (b - a || 1) : (y - a) / (b - a || 1); return this.h - BOTTOM - t * (this.h - BOTTOM - TOP); }

  /** The curves of the panel, as they are to be drawn. */
  collect() {
    const {view, spec} = this, k = Math.max(view.state.smooth, spec.flag ? 10 : 1);
    this.lines = view.students().flatMap(s => spec.curves.map((key, second) => {
      const found = curveOf(s, key, view.byTime());
      return found && {...found, student: s, ink: s.ink, pale: second < spec.curves.length - 1, raw: found.y, y: k > 1 ? smoothed(found.y, k) : found.y, smooth: k > 1};
    })).filter(Boolean);
    this.domain = spec.own ? [0, Math.max(1, ...this.lines.map(l => l.x.at(-1)))] : view.domain();
    const inside = this.lines.flatMap(l => (spec.curves.length > 1 || !l.smooth ? l.y : l.raw).filter((y, i) => y != null && l.x[i] >= this.domain[0] && l.x[i] <= this.domain[1]));
    this.log = Boolean(view.state.log && spec.positive && inside.length && inside.some(y => y > 0));
    this.range = this.log ? this.logRange(inside.filter(y => y > 0)) : this.plainRange(inside);
  }
  logRange(values) { return [Math.log10(quantile(values, 0)), Math.log10(Math.max(...values)) + 0.05]; }
  plainRange(values) {
    const {low, high} = this.spec;
    if (high != null) return [low, high];
    let a = Infinity, b = -Infinity;
    for (const v of values) { if (v < a) a = v; if (v > b) b = v; }
    if (a > b) return [0, 1];
    if (low != null) a = Math.min(low, a);
    if (this.spec.zero) { const most = Math.min(1, 1.1 * Math.max(-a, b, 0.01)); return [-most, most]; }
    const pad = (b - a || Math.abs(b) || 1) * 0.06;
    return [low != null && a === low ? a : a - pad, b + pad];
  }
  draw(pen = this.base.getContext("2d")) {
    this.collect();
    const spec = this.spec, colours = getComputedStyle(this.view.box.root), ink = colours.color, soft = colours.getPropertyValue("--line") || "#ccc";
    if (pen.canvas === this.base) pen.clearRect(0, 0, this.w, this.h);
    pen.font = FACE; pen.lineWidth = 1; pen.textBaseline = "middle";
    if (this.lines.length) this.axes(pen, ink, soft);
    pen.save(); pen.beginPath(); pen.rect(LEFT, 0, this.w - LEFT - RIGHT, this.h - BOTTOM + 1); pen.clip();
    for (const line of this.lines) {
      if (line.smooth && spec.curves.length < 2) this.stroke(pen, line, line.raw, 0.22, 1);
      this.stroke(pen, line, line.y, line.pale ? 0.4 : 1, 1.6);
    }
    pen.restore();
    if (!this.lines.length) { pen.fillStyle = ink; pen.globalAlpha = 0.6; pen.textAlign = "center"; pen.fillText(this.spec.key === "memory" ? "measured while a run goes on" : "nothing recorded", this.w / 2, this.h / 2); pen.globalAlpha = 1; }
    this.describe();
  }
  axes(pen, ink, soft) {
    const share = this.spec.unit === "share", even = ticks(this.range[0], this.range[1], this.log ? 3 : 4), digits = Math.max(0, -Math.floor(Math.log10((even[1] - even[0]) * 1.001)));
    const plain = t => Math.abs(t) >= 1e5 || digits > 4 ? brief(t) : t.toFixed(digits).replace("-", "\u2212"), marks = even.map(t => this.log ? [10 ** t, brief(10 ** t)] : [t, share ? percent(t, 0) : plain(t)]);
    pen.textAlign = "right";
    for (const [y, text] of marks) { const at = Math.round(this.py(y)) + 0.5; pen.strokeStyle = soft; pen.beginPath(); pen.moveTo(LEFT, at); pen.lineTo(this.w - RIGHT, at); pen.stroke(); pen.fillStyle = ink; pen.globalAlpha = 0.7; pen.fillText(text, LEFT - 5, at); pen.globalAlpha = 1; }
    if (this.spec.zero) { pen.strokeStyle = ink; pen.globalAlpha = 0.5; const at = Math.round(this.py(0)) + 0.5; pen.beginPath(); pen.moveTo(LEFT, at); pen.lineTo(this.w - RIGHT, at); pen.stroke(); pen.globalAlpha = 1; }
    pen.textAlign = "center"; pen.fillStyle = ink; pen.globalAlpha = 0.7;
    const unit = this.spec.own || this.view.byTime() ? " s" : "", across = ticks(this.domain[0], this.domain[1], Math.max(2, Math.floor(this.w / 90)));
    for (const x of across) if (this.px(x) < this.w - 14) pen.fillText(String(+x.toPrecision(6)) + (x === across[0] ? unit : ""), this.px(x), this.h - 8);
    pen.globalAlpha = 1;
  }
  stroke(pen, line, values, alpha, width) {
    pen.strokeStyle = pen.fillStyle = line.ink; pen.globalAlpha = alpha; pen.lineWidth = width; pen.setLineDash(line.student.dash);
    pen.beginPath();
    let open = false;
    for (let i = 0; i < values.length; i++) {
      const y = values[i];
      if (y == null || (this.log && !(y > 0))) { open = false; continue; }
      const alone = !open && (i + 1 >= values.length || values[i + 1] == null);
      if (open) pen.lineTo(this.px(line.x[i]), this.py(y)); else pen.moveTo(this.px(line.x[i]), this.py(y));
      if (alone) pen.fillRect(this.px(line.x[i]) - 1.5, this.py(y) - 1.5, 3, 3);
      open = true;
    }
    pen.stroke(); pen.globalAlpha = 1; pen.setLineDash([]);
  }
  /** The line under the pointer, and what the curves are there. */
  point(x) {
    const pen = this.over.getContext("2d"), shown = this.spec.own ? null : x;
    pen.clearRect(0, 0, this.w, this.h);
    if (this.mark) { const [a, b] = this.mark.map(m => this.px(m)); pen.fillStyle = "rgba(31,111,235,.15)"; pen.fillRect(Math.min(a, b), 0, Math.abs(b - a), this.h - BOTTOM); }
    if (shown != null) { pen.strokeStyle = getComputedStyle(this.view.box.root).color; pen.globalAlpha = 0.55; pen.beginPath(); pen.moveTo(this.px(shown), 0); pen.lineTo(this.px(shown), this.h - BOTTOM); pen.stroke(); pen.globalAlpha = 1; }
    const values = this.lines.map(l => { const i = shown == null ? l.raw.length - 1 : placeOf(l.x, shown); return [l, shown != null && (shown < l.x[0] || shown > l.x.at(-1)) ? null : l.y[i], l.x[i]]; });
    if (shown != null) for (const [l, y, at] of values) if (y != null && !(this.log && y <= 0)) { pen.fillStyle = l.ink; pen.beginPath(); pen.arc(this.px(at), this.py(y), 3, 0, 7); pen.fill(); }
    const share = this.spec.unit === "share";
    this.legend.replaceChildren(...values.map(([l, y]) => el("span", {class: "dk-key", title: l.student.label + (l.pale ? ", before" : this.spec.note ? ", after" : "")}, el("i", {style: `background:${l.ink}${l.pale ? ";opacity:.4" : ""}`}), y == null ? "\u2013" : share ? percent(y, 0) : brief(y),
      values.length <= 4 && !l.pale ? el("small", {}, l.student.label) : null)));
  }
  describe() {
    const parts = this.lines.map(l => { const known = l.y.filter(y => y != null); return known.length ? `${l.student.label}${l.pale ? " before" : ""}: from ${brief(known[0])} to ${brief(known.at(-1))}` : `${l.student.label}: gaps only`; });
    this.over.setAttribute("aria-label", `${this.spec.title}. ${parts.join("; ") || "nothing recorded"}`);
  }
}

// --- the view -----------------------------------------------------------------------------------------------------------------------------

class DashboardView {
  constructor(host, channel, found) {
    this.channel = channel; this.box = frame(host, "Run dashboard"); this.runs = new Map(found.runs.map(r => [r.name, r])); this.listed = found.listed; this.made = found.made;
    this.state = {shown: found.runs.map(r => r.name), hidden: [], section: "overview", axis: "step", log: false, smooth: 1, window: null};
    this.cursor = null; this.live = Boolean(channel.ask); this.paused = false; this.inks = new Map(); this.charts = [];
    this.box.root.classList.add("dk-dash");
    this.accept(channel.get());
    this.build();
    channel.on(() => { this.accept(channel.get()); this.renew(); });
  }
  start() {
    new ResizeObserver(() => this.fit()).observe(this.grid);
    this.renew();
    Object.assign(this.box.root, {view: this}).dataset.ready = "true";  // for the console, and for tests
    if (this.live) { this.loop(); setInterval(() => this.showPulse(), 1000); }
    return this;
  }
  /** State from outside: only what exists. */
  accept(given) {
    const s = this.state, names = this.listed.map(r => r.name);
    if (Array.isArray(given.shown)) s.shown = given.shown.filter(n => names.includes(n));
    if (Array.isArray(given.hidden)) s.hidden = given.hidden.filter(n => typeof n === "string");
    if (SECTIONS.some(([k]) => k === given.section)) s.section = given.section;
    if (given.axis === "step" || given.axis === "time") s.axis = given.axis;
    if (typeof given.log === "boolean") s.log = given.log;
    if ([1, 5, 21].includes(given.smooth)) s.smooth = given.smooth;
  }
  tell() { const {shown, hidden, section, axis, log, smooth} = this.state; this.channel.set({shown, hidden, section, axis, log, smooth}); }
  change(patch) { Object.assign(this.state, patch); this.renew(); this.tell(); }

  // --- what there is

  all() {
    return this.state.shown.map(n => this.runs.get(n)).filter(Boolean).flatMap(run => run.students.map(student => {
      const key = `${run.name} / ${student.name}`;
      if (!this.inks.has(key)) this.inks.set(key, this.inks.size);
      const i = this.inks.get(key);
      return {...student, key, label: key, run, memory: student === run.students[0] ? run.memory : [], ink: COLOURS[i % COLOURS.length], dash: i < COLOURS.length ? [] : [7, 2]};
    }));
  }
  students() { return this.all().filter(s => !this.state.hidden.includes(s.key)); }
  byTime() { return this.state.axis === "time"; }
  domain() {
    if (this.state.window) return this.state.window;
    const ends = this.students().map(s => curveOf(s, "loss", this.byTime())).filter(c => c && c.x.length).map(c => [c.x[0], c.x.at(-1)]);
    return ends.length ? [Math.min(...ends.map(e => e[0])), Math.max(...ends.map(e => e[1]), Math.min(...ends.map(e => e[0])) + 1)] : [0, 1];
  }

  // --- elements

  build() {
    const s = this.state;
    this.table = el("div", {class: "dk-runs", role: "region", "aria-label": "Runs", tabindex: 0});
    this.sections = segments("Section", SECTIONS.map(([k, t]) => [k, t]), section => this.change({section}));
    this.axis = segments("Across", [["step", "Steps"], ["time", "Time"]], axis => this.change({axis, window: null}));
    this.log = toggle("log", log => this.change({log}), "logarithmic where all is positive");
    this.smooth = chooser("smoothing", [[1, "none"], [5, "5 points"], [21, "21 points"]], s.smooth, v => this.change({smooth: Number(v)}));
    this.pulse = el("span", {class: "dk-pulse"});
    this.pause = button("Pause", () => this.hold(), {hidden: !this.live});
    this.grid = el("div", {class: "dk-grid"}); this.readout = el("p", {class: "dk-note dk-readout"});
    this.whole = button("Whole run", () => { this.zoom(null); this.charts[0].over.focus({preventScroll: true}); }, {hidden: true});
    this.box.body.append(el("style", {}, LOOK), el("div", {class: "dk-row"}, el("h3", {class: "dk-title"}, "Runs"), this.pulse, this.pause, el("span", {class: "dk-push"}),
      button("Picture", () => this.keep(), {title: "picture of this view (p)"}), button("Keys", () => tellKeys(this.box, KEYS))),
    this.table, el("div", {class: "dk-row dk-tools"}, this.sections.node, el("span", {class: "dk-push"}), this.whole, this.axis.node, this.log.node, this.smooth.node), this.grid, this.readout);
    on(this.box.root, "keydown", e => this.key(e));
    if (!this.channel.kernel) on(document, "keydown", e => { if (e.target === document.body) this.key(e); });  // a page is all ours
  }
  renew() {
    const s = this.state;
    this.sections.show(s.section); this.axis.show(s.axis); this.log.show(s.log); this.smooth.select.value = String(s.smooth); this.whole.hidden = !s.window;
    this.showRuns(); this.showPulse();
    const specs = PANELS[s.section](this.students());
    if (specs.map(p => p.key).join("\n") !== this.charts.map(c => c.spec.key).join("\n")) {
      this.charts = specs.map(spec => new Chart(this, spec));
      const note = this.students().length ? "The runs that are shown have recorded nothing of this." : "Tick a run to see its curves.";
      keepFocus(this.grid, () => this.grid.replaceChildren(...this.charts.length ? this.charts.map(c => c.node) : [el("p", {class: "dk-note"}, note)]), this.charts.length ? this.charts[0].over : this.table);
    }
    this.fit();
  }
  fit() {
    const wide = this.grid.clientWidth, most = Math.max(1, Math.floor((wide + 12) / 330)), columns = Math.ceil(this.charts.length / Math.ceil(this.charts.length / most));
    if (!wide || !this.charts.length) return;
    this.grid.style.gridTemplateColumns = `repeat(${columns}, minmax(0, 1fr))`;
    const width = Math.floor((wide - 12 * (columns - 1)) / columns) - 18;
    for (const chart of this.charts) { chart.fit(width); chart.draw(); chart.point(this.cursor); }
    this.showReadout();
  }

  // --- the table of runs

  showRuns() {
    const all = this.all(), rows = this.listed.map(listed => this.runRow(listed, all.filter(s => s.run.name === listed.name)));
    const table = el("table", {class: "dk-runtable"}, el("thead", {}, el("tr", {}, ["run", "state", "students", "step", "loss", "steps/s", "memory", "took"].map(t => el("th", {scope: "col", title: t === "memory" ? MEMORY : ""}, t)))), el("tbody", {}, rows.flat()));
    keepFocus(this.table, () => this.table.replaceChildren(table));
  }
  runRow(listed, students) {
    const name = listed.name, run = this.runs.get(name), said = run || listed, on = this.state.shown.includes(name), bad = ["failed", "killed", "timeout", "refused"].includes(said.status);
    const tick = el("input", {type: "checkbox", checked: on, disabled: !this.live && !run, onchange: e => this.choose(name, e.target.checked), "data-focus": "run " + name, "aria-label": "show " + name});
    const last = (s, key) => { const c = s.curves[key]; return c ? c.findLast(v => v != null) : null; }, of = key => students.map(s => brief(last(s, key))).join(" \u00b7 ") || "\u2013";
    const chips = students.map(s => el("button", {type: "button", class: "dk-chip", "aria-pressed": String(!this.state.hidden.includes(s.key)), "data-focus": "chip " + s.key, title: s.flaws.length ? `line ${s.flaws.join(", ")} of its telemetry cannot be read: a gap` : "show or hide", onclick: () => this.flip(s.key)},
      el("i", {style: `background:${s.ink}`}), s.name, s.flaws.length ? " \u26a0" : ""));
    const card = Math.max(...students.map(s => last(s, "memory_gb") || 0), 0), main = run && run.memory.length ? gigabytes(run.memory.at(-1)[1]) : run && run.peak != null ? run.peak.toFixed(1) + " GB peak" : "\u2013";
    const memory = card ? `${main} + ${card.toFixed(1)} GB accelerator` : main;
    const cells = [el("label", {class: "dk-name"}, tick, el("bdi", {}, name)), el("span", {class: "dk-badge dk-" + (bad ? "bad" : said.status === "ok" ? "ok" : said.status === "running" ? "run" : "none"), title: said.error}, (BADGES[said.status] || "\u25cb") + " " + said.status),
      el("span", {class: "dk-chips"}, chips), students.map(s => progress(s)).join(" \u00b7 ") || "\u2013", of("loss"), of("rate"), memory, duration(said.seconds)];
    const why = [said.place, said.error, this.quiet(run)].filter(Boolean).join(": "), more = this.differences(run);
    return [el("tr", {"data-run": name}, cells.map(c => el("td", {}, c))), why || more ? el("tr", {class: "dk-why"}, el("td", {colspan: 8}, why ? el("span", {class: bad ? "dk-badtext" : ""}, why) : null, why && more ? " \u2014 " : null, more || null)) : null].filter(Boolean);
  }
  /** A running run that has not written for a while. */
  quiet(run) {
    if (!run || run.status !== "running" || !run.students.length) return "";
    const age = this.made - Math.max(...run.students.map(s => s.written));
    return age > 60 ? `no new line for ${duration(age)}` : "";
  }
  /** Parameters in which the shown runs differ. */
  differences(run) {
    const shown = this.state.shown.map(n => this.runs.get(n)).filter(Boolean);
    if (!run || shown.length < 2 || !shown.includes(run)) return "";
    const keys = Object.keys(run.parameters).filter(k => shown.some(r => r.parameters[k] !== run.parameters[k]));
    return keys.slice(0, 8).map(k => `${k} = ${run.parameters[k] || "(empty)"}`).join(", ");
  }
  choose(name, on) {
    const shown = on ? [...this.state.shown.filter(n => n !== name), name] : this.state.shown.filter(n => n !== name);
    this.change({shown, window: null});
    if (this.live && on && !this.runs.has(name)) this.look().catch(this.box.fail);
  }
  flip(key) { const h = this.state.hidden; this.change({hidden: h.includes(key) ? h.filter(k => k !== key) : [...h, key]}); }

  // --- pointing

  point(x) { this.cursor = x; for (const chart of this.charts) chart.point(x); this.showReadout(); }
  zoom(window) { this.change({window: window && window[1] > window[0] ? window : null}); }
  scale(factor) { const [a, b] = this.domain(), mid = this.cursor == null ? (a + b) / 2 : this.cursor, half = (b - a) / 2 * factor; this.zoom(factor > 1 && !this.state.window ? null : [mid - half, mid + half]); }
  move(by, end) {
    const line = this.students().map(s => curveOf(s, "loss", this.byTime())).filter(c => c && c.x.length).sort((a, b) => b.x.length - a.x.length)[0];
    if (!line) return;
    const at = end === "Home" ? 0 : end === "End" || this.cursor == null ? line.x.length - 1 : Math.min(line.x.length - 1, Math.max(0, placeOf(line.x, this.cursor) + by));
    this.point(line.x[at]);
    this.box.say(this.readout.textContent);
  }
  showReadout() {
    const at = this.cursor, students = this.students(), where = at == null ? "Last step" : this.byTime() ? `At ${duration(at)}` : `At step ${Math.round(at)}`;
    const parts = students.map(s => {
      const value = key => { const c = curveOf(s, key, this.byTime()); return !c || !c.x.length || (at != null && (at < c.x[0] || at > c.x.at(-1))) ? null : c.y[at == null ? c.y.length - 1 : placeOf(c.x, at)]; };
      return `${s.label}: loss ${brief(value("loss"))}, CE ${brief(value("losses/ce"))}${value("ce_share") == null ? "" : ", CE share " + percent(value("ce_share"), 0)}`;
    });
    this.readout.textContent = parts.length ? `${where}. ${parts.join("; ")}.` : "";
  }

  // --- live

  async loop() {
    while (this.box.root.isConnected) {
      if (!this.paused && !document.hidden) await this.look().catch(this.box.fail);
      await new Promise(done => setTimeout(done, EVERY));
    }
  }
  /** Ask the kernel to read on. */
  async look() {
    this.asked = Date.now();
    const reply = await this.channel.ask({kind: "look", shown: this.state.shown, have: Object.fromEntries([...this.runs].map(([name, run]) => [name, run.version]))});
    this.asked = null;
    this.silent = !!reply.silent;
    if (reply.error) { this.box.fail(reply.error); return; }
    this.box.root.querySelector(".dk-error").hidden = true;
    const before = new Map(this.listed.map(r => [r.name, r.status]));
    for (const run of reply.runs) this.runs.set(run.name, run);
    this.made = reply.made;
    for (const r of reply.listed) if (before.has(r.name) && before.get(r.name) !== r.status) this.box.say(`${r.name} is now ${r.status}. ${r.error}`);
    const same = !reply.runs.length && JSON.stringify(reply.listed) === JSON.stringify(this.listed);
    this.listed = reply.listed;
    if (!same) this.renew();
  }
  hold() { this.paused = !this.paused; this.pause.textContent = this.paused ? "Go on" : "Pause"; this.showPulse(); }
  showPulse() {
    const made = new Date(this.made * 1000), when = made.toISOString().slice(0, 19).replace("T", " ");
    this.pulse.dataset.state = !this.live ? "still" : this.paused ? "paused" : this.silent ? "silent" : this.asked && Date.now() - this.asked > 6000 ? "busy" : "live";
    this.pulse.textContent = {still: `as of ${when} UTC`, paused: "paused", silent: "the kernel does not answer", busy: "the kernel is busy", live: `live, every ${EVERY / 1000} s`}[this.pulse.dataset.state];
  }

  // --- keys and pictures

  key(e) {
    if (chord(e) || /^(INPUT|SELECT|TEXTAREA)$/.test(e.target.tagName)) return;
    const onButton = e.target.tagName === "BUTTON", s = this.state, section = SECTIONS[Number(e.key) - 1];
    const run = {ArrowLeft: () => this.move(e.shiftKey ? -10 : -1), ArrowRight: () => this.move(e.shiftKey ? 10 : 1), Home: () => this.move(0, "Home"), End: () => this.move(0, "End"), "+": () => this.scale(0.5), "-": () => this.scale(2), 0: () => this.zoom(null),
      t: () => this.change({axis: this.byTime() ? "step" : "time", window: null}), l: () => this.change({log: !s.log}), m: () => this.change({smooth: {1: 5, 5: 21, 21: 1}[s.smooth]}), " ": this.live && !onButton ? () => this.hold() : null, p: () => this.keep(), "?": () => tellKeys(this.box, KEYS), Escape: () => this.point(null)}[e.key]
      || (section && (() => this.change({section: section[0]})));
    if (run) { run(); taken(e); }
  }
  keep() {
    const columns = Math.min(3, this.charts.length) || 1, w = this.charts.length ? this.charts[0].w : 300, rows = Math.ceil(this.charts.length / columns), students = this.students(), top = 34 + 18 * students.length;
    const canvas = el("canvas", {width: 2 * (columns * (w + 16) + 16), height: 2 * (top + rows * 182 + 10)}), pen = canvas.getContext("2d"), colours = getComputedStyle(this.box.root);
    pen.scale(2, 2); pen.fillStyle = colours.backgroundColor; pen.fillRect(0, 0, canvas.width, canvas.height); pen.textBaseline = "middle";
    students.forEach((s, i) => { pen.fillStyle = s.ink; pen.fillRect(16, 21 + 18 * i, 12, 5); pen.fillStyle = colours.color; pen.font = "12px " + FONT; pen.fillText(`${s.label} (${s.run.status}), step ${progress(s)}`, 34, 24 + 18 * i); });
    this.charts.forEach((chart, i) => { pen.save(); pen.translate(16 + (i % columns) * (w + 16), top + Math.floor(i / columns) * 182); pen.fillStyle = colours.color; pen.textAlign = "left"; pen.font = "600 12px " + FONT; pen.fillText(chart.spec.title, 4, 8); pen.translate(0, 20); chart.draw(pen); pen.restore(); });
    offerPicture(this.box, canvas, "runs.png", this.readout.textContent);
  }
}

const LOOK = `
.dk-dash{
.dk-push{flex:1}.dk-title{font-size:14px;margin:0}.dk-pulse{color:var(--soft);font-size:12px}.dk-pulse[data-state=live]::before{content:"";display:inline-block;width:8px;height:8px;border-radius:50%;background:#2e9e77;margin-right:5px}
.dk-runs{overflow:auto;max-height:232px;margin:8px 0;border:1px solid var(--line);border-radius:6px}.dk-runtable th{position:sticky;top:0;background:var(--fill);padding:3px 8px;z-index:1}.dk-runtable td{padding:3px 8px;border-top:1px solid var(--line);vertical-align:middle;white-space:normal}
.dk-runtable th:nth-child(-n+3),.dk-runtable td:nth-child(-n+3),.dk-why td{text-align:left}.dk-why td{border-top:0;padding:0 8px 4px 30px;color:var(--soft);font-size:12px;white-space:normal;overflow-wrap:anywhere}.dk-badtext{color:#c0362c}
.dk-name{display:inline-flex;gap:6px;align-items:center;cursor:pointer;max-width:260px;overflow:hidden;text-overflow:ellipsis}.dk-badge{display:inline-block;white-space:nowrap;border-radius:10px;padding:0 8px;font-size:12px;border:1px solid var(--line)}
.dk-bad{background:#fde8e6;color:#8f1d14;border-color:#f3b9b3}.dk-ok{background:#e3f5ec;color:#12583c;border-color:#a9dcc4}.dk-run{background:#e5effb;color:#174a86;border-color:#b0cdf0}
.dk-chips{display:inline-flex;gap:4px;flex-wrap:wrap}.dk-chip{border-radius:10px;padding:0 8px;min-height:22px;display:inline-flex;gap:5px;align-items:center}.dk-chip[aria-pressed=false]{opacity:.45;text-decoration:line-through}.dk-chip[aria-pressed=true]{background:var(--bg);color:var(--ink);border-color:var(--line)}
.dk-chip i,.dk-key i{display:inline-block;width:12px;height:4px;border-radius:2px}.dk-tools{margin:6px 0 10px}.dk-grid{display:grid;gap:12px}.dk-chart{margin:0;border:1px solid var(--line);border-radius:6px;padding:6px 8px 5px;min-width:0}
.dk-chart figcaption{display:flex;flex-wrap:wrap;justify-content:space-between;gap:0 8px;font-size:12px;margin-bottom:3px}.dk-chart figcaption b{font-weight:600;overflow-wrap:anywhere;min-width:0}.dk-chart figcaption span{color:var(--soft)}
.dk-plot{position:relative}.dk-plot canvas{display:block}.dk-over2{position:absolute;left:0;top:0;cursor:crosshair;touch-action:pan-y}.dk-legend{display:flex;flex-wrap:wrap;gap:2px 12px;font-size:12px;font-variant-numeric:tabular-nums;min-height:18px;padding-left:46px}
.dk-key{display:inline-flex;gap:5px;align-items:center}.dk-key small{max-width:14em;overflow:hidden;text-overflow:ellipsis;white-space:nowrap;opacity:.75}.dk-readout{min-height:2.8em;overflow-wrap:anywhere}
@media(prefers-color-scheme:dark){.dk-bad{background:#4a1a16;color:#ffc9c3;border-color:#7c2d26}.dk-ok{background:#123524;color:#b4e6cd;border-color:#235c41}.dk-run{background:#14304f;color:#bcd8f7;border-color:#2a5587}.dk-badtext{color:#ff9b91}}
}
`;

async function explore(host, channel) {
  const bytes = await channel.bytes;
  return new DashboardView(host, channel, JSON.parse(new TextDecoder().decode(bytes))).start();
}
