// The gradient-conflict explorer: arithmetic first, then pieces of the picture, then what is shown and pressed. Drawn as SVG.

const NS = "http://www.w3.org/2000/svg";
const COLOURS = ["#3b82c4", "#e08a2e", "#2e9e77", "#c2549d", "#7d6bd0", "#8a8f98"];
const LOOK = `
.dkc .grid{display:grid;grid-template-columns:repeat(12,1fr);gap:10px}.dkc .grid>section{border:1px solid var(--line);border-radius:8px;padding:10px 12px;min-width:0;overflow-x:auto}
.dkc p{margin:3px 0;color:var(--soft);max-width:90ch}.dkc .w12{grid-column:span 12}.dkc .w7{grid-column:span 7}.dkc .w5{grid-column:span 5}.dkc .w6{grid-column:span 6}
@container (max-width:860px){.dkc .w7,.dkc .w5,.dkc .w6{grid-column:span 12}}
.dkc svg{display:block;width:100%;height:auto;touch-action:none}.dkc text{fill:var(--ink);font:12px system-ui,sans-serif}.dkc .soft{fill:var(--soft)}.dkc .w12 svg{min-width:640px}
.dkc input[type=range]{flex:1;min-width:120px}.dkc .moves{display:flex;flex-wrap:wrap;gap:6px;margin:6px 0}.dkc .live{min-height:1.4em}`;

const draw = (parent, tag, attributes = {}, text) => {
  const node = parent.appendChild(document.createElementNS(NS, tag));
  for (const [k, v] of Object.entries(attributes)) node.setAttribute(k, v);
  if (text !== undefined) node.textContent = text;
  return node;
};
const canvas = (width, height, label) => {
  const svg = document.createElementNS(NS, "svg");
  svg.setAttribute("viewBox", `0 0 ${width} ${height}`); svg.setAttribute("role", "img"); svg.setAttribute("aria-label", label);
  return svg;
};
const clear = (node) => { while (node.firstChild) node.firstChild.remove(); };
const plain = (x) => (x < 0 ? "−" : "+") + Math.abs(x).toFixed(2);
const degrees = (cosine) => Math.acos(Math.max(-1, Math.min(1, cosine))) * 180 / Math.PI;
const short = (name) => name.length > 8 ? name.slice(0, 6) + "." : name;
const compact = (x) => Math.abs(x) < 1000 ? plain(x) : (x < 0 ? "−" : "+") + Math.abs(x).toExponential(0).replace("e+", "e");
const tint = (x) => x === null || x === undefined ? "transparent" : `rgba(${x < 0 ? "224,138,46" : "59,130,196"},${Math.min(1, Math.abs(x)) * .75})`;

// --- arithmetic: the same as drivekd.workbench.conflicts, for arrows that the reader drags
const dot = (a, b) => a.reduce((sum, x, i) => sum + x * b[i], 0);
const minus = (a, b, factor) => a.map((x, i) => x - factor * b[i]);
const plus = (a, b) => a.map((x, i) => x + b[i]);
function agp(anchor, followers, order) {
  const first = followers.map((f) => dot(f, anchor) < 0 ? minus(f, anchor, dot(f, anchor) / dot(anchor, anchor)) : f);
  const merged = first.map((f) => plus(f, anchor)), projected = merged.map((m) => [...m]);
  for (const i of order) for (const j of order) {
    const d = dot(projected[i], merged[j]);
    if (i !== j && d < 0) projected[i] = minus(projected[i], merged[j], d / dot(merged[j], merged[j]));
  }
  return { first, merged, projected, result: projected.reduce(plus) };
}

