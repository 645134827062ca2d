"""What may be added to a prompt: words by aspect, each as a tag and as a sentence, and what speaks against them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

Aspect = Literal["medium", "composition", "light", "mood", "camera"]
Tone = Literal["bright", "dark", "any"]


@dataclass(frozen=True)
class Words:
    """One thing to add.

    Args:
        tag: for checkpoints that were trained on tags and captions alike.
        sentence: the same for a text encoder that reads sentences (T5).
        means: further words for it: if one of them stands in the negative prompt, it is not added.
        tone: of the picture that it makes.
        photo: it is a photograph, or belongs to one.
    """

    tag: str
    sentence: str
    means: tuple[str, ...] = ()
    tone: Tone = "any"
    photo: bool = False


WORDS: Mapping[Aspect, tuple[Words, ...]] = {
    "medium": (
        Words("photograph", "It is a photograph.", ("photo", "photorealistic", "realistic"), photo=True),
        Words("studio photograph", "It is a photograph taken in a studio.", ("photo", "realistic"), photo=True),
        Words("film photograph", "It is a photograph on colour film.", ("photo", "grain", "grainy"), photo=True),
        Words("watercolor painting", "It is painted in watercolor on rough paper.", ("painting", "watercolour")),
        Words("oil painting", "It is an oil painting with visible brush strokes.", ("painting",)),
        Words("gouache illustration", "It is an illustration in gouache.", ("painting",)),
        Words("ink drawing", "It is drawn in ink with fine lines.", ("drawing", "monochrome", "sketch")),
        Words("pencil sketch", "It is a pencil sketch.", ("drawing", "monochrome", "draft")),
        Words("woodcut print", "It is a woodcut in a few flat colours.", ("print", "flat")),
        Words("flat vector illustration", "It is a flat illustration of clean shapes.", ("cartoon", "simple")),
        Words("paper collage", "It is a collage of cut paper.", ("papercut",)),
        Words("3d render", "It is a rendered scene with soft materials.", ("cgi", "render", "rendered")),
    ),
    "composition": (
        Words("close-up", "It is seen from close by.", ("closeup", "cropped", "zoomed")),
        Words("wide shot", "It is seen from afar, with much room around it.", ("distant", "small")),
        Words("centered composition", "It stands in the middle of the picture.", ("centred", "symmetrical")),
        Words("rule of thirds", "It stands a third of the way into the picture.", ("asymmetrical",)),
        Words("low angle view", "It is seen from below.", ("below",)),
        Words("view from above", "It is seen from above.", ("aerial", "overhead", "top-down")),
        Words("symmetrical composition", "Left and right mirror each other.", ("symmetry", "centered")),
        Words("minimalist composition", "Most of the picture is left empty.", ("minimal", "empty", "blank")),
        Words("framed by foreground leaves", "Leaves in the foreground frame it.", ("leaf", "cluttered", "plants")),
        Words("diagonal composition", "A diagonal leads through the picture.", ("tilted", "dutch")),
    ),
    "light": (
        Words("soft window light", "Soft light falls in through a window.", ("indoors",), "bright"),
        Words("golden hour light", "The low sun gives everything a golden edge.", ("sunset", "yellow"), "bright"),
        Words("bright morning light", "It is lit by a bright morning sun.", ("overexposed", "sun"), "bright"),
        Words("overcast daylight", "An overcast sky gives even light without hard shadows.", ("cloudy", "dull")),
        Words("warm candlelight", "Candles light it warmly.", ("candles", "orange"), "dark"),
        Words("moonlight", "The moon lights it in cold blue.", ("night", "moon"), "dark"),
        Words("rim light", "A light behind it draws a bright outline around it.", ("backlit", "halo")),
        Words("dappled light", "Light falls in spots through leaves.", ("leaves", "spots"), "bright"),
        Words("soft studio lighting", "Large lamps light it softly from two sides.", ("lamps", "studio"), "bright"),
        Words("dramatic side light", "A single lamp lights it from one side.", ("harsh", "shadows"), "dark"),
        Words("light haze", "A light haze softens what is far away.", ("fog", "foggy", "mist", "hazy")),
    ),
    "mood": (
        Words("calm mood", "The mood is calm.", ("peaceful", "quiet")),
        Words("cheerful mood", "The mood is cheerful.", ("happy", "joyful"), "bright"),
        Words("dreamy mood", "It feels like a dream.", ("surreal", "dreamlike")),
        Words("mysterious mood", "It keeps a secret.", ("mystery", "eerie"), "dark"),
        Words("cozy mood", "It feels warm and homely.", ("cosy",)),
        Words("melancholic mood", "It looks a little sad.", ("sad", "melancholy"), "dark"),
        Words("playful mood", "It looks playful.", ("funny", "silly"), "bright"),
        Words("majestic mood", "It looks grand.", ("epic", "grand")),
        Words("nostalgic mood", "It looks like a memory of long ago.", ("vintage", "retro", "old")),
        Words("serene mood", "Nothing moves.", ("peaceful", "still")),
    ),
    "camera": (
        Words("85mm lens", "A portrait lens draws it without distortion.", photo=True),
        Words("35mm lens", "A moderate wide-angle lens takes in what is around it.", photo=True),
        Words("macro lens", "A macro lens shows the smallest detail.", ("closeup",), photo=True),
        Words("shallow depth of field", "The background is out of focus.", ("blur", "blurry", "bokeh"), photo=True),
        Words("deep focus", "Near and far are equally sharp.", ("sharp",), photo=True),
        Words("long exposure", "A long exposure blurs what moves.", ("blur", "blurry", "motion"), photo=True),
        Words("fine film grain", "A little grain shows.", ("grain", "grainy", "noise", "noisy"), photo=True),
        Words("soft bokeh", "Lights behind it melt into discs.", ("blur", "blurry"), photo=True),
    ),
}  # fmt: skip


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


#: A prompt that holds one of these tells of the aspect itself, and nothing is added to it.
TOLD: Mapping[Aspect, frozenset[str]] = {
    "medium": _words(
        "photo photograph photography photorealistic painting painted watercolor watercolour oil acrylic gouache "
        "drawing drawn sketch ink pencil charcoal illustration illustrated vector cartoon comic anime manga "
        "render rendered 3d cgi sculpture statue woodcut print collage mosaic engraving etching emoji icon logo "
        "pixel poster diagram screenshot lego claymation papercut origami tapestry fresco"
    ),
    "composition": _words(
        "close-up closeup portrait headshot wide view shot angle centered centred symmetrical symmetry thirds "
        "above below aerial overhead panorama panoramic foreground framed frame composition isometric profile "
        "selfie bird's-eye minimal minimalist silhouette pattern"
    ),
    "light": _words(
        "light lights lit lighting sunlight sunlit sunset sunrise dawn dusk night midnight noon moonlight moonlit "
        "candle candlelight lamp neon shadow shadows shade glow glowing backlit bright dark dim fog foggy haze "
        "hazy mist misty overcast storm stormy golden twilight evening morning sunny spotlight"
    ),
    "mood": _words(
        "mood calm serene peaceful quiet cheerful happy joyful sad melancholic melancholy mysterious eerie scary "
        "horror spooky cozy cosy dreamy surreal playful funny cute majestic epic nostalgic angry dramatic "
        "romantic gloomy lonely atmospheric whimsical"
    ),
    "camera": _words(
        "camera lens mm 35mm 50mm 85mm macro telephoto fisheye bokeh focus f/1.4 f/1.8 f/2.8 exposure aperture "
        "dslr grain kodak polaroid leica iso blur blurred depth"
    ),
}  # fmt: skip

#: Media that are no photographs: a camera does not belong to them.
NOT_PHOTOS = TOLD["medium"] - {"photo", "photograph", "photography", "photorealistic", "screenshot"}

#: Words of a prompt that make its picture bright or dark: nothing of the other tone is added.
TONES: Mapping[Literal["bright", "dark"], frozenset[str]] = {
    "bright": _words("sunny bright happy cheerful joyful cute white pastel noon day daylight summer beach"),
    "dark": _words(
        "dark night midnight horror scary spooky eerie gloomy sad storm stormy moon moonlight black cave grave"
    ),
}

#: Aspects whose words say whether the picture is a photograph.
PHOTOGRAPHIC: frozenset[Aspect] = frozenset({"medium", "camera"})

#: Words of a tag that say too little for a negative prompt to mean them.
SMALL = _words("a and angle at by from in it low of out rule the up view")
