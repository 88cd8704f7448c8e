// Shared by every explorer: reading bytes, colours, elements, keys, pictures. No dependencies, no network, text only through textContent.

// --- data ----------------------------------------------------------------------------------------------------------------------

const KINDS = {U8: Uint8Array, I32: Int32Array, F32: Float32Array, F16: Uint16Array};

/** The arrays of a safetensors file and the words in its header. */
function readTensors(bytes) {
  const size = Number(new DataView(bytes.buffer, bytes.byteOffset, 8).getBigUint64(0, true));
  const header = JSON.parse(new TextDecoder().decode(bytes.subarray(8, 8 + size)));
  const get = name => {
    const {dtype, shape, data_offsets: [from, to]} = header[name];
    const data = new KINDS[dtype](bytes.slice(8 + size + from, 8 + size + to).buffer);  // a copy is aligned
    return {data: dtype === "F16" ? halves(data) : data, shape};
  };
  return {words: JSON.parse(header.__metadata__.drivekd), get, has: name => name in header};
}

/** IEEE half precision as floats. */
function halves(codes) {
  const out = new Float32Array(codes.length);
  for (let i = 0; i < codes.length; i++) {
    const c = codes[i], e = (c >> 10) & 31, f = c & 1023;
    out[i] = (c >> 15 ? -1 : 1) * (e ? 2 ** (e - 15) * (1 + f / 1024) : 2 ** -14 * (f / 1024));
  }
  return out;
}

async function fromBase64(text) {
  const packed = Uint8Array.from(atob(text.trim()), c => c.charCodeAt(0));
  const stream = new Blob([packed]).stream().pipeThrough(new DecompressionStream("gzip"));
  return new Uint8Array(await new Response(stream).arrayBuffer());
}

// --- elements ------------------------------------------------------------------------------------------------------------------

/** Listen; what goes wrong is shown by the frame around the node, where a browser would only log it. */
function on(node, type, run) {
  node.addEventListener(type, e => { try { run(e); } catch (problem) { const box = node.closest(".dk"); if (box) box.fail(problem); throw problem; } });
}

/** A key that is pressed together with another one belongs to somebody else. */
const chord = e => e.ctrlKey || e.metaKey || e.altKey;
/** A key that is ours is nobody else's. */
const taken = e => { e.preventDefault(); e.stopPropagation(); };

/** An element; `on…` properties are listeners, `class`, `role`, `aria-…`, `data-…` attributes, the rest properties. Strings become text; what is null or false is left out. */
function el(tag, props = {}, ...children) {
  const node = document.createElement(tag);
  for (const [key, value] of Object.entries(props)) {
    if (key.startsWith("on")) on(node, key.slice(2), value);
    else if (/^(class|role|tabindex|for|colspan|scope|style)$|^(aria|data)-/.test(key)) node.setAttribute(key, value);
    else node[key] = value;
  }
  node.append(...children.flat().filter(c => c != null && c !== false));
  return node;
}

const percent = (x, digits = 1) => (100 * x).toFixed(Math.abs(x) < 0.1 ? digits : 0) + "\u202f%";
const signed = x => (x < 0 ? "\u2212" : "+") + Math.abs(100 * x).toFixed(1);

/** A labelled list of choices. */
function chooser(label, options, value, onchange, title = "") {
  const select = el("select", {onchange: e => onchange(e.target.value), title});
  const fill = (options, value) => select.replaceChildren(...options.map(([v, text]) => el("option", {value: v, selected: String(v) === String(value)}, text)));
  fill(options, value);
  return {node: el("label", {class: "dk-field"}, label, select), fill, select};
}

const button = (text, run, props = {}) => el("button", {type: "button", onclick: run, ...props}, text);

/** Buttons of which one is pressed. */
function segments(label, options, onchange) {
  const buttons = options.map(([value, text]) => button(text, () => onchange(value), {"data-value": value}));
  const show = value => buttons.forEach(b => b.setAttribute("aria-pressed", b.dataset.value === value));
  return {node: el("div", {class: "dk-segments", role: "group", "aria-label": label}, buttons), show};
}

function toggle(label, onchange, title = "") {
  const box = el("input", {type: "checkbox", onchange: e => onchange(e.target.checked)});
  return {node: el("label", {class: "dk-field", title}, box, label), show: value => { box.checked = value; }};
}

// --- colours -------------------------------------------------------------------------------------------------------------------

const MAPS = {
  viridis: "440154 48186a 472d7b 424086 3b528b 33638d 2c728e 26828e 21918c 1f9f88 27ad81 3dbc74 5cc863 81d34d aadc32 d5e21a fde725",
  cividis: "00224e 002c66 0d346b 25406c 374a6c 48546d 575d6d 656870 727374 7f7d78 8d8878 9c9377 ac9e74 bdaa70 ceb769 dfc55f f0d350 fee838",
};
const MORE = [255, 140, 30], LESS = [60, 130, 255];  // told apart by every kind of colour vision

