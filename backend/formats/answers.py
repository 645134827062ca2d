"""A person's answers to what a file cannot tell, put into what detection found; pure, no torch.

An answer is stored by what it is about ("variant", "prediction" ...) and is worth more than anything in the file.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, TypeVar

from backend.errors import BadRequest, unknown_name
from backend.formats.configs import CheckpointInfo, Question, VaeInfo
from backend.formats.predictions import ANSWERS, with_prediction
from backend.formats.variants import SD3_VARIANTS

Answers = Mapping[str, str]
Setter = Callable[[Any, str], Any]
AskingInfo = TypeVar("AskingInfo", bound=CheckpointInfo | VaeInfo)


def answered(info: AskingInfo, answers: Answers) -> AskingInfo:
    """``info`` as the person says; answers to questions that this file does not raise are passed over.

    A question that was answered stays in ``questions`` with the answer as ``assumed``, so that it can be changed.
    """
    for question in info.questions:
        answer = answers.get(question.about)
        if answer in question.options:
            info = assumed(info, question, replace(question, assumed=answer))
    return info


def assumed(info: AskingInfo, question: Question, instead: Question) -> AskingInfo:
    """``info`` as it is with another assumption: ``instead`` stands in place of one of its questions."""
    info = _SETTERS[question.about](info, instead.assumed)
    return replace(info, questions=tuple(instead if q.about == question.about else q for q in info.questions))


def check_answer(info: CheckpointInfo | VaeInfo, about: str, answer: str | None) -> None:
    """Refuse an answer that no question of the file asks for; None, taking one back, fits every question.

    Raises:
        BadRequest: naming the questions or the options.
    """
    question = next((q for q in info.questions if q.about == about), None)
    if question is None:
        raise BadRequest(unknown_name("Question", about, [q.about for q in info.questions]), field="about")
    if answer is not None and answer not in question.options:
        raise BadRequest(unknown_name("Answer", answer, question.options), field="answer")


def _variant(info: CheckpointInfo, answer: str) -> CheckpointInfo:
    row = next(row for row in SD3_VARIANTS if row.name == answer)
    return replace(info, variant=row.name, defaults=row.defaults)


def _prediction(info: CheckpointInfo, answer: str) -> CheckpointInfo:
    prediction, zero_snr = ANSWERS[answer]
    return with_prediction(info, prediction, "you", zero_snr=zero_snr)


def _latent(info: VaeInfo, answer: str) -> VaeInfo:
    return replace(info, made_for=answer)


_SETTERS: Mapping[str, Setter] = {"variant": _variant, "prediction": _prediction, "latent": _latent}
