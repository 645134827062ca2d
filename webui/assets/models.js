// The models tab: each file in the models folder, what it is, and where it belongs. Names and errors are shown as text.
(function (easel) {
  "use strict";

  const { el } = easel;
  const FAMILIES = { sd1: "SD1.5", sd2: "SD2", sdxl: "SDXL", sd3: "SD3.5" };
  const size = (easel.size = (bytes) =>
    bytes >= 2 ** 30 ? `${(bytes / 2 ** 30).toFixed(1)} GiB` : bytes >= 2 ** 20 ? `${Math.round(bytes / 2 ** 20)} MiB` : `${Math.ceil((bytes || 0) / 1024)} KiB`);

  function card(model) {
    const problem = model.error ? (typeof model.error === "string" ? model.error : `${model.error.what} ${model.error.todo || ""}`.trim()) : model.sentence;
    const facts = [FAMILIES[model.family] || model.family, model.variant, model.prediction, model.precision].filter(Boolean);
    return el("li", { class: `model${model.error ? " bad" : ""}` },
      el("div", { class: "model-name" }, el("strong", {}, model.name), el("span", { class: "model-kind" }, model.kind || "")),
      el("div", { class: "model-facts" }, ...facts.map((fact) => el("span", { class: "fact" }, fact)), el("span", { class: "fact weight" }, size(model.bytes ?? model.file_bytes ?? model.size))),
      el("div", { class: "model-place" }, model.folder ? `models/${model.folder}` : model.belongs_in ? `belongs in models/${model.belongs_in}` : ""),
      problem ? el("div", { class: "model-problem" }, problem) : null,
      ...(model.notes || []).map((note) => el("div", { class: "model-note" }, note)));
  }

  easel.parts.models = (element) => {
    const list = el("ul", { class: "model-list" });
    const count = el("span", { class: "model-count" });
    element.append(el("div", { class: "models-part" },
      el("div", { class: "models-head" }, count, el("button", { type: "button", class: "plain", onclick: easel.modelsChanged }, "Look again")), list));
    const draw = (models) => {
      count.textContent = models.length === 1 ? "1 file" : `${models.length} files`;
      list.replaceChildren(...(models.length ? models.map(card) : [el("li", { class: "empty" }, "No model files yet. Put checkpoints into models/checkpoints and look again.")]));
    };
    easel.on("models", draw);
    easel.modelsChanged();
  };
})(window.easel);
