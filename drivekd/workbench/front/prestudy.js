// The pre-study explorer: which curves are shown, then how they are drawn, then what is pressed. Drawn as SVG, with drawings.js.

const DASHES = ["", "8 4", "2 4", "10 3 2 3", "14 4", "4 2"];
const LOOK = `
.dkp svg{display:block;width:100%;height:auto;touch-action:pan-y}.dkp text{fill:var(--ink);font:12px system-ui,sans-serif}
.dkp .soft{fill:var(--soft)}.dkp p{margin:4px 0;color:var(--soft)}.dkp [hidden]{display:none}
.dkp .cols{display:grid;grid-template-columns:minmax(0,3fr) minmax(0,2fr);gap:12px;margin-top:8px}
.dkp .cols>section{border:1px solid var(--line);border-radius:8px;padding:8px 10px;min-width:0;overflow-x:auto}
@container (max-width:1120px){.dkp .cols{grid-template-columns:minmax(0,1fr)}}
.dkp td.words{white-space:normal;text-align:left;min-width:15em}
.dkp .wide{border:1px solid var(--line);border-radius:8px;padding:8px 10px;margin-top:12px;overflow-x:auto}
.dkp .wide td,.dkp .wide th,.dkp .cols .words,.dkp .cols th.words{text-align:left}
.dkp .wide td,.dkp .wide th{white-space:normal;vertical-align:top}.dkp .wide span{white-space:nowrap}
.dkp .holds{color:#1d7a59;font-weight:600}.dkp .fails{color:#b95f05;font-weight:600}.dkp .open{color:var(--soft)}
.dkp h3+table{margin-top:2px}.dkp .legend{display:flex;flex-wrap:wrap;gap:2px 16px}.dkp .legend span{white-space:nowrap}
.dkp .dk-row{margin-bottom:6px}`;
const ANALYSES = [["alignment", "Alignment", "What a layer does to the states"], ["intra", "Similarity",
  "How alike questions of one capability are"], ["specific", "Above others",
  "Similarity within a capability minus similarity to the others"],
  ["dispersion", "Dispersion", "How much the question changes the feature"], ["margin", "Margin", "How sure answers are"]];
const WORDS = {adjacent: "adjacent layers", vision_text: "vision–text", attention: "attention", hidden: "hidden states",
  variants: "same pictures", samples: "any two", "not stated": "what varies is not stated"};
const SAID = {alignment: "Cosine of a layer's input and output, and of the mean vision and the mean text token.",
  intra: "Mean cosine over pairs of questions of one capability about different frames.",
  specific: "The same, minus the mean cosine with questions of other capabilities: what is special to this one.",
  dispersion: "One minus the mean cosine: questions about the same pictures, and any two questions.",
  margin: "Probability of the first token minus that of the next, along the answer."};
const KEYS = [["← →", "layer, or tenth of the answer"], ["Home End", "first, last"], ["1 … 5", "analysis"],
  ["f", "attention or hidden states"], ["d", "depth in layers or relative"], ["m", "next model alone, then all"], ["b", "bands"],
  ["p", "picture of this view"], ["Esc", "close"], ["?", "this list"]];

const gap = x => (x < 0 ? "−" : "+") + Math.abs(x).toFixed(3);
const three = x => x === null || x === undefined ? "–" : (x < 0 ? "−" : "") + Math.abs(x).toFixed(3);
const known = x => x !== null && x !== undefined;

/** Lines of an analysis: [{model, name, x, value, low, high, count, depth}], in a fixed order. */
function linesOf(studies, {analysis, feature, models, depth}) {
  const out = [];
  for (const [model, study] of Object.entries(studies)) {
    if (!models.includes(model)) continue;
    const own = study.curves, pick = wanted => own.filter(c => c.analysis === wanted);
    let chosen = pick(analysis);
    if (["intra", "specific"].includes(analysis)) chosen = chosen.filter(c => [feature, "not stated"].includes(c.feature));
    for (const c of chosen) {
      const name = analysis === "alignment" ? WORDS[c.feature] || c.feature : analysis === "dispersion"
        ? `${WORDS[c.feature] || c.feature}, ${WORDS[c.group] || c.group}` : c.group;
      const last = analysis === "margin" ? 10 : study.layers;
      out.push({...c, model, name, last, at: c.x.map(x => depth === "relative" && analysis !== "margin"
        ? (last > 1 ? (x - 1) / (last - 1) : 0) : x)});
    }
  }
  return out;
}

