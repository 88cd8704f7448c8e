// The gradient-conflict explorer: arithmetic first, then pieces of the picture, then one class for what is shown and pressed. Drawn as SVG, with drawings.js.

const CONFLICT = COLOURS[6], OTHERS = COLOURS[5], ROOM = 13;  // what fired; a pair without CE; pixels between two labels
const KEYS = [["← →", "previous, next step"], ["Home End", "first, last step"], ["n", "next pair"], ["v", "all gradients: with their lengths, or directions only"], ["Tab", "cells of the matrix, meetings, arrows"], ["p", "picture of this view"], ["Esc", "close"], ["?", "this list"]];
const LOOK = `
.dkc .grid{display:grid;grid-template-columns:repeat(12,minmax(0,1fr));gap:10px}.dkc .grid section{border:1px solid var(--line);border-radius:8px;padding:10px 12px;min-width:0;overflow-x:auto}
.dkc .column{display:grid;gap:10px;grid-template-rows:auto 1fr;min-width:0}.dkc p{margin:3px 0;color:var(--soft);max-width:130ch}.dkc .w12{grid-column:span 12}.dkc .w7{grid-column:span 7}.dkc .w5{grid-column:span 5}
@container (max-width:860px){.dkc .w7,.dkc .w5{grid-column:span 12}}
.dkc svg{display:block;width:100%;height:auto}.dkc .drag{touch-action:none}.dkc text{fill:var(--ink);font:12px system-ui,sans-serif}.dkc .soft{fill:var(--soft)}.dkc .w12 svg{min-width:560px}
.dkc g:focus-visible{outline:none}.dkc g:focus-visible>rect,.dkc circle:focus-visible{stroke:var(--hot);stroke-width:2.5}.dkc g:focus-visible>line{stroke-width:4}.dkc circle:focus-visible{outline:none}
.dkc input[type=range]{flex:1;min-width:120px}.dkc .moves{display:flex;flex-wrap:wrap;gap:6px;margin:6px 0}.dkc .live{min-height:1.4em}`;

// --- words
const plain = x => { const digits = Math.abs(x).toFixed(2); return digits === "0.00" ? digits : (x < 0 ? "−" : "+") + digits; };
const degrees = cosine => Math.acos(Math.max(-1, Math.min(1, cosine))) * 180 / Math.PI;
const short = name => name.length > 8 ? name.slice(0, 6) + "." : name;
const compact = x => Math.abs(x) < 1000 ? plain(x) : (x < 0 ? "−" : "+") + Math.abs(x).toExponential(0).replace("e+", "e");
const timesOf = x => x < 1e6 ? Number(x.toPrecision(2)).toLocaleString("en") : x.toExponential(0).replace("e+", " · 10^");
const tint = x => x === null || x === undefined ? "transparent" : `rgba(${x < 0 ? "192,80,77" : "90,167,176"},${Math.min(1, Math.abs(x)) * .75})`;
const known = x => x !== null && x !== undefined;
const clear = node => node.replaceChildren();
const size = v => Math.hypot(...v);

// --- arithmetic: the same as drivekd.workbench.conflicts, for arrows that the reader drags
const dot = (a, b) => a.reduce((sum, x, i) => sum + x * b[i], 0);
const minus = (a, b, factor) => a.map((x, i) => x - factor * b[i]);
const plus = (a, b) => a.map((x, i) => x + b[i]);
function agp(anchor, followers, order) {
  const first = followers.map(f => dot(f, anchor) < 0 ? minus(f, anchor, dot(f, anchor) / dot(anchor, anchor)) : f);
  const merged = first.map(f => plus(f, anchor)), projected = merged.map(m => [...m]);
  for (const i of order) for (const j of order) {
    const d = dot(projected[i], merged[j]);
    if (i !== j && d < 0) projected[i] = minus(projected[i], merged[j], d / dot(merged[j], merged[j]));
  }
  return {first, merged, projected, result: projected.reduce(plus)};
}
const product = (g, a, b) => a.reduce((sum, x, i) => sum + x * dot(g[i], b), 0);
/** Exact coordinates: `axis` along x, `a` spans the plane, `b` lies in it. */
function plane(g, axis, a, b) {
  const length = Math.sqrt(Math.max(0, product(g, axis, axis))), xs = [a, b].map(v => length ? product(g, axis, v) / length : 0);
  const normal = minus(a, axis, length ? xs[0] / length : 0), height = Math.sqrt(Math.max(0, product(g, normal, normal)));
  return [[length, 0], ...[a, b].map((v, i) => [xs[i], height ? product(g, normal, v) / height : 0])];
}

// --- pieces of the picture
function arrow(svg, [x0, y0], [x1, y1], colour, {dash = "", width = 2.4, opacity = 1} = {}) {
  const angle = Math.atan2(y1 - y0, x1 - x0), head = Math.hypot(x1 - x0, y1 - y0) > 6 ? 9 : 0, at = turn => `${x1 - head * Math.cos(angle + turn)},${y1 - head * Math.sin(angle + turn)}`;
  draw(svg, "line", {x1: x0, y1: y0, x2: x1, y2: y1, stroke: colour, "stroke-width": width, "stroke-dasharray": dash, opacity});
  if (head) draw(svg, "polygon", {points: `${x1},${y1} ${at(.42)} ${at(-.42)}`, fill: colour, opacity});
}

