"""The page of a run while it goes on, results/run.html: what is done, what runs, and about when it ends."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import NamedTuple

PAGE = Path("results", "run.html")
REFRESHED_EVERY = 30  # seconds; by the browser
STYLE = (
    ":root{color-scheme:light dark}body{font:16px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;"
    "padding:0 1rem}h1{font-size:1.4rem}h2{font-size:1.1rem}progress{width:100%}table{border-collapse:collapse;"
    "width:100%}td{padding:.2rem .6rem .2rem 0;vertical-align:top;overflow-wrap:anywhere}pre,li{overflow-wrap:anywhere;"
    "white-space:pre-wrap}"
)


class Running(NamedTuple):
    """A job that runs: what it does, and how far it is."""

    text: str
    far: str


def run_page(
    done: int, total: int, left: float | None, running: Sequence[Running], events: Sequence[str], ended: str | None
) -> str:
    """The page.

    Args:
        done, total: jobs.
        left: seconds; None: not known.
        running: jobs.
        events: what happened, a line each, the newest last.
        ended: how the run ended; None: it goes on.
    """
    now = time.time()
    head = f"{done} of {total} jobs done"
    if ended is not None:
        state = ended
    elif left is None:
        state = f"{head}; how long the rest takes is not known yet"
    else:
        day = "%a %H:%M" if left > 12 * 3600 else "%H:%M"
        state = f"{head}; it ends about {time.strftime(day, time.localtime(now + left))}"
    refresh = "" if ended is not None else f'<meta http-equiv="refresh" content="{REFRESHED_EVERY}">'
    jobs = "".join(f"<tr><td>{escape(one.text)}</td><td>{escape(one.far)}</td></tr>" for one in running)
    lines = "".join(f"<li>{escape(line)}</li>" for line in reversed(events))
    return (
        '<!DOCTYPE html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\">"
        f"{refresh}<title>{escape(head)}</title><style>{STYLE}</style></head><body><main>"
        f"<h1>{escape(state)}</h1>"
        f'<progress aria-label="jobs" value="{done}" max="{max(total, 1)}"></progress>'
        + (f"<h2>Running</h2><table>{jobs}</table>" if jobs else "")
        + (f"<h2>So far</h2><ul>{lines}</ul>" if lines else "")
        + f"<p>As of {time.strftime('%Y-%m-%d %H:%M:%S', time.localtime(now))}. "
        '<a href="index.html">What was decided</a></p></main></body></html>\n'
    )


def write_page(text: str) -> None:
    """Write it, whole or not at all; where results/ is not there or cannot be written, the run goes on without it."""
    unfinished = PAGE.with_name(f".{PAGE.name}")
    with contextlib.suppress(OSError):
        if PAGE.parent.is_dir():
            unfinished.write_text(text, encoding="utf-8", errors="replace")
            os.replace(unfinished, PAGE)
