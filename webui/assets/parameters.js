// A picture's parameters as one reads them: what panels were set to in a line each, instead of JSON within quotes.
(function (easel) {
  "use strict";

  const PAIR = /, Extensions: "((?:\\.|[^\x22\\])*)"/;

  function written(value) {
    if (typeof value === "object" && value) return Object.entries(value).map(([name, each]) => `${name} ${written(each)}`).join(" ");
    return String(value).replace(/^([0-9a-f]{8})[0-9a-f]{56}$/, "$1…"); // a picture's sha256
  }
  // Label of the panel, and what is set otherwise than by default.
  function line(name, { values }) {
    const panel = easel.panelNamed(name), fields = (panel && panel.schema.properties) || {};
    const set = Object.entries(values || {}).filter(([field, value]) => JSON.stringify(value) !== JSON.stringify((fields[field] || {}).default));
    const told = set.map(([field, value]) => `${(fields[field] || {}).title || field}: ${written(value)}`);
    return `${(panel && panel.label) || name}: ${told.join(", ") || "as it is by default"}`;
  }

  easel.shownParameters = (text) => {
    const at = text.lastIndexOf("\n") + 1, last = text.slice(at), found = last.match(PAIR);
    const plain = (words) => text.slice(0, at) + words.replaceAll("\\u002c", ","); // escaped for those who split at commas
    if (!found) return plain(last);
    try {
      const stored = JSON.parse(JSON.parse(`"${found[1]}"`));
      return [plain(last.replace(PAIR, "")), ...Object.entries(stored).map(([name, told]) => line(name, told))].join("\n");
    } catch {
      return text; // written by another program, or by hand
    }
  };
})(window.easel);
