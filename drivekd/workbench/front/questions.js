// The question browser: what is filtered, then what is shown, then what is pressed. Pictures are decoded when a question is opened, not before; colours from drawings.js.

const MARKS = {right: ["\u2713", "right"], wrong: ["\u2715", "wrong"], unread: ["?", "unread: no choice could be read from it"], open: ["\u25cb", "open question"]};
const PLACES = ["CAM_FRONT_LEFT", "CAM_FRONT", "CAM_FRONT_RIGHT", "CAM_BACK_LEFT", "CAM_BACK", "CAM_BACK_RIGHT"];  // as one looks around
const ROW = 46, KEPT = 60;  // pixels of a line of the list; decoded pictures that are kept
const KEYS = [["\u2191 \u2193 j k", "previous, next question"], ["PgUp PgDn", "ten at a time"], ["Home End", "first, last"], ["/", "search"], ["1 2 3 4", "capability"], ["c", "next camera"], ["o", "next object"], ["w", "answers: all, wrong, unread, split"], ["Enter", "first picture, large"], ["p", "picture of this view"], ["Esc", "close, or clear the search"], ["?", "this list"]];

/** The words in the head of a file and the pictures behind them. */
function unpack(bytes) {
  const size = Number(new DataView(bytes.buffer, bytes.byteOffset, 8).getBigUint64(0, true)), words = JSON.parse(new TextDecoder().decode(bytes.subarray(8, 8 + size)));
  return {...words, jpeg: ([from, to]) => bytes.subarray(8 + size + from, 8 + size + to)};
}

// --- which questions -----------------------------------------------------------------------------------------------------------------

class Shelf {
  constructor(found) {
    this.entries = found.entries; this.speakers = found.speakers;
    for (const e of this.entries) {
      e.text = [e.id, e.frame, e.question, e.answer, ...e.said.map(s => s.reply)].join("\n").toLowerCase();
      const told = e.said.filter(s => s.mark === "right" || s.mark === "wrong" || s.mark === "unread");
      e.split = told.some(s => s.mark === "right") && told.some(s => s.mark !== "right");
    }
  }
  /** Values of a field with how often they occur among some entries. */
  counts(of, entries = this.entries) {
    const found = new Map();
    for (const e of entries) for (const value of of(e)) found.set(value, (found.get(value) || 0) + 1);
    return found;
  }
  filter({text, capability, camera, object, mark, speaker}) {
    const words = text.toLowerCase().split(/\s+/).filter(Boolean);
    const said = e => speaker ? e.said.filter(s => s.by === speaker) : e.said;
    return this.entries.filter(e => (!capability || e.capability === capability) && (!camera || e.cameras.includes(camera)) && (!object || e.objects.includes(object))
      && words.every(w => e.text.includes(w)) && (!mark || (mark === "split" ? e.split : said(e).some(s => s.mark === mark))));
  }
  /** How each speaker did among some entries. */
  scores(entries) {
    return this.speakers.map(by => {
      const said = entries.flatMap(e => e.said.filter(s => s.by === by)), n = mark => said.filter(s => s.mark === mark).length, judged = said.filter(s => s.score != null);
      return {by, right: n("right"), wrong: n("wrong"), unread: n("unread"), open: n("open"), asked: said.length, judge: judged.length ? sum(judged.map(s => s.score)) / judged.length : null};
    });
  }
}

// --- pictures, when they are wanted ------------------------------------------------------------------------------------------------------

