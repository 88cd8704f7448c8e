// The attention explorer: numbers first (Looks, Common canvas, scores), then what is drawn, then what is pressed.

// --- a bundle --------------------------------------------------------------------------------------------------------------------

class Looks {
  constructor(bytes) {
    const file = readTensors(bytes);
    Object.assign(this, file.words);
    this.models.forEach((m, i) => {
      m.index = i; m.picture = file.get(`model/${i}/picture`).data; m.boxes = file.get(`model/${i}/boxes`).data;
      m.overview = file.get(`model/${i}/overview`).data; m.count = m.picture.length;
    });
    this.maps.forEach((m, i) => {
      Object.assign(m, {codes: file.get(`map/${i}/codes`).data, scale: file.get(`map/${i}/scale`).data});
      if (file.has(`map/${i}/share`)) m.share = file.get(`map/${i}/share`).data;
      m.at = new Map(m.rows.map((row, place) => [row, place]));
    });
    this.cameras.forEach((c, i) => { c.jpeg = file.get(`camera/${i}`).data; });
    this.sinks = new Map();
  }
  model(name) { return this.models.find(m => m.name === name); }
  map({model, method = "attention", head = null}) { return this.maps.find(m => m.model === model && m.method === method && m.head === head); }

  /** Attention of a row to the vision tokens, mean over layers; null where the bundle has none. */
  row(look, row, from = 0, to = this.model(look.model).count) {
    const map = this.map(look), {layers} = look, n = this.model(look.model).count;
    if (!map || !map.at.has(row)) return null;
    const out = new Float32Array(to - from), root = map.codes instanceof Uint8Array;
    for (const layer of layers) {
      const l = map.layers.indexOf(layer), i = l * map.rows.length + map.at.get(row), scale = map.scale[i] / layers.length;
      if (l < 0) return null;
      for (let v = from; v < to; v++) { const c = map.codes[i * n + v]; out[v - from] += scale * (root ? c * c : c); }
    }
    return out;
  }
  /** Attention of a row to one vision token. */
  at(look, row, token) { return this.row(look, row, token, token + 1)?.[0]; }
  /** Mean over rows. */
  mean(look, rows) {
    const found = rows.map(r => this.row(look, r)).filter(Boolean);
    if (!found.length) return null;
    const out = new Float32Array(found[0].length);
    for (const values of found) for (let v = 0; v < out.length; v++) out[v] += values[v] / found.length;
    return out;
  }
  /** Vision, text and first token; of a single head, where no more was recorded, vision and the rest: mean over rows and layers; null if not recorded. */
  shares(look, rows) {
    const {layers, model, method} = look, map = this.map(look), known = map ? rows.filter(r => map.at.has(r)) : [], out = [0, 0, 0],
      n = known.length * layers.length;
    if (method !== "attention" || !n || !this.map({model}).share) return null;
    if (!map.share) { const seen = sum(this.mean(look, known)); return [seen, 1 - seen]; }
    for (const r of known) for (const layer of layers) for (let i = 0; i < 3; i++)
      out[i] += map.share[3 * (map.layers.indexOf(layer) * map.rows.length + map.at.get(r)) + i] / n;
    return out;
  }
  /** Vision tokens that more than half of all rows look at, whatever they say: more than eight times an even share (our choice). */
  sink(look) {
    const key = JSON.stringify(look);
    if (!this.sinks.has(key)) {
      const map = this.map(look), n = this.model(look.model).count, seen = new Uint16Array(n);
      const rows = map ? map.rows.map(r => this.row(look, r)).filter(Boolean) : [];
      for (const values of rows) { const much = 8 * sum(values) / n; for (let v = 0; v < n; v++) if (values[v] > much) seen[v]++; }
      const marks = seen.map(count => rows.length > 4 && count > rows.length / 2 ? 1 : 0);
      this.sinks.set(key, marks);
    }
    return this.sinks.get(key);
  }
  /** Tagged objects into whose boxes a sink reaches. */
  covered(look) {
    const m = this.model(look.model), marks = this.sink(look),
      meet = ([l, t, r, b], [x, y, u, v]) => Math.min(r, u) - Math.max(l, x) > EPS && Math.min(b, v) - Math.max(t, y) > EPS;
    return this.objects.filter(o => marks.some((mark, v) => mark && m.picture[v] === o.picture && meet(tokenBox(m, v), boxOf(o))));
  }
}

/** Left, top, right, bottom of a vision token. */
const tokenBox = (m, v) => m.boxes.subarray(4 * v, 4 * v + 4);

// --- one canvas for models with different grids --------------------------------------------------------------------------------------

const gcd = (a, b) => b ? gcd(b, a % b) : a;

/** A raster per picture on which every model's tokens lie; mass is spread by area, so none is lost. */
class Common {
  constructor(looks, models, finest = 96) {
    this.grids = looks.cameras.map((_, p) => [0, 1].map(axis => this.side(models, p, axis, finest)));
    this.start = [0];
    for (const [x, y] of this.grids) this.start.push(this.start.at(-1) + x * y);
    this.size = this.start.at(-1);
    this.spread = new Map(models.map(m => [m.name, this.weights(m)]));
    this.unit = this.grids[0][0] * this.grids[0][1];  // values are shown per 1/unit of a picture
  }
  side(models, picture, axis, finest) {
    let n = 1;
    for (const m of models) for (let v = 0; v < m.count; v++) if (m.picture[v] === picture && !m.overview[v]) {
      const own = Math.round(1 / (m.boxes[4 * v + 2 + axis] - m.boxes[4 * v + axis]));
      if (own === Infinity) continue;  // sees only padding
      n = n * own / gcd(n, own);
      if (n > finest) return finest;
    }
    return n;
  }
  weights(m) {
    const cell = [], token = [], part = [];
    for (let v = 0; v < m.count; v++) {
      const [nx, ny] = this.grids[m.picture[v]], [l, t, r, b] = tokenBox(m, v), area = (r - l) * (b - t);
      for (let y = Math.floor(t * ny + 1e-4); y < Math.min(ny, Math.ceil(b * ny - 1e-4)); y++)
      for (let x = Math.floor(l * nx + 1e-4); x < Math.min(nx, Math.ceil(r * nx - 1e-4)); x++) {
        const w = Math.max(0, Math.min(r, (x + 1) / nx) - Math.max(l, x / nx)) * Math.max(0, Math.min(b, (y + 1) / ny) - Math.max(t, y / ny)) / area;
        if (w > 1e-6) { cell.push(this.start[m.picture[v]] + y * nx + x); token.push(v); part.push(w); }
      }
    }
    return {cell: Int32Array.from(cell), token: Int32Array.from(token), part: Float32Array.from(part)};
  }
  /** Mass per token as mass per cell. */
  cells(model, values) {
    const {cell, token, part} = this.spread.get(model), out = new Float32Array(this.size);
    for (let i = 0; i < cell.length; i++) out[cell[i]] += part[i] * values[token[i]];
    return out;
  }
  part(cells, p) { return cells.subarray(this.start[p], this.start[p + 1]); }
  /** Mass on a picture. */
  on(cells, p) { return sum(this.part(cells, p)); }
  /** Share of the pictures that no token of a model sees. */
  unseen(model) {
    const {cell} = this.spread.get(model), seen = new Uint8Array(this.size);
    for (const c of cell) seen[c] = 1;
    return this.grids.reduce((gap, [x, y], p) => gap + (1 - this.on(seen, p) / (x * y)) / this.grids.length, 0);
  }
}

// --- scores ----------------------------------------------------------------------------------------------------------------------------

const EPS = 1e-6;

/** How far two maps are apart, in nats, once each is divided by its sum: KL(a‖b) and Jensen–Shannon. */
function divergences(a, b, sa, sb) {
  let kl = 0, js = 0;
  for (let i = 0; i < a.length; i++) {
    const p = a[i] / sa, q = b[i] / sb, lp = Math.log(p + EPS), lq = Math.log(q + EPS), lm = Math.log((p + q) / 2 + EPS);
    kl += p * (lp - lq);
    js += (p * (lp - lm) + q * (lq - lm)) / 2;
  }
  return [Math.max(0, kl), Math.max(0, js)];
}

/** Sums over rectangles of a picture in constant time, with fractions of cells at the edges. */
function rectangles(cells, [nx, ny]) {
  const n = nx + 1, table = new Float64Array(n * (ny + 1));
  for (let y = 0; y < ny; y++) for (let x = 0; x < nx; x++)
    table[(y + 1) * n + x + 1] = cells[y * nx + x] + table[y * n + x + 1] + table[(y + 1) * n + x] - table[y * n + x];
  const upTo = (fx, fy) => {
    const x = Math.min(Math.max(fx, 0), 1) * nx, y = Math.min(Math.max(fy, 0), 1) * ny, i = Math.min(Math.floor(x), nx - 1),
      j = Math.min(Math.floor(y), ny - 1);
    const k = j * n + i, u = x - i, v = y - j;
    return (table[k] * (1 - u) + table[k + 1] * u) * (1 - v) + (table[k + n] * (1 - u) + table[k + n + 1] * u) * v;
  };
  return ([l, t, r, b]) => upTo(r, b) - upTo(l, b) - upTo(r, t) + upTo(l, t);
}

const RADIUS = 0.06;  // half a side of a tag's box, in fractions; drawn as it is counted
const boxOf = o => o.box || [o.point[0] - RADIUS, o.point[1] - RADIUS, o.point[0] + RADIUS, o.point[1] + RADIUS].map(x => Math.min(1, Math.max(0, x)));

/** Mass in a box, its share of all pictures' area, lift = mass / area, and the part of 300 boxes of its size, anywhere, that hold less;
 * one that holds as much counts half. */
function grounding(inside, box, picture, draws = 300) {
  const w = box[2] - box[0], h = box[3] - box[1], mass = inside[picture](box), area = w * h / inside.length, draw = lottery(7);
  let less = 0, mean = 0;
  for (let i = 0; i < draws; i++) {
    const p = Math.floor(draw() * inside.length), x = draw() * (1 - w), y = draw() * (1 - h), other = inside[p]([x, y, x + w, y + h]);
    const tie = Math.abs(other - mass) <= 1e-6 * Math.max(Math.abs(mass), Math.abs(other));  // sums of a table round
    less += tie ? 0.5 : other < mass; mean += other / draws;
  }
  return {mass, area, lift: mass / area, random: mean, beats: less / draws};
}

