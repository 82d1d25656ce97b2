"""kmsd over TLS, through boto3 and through a SigV4 signer of its own.

usage: network_client.py tests | serve

The endpoint, the access key and the authority's certificate come from the environment, as the aws CLI reads it. `serve`
reads commands from standard input and answers each with one line.
"""

import datetime
import hashlib
import hmac
import http.client
import json
import os
import ssl
import sys
import unittest
import urllib.parse

import boto3
import botocore.config
import botocore.exceptions

ENDPOINT = urllib.parse.urlparse(os.environ["AWS_ENDPOINT_URL_KMS"])
ID, SECRET = os.environ["AWS_ACCESS_KEY_ID"], os.environ["AWS_SECRET_ACCESS_KEY"]
REGION = os.environ["AWS_REGION"]
CERTIFICATE = (os.environ.get("CLIENT_CERT"), os.environ.get("CLIENT_KEY"))


def client(**more):
    config = dict(retries={"total_max_attempts": 1})
    if CERTIFICATE[0]:
        config["client_cert"] = CERTIFICATE
    return boto3.client("kms", config=botocore.config.Config(**config), **more)


def context():
    made = ssl.create_default_context(cafile=os.environ["AWS_CA_BUNDLE"])
    if CERTIFICATE[0]:
        made.load_cert_chain(*CERTIFICATE)
    return made


def connect():
    if ENDPOINT.scheme == "http":
        return http.client.HTTPConnection(ENDPOINT.hostname, ENDPOINT.port, timeout=30)
    return http.client.HTTPSConnection(ENDPOINT.hostname, ENDPOINT.port, context=context(), timeout=30)


def mac(key, text):
    return hmac.new(key, text.encode(), hashlib.sha256).digest()


def post(operation, body, *, stamp=None, region=REGION, secret=SECRET, sent=None, headers=None, service="kms", signed=True):
    """One signed request; `sent` is sent in the place of the body that was signed. Status and body."""
    stamp = stamp or datetime.datetime.now(datetime.timezone.utc).strftime("%Y%m%dT%H%M%SZ")
    data = json.dumps(body)
    all_headers = {
        "content-type": "application/x-amz-json-1.1",
        "host": ENDPOINT.netloc,
        "x-amz-date": stamp,
        "x-amz-target": "TrentService." + operation,
        **(headers or {}),
    }
    names = sorted(all_headers)
    canonical = "\n".join(
        ["POST", "/", ""]
        + [f"{name}:{all_headers[name]}" for name in names]
        + ["", ";".join(names), hashlib.sha256(data.encode()).hexdigest()]
    )
    scope = f"{stamp[:8]}/{region}/{service}/aws4_request"
    text = f"AWS4-HMAC-SHA256\n{stamp}\n{scope}\n{hashlib.sha256(canonical.encode()).hexdigest()}"
    key = ("AWS4" + secret).encode()
    for part in scope.split("/"):
        key = mac(key, part)
    signature = mac(key, text).hex()
    if signed:
        all_headers["authorization"] = (
            f"AWS4-HMAC-SHA256 Credential={ID}/{scope}, SignedHeaders={';'.join(names)}, Signature={signature}"
        )
    connection = connect()
    try:
        connection.request("POST", "/", sent if sent is not None else data, all_headers)
        answer = connection.getresponse()
        return answer.status, json.loads(answer.read() or b"{}")
    finally:
        connection.close()


