"""Draws a dataset's data card as one HTML page, for the owner to look at before anything is trained.

Pure: the card in, text out; the page loads nothing from outside, and all that stands in the card is escaped here.
"""

from __future__ import annotations

from collections.abc import Mapping
from html import escape
from typing import cast

from gaiad.curriculum import Json
from gaiad.report import page, section


def card_page(card: Mapping[str, Json]) -> str:
    """Draw the card as one HTML page that loads nothing from outside."""
    counts = _object(card.get("counts"))
    subtitle = (
        f"curriculum {card.get('curriculum_version')}, profile {card.get('profile')}, "
        f"{', '.join(f'{number} {name}' for name, number in counts.items())}; digest {card.get('digest')}"
    )
    lengths = _object(card.get("lengths"))
    parts = [
        section("What is uneven", _lines(card.get("uneven"), "nothing: templates, kinds and answers are in balance")),
        section("How varied it is, by source (train split)", _diversity_table(_object(card.get("diversity")))),
        section("What was kept whole", _kept_whole(_object(card.get("kept_whole")))),
        section("What the answers are", _answers(_object(card.get("answers")))),
        *(section(f"Length: {name.replace('_', ' ')}", bars(_object(found))) for name, found in lengths.items()),
        section("Left out, and why", _pairs(_object(card.get("dropped")), "nothing was left out")),
        section("Material that was refused", _refused(card.get("refused"))),
        *(_sample_section(_object(one)) for one in cast("list[Json]", card.get("samples", []))),
    ]
    return page(f"Dataset of {card.get('adapter')}", subtitle, parts)


def bars(found: Mapping[str, Json]) -> str:
    """A histogram as upright bars; returns an SVG element and a line of figures."""
    counts, edges = cast("list[int]", found["counts"]), cast("list[int]", found["edges"])
    top, width = max(counts) or 1, 700 / len(counts)
    drawn = [f"<svg viewBox='0 0 720 150' role='img' aria-label='{len(counts)} bins'>"]
    for number, count in enumerate(counts):
        height = 110 * count / top
        at = 10 + number * width
        tip = f"{edges[number]} to {edges[number + 1] - 1}: {count}"
        box = f"x='{at:.1f}' y='{124 - height:.1f}' width='{width - 4:.1f}' height='{height:.1f}'"
        drawn.append(f"<rect class='bar' {box}><title>{tip}</title></rect>")
        drawn.append(f"<text class='tick' x='{at:.1f}' y='142'>{edges[number]}</text>")
    return "".join(drawn) + f"</svg><p class='key'>median {found['median']}, largest {found['largest']}</p>"


def _diversity_table(sources: Mapping[str, Json]) -> str:
    names = list(dict.fromkeys(name for figures in sources.values() for name in _object(figures)))
    head = "".join(f"<th>{escape(name.replace('_', ' '))}</th>" for name in names)
    rows = [
        f"<tr><td>{escape(source)}</td>{''.join(f'<td>{_object(figures).get(name)}</td>' for name in names)}</tr>"
        for source, figures in sources.items()
    ]
    return f"<table><tr><th>source</th>{head}</tr>{''.join(rows)}</table>"


def _kept_whole(sources: Mapping[str, Json]) -> str:
    rows = []
    for source, told in sources.items():
        units = _object(told)
        few = f"{units.get('unit')}; too few of: {units.get('too_few')}" if "too_few" in units else units.get("unit")
        counts = "".join(f"<td>{units.get(name)}</td>" for name in ("train", "validation", "heldout"))
        rows.append(f"<tr><td>{escape(source)}</td><td>{escape(str(few))}</td>{counts}</tr>")
    heads = "".join(f"<th>{name}</th>" for name in ("source", "unit", "train", "validation", "held out"))
    return f"<table><tr>{heads}</tr>{''.join(rows)}</table>"


def _answers(splits: Mapping[str, Json]) -> str:
    kinds = sorted({kind for split in splits.values() for kind in _object(split)})
    head = "".join(f"<th>{escape(name)}</th>" for name in splits)
    rows = [
        f"<tr><td>{escape(kind) or '(none)'}</td>"
        + "".join(f"<td>{_object(split).get(kind, 0)}</td>" for split in splits.values())
        + "</tr>"
        for kind in kinds
    ]
    return f"<table><tr><th>answer</th>{head}</tr>{''.join(rows)}</table>"


def _lines(found: Json, otherwise: str) -> str:
    rows = [f"<li>{escape(str(one))}</li>" for one in found] if isinstance(found, list) else []
    return f"<ul>{''.join(rows)}</ul>" if rows else f"<p>{otherwise}</p>"


def _pairs(found: Mapping[str, Json], otherwise: str) -> str:
    rows = [f"<tr><td>{escape(str(name))}</td><td>{escape(str(value))}</td></tr>" for name, value in found.items()]
    return f"<table>{''.join(rows)}</table>" if rows else f"<p>{otherwise}</p>"


def _refused(found: Json) -> str:
    rows = [_object(one) for one in found] if isinstance(found, list) else []
    return _pairs({str(one.get("origin")): one.get("reason") for one in rows}, "nothing was refused")


def _sample_section(one: Mapping[str, Json]) -> str:
    cells = [(name, one.get(name)) for name in ("request", "answer", "rejected")]
    shown = "".join(f"<h3>{name}</h3><pre>{escape(str(text))}</pre>" for name, text in cells if text)
    return section(f"{one.get('source')}: {one.get('group')}", shown)


def _object(value: Json) -> Mapping[str, Json]:
    return value if isinstance(value, dict) else {}