// --- panes ------------------------------------------------------------------------------------------------------------------------------

const LAYOUTS = {  // column and row of each camera
  panorama: {CAM_FRONT_LEFT: [0, 0], CAM_FRONT: [1, 0], CAM_FRONT_RIGHT: [2, 0], CAM_BACK_LEFT: [0, 1], CAM_BACK: [1, 1], CAM_BACK_RIGHT: [2, 1]},
  "top-down": {CAM_FRONT_LEFT: [0, 0], CAM_FRONT: [1, 0], CAM_FRONT_RIGHT: [2, 0], CAM_BACK_LEFT: [0, 1], CAM_BACK_RIGHT: [2, 1], CAM_BACK: [1, 2]},
};
// yaw, field of view (nuScenes)
const VIEWS = {CAM_FRONT: [0, 64.6], CAM_FRONT_LEFT: [55, 64.6], CAM_FRONT_RIGHT: [-55, 64.6], CAM_BACK: [180, 89.4], CAM_BACK_LEFT: [110, 64.6],
  CAM_BACK_RIGHT: [-110, 64.6]};

/** Rectangles of the cameras in a panel of a width. */
function panes(cameras, layout, width) {
  const places = LAYOUTS[layout], known = cameras.every(c => c.name in places), gap = 4;
  const columns = known ? 3 : Math.min(3, cameras.length), w = (width - gap * (columns - 1)) / columns;
  // one tall picture makes no tall panes
  const ratios = cameras.map(c => c.height / c.width), h = w * Math.max(Math.min(Math.max(...ratios), 0.75), Math.min(...ratios));
  const at = cameras.map((c, i) => known ? places[c.name] : [i % columns, Math.floor(i / columns)]);
  const rows = Math.max(...at.map(([, y]) => y)) + 1;
  const fitted = ([column, row], {width, height}) => {  // as large as its pane allows, in its own form
    const own = Math.min(w, h * width / height), tall = own * height / width;
    return {x: column * (w + gap) + (w - own) / 2, y: row * (h + gap) + (h - tall) / 2, w: own, h: tall, column, row};
  };
  return {boxes: at.map((place, i) => fitted(place, cameras[i])), height: rows * (h + gap) - gap,
    middle: known && layout === "top-down" ? {x: w + gap, y: h + gap, w, h} : null};
}

/** A canvas of a size; setting it anew would clear it. */
const sized = (canvas, width, height) => { if (canvas.width !== width || canvas.height !== height) Object.assign(canvas, {width, height}); return canvas; };
/** The colour of each side. */
const INKS = {a: "#3b82c4", b: "#e08a2e"};
/** A text on one line. */
const flat = text => text.replace(/\n/g, "\u21b5");
const areaOf = ([l, t, r, b]) => (r - l) * (b - t);

/** Text that fits into a width of a canvas. */
function shortened(pen, text, width) {
  if (pen.measureText(text).width <= width) return text;
  const letters = [...text];
  while (letters.length > 1 && pen.measureText(letters.join("") + "\u2026").width > width) letters.pop();
  return letters.join("") + "\u2026";
}

const SINK = "A sink: more than half of the recorded rows give this patch over 8 times an even share, whatever they say.";
const NOTE = "Attention says where a layer looked, not why it answered: it is not causal evidence.";
const KEYS = [["← →", "previous, next token; on the cameras: patch"], ["↑ ↓", "layer; on the cameras: patch; in the table: token"], ["Shift+← Shift+→", "several tokens"], ["Enter", "keep the token; on the cameras: keep this patch and choose one more"], ["Shift+click", "one more token or patch"],
  ["1 2 3 4", "first model, second model, difference, all three"], ["[ ]", "layer"], ["h", "next head"], ["a", "all tokens"], ["s", "hide sinks"],
    ["o", "objects"], ["l", "layout"], ["c", "colours"], ["p", "picture of this view"], ["Esc", "let go"], ["?", "this list"]];

// of the state, in the `view` trait
const KEPT = ["a", "b", "mode", "preset", "layersA", "layersB", "head", "method", "rows", "layout", "colours", "sinks", "objects", "common", "norm"];
/** A view whose layers, where it has the key, are some. */
const named = view => Object.fromEntries(Object.entries(view).filter(([key, value]) => !key.startsWith("layers") || value?.length));

// --- the view ------------------------------------------------------------------------------------------------------------------------------

class AttentionView {
  constructor(host, channel, bytes) {
    this.channel = channel; this.looks = new Looks(bytes); this.box = frame(host, "Attention explorer");
    const own = this.beside(null, "a"), other = this.beside(own, "b");
    this.state = {a: own, b: other, mode: other ? "all" : "a", preset: null, step: 0, layersA: [], layersB: [], head: null, method: "attention",
      rows: [], patch: null, kept: [],
      layout: "panorama", colours: "viridis", sinks: false, objects: true, common: true, norm: "pictures", part: "both", opacity: 0.8, lock: null,
        shade: other ? "kl" : "pictures", sort: "place", ascending: true};
    this.hover = {row: null, patch: null};
    this.pictures = []; this.scaled = []; this.scratch = [];
    this.build();
    const last = this.recorded("a").at(-1);
    this.state.layersA = [last]; this.state.layersB = other ? [this.partner(last)] : [];
    const wanted = this.looks.plans.find(p => p.capability === this.looks.source.capability && p.teacher === this.state.a && p.student === this.state.b);
    if (wanted) this.applyPreset(wanted.capability, false);
    this.accept(channel.get());
    channel.on(() => { if (JSON.stringify(channel.get()) !== this.told) { this.accept(channel.get()); this.renew(); } });
  }
  async start() {
    this.pictures = await Promise.all(this.looks.cameras.map(async c => {
      const image = await createImageBitmap(new Blob([c.jpeg], {type: "image/jpeg"})), canvas = el("canvas", {width: image.width, height: image.height});
      const pen = canvas.getContext("2d");
      pen.filter = "grayscale(60%)"; pen.drawImage(image, 0, 0);  // muted, so that the map's colours are the strongest
      return canvas;
    }));
    new ResizeObserver(() => this.fit()).observe(this.stage);
    this.fit(); this.renew();
    Object.assign(this.box.root, {view: this}).dataset.ready = "true";  // for the console, and for tests
    return this;
  }
  /** State from outside; Python has checked it against the bundle. What is absent stays, except the layers of other models. */
  accept(given) {
    const s = this.state, sides = [["a", "layersA"], ["b", "layersB"]];
    given = named(given);
    for (const [side] of sides) if (this.looks.model(given[side])) s[side] = given[side];
    // a view that names one gets another beside it
    if (s.a === s.b && !(given.a && given.b)) s[given.a ? "b" : "a"] = this.beside(s.a, given.a ? "b" : "a") || s.a;
    if (given.preset) this.applyPreset(given.preset, false, given.a);
    for (const key of KEPT) if (given[key] !== undefined && !["a", "b"].includes(key)) s[key] = given[key];
    if (!s.b) s.mode = "a";
    if (!this.methods().includes(s.method)) s.method = "attention";  // the models are others
    const anew = !given.preset && (given.a || given.b || given.layersA && !s.preset);
    for (const [side, key] of sides) {
      const there = this.recorded(side);
      if (!s[side] || given[key] || !anew && s[key].every(l => there.includes(l))) continue;
      s[key] = side === "a" ? there.slice(-1) : there.length ? [this.partner(s.layersA.at(-1))] : [];
    }
    const plan = s.method === "attention" && s.head == null && this.plan(), shown = JSON.stringify([s.layersB, s.layersA]);
    s.step = plan ? plan.pairs.findIndex(([student, teachers]) => JSON.stringify([[student], teachers]) === shown) : -1;
    if (s.step < 0) Object.assign(s, {preset: null, step: 0});
    if (!s.rows.length) s.rows = [this.firstRow()];
  }
  tell() { const view = named(Object.fromEntries(KEPT.map(key => [key, this.state[key]]))); this.told = JSON.stringify(view); this.channel.set(view); }

  // --- what there is

  /** The side that pointing asks. */
  get lead() { return this.state.mode === "b" ? "b" : "a"; }
  get known() { return this.sides().filter(w => this.now[w]); }
  sides() { return ["a", "b"].filter(w => this.state[w]); }

  /** The model that stands on a side if the other has this one: teachers first on the one, those of the question's capability before
   * the rest, students on the other. */
  beside(name, side) {
    const {models, source} = this.looks;
    const last = m => 2 * ((m.role === "student") !== (side === "b")) + (m.role !== "student" && m.capability !== (source.capability ?? null));
    const [found] = models.filter(m => m.name !== name).sort((x, y) => last(x) - last(y));
    return found ? found.name : null;
  }
  /** The token at which the answer begins, as far as it was recorded. */
  firstRow() {
    const there = this.sides().flatMap(w => { const map = this.looks.map(this.side(w)); return map ? map.rows : []; }).sort((x, y) => x - y);
    return there.find(r => this.looks.tokens[r].role !== "question") ?? there[0] ?? 0;
  }
  methods() { return [...new Set(this.looks.maps.filter(m => [this.state.a, this.state.b].includes(m.model)).map(m => m.method))]; }
  recorded(side, method = this.state.method) { const map = this.looks.map({model: this.state[side], method}); return map ? map.layers : []; }
  heads() { return [...new Set(this.looks.maps.filter(m => m.head != null
    && [this.state.a, this.state.b].includes(m.model)).map(m => m.head))].sort((x, y) => x - y); }
  /** The second model's layer at the same relative depth as one of the first's. */
  partner(layer) {
    const L = this.looks, there = this.recorded("b"),
      deep = side => L.model(this.state[side]).layers || 1 + Math.max(...this.recorded(side, "attention")), depth = (layer + 0.5) / deep("a") * deep("b") - 0.5;
    return there.reduce((best, l) => Math.abs(l - depth) < Math.abs(best - depth) ? l : best, there[0]);
  }
  plan() { const {a, b, preset} = this.state; return this.looks.plans.find(p => p.capability === preset && p.teacher === a && p.student === b); }
  side(which) {
    const s = this.state, model = s[which], layers = which === "a" ? s.layersA : s.layersB;
    const own = s.method === "attention" && this.looks.map({model, head: s.head});
    return {model, method: s.method, head: own && layers.every(l => own.layers.includes(l)) ? s.head : null, layers};
  }
  rows() { return this.hover.row != null ? [this.hover.row] : this.state.rows; }
  /** Why a side has no map of the chosen tokens, and the way out. */
  missing(which) {
    const look = this.side(which), {head} = look, {tokens} = this.looks, map = this.looks.map(look);
    if (!map) return "was not recorded by this method; choose another";
    const {rows} = map, asked = i => tokens[i].role === "question", own = asked(rows[0]),
      whole = rows.length === tokens.filter((_, i) => asked(i) === own).length && rows.every(i => asked(i) === own);
    const those = `was recorded for ${whole ? `the ${own ? "question" : "answer"}'s` : `${rows.length} of ${tokens.length}`} tokens only; choose one of them`;
    return head == null ? those : `head ${head + 1} ${those} or the mean of heads`;
  }

