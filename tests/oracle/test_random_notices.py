"""Random mails, and all that senders and postmasters are told of them by Postfix and by mtad.

A few of them; more are tried by hand, with other settings: ``Post(main).differences(mails(seed, 40))``.
"""

from __future__ import annotations

from oracle.notices import Post, mails

TEMPLATES = """\
failure_template = <<EOF
Charset: utf-8
From: Der Postbote <postman>
Subject: Nicht zugestellt
Postmaster-Subject: Kopie: nicht zugestellt

Gr\u00fc\u00dfe von $myhostname an $mydomain.
Nach $delay_warning_time_seconds Sekunden, vor $maximal_queue_lifetime_minutes Minuten.
EOF
delay_template = <<EOF
Charset: iso-8859-1

Later: ${delay_warning_time_seconds}s, ${maximal_queue_lifetime_weeks?{weeks}}
EOF
success_template = <<EOF
Subject: There it is

Well done, $mail_name.
EOF
"""
MAIN = {"confirm_delay_cleared": "yes", "bounce_template_file": "{dir}/bounce.cf"}


def test_random_mails() -> None:
    with Post(MAIN, {"bounce.cf": TEMPLATES}) as post:
        assert post.differences(mails(34, 16)) == ""
