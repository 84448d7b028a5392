"""Keeps passwords, keys and tokens out of the logs.

The rule, on the words of a key (split at anything that is no letter or digit, and at camelCase):

- a word such as `password`, `secret` or `credentials` makes its value a secret;
- so does a pair such as `api key` or `private key`, and the same written as one word;
- so does `token` as the last word, where the value is no number and no other word says that it is a token of
  text, such as `eos_token`. `tokens`, `tokenizer`, `num_tokens`, `token_count`, `eos_token_id` are none.

None, True and False are never secrets. A URL loses its user-info whatever its key.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

from .readable import readable

MASK = "***"

_WORD = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|\d+")
_SECRETS = (
    "password passwords passwd passphrase secret secrets credential credentials authorization "
    "apikey apikeys apitoken authtoken accesstoken accesskey privatekey secretkey"
)
_SECRET_WORDS = frozenset(_SECRETS.split())
_SECRET_KEYS = frozenset(("api", "private", "access", "secret", "auth", "encryption", "signing", "ssh"))
_TOKENS_OF_TEXT = (
    "eos bos pad unk sep cls mask begin start end stop special image audio video prefix suffix middle infix "
    "decoder forced additional num max min new per first last next each current boundary"
)
_TEXT_WORDS = frozenset(_TOKENS_OF_TEXT.split())
_USER_INFO = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*://)[^/?#\s]*@")
_OPTION = re.compile(r"--?([A-Za-z][A-Za-z0-9_.-]*)(=?)")


def is_secret(key: str, value: object = "") -> bool:
    """Returns whether a value under this key is to be hidden."""
    if value is None or isinstance(value, bool):
        return False
    words = [word.lower() for word in _WORD.findall(key)]
    if any(word in _SECRET_WORDS for word in words):
        return True
    if any(a in _SECRET_KEYS and b in ("key", "keys") for a, b in pairwise(words)):
        return True
    is_token = bool(words) and words[-1] == "token" and not _TEXT_WORDS.intersection(words)
    return is_token and not isinstance(value, (int, float))


def masked(mapping: Mapping[Any, Any]) -> dict[str, Any]:
    """A readable copy of the mapping, its secrets replaced by `***` at every depth."""
    hidden = _hidden(readable(mapping))
    return hidden if isinstance(hidden, dict) else {"value": hidden}


def masked_text(text: str) -> str:
    """The text without the user-info of the URLs in it."""
    return _USER_INFO.sub(rf"\1{MASK}@", text)


def masked_arguments(arguments: Sequence[str]) -> list[str]:
    """A command line with the values of options such as `--api-key` replaced by `***`."""
    result: list[str] = []
    hide_next = False
    for argument in arguments:
        option = _OPTION.match(argument)
        if hide_next and not argument.startswith("--"):
            result.append(MASK)
            hide_next = False
            continue
        hide_next = False
        name, equals = (option[1], option[2]) if option else argument.partition("=")[:2]
        if (option or equals) and is_secret(name):
            hide_next = not equals
            result.append(argument[: argument.index("=") + 1] + MASK if equals else argument)
        else:
            result.append(masked_text(argument))
    return result


def _hidden(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: MASK if is_secret(key, item) else _hidden(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_hidden(item) for item in value]
    return masked_text(value) if isinstance(value, str) else value
