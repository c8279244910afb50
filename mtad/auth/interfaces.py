"""What the parts of authentication promise to each other, and to code from outside.

``twisted.cred``'s ``Portal`` is the one gate from credentials to the right to send.  A
mechanism ends in *credentials* (:class:`ISASLPassword` where a password is still to be
checked, :class:`ISASLProven` where the mechanism has checked the proof itself); a checker
turns them into an avatar id, the canonical user name; the realm turns that into an
:class:`ISubmitter`.  A foreign checker or realm plugs in here.

Postfix counterpart: ``xsasl(3)``.
"""

from __future__ import annotations

from twisted.cred.credentials import ICredentials
from twisted.mail.interfaces import IMessageDeliveryFactory
from zope.interface import Attribute


class ISASLPassword(ICredentials):
    """A name and a password, neither verified: PLAIN, LOGIN."""

    authcid = Attribute("bytes: the canonical name whose password it is")
    authzid = Attribute("bytes: the canonical name to act as; equal to authcid but for a proxy login")
    password = Attribute("bytes")
    session = Attribute("AuthSession")


class ISASLProven(ICredentials):
    """A name whose proof the mechanism has verified: CRAM-MD5, SCRAM, GSSAPI."""

    authcid = Attribute("bytes: the canonical name")
    authzid = Attribute("bytes: the canonical name to act as")
    session = Attribute("AuthSession")


class ISubmitter(IMessageDeliveryFactory):
    """Someone who may send: what the realm makes of an authenticated name.

    ``getMessageDelivery()`` gives an ``IMessageDelivery`` that takes the message itself, or None
    when the daemon's own policy and queue are to decide.
    """

    username = Attribute("str: the canonical name, printable: sasl_username")
    mechanism = Attribute("str: the mechanism's name as logged: sasl_method")
    realm = Attribute("str: the realm that the name belongs to")