// --- pieces of the picture
function arrow(svg, from, to, colour, { dash = "", width = 2.4, label = "", anchor = "start" } = {}) {
  const [x0, y0] = from, [x1, y1] = to, angle = Math.atan2(y1 - y0, x1 - x0), size = Math.hypot(x1 - x0, y1 - y0) > 6 ? 9 : 0;
  draw(svg, "line", { x1: x0, y1: y0, x2: x1, y2: y1, stroke: colour, "stroke-width": width, "stroke-dasharray": dash });
  const at = (turn) => `${x1 - size * Math.cos(angle + turn)},${y1 - size * Math.sin(angle + turn)}`;
  if (size) draw(svg, "polygon", { points: `${x1},${y1} ${at(.42)} ${at(-.42)}`, fill: colour });
  if (label) draw(svg, "text", { x: x1 + (anchor === "start" ? 7 : -7), y: y1 + (y1 > y0 ? 14 : -6), "text-anchor": anchor, style: `fill:${colour}` }, label);
}

function matrix(svg, names, values, x, y, cell, title, pick, chosen) {
  draw(svg, "text", { x, y: y - 26, style: "font-weight:600" }, title);
  names.forEach((name, i) => {
    draw(svg, "text", { x: x + 78 + (i + .5) * cell, y: y - 8, "text-anchor": "middle", class: "soft", style: "font-size:11px" }, short(name));
    draw(svg, "text", { x: x + 70, y: y + (i + .62) * cell * .62, "text-anchor": "end", class: "soft", style: "font-size:11px" }, name.slice(0, 11));
  });
  values.forEach((line, i) => line.forEach((value, j) => {
    const on = chosen && [names[i], names[j]].every((n) => chosen.includes(n)) && i !== j;
    const g = draw(svg, "g", pick && i !== j ? { tabindex: i < j ? 0 : -1, role: "button", style: "cursor:pointer", "aria-label": `${names[i]} and ${names[j]}: cosine ${plain(value)}` } : {});
    draw(g, "rect", { x: x + 78 + j * cell, y: y + i * cell * .62, width: cell - 3, height: cell * .62 - 3, rx: 4, fill: i === j ? "transparent" : tint(value), stroke: on ? "var(--ink)" : "var(--line)", "stroke-width": on ? 2 : 1 });
    draw(g, "text", { x: x + 78 + (j + .48) * cell, y: y + (i + .62) * cell * .62, "text-anchor": "middle", style: "font-size:12px" }, i === j ? "1" : plain(value));
    if (pick && i !== j) for (const event of ["click", "keydown"]) g.addEventListener(event, (e) => { if (event === "click" || e.key === "Enter" || e.key === " ") { e.preventDefault(); pick(names[i], names[j]); } });
  }));
}

function curve(svg, points, x, y, colour, width, limit) {
  let path = "", last = null;
  for (const [step, value] of points) {
    if (value === null || value === undefined) { last = null; continue; }
    path += `${last === null || step - last > limit ? "M" : "L"}${x(step).toFixed(1)},${y(value).toFixed(1)}`;   // a gap stays a gap
    last = step;
  }
  draw(svg, "path", { d: path, fill: "none", stroke: colour, "stroke-width": width, "stroke-linejoin": "round" });
}