class Album {
  constructor(found, channel) { this.pictures = found.pictures; this.jpeg = found.jpeg; this.channel = channel; this.kept = new Map(); }
  /** The address of a picture, or a sentence why there is none. */
  async get(index) {
    if (!this.kept.has(index)) this.kept.set(index, this.load(index));
    const made = this.kept.get(index);
    this.kept.delete(index); this.kept.set(index, made);
    if (this.kept.size > KEPT) this.forget(this.kept.keys().next().value);
    return made;
  }
  async load(index) {
    const {at, why} = this.pictures[index];
    if (at) return {url: URL.createObjectURL(new Blob([this.jpeg(at)], {type: "image/jpeg"}))};
    if (why || !this.channel.ask) return {why: why || "left out of this page"};
    const found = reply => reply.error ? {why: reply.error} : {url: "data:image/jpeg;base64," + reply.jpeg}, reply = await this.channel.ask({kind: "picture", index});
    if (reply.late) reply.late.then(() => this.kept.delete(index));  // whoever asks again gets the picture
    return {...found(reply), late: reply.late && reply.late.then(found)};
  }
  async forget(index) { const {url} = await this.kept.get(index); this.kept.delete(index); if (url && url.startsWith("blob:")) URL.revokeObjectURL(url); }
}

/** Where a piece stands in a text. */
function placesOf(text, piece) {
  const found = [];
  for (let i = text.indexOf(piece); i >= 0; i = text.indexOf(piece, i + piece.length)) found.push(i);
  return found;
}

// --- the view ----------------------------------------------------------------------------------------------------------------------------------

class QuestionView {
  constructor(host, channel, found) {
    this.channel = channel; this.found = found; this.shelf = new Shelf(found); this.album = new Album(found, channel); this.box = frame(host, "Question browser");
    this.state = {text: "", capability: "", camera: "", object: "", mark: "", speaker: "", id: found.entries.length ? found.entries[0].id : null};
    this.box.root.classList.add("dk-quiz");
    this.accept(channel.get());
    this.build();
    channel.on(() => { this.accept(channel.get()); this.renew(); });
  }
  start() {
    new ResizeObserver(() => this.drawList()).observe(this.list);
    this.renew();
    Object.assign(this.box.root, {view: this}).dataset.ready = "true";  // for the console, and for tests
    return this;
  }
  accept(given) {
    for (const key of ["text", "capability", "camera", "object", "mark", "speaker"]) if (typeof given[key] === "string") this.state[key] = given[key];
    if (this.found.entries.some(e => e.id === given.id)) this.state.id = given.id;
  }
  tell() { this.channel.set({...this.state}); }
  change(patch) { Object.assign(this.state, patch); this.renew(); this.tell(); }
  open(id, scroll = true) { this.state.id = id; this.drawList(scroll); this.showQuestion(); this.tell(); }

  // --- elements