/** 256 colours [r g b …] of a map; "difference" runs from LESS over white to MORE. */
function colours(name) {
  const stops = name === "difference" ? [LESS, [255, 255, 255], MORE] : MAPS[name].split(" ").map(s => [0, 2, 4].map(i => parseInt(s.slice(i, i + 2), 16)));
  const out = new Uint8ClampedArray(768);
  for (let i = 0; i < 256; i++) {
    const at = i / 255 * (stops.length - 1), k = Math.min(Math.floor(at), stops.length - 2);
    for (let c = 0; c < 3; c++) out[3 * i + c] = stops[k][c] + (at - k) * (stops[k + 1][c] - stops[k][c]);
  }
  return out;
}

// --- numbers -------------------------------------------------------------------------------------------------------------------

const FONT = "system-ui, sans-serif";
const sum = values => { let s = 0; for (const v of values) s += v; return s; };

function quantile(values, q) {
  const sorted = Float32Array.from(values).sort();
  return sorted[Math.min(sorted.length - 1, Math.floor(q * sorted.length))] || sorted[sorted.length - 1] || 1;
}

/** The same "random" numbers on every machine. */
function lottery(seed) {
  let s = seed >>> 0;
  return () => { s = (Math.imul(s, 1664525) + 1013904223) >>> 0; return s / 4294967296; };
}

// --- the frame around a view -----------------------------------------------------------------------------------------------------

const STYLE = `
.dk{--bg:var(--jp-layout-color1,#fff);--ink:var(--jp-ui-font-color1,#1b1f24);--soft:var(--jp-ui-font-color2,#5c6570);--line:var(--jp-border-color2,#d9dde2);--fill:var(--jp-layout-color2,#f3f5f7);--hot:#1f6feb;
 container-type:inline-size;background:var(--bg);color:var(--ink);font:13px/1.45 system-ui,sans-serif;padding:12px 14px;border:1px solid var(--line);border-radius:8px;position:relative;text-align:left}
.dk *{box-sizing:border-box}.dk h3{font-size:12px;margin:0 0 4px;font-weight:650;color:var(--ink)}
.dk button,.dk select,.dk input{font:inherit;color:inherit}.dk select,.dk button{background:var(--bg);border:1px solid var(--line);border-radius:5px;padding:2px 8px;cursor:pointer;min-height:26px}
.dk select{max-width:190px}.dk button[aria-pressed=true]{background:var(--ink);color:var(--bg);border-color:var(--ink)}.dk button:disabled{opacity:.45;cursor:default}
.dk :focus-visible{outline:2px solid var(--hot);outline-offset:1px}.dk-row{display:flex;flex-wrap:wrap;gap:6px 12px;align-items:center}
.dk-field{display:inline-flex;gap:5px;align-items:center;color:var(--soft);white-space:nowrap}.dk-segments{display:inline-flex}.dk-segments button{border-radius:0;margin-left:-1px}
.dk-segments button:first-child{border-radius:5px 0 0 5px}.dk-segments button:last-child{border-radius:0 5px 5px 0}
.dk-error{background:#b42318;color:#fff;padding:6px 10px;border-radius:5px;margin-bottom:8px}.dk-note{color:var(--soft);font-size:12px;margin:8px 0 0}
.dk-over{position:absolute;inset:8px;background:var(--bg);border:1px solid var(--line);border-radius:8px;padding:14px;overflow:auto;z-index:5}.dk-over img{max-width:100%}
.dk kbd{border:1px solid var(--line);border-radius:4px;padding:0 5px;background:var(--fill);font:12px ui-monospace,monospace}.dk table{border-collapse:collapse;width:100%;font-variant-numeric:tabular-nums}
.dk th,.dk td{text-align:right;padding:1px 5px;border:0;white-space:nowrap;background:none}.dk th:first-child,.dk td:first-child{text-align:left}.dk th{font-weight:500;color:var(--soft)}
.dk .dk-keys{width:auto}.dk .dk-keys td{padding:3px 12px 3px 0;text-align:left;white-space:normal}.dk-keys kbd{margin-right:4px}
.dk-hidden{position:absolute;width:1px;height:1px;overflow:hidden;clip-path:inset(50%)}
`;

