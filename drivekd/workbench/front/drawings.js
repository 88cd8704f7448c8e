// Shared by the explorers that draw curves: colours of losses, ticks, SVG.

const COLOURS = ["#3b82c4", "#e08a2e", "#2e9e77", "#c2549d", "#8a8f98", "#7d6bd0", "#c0504d", "#5aa7b0"];  // as drivekd.workbench.figures
const OF_TERMS = new Map([["perception", COLOURS[0]], ["reasoning", COLOURS[1]], ["planning", COLOURS[2]], ["ce", COLOURS[4]]]);
const NS = new DOMParser().parseFromString("<svg>", "text/html").body.firstChild.namespaceURI;  // asked for, so that no page holds an address

/** A colour for each loss, the same in all views. */
function termColours(names) {
  const left = COLOURS.filter(colour => ![...OF_TERMS.values()].includes(colour));
  let next = 0;
  return new Map(names.map(name => [name, OF_TERMS.get(name) || left[next++ % left.length]]));
}

/** About n round numbers between two. */
function ticks(low, high, n = 5) {
  const raw = (high - low) / n, ten = 10 ** Math.floor(Math.log10(raw)), step = ten * [1, 2, 5, 10].find(m => m * ten >= raw), out = [];
  for (let x = Math.ceil(low / step) * step; x <= high + step * 1e-6; x += step) out.push(Math.abs(x) < step * 1e-6 ? 0 : x);
  return out;
}

/** A piece of a drawing. */
function draw(parent, tag, attributes = {}, text) {
  const node = parent.appendChild(document.createElementNS(NS, tag));
  for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
  if (text !== undefined) node.textContent = text;
  return node;
}

function drawing(width, height, label = "") {
  const svg = document.createElementNS(NS, "svg");
  for (const [key, value] of Object.entries({viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": label})) svg.setAttribute(key, value);
  return svg;
}

/** A drawing as an image, with the colours of its frame. */
async function imageOf(svg, root) {
  const style = getComputedStyle(root), copy = svg.cloneNode(true), [, , width, height] = svg.getAttribute("viewBox").split(" ").map(Number), image = new Image();
  for (const [key, value] of Object.entries({xmlns: NS, width, height})) copy.setAttribute(key, value);
  copy.prepend(draw(copy, "style", {}, `text{fill:${style.getPropertyValue("--ink")};font:12px ${FONT}}.soft{fill:${style.getPropertyValue("--soft")}}`));
  const text = new XMLSerializer().serializeToString(copy).replace(/var\((--\w+)\)/g, (_, name) => style.getPropertyValue(name).trim());
  image.src = "data:image/svg+xml;charset=utf-8," + encodeURIComponent(text);
  await image.decode();
  return {image, width, height};
}