/** Words at arrow tips [{at, from, text, colour}], inside a box and not over each other. */
function labels(svg, words, [left, top, right, bottom]) {
  const boxes = words.map(({at: [x, y], from, text, colour}) => {
    const wide = 6.7 * text.length, start = x < from[0] - 4 ? x - 7 - wide : x + 7;
    return {text, colour, tip: y, x: Math.max(left, Math.min(right - wide, start)), wide, y: Math.max(top, Math.min(bottom, y + (y > from[1] + 4 ? 14 : -7)))};
  }).sort((a, b) => a.y - b.y);
  const meet = (a, b) => a.x < b.x + b.wide && b.x < a.x + a.wide;
  boxes.forEach((b, i) => { for (const a of boxes.slice(0, i)) if (meet(a, b) && b.y < a.y + ROOM) b.y = a.y < b.tip && a.y + ROOM < b.tip + 15 ? b.tip + 15 : a.y + ROOM; });  // not on its own arrow
  for (let i = boxes.length - 1; i >= 0; i--) { boxes[i].y = Math.min(boxes[i].y, bottom); for (const b of boxes.slice(i + 1)) if (meet(boxes[i], b)) boxes[i].y = Math.min(boxes[i].y, b.y - ROOM); }
  for (const b of boxes) draw(svg, "text", {x: b.x, y: b.y, style: `fill:${b.colour};paint-order:stroke;stroke:var(--bg);stroke-width:3px`, class: "tip"}, b.text);
}

function curve(svg, points, x, y, colour, width, limit, more = {}) {
  let path = "", last = null;
  for (const [step, value] of points) {
    if (!known(value)) { last = null; continue; }
    path += last === null || step - last > limit ? `M${x(step).toFixed(1)},${y(value).toFixed(1)}h0` : `L${x(step).toFixed(1)},${y(value).toFixed(1)}`;  // a gap stays a gap, a point alone is a dot
    last = step;
  }
  draw(svg, "path", {d: path, fill: "none", stroke: colour, "stroke-width": width, "stroke-linejoin": "round", "stroke-linecap": "round", ...more});
}

/** A table of cosines; `pick` is told the pair of a cell. */
function matrix(svg, names, values, [x, y], title, inks, pick, chosen) {
  const cell = 50, high = cell * .62;
  draw(svg, "text", {x, y: y - 26, style: "font-weight:600"}, title);
  names.forEach((name, i) => {
    draw(svg, "text", {x: x + 78 + (i + .5) * cell, y: y - 8, "text-anchor": "middle", style: `font-size:11px;fill:${inks.get(name)}`}, short(name));
    draw(svg, "text", {x: x + 70, y: y + (i + .62) * high, "text-anchor": "end", style: `font-size:11px;fill:${inks.get(name)}`}, name.slice(0, 11));
  });
  values.forEach((line, i) => line.forEach((value, j) => {
    const lit = chosen.includes(names[i]) && chosen.includes(names[j]) && i !== j, live = {tabindex: i < j ? 0 : -1, role: "button", style: "cursor:pointer", "aria-pressed": lit, "aria-label": `${title}, ${names[i]} and ${names[j]}: cosine ${plain(value)}`, "data-focus": `${title} ${names[i]} ${names[j]}`};
    const g = draw(svg, "g", i !== j ? live : {}), where = {x: x + 78 + j * cell, y: y + i * high, width: cell - 3, height: high - 3, rx: 4};
    draw(g, "rect", {...where, fill: i === j ? "transparent" : tint(value), stroke: lit ? "var(--ink)" : "var(--line)", "stroke-width": lit ? 2 : 1});
    draw(g, "text", {x: x + 78 + (j + .48) * cell, y: y + (i + .62) * high, "text-anchor": "middle"}, i === j ? "1" : plain(value));
    if (i !== j) { on(g, "click", () => pick(names[i], names[j])); on(g, "keydown", e => { if (e.key === "Enter" || e.key === " ") { e.preventDefault(); pick(names[i], names[j]); } }); }
  }));
}

// --- the explorer
class ConflictView {
  constructor(box, record, channel) {
    const {steps, terms} = record;
    Object.assign(this, {box, record, channel, steps, terms, agp, panels: [], inks: termColours(terms), numbers: steps.map(s => s.step), flat: steps.some(s => s.merged.includes("ce"))});
    this.state = {at: steps.length >> 1, pair: [terms[0], terms[1]], move: 0, phase: 1, plane: "lengths"};
    this.arms = [[1.5, 0], [-1.2, 1.4], [-.5, -1.8]];
    this.build();
    this.drawHand(); this.seen(channel.get());
  }

