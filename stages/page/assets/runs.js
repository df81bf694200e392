// Training curves, and what changed between two commits.

views.Runs = (view) => {
  const runs = content.training, names = Object.keys(runs);
  const PALETTE = ["#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9"];
  view.append(html("h2", {}, "Training"));
  if (!names.length) view.append(html("p", {}, "No model of this report was trained."));
  else {
    const shown = names.slice(0, 3);
    const color = (name) => PALETTE[shown.indexOf(name) % PALETTE.length];
    const curve = (label, key, log, show, title) => chart(label, 340, (width) => {
      const area = {left: 46, top: 34, width: width - 62, height: 250};
      const all = names.flatMap((name) => runs[name][key]).filter((value) => known(value) && (!log || value > 0));
      const x = {domain: [1, Math.max(2, ...names.flatMap((name) => runs[name].epoch))], show: String, title: "epoch"};
      const y = {domain: [Math.min(...all), Math.max(...all)], log, show, title};
      if (y.domain[0] === y.domain[1]) y.domain = log ? [y.domain[0] / 2, y.domain[1] * 2] : [y.domain[0] - 0.01, y.domain[1] + 0.01];
      x.scale = scale(x.domain, [area.left, area.left + area.width]);
      y.scale = scale(y.domain, [area.top + area.height, area.top], log);
      const line = (name, attributes) => path(runs[name].epoch.map((epoch, i) => [x.scale(epoch), y.scale(runs[name][key][i])]), attributes);
      const taken = [];
      const ends = shown.map((name) => ({name, x: x.scale(runs[name].epoch.at(-1)), y: y.scale(runs[name][key].at(-1)) - 8}));
      const labels = ends.sort((one, other) => one.y - other.y).map(({name, ...at}) => {
        const box = {x: Math.max(area.left, Math.min(at.x, area.left + area.width) - wide(name)), y: at.y - 12, width: wide(name), height: 16};
        while (taken.some((other) => overlap(box, other))) box.y += 4;
        taken.push(box);
        return svg("text", {x: box.x + box.width, y: box.y + 12, "text-anchor": "end", fill: color(name), class: "halo"}, name);
      });
      return [axes(area, x, y), names.filter((name) => !shown.includes(name)).map((name) => line(name, {stroke: "#bbb"})),
        shown.map((name) => [line(name, {stroke: color(name), "stroke-width": 2.5}),
          runs[name].epoch.map((epoch, i) => svg("circle", {cx: x.scale(epoch), cy: y.scale(runs[name][key][i]), r: 3, fill: color(name)}))]), labels];
    });
    const accuracy = curve("Validation accuracy by epoch", "accuracy", false, (v) => (100 * v).toFixed(0), "validation accuracy, %");
    const loss = curve("Training loss by epoch", "loss", true, String, "training loss, each its own objective (log scale)");
    const boxes = names.map((name) => html("label", {}, html("input", {type: "checkbox", checked: shown.includes(name), onchange: (event) => {
      if (event.target.checked) shown.push(name); else shown.splice(shown.indexOf(name), 1);
      accuracy.redraw(); loss.redraw();
    }}), " ", name));
    view.append(html("fieldset", {class: "checks"}, html("legend", {}, "In colour"), boxes),
      html("div", {class: "columns", style: "grid-template-columns: repeat(auto-fit, minmax(min(100%, 24rem), 1fr))"}, accuracy.holder, loss.holder));
  }

  view.append(html("h2", {}, "What changed between two commits"));
  if (!content.live) {
    view.append(html("p", {class: "note"}, "A file does not read Git. ", html("code", {}, "intents explore"), " compares any two commits, and ",
      html("code", {}, "intents compare main"), " prints what changed since one."));
    return;
  }
  const commits = content.live.commits;
  if (!commits.length) { view.append(html("p", {class: "note"}, "Git has no commit of this report.")); return; }
  const options = commits.map(({hash, day, subject}) => [hash, `${day} ${hash} ${subject}`]);
  const chosen = {base: commits[Math.min(1, commits.length - 1)].hash, head: ""};
  const result = html("div", {"aria-live": "polite", id: "changes"});

  async function compare() {
    result.replaceChildren("Comparing …");
    const asked = {...chosen}, query = new URLSearchParams(Object.entries(asked).filter(([, value]) => value));
    let rows;
    try {
      rows = await (await fetch(`changes?${query}`)).json();
    } catch {
      rows = {error: "there was no answer: does intents explore still run?"};
    }
    if (asked.base !== chosen.base || asked.head !== chosen.head) return;
    if (rows.error) { result.replaceChildren(html("p", {class: "wrong"}, rows.error)); return; }
    const changed = rows.filter((row) => row.verdict !== "unchanged");
    const value = (row) => ["new", "gone"].includes(row.verdict) ? row.after ?? row.before : `${row.before} → ${row.after}`;
    const mark = (row) => ["better", "worse"].includes(row.verdict) ? html("strong", {}, row.verdict) : row.verdict;
    result.replaceChildren(changed.length ? table(["model", "measure", "before → after", "verdict"],
      changed.map((row) => ({cells: [row.model, row.measure.replace("_mb", ", MB").replaceAll("_", " "), value(row), mark(row)]})), 0) : html("p", {}, "Nothing has changed."),
    html("p", {class: "small"}, `${count(rows.length - changed.length, "number")} unchanged. Accuracies are compared by McNemar's test on the same queries, speed-ups by their intervals, as intents compare does.`));
  }

  view.append(html("div", {class: "fields"},
    select("Before", options, chosen.base, (value) => { chosen.base = value; compare(); }),
    select("After", [["", "the workspace"], ...options], chosen.head, (value) => { chosen.head = value; compare(); })), result);
  compare();
};
