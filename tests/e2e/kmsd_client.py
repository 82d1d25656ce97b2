"""kmsd over its Unix socket, and the openssl program: what the programs of this folder that compare with other
implementations have in common.

Arguments of those programs: SOCKET FOLDER
"""

import base64
import http.client
import json
import os
import socket
import subprocess
import sys

from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

SOCKET, FOLDER = sys.argv[1:3]
MESSAGE = b"attack at dawn"
HASHES = {"256": hashes.SHA256, "384": hashes.SHA384, "512": hashes.SHA512}
CURVES = {
    "ECC_NIST_P256": ec.SECP256R1,
    "ECC_NIST_P384": ec.SECP384R1,
    "ECC_NIST_P521": ec.SECP521R1,
    "ECC_SECG_P256K1": ec.SECP256K1,
}


class Connection(http.client.HTTPConnection):
    """HTTP over kmsd's Unix socket."""

    def connect(self):
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(60)
        self.sock.connect(SOCKET)


KMSD = Connection("localhost")


class Refused(Exception):
    """An error reply."""


def call(operation, **members):
    """Calls an operation; bytes go and come as bytes."""
    body = {
        name: base64.b64encode(value).decode() if isinstance(value, bytes) else value
        for name, value in members.items()
    }
    KMSD.request(
        "POST",
        "/",
        json.dumps(body),
        {
            "content-type": "application/x-amz-json-1.1",
            "x-amz-target": f"TrentService.{operation}",
        },
    )
    reply = KMSD.getresponse()
    body = json.loads(reply.read() or b"{}")
    if reply.status != 200:
        raise Refused(body["__type"])
    return body


def blob(reply, member):
    return base64.b64decode(reply[member])


def create(spec, usage):
    return call("CreateKey", KeySpec=spec, KeyUsage=usage)["KeyMetadata"]["KeyId"]


def public_der(key):
    return blob(call("GetPublicKey", KeyId=key), "PublicKey")


def public(key):
    return serialization.load_der_public_key(public_der(key))


def spki(key):
    return key.public_bytes(
        serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    )


def sign(key, algorithm, message, kind="RAW"):
    reply = call("Sign", KeyId=key, Message=message, MessageType=kind, SigningAlgorithm=algorithm)
    return blob(reply, "Signature")


def openssl(*arguments, data=b""):
    """What the openssl program says; the files among the arguments are in the folder."""
    done = subprocess.run(
        ["openssl", *arguments], input=data, cwd=FOLDER, capture_output=True, check=False
    )
    if done.returncode != 0:
        raise RuntimeError(f"openssl {arguments}: {done.stderr.decode()}")
    return done.stdout


def put(name, data):
    with open(os.path.join(FOLDER, name), "wb") as file:
        file.write(data)
    return name


def put_public(key):
    return put("public.der", public_der(key))
