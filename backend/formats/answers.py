"""A person's answers to what a file cannot tell, put into what detection found; pure, no torch.

An answer is stored by what it is about ("variant", "prediction" ...) and is worth more than anything in the file.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

from backend.errors import BadRequest, unknown_name
from backend.formats.configs import CheckpointInfo, Question
from backend.formats.predictions import ANSWERS, with_prediction
from backend.formats.variants import SD3_VARIANTS

Answers = Mapping[str, str]
Setter = Callable[[CheckpointInfo, str], CheckpointInfo]


def answered(info: CheckpointInfo, answers: Answers) -> CheckpointInfo:
    """``info`` as the person says; answers to questions that this file does not raise are passed over.

    A question that was answered stays in ``questions`` with the answer as ``assumed``, so that it can be changed.
    """
    for question in info.questions:
        answer = answers.get(question.about)
        if answer in question.options:
            info = _SETTERS[question.about](info, answer)
            info = _with_assumption(info, question, answer)
    return info


def check_answer(info: CheckpointInfo, about: str, answer: str) -> None:
    """Refuse an answer that no question of the file asks for.

    Raises:
        BadRequest: naming the questions or the options.
    """
    question = next((q for q in info.questions if q.about == about), None)
    if question is None:
        raise BadRequest(unknown_name("Question", about, [q.about for q in info.questions]), field="about")
    if answer not in question.options:
        raise BadRequest(unknown_name("Answer", answer, question.options), field="answer")


def _variant(info: CheckpointInfo, answer: str) -> CheckpointInfo:
    row = next(row for row in SD3_VARIANTS if row.name == answer)
    return replace(info, variant=row.name, defaults=row.defaults)


def _prediction(info: CheckpointInfo, answer: str) -> CheckpointInfo:
    prediction, zero_snr = ANSWERS[answer]
    return with_prediction(info, prediction, "you", zero_snr=zero_snr)


def _with_assumption(info: CheckpointInfo, question: Question, answer: str) -> CheckpointInfo:
    questions = tuple(replace(q, assumed=answer) if q is question else q for q in info.questions)
    return replace(info, questions=questions)


_SETTERS: Mapping[str, Setter] = {"variant": _variant, "prediction": _prediction}
