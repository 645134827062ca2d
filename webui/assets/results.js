// The results panel: what runs, what waits, what came out. One panel, shown in whichever tab is open.
(function (easel) {
  "use strict";

  const { el } = easel;
  const slots = {};
  const PREVIEW = /^data:image\/(jpeg|png|webp);base64,[A-Za-z0-9+/=]*$/;
  const MOST_THUMBS = 60;
  let panel = null, shown = null, picked = false, followed = null;
  const seen = new Set();

  // -- one panel, several places

  easel.parts.results = (element, options) => {
    slots[options.tab] = element;
    place();
  };
  function place() {
    panel = panel || build();
    const slot = slots[easel.activeTab()];
    if (slot && panel.root.parentElement !== slot) slot.append(panel.root);
  }
  easel.on("tab", place);

  function build() {
    const part = {
      away: el("div", { class: "away", role: "alert", hidden: true }, "Reconnecting to Easel …"),
      bar: el("div", { class: "bar", role: "progressbar", "aria-label": "Progress", "aria-valuemin": 0, "aria-valuemax": 100 },
        el("div", { class: "fill" })),
      nowText: el("span", { class: "now-text" }),
      cancel: el("button", { type: "button", class: "plain", onclick: () => easel.runningJob() && easel.cancel(easel.runningJob().id) }, "Cancel"),
      plan: el("div", { class: "plan" }),
      queue: el("ol", { class: "queue", "aria-label": "Queue" }),
      trouble: el("div", { class: "trouble", role: "alert", hidden: true }),
      picture: el("img", { class: "picture", alt: "", hidden: true, onclick: () => shown && easel.openViewer(shown.id) }),
      live: el("span", { class: "live", hidden: true }, "live preview"),
      empty: el("div", { class: "empty" }, "Pictures appear here."),
      notes: el("ul", { class: "notes", hidden: true }),
      parameters: el("pre", { class: "parameters", hidden: true, tabindex: 0, "aria-label": "Parameters" }),
      thumbs: el("div", { class: "thumbs", role: "group", "aria-label": "Pictures so far" }),
    };
    part.now = el("div", { class: "now", hidden: true }, part.bar, el("div", { class: "now-line" }, part.nowText, part.cancel), part.plan);
    part.actions = el("div", { class: "picture-actions", hidden: true },
      action("img2img", "to-img2img", "Send to img2img", () => send("img2img")),
      action("inpaint", "to-inpaint", "Send to inpaint", () => send("inpaint")),
      action("Seed", "recycle", "Use this seed again", () => easel.send("apply", { tab: easel.activeTab(), values: { seed: shown.seed } })),
      action("Copy", "copy", "Copy parameters", () => easel.copy(shown.parameters)),
      action("Save", "download", "Download", () => easel.download(shown)));
    part.stage = el("figure", { class: "stage" }, part.picture, part.live, part.empty);
    part.root = el("section", { class: "results", "aria-label": "Results" },
      part.away, part.now, part.trouble, part.stage, part.actions, part.thumbs, part.notes, part.parameters, part.queue);
    return part;
  }

  function action(words, icon, name, onclick) {
    return el("button", { type: "button", class: `plain with-icon icon-${icon}`, title: name, "aria-label": name, onclick }, words);
  }

  function send(tab) {
    const job = jobOf(shown.id);
    easel.sendPicture(tab, shown, job ? job.request : null);
  }

  easel.download = (image) => {
    const link = el("a", { href: image.url, download: `easel-${image.seed}-${image.id.slice(0, 8)}` });
    document.body.append(link);
    link.click();
    link.remove();
  };

  // -- what is shown

  const jobOf = (id) => easel.state.jobs.find((job) => job.images.some((image) => image.id === id));
  easel.pictures_shown = () => easel.state.jobs.flatMap((job) => job.images).slice(0, MOST_THUMBS);
  easel.shownSeed = (otherwise) => (shown ? shown.seed : otherwise);
  easel.pick = (id) => {
    shown = easel.pictures_shown().find((image) => image.id === id) || shown;
    picked = true;
    draw();
  };

  function follow() {
    const latest = easel.state.jobs.find((job) => job.state !== "queued");
    if (latest && latest.id !== followed) {
      followed = latest.id; // a new job began: look at it, whatever was picked before
      picked = false;
    }
    const images = easel.pictures_shown();
    const fresh = images.filter((image) => !seen.has(image.id));
    const first = seen.size === 0;
    fresh.forEach((image) => seen.add(image.id));
    if (fresh.length && !first && !picked) shown = fresh[0].id && jobOf(fresh[0].id).images.at(-1);
    if (shown) shown = images.find((image) => image.id === shown.id) || null;
    if (!shown && images.length) shown = easel.state.jobs.find((job) => job.images.length).images.at(-1);
  }

  function duration(seconds) {
    if (seconds < 1) return "a moment";
    if (seconds < 90) return `${Math.round(seconds)} s`;
    return seconds < 5400 ? `${Math.round(seconds / 60)} min` : `${(seconds / 3600).toFixed(1)} h`;
  }

  function drawNow(job) {
    panel.now.hidden = !job;
    document.body.classList.toggle("job-runs", easel.unfinished().length > 0);
    if (!job) return;
    const p = job.progress;
    const total = p ? p.steps * Math.max(1, p.batches) : 0;
    const done = p ? p.batch * p.steps + p.step : 0;
    const told = p && p.share !== null && p.share !== undefined;
    const share = told ? p.share : total ? Math.min(1, done / total) : 0;
    panel.bar.classList.toggle("unknown", !p);
    panel.bar.firstElementChild.style.width = `${(share * 100).toFixed(1)}%`;
    panel.bar.setAttribute("aria-valuenow", Math.round(share * 100));
    const words = p
      ? [`Step ${p.step}/${p.steps}`, p.batches > 1 ? `batch ${p.batch + 1}/${p.batches}` : null,
         p.seconds_left === null || p.seconds_left === undefined ? null : `${duration(p.seconds_left)} left`]
      : [easel.state.engine.state === "ready" ? "Getting ready …" : "Waiting for the engine …"];
    panel.nowText.textContent = words.filter(Boolean).join(" · ");
    panel.plan.textContent = job.plan || "";
    panel.plan.hidden = !job.plan;
  }

  function drawQueue() {
    const waiting = easel.state.jobs.filter((job) => job.state === "queued").reverse();
    panel.queue.hidden = !waiting.length;
    const rows = waiting.map((job, i) => {
      const old = panel.queue.querySelector(`li[data-job="${CSS.escape(job.id)}"]`);
      const row = old || el("li", { "data-job": job.id },
        el("span", { class: "place" }), el("span", { class: "kind" }, job.tab), el("span", { class: "words" }, job.prompt || "(no prompt)"),
        easel.iconButton("Cancel this job", "close", () => easel.cancel(job.id)));
      row.querySelector(".place").textContent = `${i + 1}.`;
      return row;
    });
    if (rows.some((row, i) => panel.queue.children[i] !== row) || rows.length !== panel.queue.children.length) {
      panel.queue.replaceChildren(...rows);
    }
  }

  function drawTrouble() {
    const newest = easel.state.jobs.find((job) => job.state !== "queued" && job.state !== "running");
    const failed = newest && newest.state === "failed" && newest.error ? newest.error : null;
    const engine = easel.state.engine.trouble || "";
    panel.trouble.hidden = !failed && !engine;
    panel.trouble.replaceChildren(
      ...(engine ? [el("p", {}, engine)] : []),
      ...(failed ? [el("p", { class: "what" }, failed.what), failed.todo ? el("p", { class: "todo" }, failed.todo) : null].filter(Boolean) : []));
  }

  function drawPicture(job) {
    const preview = job && !picked && job.progress && PREVIEW.test(job.progress.preview || "") ? job.progress.preview : null;
    const source = preview || (shown ? shown.url : "");
    panel.picture.hidden = !source;
    panel.empty.hidden = Boolean(source);
    panel.live.hidden = !preview;
    panel.stage.classList.toggle("is-live", Boolean(preview));
    if (source && panel.picture.getAttribute("src") !== source) panel.picture.src = source;
    const size = preview ? job.request : shown;
    if (size && size.width) {
      panel.picture.style.aspectRatio = `${size.width} / ${size.height}`;
      panel.picture.style.maxWidth = `min(100%, ${Math.max(384, 2.5 * size.width)}px)`; // a small picture stays crisp
    }
    const owner = shown && jobOf(shown.id);
    panel.picture.alt = preview ? "Live preview" : owner ? owner.prompt || "Result" : "";
    panel.actions.hidden = Boolean(preview) || !shown;
    panel.parameters.hidden = panel.actions.hidden;
    if (shown) panel.parameters.textContent = easel.shownParameters(shown.parameters);
    const notes = (preview ? job : owner || easel.state.jobs[0] || {}).notes || [];
    panel.notes.hidden = !notes.length;
    panel.notes.replaceChildren(...notes.map((note) => el("li", {}, note)));
  }

  function drawThumbs() {
    const images = easel.pictures_shown();
    panel.thumbs.hidden = images.length < 2;
    const old = new Map([...panel.thumbs.children].map((child) => [child.dataset.image, child]));
    const buttons = images.map((image) => {
      const button = old.get(image.id) || el("button", { type: "button", "data-image": image.id, "aria-label": `Picture with seed ${image.seed}`, onclick: () => easel.pick(image.id), ondblclick: () => easel.openViewer(image.id) },
        el("img", { src: image.thumb, alt: "", loading: "lazy" }));
      button.classList.toggle("chosen", Boolean(shown) && image.id === shown.id);
      return button;
    });
    if (buttons.length !== panel.thumbs.children.length || buttons.some((button, i) => panel.thumbs.children[i] !== button)) {
      panel.thumbs.replaceChildren(...buttons);
    }
  }

  function draw() {
    panel = panel || build();
    const running = easel.runningJob();
    follow();
    panel.away.hidden = !easel.state.away;
    drawNow(running || (easel.unfinished().length && easel.state.engine.state !== "ready" ? easel.unfinished().at(-1) : null));
    drawQueue();
    drawTrouble();
    drawPicture(running);
    drawThumbs();
  }
  easel.on("state", draw);
})(window.easel);