// --- the explorer
function conflictView(box, record, channel) {
  const steps = record.steps, terms = record.terms, colours = Object.fromEntries(terms.map((t, i) => [t, i ? COLOURS[i % COLOURS.length] : "#8a8f98"]));
  const state = { at: 0, pair: [terms[0], terms[1]], move: 0, phase: 1 };
  let timer = null, frame = null;
  const play = el("button", {type: "button", "aria-pressed": "false"}, "\u25b6 steps"), save = el("button", {type: "button"}, "Picture");
  const slider = el("input", {type: "range", min: 0, max: steps.length - 1, value: 0, "aria-label": "optimizer step"}), place = el("output");
  const live = el("p", {class: "live", "aria-live": "polite"}), grid = el("div", {class: "grid"});
  box.root.classList.add("dkc");
  box.body.replaceChildren(el("style", {}, LOOK), el("div", {class: "dk-row"}, play, slider, place, save), live, grid);
  const panel = (width, title, text, svg) => {
    const section = el("section", {class: width}, el("h3", {}, title), text ? el("p", {}, text) : null, svg);
    grid.append(section);
    return section;
  };
  const time = canvas(1100, 330, "cosine over steps"), tables = canvas(640, 300, "cosine matrices"), flat = canvas(460, 300, "two gradients in their own plane"),
    heat = canvas(620, 40 + 22 * Math.max(1, ...steps.map((s) => Object.keys(s.blocks).length)), "cosines by block"), table = canvas(620, 60 + 24 * Math.max(1, ...steps.map((s) => s.methods.length)), "conflict methods"), hand = canvas(1000, 330, "arrows to drag");
  panel("w12", "Do they agree? Cosine over the run", "Pale: before. Strong: after the stage in which the two meet. Ticks: a projection fired. Below zero they conflict. Below: CE's share of the lengths added up, and all lengths. Click for a step.", time);
  panel("w7", "All pairs at this step", "Choose a pair to follow it.", tables);
  const story = panel("w5", "One meeting, in its own plane", "Two gradients span a plane, so angle and lengths are exact.", flat);
  const moves = story.insertBefore(el("div", {class: "moves", role: "group", "aria-label": "moves of this step"}), flat);
  const said = story.appendChild(el("p", {"aria-live": "polite"}));
  const blocks = panel("w6", "Where in the model", "", heat);
  const note = blocks.insertBefore(el("p"), heat);
  panel("w6", "Another method on the same gradients", "Descent of each loss, to first order: 1 is as good as a step along its own gradient, below 0 the loss rises.", table);
  panel("w12", "By hand", "Drag the arrows, or focus a tip and use the arrow keys. CE is the anchor; two capabilities give way to it, then the merged gradients to each other.", hand);

  const index = (s, name) => s.terms.indexOf(name), inMerged = (s, name) => s.merged.indexOf(name);
  const entry = (s, matrixName, place) => { const [i, j] = state.pair.map((n) => place(s, n)); return s[matrixName] && i >= 0 && j >= 0 ? s[matrixName][i][j] : null; };
  const anchored = (s) => state.pair.includes("ce") && inMerged(s, "ce") < 0;  // a flat method has CE among the gradients that it projects
  const before = (s) => anchored(s) ? entry(s, "cosines", index) : entry(s, "cosines_merged", inMerged);
  const after = (s) => anchored(s) ? entry(s, "cosines_stage1", index) : entry(s, "cosines_stage2", inMerged);
  const fired = (s) => {
    const [i, j] = state.pair.map((n) => inMerged(s, n));
    return anchored(s) ? !!s.fired_stage1[Math.max(i, j)] : i >= 0 && j >= 0 && (s.fired_stage2[i][j] || s.fired_stage2[j][i]);
  };
  const numbers = steps.map((s) => s.step), low = numbers[0], high = numbers[numbers.length - 1] || 1;
  const gaps = numbers.slice(1).map((n, i) => n - numbers[i]).sort((a, b) => a - b), limit = 1.5 * (gaps[gaps.length >> 1] || 1);

  const range = () => { const top = Math.max(...steps.flatMap((s) => [before(s), after(s)]).map((v) => Math.abs(v ?? 0))); return top > .5 ? 1 : top > .2 ? .5 : .2; };
  function drawTime() {
    clear(time);
    draw(time, "line", { x1: 46, x2: 1082, y1: 318, y2: 318, stroke: "var(--line)" });
    const x = (step) => 46 + (step - low) / Math.max(1, high - low) * 1036, reach = range(), y = (v) => 98 - 82 * v / reach, z = (v) => 240 - 36 * v;
    draw(time, "rect", { x: 46, y: y(0), width: 1036, height: 82, fill: "rgba(224,138,46,.10)" });
    for (const v of [-1, -.5, 0, .5, 1].map((v) => v * reach)) { draw(time, "line", { x1: 46, x2: 1082, y1: y(v), y2: y(v), stroke: "var(--line)" }); draw(time, "text", { x: 40, y: y(v) + 4, "text-anchor": "end", class: "soft" }, +v.toFixed(3)); }
    curve(time, steps.map((s) => [s.step, before(s)]), x, y, "#9aa2ab", 1.4, limit);
    curve(time, steps.map((s) => [s.step, after(s)]), x, y, "#3b82c4", 2.2, limit);
    for (const s of steps) if (fired(s)) draw(time, "line", { x1: x(s.step), x2: x(s.step), y1: 183, y2: 193, stroke: "#c8641a", "stroke-width": 1.6 });
    draw(time, "text", { x: 40, y: 218, "text-anchor": "end", class: "soft", style: "font-size:10px" }, "CE"); draw(time, "text", { x: 40, y: 229, "text-anchor": "end", class: "soft", style: "font-size:10px" }, "share");
    curve(time, steps.map((s) => [s.step, s.ce_share]), x, z, "#2e9e77", 1.8, limit);
    const lengths = steps.flatMap((s) => s.norms).filter((n) => n > 0).map(Math.log10), floor = Math.floor(Math.min(...lengths)), roof = Math.ceil(Math.max(...lengths));
    const h = (n) => n > 0 ? 318 - 58 * (Math.log10(n) - floor) / Math.max(1, roof - floor) : null;
    draw(time, "text", { x: 50, y: 256, style: "font-weight:600" }, "length of each gradient");
    [roof, floor].forEach((e, i) => draw(time, "text", { x: 40, y: 264 + 56 * i, "text-anchor": "end", class: "soft", style: "font-size:10px" }, Math.abs(e) > 3 ? `1e${e}` : 10 ** e));
    terms.forEach((name, i) => {
      curve(time, steps.map((s) => [s.step, s.terms.includes(name) ? s.norms[index(s, name)] : null]), x, h, colours[name], 1.6, limit);
      draw(time, "text", { x: 240 + 110 * i, y: 256, style: `fill:${colours[name]}` }, name);
    });
    const here = steps[state.at];
    draw(time, "line", { x1: x(here.step), x2: x(here.step), y1: 10, y2: 318, stroke: "var(--ink)", "stroke-dasharray": "3 3" });
    draw(time, "text", { x: 50, y: 14, style: "font-weight:600" }, `${state.pair.join(" · ")}: fired in ${steps.filter(fired).length} of ${steps.length} steps shown`);
  }
  time.addEventListener("click", (e) => {
    const area = time.getBoundingClientRect(), step = low + ((e.clientX - area.left) / area.width * 1100 - 46) / 1036 * (high - low);
    go(numbers.reduce((best, n, i) => Math.abs(n - step) < Math.abs(numbers[best] - step) ? i : best, 0));
  });

  function drawTables() {
    clear(tables);
    const s = steps[state.at], pick = (a, b) => { state.pair = [a, b]; choosePairMove(); paint(); };
    const cell = 50, high = s.terms.length * cell * .62;
    matrix(tables, s.terms, s.cosines, 0, 48, cell, "as they come", pick, state.pair);
    matrix(tables, s.terms, s.cosines_stage1, 330, 48, cell, "after stage 1", pick, state.pair);
    if (s.cosines_merged.length > 1) {
      matrix(tables, s.merged, s.cosines_merged, 0, 104 + high, cell, "merged with CE", pick, state.pair);
      matrix(tables, s.merged, s.cosines_stage2, 330, 104 + high, cell, "after stage 2", pick, state.pair);
    }
    tables.setAttribute("viewBox", `0 0 640 ${high + (s.cosines_merged.length > 1 ? 112 + s.merged.length * cell * .62 : 60)}`);
  }

  const product = (g, a, b) => a.reduce((sum, x, i) => sum + x * dot(g[i], b), 0);
  function coordinates(g, axis, a, b) {            // exact: `axis` along x, `a` spans the plane, `b` lies in it
    const length = Math.sqrt(product(g, axis, axis)), xs = [a, b].map((v) => length ? product(g, axis, v) / length : 0);
    const normal = minus(a, axis, length ? xs[0] / length : 0), height = Math.sqrt(Math.max(0, product(g, normal, normal)));
    return [[length, 0], ...[a, b].map((v, i) => [xs[i], height ? product(g, normal, v) / height : 0])];
  }
  function drawPlane() {
    clear(flat);
    const s = steps[state.at], move = s.moves[state.move];
    if (!move) { draw(flat, "text", { x: 20, y: 40, class: "soft" }, "This step was not combined by AGP with one shared anchor."); said.textContent = ""; return; }
    let [axis, from, to] = coordinates(s.gram, move.target, move.before, move.after);
    const times = Math.hypot(...axis) / (Math.hypot(...from) || 1), larger = times > 5 || times < .2;   // draw what would be a dot longer, and say so
    if (times > 5) [from, to] = [from, to].map((v) => v.map((c) => c * times)); else if (times < .2) axis = axis.map((c) => c / times);
    const scale = Math.max(...[axis, from, to].map((p) => Math.hypot(...p))) || 1;
    const px = ([x, y]) => [230 + x / scale * 165, 240 - y / scale * 190], now = from.map((v, i) => v + (to[i] - v) * state.phase), o = px([0, 0]);
    arrow(flat, o, px(axis), "#3b82c4", { label: move.against });
    if (move.fired) { arrow(flat, o, px(from), "#9aa2ab", { dash: "5 4", label: "before", anchor: from[0] < 0 ? "end" : "start" }); draw(flat, "line", { x1: px(from)[0], y1: px(from)[1], x2: px(now)[0], y2: px(now)[1], stroke: "#c8641a", "stroke-width": 2, "stroke-dasharray": "2 3" }); }
    arrow(flat, o, px(now), "#2e9e77", { label: move.who, anchor: now[0] < -.2 * scale ? "end" : "start" });
    draw(flat, "circle", { cx: o[0], cy: o[1], r: 3, fill: "var(--ink)" });
    said.textContent = `Stage ${move.stage}: ${move.who} meets ${move.against} at ${degrees(move.cosine).toFixed(0)}° (cosine ${plain(move.cosine)}). ` +
      (move.fired ? `It conflicts, so the part against ${move.against} is taken away: ${(100 * (1 - move.kept)).toFixed(1)} % of its length is lost, ${move.against} stays as it is.` : "No conflict, both stay as they are.") +
      (larger ? ` ${times > 5 ? move.who : move.against} is drawn ${Math.max(times, 1 / times).toPrecision(2)} times as long as it is.` : "");
  }
  let telling = null;
  const tell = el("button", {type: "button", title: "one meeting after the other"}, "\u25b6 all");
  tell.addEventListener("click", () => {
    clearInterval(telling); state.move = 0; animate();
    telling = setInterval(() => { if (state.move + 1 < steps[state.at].moves.length) { state.move += 1; animate(); } else clearInterval(telling); }, 1400);
  });
  function listMoves() {
    moves.replaceChildren(...(steps[state.at].moves.length > 1 ? [tell] : []), ...steps[state.at].moves.map((m, i) => {
      const b = el("button", {type: "button", "aria-pressed": String(i === state.move), title: `stage ${m.stage}`}, `${m.stage}: ${m.who.replace("ce + ", "")} → ${m.against.replace("ce + ", "")}${m.fired ? " ⟂" : ""}`);
      b.addEventListener("click", () => { clearInterval(telling); state.move = i; animate(); });
      return b;
    }));
  }
  function animate() {
    cancelAnimationFrame(frame); listMoves();
    if (matchMedia("(prefers-reduced-motion: reduce)").matches) { state.phase = 1; drawPlane(); return; }
    const start = performance.now();
    const tick = (now) => { state.phase = Math.min(1, (now - start) / 700); drawPlane(); if (state.phase < 1) frame = requestAnimationFrame(tick); };
    frame = requestAnimationFrame(tick);
  }
  function choosePairMove() {
    const names = state.pair.filter((n) => n !== "ce"), found = steps[state.at].moves.findIndex((m) => anchored(steps[state.at]) ? m.stage === 1 && m.who === names[0] : m.stage === 2 && names.every((n) => [m.who, m.against].includes(`ce + ${n}`)));
    state.move = Math.max(0, found); state.phase = 1;
  }

  function drawBlocks() {
    clear(heat);
    const s = steps[state.at], names = Object.keys(s.blocks), pairs = terms.flatMap((a, i) => terms.slice(i + 1).map((b) => [a, b]));
    let at = state.at; while (at > 0 && !Object.keys(steps[at].blocks).length) at -= 1;
    const shown = steps[at], rows = Object.keys(shown.blocks), width = 470 / pairs.length;
    note.textContent = rows.length ? `Cosine of each pair in each part of the student${at === state.at ? "" : `, last noted at step ${shown.step}`}. Empty: one of the two does not reach it.` : "This record was written without log_blocks.";
    pairs.forEach(([a, b], j) => draw(heat, "text", { x: 140 + (j + .5) * width, y: 14 + 12 * (j % 2), "text-anchor": "middle", class: "soft", style: "font-size:10.5px" }, `${short(a)}·${short(b)}`));
    rows.forEach((name, i) => {
      draw(heat, "text", { x: 132, y: 50 + 22 * i, "text-anchor": "end", class: "soft", style: "font-size:11px" }, name);
      pairs.forEach(([a, b], j) => {
        const [p, q] = [a, b].map((n) => shown.terms.indexOf(n)), value = p >= 0 && q >= 0 ? shown.blocks[name][p][q] : null;
        const g = draw(heat, "g");
        draw(g, "rect", { x: 140 + j * width, y: 35 + 22 * i, width: width - 2, height: 20, rx: 3, fill: tint(value), stroke: "var(--line)" });
        if (value !== null) draw(g, "text", { x: 140 + (j + .5) * width, y: 49 + 22 * i, "text-anchor": "middle", style: "font-size:11px" }, plain(value));
        draw(g, "title", {}, `${name}, ${a} and ${b}: ${value === null ? "no common gradient" : plain(value)}`);
      });
    });
    heat.setAttribute("viewBox", `0 0 620 ${44 + 22 * Math.max(1, rows.length)}`);
  }

  function drawMethods() {
    clear(table);
    const s = steps[state.at], width = 300 / s.terms.length;
    ["method", ...s.terms, "angle to CE"].forEach((name, j) => draw(table, "text", { x: j === 0 ? 0 : j > s.terms.length ? 520 : 150 + (j - .5) * width, y: 16, "text-anchor": j === 0 ? "start" : "middle", class: "soft", style: "font-size:11px" }, name));
    s.methods.forEach((m, i) => {
      const y = 42 + 24 * i;
      draw(table, "text", { x: 0, y, style: m.method === "agp" ? "font-weight:600" : "" }, m.method);
      m.descents.forEach((d, j) => {
        draw(table, "rect", { x: 150 + j * width, y: y - 14, width: width - 3, height: 20, rx: 3, fill: tint(d < 0 ? Math.max(-1, d) : Math.min(1, d) * .6), stroke: "var(--line)" });
        draw(table, "text", { x: 150 + (j + .5) * width, y, "text-anchor": "middle", style: "font-size:11.5px" }, compact(d));
      });
      draw(table, "text", { x: 520, y, "text-anchor": "middle" }, m.norm ? `${degrees(m.cosine).toFixed(0)}°` : "stands still");
    });
  }

  const arms = [[1.5, 0], [-1.2, 1.4], [-.5, -1.8]], armNames = ["ce", "perception", "planning"], armColours = ["#8a8f98", "#3b82c4", "#e08a2e"];
  function drawHand() {
    const focus = document.activeElement && hand.contains(document.activeElement) ? document.activeElement.dataset.arm : null;
    clear(hand);
    const out = agp(arms[0], arms.slice(1), [0, 1]), sum = arms.reduce(plus);
    const scenes = [["drag these", 165], ["after stage 1, merged with CE", 500], ["result", 800]];
    const at = (cx) => ([x, y]) => [cx + 48 * x, 165 - 48 * y];
    scenes.forEach(([title, cx]) => { draw(hand, "text", { x: cx, y: 16, "text-anchor": "middle", style: "font-weight:600" }, title); draw(hand, "circle", { cx, cy: 165, r: 3, fill: "var(--ink)" }); });
    arms.forEach((v, i) => arrow(hand, [165, 165], at(165)(v), armColours[i], { label: armNames[i], anchor: v[0] < 0 ? "end" : "start" }));
    out.first.forEach((v, i) => { if (v !== arms[i + 1]) arrow(hand, [500, 165], at(500)(arms[i + 1]), "#b7bdc4", { dash: "4 4", width: 1.4 }); arrow(hand, [500, 165], at(500)(v), armColours[i + 1], { width: 1.6 }); });
    out.merged.forEach((v, i) => arrow(hand, [500, 165], at(500)(v), armColours[i + 1], { label: `ce + ${armNames[i + 1]}`, anchor: v[0] < 0 ? "end" : "start" }));
    arrow(hand, [800, 165], at(800)(sum), "#b7bdc4", { dash: "4 4", label: "plain sum", anchor: sum[0] < 0 ? "end" : "start" });
    arrow(hand, [800, 165], at(800)(out.result.map((x) => x / 2)), "#2e9e77", { label: "AGP, half length", anchor: out.result[0] < 0 ? "end" : "start" });
    draw(hand, "text", { x: 500, y: 322, "text-anchor": "middle", class: "soft" }, `CE · perception ${plain(dot(arms[0], arms[1]))}, CE · planning ${plain(dot(arms[0], arms[2]))}; along CE the plain sum has ${plain(dot(sum, arms[0]) / dot(arms[0], arms[0]))}, AGP ${plain(dot(out.result, arms[0]) / dot(arms[0], arms[0]))} times CE's own step`);
    arms.forEach((v, i) => {
      const [cx, cy] = at(165)(v), tip = draw(hand, "circle", { cx, cy, r: 13, fill: "transparent", tabindex: 0, role: "slider", "aria-label": `${armNames[i]}, ${v.map((x) => x.toFixed(1)).join(" ")}`, "aria-valuetext": v.map((x) => x.toFixed(1)).join(" "), style: "cursor:grab" });
      tip.dataset.arm = i;
      tip.addEventListener("pointerdown", (e) => { e.preventDefault(); dragged = i; });
      tip.addEventListener("keydown", (e) => { const d = { ArrowLeft: [-.1, 0], ArrowRight: [.1, 0], ArrowUp: [0, .1], ArrowDown: [0, -.1] }[e.key]; if (d) { e.preventDefault(); arms[i] = bounded(plus(arms[i], d)); drawHand(); } });
      if (focus === String(i)) tip.focus();
    });
  }
  let dragged = null;
  const bounded = (v) => { const n = Math.hypot(...v); return n > 2.8 ? v.map((x) => x * 2.8 / n) : n < .15 ? [.15, 0] : v; };
  hand.addEventListener("pointermove", (e) => {
    if (dragged === null) return;
    const r = hand.getBoundingClientRect(), x = (e.clientX - r.left) / r.width * 1000, y = (e.clientY - r.top) / r.width * 1000;
    arms[dragged] = bounded([(x - 165) / 48, (165 - y) / 48]); drawHand();
  });
  const drop = () => { dragged = null; };
  addEventListener("pointerup", drop);

  function paint() {
    const s = steps[state.at];
    slider.value = state.at; place.textContent = `step ${s.step}`;
    const conflicts = s.moves.filter((m) => m.fired).length;
    live.textContent = `Step ${s.step}: ${conflicts} of ${s.moves.length} meetings conflicted; CE makes up ${(100 * s.ce_share).toFixed(0)} % of the lengths added up. Norms: ${s.terms.map((t, i) => `${t} ${s.norms[i].toPrecision(2)}`).join(", ")}.` + (record.every > 1 ? ` One in ${record.every} of ${record.recorded} recorded steps is shown.` : "");
    state.move = Math.min(state.move, Math.max(0, s.moves.length - 1));
    drawTime(); drawTables(); listMoves(); drawPlane(); drawBlocks(); drawMethods();
    channel.set({step: s.step, pair: [...state.pair]});
  }
  function go(at) { state.at = Math.max(0, Math.min(steps.length - 1, at)); state.phase = 1; paint(); }
  slider.addEventListener("input", () => go(+slider.value));
  play.addEventListener("click", () => {
    const on = timer === null; play.setAttribute("aria-pressed", on); play.textContent = on ? "❚❚ steps" : "▶ steps";
    if (on) timer = setInterval(() => go((state.at + 1) % steps.length), 250); else { clearInterval(timer); timer = null; }
  });
  save.addEventListener("click", () => picture().then(sheet => offerPicture(box, sheet, `conflicts-step-${steps[state.at].step}.png`, live.textContent)).catch(box.fail));

  async function picture() {                       // all panels below each other, colours resolved
    const style = getComputedStyle(box.root), sheets = [time, tables, flat, heat, table], sheet = el("canvas", {width: 1100, height: 10}), parts = [];
    for (const svg of sheets) {
      const copy = svg.cloneNode(true), [, , w, h] = svg.getAttribute("viewBox").split(" ").map(Number);
      copy.setAttribute("xmlns", NS); copy.setAttribute("width", w); copy.setAttribute("height", h);
      const look = draw(copy, "style", {}, `text{fill:${style.getPropertyValue("--ink")};font:12px system-ui,sans-serif}.soft{fill:${style.getPropertyValue("--soft")}}`);
      copy.prepend(look);
      const text = new XMLSerializer().serializeToString(copy).replace(/var\((--\w+)\)/g, (_, name) => style.getPropertyValue(name).trim());
      const image = new Image(); image.src = "data:image/svg+xml;charset=utf-8," + encodeURIComponent(text); await image.decode();
      parts.push([image, w, h]);
    }
    sheet.height = parts.reduce((sum, [, , h]) => sum + h + 16, 16);
    const pen = sheet.getContext("2d"); pen.fillStyle = style.backgroundColor; pen.fillRect(0, 0, sheet.width, sheet.height);
    let y = 16; for (const [image, w, h] of parts) { pen.drawImage(image, 0, y, w, h); y += h + 16; }
    return sheet;
  }

  const seen = ({step, pair}) => {                 // a place that the notebook asks for
    if (pair && pair.every((name) => terms.includes(name))) state.pair = [...pair];
    if (step !== undefined) state.at = numbers.reduce((best, n, i) => Math.abs(n - step) < Math.abs(numbers[best] - step) ? i : best, 0);
    choosePairMove(); paint();
  };
  drawHand(); seen(channel.get());
  return { go, state, picture, seen, agp };
}

async function explore(host, channel) {
  const box = frame(host, "Gradient-conflict explorer"), record = JSON.parse(new TextDecoder().decode(channel.bytes));
  const view = conflictView(box, record, channel);
  channel.on(() => view.seen(channel.get()));
  host.explorer = view;
}