class Network(unittest.TestCase):
    maxDiff = None

    def fails(self, code, call, **arguments):
        """The call fails with this error code; the message is returned."""
        with self.assertRaises(botocore.exceptions.ClientError) as caught:
            call(**arguments)
        error = caught.exception.response["Error"]
        self.assertEqual(error["Code"], code, error)
        return error.get("Message", "")

    def refused(self, code, **arguments):
        status, body = post("ListKeys", {}, **arguments)
        self.assertEqual((status, body["__type"]), (400, code), body)
        return body["message"]

    def test_the_life_of_a_key(self):
        kms = client()
        key = kms.create_key(Description="over TLS")["KeyMetadata"]["KeyId"]
        kms.create_alias(AliasName="alias/tls", TargetKeyId=key)
        context = {"where": "network"}
        blob = kms.encrypt(KeyId="alias/tls", Plaintext=b"hello", EncryptionContext=context)["CiphertextBlob"]
        self.assertEqual(kms.decrypt(CiphertextBlob=blob, EncryptionContext=context)["Plaintext"], b"hello")
        self.fails("InvalidCiphertextException", kms.decrypt, CiphertextBlob=blob)
        made = kms.generate_data_key(KeyId=key, KeySpec="AES_256")
        self.assertEqual(len(made["Plaintext"]), 32)
        kms.rotate_key_on_demand(KeyId=key)
        self.assertEqual(kms.decrypt(CiphertextBlob=blob, EncryptionContext=context)["Plaintext"], b"hello")
        kms.disable_key(KeyId=key)
        self.fails("DisabledException", kms.encrypt, KeyId=key, Plaintext=b"x")
        kms.enable_key(KeyId=key)
        kms.schedule_key_deletion(KeyId=key, PendingWindowInDays=7)
        self.fails("KMSInvalidStateException", kms.encrypt, KeyId=key, Plaintext=b"x")
        self.fails("NotFoundException", kms.describe_key, KeyId="alias/none")

    def test_policies_decide_about_who_signed(self):
        alice = client(
            aws_access_key_id=os.environ["ALICE_ID"], aws_secret_access_key=os.environ["ALICE_SECRET"]
        )
        text = self.fails("AccessDeniedException", alice.list_keys)
        self.assertIn(":user/alice is not authorized to perform: kms:ListKeys", text)
        key = client().create_key()["KeyMetadata"]["KeyId"]
        self.fails("AccessDeniedException", alice.encrypt, KeyId=key, Plaintext=b"x")
        account = client().describe_key(KeyId=key)["KeyMetadata"]["AWSAccountId"]
        client().create_grant(
            KeyId=key, GranteePrincipal=f"arn:aws:iam::{account}:user/alice", Operations=["Encrypt"]
        )
        alice.encrypt(KeyId=key, Plaintext=b"x")

    def test_a_wrong_secret(self):
        kms = client(aws_access_key_id=ID, aws_secret_access_key="wrong")
        text = self.fails("InvalidSignatureException", kms.list_keys)
        self.assertEqual(
            text,
            "The request signature we calculated does not match the signature you provided. Check your AWS Secret"
            " Access Key and signing method. Consult the service documentation for details.",
        )

    def test_an_unknown_access_key_and_a_session_token(self):
        kms = client(aws_access_key_id="AKIAAAAAAAAAAAAAAAAA", aws_secret_access_key="x")
        invalid = "The security token included in the request is invalid."
        self.assertEqual(self.fails("UnrecognizedClientException", kms.list_keys), invalid)
        kms = client(aws_access_key_id=ID, aws_secret_access_key=SECRET, aws_session_token="x")
        self.assertEqual(self.fails("UnrecognizedClientException", kms.list_keys), invalid)

    def test_another_region(self):
        kms = client(region_name="eu-central-1", endpoint_url=os.environ["AWS_ENDPOINT_URL_KMS"])
        text = self.fails("InvalidSignatureException", kms.list_keys)
        self.assertEqual(text, "Credential should be scoped to a valid region.")

    def test_another_service(self):
        text = self.refused("InvalidSignatureException", service="s3")
        self.assertEqual(text, "Credential should be scoped to correct service: 'kms'.")

    def test_a_forged_date(self):
        now = datetime.datetime.now(datetime.timezone.utc)
        for minutes, expected in [(-6, "Signature expired: "), (6, "Signature not yet current: ")]:
            stamp = (now + datetime.timedelta(minutes=minutes)).strftime("%Y%m%dT%H%M%SZ")
            text = self.refused("InvalidSignatureException", stamp=stamp)
            self.assertTrue(text.startswith(expected + stamp), text)
        stamp = (now - datetime.timedelta(minutes=4)).strftime("%Y%m%dT%H%M%SZ")
        self.assertEqual(post("ListKeys", {}, stamp=stamp)[0], 200)

    def test_what_is_not_signed_is_refused(self):
        self.assertEqual(
            self.refused("MissingAuthenticationTokenException", signed=False), "Missing Authentication Token"
        )
        self.refused("InvalidSignatureException", sent='{"Limit": 2}')
        self.refused("InvalidSignatureException", headers={"x-amz-content-sha256": "UNSIGNED-PAYLOAD"})
        # The socket's header for services counts for nothing here.
        status, body = post("ListKeys", {}, headers={"x-kmsd-on-behalf-of": "uid=0;gid=0;pid=1"})
        self.assertEqual((status, body["__type"]), (400, "AccessDeniedException"), body)

    def test_heads_are_judged_before_bodies(self):
        def sent(head, body=b""):
            """The answer to a request that is not signed, and the connection, which may go on."""
            lines = ["POST / HTTP/1.1", f"Host: {ENDPOINT.netloc}", "X-Amz-Target: TrentService.ListKeys", *head]
            connection = connect()
            connection.connect()
            connection.sock.sendall("\r\n".join([*lines, "", ""]).encode() + body)
            answer = http.client.HTTPResponse(connection.sock, method="POST")
            answer.begin()
            code = json.loads(answer.read())["__type"]
            self.assertEqual((answer.status, code), (400, "MissingAuthenticationTokenException"))
            return answer, connection

        # The client waits for leave to send its body: it is told at once, and not given any.
        answer, connection = sent(["Content-Length: 1000000", "Expect: 100-continue"])
        self.assertEqual(answer.getheader("connection"), "close")
        connection.close()
        # Too large a body is not looked at either; that comes to light only where somebody is known.
        large = 3 << 20
        _, connection = sent([f"Content-Length: {large}"], bytes(large))
        connection.close()
        self.assertEqual(post("ListKeys", {"Marker": "x" * large})[1]["__type"], "RequestEntityTooLargeException")
        # A small one is skipped, and the connection goes on.
        answer, connection = sent(["Content-Length: 2"], b"{}")
        self.assertIsNone(answer.getheader("connection"))
        connection.request("POST", "/", "{}", {"x-amz-target": "TrentService.ListKeys"})
        again = connection.getresponse()
        self.assertEqual(again.status, 400)
        self.assertEqual(json.loads(again.read())["__type"], "MissingAuthenticationTokenException")
        connection.close()

    def test_a_signer_of_its_own(self):
        status, body = post("GenerateRandom", {"NumberOfBytes": 8})
        self.assertEqual(status, 200, body)


def serve():
    kept = client()
    for line in sys.stdin:
        command = line.strip()
        try:
            if command == "call":
                kept.list_keys()
                answer = "ok"
            elif command == "fresh":
                client().list_keys()
                answer = "ok"
            elif command == "unsigned":
                answer = post("ListKeys", {}, signed=False)[1]["__type"]
            else:
                connection = connect()
                connection.connect()
                answer = hashlib.sha256(connection.sock.getpeercert(True)).hexdigest()
                connection.close()
        except botocore.exceptions.ClientError as error:
            answer = error.response["Error"]["Code"]
        except (botocore.exceptions.ConnectionError, botocore.exceptions.HTTPClientError, OSError):
            answer = "no connection"
        print(answer, flush=True)


if __name__ == "__main__":
    if sys.argv[1] == "serve":
        serve()
    else:
        unittest.main(argv=sys.argv[:1])
