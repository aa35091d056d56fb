"""Clips as one picture: a title row and the frames of each, with the time written on every frame."""

from collections.abc import Sequence

from PIL import Image, ImageDraw, ImageFont

from videoflamingo.clip import Clip

_COLUMNS = 8
_CELL_WIDTH = 240
_GAP = 6
_TITLE_HEIGHT = 30
_BACKGROUND, _INK, _LABEL_BACKGROUND = (24, 24, 24), (240, 240, 240), (0, 0, 0)


def contact_sheet(clips: Sequence[Clip], captions: Sequence[str] | None = None) -> Image.Image:
    """Draw clips below each other, up to 8 frames a row.

    Args:
        clips: what to draw.
        captions: a title for each clip; source and reader if None. Too long a title loses its middle.

    Raises:
        ValueError: if there is no clip, or not one caption for each.
    """
    if not clips:
        raise ValueError("contact_sheet: give at least one clip")
    titles = [f"{clip.source}   ({clip.reader})" for clip in clips] if captions is None else list(captions)
    if len(titles) != len(clips):
        raise ValueError(f"contact_sheet: {len(clips)} clips need as many captions, got {len(titles)}")
    columns = max(min(_COLUMNS, len(clip)) for clip in clips)
    width = max(columns, 3) * (_CELL_WIDTH + _GAP) + _GAP  # three cells leave room for a title
    height = sum(_TITLE_HEIGHT + _num_rows(clip, columns) * (_cell_height(clip) + _GAP) for clip in clips) + _GAP
    sheet = Image.new("RGB", (width, height), _BACKGROUND)
    draw = ImageDraw.Draw(sheet)
    title_font, label_font = ImageFont.load_default(18), ImageFont.load_default(18)
    top = 0
    for clip, title in zip(clips, titles, strict=True):
        fitted = _fitted(title, title_font, width - 2 * _GAP)
        draw.text((_GAP, top + _TITLE_HEIGHT / 2), fitted, _INK, title_font, anchor="lm")
        top += _TITLE_HEIGHT
        for index in range(len(clip)):
            row, column = divmod(index, columns)
            left, upper = _GAP + column * (_CELL_WIDTH + _GAP), top + row * (_cell_height(clip) + _GAP)
            frame = Image.fromarray(clip.frames[index].transpose(1, 2, 0))  # [height, width, 3]
            sheet.paste(frame.resize((_CELL_WIDTH, _cell_height(clip))), (left, upper))
            label = f"{clip.pts_seconds[index]:.2f} s"
            box = draw.textbbox((left + 5, upper + 3), label, font=label_font)
            draw.rectangle((left, upper, box[2] + 5, box[3] + 4), fill=_LABEL_BACKGROUND)
            draw.text((left + 5, upper + 3), label, _INK, label_font)
        top += _num_rows(clip, columns) * (_cell_height(clip) + _GAP)
    return sheet


def _num_rows(clip: Clip, columns: int) -> int:
    return -(-len(clip) // columns)


def _cell_height(clip: Clip) -> int:
    """Height of one cell, for the frame's aspect; at least a label high, and no taller than two cells are wide."""
    height, width = clip.frames.shape[2:]
    return min(max(round(_CELL_WIDTH * height / width), _TITLE_HEIGHT), 2 * _CELL_WIDTH)


def _fitted(title: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont, width: int) -> str:
    if font.getlength(title) <= width:
        return title
    kept = len(title)
    while kept > 2 and font.getlength(_without_middle(title, kept)) > width:
        kept -= 1
    return _without_middle(title, kept)


def _without_middle(title: str, kept: int) -> str:
    return f"{title[: kept // 2]} … {title[len(title) - kept // 2 :]}"
