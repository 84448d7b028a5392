"""What is a secret, and what only looks like one."""

import pytest

from advlog_fast import AdvancedLogger
from advlog_fast.control.masking import is_secret, masked, masked_arguments

SECRETS = """
    api_key apikey apiKey API_KEY OPENAI_API_KEY wandb.api-key password db_password passwd secret
    client_secret aws_secret_access_key credential credentials private_key privateKey access_key token
    auth_token authToken HF_TOKEN hub-token access.token bearer_token
    pwd db_pass bearer cookie openai_key wandb_key WANDB-KEY GITHUBTOKEN githubToken api_tokens auth slack_webhook
"""
OPEN = """
    num_tokens tokens tokenizer tokenizer_name max_new_tokens token_count eos_token eos_token_id
    pad_token bos_token_id unkToken image_token tokens_per_s token_type_ids key keys monkey primary_key
    secretary passes learning_rate accesses
    author authority n_passes passage token_key keyword_key bypass_layer compass tokens
"""


@pytest.mark.parametrize("key", SECRETS.split())
def test_a_key_that_names_a_secret_is_masked(key):
    assert masked({key: "s3cret"}) == {key: "***"}


@pytest.mark.parametrize("key", OPEN.split())
def test_a_key_that_only_looks_like_one_is_not(key):
    assert masked({key: "value"}) == {key: "value"}


def test_our_own_options_are_masked_too(tmp_path):
    with AdvancedLogger(tmp_path, "run", console="off", metrics=("api_key=abc",)) as log:
        pass
    assert "abc" not in log.paths["main_log"].read_text() + log.paths["events_jsonl"].read_text()


def test_a_token_that_is_a_number_is_a_count_or_an_id():
    assert masked({"token": 5, "auth_token": 1.5}) == {"token": 5, "auth_token": 1.5}


def test_a_password_is_a_secret_even_as_a_number():
    assert masked({"password": 12345}) == {"password": "***"}


@pytest.mark.parametrize("value", [None, True, False])
def test_whether_there_is_a_secret_may_be_known(value):
    assert not is_secret("password", value)


def test_secrets_are_found_at_every_depth_and_hide_what_is_below_them():
    given = {"a": [{"password": "x", "lr": 0.1}], "credentials": {"user": "me", "key": "x"}}
    assert masked(given) == {"a": [{"password": "***", "lr": 0.1}], "credentials": "***"}


def test_the_mapping_given_stays_as_it_was():
    given = {"password": "x", "deep": {"token": "y"}}
    masked(given)
    assert given == {"password": "x", "deep": {"token": "y"}}


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("https://user:pw@host/path", "https://***@host/path"),
        ("postgresql+psycopg://u:p@ss@db:5432/x", "postgresql+psycopg://***@db:5432/x"),
        ("see s3://key:secret@bucket and http://host/a@b", "see s3://***@bucket and http://host/a@b"),
        ("https://host?mail=a@b", "https://host?mail=a@b"),
        ("me@example.org", "me@example.org"),
        ("https://host/x?api_key=abc&lr=0.1#top", "https://host/x?api_key=***&lr=0.1#top"),
        ("https://host/x?sig=abc%3D&se=2026", "https://host/x?sig=***&se=2026"),
        ("https://s3.host/b?X-Amz-Signature=ab12&n=1", "https://s3.host/b?X-Amz-Signature=***&n=1"),
        ("https://hooks.slack.com/services/T0/B0/abc", "https://hooks.slack.com/services/***"),
        ("https://discord.com/api/webhooks/1/abc", "https://discord.com/api/webhooks/***"),
        (
            "see https://acme.webhook.office.com/webhookb2/a@b now",
            "see https://acme.webhook.office.com/webhookb2/*** now",
        ),
        ("https://api.telegram.org/bot12:ab/sendMessage", "https://api.telegram.org/bot/***"),
        ("Authorization: Bearer abc.def", "Authorization: Bearer ***"),
        ("curl -H 'Authorization: Basic abc=' https://x", "curl -H 'Authorization: Basic ***' https://x"),
        ('{"api_key": "abc", "lr": 0.1}', '{"api_key": "***", "lr": 0.1}'),
        ("host=db user=me password=abc port=5432", "host=db user=me password=*** port=5432"),
        ("lr=0.1 max_tokens=5 eos_token=</s>", "lr=0.1 max_tokens=5 eos_token=</s>"),
        ("step: 5, loss: 0.5", "step: 5, loss: 0.5"),
    ],
)
def test_a_text_loses_the_secrets_that_it_carries(url, shown):
    assert masked({"data": url}) == {"data": shown}


def test_a_command_line_loses_the_values_of_its_secret_options():
    given = ["train.py", "--api-key", "x", "--lr", "0.1", "--hf_token=y", "password=z", "--max-tokens", "7"]
    shown = [
        "train.py",
        "--api-key",
        "***",
        "--lr",
        "0.1",
        "--hf_token=***",
        "password=***",
        "--max-tokens",
        "7",
    ]
    assert masked_arguments(given) == shown
