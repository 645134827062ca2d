// Names of embeddings, and of LoRAs and what their tags may say behind a "<", while one types a prompt: a list under the
// box. Tab takes the first, arrows and Enter another. Words of extensions join it when they have come: they are searched
// by the server, one question at a time, and typing never waits for them.
(function (easel) {
  "use strict";

  const { el } = easel;
  const MOST = 8, LEAST = 2; // names shown, characters typed
  const PAUSE = 60, LONGEST = 200; // ms before extensions are asked; characters that they are asked for
  const list = el("ul", { class: "word-list", role: "listbox", id: "easel_words", "aria-label": "Words for the prompt" });
  const MADE_FOR = { sdxl: "SDXL", sd3: "SD3", sd2: "SD2", sd1: "SD1" }; // how what a LoRA was made for begins
  let words = [], loras = [], shown = [], marked = -1, area = null, from = 0, until = 0, tag = "";
  let told = [], timer = null, isAsking = false, dismissed = false; // rows of extensions, and the question on its way

  // A word is a file's bare name; of two with the same one, the later goes by its whole name.
  easel.embeddingWords = (models) => {
    const taken = new Set();
    return models.filter((model) => model.folder === "embeddings" && model.usable).map((model) => {
      const bare = model.name.split("/").pop(), word = taken.has(bare.toLowerCase()) ? model.name : bare;
      taken.add(bare.toLowerCase());
      return { word, made: model.variant || "", count: Math.max(...model.vectors.map((row) => row.count)) };
    });
  };

  // Which tags name a LoRA is told by the registry: an extension brings them.
  const tagRows = () => easel.registry.prompt_tags || [];
  const tagNames = () => tagRows().filter((tag) => tag.folder === "loras").map((tag) => tag.name);

  // The adapter formats of extensions that may read a file which Easel itself does not know; whether one does is seen
  // when it is used.
  easel.foreignFormats = (model) => {
    const unknown = model.folder === "loras" && model.kind === "unknown";
    return unknown ? (easel.registry.adapter_formats || []).map((format) => format.label) : [];
  };
  easel.isAdapter = (model) => (model.folder === "loras" && model.usable) || easel.foreignFormats(model).length > 0;

  // A LoRA's name becomes a whole tag, with its strength selected; one with another strength behind it keeps that.
  easel.loraWords = (models) => models.filter(easel.isAdapter).map((model) => ({
    word: model.name, made: model.made_for || "", rank: model.rank, triggers: model.words || [], tag: true,
    foreign: easel.foreignFormats(model),
  }));
  easel.loraTag = (name) => (tagNames().length ? `<${tagNames()[0]}:${name}:1>` : "");
  const fits = ({ made }) => {
    const start = MADE_FOR[document.body.dataset.family];
    return !made || !start || made.split(" or ").some((model) => model.startsWith(start));
  };
  easel.on("models", (models) => {
    words = easel.embeddingWords(models);
    loras = easel.loraWords(models);
  });
  easel.on("registry", () => { loras = easel.loraWords(easel.models); });

  // Characters that mean something in a prompt stand behind a backslash.
  const written = ({ word }) => word.replace(/[\\()[\]:|<>]/g, "\\$&");
  const facts = (entry) => entry.fact !== undefined ? entry.fact : entry.help || (entry.tag
    ? [entry.made, entry.foreign.length && `perhaps ${entry.foreign.join(" or ")}`, entry.rank && `rank ${entry.rank}`, entry.triggers.slice(0, 3).join(", ")]
    : [entry.made, `${entry.count} token${entry.count === 1 ? "" : "s"}`]).filter(Boolean).join(" · ");

  function close() {
    if (area) ["aria-expanded", "aria-controls", "aria-activedescendant"].forEach((name) => area.removeAttribute(name));
    list.remove();
    area = null;
    shown = told = [];
  }

  // Away until one types on: an answer that is still to come does not bring it back.
  function dismiss() {
    close();
    clearTimeout(timer);
    dismissed = true;
  }

  function take(index) {
    const target = area, entry = shown[index], start = from, to = until;
    close();
    target.focus();
    if (entry.written !== undefined) {
      const end = entry.from + entry.written.length;
      easel.write(target, { from: entry.from, to: entry.until, written: entry.written, selection: [end, end] });
      return;
    }
    if (!entry.tag) {
      const word = entry.help ? entry.word : written(entry), end = start + word.length;
      easel.write(target, { from: start, to, written: word, selection: [end, end] });
      return;
    }
    const strength = (target.value.slice(to).match(/^:([^<>]*)>/) || [])[1];
    const head = `<${tag}:${entry.word}:`, at = start + head.length;
    const rest = strength === undefined ? "1" : strength;
    easel.write(target, {
      from: start, to: strength === undefined ? to : to + strength.length + 2, written: `${head}${rest}>`,
      selection: [at, at + rest.length],
    });
  }

  function mark(index) {
    marked = index;
    [...list.children].forEach((row, i) => row.setAttribute("aria-selected", String(i === index)));
    if (index >= 0) {
      area.setAttribute("aria-activedescendant", list.children[index].id);
      list.children[index].scrollIntoView({ block: "nearest" });
    } else area.removeAttribute("aria-activedescendant");
  }

  function findLoras(box, typed) {
    const names = tagNames(), part = typed[2].toLowerCase();
    tag = typed[1] ? typed[1].toLowerCase() : names[0];
    if (!names.includes(tag)) return [];
    const known = ({ word, triggers }) => [word, ...triggers].some((text) => text.toLowerCase().includes(part));
    const order = (entry) => (fits(entry) ? 0 : 2) + (entry.word.toLowerCase().startsWith(part) ? 0 : 1);
    [from, until] = [box.selectionStart - typed[0].length, box.selectionStart];
    return loras.filter(known).sort((a, b) => order(a) - order(b) || a.word.localeCompare(b.word, undefined, { numeric: true })).slice(0, MOST);
  }

  // Behind a tag's first value: "start=", "region=", those that it does not have yet. Alone where a strength may stand,
  // a list would be in the way: there it waits for a letter.
  function findKeys(box, [, name, values, typed]) {
    const { keys = {} } = tagRows().find((row) => row.name === name.toLowerCase()) || {};
    if (!typed && !values.includes(":")) return [];
    [from, until] = [box.selectionStart - typed.length, box.selectionStart];
    return Object.entries(keys)
      .filter(([key]) => key.startsWith(typed.toLowerCase()) && !values.toLowerCase().includes(`:${key}=`))
      .map(([key, help]) => ({ word: `${key}=`, help }));
  }

  function find(box) {
    const begun = box.selectionStart === box.selectionEnd ? box.value.slice(0, box.selectionStart).match(/(?<!\\)<(?:(\w+):)?([^<>:]*)$/) : null;
    if (begun) return findLoras(box, begun);
    const inside = box.selectionStart === box.selectionEnd ? box.value.slice(0, box.selectionStart).match(/(?<!\\)<(\w+):([^<>]*):([^<>:=]*)$/) : null;
    if (inside) return findKeys(box, inside);
    const before = box.value.slice(0, box.selectionStart), after = box.value[box.selectionEnd] || "";
    const typed = box.selectionStart === box.selectionEnd && !/[\p{L}\p{N}_]/u.test(after) ? before.match(/[^\s,()[\]|:<>]+$/) : null;
    const part = typed ? typed[0].toLowerCase() : "";
    if (part.length < LEAST) return [];
    const rank = ({ word }) => (word.toLowerCase().startsWith(part) ? 0 : 1);
    const found = words.filter(({ word }) => word.toLowerCase().includes(part));
    if (found.length === 1 && found[0].word.toLowerCase() === part) return []; // it stands there already
    [from, until] = [box.selectionStart - part.length, box.selectionStart];
    return found.sort((a, b) => rank(a) - rank(b) || a.word.localeCompare(b.word, undefined, { numeric: true })).slice(0, MOST);
  }

  // -- words of extensions

  // The last mark before the cursor that no other has closed; one behind a backslash is text.
  function opened(line, { starts, ends }) {
    const places = [];
    for (let at = line.indexOf(starts); at >= 0; at = line.indexOf(starts, at + starts.length)) if (line[at - 1] !== "\\") places.push(at);
    if (starts === ends && places.length % 2 === 0) return -1;
    return places.length ? places.at(-1) : -1;
  }

  // What extensions are to be asked for, and where it stands; null: nothing.
  function wish(box) {
    if (box.selectionStart !== box.selectionEnd) return null;
    const caret = box.selectionStart, line = box.value.slice(0, caret).split("\n").at(-1), rest = box.value.slice(caret);
    if (/(?<!\\)<[^<>]*$/.test(line)) return null; // a tag
    for (const mark of easel.words || []) {
      const at = mark.starts ? opened(line, mark) : -1, typed = line.slice(at + mark.starts.length);
      if (at < 0 || !/^[^\s,()[\]{}|:<>]*$/.test(typed)) continue;
      const behind = rest.match(/^[^\s,()[\]{}|:<>]*/)[0], closing = mark.ends ? behind.indexOf(mark.ends) : -1;
      const until = caret + (closing < 0 ? 0 : closing + mark.ends.length);
      return { starts: mark.starts, typed, from: caret - typed.length - mark.starts.length, until };
    }
    if (!(easel.words || []).some((mark) => !mark.starts) || /^[\p{L}\p{N}_]/u.test(rest)) return null;
    const typed = line.match(/[^,()[\]{}|:<>]*$/)[0].trimStart();
    return typed.length >= LEAST ? { starts: "", typed, from: caret - typed.length, until: caret } : null;
  }

  function rowsOf(wanted, answer) {
    const from = wanted.starts ? wanted.from : wanted.until - answer.typed.length;
    const rows = answer.words.map(({ text, fact, ends }) => ({
      word: text, fact, from, until: wanted.until, written: wanted.starts ? wanted.starts + text + ends : written({ word: text }),
    }));
    return rows.length === 1 && !wanted.starts && rows[0].word === answer.typed ? [] : rows; // it stands there already
  }

  const same = (one, other) => one && other && one.starts === other.starts && one.typed === other.typed && one.from === other.from;

  async function ask(box) {
    const wanted = wish(box);
    if (isAsking || !wanted || wanted.typed.length > LONGEST || document.activeElement !== box) return;
    isAsking = true;
    let rows = [];
    try {
      rows = rowsOf(wanted, await easel.post("words", { starts: wanted.starts, typed: wanted.typed }));
    } catch {
      rows = []; // the list is a help: without it one types on
    }
    isAsking = false;
    if (document.activeElement !== box || dismissed) return;
    if (!same(wanted, wish(box))) {
      ask(box); // typed on meanwhile
      return;
    }
    told = rows;
    const kept = area === box ? marked : -1, before = shown.length;
    show(box, [...find(box), ...told]);
    if (area && kept >= 0 && kept < before) mark(kept);
  }

  // Those that are there and still fit stay until the answer comes, so that nothing flickers.
  function stillFitting(box) {
    const wanted = wish(box);
    if (!wanted) return [];
    const fits = (row) => row.word.toLowerCase().includes(wanted.typed.toLowerCase()) && (wanted.starts ? row.from === wanted.from : row.from >= wanted.from);
    return told.filter(fits).map((row) => ({ ...row, until: wanted.until }));
  }

  function offer(box) {
    dismissed = false;
    if (area && area !== box) close();
    told = stillFitting(box);
    show(box, [...find(box), ...told]);
    clearTimeout(timer);
    if ((easel.words || []).length && wish(box)) timer = setTimeout(() => ask(box), PAUSE);
  }

  function show(box, found) {
    if (!found.length) return close();
    area = box;
    shown = found;
    list.replaceChildren(...found.map((entry, index) =>
      el("li", { role: "option", id: `easel_word_${index}`, "aria-selected": "false", onpointerdown: (event) => event.preventDefault(), onclick: () => take(index) },
        el("span", { class: "word" }, entry.word),
        el("span", { class: "word-facts" }, facts(entry)))));
    area.closest(".prompt-box").append(list);
    area.setAttribute("aria-expanded", "true");
    area.setAttribute("aria-controls", list.id);
    mark(-1);
    return undefined;
  }

  const isPrompt = (target) => target.matches && target.matches(".prompt-box textarea");
  document.addEventListener("input", (event) => isPrompt(event.target) && offer(event.target));
  document.addEventListener("focusout", (event) => event.target === area && close());
  document.addEventListener("keydown", (event) => {
    if (!area || event.target !== area || event.isComposing || event.ctrlKey || event.metaKey || event.altKey) return;
    const moves = { ArrowDown: 1, ArrowUp: -1 };
    if (event.key in moves) mark((marked + moves[event.key] + shown.length + (marked < 0 && event.key === "ArrowUp" ? 1 : 0)) % shown.length);
    else if (event.key === "Tab" && !event.shiftKey) take(Math.max(0, marked));
    else if (event.key === "Enter" && marked >= 0) take(marked);
    else if (event.key === "Escape") dismiss();
    else {
      if (event.key.startsWith("Arrow") || event.key === "Home" || event.key === "End") dismiss();
      return;
    }
    event.preventDefault();
    event.stopImmediatePropagation();
  }, true);
})(window.easel);
