// The checkpoint picker: a button that says what is chosen, and a list to search by name, family and variant.
(function (easel) {
  "use strict";

  const { el } = easel;
  const STEP = 60; // rows that are drawn at a time

  // offer() -> models, chosen() -> name, choose(name): what the list shows, what is marked in it, and what a click does.
  easel.modelPicker = (element, { label, offer, chosen, choose }) => {
    const id = element.id || `picker_${label}`;
    const name = el("span", { class: "picker-name" });
    const facts = el("span", { class: "picker-facts" });
    const picture = el("span", { class: "picker-picture" });
    const button = el("button", { type: "button", class: "picker-button", "aria-haspopup": "dialog", "aria-expanded": "false", onclick: () => (panel.isConnected ? close() : open()) },
      picture, el("span", { class: "picker-words" }, name, facts));
    element.append(el("div", { class: "picker" }, el("span", { class: "picker-label", "aria-hidden": "true" }, label), button));

    const search = el("input", {
      type: "search", role: "combobox", class: "picker-search", "aria-label": `Search ${label.toLowerCase()}s`, "aria-expanded": "true",
      "aria-controls": `${id}_list`, "aria-autocomplete": "list", placeholder: "Search name, family, variant", autocomplete: "off", spellcheck: "false",
      oninput: () => find(0), onkeydown: onKey,
    });
    const list = el("ul", { role: "listbox", id: `${id}_list`, class: "picker-list", "aria-label": label });
    const count = el("span", { class: "picker-count", role: "status" });
    const panel = el("div", { class: "picker-panel", role: "dialog", "aria-label": label },
      el("div", { class: "picker-head" }, search, easel.iconButton("Close", "close", close)), list, el("div", { class: "picker-foot" }, count));
    let found = [], active = 0;

    const option = (model, index) => {
      const told = [model.variant, model.precision, easel.size(model.bytes), model.root && `from ${model.root}`, !model.read && "not read yet"].filter(Boolean);
      const row = el("li", { role: "option", id: `${id}_${index}`, class: "picker-option", "data-index": index, "aria-selected": String(model.name === chosen()), onclick: () => take(model) },
        easel.modelPicture(model), el("span", { class: "picker-words" }, el("span", { class: "picker-name" }, model.name), el("span", { class: "picker-facts" }, told.join(" · "))));
      const before = found[index - 1];
      const heads = !before || before.family !== model.family;
      return heads ? [el("li", { role: "presentation", class: "picker-group" }, easel.familyLabel(model.family) || "Others"), row] : [row];
    };
    const rows = easel.growing(list, STEP, option);

    function find(wanted) {
      found = easel.searchModels(offer(), search.value).sort(
        (a, b) => easel.familyPlace(a.family) - easel.familyPlace(b.family) || a.name.localeCompare(b.name, undefined, { numeric: true }));
      rows.set(found, wanted + 1);
      if (!found.length) list.append(el("li", { class: "picker-none", role: "presentation" }, search.value ? "Nothing of that name, family or variant." : "No model that can be used here."));
      count.textContent = `${found.length} of ${offer().length}`;
      mark(Math.min(wanted, found.length - 1));
    }
    function mark(index) {
      list.querySelectorAll(".active").forEach((row) => row.classList.remove("active"));
      active = Math.max(0, index);
      rows.reach(active);
      const row = list.querySelector(`[data-index="${active}"]`);
      if (row) {
        row.classList.add("active");
        row.scrollIntoView({ block: "nearest" });
        search.setAttribute("aria-activedescendant", row.id);
      } else search.removeAttribute("aria-activedescendant");
    }
    function onKey(event) {
      const page = Math.max(1, Math.floor(list.clientHeight / 56) - 1);
      const moves = { ArrowDown: 1, ArrowUp: -1, PageDown: page, PageUp: -page };
      if (event.key in moves) mark(Math.max(0, Math.min(found.length - 1, active + moves[event.key])));
      else if (event.key === "Enter" && !event.ctrlKey && found[active]) take(found[active]);
      else if (event.key === "Escape") close();
      else if (event.key === "Tab") close();
      else return;
      if (event.key !== "Tab") event.preventDefault();
      event.stopPropagation(); // Esc would interrupt the job
    }
    function take(model) {
      close();
      choose(model.name);
    }
    function open() {
      document.body.append(panel);
      button.setAttribute("aria-expanded", "true");
      search.value = "";
      place();
      find(0);
      const at = found.findIndex((model) => model.name === chosen());
      if (at > 0) mark(at);
      const row = list.querySelector(".active");
      if (row) row.scrollIntoView({ block: "center" });
      search.focus();
    }
    function close() {
      if (!panel.isConnected) return;
      const had = panel.contains(document.activeElement);
      panel.remove();
      button.setAttribute("aria-expanded", "false");
      if (had) button.focus();
    }
    // Below the button; a narrow screen is filled (models.css).
    function place() {
      const box = button.getBoundingClientRect();
      const width = Math.min(Math.max(box.width, 460), innerWidth - 16);
      panel.style.setProperty("--left", `${Math.max(8, Math.min(box.left, innerWidth - width - 8))}px`);
      panel.style.setProperty("--top", `${box.bottom + 4}px`);
      panel.style.setProperty("--width", `${width}px`);
    }
    document.addEventListener("pointerdown", (event) => panel.isConnected && !panel.contains(event.target) && !button.contains(event.target) && close(), true);
    addEventListener("resize", () => panel.isConnected && place());

    const draw = () => {
      const model = offer().find((entry) => entry.name === chosen());
      name.textContent = chosen() || "none yet";
      facts.textContent = model ? model.variant || easel.familyLabel(model.family) : "";
      picture.replaceChildren(...(model && model.preview ? [easel.modelPicture(model)] : []));
      button.setAttribute("aria-label", `${label}: ${chosen() || "none"}`);
      button.title = [chosen(), facts.textContent].filter(Boolean).join("\n");
    };
    easel.on("models", () => {
      draw();
      if (panel.isConnected) find(active);
    });
    easel.on("form", draw);
    draw();
  };

  easel.parts.checkpoint_picker = (element) =>
    easel.modelPicker(element, {
      label: "Checkpoint",
      offer: () => easel.models.filter((model) => model.folder === "checkpoints" && (model.usable || !model.read)),
      chosen: () => easel.form.shared.checkpoint || "",
      choose: (name) => easel.checkpointChosen(name, true),
    });
})(window.easel);
