// The page started anew: the button for it, and an open page that loads itself again when it is older than its server.
// What only this page knows goes along: prompts as they stand, pictures and masks, which tab is open.
(function (easel) {
  "use strict";

  const { el } = easel;
  const PLACE = "easel.return", QUIET = 800, LOOK = 250; // ms
  let newer = "", pressed = false, touched = 0, drafts = false;

  document.addEventListener("pointerdown", () => { pressed = true; }, true);
  ["pointerup", "pointercancel"].forEach((name) => document.addEventListener(name, () => { pressed = false; }, true));
  document.addEventListener("input", (event) => {
    touched = performance.now();
    drafts = drafts || Boolean(event.target.closest && event.target.closest(".extension-tab"));
  }, true);

  easel.restartPage = async (button) => {
    button.disabled = true;
    try {
      easel.toast((await easel.post("restart", { what: "page" })).told);
      button.textContent = "The page is started again";
    } catch (error) {
      button.disabled = false;
      easel.toast(error.message, "error");
    }
    easel.lookNow();
  };

  // In the middle of something: it is waited for.
  const isAtWork = () => pressed || easel.uploads > 0 || easel.isWaiting || performance.now() - touched < QUIET || document.querySelector("dialog[open], [aria-busy='true']");
  // What cannot be brought along: fields of extensions' tabs, a proposal that is being edited.
  const holdsDrafts = () => drafts || [...document.querySelectorAll(".action-result")].some((place) => !place.hidden && place.querySelector("textarea, input, select"));

  // It was loaded for that very page already, and what came is older: something between keeps pages. Not for ever, then.
  const isStuck = () => kept && kept.newer === newer;

  async function pictures() {
    const kept = {};
    for (const [tab, box] of Object.entries(easel.pictures)) {
      if (box.stored || box.arriving) kept[tab] = { ...(await box.handOver()), stored: box.stored };
    }
    return kept;
  }

  function keepPrompts() {
    for (const tab of easel.tabs) {
      for (const [field, id] of [["prompt", "prompt"], ["negative_prompt", "neg_prompt"]]) {
        const area = document.querySelector(`#${tab}_${id} textarea`);
        if (area && Object.keys(easel.form.tabs[tab]).length) easel.form.tabs[tab][field] = area.value;
      }
    }
    if (easel.isRestored) easel.store.write("form", easel.form);
  }

  async function reload() {
    try {
      const kept = { newer, tab: easel.activeTab(), scroll: window.scrollY, pictures: await pictures() };
      keepPrompts();
      sessionStorage.setItem(PLACE, JSON.stringify(kept));
    } catch (error) {
      easel.toast(error.message, "error"); // a picture could not be handed over: stay
      return false;
    }
    window.location.reload();
    return true;
  }

  function offer() {
    if (document.getElementById("easel_old_page")) return;
    document.body.append(el("div", { id: "easel_old_page", role: "alert" },
      el("span", {}, "Easel's page was started again. Something here is unfinished that would be lost."),
      el("button", { type: "button", class: "plain accent", onclick: reload }, "Load the page")));
  }

  async function wait() {
    if (holdsDrafts() || isStuck()) offer();
    else if (!isAtWork() && (await reload())) return;
    setTimeout(wait, LOOK);
  }

  easel.on("page is old", (page) => {
    const isFirst = !newer;
    newer = page;
    if (isFirst) wait();
  });

  // -- after it

  function returned() {
    try {
      const kept = JSON.parse(sessionStorage.getItem(PLACE));
      sessionStorage.removeItem(PLACE);
      return kept;
    } catch {
      return null; // no storage
    }
  }
  const kept = returned();
  easel.on("picture box", async (box) => {
    const held = kept && kept.pictures[box.tab];
    if (!held || !held.stored || box.stored || box.arriving) return;
    delete kept.pictures[box.tab];
    await box.show(held.stored);
    if (held.mask && box.stored === held.stored) await box.showMask(held.mask);
  });
  if (kept) {
    const back = setInterval(() => {
      if (!easel.isRestored) return;
      clearInterval(back);
      if (kept.tab !== easel.activeTab()) easel.showTab(kept.tab);
      window.scrollTo(0, kept.scroll);
    }, 50);
  }
})(window.easel);
