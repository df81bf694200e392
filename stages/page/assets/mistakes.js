// Which intents are taken for which, the queries, and two models side by side.

views.Mistakes = (view) => {
  const data = content.queries;
  const best = content.selected.model;
  if (!data) {
    const names = Object.keys(content.confusions);
    const holder = html("div");
    const show = (name) => holder.replaceChildren(table(["intent", "answer", "queries"], content.confusions[name].map((cells) => ({cells})), 1));
    view.append(lacking("The queries are not here"));
    if (!names.length) return;
    const first = names.includes(best) ? best : names[0];
    view.append(html("h2", {}, "The commonest mistakes"), html("div", {class: "fields"}, select("Model", names.map((name) => [name, name]), first, show)), holder);
    show(first);
    return;
  }
  const truth = unpack(data.truth, Uint16Array), names = Object.keys(data.answers);
  const answers = Object.fromEntries(names.map((name) => [name, unpack(data.answers[name], Uint16Array)]));
  const texts = data.texts.map((text) => text.toLowerCase());
  const state = {one: names.includes(best) ? best : names[0], kind: "one", words: "", pair: null, most: 50};
  state.other = names.find((name) => name === "teacher" && name !== state.one) || names.find((name) => name !== state.one) || state.one;
  // May break at underscores.
  const intent = (i) => html("span", {}, data.intents[i].split("_").flatMap((part, j) => j ? ["_", html("wbr"), part] : [part]));

  const KINDS = {
    one: ["The first is wrong", (a, b) => !a],
    gained: ["Only the first is right", (a, b) => a && !b],
    lost: ["Only the second is right", (a, b) => !a && b],
    both: ["Both are wrong", (a, b) => !a && !b],
    differ: ["They answer differently", null],
    all: ["All queries", () => true],
  };
  const kinds = html("div"), pairs = html("div"), list = html("div", {id: "queries"});

  function matching(kind) {
    const one = answers[state.one], other = answers[state.other], test = KINDS[kind][1];
    const found = [];
    for (let i = 0; i < truth.length; i++)
      if (test ? test(one[i] === truth[i], other[i] === truth[i]) : one[i] !== other[i]) found.push(i);
    return found;
  }

  function update() {
    const one = answers[state.one], other = answers[state.other];
    kinds.replaceChildren(select("Show", Object.entries(KINDS).map(([key, [text]]) => [key, `${text} (${matching(key).length})`]), state.kind,
      (value) => { Object.assign(state, {kind: value, pair: null, most: 50}); update(); }));
    const all = matching(state.kind);
    // Pairs are of the model that is wrong: the second, where only the first is right.
    const shown = state.kind === "gained" ? other : one;
    const counts = new Map();
    for (const i of all) if (shown[i] !== truth[i]) {
      const key = `${truth[i]} ${shown[i]}`;
      counts.set(key, (counts.get(key) || 0) + 1);
    }
    const top = [...counts].sort((a, b) => b[1] - a[1]).slice(0, 20);
    pairs.replaceChildren(top.length ? table(["intent, and the answer", "queries"], top.map(([key, number]) => {
      const [from, to] = key.split(" ").map(Number);
      return {cells: [html("button", {"aria-pressed": String(state.pair === key), "data-pair": key,
        onclick: () => { state.pair = state.pair === key ? null : key; state.most = 100; update(); }}, intent(from), " → ", intent(to)), number]};
    })) : html("p", {}, "None."));
    const words = state.words.toLowerCase().split(/\s+/).filter(Boolean);
    const found = all.filter((i) => (!state.pair || state.pair === `${truth[i]} ${shown[i]}`) && words.every((word) => texts[i].includes(word)));
    const cell = (answer, i) => html("span", {class: answer === truth[i] ? "" : "wrong"}, answer === truth[i] ? "✓ " : "✗ ", intent(answer));
    list.replaceChildren(html("p", {"aria-live": "polite"}, `${count(found.length, "query", "queries")}${state.pair ? " of this pair" : ""}`),
      table(["query", "intent", state.one, state.other], found.slice(0, state.most).map((i) => ({cells: [data.texts[i], intent(truth[i]), cell(one[i], i), cell(other[i], i)]})), 0));
    if (found.length > state.most) list.append(html("p", {}, html("button", {onclick: () => { state.most += 500; update(); }}, "Show more")));
  }

  const options = names.map((name) => [name, name]);
  const search = html("input", {type: "search", id: "search", oninput: () => { state.words = search.value; state.most = 100; update(); }});
  view.append(html("div", {class: "fields"},
    select("First model", options, state.one, (value) => { Object.assign(state, {one: value, pair: null}); update(); }),
    select("Second model", options, state.other, (value) => { Object.assign(state, {other: value, pair: null}); update(); }),
    kinds, html("label", {}, "With the words", search)),
  html("div", {class: "columns narrow-first"}, html("section", {}, html("h2", {}, "Commonest pairs"), pairs), html("section", {}, html("h2", {}, "Queries"), list)),
  html("p", {class: "small"}, `${count(truth.length, "test query", "test queries")}. Answers are calibrated ones.`));
  update();
};
