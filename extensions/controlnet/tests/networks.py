"""Tiny guidance networks as files of models/controlnet, and checkpoints that they fit."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn

from backend.checkpoints.save import write_tensors
from backend.control.load import build_control
from backend.testing.builders import randomise
from tests.control import tiny
