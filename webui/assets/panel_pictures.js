// The controls of a panel's pictures and files: a small drop zone with what it holds, a painter in a dialog, a list of names.
(function (easel) {
  "use strict";

  const { el } = easel;

  // A grey sheet of the size that the open tab asks for, to paint on where there is no picture.
  async function sheet() {
    const form = easel.form.tabs[easel.activeTab()] || {};
    const canvas = el("canvas", { width: form.width || 1024, height: form.height || 1024 });
    const context = canvas.getContext("2d");
    context.fillStyle = "#b9c0c0";
    context.fillRect(0, 0, canvas.width, canvas.height);
    return easel.storeInput(await new Promise((done) => canvas.toBlob(done, "image/png")));
  }

  // Resolves to the sha256 of the mask that was painted, "" for an empty one, null if nothing was changed.
  async function paint(title) {
    const place = el("div", {}), dialog = el("dialog", { class: "paint-dialog", "aria-label": title });
    const painter = new easel.Painter(place, null);
    const answer = new Promise((done) => {
      const finish = async (keep) => {
        const sha256 = keep ? (await painter.handOver()).mask : null;
        dialog.close();
        dialog.remove();
        done(sha256);
      };
      dialog.addEventListener("cancel", (event) => {
        event.preventDefault();
        finish(false);
      });
      const button = (words, keep, kind) => el("button", { type: "button", class: kind, onclick: () => finish(keep).catch((error) => easel.toast(error.message, "error")) }, words);
      dialog.append(el("h3", {}, title), place, el("div", { class: "paint-dialog-foot" }, button("Cancel", false, "plain"), button("Use this mask", true, "plain accent")));
    });
    document.querySelector(".gradio-container").append(dialog);
    dialog.showModal();
    await painter.show(await sheet());
    painter.bar.remove();
    return answer;
  }

  easel.pictureField = (schema, id, value, change) => {
    const image = el("img", { class: "panel-thumb", alt: schema.title || "", draggable: "false" });
    const drop = easel.dropZone(schema.picture === "mask" ? "Drop a mask, or click to choose one" : "Drop a picture, or click to choose one", take, null);
    drop.zone.classList.add("small");
    drop.input.id = id;
    const other = el("button", { type: "button", class: "plain", onclick: () => drop.input.click() }, "Other");
    const remove = easel.iconButton(`Remove ${schema.title || "the picture"}`, "close", () => set(""));
    const brush = schema.picture === "mask" ? el("button", { type: "button", class: "plain", onclick: async () => {
      try {
        const sha256 = await paint(schema.title || "Mask");
        if (sha256 !== null) set(sha256);
      } catch (error) {
        easel.toast(error.message, "error");
      }
    } }, "Paint") : null;
    const held = el("div", { class: "panel-picture" }, image, el("span", { class: "panel-picture-bar" }, other, remove));
    easel.acceptDrops(held, take);
    image.addEventListener("error", () => image.classList.add("gone")); // its bytes have gone from inputs/

    async function take(file) {
      drop.zone.classList.add("busy");
      try {
        const stored = await easel.storeInput(file);
        (stored.notes || []).forEach((note) => easel.toast(note));
        set(stored.sha256);
      } catch (error) {
        easel.toast(error.message, "error");
      } finally {
        drop.zone.classList.remove("busy");
      }
    }
    function set(sha256) {
      show(sha256);
      change(sha256);
    }
    function show(sha256) {
      drop.zone.hidden = Boolean(sha256);
      held.hidden = !sha256;
      image.classList.remove("gone");
      if (sha256) image.src = `/api/v1/inputs/${sha256}`;
      else image.removeAttribute("src");
    }
    show(value);
    return { nodes: [brush, el("div", { class: "panel-picture-place" }, drop.zone, held)].filter(Boolean), show, kind: "picture" };
  };

  // A file of one folder of models/; one that is not there any more stays chosen, and says so.
  easel.fileField = (schema, id, value, change) => {
    const select = el("select", { id, onchange: () => {
      chosen = select.value;
      change(chosen);
    } });
    let chosen = value, shown = null;
    function draw() {
      const files = easel.models.filter((model) => model.folder === schema.folder && (model.usable || !model.read));
      const family = easel.family(), fits = (model) => !model.family || !family || model.family === family;
      const names = files.filter(fits).map((model) => model.name);
      const missing = chosen && !names.includes(chosen) ? [chosen] : [];
      const told = JSON.stringify([names, missing]);
      if (told !== shown) {
        shown = told;
        const none = names.length || schema.empty !== "None" ? schema.empty : `None in models/${schema.folder}`;
        select.replaceChildren(el("option", { value: "" }, none), ...missing.map((name) => el("option", { value: name }, `${name} (not for this checkpoint, or gone)`)), ...names.map((name) => el("option", { value: name }, name)));
      }
      select.value = chosen;
    }
    const show = (wanted) => {
      chosen = wanted;
      draw();
    };
    const redraw = () => (select.isConnected || shown === null) && draw();
    easel.on("models", redraw);
    easel.on("form", redraw);
    draw();
    return { nodes: [select], show, kind: "choice" };
  };
})(window.easel);