  build() {
    const s = this.state, speakers = this.found.speakers, all = [["", "all"]];
    this.search = el("input", {type: "search", placeholder: "words in question, answer, replies, id", "aria-label": "search", value: s.text, oninput: () => this.change({text: this.search.value})});
    this.capabilities = segments("Capability", [["", "All"], ...this.kinds().map(c => [c, c])], capability => this.change({capability}));
    this.camera = chooser("camera", all, s.camera, camera => this.change({camera})); this.object = chooser("object", all, s.object, object => this.change({object}));
    this.mark = chooser("answers", [["", "all"], ["wrong", "wrong"], ["right", "right"], ["unread", "unread"], ["split", "models disagree"]], s.mark, mark => this.change({mark}));
    this.speaker = chooser("of", [["", "any model"], ...speakers.map(n => [n, n])], s.speaker, speaker => this.change({speaker}));
    this.count = el("span", {class: "dk-count", role: "status"}); this.scores = el("div", {class: "dk-scores"});
    this.list = el("div", {class: "dk-questions", role: "listbox", tabindex: 0, "aria-label": "questions", onscroll: () => this.drawList()}); this.detail = el("div", {class: "dk-detail"});
    this.box.body.append(el("style", {}, LOOK), el("div", {class: "dk-row"}, el("h3", {class: "dk-title"}, "Questions"), this.count, el("span", {class: "dk-push"}), this.search, button("Picture", () => this.keep().catch(this.box.fail), {title: "picture of this view (p)"}), button("Keys", () => tellKeys(this.box, KEYS))),
      el("div", {class: "dk-row dk-tools"}, this.capabilities.node, this.camera.node, this.object.node, speakers.length ? this.mark.node : null, speakers.length > 1 ? this.speaker.node : null, button("Clear", () => this.clear())),
      this.scores, el("div", {class: "dk-two"}, this.list, this.detail), this.found.notes.length ? el("p", {class: "dk-note"}, this.found.notes.join(" ")) : el("span"));
    on(this.list, "click", e => { const line = e.target.closest("[data-at]"); if (line) this.open(this.hits[Number(line.dataset.at)].id, false); });
    on(this.box.root, "keydown", e => this.key(e));
    if (!this.channel.kernel) on(document, "keydown", e => { if (e.target === document.body) this.key(e); });  // a page is all ours
  }
  kinds() { return [...this.shelf.counts(e => e.capability ? [e.capability] : []).keys()].sort((a, b) => ["perception", "reasoning", "planning"].indexOf(a) - ["perception", "reasoning", "planning"].indexOf(b)); }
  renew() {
    const s = this.state, listed = counts => [["", "all"], ...[...counts].sort((a, b) => b[1] - a[1]).map(([v, n]) => [v, `${v} (${n})`])];
    this.hits = this.shelf.filter(s);
    if (!this.hits.some(e => e.id === s.id)) s.id = this.hits.length ? this.hits[0].id : null;
    const free = this.shelf.filter({...s, capability: ""}), by = this.shelf.counts(e => [e.capability], free);
    this.capabilities.show(s.capability);
    this.capabilities.node.querySelectorAll("button").forEach(b => { b.textContent = `${b.dataset.value || "All"} ${b.dataset.value ? by.get(b.dataset.value) || 0 : free.length}`; });
    this.camera.fill(listed(this.shelf.counts(e => e.cameras)), s.camera); this.object.fill(listed(this.shelf.counts(e => e.objects)), s.object);
    this.mark.select.value = s.mark; this.speaker.select.value = s.speaker; if (this.search.value !== s.text) this.search.value = s.text;
    this.count.textContent = `${this.hits.length} of ${this.found.entries.length}`;
    this.showScores(); this.drawList(true); this.showQuestion();
  }
  showScores() {
    const rows = this.shelf.scores(this.hits);
    this.scores.replaceChildren(...rows.map(r => {
      const closed = r.right + r.wrong + r.unread, parts = [["right", r.right], ["wrong", r.wrong], ["unread", r.unread]];
      const words = closed ? `${r.right} of ${closed} right${r.unread ? `, ${r.unread} unread` : ""}` : r.asked ? `${r.asked} open` : "not asked";
      return el("div", {class: "dk-score"}, el("bdi", {class: "dk-by", title: r.by}, r.by), el("span", {}, words + (r.judge == null ? "" : `; judge: ${r.judge.toFixed(0)} of 100 points`)), el("span", {class: "dk-stack", role: "img", "aria-label": words}, parts.map(([k, n]) => el("i", {class: "dk-is-" + k, style: `flex:${n}`}))));
    }));
  }
  /** Only the lines in sight exist. */
  drawList(scroll = false) {
    const at = this.hits.findIndex(e => e.id === this.state.id), high = this.list.clientHeight || 400;
    if (scroll && at >= 0) { const top = at * ROW; if (top < this.list.scrollTop) this.list.scrollTop = top; else if (top + ROW > this.list.scrollTop + high) this.list.scrollTop = top + ROW - high; }
    const from = Math.max(0, Math.floor(this.list.scrollTop / ROW) - 4), to = Math.min(this.hits.length, from + Math.ceil(high / ROW) + 8);
    this.list.replaceChildren(el("div", {class: "dk-tall", style: `height:${this.hits.length * ROW}px`}, this.hits.slice(from, to).map((e, i) => this.line(e, from + i, from + i === at))));
    if (!this.hits.length) this.list.replaceChildren(el("p", {class: "dk-note"}, "No question is like that."));
    this.list.setAttribute("aria-activedescendant", at >= 0 ? "dk-q" + at : "");
  }
  line(e, at, chosen) {
    return el("div", {class: "dk-line2", role: "option", "aria-selected": String(chosen), "aria-setsize": String(this.hits.length), "aria-posinset": String(at + 1), "data-at": at, id: "dk-q" + at, style: `top:${at * ROW}px`},
      el("span", {class: "dk-q"}, e.question), el("span", {class: "dk-sub"}, el("span", {class: "dk-cap dk-" + e.capability}, e.capability || "other"), ` ${e.objects.slice(0, 2).join(", ")} `, el("span", {class: "dk-marks"}, e.said.map(s => el("i", {class: "dk-is-" + s.mark, title: `${s.by}: ${MARKS[s.mark][1]}`}, MARKS[s.mark][0])))));
  }

