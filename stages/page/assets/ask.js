// Chosen models answer what is typed, side by side.

views.Ask = (view) => {
  const live = content.live;
  if (!live) {
    view.append(html("p", {class: "note"}, "A file runs no model. ", html("code", {}, "intents explore"), " opens this page with the models in calibrated/."));
    return;
  }
  if (!live.models.length) {
    view.append(lacking("No model can be asked", "calibrated/ has none"));
    return;
  }
  const defaults = [content.selected.model, "teacher"].filter((name) => live.models.includes(name));
  const first = defaults.length > 1 ? defaults : [...new Set([...defaults, ...live.models])].slice(0, 2);
  const text = html("input", {type: "text", id: "query", autocomplete: "off", spellcheck: "false", maxlength: 2000,
    placeholder: "what is my balance", oninput: () => { clearTimeout(timer); timer = setTimeout(ask, 150); }});
  const boxes = live.models.map((name) => html("input", {type: "checkbox", value: name, checked: first.includes(name), onchange: () => ask()}));
  const answers = html("div", {class: "answers", "aria-live": "polite"});
  let timer, round = 0;

  async function one(model, query) {
    try {
      const response = await fetch("ask", {method: "POST", headers: {"content-type": "application/json"}, body: JSON.stringify({text: query, model})});
      return {model, ...await response.json()};
    } catch {
      return {model, error: "there was no answer: does intents explore still run?"};
    }
  }

  function ask() {
    const query = text.value.trim(), mine = ++round;
    const asked = boxes.filter((box) => box.checked).map((box) => box.value);
    if (!query || !asked.length) { answers.replaceChildren(); return; }
    const cards = asked.map((model) => cardOf(model) || html("section", {class: "answer", "data-model": model, "aria-busy": "true"},
      html("h3", {}, model), html("p", {class: "small"}, "The model is being loaded …")));
    answers.replaceChildren(...cards);
    for (const model of asked) one(model, query).then((answer) => {
      if (mine === round) cardOf(model).replaceWith(card(answer));  // else what was typed since is on its way
    });
  }

  const cardOf = (model) => answers.querySelector(`[data-model="${CSS.escape(model)}"]`);

  function card(answer) {
    const scope = {true: "in scope", false: "out of scope", null: "no threshold"}[String(answer.in_scope)];
    const lines = answer.error ? [html("p", {class: "wrong"}, answer.error)] : [
      html("p", {class: "label"}, answer.label),
      html("p", {}, `${percent(answer.score)} probable, `, html("span", {class: answer.in_scope === false ? "wrong" : ""}, scope)),
      html("p", {class: "small"}, `tokenization ${answer.tokenization_ms.toFixed(2)} ms, session ${answer.session_ms.toFixed(2)} ms`),
      answer.exit ? html("p", {class: "small"}, `answered after ${answer.exit}`) : null];
    return html("section", {class: "answer", "data-model": answer.model}, html("h3", {}, answer.model), lines);
  }

  view.append(html("label", {}, "Query", text),
    html("fieldset", {class: "checks"}, html("legend", {}, "Models"), live.models.map((name, i) => html("label", {}, boxes[i], " ", name))),
    answers, html("p", {class: "small"}, "Models answer on one thread of this machine, one after the other. A model is loaded when it is first asked."));
};
