// The form as the browser remembers it, what happens just before Generate's handler runs, and the chosen checkpoint.
(function (easel) {
  "use strict";

  const TABS = ["txt2img", "img2img", "inpaint"];
  const PER_CHECKPOINT = [
    "width", "height", "steps", "cfg_scale", "sampler", "schedule", "shift", "prediction", "zero_terminal_snr", "clip_skip",
  ];
  const DOUBLE_CLICK = 600; // ms
  const form = { shared: {}, tabs: Object.fromEntries(TABS.map((tab) => [tab, {}])) };
  let lastClick = {};
  let ready = false, chosen = "";
  easel.form = form;

  // Called by gradio with every component's value whenever one of them changes.
  easel.remember = (place, names, values) => {
    const kept = Object.fromEntries(names.map((name, i) => [name, values[i]]));
    if (place === "shared" && easel.isWaiting) kept.checkpoint = chosen; // an older choice's answer comes late
    else if (place === "shared") chosen = kept.checkpoint;
    if (place === "shared") form.shared = kept;
    else form.tabs[place] = kept;
    if (ready) easel.store.write("form", form);
    if (place === "shared") showFamily();
    easel.emit("form", place);
  };

  easel.restoreForm = () => easel.send("restore", easel.store.read("form", {}));
  easel.restored = (shared) => {
    [form.shared.checkpoint, form.shared.vae] = shared;
    chosen = form.shared.checkpoint;
    ready = easel.isRestored = true;
    showFamily();
    easel.emit("form", "shared");
  };

  // -- the checkpoint: its family decides which controls show; its last used values come back with it

  easel.checkpoint = () => easel.modelNamed(form.shared.checkpoint, "checkpoints");
  easel.family = () => (easel.checkpoint() || {}).family || "";
  function showFamily() {
    const family = easel.family(), inputs = (easel.checkpoint() || {}).inputs || "none";
    if (document.body && (document.body.dataset.family !== family || document.body.dataset.inputs !== inputs)) {
      document.body.dataset.family = family;
      document.body.dataset.inputs = inputs;
      easel.emit("form", "family");
    }
  }

  function rememberForCheckpoint(name, values) {
    if (!name) return;
    const kept = easel.store.read("checkpoints", {});
    kept[name] = Object.fromEntries(PER_CHECKPOINT.map((field) => [field, values[field]]));
    easel.store.write("checkpoints", kept);
  }

  easel.checkpointChosen = (name, useMemory) => {
    const remembered = useMemory ? easel.store.read("checkpoints", {})[name] : undefined;
    if (useMemory && name === chosen) return;
    chosen = form.shared.checkpoint = name; // at once: Generate may be pressed before the server has answered
    easel.isWaiting = true;
    showFamily();
    easel.emit("form", "shared");
    easel.send("wanted", { checkpoint: name, remembered: remembered || {} });
  };

  easel.wantedShown = () => {
    easel.isWaiting = false;
  };

  // -- Generate

  // The same form twice within a moment is a double click: one key, hence one job. Unless one was cancelled in between:
  // who does that and presses again means another.
  function clickKey(tab, at, values) {
    const last = lastClick[tab], form = JSON.stringify(values);
    const key = last && at - last.at < DOUBLE_CLICK && last.form === form ? last.key : easel.randomKey();
    lastClick[tab] = { at, key, form };
    return key;
  }
  easel.on("cancelled", () => { lastClick = {}; });

  // Fills in what only the browser knows; throwing keeps the handler from running.
  easel.beforeSubmit = async (tab, names, values) => {
    const at = performance.now(), filled = { init_image: "", mask: "" };
    const box = easel.pictures && easel.pictures[tab];
    try {
      Object.assign(filled, easel.groupsUntold(tab));
      filled.extensions = JSON.stringify(easel.extensionValues(tab, values[names.indexOf("sampler")]));
      if (box) Object.assign(filled, await box.handOver());
    } catch (error) {
      easel.toast(error.message, "error");
      throw error;
    }
    if (form.shared.checkpoint) filled.checkpoint = form.shared.checkpoint;
    const named = { ...Object.fromEntries(names.map((name, i) => [name, values[i]])), checkpoint: form.shared.checkpoint };
    rememberForCheckpoint(named.checkpoint, named);
    const sent = values.map((value, i) => (names[i] in filled ? filled[names[i]] : value));
    sent[names.indexOf("key")] = clickKey(tab, at, sent);
    return sent;
  };

  // -- parameters into a tab

  const SENT = [
    "prompt", "negative_prompt", "prompt_clip_l", "prompt_clip_g", "prompt_t5", "use_t5", "t5_full_length",
    "t5_zeros", "emphasis", "emphasis_t5", "clip_skip", "prediction", "zero_terminal_snr",
    "width", "height", "steps", "sampler", "schedule", "shift", "cfg_scale", "cfg_rescale", "guidance_start",
    "guidance_end", "seed", "variation_seed", "variation_strength", "image_cfg_scale", "skip_layers",
    "skip_layer_scale", "skip_layer_start", "skip_layer_end", "refiner", "refiner_switch", "aesthetic_score",
    "negative_aesthetic_score", "extensions",
  ];
  // A picture of the gallery goes to another tab together with what it was made from.
  easel.sendPicture = async (tab, image, request) => {
    const values = Object.fromEntries(SENT.filter((name) => request && name in request).map((name) => [name, request[name]]));
    values.seed = image.seed;
    values.width = image.width;
    values.height = image.height;
    easel.send("apply", { tab, values });
    easel.showTab(tab);
    try {
      await easel.pictureBox(tab).then((box) => box.takeUrl(image.url, `seed-${image.seed}.png`));
    } catch (error) {
      easel.toast(error.message, "error");
    }
  };

  // The same for a tab of an extension, which knows the picture's id: its job may be older than the state's.
  easel.sendPictureById = async (tab, id) => {
    if (!id) return;
    try {
      const { image, request } = await easel.api(`images/${encodeURIComponent(id)}/made`);
      await easel.sendPicture(tab, image, request);
    } catch (error) {
      easel.toast(error.message, "error");
    }
  };

  // The picture box of a tab is built when the tab is first shown.
  easel.pictures = {};
  easel.pictureBox = async (tab) => {
    for (let tries = 0; tries < 100; tries += 1) {
      if (easel.pictures[tab]) return easel.pictures[tab];
      await new Promise((done) => setTimeout(done, 50));
    }
    throw new Error(`The ${tab} tab did not open.`);
  };

  easel.on("models", showFamily);
  easel.tabs = TABS;
})(window.easel);
