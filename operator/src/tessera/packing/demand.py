"""A list of requests as one writes it: `1g.10gb=12,3g.40gb=4`."""

from __future__ import annotations

from tessera.packing.errors import BadPackingInput

_FORM = "Write PROFILE=COUNT,..., for example 1g.10gb=12,3g.40gb=4."


def parse_demand(text: str) -> dict[str, int]:
    """Profile -> count, in the order given. Raises BadPackingInput, which names the part that is wrong."""
    demand: dict[str, int] = {}
    for part in (part.strip() for part in text.split(",")):
        if not part:
            continue
        profile, equals, number = (piece.strip() for piece in part.partition("="))
        if not equals or not profile:
            raise BadPackingInput(f"--requests: {part!r} is no PROFILE=COUNT", "", _FORM)
        try:
            count = int(number)
        except ValueError:
            raise BadPackingInput(f"--requests {part}", f"{number!r} is no whole number", _FORM) from None
        if count < 1:
            raise BadPackingInput(f"--requests {part}", "a count is at least 1", "Leave the profile out.")
        if profile in demand:
            raise BadPackingInput(f"--requests: {profile} is given twice", "", "Add the counts up.")
        demand[profile] = count
    if not demand:
        raise BadPackingInput("--requests is empty", "", _FORM)
    return demand