  // --- elements
  build() {
    const panel = (width, title, text, ...parts) => {
      const node = el("section", {class: width}, el("h3", {}, title), text && el("p", {}, text), ...parts);
      this.panels.push(node); return node;
    };
    this.slider = el("input", {type: "range", min: 0, max: this.steps.length - 1, value: 0, "aria-label": "optimizer step", oninput: () => this.go(+this.slider.value)}); this.place = el("output");
    this.play = button("▶ steps", () => this.run(), {"aria-pressed": "false"});
    this.live = el("p", {class: "live", "aria-live": "polite"}); this.said = el("p", {"aria-live": "polite", class: "said"}); this.held = el("p", {"aria-live": "polite", class: "held"}); this.note = el("p"); this.exact = el("p");
    this.time = drawing(1100, 330, "cosine over steps"); this.tables = drawing(640, 300, "cosine matrices"); this.meeting = drawing(460, 300, "two gradients in their own plane"); this.shadow = drawing(460, 290, "all gradients in one plane");
    this.heat = drawing(620, 300, "cosines by block"); this.table = drawing(1100, 300, "conflict methods"); this.hand = drawing(1000, 330, "arrows to drag");
    for (const svg of [this.time, this.tables, this.meeting, this.shadow, this.heat, this.table, this.hand]) svg.setAttribute("role", "group");
    this.hand.classList.add("drag");
    this.moves = el("div", {class: "moves", role: "group", "aria-label": "moves of this step"});
    this.shape = segments("Plane of", [["lengths", "With their lengths"], ["directions", "Directions only"]], plane => { this.state.plane = plane; this.drawShadow(); });
    this.timeline = panel("w12", "Do they agree? Cosine over the run", "Pale: before. Strong: after the stage in which the two meet. Red ticks: a projection fired. Below zero they conflict. Below: CE's share of the lengths added up, and all lengths. Click for a step.", this.time);
    this.box.root.classList.add("dkc");
    this.box.body.replaceChildren(el("style", {}, LOOK), el("div", {class: "dk-row"}, this.play, this.slider, this.place, button("Picture", () => this.keep(), {title: "picture of this view (p)"}), button("Keys", () => tellKeys(this.box, KEYS))), this.live, el("div", {class: "grid"}, this.timeline,
      el("div", {class: "column w7"}, panel("", "All pairs at this step", "Choose a pair to follow it. Below: who meets whom; what conflicted has a ⟂.", this.tables, this.moves), panel("", "Where in the model", "", this.note, this.heat)),
      el("div", {class: "column w5"}, panel("", "One meeting, in its own plane", "", this.exact, this.meeting, this.said), panel("", "All gradients in one plane", "On the two directions that hold most of them. Point at an arrow.", this.shape.node, this.shadow, this.held)),
      panel("w12", "Another method on the same gradients", "Descent of each loss, to first order: 1 is as good as a step along its own gradient, below 0 the loss rises. AGP counts CE once for each capability, the plain sum once: compare angles and signs, not lengths.", this.table),
      panel("w12", "By hand", "Drag the arrows, or focus a tip and use the arrow keys. CE is the anchor; two capabilities give way to it, then the merged gradients to each other. So AGP counts CE twice here, the plain sum once.", this.hand)));
    this.listen();
  }
  listen() {
    on(this.time, "click", e => {
      const area = this.time.getBoundingClientRect(), step = this.low + ((e.clientX - area.left) / area.width * this.wide - 46) / (this.wide - 64) * (this.high - this.low);
      this.go(this.nearest(step));
    });
    on(this.hand, "pointermove", e => {
      if (this.dragged === undefined) return;
      const area = this.hand.getBoundingClientRect(), x = (e.clientX - area.left) / area.width * 1000, y = (e.clientY - area.top) / area.width * 1000;
      this.arms[this.dragged] = this.bounded([(x - 165) / 48, (165 - y) / 48]); this.drawHand();
    });
    for (const type of ["pointerup", "pointercancel"]) on(this.hand, type, () => { this.dragged = undefined; });
    on(this.box.root, "keydown", e => this.key(e));
    if (!this.channel.kernel) on(document, "keydown", e => { if (e.target === document.body) this.key(e); });  // a page is all ours
    new ResizeObserver(() => { if (this.width() !== this.wide) this.drawTime(); }).observe(this.timeline);
  }
  width() { return Math.max(560, Math.min(1500, Math.round(this.timeline.clientWidth - 26))); }

