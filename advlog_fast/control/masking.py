"""Keeps passwords, keys and tokens out of the logs.

The rule, on the words of a key (split at anything that is no letter or digit, and at camelCase):

- a word such as `password`, `secret`, `credentials`, `cookie` or `webhook` makes its value a secret;
- so does a pair such as `api key`, `private key` or `wandb key`, and the same written as one word;
- so does `token` as the last word, where the value is no number and no other word says that it is a token of
  text, such as `eos_token`. `tokens`, `tokenizer`, `num_tokens`, `token_count`, `eos_token_id` are none.

None, True and False are never secrets. Of a text, whatever its key, is hidden: the user-info of a URL, what follows
`Authorization:`, what is assigned to a key that is a secret (in a query, in JSON, in `key=value`), and the path of a
webhook of a known service.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

from .readable import readable

MASK = "***"

_WORD = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|\d+")
_SECRETS = (
    "password passwords passwd pwd passphrase secret secrets credential credentials authorization bearer "
    "cookie cookies webhook webhooks "
    "apikey apikeys apitoken authtoken accesstoken accesskey privatekey secretkey"
)
_SECRET_WORDS = frozenset(_SECRETS.split())
_SECRET_KEYS = frozenset(("api", "private", "access", "secret", "auth", "encryption", "signing", "ssh"))
_SERVICES = (
    "anthropic aws azure cohere comet databricks discord gcp gemini github gitlab google hf hub huggingface mistral "
    "mlflow neptune openai openrouter replicate s3 sendgrid slack stripe telegram together twilio wandb"
)
_SERVICE_WORDS = frozenset(_SERVICES.split())
_KEY_WORDS = ("key", "keys", "token", "tokens", "secret", "password", "pass", "pwd")
_TOKENS_OF_TEXT = (
    "eos bos pad unk sep cls mask begin start end stop special image audio video prefix suffix middle infix "
    "decoder forced additional num max min new per first last next each current boundary"
)
_TEXT_WORDS = frozenset(_TOKENS_OF_TEXT.split())
_USER_INFO = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*://)[^/?#\s]*@")
_AUTHORIZATION = re.compile(
    r"(?i)\b((?:proxy-)?authorization[\"']?\s*[:=]\s*[\"']?(?:(?:bearer|basic|token|digest)\s+)?)[^\s\"',;]+"
)
_BEARER = re.compile(r"(?i)\b(bearer\s+)[A-Za-z0-9._~+/=-]{8,}")
_ASSIGNED = re.compile(r"([A-Za-z][\w.-]*)([\"']?\s*[:=]\s*)(?!//)(\"[^\"]*\"|'[^']*'|[^\s&;,\"'}\]]+)")
_SIGNED = re.compile(r"([?&](?:key|sig|signature|sign|x-amz-[a-z-]*|hash|code)=)[^&\s#\"']+", re.IGNORECASE)
_WEBHOOK = re.compile(
    r"(https?://(?:[\w.-]+\.)?(?:hooks\.slack\.com/(?:services|workflows|triggers)|discord(?:app)?\.com/api/webhooks"
    r"|webhook\.office\.com/webhookb2|outlook\.office\.com/webhook|chat\.googleapis\.com/v1/spaces"
    r"|api\.telegram\.org/bot|hooks\.zapier\.com/hooks|maker\.ifttt\.com/trigger|open\.feishu\.cn/open-apis/bot"
    r"|oapi\.dingtalk\.com/robot/send|qyapi\.weixin\.qq\.com/cgi-bin/webhook))[^\s\"'<>]*"
)
_OPTION = re.compile(r"--?([A-Za-z][A-Za-z0-9_.-]*)(=?)")


def is_secret(key: str, value: object = "") -> bool:
    """Returns whether a value under this key is to be hidden."""
    if value is None or isinstance(value, bool):
        return False
    words = [word.lower() for word in _WORD.findall(key)]
    if any(word in _SECRET_WORDS or _names_a_service_s_key(word) for word in words):
        return True
    pairs = list(pairwise(words))
    if any(a in _SECRET_KEYS and b in ("key", "keys") for a, b in pairs):
        return True
    if isinstance(value, (int, float)):
        return False
    if any(a in _SERVICE_WORDS | _SECRET_KEYS and b in _KEY_WORDS for a, b in pairs):
        return True
    return bool(words) and (
        words[-1] in ("pass", "auth") or (words[-1] == "token" and not _TEXT_WORDS.intersection(words))
    )


def _names_a_service_s_key(word: str) -> bool:
    """Whether it is such as `githubtoken`."""
    return any(word.endswith(end) and word[: -len(end)] in _SERVICE_WORDS for end in _KEY_WORDS)


def masked(values: object) -> dict[str, Any]:
    """A readable copy of a mapping, or of an object with fields, its secrets replaced by `***` at every depth."""
    hidden = _hidden(readable(values))
    return hidden if isinstance(hidden, dict) else {"value": hidden}


def masked_text(text: str) -> str:
    """The text without the secrets that it carries."""
    if ":" not in text and "=" not in text and "earer" not in text:
        return text
    text = _USER_INFO.sub(rf"\1{MASK}@", text)
    text = _WEBHOOK.sub(rf"\1/{MASK}", text)
    text = _AUTHORIZATION.sub(rf"\1{MASK}", text)
    text = _BEARER.sub(rf"\1{MASK}", text)
    text = _SIGNED.sub(rf"\1{MASK}", text)
    return _ASSIGNED.sub(_assigned, text)


def _assigned(match: re.Match[str]) -> str:
    key, between, value = match.groups()
    if not is_secret(key) or value.startswith(MASK) or value[:6].lower() in ("bearer", "basic", "token", "digest"):
        return match[0]
    quote = value[0] if value[0] in "\"'" else ""
    return f"{key}{between}{quote}{MASK}{quote}"


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
