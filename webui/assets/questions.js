// What no file can tell is asked where the file is chosen, once; the answer is kept by the server and can be changed.
(function (easel) {
  "use strict";

  const { el } = easel;

  easel.answerQuestion = async (model, question, answer) => {
    try {
      await easel.post("models/answers", { model: model.id, about: question.about, answer });
    } catch (error) {
      easel.toast(error.message, "error");
      return;
    }
    await easel.modelsChanged();
    // Other defaults belong to another variant.
    if (model.folder === "checkpoints" && model.name === easel.form.shared.checkpoint) easel.checkpointChosen(model.name, false);
  };

  // One question with a button for each option; the one that holds is pressed.
  easel.questionRow = (model, question) =>
    el("div", { class: "question" },
      el("span", { class: "question-words" }, question.sentence),
      el("span", { class: "question-options", role: "group", "aria-label": question.sentence },
        ...question.options.map((option) => el("button", {
          type: "button", class: question.answer === null && question.assumed === option ? "plain assumed" : "plain", "aria-pressed": String(question.answer === option),
          title: question.answer === null && question.assumed === option ? "Assumed until you answer" : null,
          onclick: () => easel.answerQuestion(model, question, option),
        }, option))));

  easel.parts.open_question = (element) => {
    const later = new Set(); // "Not now" holds until the page is opened again
    let drawn = "";
    const draw = () => {
      const { checkpoint, vae } = easel.form.shared;
      const chosen = [easel.modelNamed(checkpoint, "checkpoints"), vae && easel.modelNamed(vae, "vae")].filter((model) => model && !later.has(model.id));
      const open = chosen.flatMap((model) => model.questions.filter((question) => question.asks && question.answer === null).map((question) => [model, question]));
      const key = JSON.stringify(open.map(([model, question]) => [model.id, question]));
      if (key === drawn) return;
      drawn = key;
      element.replaceChildren(...(open.length ? [el("div", { class: "open-question", role: "status" },
        el("div", { class: "question-rows" }, ...open.map(([model, question]) => easel.questionRow(model, question))),
        easel.iconButton("Not now", "close", () => {
          open.forEach(([model]) => later.add(model.id));
          draw();
        }))] : []));
    };
    easel.on("models", draw);
    easel.on("form", draw);
    draw();
  };
})(window.easel);
