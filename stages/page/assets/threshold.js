// What a threshold does, on validation: the numbers of measurement/quality/accuracy.py.

views.Threshold = (view) => {
  const data = content.validation;
  if (!data) { view.append(lacking("The scores on validation are not here")); return; }
  const names = Object.keys(data.models);
  if (!names.length) { view.append(html("p", {class: "note"}, "No model of this report has an out-of-scope threshold.")); return; }
  const outside = unpack(data.outside, Uint8Array);
  const outsiders = outside.reduce((sum, value) => sum + value, 0), insiders = outside.length - outsiders;
  let name = names.includes(content.selected.model) ? content.selected.model : names[0];
  let share = content.out_of_scope_share ?? outsiders / outside.length, threshold, model;

  function load() {
    const {value, score, scores, right} = data.models[name];
    model = {value, score, scores: unpack(scores, Float32Array), right: unpack(right, Uint8Array)};
    const finite = model.scores.filter(Number.isFinite);
    model.domain = [finite.reduce((a, b) => Math.min(a, b)), finite.reduce((a, b) => Math.max(a, b))];
    threshold = value;
  }

  // Scores are float32, and compared with the threshold as such, as in the library.
  function measure(value) {
    const limit = Math.fround(value);
    let inScope = 0, recalled = 0;
    for (let i = 0; i < outside.length; i++) {
      if (model.scores[i] < limit) recalled += outside[i];
      else inScope += model.right[i];
    }
    const accuracy = inScope / insiders, recall = recalled / outsiders;
    return {accuracy, recall, expected: (1 - share) * accuracy + share * recall};
  }

  const LINES = {accuracy: ["in-scope accuracy", "#0072b2", ""], recall: ["out-of-scope recall", "#d55e00", "6 4"],
    expected: ["expected accuracy", "#000000", ""]};
  const results = html("div", {class: "fields", "aria-live": "polite"});
  const slider = html("input", {type: "range", step: "any", id: "threshold", oninput: () => { threshold = Number(slider.value); update(); }});
  const typed = html("output"), shareText = html("output");
  const shares = html("input", {type: "range", min: 0, max: 1, step: 0.01, value: share, id: "share",
    oninput: () => { share = Number(shares.value); update(); }});
  const picture = chart("Accuracy by threshold", 400, draw);

  function draw(width) {
    const area = {left: 46, top: 34, width: width - (width < 600 ? 60 : 200), height: 310};
    const x = {domain: model.domain, show: String, title: `threshold of the score ${model.score}`};
    const y = {domain: [0, 1], show: (v) => (100 * v).toFixed(0), title: "validation, %"};
    x.scale = scale(x.domain, [area.left, area.left + area.width]);
    y.scale = scale(y.domain, [area.top + area.height, area.top]);
    const values = Array.from({length: 201}, (_, i) => x.domain[0] + (x.domain[1] - x.domain[0]) * i / 200);
    const measured = values.map(measure);
    const parts = [axes(area, x, y)];
    const ends = Object.entries(LINES).map(([key, [text, color, dash]]) => {
      parts.push(path(values.map((value, i) => [x.scale(value), y.scale(measured[i][key])]),
        {stroke: color, "stroke-width": key === "expected" ? 3 : 2, "stroke-dasharray": dash || null}));
      return {text, color, y: y.scale(measured.at(-1)[key])};
    }).sort((a, b) => a.y - b.y);
    if (width >= 600) ends.forEach((end, i) => {
      end.y = Math.max(end.y, i ? ends[i - 1].y + 17 : 0);
      parts.push(svg("text", {x: area.left + area.width + 8, y: end.y + 4, fill: end.color}, end.text));
    });
    for (const [value, text, width, dash] of [[model.value, "chosen", 1.5, "3 3"], [threshold, "", 2, null]]) {
      const at = x.scale(Math.min(Math.max(value, x.domain[0]), x.domain[1]));
      parts.push(svg("line", {x1: at, x2: at, y1: area.top, y2: area.top + area.height, stroke: "black", "stroke-width": width, "stroke-dasharray": dash}),
        svg("text", {x: at, y: area.top - 4, "text-anchor": "middle", class: "halo"}, text));
    }
    return parts;
  }

  function update() {
    const now = measure(threshold), then = measure(model.value);
    typed.textContent = threshold.toFixed(3);
    shareText.textContent = percent(share, 0);
    results.replaceChildren(...Object.entries(LINES).map(([key, [text, color]]) => html("div", {},
      html("span", {class: "swatch", style: `background:${color}`}), `${text}: `, html("span", {class: "number", id: key}, percent(now[key], 2)),
      html("div", {class: "small"}, `${percent(then[key], 2)} at the chosen threshold`))));
    picture.redraw();
  }

  function reset() {
    [slider.min, slider.max] = [Math.min(model.domain[0], model.value), Math.max(model.domain[1], model.value)];
    slider.value = threshold = model.value;
    update();
  }

  load();
  view.append(html("div", {class: "fields"},
    select("Model", names.map((key) => [key, key]), name, (value) => { name = value; load(); reset(); }),
    html("label", {}, "Threshold ", typed, slider),
    html("label", {}, "Share of queries that are out of scope ", shareText, shares)),
  html("button", {onclick: reset}, "Back to the chosen threshold"), results, picture.holder,
  html("p", {class: "small"}, `A query whose score is under the threshold is answered "out of scope". The numbers are of ` +
    `${count(insiders, "validation query", "validation queries")} in scope and ${outsiders.toLocaleString("en")} out of it. ` +
    "Expected accuracy weighs both by the share. The pipeline chose the threshold on these queries."));
  reset();
};
