"""What is a secret, and what only looks like one."""

import pytest

from advlog_fast.control.masking import is_secret, masked, masked_arguments

SECRETS = """
    api_key apikey apiKey API_KEY OPENAI_API_KEY wandb.api-key password db_password passwd secret
    client_secret aws_secret_access_key credential credentials private_key privateKey access_key token
    auth_token authToken HF_TOKEN hub-token access.token bearer_token
"""
OPEN = """
    num_tokens tokens tokenizer tokenizer_name max_new_tokens token_count eos_token eos_token_id
    pad_token bos_token_id unkToken image_token tokens_per_s token_type_ids key keys monkey primary_key
    secretary passes learning_rate accesses
"""


@pytest.mark.parametrize("key", SECRETS.split())
def test_a_key_that_names_a_secret_is_masked(key):
    assert masked({key: "s3cret"}) == {key: "***"}


@pytest.mark.parametrize("key", OPEN.split())
def test_a_key_that_only_looks_like_one_is_not(key):
    assert masked({key: "value"}) == {key: "value"}


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
    ],
)
def test_a_url_loses_its_user_info(url, shown):
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