  // --- a pair over the run
  get low() { return this.numbers[0]; }
  get high() { return this.numbers.at(-1); }
  get limit() { const gaps = this.numbers.slice(1).map((n, i) => n - this.numbers[i]).sort((a, b) => a - b); return 1.5 * (gaps[gaps.length >> 1] || 1); }
  nearest(step) { return this.numbers.reduce((best, n, i) => Math.abs(n - step) < Math.abs(this.numbers[best] - step) ? i : best, 0); }
  anchored() { return this.state.pair.includes("ce") && !this.flat; }  // a flat method has CE among the gradients that it projects
  fired(s) {
    const [i, j] = this.state.pair.map(n => s.merged.indexOf(n));
    return this.anchored() ? !!s.fired_stage1[Math.max(i, j)] : i >= 0 && j >= 0 && (s.fired_stage2[i][j] || s.fired_stage2[j][i]);
  }
  /** The charts of the pair: title, and what each line is. */
  charts() {
    const raw = "raw, as they come";
    if (this.anchored()) return [["cosine with CE", [["cosines", "terms", raw], ["cosines_stage1", "terms", "after stage 1"]]]];
    if (this.flat) return [["cosine", [["cosines", "terms", raw], ["cosines_stage2", "merged", "after the projections"]]]];
    return [["raw: their own gradients", [["cosines", "terms", raw], ["cosines_stage1", "terms", "raw, after stage 1"]]], ["merged with CE", [["cosines_merged", "merged", "merged with CE, before stage 2"], ["cosines_stage2", "merged", "merged with CE, after stage 2"]]]];
  }
  entry(s, [field, names]) { const [i, j] = this.state.pair.map(n => s[names].indexOf(n)); return s[field] && i >= 0 && j >= 0 ? s[field][i][j] : null; }
  drawTime() {
    clear(this.time);
    const charts = this.charts(), high = charts.length > 1 ? 104 : 164, wide = this.wide = this.width(), x = step => 46 + (step - this.low) / Math.max(1, this.high - this.low) * (wide - 64);
    draw(this.time, "text", {x: 46, y: 14, style: "font-weight:600"}, `${this.state.pair.join(" · ")}: fired in ${this.steps.filter(s => this.fired(s)).length} of ${this.steps.length} steps shown`);
    let top = 22;
    for (const chart of charts) { this.drawChart(chart, top, high, x); top += high + 34; }
    for (const s of this.steps) if (this.fired(s)) draw(this.time, "line", {x1: x(s.step), x2: x(s.step), y1: top - 6, y2: top + 4, stroke: CONFLICT, "stroke-width": 1.6, class: "fired"});
    const end = this.drawLengths(top + 8, x), here = x(this.steps[this.state.at].step);
    draw(this.time, "line", {x1: here, x2: here, y1: 22, y2: end, stroke: "var(--ink)", "stroke-dasharray": "3 3"});
    for (const step of this.marks()) {
      draw(this.time, "line", {x1: x(step), x2: x(step), y1: end, y2: end + 5, stroke: "var(--soft)"});
      draw(this.time, "text", {x: x(step), y: end + 18, "text-anchor": "middle", class: "soft tick"}, step);
    }
    draw(this.time, "text", {x: 40, y: end + 18, "text-anchor": "end", class: "soft"}, "step");
    this.time.setAttribute("viewBox", `0 0 ${wide} ${end + 24}`);
  }
  /** Round steps for the axis; a record of one step has that one. */
  marks() { return this.high > this.low ? ticks(this.low, this.high, 10).filter(Number.isInteger) : [this.low]; }
  drawChart([title, lines], top, high, x) {
    const ink = this.state.pair.includes("ce") ? this.inks.get(this.state.pair.find(n => n !== "ce")) : OTHERS, points = lines.map(line => this.steps.map(s => [s.step, this.entry(s, line)]));
    const most = Math.max(...points.flat().map(([, v]) => Math.abs(v ?? 0))), reach = [.05, .2, .5].find(r => most <= r) || 1, y = v => top + 22 + high / 2 * (1 - v / reach);
    draw(this.time, "rect", {x: 46, y: y(0), width: this.wide - 64, height: high / 2, fill: "rgba(192,80,77,.09)"});
    for (const v of [-1, -.5, 0, .5, 1].map(v => v * reach)) { draw(this.time, "line", {x1: 46, x2: this.wide - 18, y1: y(v), y2: y(v), stroke: "var(--line)"}); draw(this.time, "text", {x: 40, y: y(v) + 4, "text-anchor": "end", class: "soft"}, +v.toFixed(3)); }
    let at = 46;
    const write = (text, more) => { draw(this.time, "text", {x: at, y: top + 14, ...more}, text); at += 6.6 * text.length + 16; };
    write(title, {class: "soft", style: "font-style:italic"});
    lines.forEach(([, , what], k) => {
      const strong = k === lines.length - 1, value = points[k][this.state.at][1], missing = points[k].every(([, v]) => !known(v));
      draw(this.time, "line", {x1: at, x2: at + 22, y1: top + 10, y2: top + 10, stroke: ink, "stroke-width": strong ? 2.4 : 1.6, opacity: strong ? 1 : .5}); at += 28;
      write(what + (missing ? ": not in this recording" : known(value) ? ` ${plain(value)}` : ""), {class: "line"});
      curve(this.time, points[k], x, y, ink, strong ? 2.2 : 1.5, this.limit, {opacity: strong ? 1 : .5, "data-line": what});
    });
  }
  /** CE's share and the lengths; returns where they end. */
  drawLengths(top, x) {
    const share = v => top + 38 - 34 * v, floor = top + 124, lengths = this.steps.flatMap(s => s.norms).filter(n => n > 0).map(Math.log10), low = Math.floor(Math.min(...lengths)), high = Math.ceil(Math.max(...lengths));
    const place = n => n > 0 ? floor - 58 * (Math.log10(n) - low) / Math.max(1, high - low) : null, small = {"text-anchor": "end", class: "soft", style: "font-size:10px"};
    draw(this.time, "text", {x: 40, y: top + 16, ...small}, "CE"); draw(this.time, "text", {x: 40, y: top + 27, ...small}, "share");
    curve(this.time, this.steps.map(s => [s.step, s.ce_share]), x, share, this.inks.get("ce"), 1.8, this.limit);
    draw(this.time, "text", {x: 50, y: top + 56, style: "font-weight:600"}, "length of each gradient");
    [high, low].forEach((e, i) => draw(this.time, "text", {x: 40, y: top + 70 + 54 * i, ...small}, Math.abs(e) > 3 ? `1e${e}` : 10 ** e));
    let at = 236;
    for (const name of this.terms) {
      curve(this.time, this.steps.map(s => [s.step, s.terms.includes(name) ? s.norms[s.terms.indexOf(name)] : null]), x, place, this.inks.get(name), 1.6, this.limit);
      draw(this.time, "text", {x: at, y: top + 56, style: `fill:${this.inks.get(name)}`}, name); at += 7 * name.length + 18;
    }
    draw(this.time, "line", {x1: 46, x2: this.wide - 18, y1: floor, y2: floor, stroke: "var(--line)"});
    return floor;
  }