  /** Masses of the vision tokens of one side for some rows, as the controls want them; null if not recorded. */
  masses(which, rows, hide = this.state.sinks) {
    const s = this.state, look = this.side(which), values = look.model && this.looks.mean(look, rows);
    if (!values) return null;
    const m = this.looks.model(look.model), sink = hide ? this.looks.sink(look) : null;
    for (let v = 0; v < values.length; v++) if ((sink && sink[v]) || (s.part !== "both" && (s.part === "overview") !== Boolean(m.overview[v]))) values[v] = 0;
    const total = this.ofRow() ? 1 : sum(values);  // gradients have no unit of their own
    return total > 0 ? values.map(x => x / total) : values;
  }
  /** How many sinks of a side there are, and how much of its rows they hold. */
  sunk(which, rows) {
    const look = this.side(which), marks = this.looks.sink(look), values = this.looks.mean(look, rows), count = sum(marks);
    if (!values) return null;
    return {count, mass: sum(values.filter((_, v) => marks[v])) / (this.state.method === "gradient" ? sum(values) || 1 : 1)};
  }
  tables(cells) { return this.common.grids.map((grid, p) => rectangles(this.common.part(cells, p), grid)); }
  score(cells, box, picture) { return grounding(this.tables(cells), box, picture); }
  cells(which, rows, hide) { const values = this.masses(which, rows, hide); return values && this.common.cells(this.state[which], values); }

  // --- changes

  change(patch, keepPreset = false) { Object.assign(this.state, patch); if (!keepPreset) this.state.preset = null; this.renew(); this.tell(); }
  applyPreset(capability, tell = true, first = null) {
    const plans = this.looks.plans.filter(p => p.capability === capability);
    if (!plans.length) return;
    const teacher = this.looks.models.find(m => m.capability === capability && plans.some(p => p.teacher === m.name)), s = this.state;
    const wanted = first || (teacher ? teacher.name : s.a),
      plan = plans.find(p => p.teacher === wanted && p.student === s.b) || plans.find(p => p.teacher === wanted)
      || plans.find(p => p.student === s.b) || plans[0];
    Object.assign(s, {preset: capability, a: plan.teacher, b: plan.student, method: "attention", head: null, norm: "row", step: 0});
    this.takeStep();
    if (tell) { this.renew(); this.tell(); }
  }
  takeStep() {
    const {pairs} = this.plan(), [student, teachers] = pairs[this.state.step];
    this.state.layersB = [student].filter(l => this.recorded("b").includes(l)); this.state.layersA = teachers.filter(l => this.recorded("a").includes(l));
    if (!this.state.layersA.length || !this.state.layersB.length) throw new Error(`The bundle lacks layers of the ${this.state.preset} preset; record them.`);
  }
  layer(by) {
    const s = this.state, plan = this.plan();
    if (plan && plan.pairs.length > 1) { s.step = Math.min(plan.pairs.length - 1, Math.max(0, s.step + by)); this.takeStep(); this.renew();
      this.tell(); return; }
    // round, as a preset may open on the last
    const there = this.recorded("a"), next = there[(there.indexOf(s.layersA[0]) + by + there.length) % there.length];
    this.change({layersA: [next], layersB: s.b ? [this.partner(next)] : []});
  }
  method(name) {
    const s = this.state; s.method = name;
    const near = (side, layers) => { const there = this.recorded(side);
      return !there.length || layers.every(l => there.includes(l)) ? layers
      : [there.reduce((best, l) => Math.abs(l - layers[0]) < Math.abs(best - layers[0]) ? l : best, there[0])]; };
    this.change({layersA: near("a", s.layersA), layersB: s.b ? near("b", s.layersB) : [], head: null});
  }
  models(side, name) {
    const s = this.state; s[side] = name;
    if (!this.methods().includes(s.method)) s.method = "attention";
    const there = this.recorded(side), key = side === "a" ? "layersA" : "layersB";
    if (!s[key].every(l => there.includes(l))) s[key] = [there.at(-1)];
    this.change(s.preset && this.plan() ? {} : {preset: null}, Boolean(this.plan()));
  }
  select(rows) { this.state.rows = rows; this.hover.row = null; this.show(); this.tell(); }
  point(patch, keep = false) { if (keep) this.state.patch = patch; else this.hover.patch = patch; this.show(); }

  // --- elements

  build() {
    const L = this.looks, s = this.state, two = Boolean(s.b), names = L.models.map(m => [m.name, this.title(m)]);
    const capabilities = [...new Set(L.plans.map(p => p.capability))];
    this.ui = {
      presets: segments("Presets", capabilities.map(c => [c, c]), c => this.applyPreset(c)),
      mode: segments("View", two ? [["a", "1 first"], ["b", "2 second"], ["difference", "3 difference"], ["all", "4 all"]] : [["a", "1 model"]],
        mode => this.change({mode}, true)),
      a: chooser(two ? "first" : "model", names, s.a, v => this.models("a", v)),
      b: two && chooser("second", names, s.b, v => this.models("b", v)),
      layersA: chooser("layer", [], 0, v => this.change({layersA: [Number(v)], layersB: two ? [this.partner(Number(v))] : []})),
      layersB: two && chooser("with", [], 0, v => this.change({layersB: [Number(v)]})),
      head: chooser("head", [], "", v => this.change({head: v === "" ? null : Number(v)})),
      method: chooser("method", [], s.method, v => this.method(v)),
      norm: chooser("colours and labels are parts of", [["pictures", "what is on the pictures"], ["row", "the whole row"]], s.norm,
        v => this.change({norm: v}, true), "the loss compares whole rows"),
      layout: chooser("layout", Object.keys(LAYOUTS).map(k => [k, k]), s.layout, v => { this.state.layout = v; this.fit(); this.renew(); this.tell(); }),
      colours: chooser("colours", Object.keys(MAPS).map(k => [k, k]), s.colours, v => this.change({colours: v}, true)),
      part: chooser("tokens of", [["both", "details and overview"], ["details", "details only"], ["overview", "overview only"]], s.part,
        v => this.change({part: v}, true)),
      shade: chooser("words shaded by", [["pictures", "attention to pictures"], ["kl", "KL"], ["mse", "MSE"]], s.shade, v => this.change({shade: v}, true)),
      sinks: toggle("hide sinks", v => this.change({sinks: v}, true), SINK),
      common: toggle("all heads on one scale", v => this.change({common: v}, true), "the colour scale of the strongest head, so that heads can be compared"),
      objects: toggle("objects", v => this.change({objects: v}, true)),
      lock: toggle("hold scale", v => this.change({lock: v ? this.top : null}, true), "keep the colour scale while tokens, heads and layers change"),
      opacity: el("input", {type: "range", min: 0, max: 1, step: 0.05, value: s.opacity, title: "strength of the colours",
        "aria-label": "strength of the colours", oninput: e => this.change({opacity: Number(e.target.value)}, true)}),
    };
    const u = this.ui;
    this.layersText = el("span", {class: "dk-layers"});
    this.ui.words = this.buildWords();
    const id = `dk-readout-${Math.random().toString(36).slice(2)}`;  // a page may have several views, each from a module of its own
    this.canvas = el("canvas", {tabindex: 0, role: "application", "aria-describedby": id});
    this.stage = el("div", {class: "dk-stage"}, this.canvas);
    this.readout = el("div", {class: "dk-readout", id}); this.bars = el("div"); this.mix = el("div"); this.scores = el("div");
      this.list = el("div", {class: "dk-list", tabindex: -1}); this.sinksText = el("div", {class: "dk-sunk"}); this.ablation = el("div");
    this.aside = el("aside", {}, this.mix, this.bars, this.scores);
    this.box.root.classList.add("dk-look");
    this.box.body.replaceChildren(el("style", {}, LOOK),
      el("div", {class: "dk-row"}, capabilities.length > 0 && [el("span", {class: "dk-field"}, "as the loss sees it:"), u.presets.node], this.layersText,
        el("span", {class: "dk-push"}, button("Picture", () => this.keep()), button("About", () => this.about()), button("Keys", () => this.help()))),
      el("div", {class: "dk-row dk-controls"}, u.mode.node, u.a.node, u.layersA.node, u.b.node, u.layersB.node,
        this.heads().length > 0 && u.head.node, u.method.node),
      u.words,
      el("div", {class: "dk-main"}, el("div", {}, this.stage, this.readout,
        el("div", {class: "dk-row dk-small"}, u.layout.node, u.colours.node, el("label", {class: "dk-field"}, "strength", u.opacity), u.norm.node,
          L.models.some(m => m.overview.some(Boolean)) && u.part.node, u.objects.node, u.sinks.node, u.lock.node, u.common.node), this.sinksText, this.ablation, this.list),
        this.aside),
      el("p", {class: "dk-note"}, NOTE + (this.channel.ask ? " To see whether a patch matters, choose it and ask again without it."
        : " Whether a patch matters, only asking again without it can tell: that needs a kernel with the model.")));
    this.listen();
  }
  who(side) { return this.title(this.looks.model(this.state[side])); }
  title(m) { return m.name === m.role || !["teacher", "student"].includes(m.role) || m.name.includes(m.role) ? m.name : `${m.name} ${m.role}`; }
  buildWords() {
    const L = this.looks, texts = {question: L.question, answer: L.answer}, lists = [];
    this.chips = [];
    for (const role of ["question", "answer"]) {
      const list = el("div", {class: "dk-words", role: "listbox", "aria-multiselectable": "true", "aria-label": `tokens of the ${role}`});
      const letters = [...texts[role]];  // places count characters, where a string's count halves of rare ones
      let at = 0;
      L.tokens.forEach((token, i) => {
        if (token.role !== role && !(role === "answer" && token.role === "prompt")) return;
        const chip = el("span", {class: "dk-token", role: "option", tabindex: -1, "data-row": i, dir: "auto"},
          token.role === "prompt" ? "\u25b8" : flat(token.text) || "\u2205");
        if (token.role === "prompt") chip.title = "the last token before the answer: here the model decides how to begin";
        else { list.append(letters.slice(at, token.start).join("")); at = Math.max(at, token.end); }
        this.chips[i] = chip; list.append(chip);
      });
      list.append(letters.slice(at).join(""));
      lists.push(el("div", {class: "dk-line"}, el("b", {}, role), list));
    }
    this.replies = el("div", {class: "dk-replies"}); this.carriedText = el("span", {class: "dk-cut"});
    const group = (label, test) => { const rows = L.tokens.flatMap((t, i) => test(t) ? [i] : []);
      return rows.length > 0 && button(label, () => this.select(rows)); };
    return el("div", {class: "dk-text"}, lists, this.replies,
      el("div", {class: "dk-row dk-small"}, el("span", {class: "dk-field"}, "mean of"), group("all tokens", () => true),
      group("question", t => t.role === "question"), group("answer", t => t.role === "answer"),
      this.ui.shade.node, this.carriedText));
  }

