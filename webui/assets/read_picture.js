// PNG info: what a picture says about how it was made. Everything from the file is shown as text.
(function (easel) {
  "use strict";

  const { el } = easel;
  const SOURCES = { easel: "Made with Easel", a1111: "Parameters as AUTOMATIC1111 writes them", comfyui: "Made with ComfyUI", none: "No parameters found" };

  easel.parts.read_picture = (element) => {
    let file = null, info = null, address = null;
    const image = el("img", { class: "read-picture", alt: "The picture that is read", hidden: true });
    const source = el("h3", { class: "read-source" });
    const notes = el("ul", { class: "notes", hidden: true });
    const text = el("pre", { class: "parameters", hidden: true, tabindex: 0, "aria-label": "Parameters in the picture" });
    const buttons = el("div", { class: "picture-actions", hidden: true },
      ...easel.tabs.map((tab) => el("button", { type: "button", class: "plain", onclick: () => send(tab) }, `Send to ${tab}`)),
      el("button", { type: "button", class: "plain", onclick: () => easel.copy(info.parameters) }, "Copy"));
    const { zone } = easel.dropZone("Drop a picture here, paste it, or click to choose one", read, "png_info");
    element.append(el("div", { class: "read-part" },
      el("div", { class: "read-left" }, zone, image), el("div", { class: "read-right", "aria-live": "polite" }, source, buttons, text, notes)));

    async function read(chosen) {
      try {
        info = await easel.api("read", { method: "POST", headers: { "Content-Type": "application/octet-stream" }, body: chosen });
      } catch (error) {
        easel.toast(error.message, "error");
        return;
      }
      file = chosen;
      if (address) URL.revokeObjectURL(address);
      address = URL.createObjectURL(chosen);
      image.src = address;
      image.hidden = false;
      zone.classList.add("small");
      const found = Boolean(info.parameters || info.request);
      source.textContent = found ? SOURCES[info.source] || `Written by ${info.source}` : SOURCES.none;
      text.textContent = easel.shownParameters(info.parameters || "");
      text.hidden = !info.parameters;
      buttons.hidden = !found;
      const told = [...(info.notes || []), ...leftovers(info)];
      notes.replaceChildren(...told.map((note) => el("li", {}, note)));
      notes.hidden = !told.length;
    }

    function leftovers(answer) {
      const left = answer.leftovers;
      if (!left) return [];
      const names = Array.isArray(left) ? left : Object.entries(left).map(([name, value]) => `${name}: ${value}`);
      return names.length ? [`Not understood, and left out: ${names.join(", ")}`] : [];
    }

    async function send(tab) {
      const values = info.picture || info.request; // this picture's own seed, not its whole batch
      easel.send("apply", values ? { tab, values, facts: info.facts } : { tab, text: info.parameters });
      easel.showTab(tab);
      if (tab === "txt2img") return;
      try {
        await (await easel.pictureBox(tab)).take(file);
      } catch (error) {
        easel.toast(error.message, "error");
      }
    }
  };
})(window.easel);
