"""CEL as Kubernetes has it -> CEL that the library parses.

The library knows the language, but not two extensions that device selectors may use: optional selection
(`device.attributes["gpu.tessera.dev"].?rack.orValue("r1")`) and `cel.bind(name, value, expression)`. Both can
be said in plain CEL, so the text is rewritten token by token before it is compiled:

    a.?b           ->  a.optionalSelect("b")         (and what follows in the same chain)
    a[?b]          ->  a.optionalSelect(b)
    optional.of(a) ->  optionalOf(a)
    cel.bind(x, v, e)  ->  [v].map(x, e)[0]
"""

from __future__ import annotations

import re
from itertools import pairwise

_TOKEN = re.compile(
    r"""\s+ | [rRbB]{0,2}(?:\"{3}.*?\"{3}|'{3}.*?'{3}|"(?:\\.|[^"\\])*"|'(?:\\.|[^'\\])*')
        | [A-Za-z_]\w* | \d[\w.]* | [=!<>]= | && | \|\| | .""",
    re.VERBOSE | re.DOTALL,
)
_OPTIONAL = {"of": "optionalOf", "none": "optionalNone"}
_ENDS_OPERAND = re.compile(r"[\w\"'\])]$")


def plain_cel(expression: str) -> str:
    """The expression without the extensions; the same text when it has none of them."""
    tokens = [token for token in _TOKEN.findall(expression) if not token.isspace()]
    extended = any(a + b in (".?", "[?") for a, b in pairwise(tokens))
    if not extended and not {"optional", "cel"} & set(tokens):
        return expression
    return " ".join(_rewrite(tokens))


def _rewrite(tokens: list[str]) -> list[str]:
    out: list[str] = []
    chained = False
    at = 0
    while at < len(tokens):
        token, following = tokens[at], tokens[at + 1 : at + 4]
        if token == "optional" and len(following) == 3 and following[0] == "." and following[1] in _OPTIONAL:
            out.append(_OPTIONAL[following[1]])
            at += 3
        elif token == "cel" and following == [".", "bind", "("]:
            end = _closing(tokens, at + 3)
            out += _bound(_arguments(tokens[at + 4 : end]))
            at = end + 1
        elif token == "." and following[:1] == ["?"]:
            out += [".", "optionalSelect", "(", f'"{following[1]}"', ")"]
            chained, at = True, at + 3
        elif token == "." and chained and following[1:2] != ["("]:
            out += [".", "optionalSelect", "(", f'"{following[0]}"', ")"]
            at += 2
        elif token == "[" and out and _ENDS_OPERAND.search(out[-1]):
            end = _closing(tokens, at)
            inner = tokens[at + 1 : end]
            chained = chained or inner[:1] == ["?"]
            key = _rewrite(inner[1:] if inner[:1] == ["?"] else inner)
            out += [".", "optionalSelect", "(", *key, ")"] if chained else ["[", *key, "]"]
            at = end + 1
        else:
            out.append(token)
            chained = False
            at += 1
    return out


def _closing(tokens: list[str], opening: int) -> int:
    """The index of the bracket that closes the one at `opening`. Raises ValueError when there is none."""
    depth = 0
    for at in range(opening, len(tokens)):
        depth += (tokens[at] in "([{") - (tokens[at] in ")]}")
        if depth == 0:
            return at
    raise ValueError(f"bracket {tokens[opening]!r} is not closed")


def _arguments(tokens: list[str]) -> list[list[str]]:
    arguments: list[list[str]] = [[]]
    depth = 0
    for token in tokens:
        depth += (token in "([{") - (token in ")]}")
        if token == "," and depth == 0:
            arguments.append([])
        else:
            arguments[-1].append(token)
    return arguments


def _bound(arguments: list[list[str]]) -> list[str]:
    if len(arguments) != 3 or len(arguments[0]) != 1:
        raise ValueError("cel.bind takes a name, a value and an expression")
    (name,), value, body = arguments
    return ["[", *_rewrite(value), "]", ".", "map", "(", name, ",", *_rewrite(body), ")", "[", "0", "]"]