  // --- one question

  entry() { return this.found.entries.find(e => e.id === this.state.id); }
  showQuestion() {
    const e = this.entry();
    if (!e) { this.detail.replaceChildren(el("p", {class: "dk-note"}, "Choose a question.")); return; }
    const facts = [e.capability || "no capability", e.kind, e.frame ? "frame " + e.frame : "", `record ${e.index + 1}`, e.id].filter(Boolean);
    this.figures = this.pictures(e);
    const content = [el("p", {class: "dk-facts"}, el("bdi", {}, facts.join(" \u00b7 "))), el("p", {class: "dk-ask"}, this.tagged(e.question, e)), el("div", {class: "dk-album" + (this.figures.length === 1 ? " dk-one" : "")}, this.figures),
      el("div", {class: "dk-answers"}, this.card("reference", e.answer, "", e), e.said.map(s => this.card(s.by, s.reply, s, e)))];
    keepFocus(this.detail, () => this.detail.replaceChildren(...content), this.list);
    this.detail.classList.toggle("dk-single", this.figures.length === 1);
    this.prefetch();
  }
  /** A text whose tags are linked to their points. */
  tagged(text, e) {
    const parts = [];
    let at = 0;
    for (const {tag, i} of e.tags.flatMap(t => placesOf(text, t.text).map(i => ({tag: t.text, i}))).sort((a, b) => a.i - b.i)) {
      if (i < at) continue;
      const lit = yes => () => this.light(tag, yes);
      parts.push(text.slice(at, i), el("mark", {class: "dk-tag", tabindex: 0, "data-tag": tag, onpointerenter: lit(true), onpointerleave: lit(false), onfocus: lit(true), onblur: lit(false)}, tag));
      at = i + tag.length;
    }
    return [...parts, text.slice(at)];
  }
  light(tag, on) { this.detail.querySelectorAll(".dk-point").forEach(p => p.classList.toggle("dk-lit", on && p.dataset.tag === tag)); }
  pictures(e) {
    const rank = p => { const i = PLACES.indexOf(this.found.pictures[p].camera); return i < 0 ? 99 : i; };
    return [...e.pictures].sort((a, b) => rank(a) - rank(b)).map(index => {
      const camera = this.found.pictures[index].camera || "picture", here = e.tags.filter(t => t.picture === index && t.x != null), image = el("img", {alt: `${camera}${here.length ? ", with " + here.map(t => t.label).join(", ") : ""}`, decoding: "async"});
      const pane = el("button", {type: "button", class: "dk-pane", title: "enlarge", onclick: () => this.enlarge(index, e).catch(this.box.fail)}, image, here.map(t => this.dot(t, e)));
      const note = el("span", {class: "dk-why"}), put = ({url, why, late}) => {
        if (url) { image.src = url; note.replaceWith(image); } else { note.textContent = why; image.replaceWith(note); }
        return late && late.then(put);
      };
      this.album.get(index).then(put).catch(this.box.fail);
      return el("figure", {"data-picture": index}, pane, el("figcaption", {}, camera));
    });
  }
  /** A ring; one that only replies name says whose they are. */
  dot(t, e) {
    const by = t.where === "reply" ? e.said.filter(s => s.reply.includes(t.text)).map(s => s.by) : [];
    return el("span", {class: "dk-point dk-in-" + t.where, "data-tag": t.text, title: by.length ? "only in replies: " + by.join(", ") : "in the " + t.where, style: `left:${(100 * t.x).toFixed(2)}%;top:${(100 * t.y).toFixed(2)}%`}, el("b", {}, t.label));
  }
  card(name, text, said, e) {
    const mark = said && MARKS[said.mark], extra = said ? [mark[1] + (said.means ? ` (reads as ${said.means})` : ""), said.score == null ? "" : `judge: ${said.score.toFixed(0)} of 100 points`, said.cut ? "cut off" : ""].filter(Boolean).join(", ") : "";
    return el("section", {class: "dk-card" + (said ? " dk-card-" + said.mark : " dk-card-ref"), "data-by": name}, el("h3", {}, said ? el("i", {class: "dk-is-" + said.mark}, mark[0]) : null, el("bdi", {}, name)), el("p", {}, el("bdi", {}, text ? this.tagged(text, e) : "(empty)")), extra ? el("small", {}, extra) : null);
  }
  async enlarge(index, e) {
    const {url, why} = await this.album.get(index), here = e.tags.filter(t => t.picture === index && t.x != null);
    this.box.open(this.found.pictures[index].camera || "picture", el("div", {class: "dk-pane dk-large"}, url ? el("img", {src: url, alt: this.found.pictures[index].camera || "picture"}) : el("p", {}, why), here.map(t => this.dot(t, e))), el("p", {class: "dk-note"}, e.question));
  }
  prefetch() {
    const at = this.hits.findIndex(e => e.id === this.state.id), next = this.hits[at + 1];
    if (next) for (const p of next.pictures) this.album.get(p).catch(() => null);  // shown when it is opened
  }