function prestudyView(box, record, channel) {
  const studies = record.studies, models = Object.keys(studies), W = 1100, H = 430, M = {l: 62, r: 16, t: 14, b: 76};
  const state = {analysis: "intra", feature: "attention", depth: "layer", models: [...models], bands: null, at: 0};
  const banded = () => state.bands ?? state.models.length < 3;  // until somebody chooses: where they do not hide each other
  const names = [...new Set(models.flatMap(m => studies[m].curves.filter(c => c.analysis === "intra").map(c => c.group)))];
  const inks = termColours(names), grouped = () => compared() || state.analysis === "margin";
  const colour = line => grouped() && inks.get(line.name) || COLOURS[[...new Set(lines.map(l => l.name))].indexOf(line.name) % COLOURS.length];
  const dash = model => DASHES[models.indexOf(model) % DASHES.length];
  const compared = () => ["intra", "specific"].includes(state.analysis);
  let lines = [], places = [];
  const svg = drawing(W, H);
  const analyses = segments("analysis", ANALYSES, v => set({analysis: v}));
  const features = segments("feature", [["attention", "Attention"], ["hidden", "Hidden states"]], v => set({feature: v}));
  const depths = segments("depth", [["layer", "Layer"], ["relative", "Relative depth"]], v => set({depth: v}));
  const bands = toggle("bands", v => set({bands: v}), "95 % intervals");
  const switches = models.map(m => toggle(m, on => set({models: models.filter(x => x === m ? on : state.models.includes(x))})));
  const save = el("button", {type: "button", onclick: () => keep()}, "Picture"), help = el("button",
    {type: "button", "aria-label": "keys", onclick: () => tellKeys(box, KEYS)}, "?");
  const said = el("p"), live = el("p", {"aria-live": "polite", class: "live"}), readout = el("section"), told = el("section"),
    found = el("section", {class: "wide", tabindex: 0, role: "region", "aria-label": "Published findings"}), notes = el("p"),
    legend = el("p", {class: "legend"});
  const stage = el("div", {tabindex: 0, role: "application", "aria-label": "Curves; left and right arrow choose a layer"}, svg);
  box.root.classList.add("dkp");
  switches.forEach((s, i) => s.node.append(sample("var(--ink)", dash(models[i]))));
  const tools = el("div", {class: "dk-row"}, analyses.node, features.node, depths.node, bands.node, save, help);
  const chosen = models.length > 1 ? el("div", {class: "dk-row"}, ...switches.map(s => s.node)) : null;
  const tables = el("div", {class: "cols"}, told, readout);
  const parts = [el("style", {}, LOOK), tools, chosen, said, stage, legend, live, tables, found, notes];
  box.body.replaceChildren(...parts.filter(Boolean));

  function sample(ink, dashes) {
    const piece = drawing(30, 10);
    piece.setAttribute("style", "width:30px;height:10px;display:inline-block");
    draw(piece, "line", {x1: 0, y1: 5, x2: 30, y2: 5, stroke: ink, "stroke-width": 2.2, "stroke-dasharray": dashes});
    return piece;
  }

  // --- drawing
  let X, Y;
  function paint() {
    lines = linesOf(studies, state);
    places = [...new Set(lines.flatMap(l => l.at))].sort((a, b) => a - b);
    state.at = Math.min(state.at, Math.max(0, places.length - 1));
    analyses.show(state.analysis); features.show(state.feature); depths.show(state.depth); bands.show(banded());
    switches.forEach((s, i) => s.show(state.models.includes(models[i])));
    features.node.hidden = !compared(); depths.node.hidden = state.analysis === "margin";
    said.textContent = SAID[state.analysis];
    const shown = [...new Map(lines.map(l => [l.name, l])).values()];
    legend.replaceChildren(...shown.map(l => el("span", {}, sample(colour(l), ""), " " + l.name)),
      ...(compared() ? [el("span", {}, "● recommended"), el("span", {}, "○ highest, but no layer can be told from another"),
      el("span", {}, "▬ layers that a loss uses")] : []));
    svg.replaceChildren();
    if (!lines.length) {
      draw(svg, "text", {x: W / 2, y: H / 2, "text-anchor": "middle", class: "soft"}, "No such curve in the chosen models.");
      readout.replaceChildren(); live.textContent = ""; tell(); return;
    }
    const all = lines.flatMap(l => [...l.value, ...(banded() && l.low ? [...l.low, ...l.high] : [])]).filter(known);
    let low = Math.min(...all), high = Math.max(...all); const room = (high - low || .1) * .06; low -= room; high += room;
    const from = Math.min(...places), to = Math.max(...places);
    X = v => M.l + (to > from ? (v - from) / (to - from) : .5) * (W - M.l - M.r);
    Y = v => M.t + (high - v) / (high - low) * (H - M.t - M.b);
    for (const v of ticks(low, high)) {
      draw(svg, "line", {x1: M.l, x2: W - M.r, y1: Y(v), y2: Y(v), stroke: "var(--line)"});
      draw(svg, "text", {x: M.l - 8, y: Y(v) + 4, "text-anchor": "end", class: "soft"}, +v.toFixed(4));
    }
    const across = state.depth === "relative" && state.analysis !== "margin" ? [0, .25, .5, .75, 1]
      : places.filter(p => Number.isInteger(p) && (places.length <= 16 || p === 1 || p % 5 === 0));
    for (const v of across) draw(svg, "text", {x: X(v), y: H - M.b + 18, "text-anchor": "middle", class: "soft"}, v);
    draw(svg, "text", {x: W / 2, y: H - M.b + 34, "text-anchor": "middle", class: "soft"},
      state.analysis === "margin" ? "tenth of the answer" : state.depth === "relative" ? "depth, first layer 0 to last layer 1" : "layer");
    draw(svg, "line", {x1: M.l, x2: W - M.r, y1: H - M.b, y2: H - M.b, stroke: "var(--soft)"});
    if (banded()) for (const l of lines) band(l);
    for (const l of lines) stroke(l);
    marks(); cursor(); read(); tell();
    svg.setAttribute("aria-label", `${SAID[state.analysis]} ${lines.length} curves.`);
  }
  function band(l) {
    if (!l.low || !l.low.some(known)) return;
    const there = l.at.map((x, i) => i).filter(i => known(l.low[i]) && known(l.high[i]));
    const corners = [...there.map(i => [l.at[i], l.high[i]]), ...there.reverse().map(i => [l.at[i], l.low[i]])];
    const path = corners.map(([x, y]) => `${X(x).toFixed(1)},${Y(y).toFixed(1)}`);
    draw(svg, "polygon", {points: path.join(" "), fill: colour(l), opacity: .15, class: "band"});
  }
  function stroke(l) {
    let path = "", open = false;
    l.value.forEach((v, i) => {
      if (known(v)) path += `${open ? "L" : "M"}${X(l.at[i]).toFixed(1)},${Y(v).toFixed(1)}`;
      open = known(v);
    });
    draw(svg, "path", {d: path, fill: "none", stroke: colour(l), "stroke-width": 2.2, "stroke-dasharray": dash(l.model), class: "curve"});
  }
  const adviceFor = (model, name) => studies[model].advice.find(a => a.capability === name && a.feature === state.feature
    && a.criterion === state.analysis);
  /** Dots: recommended; a ring: the highest, where no layer can be told from another. Bars under the axis: the layers of the losses. */
  function marks() {
    if (!compared()) return;
    for (const l of lines) {
      const a = adviceFor(l.model, l.name);
      if (!a || !a.layer) continue;
      for (const layer of a.recommended.length ? a.recommended : [a.layer]) {
        const i = l.x.indexOf(layer);
        if (i >= 0 && known(l.value[i])) draw(svg, "circle", {cx: X(l.at[i]), cy: Y(l.value[i]), r: 6,
          fill: a.recommended.length ? colour(l) : "var(--bg)", stroke: colour(l), "stroke-width": 2,
          class: a.recommended.length ? "told" : "ring"});
      }
    }
    let drawn = 0;
    names.forEach(name => {
      const l = lines.find(x => x.name === name && adviceFor(x.model, name)),
        a = l && studies[l.model].advice.find(x => x.capability === name && x.loss_layers.length);
      const at = a ? a.loss_layers.map(k => l.at[l.x.indexOf(k)]).filter(known) : [], y = H - M.b + 44 + 9 * drawn;
      if (!at.length) return;
      draw(svg, "line", {x1: X(Math.min(...at)) - 6, x2: X(Math.max(...at)) + 6, y1: y, y2: y, stroke: inks.get(name),
        "stroke-width": 6, "stroke-linecap": "round", class: "loss"});
      if (!drawn++) draw(svg, "text", {x: M.l - 12, y: y + 12, "text-anchor": "end", class: "soft"}, "losses");
    });
  }
  let thread = null;
  function cursor() {
    if (thread) thread.remove();
    const x = X(places[state.at]);
    thread = draw(svg, "line", {x1: x, x2: x, y1: M.t, y2: H - M.b, stroke: "var(--soft)", "stroke-dasharray": "3 3",
      "pointer-events": "none"});
  }
  const nearest = l => l.at.reduce((best, x, i) => Math.abs(x - places[state.at]) < Math.abs(l.at[best] - places[state.at]) ? i : best, 0);
  function read() {
    const rows = lines.map(l => {
      const i = nearest(l), bounds = l.low && known(l.low[i]) ? `${three(l.low[i])} … ${three(l.high[i])}` : "";
      const key = sample(colour(l), dash(l.model));
      return el("tr", {}, el("th", {scope: "row"}, key, " " + l.name + (models.length > 1 ? ` · ${l.model}` : "")),
        el("td", {}, state.analysis === "margin" ? `bin ${l.x[i]}` : `layer ${l.x[i]}`), el("td", {}, three(l.value[i])),
        el("td", {}, bounds));
    });
    readout.replaceChildren(el("h3", {}, state.analysis === "margin" ? "At this tenth of the answer" : "At this depth"),
      el("table", {}, el("thead", {}, el("tr", {}, ...["", "", "value", "95 %"].map(h => el("th", {scope: "col"}, h)))),
      el("tbody", {}, rows)));
    const first = lines[0], i = nearest(first);
    const each = lines.slice(0, 6).map(l => `${l.name}${state.models.length > 1 ? ` (${l.model})` : ""} ${three(l.value[nearest(l)])}`);
    const more = lines.length > 6 ? `, and ${lines.length - 6} more in the table` : "";
    live.textContent = `${state.analysis === "margin" ? "Bin" : "Layer"} ${first.x[i]}: ${each.join(", ")}${more}.`;
  }
  const list = layers => {
    const runs = [];
    for (const l of layers) { const last = runs.at(-1); if (last && l === last[1] + 1) last[1] = l; else runs.push([l, l]); }
    return runs.map(([a, b]) => a === b ? a : `${a}–${b}`).join(", ");
  };
  const table = (heads, rows) => el("table", {}, el("thead", {},
    el("tr", {}, ...heads.map(h => el("th", {scope: "col", class: h === "why" ? "words" : ""}, h)))), el("tbody", {}, rows));
  const whose = m => state.models.length > 1 ? ` · ${m}` : "";
  function tell() {
    const criterion = state.analysis === "specific" ? "specific" : "intra";
    const asked = a => a.feature === state.feature && a.criterion === criterion;
    const row = (a, m) => el("tr", {}, el("th", {scope: "row"}, a.capability + whose(m)), el("td", {}, list(a.recommended) || "none"),
      el("td", {}, list(a.loss_layers) || "–"), el("td", {class: "words"}, a.sentence));
    const rows = state.models.flatMap(m => studies[m].advice.filter(asked).map(a => row(a, m)));
    const above = criterion === "specific" ? ", above other capabilities" : "";
    told.replaceChildren(el("h3", {}, `Layers recommended by ${WORDS[state.feature]}${above}`),
      rows.length ? table(["", "recommended", "loss uses", "why"], rows) : el("p", {}, "The chosen models hold no recommendation."));
    notes.textContent = [...new Set(state.models.flatMap(m => [...studies[m].notes, studies[m].note || ""]))].join(" ");
    findingsTable();
  }
  /** A row for each published finding, a column for each chosen model. */
  function findingsTable() {
    const asked = state.models.filter(m => studies[m].findings.length), key = f => f.claim + (f.feature ? ` (${f.feature})` : "");
    const claims = [...new Map(asked.flatMap(m => studies[m].findings).map(f => [key(f), f])).entries()];
    const tone = {holds: "holds", "does not hold": "fails"}, bounds = f => known(f.low) ? el("span", {}, `[${gap(f.low)}, ${gap(f.high)}]`) : "";
    const said = f => el("span", {class: tone[f.verdict] || "open"}, f.verdict === "no interval" ? "" : f.verdict + " ");
    const cell = f => f ? el("td", {title: f.difference}, said(f), gap(f.value) + " ", bounds(f)) : el("td", {}, "–");
    const line = text => asked.map(m => cell(studies[m].findings.find(f => key(f) === text)));
    found.hidden = !claims.length;
    found.replaceChildren(el("h3", {}, "Published findings, asked here: a difference that is above zero if the finding holds"),
      table(["", ...asked], claims.map(([text]) => el("tr", {}, el("th", {scope: "row"}, text), ...line(text)))));
  }

  // --- what is pressed
  const go = at => { if (places.length) { state.at = Math.max(0, Math.min(places.length - 1, at)); cursor(); read(); } };
  const view = () => ({analysis: state.analysis, feature: state.feature, depth: state.depth, models: [...state.models]});
  function set(change) { Object.assign(state, change); paint(); channel.set(view()); }
  on(svg, "pointermove", e => {
    if (!lines.length) return;
    const r = svg.getBoundingClientRect(), x = (e.clientX - r.left) / r.width * W;
    const near = places.reduce((best, p, i) => Math.abs(X(p) - x) < Math.abs(X(places[best]) - x) ? i : best, 0);
    if (near !== state.at) go(near);
  });
  const nextModel = () => {
    const next = state.models.length === 1 ? models.indexOf(state.models[0]) + 1 : 0;
    set({models: next < models.length ? [models[next]] : [...models]});
  };
  const actions = {
    ArrowLeft: () => go(state.at - 1), ArrowRight: () => go(state.at + 1), Home: () => go(0), End: () => go(places.length - 1),
    f: () => set({feature: state.feature === "attention" ? "hidden" : "attention"}),
    d: () => set({depth: state.depth === "layer" ? "relative" : "layer"}),
    m: nextModel, b: () => set({bands: !banded()}), p: () => keep(), "?": () => tellKeys(box, KEYS),
  };
  ANALYSES.forEach(([key], i) => { actions[i + 1] = () => set({analysis: key}); });
  on(box.root, "keydown", e => {
    if (e.ctrlKey || e.metaKey || e.altKey || e.target.matches("select,input") || e.target.closest(".dk-over")
      || !(e.key in actions)) return;
    e.preventDefault(); actions[e.key]();
  });
  async function picture() {
    const {canvas, pen} = canvasOf(box.root, W, H + 22 * lines.length + 16), style = getComputedStyle(box.root);
    pen.drawImage((await imageOf(svg, box.root)).image, 0, 0);
    pen.lineWidth = 3; pen.font = "13px system-ui,sans-serif";
    lines.forEach((l, i) => {
      const y = H + 14 + 22 * i;
      pen.strokeStyle = colour(l); pen.setLineDash(dash(l.model).split(" ").filter(Boolean).map(Number));
      pen.beginPath(); pen.moveTo(62, y); pen.lineTo(110, y); pen.stroke();
      pen.fillStyle = style.color; pen.fillText(`${l.name} · ${l.model}`, 120, y + 4);
    });
    return canvas;
  }
  const keep = () => picture().then(sheet => offerPicture(box, sheet, `prestudy-${state.analysis}.png`, live.textContent)).catch(box.fail);
  const seen = given => {
    const allowed = {analysis: ANALYSES.map(([a]) => a), feature: ["attention", "hidden"], depth: ["layer", "relative"]};
    for (const [key, values] of Object.entries(allowed)) if (values.includes(given[key])) state[key] = given[key];
    const wanted = Array.isArray(given.models) ? models.filter(m => given.models.includes(m)) : [];
    if (wanted.length) state.models = wanted;
    paint();
  };
  seen(channel.get());
  return {state, set, go, picture, seen, lines: () => lines, at: (x, y) => [X(x), Y(y)]};
}

async function explore(host, channel) {
  const box = frame(host, "Pre-study explorer"), view = prestudyView(box, JSON.parse(new TextDecoder().decode(channel.bytes)), channel);
  channel.on(() => view.seen(channel.get()));
  Object.assign(box.root, {view}).dataset.ready = "true";  // for the console, and for tests
}