  // --- drawing

  fit() {
    const width = Math.max(280, Math.floor(this.stage.clientWidth)), s = this.state, wide = s.mode === "all" && width > 560;
    const shown = s.mode === "all" ? ["a", "b", "difference"] : [s.mode], gap = 14, head = 20;
    const panel = wide ? (width - gap) / 2 : width, {boxes, height, middle} = panes(this.looks.cameras, s.layout, panel);
    const place = i => wide ? [i % 2 * (panel + gap), Math.floor(i / 2)] : [0, i];
    this.panels = shown.map((what, i) => { const [x, row] = place(i);
      return {what, x, y: head + row * (height + head + 8), width: panel, boxes, middle, height}; });
    const [x, row] = place(3);  // the free corner beside the difference shows the vehicle from above
    this.corner = wide && s.layout === "panorama" && this.looks.cameras.every(c => c.name in VIEWS)
      ? {x, y: head + row * (height + head + 8), w: panel, h: height} : null;
    const h = Math.ceil(this.panels.at(-1).y + height + (s.mode === "all" ? 48 : 30)), ratio = globalThis.devicePixelRatio || 1;
    sized(this.canvas, Math.round(width * ratio), Math.round(h * ratio));
    Object.assign(this.canvas.style, {width: width + "px", height: h + "px"});
    this.shape = {width, height: h, ratio};
    this.scaled = this.pictures.map((picture, p) => {  // once, not at every hover
      const {w, h} = boxes[p], small = el("canvas", {width: Math.max(1, Math.round(w * ratio)), height: Math.max(1, Math.round(h * ratio))});
      small.getContext("2d").drawImage(picture, 0, 0, small.width, small.height);
      return small;
    });
    this.offerWhole();
    if (this.pictures.length && this.common) this.show();
  }
  /** After a change of models, layers or options: everything. */
  renew() {
    const s = this.state, u = this.ui, L = this.looks, key = [s.a, s.b].join("\n");
    if (this.commonKey !== key) {
      const shown = [...new Set([s.a, s.b])].filter(Boolean).map(n => L.model(n));
      this.common = new Common(L, shown); this.commonKey = key;
      this.replies.replaceChildren(...shown.filter(m => m.reply).map(m => el("details", {},
        el("summary", {class: "dk-line"}, el("b", {}, this.title(m) + " says"), el("bdi", {}, flat(m.reply))))));
      this.offerWhole();
    }
    const label = (side, layers) => { const all = L.model(s[side]).layers; return layers.map(l => l + 1).join(", ") + (all ? " of " + all : ""); },
      options = side => this.recorded(side).map(l => [l, label(side, [l])]);
    const grouped = (side, layers) => layers.length > 1 ? [["group", `mean of ${layers.map(l => l + 1).join(", ")}`], ...options(side)] : options(side);
    u.a.select.value = s.a; u.layersA.fill(grouped("a", s.layersA), s.layersA.length > 1 ? "group" : s.layersA[0]);
    if (u.b) { u.b.select.value = s.b; u.layersB.fill(grouped("b", s.layersB), s.layersB.length > 1 ? "group" : s.layersB[0]); }
    u.head.fill([["", "mean"], ...this.heads().map(h => [h, String(h + 1)])], s.head == null ? "" : s.head);
    u.method.fill(this.methods().map(m => [m, m === "gradient" ? "gradient-weighted" : m]), s.method); u.method.node.hidden = this.methods().length < 2;
    for (const key of ["norm", "layout", "colours", "part", "shade"]) u[key].select.value = s[key];
    // a rollout goes through all layers, and heads are averaged
    u.layersA.node.hidden = s.method === "rollout"; if (u.b) u.layersB.node.hidden = s.method === "rollout";
    u.head.node.hidden = s.method !== "attention"; u.common.node.hidden = s.head == null || s.method !== "attention"; u.common.show(s.common);
    u.presets.show(s.preset); u.mode.show(s.mode); u.sinks.show(s.sinks); u.objects.show(s.objects); u.lock.show(s.lock != null);
    const plan = this.plan();
    const pair = plan && plan.pairs.length > 1 ? ` (pair ${s.step + 1} of ${plan.pairs.length})` : "",
      region = plan && plan.region === "full" ? "full map (shown: its columns of pictures)" : "text to vision";
    const teachers = `teacher ${s.layersA.length > 1 ? "layers" : "layer"} ${label("a", s.layersA)}`, how = plan && `${region}, ${plan.distance}`;
    this.layersText.textContent = plan ? `${s.preset}: student layer ${label("b", s.layersB)} against ${teachers}${pair}; ${how}` : "";
    this.showCarried();
    this.lut = colours(s.colours); this.diverging = colours("difference");
    const what = JSON.stringify([this.side("a"), s.b && this.side("b"), s.sinks, s.part]);
    if (what !== this.measured) {  // the map first, the table of all tokens right after it
      this.measured = what;
      clearTimeout(this.later);
      this.later = setTimeout(() => { this.distances = s.b ? this.measure() : null; this.showList();
        if (this.chips.length && this.panels && this.pictures.length) this.showWords(); });
    } else if (this.sorted !== s.sort + s.ascending) this.showList();
    if (this.panels && this.panels.length !== (s.mode === "all" ? 3 : 1) || this.panels && s.mode !== "all"
      && this.panels[0].what !== s.mode) this.fit(); else this.show();
  }
  /** A reply that is longer than its line can be opened. */
  offerWhole() {
    for (const reply of this.replies.children) if (!reply.open) {
      const text = reply.querySelector("bdi"), long = text.scrollWidth > text.clientWidth;
      reply.classList.toggle("dk-long", long); reply.firstChild.tabIndex = long ? 0 : -1;
    }
  }
  /** Which rows a model of this view does not have as they are. */
  showCarried() {
    const models = [...new Set([this.state.a, this.state.b])].filter(Boolean).map(n => this.looks.model(n)),
      by = row => models.filter(m => (m.carried || []).includes(row)).map(m => this.title(m));
    this.chips.forEach((chip, i) => {
      const names = by(i);
      chip.classList.toggle("dk-carried", names.length > 0);
      if (this.looks.tokens[i].role !== "prompt") chip.title = names.length
        ? `${names.join(" and ")} cut this otherwise: the row is a mean over its own tokens of these characters` : "";
    });
    this.carriedText.textContent = models.filter(m => (m.carried || []).length).map(m => `dotted: ${this.title(m)} cuts ${m.carried.length} of ${this.looks.tokens.length} tokens otherwise, their rows are means over its own`).join("; ");
  }
  /** What `run` finds where a part of the state is another; the state itself stays as it is. */
  assuming(other, run) {
    const {state} = this;
    this.state = {...state, ...other};
    try { return run(); } finally { this.state = state; }
  }
  /** Per token: how far the second model's map is from the first's. */
  measure() {
    return this.assuming({norm: "row"}, () => this.looks.tokens.map((_, row) => {
      const a = this.cells("a", [row]), b = this.cells("b", [row]);
      if (!a || !b) return null;
      const ta = sum(a), tb = sum(b);
      let square = 0;
      for (let i = 0; i < a.length; i++) square += (a[i] - b[i]) ** 2;
      const [kl, js] = ta > 0 && tb > 0 ? divergences(a, b, ta, tb) : [0, 0];
      return {kl, js, mse: square / a.length, a: ta, b: tb};
    }));
  }
  /** After a change of token or patch: what depends on them. */
  show() {
    if (!this.pictures.length || !this.panels) return;
    const rows = this.rows();
    this.now = {a: this.cells("a", rows), b: this.state.b ? this.cells("b", rows) : null};
    this.now.difference = this.now.a && this.now.b ? this.now.b.map((x, i) => x - this.now.a[i]) : null;
    this.scale();
    this.draw(this.canvas.getContext("2d"), this.shape.ratio);
    this.showWords(); this.showBars(); this.showScores(); this.showReadout();
  }
  dense(cells) {
    if (this.common.grids.every(([x, y]) => x * y === this.common.unit)) return cells;
    const out = cells.slice();
    this.common.grids.forEach(([x, y], p) => { for (let i = this.common.start[p]; i < this.common.start[p + 1]; i++) out[i] *= x * y / this.common.unit; });
    return out;
  }
  scale() {
    const all = this.known.flatMap(w => [...this.dense(this.now[w])]);
    this.top = this.state.lock ?? this.topOfHeads() ?? (all.length ? quantile(all, 0.995) : 1);
    const apart = this.now.difference ? this.dense(this.now.difference) : [];
    this.topDifference = apart.length ? quantile(apart.map(Math.abs), 0.995) : 1;
    [this.most, this.mostDifference] = [all, apart].map(cells => cells.reduce((most, x) => Math.abs(x) > Math.abs(most) ? x : most, 0));
  }
  /** The scale on which the strongest head of the shown layers and tokens fits; null where no head is shown. */
  topOfHeads() {
    const s = this.state, heads = s.common && s.method === "attention" && s.head != null ? this.heads() : [], rows = this.rows(),
      key = JSON.stringify([s.a, s.b, s.layersA, s.layersB, s.sinks, s.part, s.norm, rows]);
    if (!heads.length) return null;
    if (this.headsKey !== key) {
      const topsOf = () => this.sides().filter(w => this.side(w).head != null).map(w => this.cells(w, rows)).filter(Boolean).map(c => quantile(this.dense(c), 0.995));
      const tops = heads.flatMap(head => this.assuming({head}, topsOf));
      this.headsKey = key; this.headsTop = tops.length ? Math.max(...tops) : null;
    }
    return this.headsTop;
  }
  overlay(cells, picture, difference) {
    const [nx, ny] = this.common.grids[picture], from = this.common.start[picture], image = new ImageData(nx, ny);
    for (let i = 0; i < nx * ny; i++) {
      const x = cells[from + i] / (difference ? this.topDifference : this.top), v = Math.min(1, Math.abs(x));
      for (let c = 0; c < 3; c++) image.data[4 * i + c] = difference ? (x > 0 ? MORE : LESS)[c] : this.lut[3 * Math.round(255 * v) + c];
      image.data[4 * i + 3] = 255 * this.state.opacity * (difference ? v : v ** 0.8);  // the root shows weak cells without veiling the photograph
    }
    const small = this.scratch[picture] ??= el("canvas", {width: nx, height: ny});
    sized(small, nx, ny).getContext("2d").putImageData(image, 0, 0);
    return small;
  }
  draw(pen, ratio) {
    const s = this.state, ink = getComputedStyle(this.box.root).color, {width, height} = this.shape;
    pen.setTransform(ratio, 0, 0, ratio, 0, 0);
    pen.clearRect(0, 0, width, height);
    for (const panel of this.panels) {
      const cells = this.now[panel.what], difference = panel.what === "difference";
      const dense = cells && this.dense(cells);
      pen.fillStyle = ink; pen.font = "600 12px " + FONT; pen.textBaseline = "alphabetic";
      pen.fillText(shortened(pen, this.caption(panel.what), panel.width), panel.x, panel.y - 6);
      this.looks.cameras.forEach((camera, p) => {
        const box = panel.boxes[p], x = panel.x + box.x, y = panel.y + box.y;
        pen.imageSmoothingEnabled = true; pen.drawImage(ratio === this.shape.ratio ? this.scaled[p] : this.pictures[p], x, y, box.w, box.h);
        if (dense) { pen.imageSmoothingEnabled = false; pen.drawImage(this.overlay(dense, p, difference), x, y, box.w, box.h);
          this.drawBeyond(pen, dense, p, difference ? this.topDifference : this.top, x, y, box); }
        const own = cells ? this.common.on(cells, p) : 0;
        if (s.objects) this.drawObjects(pen, p, x, y, box);
        this.drawLabel(pen, camera.name, cells ? (difference ? signed(own) : percent(own, 1)) + (box.w > 130 ? this.ofRow() : "") : "not recorded", x, y, box);
      });
      if (panel.middle && cells) this.drawVehicle(pen,
        {x: panel.x + panel.middle.x, y: panel.y + panel.middle.y, w: panel.middle.w, h: panel.middle.h}, cells, INKS[panel.what]);
      this.drawPatches(pen, panel);
    }
    if (this.corner) ["a", "b"].forEach((w, i) => {
      if (!this.now[w]) return;
      const {x, y, w: wide, h} = this.corner;
      pen.fillStyle = ink; pen.font = "600 12px " + FONT; pen.fillText(shortened(pen, "by direction: " + this.who(w), wide / 2 - 8), x + i * wide / 2, y - 6);
      this.drawVehicle(pen, {x: x + i * wide / 2, y, w: wide / 2, h}, this.now[w], INKS[w]);
    });
    this.drawBar(pen, ink);
  }
  /** Whose map, of which layers, by which method. */
  caption(what) {
    const heads = side => { const {head} = this.side(side); return head != null ? `head ${head + 1}` : this.looks.model(this.state[side]).heads > 1 && "mean of heads"; },
      of = side => { const said = this.state.head != null && heads(side); return this.who(side) + (said ? ` (${said})` : ""); };
    if (what === "difference") return `${of("b")} minus ${of("a")}`;
    const {layers, method} = this.side(what), [first] = layers, numbers = layers.map(l => l + 1), last = layers.at(-1);
    const at = layers.length > 1 ? "s " + (last - first === layers.length - 1 ? `${first + 1} to ${last + 1}` : numbers.join(", ")) : " " + numbers;
    return [this.who(what), method === "rollout" ? "all layers" : "layer" + at,
      {attention: heads(what), gradient: "gradient-weighted"}[method] ?? method].filter(Boolean).join(", ");
  }
  /** The chosen tokens. */
  spoken() {
    const rows = this.rows(), {tokens} = this.looks, [row] = rows, {role, text} = tokens[row];
    if (rows.length > 1) return `Mean of ${rows.filter(r => this.looks.row(this.side(this.lead), r)).length} tokens`;
    return `${role === "prompt" ? "Before the answer" : `${role} token \u201c${flat(text)}\u201d`} (${row + 1} of ${tokens.length})`;
  }
  /** What a picture of this view shows, for whom it is all there is. */
  heading() {
    const {mode, sinks} = this.state, rows = this.rows(), {tokens, question} = this.looks, shown = ["a", "b"].includes(mode) ? [mode] : this.sides();
    const words = rows.length > 1 ? ": " + rows.slice(0, 30).map(r => flat(tokens[r].text).trim()).join(" ") + (rows.length > 30 ? " \u2026" : "") : "";
    return [`Attention${sinks ? " without sinks" : ""}: ${shown.map(w => this.caption(w)).join("; ")}`, this.spoken() + words,
      "Question: " + flat(question).slice(0, 300)];
  }
  /** A dot on each cell that is beyond the scale. */
  drawBeyond(pen, cells, p, top, x, y, box) {
    const [nx, ny] = this.common.grids[p];
    pen.fillStyle = "#000";
    this.common.part(cells, p).forEach((v, i) => { if (Math.abs(v) > top) pen.fillRect(x + (i % nx + 0.5) * box.w / nx - 1, y + (Math.floor(i / nx) + 0.5) * box.h / ny - 1, 2, 2); });
  }
  drawLabel(pen, name, note, x, y, box) {
    const size = box.w < 150 ? 9 : 11;
    pen.font = `${size}px ${FONT}`;
    const text = shortened(pen, box.w < 200 ? name.replace("CAM_", "").replace("_", " ") : name,
      Math.max(30, box.w - 14 - pen.measureText(note).width)) + "  " + note;
    pen.fillStyle = "rgba(20,24,28,.82)"; pen.fillRect(x, y, pen.measureText(text).width + 8, size + 6);
    pen.fillStyle = "#fff"; pen.textBaseline = "top"; pen.fillText(text, x + 4, y + 3); pen.textBaseline = "alphabetic";
  }
  drawObjects(pen, picture, x, y, box) {
    const placed = [];  // names that would cover each other become numbers, those of the table
    for (const [k, o] of this.looks.objects.entries()) if (o.picture === picture) {
      const [l, t, r, b] = boxOf(o);
      const lines = () => { pen.strokeRect(x + l * box.w, y + t * box.h, (r - l) * box.w, (b - t) * box.h); };
      pen.strokeStyle = "rgba(0,0,0,.75)"; pen.lineWidth = 3; lines(); pen.strokeStyle = "#fff"; pen.lineWidth = 1.2; lines();
      const size = box.w < 200 ? 8 : 10, high = size + 2,
        at = name => { const w = pen.measureText(name).width + 4;
        return [Math.max(x, Math.min(x + l * box.w, x + box.w - w)), Math.min(y + b * box.h + 1, y + box.h - high), w]; };
      pen.font = `${size}px ${FONT}`;
      const free = ([tx, ty, w]) => w <= box.w * 0.7 && placed.every(([px, py, pw]) => tx >= px + pw || px >= tx + w || ty >= py + high || py >= ty + high);
      const name = free(at(o.label)) ? o.label : String(k + 1), [tx, ty, w] = at(name);
      placed.push([tx, ty, w]);
      pen.fillStyle = "rgba(0,0,0,.6)"; pen.fillRect(tx, ty, w, high); pen.fillStyle = "#fff"; pen.fillText(name, tx + 2, ty + size - 0.5);
    }
  }
  /** The vehicle from above: into each camera's field of view a wedge as long as its share. */
  drawVehicle(pen, {x, y, w, h}, cells, colour) {
    const cx = x + w / 2, cy = y + h / 2, r = Math.min(w, h) * 0.47, shares = this.looks.cameras.map((_, p) => this.common.on(cells, p)),
      most = Math.max(1e-9, ...shares.map(Math.abs));
    this.looks.cameras.forEach((camera, p) => {
      const [yaw, fov] = VIEWS[camera.name], mid = -Math.PI / 2 - yaw * Math.PI / 180, half = fov * Math.PI / 360;
      const wedge = radius => { pen.beginPath(); pen.moveTo(cx, cy); pen.arc(cx, cy, radius, mid - half, mid + half); pen.closePath(); };
      wedge(r); pen.strokeStyle = "rgba(128,136,148,.5)"; pen.lineWidth = 1; pen.stroke();
      wedge(r * Math.abs(shares[p]) / most); pen.fillStyle = colour || `rgb(${shares[p] > 0 ? MORE : LESS})`; pen.globalAlpha = 0.75; pen.fill();
        pen.globalAlpha = 1;
    });
    pen.fillStyle = "#30363d"; pen.fillRect(cx - r * 0.1, cy - r * 0.2, r * 0.2, r * 0.4);
  }
  drawPatches(pen, panel) {
    const outline = (model, token, colour, dash) => {
      const m = this.looks.model(model), [l, t, r, b] = tokenBox(m, token), box = panel.boxes[m.picture[token]];
      pen.setLineDash(dash); pen.lineWidth = 2; pen.strokeStyle = colour;
        pen.strokeRect(panel.x + box.x + l * box.w + 1, panel.y + box.y + t * box.h + 1, (r - l) * box.w - 2, (b - t) * box.h - 2); pen.setLineDash([]);
    };
    const side = panel.what === "b" ? "b" : "a", look = this.side(side), {model} = look;
    if (this.state.sinks) this.looks.sink(look).forEach((mark, v) => { if (mark) outline(model, v, "rgba(255,255,255,.8)", [3, 3]); });
    for (const [patch, colour] of [...this.chosen().map(p => [p, "#ff3b6b"]),
      [this.hover.patch, "#fff"]]) if (patch) { const token = this.tokenAt(side, patch); if (token != null) outline(model, token, colour, []); }
  }
  /** Labels say so where they are not parts of what the table below divides. */
  ofRow() { return this.state.norm === "row" && this.state.method !== "gradient" ? " of row" : ""; }
  drawBar(pen, ink) {
    const {mode, b} = this.state, {width, height} = this.shape, w = Math.min(170, width / 3),
      per = `per ${this.common.unit > 1 ? "1/" + this.common.unit + " of a " : ""}picture`;
    const end = (say, top, most) => say(top) + (Math.abs(most) > top ? `+ (dots: more, up to ${say(most)})` : ""), strip = (y, lut, low, high, text) => {
      pen.font = "11px " + FONT; pen.fillStyle = ink; pen.textBaseline = "middle"; pen.fillText(low, 0, y + 6);
      const from = pen.measureText(low).width + 5, blend = pen.createLinearGradient(from, 0, from + w, 0);
      for (let i = 0; i <= 16; i++) { const k = 3 * Math.round(255 * i / 16); blend.addColorStop(i / 16, `rgb(${lut.subarray(k, k + 3)})`); }
      pen.fillStyle = blend; pen.fillRect(from, y, w, 12);
      pen.fillStyle = ink; pen.fillText(shortened(pen, `${high} ${text}`, width - from - w - 5), from + w + 5, y + 6); pen.textBaseline = "alphabetic";
    };
    const unit = this.ofRow() ? "of the row" : "of what is on the pictures";
    if (["a", "b"].some(w => [w, "all"].includes(mode) && this.now[w])) strip(height - (mode === "all" ? 38 : 20), this.lut, "0",
      end(x => percent(x, 2), this.top, this.most), `${unit}, ${per}${b ? "; one scale for both" : ""}`);
    if (["all", "difference"].includes(mode) && this.now.difference) strip(height - 20, this.diverging, signed(-this.topDifference),
      end(signed, this.topDifference, this.mostDifference), `difference, points ${unit}, ${per}`);
  }