  // --- a step
  drawTables() {
    clear(this.tables);
    const s = this.steps[this.state.at], high = s.terms.length * 31, second = s.cosines_merged.length > 1, pick = (a, b) => { this.state.pair = [a, b]; this.choosePairMove(); this.paint(); };
    const one = (names, values, at, title) => { if (values) matrix(this.tables, names, values, at, title, this.inks, pick, this.state.pair); };
    one(s.terms, s.cosines, [0, 48], "raw, as they come"); one(s.terms, s.cosines_stage1, [330, 48], "after stage 1");
    if (second) { one(s.merged, s.cosines_merged, [0, 104 + high], this.flat ? "before the projections" : "merged with CE"); one(s.merged, s.cosines_stage2, [330, 104 + high], this.flat ? "after the projections" : "merged, after stage 2"); }
    this.tables.setAttribute("viewBox", `0 0 640 ${high + (second ? 112 + s.merged.length * 31 : 60)}`);
  }
  inkOf(name) { return this.inks.get(name.replace("ce + ", "")); }
  drawPlane() {
    clear(this.meeting);
    const s = this.steps[this.state.at], move = s.moves[this.state.move];
    if (!move) { draw(this.meeting, "text", {x: 20, y: 40, class: "soft"}, "This step was not combined by AGP with one shared anchor."); this.said.textContent = this.exact.textContent = ""; return; }
    let [axis, from, to] = plane(s.gram, move.target, move.before, move.after);
    const times = size(axis) / (size(from) || 1), longer = times > 5 || times < .2;  // draw what would be a dot longer, and say so
    if (times > 5) [from, to] = [from, to].map(v => v.map(c => c * times)); else if (times < .2) axis = axis.map(c => c / times);
    const scale = Math.max(...[axis, from, to].map(size)) || 1, px = ([x, y]) => [230 + x / scale * 165, 240 - y / scale * 190], now = from.map((v, i) => v + (to[i] - v) * this.state.phase), o = px([0, 0]), ink = this.inkOf(move.who);
    arrow(this.meeting, o, px(axis), this.inkOf(move.against), {width: move.against.startsWith("ce + ") ? 2.4 : 3});
    if (move.fired) { arrow(this.meeting, o, px(from), ink, {dash: "5 4", opacity: .5}); draw(this.meeting, "line", {x1: px(from)[0], y1: px(from)[1], x2: px(now)[0], y2: px(now)[1], stroke: CONFLICT, "stroke-width": 2, "stroke-dasharray": "2 3"}); }
    arrow(this.meeting, o, px(now), ink);
    draw(this.meeting, "circle", {cx: o[0], cy: o[1], r: 3, fill: "var(--ink)"});
    labels(this.meeting, [{at: px(axis), from: o, text: move.against, colour: this.inkOf(move.against)}, ...(move.fired ? [{at: px(from), from: o, text: "before", colour: "var(--soft)"}] : []), {at: px(now), from: o, text: move.who, colour: ink}], [4, 12, 456, 292]);
    this.exact.textContent = longer ? `Two gradients span a plane, so the angle is exact; the lengths are not to scale: ${times > 5 ? move.who : move.against} is drawn ${timesOf(Math.max(times, 1 / times))} times as long as it is.` : "Two gradients span a plane, so angle and lengths are exact.";
    this.said.textContent = `Stage ${move.stage}: ${move.who} meets ${move.against} at ${degrees(move.cosine).toFixed(0)}° (cosine ${plain(move.cosine)}). ` +
      (move.fired ? `It conflicts, so the part against ${move.against} is taken away: ${(100 * (1 - move.kept)).toFixed(1)} % of its length is lost, ${move.against} stays as it is.` : "No conflict, both stay as they are.");
  }
  /** Listed by name, played in the order of the step: no button changes its place from step to step. */
  listMoves() {
    const all = this.steps[this.state.at].moves, places = m => [m.stage, ...[m.who, m.against].map(n => this.terms.indexOf(n.replace("ce + ", "")))];
    const listed = all.map((m, i) => [m, i]).sort(([a], [b]) => places(a).map((p, k) => p - places(b)[k]).find(Boolean) || 0), name = m => `${m.stage}: ${m.who.replace("ce + ", "")} → ${m.against.replace("ce + ", "")}${m.fired ? " ⟂" : ""}`;
    keepFocus(this.moves, () => this.moves.replaceChildren(...(all.length > 1 ? [button("▶ all", () => this.tell(), {title: "one meeting after the other", "data-focus": "all"})] : []),
      ...listed.map(([m, i]) => button(name(m), () => { clearInterval(this.telling); this.state.move = i; this.animate(); },
        {"aria-pressed": String(i === this.state.move), title: `stage ${m.stage}, meeting ${i + 1} of ${all.length}`, "data-focus": `move ${m.who} ${m.against}`}))));
  }
  tell() {
    clearInterval(this.telling); this.state.move = 0; this.animate();
    this.telling = setInterval(() => { if (this.state.move + 1 < this.steps[this.state.at].moves.length) { this.state.move += 1; this.animate(); } else clearInterval(this.telling); }, 1400);
  }
  animate() {
    cancelAnimationFrame(this.frame); this.listMoves();
    if (matchMedia("(prefers-reduced-motion: reduce)").matches) { this.state.phase = 1; this.drawPlane(); return; }
    const start = performance.now(), tick = now => { this.state.phase = Math.min(1, Math.max(0, now - start) / 700); this.drawPlane(); if (this.state.phase < 1) this.frame = requestAnimationFrame(tick); };
    this.frame = requestAnimationFrame(tick);
  }
  choosePairMove() {
    const names = this.state.pair.filter(n => n !== "ce"), found = this.steps[this.state.at].moves.findIndex(m => this.anchored() ? m.stage === 1 && m.who === names[0] : m.stage === 2 && names.every(n => [m.who, m.against].includes(`ce + ${n}`)));
    this.state.move = Math.max(0, found); this.state.phase = 1;
  }
  /** All gradients on their two leading directions. */
  drawShadow() {
    const s = this.steps[this.state.at], {points, explained, each} = s.planes[this.state.plane], unit = this.state.plane === "directions";
    const scale = 108 / (unit ? 1 : Math.max(...points.map(size)) || 1), o = [230, 145], px = ([x, y]) => [o[0] + scale * x, o[1] - scale * y];
    const part = v => v === null ? "no gradient" : (100 * v).toFixed(1) + "\u202f%", tiny = s.terms.filter((_, i) => each[i] !== null && scale * s.norms[i] < 4 && !unit);
    const all = explained === null ? "No gradient has a length in this step." : `${part(explained)} of their squared length lies in this plane (${s.terms.map((t, i) => `${t} ${part(each[i])}`).join(", ")}).` + (unit ? " All count as equally long; the circle is their length." : "") + (tiny.length ? ` Too short to be seen beside the others: ${tiny.join(", ")}.` : "");
    const about = i => `${s.terms[i]}: length ${s.norms[i].toPrecision(2)}, ${part(each[i])} of its squared length lies in this plane` + (i && s.cosines ? `; ${degrees(s.cosines[0][i]).toFixed(0)}° from ${s.terms[0]}, here ${degrees(dot(points[0], points[i]) / (size(points[0]) * size(points[i]) || 1)).toFixed(0)}°.` : ".");
    this.shape.show(this.state.plane); this.held.textContent = all;
    keepFocus(this.shadow, () => {
      clear(this.shadow);
      draw(this.shadow, "line", {x1: 20, x2: 440, y1: o[1], y2: o[1], stroke: "var(--line)"}); draw(this.shadow, "line", {x1: o[0], x2: o[0], y1: 16, y2: 276, stroke: "var(--line)"});
      draw(this.shadow, "text", {x: 440, y: o[1] + 14, "text-anchor": "end", class: "soft", style: "font-size:10px"}, "1st direction"); draw(this.shadow, "text", {x: o[0] + 5, y: 276, class: "soft", style: "font-size:10px"}, "2nd direction");
      if (unit) draw(this.shadow, "circle", {cx: o[0], cy: o[1], r: scale, fill: "none", stroke: "var(--soft)", "stroke-dasharray": "2 4"});
      points.forEach((p, i) => {
        const tell = text => () => { this.held.textContent = text; }, g = draw(this.shadow, "g", {tabindex: 0, role: "img", "aria-label": about(i), "data-focus": `arrow ${s.terms[i]}`}), [x, y] = px(p);
        draw(g, "line", {x1: o[0], y1: o[1], x2: x, y2: y, stroke: "transparent", "stroke-width": 16});
        arrow(g, o, [x, y], this.inks.get(s.terms[i]));
        for (const [type, text] of [["pointerenter", about(i)], ["focus", about(i)], ["pointerleave", all], ["blur", all]]) on(g, type, tell(text));
      });
      labels(this.shadow, points.map((p, i) => ({at: px(p), from: o, text: s.terms[i], colour: this.inks.get(s.terms[i])})), [4, 12, 456, 284]);
    });
  }
  drawBlocks() {
    clear(this.heat);
    const s = this.steps[this.state.at], pairs = this.terms.flatMap((a, i) => this.terms.slice(i + 1).map(b => [a, b]));
    let at = this.state.at; while (at > 0 && !Object.keys(this.steps[at].blocks).length) at -= 1;
    const shown = this.steps[at], rows = Object.keys(shown.blocks), width = 470 / pairs.length;
    this.note.textContent = rows.length ? `Cosine of each pair in each part of the student${shown === s ? "" : `, last noted at step ${shown.step}`}. Empty: one of the two does not reach it.` : "This record was written without log_blocks.";
    if (rows.length) pairs.forEach(([a, b], j) => draw(this.heat, "text", {x: 140 + (j + .5) * width, y: 14 + 12 * (j % 2), "text-anchor": "middle", class: "soft", style: "font-size:10.5px"}, `${short(a)}·${short(b)}`));
    rows.forEach((name, i) => {
      draw(this.heat, "text", {x: 132, y: 50 + 22 * i, "text-anchor": "end", class: "soft", style: "font-size:11px"}, name);
      pairs.forEach(([a, b], j) => {
        const [p, q] = [a, b].map(n => shown.terms.indexOf(n)), value = p >= 0 && q >= 0 ? shown.blocks[name][p][q] : null, g = draw(this.heat, "g");
        draw(g, "rect", {x: 140 + j * width, y: 35 + 22 * i, width: width - 2, height: 20, rx: 3, fill: tint(value), stroke: "var(--line)"});
        if (value !== null) draw(g, "text", {x: 140 + (j + .5) * width, y: 49 + 22 * i, "text-anchor": "middle", style: "font-size:11px"}, plain(value));
        draw(g, "title", {}, `${name}, ${a} and ${b}: ${value === null ? "no common gradient" : plain(value)}`);
      });
    });
    this.heat.setAttribute("viewBox", `0 0 620 ${rows.length ? 40 + 22 * rows.length : 1}`);
  }
  drawMethods() {
    clear(this.table);
    const s = this.steps[this.state.at], width = 620 / s.terms.length, head = (x, text, colour = "var(--soft)", anchor = "middle") => draw(this.table, "text", {x, y: 16, "text-anchor": anchor, style: `fill:${colour}`}, text);
    head(0, "method", "var(--soft)", "start"); s.terms.forEach((t, j) => head(190 + (j + .5) * width, t, this.inks.get(t))); head(880, "angle to CE"); head(1030, "length");
    s.methods.forEach((m, i) => {
      const y = 42 + 26 * i, write = (x, text, more = {}) => draw(this.table, "text", {x, y, "text-anchor": "middle", ...more}, text);
      write(0, m.method === "recorded" ? "as recorded" : m.method, {"text-anchor": "start", style: m.method === "recorded" ? "font-weight:600" : ""});
      if (m.reason) { write(194, m.reason.slice(0, 130), {"text-anchor": "start", class: "soft"}); return; }
      m.descents.forEach((d, j) => {
        this.cell(190 + j * width, y - 15, width - 3, 22, d < 0 ? CONFLICT : this.inks.get(s.terms[j]), Math.abs(d));
        write(190 + (j + .5) * width, compact(d));
      });
      write(880, m.norm ? `${degrees(m.cosine).toFixed(0)}°` : "stands still"); write(1030, m.norm.toPrecision(2));
    });
    const low = 36 + 26 * s.methods.length, say = (x, text) => draw(this.table, "text", {x, y: low + 11, class: "soft legend"}, text);
    s.terms.forEach((t, j) => this.cell(190 + 18 * j, low, 15, 14, this.inks.get(t), 1));
    const next = 196 + 18 * s.terms.length;
    say(next, "this loss falls, full colour from 1 on"); this.cell(next + 250, low, 15, 14, CONFLICT, 1); say(next + 271, "it rises, full colour from \u22121 on");
    this.table.setAttribute("viewBox", `0 0 1100 ${low + 20}`);
  }
  /** A field in the colour of what it is about, the stronger the more. */
  cell(x, y, width, height, colour, much) {
    draw(this.table, "rect", {x, y, width, height, rx: 3, fill: colour, "fill-opacity": (Math.min(1, much) * .5).toFixed(2), stroke: "var(--line)"});
  }

