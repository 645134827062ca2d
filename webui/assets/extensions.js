// The Extensions tab: what is installed, whether it may run, which hooks it has and what they cost. All of it is shown as text.
(function (easel) {
  "use strict";

  const { el } = easel;
  const STATUS = { on: "on", off: "off", new: "waits for you", changed: "has changed", refused: "cannot run", failed: "failed", crashed: "crashed" };
  const TROUBLES = ["refused", "failed", "crashed"];

  const seconds = (value) => (value < 0.001 ? "under 1 ms" : value < 1 ? `${Math.round(1000 * value)} ms` : `${value.toFixed(1)} s`);

  function figures(row) {
    const told = [];
    if (row.import_seconds !== null) told.push(`imported in ${seconds(row.import_seconds)}`);
    if (row.seconds_per_picture !== null) told.push(`${seconds(row.seconds_per_picture)} in its hooks per picture`);
    return told.join(", ");
  }
  const hookTitle = (part, hook, whose) =>
    part.hook_calls[hook] ? `${part.hook_calls[hook]} calls, ${seconds(part.hook_seconds[hook] || 0)} since ${whose} start` : `not called since ${whose} start`;
  const hooks = (part, whose) =>
    part.hooks.length ? el("div", { class: "model-facts" }, ...part.hooks.map((hook) => el("span", { class: "fact", title: hookTitle(part, hook, whose) }, hook))) : null;
  const detail = (part) =>
    part.detail ? el("details", { class: "model-details" }, el("summary", {}, "What happened"), el("pre", { class: "extension-detail" }, part.detail)) : null;

  // What it does in the page's own process: tabs, routes, the queue.
  function webPart(row, note) {
    const web = row.web;
    if (!web) return [];
    const troubled = !web.reason.startsWith("Importing it took");
    const spent = Object.values(web.hook_seconds).reduce((sum, each) => sum + each, 0);
    const told = [`imported in ${seconds(web.import_seconds)}`, `${seconds(spent)} in its hooks since Easel's start`];
    if (web.failures) told.push(`${web.failures} failure${web.failures === 1 ? "" : "s"}`);
    return [
      web.reason && web.reason !== row.reason ? note(`In the page: ${web.reason}`, troubled ? "model-problem" : "extension-reason") : null,
      hooks(web, "Easel's"),
      web.hooks.length ? note(`In the page: ${told.join(", ")}`) : null,
      web.pending ? note("What it has in the page follows when the page is started again.") : null,
      detail(web),
    ];
  }

  async function turn(row, on) {
    try {
      easel.toast((await easel.post(`extensions/${encodeURIComponent(row.name)}`, { on })).told);
    } catch (error) {
      easel.toast(error.message, "error");
    }
    easel.emit("extensions");
  }

  function buttons(row) {
    const button = (label, on) => el("button", { type: "button", class: "plain", "aria-label": `${label}: ${row.title}`, onclick: () => turn(row, on) }, label);
    if (row.status === "refused") return [];
    if (row.status === "new" || row.status === "changed") return [button("Approve", true), ...(row.status === "changed" ? [button("Switch off", false)] : [])];
    if (row.status === "off") return [button(row.bundled ? "Switch on" : "Approve", true)];
    return [...(row.status === "on" ? [] : [button("Try again", true)]), button("Switch off", false)];
  }

  function card(row) {
    const note = (text, kind) => (text ? el("div", { class: kind || "model-note" }, text) : null);
    const asks = ["new", "changed", "off"].includes(row.status) && !row.bundled;
    return el("li", { class: `extension ${row.status}`, "data-name": row.name },
      el("div", { class: "extension-head" }, el("strong", {}, row.title), el("span", { class: "extension-status" }, STATUS[row.status] || row.status)),
      note([row.name, row.version, row.bundled ? "ships with Easel" : ""].filter(Boolean).join(" · ")),
      row.description ? el("div", {}, row.description) : null,
      note(row.reason, TROUBLES.includes(row.status) ? "model-problem" : "extension-reason"),
      asks ? note(`Its files lie in ${row.folder}: look at them before you approve it.`) : null,
      note(row.pending ? "Takes effect when the engine is started anew, as soon as no job runs." : ""),
      hooks(row, "the engine's"),
      note(figures(row)),
      detail(row),
      ...webPart(row, note),
      el("div", { class: "extension-buttons" }, ...buttons(row)));
  }

  // What waits for the page to be started anew, and the button for it; without a launcher, what to do instead.
  function restart(rows, { possible, otherwise }) {
    const waiting = rows.filter((row) => row.web && row.web.pending).map((row) => row.title);
    if (!waiting.length) return [];
    const what = `Not in the page yet as you want it: ${waiting.join(", ")}.`;
    if (!possible) return [el("span", {}, `${what} Easel was started without its launcher: ${otherwise}.`)];
    const button = el("button", { type: "button", class: "plain accent", onclick: () => easel.restartPage(button) }, "Restart the page");
    return [el("span", {}, `${what} Jobs go on meanwhile, and the form comes back.`), button];
  }

  easel.parts.extensions = (element) => {
    const list = el("ul", { class: "extension-list" });
    const trouble = el("div", { class: "model-problem", hidden: true, role: "status" });
    const bar = el("div", { class: "extension-restart", hidden: true });
    element.append(el("div", { class: "models-part" }, trouble, bar, list));
    let shown = "", busy = false, again = false, unfinished = 0;

    async function look() {
      if (busy) {
        again = true;
        return;
      }
      busy = true;
      try {
        const answer = await easel.api("extensions"), rows = answer.extensions, told = JSON.stringify(answer);
        if (told !== shown) {
          list.replaceChildren(...(rows.length ? rows.map(card) : [el("li", { class: "empty" }, "No extensions are installed.")]));
          bar.replaceChildren(...restart(rows, answer.restart));
          bar.hidden = !bar.childElementCount;
        }
        shown = told;
      } catch (error) {
        if (!error.away) easel.toast(error.message, "error");
      }
      busy = false;
      if (again) {
        again = false;
        look();
      }
    }
    const isOpen = () => element.offsetParent !== null;
    easel.on("extensions", look);
    easel.on("registry", look);
    easel.on("tab", () => isOpen() && look());
    easel.on("state", (state) => {
      trouble.textContent = state.engine.trouble || "";
      trouble.hidden = !state.engine.trouble;
      const now = easel.unfinished().length;
      if (now < unfinished && isOpen()) look(); // a job is over: its figures are told
      unfinished = now;
    });
    look();
  };
})(window.easel);
