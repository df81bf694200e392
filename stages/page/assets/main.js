// The tabs; a view is made when it is first opened.

document.getElementById("selected").textContent = `${content.selected.model} is selected: ${content.selected.reason}.`;

const tabs = document.getElementById("tabs"), panels = document.getElementById("views"), made = {};

function open(name, focus = false) {
  hideTip();
  for (const tab of tabs.children) {
    const selected = tab.dataset.view === name;
    tab.setAttribute("aria-selected", String(selected));
    tab.tabIndex = selected ? 0 : -1;
    if (selected && focus) tab.focus();
    document.getElementById(`view-${tab.dataset.view}`).hidden = !selected;
  }
  const panel = document.getElementById(`view-${name}`);
  if (!made[name]) views[name](panel);
  made[name] = true;
  history.replaceState(null, "", `#${name}`);
}

const order = ["Frontier", "Threshold", "Mistakes", "Ask", "Runs"];
order.forEach((name, i) => {
  tabs.append(html("button", {role: "tab", id: `tab-${name}`, "data-view": name, "aria-controls": `view-${name}`, onclick: () => open(name),
    onkeydown: (event) => {
      const step = {ArrowRight: 1, ArrowLeft: order.length - 1}[event.key];
      if (step) open(order[(i + step) % order.length], true);
    }}, name));
  panels.append(html("section", {role: "tabpanel", id: `view-${name}`, "aria-labelledby": `tab-${name}`, hidden: true}));
});
open(order.includes(location.hash.slice(1)) ? location.hash.slice(1) : "Frontier");
