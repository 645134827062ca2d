// What no file can tell is asked where the file is chosen, once; the answer is kept by the server, and can be changed or taken back.
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

  const takeBack = (model, question) =>
    question.answer === null ? null : el("button", { type: "button", class: "plain", title: "As if nobody had answered", onclick: () => easel.answerQuestion(model, question, null) }, "Take back");

  // One question with a button for each option; the one that holds is pressed.
  easel.questionRow = (model, question) =>
    el("div", { class: "question" },
      el("span", { class: "question-words" }, question.sentence),
      el("span", { class: "question-options", role: "group", "aria-label": question.sentence },
        ...question.options.map((option) => el("button", {
          type: "button", class: question.answer === null && question.assumed === option ? "plain assumed" : "plain", "aria-pressed": String(question.answer === option),
          title: question.answer === null && question.assumed === option ? "Assumed until you answer" : null,
          onclick: () => easel.answerQuestion(model, question, option),
        }, option)),
        takeBack(model, question)));

  // Beside the form's own choice of the prediction: what "Automatic" is for the checkpoint, and who says so.
  const SPEAKERS = { default: "nothing says otherwise", weights: "one of its weights looks like it", "file name": "the file's name says so", metadata: "its metadata say so", you: "you said so" };
  easel.parts.prediction_speaker = (element) => {
    const line = element.appendChild(el("p", { class: "speaker" }));
    let drawn = "";
    const draw = () => {
      const model = easel.checkpoint() || {}, key = JSON.stringify([model.id, model.prediction, model.zero_terminal_snr, model.prediction_source]);
      if (key === drawn) return;
      drawn = key;
      const source = model.prediction_source, said = SPEAKERS[source] || `${source} says so`;
      const question = source === "you" && model.questions.find(({ about }) => about === "prediction");
      const words = model.prediction ? `Automatic is ${easel.predictionWords(model.prediction)}${model.zero_terminal_snr ? " with zero terminal SNR" : ""}: ${said}.` : "";
      line.replaceChildren(words, ...(question ? [" ", takeBack(model, question)] : []));
    };
    easel.on("models", draw);
    easel.on("form", draw);
    draw();
  };

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
