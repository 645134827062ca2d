// The picture box of img2img and inpaint: a picture by file, drop, paste or from the gallery, kept by the server.
(function (easel) {
  "use strict";

  const { el } = easel;
  const TYPES = "image/png,image/jpeg,image/webp";

  // Files by choosing, dropping on the zone, or pasting while its tab is open.
  easel.dropZone = (words, take, tab) => {
    const input = el("input", { type: "file", accept: TYPES, "aria-label": words, onchange: () => {
      if (input.files[0]) take(input.files[0]);
      input.value = "";
    } });
    const zone = el("label", { class: "drop-zone" }, el("span", { class: "drop-words icon-picture" }, words), input);
    easel.acceptDrops(zone, take);
    if (tab) document.addEventListener("paste", (event) => {
      const file = [...(event.clipboardData ? event.clipboardData.files : [])].find((entry) => entry.type.startsWith("image/"));
      if (file && easel.activeTab() === tab) {
        event.preventDefault();
        take(file);
      }
    });
    return { zone, input };
  };

  easel.acceptDrops = (element, take) => {
    element.addEventListener("dragover", (event) => {
      event.preventDefault();
      element.classList.add("over");
    });
    element.addEventListener("dragleave", () => element.classList.remove("over"));
    element.addEventListener("drop", (event) => {
      event.preventDefault();
      element.classList.remove("over");
      if (event.dataTransfer.files[0]) take(event.dataTransfer.files[0]);
    });
  };

  easel.PictureBox = class {
    constructor(element, tab) {
      this.tab = tab;
      this.stored = null; // {sha256, width, height}
      this.arriving = null; // the upload on its way
      const drop = easel.dropZone("Drop a picture here, paste it, or click to choose one", (file) => this.take(file), tab);
      this.zone = drop.zone;
      this.input = drop.input;
      this.image = el("img", { class: "source", alt: "The picture to start from", draggable: "false" });
      this.frame = el("div", { class: "frame" }, this.image);
      this.size = el("span", { class: "size" });
      this.bar = el("div", { class: "picture-bar" }, this.size,
        el("button", { type: "button", class: "plain", title: "Set width and height to the picture's", onclick: () => this.useSize() }, "Use this size"),
        el("button", { type: "button", class: "plain", onclick: () => this.input.click() }, "Other picture"),
        easel.iconButton("Remove the picture", "close", () => this.clear()));
      this.holder = el("div", { class: "picture-holder", hidden: true }, this.frame, this.bar);
      easel.acceptDrops(this.holder, (file) => this.take(file));
      element.append(el("div", { class: "picture-box" }, this.zone, this.holder));
      if (!tab) return;
      easel.pictures[tab] = this;
      setTimeout(() => easel.emit("picture box", this)); // when what extends it has been built, too
    }

    async takeUrl(url, name) {
      const answer = await fetch(url, { credentials: "same-origin" });
      if (!answer.ok) throw new Error("The picture is not there any more.");
      const blob = await answer.blob();
      await this.take(new File([blob], name, { type: blob.type }));
    }

    // The server keeps the bytes and answers with the hash; what is shown is what it kept (turned upright, in sRGB).
    take(file) {
      this.zone.classList.add("busy");
      this.arriving = easel
        .storeInput(file)
        .then((stored) => {
          (stored.notes || []).forEach((note) => easel.toast(note));
          return this.show(stored);
        })
        .catch((error) => easel.toast(error.message, "error"))
        .finally(() => {
          this.zone.classList.remove("busy");
          this.arriving = null;
        });
      return this.arriving;
    }

    show(stored) {
      this.stored = stored;
      this.size.textContent = `${stored.width} × ${stored.height}`;
      this.zone.hidden = true;
      this.holder.hidden = false;
      return new Promise((done) => {
        this.image.onload = this.image.onerror = () => done();
        this.image.src = `/api/v1/inputs/${stored.sha256}`;
      });
    }

    clear() {
      this.stored = null;
      this.image.removeAttribute("src");
      this.zone.hidden = false;
      this.holder.hidden = true;
    }

    useSize() {
      const multiple = document.body.dataset.family === "sd3" ? 16 : 8;
      const fit = (side) => Math.max(64, Math.min(4096, Math.round(side / multiple) * multiple));
      easel.send("apply", { tab: this.tab, values: { width: fit(this.stored.width), height: fit(this.stored.height) } });
    }

    // What Generate sends along.
    async handOver() {
      if (this.arriving) await this.arriving;
      return { init_image: this.stored ? this.stored.sha256 : "" };
    }
  };

  easel.parts.picture = (element, options) => new easel.PictureBox(element, options.tab);
})(window.easel);
