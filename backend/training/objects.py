"""The things and backgrounds that the demo checkpoints can draw: names and pictures, as a table.

Pictures are Microsoft's Fluent emoji (MIT) as packed in the npm package ``@lobehub/fluent-emoji-3d``; a picture is
named by its code point.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Thing:
    """One object: its everyday name, the file stem of its picture, and other names people use."""

    name: str
    code: str
    also: tuple[str, ...] = ()


def _table(text: str) -> tuple[Thing, ...]:
    rows = (line.split("|") for line in text.strip().splitlines())
    return tuple(Thing(row[0].strip(), row[1].strip(), tuple(n.strip() for n in row[2:])) for row in rows)


CORE: tuple[Thing, ...] = _table("""
fox | 1f98a
rabbit | 1f430 | bunny
cat | 1f431 | kitten
dog | 1f436 | puppy
panda | 1f43c | panda bear
frog | 1f438
lion | 1f981
unicorn | 1f984
penguin | 1f427
owl | 1f989
octopus | 1f419
tropical fish | 1f420 | fish
butterfly | 1f98b
turtle | 1f422 | tortoise
ladybug | 1f41e | lady beetle
apple | 1f34e | red apple
banana | 1f34c
strawberry | 1f353
pineapple | 1f34d
watermelon | 1f349 | slice of watermelon
carrot | 1f955
mushroom | 1f344 | toadstool
pizza | 1f355 | slice of pizza
hamburger | 1f354 | burger
donut | 1f369 | doughnut
car | 1f697 | red car
rocket | 1f680 | space rocket
sailboat | 26f5 | boat
house | 1f3e0 | home
tree | 1f333
sunflower | 1f33b
star | 2b50 | yellow star
red heart | 2764-fe0f | heart
green heart | 1f49a
crown | 1f451 | golden crown
key | 1f511
guitar | 1f3b8
soccer ball | 26bd | football
ghost | 1f47b
cool face | 1f60e | smiley with sunglasses
""")
"""The first forty: what people try first, and hard to take for one another."""

MORE: tuple[Thing, ...] = _table("""
pumpkin | 1f383 | halloween pumpkin
robot | 1f916
birthday cake | 1f382 | cake
bear | 1f43b | brown bear
tiger | 1f42f
koala | 1f428
pig | 1f437
cow | 1f42e
monkey | 1f435
mouse | 1f42d
hamster | 1f439
wolf | 1f43a
chick | 1f424 | baby chick
eagle | 1f985
duck | 1f986
snake | 1f40d
snail | 1f40c
crab | 1f980
spider | 1f577-fe0f
bee | 1f41d | honeybee
whale | 1f433
dolphin | 1f42c
shark | 1f988
dragon | 1f432
elephant | 1f418
giraffe | 1f992
hedgehog | 1f994
flamingo | 1f9a9
parrot | 1f99c
dinosaur | 1f995
alien | 1f47d
clown | 1f921 | clown face
skull | 1f480
laughing face | 1f602 | laughing smiley
smiling face | 1f604 | smiley
star eyed face | 1f929
angry face | 1f620
sleeping face | 1f634
orange | 1f34a | tangerine
lemon | 1f34b
grapes | 1f347 | bunch of grapes
pear | 1f350
peach | 1f351
cherries | 1f352
green apple | 1f34f
kiwi | 1f95d
tomato | 1f345
avocado | 1f951
eggplant | 1f346 | aubergine
corn | 1f33d | ear of corn
broccoli | 1f966
bread | 1f35e | loaf of bread
croissant | 1f950
pretzel | 1f968
cheese | 1f9c0 | piece of cheese
hot dog | 1f32d
taco | 1f32e
egg | 1f95a
ice cream | 1f366 | ice cream cone
cupcake | 1f9c1
cookie | 1f36a
lollipop | 1f36d
cup of coffee | 2615 | coffee
tulip | 1f337
rose | 1f339 | red rose
cherry blossom | 1f338 | pink flower
cactus | 1f335
palm tree | 1f334
pine tree | 1f332 | fir tree
maple leaf | 1f341
four leaf clover | 1f340 | clover
sun | 1f31e | smiling sun
moon | 1f319 | crescent moon
cloud | 2601-fe0f
rainbow | 1f308
snowman | 2603-fe0f
snowflake | 2744-fe0f
fire | 1f525 | flame
planet | 1fa90 | saturn
earth | 1f30d | globe
taxi | 1f695
bus | 1f68c
fire truck | 1f692 | fire engine
tractor | 1f69c
motorcycle | 1f3cd-fe0f | motorbike
bicycle | 1f6b2 | bike
airplane | 2708-fe0f | plane
helicopter | 1f681
castle | 1f3f0
tent | 26fa
gift | 1f381 | present
balloon | 1f388 | red balloon
teddy bear | 1f9f8
basketball | 1f3c0
trophy | 1f3c6 | golden cup
umbrella | 2602-fe0f
camera | 1f4f7
laptop | 1f4bb | computer
light bulb | 1f4a1
diamond | 1f48e | gem
ring | 1f48d
blue heart | 1f499
yellow heart | 1f49b
purple heart | 1f49c
""")
"""Added in later stages."""

THINGS: Mapping[str, Thing] = {thing.name: thing for thing in (*CORE, *MORE)}

COLOURS: Mapping[str, tuple[int, int, int]] = {
    "white": (246, 246, 246),
    "black": (26, 26, 28),
    "grey": (140, 140, 144),
    "red": (212, 46, 46),
    "orange": (247, 148, 52),
    "yellow": (250, 214, 70),
    "green": (72, 172, 78),
    "blue": (56, 116, 208),
    "purple": (122, 76, 186),
    "pink": (244, 142, 178),
    "brown": (122, 86, 68),
    "teal": (40, 168, 160),
}
"""Plain backgrounds, sRGB 0 to 255; drawn with a small random deviation."""

PLACES: Mapping[str, tuple[str, ...]] = {
    "meadow": ("on a green meadow under a blue sky", "on a meadow", "in the grass"),
    "beach": ("on a sandy beach", "on the beach", "at the beach"),
    "snow": ("in the snow", "on snow"),
    "night": ("in the night sky with stars", "in the night sky", "at night"),
    "desert": ("in the desert", "in a desert"),
    "water": ("under water", "underwater", "in the sea"),
}
"""Drawn backgrounds, with the phrases that name them."""

BACKGROUNDS: tuple[str, ...] = (*COLOURS, *PLACES)
