"""What our pages have in common: one look, in light and dark, and frames as small pictures inside the page."""

import base64
import io
from collections.abc import Sequence
from html import escape

from PIL import Image

THUMBNAIL_WIDTH = 200


def data_url(image: Image.Image) -> str:
    """A picture as a small JPEG in a `data:` URL, so that a page can be copied anywhere."""
    small = image.convert("RGB")
    small.thumbnail((THUMBNAIL_WIDTH, 4 * THUMBNAIL_WIDTH))
    stream = io.BytesIO()
    small.save(stream, "JPEG", quality=85)
    return f"data:image/jpeg;base64,{base64.b64encode(stream.getvalue()).decode('ascii')}"


def frames_row(urls: Sequence[str], times_seconds: Sequence[float | None]) -> str:
    """Frames beside each other as HTML, each with its time below it; nothing where there is none."""
    figures = "".join(
        f'<figure><img src="{escape(url)}" alt="frame {number + 1}">'
        f"<figcaption>{'time not known' if time is None else f'{time:.2f} s'}</figcaption></figure>"
        for number, (url, time) in enumerate(zip(urls, times_seconds, strict=True))
    )
    return f'<div class="frames">{figures}</div>' if figures else ""


STYLE = """
  :root { color-scheme: light dark; --page: #f6f7f9; --card: #fff; --ink: #1d2430; --grey: #5d6678; --rule: #e4e8ee;
          --accent: #3b6fd4; --note: #fbeeda; --note-ink: #6b420a; --right: #17733a; --wrong: #b3261e;
          --shadow: 0 1px 3px rgb(20 30 50 / 12%); }
  @media (prefers-color-scheme: dark) {
    :root { --page: #14171c; --card: #1d2229; --ink: #e6e9ef; --grey: #a0a9b8; --rule: #323944; --accent: #7aa2f0;
            --note: #3d2f17; --note-ink: #f2d3a0; --right: #6fd08c; --wrong: #ff8a80; --shadow: none; }
  }
  body { max-width: 1100px; margin: 0 auto; padding: 2rem 1.25rem 4rem; background: var(--page); color: var(--ink);
         font: 16px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "Liberation Sans", sans-serif; }
  h1 { margin: 0 0 .5rem; font-size: 1.9rem; letter-spacing: -.01em; }
  h2 { margin: 2.5rem 0 .75rem; font-size: 1.3rem; }
  header p { max-width: 46rem; margin: .5rem 0; }
  header ul { margin: .75rem 0 0; padding: .75rem 1rem .75rem 2rem; background: var(--card);
              border-left: 4px solid var(--accent); }
  section { margin-top: 1rem; padding: 1rem 1.25rem; background: var(--card); border-radius: 10px;
            box-shadow: var(--shadow); }
  .frames { display: grid; grid-template-columns: repeat(8, 1fr); gap: .4rem; }
  figure { margin: 0; }
  img { display: block; width: 100%; border-radius: 4px; }
  figcaption { color: var(--grey); font-size: .75rem; text-align: center; font-variant-numeric: tabular-nums; }
  .file, .place { margin: .25rem 0 .5rem; color: var(--grey); font-size: .8rem; overflow-wrap: anywhere; }
  .place { margin: .5rem 0 0; }
  .prompt { margin: .75rem 0 .5rem; white-space: pre-wrap; overflow-wrap: anywhere; }
  .note { margin: .5rem 0; padding: .5rem .75rem; background: var(--note); color: var(--note-ink); border-radius: 6px; }
  .grey, summary { color: var(--grey); }
  summary { margin-top: .4rem; font-size: .85rem; cursor: pointer; }
  th { color: var(--grey); font-size: .85rem; font-weight: 500; text-align: left; }
  th, td { padding: .35rem .75rem .35rem 0; border-bottom: 1px solid var(--rule); vertical-align: top;
           overflow-wrap: anywhere; }
  .right { color: var(--right); font-weight: 600; white-space: nowrap; }
  .wide { overflow-x: auto; }
  @media (max-width: 640px) { .frames { grid-template-columns: repeat(4, 1fr); } }
"""