  // --- words, bars, tables

  showWords() {
    const patch = this.hover.patch || this.state.patch, rows = new Set(this.state.rows), s = this.state, side = this.lead,
      token = patch && this.tokenAt(side, patch);
    const look = this.side(side), one = i => { const v = this.looks.row(look, i); return v && sum(v); };
    const values = this.looks.tokens.map(token != null ? (_, i) => this.looks.at(look, i, token) : s.shade !== "pictures" && this.distances
      ? (_, i) => this.distances[i] && this.distances[i][s.shade] : (_, i) => one(i));
    const top = token == null && s.shade === "pictures" && s.method !== "gradient" ? 1 : Math.max(1e-9, ...values.filter(v => v != null));
    if (!rows.has(this.stopped)) this.stop(s.rows[0]);
    this.ui.words.classList.toggle("dk-many", rows.size > 1);
    this.chips.forEach((chip, i) => {
      const known = values[i] != null, v = known ? Math.min(1, values[i] / top) : 0;
      chip.style.backgroundColor = known ? `rgba(${token != null ? "255,140,30" : "70,130,200"},${(0.75 * v).toFixed(3)})` : "";
      chip.setAttribute("aria-selected", rows.has(i)); chip.classList.toggle("dk-hot", i === this.hover.row); chip.setAttribute("aria-disabled", !known);
    });
  }
  showBars() {
    if (this.known.length) this.showShares(this.known); else this.bars.replaceChildren();
    const mixes = this.sides().map(w => [w, this.looks.shares(this.side(w), this.rows())]).filter(([, m]) => m),
      names = ["pictures", "text", "first token (a sink of its own)"];
    const all = m => m.map((x, i) => `${m.length === 2 && i ? "rest" : names[i]} ${percent(x)}`),
      part = (x, i, m) => el("i", {class: "dk-mix" + i, style: `flex:${Math.max(0, x).toFixed(4)}`, title: all(m)[i]}, x > 0.13 ? all(m)[i] : "");
    const bar = ([w, m]) => el("div", {class: "dk-mix", role: "img", "aria-label": `${this.who(w)}: ${all(m).join(", ")}`},
      el("span", {class: "dk-mixname", title: this.who(w)}, this.who(w)), m.map(part));
    const legend = mixes.some(([, m]) => m.length === 2) ? "rest: text and first token, told apart for the mean of heads only"
      : names.map((name, i) => el("span", {class: "dk-mix" + i}, name));
    this.mix.replaceChildren(...mixes.length ? [el("h3", {}, "Where the row goes"), ...mixes.map(bar), el("div", {class: "dk-legend"}, legend)] : []);
  }
  /** Of the sides that have a map. */
  showShares(both) {
    const s = this.state, shares = both.map(w => this.looks.cameras.map((_, p) => this.common.on(this.now[w], p)));
    const totals = shares.map(sum), bar = (w, x) => el("td", {class: "dk-bar", "data-share": x},
      el("i", {class: "dk-" + w, style: `width:${(100 * x).toFixed(1)}%`}), el("span", {}, percent(x)));
    const names = Object.keys(LAYOUTS.panorama), {cameras} = this.looks,
      order = cameras.map((_, p) => p).sort((x, y) => names.indexOf(cameras[x].name) - names.indexOf(cameras[y].name));
    const rows = order.map(p => el("tr", {}, el("td", {}, cameras[p].name), ...both.map((w, i) => bar(w, totals[i] > 0 ? shares[i][p] / totals[i] : 0))));
    this.bars.replaceChildren(el("h3", {}, "Share of each camera in what is on the pictures"),
      el("table", {class: "dk-shares"}, el("thead", {}, el("tr", {}, el("th", {}, "sums to 1"),
      ...both.map(w => el("th", {title: this.who(w)}, this.who(w))))), el("tbody", {}, rows)),
      this.ofRow() ? el("p", {class: "dk-note"},
        `The labels on the cameras are parts of the whole row: ${both.map((w, i) => `${this.who(w)} has ${percent(totals[i])}`).join(", ")} of it on the pictures${s.sinks ? " without the sinks" : ""}.`) : "");
  }
  showScores() {
    const s = this.state, L = this.looks;
    if (!L.objects.length || !s.objects || !this.now.a && !this.now.b) { this.scores.replaceChildren(); return; }
    const both = this.known, parts = cells => { const t = sum(cells); return this.tables(t > 0 ? cells.map(x => x / t) : cells); };
    const inside = both.map(w => parts(this.now[w])), bare = both.map(w => parts(this.cells(w, this.rows(), !s.sinks)));
    const without = s.sinks ? "with" : "without", rows = L.objects.map((o, k) => {
      const found = inside.map(t => grounding(t, boxOf(o), o.picture)), other = bare.map(t => t[o.picture](boxOf(o)));
      const box = boxOf(o), look = () => this.point(this.centre({picture: o.picture, x: (box[0] + box[2]) / 2, y: (box[1] + box[3]) / 2}), true);
      const title = `${o.label} on ${L.cameras[o.picture].name}; ${percent(areaOf(box) / L.cameras.length, 2)} of the pictures' area`;
      return el("tr", {"data-object": k}, el("td", {}, button(`${k + 1} ${o.label}`, look, {class: "dk-link", "data-focus": "object " + k, title})),
        ...found.flatMap((f, i) => [el("td", {title: `${without} sinks ${percent(other[i])}; a box of this size holds ${percent(f.random)} on average`},
          percent(f.mass)), el("td", {}, "\u00d7" + f.lift.toFixed(1)), el("td", {}, percent(f.beats, 0))]));
    });
    const old = this.scores.querySelector(".dk-scroll"), from = old ? old.scrollTop : 0;
    const names = both.map(w => el("th", {colspan: 3, title: this.who(w)}, el("span", {class: "dk-name"}, this.who(w))));
    const columns = [["mass", "share of the attention on pictures that lies in the box"], ["lift", "mass divided by the box's share of the area"],
      ["beats", "part of 300 boxes of this size, anywhere, that hold less; as much counts half"]];
    const head = el("thead", {}, el("tr", {}, el("th", {}, ""), ...names),
      el("tr", {}, el("th", {}, "object"), ...both.flatMap(() => columns.map(([text, title]) => el("th", {title}, text)))));
    keepFocus(this.scores, () => this.scores.replaceChildren(el("h3", {}, `Grounding: is the gaze on the object? ${L.objects.length} objects`),
      el("div", {class: "dk-scroll", tabindex: 0, role: "region", "aria-label": "grounding of all objects"},
        el("table", {class: "dk-scores"}, head, el("tbody", {}, rows)))));
    this.scores.querySelector(".dk-scroll").scrollTop = from;
  }
  showList() {
    const s = this.state, d = this.distances;
    this.sorted = s.sort + s.ascending;
    this.ui.shade.node.hidden = !d;
    if (!d) { this.list.replaceChildren(); return; }
    const known = this.looks.tokens.map((token, row) => ({token, row, place: row, ...d[row]})).filter(r => d[r.row]), order = s.ascending ? 1 : -1;
    known.sort((x, y) => order * (s.sort === "token" ? x.token.text.localeCompare(y.token.text) : x[s.sort] - y[s.sort]) || x.row - y.row);
    const head = [["place", "token"], ["kl", "KL"], ["js", "JS"], ["mse", "MSE"], ["a", "seen by " + this.who("a")],
      ["b", "by " + this.who("b")]].map(([key, text]) => {
      const own = s.sort === key, sort = () => this.change({sort: key, ascending: own ? !s.ascending : key === "place"}, true),
        title = ["a", "b"].includes(key) ? "part of the row on the pictures: " + text : "";
      return el("th", {"aria-sort": own ? (s.ascending ? "ascending" : "descending") : "none"},
        button(text + (own ? (s.ascending ? " \u25b4" : " \u25be") : ""), sort, {class: "dk-link", "data-sort": key, "data-focus": "sort " + key, title}));
    });
    const mean = key => known.reduce((t, r) => t + r[key], 0) / Math.max(1, known.length),
      cells = r => [r.kl.toFixed(2), r.js.toFixed(2), r.mse.toExponential(1), percent(r.a), percent(r.b)],
      line = (cells, row) => el("tr", row != null ? {"data-row": row} : {}, cells.map(c => el("td", {}, c)));
    const stop = known.find(r => r.row === this.listed) || known[0];  // the table is one stop of the Tab key; arrows go through its rows
    const word = r => button(el("bdi", {}, r.token.role === "prompt" ? "\u25b8" : r.token.text.trim() || "\u21b5"), () => this.select([r.row]),
      {class: "dk-link", "data-focus": "row " + r.row, title: r.token.role, tabIndex: r === stop ? 0 : -1});
    keepFocus(this.list, () => this.list.replaceChildren(el("table", {class: "dk-distances"},
      el("caption", {class: "dk-hidden"}, "distance of the second model's map from the first's, by token"), el("thead", {}, el("tr", {}, head)),
      el("tbody", {}, line(["mean", ...cells(Object.fromEntries(["kl", "js", "mse", "a", "b"].map(k => [k, mean(k)])))]),
        known.map(r => line([word(r), ...cells(r)], r.row))))));
  }
  showReadout() {
    const s = this.state, L = this.looks, patch = this.hover.patch || s.patch, parts = [this.spoken()];
    for (const w of this.known) {
      const cells = this.now[w], shares = L.cameras.map((c, p) => [c.name, this.common.on(cells, p)]).sort((x, y) => y[1] - x[1]), total = sum(cells);
      parts.push(`${this.caption(w)}: most on ${shares[0][0]}, ${percent(total > 0 ? shares[0][1] / total : 0)} of what is on the pictures`);
      const gap = this.common.unseen(s[w]); if (gap > 0.001) parts.push(`${percent(gap)} of the pictures have no token of it`);
    }
    const gone = new Map();  // what both sides lack is said once
    for (const w of this.sides()) if (!this.now[w]) { const why = this.missing(w); gone.set(why, [...gone.get(why) || [], this.who(w)]); }
    for (const [why, names] of gone) parts.push(`${names.join(" and ")}: ${why}`);
    const sunk = this.showSinks();
    if (patch) {
      const cell = this.numbers(patch);
      if (this.chosen().length > 1) parts.push(`${this.chosen().length} patches are kept`);
      parts.push(`Patch of ${L.cameras[patch.picture].name} at ${percent(patch.x, 0)} across, ${percent(patch.y, 0)} down: ${cell.join(", ")}`);
    }
    const text = parts.join(". ") + ".";
    this.readout.textContent = text;
    this.canvas.setAttribute("aria-label", text);
    this.showAblation();
    if (this.hover.row == null && !this.hover.patch) this.box.say([text, ...sunk].join(" "));
  }
  /** What counts as a sink, what hiding takes away, and of which objects. */
  showSinks() {
    const s = this.state, rows = this.rows(), whole = s.method === "gradient" ? "what is on the pictures" : rows.length > 1 ? "these rows" : "this row";
    const told = w => {
      const found = this.sunk(w, rows), look = this.side(w),
        over = found ? this.looks.covered(look).map(o => `${o.label} (${this.looks.cameras[o.picture].name})`) : [];
      if (!found || !found.count) return found ? "no sinks" : "not recorded";
      return `${found.count} sink${found.count > 1 ? "s" : ""} hidden: ${percent(found.mass, 0)} of ${whole}` + (over.length
        ? `. \u26a0 Hidden patches lie in the box of ${over.join(", ")}` : "");
    };
    const sunk = s.sinks ? this.sides().map(w => `${this.who(w)}: ${told(w)}`) : [];
    this.sinksText.replaceChildren(...s.sinks ? [el("div", {}, el("i"), SINK), ...sunk.map(text => el("div", {}, text))] : []);
    return sunk;
  }
  numbers(patch) {
    const out = {}, {picture, x, y, w: wide, h} = patch;  // both models over one rectangle: their tokens differ in area
    for (const w of this.known) out[w] = this.tables(this.now[w])[picture]([x - wide / 2, y - h / 2, x + wide / 2, y + h / 2]);
    const text = Object.entries(out).map(([w, x]) => `${this.who(w)} ${percent(x, 2)}`);
    return out.a != null && out.b != null ? [...text, `difference ${signed(out.b - out.a)} points`] : text;
  }
  /** The kept patches, each token once. */
  chosen() {
    const {patch, kept} = this.state, side = this.lead, seen = new Set();
    return [...kept, patch].filter(p => { const token = p && this.tokenAt(side, p); return token != null && !seen.has(token) && seen.add(token); });
  }
  showAblation() {
    const side = this.lead, model = this.state[side], m = this.looks.model(model),
      tokens = this.channel.ask ? this.chosen().map(p => this.tokenAt(side, p)) : [];
    const key = tokens.length ? [model, ...tokens].join() : null; if (this.ablationKey === key) return; this.ablationKey = key;
    if (key == null) { this.ablation.replaceChildren(); return; }
    const there = this.channel.options.models || this.looks.models.map(m => m.name);
    if (!there.includes(model)) { this.ablation.replaceChildren(el("h3", {}, "Does it matter?"),
      el("p", {class: "dk-result"}, `The kernel has no ${this.title(m)} to ask again; it has ${there.join(", ") || "none"}. Hand it to \u201cablation\u201d, or look at one of these.`)); return; }
    const result = el("p", {class: "dk-result", "aria-live": "polite"});
    const ask = async () => {
      result.textContent = "asking\u2026";
      tell(await this.channel.ask({kind: "ablate", model, boxes: tokens.map(t => [m.picture[t], ...tokenBox(m, t)])}));
    };
    const tell = reply => {
      if (reply.late) reply.late.then(tell).catch(this.box.fail);
      if (reply.error) { result.textContent = reply.error; return; }
      const {before, after} = reply, said = before.reply === after.reply ? "Same answer" : `\u201c${before.reply}\u201d becomes \u201c${after.reply}\u201d`;
      result.textContent = `${said}; the answer read along costs ${before.loss.toFixed(3)} \u2192 ${after.loss.toFixed(3)} nats per token.`;
    };
    this.ablation.replaceChildren(el("h3", {}, "Does it matter?"),
      button(`Grey ${tokens.length > 1 ? `these ${tokens.length} patches` : "this patch"} and ask ${this.title(m)} again`,
      () => ask().catch(this.box.fail), {class: "dk-ablate"}), result);
  }