  // --- by hand
  bounded(v) { const n = size(v); return n > 2.8 ? v.map(x => x * 2.8 / n) : n < .15 ? [.15, 0] : v; }
  drawHand() { keepFocus(this.hand, () => { clear(this.hand); this.drawScenes(); this.drawTips(); }); }
  drawScenes() {
    const names = ["ce", "perception", "planning"], ink = names.map(n => OF_TERMS.get(n)), arms = this.arms, out = agp(arms[0], arms.slice(1), [0, 1]), sum = arms.reduce(plus), half = out.result.map(x => x / 2);
    const unit = Math.min(48, 132 / Math.max(...[...out.first, ...out.merged, sum, half].map(size))), less = unit < 48 ? `, drawn at ${percent(unit / 48, 0)}` : "";  // every tip stays in its scene
    const at = (cx, scale) => ([x, y]) => [cx + scale * x, 165 - scale * y], first = at(165, 48), second = at(500, unit), third = at(830, unit), pale = "var(--soft)";
    for (const [title, cx] of [["drag these", 165], ["after stage 1, merged with CE" + less, 500], ["result" + less, 830]]) { draw(this.hand, "text", {x: cx, y: 16, "text-anchor": "middle", style: "font-weight:600"}, title); draw(this.hand, "circle", {cx, cy: 165, r: 3, fill: "var(--ink)"}); }
    arms.forEach((v, i) => arrow(this.hand, first([0, 0]), first(v), ink[i]));
    out.first.forEach((v, i) => { if (v !== arms[i + 1]) arrow(this.hand, second([0, 0]), second(arms[i + 1]), ink[i + 1], {dash: "4 4", width: 1.4, opacity: .5}); arrow(this.hand, second([0, 0]), second(v), ink[i + 1], {width: 1.6}); });
    out.merged.forEach((v, i) => arrow(this.hand, second([0, 0]), second(v), ink[i + 1]));
    arrow(this.hand, third([0, 0]), third(sum), pale, {dash: "4 4"}); arrow(this.hand, third([0, 0]), third(half), "var(--ink)");
    const inside = cx => [cx - 160, 34, cx + 160, 304], words = (place, list) => list.map(([v, text, colour]) => ({at: place(v), from: place([0, 0]), text, colour}));
    labels(this.hand, words(first, arms.map((v, i) => [v, names[i], ink[i]])), inside(165));
    labels(this.hand, words(second, out.merged.map((v, i) => [v, `ce + ${names[i + 1]}`, ink[i + 1]])), inside(500));
    labels(this.hand, words(third, [[sum, "plain sum", pale], [half, "AGP, half length", "var(--ink)"]]), inside(830));
    const along = v => plain(dot(v, arms[0]) / dot(arms[0], arms[0]));
    draw(this.hand, "text", {x: 500, y: 324, "text-anchor": "middle", class: "soft"}, `CE · perception ${plain(dot(arms[0], arms[1]))}, CE · planning ${plain(dot(arms[0], arms[2]))}; along CE the plain sum has ${along(sum)}, AGP ${along(out.result)} times CE's own step`);
  }
  drawTips() {
    const turns = {ArrowLeft: [-.1, 0], ArrowRight: [.1, 0], ArrowUp: [0, .1], ArrowDown: [0, -.1]};
    this.arms.forEach((v, i) => {
      const words = v.map(x => x.toFixed(1)).join(" "), name = ["ce", "perception", "planning"][i];
      const tip = draw(this.hand, "circle", {cx: 165 + 48 * v[0], cy: 165 - 48 * v[1], r: 13, fill: "transparent", tabindex: 0, role: "slider", "aria-label": name, "aria-valuenow": size(v).toFixed(1), "aria-valuetext": words, style: "cursor:grab", "data-arm": i, "data-focus": `arm ${i}`});
      on(tip, "pointerdown", e => { e.preventDefault(); this.dragged = i; this.hand.setPointerCapture(e.pointerId); });
      on(tip, "keydown", e => { const turn = turns[e.key]; if (turn) { taken(e); this.arms[i] = this.bounded(plus(v, turn)); this.drawHand(); } });
    });
  }

