"""Keys and tokens of services by detect-secrets' rules, beside our own patterns.

Its detectors of high entropy and of keywords are left out: they call much of ordinary code secret.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import cache
from importlib import import_module

from tasks.personal_data.national import Span

KIND = "KEY"
_DETECTORS = (
    ("aws", "AWSKeyDetector"),
    ("azure_storage_key", "AzureStorageKeyDetector"),
    ("cloudant", "CloudantDetector"),
    ("discord", "DiscordBotTokenDetector"),
    ("github_token", "GitHubTokenDetector"),
    ("gitlab_token", "GitLabTokenDetector"),
    ("ibm_cloud_iam", "IbmCloudIamDetector"),
    ("ibm_cos_hmac", "IbmCosHmacDetector"),
    ("jwt", "JwtTokenDetector"),
    ("mailchimp", "MailchimpDetector"),
    ("npm", "NpmDetector"),
    ("openai", "OpenAIDetector"),
    ("pypi_token", "PypiTokenDetector"),
    ("sendgrid", "SendGridDetector"),
    ("slack", "SlackDetector"),
    ("softlayer", "SoftlayerDetector"),
    ("square_oauth", "SquareOAuthDetector"),
    ("stripe", "StripeDetector"),
    ("telegram_token", "TelegramBotTokenDetector"),
    ("twilio", "TwilioKeyDetector"),
)


def spans(text: str) -> Iterator[Span]:
    """Yield the keys and tokens of a text, in no order; spans may overlap."""
    for pattern in _patterns():
        for match in pattern.finditer(text):
            group = match.lastindex or 0
            if match.group(group):
                yield Span(match.start(group), match.end(group), KIND)


@cache
def _patterns() -> tuple[re.Pattern[str], ...]:
    detectors = (
        getattr(import_module(f"detect_secrets.plugins.{module}"), name)
        for module, name in _DETECTORS
    )
    return tuple(pattern for detector in detectors for pattern in detector().denylist)