  // --- pointing

  tokenAt(side, {picture, x, y}) {
    const m = this.state[side] && this.looks.model(this.state[side]);
    let best = null, least = 9;
    if (m) for (let v = 0; v < m.count; v++) if (m.picture[v] === picture && (this.state.part === "overview") === Boolean(m.overview[v])) {
      const [l, t, r, b] = tokenBox(m, v), area = (r - l) * (b - t);
      if (x >= l && x <= r && y >= t && y <= b && area < least) { best = v; least = area; }
    }
    return best;
  }
  patchAt(event) {
    const rect = this.canvas.getBoundingClientRect(), px = (event.clientX - rect.left) * this.shape.width / rect.width,
      py = (event.clientY - rect.top) * this.shape.height / rect.height;
    for (const panel of this.panels) for (const [picture, box] of panel.boxes.entries()) {
      const x = (px - panel.x - box.x) / box.w, y = (py - panel.y - box.y) / box.h;
      if (x >= 0 && x < 1 && y >= 0 && y < 1) return this.centre({picture, x, y});
    }
    return null;
  }
  centre(patch) {
    const side = this.lead, token = this.tokenAt(side, patch);
    if (token == null) return null;
    const m = this.looks.model(this.state[side]), [l, t, r, b] = tokenBox(m, token);
    return {picture: patch.picture, x: (l + r) / 2, y: (t + b) / 2, w: r - l, h: b - t};
  }
  /** One patch on; over the edge of a picture lies its neighbour in the layout. */
  step(dx, dy) {
    const from = this.state.patch || this.centre({picture: 0, x: 0.5, y: 0.5});
    if (!from) return;
    let {picture} = from, x = from.x + dx * (from.w || 0.1), y = from.y + dy * (from.h || 0.1);
    if (x < 0 || x > 1 || y < 0 || y > 1) {
      const boxes = this.panels[0].boxes, here = boxes[picture], next = boxes.findIndex(b => b.column - here.column === dx && b.row - here.row === dy);
      if (next < 0) return;
      picture = next; x = dx ? (dx > 0 ? 0.001 : 0.999) : x; y = dy ? (dy > 0 ? 0.001 : 0.999) : y;
    }
    this.point(this.centre({picture, x, y}) || from, true);
  }
  listen() {
    on(this.canvas, "pointermove", e => { const p = this.patchAt(e), q = this.hover.patch; if (JSON.stringify(p) !== JSON.stringify(q)) this.point(p); });
    on(this.canvas, "pointerleave", () => this.point(null));
    on(this.canvas, "click", e => {
      const p = this.patchAt(e), same = q => JSON.stringify(p) === JSON.stringify(q), all = this.chosen(), others = all.filter(q => !same(q)),
        had = others.length < all.length;
      if (e.shiftKey && p) { this.state.kept = others.slice(0, had ? -1 : undefined); this.point(had ? others.at(-1) || null : p, true); }
      else { this.state.kept = []; this.point(had && all.length === 1 ? null : p, true); }
    });
    on(this.canvas, "keydown", e => {
      const move = {ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1]}[e.key];
      if (move && !chord(e)) { this.step(...move); taken(e); }
      if (e.key === "Enter") {  // the next arrow leaves this one where it is
        const p = this.hover.patch || this.state.patch || this.centre({picture: 0, x: 0.5, y: 0.5});
        if (p) { this.state.kept = [...this.chosen(), p]; this.point(p, true); }
        taken(e);
      }
    });
    for (const node of [this.ui.words, this.list]) {
      on(node, "pointerover", e => { const hit = e.target.closest("[data-row]"); this.peek(hit ? Number(hit.dataset.row) : null); });
      on(node, "pointerleave", () => this.peek(null));
    }
    on(this.ui.words, "click", e => { const chip = e.target.closest(".dk-token"); if (chip) this.pick(Number(chip.dataset.row), e); });
    on(this.ui.words, "keydown", e => this.wordKey(e));
    const listed = () => [...this.list.querySelectorAll("[data-focus^=row]")];
    on(this.list, "focusin", e => {
      if (!listed().includes(e.target)) return;
      this.listed = Number(e.target.closest("tr").dataset.row);
      for (const word of listed()) word.tabIndex = word === e.target ? 0 : -1;
    });
    on(this.list, "keydown", e => {
      const all = listed(), at = all.indexOf(e.target), to = all[{ArrowUp: at - 1, ArrowDown: at + 1, Home: 0, End: all.length - 1}[e.key]];
      if (at >= 0 && to && !chord(e)) { to.focus(); taken(e); }
    });
    on(this.box.root, "keydown", e => this.key(e));
  }
  peek(row) {
    if (row === this.hover.row) return;
    this.aside.style.minHeight = row == null ? "" : this.aside.offsetHeight + "px";  // a row with less to say moves nothing
    this.hover.row = row; this.show();
  }
  pick(row, e) {
    const rows = this.state.rows;
    if (e.shiftKey) { const from = rows[0]; this.select(Array.from({length: Math.abs(row - from) + 1}, (_, i) => Math.min(row, from) + i)); }
    else if (e.ctrlKey || e.metaKey) this.select(rows.includes(row) && rows.length > 1 ? rows.filter(r => r !== row) : [...rows, row]);
    else this.select([row]);
    this.rove(row);
  }
  rove(row) { this.stop(row); this.chips[row].focus({preventScroll: true}); }
  /** The token that the Tab key reaches; it chooses nothing. */
  stop(row) { this.stopped = row; this.chips.forEach((chip, i) => { chip.tabIndex = i === row ? 0 : -1; }); }
  wordKey(e) {
    const chip = e.target.closest(".dk-token");
    if (!chip || chord(e)) return;
    const all = this.chips.map((_, i) => i), at = all.indexOf(Number(chip.dataset.row)),
      to = {ArrowLeft: at - 1, ArrowRight: at + 1, Home: 0, End: all.length - 1, Enter: at, " ": at}[e.key];
    if (e.key === "ArrowUp" || e.key === "ArrowDown") this.layer(e.key === "ArrowUp" ? 1 : -1);
    else if (to === undefined) return;
    else if (all[to] !== undefined) { const row = all[to]; if (e.shiftKey) this.select([...new Set([...this.state.rows, row])]);
      else this.select([row]); this.rove(row); }
    taken(e);
  }
  key(e) {
    if (chord(e) || /^(INPUT|SELECT|TEXTAREA)$/.test(e.target.tagName)) return;
    const s = this.state, modes = s.b ? ["a", "b", "difference", "all"] : ["a"], cycle = (values, now) => values[(values.indexOf(now) + 1) % values.length];
    const run = {"[": () => this.layer(-1), "]": () => this.layer(1), h: () => this.change({head: cycle([null, ...this.heads()], s.head)}),
      a: () => this.select(this.looks.tokens.map((_, i) => i)), s: () => this.change({sinks: !s.sinks}, true),
      o: () => this.change({objects: !s.objects}, true),
        l: () => { s.layout = cycle(Object.keys(LAYOUTS), s.layout); this.fit(); this.renew(); this.tell(); },
        c: () => this.change({colours: cycle(Object.keys(MAPS), s.colours)}, true),
      p: () => this.keep(), "?": () => this.help(),
        Escape: () => { this.hover = {row: null, patch: null}; this.state.kept = []; this.point(null, true); }}[e.key]
        || (modes[Number(e.key) - 1] && (() => this.change({mode: modes[Number(e.key) - 1]}, true)));
    if (run) { run(); taken(e); }
  }
  help() { tellKeys(this.box, KEYS); }
  about() {
    const L = this.looks, line = (a, b) => el("tr", {}, el("td", {}, a), el("td", {}, b)), list = numbers => numbers.map(n => n + 1).join(", "),
      {record, capability, recipe, drivekd, ...rest} = L.source;
    const cut = m => (m.carried || []).length ? `; cuts ${m.carried.length} of ${L.tokens.length} tokens otherwise: these rows are means over its own tokens of the same characters` : "";
    const maps = (m, method) => {
      const own = L.maps.filter(x => x.model === m.name && x.method === method), heads = own.filter(x => x.head != null), mean = own.find(x => x.head == null);
      const where = x => `${method === "rollout" ? "all layers" : "layers " + list(x.layers)}, ${x.rows.length} of ${L.tokens.length} tokens`;
      return [mean && where(mean), heads.length && `heads ${list(heads.map(x => x.head))}: ${where(heads[0])}`].filter(Boolean).join("; ");
    };
    const facts = {record, "asks for": capability, "compared as in the recipe": recipe, "recorded by drivekd": drivekd, ...rest};
    this.box.open("About this bundle", el("table", {class: "dk-keys"},
      el("tbody", {}, Object.entries(facts).map(([k, v]) => v && line(k, v)), L.models.map(m => [
      line(el("b", {}, this.title(m)), [m.layers && m.layers + " layers", m.heads > 1 && m.heads + " heads", `${m.count} vision tokens${m.revision && "; " + m.revision}${cut(m)}`].filter(Boolean).join(", ")),
      ["attention", "rollout", "gradient"].map(method => { const said = maps(m, method); return said && line(method, said); })]).flat(2))));
  }
  keep() {
    const {width, height} = this.shape, view = el("canvas", {width: 2 * width, height: 2 * height}),
      {canvas, pen, top} = sheet(this.box.root, 2 * width + 40, 2 * height + 20, this.heading(), 24);
    this.draw(view.getContext("2d"), 2); pen.drawImage(view, 20, top);
    offerPicture(this.box, canvas, "attention.png", this.heading().join(". "));
  }
}