  // --- keys and pictures

  move(by) {
    const at = this.hits.findIndex(e => e.id === this.state.id), to = Math.min(this.hits.length - 1, Math.max(0, at + by));
    if (this.hits[to] && to !== at) { this.open(this.hits[to].id); this.box.say(`Question ${to + 1} of ${this.hits.length}: ${this.hits[to].question}`); }
  }
  next(chooser, key) { const values = [...chooser.select.options].map(o => o.value); this.change({[key]: values[(values.indexOf(this.state[key]) + 1) % values.length]}); }
  clear() { this.change({text: "", capability: "", camera: "", object: "", mark: "", speaker: ""}); }
  key(e) {
    if (chord(e)) return;
    if (e.target === this.search && !["Escape", "ArrowDown", "ArrowUp"].includes(e.key)) return;
    if (/^(SELECT|TEXTAREA)$/.test(e.target.tagName) || (e.target.tagName === "BUTTON" && e.key === "Enter")) return;
    const capability = ["", ...this.kinds()][Number(e.key) - 1];
    const run = {ArrowDown: () => this.move(1), j: () => this.move(1), ArrowUp: () => this.move(-1), k: () => this.move(-1), PageDown: () => this.move(10), PageUp: () => this.move(-10), Home: () => this.move(-1e9), End: () => this.move(1e9), "/": () => this.search.focus(),
      c: () => this.next(this.camera, "camera"), o: () => this.next(this.object, "object"), w: () => this.next(this.mark, "mark"), Enter: () => this.figures && this.figures[0] && this.figures[0].querySelector("button").click(), p: () => this.keep().catch(this.box.fail), "?": () => tellKeys(this.box, KEYS),
      Escape: () => { if (this.state.text) this.change({text: ""}); this.list.focus(); }}[e.key] || (capability !== undefined && e.key >= "1" && e.key <= "9" ? () => this.change({capability}) : null);
    if (run) { run(); taken(e); }
  }
  async keep() {
    const e = this.entry();
    if (!e) return;
    const wide = 1100, canvas = el("canvas", {width: wide, height: 4000}), pen = canvas.getContext("2d"), colours = getComputedStyle(this.box.root);
    pen.fillStyle = colours.backgroundColor; pen.fillRect(0, 0, wide, 4000); pen.fillStyle = colours.color;
    let y = write(pen, e.question, 20, 34, wide - 40, "600 17px " + FONT, 23);
    y = await this.paste(pen, e, y + 4, wide);
    for (const [name, text] of [["reference", e.answer], ...e.said.map(s => [`${MARKS[s.mark][0]} ${s.by}`, s.reply])]) y = write(pen, `${name}: ${text}`.slice(0, 900), 20, y + 22, wide - 40, "14px " + FONT, 19);
    const cut = el("canvas", {width: wide, height: Math.min(4000, Math.ceil(y + 20))});
    cut.getContext("2d").drawImage(canvas, 0, 0);
    offerPicture(this.box, cut, "question.png", e.question);
  }
  /** The pictures of a question, three in a row; returns where they end. */
  async paste(pen, e, top, wide) {
    const columns = Math.min(3, e.pictures.length) || 1, w = (wide - 40 - 8 * (columns - 1)) / columns;
    let low = top, x = 20, y = top, i = 0;
    for (const figure of this.figures) {
      const index = Number(figure.dataset.picture), {url} = await this.album.get(index);
      if (!url) continue;
      const image = el("img", {src: url});
      await image.decode();
      const h = w * image.height / image.width;
      x = 20 + (i % columns) * (w + 8); y = top + Math.floor(i / columns) * (h + 8); i++;
      pen.drawImage(image, x, y, w, h); low = Math.max(low, y + h);
      for (const t of e.tags.filter(t => t.picture === index && t.x != null)) { pen.lineWidth = 3; pen.strokeStyle = pen.fillStyle = t.where === "reply" ? "#7fe3ff" : "#ff8c1e"; pen.setLineDash({question: [], answer: [2, 3], reply: [6, 4]}[t.where]); pen.beginPath(); pen.arc(x + t.x * w, y + t.y * h, 9, 0, 7); pen.stroke(); pen.setLineDash([]); pen.font = "600 14px " + FONT; pen.fillText(t.label, x + t.x * w + 12, y + t.y * h - 8); pen.fillStyle = getComputedStyle(this.box.root).color; }
    }
    return low;
  }
}

