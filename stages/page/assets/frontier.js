// Accuracy against latency, area for size; a budget; and what led to the model that is clicked.

views.Frontier = (view) => {
  const models = content.models, best = content.selected.model;
  const byName = Object.fromEntries(models.map((model) => [model.name, model]));
  let chosen = best;

  const limit = {};
  const within = (model) => model.latency_ms <= limit.latency_ms && model.size_mb <= limit.size_mb &&
    model.accuracy_calibrated >= limit.accuracy_calibrated;
  const range = (key) => [Math.min(...models.map((m) => m[key])), Math.max(...models.map((m) => m[key]))];

  // A slider from one end of what the models have to the other; at its loosest end it shuts none out.
  function slider(key, text, log, show, atMost) {
    const [low, high] = range(key);
    const output = html("output");
    const value = (share) => log ? low * (high / low) ** share : low + (high - low) * share;
    const input = html("input", {type: "range", min: 0, max: 1, step: 0.005, value: atMost ? 1 : 0, id: `most-${key}`});
    const read = () => {
      const share = Number(input.value);
      const loose = share === (atMost ? 1 : 0);
      limit[key] = loose ? (atMost ? Infinity : -Infinity) : value(share);
      output.textContent = show(value(share));
      input.setAttribute("aria-valuetext", output.textContent);
    };
    input.addEventListener("input", () => { read(); update(); });
    read();
    return html("label", {}, text, " ", output, input);
  }

  const verdict = html("p", {"aria-live": "polite", id: "verdict"});
  const details = html("section", {"aria-live": "polite", id: "details"});
  const list = html("div", {id: "models"});
  const picture = chart("Accuracy against latency", 460, draw);

  function describe(model) {
    const speed = known(model.speedup_over_bert_base) ? `\n${ratio(model.speedup_over_bert_base)} BERT-base's speed` +
      between(model.speedup_over_bert_base_low, model.speedup_over_bert_base_high, ratio) : "";
    return `${model.name}\n${percent(model.accuracy_calibrated)} right` +
      between(model.low, model.high, percent) +
      `\n${ms(model.latency_ms)} mean, p99 ${ms(model.latency_p99_ms)}${speed}\n${mb(model.size_mb)}`;
  }

  function draw(width) {
    const area = {left: 46, top: 34, width: width - 62, height: 370};
    const [fastest, slowest] = range("latency_ms"), [worst, top] = range("accuracy_calibrated");
    const pad = Math.max(0.005, 0.12 * (top - worst));
    const biggest = range("size_mb")[1], radius = (model) => Math.max(4, (width < 600 ? 16 : 24) * Math.sqrt(model.size_mb / biggest));
    const x = {domain: [fastest / 1.5, slowest * 1.5], log: true, show: String, title: "mean latency of a test query, ms (log scale)"};
    const y = {domain: [worst - pad, top + pad], show: (v) => (100 * v).toFixed(top - worst > 0.04 ? 0 : 1), title: "test accuracy, calibrated, %"};
    x.scale = scale(x.domain, [area.left, area.left + area.width], true);
    y.scale = scale(y.domain, [area.top + area.height, area.top]);
    const at = (model) => ({x: x.scale(model.latency_ms), y: y.scale(model.accuracy_calibrated), r: radius(model)});
    const steps = [];
    content.front.map((name) => at(byName[name])).forEach((point, i, all) => {
      if (i) steps.push([point.x, all[i - 1].y]);
      steps.push([point.x, point.y]);
    });
    const points = [...models].sort((a, b) => b.size_mb - a.size_mb).map((model) => {
      const {x, y, r} = at(model);
      const lit = within(model);
      const act = () => { chosen = model.name; update(); };
      return svg("g", {role: "button", tabindex: 0, "aria-label": describe(model).replaceAll("\n", ", "), "data-model": model.name,
        "data-lit": String(lit), "aria-pressed": String(model.name === chosen), opacity: lit ? 1 : 0.18, onclick: act,
        onkeydown: (event) => { if (event.key === "Enter" || event.key === " ") { event.preventDefault(); act(); refocus(model.name); } },
        onmouseenter: (event) => showTip(event, describe(model)), onmouseleave: hideTip,
        onfocus: (event) => showTip(event, describe(model)), onblur: hideTip},
      model.name === best ? svg("circle", {cx: x, cy: y, r: r + 5, fill: "none", stroke: "black", "stroke-width": 1.5}) : null,
      svg("circle", {cx: x, cy: y, r, fill: COLORS[model.family] || "#595959", "fill-opacity": model.name === chosen ? 1 : 0.6,
        stroke: model.name === chosen ? "black" : "white", "stroke-width": model.name === chosen ? 3 : 1}));
    });
    return [axes(area, x, y), path(steps, {stroke: "black"}), points, names(area, at)];
  }

  // The names of the chosen models and of the front, as far as they hide no point, no other name, and fit.
  function names(area, at) {
    const taken = models.map((model) => { const p = at(model); return {x: p.x - p.r, y: p.y - p.r, width: 2 * p.r, height: 2 * p.r}; });
    const texts = [];
    for (const name of new Set([chosen, best, ...content.front])) {
      const point = at(byName[name]), width = wide(name), gap = point.r + (name === best ? 9 : 4);
      const places = [[point.x - gap - width, point.y - 8], [point.x - width / 2, point.y - gap - 16], [point.x + gap, point.y - 8],
        [point.x - width / 2, point.y + gap], [point.x - width, point.y - gap - 14], [point.x, point.y + gap], [point.x - width, point.y + gap]];
      for (const [x, y] of places) {
        const box = {x, y, width, height: 16};
        if (x < area.left || x + width > area.left + area.width || taken.some((other) => overlap(box, other))) continue;
        taken.push(box);
        texts.push(svg("text", {x, y: y + 13, class: "halo"}, name));
        break;
      }
    }
    return texts;
  }

  const refocus = (name) => view.querySelector(`[data-model="${CSS.escape(name)}"]`).focus();

  function update() {
    hideTip();
    const lit = models.filter(within);
    if (!lit.length) verdict.textContent = "No model is within the budget.";
    else {
      const ranked = lit.filter((model) => known(model.chosen_by)).sort((a, b) => b.chosen_by - a.chosen_by || a.latency_ms - b.latency_ms);
      const first = ranked[0] || lit[0];
      verdict.replaceChildren(`${lit.length} of ${count(models.length, "model")} are within the budget. The best of them on validation: `,
        html("button", {onclick: () => { chosen = first.name; update(); }, "data-best": first.name}, first.name),
        `, with ${percent(first.accuracy_calibrated)} right on test, in ${ms(first.latency_ms)} and ${mb(first.size_mb)}.`);
    }
    picture.redraw();
    list.replaceChildren(table(["model", "accuracy", "latency", "size"],
      [...models].sort((a, b) => b.accuracy_calibrated - a.accuracy_calibrated).map((model) => ({
        class: `${within(model) ? "" : "dim"} ${model.name === chosen ? "chosen" : ""}`,
        cells: [[html("span", {class: "swatch", style: `background:${COLORS[model.family] || "#595959"}`}),
          html("button", {onclick: () => { chosen = model.name; update(); }}, model.name)],
        percent(model.accuracy_calibrated), ms(model.latency_ms), mb(model.size_mb)]}))));
    detail(byName[chosen]);
  }

  const signed = (value, digits) => `${value < 0 ? "−" : "+"}${Math.abs(value).toFixed(digits)}`;

  // What a step gained or cost, in the units of the columns.
  function change(step, before) {
    return {accuracy: known(step.accuracy) && known(before.accuracy) ? `${signed(100 * (step.accuracy - before.accuracy), 1)} points` : "",
      size: `${signed(step.size_mb - before.size_mb, 1)} MB`, latency: `${signed(step.latency_ms - before.latency_ms, 2)} ms`};
  }

  function detail(model) {
    const rows = model.steps.map((step, i) => {
      const by = i ? change(step, model.steps[i - 1]) : {};
      const cell = (value, delta) => [value, delta ? html("div", {class: "small"}, delta) : null];
      return {cells: [[step.name, step.stages.length ? html("div", {class: "small"}, step.stages.join(", ")) : null],
        cell(percent(step.accuracy), by.accuracy), cell(mb(step.size_mb), by.size), cell(ms(step.latency_ms), by.latency)]};
    });
    const facts = [`${percent(model.accuracy_calibrated)} of test queries right${between(model.low, model.high, percent)}: ` +
      `${percent(model.accuracy_in_scope_calibrated)} in scope, ${percent(model.oos_recall_calibrated)} out of it.`,
    `${ms(model.latency_ms)} a query; p50 ${ms(model.latency_p50_ms)}, p99 ${ms(model.latency_p99_ms)}. ` +
      `${ratio(model.speedup_over_bert_base)}${between(model.speedup_over_bert_base_low, model.speedup_over_bert_base_high, ratio)} the speed of BERT-base's shape.`,
    `${mb(model.size_mb)}.`];
    const peer = model.family === "peers";
    details.replaceChildren(...[html("h2", {}, model.name), html("p", {}, facts.join(" ")),
      model.name === best ? html("p", {}, `It is models/best: ${content.selected.reason}.`) : null,
      rows.length ? html("h2", {}, "How it was made, and what each step cost") : null,
      rows.length ? table(["step", "accuracy", "size", "latency"], rows) : null,
      html("h2", {}, "Get it"),
      html("pre", {}, html("code", {}, peer ? `intents peers --peer ${model.name}` :
        `${content.make} evaluate@${model.name}\nintents predict --model calibrated/${model.name} "what is my balance"`))].filter(known));
  }

  const families = [...new Set(models.map((model) => model.family))];
  view.append(html("div", {class: "columns"},
    html("div", {}, html("div", {class: "fields"},
      slider("latency_ms", "At most", true, ms, true), slider("size_mb", "At most", true, mb, true),
      slider("accuracy_calibrated", "At least", false, percent, false)),
    verdict, picture.holder,
    html("ul", {class: "legend"}, families.map((family) => html("li", {},
      html("span", {class: "swatch", style: `background:${COLORS[family] || "#595959"}`}), family)), html("li", {}, "ring: models/best; line: beaten by none; area: size")),
    html("p", {class: "small"}, `Accuracies are of the test split, with the out-of-scope threshold chosen on validation. Latencies are means on ${content.machine}.`)),
    details), html("h2", {}, "All models"), list);
  update();
};