const LOOK = `
.dk-look{
.dk-push{margin-left:auto;display:flex;gap:6px}.dk-layers,.dk-cut,.dk-sunk,.dk-readout{color:var(--soft);font-size:12px}.dk-layers{flex:1 1 180px}.dk-controls{margin:8px 0}
.dk-text{border:1px solid var(--line);border-radius:6px;padding:6px 10px;margin-bottom:10px}
[hidden]{display:none}.dk-line{display:flex;gap:10px}.dk-line>b{flex:0 0 152px;white-space:nowrap;overflow:hidden;text-overflow:ellipsis;color:var(--soft);font-weight:500}
.dk-words{white-space:pre-wrap;overflow-wrap:anywhere;line-height:1.7;max-height:min(13em,15vh);overflow-y:auto;flex:1}
.dk-token{cursor:pointer;border-radius:3px;padding:1px 0;unicode-bidi:isolate}
.dk-token[aria-selected=true]{box-shadow:0 0 0 2px var(--ink)}.dk-many .dk-token[aria-selected=true]{box-shadow:0 2px 0 var(--ink)}
.dk-token.dk-hot{box-shadow:0 0 0 2px var(--hot)}.dk-token[aria-disabled=true]{opacity:.5}
.dk-carried{text-decoration:underline dotted 1px;text-underline-offset:3px}
.dk-small{font-size:12px;margin-top:6px}
.dk-sunk i{display:inline-block;width:14px;height:10px;border:1.5px dashed;margin-right:6px}.dk-list,aside{contain:layout style}
.dk-replies{color:var(--soft)}.dk-replies summary{list-style:none}.dk-replies .dk-long summary{cursor:pointer}
.dk-long summary::after{content:"more";color:var(--hot)}.dk-long[open] summary::after{content:"less"}
.dk-replies [open] bdi{white-space:normal;overflow-wrap:anywhere}
.dk-replies bdi{min-width:0;overflow:hidden;white-space:nowrap;text-overflow:ellipsis}
.dk-main>*{min-width:0}.dk-main{display:grid;grid-template-columns:minmax(0,1fr);gap:14px}.dk-stage{width:100%;min-width:0;overflow:hidden}
.dk-stage canvas{display:block;touch-action:pan-y}
.dk-readout{height:4.5em;overflow:auto;margin-top:4px}
aside{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(100%,330px),1fr));gap:12px 22px;align-items:start;align-content:start}
aside>div{min-width:0}aside>div:empty{display:none}
@container (min-width:1060px){.dk-main{grid-template-columns:minmax(0,1fr) 340px}aside{grid-template-columns:minmax(0,1fr)}}
.dk-shares{table-layout:fixed}.dk-shares th:first-child{width:138px}.dk-shares th,.dk-shares td:first-child{overflow:hidden;text-overflow:ellipsis}
.dk-scroll{max-height:300px;overflow:auto}
.dk-scroll thead tr:first-child th{position:sticky;top:0;background:var(--bg)}
.dk-name{display:inline-block;max-width:110px;overflow:hidden;text-overflow:ellipsis;vertical-align:bottom}
.dk-bar{position:relative;min-width:86px}.dk-bar i{position:absolute;left:0;top:3px;bottom:3px;border-radius:2px;opacity:.55}.dk-bar span{position:relative}
.dk-a{background:#3b82c4}.dk-b{background:#e08a2e}
.dk-mix{display:flex;height:20px;margin:2px 0;font-size:11px;border-radius:4px;overflow:hidden}
.dk-mix i{font-style:normal;overflow:hidden;white-space:nowrap;padding:1px 4px;color:#10151a}
.dk-mixname{flex:0 0 104px;overflow:hidden;white-space:nowrap;text-overflow:ellipsis}
.dk-mix0{background:#8cbbe6}.dk-mix1{background:#cfd5db}.dk-mix2{background:#f0bf86}.dk-legend{color:var(--soft);font-size:11px}
.dk-legend span{color:#10151a;border-radius:3px;padding:0 4px;margin-right:6px}
.dk-link{border:0;background:none;padding:0;min-height:0;text-align:left;max-width:120px;overflow:hidden;text-overflow:ellipsis;white-space:nowrap}
.dk-list{max-height:250px;overflow:auto;border-top:1px solid var(--line);margin-top:8px}.dk-scores{font-size:12px}
.dk-scores td,.dk-scores th{padding:1px 3px}.dk-scores td:first-child{max-width:0;width:99%}.dk-scores .dk-link{max-width:100%}.dk-distances th .dk-link{max-width:min(190px,18cqw)}
.dk-list thead th{position:sticky;top:0;background:var(--bg)}.dk-list tr[data-row]:hover{background:var(--fill)}
@container (max-width:1100px){.dk-row{gap:4px 8px}.dk-controls{margin:4px 0}select{max-width:150px}button,select{min-height:24px;padding:1px 6px}.dk-text{padding:4px 8px;margin-bottom:6px}.dk-line>b{flex-basis:96px}.dk-words{line-height:1.5;max-height:4.5em}}
@container (min-width:720px) and (max-width:1059px){aside>div:last-child{grid-column:2;grid-row:1/span 2}}
}
`;

async function explore(host, channel) {
  const bytes = await channel.bytes;
  return new AttentionView(host, channel, bytes).start();
}