/** A box for a view: style, error strip, live text, overlay, and keys that JupyterLab must not take for its own. */
function frame(host, label) {
  const error = el("div", {class: "dk-error", hidden: true, role: "alert"}), live = el("div", {class: "dk-hidden dk-live", "aria-live": "polite"});
  const over = el("div", {class: "dk-over", hidden: true, tabindex: -1, role: "dialog"}), body = el("div");
  const root = el("section", {class: "dk", "aria-label": label, "data-lm-suppress-shortcuts": "true"}, el("style", {}, STYLE), error, body, live, over);
  host.replaceChildren(root);
  const fail = problem => { error.hidden = false; error.textContent = problem && problem.message ? problem.message : String(problem); };
  root.fail = fail;
  let back = null;
  const close = () => { over.hidden = true; over.replaceChildren(); if (back) back.focus(); };
  const open = (title, ...content) => {
    back = document.activeElement; over.hidden = false; over.setAttribute("aria-label", title);
    over.replaceChildren(el("div", {class: "dk-row"}, el("h3", {}, title), button("Close (Esc)", close)), ...content);
    over.focus({preventScroll: true});
  };
  for (const node of [over, root]) on(node, "keydown", e => { if (!chord(e)) e.stopPropagation(); });  // a notebook's own keys would cut its cell
  on(over, "keydown", e => { if (e.key === "Escape") close(); });
  return {root, body, fail, open, close, say: text => { live.textContent = text; }};
}

/** Show a canvas as a picture that can be kept; works without permission to download, too. */
function offerPicture(box, canvas, name, summary) {
  const url = canvas.toDataURL("image/png");
  box.open("Picture of this view", el("p", {}, el("a", {href: url, download: name}, "Save as " + name), " or use the picture's own menu."), el("img", {src: url, alt: summary, class: "dk-picture"}));
}

/** What each key does; `keys` are [keys with spaces between, what they do]. */
function tellKeys(box, keys) {
  box.open("Keys", el("table", {class: "dk-keys"}, el("tbody", {}, keys.map(([names, what]) => el("tr", {}, el("td", {}, names.split(" ").map(name => el("kbd", {}, name))), el("td", {}, what))))));
}

/** Draw again what may hold the focus: the new element with the same `data-focus` gets it, or the one that is named. */
function keepFocus(root, redraw, otherwise = null) {
  const held = root.contains(document.activeElement) && document.activeElement !== root ? document.activeElement : null, name = held && held.dataset.focus;
  redraw();
  if (!held || (root.contains(held) && document.activeElement === held)) return;
  const again = name && [...root.querySelectorAll("[data-focus]")].find(node => node.dataset.focus === name) || otherwise;
  if (again) again.focus({preventScroll: true});
}

// --- pictures to keep -----------------------------------------------------------------------------------------------------------

/** A canvas in the colours of a frame. */
function canvasOf(root, width, height) {
  const style = getComputedStyle(root), canvas = el("canvas", {width, height}), pen = canvas.getContext("2d");
  pen.fillStyle = style.backgroundColor; pen.fillRect(0, 0, width, height); pen.fillStyle = style.color;
  return {canvas, pen};
}

/** Text in lines of a width; returns where the last one stands. */
function write(pen, text, x, y, width, font, step) {
  pen.font = font;
  let line = "";
  for (const part of text.split(/(?<=\s)/)) {
    if (line && pen.measureText(line + part).width > width) { pen.fillText(line, x, y); y += step; line = ""; }
    line += part.replace(/\n/g, " ");
  }
  pen.fillText(line, x, y);
  return y;
}

/** A canvas with lines of text at its top, and where they end. */
function sheet(root, width, height, lines, size) {
  const words = pen => lines.reduce((y, line) => write(pen, line, 20, y + 1.4 * size, width - 40, `${size}px ${FONT}`, 1.25 * size), 6),
    top = words(canvasOf(root, 1, 1).pen) + 20, made = canvasOf(root, width, top + height);
  words(made.pen);
  return {...made, top};
}

// --- where a view gets its data ----------------------------------------------------------------------------------------------------

/** In a page: bytes from the page itself, no kernel. */
function pageChannel(bytes, options = {}) { return {bytes, options, kernel: false, get: () => options.view || {}, set() {}, on() {}, ask: null}; }

const PATIENCE = 180;  // seconds: a large model on a slow machine answers later than one thinks (our choice)

/** In Jupyter: bytes and state are traits, questions to the kernel are messages. One that is not answered in time becomes a sentence, whose `late` is the answer all the same. */
function widgetChannel(model) {
  const waiting = new Map();
  let next = 0;
  model.on("msg:custom", message => { const done = waiting.get(message.id); if (done) { waiting.delete(message.id); done(message); } });
  const view = model.get("data"), options = model.get("options") || {};
  return {
    bytes: new Uint8Array(view.buffer, view.byteOffset, view.byteLength), options, kernel: true, get: () => model.get("view") || {},
    set: state => { model.set("view", state); model.save_changes(); }, on: listener => model.on("change:view", listener),
    ask: options.asks ? content => new Promise(done => {
      const id = ++next, seconds = options.patience || PATIENCE;
      const error = `The kernel gave no answer within ${seconds} seconds: it is busy, or it was stopped. A late answer is shown when it comes; where the cell has ended and none came, run the cell of this view again.`;
      const late = new Promise(found => waiting.set(id, found)), timer = setTimeout(() => done({error, silent: true, late}), 1000 * seconds);
      late.then(message => { clearTimeout(timer); done(message); }); model.send({...content, id});
    }) : null,
  };
}