  // --- what is pressed
  paint() {
    const s = this.steps[this.state.at], conflicts = s.moves.filter(m => m.fired).length;
    this.slider.value = this.state.at; this.place.textContent = `step ${s.step}`;
    this.live.textContent = `Step ${s.step}: ${conflicts} of ${s.moves.length} meetings conflicted; CE makes up ${(100 * s.ce_share).toFixed(0)} % of the lengths added up. Norms: ${s.terms.map((t, i) => `${t} ${s.norms[i].toPrecision(2)}`).join(", ")}.` + (this.record.every > 1 ? ` One in ${this.record.every} of ${this.record.recorded} recorded steps is shown.` : "");
    keepFocus(this.tables, () => this.drawTables());
    this.drawTime(); this.listMoves(); this.drawPlane(); this.drawShadow(); this.drawBlocks(); this.drawMethods();
    this.channel.set({step: s.step, pair: [...this.state.pair]});
  }
  go(at) {
    const shown = this.steps[this.state.at].moves[this.state.move], same = m => ["stage", "who", "against"].every(k => m[k] === shown?.[k]);
    this.state.at = Math.max(0, Math.min(this.steps.length - 1, at));
    this.state.move = Math.max(0, this.steps[this.state.at].moves.findIndex(same)); this.state.phase = 1; this.paint();
  }
  run() {
    const begins = !this.timer;
    this.play.setAttribute("aria-pressed", String(begins)); this.play.textContent = begins ? "❚❚ steps" : "▶ steps";
    if (begins) this.timer = setInterval(() => this.go((this.state.at + 1) % this.steps.length), 250); else { clearInterval(this.timer); this.timer = null; }
  }
  nextPair() {
    const pairs = this.terms.flatMap((a, i) => this.terms.slice(i + 1).map(b => [a, b])), at = pairs.findIndex(pair => pair.every(n => this.state.pair.includes(n)));
    this.state.pair = pairs[(at + 1) % pairs.length]; this.choosePairMove(); this.paint();
  }
  key(e) {
    if (chord(e) || e.target === this.slider || e.target.closest?.(".dk-over")) return;
    const run = {ArrowLeft: () => this.go(this.state.at - 1), ArrowRight: () => this.go(this.state.at + 1), Home: () => this.go(0), End: () => this.go(this.steps.length - 1), n: () => this.nextPair(), p: () => this.keep(), "?": () => tellKeys(this.box, KEYS),
      v: () => { this.state.plane = this.state.plane === "lengths" ? "directions" : "lengths"; this.drawShadow(); }}[e.key];
    if (run) { run(); taken(e); }
  }
  keep() { this.picture().then(sheet => offerPicture(this.box, sheet, `conflicts-step-${this.steps[this.state.at].step}.png`, this.heading().join(". "))).catch(this.box.fail); }
  /** What a picture says first, for whom it is all there is. */
  heading() { return ["Gradient conflicts" + (this.record.run ? ` of ${this.record.run}` : "") + `, step ${this.steps[this.state.at].step}`, this.live.textContent]; }
  /** Each panel under its title and what it says of itself, below each other; what is set by hand is no part of the run. */
  async picture() {
    const {root} = this.box, parts = [], shown = this.panels.filter(panel => !panel.contains(this.hand));
    for (const panel of shown) {
      const svg = panel.querySelector("svg"), {image, width, height} = await imageOf(svg, root), said = [...panel.querySelectorAll("h3,p")].map(node => node.textContent).filter(Boolean);
      const part = sheet(root, Math.max(640, width) + 20, height, said, 13);
      part.pen.drawImage(image, 10, part.top, width, height); parts.push(part.canvas);
    }
    const {canvas, pen, top} = sheet(root, Math.max(...parts.map(part => part.width)), sum(parts.map(part => part.height + 16)), this.heading(), 16);
    parts.reduce((y, part) => { pen.drawImage(part, 0, y); return y + part.height + 16; }, top);
    return canvas;
  }
  /** A place that the notebook asks for. */
  seen({step, pair}) {
    if (pair && pair.every(name => this.terms.includes(name))) this.state.pair = [...pair];
    if (step !== undefined) this.state.at = this.nearest(step);
    this.choosePairMove(); this.paint();
  }
}

async function explore(host, channel) {
  const box = frame(host, "Gradient-conflict explorer"), view = new ConflictView(box, JSON.parse(new TextDecoder().decode(channel.bytes)), channel);
  channel.on(() => view.seen(channel.get()));
  host.explorer = view;  // for the console, and for tests
  box.root.dataset.ready = "true";
}