const LOOK = `
.dk-quiz{
.dk-push{flex:1}.dk-title{font-size:14px;margin:0}.dk-count{color:var(--soft)}input[type=search]{border:1px solid var(--line);border-radius:5px;padding:3px 8px;background:var(--bg);width:min(290px,100%);min-height:26px}.dk-tools{margin:8px 0}
.dk-scores{display:grid;grid-template-columns:repeat(auto-fit,minmax(320px,1fr));gap:6px 18px;margin:6px 0 10px;font-size:12px}.dk-score{display:grid;grid-template-columns:minmax(0,1fr) auto;gap:1px 8px;color:var(--soft)}.dk-by{overflow:hidden;text-overflow:ellipsis;white-space:nowrap;font-weight:600;color:var(--ink)}
.dk-stack{grid-column:1/-1;display:flex;height:6px;border-radius:4px;overflow:hidden;background:var(--fill)}.dk-stack .dk-is-right{background:#2e9e77}.dk-stack .dk-is-wrong{background:#e08a2e}.dk-stack .dk-is-unread{background:#9aa2ab}
.dk-two{display:grid;grid-template-columns:minmax(0,1fr);gap:12px}.dk-questions{position:relative;height:230px;overflow:auto;border:1px solid var(--line);border-radius:6px}.dk-tall{position:relative}
.dk-line2{position:absolute;left:0;right:0;height:46px;padding:4px 10px;border-bottom:1px solid var(--line);cursor:pointer;overflow:hidden}.dk-line2:hover{background:var(--fill)}.dk-line2[aria-selected=true]{background:var(--fill);box-shadow:inset 3px 0 var(--hot)}
.dk-q{display:block;white-space:nowrap;overflow:hidden;text-overflow:ellipsis;unicode-bidi:isolate}.dk-sub{display:flex;gap:8px;font-size:11px;color:var(--soft);white-space:nowrap}.dk-cap{font-weight:600}.dk-perception{color:${COLOURS[0]}}.dk-reasoning{color:${COLOURS[1]}}.dk-planning{color:${COLOURS[2]}}.dk-marks{margin-left:auto;display:flex;gap:5px}
i[class^=dk-is]{font-style:normal;font-weight:700}i.dk-is-right{color:#1d7a59}i.dk-is-wrong{color:#b95f05}i.dk-is-unread,i.dk-is-open{color:var(--soft)}.dk-stack i{color:transparent}
.dk-detail{min-width:0}.dk-facts{font-size:12px;color:var(--soft);margin:0 0 4px;overflow-wrap:anywhere}.dk-ask{font-size:15px;margin:0 0 8px;white-space:pre-wrap;overflow-wrap:anywhere;max-height:14em;overflow:auto}
.dk-album{display:grid;grid-template-columns:repeat(3,minmax(0,1fr));gap:6px}.dk-album.dk-one{grid-template-columns:minmax(0,640px)}.dk-album figure{margin:0;min-width:0}.dk-album figcaption{font-size:11px;color:var(--soft)}
.dk-pane{position:relative;display:block;width:100%;padding:0;border:0;border-radius:5px;overflow:hidden;background:var(--fill);min-height:60px;cursor:zoom-in}.dk-pane img{display:block;width:100%}.dk-large{cursor:default;max-width:1100px}.dk-why{display:block;padding:18px 10px;color:var(--soft);font-size:12px;white-space:normal;overflow-wrap:anywhere}
.dk-point{position:absolute;width:20px;height:20px;margin:-10px 0 0 -10px;border:3px solid #ff8c1e;border-radius:50%;box-shadow:0 0 0 1px rgba(0,0,0,.6)}.dk-point b{position:absolute;left:18px;top:-14px;background:#ff8c1e;color:#10151a;border-radius:3px;padding:0 4px;font-size:11px;line-height:15px}.dk-in-answer{border-style:dotted}.dk-in-reply{border:2px dashed #7fe3ff}.dk-in-reply b{background:#7fe3ff;top:10px}
.dk-lit{outline:3px solid var(--hot);outline-offset:3px;z-index:2}mark.dk-tag{background:#ffe7cc;color:#10151a;border-radius:3px;padding:0 2px}
.dk-answers{display:grid;grid-template-columns:repeat(auto-fill,minmax(220px,1fr));gap:8px;margin-top:10px}.dk-card{border:1px solid var(--line);border-left:4px solid var(--line);border-radius:6px;padding:6px 10px;min-width:0}.dk-card p{margin:0;white-space:pre-wrap;overflow-wrap:anywhere;max-height:18em;overflow:auto}.dk-card h3{display:flex;gap:6px}.dk-card small{color:var(--soft)}
.dk-card-right{border-left-color:#2e9e77}.dk-card-wrong{border-left-color:#e08a2e}.dk-card-unread{border-left-color:#9aa2ab}.dk-card-ref{border-left-color:var(--hot)}
@container (min-width:900px){.dk-two{grid-template-columns:minmax(260px,27%) minmax(0,1fr)}.dk-questions{height:660px}}
@container (min-width:640px){.dk-single{display:grid;grid-template-columns:repeat(2,minmax(0,1fr));gap:0 14px;align-content:start}.dk-single>p{grid-column:1/-1}.dk-single .dk-answers{margin-top:0;align-content:start}}
}
`;

async function explore(host, channel) {
  const bytes = await channel.bytes;
  return new QuestionView(host, channel, unpack(bytes)).start();
}
