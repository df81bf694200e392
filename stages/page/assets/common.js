// Elements, numbers and charts, for all views. A chart is SVG that is drawn anew when its width changes.

const content = JSON.parse(document.getElementById("content").textContent);
// Okabe and Ito's palette, which colour-blind readers tell apart.
const COLORS = {teacher: "#000000", distilled: "#0072b2", pruned: "#e69f00", structured: "#009e73",
  chains: "#d55e00", peers: "#cc79a7"};

function fill(node, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else if (value === true) node.setAttribute(name, "");
    else if (value !== false && value !== null && value !== undefined) node.setAttribute(name, value);
  }
  node.append(...children.flat(2).filter((child) => child !== null && child !== undefined));
  return node;
}
const html = (tag, attributes = {}, ...children) => fill(document.createElement(tag), attributes, children);
const svg = (tag, attributes = {}, ...children) =>
  fill(document.createElementNS("http://www.w3.org/2000/svg", tag), attributes, children);

const known = (value) => value !== null && value !== undefined;
const percent = (value, digits = 1) => known(value) ? `${(100 * value).toFixed(digits)}%` : "–";
const ms = (value) => known(value) ? `${value < 10 ? value.toFixed(2) : value.toFixed(1)} ms` : "–";
const mb = (value) => known(value) ? `${value.toFixed(1)} MB` : "–";
const ratio = (value) => known(value) ? `×${value.toFixed(value < 10 ? 1 : 0)}` : "–";
const between = (low, high, show) => known(low) && known(high) ? ` (${show(low)} to ${show(high)})` : "";
const count = (number, one, several = `${one}s`) => `${number.toLocaleString("en")} ${number === 1 ? one : several}`;

function table(headings, rows, numbers = headings.length - 1) {
  // The last `numbers` columns are set to the right.
  const side = (i) => i >= headings.length - numbers ? "right" : null;
  return html("div", {class: "scroll"}, html("table", {},
    html("thead", {}, html("tr", {}, headings.map((text, i) => html("th", {class: side(i), scope: "col"}, text)))),
    html("tbody", {}, rows.map(({cells, ...row}) =>
      html("tr", row, cells.map((cell, i) => html("td", {class: side(i)}, cell)))))));
}

function select(label, options, value, onchange) {
  const input = html("select", {onchange: () => onchange(input.value)},
    options.map(([key, text]) => html("option", {value: key, selected: key === value}, text)));
  return html("label", {}, label, input);
}

function lacking(what, why = content.lacks) {
  return html("p", {class: "note"}, `${what}: ${why}. This makes them: `, html("code", {}, content.make));
}

// Arrays in base64, little-endian, as every browser's machine is.
function unpack(text, type) {
  const bytes = Uint8Array.from(atob(text), (character) => character.charCodeAt(0));
  return new type(bytes.buffer);
}

function ticks(low, high, most, log) {
  if (log) {
    const values = [];
    for (let power = Math.floor(Math.log10(low)); power <= Math.log10(high); power++)
      for (const step of [1, 2, 5]) values.push(Number(`${step}e${power}`));
    const inside = values.filter((value) => value >= low && value <= high);
    return inside.length <= most ? inside : inside.filter((value) => /^[0.]*1/.test(String(value)));
  }
  const rough = (high - low) / most, power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].find((factor) => factor * power >= rough) * power;
  const values = [];
  for (let i = Math.ceil(low / step - 1e-9); i <= high / step + 1e-9; i++) values.push(Number((i * step).toPrecision(12)));
  return values;
}

function scale([low, high], [from, to], log = false) {
  const place = log ? Math.log : (value) => value;
  return (value) => from + (place(value) - place(low)) / (place(high) - place(low)) * (to - from);
}

// A chart `height` px high in a new element: `draw(width)` gives what its SVG has; it is called again by `redraw`.
function chart(label, height, draw) {
  const canvas = svg("svg", {role: "group", "aria-label": label, height});
  const holder = html("div", {}, canvas);
  let width = 0;
  const redraw = () => { if (width) canvas.replaceChildren(...draw(width).flat(3).filter(known)); };
  new ResizeObserver(() => {
    if (!holder.clientWidth || holder.clientWidth === width) return;
    width = holder.clientWidth;
    canvas.setAttribute("viewBox", `0 0 ${width} ${height}`);
    redraw();
  }).observe(holder);
  return {holder, redraw};
}

// Grid and numbers of both axes, with what they show and in which unit.
function axes(area, x, y) {
  const parts = [];
  for (const value of ticks(...x.domain, area.width / 70, x.log)) {
    const at = x.scale(value);
    parts.push(svg("line", {x1: at, x2: at, y1: area.top, y2: area.top + area.height, class: "grid"}),
      svg("text", {x: at, y: area.top + area.height + 18, "text-anchor": "middle", class: "axis"}, x.show(value)));
  }
  for (const value of ticks(...y.domain, area.height / 45, y.log)) {
    const at = y.scale(value);
    parts.push(svg("line", {x1: area.left, x2: area.left + area.width, y1: at, y2: at, class: "grid"}),
      svg("text", {x: area.left - 6, y: at + 4, "text-anchor": "end", class: "axis"}, y.show(value)));
  }
  parts.push(svg("text", {x: area.left + area.width, y: area.top + area.height + 38, "text-anchor": "end"}, x.title),
    svg("text", {x: 0, y: area.top - 10}, y.title));
  return parts;
}

const wide = (text) => 7 * text.length;
const overlap = (one, other) => one.x < other.x + other.width && other.x < one.x + one.width &&
  one.y < other.y + other.height && other.y < one.y + one.height;

function path(points, attributes) {
  return svg("path", {d: points.map(([x, y], i) => `${i ? "L" : "M"}${x.toFixed(1)} ${y.toFixed(1)}`).join(""),
    fill: "none", ...attributes});
}

const tip = document.getElementById("tip");
function showTip(event, text) {
  const box = event.currentTarget.getBoundingClientRect();
  tip.textContent = text;
  tip.hidden = false;
  const left = Math.min(box.right + 8, document.documentElement.clientWidth - tip.offsetWidth - 8);
  tip.style.left = `${Math.max(8, left) + scrollX}px`;
  tip.style.top = `${box.bottom + 6 + scrollY}px`;
}
const hideTip = () => { tip.hidden = true; };

const views = {};
