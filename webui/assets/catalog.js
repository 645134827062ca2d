// The model files as the server lists them: fetched anew when the state says that they have changed; and how to search them.
(function (easel) {
  "use strict";

  const LEAST_PAUSE = 2500; // ms between two fetches while headers are still being read: thousands of files are megabytes
  let version = null, fetchedAt = 0, timer = null, busy = false, again = false;
  easel.models = [];
  easel.modelsTold = { troubles: [], unread: 0 };

  const FAMILIES = [["sdxl", "SDXL"], ["sdxl_refiner", "SDXL refiner"], ["sd3", "SD3 and SD3.5"], ["sd2", "SD2"], ["sd1", "SD1.5"]];
  easel.familyLabel = (family) => (FAMILIES.find(([name]) => name === family) || [family, family])[1] || "";
  const PREDICTIONS = { edm: "EDM", edm_v: "EDM v" };
  easel.predictionWords = (prediction) => PREDICTIONS[prediction] || prediction;
  easel.familyPlace = (family) => {
    const place = FAMILIES.findIndex(([name]) => name === family);
    return place < 0 ? FAMILIES.length : place;
  };

  easel.modelsChanged = async (options) => {
    clearTimeout(timer);
    if (busy) {
      again = true;
      return;
    }
    busy = true;
    try {
      const told = await easel.api(options && options.look ? "models?look=1" : "models");
      version = told.version;
      easel.models = told.models;
      easel.modelsTold = told;
    } catch (error) {
      if (!error.away) easel.toast(error.message, "error");
    }
    fetchedAt = Date.now();
    busy = false;
    easel.emit("models", easel.models);
    if (again) {
      again = false;
      easel.modelsChanged();
    }
  };

  easel.on("state", (state) => {
    if (state.models === undefined || state.models === version || state.away) return;
    clearTimeout(timer);
    const wait = easel.modelsTold.unread ? Math.max(0, fetchedAt + LEAST_PAUSE - Date.now()) : 0;
    timer = setTimeout(easel.modelsChanged, wait);
  });

  // The drop-down lists are gradio's: they are told when what they offer has changed.
  let offered = null;
  easel.on("models", (models) => {
    const names = JSON.stringify(models.filter((model) => model.usable).map((model) => [model.folder, model.name]));
    if (offered !== null && names !== offered) easel.send("rescan", {});
    offered = names;
  });

  easel.modelNamed = (name, folder) => easel.models.find((model) => model.name === name && model.folder === folder);

  const words = new WeakMap();
  const wordsOf = (model) => {
    if (!words.has(model)) {
      const told = [model.name, model.kind, easel.familyLabel(model.family), model.variant, model.precision, model.prediction, model.root, model.hash, model.folder, easel.familyLabel(model.made_for), ...(model.words || [])];
      words.set(model, told.filter(Boolean).join(" ").toLowerCase());
    }
    return words.get(model);
  };
  // Every word of the search stands somewhere in what is known of the file.
  easel.searchModels = (models, search) => {
    const wanted = search.toLowerCase().split(/\s+/).filter(Boolean);
    return wanted.length ? models.filter((model) => wanted.every((word) => wordsOf(model).includes(word))) : models;
  };

  easel.size = (count) =>
    count >= 2 ** 30 ? `${(count / 2 ** 30).toFixed(1)} GiB` : count >= 2 ** 20 ? `${Math.round(count / 2 ** 20)} MiB` : `${Math.ceil((count || 0) / 1024)} KiB`;

  // The picture beside a file, or the first letters of its name.
  easel.modelPicture = (model) => {
    const letters = model.name.split("/").pop().replace(/[^\p{L}\p{N}]/gu, "").slice(0, 2);
    const tile = easel.el("span", { class: "model-picture", "aria-hidden": "true" }, letters);
    if (model.preview) {
      const image = easel.el("img", { src: model.preview, alt: "", loading: "lazy", decoding: "async", onerror: () => image.remove() });
      tile.append(image);
    }
    return tile;
  };

  // A list that grows as it is scrolled: thousands of rows never stand in the page at once.
  easel.growing = (list, step, build) => {
    let items = [], shown = 0;
    const end = easel.el("li", { class: "list-end", "aria-hidden": "true" });
    const grow = (count) => {
      const next = items.slice(shown, Math.min(items.length, shown + count));
      shown += next.length;
      end.remove();
      list.append(...next.map((item, i) => build(item, shown - next.length + i)).flat());
      if (shown < items.length) list.append(end);
    };
    const watcher = new IntersectionObserver((seen) => {
      if (!seen.some((entry) => entry.isIntersecting)) return;
      grow(step);
      watcher.unobserve(end); // observed anew: it may still be in sight
      if (shown < items.length) watcher.observe(end);
    }, { rootMargin: "600px" });
    return {
      set(next, atLeast) {
        items = next;
        shown = 0;
        list.replaceChildren();
        grow(Math.max(step, atLeast || 0));
        watcher.unobserve(end);
        if (shown < items.length) watcher.observe(end);
      },
      reach(index) {
        if (index >= shown) grow(index - shown + 1);
      },
      get shown() {
        return shown;
      },
    };
  };

  easel.whenReady(easel.modelsChanged);
})(window.easel);
