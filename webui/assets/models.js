// The Models tab: each file in the models folders, what it is, and where it belongs. Names and errors are shown as text.
(function (easel) {
  "use strict";

  const { el } = easel;
  const STEP = 40; // cards that are drawn at a time
  const STATES = [["", "All files"], ["usable", "Usable"], ["problem", "With a problem"], ["question", "With a question"]];

  const problemOf = (model) => (model.error ? `${model.error.what} ${model.error.todo || ""}`.trim() : model.sentence);
  const isOpen = (model) => model.questions.some((question) => question.asks && question.answer === null);
  const inState = {
    "": () => true,
    usable: (model) => model.usable,
    problem: (model) => Boolean(problemOf(model)) && !model.settling,
    question: (model) => model.questions.some((question) => question.asks || question.answer !== null),
  };

  function notes(model) {
    const box = el("dl", { class: "model-sidecar" });
    const details = el("details", { class: "model-details" }, el("summary", {}, "Notes"), box);
    details.addEventListener("toggle", async () => {
      if (!details.open || box.firstChild) return;
      try {
        const told = (await easel.api(`models/${model.id}`)).sidecar;
        box.replaceChildren(...(told.length ? told.flatMap((note) => [el("dt", {}, note.label), el("dd", {}, note.text)]) : [el("dd", {}, "The file beside it says nothing that is known here.")]));
      } catch (error) {
        box.replaceChildren(el("dd", {}, error.message));
      }
    });
    return details;
  }

  // Nearly every file is as assumed: nobody is asked, but it can be said otherwise.
  const quietly = (model, question) =>
    el("details", { class: "model-details" }, el("summary", {}, question.answer ? `You said: ${question.answer}` : `Taken for: ${question.assumed}`), easel.questionRow(model, question));

  function use(model) {
    easel.checkpointChosen(model.name, true);
    easel.showTab("txt2img");
  }

  function add(model) {
    const tag = easel.loraTag(model.name), box = document.querySelector("#txt2img_prompt textarea");
    if (!tag) {
      easel.toast("LoRAs act through an extension, which is off.", "error");
      return;
    }
    easel.showTab("txt2img");
    // Only a box that is shown can be written to, and gradio shows a tab a few frames later.
    const put = (frames) => {
      if (!box.offsetParent && frames) {
        requestAnimationFrame(() => put(frames - 1));
        return;
      }
      box.focus();
      const from = box.value.length, written = (from && !/\s$/.test(box.value) ? " " : "") + tag, end = from + written.length;
      easel.write(box, { from, to: from, written, selection: [end - 2, end - 1] });
    };
    put(120);
  }

  function card(model) {
    const problem = problemOf(model), foreign = easel.foreignFormats(model);
    const speaker = (model.prediction_source || "default") === "default" ? "" : ` (${model.prediction_source})`;
    const prediction = model.prediction && model.prediction + speaker;
    const facts = [model.variant || easel.familyLabel(model.family), model.made_for && `for ${easel.familyLabel(model.made_for)}`, prediction, model.precision, model.rank && `rank ${model.rank}`].filter(Boolean);
    const files = [...new Set(Object.values(model.files || {}))];
    const trouble = model.settling ? el("div", { class: "model-note" }, "It is incomplete, and was changed a moment ago: looked at again when it rests.")
      : problem ? el("div", { class: "model-problem" }, problem)
      : !model.read ? el("div", { class: "model-note" }, "Not read yet.") : null;
    return el("li", { class: `model${model.error && !model.settling ? " bad" : ""}` },
      easel.modelPicture(model),
      el("div", { class: "model-words" },
        el("div", { class: "model-name" }, el("strong", {}, model.name), el("span", { class: "model-kind" }, model.kind || "")),
        el("div", { class: "model-facts" }, ...facts.map((fact) => el("span", { class: "fact" }, fact)), el("span", { class: "fact weight" }, easel.size(model.bytes))),
        el("div", { class: "model-place" },
          el("span", {}, model.root ? `${model.root}: ${model.folder}` : `models/${model.folder}`),
          model.hash ? el("button", { type: "button", class: "model-hash", title: "Copy A1111's hash of the file", onclick: () => easel.copy(model.hash) }, model.hash) : null),
        trouble,
        foreign.length ? el("div", { class: "model-note" }, `An extension reads files of the kind ${foreign.join(" or ")}; if this is one, it acts by its tag.`) : null,
        (model.words || []).length ? el("div", { class: "model-note" }, `Words: ${model.words.join(", ")}.`) : null,
        files.length ? el("div", { class: "model-note" }, `Together with ${files.join(", ")}.`) : null,
        ...(model.notes || []).map((note) => el("div", { class: "model-note" }, note)),
        ...model.questions.map((question) => (question.asks ? easel.questionRow(model, question) : quietly(model, question))),
        model.has_notes ? notes(model) : null,
        model.usable && model.folder === "checkpoints" ? el("button", { type: "button", class: "plain use", onclick: () => use(model) }, "Use") : null,
        easel.isAdapter(model) ? el("button", { type: "button", class: "plain use", onclick: () => add(model) }, "Add to the prompt") : null));
  }

  // A select of what is there: [value, label] pairs, the first one means "all".
  function chooser(label, onchange) {
    const select = el("select", { "aria-label": label, onchange });
    let drawn = "";
    return {
      select,
      offer(pairs) {
        const key = JSON.stringify(pairs);
        if (key === drawn) return;
        drawn = key;
        const value = select.value;
        select.replaceChildren(...pairs.map(([name, words]) => el("option", { value: name }, words)));
        select.value = pairs.some(([name]) => name === value) ? value : "";
      },
    };
  }
  const counted = (models, field, label) => {
    const counts = new Map();
    models.forEach((model) => model[field] && counts.set(model[field], (counts.get(model[field]) || 0) + 1));
    return [...counts].map(([value, count]) => [value, `${label(value)} (${count})`]);
  };

  easel.parts.models = (element) => {
    const list = el("ul", { class: "model-list" });
    const count = el("span", { class: "model-count", role: "status" });
    const troubles = el("ul", { class: "notes", hidden: true });
    const search = el("input", { type: "search", class: "model-search", "aria-label": "Search models", placeholder: "Search name, family, variant, hash", spellcheck: "false", oninput: () => draw() });
    const folder = chooser("Folder", () => draw());
    const family = chooser("Family", () => draw());
    const state = chooser("State", () => draw());
    state.offer(STATES);
    element.append(el("div", { class: "models-part" },
      el("div", { class: "models-head" }, search, folder.select, family.select, state.select,
        el("button", { type: "button", class: "plain", onclick: () => easel.modelsChanged({ look: true }) }, "Look again")),
      count, troubles, list));

    // A card stays the same element while nothing about its file changes: opened notes stay open.
    const cards = new Map();
    const cardOf = (model) => {
      const told = JSON.stringify(model), kept = cards.get(model.id);
      if (kept && kept.told === told) return kept.element;
      const element_ = card(model);
      cards.set(model.id, { told, element: element_ });
      return element_;
    };
    const rows = easel.growing(list, STEP, cardOf);
    let shownFor = null;

    function draw() {
      const models = easel.models, told = easel.modelsTold;
      folder.offer([["", "All folders"], ...counted(models, "folder", (value) => value)]);
      family.offer([["", "All families"], ...counted(models, "family", easel.familyLabel)]);
      const found = easel.searchModels(models, search.value).filter((model) =>
        (!folder.select.value || model.folder === folder.select.value) && (!family.select.value || model.family === family.select.value) && inState[state.select.value](model));
      found.sort((a, b) => isOpen(b) - isOpen(a)); // what waits for an answer comes first
      const files = models.length === 1 ? "1 file" : `${models.length} files`;
      count.textContent = [found.length === models.length ? files : `${found.length} of ${files}`, told.unread ? `${told.unread} are still being read` : ""].filter(Boolean).join(", ");
      troubles.replaceChildren(...told.troubles.map((trouble) => el("li", {}, trouble)));
      troubles.hidden = !told.troubles.length;
      const filter = JSON.stringify([search.value, folder.select.value, family.select.value, state.select.value]);
      rows.set(found, filter === shownFor ? rows.shown : 0); // news do not throw the reader back to the top
      shownFor = filter;
      if (!found.length) list.append(el("li", { class: "empty" }, models.length ? "No file is like that." : "No model files yet. Put checkpoints into models/checkpoints."));
      const ids = new Set(models.map((model) => model.id));
      [...cards.keys()].forEach((id) => ids.has(id) || cards.delete(id));
    }
    easel.on("models", draw);
    draw();
  };
})(window.easel);
